"""vLLM through TRL's own class, with an engine of the tests behind it that samples with transformers.

vLLM itself needs a GPU. What is real here is TRL's `VLLMGeneration`: how it is asked, and what it sends and returns.
"""

import copy
import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig
from trl.generation import vllm_generation

from tests.generation.test_generation import naive_logprob
from tests.generation.test_token_scores import build, sequences, tasks  # noqa: F401
from tests.support.pages import ROOT
from trl_pper import BeamSampleCollector, PPERConfig, PPERTrainer
from trl_pper.generation.vllm import VLLMOptions, VLLMSource
from trl_pper.tasks.task import CodingTask, FunctionTests


class Params:
    """Stands in for vLLM's `SamplingParams`."""

    def __init__(self, **given):
        self.__dict__.update(given)


class Engine:
    """Stands in for vLLM's `LLM`: a model with weights of its own until it gets others."""

    blank: torch.nn.Module
    made: ClassVar[list["Engine"]] = []

    def __init__(self, **given):
        self.given, self.model, self.loads, self.asked = given, copy.deepcopy(self.blank), 0, []
        self.slept = self.reset = 0
        runner = SimpleNamespace(model=SimpleNamespace(load_weights=self.load))
        driver = SimpleNamespace(model_runner=runner)
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=driver))
        Engine.made.append(self)

    def load(self, named):
        own = dict(self.model.named_parameters())
        for name, value in named:
            with torch.no_grad():
                own[name].copy_(value)
            self.loads += 1

    def reset_prefix_cache(self):
        self.reset += 1

    def sleep(self, level):
        self.slept += 1

    def wake_up(self, tags):
        pass

    @torch.no_grad()
    def generate(self, prompts, sampling_params, use_tqdm):
        self.asked.append((prompts, sampling_params))
        return [self._one(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _one(self, prompt, params):
        ids, said = [], []
        for _ in range(params.max_tokens):
            logits = self.model(torch.tensor([[*prompt, *ids]])).logits[0, -1] / params.temperature
            logprobs = logits.log_softmax(-1)
            token = int(torch.multinomial(logprobs.exp(), 1))
            ids.append(token)
            said.append({token: SimpleNamespace(logprob=float(logprobs[token]), rank=1)})
            if token in (0, *range(10, 100)):
                break
        return SimpleNamespace(
            prompt_token_ids=prompt, outputs=[SimpleNamespace(token_ids=ids, logprobs=said)]
        )  # fmt: skip


@pytest.fixture
def engines(build, monkeypatch):  # noqa: F811
    """The engines that were started, in place of vLLM's."""
    Engine.made = []
    torch.manual_seed(9)
    Engine.blank = build("llama").model
    for parameter in Engine.blank.parameters():
        torch.nn.init.normal_(parameter)
    monkeypatch.setattr(importlib.import_module("trl.import_utils"), "is_vllm_available", lambda *_: True)
    monkeypatch.setattr(vllm_generation, "is_vllm_available", lambda *_: True)
    for name, stands_in in (("LLM", Engine), ("SamplingParams", Params)):
        monkeypatch.setattr(vllm_generation, name, stands_in, raising=False)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        # TRL sets them for vLLM; they must not reach other tests.
        monkeypatch.setenv(name, "0" if name != "WORLD_SIZE" else "1")
        monkeypatch.delenv(name)
    return Engine.made


def source(**options):
    return VLLMSource(**{"num_programs": 3, "max_completion_length": 6, "temperature": 1.0, "top_p": 1.0} | options)


def test_samples_are_those_of_the_model_in_training(engines, build, tasks, monkeypatch):  # noqa: F811
    local = build("llama")
    monkeypatch.setattr(type(local), "logprobs", lambda *_, **__: pytest.fail("a second pass"))
    writer = source(batch_size=2)
    found = list(sequences(local, tasks, writer.generate(tasks, student=local)))
    assert len(found) == 12
    for prompt, ids, program in found:
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)
    (engine,) = engines
    assert [len(prompts) for prompts, _ in engine.asked] == [6, 6]
    assert engine.asked[0][1].temperature == 1.0
    assert engine.given["gpu_memory_utilization"] == 0.3
    assert engine.reset == 1


def test_each_round_writes_with_the_weights_of_then(engines, build, tasks):  # noqa: F811
    local = build("llama")
    writer = source()
    list(writer.for_round(0).generate(tasks[:1], student=local))
    torch.nn.init.normal_(local.model.lm_head.weight, std=0.5)
    again = list(sequences(local, tasks[:1], writer.for_round(1).generate(tasks[:1], student=local)))
    for prompt, ids, program in again:
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)
    assert len(engines) == 1, "one engine for all rounds"


def test_adapters_are_merged_for_the_engine_alone(engines, build, tasks):  # noqa: F811
    local = build("llama")
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = type(local)(model=get_peft_model(local.model, config), processing_class=local.processing_class)
    before = copy.deepcopy(adapted.model.state_dict())
    written = sequences(adapted, tasks, source().generate(tasks, student=adapted))
    for prompt, ids, program in list(written):
        assert program.logprob == pytest.approx(naive_logprob(adapted.model, prompt, ids), abs=1e-3)
    after = adapted.model.state_dict()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert before.keys() == after.keys()


def test_cooler_samples_are_scored_by_the_model_itself(engines, build, tasks):  # noqa: F811
    local = build("llama")
    written = source(temperature=0.5).generate(tasks, student=local)
    for prompt, ids, program in sequences(local, tasks, written):
        # The engine's own numbers are those of the cooler distribution.
        assert program.logprob == pytest.approx(naive_logprob(local.model, prompt, ids), abs=1e-3)


