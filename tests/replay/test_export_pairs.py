"""Pairs of programs against a naive twin: the closest, random and mixed ones, their bounds and their independence."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper import Experience, ReplayBuffer
from trl_pper.replay.exports.pairs import STRATEGIES, PairRule, choose_pairs

CHAT = [{"role": "user", "content": "hi"}]


def levenshtein(one: str, other: str) -> int:
    """The textbook table, row by row."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def experience(task, text, rate, prompt="p", program=None):
    return Experience(task_id=task, prompt=prompt, completion=text, program=program or text, pass_rate=rate)


def every_pair(experiences, rule):
    """Every pair that a rule allows, by task, with its distance, in the order of the buffer."""
    found = {}
    for better, worse in itertools.product(experiences, repeat=2):
        gap = better.pass_rate - worse.pass_rate
        same = (better.task_id, better.prompt) == (worse.task_id, worse.prompt)
        if same and gap > 0 and gap >= rule.min_gap - 1e-9 and better.pass_rate >= rule.min_pass_rate:
            texts = (better.completion, worse.completion)
            if isinstance(better.prompt, list):
                texts = tuple(map(str.strip, texts))
            if texts[0] != texts[1]:
                found.setdefault(better.task_id, []).append((levenshtein(*texts), better, worse))
    return found


def closest(experiences, rule):
    """The pairs of the smallest distances of each task; Python's sort keeps the order of equal ones."""
    pairs = every_pair(experiences, rule)
    tasks = dict.fromkeys(one.task_id for one in experiences)
    return [
        pair[1:]
        for task in tasks
        for pair in sorted(pairs.get(task, []), key=lambda pair: pair[0])[: rule.pairs_per_task]
    ]


def plain(pairs):
    return [(pair.chosen, pair.rejected) for pair in pairs]


RATES = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7, 1.0])
PROGRAMS = st.lists(st.tuples(st.sampled_from("ab"), st.text("xy ", max_size=5), RATES), max_size=12)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS, st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0]))
@pytest.mark.parametrize("prompt", ["p", CHAT], ids=["text", "chat"])
def test_the_closest_are_those_of_a_naive_twin(prompt, programs, number, gap, least):
    rule = PairRule(pairs_per_task=number, min_gap=gap, min_pass_rate=least)
    # Programs that differ while their completions are equal, as only read data can have them.
    rows = [experience(task, text, rate, prompt, f"{n}") for n, (task, text, rate) in enumerate(programs)]
    expected = closest(rows, rule)
    if expected:
        assert plain(choose_pairs(rows, rule)) == expected
    else:
        with pytest.raises(ValueError, match=r"^nothing to export: "):
            choose_pairs(rows, rule)


def lengthy(seed, number=60, tasks=3):
    """Programs of one writer: variants of a text for each task, of different lengths and pass rates."""
    chance = random.Random(seed)
    texts = {task: "".join(chance.choices("abc \n", k=40)) for task in range(tasks)}
    rows = []
    for n in range(number):
        task = n % tasks
        text = list(texts[task])
        for _ in range(chance.randrange(1, 20)):
            text[chance.randrange(len(text))] = chance.choice(["", "q", "rs"])
        rows.append(experience(f"t{task}", "".join(text), chance.choice([0.0, 0.5, 1.0])))
    return rows


@pytest.mark.parametrize("number", [1, 7, 10_000])
def test_bounds_on_distances_lose_no_closest_pair(number):
    rule = PairRule(pairs_per_task=number)
    assert plain(choose_pairs(lengthy(1), rule)) == closest(lengthy(1), rule)


