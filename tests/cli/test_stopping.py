"""Commands that are told to stop: at once, with no process left, and with all programs kept for the next start."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trl_pper import ReplayBuffer, load_tasks
from trl_pper.cli.commands import main
from trl_pper.rounds.journal import Journal

#: Seconds in which a command has to end; a few tenths on a machine that is idle.
PATIENCE = 5.0
#: Bodies of functions that do not end by themselves.
ENDLESS = [
    "    while True: pass\n",
    "    import time\n    time.sleep(10**6)\n",
    "    return sum(range(10**12))\n",
    "    import signal\n    for n in range(1, 32):\n        try: signal.signal(n, signal.SIG_IGN)\n"
    "        except OSError: pass\n    while True: pass\n",
    "    import threading\n    def g():\n        while True: pass\n"
    "    for _ in range(20): threading.Thread(target=g).start()\n    g()\n",
]
FLAGS = {
    "collect": ["--output", "b.parquet"],
    "evaluate": ["--output", "s.json", "--verdicts", "v.jsonl"],
    "judge": ["--output", "v.jsonl"],
    "train": [
        "--model_name_or_path",
        "model",
        "--output_dir",
        "run",
        "--use_cpu",
        "--bf16",
        "false",
        "--judge_workers",
    ],
}


@pytest.fixture
def folder(tmp_path, tasks, monkeypatch):
    """A program that ends at once, and then hostile ones that would run for an hour."""
    monkeypatch.chdir(tmp_path)
    many = [replace(tasks[n % 4], task_id=f"t{n}", prompt=f"# {n}\ndef f(x):\n") for n in range(len(ENDLESS) + 1)]
    Path("tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in many))
    rows = [
        {"task_id": task.task_id, "completion": body}
        for task, body in zip(many, ["    return 0\n", *ENDLESS], strict=True)
    ]
    Path("programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


class Command:
    """A command in a process of its own, whose workers are told by their folder for temporary files."""

    def __init__(self, command, *options, workers=2):
        self.place = tempfile.TemporaryDirectory(prefix="stopping-")
        # Programs of root's workers are another user's processes, who has to pass through here.
        os.chmod(self.place.name, 0o755)
        line = [command, "--tasks", "tasks.jsonl", *FLAGS[command]]
        line += [str(workers), *options] if command == "train" else ["--workers", str(workers), *options]
        # A shell's background jobs start with these signals ignored, and so would the command.
        code = (
            "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from trl_pper.cli.commands import main\nsys.exit(main())\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"TMPDIR": self.place.name, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
        self.place.cleanup()

    def workers(self):
        """Process ids of workers and programs, wherever they are in the tree of processes."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.place.name.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def wait_until(self, holds):
        deadline = time.monotonic() + 60
        while not holds():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def stop(self, *numbers):
        """Send signals, wait for the end, and return the seconds that it took and standard error."""
        started = time.monotonic()
        for number in numbers:
            self.process.send_signal(number)
            time.sleep(0.05 * (len(numbers) > 1))
        _, said = self.process.communicate(timeout=60)
        return time.monotonic() - started, said


def has_begun():
    """Whether the first program is in the journal, or the verdicts have their file."""
    return any(any(Path().glob(name)) for name in ("**/*.arrows", "*.partial"))


