"""The demo: disjoint splits, tests that catch mistakes, and a shipped model that fits its tokenizer."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import subprocess
import sys
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest

from trl_pper.demo.base_model import corpus
from trl_pper.demo.tasks import (
    FILTERS,
    MAPS,
    REDUCTIONS,
    composition,
    compositions,
    demo_tasks,
    mutants,
    reference_program,
)
from trl_pper.tasks.task import CodingTask, FunctionTests

MODEL = Path(__file__).parents[2] / "trl_pper" / "demo" / "model"
SLIPS = ((True, False, False), (False, True, False), (False, False, True))


@pytest.fixture(scope="module")
def train() -> list[CodingTask]:
    return demo_tasks("train")


@pytest.fixture(scope="module")
def held_out() -> list[CodingTask]:
    return demo_tasks("test")


def passed(program: str, task: CodingTask) -> list[bool]:
    """Run the family's own text against each assert of a task."""
    assert isinstance(task.tests, FunctionTests)
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    results = []
    for statement in ast.parse(task.tests.code).body:
        assert isinstance(statement, ast.Assert)
        results.append(False)
        with contextlib.suppress(AssertionError, TypeError, ValueError, ZeroDivisionError):
            exec(ast.unparse(statement), namespace)
            results[-1] = True
    return results


def test_the_sizes_are_those_the_demo_relies_on(train: list[CodingTask], held_out: list[CodingTask]) -> None:
    assert len(train) == 200
    assert 60 <= len(held_out) <= 100
    for task in train + held_out:
        assert 6 <= len(passed(reference_program(task.task_id), task)) <= 10


def test_splits_share_components_and_no_composition(train: list[CodingTask], held_out: list[CodingTask]) -> None:
    seen = {composition(task.task_id).kinds for task in train}
    asked = {composition(task.task_id).kinds for task in held_out}
    assert seen
    assert asked
    assert not seen & asked
    for place in range(3):
        assert {kinds[place] for kinds in asked} <= {kinds[place] for kinds in seen}


def test_the_splits_divide_all_compositions() -> None:
    both = [
        tuple(component.name for component in kinds) for split in ("train", "test") for kinds in compositions(split)
    ]
    everything = {tuple(c.name for c in kinds) for kinds in product(FILTERS, MAPS, REDUCTIONS)}
    assert len(both) == len(everything)
    assert set(both) == everything


@pytest.mark.slow
def test_equal_seeds_give_equal_tasks_and_another_seed_others(train: list[CodingTask]) -> None:
    assert demo_tasks("train", seed=0) == train
    other = demo_tasks("train", seed=1)
    assert other != train
    assert len(other) == len(train)


def test_held_out_compositions_stay_held_out_for_every_seed() -> None:
    allowed = {tuple(component.name for component in kinds) for kinds in compositions("test")}
    assert {composition(task.task_id).kinds for task in demo_tasks("test", seed=7)} <= allowed


def test_ids_are_distinct_and_read_back(train: list[CodingTask], held_out: list[CodingTask]) -> None:
    tasks = train + held_out
    assert len({task.task_id for task in tasks}) == len(tasks)
    for task in tasks:
        assert composition(task.task_id).task_id == task.task_id
        assert composition(task.task_id).prompt == task.prompt
        assert CodingTask.from_row(task.to_row()) == task


def test_references_pass_their_own_tests(train: list[CodingTask], held_out: list[CodingTask]) -> None:
    for task in train + held_out:
        program = reference_program(task.task_id)
        assert program.startswith(str(task.prompt))
        assert all(passed(program, task)), task.task_id


def test_every_slip_is_caught_and_most_pass_something(held_out: list[CodingTask]) -> None:
    rates = []
    for task in held_out:
        asked = composition(task.task_id)
        for slips in SLIPS:
            results = passed(asked.prompt + asked.completion(slips), task)
            assert not all(results), (task.task_id, slips)
            rates.append(sum(results) / len(results))
    assert sum(rate > 0 for rate in rates) > 0.9 * len(rates)
    assert len(set(rates)) >= 5


@pytest.mark.slow
def test_a_mutant_that_passes_every_test_means_the_same(held_out: list[CodingTask]) -> None:
    inputs = [list(xs) for length in (0, 1, 2) for xs in product(range(-9, 10, 1), repeat=length)]
    survivors = 0
    for task in held_out:
        asked = composition(task.task_id)
        right = function_of(reference_program(task.task_id))
        for mutant in mutants(asked):
            if all(passed(mutant, task)):
                survivors += 1
                wrong = function_of(mutant)
                differing = [xs for xs in inputs if wrong(list(xs)) != right(list(xs))]
                assert not differing, f"{task.task_id}: the tests miss {differing[0]} for\n{mutant}"
    assert survivors > 0


