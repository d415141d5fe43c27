"""Who generates for which tasks, and what a journal saves: nothing is generated twice, nothing judged by old rules."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.broken_judge import BrokenJudge
from trl_pper import (  # fmt: skip
    BeamSampleCollector,
    CodingTask,
    DatasetSource,
    FunctionTests,
    Judge,
    Limits,
    ReplayBuffer,
    ServerSource,
)
from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import tokenizer_fingerprint, weights_fingerprint
from trl_pper.generation.source import as_source
from trl_pper.judge.verdict import Outcome
from trl_pper.rounds.display import CollectionProgress
from trl_pper.rounds.share import keeps_step, own_batches


class Counting(DatasetSource):
    """A data set of programs that notes for which tasks it was asked; fails after some when told to."""

    def __init__(self, rows, fails_after: int | None = None) -> None:
        super().__init__(rows, name="teacher")
        self.fails_after = fails_after
        self.asked: list[str] = []

    def generate(self, tasks, *, student=None):
        for task, programs in zip(tasks, super().generate(tasks), strict=True):
            if len(self.asked) == self.fails_after:
                raise ConnectionError("the server is gone")
            self.asked.append(task.task_id)
            yield programs


@pytest.fixture
def rows(tasks):
    return [
        {"task_id": task.task_id, "completions": [f"    return x + {n}\n", "    return 0\n"]}
        for n, task in enumerate(tasks, start=1)
    ]


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def collector(source, judge, tasks, folder) -> BeamSampleCollector:
    made = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=folder)
    made.attach(ReplayBuffer())
    return made


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5))
def test_tasks_fall_to_one_process_each_in_batches_of_any_number(tasks, size, processes):
    shares = [own_batches(tasks, size, process_index=i, num_processes=processes) for i in range(processes)]
    batches = sorted(batch for share in shares for batch in share)
    assert batches == own_batches(tasks, size, process_index=0, num_processes=1)
    assert [position for batch in batches for position in batch] == list(range(tasks))
    assert all(len(batch) == size for batch in batches[:-1])
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_keep_step_only_where_a_sharded_student_writes(make_model, tokenizer, rows):
    class Custom:
        def generate(self, tasks, *, student=None):
            yield from ()

    class Sharded(LocalModel):
        is_sharded = True

    whole, sharded = (kind(model=make_model(), processing_class=tokenizer) for kind in (LocalModel, Sharded))
    own = BeamSearchSource(make_model(), tokenizer)
    server = ServerSource("http://localhost:1/v1", model="teacher")
    for source in (BeamSearchSource(), as_source(Custom())):
        assert [keeps_step(source, student) for student in (None, whole, sharded)] == [False, False, True]
    for source in (own, server, DatasetSource(rows)):
        assert not keeps_step(source, sharded)


@pytest.mark.parametrize(("index", "total"), [(0, 8), (1, 1)])
def test_the_display_counts_the_tasks_of_its_own_process(judge, tasks, rows, monkeypatch, index, total):
    totals = []

    class Noted(CollectionProgress):
        def __init__(self, total, **options):
            totals.append(total)
            super().__init__(total, **options)

    nine = [replace(tasks[0], task_id=f"t{number}") for number in range(9)]
    source = Counting([{"task_id": task.task_id, "completion": "    return 0\n"} for task in nine])
    source.batch_size = 8
    state = SimpleNamespace(process_index=index, num_processes=2, is_main_process=index == 0)
    monkeypatch.setattr("trl_pper.rounds.share.PartialState", lambda: state)
    monkeypatch.setattr("trl_pper.rounds.collector.CollectionProgress", Noted)
    collector(source, judge, nine, None).collect()
    assert totals == [total] == [len(source.asked)]


def test_a_collection_that_failed_goes_on_where_it_was(judge, tasks, rows, tmp_path):
    first = collector(Counting(rows, fails_after=3), judge, tasks, tmp_path)
    with pytest.raises(ConnectionError):
        first.collect()
    assert len(first.collection.buffer) == 6
    second = collector(Counting(rows), judge, tasks, tmp_path)
    report = second.collect()
    assert second.source.asked == [tasks[3].task_id]
    assert (report.programs, report.judged, report.restored, report.added) == (8, 8, 6, 8)
    whole = collector(Counting(rows), judge, tasks, None)
    assert whole.collect().restored == 0
    assert whole.collection.buffer.digest() == second.collection.buffer.digest()


def test_a_finished_round_is_not_generated_again_but_the_next_is(judge, tasks, rows, tmp_path):
    collector(Counting(rows), judge, tasks, tmp_path).collect(0)
    again = collector(Counting(rows), judge, tasks, tmp_path)
    assert again.collect(0).restored == 8
    assert again.source.asked == []
    assert again.collect(1).restored == 0
    assert again.source.asked == [task.task_id for task in tasks]


def test_a_source_that_would_write_something_else_begins_anew(judge, tasks, rows, tmp_path):
    collector(Counting(rows), judge, tasks, tmp_path).collect()
    other = collector(Counting([*rows, {"task_id": "add-1", "completion": "    return 5\n"}]), judge, tasks, tmp_path)
    assert other.collect().restored == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_a_source_without_identity_begins_anew_each_time(judge, tasks, rows, tmp_path):
    class Anonymous:
        def generate(self, tasks, *, student=None):
            yield from DatasetSource(rows).generate(tasks)

    for _ in range(2):
        assert collector(Anonymous(), judge, tasks, tmp_path).collect().restored == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_other_tests_are_judged_by_and_nothing_is_generated(judge, tasks, rows, tmp_path):
    collector(Counting(rows), judge, tasks, tmp_path).collect()
    tests = FunctionTests(entry_point="f", code="assert f(0) == 0")
    stricter = [CodingTask(task_id=task.task_id, prompt=task.prompt, tests=tests) for task in tasks]
    again = collector(Counting(rows), judge, stricter, tmp_path)
    assert again.collect().pass_rate == 0.5
    assert again.source.asked == []
    assert again.collection.buffer.pass_rates().tolist() == [0.0, 1.0] * 4
    # And back: the newest verdicts in the journal are by the other tests now.
    assert collector(Counting(rows), judge, tasks, tmp_path).collect().solved == 1.0


@pytest.mark.slow
def test_other_limits_judge_anew(tasks, rows, tmp_path):
    rows = [{"task_id": "add-1", "completion": "    y = list(range(10_000_000))\n    return x + 1\n"}]
    with Judge(workers=1, limits=Limits(memory_bytes=2**27)) as small, Judge(workers=1) as large:
        narrow = collector(Counting(rows), small, tasks[:1], tmp_path)
        narrow.collect()
        assert set(narrow.collection.buffer[0].outcomes) == {Outcome.MEMORY_LIMIT}
        wide = collector(Counting(rows), large, tasks[:1], tmp_path)
        wide.collect()
    assert wide.source.asked == []
    assert wide.collection.buffer.pass_rates().tolist() == [1.0]


def test_programs_the_sandbox_failed_on_are_judged_later(judge, tasks, rows, tmp_path):
    with BrokenJudge() as broken:
        report = collector(Counting(rows), broken, tasks, tmp_path).collect()
    assert (report.programs, report.judged, report.unjudged, report.added) == (8, 0, 8, 0)
    again = collector(Counting(rows), judge, tasks, tmp_path)
    assert again.collect().added == 8
    assert again.source.asked == []


def test_beams_of_other_weights_are_other_beams(make_model, tokenizer):
    def identity(model, **settings):
        return BeamSearchSource(model, tokenizer, **settings).identity()

    base = identity(make_model())
    assert identity(make_model()) == base
    assert identity(make_model(seed=1)) != base
    assert identity(make_model(), num_beams=5) != base
    assert identity(make_model(), max_completion_length=9) != base
    ending_elsewhere = make_model()
    ending_elsewhere.generation_config.eos_token_id = [0, 5]
    assert identity(ending_elsewhere) != base
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = "{{ messages }}"
    assert BeamSearchSource(make_model(), templated).identity() != base


def test_a_fingerprint_sees_every_single_value(make_model):
    import torch

    model = make_model()
    seen = {weights_fingerprint(model)}
    assert weights_fingerprint(make_model()) in seen
    with torch.no_grad():
        for parameter in model.parameters():
            flat = parameter.view(-1)
            for index in (0, flat.numel() - 1):
                flat[index] = torch.nextafter(flat[index], torch.tensor(9.0))
                seen.add(weights_fingerprint(model))
        rows = model.transformer.wte.weight
        rows[[0, 1]] = rows[[1, 0]]
        seen.add(weights_fingerprint(model))
    # Each change gave a new one; output and input embedding are one parameter.
    assert len(seen) == 1 + 2 * len(list(model.parameters())) + 1
    assert weights_fingerprint(model.to(torch.bfloat16)) not in seen


def test_a_tokenizer_is_known_by_its_tokens_not_by_its_padding(tokenizer):
    before = tokenizer_fingerprint(tokenizer)
    used = copy.deepcopy(tokenizer)
    used(["a", "bcd"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(used) == before
    used.add_tokens(["<more>"])
    assert tokenizer_fingerprint(used) != before
