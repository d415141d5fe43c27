"""Journals and collections on machines that fail: killed, full, read-only, with a wrong clock or without memory."""

import logging
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rounds.test_journal import fill, fill_and_die, judged, programs
from tests.rounds.test_share import Counting, collector, judge, rows  # noqa: F401
from tests.support.faults import full_disk, jump_clock, killed_after, largest_file, left_behind, read_only
from trl_pper.rounds.journal import Journal


def read(folder, tasks):
    return {position: entry.programs for position, entry in Journal(folder).entries(tasks)}


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_loses_nothing_that_was_written(tmp_path, tasks, seed):
    delay = random.Random(seed)

    def work(say):
        for _ in range(1000):
            with Journal(tmp_path) as journal:
                for position, task in enumerate(tasks):
                    journal.append(task, programs(task), judged_by="limits")
                    say(str(position))

    written = killed_after(delay.uniform(0.02, 0.3), work)
    found = read(tmp_path, tasks)
    assert found.keys() >= {int(line) for line in written}
    assert all(found[position] == tuple(programs(tasks[position])) for position in found)
    # The next run removes parts of files, and reads the same.
    fill(tmp_path, tasks)
    assert left_behind(tmp_path) == []
    assert read(tmp_path, tasks).keys() == set(range(len(tasks)))


def test_a_full_disk_keeps_what_was_judged_and_says_so(tmp_path, tasks):
    with full_disk(tmp_path / "disk", kilobytes=256) as disk:
        journal = Journal(disk / "journal")
        journal.append(tasks[0], programs(tasks[0]), judged_by="limits")
        large = judged(tasks[1], 1, completion="x" * 2**20)
        with pytest.raises(OSError, match=r"No space left on device: make room on the disk.*\.arrows") as caught:
            journal.append(tasks[1], [large], judged_by="limits")
        assert caught.value.filename.startswith(str(disk))
        # A smaller program still fits, and is not hidden behind half of the large one.
        journal.append(tasks[2], programs(tasks[2]), judged_by="limits")
        journal.close()
        assert read(disk / "journal", tasks) == {0: tuple(programs(tasks[0])), 2: tuple(programs(tasks[2]))}
        assert left_behind(disk) == []


def test_a_file_that_may_not_grow_keeps_whole_programs(tmp_path, tasks, caplog):
    journal = Journal(tmp_path)
    journal.append(tasks[0], programs(tasks[0]), judged_by="limits")
    with largest_file(20_000), pytest.raises(OSError, match="raise the limit on the size of files"):
        journal.append(tasks[1], [judged(tasks[1], 1, completion="x" * 2**20)], judged_by="limits")
    # The half that was written is gone: nothing in the file is torn.
    with caplog.at_level(logging.WARNING):
        assert read(tmp_path, tasks) == {0: tuple(programs(tasks[0]))}
    assert caplog.text == ""


def test_without_room_for_parquet_a_stream_stays(tmp_path, tasks, caplog, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    journal = Journal(tmp_path)
    journal.append(tasks[0], programs(tasks[0]), judged_by="limits")
    with largest_file(100):
        journal.close()
    assert "stays an Arrow stream" in caplog.text
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrows"]
    assert read(tmp_path, tasks) == {0: tuple(programs(tasks[0]))}


def test_a_stream_damaged_before_it_is_finished_is_kept(tmp_path, tasks, caplog):
    journal = Journal(tmp_path)
    for task in tasks[:2]:
        journal.append(task, programs(task), judged_by="limits")
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:-100])
    journal.close()
    assert "6 programs were written, and 5 can be read" in caplog.text
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrows"]


def test_a_read_only_folder_is_named_with_the_remedy(tmp_path, tasks):
    with (
        read_only(tmp_path / "disk") as folder,
        pytest.raises(OSError, match=r"choose a folder that can be written to: '.*disk"),
    ):
        fill(folder / "journal", tasks)


