"""What an export would hold, counted: every number is that of a naive count or of the export itself."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from trl_pper import Experience, ReplayBuffer
from trl_pper.replay.experience import repair_id
from trl_pper.replay.exports import summary
from trl_pper.replay.exports.summary import doubling_classes, summarise_exports


def one(task, completion, rate, **fields):
    return Experience(
        task_id=task, prompt=f"{task}?", completion=completion, program=completion, pass_rate=rate, **fields
    )


def distance(left, right):
    """The Levenshtein distance, by its definition."""
    if not left or not right:
        return len(left) + len(right)
    ends = [distance(left[1:], right) + 1, distance(left, right[1:]) + 1]
    return min(*ends, distance(left[1:], right[1:]) + (left[0] != right[0]))


@pytest.fixture
def drawn():
    """Programs of 30 tasks with ties, tasks without a pair, and equal completions."""
    chance = np.random.default_rng(0)
    texts = ["", "a", "ab", "abc", "b", "xy"]
    return [
        one(f"t{task}", texts[chance.integers(6)], float(chance.choice([0.0, 0.5, 1.0])))
        for task in range(30)
        for _ in range(int(chance.integers(1, 5)))
    ]


def test_counts_are_those_of_every_pair_of_two(drawn):
    found = summarise_exports(drawn)
    by_task = {name: list(group) for name, group in itertools.groupby(drawn, key=lambda each: each.task_id)}
    apart = [
        [distance(better.completion, worse.completion) for better in group for worse in group
         if better.pass_rate == 1.0 > worse.pass_rate and better.completion != worse.completion]
        for group in by_task.values()
    ]  # fmt: skip
    assert found.pairs.tolist() == list(map(len, apart))
    assert found.distances.tolist() == [min(distances) for distances in apart if distances]
    assert 0 < found.tasks_with_pairs < 30
    assert found.desirable == sum(each.pass_rate == 1.0 for each in drawn)
    assert found.desirable + found.undesirable == len(drawn)


def test_counts_are_those_of_the_exports(drawn):
    buffer = ReplayBuffer()
    buffer.add(drawn)
    found = summarise_exports(buffer)
    assert len(buffer.to_preferences("random", pairs_per_task=100)) == found.pairs.sum()
    assert len(buffer.to_preferences()) == found.tasks_with_pairs
    labels = buffer.to_unpaired()["label"][:]
    assert (sum(labels), len(labels) - sum(labels)) == (found.desirable, found.undesirable)


def test_repairs_and_truncated_completions_are_not_counted():
    whole = [one("a", "1", 1.0), one("a", "2", 0.0)]
    cut = replace(one("a", "3", 0.0), truncated=True)
    repair = replace(whole[0], task_id=repair_id("a", "x"))
    found, plain = summarise_exports([*whole, cut, repair]), summarise_exports(whole)
    assert (found.pairs.tolist(), found.desirable, found.undesirable) == ([1], 1, 1)
    assert found.pairs_in_words() == plain.pairs_in_words()


def test_nothing_to_export_is_said_in_words():
    for given, words in (([], "none of 0 tasks"), ([one("a", "1", 1.0)], "none of 1 tasks")):
        found = summarise_exports(given)
        assert found.pairs_in_words().startswith(words)
        assert len(found.distances) == found.tasks_with_pairs == 0


def test_many_tasks_are_looked_at_evenly(monkeypatch):
    monkeypatch.setattr(summary, "SEARCHED", 3)
    tasks = [[one(f"t{n}", "a" * n, 1.0), one(f"t{n}", "b" * n, 0.0)] for n in range(1, 8)]
    found = summarise_exports(each for pair in tasks for each in pair)
    assert found.distances.tolist() == [1, 4, 7]
    assert found.pairs.tolist() == [1] * 7
    assert found.pairs_in_words() == (
        "7 of 7 tasks have a passing and a failing completion of the same prompt, in 7 pairs; the distance of the "
        "closest, of 3 tasks looked at, is 4 characters in the median (quartiles 2 and 6)"
    )
    monkeypatch.setattr(summary, "SEARCHED", 7)
    assert summarise_exports(each for pair in tasks for each in pair).distances.tolist() == list(range(1, 8))


@pytest.mark.parametrize(
    ("values", "names", "counts"),
    [
        ([], ["0"], [0]), ([0, 0], ["0"], [2]), ([1], ["0", "1"], [0, 1]), ([2, 3, 4], ["0", "1", "2 to 3", "4 to 7"],
         [0, 0, 2, 1]), ([1024], None, [0] * 11 + [1]),
    ],
)  # fmt: skip
def test_classes_double(values, names, counts):
    found, numbers = doubling_classes(np.array(values, np.int64))
    assert numbers.tolist() == counts
    assert len(found) == len(counts)
    assert names in (None, found)
