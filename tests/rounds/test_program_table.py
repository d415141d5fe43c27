"""The table of sampled programs: what it chooses, what it says, and that no program acts on the terminal."""

import math
import re
import sys
from types import SimpleNamespace

import pandas
import pytest

from tests.support.screen import terminal
from trl_pper import BeamSampleCollector, DatasetSource, Experience, PPERConfig, PPERTrainer, ReplayBuffer
from trl_pper.rounds.program_table import (
    describe_verdict,
    log_rows,
    print_rows,
    shortened,
    show_round,
    spaced,
    table_rows,
    visible,
)
from trl_pper.training.push import exposed

#: Erases the screen, sets the title, rings, returns, turns the direction, hides, breaks lines, is markup and an emoji.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31mb\rc\x08d\u202ee\u2066f\u200bg\u2028h\x00\x85[red]i[/red][link=x]:smile:\tj"


def experience(program: str, **fields) -> Experience:
    given = dict(
        task_id="one", prompt="def one():", completion=program, program=program, pass_rate=0.0, logprob=-2.0,
        num_tokens=4, outcomes=("wrong_answer",),
    )  # fmt: skip
    return Experience(**{**given, **fields})


def filled(*experiences: Experience, **settings) -> ReplayBuffer:
    buffer = ReplayBuffer(**settings)
    buffer.add(experiences)
    return buffer


def test_rows_of_a_round_come_with_the_highest_p2value_first():
    buffer = filled(
        experience("old", pass_rate=1.0, outcomes=("passed",)),
        experience("low", round_index=3),
        experience("tie", round_index=3),
        experience("high", round_index=3, pass_rate=0.5, outcomes=("passed", "timeout"), logprob=-1.0),
        experience("unknown", round_index=3, logprob=None, num_tokens=None),
    )
    rows = table_rows(buffer, 3, step=7)
    assert [row.program for row in rows] == ["high", "low", "tie", "unknown"]
    assert [row.p2value for row in rows] == sorted(buffer.p2values()[1:], reverse=True)
    assert (rows[0].step, rows[0].possibility, rows[0].pass_rate) == (7, pytest.approx(math.exp(-0.25)), 0.5)
    assert rows[0].verdict == "1 passed, 1 timeout"
    assert math.isnan(rows[-1].possibility)
    assert table_rows(buffer, 1, step=7) == []
    assert table_rows(ReplayBuffer(), 0, step=0) == []


@pytest.mark.parametrize(
    ("total", "number", "places"),
    [(5, None, [0, 1, 2, 3, 4]), (5, 9, [0, 1, 2, 3, 4]), (5, 1, [0]), (5, 2, [0, 4]), (5, 0, []), (0, 3, []),
     (1, 1, [0])],
)  # fmt: skip
def test_chosen_rows_reach_from_the_first_to_the_last(total, number, places):
    assert spaced(total, number) == places
    assert len(set(spaced(100, 7))) == 7


def test_verdicts_in_words():
    assert describe_verdict(experience("x", pass_rate=1.0, outcomes=("passed", "passed"))) == "passed"
    assert (
        describe_verdict(experience("x", outcomes=("timeout", "wrong_answer", "timeout")))
        == "1 wrong answer, 2 timeout"
    )
    # A teacher's file may tell a pass rate and nothing of the tests.
    assert describe_verdict(experience("x", pass_rate=0.3, outcomes=())) == ""


def test_what_would_act_on_a_terminal_is_spelled_out():
    shown = visible(HOSTILE)
    assert shown.replace("\t", "").isprintable()
    assert shown.startswith("a⟨U+001B⟩[2J⟨U+001B⟩]0;owned⟨U+0007⟩⟨U+009B⟩31mb⟨U+000D⟩c⟨U+0008⟩d⟨U+202E⟩e⟨U+2066⟩f")
    assert "f⟨U+200B⟩g⟨U+2028⟩h⟨U+0000⟩⟨U+0085⟩[red]" in shown
    assert shortened("größe = 'שלום 日本'\r\n\tpass\n", lines=9, characters=99) == "größe = 'שלום 日本'\n    pass\n"
    assert visible("") == ""
    assert shortened("a\nb\nc", lines=2, characters=99) == "a\nb\n… 2 more characters"
    assert shortened("abc", lines=2, characters=2) == "ab\n… 1 more characters"
    assert shortened("a\nb", lines=2, characters=3) == "a\nb"


