"""One calling process of the judge's benchmark: takes up memory like a trainer's, then judges by contenders in turn.

    echo '{"bytes": 0, "workers": 2, "plans": [...]}' | python benchmarks/judge_caller.py

Enters, as JSON on standard input: the memory to hold, the number of workers and one plan for each contender. Leaves,
as JSON on standard output: the resident size, the versions of the peers and, for each contender, its plan with what
every cell took. Started by `judge.py`, by whichever interpreter has the contenders' packages.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from judge_contenders import CONTENDERS, PEERS
from judge_processes import resident_bytes, tree_cpu_seconds
from judge_workload import FunctionProblem, function_jobs, stdio_problems

_PAGE = 4096


def hold(size: int) -> bytearray:
    """Return `size` bytes of memory, every page of which has been written to."""
    memory = bytearray(size)
    memory[::_PAGE] = b"\1" * len(range(0, size, _PAGE))
    return memory


def timed(action: Callable[[], list[bool]]) -> dict[str, float]:
    """Return what `action` took, which returns whether each program was accepted; all of them must be."""
    cpu, start = tree_cpu_seconds(), time.perf_counter()
    accepted = action()
    seconds = time.perf_counter() - start
    used = tree_cpu_seconds() - cpu
    if not all(accepted):
        raise SystemExit(f"{accepted.count(False)} of {len(accepted)} right programs were not accepted")
    return {
        "programs_per_second": len(accepted) / seconds,
        "cpu_milliseconds_per_program": 1000 * used / len(accepted),
    }


def warm_up(contender: Any, workers: int) -> None:
    """Start whatever `contender` keeps running, and make sure that it tells right programs from wrong ones."""
    problem = FunctionProblem(0)
    accepted = contender.functions([(problem, [*problem.completions(workers), problem.wrong_completion])])
    if accepted != [True] * workers + [False]:
        raise SystemExit(f"{workers} right programs and a wrong one were judged {accepted}: nothing would be measured")


def measure(plan: dict[str, Any], workers: int) -> dict[str, Any]:
    """Judge by one contender; return its plan with every cell's figures."""
    with CONTENDERS[plan["contender"]](workers) as contender:
        warm_up(contender, workers)
        for cell in plan["functions"]:
            jobs = function_jobs(cell["programs"], cell["programs_per_task"])
            cell |= timed(lambda jobs=jobs: contender.functions(jobs))
        for cell in plan["scripts"]:
            problems = stdio_problems(cell["programs"], cell["tests_per_program"])
            cell |= timed(lambda problems=problems: contender.scripts(problems))
    return plan


def versions() -> dict[str, str]:
    """Return the versions of the peers that this interpreter has."""
    found = {}
    for name in PEERS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def bare_forks(count: int) -> dict[str, float]:
    """Fork `count` children that do nothing, one at a time on one core, from what our workers have loaded."""
    importlib.import_module("trl_pper.judge.worker.zygote")
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    gc.collect()
    gc.freeze()

    def fork_all() -> list[bool]:
        ended = []
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            ended.append(os.waitpid(pid, 0)[1] == 0)
        return ended

    return {"modules": len(sys.modules), **timed(fork_all)}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    memory = hold(request["bytes"])
    answer: dict[str, Any] = {"resident_bytes": resident_bytes(os.getpid()), "versions": versions()}
    answer["plans"] = [measure(plan, request["workers"]) for plan in request["plans"]]
    if request.get("forks"):
        answer["forks"] = bare_forks(request["forks"])
    del memory
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
