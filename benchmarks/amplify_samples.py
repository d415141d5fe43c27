"""The samples of `amplify.py`: tasks with references, programs, and what is known of the programs otherwise.

Enters: a folder of benchmark files and of files with programs and what was measured of them. Leaves: `Sample`s.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trl_pper import CodingTask, FunctionTests, StdioTests, load_tasks
from trl_pper.generation.extraction import extract_program
from trl_pper.tasks.task import StdioCase

_HUMANEVAL = "humaneval/HumanEval.dev.jsonl.gz"
_HUMANEVAL_PLUS = "evalplus/HumanEvalPlus-Mini.dev.jsonl.gz"
_MBPP, _MBPP_PLUS = "mbpp/mbpp.dev.jsonl", "evalplus/MbppPlus-OriginFmt.dev.jsonl.gz"
_MODELS = ("codellama", "starcoder", "gpt-3.5-turbo-0613")
#: Tests of a task of refactory that are amplified; the others say what is right.
_FEW = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Tasks to amplify and programs to find out.

    Args:
        name: What the table calls it.
        tasks: The tasks.
        programs: The programs of each.
        known: For each program whether it is right, where that is known.
        truth: By id, tasks whose tests say which programs are right, instead of `known`.
        known_by: Who says so.
        contracts: By id, EvalPlus' checks of arguments.
        corrected: By id, a corrected reference of EvalPlus.
        agreeing: Whether new tests must suit that one too.
    """

    name: str
    tasks: Sequence[CodingTask]
    programs: Sequence[Sequence[str]]
    known: Sequence[Sequence[bool | None]] = ()
    truth: Mapping[str, CodingTask] = field(default_factory=dict)
    known_by: str = ""
    contracts: Mapping[str, str] = field(default_factory=dict)
    corrected: Mapping[str, str] = field(default_factory=dict)
    agreeing: bool = False


def humaneval(data: Path) -> Sample:
    """What passes of 100 programs of CodeGen-16B a task, one of each of three others; HumanEval+ knows them."""
    tasks = load_tasks(data / _HUMANEVAL, format="humaneval")
    programs = _dumps(data, "humaneval")
    for row in _rows(data / "dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz"):
        prompt, name = row["prompt"], row["entry_point"]
        # Those that fail cannot be exposed; many of them never end.
        passing = [text for text, passed in zip(row["completions"], row["measured_passed"], strict=True) if passed]
        programs[row["task_id"]] += [extract_program(text, prompt=prompt, entry_point=name) for text in passing]
    plus = _rows(data / _HUMANEVAL_PLUS)
    return Sample(
        name="HumanEval",
        tasks=tasks,
        programs=[programs[task.task_id] for task in tasks],
        truth={task.task_id: task for task in load_tasks(data / _HUMANEVAL_PLUS, format="humaneval")},
        known_by="HumanEval+ (mini)",
        contracts={row["task_id"]: row["contract"] for row in plus},
        corrected={row["task_id"]: row["prompt"] + row["canonical_solution"] for row in plus},
    )


def mbpp(data: Path) -> Sample:
    """The tasks that MBPP+ has too, and one program of each of three models for each; MBPP+ knows them."""
    plus = {task.task_id: task for task in load_tasks(data / _MBPP_PLUS, format="mbpp", on_error="skip")}
    tasks = [task for task in load_tasks(data / _MBPP, format="mbpp") if task.task_id in plus]
    programs = _dumps(data, "mbpp")
    return Sample(
        name="MBPP",
        tasks=tasks,
        programs=[programs[task.task_id] for task in tasks],
        truth=plus,
        corrected={name: task.reference for name, task in plus.items() if task.reference is not None},
        known_by="MBPP+",
    )


def humaneval_agreeing(data: Path) -> Sample:
    """The same, where EvalPlus' reference has to agree."""
    return replace(humaneval(data), name="HumanEval, two references", agreeing=True)


