"""One sequence is written, scored and learned: against the model's own calls, and against plain `SFTTrainer`."""

import copy
import logging
from dataclasses import replace

import datasets
import pytest
import torch
from peft import LoraConfig
from tokenizers import processors
from trl import SFTConfig, SFTTrainer

from trl_pper import (
    BeamSampleCollector,
    BeamSearchSource,
    CodingTask,
    DatasetSource,
    NucleusSource,
    PPERConfig,
    PPERTrainer,
    ProgramSource,
    ReplayBuffer,
    StdioTests,
)
from trl_pper.generation.source import GeneratedProgram
from trl_pper.tasks.task import StdioCase

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}{% if m.role == 'assistant' %}<eos>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>\n{% if enable_thinking is false %}-{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def stdio(number: int, prompt) -> CodingTask:
    return CodingTask(
        task_id=f"t{number}", prompt=prompt, tests=StdioTests(cases=(StdioCase(input="", output="1"),))
    )  # fmt: skip


def asked(kind: str) -> list[CodingTask]:
    texts = [f"# task {'x' * number}\n" for number in range(4)]
    prompts = texts if kind == "text" else [[{"role": "user", "content": text}] for text in texts]
    return [stdio(number, prompt) for number, prompt in enumerate(prompts)]


@pytest.fixture
def make_trainer(make_model, chat_tokenizer, tmp_path):
    def build(tasks, *, model=None, tokenizer=None, callbacks=None, peft_config=None, **options) -> PPERTrainer:
        settings = dict(
            use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=3, max_completion_length=5,
            per_device_train_batch_size=4, max_length=None, save_strategy="no", judge_workers=1,
            judge_cpu_seconds=1.0, judge_memory_bytes=2**30, gradient_checkpointing=False, priority="uniform",
            prompts="text",
        )  # fmt: skip
        trainer = PPERTrainer(
            model if model is not None else make_model(),
            PPERConfig(str(tmp_path), **{**settings, **options}),
            train_dataset=tasks,
            processing_class=tokenizer or chat_tokenizer,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        trainers.append(trainer)
        return trainer

    trainers: list[PPERTrainer] = []
    yield build
    for trainer in trainers:
        trainer.judge.close()


def learned(trainer) -> list[tuple[list[int], list[int]]]:
    """Return the prompt and the completion of each experience in the buffer, as the collator of the run sees them."""
    trainer.train_dataset.prepare(range(len(trainer.buffer)))
    found = []
    for position in range(len(trainer.buffer)):
        batch = trainer.data_collator([trainer.train_dataset[position]])
        ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        start = next((at for at, label in enumerate(labels) if label != -100), len(labels))
        assert labels[start:] == ids[start:]
        found.append((ids[:start], ids[start:]))
    return found


def probability(trainer, prompt: list[int], completion: list[int]) -> float:
    """Compute log P(completion | prompt) in a single plain forward pass."""
    model = trainer.model.eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0].float().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + at, token].item() for at, token in enumerate(completion))


def watch_generate(trainer, monkeypatch) -> list[tuple[list[int], list[int]]]:
    """Record the prompt and the completion of each row that `generate` returns, with padding removed."""
    bare = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
    rows, generate = [], bare.generate

    def record(**inputs):
        output, width = generate(**inputs), inputs["input_ids"].shape[1]
        written = getattr(output, "sequences", output)
        times = len(written) // len(inputs["input_ids"])
        for row, mask in zip(written.tolist(), inputs["attention_mask"].repeat_interleave(times, 0), strict=True):
            rows.append((row[width - int(mask.sum()) : width], row[width:]))
        return output

    monkeypatch.setattr(bare, "generate", record)
    return rows


LORA = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM", init_lora_weights=False)


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoding": "nucleus", "temperature": 1.5},
        {"padding_free": True, "length_grouping_steps": 2},
        {"peft_config": LORA, "gradient_checkpointing": True},
        {"chat_template_kwargs": {"enable_thinking": False}},
    ],
    ids=["beams", "nucleus", "padding free", "lora", "template options"],
)
def test_what_a_model_writes_is_scored_and_learned(make_trainer, chat_tokenizer, monkeypatch, kind, options):
    trainer = make_trainer(asked(kind), max_completion_length=3, **options)
    written = watch_generate(trainer, monkeypatch)
    trainer.collector.collect()
    assert len(written) == 12
    pairs = learned(trainer)
    prompts = {tuple(prompt) for prompt, _ in written}
    endings = set()
    for experience, (prompt, completion) in zip(trainer.buffer, pairs, strict=True):
        assert tuple(prompt) in prompts
        # Behind an end token `generate` pads.
        assert any(row[: len(completion)] == completion for asked, row in written if asked == prompt)
        assert len(completion) == experience.num_tokens
        assert experience.logprob == pytest.approx(probability(trainer, prompt, completion), abs=2e-3)
        assert experience.truncated == (completion[-1] != 0)
        assert len(completion) == 3 or not experience.truncated
        endings.add(experience.truncated)
    assert True in endings
    dash = chat_tokenizer("-")["input_ids"]
    with_option = "chat_template_kwargs" in options and kind == "chat"
    assert {prompt[-1:] == dash for prompt, _ in pairs} == {with_option}


