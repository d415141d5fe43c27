"""The journal: what was judged is on the disk, whatever happens next."""

import dataclasses
import logging
import os
import signal

import pyarrow.parquet as pq
import pytest

from trl_pper.generation.source import GeneratedProgram
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.rounds import journal as journal_module
from trl_pper.rounds.journal import Journal, JudgedProgram, digest, judging_identity, task_identity
from trl_pper.tasks.task import CodingTask, FunctionTests, StdioCase, StdioTests
from trl_pper.tasks.task import tests_to_json as to_json

OUTCOMES = [
    (Outcome.PASSED, Outcome.PASSED),
    (Outcome.PASSED, Outcome.WRONG_ANSWER),
    (Outcome.SANDBOX_ERROR, Outcome.SANDBOX_ERROR),
]


def judged(task, number, outcomes=OUTCOMES[0], **generated) -> JudgedProgram:
    fields = {"completion": f"    return {number}\n", "logprob": -0.1 * number - 1 / 3, "num_tokens": 4, "source": "m"}
    return JudgedProgram(
        task=task,
        generated=GeneratedProgram(**{**fields, **generated}),
        program=f"def f(x):\n    return {number}\n",
        verdict=Verdict(outcomes=outcomes, message=f"message {number}", cpu_seconds=number / 7),
    )


def programs(task) -> list[JudgedProgram]:
    return [judged(task, number, outcomes) for number, outcomes in enumerate(OUTCOMES)]


def fill(folder, tasks) -> None:
    with Journal(folder) as journal:
        for task in tasks:
            journal.append(task, programs(task), judged_by="limits")


def fill_and_die(folder, tasks) -> None:
    """Write as a process that is killed before it finishes its shard."""
    pid = os.fork()
    if pid == 0:
        journal = Journal(folder)
        for task in tasks:
            journal.append(task, programs(task), judged_by="limits")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(("write", "suffix"), [(fill, ".parquet"), (fill_and_die, ".arrows")])
def test_everything_comes_back_the_unjudged_programs_too(tmp_path, tasks, write, suffix):
    write(tmp_path, tasks)
    assert [path.suffix for path in tmp_path.iterdir()] == [suffix]
    entries = Journal(tmp_path).read(tasks)
    assert {position: entry.programs for position, entry in entries.items()} == {
        position: tuple(programs(task)) for position, task in enumerate(tasks)
    }
    assert all(entry.judged_by == ("limits",) * 3 for entry in entries.values())


def test_a_task_read_whole_comes_once_with_its_last_verdicts(tmp_path, tasks):
    fill(tmp_path, tasks[:3])
    again = [dataclasses.replace(one, verdict=Verdict(outcomes=OUTCOMES[0])) for one in programs(tasks[0])]
    with Journal(tmp_path) as journal:
        journal.append(tasks[0], again, judged_by="other limits")
    entries = list(Journal(tmp_path).entries(tasks))
    assert [position for position, _ in entries] == [1, 2, 0]
    assert entries[-1][1].programs == tuple(again)
    assert entries[-1][1].judged_by == ("other limits",) * 3
    # A task twice among those asked for is there twice.
    assert sorted(position for position, _ in Journal(tmp_path).entries([tasks[1], tasks[1]])) == [0, 1]


@pytest.mark.parametrize("finished", [True, False])
def test_more_programs_than_are_read_at_once_come_back_in_order(tmp_path, tasks, monkeypatch, finished):
    monkeypatch.setattr(journal_module, "_ROWS_AT_ONCE", 4)
    many = [judged(tasks[0], number) for number in range(9)]
    journal = Journal(tmp_path)
    for task in tasks[:2]:
        journal.append(task, many, judged_by="limits")
    if finished:
        journal.close()
        (shard,) = tmp_path.iterdir()
        assert pq.ParquetFile(shard).num_row_groups == 5
    assert {position: len(entry.programs) for position, entry in journal.entries(tasks)} == {0: 9, 1: 9}
    assert journal.read(tasks[:1])[0].programs == tuple(many)
    journal.close()


def test_nothing_written_is_nothing_read(tmp_path, tasks):
    with Journal(tmp_path / "none") as journal:
        assert journal.read(tasks) == {}
        journal.append(tasks[0], [], judged_by="limits")
    assert not (tmp_path / "none").exists()


def test_unknown_logprobs_chat_prompts_and_any_text_survive(tmp_path, tasks):
    chat = CodingTask(task_id="chat", prompt=[{"role": "user", "content": "é\u2028 \x00"}], tests=tasks[0].tests)
    one = judged(chat, 0, completion="\x00\n\u2029'\"", logprob=None, num_tokens=None)
    journal = Journal(tmp_path)
    journal.append(chat, [one], judged_by=None)
    for _ in range(2):
        (entry,) = journal.read([chat]).values()
        assert entry.programs == (one,)
        assert entry.judged_by == (None,)
        journal.close()


def test_tasks_are_known_by_id_and_prompt_not_by_tests_or_place(tmp_path, tasks):
    fill(tmp_path, tasks)
    moved = [tasks[2], tasks[0]]
    assert set(Journal(tmp_path).read(moved)) == {0, 1}
    first = tasks[0]
    other_tests = CodingTask(task_id=first.task_id, prompt=first.prompt, tests=FunctionTests(code="assert f(1) == 9"))
    other_prompt = CodingTask(task_id=first.task_id, prompt="# else\n", tests=first.tests)
    assert set(Journal(tmp_path).read([other_tests, other_prompt])) == {0}
    assert task_identity(first) == task_identity(other_tests) != task_identity(other_prompt)