def test_stops_of_all_prompts_end_the_engine_early(engines, build, tasks):  # noqa: F811
    local = build("llama")
    asked = [replace(tasks[0], stop=("\nclass", "\ndef")), replace(tasks[1], stop=("\ndef",))]
    list(source().generate(asked, student=local))
    list(source().generate(tasks[:1], student=local))
    assert engines[0].asked[0][1].stop == ["\ndef"]
    assert not hasattr(engines[1].asked[0][1], "stop")


def test_missing_completions_are_an_error(engines, build, tasks, monkeypatch):  # noqa: F811
    local = build("llama")
    generate = Engine.generate
    monkeypatch.setattr(Engine, "generate", lambda self, *args, **kwargs: generate(self, *args, **kwargs)[:-1])
    with pytest.raises(RuntimeError, match="11 completions were written for 4 tasks of 3 programs"):
        list(source().generate(tasks, student=local))


@pytest.mark.parametrize(("option", "value"), [("vllm_mode", "server"), ("vllm_gpu_memory_utilization", 0.5)])
def test_options_of_an_engine_that_is_not_used(tmp_path, option, value):
    words = rf"^{option}: must be its default unless generation_engine is 'vllm' \(it is 'transformers'\); got "
    with pytest.raises(ValueError, match=words):
        PPERConfig(str(tmp_path), bf16=False, **{option: value})
    PPERConfig(str(tmp_path), bf16=False, generation_engine="vllm", decoding="nucleus", **{option: value})


def test_without_vllm_nothing_begins(build, tasks):  # noqa: F811
    with pytest.raises(ImportError, match=r"generation_engine: 'vllm' needs the package vllm.*trl\[vllm\]"):
        source().check(tasks, student=build("llama"))


def test_a_prompt_too_long_for_the_engine_is_refused(engines, build, tasks):  # noqa: F811
    local = build("llama")
    longest = max(len(ids) for ids in local.encode([task.prompt for task in tasks])) + 6
    source(options=VLLMOptions(max_model_length=longest)).check(tasks, student=local)
    short = VLLMOptions(max_model_length=longest - 1)
    with pytest.raises(ValueError, match=r"^vllm_max_model_length: must hold the \d+ tokens of task '2' and max_comp"):
        source(options=short).check(tasks, student=local)
    # A server has a length of its own.
    source(options=replace(short, mode="server")).check(tasks, student=local)


def test_options_are_those_of_grpo():
    ours = PPERConfig.__dataclass_fields__
    for name in VLLMOptions.__dataclass_fields__:
        option = ours[f"vllm_{name}"]
        assert (
            option.default == GRPOConfig.__dataclass_fields__[f"vllm_{name}"].default == getattr(VLLMOptions(), name)
        )
        assert name in inspect.signature(vllm_generation.VLLMGeneration.__init__).parameters


@pytest.mark.parametrize("options", [
    {"vllm_mode": "beside"}, {"vllm_gpu_memory_utilization": 1.5}, {"vllm_tensor_parallel_size": 0},
    {"decoding": "beam", "generation_engine": "vllm"},
])  # fmt: skip
def test_options_out_of_range_are_refused_by_name(options, tmp_path):
    name = next(key for key in options if key != "decoding")
    with pytest.raises(ValueError, match=name):
        PPERConfig(str(tmp_path), **{"decoding": "nucleus", "generation_engine": "vllm"} | options)


def test_a_trainer_collects_with_it(engines, build, tasks, tmp_path):  # noqa: F811
    local = build("llama")
    trainer = PPERTrainer(
        local.model,
        PPERConfig(
            str(tmp_path), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no", num_beams=2,
            num_train_epochs=2, steps_per_round=2, max_completion_length=5, per_device_train_batch_size=2,
            decoding="nucleus", temperature=1.0, top_p=1.0, generation_engine="vllm", vllm_enable_sleep_mode=True,
            learning_rate=1e-2, gradient_checkpointing=False, judge_workers=1, max_length=128, trust_remote_code=True,
        ),
        train_dataset=[replace(one, tests=FunctionTests(entry_point="f", code="assert f(1) == 2")) for one in tasks],
        processing_class=local.processing_class,
        callbacks=[BeamSampleCollector()],
    )  # fmt: skip
    with trainer.judge:
        trainer.train()
    assert trainer.state.global_step == 4
    (engine,) = engines
    assert engine.given["trust_remote_code"] is True
    assert engine.slept == 3, "after its start and after each collection"
    assert '"engine": "vllm"' in trainer.buffer[0].settings


def test_processes_ask_a_server_together(make_model, tokenizer, tmp_path):
    # Three batches for two processes: the second writes one more, which is dropped.
    rows = [
        CodingTask(
            task_id=f"t{n}",
            prompt=f"# {n}\ndef f():\n",
            tests=FunctionTests(entry_point="f", code=f"assert f() == {n}0"),
        )
        for n in range(5)
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in rows))
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "tests/support/vllm_server_run.py", str(tmp_path)],
        capture_output=True, text=True, timeout=240, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1))
    assert first["digest"] == second["digest"]
    assert (first["steps"], first["syncs"]) == (4, 2)
    # Two batches of two tasks from each process, in each of two rounds.
    assert (first["calls"], second["calls"]) == ([4, 4] * 2, [])
    expected = {(f"t{n}", f"    return {n}{at}\n") for n in range(5) for at in range(2)}
    assert {(task, text) for task, text, _ in first["programs"]} == expected
    assert {round(logprob / -0.5) for *_, logprob in first["programs"]} == {len("    return 00\n") + 1}
