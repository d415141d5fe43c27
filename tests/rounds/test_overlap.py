"""Generating and judging at the same time, and judging again without generating."""

import concurrent.futures
import logging
import threading
import time
from dataclasses import replace

import pytest

from tests.support.broken_judge import BrokenJudge
from trl_pper import DatasetSource, Experience, FunctionTests, Judge, Limits, ReplayBuffer
from trl_pper.generation.source import GeneratedProgram
from trl_pper.judge.verdict import Outcome
from trl_pper.rounds.overlap import PhaseSeconds, judge_programs
from trl_pper.rounds.revise import rejudge


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=2, limits=Limits(cpu_seconds=1.0)) as judge:
        yield judge


def source_of(tasks, bodies) -> DatasetSource:
    return DatasetSource([{"task_id": task.task_id, "completions": list(bodies)} for task in tasks])


class SlowSource:
    """Takes its time for each task, and notes when it was done with it."""

    def __init__(self, seconds: float, body: str = "    return 0\n", fails_at: int | None = None) -> None:
        self.seconds, self.body, self.fails_at = seconds, body, fails_at
        self.done: list[float] = []

    def generate(self, tasks, *, student=None):
        for number, _ in enumerate(tasks):
            if number == self.fails_at:
                raise ConnectionError("the server is gone")
            time.sleep(self.seconds)
            self.done.append(time.monotonic())
            yield [GeneratedProgram(completion=self.body, logprob=None, num_tokens=None, source="slow")]


def judged_by_task(tasks, source, judge, **options):
    """What `judge_programs` hands on, by the position of the task."""
    found = {}
    judge_programs(tasks, source, judge, found.__setitem__, **options)
    return found


def test_programs_come_back_by_task_and_in_order(judge, tasks):
    rows = [{"task_id": task.task_id, "completions": ["    return 0\n"] * n} for n, task in enumerate(tasks)]
    judged = [*judged_by_task(tasks, DatasetSource(rows), judge).values()]
    assert [len(programs) for programs in judged] == [0, 1, 2, 3]
    assert [{one.task.task_id for one in programs} for programs in judged[1:]] == [{t.task_id} for t in tasks[1:]]


def test_tasks_are_handed_on_in_order(judge, tasks):
    rows = [{"task_id": task.task_id, "completions": ["    return 0\n"] * n} for n, task in enumerate(tasks)]
    seen = []
    judge_programs(tasks, DatasetSource(rows), judge, lambda place, ones: seen.append((place, ones)))
    assert [(place, [one.task.task_id for one in ones]) for place, ones in seen] == [
        (n, [task.task_id] * n) for n, task in enumerate(tasks)
    ]


def test_no_task_is_no_work(judge):
    assert judged_by_task([], DatasetSource([]), judge) == {}


def test_programs_nobody_asked_for_are_generated_and_dropped(judge, tasks):
    judged = judged_by_task(tasks, source_of(tasks, ["    return x\n"] * 2), judge, wanted={1, 3})
    assert {place: len(programs) for place, programs in judged.items()} == {1: 2, 3: 2}


class PatientSource(SlowSource):
    """Writes for the next task only once the one before was handed on; a machine, however busy, gets there in time."""

    def __init__(self, handed_on: list[int], body: str = "    return 0\n") -> None:
        super().__init__(0.0, body)
        self.handed_on = handed_on

    def generate(self, tasks, *, student=None):
        for number, programs in enumerate(super().generate(tasks)):
            deadline = time.monotonic() + 60
            while len(self.handed_on) < number and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(self.handed_on) == number
            yield programs


def test_each_task_is_handed_on_before_the_next_is_generated(judge, tasks):
    handed_on = []
    judge_programs(tasks, PatientSource(handed_on), judge, lambda place, _: handed_on.append(place))
    assert handed_on == [0, 1, 2, 3]


def test_the_times_of_both_phases_overlap(judge, tasks):
    handed_on, seconds = [], PhaseSeconds()
    burn = "    import time\n    end = time.process_time() + 0.1\n    while time.process_time() < end: pass\n"
    started = time.perf_counter()
    judge_programs(
        tasks, PatientSource(handed_on, burn), judge, lambda place, _: handed_on.append(place), seconds=seconds
    )
    wall = time.perf_counter() - started
    # Three tests a task, each of 0.1 s of CPU time; all but those of the last task run while the source waits.
    assert seconds.judge >= 1.2
    assert seconds.generate >= 0.9
    assert wall < seconds.generate + seconds.judge