def mbpp_agreeing(data: Path) -> Sample:
    """The same, where the reference of MBPP+ has to agree."""
    return replace(mbpp(data), name="MBPP, two references", agreeing=True)


def atcoder(data: Path) -> Sample:
    """Contest problems with the two or three examples of their statements; hidden tests know o1's programs.

    The reference is the first submission that was accepted; the submission before it was not.
    """
    pairs = defaultdict(list)
    for row in _rows(data / "atcoder/condefects_pairs.dev.jsonl.gz"):
        pairs[row["task_id"]].append(row)
    graded = {row["task_id"]: row for row in _rows(data / "atcoder/lcb_o1-prev.dev.jsonl.gz")}
    tasks, programs, known = [], [], []
    for row in _rows(data / "atcoder/lcb_atcoder_tasks.dev.jsonl.gz"):
        name, submissions = row["task_id"], pairs.get(row["task_id"], [])
        if not submissions or not row["samples_trusted"]:
            continue
        cases = [StdioCase(input=case["input"], output=case["output"]) for case in row["sample_tests"]]
        reference = submissions[0]["correct"]
        tasks.append(
            CodingTask(
                task_id=name, prompt=row["description"], tests=StdioTests(cases=tuple(cases)), reference=reference
            )
        )
        some = [(one["faulty"], False) for one in submissions] + [(one["correct"], True) for one in submissions[1:]]
        if name in graded:
            some.append((graded[name]["program"], graded[name]["published_graded"]))
        programs.append([program for program, _ in some])
        known.append([right for _, right in some])
    return Sample(
        name="AtCoder, examples only",
        tasks=tasks,
        programs=programs,
        known=known,
        known_by="hidden tests of AtCoder and LiveCodeBench",
    )


def code_contests(data: Path) -> Sample:
    """Contest problems with up to ten tests, without programs."""
    path = data / "code_contests/codecontests_repo.dev.jsonl.gz"
    clean = {row["name"] for row in _rows(path) if row["clean"]}
    tasks = [task for task in load_tasks(path, format="code_contests") if task.task_id in clean]
    return Sample(name="CodeContests", tasks=tasks, programs=[[] for _ in tasks], known=[[] for _ in tasks])


def refactory(data: Path) -> Sample:
    """Exercises cut to three tests, programs of students; the tests held back know them."""
    programs = defaultdict(list)
    for row in _rows(data / "nearmiss/refactory_programs.dev.jsonl.gz"):
        programs[row["question"]].append(row["program"])
    few, whole = [], {}
    for row in _rows(data / "nearmiss/refactory_tasks.dev.jsonl"):
        name = row["reference"].partition("def ")[2].partition("(")[0]
        lines = [f"assert {test['call']} == {test['expected']}" for test in row["tests"]]
        task = CodingTask(
            task_id=str(row["question"]),
            prompt=row["description"],
            tests=FunctionTests(entry_point=name, setup=row["prelude"], code="\n".join(lines)),
            reference=f"{row['prelude']}\n{row['reference']}",
        )
        whole[task.task_id] = task
        few.append(replace(task, tests=replace(task.tests, code="\n".join(lines[:: len(lines) // _FEW][:_FEW]))))
    return Sample(
        name="Refactory, three tests",
        tasks=few,
        programs=[programs[int(task.task_id)] for task in few],
        truth=whole,
        known_by="the tests held back",
    )


def _dumps(data: Path, benchmark: str) -> dict[str, list[str]]:
    programs = defaultdict(list)
    for model in _MODELS:
        for row in _rows(data / f"dumps/ldb_{benchmark}_{model}.jsonl.gz"):
            programs[row["task_id"]].append(row["program"])
    return programs


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        return [json.loads(line) for line in file]


SAMPLES: dict[str, Callable[[Path], Sample]] = {
    "humaneval": humaneval,
    "humaneval_agreeing": humaneval_agreeing,
    "refactory": refactory,
    "mbpp": mbpp,
    "mbpp_agreeing": mbpp_agreeing,
    "atcoder": atcoder,
    "code_contests": code_contests,
}
