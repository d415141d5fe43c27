"""The model card: what was measured before and after, what was replayed, and nothing of tasks and programs."""

import copy
import json
import re

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, parse_eval_result_entries
from peft import LoraConfig

from trl_pper import Experience, PPERConfig, PPERTrainer, ReplayBuffer, as_chat
from trl_pper.replay.exports.summary import summarise_exports
from trl_pper.tasks.mixture import SourceCount
from trl_pper.training.card import (
    RunFacts,
    changes,
    eval_results,
    evaluations,
    hide_local_paths,
    local_base,
    write_model_card,
)

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
    found = ReplayBuffer(priority="proportional")
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
        (tmp_path / "README.md").write_text(facts.pop("theirs", THEIRS))
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


def test_what_an_export_would_hold_is_said(card):
    held = buffer()
    text = card(held=held, exports=summarise_exports(held))
    assert "| pairs for preference training | 1 of 2 tasks have a passing and a failing completion" in text
    assert "in 1 pairs; the distance of the closest is 1 characters" in text
    assert (
        "| labels for unpaired training | 1 completions pass every test (desirable, for KTO), and 2 do not |" in text
    )
    assert "canary" not in text
    # Without any program there is nothing to say.
    assert "preference training" not in card(held=ReplayBuffer(), exports=summarise_exports([]))


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
        ("best", "the best programs of each task were drawn", True),
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


def test_messages_are_asked_and_told_where_the_tasks_are_chat(card):
    text = card(chat=True)
    assert "as an answer to the chat messages of the task." in text
    assert "as a continuation" not in text
    assert "tokenizer.apply_chat_template(messages" in text
    assert 'tokenizer("def' not in text
    text = card()
    assert "apply_chat_template" not in text
    assert "as a continuation of the task." in text


def usage(text: str) -> str:
    return re.search(r"^## Use\n\n```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)[1]


@pytest.mark.parametrize("chat", [False, True])
def test_the_usage_runs_as_it_is_printed(card, make_model, tokenizer, tmp_path, capsys, chat):
    tokenizer = copy.deepcopy(tokenizer)
    if chat:
        tokenizer.chat_template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    make_model().save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    # The path last: it may hold these numbers, too.
    code = usage(card(chat=chat)).replace("256", "4").replace("64", "4").replace("me/tiny", str(tmp_path / "saved"))
    exec(code, {})
    assert capsys.readouterr().out.endswith("\n")


@pytest.mark.parametrize(
    ("readme", "config", "said", "base_model"),
    [
        ("model_name: mine\nbase_model: org/base", {}, "from `mine`, a model based on [org/base](http", "org/base"),
        ("model_name: mine", {}, "A code model fine-tuned from `mine` on\n", None),
        ("base_model: org/base", {}, "A code model fine-tuned from a model based on [org/base](http", "org/base"),
        (
            "base_model: [org/a, org/b]", {}, "based on [org/a](https://huggingface.co/org/a), [org/b](",
            ["org/a", "org/b"],
        ),
        (None, {"_name_or_path": "org/base"}, "from a model based on [org/base](", "org/base"),
        (None, {"_name_or_path": "/home/me/secret"}, "A code model on\n", None),
        ("base_model: /home/me/secret\nmodel_name: /home/me/secret", {}, "A code model on\n", None),
        ("base_model: [", {}, "A code model on\n", None),
        (None, None, "A code model on\n", None),
    ],
)  # fmt: skip
def test_a_local_base_is_named_by_its_own_card(card, tmp_path, readme, config, said, base_model):
    folder = tmp_path / "secret-base"
    folder.mkdir()
    if readme is not None:
        (folder / "README.md").write_text(f"---\n{readme}\n---\n# a model\n")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    # TRL names no base model that is a folder.
    text = card(base=local_base(str(folder)), theirs=THEIRS.replace("base_model: org/base\n", ""))
    assert said in text
    assert ModelCard(text).data.base_model == base_model
    assert "secret" not in text


@pytest.mark.slow
def test_a_run_from_a_folder_names_no_folder(make_model, tokenizer, tasks, tmp_path):
    folder = tmp_path / "secret-base"
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nmodel_name: tiny-base\nbase_model: org/base\n---\n# tiny-base\n")
    trainer = PPERTrainer(
        model=str(folder),
        args=PPERConfig(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
            max_completion_length=4, max_steps=1, save_steps=1, judge_workers=1, gradient_checkpointing=False,
        ),
        train_dataset=as_chat(tasks), processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=True),
    )  # fmt: skip
    trainer.train()
    trainer.judge.close()
    trainer.save_model()
    text = (tmp_path / "run" / "README.md").read_text()
    assert "fine-tuned from `tiny-base`, a model based on [org/base](https://huggingface.co/org/base), on" in text
    assert "as an answer to the chat messages of the task." in text
    for card in tmp_path.glob("run/**/README.md"):
        assert str(tmp_path) not in card.read_text()


def test_a_model_of_the_hub_is_no_local_base(tmp_path):
    assert local_base("org/base") is None
    assert local_base("") is None


def test_an_adapters_card_loses_the_path_of_its_base(tmp_path):
    path = tmp_path / "README.md"
    base = tmp_path / "secret"
    base.mkdir()
    path.write_text(f"---\nbase_model: {base}\ntags:\n- base_model:adapter:{base}\n- lora\n---\n\n# mine\n")
    hide_local_paths(tmp_path)
    assert "secret" not in path.read_text()
    assert ModelCard.load(path).data.tags == ["lora"]
    assert path.read_text().endswith("# mine\n")
    path.write_text("---\nbase_model: org/base\ntags:\n- base_model:adapter:org/base\n---\n\n# mine\n")
    before = path.read_text()
    hide_local_paths(tmp_path)
    assert path.read_text() == before
    path.unlink()
    hide_local_paths(tmp_path)
    assert not path.exists()


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