def function_of(program: str) -> Any:
    namespace: dict[str, Any] = {}
    exec(program, namespace)
    return namespace["solve"]


def test_mutants_differ_from_the_right_program_in_one_place() -> None:
    asked = composition("demo/at_least-3/subtract-2/smallest")
    programs = list(mutants(asked))
    right = asked.prompt + asked.completion()
    assert len(set(programs)) == len(programs)
    assert right not in programs
    assert right.replace(">=", ">") in programs
    assert right.replace("x - 2", "x + 2") in programs
    assert right.replace("min", "max") in programs


@pytest.mark.parametrize(
    "task_id",
    ["demo/at_least-3/square", "other/even/square/total", "demo/even-2/square/total", "demo/even/x/total", ""],
)
def test_an_unknown_id_is_refused(task_id: str) -> None:
    with pytest.raises(ValueError, match="task_id"):
        composition(task_id)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split"):
        compositions("validation")  # type: ignore[arg-type]


def test_tasks_load_without_torch() -> None:
    code = "import sys, trl_pper.demo.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.fixture(scope="module")
def shipped_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def shipped_model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL)


def test_the_folder_stays_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 2_000_000


def test_the_vocabularies_match(shipped_model: Any, shipped_tokenizer: Any) -> None:
    assert (
        shipped_model.get_input_embeddings().num_embeddings
        == len(shipped_tokenizer)
        == shipped_model.config.vocab_size
    )
    assert (
        shipped_model.config.eos_token_id
        == shipped_model.generation_config.eos_token_id
        == shipped_tokenizer.eos_token_id
    )
    assert (
        shipped_model.config.pad_token_id
        == shipped_model.generation_config.pad_token_id
        == shipped_tokenizer.pad_token_id
    )
    assert shipped_tokenizer.eos_token_id != shipped_tokenizer.pad_token_id
    assert shipped_model.num_parameters() < 1_000_000


@pytest.mark.parametrize("text", ["a\n", " x", "def f():\n\treturn 'é'  \n\n\n    pass", "\n    ys = [x // 10]\n"])
def test_any_text_comes_back_exactly(shipped_tokenizer: Any, text: str) -> None:
    assert shipped_tokenizer.decode(shipped_tokenizer(text)["input_ids"]) == text


def test_a_prompt_is_a_token_prefix_of_its_program(shipped_tokenizer: Any, train: list[CodingTask]) -> None:
    for task in train:
        prompt = shipped_tokenizer(task.prompt)["input_ids"]
        program = shipped_tokenizer(reference_program(task.task_id))["input_ids"]
        assert program[: len(prompt)] == prompt
        assert shipped_tokenizer.decode(program) == reference_program(task.task_id)


def test_every_body_fits_the_completion_limit(shipped_tokenizer: Any, train: list[CodingTask]) -> None:
    lengths = [len(shipped_tokenizer(composition(task.task_id).completion())["input_ids"]) + 1 for task in train]
    assert max(lengths) <= 64


def test_the_corpus_holds_no_held_out_composition(held_out: list[CodingTask]) -> None:
    # Prompts differ by constants only; with digits removed they name the composition.
    asked = {_without_digits(demo.prompt) for demo in held_out}
    corpus_prompts = {_without_digits(prompt) for prompt, _ in islice(corpus(0), 3000)}
    assert len(corpus_prompts) > 400
    assert asked
    assert not corpus_prompts & asked


def _without_digits(text: Any) -> str:
    return "".join(character for character in text if not character.isdigit())


@pytest.mark.slow
def test_training_twice_gives_identical_weights(tmp_path: Path) -> None:
    code = (
        "import sys, torch; from trl_pper.demo.base_model import *; torch.set_num_threads(1); r = Recipe(steps=3);"
        "t = train_tokenizer(corpus(0)); m = build_model(t, 0); train(m, t, r, corpus(1));"
        "m.save_pretrained(sys.argv[1]); t.save_pretrained(sys.argv[1])"
    )
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, timeout=110)
    names = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert {"model.safetensors", "tokenizer.json"} <= set(names)
    for name in names:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("first", "second"))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest(), name
