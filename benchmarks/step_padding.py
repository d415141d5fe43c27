"""How many tokens a run computes for nothing: padding of micro-batches, and processes that wait for a slower one.

Enters: a buffer and the token lengths of its programs. Leaves: for each way to order the draws of an optimizer step
and each way to cut them into micro-batches, the tokens padded and waited for, per token learned from. The draws come
from `PrioritizedSampler`; that every order holds the same ones is asserted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.trainer_pt_utils import BatchRebalanceSampler

from trl_pper import ReplayBuffer
from trl_pper.training.sampler import PrioritizedSampler

Lengths = NDArray[np.int64]
Setting = tuple[int, int, int]
GROUPED_STEPS = 4
AS_DRAWN, BY_LENGTH, GROUPED = "as drawn", "by length", f"by length, {GROUPED_STEPS} steps together"
PEER = "transformers' batch_rebalance"
#: Per-device batch, gradient accumulation, processes.
SETTINGS: tuple[Setting, ...] = ((8, 1, 1), (8, 4, 1), (4, 8, 1), (8, 4, 2), (4, 2, 4), (2, 4, 8), (1, 16, 8))


def draws_in_order(
    buffer: ReplayBuffer, lengths_of: Callable[[Any], Any], *, steps: int, setting: Setting, together: int = 1
) -> NDArray[np.int64]:
    """Return the positions of a round, shape [steps, draws per step], ordered by the lengths that are given."""
    batch, accumulation, processes = setting
    sampler = PrioritizedSampler(
        buffer,
        prepare=lengths_of,
        draws_per_step=batch * accumulation * processes,
        steps_per_round=steps,
        seed=0,
        global_step=lambda: 0,
        grouping_steps=together,
        micro_batch_size=batch,
    )
    return np.array(list(sampler), dtype=np.int64).reshape(steps, -1)


def drawn_lengths(buffer: ReplayBuffer, lengths: Lengths, *, steps: int, setting: Setting) -> dict[str, Lengths]:
    """Return the token lengths of a round's draws in each order, shape [steps, draws per step].

    Raises:
        AssertionError: An order holds other draws than the sampler drew for the step, or the group of steps.
    """
    # Where all are of one length, the order is that of the draws.
    drawn = draws_in_order(buffer, np.ones_like, steps=steps, setting=setting)
    found = {AS_DRAWN: lengths[drawn]}
    for name, together in ((BY_LENGTH, 1), (GROUPED, GROUPED_STEPS)):
        ordered = draws_in_order(buffer, lambda drawn: lengths[drawn], steps=steps, setting=setting, together=together)
        for first in range(0, steps, together):
            block = slice(first, first + together)
            assert np.array_equal(np.sort(ordered[block], axis=None), np.sort(drawn[block], axis=None)), name
        found[name] = lengths[ordered]
    return found


def wasted(lengths: Lengths, setting: Setting) -> dict[str, float]:
    """Return what steps of draws waste; batches are cut in order and dealt to the processes in turn.

    Args:
        lengths: Shape [steps, draws per step].
        setting: Per-device batch, accumulation and processes.

    Returns:
        "padded": tokens that only fill up rows. "padded_or_waited": those, and what faster processes could have
        computed while they wait for the slowest of the optimizer step. Both per token learned from.
    """
    batch, accumulation, processes = setting
    widths = lengths.reshape(len(lengths), accumulation, processes, batch).max(axis=-1)
    return _per_token(widths * batch, int(lengths.sum()))


def wasted_by_rebalancing(lengths: Lengths, setting: Setting) -> dict[str, float]:
    """Return the same figures for the sampler of transformers, which varies the rows of a micro-batch."""
    _, accumulation, processes = setting
    flat = lengths.ravel()
    computed = np.zeros((len(lengths), accumulation, processes), dtype=np.int64)
    for rank in range(processes):
        sampler = BatchRebalanceSampler(
            flat.tolist(), lengths.shape[1], processes, accumulation, shuffle=False, rank=rank
        )
        tokens = [len(micro) * int(flat[micro].max()) for micro in sampler]
        computed[:, :, rank] = np.array(tokens).reshape(len(lengths), accumulation)
    return _per_token(computed, int(lengths.sum()))


def _per_token(computed: NDArray[np.int64], learned: int) -> dict[str, float]:
    # Gradients are exchanged once per optimizer step: the slowest process sets its pace.
    paced = computed.sum(axis=1).max(axis=1).sum() * computed.shape[2]
    return {
        "padded": round(float(computed.sum()) / learned - 1, 4),
        "padded_or_waited": round(float(paced) / learned - 1, 4),
    }


def measure(buffer: ReplayBuffer, lengths: Lengths, *, steps: int) -> list[dict[str, Any]]:
    """Return one record for each setting."""
    records = []
    for setting in SETTINGS:
        by_order = drawn_lengths(buffer, lengths, steps=steps, setting=setting)
        waste = {name: wasted(of, setting) for name, of in by_order.items()}
        waste[PEER] = wasted_by_rebalancing(by_order[AS_DRAWN], setting)
        names = ("per_device_batch", "accumulation", "processes")
        records.append({**dict(zip(names, setting, strict=True)), "wasted_per_token": waste})
    return records


def describe(lengths: Lengths) -> dict[str, float]:
    """Return what the lengths of a buffer look like."""
    low, middle, high = np.quantile(lengths, [0.05, 0.5, 0.95]).round().tolist()
    return {
        "programs": len(lengths),
        "mean": round(float(lengths.mean()), 1),
        "quantile_05": low,
        "median": middle,
        "quantile_95": high,
        "longest": int(lengths.max()),
    }