def test_no_program_acts_on_the_terminal():
    asked = [{"role": "user", "content": HOSTILE}]
    rows = table_rows(filled(experience(HOSTILE, task_id=HOSTILE, prompt=asked)), 0, step=0)
    with terminal(200) as screen:
        print("above")
        print_rows(rows, title="Round 1")
    # What rich writes itself is colours and nothing else.
    written = re.sub(r"\x1b\[[0-9;]*m", "", screen.raw.decode())
    assert all(character.isprintable() or character in "\r\n" for character in written)
    assert written.replace("\r\n", "").count("\r") == 0
    assert screen.lines[0] == "above"
    assert {len(line) for line in screen.lines[1:]} == {200}
    assert "[red]i[/red]" in written.replace("\r\n", "")
    assert ":smile:" in written


def test_a_possibility_that_nobody_knows_and_one_that_vanishes():
    rows = table_rows(
        filled(
            experience("a", logprob=None, num_tokens=None),
            experience("b", logprob=-80.0),
            possibility="product",
        ),
        0,
        step=0,
    )
    with terminal(120) as screen:
        print_rows(rows, title="Round 1")
    assert any("unknown" in line and " a " in line for line in screen.lines)
    assert any("1.8e-35" in line and " b " in line for line in screen.lines)


def test_nothing_is_printed_of_nothing(capsys):
    show_round(ReplayBuffer(), 0, step=0, number=None, report_to=["wandb", "trackio"])
    show_round(filled(experience("x")), 0, step=0, number=0, report_to=[])
    assert capsys.readouterr().out == ""


def test_trackers_get_every_row_whole(monkeypatch, capsys):
    logged = []
    fake = SimpleNamespace(run=object(), log=logged.append, Table=lambda dataframe: dataframe)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    buffer = filled(*(experience(f"{n}" * 5000) for n in range(3)))
    show_round(buffer, 0, step=4, number=1, report_to=["tensorboard", "wandb"])
    (frame,) = [entry["completions"] for entry in logged]
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == [
        "step", "task_id", "prompt", "completion", "program", "possibility", "pass_rate", "p2value", "verdict",
    ]  # fmt: skip
    assert frame["program"].tolist() == ["0" * 5000, "1" * 5000, "2" * 5000]
    assert frame["step"].tolist() == [4, 4, 4]
    assert "3000 more characters" in capsys.readouterr().out
    # A run that somebody ended, or that is none of the Trainer's.
    fake.run = None
    log_rows(table_rows(buffer, 0, step=4), ["wandb"])
    assert len(logged) == 1


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("log_completions", "yes", "log_completions: must be True or False; got 'yes'"),
        ("num_completions_to_print", -1, "num_completions_to_print: must be None or .* at least 0; got -1"),
        ("num_completions_to_print", True, "num_completions_to_print: must be None or .*; got True"),
    ],
)  # fmt: skip
def test_options_are_checked(tmp_path, option, value, message):
    with pytest.raises(ValueError, match=message):
        PPERConfig(str(tmp_path), use_cpu=True, bf16=False, **{option: value})


@pytest.mark.parametrize("log_completions", [True, False])
def test_training_prints_a_table_after_each_collection(make_model, tokenizer, tasks, tmp_path, log_completions):
    rows = [{"task_id": one.task_id, "completion": f"    return x {how}\n"} for one in tasks for how in ("", "+ 1")]
    trainer = PPERTrainer(
        model=make_model(),
        args=PPERConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_completion_length=6, max_length=128,
            per_device_train_batch_size=4, steps_per_round=1, num_train_epochs=2, save_strategy="no", judge_workers=1,
            gradient_checkpointing=False, log_completions=log_completions, num_completions_to_print=3,
        ),
        train_dataset=tasks,
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=DatasetSource(rows))],
    )  # fmt: skip
    with terminal(120, 150) as screen, trainer.judge:
        trainer.train()
    titles = [line for line in screen.lines if re.search(r"─ Round \d, step \d ─", line)]
    assert len(titles) == (2 if log_completions else 0)
    programs = [line for line in screen.lines if "return x" in line]
    assert len(programs) == (6 if log_completions else 0)
    assert ("passed" in " ".join(screen.lines)) == log_completions
    bars = [line for line in screen.lines if re.match(r" *\d+%\|", line)]
    assert bars == [screen.lines[-1]]
    assert exposed(tmp_path) == []
