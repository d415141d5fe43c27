"""Measures how long a report takes to build, how large it is, and when a browser has it ready to use.

    python benchmarks/report.py --output benchmarks/results/report.json

Each size is built in a process of its own, `--rounds` times. Programs are functions of the Python standard library,
ten to a task, most of them copies with a changed line: near misses are found, and text compresses as code does.
The time in the browser is the one the page states: from the start of loading until its lists are shown.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from environment import snapshot, write_result

TESTS = 20
PROGRAMS_OF_A_TASK = 10
MODULES = ("argparse", "calendar", "configparser", "csv", "datetime", "difflib", "fractions", "heapq",
           "ipaddress", "pathlib", "pickle", "random", "shlex", "statistics", "string", "tarfile",
           "textwrap", "tokenize", "typing", "urllib.parse", "zipfile")  # fmt: skip


def functions() -> list[str]:
    """Return functions of the standard library as text, of 200 to 2,000 characters."""
    found = []
    for name in MODULES:
        module = __import__(name, fromlist=["_"])
        members = [value for _, value in inspect.getmembers(module, inspect.isclass)]
        for owner in [module, *members]:
            for _, value in inspect.getmembers(owner, inspect.isfunction):
                if value.__code__.co_filename != module.__file__:
                    continue
                text = textwrap.dedent(inspect.getsource(value))
                if 200 <= len(text) <= 2000:
                    found.append(text)
    return sorted(set(found))


def experiences(number: int) -> Iterator[Any]:
    """Yield experiences, the same every time."""
    from trl_pper import Experience

    chance, texts = random.Random(0), functions()
    for n in range(number):
        if n % PROGRAMS_OF_A_TASK == 0:
            base, skill = chance.choice(texts), chance.random()
        lines = base.splitlines() if chance.random() < 0.7 else chance.choice(texts).splitlines()
        place = chance.randrange(len(lines))
        lines[place] = f"{lines[place]}  # {n}"
        passed = TESTS if chance.random() < skill / 2 else chance.randrange(TESTS)
        failure = chance.choice(("wrong_answer", "wrong_answer", "runtime_error", "timeout", "syntax_error"))
        program = "\n".join(lines) + "\n"
        yield Experience(
            task_id=f"task/{n // PROGRAMS_OF_A_TASK}",
            prompt=f'"""{chance.choice(texts)[:300]}"""\n',
            completion=program,
            program=program,
            pass_rate=passed / TESTS,
            outcomes=("passed",) * passed + (failure,) * (TESTS - passed),
            logprob=None if n % 20 == 0 else -80 * chance.random(),
            num_tokens=200,
            source=f"model-{n % 3}",
            scorer="model-0",
            round_index=n * 10 // number,
        )


def build(number: int, path: Path) -> dict[str, float]:
    """Fill a buffer, and measure the report on it."""
    from trl_pper import ReplayBuffer
    from trl_pper.report.page import write_report

    buffer = ReplayBuffer()
    buffer.add(experiences(number))
    started = time.perf_counter()
    write_report(path, buffer, title=f"{number} experiences")
    seconds = time.perf_counter() - started
    return {
        "experiences": len(buffer),
        "build_seconds": seconds,
        "file_bytes": path.stat().st_size,
    }


def usable_seconds(path: Path, times: int) -> list[float]:
    """Return how long a browser took to have the page ready, each time anew; nothing where there is no browser."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.browser import find_browser, open_browser

    if find_browser() is None:
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder, open_browser(Path(folder)) as page:
        for _ in range(times):
            page.open(path.as_uri())
            found.append(int(page.run("document.documentElement.dataset.ready")) / 1000)
    return found


def measure(number: int, rounds: int) -> dict[str, Any]:
    """Return the figures of one size: medians, and least and most."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        command = [sys.executable, __file__, "--build", str(number), "--to", str(path)]
        built = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(rounds)]
        usable = usable_seconds(path, rounds)
    return {
        "experiences": built[0]["experiences"],
        "file_bytes": built[0]["file_bytes"],
        "build_seconds": spread([one["build_seconds"] for one in built]),
        "usable_seconds": spread(usable) if usable else None,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="experiences")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is built and opened")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--build", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        print(json.dumps(build(options.build, options.to)))
        return
    environment = snapshot()
    sizes = []
    for number in options.sizes:
        sizes.append(measure(number, options.rounds))
        print(json.dumps(sizes[-1]), flush=True)
    write_result(options.output, {"environment": environment, "rounds": options.rounds, "sizes": sizes})


if __name__ == "__main__":
    main()
