"""The wheel, installed outside the checkout, holds everything: its demo runs there."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path) -> str:
    # As a shell elsewhere would have it: nothing of this process says where the package is.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_for_any_platform(wheel):
    tracked = run("git", "ls-files", "trl_pper", cwd=ROOT).split("\n")
    package = {name for name in tracked if name}
    assert len(package) > 100
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in held if ".dist-info/" not in name} == package
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_demo_runs_outside_the_checkout(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", "installed", cwd=tmp_path)
    python = tmp_path / "installed" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel), cwd=tmp_path)
    # What the package depends on comes from here; an editable installation of the package itself does not, since
    # files that name further paths count only in a site directory.
    (site,) = (tmp_path / "installed").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = run(str(python), "-c", "import trl_pper; print(trl_pper.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(site)
    command = tmp_path / "installed" / "bin" / "trl-pper"
    shown = run(str(command), "demo", "--rounds", "1", "--output", "demo", cwd=tmp_path)
    assert "held-out tasks" in shown
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["programs_judged"] > 600
    assert summary["accuracy"]["after"] > summary["accuracy"]["before"]
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    script = "import evaluate, trl_pper.metrics as m; print(evaluate.load(m.path('pass_rate')).name)"
    assert run(str(python), "-c", script, cwd=tmp_path).strip() == "pass_rate"
