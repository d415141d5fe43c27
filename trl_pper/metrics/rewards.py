"""Reward completions by the verdicts on their programs, in trainers that take reward functions, as `GRPOTrainer` does.

Nothing here generates or trains.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from trl_pper.generation.extraction import extract_program
from trl_pper.judge.judge import Judge
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.tasks.task import OPTIONAL_COLUMNS, CodingTask, Prompt, content_text

#: A function of the columns of a data set by keyword; it returns a reward for each completion, or an awaitable.
RewardFunction: TypeAlias = Callable[..., Any]

CREDITS = ("partial", "full")

#: CPU times below this are noise, in seconds.
_CPU_RESOLUTION = 1e-3


def pass_rate_reward(
    judge: Judge,
    *,
    tasks: Sequence[CodingTask] | None = None,
    credit: str = "partial",
    compile_bonus: float = 0.0,
    cpu_time_bonus: float = 0.0,
    asynchronous: bool = False,
) -> RewardFunction:
    r"""Return a reward function: the fraction of its tests that the program in a completion passes, and bonuses.

    TRL's trainers call it with the columns of their data set. Data sets made of `trl_pper.tasks.task.task_rows` hold
    the tests; for others, pass `tasks` and have a column `task_id`. The function can be combined with other reward
    functions, and it can be pickled: its copy in another process has a judge of its own with the same settings.

    Args:
        judge: Judge that runs the programs, all of a call together. It stays open. Each process of a distributed run
            judges its own completions.
        tasks: Tasks to look up by `task_id`, for data sets without a column `tests`, and for tests that compare with a
            function that is not registered. A column `tests` is then ignored.
        credit: "partial" for the pass rate; "full" for 1 if every test passes, else 0.
        compile_bonus: Added to the reward of a program that is valid Python, at least 0. An empty program is valid.
        cpu_time_bonus: Added to the reward of a program that passes every test, at least 0, times the CPU time of the
            fastest such program of its task in the same call, divided by its own.
        asynchronous: Whether the function is a coroutine function, which TRL awaits together with others.

    Returns:
        A function of `prompts` and `completions` (text or messages) and of columns by keyword. It returns a reward in
        [0, 1 + compile_bonus + cpu_time_bonus] for each completion, in order, or None for a program that could not be
        judged, and for a row without tests. A completion without a program is judged as it is, and fails. The function
        logs "verdict", the verdict on each completion, and by `log_metric` the mean "pass_rate", "accepted", the
        fraction of completions that pass every test, "solved", the fraction of tasks with such a completion, all
        three of what was judged, and "outcomes/...", the fraction of completions with each outcome: that of the first
        test that failed, or "passed".

    Raises:
        ValueError: An argument is out of range, or two of `tasks` have the same id. When called: a row names an
            unknown task, or the data set has no tests.

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
    if credit not in CREDITS:
        raise ValueError(f"credit: must be one of {', '.join(CREDITS)}; got {credit!r:.80}")
    for name, bonus in (("compile_bonus", compile_bonus), ("cpu_time_bonus", cpu_time_bonus)):
        if isinstance(bonus, bool) or not isinstance(bonus, int | float) or not 0.0 <= bonus < math.inf:
            raise ValueError(f"{name}: must be a finite number of at least 0; got {bonus!r:.80}")
    kind = _AwaitedReward if asynchronous else _PassRateReward
    by_id = None if tasks is None else _by_id(tasks)
    return kind(judge, by_id, credit=credit, compile_bonus=compile_bonus, cpu_time_bonus=cpu_time_bonus)


