"""Mutates the files and rows that the package reads, and looks for tracebacks, lost records and changed records.

    python benchmarks/fuzz.py --target tasks --minutes 60 --seed 1 --output benchmarks/results/fuzz.json

A case builds valid input from its number, damages it, and reads it as a user would. It passes if the reading succeeds
and everything read is consistent, or if it raises an error of the package that names the place and the remedy, within
bounds of time and memory. Files with checksums must give back the records that were written, or fewer with a warning,
but never others. Cases run in forked processes, so that a crash of the interpreter is a finding like any other.

`--case NUMBER` runs a single case here, with the traceback of its finding.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import json
import logging
import math
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from environment import snapshot, write_result

# The rows of each format are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.benchmark_rows import ROWS
from trl_pper import CodingTask, DatasetSource, Experience, ReplayBuffer, load_tasks
from trl_pper.cli.judge import read_programs
from trl_pper.generation.source import GeneratedProgram
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.report.history import find_run
from trl_pper.rounds.journal import Journal, JudgedProgram
from trl_pper.tasks.loading import write_tasks
from trl_pper.tasks.task import FunctionTests
from trl_pper.training.checkpoint import (
    BUFFER_FILE,
    STATE_FILE,
    load_buffer,
    newest_complete_checkpoint,
    save_buffer,
)

#: Longest time of a case and most memory it may add, far above the cost of the largest valid input here.
CASE_SECONDS = 20
CASE_BYTES = 3 << 30
#: Where cases write, as syncs of a disk would take most of the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CASES_PER_PROCESS = 100
MOST_FINDINGS = 200
PACKAGE = f"{os.sep}trl_pper{os.sep}"
#: An error says what is required or what is wrong; bare conversions of Python do neither.
TELLING = re.compile(
    "must|required|need|already|malformed|missing|unknown|cannot|only|no such|not |holds no|damaged|differ|has no"
    "|lacks|name one|[Rr]esume with"
)
DRAWS = {"per_device": 2}


class Finding(AssertionError):
    """A broken promise."""


class TooSlow(BaseException):
    """A case took longer than CASE_SECONDS."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Finding(message)


# Values and bytes.

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, -0.0, math.nan, math.inf, -math.inf,
    1e308, "", " ", "\x00", "\ud800", "a\udfffb", "\u2028", "\ufeff", "é" * 3, "x" * 5000, "[" * 3000, "{}", "[]",
    "null", "nan", "1e999", "9" * 5000, "def f(:\n", "assert f(1) == 1", "# ", "../../etc/passwd", [], {}, [None],
    [[]], [{}],
    {"": None}, {"input": 1}, [1, "a", None, {"b": []}],
)  # fmt: skip


def mutated(rng: random.Random, value: Any, *, depth: int = 0) -> Any:
    """Return a copy of a plain value with one change somewhere in it."""
    kind = rng.random()
    if depth < 6 and kind < 0.75 and isinstance(value, dict | list) and value:
        changed = copy.copy(value)
        keys = list(changed) if isinstance(changed, dict) else list(range(len(changed)))
        key = rng.choice(keys)
        action = rng.random()
        if action < 0.12:
            del changed[key]
        elif action < 0.2:
            if isinstance(changed, dict):
                changed[rng.choice(["extra", "", "task_id", "tests", "\ud800", "x" * 300])] = odd(rng)
            else:
                changed.insert(key, changed[rng.randrange(len(changed))])
        else:
            changed[key] = mutated(rng, changed[key], depth=depth + 1)
        return changed
    if isinstance(value, str) and value and kind < 0.9:
        with contextlib.suppress(ValueError, RecursionError):
            # Benchmarks keep JSON in text columns.
            if value[0] in "[{":
                return json.dumps(mutated(rng, json.loads(value), depth=depth + 1))
        return mutated_text(rng, value)
    return odd(rng)


