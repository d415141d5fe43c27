"""Compute the coefficient of each drawn program in the loss, for objectives that learn from failed programs, too.

Every objective here has the gradient sum_i c_i * grad log pi(y_i), with a coefficient c_i that is a constant for the
gradient: the loss is TRL's sum of token losses, with those of program i multiplied by c_i. Only log P of whole
completions is stored, so that ratios are those of programs, never of tokens. Beams are learned as if they had been
sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.priority import FloatArray

#: Objectives, and whether they compare the probability of a program now with that when it was written.
OBJECTIVES = {"sft": False, "importance": True, "topr": True, "nft": True, "asymre": False}
RATIOS = ("mean", "product")

#: Epsilon of NFT (arXiv 2505.18116, Eq. 10 and appendix C): the largest reciprocal of a negative likelihood ratio.
NFT_EPSILON = 1.0

#: The largest logarithm of a ratio, so that a ratio is finite in float32, also of a program of probability 0.
_MOST_NATS = 40.0


@dataclass(frozen=True, kw_only=True)
class Objective:
    """An objective with its options.

    Args:
        name: A name of `OBJECTIVES` other than "sft".
        ratio: "mean" for the geometric mean of the ratios of the tokens, as in GSPO (arXiv 2507.18071, Eq. 7);
            "product" for the ratio of the programs' probabilities, which leaves every bound within a few steps if
            programs have a hundred tokens.
        clip_high: The largest ratio in "importance" and "nft".
        baseline_shift: Number added to the baseline of "asymre".
    """

    name: str
    ratio: str = "mean"
    clip_high: float = 16.0
    baseline_shift: float = -0.1

    @property
    def has_ratio(self) -> bool:
        """Whether the log-probabilities of programs when they were written are needed."""
        return OBJECTIVES[self.name]

    def columns(self, buffer: ReplayBuffer) -> dict[str, FloatArray]:
        """Return the numbers of each program that `coefficients` needs, with statistics of tasks over the buffer.

        Returns:
            Arrays of shape [len(buffer)]: `pass_rate`; with a ratio `logprob` (see `writer_logprobs`), `num_tokens`
            and `task_accuracy`, the share of the task's programs that pass every test; otherwise `task_pass_rate`,
            the mean pass rate of the task's programs.
        """
        pass_rates = np.asarray(buffer.pass_rates())
        tasks = buffer.task_indices()
        if not self.has_ratio:
            return {"pass_rate": pass_rates, "task_pass_rate": _means(pass_rates, tasks)}
        return {
            "pass_rate": pass_rates,
            "task_accuracy": _means((pass_rates >= 1.0).astype(np.float64), tasks),
            "logprob": writer_logprobs(buffer),
            "num_tokens": buffer._table.numbers["num_tokens"].astype(np.float64),
        }

    def ratios(self, rows: Mapping[str, torch.Tensor], logprob: torch.Tensor) -> torch.Tensor | None:
        """Return pi / mu of each row, shape [rows], NaN where mu is unknown; None if the objective has no ratio.

        Args:
            rows: The columns of the rows, shape [rows] each.
            logprob: log pi of the completions with the present weights, shape [rows].
        """
        if not self.has_ratio:
            return None
        nats = logprob.detach() - rows["logprob"]
        if self.ratio == "mean":
            nats = nats / rows["num_tokens"].clamp(min=1)
        return nats.clamp(max=_MOST_NATS).exp()

    def coefficients(self, rows: Mapping[str, torch.Tensor], ratio: torch.Tensor | None) -> torch.Tensor:
        """Return the coefficient of each row, shape [rows]; 0 where it depends on a ratio that is unknown.

        Args:
            rows: The columns of the rows, shape [rows] each.
            ratio: The result of `ratios`.
        """
        pass_rate = rows["pass_rate"]
        if ratio is None:
            return asymre(pass_rate, rows["task_pass_rate"], shift=self.baseline_shift)
        passes = pass_rate >= 1.0
        if self.name == "importance":
            found = importance(passes, ratio, clip_high=self.clip_high)
        elif self.name == "topr":
            found = topr(passes, ratio)
        else:
            found = nft(passes, ratio, rows["task_accuracy"], clip_high=self.clip_high)
        return found.nan_to_num(nan=0.0)


def importance(passes: torch.Tensor, ratio: torch.Tensor, *, clip_high: float) -> torch.Tensor:
    """Return the weights of importance-weighted SFT (arXiv 2507.12856), for programs as the curated data.

    `c = clip(R, 0, clip_high)` for a program that passes every test, and 0 for the others, with R = pi / mu. The
    authors' code takes the mean ratio of the tokens, and clips at 16.

    Args:
        passes: Whether each program passes every test, shape [rows].
        ratio: R, shape [rows].
        clip_high: The largest weight.

    Examples:
        >>> importance(torch.tensor([True, True, False]), torch.tensor([0.5, 9.0, 1.0]), clip_high=2.0)
        tensor([0.5000, 2.0000, 0.0000])
    """
    return torch.where(passes, ratio.clamp(max=clip_high), 0.0)


def topr(passes: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Return the coefficients of tapered off-policy REINFORCE (TOPR, arXiv 2503.14286).

    `c = 1` for a program that passes every test, and `c = -clip(R, 0, 1)` for the others, with R = pi / mu: a failed
    program that has become improbable is pushed no further.

    Args:
        passes: Whether each program passes every test, shape [rows].
        ratio: R, shape [rows].

    Examples:
        >>> topr(torch.tensor([True, False, False]), torch.tensor([9.0, 0.5, 9.0]))
        tensor([ 1.0000, -0.5000, -1.0000])
    """
    return torch.where(passes, 1.0, -ratio.clamp(max=1.0))


