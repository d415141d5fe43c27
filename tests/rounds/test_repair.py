"""Repair experiences: a failed program and its failing test as the prompt, a right program as the answer."""

from dataclasses import replace

import pytest
import torch

from trl_pper import (
    BeamSampleCollector,
    CodingTask,
    DatasetSource,
    FunctionTests,
    GeneratedProgram,
    Judge,
    PPERConfig,
    PPERTrainer,
    ReplayBuffer,
    rejudge,
)
from trl_pper.report.page import write_report
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.rounds.program_table import table_rows
from trl_pper.rounds.repair import repairs

RIGHT, WRONG, WORSE = "    return x + 1\n", "    return x - 1\n", "    return None\n"
TESTS = FunctionTests(entry_point="f", code="assert f(1) == 2\nassert f(0) == 1\nassert f(-1) == 0")


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def task(name="inc", prompt="def f(x):\n"):
    return CodingTask(task_id=name, prompt=prompt, tests=TESTS)


def collected(judge, tasks, rows, **options):
    buffer = ReplayBuffer()
    source = DatasetSource([{"task_id": name, "completion": text} for name, texts in rows.items() for text in texts])
    collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, **options)
    collector.attach(buffer)
    return buffer, collector.collect(0)


def repairs_in(buffer):
    return [one for one in buffer if " repair " in one.task_id]


def test_each_failed_program_is_answered_by_a_right_one(judge):
    buffer, report = collected(judge, [task()], {"inc": [WRONG, RIGHT, WORSE]}, repairs=5)
    mended = repairs_in(buffer)
    assert report.repairs == len(mended) == 2
    assert len({one.task_id for one in mended}) == 2
    assert [one.completion for one in mended] == [RIGHT, RIGHT]
    assert all(one.pass_rate == 1.0 and one.prompt.endswith("\ndef f(x):\n") for one in mended)
    # Everything before the signature is a comment, the failed program and its failing test among it.
    comments = mended[0].prompt.removesuffix("def f(x):\n").splitlines()
    assert all(line.startswith("# ") for line in comments)
    assert f"# {WRONG.rstrip()}" in comments
    assert "f(1)" in mended[0].prompt
    # Programs that were written are counted without them.
    assert (report.programs, report.judged, report.pass_rate) == (3, 3, pytest.approx(1 / 3))


def test_chat_prompts_go_on_as_a_conversation(judge):
    asked = [{"role": "user", "content": "Write f."}]
    texts = [f"```python\ndef f(x):\n{body}```" for body in (WRONG, RIGHT)]
    buffer, _ = collected(judge, [task(prompt=asked)], {"inc": texts}, repairs=1)
    (mended,) = repairs_in(buffer)
    assert [message["role"] for message in mended.prompt] == ["user", "assistant", "user"]
    assert mended.prompt[0] == asked[0]
    assert mended.prompt[1]["content"] == texts[0]
    assert "f(1)" in mended.prompt[2]["content"]
    assert mended.completion == texts[1]


@pytest.mark.parametrize("texts", [[WRONG, WORSE], [RIGHT], []])
def test_without_a_failed_and_a_right_program_there_is_none(judge, texts):
    buffer, report = collected(judge, [task()], {"inc": texts or [WORSE]}, repairs=3)
    assert report.repairs == len(repairs_in(buffer)) == 0


def test_the_limit_takes_the_first_failed_programs(judge):
    buffer, report = collected(judge, [task()], {"inc": [WORSE, WRONG, WRONG, RIGHT]}, repairs=1)
    assert report.repairs == 1
    assert f"# {WORSE.rstrip()}" in repairs_in(buffer)[0].prompt
    assert collected(judge, [task()], {"inc": [WORSE, WRONG, RIGHT]})[1].repairs == 0


def test_numbers_of_programs_and_tasks_leave_repairs_out(judge, tmp_path):
    texts = {"inc": [WRONG, RIGHT, WORSE], "dec": [WRONG]}
    buffer, _ = collected(judge, [task(), task("dec")], texts, repairs=5)
    plain, _ = collected(judge, [task(), task("dec")], texts)
    assert len(buffer) == len(plain) + 2
    assert list(buffer.without_repairs()) == list(plain)
    assert plain.without_repairs() is plain
    assert buffer.contents() == replace(plain.contents(), repairs=2)
    assert len(table_rows(buffer, 0, step=0)) == 4
    # The page differs in the line that tells of them, and shows no program twice.
    facts = {"repair experiences, which are not shown here": "2"}
    write_report(tmp_path / "with.html", buffer)
    write_report(tmp_path / "without.html", plain, facts=facts)
    assert (tmp_path / "with.html").read_text() == (tmp_path / "without.html").read_text()
    write_report(tmp_path / "bare.html", plain)
    assert (tmp_path / "with.html").read_text() != (tmp_path / "bare.html").read_text()


