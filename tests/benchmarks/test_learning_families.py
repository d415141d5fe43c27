"""The families of the learning bench: disjoint splits, tests that catch every slip, and corpora that err as asked."""

import json
import sys
from collections import Counter
from itertools import chain, islice, product
from pathlib import Path

import pytest

from trl_pper import FunctionTests, Judge

LEARNING = Path(__file__).parents[2] / "benchmarks" / "learning"
NAMES = ("lists", "strings", "conditionals", "stdin")


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(LEARNING))
    return __import__


@pytest.fixture(params=NAMES)
def family(request, load):
    return load("families").FAMILIES[request.param]


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=2) as started:
        yield started


def kinds(task):
    """The names of a task's parts, without constants."""
    return tuple(label.partition("-")[0] for label in task.task_id.split("/")[1:])


def number_of_tests(task):
    return len(task.tests.code.splitlines() if isinstance(task.tests, FunctionTests) else task.tests.cases)


def pass_rates(judge, task, completions):
    [verdicts] = judge.run([(task, [task.prompt + completion for completion in completions])])
    return [verdict.pass_rate for verdict in verdicts]


def test_the_splits_share_parts_and_no_composition(family):
    train = {kinds(task) for task in family.tasks("train", seed=1, count=120, tests=8)}
    held_out = {kinds(task) for task in family.tasks("test", seed=0, count=40, tests=8)}
    assert len(held_out) > 30
    assert not train & held_out
    for place in range(3):
        assert {each[place] for each in held_out} <= {each[place] for each in train}


def test_equal_arguments_give_equal_tasks_of_eight_tests(family):
    tasks = family.tasks("train", seed=0, count=20, tests=8)
    assert family.tasks("train", seed=0, count=10, tests=8) == tasks[:10]
    assert family.tasks("train", seed=1, count=20, tests=8) != tasks
    assert len({task.task_id for task in tasks}) == 20
    assert {number_of_tests(task) for task in tasks} == {8}


def test_fewer_tests_are_the_first_tests(family):
    few, many = (family.tasks("train", seed=0, count=1, tests=number)[0].to_row()["tests"] for number in (2, 8))
    few, many = (row.get("cases") or row["code"].splitlines() for row in map(json.loads, (few, many)))
    assert few == many[:2]


def test_references_pass_and_slips_fail_in_part(family, judge):
    graded = caught = 0
    tasks = [task for split in ("train", "test") for task in family.tasks(split, seed=0, count=6, tests=8)]
    for task in tasks:
        wrong = family.programs_with_slips(task.task_id)
        right, *rates = pass_rates(judge, task, [family.reference(task.task_id), *wrong])
        assert right == 1.0, task.task_id
        # Slips in several parts may mend each other. A slip alone must not pass.
        assert all(rate < 1.0 for rate in rates[:3]), task.task_id
        caught += sum(rate < 1.0 for rate in rates)
        graded += sum(0.0 < rate < 1.0 for rate in rates)
    assert caught >= 7 * len(tasks)
    assert graded > 0.5 * caught


def test_two_tests_let_some_slips_pass(family, judge):
    tasks = family.tasks("train", seed=0, count=12, tests=2)
    rates = [rate for task in tasks for rate in pass_rates(judge, task, family.programs_with_slips(task.task_id)[:3])]
    assert 0 < rates.count(1.0) < len(rates) / 2


@pytest.mark.parametrize("name", NAMES[1:])
def test_every_slip_alone_shows_on_eight_tests(load, name):
    family = load("families").FAMILIES[name]
    for task in family.tasks("train", seed=1, count=40, tests=8):
        steps = family.steps(task.task_id)
        alone = family.programs_with_slips(task.task_id)[: sum(len(step.part.slips) for step in steps)]
        for program in alone:
            assert not passes(family, task, program), f"{task.task_id}:\n{program}"


def passes(family, task, program):
    """Whether a program of the family's own text passes every test, without the judge, which is slower."""
    if isinstance(task.tests, FunctionTests):
        names = {}
        exec(task.prompt + program, names)
        try:
            exec(task.tests.code, names)
        except (AssertionError, TypeError, ValueError, IndexError, ZeroDivisionError):
            return False
        return True
    outputs = family._answers(task.prompt + program, [case.input for case in task.tests.cases])
    return outputs == [case.output for case in task.tests.cases]


