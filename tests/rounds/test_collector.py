"""What the collector does with programs before they are experiences, and with what a trainer may be handed."""

import logging
import weakref
from dataclasses import replace

import pytest

from trl_pper import BeamSampleCollector, CodingTask, DatasetSource, Judge, ReplayBuffer, StdioTests
from trl_pper.generation.local_model import LocalModel
from trl_pper.rounds.evaluation import evaluate_tasks, tally
from trl_pper.rounds.journal import Journal
from trl_pper.rounds.overlap import judge_programs
from trl_pper.tasks.task import StdioCase
from trl_pper.training.dataset import as_dataset


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def collector(source, judge, tasks, find_student=None) -> BeamSampleCollector:
    made = BeamSampleCollector(source=source, judge=judge, tasks=tasks)
    made.attach(ReplayBuffer(), find_student=find_student)
    return made


def test_programs_come_back_by_task_and_in_order(judge, tasks):
    rows = [{"task_id": task.task_id, "completions": ["    return 0\n"] * n} for n, task in enumerate(tasks)]
    judged = []
    judge_programs(tasks, DatasetSource(rows), judge, lambda _, programs: judged.append(programs))
    assert [len(programs) for programs in judged] == [0, 1, 2, 3]
    assert [{one.task.task_id for one in programs} for programs in judged[1:]] == [{t.task_id} for t in tasks[1:]]


def test_a_repeated_program_is_stored_once(judge, tasks):
    rows = [{"task_id": "add-1", "completions": ["    return x + 1\n", "    return x + 1\n", "    return x\n"]}]
    made = collector(DatasetSource(rows), judge, tasks)
    report = made.collect()
    assert (report.programs, report.added, report.duplicates, report.unjudged) == (3, 2, 1, 0)
    assert report.solved == 0.25
    assert all(one.cpu_seconds > 0 for one in made.collection.buffer)
    assert made.collect(1).duplicates == 3
    assert made.next_round == 2


def test_completions_without_a_program_are_counted(judge, tasks, caplog):
    rows = [
        {"task_id": "add-1", "completion": "    return x + 1\n"},
        {"task_id": "add-2", "completions": ["I cannot.", "    return x + 2\n", "    return ("]},
        {"task_id": "add-3", "completion": "    pass\n"},
    ]
    made = collector(DatasetSource(rows), judge, tasks)
    with caplog.at_level(logging.WARNING):
        report = made.collect()
    # They are judged and stored like any other program: they fail.
    assert (report.programs, report.judged, report.unextracted, report.added) == (5, 5, 3, 5)
    assert report.metrics()["pper/unextracted"] == 3.0
    assert "no program was found in 3 completions, the first for task 'add-2'" in caplog.text
    caplog.clear()
    made = collector(DatasetSource(rows[:1]), judge, tasks)
    assert made.collect().unextracted == 0
    assert "no program was found" not in caplog.text


def test_half_a_surrogate_pair_is_replaced_rather_than_lost(judge, tasks, make_model, tokenizer):
    source = DatasetSource([{"task_id": "add-1", "completion": "    return '\ud800'\n"}])
    # Scoring comes before storing, and no tokenizer takes the half.
    made = collector(source, judge, tasks, lambda: LocalModel(model=make_model().eval(), processing_class=tokenizer))
    assert made.collect().added == 1
    assert made.collection.buffer[0].completion == "    return '?'\n"
    assert made.collection.buffer[0].logprob < 0


def test_a_collector_on_its_own_says_what_it_lacks():
    with pytest.raises(ValueError, match="source, judge, tasks, buffer: not set"):
        BeamSampleCollector().collect()


def test_parts_assigned_between_rounds_are_used(judge, tasks):
    rows = [{"task_id": task.task_id, "completion": "    return x\n"} for task in tasks]
    made = collector(DatasetSource(rows), judge, tasks)
    assert made.collect().programs == 4
    made.tasks = tasks[:1]
    assert made.collect(1).programs == 1
    made.source = DatasetSource([{"task_id": "add-1", "completions": ["    return 1\n", "    return 2\n"]}])
    assert made.collect(2).programs == 2


def test_a_whole_program_is_judged_on_its_output(judge):
    task = CodingTask(
        task_id="io", prompt="Add two numbers.", tests=StdioTests(cases=(StdioCase(input="1 2\n", output="3\n"),))
    )
    made = collector(
        DatasetSource(
            [{"task_id": "io", "completion": "Sure!\n```python\nprint(sum(map(int, input().split())))\n```"}]
        ),
        judge,
        [task],
    )
    assert made.collect().pass_rate == 1.0


