"""Runs of `forked_run.py`, as the tests see them: carried out once, then looked into."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What came of a plan.

    Args:
        folder: Where the runs have their outputs.
        exits: The exit code of each process, by run.
        errors: Standard error of all of them.
    """

    folder: Path
    exits: dict[str, list[int]]
    errors: str

    def seen(self, name: str) -> list[dict]:
        """Return what each process of a run saw, if all ended well."""
        assert self.exits[name] == [0] * len(self.exits[name]), self.errors[-6000:]
        return [json.loads((self.folder / f"{name}-{rank}.json").read_text()) for rank in range(len(self.exits[name]))]


def carry_out(folder: Path, plan: list[dict], *, timeout_seconds: float = 500) -> Carried:
    """Carry out the runs of a plan, one after the other, and return what came of them."""
    (folder / "plan.json").write_text(json.dumps(plan))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.support.forked_run", str(folder)], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        _, errors = running.communicate(timeout=timeout_seconds)
    finally:
        # With all that it has forked: processes that wait for each other would hold the pipe open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 0, errors[-6000:]
    return Carried(folder=folder, exits=json.loads((folder / "exits.json").read_text()), errors=errors)
