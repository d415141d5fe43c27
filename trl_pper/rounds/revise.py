"""Judge or score the programs of a buffer again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

from trl_pper.generation.scorer import Scorer, tokenizer_fingerprint
from trl_pper.judge.judge import Judge
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import repaired_task
from trl_pper.tasks.task import CodingTask

logger = logging.getLogger(__name__)


def rescore(buffer: ReplayBuffer, scorer: Scorer, *, only_missing: bool = True) -> ReplayBuffer:
    """Compute the log-probabilities of a buffer's programs with a model.

    Args:
        buffer: The buffer; it stays as it is.
        scorer: The model that computes them.
        only_missing: Whether to score only programs without a log-probability. With False all programs are scored, and
            a program that does not fit the model's context loses its log-probability.

    Returns:
        A buffer with the same settings, order and pass rates, and the tokenizer of the scorer.

    Raises:
        ValueError: Prompts are chat messages, and the scorer's tokenizer has no chat template; or existing
            log-probabilities refer to another tokenizer than the scorer's.
    """
    tokenizer = tokenizer_fingerprint(scorer.local.processing_class)
    stays = only_missing and any(one.logprob is not None for one in buffer)
    if stays and buffer.tokenizer not in (None, tokenizer):
        raise ValueError(
            f"scorer: must have the buffer's tokenizer, {buffer.tokenizer}, since existing log-probabilities refer to "
            f"its tokens; got {tokenizer}. Score all programs anew with only_missing=False (--all)"
        )
    # Possibilities of different models are not comparable: with False none of the others may remain.
    chosen = [one for one in buffer if one.logprob is None or not only_missing]
    scorer.check([one.prompt for one in chosen])
    pairs = [(one.prompt, one.completion) for one in chosen]
    # Ids of another tokenizer mean nothing to this one.
    same = buffer.tokenizer in (None, tokenizer)
    found = scorer.score(
        pairs,
        truncated=[one.truncated for one in chosen],
        token_ids=[one.token_ids if same else () for one in chosen],
    )
    likelihoods = {one.key: likelihood for one, likelihood in zip(chosen, found, strict=True)}
    none = {"logprob": None, "num_tokens": None, "scorer": ""}
    result = ReplayBuffer(**{**buffer.settings(), "priority": buffer.priority, "tokenizer": tokenizer})
    result.add(
        replace(
            one,
            **(asdict(likelihood) if (likelihood := likelihoods[one.key]) else none),
            token_ids=one.token_ids if same else (),
        )
        if one.key in likelihoods
        else one
        for one in buffer
    )
    return result


def rejudge(buffer: ReplayBuffer, tasks: Sequence[CodingTask], judge: Judge) -> ReplayBuffer:
    """Judge the programs of a buffer again, with other tests or limits.

    Args:
        buffer: The buffer; it stays as it is.
        tasks: The tasks with their new tests, matched by `task_id`; repairs are judged by the tests of their task.
        judge: The judge that runs the programs.

    Returns:
        A buffer with the same settings and the new pass rates. Programs that could not be judged are left out, with a
        warning about their number.

    Raises:
        ValueError: The buffer has programs of a task that is not among `tasks`.
    """
    by_id = {task.task_id: task for task in tasks}
    tested_as = {one.task_id: repaired_task(one.task_id) for one in buffer if one.task_id not in by_id}
    missing = sorted(set(tested_as.values()) - by_id.keys())
    if missing:
        raise ValueError(
            f"tasks: must hold every task of the buffer; {len(missing)} are missing, the first {missing[0]!r}. "
            "Pass the tasks that the programs were written for, with their new tests"
        )
    # A program without a new verdict cannot keep its old pass rate, which belongs to other tests.
    verdicts = judge.run_pairs([(by_id[tested_as.get(one.task_id, one.task_id)], one.program) for one in buffer])
    judged = [
        replace(one, pass_rate=verdict.pass_rate, outcomes=verdict.outcomes, cpu_seconds=verdict.cpu_seconds)
        for one, verdict in zip(buffer, verdicts, strict=True)
        if verdict.pass_rate is not None
    ]
    if len(judged) < len(buffer):
        logger.warning(
            "%d of %d programs could not be judged and are left out", len(buffer) - len(judged), len(buffer)
        )
    result = ReplayBuffer(**{**buffer.settings(), "priority": buffer.priority, "tokenizer": buffer.tokenizer})
    result.add(judged)
    return result