def mutated_text(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    piece = rng.choice(
        ["", "\x00", "\ud800", "\r\n", "\r", "\u2028", '"', "'", "\\", "(", "[", "\t", "é", "0", "\ufeff"]
    )
    return text[:at] + piece + text[at + rng.choice([0, 0, 1, 5, 10**6]) :]


def odd(rng: random.Random) -> Any:
    if rng.random() < 0.03:
        nested: Any = []
        for _ in range(rng.choice([50, 400])):
            nested = [nested]
        return nested
    return copy.deepcopy(rng.choice(ODD_VALUES))


def damage(rng: random.Random, path: Path, others: list[Path]) -> str:
    """Damage a file, and return the name of the damage."""
    data = path.read_bytes()
    size = len(data)
    at = rng.randrange(size + 1)
    kind = rng.choice(
        "truncate truncate flip flip flip flips zero insert delete repeat swap empty folder dangling loop crlf bom "
        "nul tail".split()
    )
    flipped = bytearray(data)
    match kind:
        case "truncate":
            data = data[:at]
        case "flip" | "flips":
            for _ in range(1 if kind == "flip" else rng.randrange(2, 20)):
                if size:
                    flipped[rng.randrange(size)] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        case "zero":
            data = data[:at] + bytes(min(rng.choice([1, 16, 512, 4096]), size - at)) + data[at + 4096 :]
        case "insert":
            data = data[:at] + rng.randbytes(rng.choice([1, 8, 100])) + data[at:]
        case "delete":
            data = data[:at] + data[at + rng.choice([1, 8, 100]) :]
        case "repeat":
            data = data + data
        case "swap" if others:
            data = rng.choice(others).read_bytes()
        case "empty":
            data = b""
        case "crlf":
            data = data.replace(b"\n", b"\r\n")
        case "bom":
            data = b"\xef\xbb\xbf" + data
        case "nul":
            data = data + bytes(64)
        case "tail":
            data = data + b"garbage after the end"
    path.unlink()
    match kind:
        case "folder":
            path.mkdir()
        case "dangling":
            path.symlink_to(path.with_name("nowhere"))
        case "loop":
            path.symlink_to(path)
        case _:
            path.write_bytes(data)
    return kind


def text_of(rng: random.Random) -> str:
    return "".join(rng.choice("ab(x) \n\t'\"é\u2028\x00😀0") for _ in range(rng.choice([1, 5, 40, 300])))


# Errors.


def judge_error(error: BaseException, place: str) -> str | None:
    """Return what is wrong with an error, or None for an error of the package that names place and remedy."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if PACKAGE in frame.filename), frames[-1])
    spot = f"{Path(where.filename).name}:{where.name}"
    kind = type(error).__name__
    if isinstance(error, Finding):
        return str(error)
    if type(error) not in (ValueError, TypeError, FileNotFoundError, IsADirectoryError, NotADirectoryError, OSError):
        return f"{kind} from {spot}: {str(error)[:100]}"
    message = str(error)
    system = isinstance(error, OSError) and error.errno is not None
    if not system and not (PACKAGE in frames[-1].filename and (frames[-1].line or "").startswith("raise ")):
        return f"{kind} from {spot} is one of Python: {message[:100]}"
    if place not in message:
        return f"{kind} from {spot} names no place: {message[:100]}"
    if not system and not TELLING.search(message.partition(place)[2] if place else message):
        return f"{kind} from {spot} names no remedy: {message[:100]}"
    return None


def reading(place: str, read: Callable[[], Any]) -> tuple[bool, Any]:
    """Return whether a reading succeeded, and its result or its error, which has to be one of the package."""
    try:
        return True, read()
    except (TooSlow, KeyboardInterrupt):
        raise
    except BaseException as error:
        fault = judge_error(error, place)
        if fault is not None:
            raise Finding(fault) from error
        return False, error


# Targets: each builds, damages and reads input of a kind.


def task_case(rng: random.Random, folder: Path) -> None:
    """Task rows of every format, in files and in memory."""
    name = rng.choice(sorted(ROWS))
    rows = [copy.deepcopy(ROWS[name][0]) for _ in range(rng.choice([1, 1, 2, 3]))]
    for number, row in enumerate(rows):
        for key in ("task_id", "problem_id", "question_id", "name", "id"):
            if key in row and rng.random() < 0.95:
                row[key] = f"{row[key]}{number}" if isinstance(row[key], str) else row[key] + number
    changes = rng.choice([0, 1, 1, 1, 2, 4])
    for _ in range(changes):
        place = rng.randrange(len(rows))
        rows[place] = mutated(rng, rows[place])
    chosen = name.split()[0] if rng.random() < 0.5 else "auto"
    skip = "skip" if rng.random() < 0.3 else "raise"
    if rng.random() < 0.3:
        rows = [unplain(rng, row) for row in rows]
        done, found = reading("", lambda: load_tasks(rows, format=chosen, on_error=skip))
        kind = "rows"
    else:
        path = write_rows(rng, folder, rows)
        kind = damage(rng, path, []) if rng.random() < 0.4 else "whole"
        done, found = reading(path.name, lambda: load_tasks(path, format=chosen, on_error=skip))
        # JSON has no checksum, and Parquet has none for the names of columns.
        if done and kind != "whole" and changes == 0 and path.suffix == ".gz":
            originals = load_tasks(rows, format=name.split()[0])
            require(all(task in originals for task in found), f"{path.suffix} {kind}: a task is none of the originals")
    if done:
        check_tasks(found, folder)


def unplain(rng: random.Random, row: Any) -> Any:
    if isinstance(row, dict) and row and rng.random() < 0.3:
        value = rng.choice([b"bytes", {1, 2}, object(), 1j, range(3), (1, 2), bytearray(b"x"), {3: 4}])
        return row | {rng.choice([*row, 7, None]): value}
    return row


def check_tasks(tasks: list[CodingTask], folder: Path) -> None:
    ids = [task.task_id for task in tasks]
    require(len(tasks) > 0, "no task and no error")
    require(len(set(ids)) == len(ids), "two tasks have one id")
    if any(not isinstance(task.tests, FunctionTests) and callable(task.tests.compare) for task in tasks):
        return
    path = folder / "native.jsonl"
    done, error = reading("native.jsonl", lambda: write_tasks(path, tasks))
    require(done, f"tasks that were read cannot be written: {error}")
    again = load_tasks(path)
    # Compared as text: NaN, which a message of a chat may hold, does not equal itself.
    require(list(map(repr, again)) == list(map(repr, tasks)), "tasks written and read again differ")


def write_rows(rng: random.Random, folder: Path, rows: list[Any]) -> Path:
    kind = rng.choice(["jsonl", "jsonl", "jsonl.gz", "json", "parquet"])
    path = folder / f"rows.{kind}"
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pa.Table.from_pylist([row for row in rows if isinstance(row, dict)])
            pq.write_table(table, path, write_page_checksum=True)
            return path
        except (pa.ArrowException, TypeError, ValueError, OverflowError, RecursionError):
            path.unlink(missing_ok=True)
            path = folder / "rows.jsonl"
    if kind == "jsonl.gz":
        lines = gzip.compress(lines)
    path.write_bytes(json.dumps(rows).encode() if kind == "json" else lines)
    return path


TASKS = [
    CodingTask(
        task_id=f"t/{number}", prompt=f"def f{number}(x):\n", tests=FunctionTests(code=f"assert f{number}(1) == 1")
    )
    for number in range(4)
]


def program_case(rng: random.Random, folder: Path) -> None:
    """Rows of programs, as `trl-pper judge` and the source of a file read them."""
    rows: list[Any] = []
    for _ in range(rng.randrange(1, 6)):
        row: dict[str, Any] = {"task_id": rng.choice(TASKS).task_id}
        match rng.randrange(4):
            case 0:
                row["program"] = "def f(x): return x"
            case 1:
                row["completions"] = ["    return x\n", "```python\ndef f(x): return 1\n```"]
            case 2:
                row |= {"completion": text_of(rng), "logprob": -1.5, "num_tokens": 3, "scorer": "s", "source": "w"}
            case 3:
                row |= {"completion": "    return 1", "settings": {"temperature": 0.5}}
        rows.append(row)
    for _ in range(rng.choice([0, 1, 1, 2])):
        place = rng.randrange(len(rows))
        rows[place] = mutated(rng, rows[place])
    path = write_rows(rng, folder, rows)
    if rng.random() < 0.3:
        damage(rng, path, [])
    done, programs = reading(path.name, lambda: read_programs(path, TASKS))
    if done:
        require(all(isinstance(one.program, str) for one in programs), "a program is no text")
    done, source = reading(path.name, lambda: DatasetSource(path))
    if not done:
        return
    done, _ = reading(path.name, lambda: source.check(TASKS))
    if not done:
        return
    source.identity()
    generated = list(source.generate(TASKS))
    require(sum(map(len, generated)) <= len(source), "more programs than the source has")
    with Journal(folder / "journal") as journal:
        for task, written in zip(TASKS, generated, strict=True):
            judged = [judged_program(task, one) for one in written]
            journal.append(task, judged, judged_by="all")
            for one in judged:
                Experience(
                    task_id=task.task_id, prompt=task.prompt, completion=one.generated.completion, program=one.program,
                    pass_rate=1.0, logprob=one.generated.logprob, num_tokens=one.generated.num_tokens,
                    source=one.generated.source, scorer=one.generated.scorer, settings=one.generated.settings,
                )  # fmt: skip


def judged_program(task: CodingTask, generated: GeneratedProgram) -> JudgedProgram:
    verdict = Verdict(outcomes=(Outcome.PASSED,), message="fine", cpu_seconds=0.25)
    return JudgedProgram(task=task, generated=generated, program=generated.completion, verdict=verdict)


def experience(rng: random.Random, number: int) -> Experience:
    scored = rng.random() < 0.7
    chat = rng.random() < 0.3
    return Experience(
        task_id=f"t{number % 5}",
        prompt=[{"role": "user", "content": text_of(rng)}] if chat else text_of(rng),
        completion=text_of(rng),
        program=f"{text_of(rng)}{number}",
        pass_rate=rng.random(),
        outcomes=tuple(rng.choices(list(Outcome), k=rng.randrange(4))),
        cpu_seconds=rng.choice([None, 0.0, rng.random()]),
        logprob=-rng.random() if scored else None,
        num_tokens=rng.randrange(1, 9) if scored else None,
        source="m",
        scorer="s" if scored else "",
        settings='{"a": 1}',
        round_index=rng.randrange(3),
    )


def some_buffer(rng: random.Random) -> ReplayBuffer:
    buffer = ReplayBuffer(rng.choice([None, 20, 100]), seed=rng.randrange(99), tokenizer=rng.choice([None, "tok"]))
    buffer.add([experience(rng, number) for number in range(rng.choice([0, 1, 7, 30]))])
    return buffer


def exact(one: Experience) -> tuple[Any, ...]:
    return tuple(one.to_row().items()) if isinstance(one.prompt, str) else (repr(one), one.cpu_seconds)


def check_buffer(buffer: ReplayBuffer, folder: Path) -> None:
    buffer.check_valid()
    if buffer.can_draw:
        buffer.sample(3, round_index=0, step=0)
    buffer.save(folder / "again.parquet")
    again = ReplayBuffer.load(folder / "again.parquet")
    require(again.digest() == buffer.digest(), "a buffer saved and loaded again differs")
    other = ReplayBuffer()
    other.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    require(other.digest() == buffer.digest(), "a buffer restored from its state differs")


def buffer_case(rng: random.Random, folder: Path) -> None:
    """Saved buffers: files, states and Arrow tables."""
    buffer, path = some_buffer(rng), folder / "buffer.parquet"
    match rng.randrange(4):
        case 0:
            state = buffer.state_dict()
            for _ in range(rng.choice([1, 1, 2])):
                state = mutated(rng, state)
            restored = ReplayBuffer()
            before = restored.digest()
            done, _ = reading("", lambda: restored.load_state_dict(state))
            if done:
                check_buffer(restored, folder)
            else:
                require(restored.digest() == before, "a refused state changed the buffer")
        case 1:
            changed_parquet(rng, buffer, path)
            done, loaded = reading(path.name, lambda: ReplayBuffer.load(path))
            if done:
                check_buffer(loaded, folder)
        case 2:
            rows = [mutated(rng, one.to_row()) if rng.random() < 0.3 else one.to_row() for one in buffer]
            done, loaded = reading("", lambda: ReplayBuffer.from_dataset(rows))  # type: ignore[arg-type]
            if done:
                check_buffer(loaded, folder)
        case 3:
            buffer.save(path)
            some_buffer(rng).save(folder / "other.parquet")
            kind = damage(rng, path, [folder / "other.parquet"])
            done, loaded = reading(path.name, lambda: ReplayBuffer.load(path))
            if done and kind != "swap":
                same = [exact(one) for one in loaded] == [exact(one) for one in buffer]
                same = same and loaded.settings() == buffer.settings() and loaded.tokenizer == buffer.tokenizer
                require(same, f"{kind}: a damaged file was read as another buffer")


def changed_parquet(rng: random.Random, buffer: ReplayBuffer, path: Path) -> None:
    """Write a buffer's file with other columns or other metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer.save(path)
    table = pq.read_table(path)
    metadata = json.loads(table.schema.metadata[b"trl_pper"])
    match rng.randrange(5):
        case 0:
            metadata = mutated(rng, metadata)
        case 1:
            table = table.drop_columns([rng.choice(table.column_names)])
        case 2:
            name = rng.choice(table.column_names)
            with contextlib.suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
                values = [odd(rng) for _ in range(1)] * len(table)
                table = table.set_column(table.column_names.index(name), name, pa.array(values))
        case 3:
            table = pa.concat_tables([table, table])
        case 4:
            table = table.slice(1)
    text = json.dumps(metadata).encode() if rng.random() < 0.9 else rng.randbytes(20)
    path.unlink()
    with contextlib.suppress(pa.ArrowException, UnicodeError):
        pq.write_table(table.replace_schema_metadata({b"trl_pper": text}), path)
    if not path.exists():
        buffer.save(path)


def journal_case(rng: random.Random, folder: Path) -> None:
    """Journals: finished and unfinished shards."""
    home = folder / "journal"
    written: dict[int, tuple[JudgedProgram, ...]] = {}
    ends: list[int] = []
    shards = rng.choice([1, 1, 2, 3])
    places = list(range(len(TASKS)))
    rng.shuffle(places)
    last_kind = "arrows"
    for shard in range(shards):
        journal = Journal(home)
        for place in places[shard::shards]:
            task = TASKS[place]
            programs = [
                judged_program(task, GeneratedProgram(
                    completion=text_of(rng), logprob=-rng.random(), num_tokens=3, source="m",
                ))
                for _ in range(rng.randrange(1, 5))
            ]  # fmt: skip
            journal.append(task, programs, judged_by="all")
            written[place] = tuple(programs)
            if shard == shards - 1:
                (stream,) = home.glob("*.arrows")
                ends.append(stream.stat().st_size)
        # As after a kill: the stream as it is on the disk.
        (stream,) = home.glob(f"{shard:06d}-*.arrows")
        unfinished = stream.read_bytes()
        journal.close()
        last_kind = "parquet"
        if shard == shards - 1 and rng.random() < 0.6:
            stream.with_suffix(".parquet").unlink()
            stream.write_bytes(unfinished)
            last_kind = "arrows"
    files = sorted(home.iterdir())
    target = files[-1]
    kind = damage(rng, target, files[:-1])
    done, entries = reading(target.name, lambda: Journal(home).read(TASKS))
    require(done, f"a damaged shard stops the run: {entries}")
    check_entries(entries, written, kind)
    earlier = {place for shard in range(shards - 1) for place in places[shard::shards]}
    require(earlier <= set(entries), f"{kind}: a whole shard was not read")
    if last_kind == "arrows" and kind == "truncate":
        size = target.stat().st_size
        kept = {place for place, end in zip(places[shards - 1 :: shards], ends, strict=True) if end <= size}
        require(kept <= set(entries), "truncate: a task before the damage was not read")
    # The run goes on: other tasks are written, and everything is there.
    missing = [place for place in range(len(TASKS)) if place not in entries]
    with Journal(home) as journal:
        for place in missing:
            journal.append(TASKS[place], written[place], judged_by="all")
    after = Journal(home).read(TASKS)
    check_entries(after, written, kind)
    require(set(after) == set(range(len(TASKS))), f"{kind}: a resumed journal lacks tasks")


def check_entries(entries: Mapping[int, Any], written: Mapping[int, tuple[JudgedProgram, ...]], kind: str) -> None:
    for place, entry in entries.items():
        require(entry.programs == written[place], f"{kind}: a task's programs are not those that were written")


def checkpoint_case(rng: random.Random, folder: Path) -> None:
    """Checkpoints: the buffer, the state of the package and the state of the Trainer."""
    buffer, states = some_buffer(rng), {}
    for step in (3, 6):
        checkpoint = folder / "run" / f"checkpoint-{step}"
        if step == 6:
            buffer.add([experience(rng, 1000)])
        save_buffer(checkpoint, buffer, next_round=step // 3, draws=DRAWS, num_processes=1)
        (checkpoint / "rng_state.pth").write_bytes(b"random")
        log = {"log_history": [{"epoch": 1.0, "pper/round_index": 0.0, "pper/pass_rate": 0.5}], "global_step": step}
        (checkpoint / "trainer_state.json").write_text(json.dumps(log))
        states[checkpoint] = (buffer.digest(), buffer.tokenizer, step // 3)
    target = rng.choice(sorted(states)) / rng.choice([STATE_FILE, STATE_FILE, BUFFER_FILE, Path("trainer_state.json")])
    if target.suffix == ".json" and rng.random() < 0.5:
        value = json.loads(target.read_text())
        for _ in range(rng.choice([1, 1, 2])):
            value = mutated(rng, value)
        target.write_text(json.dumps(value))
    else:
        # Another file of the run, as after a wrong copy.
        damage(rng, target, [next(iter(states)) / BUFFER_FILE])
    done, newest = reading("run", lambda: newest_complete_checkpoint(folder / "run"))
    require(done, "a damaged checkpoint stops the search for a complete one")
    for checkpoint, (digest, tokenizer, next_round) in states.items():
        fresh = ReplayBuffer(**{**buffer.settings(), "tokenizer": tokenizer})
        empty = fresh.digest()
        done, found = reading(checkpoint.name, lambda c=checkpoint, f=fresh: load_buffer(c, f, draws=DRAWS))
        if done:
            require(fresh.digest() == digest, "a checkpoint gives another buffer")
            require(found == next_round, f"a checkpoint gives round {found!r} for {next_round}")
        else:
            require(fresh.digest() == empty, "a refused checkpoint changed the buffer")
        reading(checkpoint.name, lambda c=checkpoint: find_run(c))
    if newest is not None:
        reading("run", lambda: find_run(folder / "run"))


TARGETS: dict[str, Callable[[random.Random, Path], None]] = {
    "tasks": task_case,
    "programs": program_case,
    "buffers": buffer_case,
    "journals": journal_case,
    "checkpoints": checkpoint_case,
}


# The run.


def run_case(target: str, seed: int, number: int) -> None:
    """Run a case, and raise its finding."""
    rng = random.Random(f"{seed}:{target}:{number}")
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=MEMORY) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        signal.signal(signal.SIGALRM, _too_slow)
        signal.alarm(CASE_SECONDS)
        try:
            TARGETS[target](rng, folder)
            partial = [path.name for path in folder.rglob("*.partial")]
            require(not partial, "a partial file was left behind")
        finally:
            signal.alarm(0)


def _too_slow(*_: object) -> None:
    raise TooSlow(f"longer than {CASE_SECONDS} s")


def describe(error: BaseException) -> str:
    if isinstance(error, Finding):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if PACKAGE in frame.filename), frames[-1])
    return f"{type(error).__name__} from {Path(where.filename).name}:{where.name}: {str(error)[:100]}"


