"""Pass rate, accuracy, pass@k and compile rate of programs: the arithmetic behind the `evaluate` module.

Enters: programs per task and the tests of each task. Leaves: a dictionary of figures and one row per program. Programs
run in the judge's processes; those it could not judge count in no figure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any, TypeAlias

from trl_pper.judge import Judge
from trl_pper.task import CodingTask, FunctionTests, StdioTests, tests_from_json
from trl_pper.verdict import Outcome, Verdict, pass_rates

Reference: TypeAlias = str | Mapping[str, Any] | CodingTask | StdioTests | FunctionTests

CONSENT_VARIABLE = "HF_ALLOW_CODE_EVAL"


def require_consent() -> None:
    """Raise RuntimeError unless the environment allows the execution of model-written programs."""
    if os.environ.get(CONSENT_VARIABLE) != "1":
        raise RuntimeError(
            f"{CONSENT_VARIABLE}: must be 1, because this metric runs programs that a model wrote. They run in "
            "processes of their own; read what the judge protects and what it does not, then set the variable"
        )


def compute(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Reference],
    *,
    k: Sequence[int] = (1, 10),
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Judge programs and sum their verdicts up.

    Args:
        predictions: For each task its programs, best first.
        references: For each task its tests: the native `tests` JSON string, a tests object or a task.
        k: For which k to give pass@k.
        judge: What runs the programs; a new one by default.

    Returns:
        - "pass_rate": mean over programs of the share of tests passed, in [0, 1];
        - "accuracy": share of tasks whose first program passes all tests;
        - "pass@<k>": see `pass_at_k`, mean over tasks; absent when some task has fewer than k judged programs;
        - "compile_rate": share of programs without a syntax error;
        - "unjudged": number of programs that could not be judged and count in none of the above;
        - "rows": for each program "task" and "program" (indices), "pass_rate", "passed", "total", "outcomes" and
          "message".

        A figure over nothing is None.

    Raises:
        ValueError: Lengths differ, a k is below 1, or tests are malformed.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references: must have one length; got {len(predictions)}, {len(references)}"
        )
    for programs in predictions:
        if isinstance(programs, str):
            raise ValueError("predictions: must be a list of programs for each task; got one text. Wrap it in a list")
    if any(number < 1 for number in k):
        raise ValueError(f"k: must be at least 1; got {list(k)}")
    jobs = [(_task(index, tests), list(predictions[index])) for index, tests in enumerate(references)]
    if judge is not None:
        return summarise(judge.run(jobs), k=k)
    with Judge() as own:
        return summarise(own.run(jobs), k=k)


def summarise(verdicts: Sequence[Sequence[Verdict]], *, k: Sequence[int] = (1, 10)) -> dict[str, Any]:
    """Turn the verdicts on each task's programs into the figures that `compute` describes."""
    judged = [[verdict for verdict in programs if verdict.pass_rate is not None] for programs in verdicts]
    every = [verdict for programs in judged for verdict in programs]
    firsts = [programs[0].accepted for programs in verdicts if programs and programs[0].pass_rate is not None]
    figures: dict[str, Any] = {"pass_rate": _mean(pass_rates(every)), "accuracy": _mean(firsts)}
    for number in k:
        if judged and all(len(programs) >= number for programs in judged):
            passing = [(len(programs), sum(verdict.accepted for verdict in programs)) for programs in judged]
            figures[f"pass@{number}"] = _mean([pass_at_k(total, correct, number) for total, correct in passing])
    return figures | {
        "compile_rate": _mean([Outcome.SYNTAX_ERROR not in verdict.outcomes for verdict in every]),
        "unjudged": sum(map(len, verdicts)) - len(every),
        "rows": [
            {"task": task, "program": program, **verdict.to_row()}
            for task, programs in enumerate(verdicts)
            for program, verdict in enumerate(programs)
        ],
    }


def pass_at_k(total: int, correct: int, k: int) -> float:
    """Estimate without bias the probability that one of k programs passes (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    `1 - C(total - correct, k) / C(total, k)`: the share of choices of k programs that hold a correct one.

    Args:
        total: Programs judged, at least k.
        correct: Programs that pass all tests, in [0, total].
        k: Programs allowed, at least 1.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: An argument is out of range; with fewer than k programs there is no unbiased estimate.

    Examples:
        >>> pass_at_k(4, 1, 2)
        0.5
    """
    if not 1 <= k <= total:
        raise ValueError(f"k: must be in [1, {total}], the number of programs; got {k}")
    if not 0 <= correct <= total:
        raise ValueError(f"correct: must be in [0, {total}], the number of programs; got {correct}")
    return 1.0 - comb(total - correct, k) / comb(total, k)


def _task(index: int, tests: Reference) -> CodingTask:
    if isinstance(tests, CodingTask):
        return tests
    if not isinstance(tests, StdioTests | FunctionTests):
        try:
            tests = tests_from_json(tests)
        except ValueError as error:
            raise ValueError(f"references[{index}]: {error}") from error
    return CodingTask(task_id=str(index), prompt="program", tests=tests)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
