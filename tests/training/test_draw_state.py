"""Ages and numbers of draws through the trainer: counted at the end of each round, and the same after a resume."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer, ReplayBuffer

SEEN: list[dict] = []


def seldom_drawn(p2values, times_drawn, age):
    """A user's priority: programs that were drawn less often, and written lately."""
    # Without the made-up programs of the check.
    if len(p2values) == 9:
        SEEN.append({"drawn": times_drawn.tolist(), "age": age.tolist()})
    return 1.0 / (1.0 + times_drawn + age)


@pytest.fixture
def make_trainer(make_model, tokenizer, tasks, tmp_path):
    rows = [
        {"task_id": task.task_id, "completion": f"    return x {sign} {n}\n"}
        for n, task in enumerate(tasks, start=1)
        for sign in "+-*"
    ]

    def build(seed=0, *, train_dataset=tasks, buffer=None, **options) -> PPERTrainer:
        settings = dict(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True,
            max_completion_length=12, max_length=128, per_device_train_batch_size=4, steps_per_round=2,
            num_train_epochs=3, learning_rate=1e-2, save_strategy="no", judge_workers=1, gradient_checkpointing=False,
        )  # fmt: skip
        source = DatasetSource(rows)
        return PPERTrainer(
            make_model(seed=seed),
            PPERConfig(**{**settings, **options}),
            train_dataset=train_dataset,
            processing_class=tokenizer,
            callbacks=[BeamSampleCollector(source=source)] if train_dataset is tasks else None,
            buffer=buffer,
        )

    SEEN.clear()
    return build


def weights(trainer):
    return torch.cat([value.flatten() for value in trainer.model.state_dict().values()])


def train(trainer, **options):
    with trainer.judge:
        trainer.train(**options)
    return trainer


def naive_counts(trainer, rounds, draws_per_round=8):
    """Count the draws of rounds in a buffer whose priorities ignore them."""
    drawn = np.concatenate(
        [trainer.buffer.draw(4, round_index=index, step=step) for index in range(rounds) for step in range(2)]
    )
    assert len(drawn) == draws_per_round * rounds
    return np.bincount(drawn, minlength=len(trainer.buffer)).tolist()


def test_the_draws_of_rounds_that_are_over_are_counted(make_trainer):
    trainer = train(make_trainer(priority="uniform"))
    # Of three rounds the last is not over for the buffer: nothing was collected after it.
    assert trainer.buffer.times_drawn().tolist() == naive_counts(trainer, rounds=2)


def test_judged_programs_count_their_draws_as_well(make_trainer):
    rows = [{"prompt": f"# {n}\n", "completion": f"x = {n}", "logprob": -1.0, "pass_rate": n / 8} for n in range(9)]
    trainer = train(make_trainer(train_dataset=datasets.Dataset.from_list(rows), priority="uniform"))
    assert trainer.buffer.times_drawn().tolist() == naive_counts(trainer, rounds=2)


def test_a_priority_sees_draws_and_ages_in_steps(make_trainer):
    trainer = make_trainer(buffer=ReplayBuffer(priority=seldom_drawn))
    # Programs of an earlier run that nobody writes again.
    lone = {"task_id": "lone", "prompt": "#\n", "completion": "x", "pass_rate": 1.0}
    trainer.collector.tasks = trainer.collector.tasks[:2]
    from trl_pper import Experience

    trainer.buffer.add([Experience.from_row({**lone, "completion": f"x{n}", "program": f"x{n}"}) for n in range(3)])
    train(trainer)
    # Looked at before each round's draws, and before the next round's collection, when nothing has changed.
    assert [max(seen["age"]) for seen in SEEN] == [2, 4, 6]
    assert [sum(seen["drawn"]) for seen in SEEN] == [0, 8, 16]
    assert SEEN[1]["age"] == [4] * 3 + [0] * 6


def others(tasks):
    """Programs that the first run of a test does not write."""
    return DatasetSource([{"task_id": one.task_id, "completion": f"    return {n}\n"} for n, one in enumerate(tasks)])