def run_batch(target: str, seed: int, first: int, count: int) -> Iterator[tuple[int, str]]:
    """Run cases in a forked process, and yield the number and the text of each finding."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(target, seed, first, count, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        lines = pipe.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    last = first - 1
    for line in lines:
        last, text = json.loads(line)
        if text:
            yield last, text
    if last < first + count - 1:
        yield last + 1, f"the process ended with {status}"
        if last + 2 < first + count:
            yield from run_batch(target, seed, last + 2, first + count - last - 2)


def _child(target: str, seed: int, first: int, count: int, writer: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + CASE_BYTES,) * 2)
    for number in range(first, first + count):
        text = ""
        try:
            run_case(target, seed, number)
        except BaseException as error:
            text = describe(error)
        os.write(writer, json.dumps([number, text]).encode() + b"\n")
    os._exit(0)


def fuzz(target: str, *, seed: int, minutes: float, most_cases: int | None = None) -> dict[str, Any]:
    """Run cases of a target until the time is over, and return the figures with every kind of finding."""
    started, number = time.monotonic(), 0
    findings: dict[str, dict[str, Any]] = {}
    while time.monotonic() - started < minutes * 60 and (most_cases is None or number < most_cases):
        count = CASES_PER_PROCESS if most_cases is None else min(CASES_PER_PROCESS, most_cases - number)
        for case, text in run_batch(target, seed, number, count):
            # Numbers and quotations differ between findings of one kind.
            kind = re.sub(r"'[^']*'|\"[^\"]*\"|\d+|/(?:tmp|dev)/[^ :]*", "_", text)
            found = findings.setdefault(kind, {"finding": text, "case": case, "times": 0})
            found["times"] += 1
            if found["times"] == 1:
                print(f"{target} case {case}: {text!a}", flush=True)
        number += count
        if number % (50 * CASES_PER_PROCESS) == 0:
            print(f"{target}: {number} cases, {len(findings)} kinds of findings", flush=True)
    return {
        "target": target,
        "seed": seed,
        "cases": number,
        "seconds": round(time.monotonic() - started, 1),
        "findings": sorted(findings.values(), key=lambda one: -one["times"])[:MOST_FINDINGS],
    }


def merge(path: Path | None, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result beside those of the other targets in the file."""
    known = json.loads(path.read_text())["targets"] if path is not None and path.is_file() else {}
    return {"targets": known | {result["target"]: result}, "environment": snapshot()}


def main(arguments: list[str] | None = None) -> int:
    """Fuzz from the command line; return 1 if there is a finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", choices=[*TARGETS, "all"], required=True)
    parser.add_argument("--minutes", type=float, default=1.0, help="wall time for each target")
    parser.add_argument("--cases", type=int, help="most cases for each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, here")
    parser.add_argument("--output", type=Path, help="JSON file to write; results of other targets in it stay")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if options.case is not None:
        run_case(options.target, options.seed, options.case)
        return 0
    found = 0
    for target in TARGETS if options.target == "all" else (options.target,):
        result = fuzz(target, seed=options.seed, minutes=options.minutes, most_cases=options.cases)
        print(f"{target}: {result['cases']} cases in {result['seconds']} s, {len(result['findings'])} findings")
        write_result(options.output, merge(options.output, result))
        found += len(result["findings"])
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
