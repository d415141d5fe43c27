"""Judge programs and compute their scores in a single call, for the `evaluate` metric.

Programs run in the judge's processes. Programs that could not be judged count in no score. The arithmetic is in
`scores`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Verdict
from trl_pper.metrics.scores import count_task, sum_up
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioTests, tests_from_json

Reference: TypeAlias = str | Mapping[str, Any] | CodingTask | StdioTests | FunctionTests

# The variable that the Hub's code_eval metric asks for, so that users set it only once.
CONSENT_VARIABLE = "HF_ALLOW_CODE_EVAL"


def require_consent() -> None:
    """Raise RuntimeError unless the environment allows running model-written programs."""
    if os.environ.get(CONSENT_VARIABLE) != "1":
        raise RuntimeError(
            f"{CONSENT_VARIABLE}: must be 1, because this metric runs programs that a model wrote. They run in "
            "processes of their own; read what the judge protects and what it does not, then set the variable"
        )


def check_inputs(predictions: object, references: object) -> None:
    """Raise ValueError unless there is at least one task and, for each task, a non-empty list of program texts."""
    for name, given in (("predictions", predictions), ("references", references)):
        # A string is a sequence, too: its letters would be judged as programs.
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise ValueError(f"{name}: must be a list with an item for each task; got {_kind(given)}")
        if not given:
            raise ValueError(f"{name}: must hold at least one task; got none. A figure over nothing is no figure")
    # For the type checker; the loop above has checked both.
    assert isinstance(predictions, Sequence)
    assert isinstance(references, Sequence)
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions and references: must have one length; got {len(predictions)}, {len(references)}"
        )
    for index, programs in enumerate(predictions):
        _check_programs(f"predictions[{index}]", programs)


def _check_programs(name: str, programs: object) -> None:
    if isinstance(programs, str):
        raise ValueError(f"{name}: must be a list of programs for the task; got one text. Wrap it in a list")
    if not isinstance(programs, Sequence):
        raise ValueError(f"{name}: must be a list of programs for the task; got {_kind(programs)}")
    if not programs:
        raise ValueError(
            f'{name}: must hold at least one program; got none. Give "" where a model wrote nothing, so that the task '
            "counts as failed"
        )
    for index, program in enumerate(programs):
        if not isinstance(program, str):
            remedy = 'Give "" for a program that was not written' if program is None else "Take one list away"
            if not isinstance(program, Sequence | None):
                remedy = "Give the text of the program"
            raise ValueError(f"{name}[{index}]: must be the text of a program; got {_kind(program)}. {remedy}")


def check_k(k: object) -> None:
    """Raise ValueError unless `k` is a list of whole numbers of at least 1."""
    if not isinstance(k, Sequence) or isinstance(k, str):
        raise ValueError(f"k: must be a list of whole numbers; got {k!r}. Write [{k}]")
    if any(not isinstance(number, int) or isinstance(number, bool) or number < 1 for number in k):
        raise ValueError(f"k: must be at least 1, whole numbers all; got {list(k)}")


def _kind(value: object) -> str:
    return "None" if value is None else type(value).__name__


def compute(
    predictions: Sequence[Sequence[str]],
    references: Sequence[Reference],
    *,
    k: Sequence[int] = (1, 10),
    judge: Judge | None = None,
) -> dict[str, Any]:
    """Judge programs and compute their scores.

    Args:
        predictions: Programs of each task, best first.
        references: Tests of each task: the native `tests` JSON string, a tests object or a task.
        k: Values of k for pass@k.
        judge: Judge that runs the programs; a new judge by default.

    Returns:
        - "pass_rate": mean over programs of the fraction of tests passed, in [0, 1];
        - "accuracy": fraction of tasks with a first program that passes all tests;
        - "pass@<k>": mean over tasks of `trl_pper.pass_at_k`; absent if any task has too few programs;
        - "compile_rate": fraction of programs without a syntax error;
        - "unjudged": number of programs that could not be judged, and count in no score above;
        - "rows": for each program its "task" and "program" (indices), and its verdict as `trl-pper judge` writes it.

        A score over nothing is None.

    Raises:
        ValueError: There are no tasks, lengths differ, a task has no program or a program that is not text, a k is
            below 1, or tests are malformed; the message names the place.
    """
    check_inputs(predictions, references)
    check_k(k)
    jobs = [(_task(index, tests), list(predictions[index])) for index, tests in enumerate(references)]
    # The caller's judge stays open.
    if judge is not None:
        return summarise(judge.run(jobs), k=k)
    with Judge() as own:
        return summarise(own.run(jobs), k=k)


def summarise(verdicts: Sequence[Sequence[Verdict]], *, k: Sequence[int] = (1, 10)) -> dict[str, Any]:
    """Return the scores that `compute` describes, from the verdicts on each task's programs."""
    found = sum_up([count_task(programs) for programs in verdicts], k=k)
    # A mean over some of the tasks would not compare with a mean over all of them.
    whole = {number: estimate for number, estimate in found.pass_at_k.items() if 0 < estimate.tasks == found.tasks}
    return {
        "pass_rate": found.pass_rate,
        "accuracy": found.accuracy.value,
        **{f"pass@{number}": estimate.value for number, estimate in whole.items()},
        "compile_rate": found.compile_rate,
        "unjudged": found.unjudged,
        "rows": [
            {"task": task, "program": program, **verdict.to_row()}
            for task, programs in enumerate(verdicts)
            for program, verdict in enumerate(programs)
        ],
    }


def pool(rows_of_shares: Sequence[Sequence[Mapping[str, Any]]], *, k: Sequence[int] = (1, 10)) -> dict[str, Any]:
    """Return the scores over tasks that were divided, for instance among processes.

    Args:
        rows_of_shares: The "rows" that `compute` returned for each part of the tasks; empty for a part without tasks.
        k: Values of k for pass@k.

    Returns:
        The same as `compute`. Tasks are renumbered, part by part.

    Raises:
        ValueError: There is no row at all, or a k is below 1.
    """
    check_k(k)
    # From the rows, because means of parts cannot be pooled without their weights.
    groups: dict[tuple[int, int], list[Verdict]] = {}
    for share, rows in enumerate(rows_of_shares):
        for row in rows:
            verdict = Verdict(outcomes=tuple(row["outcomes"]), message=row["message"])
            groups.setdefault((share, row["task"]), []).append(verdict)
    if not groups:
        raise ValueError("rows_of_shares: must hold at least one row; got none")
    return summarise([groups[key] for key in sorted(groups)], k=k)


def _task(index: int, tests: Reference) -> CodingTask:
    if isinstance(tests, CodingTask):
        return tests
    if not isinstance(tests, StdioTests | FunctionTests):
        try:
            tests = tests_from_json(tests)
        except ValueError as error:
            raise ValueError(f"references[{index}]: {error}") from error
    # A task needs a prompt, but the judge does not look at it.
    return CodingTask(task_id=str(index), prompt="program", tests=tests)
