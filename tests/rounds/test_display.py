"""The display of collections and evaluations: one bar below the Trainer's on a real terminal, one line elsewhere."""

import contextlib
import io
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.screen import Screen, open_terminal, terminal
from trl_pper import BeamSampleCollector, DatasetSource, Judge, Limits, PPERConfig, PPERTrainer
from trl_pper.cli.commands import main
from trl_pper.generation.source import tell_written
from trl_pper.judge.verdict import Outcome, Verdict
from trl_pper.rounds.display import CollectionProgress, Pace, say
from trl_pper.rounds.evaluation import evaluate_tasks

PASSING = Verdict(outcomes=(Outcome.PASSED,))
FAILING = Verdict(outcomes=(Outcome.WRONG_ANSWER,))
#: The Trainer's own bar, and ours.
TRAINER = re.compile(r"^ *\d+%\|.*\| \d+/\d+ \[")
OURS = re.compile(r"^(round \d+|evaluation): +\d+/\d+ tasks \|")
ROUND = re.compile(
    r"round (\d): (\d+) programs, (\d+) judged, mean pass rate ([\d.]+), ([\d.]+)% of tasks solved, (\d+) new to the "
    r"buffer, ([\d.]+) s"
)


class Slow(DatasetSource):
    """A teacher that takes its time, and may warn of something."""

    warns = False

    def generate(self, tasks, *, student=None):
        for programs in super().generate(tasks, student=student):
            time.sleep(0.03)
            if self.warns:
                logging.getLogger("trl_pper.somewhere").warning("something is odd")
            yield programs


def teacher(tasks, kind=Slow) -> DatasetSource:
    rows = []
    for n, task in enumerate(tasks, start=1):
        rows += [{"task_id": task.task_id, "completion": f"    return x {how} {n}\n"} for how in ("+", "or")]
    return kind(rows, name="teacher")


@pytest.fixture
def judge():
    with Judge(workers=1, limits=Limits(cpu_seconds=1.0)) as started:
        yield started


@pytest.fixture
def make_trainer(make_model, tokenizer, tasks, tmp_path):
    made = []

    def build(source=None, **options) -> PPERTrainer:
        settings = dict(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], num_beams=2, max_completion_length=6,
            max_length=128, per_device_train_batch_size=4, steps_per_round=2, num_train_epochs=2, logging_steps=1,
            save_strategy="no", judge_workers=1, judge_cpu_seconds=1.0, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = PPERTrainer(
            model=make_model(),
            args=PPERConfig(**{**settings, **options}),
            train_dataset=tasks,
            eval_dataset=tasks,
            processing_class=tokenizer,
            callbacks=[BeamSampleCollector(source=source or teacher(tasks))],
        )
        made.append(trainer)
        return trainer

    yield build
    for trainer in made:
        trainer.judge.close()


def show(columns: int = 100, **options) -> Screen:
    with terminal(columns) as screen, CollectionProgress(4, title="round 1", **options) as progress:
        for programs in (3, 3, 2):
            progress.generated(programs)
        progress.judged([PASSING, FAILING, FAILING])
        progress.judged([PASSING, PASSING, FAILING], unextracted=2)
    assert (progress.programs_generated, progress.programs_judged, progress.programs_passing) == (8, 6, 3)
    return screen


def test_a_terminal_shows_progress_and_nothing_of_it_stays():
    screen = show(columns=130)
    (last,) = screen.busy[-1]
    assert re.fullmatch(
        r"round 1: 2/4 tasks \|.*\| 00:00<00:00, 8 programs, 6 judged, 3 pass, 2 without a program, [\d.e+]+ tasks/s",
        last,
    )
    assert {len(moment) for moment in screen.busy} == {1}
    assert screen.lines == []


def test_a_narrow_terminal_loses_the_end_and_keeps_one_line():
    screen = show(columns=60)
    assert {len(moment) for moment in screen.busy} == {1}
    assert screen.busy[-1][0].startswith("round 1: 2/4 tasks |")
    assert "00:00<00:00, 8 programs, 6 judged" in screen.busy[-1][0]


def test_programs_are_the_unit_where_that_is_asked_for():
    with terminal() as screen, CollectionProgress(5, unit="programs") as progress:
        progress.judged([PASSING, FAILING, FAILING])
    (last,) = screen.busy[-1]
    assert re.fullmatch(r"3/5 programs \|.*\| 00:0\d<00:0\d, 1 pass, [\d.e+]+ programs/s", last)


