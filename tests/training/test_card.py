"""The model card: what was measured before and after, what was replayed, and nothing of tasks and programs."""

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, parse_eval_result_entries

from trl_pper import Experience, ReplayBuffer
from trl_pper.tasks.mixture import SourceCount
from trl_pper.training.card import RunFacts, changes, eval_results, evaluations, write_model_card

THEIRS = """\
---
base_model: org/base
library_name: transformers
licence: license
model_name: tiny
tags:
- trl
- pper
---

# Model Card for tiny

[<img src="https://x/badge.svg" alt="Visualize in Trackio" title="Visualize in Trackio"/>](https://x/run)

```bibtex
@software{theirs}
```
"""


def buffer() -> ReplayBuffer:
    found = ReplayBuffer()
    found.add(
        Experience(
            task_id=f"canary-{task}", prompt=f"canary prompt {task}", completion=f"canary {n}", program=f"canary {n}",
            pass_rate=rate, logprob=-1.0, num_tokens=3, source=source,
        )
        for n, (task, rate, source) in enumerate(
            [("a", 1.0, "teacher|`x`"), ("a", 0.5, "/home/canary/base"), ("b", 0.0, "")]
        )
    )  # fmt: skip
    return found


def log(step: int, **figures: float):
    return {**{f"eval_{name}": value for name, value in figures.items()}, "epoch": 1.0, "step": step}


@pytest.fixture
def card(tmp_path):
    def write(**facts) -> str:
        (tmp_path / "README.md").write_text(THEIRS)
        held = facts.pop("held") if "held" in facts else buffer()
        run = RunFacts(contents=held.contents(), settings=held.settings(), **facts)
        write_model_card(tmp_path, run, repo_id="me/tiny")
        return (tmp_path / "README.md").read_text()

    return write


def test_the_buffer_is_counted_and_not_quoted(card):
    text = card(isolation="landlock")
    for line in (
        "| programs | 3 |",
        "| tasks | 2 |",
        "| tasks with a passing program | 1 |",
        "| mean pass rate | 0.500 |",
        "| written by | `base`, `teacher/'x'` |",
        "| isolation level of the judge | `landlock` |",
        "| priority | proportional |",
    ):
        assert line in text
    assert "canary" not in text
    assert "The run was not evaluated." in text
    assert "this run collected none" in text


def test_an_empty_buffer_and_a_run_without_a_judge_say_so(card):
    text = card(held=ReplayBuffer())
    assert "| mean pass rate | none |" in text
    assert "| written by | unknown |" in text
    assert "| isolation level of the judge | nothing was judged in this run |" in text


def test_tasks_are_listed_by_source_and_difficulty(card):
    sources = [
        SourceCount(source="apps|x", tasks=1200, share=0.5, difficulties={"interview": 1000, None: 200}),
        SourceCount(source=None, tasks=3, share=0.5, difficulties={None: 3}),
    ]
    text = card(tasks=sources)
    assert "| `apps/x` | 1,200 | `interview` 1,000 |" in text
    assert "| not named | 3 | not named |" in text


def test_what_trl_writes_into_a_card_is_kept(card):
    text = card()
    data = ModelCard(text).data
    assert data.base_model == "org/base"
    assert data.tags == ["trl", "pper"]
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert "licence" not in data.to_dict()
    assert "(https://x/run)" in text
    assert "@software{theirs}" in text
    assert 'AutoModel.from_pretrained("me/tiny")' in text


@pytest.mark.parametrize(
    ("priority", "said", "failed"),
    [
        ("proportional", "drawn in proportion to a power of their P2Value", True),
        ("rank", "drawn by the rank of their P2Value", True),
        ("uniform", "drawn uniformly, a control", True),
        ("filter", "those that pass every test were drawn uniformly", False),
        (lambda p2values: p2values, "drawn by a priority function of the user's.", True),
    ],
)
def test_how_programs_were_drawn_is_said_as_it_was(card, priority, said, failed):
    text = card(held=ReplayBuffer(priority=priority))
    assert said in text
    assert ("Programs that failed were learned from as well" in text) is failed


