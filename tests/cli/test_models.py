"""How the commands load models, what they take from a run's folder, and how they merge an adapter."""

import json

import datasets
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer, ReplayBuffer
from trl_pper.cli.commands import main
from trl_pper.generation.local_model import load_model

bitsandbytes = pytest.importorskip("bitsandbytes")
# bitsandbytes' 8-bit layers tell of each cast to float16, on every machine without a GPU.
pytestmark = pytest.mark.filterwarnings("ignore:MatMul8bitLt")

CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tasks, tokenizer):
    """Tasks, a tiny Llama, the same one with code of its own, and an adapter of it."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name in ("model", "own"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "own" / "own_code.py").write_text(CODE)
    stored = json.loads((folder / "own" / "config.json").read_text())
    auto = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnModel"}
    stored |= {"model_type": "own", "architectures": ["OwnModel"], "auto_map": auto}
    (folder / "own" / "config.json").write_text(json.dumps(stored))
    adapted = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapted = get_peft_model(adapted, LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    tokenizer.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture
def loaded(monkeypatch):
    """The models that a command loads."""
    models = []

    def load(*arguments, **options):
        models.append(load_model(*arguments, **options))
        return models[-1]

    monkeypatch.setattr("trl_pper.generation.local_model.load_model", load)
    return models


@pytest.fixture
def command(folder, tmp_path):
    """Run collect or evaluate with the model, and further options."""

    def run(name, *options, model="model"):
        output = tmp_path / {"collect": "buffer.parquet", "evaluate": "scores.json"}[name]
        given = ["--tasks", str(folder / "tasks.jsonl"), "--model", str(folder / model), "--num_programs", "1",
                 "--max_completion_length", "3", "--workers", "1", "--output", str(output), *options]  # fmt: skip
        return main([name, *given]), output

    return run


@pytest.mark.parametrize("name", ["collect", "evaluate"])
@pytest.mark.parametrize(
    ("options", "layer"),
    [
        ([], torch.nn.Linear),
        (["--load_in_4bit", "--dtype", "float32"], bitsandbytes.nn.Linear4bit),
        (["--load_in_8bit"], bitsandbytes.nn.Linear8bitLt),
    ],
)
def test_a_model_is_loaded_quantised(command, loaded, name, options, layer):
    code, output = command(name, *options, "--attn_implementation", "eager")
    assert code == 0
    ((model, _),) = loaded
    assert type(model.model.layers[0].mlp.up_proj) is layer
    assert model.config._attn_implementation == "eager"
    if name == "evaluate":
        programs = json.loads(output.read_text())["programs"]
        assert programs["attn_implementation"] == "eager"
        assert programs["load_in_4bit"] is (True if "--load_in_4bit" in options else None)
    else:
        assert len(ReplayBuffer.load(output)) > 0


@pytest.mark.parametrize("name", ["collect", "evaluate"])
def test_code_of_a_model_runs_only_if_it_is_trusted(command, loaded, capsys, name):
    assert command(name, model="own")[0] == 2
    assert "trust_remote_code=True" in capsys.readouterr().err
    assert loaded == []
    assert command(name, "--trust_remote_code", model="own")[0] == 0
    ((model, _),) = loaded
    assert type(model).__name__ == "OwnModel"


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_a_device_that_cannot_quantise_is_told(command, capsys, monkeypatch, bits):
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"elsewhere"})
    assert command("collect", f"--{bits}")[0] == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trl-pper collect: {bits}: must be left out where bitsandbytes cannot quantise; this mach")
    assert line.endswith("Leave it out, or install bitsandbytes for this device")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--load_in_4bit", "--load_in_8bit"], "load_in_4bit: must be left out with load_in_8bit; got both"),
        (["--attn_implementation", "flesh"], "flesh"),
    ],
)
def test_what_no_model_can_be_loaded_with_is_told(command, capsys, options, said):
    assert command("evaluate", *options)[0] == 2
    assert said in capsys.readouterr().err


def test_loading_options_belong_to_models(folder, capsys):
    given = ["--tasks", str(folder / "tasks.jsonl"), "--output", "x.parquet", "--programs", "p", "--load_in_8bit"]
    assert main(["collect", *given]) == 2
    assert "--load_in_8bit: belongs to --model; got it with --programs" in capsys.readouterr().err


@pytest.mark.parametrize("spelled", ["place", "option"])
def test_merge_merges_an_adapter(folder, tmp_path, capsys, spelled):
    output = tmp_path / "merged"
    rest = [str(output)] if spelled == "place" else ["--output", str(output)]
    assert main(["merge", str(folder / "adapter"), *rest]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder / 'adapter'} merged: {output}"
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        adapted = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter")(ids).logits
        torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(output)(ids).logits, adapted)
    assert main(["merge", str(folder / "adapter"), *rest]) == 2
    assert "output: must be a new or an empty folder" in capsys.readouterr().err


def test_merge_pushes_where_it_is_asked_to(folder, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("trl_pper.training.push.merge_adapter", lambda *a, **k: seen.append((a, k)) or a[1])
    assert main(["merge", "me/lora", str(tmp_path / "out"), "--push_to", "me/merged", "--private"]) == 0
    assert seen == [(("me/lora", str(tmp_path / "out")), {"push_to": "me/merged", "private": True})]
    assert capsys.readouterr().out == f"me/lora merged: {tmp_path / 'out'}, pushed to me/merged\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["b.parquet"], "--output: required; give the buffer file (.parquet) to write"),
        (["b.parquet", "--output", "c.parquet", "--push_to", "me/x"], "--push_to: belongs to the merge of an adapter"),
        (["b.parquet", "--output", "c.parquet"], "b.parquet"),
        (["me/lora"], "an adapter needs one folder for the merged model; got none: merge ADAPTER OUTPUT"),
        (["me/lora", "a", "--private"], "--private: belongs to --push_to; name the repository"),
        (["me/lora", "a", "b"], "an adapter needs one folder for the merged model; got a, b"),
        (["me/lora", "a", "--output", "b"], "an adapter needs one folder for the merged model; got a, b"),
        (["a/b/c", "d"], "a/b/c: must be the folder of an adapter, or its name on the Hub; Can't find"),
        (["model", "a"], "model: must be a buffer file (.parquet), or hold an adapter (adapter_config.json)"),
    ],
)
def test_merge_says_what_it_needs(folder, monkeypatch, capsys, options, said):
    monkeypatch.chdir(folder)
    assert main(["merge", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(folder, tasks, tmp_path_factory):
    """The output folder of a run with two checkpoints, of which the second has more programs."""
    output = tmp_path_factory.mktemp("run")
    rows = [{"task_id": f"add-{n}", "completion": f"    return x + {n}\n"} for n in (1, 2)]
    rows += [{"task_id": "add-2", "completion": "    return x or 2\n"}]
    config = PPERConfig(
        str(output), use_cpu=True, bf16=False, report_to=[], max_steps=2, save_steps=1, max_completion_length=40,
        gradient_checkpointing=False, judge_workers=1, disable_tqdm=True, max_length=None,
    )  # fmt: skip
    collector = BeamSampleCollector(source=DatasetSource(rows))
    trainer = PPERTrainer(str(folder / "model"), config, train_dataset=tasks, callbacks=[collector])
    trainer.train()
    trainer.judge.close()
    return output


@pytest.mark.parametrize("place", ["", "checkpoint-1"])
def test_export_takes_a_run_as_the_report_does(run, tmp_path, capsys, place):
    output = tmp_path / "sft.jsonl"
    assert main(["export", str(run / place), "--to", "sft", "--output", str(output)]) == 0
    checkpoint = run / (place or "checkpoint-2")
    assert capsys.readouterr().out == f"2 rows of {checkpoint}: {output}\n"
    assert len(output.read_text().splitlines()) == 2


@pytest.mark.parametrize("to", ["sft", "kto"])
def test_export_takes_the_lowest_pass_rate(run, tmp_path, to):
    output = tmp_path / "rows.jsonl"
    assert main(["export", str(run), "--to", to, "--output", str(output), "--min_pass_rate", "0.3"]) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(found) == 3
    assert all(row.get("label", True) for row in found)


@pytest.mark.parametrize(
    ("place", "options", "said"),
    [
        (
            "",
            ["--to", "verl", "--min_pass_rate", "0.5"],
            "--min_pass_rate: belongs to --to sft and --to dpo and --to kto and --to reward; got it with verl. Leave",
        ),
        ("", ["--to", "sft", "--min_pass_rate", "2"], "min_pass_rate: must be in [0, 1]; got 2.0"),
        ("checkpoint-1/_pper", ["--to", "sft"], "must be a buffer file, or a folder with"),
    ],
)
def test_export_says_what_it_needs(run, tmp_path, capsys, place, options, said):
    assert main(["export", str(run / place), *options, "--output", str(tmp_path / "x.jsonl")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "columns"), [("dpo", 3), ("reward", 4)])
def test_export_of_pairs_takes_the_options_of_the_methods(run, tmp_path, capsys, kind, columns):
    output = tmp_path / "pairs.parquet"
    given = ["--strategy", "mixed", "--pairs_per_task", "3", "--min_gap", "0.5", "--seed", "4"]
    assert main(["export", str(run), "--to", kind, "--output", str(output), *given]) == 0
    rows = datasets.Dataset.from_parquet(str(output), cache_dir=tmp_path).to_list()
    buffer = ReplayBuffer.load(run / "checkpoint-2" / "_pper" / "buffer.parquet")
    method = {"dpo": buffer.to_preferences, "reward": buffer.to_reward_model}[kind]
    assert rows == method("mixed", pairs_per_task=3, min_gap=0.5, seed=4).to_list()
    assert {len(row) for row in rows} == {columns}
    assert capsys.readouterr().out.startswith(f"{len(rows)} rows of ")


def test_export_for_kto_tells_the_weights_of_the_labels(run, tmp_path, capsys):
    command = ["export", str(run), "--to", "kto", "--output", str(tmp_path / "kto.parquet")]
    assert main(command) == 0
    said = "2 of 3 rows are desirable: KTOConfig(desirable_weight=1, undesirable_weight=1.714) makes up for it"
    assert said in capsys.readouterr().out
    assert main([*command, "--min_pass_rate", "0"]) == 0
    assert "all rows are desirable: KTO learns little" in capsys.readouterr().out


def test_the_advice_of_an_export_can_be_followed(run, tmp_path, capsys):
    buffer = ReplayBuffer.load(run / "checkpoint-2" / "_pper" / "buffer.parquet")
    wrong = ReplayBuffer()
    wrong.add(one for one in buffer if one.pass_rate < 1)
    wrong.save(tmp_path / "wrong.parquet")
    command = ["export", str(tmp_path / "wrong.parquet"), "--to", "sft", "--output", str(tmp_path / "x.jsonl")]
    assert main(command) == 2
    assert "lower min_pass_rate" in capsys.readouterr().err
    assert main([*command, "--min_pass_rate", "0.1"]) == 0