@pytest.mark.parametrize(
    ("name", "numbers", "code"),
    [
        ("judge", [signal.SIGINT], 130),
        pytest.param("judge", [signal.SIGTERM], 143, marks=pytest.mark.slow),
        pytest.param("collect", [signal.SIGINT], 130, marks=pytest.mark.slow),
        pytest.param("collect", [signal.SIGTERM], 143, marks=pytest.mark.slow),
        pytest.param("evaluate", [signal.SIGINT] * 5, 130, marks=pytest.mark.slow),
        pytest.param("evaluate", [signal.SIGTERM, signal.SIGINT], 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_command_and_all_its_programs(folder, name, numbers, code):
    with Command(name, "--programs", "programs.jsonl", "--cpu_seconds", "3600") as command:
        assert command.workers() == []
        # Each worker with a program.
        command.wait_until(lambda: has_begun() and len(command.workers()) >= 4)
        time.sleep(0.5)
        seconds, said = command.stop(*numbers)
        assert command.process.returncode == code
        assert command.workers() == []
        # Nor is a worker's folder left.
        assert not list(Path(command.place.name).glob("trl-pper-*"))
    assert seconds < PATIENCE
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if "stopped by" in line]
    assert line.startswith(f"trl-pper {name}: stopped by {numbers[0].name}; ")
    assert "run the same command again to go on" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["collect", "evaluate"])
def test_the_next_start_has_all_programs_of_the_last(folder, name, capsys):
    # Two programs are in flight, and two wait.
    bodies = ["    return 0\n", *[f"    while True: pass  # {n}\n" for n in range(4)]]
    rows = [{"task_id": f"t{n}", "completion": body} for n, body in enumerate(bodies)]
    Path("programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = [name, "--tasks", "tasks.jsonl", *FLAGS[name], "--workers", "2", "--programs", "programs.jsonl"]
    with Command(name, "--programs", "programs.jsonl", "--cpu_seconds", "3600") as command:
        command.wait_until(has_begun)
        command.stop(signal.SIGINT)
    assert main([*line, "--cpu_seconds", "0.5"]) == 0
    assert not list(Path().glob("*.journal"))
    if name == "evaluate":
        scores = json.loads(Path("s.json").read_text())
        assert (scores["programs"]["restored"], scores["figures"]["unjudged"]) == (5, 0)
    else:
        assert len(ReplayBuffer.load("b.parquet")) == 5


@pytest.mark.slow
def test_judging_goes_on_behind_the_verdicts_that_are_known(folder, capsys):
    rows = [json.loads(line) for line in Path("programs.jsonl").read_text().splitlines()]
    calm = [{"task_id": row["task_id"], "completion": "    return 1\n"} for row in rows]
    slow = {"task_id": "t3", "completion": "    import time\n    time.sleep(2)\n    return 1\n"}
    Path("programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*calm[:3], slow, *calm[4:]]))
    with Command("judge", "--programs", "programs.jsonl", workers=1) as command:
        command.wait_until(has_begun)
        time.sleep(1.5)
        command.stop(signal.SIGINT)
        assert command.process.returncode == 130
    assert not Path("v.jsonl").exists()
    assert main(["judge", "--tasks", "tasks.jsonl", "--programs", "programs.jsonl", *FLAGS["judge"]]) == 0
    assert "3 verdicts were there already" in capsys.readouterr().out
    assert len(Path("v.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4])
def test_a_signal_while_workers_start_ends_a_command(folder, seconds):
    with Command("judge", "--programs", "programs.jsonl", "--cpu_seconds", "3600", workers=4) as command:
        command.wait_until(command.workers)
        time.sleep(seconds)
        took, said = command.stop(signal.SIGINT)
        assert command.process.returncode == 130
        # A worker that was being started in this very moment hears of it as soon as it has started.
        deadline = time.monotonic() + PATIENCE
        while command.workers() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert command.workers() == []
    assert took < PATIENCE
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["collect", "evaluate"])
def test_a_signal_while_a_model_generates_keeps_its_programs(folder, name, make_model, tokenizer):
    make_model(eos_token_id=None).save_pretrained("model")
    tokenizer.save_pretrained("model")
    asked = replace(load_tasks("tasks.jsonl")[0], stop=("# never",))
    tasks = [replace(asked, task_id=f"t{n}", prompt=f"# {n}\ndef f(x):\n") for n in range(300)]
    Path("tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    options = ["--model", "model", "--max_completion_length", "50", "--batch_size", "1"]
    with Command(name, *options) as command:
        command.wait_until(has_begun)
        seconds, said = command.stop(signal.SIGINT)
        assert command.process.returncode == 130
        assert command.workers() == []
    assert seconds < PATIENCE
    assert "Traceback" not in said
    (journal,) = Path().glob("*.journal/*")
    found = Journal(journal).read(tasks)
    assert 1 <= len(found) < 300
    assert list(found) == list(range(len(found)))


@pytest.mark.slow
@pytest.mark.parametrize("launch", [[], ["--num_processes", "2"]])
def test_a_signal_ends_a_training_with_its_processes(folder, launch, make_model, tokenizer):
    make_model().save_pretrained("model")
    tokenizer.save_pretrained("model")
    options = ["--programs", "programs.jsonl", "--judge_cpu_seconds", "3600", "--report_to", "none", *launch]
    with Command("train", *options) as command:
        command.wait_until(has_begun)
        time.sleep(0.5)
        seconds, said = command.stop(signal.SIGINT)
        assert command.process.returncode == 130
        assert command.workers() == []
    # Accelerate's launcher waits for its processes in turns of its own.
    assert seconds < PATIENCE + 10 * len(launch)
    assert "go on with --resume_from_checkpoint true" in said
    assert list(Path("run/_pper/journal").glob("*/*.arrows"))
    if not launch:
        assert "Traceback" not in said


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_exit_code_is_that_of_the_signal(tmp_path, name, code):
    """Also inside of `exec`, after which `python -m` ends by SIGINT; what is to be done at the end is done."""
    (tmp_path / "command.py").write_text(
        "import atexit, signal, sys, trl_pper.cli.commands as commands\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def run(*_):\n"
        "    atexit.register(print, 'the end')\n"
        f"    exec('import os, signal; os.kill(os.getpid(), signal.{name}); os.getpid()')\n"
        "commands._run = run\n"
        "sys.exit(commands.main())\n"
    )
    line = [sys.executable, "-m", "command", "demo"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "the end\n")
    assert done.stderr == f"trl-pper demo: stopped by {name}; run the same command again\n"


def test_a_signal_that_is_ignored_stays_ignored(folder):
    code = (
        "import os, signal, sys, trl_pper.cli.commands as commands\n"
        "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n"
        "def run(*_):\n"
        "    for number in (signal.SIGINT, signal.SIGTERM): os.kill(os.getpid(), number)\n"
        "    return 7\n"
        "commands._run = run\n"
        "sys.exit(commands.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, b"")