def scripted(trainer, monkeypatch, tokenizer, texts: dict[str, str], *, ended: bool = True) -> None:
    """Let the model write a text for each prompt, and an end token if there is room for it."""
    bare = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model

    def generate(**inputs):
        limit = inputs["generation_config"].max_new_tokens
        rows = []
        for row in inputs["input_ids"].tolist():
            text = next(text for part, text in texts.items() if part in tokenizer.decode(row))
            ids = [*tokenizer(text)["input_ids"], *([tokenizer.eos_token_id] if ended else [])][:limit]
            rows += [row + ids + [tokenizer.pad_token_id] * (limit - len(ids))] * inputs[
                "generation_config"
            ].num_return_sequences
        return torch.tensor(rows)

    monkeypatch.setattr(bare, "generate", generate)


WHOLE = "print(1)\n"


@pytest.mark.parametrize("kind", ["text", "chat"])
@pytest.mark.parametrize(
    ("text", "stop", "limit", "kept", "with_end"),
    [
        (WHOLE, (), 30, WHOLE, True),
        (WHOLE, (), len(WHOLE), WHOLE, False),  # the model had no room for its end token
        (WHOLE, (), 6, "print(", False),
        (f"{WHOLE}# more", ("\n# more",), 30, "print(1)", True),  # a stop after a whole program
        ("print(\n# more", ("\n# more",), 30, "print(", False),  # a stop within a program
    ],
    ids=["end token", "limit after the program", "limit", "stop", "stop within the program"],
)
def test_an_end_token_is_learned_where_a_program_ends(
    make_trainer, chat_tokenizer, monkeypatch, kind, text, stop, limit, kept, with_end
):
    tasks = [replace(task, stop=stop) for task in asked(kind)]
    trainer = make_trainer(tasks, max_completion_length=limit)
    scripted(trainer, monkeypatch, chat_tokenizer, {"": text})
    report = trainer.collector.collect()
    assert len(trainer.buffer) == 4
    for experience, (prompt, completion) in zip(trainer.buffer, learned(trainer), strict=True):
        assert experience.completion == kept
        assert experience.truncated is not with_end
        assert chat_tokenizer.decode(completion) == kept + "<eos>" * with_end
        assert experience.num_tokens == len(completion)
        assert experience.logprob == pytest.approx(probability(trainer, prompt, completion), abs=2e-3)
    # Programs that a stop cut are not counted.
    assert report.clipped_ratio == float(limit < 30)


def rows_of_sft(make_model, tokenizer, rows, tmp_path) -> list[dict]:
    trainer = SFTTrainer(
        make_model(),
        SFTConfig(str(tmp_path / "sft"), use_cpu=True, bf16=False, report_to=[], max_length=None),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_whole_programs_are_learned_as_by_sft_trainer(make_trainer, make_model, chat_tokenizer, tmp_path, kind):
    tasks = asked(kind)
    bodies = ["print(1)", "print(1)\n", "print('\u00e9')", "<eos>"]
    teacher = DatasetSource(
        [{"task_id": task.task_id, "completion": body} for task, body in zip(tasks, bodies, strict=True)]
    )
    trainer = make_trainer(tasks, callbacks=[BeamSampleCollector(source=teacher)])
    trainer.collector.collect()
    trainer.train_dataset.prepare(range(4))
    rows = [
        {
            "prompt": task.prompt,
            "completion": body if kind == "text" else [{"role": "assistant", "content": body}],
        }
        for task, body in zip(tasks, bodies, strict=True)
    ]
    expected = rows_of_sft(make_model, chat_tokenizer, rows, tmp_path)
    if kind == "chat":
        # The line feed that the template puts behind the end token is no token that a model writes.
        expected = [{name: ids[:-1] for name, ids in row.items()} for row in expected]
    assert [trainer.train_dataset[position] for position in range(4)] == expected


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'user' %}<eos>{% endif %}\n{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}<eos>{% endif %}{{ '\n' }}{% endfor %}",
    ],
    ids=["opens a turn", "ends a prompt"],
)
def test_end_tokens_of_prompts_end_no_program(make_trainer, make_model, chat_tokenizer, tmp_path, template, truncated):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = template
    tasks = asked("chat")[:1]
    teacher = DatasetSource([{"task_id": "t0", "completion": "print(1)", "truncated": truncated}])
    trainer = make_trainer(tasks, tokenizer=tokenizer, callbacks=[BeamSampleCollector(source=teacher)])
    trainer.collector.collect()
    row = {"prompt": tasks[0].prompt, "completion": [{"role": "assistant", "content": "print(1)"}]}
    (theirs,) = rows_of_sft(make_model, tokenizer, [row], tmp_path)
    ids, labels = theirs["input_ids"], theirs["labels"]
    # A truncated program is learned without the line feed that the template puts behind it.
    end = len(ids) - (truncated and template.endswith("{{ '\n' }}{% endfor %}"))
    trainer.train_dataset.prepare([0])
    assert trainer.train_dataset[0] == {"input_ids": ids[:end], "labels": labels[:end]}
    ((prompt, completion),) = learned(trainer)
    assert trainer.buffer[0].logprob == pytest.approx(probability(trainer, prompt, completion), abs=2e-3)


