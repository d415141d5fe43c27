"""The judge where users run it: as root and as nobody in particular, on every supported Python, from any directory."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.hostile]

ROOT = Path(__file__).parents[2]
NOBODY = 65534
VERSIONS = ("3.11", "3.12", "3.13")
IN_CI = bool(os.environ.get("CI"))

SCRIPT = """
import json, os, sys
from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests

code = "assert f(1) == 2" + chr(10) + "assert f(2) == 4"
function = CodingTask(task_id="f", prompt="p", tests=FunctionTests(code=code, entry_point="f"))
cases = tuple(StdioCase(input=str(n), output=str(n + 1)) for n in range(3))
script = CodingTask(task_id="s", prompt="p", tests=StdioTests(cases=cases))
functions = [
    "def f(x): return x + 1",
    "import threading, decimal, json, zoneinfo, sqlite3, ssl" + chr(10) + "def f(x): return 2 * x",
    "import os" + chr(10) + "def f(x): return os.listdir('/root') or os.listdir('/home')",
]
scripts = [
    "print(int(input()) + 1)",
    "open('x', 'w').write('y'); print(int(open('/dev/stdin').read()) + len(open('x').read()))",
    "import threading; threading.Thread(target=lambda: print(int(input()) + 1)).start()",
    # Where a worker of this same user puts its programs' input.
    "try: open('/run/mine', 'x')" + chr(10) + "except OSError: print(int(input()) + 1)",
]
with Judge(workers=1, isolation=sys.argv[1], limits=Limits(cpu_seconds=3.0)) as judge:
    rows = judge.run([(function, functions), (script, scripts)])
    absent = [name for name, state in judge.report().items() if state == "absent"]
    print(json.dumps({
        "user": os.geteuid(), "version": "%d.%d" % sys.version_info[:2], "isolation": judge.isolation,
        "rates": [[verdict.pass_rate for verdict in row] for row in rows], "absent": absent,
        "messages": [verdict.message for row in rows for verdict in row],
    }))
"""
EXPECTED = [[0.5, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


def require(condition, reason):
    """Skip where something is not at hand, unless this is CI, where it must be."""
    if not condition:
        assert not IN_CI, reason
        pytest.skip(reason)


@functools.cache
def interpreters():
    """Return the interpreters found, by version, most accessible first."""
    homes = [*map(Path, os.environ.get("PATH", "").split(":")), Path("/usr/bin"), Path("/usr/local/bin")]
    homes += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[str, list[str]] = {version: [] for version in VERSIONS}
    found.setdefault("{}.{}".format(*sys.version_info), []).append(sys.executable)
    for version, home in ((version, home) for version in VERSIONS for home in homes):
        path = home / f"python{version}"
        if path.exists() and subprocess.run([path, "--version"], capture_output=True).returncode == 0:
            found[version].append(str(path))
    return found


def is_open_to_all(path):
    return all(parent.stat().st_mode & 0o005 == 0o005 for parent in Path(path).resolve().parents)


@functools.cache
def open_interpreter():
    """Return an interpreter that every user may run, or None."""
    paths = [path for version in VERSIONS for path in interpreters()[version]]
    return next(filter(is_open_to_all, paths), None)


def judge_as(python, isolation, *, user=None, folder="/", repository=ROOT):
    identity = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    environment = {"PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, "-W", "error", "-c", SCRIPT, isolation]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, **identity
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["rates"] == EXPECTED, said
    return said


@pytest.fixture(scope="module")
def shared_copy():
    """A copy of the package that every user can read: the repository may lie in somebody's home."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(ROOT / "trl_pper", Path(folder, "trl_pper"), ignore=shutil.ignore_patterns("__pycache__"))
        yield folder


@pytest.mark.parametrize("isolation", ["namespaces", "landlock"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_supported_python(version, isolation):
    if not interpreters()[version]:
        pytest.skip(f"no Python {version} on this machine")
    said = judge_as(interpreters()[version][0], isolation)
    assert said["version"] == version
    assert said["isolation"] == isolation
    assert said["absent"] == []


@pytest.mark.parametrize("isolation", ["auto", "namespaces", "landlock"])
def test_an_ordinary_user(isolation, shared_copy):
    if os.geteuid() != 0:
        said = judge_as(sys.executable, isolation)
    else:
        require(open_interpreter(), "no Python that an ordinary user may run")
        said = judge_as(open_interpreter(), isolation, user=NOBODY, repository=shared_copy)
    assert said["user"] != 0
    assert said["isolation"] in (["namespaces", "landlock"] if isolation == "auto" else [isolation])
    assert said["absent"] == []


def test_root():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    said = judge_as(sys.executable, "auto")
    assert said["user"] == 0
    assert said["isolation"] == "namespaces"
    assert said["absent"] == []


def test_an_unwritable_directory(tmp_path):
    tmp_path.chmod(0o555)
    judge_as(sys.executable, "auto", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("isolation", ["namespaces", "landlock"])
def test_a_virtual_environment_under_the_temporary_directory(isolation, shared_copy):
    require(open_interpreter(), "no Python that an ordinary user may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        python = Path(folder, "venv", "bin", "python")
        subprocess.run([open_interpreter(), "-m", "venv", "--without-pip", python.parents[1]], check=True)
        library = next(python.parents[1].glob("lib/python*/site-packages"))
        (library / "only_here.py").write_text("value = 41\n")
        judge_as(python, isolation, repository=shared_copy)
        program = "import only_here; print(only_here.value + int(input()))"
        script = (
            "from trl_pper import CodingTask, Judge, StdioTests\n"
            "from trl_pper.tasks.task import StdioCase\n"
            "tests = StdioTests(cases=(StdioCase(input='1', output='42'),))\n"
            f"judge = Judge(workers=1, isolation={isolation!r})\n"
            f"[[verdict]] = judge.run([(CodingTask(task_id='t', prompt='p', tests=tests), [{program!r}])])\n"
            "assert verdict.accepted, verdict.message\n"
        )
        subprocess.run([python, "-c", script], env={"PYTHONPATH": shared_copy}, check=True, timeout=60)


def test_a_home_that_is_a_secret(tmp_path, monkeypatch):
    """Files beside the program's own libraries, in the directory the caller works in, are out of reach."""
    (tmp_path / "secret").write_text("token-7c1e")
    script = (
        "from trl_pper import CodingTask, Judge, StdioTests\n"
        "from trl_pper.tasks.task import StdioCase\n"
        f"tests = StdioTests(cases=(StdioCase(input={str(tmp_path / 'secret')!r}, output='token-7c1e'),))\n"
        "[[verdict]] = Judge(workers=1).run("
        "[(CodingTask(task_id='t', prompt='p', tests=tests), ['print(open(input()).read())'])])\n"
        "assert verdict.pass_rate == 0.0, verdict\n"
        "assert 'Error' in verdict.message, verdict\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
