"""docs/metrics-reference.md names every number that is logged, and no other."""

import re
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer

ROOT = Path(__file__).parents[2]
NAMES = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "metrics-reference.md").read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module")
def logged(make_model, tokenizer, tasks, tmp_path_factory) -> set[str]:
    """What three runs log: on a mixture of sources and difficulties, with text to evaluate on, and with a ratio."""
    folder = tmp_path_factory.mktemp("run")
    mixed = [
        replace(task, source="ab"[n % 2], difficulty=("easy", "very hard")[n % 2]) for n, task in enumerate(tasks)
    ]
    rows = [{"task_id": task.task_id, "completion": "    return x\n"} for task in tasks]
    text = datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}])
    names = set()
    for held_out, objective in ((mixed, "sft"), (text, "sft"), (text, "topr")):
        trainer = PPERTrainer(
            model=make_model(),
            args=PPERConfig(
                str(folder), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2, logging_steps=1,
                max_completion_length=6, max_length=128, per_device_train_batch_size=4, steps_per_round=1,
                num_train_epochs=1, save_strategy="no", judge_workers=1, gradient_checkpointing=False,
                objective=objective,
            ),
            train_dataset=mixed,
            eval_dataset=held_out,
            processing_class=tokenizer,
            callbacks=[BeamSampleCollector(source=DatasetSource(rows) if objective == "sft" else None)],
        )  # fmt: skip
        with trainer.judge:
            trainer.train()
            trainer.evaluate()
        names |= {name for entry in trainer.state.log_history for name in entry}
    return names


def pattern(name: str) -> re.Pattern[str]:
    """Return what matches the names that a name with a placeholder such as <source> stands for."""
    return re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(name).replace(r"\<", "<").replace(r"\>", ">")))


def documented(name: str) -> bool:
    plain = [known for known in NAMES if "<" not in known]
    return name in plain or any(pattern(known).fullmatch(name) for known in NAMES if "<" in known)


def test_what_is_logged_is_on_the_page(logged):
    assert {
        "pper/solved/a",
        "pper/objective_ratio_mean",
        "eval_accuracy_very_hard",
        "eval_pass@2",
        "eval_loss",
    } <= logged
    assert [name for name in sorted(logged) if not documented(name)] == []


def test_what_is_on_the_page_is_logged(logged):
    assert len(NAMES) > 40
    assert [name for name in NAMES if not any(pattern(name).fullmatch(one) for one in logged)] == []


def test_a_placeholder_stands_for_names_and_for_nothing_else():
    assert documented("pper/solved/apps")
    assert not documented("pper/solved_twice")
    assert not documented("pper/solved/apps/easy")