def test_the_tests_of_a_task_judge_its_repairs_again(judge):
    buffer, _ = collected(judge, [task()], {"inc": [WRONG, RIGHT]}, repairs=1)
    stricter = FunctionTests(entry_point="f", code="assert f(1) == 2\nassert isinstance(f(1.0), int)")
    again = rejudge(buffer, [replace(task(), tests=stricter)], judge)
    # The program that was taken for right fails a test now, wherever it stands.
    assert [(one.task_id, one.pass_rate) for one in again] == [
        (one.task_id, 0.5 if one.completion == RIGHT else 0.0) for one in buffer
    ]
    with pytest.raises(ValueError, match="tasks: must hold every task of the buffer; 1 are missing, the first 'inc'"):
        rejudge(buffer, [task("other")], judge)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "2"])
def test_a_wrong_limit_is_refused(limit):
    with pytest.raises(ValueError, match="repairs: must be a whole number of at least 0"):
        BeamSampleCollector(repairs=limit)


def test_repairs_are_scored_drawn_and_learned_unless_too_long(judge, make_model, tokenizer, tmp_path):
    tasks = [task("short"), task("long", prompt=f"# {'long ' * 8}\ndef f(x):\n")]
    texts = [WRONG, RIGHT]
    rows = [{"task_id": one.task_id, "completion": text} for one in tasks for text in texts]
    trainer = PPERTrainer(
        make_model(),
        PPERConfig(
            str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            disable_tqdm=True,
            max_completion_length=20,
            max_length=220,
            per_device_train_batch_size=4,
            steps_per_round=3,
            num_train_epochs=1,
            save_strategy="no",
            gradient_checkpointing=False,
            priority="filter",
            task_weight="equal",
        ),
        train_dataset=tasks,
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=DatasetSource(rows), judge=judge, repairs=2)],
    )
    trainer.train()
    mended = repairs_in(trainer.buffer)
    lengths = [sum(map(len, trainer.student.encoder.pair(one.prompt, one.completion))) for one in mended]
    assert 0 < len(mended) < 3
    assert max(lengths) <= 220
    assert all(one.logprob is not None and one.num_tokens for one in mended)
    # The log-probability is that of the answer behind the repair prompt, by the weights before training.
    model = make_model().eval()
    asked, answer = trainer.student.encoder.pair(mended[0].prompt, mended[0].completion)
    with torch.no_grad():
        logits = model(torch.tensor([[*asked, *answer]])).logits[0].log_softmax(-1)
    places = range(len(asked) - 1, len(asked) + len(answer) - 1)
    expected = sum(float(logits[place, token]) for place, token in zip(places, answer, strict=True))
    assert mended[0].logprob == pytest.approx(expected, abs=1e-3)
    assert trainer.state.log_history[0]["pper/repairs"] == len(mended)
    assert trainer.buffer.probabilities()[[one in mended for one in trainer.buffer]].sum() > 0


def test_a_right_program_that_was_cut_off_is_no_answer(judge):
    """Its completion has no end to learn, though the tests pass."""
    asked = task()
    texts = {WRONG: "eos", RIGHT: "length", "    return 1 + x\n": "eos"}
    verdicts = judge.run_pairs([(asked, asked.prompt + text) for text in texts])
    judged = [
        JudgedProgram(
            task=asked,
            generated=GeneratedProgram(
                completion=text, logprob=None, num_tokens=None, source="me", finish_reason=reason
            ),
            program=asked.prompt + text,
            verdict=verdict,
        )
        for (text, reason), verdict in zip(texts.items(), verdicts, strict=True)
    ]
    assert [one.verdict.pass_rate == 1.0 for one in judged] == [False, True, True]
    assert [one.generated.completion for one in repairs(judged, 3)] == ["    return 1 + x\n"]
    assert repairs(judged[:2], 3) == []