def test_a_prompt_does_not_end_with_an_appended_end_token(make_trainer, make_model, tokenizer, monkeypatch):
    appending = copy.deepcopy(tokenizer)
    appending.backend_tokenizer.post_processor = processors.Sequence(
        [
            appending.backend_tokenizer.post_processor or processors.ByteLevel(),
            processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 0)]),
        ]
    )
    assert appending("a")["input_ids"][-1] == 0
    trainer = make_trainer(asked("text"), tokenizer=appending, dataset_text_field="prompt")
    written = watch_generate(trainer, monkeypatch)
    trainer.collector.collect()
    assert all(0 not in prompt for prompt, _ in written)
    for experience, (prompt, completion) in zip(trainer.buffer, learned(trainer), strict=True):
        assert prompt == tokenizer(experience.prompt)["input_ids"]
        assert completion.count(0) == (not experience.truncated)


def test_truncated_programs_can_be_left_out_of_the_loss(make_trainer, chat_tokenizer, monkeypatch):
    trainer = make_trainer(asked("text"), max_completion_length=12, mask_truncated_completions=True)
    texts = {"# task x": WHOLE, "# task \n": f"print(1)\n{'#' * 30}"}
    scripted(trainer, monkeypatch, chat_tokenizer, texts)
    trainer.collector.collect()
    assert trainer.buffer.truncated().tolist() == [True, False, False, False]
    assert trainer.buffer.probabilities().tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0
    everything = ReplayBuffer(mask_truncated_completions=True)
    everything.add(one for one in trainer.buffer if one.truncated)
    assert not everything.can_draw
    with pytest.raises(ValueError, match=r"all of its 1 completions are truncated.*Raise max_completion_length"):
        everything.probabilities()


def test_a_truncated_program_without_text_is_never_drawn(make_trainer, chat_tokenizer, monkeypatch):
    tasks = [replace(task, stop=("#",)) for task in asked("text")]
    trainer = make_trainer(tasks, max_completion_length=12, steps_per_round=4)
    scripted(trainer, monkeypatch, chat_tokenizer, {"# task x": WHOLE, "# task \n": "# nothing"})
    trainer.train()
    empty = next(one for one in trainer.buffer if not one.completion)
    assert (empty.truncated, empty.logprob) == (True, None)
    assert trainer.buffer.probabilities().tolist() == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("mask", [False, True])
def test_a_replayed_buffer_may_hold_truncated_programs(make_trainer, chat_tokenizer, monkeypatch, mask):
    tasks = [replace(task, stop=("#",)) for task in asked("text")]
    trainer = make_trainer(tasks, max_completion_length=12)
    scripted(trainer, monkeypatch, chat_tokenizer, {"# task x": WHOLE, "# task \n": "# nothing"})
    trainer.collector.collect()
    options = {"max_length": 64, "max_completion_length": 12, "mask_truncated_completions": mask}
    replayed = make_trainer(trainer.buffer.to_dataset(), **options)
    assert list(replayed.buffer) == list(trainer.buffer)
    replayed.train()
    assert replayed.state.log_history[-1]["train_loss"] > 0


def test_a_buffer_with_nothing_to_draw_is_refused_at_once(make_trainer, chat_tokenizer):
    row = {"prompt": "# task\n", "completion": "print(1", "pass_rate": 0.0}
    with pytest.raises(ValueError, match='"filter" draws only programs that pass every test, and none of 1 does'):
        make_trainer(datasets.Dataset.from_list([row]), priority="filter")


