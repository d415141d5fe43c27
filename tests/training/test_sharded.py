"""Weights sharded among two processes (FSDP2, DeepSpeed ZeRO-2 and ZeRO-3) train as unsharded ones do.

The runs take the configurations in `examples/accelerate/`, on a CPU and in full precision. Accelerate knows FSDP for
GPUs alone: `forked_run.py` lets it believe that it has some, and FSDP2 itself shards on the CPU. Where DeepSpeed is
not installed its tests are skipped, but for `make test-zero`, which promises it.
"""

import importlib.util
import os

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.forked_plan import carry_out
from trl_pper.demo.run import MODEL

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
LAYERWISE = "zero3, layer by layer"
KINDS = ["fsdp", "zero2", "zero3"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.runs(*(f"examples/accelerate/{launch}.yaml" for launch in ("ddp", *KINDS))),
]


def run(name: str, launch: str, **plan) -> dict:
    config = {
        "steps_per_round": 2, "max_completion_length": 64, "save_strategy": "steps", "save_steps": 3,
        # Where weights are sharded only: it changes no result.
        "gradient_checkpointing": launch != "ddp",
        **plan.pop("config", {}),
    }  # fmt: skip
    # Five tasks in batches of two: the second process has nothing to write while the first one has its last batch.
    return {
        "name": name,
        "output": name,
        "processes": 2,
        "tasks": 5,
        "launch": f"{launch}.yaml",
        "config": config,
        **plan,
    }


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    short = {"num_train_epochs": 1}
    plan = [run("ddp", "ddp", evaluate=True), run("ddp with LoRA", "ddp", lora=True, config=short)]
    for kind in KINDS if HAS_DEEPSPEED else KINDS[:1]:
        plan.append(run(kind, kind, evaluate=True))
        plan.append(run(f"{kind}, resumed", kind, resume=str(folder / kind / "checkpoint-3")))
        plan.append(run(f"{kind} with LoRA", kind, lora=True, config=short))
    if HAS_DEEPSPEED:
        plan.append(run(LAYERWISE, "zero3", config={"ds3_gather_for_generation": False, **short}))
    return carry_out(folder, plan)


@pytest.fixture
def seen(carried, kind):
    if kind != "fsdp" and not HAS_DEEPSPEED:
        if os.environ.get("REQUIRE_DEEPSPEED"):
            pytest.fail("deepspeed: promised by REQUIRE_DEEPSPEED, and not installed")
        pytest.skip("deepspeed is not installed; `make test-zero` runs this")
    return carried.seen(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_shard_and_hold_the_same_buffer(carried, seen, kind):
    assert [one["world_size"] for one in seen] == [2, 2]
    assert {one["distributed_type"] for one in seen} == {"FSDP" if kind == "fsdp" else "DEEPSPEED"}
    whole = carried.seen("ddp")[0]["held"]
    assert [one["held"] for one in seen] == [whole if kind == "zero2" else whole / 2] * 2
    assert len({one["digest"] for one in seen}) == 1
    # Neither prompts nor completions are all of one length.
    assert len(seen[0]["prompt_lengths"]) > 2
    assert len(seen[0]["completion_lengths"]) > 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_journal_is_known_however_the_weights_are_sharded(carried, seen, kind):
    def journals(name: str) -> set[str]:
        return {folder.name for folder in (carried.folder / name / "_pper" / "journal").glob("round-00000-*")}

    assert journals(kind) == journals("ddp")
    assert len(journals("ddp")) == 1


@pytest.mark.parametrize("kind", ["zero3"])
def test_weights_come_together_for_generation_unless_told_not_to(carried, seen):
    assert [one["whole"] for one in seen] == [carried.seen("ddp")[0]["held"]] * 2
    for layerwise, one in zip(carried.seen(LAYERWISE), seen, strict=True):
        assert layerwise["whole"] == 0
        assert layerwise["losses"] == one["losses"][:2]
        assert layerwise["programs"] == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_model_writes_and_learns_like_a_whole_one(carried, seen, kind):
    expected = carried.seen("ddp")
    for one, other in zip(seen, expected, strict=True):
        assert one["batches"] == other["batches"]
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-3)
        for what in ("steps", "programs", "pass_rates", "completion_lengths", "accuracy"):
            assert one[what] == other[what], what
    assert len(expected[0]["losses"]) == 4
    assert seen[0]["sums"] == pytest.approx(expected[0]["sums"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_saved_model_is_whole(carried, seen, kind):
    folder = carried.folder / kind / "model"
    saved = {name: float(value.double().sum()) for name, value in load_file(folder / "model.safetensors").items()}
    assert saved == pytest.approx({name: seen[0]["sums"][name] for name in saved}, rel=1e-6, abs=1e-6)
    loaded, base = AutoModelForCausalLM.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(MODEL)
    moved = [(a - b).abs().max() for a, b in zip(loaded.parameters(), base.parameters(), strict=True)]
    assert min(moved) > 0
    # Ten thousandths a step, four steps.
    assert max(moved) < 4e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_goes_on_from_its_checkpoint(carried, seen, kind):
    for whole, resumed in zip(seen, carried.seen(f"{kind}, resumed"), strict=True):
        assert resumed["steps"] == whole["steps"] == 4
        assert resumed["batches"] == whole["batches"][3:]
        assert resumed["losses"] == whole["losses"]
        assert resumed["digest"] == whole["digest"]
        assert resumed["sums"] == whole["sums"]


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_are_evaluated_before_training_too(carried, seen, kind):
    assert seen[0]["accuracy_before"] == seen[1]["accuracy_before"] == 0.2
    assert seen[0]["accuracy"] == 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_sharded_and_saved_like_any_weights(carried, seen, kind):
    expected, (one, other) = carried.seen("ddp with LoRA"), carried.seen(f"{kind} with LoRA")
    assert one["held"] == other["held"] == expected[0]["held"] / (1 if kind == "zero2" else 2)
    assert one["losses"] == other["losses"] == pytest.approx(expected[0]["losses"], rel=1e-3)
    assert one["digest"] == other["digest"]
    folders = [carried.folder / f"{name} with LoRA" / "model" for name in (kind, "ddp")]
    adapter, plain = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert adapter.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(adapter[name], value, rtol=1e-3, atol=1e-4)
