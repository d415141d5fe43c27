"""Runs the fast tests and the demo with the lowest and with the latest versions that pyproject.toml allows.

    python benchmarks/versions.py --output benchmarks/results/versions.json

Each set gets a fresh environment in `--folder`, into which the wheel is installed, so that the tests meet what a user
has. Lowest holds every direct dependency at its lower bound and leaves what those depend on to pip; latest holds
nothing, which brings a torch of several gigabytes: `--latest_torch` names another one. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from environment import markdown, snapshot, write_result
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXTRAS = ("metric", "quantization", "report")
TEST_TOOLS = ("hatchling", "hypothesis", "pyte", "pytest", "pytest-timeout", "pytest-xdist")
COLUMNS = ("versions", "passed", "failed", "skipped", "test_seconds", "demo_after")


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def requirements() -> list[Requirement]:
    """Return what the package and the extras that the tests use depend on directly."""
    project = _project()
    extras = [one for name in EXTRAS for one in project["optional-dependencies"][name]]
    return [Requirement(text) for text in (*project["dependencies"], *extras)]


def test_tools() -> list[str]:
    """Return what the tests need beside the package: the extra `dev` without linters, which want others."""
    return [text for text in _project()["optional-dependencies"]["dev"] if Requirement(text).name in TEST_TOOLS]


def lowest(requirement: Requirement) -> str:
    """Return a constraint that holds a requirement at its lower bound."""
    (bound,) = [one.version for one in requirement.specifier if one.operator == ">="]
    return f"{requirement.name}=={bound}"


def measure(name: str, constraints: Sequence[str], folder: Path, tests: Sequence[str]) -> dict[str, Any]:
    """Install one set of versions and return how tests and demo went with it."""
    venv, wheels = folder / name, folder / "wheels"
    run(sys.executable, "-m", "venv", "--clear", str(venv))
    (folder / f"{name}.txt").write_text("\n".join(constraints))
    (wheel,) = wheels.glob("*.whl")
    pip = str(venv / "bin" / "pip")
    held = ("--constraint", str(folder / f"{name}.txt"))
    # Wheels alone: this fails where a compiler would be needed.
    run(pip, "install", "--quiet", "--only-binary=:all:", *held, f"{wheel}[{','.join(EXTRAS)}]", *test_tools())
    installed = {one["name"].lower(): one["version"] for one in json.loads(run(pip, "list", "--format", "json"))}
    results, started = folder / f"{name}.xml", time.perf_counter()
    # `pytest`, not `python -m pytest`: that would put the checkout before the wheel.
    chosen = ("-n", "2", "--dist", "loadfile", "-m", "not slow", *tests)
    subprocess.run([str(venv / "bin" / "pytest"), *chosen, f"--junitxml={results}"], cwd=ROOT, check=False)
    seconds = time.perf_counter() - started
    run(str(venv / "bin" / "trl-pper"), "demo", "--output", str(folder / f"{name}-demo"), cwd=folder)
    accuracy = json.loads((folder / f"{name}-demo" / "summary.json").read_text())["accuracy"]
    return {
        "versions": name,
        "installed": {one.name: installed[one.name.lower()] for one in requirements()},
        **counts(results),
        "test_seconds": round(seconds, 1),
        "demo_before": round(accuracy["before"], 4),
        "demo_after": round(accuracy["after"], 4),
    }


def counts(results: Path) -> dict[str, Any]:
    """Return how many tests passed, failed and were skipped, and which failed, from a file of JUnit results."""
    suite = ElementTree.parse(results).getroot().find("testsuite")
    assert suite is not None, f"{results}: holds no test suite"
    cases = suite.findall("testcase")
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "failed": len(bad),
        "skipped": skipped,
        "failures": sorted(f"{case.get('classname')}::{case.get('name')}" for case in bad),
    }


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command to its end and return what it printed."""
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True, env=environment()).stdout


def environment() -> dict[str, str]:
    """Return the caller's environment without the paths that would bring packages of elsewhere."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    parser.add_argument("--folder", type=Path, default=Path("outputs/versions"), help="folder of the environments")
    parser.add_argument("--latest_torch", default=None, help="version of torch in the latest set; newest by default")
    parser.add_argument("--tests", nargs="*", default=[], help="only these test files")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("wheels/*.whl"):
        old.unlink()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels"))
    sets = {
        "lowest": list(map(lowest, requirements())),
        "latest": [f"torch=={options.latest_torch}"] if options.latest_torch else [],
    }
    results = [measure(name, constraints, folder, options.tests) for name, constraints in sets.items()]
    print(markdown(results, COLUMNS))
    write_result(options.output, {"environment": snapshot(), "sets": results})


if __name__ == "__main__":
    main()