class InOtherTokens(ProgramSource):
    """A source that writes the same text each round, in other tokens."""

    def __init__(self, ids: list[int], round_index: int = 0) -> None:
        self.ids, self.round_index = ids, round_index

    def for_round(self, round_index: int) -> "InOtherTokens":
        return InOtherTokens(self.ids, round_index)

    def generate(self, tasks, *, student=None):
        # The padding token has no text.
        written = (*[1] * self.round_index, *self.ids, 0)
        for _ in tasks:
            yield [
                GeneratedProgram(
                    completion="print(1)", logprob=None, num_tokens=None, source="other", token_ids=written
                )
            ]


def test_a_program_written_again_is_learned_as_last_written(make_trainer, chat_tokenizer):
    ids = chat_tokenizer("print(1)")["input_ids"]
    collector = BeamSampleCollector(source=InOtherTokens(ids))
    trainer = make_trainer(asked("text")[:1], callbacks=[collector], num_train_epochs=2)
    for round_index in range(2):
        collector.collect(round_index)
        ((prompt, completion),) = learned(trainer)
        assert completion == [*[1] * round_index, *ids, 0] == list(trainer.buffer[0].token_ids)
        assert trainer.buffer[0].logprob == pytest.approx(probability(trainer, prompt, completion), abs=1e-4)


def test_earlier_answers_are_assistant_tokens_in_any_tokens(make_trainer, make_model, chat_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<eos>{% endgeneration %}"
        "{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    )
    prompt = [
        {"role": "user", "content": "1?"},
        {"role": "assistant", "content": "print(2)"},
        {"role": "user", "content": "No."},
    ]
    # The padding token has no text: these are other tokens than the tokenizer makes of it.
    row = {"prompt": prompt, "completion": "x", "pass_rate": 1.0, "token_ids": [1, *tokenizer("x")["input_ids"], 0]}
    trainer = make_trainer(
        datasets.Dataset.from_list([row]), tokenizer=tokenizer, assistant_only_loss=True, completion_only_loss=False
    )
    learned = [label for label in trainer.train_dataset[0]["labels"] if label != -100]
    assert tokenizer.decode(learned) == "print(2)<eos><pad>x<eos>"


def test_programs_that_mostly_run_into_the_limit_are_told_of(
    make_trainer, chat_tokenizer, monkeypatch, caplog, capsys
):
    trainer = make_trainer(asked("text"), max_completion_length=6, num_train_epochs=1)
    scripted(trainer, monkeypatch, chat_tokenizer, {"": WHOLE})
    with caplog.at_level(logging.WARNING, logger="trl_pper"):
        trainer.train()
    assert "12 of 12 completions were cut off at the longest length" in caplog.text
    assert "Raise max_completion_length" in caplog.text
    assert "12 cut off" in capsys.readouterr().out
    assert [entry["pper/clipped_ratio"] for entry in trainer.state.log_history if "pper/programs" in entry] == [1.0]


def test_a_teachers_row_says_that_it_is_truncated(make_trainer):
    tasks = asked("text")
    rows = [{"task_id": "t0", "completion": "print(1", "truncated": True}, {"task_id": "t1", "completion": "print(1)"}]
    trainer = make_trainer(tasks, callbacks=[BeamSampleCollector(source=DatasetSource(rows))])
    trainer.collector.collect()
    (cut, whole) = [completion for _, completion in learned(trainer)]
    assert (cut[-1] == 0, whole[-1] == 0) == (False, True)
    assert [one.num_tokens for one in trainer.buffer] == [len("print(1"), len("print(1)") + 1]
    with pytest.raises(ValueError, match=r"rows:1: truncated: must be true or false; got 'yes'"):
        DatasetSource([{"task_id": "t0", "completion": "x", "truncated": "yes"}])


def test_template_options_of_a_source_need_its_own_model(make_model, chat_tokenizer):
    for make in (BeamSearchSource, NucleusSource):
        with pytest.raises(ValueError, match="chat_template_kwargs: need a model of the source"):
            make(chat_template_kwargs={"enable_thinking": False})
        source = make(make_model().eval(), chat_tokenizer, chat_template_kwargs={"enable_thinking": False})
        assert source.identity()["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("kind", "prompts", "said"), [("text", "auto", True), ("text", "text", False), ("chat", "auto", False)]
)
def test_answers_to_text_for_an_instruct_model_are_told_of(make_trainer, capsys, kind, prompts, said):
    rows = [
        {"task_id": task.task_id, "prompt": task.prompt, "completion": WHOLE, "program": WHOLE, "pass_rate": 1.0}
        for task in asked(kind)
    ]
    make_trainer(rows, prompts=prompts)
    line = "4 of 4 programs answer text prompts, and this is an instruct model, which is asked in chat messages: "
    assert (line in capsys.readouterr().out) == said