class _PassRateReward:
    """The function that `pass_rate_reward` returns; an object, since functions made in functions cannot be pickled."""

    def __init__(
        self,
        judge: Judge,
        by_id: Mapping[str, CodingTask] | None,
        *,
        credit: str,
        compile_bonus: float,
        cpu_time_bonus: float,
    ) -> None:
        # TRL logs a reward under the name of its function.
        self.__name__ = "pass_rate_reward"
        self.judge = judge
        self.by_id = by_id
        self.credit = credit
        self.compile_bonus = compile_bonus
        self.cpu_time_bonus = cpu_time_bonus

    def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        log_extra: Callable[[str, list[str]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> Any:
        asked = self._tasks(prompts, columns)
        verdicts = _judged(self.judge, asked, completions)
        return self._rewards(asked, verdicts, log_extra, log_metric)

    def _tasks(self, prompts: Sequence[Prompt], columns: Mapping[str, Any]) -> list[CodingTask | None]:
        if self.by_id is None:
            return _rows_tasks(prompts, columns)
        return _named_tasks(self.by_id, columns, len(prompts))

    def _rewards(
        self,
        asked: Sequence[CodingTask | None],
        verdicts: Sequence[Verdict | None],
        log_extra: Callable[[str, list[str]], None] | None,
        log_metric: Callable[[str, float], None] | None,
    ) -> list[float | None]:
        if log_extra is not None:
            log_extra("verdict", [_in_words(verdict) for verdict in verdicts])
        if log_metric is not None:
            for name, value in _figures(asked, verdicts).items():
                log_metric(name, value)
        speeds = _relative_speeds(asked, verdicts)
        # TRL leaves None out of its means. A failed sandbox must not count as a failed program.
        return [
            None if verdict is None else self._reward(verdict, speed)
            for verdict, speed in zip(verdicts, speeds, strict=True)
        ]

    def _reward(self, verdict: Verdict, speed: float) -> float | None:
        rate = verdict.pass_rate
        if rate is None:
            return None
        compiles = Outcome.SYNTAX_ERROR not in verdict.outcomes
        earned = rate if self.credit == "partial" else float(verdict.accepted)
        return earned + self.compile_bonus * compiles + self.cpu_time_bonus * speed


class _AwaitedReward(_PassRateReward):
    """The same as a coroutine function."""

    async def __call__(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Prompt],
        log_extra: Callable[[str, list[str]], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        asked = self._tasks(prompts, columns)
        # Waiting for verdicts in the loop's own thread would hold up every other coroutine.
        verdicts = await asyncio.to_thread(_judged, self.judge, asked, completions)
        return self._rewards(asked, verdicts, log_extra, log_metric)


def _figures(asked: Sequence[CodingTask | None], verdicts: Sequence[Verdict | None]) -> dict[str, float]:
    """Return the logged figures of a call, by name; none where no completion has tests."""
    with_tests = [(id(task), verdict) for task, verdict in zip(asked, verdicts, strict=True) if verdict is not None]
    if not with_tests:
        return {}
    figures: dict[str, float] = {}
    judged = [(task, rate) for task, verdict in with_tests if (rate := verdict.pass_rate) is not None]
    if judged:
        passing = [task for task, rate in judged if rate == 1.0]
        figures["pass_rate"] = sum(rate for _, rate in judged) / len(judged)
        figures["accepted"] = len(passing) / len(judged)
        figures["solved"] = len(set(passing)) / len({task for task, _ in judged})
    outcomes = Counter(_outcome(verdict) for _, verdict in with_tests)
    # Zeros too: TRL takes the mean over the calls that log a name.
    return figures | {f"outcomes/{outcome}": outcomes[outcome] / len(with_tests) for outcome in Outcome}


def _relative_speeds(asked: Sequence[CodingTask | None], verdicts: Sequence[Verdict | None]) -> list[float]:
    """Return for each program the CPU time of its task's fastest passing program over its own; 0 if it fails."""
    seconds = [
        max(verdict.cpu_seconds, _CPU_RESOLUTION) if verdict is not None and verdict.accepted else math.inf
        for verdict in verdicts
    ]
    fastest: dict[int, float] = {}
    for task, taken in zip(asked, seconds, strict=True):
        fastest[id(task)] = min(taken, fastest.get(id(task), math.inf))
    return [
        0.0 if taken == math.inf else fastest[id(task)] / taken for task, taken in zip(asked, seconds, strict=True)
    ]


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
    return content_text(written[-1] if written else None)


def _in_words(verdict: Verdict | None) -> str:
    # Without the verdict's message, which quotes tests: logs of completions go to trackers and to the Hub.
    if verdict is None:
        return ""
    outcome = _outcome(verdict)
    return f"{verdict.passed} of {verdict.total} tests" + (f", {outcome}" if outcome is not Outcome.PASSED else "")


def _outcome(verdict: Verdict) -> Outcome:
    """Return the outcome of the first test that did not pass; "not_run" for a verdict without tests."""
    if not verdict.outcomes:
        return Outcome.NOT_RUN
    return next((outcome for outcome in verdict.outcomes if outcome is not Outcome.PASSED), Outcome.PASSED)
