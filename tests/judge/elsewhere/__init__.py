"""The judge where Linux is not: tests run by an ordinary user, with all that only Linux has taken away if wanted."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
#: A user that nothing else runs as.
_UID = 1_879_000_000 + os.getpid() % 40_000
_SECONDS = 780


def _is_open_to_all(path: str) -> bool:
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in (*Path(path).resolve().parents,))


@functools.cache
def _interpreter() -> str:
    """Return an interpreter of this version that an ordinary user may run: this one, unless it is root's alone."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    paths = [sys.executable, *(f"{home}/{name}" for home in ("/usr/bin", "/usr/local/bin"))]
    usable = [path for path in paths if os.path.exists(path) and _is_open_to_all(path)]
    if os.geteuid() != 0:
        return sys.executable
    if not usable or not _is_open_to_all(sysconfig.get_path("purelib")):
        reason = f"no {name} with libraries that an ordinary user may read; the level refuses root"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    return usable[0]


@contextmanager
def _place() -> Iterator[Path]:
    """Yield a copy of package, tests and pages that every user can read: the repository may be in somebody's home."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name in ("trl_pper", "tests", "docs"):
            shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield Path(folder)


def run_python(*arguments: str, emulated: bool) -> subprocess.CompletedProcess[str]:
    """Run Python as an ordinary user over a copy of the package and its tests.

    Args:
        arguments: Of the interpreter; `-m tests.judge.elsewhere.start SCRIPT` runs a script where Linux is taken away.
        emulated: Whether what only Linux has is to be taken away, from the worker and from pytest.
    """
    python = _interpreter()
    with _place() as place:
        home = place / "home"
        home.mkdir()
        home.chmod(0o777)
        # An environment of that interpreter with this one's libraries, in which workers look for them, too.
        environment_of = place / "venv"
        library = environment_of / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        (environment_of / "bin").mkdir(parents=True)
        (environment_of / "bin" / "python").symlink_to(python)
        (environment_of / "pyvenv.cfg").write_text(f"home = {Path(python).resolve().parent}\n")
        library.parent.mkdir(parents=True)
        library.symlink_to(sysconfig.get_path("purelib"))
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(place),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "ELSEWHERE": "emulated" if emulated else "named",
        }
        identity = {"user": _UID, "group": _UID, "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.run(
            [environment_of / "bin" / "python", *arguments],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            **identity,
        )


def run_pytest(*arguments: str, emulated: bool) -> dict[str, int]:
    """Run tests at the level `processes`; return how many ended how.

    Args:
        arguments: Files and options.
        emulated: See `run_python`.
    """
    plugins = ["-p", "tests.judge.elsewhere.plugin", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = run_python("-m", "pytest", *plugins, "--tb=short", "-rfE", *arguments, emulated=emulated)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return count_endings(done.stdout)


def count_endings(output: str) -> dict[str, int]:
    """Return how many tests ended how, from the output of pytest."""
    last = output.strip().splitlines()[-1].strip("= ").partition(" in ")[0]
    return {word: int(count) for count, word in (part.split() for part in last.split(", "))}