def test_programs_of_a_second_training_are_younger(make_trainer, tasks, capfd):
    trainer = train(make_trainer(buffer=ReplayBuffer(16, eviction="age"), num_train_epochs=2, log_level="info"))
    assert set(trainer.buffer.round_indices()) == {1}
    trainer.collector.source = others(tasks)
    trainer.collector.judge = trainer._judge = None
    train(trainer)
    # All twelve fit beside the four new ones, which count as written in later rounds.
    assert trainer.buffer.round_indices().tolist() == [1] * 12 + [3] * 4
    assert trainer.buffer.ages().tolist() == [4] * 12 + [0] * 4
    assert trainer.collector.reports[-1].staleness >= 0
    assert "the scheduler has to count" not in "".join(capfd.readouterr())


def test_a_buffer_of_an_earlier_run_goes_on_with_its_rounds(make_trainer, tasks, tmp_path):
    def earlier():
        buffer = train(make_trainer(num_train_epochs=2)).buffer
        buffer.capacity, buffer.eviction = 12, "age"
        return buffer

    options = {"save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / "later")}
    later = make_trainer(buffer=earlier(), **options)
    later.collector.source = others(tasks)
    train(later)
    # The programs of the earlier run give way, not the new ones.
    assert later.buffer.round_indices().tolist() == [1] * 8 + [4] * 4
    resumed = make_trainer(seed=5, buffer=earlier(), **options)
    resumed.collector.source = others(tasks)
    train(resumed, resume_from_checkpoint=str(tmp_path / "later" / "checkpoint-3"))
    assert resumed.buffer.round_indices().tolist() == later.buffer.round_indices().tolist()
    assert resumed.buffer.digest() == later.buffer.digest()
    assert torch.equal(weights(resumed), weights(later))


class Changing(TrainerCallback):
    """A callback that changes how the buffer is drawn from at the end of each round."""

    def __init__(self, buffer):
        self.buffer = buffer

    def on_epoch_end(self, args, state, control, **kwargs):
        self.buffer.priority = "rank"
        self.buffer.seed += 1


def test_draws_are_counted_as_they_were_made(make_trainer):
    trainer = make_trainer(priority="uniform", num_train_epochs=2)
    trainer.add_callback(Changing(trainer.buffer))
    train(trainer)
    trainer.buffer.priority, trainer.buffer.seed = "uniform", 42
    assert trainer.buffer.times_drawn().tolist() == naive_counts(trainer, rounds=1)


@pytest.mark.parametrize("judged", [False, True])
@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_resumed_run_draws_as_an_uninterrupted_one(make_trainer, judged, step, tmp_path):
    rows = [{"prompt": f"# {n}\n", "completion": f"x = {n}", "logprob": -1.0, "pass_rate": n / 8} for n in range(9)]
    options = {"save_strategy": "steps", "save_steps": 1}
    if judged:
        options["train_dataset"] = datasets.Dataset.from_list(rows)
    whole = train(make_trainer(buffer=ReplayBuffer(priority=seldom_drawn), **options))
    resumed = make_trainer(
        seed=5, buffer=ReplayBuffer(priority=seldom_drawn), **options, output_dir=str(tmp_path / "again")
    )
    train(resumed, resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{step}"))
    assert resumed.buffer.times_drawn().tolist() == whole.buffer.times_drawn().tolist()
    assert sum(resumed.buffer.times_drawn()) == 16
    assert resumed.buffer.digest() == whole.buffer.digest()
    assert torch.equal(weights(resumed), weights(whole))


def test_options_without_anything_to_work_on_are_refused(make_trainer):
    rows = [{"prompt": "p", "completion": "c", "logprob": None, "pass_rate": 1.0}]
    judged = datasets.Dataset.from_list(rows)
    with pytest.raises(ValueError, match="age_decay: needs programs of several rounds"):
        make_trainer(train_dataset=judged, age_decay=10.0)
    make_trainer(train_dataset=judged.add_column("round_index", [3]), age_decay=10.0)
    with pytest.raises(ValueError, match="possibility_exponent: needs the log-probabilities"):
        make_trainer(train_dataset=judged, possibility_exponent=1.0)
    with pytest.raises(ValueError, match="cpu_time_exponent: needs the CPU times"):
        make_trainer(train_dataset=judged, cpu_time_exponent=1.0)
    with pytest.raises(ValueError, match="importance_exponent: must be 0 with the priority 'best'"):
        make_trainer(importance_exponent=0.5)
    with pytest.raises(ValueError, match="importance_exponent: must be 0 with the priority 'best'"):
        make_trainer(importance_exponent=0.5, priority="rank", buffer=ReplayBuffer())


def test_draw_options_are_checked_before_a_model_is_loaded(tasks, tmp_path):
    options = {"use_cpu": True, "bf16": False, "report_to": [], "importance_exponent": 0.5}
    with pytest.raises(ValueError, match="importance_exponent: must be 0 with the priority 'best'"):
        PPERTrainer("no/such-model", PPERConfig(str(tmp_path), **options), train_dataset=tasks)


def test_best_goes_on_where_nothing_passes_and_says_so(make_trainer, capfd):
    trainer = make_trainer(num_train_epochs=1, log_level="info")
    trainer.collector.source = DatasetSource(
        [{"task_id": task.task_id, "completion": "    return None\n"} for task in trainer.collector.tasks]
    )
    train(trainer)
    said = capfd.readouterr()
    assert "round 1: no program passes any test yet" in said.out + said.err
    assert trainer.state.global_step == 2


class Watching(TrainerCallback):
    """A callback that notes at each step whether the buffer draws failed programs."""

    def __init__(self, buffer):
        self.buffer, self.failed = buffer, []

    def on_step_begin(self, args, state, control, **kwargs):
        self.failed.append(bool((self.buffer.probabilities()[self.buffer.pass_rates() < 1] > 1e-3).any()))


@pytest.mark.parametrize("judged", [False, True])
def test_near_misses_are_left_out_of_the_last_round(make_trainer, judged, tmp_path):
    rows = [{"prompt": f"# {n}\n", "completion": f"x = {n}", "logprob": -1.0, "pass_rate": n / 8} for n in range(9)]
    options = {"save_strategy": "steps", "save_steps": 1, "task_exponent": 0.5}
    if judged:
        options["train_dataset"] = datasets.Dataset.from_list(rows)

    def made(**more):
        trainer = make_trainer(**options, **more)
        watching = Watching(trainer.buffer)
        trainer.add_callback(watching)
        if not judged:
            # Two tasks get near misses alone, which pass one of three tests.
            wrong = [
                {"task_id": task.task_id, "completion": f"    return {n}\n"}
                for n, task in enumerate(trainer.collector.tasks[:2], start=2)
            ]
            right = [{"task_id": t.task_id, "completion": f"    return x + {n}\n"} for n, t in
                     enumerate(trainer.collector.tasks[2:], start=3)]  # fmt: skip
            trainer.collector.source = DatasetSource(wrong + right)
        return trainer, watching

    trainer, watching = made()
    if not judged:
        trainer.collector.collect()
        assert not trainer.buffer.last_round, "nobody trains"
    train(trainer)
    if not judged:
        solved = {one.task_id for one in trainer.buffer if one.pass_rate == 1}
        assert 0 < len(solved) < 4
        assert any(0 < rate < 1 for rate in trainer.buffer.pass_rates())
    assert watching.failed == [True] * 4 + [False] * 2
    assert not trainer.buffer.last_round
    for step in (3, 4, 5):
        resumed, again = made(seed=5, output_dir=str(tmp_path / "again"))
        train(resumed, resume_from_checkpoint=str(Path(trainer.args.output_dir) / f"checkpoint-{step}"))
        assert again.failed == watching.failed[step:]
        assert torch.equal(weights(resumed), weights(trainer))
