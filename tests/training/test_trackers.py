"""Real trackers, offline: each gets the documented numbers of a run under the documented names, and the programs.

They are large, and installed by `make test-trackers` alone.
"""

import importlib.util
import json
import os
import struct
import sys
from collections.abc import Iterator

import pytest

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer

PROGRAM = "    return x + 1\n"


@pytest.fixture
def tracker(request) -> str:
    if importlib.util.find_spec(request.param) is None:
        if os.environ.get("REQUIRE_TRACKERS"):
            pytest.fail(f"{request.param} is not installed, and REQUIRE_TRACKERS is set")
        pytest.skip(f"{request.param} is not installed: make test-trackers")
    return request.param


@pytest.fixture
def run(make_model, tokenizer, tasks, tmp_path, monkeypatch):
    """Train for two rounds, evaluate on tasks after each, and return the trainer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    # It looks where to write when it is imported, which an earlier test may have done.
    for name in [name for name in sys.modules if name.partition(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, name)

    def build(report_to: str) -> PPERTrainer:
        rows = [{"task_id": one.task_id, "completion": text} for one in tasks for text in (PROGRAM, "    return x\n")]
        trainer = PPERTrainer(
            model=make_model(),
            args=PPERConfig(
                str(tmp_path / "run"), use_cpu=True, bf16=False, report_to=[report_to], disable_tqdm=True,
                max_completion_length=6, max_length=128, per_device_train_batch_size=4, steps_per_round=2,
                num_train_epochs=2, save_strategy="no", eval_strategy="epoch", judge_workers=1, logging_steps=1,
                gradient_checkpointing=False, log_completions=True, num_completions_to_print=0, project="pper-test",
                run_name="tiny", trackio_space_id=None,
            ),
            train_dataset=tasks,
            eval_dataset=tasks,
            processing_class=tokenizer,
            callbacks=[BeamSampleCollector(source=DatasetSource(rows))],
        )  # fmt: skip
        with trainer.judge:
            trainer.train()
        return trainer

    return build


def expected(trainer) -> dict[str, list[float]]:
    """Return what the run logged, under the names the page promises for trackers: a value for each time."""
    found: dict[str, list[float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            tracked = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            found.setdefault(tracked, []).append(value)
    chosen = {name: values for name, values in found.items() if name.startswith(("train/pper/", "eval/"))}
    assert len(chosen["train/pper/pass_rate"]) == len(chosen["eval/accuracy"]) == 2
    assert max(chosen["train/pper/solved"]) > 0
    return {**chosen, "train/loss": found["train/loss"]}


def records(data: bytes) -> Iterator[bytes]:
    """Read a log in LevelDB's format, as wandb keeps its runs: blocks of 32 KiB, records cut where a block ends."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if -place % 32768 < 7:
            place += -place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        # 1 is a whole record, 4 the last piece of one.
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard"], indirect=True)
def test_tensorboard(tracker, run, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = run(tracker)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    for name, values in expected(trainer).items():
        assert [one.value for one in events.Scalars(name)] == pytest.approx(values, rel=1e-6), name
    # The figures of a round stand beside the loss of its first step.
    assert [one.step for one in events.Scalars("train/pper/pass_rate")] == [1, 3]
    written = b"".join(file.read_bytes() for file in (tmp_path / "events").rglob("*") if file.is_file())
    assert PROGRAM.strip().encode() not in written


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["trackio"], indirect=True)
def test_trackio(tracker, run, tmp_path):
    import sqlite3

    trainer = run(tracker)
    (database,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = [json.loads(row[0]) for row in connection.execute("SELECT metrics FROM metrics ORDER BY id")]
    for name, values in expected(trainer).items():
        assert [row[name] for row in rows if name in row] == pytest.approx(values), name
    assert len([row for row in rows if "completions" in row]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["wandb"], indirect=True)
def test_wandb(tracker, run, tmp_path):
    import wandb
    from wandb.proto import wandb_internal_pb2

    trainer = run(tracker)
    wandb.finish()
    # The file is written to its end when wandb's own process goes.
    wandb.teardown()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    rows = []
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = record.history.item
            rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    for name, values in expected(trainer).items():
        assert [row[name] for row in rows if name in row] == pytest.approx(values), name
    tables = list(file.parent.rglob("*.table.json"))
    assert len(tables) == 2
    held = json.loads(tables[0].read_text())
    assert held["columns"][:2] == ["step", "task_id"]
    assert any(PROGRAM in row for row in held["data"])
