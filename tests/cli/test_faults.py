"""Commands on machines that fail: what was judged stays, output is whole or absent, and errors name the remedy."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.support.faults import full_disk, jump_clock, largest_file, left_behind, read_only
from trl_pper import Experience, ReplayBuffer, load_tasks
from trl_pper.cli import judge as judge_module
from trl_pper.cli.commands import main
from trl_pper.files import atomic_file


@pytest.fixture
def files(tmp_path, tasks):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    programs = [
        {"task_id": task.task_id, "program": f"def f(x): return x + {number}"} for number in range(3) for task in tasks
    ]
    (tmp_path / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in programs))
    return tmp_path


def options(command, folder, output) -> list[str]:
    given = {"tasks": folder / "tasks.jsonl", "programs": folder / "programs.jsonl", "output": output, "workers": 1}
    return [command, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def judged_before_the_kill(monkeypatch, folder, rows) -> None:
    """Judge some rows, and leave the files of a process that was killed then."""

    class Killed(BaseException):
        """Not caught anywhere, like a kill."""

    real = judge_module._Output.write

    def write(self, row, verdict, *, sync):
        if len(done) == rows:
            self._file.write(b'{"task_id": "add-1", "pass_ra')
            raise Killed
        done.append(row)
        real(self, row, verdict, sync=True)

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(judge_module._Output, "write", write)
        with pytest.raises(Killed):
            main(options("judge", folder, folder / "verdicts.jsonl"))


def test_a_killed_judging_resumes_and_ends_the_same(files, monkeypatch, capsys):
    assert main(options("judge", files, files / "calm.jsonl")) == 0
    judged_before_the_kill(monkeypatch, files, 5)
    # Nothing that looks whole is there.
    assert not (files / "verdicts.jsonl").exists()
    assert len(left_behind(files)) == 1
    capsys.readouterr()
    asked = []
    real = judge_module.judge_rows
    monkeypatch.setattr(judge_module, "judge_rows", lambda rows, *a, **k: asked.extend(rows) or real(rows, *a, **k))
    assert main(options("judge", files, files / "verdicts.jsonl")) == 0
    assert len(asked) == 12 - 5
    said = capsys.readouterr().out
    assert "5 verdicts were there already" in said
    assert "12 programs" in said
    assert (files / "verdicts.jsonl").read_bytes() == (files / "calm.jsonl").read_bytes()
    assert left_behind(files) == []


@pytest.mark.parametrize("change", ["tests", "programs", "limits"])
def test_verdicts_of_other_tests_are_not_taken_over(files, monkeypatch, capsys, change):
    judged_before_the_kill(monkeypatch, files, 5)
    more = []
    if change == "tests":
        text = (files / "tasks.jsonl").read_text()
        (files / "tasks.jsonl").write_text(text.replace("f(0)", "f(3 - 3)"))
    elif change == "programs":
        text = (files / "programs.jsonl").read_text()
        (files / "programs.jsonl").write_text(text.replace("x + 2", "2 + x"))
    else:
        more = ["--cpu_seconds", "7"]
    assert main([*options("judge", files, files / "verdicts.jsonl"), *more]) == 0
    assert "there already" not in capsys.readouterr().out
    assert left_behind(files) == []


def test_one_process_at_a_time_writes_the_same_verdicts(files, monkeypatch, capsys):
    real = judge_module.judge_rows

    def twice(*given, **named):
        monkeypatch.setattr(judge_module, "judge_rows", real)
        assert main(options("judge", files, files / "verdicts.jsonl")) == 2
        return real(*given, **named)

    monkeypatch.setattr(judge_module, "judge_rows", twice)
    assert main(options("judge", files, files / "verdicts.jsonl")) == 0
    assert "--output: must be written by one process at a time" in capsys.readouterr().err


def test_a_full_disk_is_named_and_judging_resumes(files, capsys):
    with largest_file(600):
        assert main(options("judge", files, files / "verdicts.jsonl")) == 2
    said = capsys.readouterr().err
    assert "verdicts.jsonl" in said
    assert "raise the limit on the size of files" in said
    assert main(options("judge", files, files / "verdicts.jsonl")) == 0
    assert len((files / "verdicts.jsonl").read_text().splitlines()) == 12
    assert left_behind(files) == []


@pytest.mark.parametrize(
    ("command", "suffix"), [("judge", "jsonl"), ("collect", "parquet"), ("evaluate", "json"), ("amplify", "jsonl")]
)
def test_a_read_only_folder_is_named_before_any_work(files, capsys, command, suffix):
    with read_only(files / "disk") as disk:
        assert main(options(command, files, disk / "out" / f"result.{suffix}")) == 2
    said = capsys.readouterr().err
    assert "choose a folder that can be written to" in said
    assert str(files / "disk") in said


@pytest.mark.parametrize("output", ["/dev/null", "folder"])
def test_devices_and_folders_are_not_replaced(files, capsys, output):
    (files / "folder").mkdir()
    target = files / output
    assert main(options("judge", files, target)) == 2
    assert f"{target}: must be a file to write" in capsys.readouterr().err
    assert target.exists()
    assert not target.is_file()


def filled(path, number=40) -> ReplayBuffer:
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=f"t{one % 4}", prompt="p", completion=f"{one}" * 50, program=str(one), pass_rate=one % 2)
        for one in range(number)
    )
    buffer.save(path)
    return buffer


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("out.parquet", ["export", "buffer.parquet", "--to", "sft"]),
        ("out.jsonl", ["export", "buffer.parquet", "--to", "kto"]),
        ("out.jsonl", ["export", "tasks.jsonl", "--to", "native"]),
        ("out.html", ["report", "buffer.parquet"]),
        ("out.parquet", ["merge", "buffer.parquet"]),
    ],
)
@pytest.mark.parametrize("fault", ["full", "small", "read-only"])
def test_output_is_whole_or_what_it_was(files, capsys, monkeypatch, fault, name, arguments):
    filled(files / "buffer.parquet")
    monkeypatch.chdir(files)
    (files / "disk").mkdir()
    if fault == "full":
        with full_disk(files / "disk", kilobytes=4) as disk:
            (disk / "filler").write_bytes(bytes(4096))
            code, there = main([*arguments, "--output", str(disk / name)]), [path.name for path in disk.iterdir()]
        assert there == ["filler"]
    elif fault == "small":
        target = files / "disk" / name
        target.write_text("before")
        with largest_file(100):
            code = main([*arguments, "--output", str(target)])
        assert [path.name for path in (files / "disk").iterdir()] == [name]
        assert target.read_text() == "before"
    else:
        with read_only(files / "disk") as disk:
            code = main([*arguments, "--output", str(disk / name)])
    assert code == 2
    said = capsys.readouterr().err
    remedy = {"full": "make room", "small": "raise the limit", "read-only": "choose a folder"}[fault]
    assert remedy in said
    assert name in said


def test_partial_files_of_the_dead_go_and_of_the_living_stay(files):
    buffer, target = filled(files / "buffer.parquet"), files / "buffer.parquet"
    dead = files / ".buffer.parquet.0123.partial"
    dead.write_bytes(b"half")
    other = files / ".other.parquet.0123.partial"
    other.write_bytes(b"half")
    with atomic_file(target) as first:
        first.write(b"first")
        buffer.save(target)
        assert left_behind(files) == sorted([other.name, os.path.basename(first.name)])
    assert target.read_bytes() == b"first"
    assert left_behind(files) == [other.name]


def test_without_memory_the_old_file_stays(files, monkeypatch):
    buffer, target = filled(files / "buffer.parquet"), files / "buffer.parquet"
    before = target.read_bytes()
    monkeypatch.setattr("trl_pper.replay.arrow.to_arrow", lambda block: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        buffer.save(target)
    assert target.read_bytes() == before
    assert left_behind(files) == []


def test_a_clock_that_jumps_changes_no_output(files, monkeypatch):
    assert main(options("collect", files, files / "calm.parquet")) == 0
    jump_clock(monkeypatch)
    assert main(options("collect", files, files / "jumping.parquet")) == 0
    assert main(options("judge", files, files / "verdicts.jsonl")) == 0
    calm, jumping = (ReplayBuffer.load(files / f"{name}.parquet") for name in ("calm", "jumping"))
    assert calm.digest() == jumping.digest()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["collect", "judge"])
def test_a_command_killed_at_random_ends_as_if_undisturbed(tmp_path, tasks, command):
    slow = [task.to_row() | {"task_id": f"{task.task_id}-{number}"} for number in range(6) for task in tasks]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in slow))
    text = "import time\ntime.sleep(0.1)\ndef f(x): return x + "
    rows = [{"task_id": row["task_id"], "program": f"{text}{number}"} for number, row in enumerate(slow)]
    (tmp_path / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = {"collect": "out.parquet", "judge": "out.jsonl"}[command]
    calm, killed = tmp_path / f"calm-{name}", tmp_path / name
    assert main(options(command, tmp_path, calm)) == 0
    line = [sys.executable, "-c", "import sys; from trl_pper.cli import collect, judge; judge.ROWS_PER_CHUNK = 4; "
            "from trl_pper.cli.commands import main; print('begins', flush=True); sys.exit(main(sys.argv[1:]))",
            *options(command, tmp_path, killed)]  # fmt: skip
    rng = random.Random(command)
    for _ in range(3):
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout.readline() == "begins\n"
            time.sleep(rng.uniform(0.5, 1.5))
            running.send_signal(signal.SIGKILL)
        assert running.returncode == -signal.SIGKILL
    said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    if command == "collect":
        assert ReplayBuffer.load(killed).digest() == ReplayBuffer.load(calm).digest()
    else:
        assert killed.read_bytes() == calm.read_bytes()
        assert "there already" in said
    assert left_behind(tmp_path) == []
    assert len(load_tasks(tmp_path / "tasks.jsonl")) == 24