def test_missing_logprobs_are_those_of_the_model_in_training(judge, tasks, make_model, tokenizer):
    local = LocalModel(model=make_model().eval(), processing_class=tokenizer)
    rows = [{"task_id": task.task_id, "completion": "    return x\n" * n} for n, task in enumerate(tasks, start=1)]
    made = collector(DatasetSource(rows), judge, tasks, lambda: local)
    made.collect()
    for one in made.collection.buffer:
        prompt, completion = local.encoder.pair(one.prompt, one.completion)
        assert completion[-1] == tokenizer.eos_token_id
        assert one.num_tokens == len(completion)
        assert one.logprob == pytest.approx(local.logprobs([prompt], [completion])[0], abs=1e-3)


def test_text_and_chat_prompts_do_not_mix_in_one_training_set(tasks):
    chat = CodingTask(task_id="chat", prompt=[{"role": "user", "content": "hi"}], tests=tasks[0].tests)
    with pytest.raises(ValueError, match="train_dataset: prompts must be all text or all chat messages"):
        as_dataset("train_dataset", [tasks[0], chat])


def test_a_stdio_case_is_text():
    with pytest.raises(ValueError, match=r"output: must be text.*got int"):
        StdioCase(input="1", output=3)


def test_the_first_program_speaks_for_the_model_all_for_search(judge, tasks):
    rows = [
        {"task_id": "add-1", "completions": ["    return x or 1\n", "    return x + 1\n"]},  # 1 of 3, then all
        {"task_id": "add-2", "completions": ["    return x + 2\n", "    return 9\n"]},
        {"task_id": "add-3", "completions": ["    return 9\n", "    return x + 3\n"]},
        {"task_id": "add-4", "completions": ["    return 9\n", "    return 9\n"]},
    ]
    scores = evaluate_tasks(tasks, DatasetSource(rows), judge)
    assert (scores.tasks, scores.unjudged, scores.programs) == (4, 0, 8)
    assert scores.accuracy == 1 / 4
    assert scores.first_pass_rate == pytest.approx((1 / 3 + 1 + 0 + 0) / 4)
    assert scores.pass_rate == pytest.approx((1 / 3 + 1 + 1 + 0 + 0 + 1 + 0 + 0) / 8)
    assert scores.solved == 3 / 4
    assert "accuracy_easy" not in scores.metrics()
    levels = [
        replace(task, difficulty=level) for task, level in zip(tasks, ["easy", "easy", None, "hard"], strict=True)
    ]
    metrics = evaluate_tasks(levels, DatasetSource(rows), judge).metrics()
    assert {name: value for name, value in metrics.items() if name.startswith("accuracy")} == {
        "accuracy": 1 / 4, "accuracy_easy": 1 / 2, "accuracy_no_difficulty": 0.0, "accuracy_hard": 0.0,
    }  # fmt: skip


def test_programs_are_let_go_once_they_are_counted(judge, tasks, tmp_path):
    rows = [{"task_id": task.task_id, "completions": ["    return x + 1\n"] * 3} for task in tasks]
    held, at_once = [], []

    def look(position, programs):
        held.extend(weakref.ref(one) for one in programs)
        at_once.append(sum(one() is not None for one in held))

    for restored in (0, 12):
        with Journal(tmp_path) as journal:
            found = tally(tasks, DatasetSource(rows), judge, journal=journal, on_judged=look)
        assert found.restored == restored
        assert [one.accepted for one in found.counts] == [3, 0, 0, 0]
    # Those of the task at hand, and of one more that is on its way.
    assert max(at_once) <= 6
    assert len(held) == 24


def test_evaluating_nothing_is_refused(judge, tasks):
    with pytest.raises(ValueError, match="eval_dataset: must hold at least one task"):
        evaluate_tasks([], DatasetSource([]), judge)
    with pytest.raises(
        ValueError, match=r"none of the 4 tasks could be judged\. The first task: no program was generated"
    ):
        evaluate_tasks(tasks, DatasetSource([]), judge)


def test_a_mixture_is_reported_by_source(judge, tasks):
    mixed = [replace(task, source=name) for task, name in zip(tasks, ("b", "a", "b", None), strict=True)]
    rows = [
        {"task_id": "add-1", "completions": ["    return x + 1\n", "    return 2\n"]},
        {"task_id": "add-2", "completion": "    return 0\n"},
        {"task_id": "add-4", "completion": "    return x + 4\n"},
    ]
    report = collector(DatasetSource(rows), judge, mixed).collect()
    figures = {
        source: (one.tasks, one.programs, one.pass_rate, one.solved) for source, one in report.by_source.items()
    }
    # No program for add-3, so that "b" has one task here.
    assert figures == {
        "a": (1, 1, pytest.approx(1 / 3), 0.0),
        "b": (1, 2, pytest.approx(2 / 3), 1.0),
        "unnamed": (1, 1, 1.0, 1.0),
    }
    assert report.metrics()["pper/pass_rate/b"] == pytest.approx(2 / 3)
    assert report.metrics()["pper/solved/a"] == 0.0
    assert "pper/by_source" not in report.metrics()
    assert collector(DatasetSource(rows), judge, tasks).collect().by_source == {}