def test_what_a_journal_held_counts_as_done_and_not_as_speed():
    with terminal(130) as screen, CollectionProgress(9, title="round 2") as progress:
        for _ in range(8):
            progress.restored([PASSING] * 50)
        time.sleep(0.2)
        progress.generated(1)
        progress.judged([FAILING])
    counts = re.search(r"9/9 tasks .* (\d+) programs, (\d+) judged, (\d+) pass, ([\d.]+) tasks/s", screen.busy[-1][0])
    assert [int(number) for number in counts.groups()[:3]] == [401, 401, 400]
    assert float(counts[4]) < 5.1


def test_what_a_journal_held_says_nothing_of_the_time_left():
    with terminal(130) as screen, CollectionProgress(9, title="round 2") as progress:
        progress.restored([PASSING])
        time.sleep(0.1)
        progress.restored([PASSING])
    assert re.search(r"2/9 tasks .* 00:0\d<\?, ", screen.busy[-1][0])


def test_no_tasks_and_no_programs_are_shown_without_fail():
    with terminal() as screen, CollectionProgress(0, title="round 1"):
        pass
    assert screen.lines == []
    with terminal() as screen, CollectionProgress(1, title="round 1") as progress:
        progress.generated(0)
        progress.judged([])
    assert "0 programs, 0 judged, 0 pass, " in screen.busy[-1][0]


def test_nothing_is_shown_elsewhere_or_when_quiet(capsys):
    assert show(quiet=True).raw == b""
    with CollectionProgress(1) as progress:
        progress.judged([PASSING])
    assert capsys.readouterr() == ("", "")


