"""Convert experiences to rows with the columns that other trainers read: TRL's, and those of verl and rLLM.

Prompts and completions are copied unchanged from the buffer. Completions of chat prompts become messages of the
assistant, as TRL expects beside such prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from trl_pper.replay.experience import Experience, chat_json, repaired_task
from trl_pper.replay.exports.pairs import Pair, PairRule, check_rate, check_whole, choose_pairs
from trl_pper.tasks.loading import _dataset
from trl_pper.tasks.task import CodingTask, answer, content_text

if TYPE_CHECKING:
    import datasets

#: The middle of [1, 4/3], the range of the ratio of the two labels' weights in the loss (Eq. 8 of arXiv 2402.01306).
_KTO_RATIO = 7 / 6


def sft_dataset(experiences: Iterable[Experience], *, min_pass_rate: float) -> datasets.Dataset:
    """Return the completions with a sufficient pass rate, as `ReplayBuffer.to_sft` does."""
    check_rate("min_pass_rate", min_pass_rate)
    whole = _whole(experiences)
    rows = [_row(one, completion=one.completion) for one in whole if one.pass_rate >= min_pass_rate]
    return _dataset(
        rows,
        remedy=f"none of the {len(whole)} whole programs reaches a pass rate of {min_pass_rate}; lower min_pass_rate",
    )


def unpaired_dataset(experiences: Iterable[Experience], *, min_pass_rate: float, seed: int) -> datasets.Dataset:
    """Return every completion with a label, as `ReplayBuffer.to_unpaired` does."""
    check_rate("min_pass_rate", min_pass_rate)
    check_whole("seed", seed, least=0)
    rows = [
        {**_row(one, completion=one.completion), "label": one.pass_rate >= min_pass_rate}
        for one in _apart(_whole(experiences), seed)
    ]
    return _dataset(rows, remedy="the buffer holds no whole program; add judged programs first")


def preference_dataset(experiences: Iterable[Experience], rule: PairRule) -> datasets.Dataset:
    """Return pairs of completions, as `ReplayBuffer.to_preferences` does."""
    return _dataset([_pair_row(one) for one in choose_pairs(experiences, rule)], remedy="there is no pair")


def reward_dataset(experiences: Iterable[Experience], rule: PairRule) -> datasets.Dataset:
    """Return pairs of completions with their margins, as `ReplayBuffer.to_reward_model` does."""
    rows = [{**_pair_row(one), "margin": one.gap} for one in choose_pairs(experiences, rule)]
    return _dataset(rows, remedy="there is no pair")


def verl_dataset(experiences: Iterable[Experience], tasks: Iterable[CodingTask]) -> datasets.Dataset:
    """Return prompts with the tests of their tasks, as `ReplayBuffer.to_verl` does."""
    by_id = {task.task_id: task for task in tasks}
    programs: dict[tuple[str, str], list[Experience]] = {}
    texts = 0
    for one in experiences:
        if repaired_task(one.task_id) == one.task_id:
            texts += isinstance(one.prompt, str)
            programs.setdefault((one.task_id, chat_json(one.prompt)), []).append(one)
    if texts:
        raise ValueError(
            f"prompt: verl and rLLM ask by a chat template, so that every prompt must be chat messages; got text for "
            f"{texts} of {sum(map(len, programs.values()))} programs. Collect with --prompts chat, or as_chat(task)"
        )
    asked = dict.fromkeys(task_id for task_id, _ in programs)
    if missing := [task_id for task_id in asked if task_id not in by_id]:
        raise ValueError(
            f"tasks: must hold every task of the buffer, whose tests are the ground truth; {len(missing)} of "
            f"{len(asked)} are missing, {missing[0]!r} first. Give the tasks that the programs were written for"
        )
    rows = [
        _verl_row(index, by_id[task_id], written) for index, ((task_id, _), written) in enumerate(programs.items())
    ]
    return _dataset(rows, remedy="the buffer holds no program; add judged programs first")


def label_weights(labels: Sequence[bool]) -> dict[str, float]:
    """Return the weights of the two labels that make up for their unequal numbers, for TRL's `KTOConfig`.

    The label with fewer rows gets the larger weight; the other keeps 1. In the loss the desirable rows together then
    weigh 7/6 of the undesirable, the middle of the range of Eq. 8 of arXiv 2402.01306.

    Args:
        labels: The labels, such as the column `label` of `ReplayBuffer.to_unpaired`.

    Returns:
        `desirable_weight` and `undesirable_weight`; 1 each for equal numbers.

    Raises:
        ValueError: A label does not occur.

    Examples:
        >>> label_weights([True, False, False, False])
        {'desirable_weight': 3.5, 'undesirable_weight': 1.0}
    """
    desirable = sum(map(bool, labels))
    undesirable = len(labels) - desirable
    if not desirable or not undesirable:
        raise ValueError(
            f"labels: must hold both labels, as there is nothing to balance otherwise; got {desirable} desirable and "
            f"{undesirable} undesirable. Collect more programs, or change min_pass_rate"
        )
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    if desirable < undesirable:
        weights["desirable_weight"] = _KTO_RATIO * undesirable / desirable
    elif undesirable < desirable:
        weights["undesirable_weight"] = desirable / undesirable / _KTO_RATIO
    return weights


def _whole(experiences: Iterable[Experience]) -> list[Experience]:
    return [one for one in experiences if not one.truncated]


def _apart(experiences: list[Experience], seed: int) -> list[Experience]:
    """Return experiences in a random order in which those of a prompt are spread evenly."""
    # `KTOTrainer` takes rows in their order, and its KL term is that of each prompt with the completion of the row
    # before, which has to answer another prompt.
    chance = np.random.default_rng(seed)
    prompts: dict[str, list[int]] = {}
    for index, one in enumerate(experiences):
        prompts.setdefault(chat_json(one.prompt), []).append(index)
    places = np.empty(len(experiences))
    for indices in prompts.values():
        places[chance.permutation(indices)] = (np.arange(len(indices)) + chance.random()) / len(indices)
    return [experiences[index] for index in np.argsort(places, kind="stable")]


def _row(one: Experience, **completions: str) -> dict[str, Any]:
    return {"prompt": one.prompt, **{name: answer(one.prompt, text) for name, text in completions.items()}}


def _pair_row(pair: Pair) -> dict[str, Any]:
    return _row(pair.chosen, chosen=pair.chosen.completion, rejected=pair.rejected.completion)


def _verl_row(index: int, task: CodingTask, written: Sequence[Experience]) -> dict[str, Any]:
    prompt: Any = written[0].prompt
    # The prompt as the run saw it, since what a completion is taken for depends on it. Nothing may show the reference
    # to a model.
    truth = json.dumps(replace(task, prompt=prompt, reference=None).to_row())
    source = task.source or "trl_pper"
    rates = [one.pass_rate for one in written]
    questions = [content_text(message["content"]) for message in prompt if message["role"] == "user"]
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": "code",
        "reward_model": {"style": "rule", "ground_truth": truth},
        # rLLM reads a task from here: verl hands `extra_info` on, whatever it holds.
        "extra_info": {
            "split": "train",
            "index": index,
            "task_id": task.task_id,
            "data_source": source,
            "question": questions[-1] if questions else "",
            "ground_truth": truth,
            "programs": len(written),
            "pass_rate": sum(rates) / len(rates),
        },
    }
