"""The commands ask an instruct model in messages, and evaluate final weights once."""

import copy
import json
import re

import pytest

from trl_pper import ReplayBuffer, load_tasks
from trl_pper.cli.commands import main
from trl_pper.cli.train_run import shorten
from trl_pper.generation.encoding import Encoder

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is false %}!{% endif %}{% endif %}"
)
SAID = "text prompts are put as chat messages, as this is an instruct model (--prompts 'text' continues the text)"


@pytest.fixture(scope="module")
def folder(make_model, tokenizer, tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("instruct")
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    make_model(n_positions=1024).save_pretrained(folder / "model")
    own.save_pretrained(folder / "model")
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks[:2]))
    return folder


def run(folder, command, *arguments) -> int:
    return main([command, "--tasks", str(folder / "tasks.jsonl"), *arguments, "--max_completion_length", "3"])


@pytest.mark.parametrize("prompts", [None, "text", "chat"])
def test_collect_asks_as_the_model_was_made_for(folder, tmp_path, capsys, prompts):
    output = tmp_path / "buffer.parquet"
    chosen = [] if prompts is None else ["--prompts", prompts]
    assert run(folder, "collect", "--model", str(folder / "model"), "--output", str(output), "--workers", "1",
               "--num_programs", "2", *chosen) == 0  # fmt: skip
    assert (SAID in capsys.readouterr().out) == (prompts is None)
    kinds = {type(one.prompt) for one in ReplayBuffer.load(output)}
    assert kinds == ({str} if prompts == "text" else {list})


def test_template_options_reach_every_prompt(folder, tmp_path, monkeypatch, capsys):
    asked = []
    encode = Encoder.prompt

    def record(self, prompt):
        ids = encode(self, prompt)
        asked.append(self.tokenizer.decode(ids))
        return ids

    monkeypatch.setattr(Encoder, "prompt", record)
    thoughtless = ["--chat_template_kwargs", '{"enable_thinking": false}']
    scores = tmp_path / "scores.json"
    arguments = ["--model", str(folder / "model"), "--output", str(scores), "--workers", "1"]
    assert run(folder, "evaluate", *arguments, *thoughtless) == 0
    assert asked
    assert all(text.endswith("<assistant>!") for text in asked)
    assert run(folder, "evaluate", *arguments, "--chat_template_kwargs", "[1]") == 2
    assert "--chat_template_kwargs: a JSON object is required; got '[1]'" in capsys.readouterr().err
    asked.clear()
    training = ["--model_name_or_path", str(folder / "model"), "--output_dir", str(tmp_path / "run"), "--use_cpu",
                "--bf16", "false", "--report_to", "none", "--max_steps", "1", "--judge_workers", "1",
                "--max_prompt_length", "600", "--save_strategy", "no"]  # fmt: skip
    assert run(folder, "train", *training, *thoughtless) == 0
    assert asked
    assert all(text.endswith("<assistant>!") for text in asked if "<user>" in text)


def test_prompts_are_measured_as_they_are_asked(folder, tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE
    encoder = Encoder(tokenizer=own, end_token_ids=frozenset([own.eos_token_id]))
    tasks = load_tasks(folder / "tasks.jsonl")
    longest = max(len(task.prompt) for task in tasks)
    assert len(shorten(tasks, encoder, longest, prompts="text")) == 2
    with pytest.raises(ValueError, match=rf"no prompt has at most {longest} tokens"):
        shorten(tasks, encoder, longest, prompts="auto")


@pytest.mark.parametrize("strategy", ["epoch", "no"])
def test_final_weights_are_evaluated_once(folder, tmp_path, capsys, strategy):
    output = tmp_path / "run"
    arguments = [
        "--model_name_or_path", str(folder / "model"), "--output_dir", str(output), "--use_cpu", "--bf16", "false",
        "--report_to", "none", "--num_train_epochs", "2", "--judge_workers", "1", "--save_strategy", "no",
        "--eval_tasks", str(folder / "tasks.jsonl"), "--eval_strategy", strategy, "--disable_tqdm",
    ]  # fmt: skip
    assert run(folder, "train", *arguments) == 0
    said = capsys.readouterr().out
    assert said.count("eval: 2 tasks") == (2 if strategy == "epoch" else 1)
    assert json.loads((output / "eval_results.json").read_text())["eval_tasks"] == 2.0
    card = (output / "README.md").read_text()
    # Also where no checkpoint was written, the scores of the card are those of the final weights.
    steps = {int(step) for step in re.findall(r"\(step (\d+)\)", card.split("accuracy", 1)[1])}
    assert max(steps) == 2