def nft(
    passes: torch.Tensor, ratio: torch.Tensor, task_accuracy: torch.Tensor, *, clip_high: float = np.inf
) -> torch.Tensor:
    """Return the coefficients of negative-aware fine-tuning (NFT, arXiv 2505.18116, Eq. 10), without prompt weights.

    A program that passes every test has the loss `-log R`, so that `c = 1`. The others have the loss `-log max_v(N,
    epsilon)` with the negative likelihood ratio `N = (1 - r R) / (1 - r)`, where r is the share of the task's programs
    that pass and R = pi / mu. max_v is the maximum, with the gradient of N on both sides of epsilon, so that
    `c = -(r R / (1 - r)) / max(N, epsilon)`. With r = 0 failed programs have no effect; with r = 1 there are none.
    The paper's ratios are those of tokens: with a mean ratio each token has that of its program, so that the loss of a
    program is the loss above times its number of tokens. The paper does not bound R itself, which for whole programs
    may be any number.

    Args:
        passes: Whether each program passes every test, shape [rows].
        ratio: R, shape [rows].
        task_accuracy: r, shape [rows].
        clip_high: The largest R.

    Examples:
        >>> nft(torch.tensor([True, False, False]), torch.tensor([9.0, 1.0, 0.5]), torch.full((3,), 0.5))
        tensor([ 1.0000, -1.0000, -0.3333])
    """
    # A failed program is among those that r counts: r is below 1 there, up to rounding.
    others = (1.0 - task_accuracy).clamp(min=1e-6)
    positive = task_accuracy * ratio.clamp(max=clip_high)
    return torch.where(passes, 1.0, -(positive / others) / ((1.0 - positive) / others).clamp(min=NFT_EPSILON))


def asymre(pass_rate: torch.Tensor, task_pass_rate: torch.Tensor, *, shift: float) -> torch.Tensor:
    """Return the coefficients of asymmetric off-policy REINFORCE (AsymRE, arXiv 2506.20520).

    `c = pass_rate - (V + shift)` with V the mean pass rate of the task's programs, and no ratio. With a shift below 0
    programs that pass more tests than the others count for more than those that pass fewer; at 0 and above the paper
    finds that training collapses.

    Args:
        pass_rate: The reward, shape [rows], in [0, 1].
        task_pass_rate: V, shape [rows], in [0, 1].
        shift: The number added to V.

    Examples:
        >>> asymre(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), shift=-0.1)
        tensor([ 0.6000, -0.4000])
    """
    return pass_rate - (task_pass_rate + shift)


def writer_logprobs(buffer: ReplayBuffer) -> FloatArray:
    """Return log mu of each program, shape [len(buffer)]; NaN where another model than the writer computed it."""
    own = pc.equal(buffer._table.texts("source"), buffer._table.texts("scorer")).to_numpy(zero_copy_only=False)
    return np.where(own, buffer._table.numbers["logprob"], np.nan)


def _means(values: FloatArray, tasks: NDArray[np.int64]) -> FloatArray:
    """Return the mean of the values of each program's task, shape [n]."""
    return np.asarray((np.bincount(tasks, weights=values) / np.bincount(tasks))[tasks], dtype=np.float64)