def test_without_memory_a_program_is_lost_and_no_more(tmp_path, tasks, monkeypatch):
    journal = Journal(tmp_path)
    journal.append(tasks[0], programs(tasks[0]), judged_by="limits")
    with monkeypatch.context() as patched:
        patched.setattr("trl_pper.rounds.journal._checksum", lambda row: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            journal.append(tasks[1], programs(tasks[1]), judged_by="limits")
    journal.append(tasks[2], programs(tasks[2]), judged_by="limits")
    journal.close()
    assert read(tmp_path, tasks).keys() == {0, 2}


def test_a_damaged_program_costs_its_own_task_alone(tmp_path, tasks, caplog):
    fill_and_die(tmp_path, tasks)
    (shard,) = tmp_path.iterdir()
    whole = shard.read_bytes()
    assert b"add-3" in whole
    shard.write_bytes(whole.replace(b"add-3", b"add-4"))
    assert read(tmp_path, tasks).keys() == {0, 1, 3}
    assert "9 whole programs were read (the checksum of program 6 does not match)" in caplog.text


def test_streams_in_one_file_are_all_read(tmp_path, tasks):
    fill_and_die(tmp_path / "one", tasks[:2])
    fill_and_die(tmp_path / "other", tasks[2:])
    first, second = (next((tmp_path / name).iterdir()) for name in ("one", "other"))
    # Streams that ended; a killed one has no end.
    end = b"\xff\xff\xff\xff\x00\x00\x00\x00"
    first.write_bytes(first.read_bytes() + end + second.read_bytes() + end)
    assert read(tmp_path / "one", tasks).keys() == {0, 1, 2, 3}


@pytest.mark.parametrize("damage", ["cut", "page", "column", "value", "type", "folder", "link"])
def test_a_damaged_finished_shard_is_warned_about(tmp_path, tasks, damage, caplog):
    fill(tmp_path, tasks[:2])
    fill(tmp_path, tasks[2:])
    second = max(tmp_path.iterdir())
    data = second.read_bytes()
    if damage == "cut":
        second.write_bytes(data[: len(data) // 2])
    elif damage == "page":
        second.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    elif damage in ("column", "value", "type"):
        table = pq.read_table(second)
        if damage == "column":
            table = table.drop_columns(["logprob"])
        else:
            column = ["else"] * len(table) if damage == "value" else [b"else"] * len(table)
            table = table.set_column(table.column_names.index("program"), "program", pa.array(column))
        pq.write_table(table, second)
    else:
        second.unlink()
        second.mkdir() if damage == "folder" else second.symlink_to(second)
    assert read(tmp_path, tasks).keys() == {0, 1}
    assert f"{second}: " in caplog.text
    assert "missing programs are generated again" in caplog.text
    # The journal goes on beside it.
    fill(tmp_path, tasks[2:])
    assert read(tmp_path, tasks).keys() == {0, 1, 2, 3}


def test_journals_without_checksums_and_foreign_files_are_read(tmp_path, tasks, caplog):
    fill(tmp_path, tasks)
    (shard,) = tmp_path.iterdir()
    pq.write_table(pq.read_table(shard).drop_columns(["crc32", "run", "scorer"]), shard)
    (tmp_path / "notes.parquet").write_text("notes")
    (tmp_path / "000007-00000.arrows.bak").write_text("a copy")
    assert read(tmp_path, tasks).keys() == {0, 1, 2, 3}
    assert caplog.text == ""


def test_a_clock_that_jumps_changes_nothing(judge, tasks, rows, tmp_path, monkeypatch):  # noqa: F811
    calm = collector(Counting(rows), judge, tasks, None)
    calm.collect()
    jump_clock(monkeypatch)
    with pytest.raises(ConnectionError):
        collector(Counting(rows, fails_after=3), judge, tasks, tmp_path).collect()
    resumed = collector(Counting(rows), judge, tasks, tmp_path)
    assert resumed.collect().restored == 6
    assert resumed.collection.buffer.digest() == calm.collection.buffer.digest()


def test_a_collection_on_a_full_disk_goes_on_elsewhere(judge, tasks, rows, tmp_path):  # noqa: F811
    calm = collector(Counting(rows), judge, tasks, None)
    calm.collect()
    first = collector(Counting(rows), judge, tasks, tmp_path)
    with largest_file(4_000), pytest.raises(OSError, match="raise the limit on the size of files"):
        first.collect()
    resumed = collector(Counting(rows), judge, tasks, tmp_path)
    report = resumed.collect()
    assert report.restored == len(first.collection.buffer)
    assert resumed.collection.buffer.digest() == calm.collection.buffer.digest()
    assert left_behind(tmp_path) == []