def test_an_adapter_is_loaded_by_peft(card):
    text = card(adapter=True)
    assert ModelCard(text).data.library_name == "peft"
    assert "from peft import AutoPeftModelForCausalLM as AutoModel" in text


def test_the_first_and_the_last_evaluation_are_compared(card):
    logged = [
        log(0, accuracy=0.25, loss=1.5, runtime=3.0, tasks=77.0, mean_token_accuracy=0.9, **{"pass@3": 0.5}),
        {"loss": 0.1, "step": 3},
        log(5, accuracy=0.3),
        log(10, accuracy=0.75, loss=1.0, runtime=3.0, tasks=77.0, **{"pass@3": 0.5}),
    ]
    found = changes(evaluations(logged))
    assert [change.name for change in found] == ["accuracy", "loss", "pass@3"]
    text = card(evaluated=found, eval_tasks=77)
    assert "Measured on 77 evaluation tasks." in text
    assert "| `accuracy` | 0.250 (step 0, before training) | 0.750 (step 10) | +0.500 |" in text
    assert "| `loss` | 1.500 (step 0, before training) | 1.000 (step 10) | -0.500 |" in text
    assert "| `pass@3` | 0.500 (step 0, before training) | 0.500 (step 10) | +0.000 |" in text
    data = ModelCard(text).data
    assert data.model_name == "tiny"
    assert [(one.metric_name, one.metric_value, one.task_type) for one in data.eval_results] == [
        ("accuracy", 0.75, "text-generation"),
        ("pass@3", 0.5, "text-generation"),
    ]


def test_a_single_evaluation_is_no_change(card):
    text = card(evaluated=changes([log(4, accuracy=0.5)]))
    assert "| `accuracy` | 0.500 (step 4) | not measured again |  |" in text


def test_the_figures_are_those_of_the_weights_that_were_kept():
    logged = [log(0, accuracy=0.1), log(5, accuracy=0.9), log(10, accuracy=0.2)]
    (kept,) = changes(logged, kept_step=5)
    assert (kept.last, kept.last_step) == (0.9, 5)
    (last,) = changes(logged, kept_step=7)
    assert (last.last, last.last_step) == (0.2, 10)


def test_several_data_sets_and_difficulties_are_told_apart():
    found = changes([log(0, **{"easy_accuracy": 0.5, "accuracy_hard": 0.25, "easy_pass@3_hard": 1.0})])
    assert [change.name for change in found] == ["accuracy (easy)", "accuracy (hard)", "pass@3 (easy, hard)"]
    # Parts of the tasks are no results of their own.
    assert [(one.dataset_name, one.metric_type) for one in eval_results(found)] == [("easy", "accuracy")]


def test_a_benchmark_of_the_hub_gets_its_entry(card, tmp_path):
    found = changes([log(0, accuracy=0.5), log(9, accuracy=0.52345, **{"pass@3": 0.75})])
    text = card(evaluated=found, benchmark="openai/openai_humaneval:humaneval")
    assert {one.dataset_type for one in ModelCard(text).data.eval_results} == {"openai/openai_humaneval"}
    (file,) = (tmp_path / ".eval_results").iterdir()
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert isinstance(entry, EvalResultEntry)
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/openai_humaneval", "humaneval", 52.34)


def test_without_a_benchmark_no_leaderboard_is_told(card, tmp_path):
    card(evaluated=changes([log(9, accuracy=0.5)]))
    assert not (tmp_path / ".eval_results").exists()
    card(benchmark="org/set")
    assert not (tmp_path / ".eval_results").exists()


def test_the_metadata_is_what_the_hub_reads(card):
    data = ModelCard(card(evaluated=changes([log(9, accuracy=0.5)]))).data
    assert isinstance(data, ModelCardData)
    (index,) = data.to_dict()["model-index"]
    assert index["name"] == "tiny"
    assert index["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.5, "name": "accuracy"}
