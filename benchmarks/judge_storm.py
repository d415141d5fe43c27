"""Has judges in several processes and threads go through hostile and honest programs while their workers are killed.

    python benchmarks/judge_storm.py --programs 100000 --output benchmarks/results/judge_storm.json

Each of `--processes` has a judge that `--threads` call at once. One program of twenty is an attack of the test suite
(`tests/judge/hostile`), the others are those of `judge_soak`. Every few seconds a worker is killed. A program whose
worker was killed is judged again, and has no pass rate if that happened twice. A wrong verdict makes the exit status
1, and so does anything that stays or grows. Run it from the repository's root, where the attacks are found.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from environment import snapshot, write_result
from judge_processes import descendants, entries
from judge_soak import KINDS, as_expected, compare, programs, sample

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.judge.hostile import exhaustion, forging_functions, forging_scripts, survival
from tests.judge.hostile.attack import PROFILES, Attack
from trl_pper import Judge, Verdict
from trl_pper.judge.verdict import Outcome

_SUITES = (forging_functions, forging_scripts, exhaustion, survival)
#: Attacks that end soon under the limits of the other programs, and whose outcome depends on nothing before them.
ATTACKS = [
    attack
    for suite in _SUITES
    for attack in suite.ATTACKS
    if attack.profile == "tight" and not (attack.slow or attack.accomplice or attack.hole)
]
_ATTACKS_PER_HUNDRED = 5
_SECONDS_BETWEEN_KILLS = 4.0
_PROGRAMS_PER_CALL = 25


def withstood(attack: Attack, level: str, verdict: Verdict) -> bool:
    """Return whether an attack ended as it should."""
    expected = attack.expected_at(level)
    if expected in ("accepted", "rejected"):
        return verdict.pass_rate == (1.0 if expected == "accepted" else 0.0)
    return expected == "judged" or {Outcome(name) for name in expected.split("|")}.issuperset(verdict.outcomes)


class Storm:
    """A judge with threads that call it, and with a thread that kills its workers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.random = random.Random(options.seed)
        self.source = programs(options.seed)
        self.lock = threading.Lock()
        self.numbers = itertools.count()
        self.judge = Judge(options.workers, options.isolation, PROFILES["tight"], cache_size=0)
        self.wrong: Counter[str] = Counter()
        self.unjudged = self.kills = 0
        self.calm = threading.Event()

    def draw(self) -> list[tuple[Any, str, Any]]:
        """Return tasks, programs, and how each should end, for a single call."""
        with self.lock:
            drawn: list[tuple[Any, str, Any]] = []
            for _ in range(_PROGRAMS_PER_CALL):
                if self.random.randrange(100) < _ATTACKS_PER_HUNDRED:
                    attack = self.random.choice(ATTACKS)
                    drawn.append((attack.task, attack.program, attack))
                else:
                    kind, text = next(self.source)
                    drawn.append((kind.task, text, kind))
            return drawn

    def call(self) -> None:
        """Have some programs judged, and note which verdicts are wrong."""
        drawn = self.draw()
        verdicts = self.judge.run([(task, [program]) for task, program, _ in drawn])
        with self.lock:
            for (_, _, wanted), [verdict] in zip(drawn, verdicts, strict=True):
                if verdict.pass_rate is None and Outcome.SANDBOX_ERROR in verdict.outcomes:
                    self.unjudged += 1
                    continue
                if isinstance(wanted, Attack):
                    right, name = withstood(wanted, self.judge.isolation, verdict), wanted.name
                else:
                    # A program that eats memory may meet its CPU limit before, on a busy machine.
                    late = wanted.outcome is Outcome.MEMORY_LIMIT and verdict.outcomes[0] is Outcome.TIMEOUT
                    right = late or as_expected(wanted, verdict)
                    name = next(name for name, each in KINDS.items() if each is wanted)
                if not right:
                    self.wrong[f"{name}: {verdict.outcomes[0]}, {verdict.message[:80]}"] += 1

    def kill(self) -> None:
        """Kill a worker every now and then, until it is calm."""
        while not self.calm.wait(_SECONDS_BETWEEN_KILLS * (0.5 + self.random.random())):
            for pid in self.judge.processes()[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1


def judge_all(options: argparse.Namespace, directory: str) -> dict[str, Any]:
    """Judge the programs of one process; return what came of it."""
    storm = Storm(options)
    samples: list[dict[str, Any]] = []
    calls = max(1, options.every // _PROGRAMS_PER_CALL)
    judged, started = 0, time.perf_counter()
    with contextlib.closing(storm.judge), concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
        while judged < options.programs:
            storm.calm.clear()
            killer = threading.Thread(target=storm.kill)
            killer.start()
            for done in [pool.submit(storm.call) for _ in range(calls)]:
                done.result()
            storm.calm.set()
            killer.join()
            # Every worker that was killed is replaced, so that samples are alike.
            for _ in range(options.workers):
                storm.call()
            judged += (calls + options.workers) * _PROGRAMS_PER_CALL
            samples.append(sample(storm.judge, directory))
            print(f"{judged} programs, {time.perf_counter() - started:.0f} s: {samples[-1]}", file=sys.stderr)
    return {
        "programs": judged,
        "seconds": round(time.perf_counter() - started, 1),
        "workers_killed": storm.kills,
        "without_verdict_after_two_kills": storm.unjudged,
        "wrong_verdicts": dict(storm.wrong),
        # The first samples are those of a judge that is still growing warm.
        "compared": compare(samples[1:] or samples, options.tolerance),
        "left_after_close": {
            "processes": len(descendants(os.getpid())),
            "temporary_entries": entries(directory),
            "descriptors": (entries("/proc/self/fd") or 0),
        },
        "samples": {name: [each[name] for each in samples] for name in samples[0]},
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--programs", type=int, default=100_000, help="programs of all processes together")
    parser.add_argument("--processes", type=int, default=2, help="processes with a judge each")
    parser.add_argument("--threads", type=int, default=4, help="threads that call each judge")
    parser.add_argument("--workers", type=int, default=1, help="programs that each judge runs at once")
    parser.add_argument("--every", type=int, default=1000, help="programs between two samples")
    parser.add_argument("--tolerance", type=float, default=0.05, help="share by which memory may grow")
    parser.add_argument("--isolation", default="auto", help="isolation level of the judges")
    parser.add_argument("--seed", type=int, default=0, help="for programs and kills")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run_parts(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    """Run all processes at once; return what came of each."""
    started = []
    for place in range(options.processes):
        part = directory / f"{place}.json"
        command = [sys.executable, __file__, "--part", str(part), "--seed", str(options.seed * 1000 + place)]
        command += ["--programs", str(options.programs // options.processes)]
        for name in ("threads", "workers", "every", "tolerance", "isolation"):
            command += [f"--{name}", str(getattr(options, name))]
        started.append((part, subprocess.Popen(command)))
    for _, process in started:
        process.wait()
    return [json.loads(part.read_text(encoding="utf-8")) for part, _ in started]


def main(arguments: list[str] | None = None) -> None:
    """Run the storm from the command line."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as directory:
        if options.part is not None:
            # Where the judge makes its directories, so that nobody else's are counted.
            tempfile.tempdir = directory
            before = entries("/proc/self/fd") or 0
            result = judge_all(options, directory)
            result["left_after_close"]["descriptors"] -= before
            options.part.write_text(json.dumps(result), encoding="utf-8")
            return
        mounts = len(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
        parts = run_parts(options, Path(directory))
        mounts -= len(Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines())
    flat = all(each["flat"] is not False for part in parts for each in part["compared"].values())
    left = any(any(part["left_after_close"].values()) for part in parts) or mounts != 0
    wrong = sum((Counter(part["wrong_verdicts"]) for part in parts), Counter())
    result = {
        "environment": {**snapshot(), "isolation": options.isolation, "seed": options.seed},
        "programs": sum(part["programs"] for part in parts),
        "attacks_per_hundred": _ATTACKS_PER_HUNDRED,
        "different_attacks": len(ATTACKS),
        "processes": options.processes,
        "threads": options.threads,
        "programs_per_second": round(sum(part["programs"] / part["seconds"] for part in parts), 1),
        "workers_killed": sum(part["workers_killed"] for part in parts),
        "without_verdict_after_two_kills": sum(part["without_verdict_after_two_kills"] for part in parts),
        "wrong_verdicts": dict(wrong),
        "mounts_left": -mounts,
        "flat": flat,
        "parts": parts,
    }
    print(
        json.dumps({name: value for name, value in result.items() if name not in ("parts", "environment")}, indent=2)
    )
    write_result(options.output, result)
    if wrong or left or not flat:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