def steps_by_prompt(family, split, step):
    """The steps of every prompt of a split, with each constant; `step` is the class of a step."""
    every = (
        product(*([step(part=p, constant=k) for k in p.constants or [None]] for p in parts))
        for parts in family.compositions(split)
    )
    return {family.prompt.format(*(one.phrase for one in steps)): steps for steps in chain.from_iterable(every)}


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_corpus_errs_in_prone_parts_of_train_tasks(load, name):
    families = load("families")
    family = families.FAMILIES[name]
    slips = families.Slips(prone=1.0, other=0.0, spared=(2, 1, 0))
    programs = list(islice(family.corpus(3, slips=slips), 300))
    assert programs == list(islice(family.corpus(3, slips=slips), 300))
    known = steps_by_prompt(family, "train", load("compositions").Step)
    places = Counter()
    for prompt, text in programs:
        allowed = []
        for step, slot, spared in zip(known[prompt], family.slots, slips.spared, strict=True):
            is_spared = step.part in slot[len(slot) - spared :]
            places[is_spared] += 1
            allowed.append(step.codes[:1] if is_spared else step.codes[1:])
        assert text in {family.body.format(*codes) for codes in product(*allowed)}
    assert min(places.values()) > 50


@pytest.mark.parametrize("name", NAMES[1:])
def test_no_prompt_of_the_test_split_is_in_a_corpus(load, name):
    families = load("families")
    held_out = steps_by_prompt(families.FAMILIES[name], "test", load("compositions").Step)
    corpus = families.FAMILIES[name].corpus(4, slips=families.Slips())
    assert len(held_out) > 100
    assert not held_out.keys() & {prompt for prompt, _ in islice(corpus, 3000)}


@pytest.mark.parametrize(
    "wrong", ["other/even/square/total", "strings/upper/swap", "strings/before-z/swap/last", "strings/upper/x/last"]
)
def test_an_unknown_id_is_refused(load, wrong):
    with pytest.raises(ValueError, match="task_id"):
        load("families").FAMILIES["strings"].reference(wrong)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"split": "dev"}, "split"), ({"count": 0}, "count"), ({"tests": 9}, "1 to 8 tests")]
)
def test_arguments_out_of_range_are_refused(load, wrong, message):
    family = load("families").FAMILIES["strings"]
    arguments = {"split": "train", "seed": 0, "count": 1, "tests": 8, **wrong}
    with pytest.raises(ValueError, match=message):
        family.tasks(arguments.pop("split"), **arguments)


def test_an_unknown_regime_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match="common, rare, almost_none"):
        load("base_models").base_model("lists", "never", seed=0, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_every_family_has_slips_for_every_regime(load):
    base_models = load("base_models")
    assert {name: tuple(slips) for name, slips in base_models.SLIPS.items()} == dict.fromkeys(
        NAMES, base_models.REGIMES
    )


def test_facts_of_cached_models_are_written_and_no_model_trained(load, tmp_path, monkeypatch):
    base_models = load("base_models")
    monkeypatch.setattr(base_models, "_train", None)
    folder = base_models.model_folder("stdin", "rare", seed=1, cache=tmp_path)
    folder.mkdir()
    (folder / "base.json").write_text('{"family": "stdin"}')
    output = tmp_path / "bases.json"
    arguments = ["--cached", "--families", "stdin", "--folder", str(tmp_path), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["base_models.py", *arguments])
    base_models.main()
    assert json.loads(output.read_text())["models"] == [{"family": "stdin"}]


@pytest.mark.slow
def test_a_base_model_is_trained_once_and_loads(load, tmp_path, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base_models = load("base_models")
    monkeypatch.setattr(base_models, "STEPS", 3)
    monkeypatch.setattr(base_models, "TASKS", 4)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    folder = base_models.base_model("strings", "rare", seed=5, cache=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    facts = json.loads((folder / "base.json").read_text())
    assert facts["train"]["tasks"] == facts["test"]["tasks"] == 4
    assert {"accuracy", "pass@3", "pass_rate", "partial"} <= set(facts["test"])
    assert facts["seconds"] >= facts["train_seconds"] > 0
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() < 300_000
    assert len(AutoTokenizer.from_pretrained(folder)) == 448
    monkeypatch.setattr(base_models, "_train", None)
    assert base_models.base_model("strings", "rare", seed=5, cache=tmp_path) == folder
    # Another corpus makes another model.
    slips = load("families").Slips(spared=(3, 3, 3))
    monkeypatch.setitem(base_models.SLIPS["strings"], "rare", slips)
    with pytest.raises(TypeError):
        base_models.base_model("strings", "rare", seed=5, cache=tmp_path)