@pytest.mark.parametrize("cut", [1, 8, 200, 1100])
def test_a_torn_shard_costs_the_last_program_alone_and_says_so(tmp_path, tasks, cut, caplog):
    fill_and_die(tmp_path, tasks)
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:-cut])
    with caplog.at_level(logging.WARNING):
        entries = Journal(tmp_path).read(tasks)
    # Eleven of twelve programs are there; the last task lacks one and is written anew as a whole.
    assert "torn after 11 programs" in caplog.text
    assert set(entries) == {0, 1, 2}
    with Journal(tmp_path) as journal:
        journal.append(tasks[3], programs(tasks[3]), judged_by="limits")
    assert set(Journal(tmp_path).read(tasks)) == {0, 1, 2, 3}


def test_a_shard_whose_end_was_never_written_ends_there(tmp_path, tasks, caplog):
    fill_and_die(tmp_path, tasks)
    (shard,) = tmp_path.iterdir()
    whole = shard.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.rindex(b"return 2")] ^= 1
    shard.write_bytes(bytes(flipped))
    assert set(Journal(tmp_path).read(tasks)) == {0, 1, 2}
    assert "the checksum of program 11 does not match" in caplog.text
    shard.write_bytes(b"")
    assert Journal(tmp_path).read(tasks) == {}


def test_a_file_torn_anywhere_gives_whole_tasks_or_none(tmp_path, tasks):
    fill_and_die(tmp_path, tasks[:1])
    (shard,) = tmp_path.iterdir()
    whole = shard.read_bytes()
    for length in range(0, len(whole), 37):
        shard.write_bytes(whole[:length])
        assert Journal(tmp_path).read(tasks) == {}
    shard.write_bytes(whole)
    assert set(Journal(tmp_path).read(tasks)) == {0}


def test_processes_write_shards_of_their_own_and_read_all(tmp_path, tasks):
    first, second = Journal(tmp_path, process_index=0), Journal(tmp_path, process_index=1)
    first.append(tasks[0], programs(tasks[0]), judged_by="limits")
    second.append(tasks[1], programs(tasks[1]), judged_by="limits")
    first.append(tasks[2], programs(tasks[2]), judged_by="limits")
    assert len(list(tmp_path.iterdir())) == 2
    assert set(second.read(tasks)) == {0, 1, 2}
    first.close()
    assert set(second.read(tasks)) == {0, 1, 2}
    second.close()


def test_a_later_verdict_replaces_an_earlier_one(tmp_path, tasks):
    fill(tmp_path, tasks[:1])
    again = [judged(tasks[0], number, OUTCOMES[1]) for number in range(3)]
    with Journal(tmp_path) as journal:
        journal.append(tasks[0], again, judged_by="other limits")
    (entry,) = Journal(tmp_path).read(tasks).values()
    assert entry.programs == tuple(again)
    assert entry.judged_by == ("other limits",) * 3


def test_verdicts_compare_only_under_equal_tests_and_limits(tasks):
    limits = Limits()
    assert judging_identity(tasks[0], limits) == judging_identity(tasks[0], Limits())
    assert judging_identity(tasks[0], limits) != judging_identity(tasks[1], limits)
    assert judging_identity(tasks[0], limits) != judging_identity(tasks[0], Limits(cpu_seconds=1.0))
    own = dataclasses.replace(tasks[0], cpu_seconds=1.0)
    assert judging_identity(own, limits) == judging_identity(tasks[0], Limits(cpu_seconds=1.0))
    by_function = CodingTask(
        task_id="io",
        prompt="p",
        tests=StdioTests(cases=(StdioCase(input="", output=""),), compare=lambda got, expected: True),
    )
    assert judging_identity(by_function, limits) is None


def test_identities_older_than_stops_and_preambles_stay_the_same():
    task = CodingTask(task_id="a", prompt="p", tests=FunctionTests(code="assert f(1) == 2"))
    assert task_identity(task) == digest(["a", "p"])
    limits = Limits()
    assert judging_identity(task, limits) == digest([to_json(task.tests), limits.to_dict()])


def test_models_see_stops_and_the_judge_sees_preambles(tasks):
    task, limits = tasks[0], Limits()
    stopped, helped = dataclasses.replace(task, stop=("\ndef ",)), dataclasses.replace(task, preamble="import math")
    assert len({task_identity(one) for one in (task, stopped, dataclasses.replace(task, stop=("\n#",)))}) == 3
    assert judging_identity(stopped, limits) == judging_identity(task, limits)
    assert task_identity(helped) == task_identity(task)
    other = dataclasses.replace(task, preamble="import cmath")
    assert len({judging_identity(one, limits) for one in (task, helped, other)}) == 3


def test_no_program_comes_back_and_old_journals_are_read_anew(tmp_path, tasks, monkeypatch):
    task = tasks[0]
    missing = dataclasses.replace(judged(task, 0, completion="I cannot."), extracted=False)
    # Not what looking anew would say, to tell the two apart.
    strange = dataclasses.replace(judged(task, 1, completion="I cannot."), extracted=True)
    with Journal(tmp_path / "new") as journal:
        journal.append(task, [missing, strange], judged_by="limits")
    (entry,) = Journal(tmp_path / "new").read([task]).values()
    assert [one.extracted for one in entry.programs] == [False, True]
    older = {name: kind for name, kind in journal_module.COLUMNS.items() if name != "extracted"}
    monkeypatch.setattr(journal_module, "COLUMNS", older)
    with Journal(tmp_path / "old") as journal:
        journal.append(task, [strange, judged(task, 2)], judged_by="limits")
    monkeypatch.undo()
    (path,) = (tmp_path / "old").iterdir()
    assert "extracted" not in pq.read_schema(path).names
    (entry,) = Journal(tmp_path / "old").read([task]).values()
    assert [one.extracted for one in entry.programs] == [False, True]