class Clock:
    """A clock that stands still unless it is told to go on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_decoding_steps_tell_the_time_left_of_the_first_batch():
    clock = Clock()
    pace = Pace(24, clock=clock)
    pace.begin_writing(24)
    assert (pace.left(), pace.part()) == (None, 0.0)
    for step in range(1, 17):
        clock.now += 0.5
        pace.wrote(8 / 128)
        assert pace.left() == pytest.approx(3 * 128 * 0.5 - 0.5 * step)
        assert pace.part() == pytest.approx(step / (3 * 128))
    assert pace.elapsed() == 8.0


def test_a_batch_that_ends_early_counts_as_a_whole():
    clock = Clock()
    pace = Pace(2, clock=clock)
    pace.begin_writing(2)
    clock.now += 10.0
    pace.wrote(0.25)
    assert pace.left() == 70.0
    pace.yielded(1)
    assert pace.left() == 10.0


def test_the_slower_of_writing_and_judging_decides():
    clock = Clock()
    pace = Pace(4, clock=clock)
    pace.begin_writing(4)
    for written in range(1, 5):
        clock.now += 1.0
        pace.yielded(written)
        pace.generated()
        assert pace.left() == (4.0 - written if written < 4 else None)
    # The first task waits since second 1; the others are slow as well.
    clock.now += 7.0
    pace.judged(1)
    assert pace.left() == 30.0
    clock.now += 10.0
    pace.judged(1)
    assert pace.left() == 20.0
    for _ in range(2):
        pace.judged(1)
    assert (pace.left(), pace.part()) == (0.0, 1.0)


def test_time_between_two_batches_is_not_judging_time():
    clock = Clock()
    pace = Pace(4, clock=clock)
    pace.begin_writing(4)
    for _ in range(3):
        clock.now += 100.0
        pace.wrote(1.0)
        pace.generated()
        clock.now += 1.0
        pace.judged(1)
    # 303 seconds for three tasks, and for a fourth as many as for each.
    assert pace.left() == pytest.approx(101.0)


def test_the_bar_never_goes_back():
    clock = Clock()
    pace = Pace(2, clock=clock)
    pace.begin_writing(2)
    clock.now += 1.0
    pace.wrote(1.0)
    assert pace.part() == 0.5
    clock.now += 9.0
    pace.wrote(0.01)
    assert pace.left() > 9.0
    assert pace.part() >= 0.5


def test_what_was_restored_is_in_the_bar_and_not_in_the_pace():
    clock = Clock()
    pace = Pace(4, clock=clock)
    pace.restored(2)
    # A batch is written as a whole, with tasks that were restored.
    pace.begin_writing(4)
    assert pace.part() == 0.5
    clock.now += 6.0
    pace.wrote(1.0)
    assert pace.left() == 18.0
    assert pace.part() == pytest.approx(0.5 + 0.5 * 6 / 24)


class Parts(DatasetSource):
    """A teacher that writes all programs of a batch before it yields any, and tells how far it is."""

    tells = True

    def generate(self, tasks, *, student=None):
        for _ in range(10):
            time.sleep(0.05)
            if self.tells:
                tell_written(len(tasks) / 10)
        yield from super().generate(tasks, student=student)


@pytest.mark.parametrize("tells", [True, False])
def test_the_bar_moves_before_any_program_is_there(tasks, judge, monkeypatch, tells):
    monkeypatch.setattr("trl_pper.rounds.display._BAR_SECONDS", 0.02)
    source = teacher(tasks, Parts)
    source.tells = tells
    with terminal(110) as screen:
        evaluate_tasks(tasks, source, judge, quiet=False)
    before = [line for moment in screen.busy for line in moment if " 0 programs, " in line]
    bars = [line.count("█") for line in before]
    assert all(re.match(r"evaluation: 0/4 tasks \|.*\| 00:0\d<", line) for line in before)
    if tells:
        assert len(set(bars)) > 4
        assert any(re.search(r"<00:0\d, 0 programs, 0 judged, 0 pass, .* (s/task|tasks/s)", line) for line in before)
    else:
        # The clock moves without the source, and promises nothing.
        assert len(before) > 4
        assert set(bars) == {0}
        assert all("<?, " in line for line in before)


LINE = re.compile(
    r"evaluation: (\d) of 4 tasks, (\d) programs, (\d) judged, (\d) pass, 0:00:0\d elapsed(, about 0:00:0\d left)?"
)


def test_a_pipe_gets_a_line_from_time_to_time(tasks, judge, monkeypatch, capsys):
    monkeypatch.setattr("trl_pper.rounds.display._LINE_SECONDS", 0.1)
    evaluate_tasks(tasks, teacher(tasks, Parts), judge, quiet=False)
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert len(lines) >= 4
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert found[1][5]
    # Results may be read from the standard output.
    assert shown.out == ""


def test_a_quiet_run_gets_no_line(tasks, judge, monkeypatch, capsys):
    monkeypatch.setattr("trl_pper.rounds.display._LINE_SECONDS", 0.02)
    evaluate_tasks(tasks, teacher(tasks, Parts), judge, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_many_threads_draw_one_bar():
    with terminal() as screen, CollectionProgress(60, title="round 1") as progress:
        threads = [
            threading.Thread(target=lambda act=act: [act() for _ in range(60)])
            for act in (lambda: progress.generated(1), lambda: progress.judged([PASSING]))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {len(moment) for moment in screen.busy} == {1}
    assert screen.lines == []


def test_training_keeps_one_trainer_bar_with_ours_below_it(make_trainer, tasks):
    source = teacher(tasks)
    source.warns = True
    trainer = make_trainer(source)
    with terminal(110, 80) as screen:
        trainer.train()
    both = [moment for moment in screen.moments if any(map(OURS.match, moment))]
    assert len(both) > 6
    # Moments are cut where the pipe was read: within one drawing, a bar may be gone, but never be there twice.
    for moment in screen.moments:
        assert sum(bool(TRAINER.match(line)) for line in moment) <= 1
        assert sum(bool(OURS.match(line)) for line in moment) <= 1
    pairs = [pair for moment in both for pair in itertools.pairwise(moment)]
    assert any(TRAINER.match(above) and OURS.match(below) for above, below in pairs)
    assert not any(map(OURS.match, screen.lines))
    assert re.match(r"100%\|.*\| 4/4 \[", screen.lines[-1])
    assert [line for line in screen.lines if "%|" in line] == [screen.lines[-1]]
    # Warnings stand on lines of their own, above the bars.
    assert screen.lines.count("something is odd") == 2 * len(tasks)
    rounds = [found for line in screen.lines if (found := ROUND.fullmatch(line))]
    assert [found[1] for found in rounds] == ["1", "2"]


def test_an_evaluation_has_the_same_display(make_trainer, tasks):
    trainer = make_trainer()
    with terminal(110) as screen:
        metrics = trainer.evaluate()
    shown = [line for moment in screen.moments for line in moment if OURS.match(line)]
    assert shown
    assert all(line.startswith("evaluation") for line in shown)
    (line,) = [line for line in screen.lines if line.startswith("eval:")]
    assert line.startswith(f"eval: 4 tasks, 8 programs, accuracy {metrics['eval_accuracy']:.3f}, pass@2 0.000, mean")


@contextlib.contextmanager
def log_file():
    """Standard output and standard error of this process in one file, as a batch system keeps them."""
    read, write = os.pipe()
    before = sys.stdout, sys.stderr
    shown = io.StringIO()
    with os.fdopen(read, encoding="utf-8") as ours:
        copier = threading.Thread(target=lambda: shown.write(ours.read()))
        copier.start()
        with os.fdopen(write, "w", buffering=1, encoding="utf-8") as output:
            sys.stdout = sys.stderr = output
            try:
                yield shown
            finally:
                sys.stdout, sys.stderr = before
        copier.join()


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_a_log_file_gets_one_line_a_round_and_no_bar(make_trainer, disable_tqdm):
    trainer = make_trainer(disable_tqdm=disable_tqdm)
    with log_file() as shown:
        trainer.train()
        trainer.evaluate()
    # The Trainer draws its bar into files too, unless told not to; a carriage return begins each drawing.
    lines = [part for line in shown.getvalue().splitlines() for part in line.split("\r")]
    assert not any(map(OURS.match, lines))
    rounds = [found for line in lines if (found := ROUND.search(line))]
    assert [found.span() for found in rounds] == [(0, len(found.string)) for found in rounds]
    reports = trainer.collector.reports
    assert [tuple(map(float, found.groups())) for found in rounds] == [
        (
            one.round_index + 1, one.programs, one.judged, round(one.pass_rate, 3), round(100 * one.solved, 1),
            one.added, round(one.collect_seconds, 1),
        )
        for one in reports
    ]  # fmt: skip
    assert (reports[0].programs, reports[0].added, reports[0].solved, reports[1].added) == (8, 8, 1.0, 0)
    assert len([line for line in lines if line.startswith("eval: 4 tasks")]) == 1
    if disable_tqdm:
        assert "%|" not in shown.getvalue()


def test_a_run_that_logs_errors_only_says_nothing(make_trainer):
    from transformers.utils import logging as theirs

    before = theirs.get_verbosity()
    trainer = make_trainer(disable_tqdm=True, log_level="error")
    try:
        with log_file() as shown:
            trainer.train()
    finally:
        theirs.set_verbosity(before)
    assert "round" not in re.sub(r"'pper/round_index'", "", shown.getvalue())


def test_a_line_is_whole_beside_a_bar_of_somebody_else():
    from tqdm.auto import tqdm

    with terminal() as screen, tqdm(total=3, leave=True) as bar:
        bar.update(1)
        say("a line")
    assert screen.lines[0] == "a line"
    assert TRAINER.match(screen.lines[1])
    assert len(screen.lines) == 2


def test_commands_show_the_same_bar(tasks, tmp_path, shared_rows):
    given, programs, output = shared_rows
    with terminal(130) as screen:
        code = main(["judge", "--tasks", given, "--programs", programs, "--output", str(output), "--workers", "1"])
    assert code == 0
    assert any(re.match(r"8/8 programs \|.*, 4 pass, ", line) for moment in screen.moments for line in moment)
    assert len(screen.lines) == 1
    assert screen.lines[0].startswith("8 programs in ")


@pytest.fixture
def shared_rows(tasks, tmp_path):
    rows = teacher(tasks, DatasetSource)
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    with (tmp_path / "programs.jsonl").open("w") as file:
        for task, programs in zip(tasks, rows.generate(tasks), strict=True):
            for one in programs:
                file.write(json.dumps({"task_id": task.task_id, "completion": one.completion}) + "\n")
    return str(tmp_path / "tasks.jsonl"), str(tmp_path / "programs.jsonl"), tmp_path / "verdicts.jsonl"


@pytest.mark.slow
def test_two_processes_show_one_display(make_model, tokenizer, tasks, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    script = Path(__file__).parents[1] / "support" / "shown_run.py"
    screen = Screen(110, 120)
    ours, theirs = open_terminal(110, 120)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    running = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        screen.watch(ours)
        assert running.wait(timeout=30) == 0, screen.lines
    finally:
        running.kill()
        os.close(ours)
    own = re.compile(r"^(round \d+|evaluation): +\d+/2 own tasks \|")
    assert max(sum(bool(own.match(line)) for line in moment) for moment in screen.moments) == 1
    for moment in screen.moments:
        assert len([line for line in moment if TRAINER.match(line)]) <= 1
    assert [found[1] for line in screen.lines if (found := ROUND.fullmatch(line))] == ["1", "2"]
    assert len([line for line in screen.lines if line.startswith("eval: 4 tasks")]) == 1