def test_of_equal_distances_the_first_stored_counts():
    rows = [experience("a", text, rate) for text, rate in [("x2", 0.0), ("x3", 0.5), ("x1", 1.0), ("x4", 1.0)]]
    [(better, worse)] = plain(choose_pairs(rows, PairRule()))
    assert (better.completion, worse.completion) == ("x1", "x2")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_pairs_are_taken_where_there_are_no_more(strategy):
    rule = PairRule(strategy=strategy, pairs_per_task=10_000)
    expected = [pair[1:] for pairs in every_pair(lengthy(2), rule).values() for pair in pairs]
    found = plain(choose_pairs(lengthy(2), rule))
    assert len(found) == len(expected) > 200
    assert sorted((a.program, b.program) for a, b in found) == sorted((a.program, b.program) for a, b in expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("number", [1, 2, 5])
def test_pairs_of_a_task_are_bounded_valid_and_different(strategy, number):
    rule = PairRule(strategy=strategy, pairs_per_task=number, min_gap=0.5)
    allowed = {(a.program, b.program) for pairs in every_pair(lengthy(3), rule).values() for _, a, b in pairs}
    found = [(pair.chosen.program, pair.rejected.program) for pair in choose_pairs(lengthy(3), rule)]
    assert len(found) == len(set(found)) == 3 * number
    assert set(found) <= allowed


def test_mixed_is_half_closest_and_half_random():
    rows = lengthy(4)
    mixed = plain(choose_pairs(rows, PairRule(strategy="mixed", pairs_per_task=6)))
    near = closest(rows, PairRule(pairs_per_task=6))
    for task in range(3):
        assert mixed[6 * task : 6 * task + 3] == near[6 * task : 6 * task + 3]
        assert mixed[6 * task + 3 : 6 * task + 6] != near[6 * task + 3 : 6 * task + 6]


def test_a_single_mixed_pair_is_the_closest_for_half_the_tasks():
    rows = [experience(f"t{task}", "x" * (place + 1), float(place == 0)) for task in range(400) for place in range(40)]
    pairs = choose_pairs(rows, PairRule(strategy="mixed"))
    near = sum(pair.rejected.completion == "xx" for pair in pairs)
    # Half, and one of 39 random pairs.
    assert 160 < near < 250


def test_random_pairs_are_drawn_evenly():
    rows = [
        experience(f"t{task}", text, rate)
        for task in range(600)
        for text, rate in zip("abcde", [1, 1, 0, 0, 0], strict=True)
    ]
    pairs = choose_pairs(rows, PairRule(strategy="random"))
    counts = {key: 0 for key in itertools.product("ab", "cde")}
    for pair in pairs:
        counts[pair.chosen.completion, pair.rejected.completion] += 1
    assert all(65 < count < 135 for count in counts.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pairs_depend_on_the_seed_and_on_no_other_task(strategy):
    rows = lengthy(5)
    rule = PairRule(strategy=strategy, pairs_per_task=4)
    pairs = plain(choose_pairs(rows, rule))
    assert plain(choose_pairs(rows, rule)) == pairs
    by_task = {task: [one for one in rows if one.task_id == task] for task in ("t0", "t1", "t2")}
    for names in itertools.permutations(by_task, 2):
        found = plain(choose_pairs([one for name in names for one in by_task[name]], rule))
        assert found == [pair for name in names for pair in pairs if pair[0].task_id == name]
    other = plain(choose_pairs(rows, PairRule(strategy=strategy, pairs_per_task=4, seed=1)))
    assert (other == pairs) == (strategy == "closest")


def test_programs_for_different_prompts_are_no_pair():
    rows = [experience("a", "good", 1.0, "one way"), experience("a", "poor", 0.0, "another way")]
    with pytest.raises(ValueError, match="none of the 1 tasks has both"):
        choose_pairs(rows, PairRule())
    rows += [experience("a", "bad one", 0.0, "one way"), experience("a", "fine", 1.0, "another way")]
    for strategy in STRATEGIES:
        pairs = choose_pairs(rows, PairRule(strategy=strategy, pairs_per_task=9))
        assert {(pair.chosen.prompt, pair.chosen.completion, pair.rejected.completion) for pair in pairs} == {
            ("one way", "good", "bad one"), ("another way", "fine", "poor"),
        }  # fmt: skip
        assert all(pair.chosen.prompt == pair.rejected.prompt for pair in pairs)
    [pair] = choose_pairs(rows, PairRule())
    assert pair.chosen.completion == "fine"


@pytest.mark.parametrize(
    ("better", "worse", "gap"), [(0.3, 0.1, 0.2), (1.0, 0.7, 0.3), (0.8, 0.5, 0.3), (0.7, 0.6, 0.1)]
)
def test_a_gap_as_large_as_the_bound_is_enough(better, worse, gap):
    rows = [experience("a", "x", better), experience("a", "y", worse)]
    assert len(choose_pairs(rows, PairRule(min_gap=gap, min_pass_rate=0.0))) == 1
    with pytest.raises(ValueError, match=r"^nothing to export: none of the 1 tasks"):
        choose_pairs(rows, PairRule(min_gap=gap + 0.001, min_pass_rate=0.0))


def test_white_space_around_answers_in_messages_is_no_difference():
    def rows(prompt):
        return [experience("a", "x", 1.0, prompt), experience("a", "  x\n", 0.0, prompt)]

    assert len(choose_pairs(rows("p"), PairRule())) == 1
    with pytest.raises(ValueError, match=r"the pairs of 1 of the 1 tasks are of equal completions \(distance 0\)"):
        choose_pairs(rows(CHAT), PairRule())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_equal_completions_are_no_pair(strategy):
    equal = [experience("a", "x", rate, program=str(n)) for n, rate in enumerate([1.0, 0.0, 1.0, 0.0])]
    with pytest.raises(ValueError, match=r"^nothing to export: the pairs of 1 of the 2 tasks are .* judge again"):
        choose_pairs([*equal, experience("b", "y", 0.0)], PairRule(strategy=strategy, pairs_per_task=3))
    pairs = choose_pairs([*equal, experience("a", "z", 0.0)], PairRule(strategy=strategy, pairs_per_task=3))
    assert [pair.rejected.completion for pair in pairs] == ["z", "z"]


def test_tasks_without_pairs_are_counted_with_the_remedy():
    rows = [("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 1.0), ("d", 0.5)]
    with pytest.raises(ValueError, match=r"^nothing to export: ") as refused:
        choose_pairs((experience(task, f"{rate}", rate) for task, rate in rows), PairRule(min_gap=0.75))
    assert str(refused.value) == (
        "nothing to export: none of the 4 tasks has both a program with a pass rate of at least 1 and, for the same "
        "prompt, a worse one, by min_gap=0.75; 2 have only programs of at least 1, 1 have only others. Collect more "
        "programs per task, or lower min_pass_rate or min_gap"
    )


def test_what_was_left_out_is_counted():
    cut = Experience(task_id="a", prompt="p", completion="x", program="x", pass_rate=1.0, truncated=True)
    with pytest.raises(ValueError, match=r"no whole program .*\(1 truncated completions and repairs are left out\)"):
        choose_pairs([cut], PairRule())
    with pytest.raises(ValueError, match=r"1 have only others \(1 truncated"):
        choose_pairs([cut, experience("a", "y", 0.0)], PairRule())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "nearest"}, "strategy: must be one of closest, random, mixed; got 'nearest'"),
        ({"pairs_per_task": 0}, "pairs_per_task: must be a whole number of at least 1; got 0"),
        ({"pairs_per_task": 1.5}, "pairs_per_task: must be a whole number of at least 1; got 1.5"),
        ({"pairs_per_task": True}, "pairs_per_task: must be a whole number"),
        ({"seed": -1}, "seed: must be a whole number of at least 0; got -1"),
        ({"min_gap": 1.1}, r"min_gap: must be in \[0, 1\]; got 1.1"),
        ({"min_gap": "0.5"}, r"min_gap: must be in \[0, 1\]; got '0.5'"),
        ({"min_pass_rate": -0.5}, r"min_pass_rate: must be in \[0, 1\]; got -0.5"),
    ],
)
def test_rules_out_of_range_are_refused(options, said):
    for export in (ReplayBuffer.to_preferences, ReplayBuffer.to_reward_model):
        with pytest.raises(ValueError, match=f"^{said}"):
            export(ReplayBuffer(), **options)