def test_what_a_failing_source_wrote_before_is_judged_first(judge, tasks):
    handed_on = []
    with pytest.raises(ConnectionError, match="the server is gone"):
        judge_programs(tasks, SlowSource(0.0, fails_at=3), judge, lambda place, _: handed_on.append(place))
    assert handed_on == [0, 1, 2]


def test_an_error_while_handing_on_the_last_task_is_not_lost(judge, tasks):
    def full_disk(place, judged):
        if place == len(tasks) - 1:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        judge_programs(tasks, SlowSource(0.0), judge, full_disk)


def assert_threads_end(before: int) -> None:
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_an_error_while_handing_on_ends_the_generation(judge, tasks):
    def full_disk(place, judged):
        raise OSError("no space left")

    source = SlowSource(0.3)
    before = threading.active_count()
    with pytest.raises(OSError, match="no space left"):
        judge_programs(tasks * 5, source, judge, full_disk)
    assert len(source.done) < 10
    assert_threads_end(before)


def test_an_interrupt_breaks_off_and_hands_on_all(tasks):
    class Interrupted(SlowSource):
        def generate(self, tasks, *, student=None):
            yield from super().generate(tasks[:3])
            time.sleep(1)
            raise KeyboardInterrupt

    found, before = {}, threading.active_count()
    endless = [replace(task, cpu_seconds=3600.0) for task in tasks]
    with Judge(workers=2) as judge:
        with pytest.raises(KeyboardInterrupt):
            judge_programs(endless, Interrupted(0.0, "    while True: pass\n"), judge, found.__setitem__)
        assert judge.processes() == []
        # It goes on as if nothing had been.
        assert judge.run([(tasks[0], ["def f(x): return x + 1"])])[0][0].accepted
    assert {place: [one.verdict.pass_rate for one in ones] for place, ones in found.items()} == {
        0: [None], 1: [None], 2: [None],
    }  # fmt: skip
    assert_threads_end(before)


@pytest.mark.slow
def test_a_slow_task_does_not_keep_the_other_workers_idle(judge, tasks):
    endless = "def f(x):\n    while True: pass\n"
    busy = (
        "def f(x):\n    import time\n    end = time.process_time() + 0.03\n"
        "    while time.process_time() < end: pass\n    return x\n"
    )
    ended = []
    jobs = [(tasks[0], endless), *[(task, busy + f"# {n}") for n in range(4) for task in tasks]]
    futures = [judge.submit(task, [program]) for task, program in jobs]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: ended.append(number))
    concurrent.futures.wait(futures)
    # Sixteen tasks of 0.09 s of CPU time, while the first one runs into its limit of 1 s for each of three tests.
    assert (len(ended), ended[-1]) == (17, 0)


def test_a_buffer_is_judged_again_by_other_tests(judge, tasks):
    buffer = ReplayBuffer(capacity=9, possibility_weight=0.25, priority="rank")
    programs = ["def f(x): return x + 1", "def f(x): return 1", "def f(x): return 7"]
    buffer.add(
        Experience(
            task_id="add-1", prompt="p", completion=text, program=text, pass_rate=0.5, logprob=-2.0, num_tokens=4
        )
        for text in programs
    )
    stricter = replace(tasks[0], tests=FunctionTests(code="assert f(0) == 1\nassert f(5) == 6"))
    again = rejudge(buffer, [tasks[1], stricter], judge)
    assert again.pass_rates().tolist() == [1.0, 0.5, 0.0]
    assert again[1].outcomes == (Outcome.PASSED, Outcome.WRONG_ANSWER)
    assert again.settings() == buffer.settings()
    assert [one.logprob for one in again] == [-2.0] * 3
    assert all(one.cpu_seconds > 0 for one in again)
    assert buffer.pass_rates().tolist() == [0.5] * 3
    assert len(rejudge(ReplayBuffer(), [], judge)) == 0


def test_judging_again_names_missing_tasks_and_skips_unjudgeable(judge, tasks, caplog):
    buffer = ReplayBuffer()
    buffer.add(
        Experience(task_id=task.task_id, prompt="p", completion="c", program="def f(x): return 0", pass_rate=0.0)
        for task in tasks[:2]
    )
    with pytest.raises(
        ValueError, match=r"tasks: must hold every task of the buffer; 1 are missing, the first 'add-2'"
    ):
        rejudge(buffer, tasks[:1], judge)

    with caplog.at_level(logging.WARNING), BrokenJudge(breaks=lambda task: task.task_id == "add-2") as broken:
        again = rejudge(buffer, tasks, broken)
    assert [(one.task_id, one.pass_rate) for one in again] == [("add-1", 1.0)]
    assert "1 of 2 programs could not be judged" in caplog.text
