import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper import CodingTask, FunctionTests, mix_tasks
from trl_pper.tasks.mixture import count_by_source


def make(prefix, number, **more):
    tests = FunctionTests(code="assert f()")
    return [CodingTask(task_id=f"{prefix}/{n}", prompt="p", tests=tests, **more) for n in range(number)]


def test_weights_are_proportions_and_no_task_repeats():
    mixed = mix_tasks({"apps": (make("a", 100), 3), "mine": (make("b", 10), 1)})
    assert Counter(task.source for task in mixed) == {"apps": 30, "mine": 10}
    assert len({task.task_id for task in mixed}) == 40
    assert {task.task_id[0] for task in mixed if task.source == "apps"} == {"a"}


def test_a_size_cuts_sources_alike_the_largest_get_remainders():
    sources = {"a": (make("a", 50), 1), "b": (make("b", 50), 1), "c": (make("c", 50), 1.5)}
    assert Counter(task.source for task in mix_tasks(sources, size=7)) == {"a": 2, "b": 2, "c": 3}
    assert Counter(task.source for task in mix_tasks(sources, size=8)) == {"a": 2, "b": 2, "c": 4}


def test_the_seed_decides_which_tasks_and_in_which_order():
    sources = {"a": (make("a", 30), 1), "b": (make("b", 30), 1)}
    first, again, other = (mix_tasks(sources, size=20, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert [task.task_id for task in first] != [task.task_id for task in other]
    assert {task.task_id for task in first} != {task.task_id for task in other}
    assert [task.source for task in first] != sorted(task.source for task in first)


def test_one_source_alone_is_shuffled_whole():
    tasks = make("a", 20, source="old")
    mixed = mix_tasks({"new": (tasks, 0.1)})
    assert mixed != tasks
    assert sorted(mixed, key=lambda task: int(task.task_id[2:])) == [
        dataclasses.replace(t, source="new") for t in tasks
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(10, 30), st.floats(1, 3)), min_size=1, max_size=4))
def test_shares_miss_weights_by_under_a_task_at_the_largest_size(parts):
    sources = {str(i): (make(str(i), n), weight) for i, (n, weight) in enumerate(parts)}
    mixed = mix_tasks(sources)
    total = sum(weight for _, weight in parts)
    for count in count_by_source(mixed):
        tasks, weight = sources[count.source]
        assert abs(count.tasks - len(mixed) * weight / total) < 1 + 1e-6
        assert 1 <= count.tasks <= len(tasks)
    with pytest.raises(ValueError, match="size: must be"):
        mix_tasks(sources, size=len(mixed) + 1)


def test_counts_by_source_and_difficulty():
    tasks = [*make("a", 2, source="x", difficulty="easy"), *make("b", 1, source="x"), *make("c", 1)]
    counted = [(c.source, c.tasks, c.share, c.difficulties) for c in count_by_source(tasks)]
    assert counted == [("x", 3, 0.75, {"easy": 2, None: 1}), (None, 1, 0.25, {None: 1})]
    assert count_by_source([]) == []


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ({}, {}, "sources: must hold at least one"),
        ({"a": (make("a", 2), 0)}, {}, r"sources\['a'\]: the weight must be .* above 0; got 0"),
        ({"a": (make("a", 2), float("nan"))}, {}, "the weight must be"),
        ({"a": (make("a", 2), True)}, {}, "the weight must be"),
        ({"a": (make("a", 2), 1), "b": (make("a", 1), 1)}, {}, r"\['b'\]: task_id: 'a/0' is already a task of 'a'"),
        ({"a": ([*make("a", 1), *make("a", 1)], 1)}, {}, "'a/0' is already a task of 'a'"),
        ({"a": (make("a", 2), 1), "b": (make("b", 5), 1)}, {"size": 5}, r"size: must be a whole number in 1\.\.4"),
        ({"a": (make("a", 2), 1)}, {"size": 0}, "size: must be"),
        ({"a": (make("a", 2), 1), "b": (make("b", 5), 1)}, {"size": 1}, r"\['b'\]: gets none of 1 tasks"),
        ({"a": ([], 1), "b": (make("b", 5), 1)}, {}, r"\['a'\]: gets none of 0 tasks"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sources, options, message):
    with pytest.raises(ValueError, match=message):
        mix_tasks(sources, **options)
