"""Reward completions by their pass rate, in trainers that take a reward function, such as TRL's `GRPOTrainer`.

Nothing here generates or trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from trl_pper.generation.extraction import extract_program
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import OPTIONAL_COLUMNS, CodingTask, Prompt

RewardFunction: TypeAlias = Callable[..., list[float | None]]


def pass_rate_reward(judge: Judge, *, tasks: Sequence[CodingTask] | None = None) -> RewardFunction:
    r"""Return a reward function: the fraction of its tests that the program in a completion passes.

    TRL's trainers call it with the columns of their data set. Data sets made of `trl_pper.tasks.task.task_rows` hold
    the tests; for others, pass `tasks` and have a column `task_id`. The function can be combined with other reward
    functions.

    Args:
        judge: Judge that runs the programs. It stays open. Each process of a distributed run judges its own
            completions.
        tasks: Tasks to look up by `task_id`, for data sets without a column `tests`, and for tests that compare with a
            function. A column `tests` is then ignored.

    Returns:
        A function of `prompts` and `completions` (text or messages) and of columns by keyword. It returns a reward in
        [0, 1] for each completion, in order, or None for a program that could not be judged, and for a row without
        tests. A completion without a program is judged as it is, and fails. The function logs "verdict", the verdict
        on each completion, and "accepted", the fraction of completions that pass every test.

    Raises:
        ValueError: Two of `tasks` have the same id. When called: a row names an unknown task, or the data set has no
            tests.

    Examples:
        >>> from trl_pper import CodingTask, FunctionTests, Judge
        >>> tests = FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(0) == 0")
        >>> task = CodingTask(task_id="double", prompt="def double(x):\n", tests=tests)
        >>> completions = ["    return 2 * x", "    return x + 2"]
        >>> with Judge(workers=1) as judge:
        ...     reward = pass_rate_reward(judge, tasks=[task])
        ...     reward(prompts=[task.prompt] * 2, completions=completions, task_id=["double"] * 2)
        [1.0, 0.5]
    """
    by_id = None if tasks is None else _by_id(tasks)

    # TRL logs a reward under the name of its function.
    def pass_rate_reward(
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        log_extra: Callable[[str, list[str]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        asked = _rows_tasks(prompts, columns) if by_id is None else _named_tasks(by_id, columns, len(prompts))
        verdicts = _judged(judge, asked, completions)
        if log_extra is not None:
            log_extra("verdict", [_in_words(verdict) for verdict in verdicts])
        # TRL leaves None out of its means. A failed sandbox must not count as a failed program.
        rewards = [None if verdict is None else verdict.pass_rate for verdict in verdicts]
        judged = [rate for rate in rewards if rate is not None]
        if log_metric is not None and judged:
            log_metric("accepted", sum(rate == 1.0 for rate in judged) / len(judged))
        return rewards

    return pass_rate_reward


def _by_id(tasks: Sequence[CodingTask]) -> dict[str, CodingTask]:
    by_id: dict[str, CodingTask] = {}
    for task in tasks:
        if task.task_id in by_id:
            raise ValueError(f"tasks: ids must be unique; {task.task_id!r} is there twice. Rename one of them")
        by_id[task.task_id] = task
    return by_id


def _rows_tasks(prompts: Sequence[Prompt], columns: Mapping[str, Any]) -> list[CodingTask | None]:
    """Return the task in each row; None for a row without tests."""
    tests = _column("tests", columns, len(prompts))
    known = [name for name in ("task_id", *OPTIONAL_COLUMNS) if name in columns]
    # The trainer repeats a row for each completion. A single task for all of them lets the judge prepare its tests
    # once.
    made: dict[str, CodingTask] = {}
    found: list[CodingTask | None] = []
    for place, prompt in enumerate(prompts):
        # Mixtures with other data have rows without tests.
        if tests[place] is None:
            found.append(None)
            continue
        row = {"task_id": "unnamed", "prompt": prompt, "tests": tests[place]}
        row |= {name: columns[name][place] for name in known if columns[name][place] is not None}
        # Prompts and stop texts may be lists, which cannot be hashed.
        key = repr(row)
        if key not in made:
            made[key] = CodingTask.from_row(row)
        found.append(made[key])
    return found


def _named_tasks(by_id: Mapping[str, CodingTask], columns: Mapping[str, Any], rows: int) -> list[CodingTask | None]:
    """Return the task that each row names; None for a row without a name."""
    names = _column("task_id", columns, rows)
    unknown = [name for name in names if name is not None and name not in by_id]
    if unknown:
        raise ValueError(f"task_id: must name one of the {len(by_id)} tasks; got {unknown[0]!r}. Pass all in tasks=")
    return [by_id.get(name) for name in names]


def _column(name: str, columns: Mapping[str, Any], rows: int) -> list[Any]:
    values = columns.get(name)
    if not isinstance(values, list) or len(values) != rows:
        got = sorted(column for column, value in columns.items() if isinstance(value, list))
        raise ValueError(
            f"{name}: the data set must have this column; got {got}. Make it of tasks, "
            "Dataset.from_list(trl_pper.task_rows(tasks)), or pass tasks= and have a column task_id"
        )
    return values


def _judged(judge: Judge, asked: Sequence[CodingTask | None], completions: Sequence[Prompt]) -> list[Verdict | None]:
    """Judge the program in each completion; None where there is no task."""
    pairs = [
        (task, _program(completion, task))
        for task, completion in zip(asked, completions, strict=True)
        if task is not None
    ]
    verdicts = iter(judge.run_pairs(pairs))
    return [None if task is None else next(verdicts) for task in asked]


def _program(completion: Prompt, task: CodingTask) -> str:
    return extract_program(_text(completion), prompt=task.prompt, entry_point=task.entry_point)


def _text(completion: Prompt) -> str:
    """Return the text of a completion; for messages, the last message of the assistant."""
    if isinstance(completion, str):
        return completion
    written = [message.get("content") for message in completion if message.get("role") == "assistant"]
    # Earlier messages may be calls of tools, with the answers of the tools between them.
    content: Any = written[-1] if written else None
    if isinstance(content, list):
        # Messages of multimodal models are lists of parts.
        content = "".join(part.get("text") or "" for part in content)
    return content or ""


def _in_words(verdict: Verdict | None) -> str:
    # Without the verdict's message, which quotes tests: logs of completions go to trackers and to the Hub.
    if verdict is None:
        return ""
    failed = next((outcome for outcome in verdict.outcomes if outcome is not Outcome.PASSED), None)
    return f"{verdict.passed} of {verdict.total} tests" + (f", {failed}" if failed else "")
