"""The recipes of the paper's settings, by their files and real names, on small stand-ins of a loopback Hub."""

import copy
import io
import json
import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.support.benchmark_rows import ROWS
from tests.support.loopback_hub import Client, LoopbackHub, Repository
from tests.support.openai_server import serve
from trl_pper import ReplayBuffer

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
RUN = """
import contextlib, io, sys
from trl_pper.cli.commands import main
said = io.StringIO()
with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()) as errors:
    code = main(argument)
result = {"code": code, "said": said.getvalue(), "errors": errors.getvalue()[-3000:]}
"""
#: As of the data set's page: the split `full` is not the only one.
MBPP = """---
configs:
- config_name: full
  data_files: [{split: train, path: full/train-*}, {split: test, path: full/test-*}]
---
"""
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: A command of TRL, or a script, in the folder with the outputs; options that TRL does not have are errors.
ELSEWHERE = """
import contextlib, importlib, io, os, runpy, sys
folder, kind, name, rest = argument
before, given = os.getcwd(), sys.argv
os.chdir(folder)
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()) as errors:
        if kind == "trl":
            script = importlib.import_module("trl.scripts." + name)
            script.main(*script.make_parser().parse_args_and_config(rest))
        elif kind == "python":
            sys.argv = [name, *rest]
            runpy.run_path(name, run_name="__main__")
        else:
            from trl_pper.cli.commands import main
            assert main([name, *rest]) == 0, errors.getvalue()[-3000:]
finally:
    os.chdir(before)
    sys.argv = given
result = {"said": said.getvalue()}
"""
#: What a machine without a GPU and a model of a few thousand parameters need; all else is the recipe's.
SMALL = [
    "--use_cpu", "True", "--bf16", "False", "--dtype", "float32", "--max_completion_length", "8",
    "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--steps_per_round", "2",
    "--judge_workers", "1",
]  # fmt: skip


def parquet(rows) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def apps_rows(split: str):
    row = ROWS["apps"][0]
    rows = [{**row, "problem_id": number, "difficulty": "introductory"} for number in range(4)]
    # As in the data set: problems without tests, of other difficulties, and with questions longer than GPT-2 reads.
    rows.append({**row, "problem_id": 5, "difficulty": "introductory", "input_output": ""})
    rows.append({**row, "problem_id": 6, "difficulty": "interview"})
    rows.append({**row, "problem_id": 7, "difficulty": "introductory", "question": "Long. " * 200})
    rows.append({**row, "problem_id": 8, "difficulty": "competition"})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_model, tokenizer):
    folder = tmp_path_factory.mktemp("recipes")
    make_model(n_positions=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    make_model(n_positions=2048).save_pretrained(folder / "chat")
    answers = copy.deepcopy(tokenizer)
    answers.chat_template = TEMPLATE
    answers.save_pretrained(folder / "chat")
    return folder


@pytest.fixture(scope="module")
def client(folder):
    """A process that knows the loopback Hub alone."""
    apps = {f"all/{split}/0000.parquet": parquet(apps_rows(split)) for split in ("train", "test")}
    mbpp = {f"full/{split}-00000-of-00001.parquet": parquet([ROWS["mbpp"][0]]) for split in ("train", "test")}
    contests = [{**ROWS["code_contests"][0], "name": f"contest-{number}"} for number in range(3)]
    model = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    with LoopbackHub() as hub:
        data = {
            "openai/openai_humaneval": {"data/test-00000-of-00001.parquet": parquet([ROWS["humaneval"][0]])},
            "deepmind/code_contests": {"data/train-00000-of-00001.parquet": parquet(contests)},
            "google-research-datasets/mbpp": {"README.md": MBPP.encode(), **mbpp},
        }
        for name, files in data.items():
            hub.repositories["datasets", name] = Repository(private=False, commits=[files])
        hub.repositories["datasets", "codeparrot/apps"] = Repository(
            private=False, commits=[apps, {"apps.py": b""}], branches={"refs/convert/parquet": 0}
        )
        for name in ("openai-community/gpt2-xl", "EleutherAI/gpt-neo-2.7B", "Qwen/Qwen2.5-Coder-1.5B"):
            hub.repositories["models", name] = Repository(private=False, commits=[model])
        chat = {path.name: path.read_bytes() for path in (folder / "chat").iterdir()}
        for name in ("Qwen/Qwen2.5-Coder-1.5B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct"):
            hub.repositories["models", name] = Repository(private=False, commits=[chat])
        client = Client(hub, folder / "home")
        yield client
        client.close()


@pytest.fixture(scope="module")
def run(client):
    """Run a command of the package in that process, and return what it says."""

    def run(*arguments):
        done = client.run(RUN, list(map(str, arguments)))
        assert done.get("code") == 0, done
        return done["said"]

    return run


@pytest.mark.slow
@pytest.mark.runs("examples/recipes/c1_collect.yaml", "examples/recipes/c1_train.yaml")
def test_c1_a_teacher_writes_for_apps_and_gpt2_learns(run, folder, make_model, tokenizer):
    buffer = folder / "c1.parquet"
    with serve(make_model(seed=2, n_positions=2048).eval(), tokenizer) as server:
        said = run("collect", "--config", RECIPES / "c1_collect.yaml", "--output", buffer, "--server", server.address,
                   "--max_completion_length", "8", "--workers", "1")  # fmt: skip
        assert {body["model"] for _, body in server.asked} == {"Qwen/Qwen2.5-Coder-7B-Instruct"}
    assert "15 programs for 5 tasks" in said
    stored = ReplayBuffer.load(buffer)
    assert {one.source for one in stored} == {"Qwen/Qwen2.5-Coder-7B-Instruct"}
    # What the tiny teacher writes is no program: it stays as it is, with the teacher's own probability.
    assert {one.scorer for one in stored} == {"Qwen/Qwen2.5-Coder-7B-Instruct"}
    run("train", "--config", RECIPES / "c1_train.yaml", "--buffer", buffer, "--output_dir", folder / "c1", *SMALL)
    results = json.loads((folder / "c1" / "eval_results.json").read_text())
    assert results["eval_tasks"] == 4.0
    assert (folder / "c1" / "model.safetensors").is_file()
    state = json.loads((folder / "c1" / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["global_step"] == 4
    assert not any("pper/programs" in entry for entry in state["log_history"])
    with_lora = ["--model_name_or_path", "EleutherAI/gpt-neo-2.7B", "--use_peft", "--lora_r", "16",
                 "--lora_target_modules", "all-linear", "--learning_rate", "2e-4"]  # fmt: skip
    run("train", "--config", RECIPES / "c1_train.yaml", "--buffer", buffer, "--output_dir", folder / "neo", *SMALL,
        *with_lora)  # fmt: skip
    assert (folder / "neo" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "sources"), [("c2", None), ("c4", {"apps", "code_contests"})])
@pytest.mark.runs(*(f"examples/recipes/{name}.yaml" for name in ("c2_train", "c4_train", "c4_tasks", "humaneval")))
def test_c2_and_c4_a_model_learns_from_itself(run, folder, recipe, sources, monkeypatch):
    text = (RECIPES / f"{recipe}_train.yaml").read_text().replace("examples/recipes/", f"{RECIPES}/")
    (folder / f"{recipe}.yaml").write_text(text)
    output = folder / recipe
    run("train", "--config", folder / f"{recipe}.yaml", "--output_dir", output, *SMALL, "--num_beams", "2")
    assert json.loads((output / "eval_results.json").read_text())["eval_tasks"] == 1.0
    assert (output / "adapter_model.safetensors").is_file()
    buffer = ReplayBuffer.load(output / "checkpoint-6" / "_pper" / "buffer.parquet")
    assert {one.round_index for one in buffer} <= {0, 1, 2}
    names = {one.task_id for one in buffer}
    assert any(name.startswith("APPS/") for name in names)
    assert any(name.startswith("contest-") for name in names) == bool(sources)


IOTACODE = RECIPES / "iotacode"
ORDER = ("collect", "sft", "dpo", "orpo", "kto", "reward_warm_up", "reward", "grpo", "pper")
#: What a machine without a GPU and a model of a few thousand parameters need, by command.
_STEP = "--use_cpu True --bf16 False --max_steps 1 --per_device_train_batch_size 2 --gradient_accumulation_steps 1"
_PLAIN = "--dtype float32"
SMALLER = {
    "collect": f"{_PLAIN} --num_programs 2 --max_completion_length 8 --workers 1",
    "evaluate": "--num_programs 2 --max_completion_length 8 --workers 1",
    "train": f"{_PLAIN} {_STEP} --judge_workers 1",
    "grpo": f"{_PLAIN} {_STEP} --num_generations 2 --max_completion_length 8",
    **dict.fromkeys(("sft", "dpo", "kto", "reward"), f"{_PLAIN} {_STEP}"),
    "orpo": f"{_PLAIN} {_STEP}",
}


def commands_of(path: Path) -> list[list[str]]:
    """The commands that a recipe begins with, of a loop the first turn."""
    lines = "\n".join(re.findall(r"^#   (.*)", path.read_text(), flags=re.MULTILINE)).replace("\\\n", " ")
    named = [line.strip() for line in lines.splitlines() if re.match(r"\s*(trl|trl-pper|python) ", line)]
    return [shlex.split(line.replace("$beta", "0.5")) for line in named]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.runs(*(f"examples/recipes/iotacode/{name}.yaml" for name in ORDER), "examples/recipes/iotacode/orpo.py")
def test_iotacode_each_trainer_learns_from_one_collection(client, folder):
    outputs = folder / "outputs" / "iotacode"

    def run(command, *, small=True):
        kind, name, *rest = [text.replace("examples/recipes", str(RECIPES)) for text in command]
        more = SMALLER.get(Path(name).stem, "").split() if small else []
        done = client.run(ELSEWHERE, [str(folder), kind, name, [*rest, *more]])
        assert "said" in done, (command, done)
        return done["said"]

    assert sorted(ORDER) == sorted(path.stem for path in IOTACODE.glob("*.yaml"))
    listed = [name for name in re.findall(r"\[`(\w+)\.yaml`\]", (IOTACODE / "README.md").read_text())]
    assert listed == list(ORDER)
    weights = ""
    for recipe in ORDER:
        commands = commands_of(IOTACODE / f"{recipe}.yaml")
        assert commands
        for command in commands:
            if command[:2] == ["trl", "kto"]:
                command = [*command[:4], *re.sub(r"[(),]", " ", weights).replace("=", " ").split()[1:]]
                assert command[4].startswith("desirable_weight")
                command[4::2] = [f"--{name}" for name in command[4::2]]
            said = run(command)
            weights = found[0] if (found := re.findall(r"KTOConfig\([^)]*\)", said)) else weights
        if recipe == "collect":
            # A tiny model writes no right program.
            task = "MBPP/4"
            rows = [{"task_id": task, "completion": f"```python\ndef double(x):\n    return {text}\n```"}
                    for text in ("2 * x", "x + x", "x", "4", "None")]  # fmt: skip
            (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            more = "trl-pper collect --tasks google-research-datasets/mbpp --subset full --split train --prompts chat"
            run([*more.split(), "--programs", "more.jsonl", "--output", str(outputs / "buffer.parquet")], small=False)
    stored = ReplayBuffer.load(outputs / "buffer.parquet")
    assert {len(one.prompt) for one in stored} == {1}
    for name in ("sft", "dpo-0.5", "orpo", "kto", "grpo", "pper"):
        assert json.loads((outputs / name / "adapter_config.json").read_text())["r"] == 32, name
    for name in ("sft-merged", "reward-base", "reward"):
        assert (outputs / name / "model.safetensors").is_file(), name
    assert json.loads((outputs / "reward" / "config.json").read_text())["architectures"] == [
        "GPT2ForSequenceClassification"
    ]
    [evaluate] = re.findall(r"^trl-pper evaluate.*", (IOTACODE / "README.md").read_text(), flags=re.MULTILINE)
    run(shlex.split(evaluate))
    assert json.loads((outputs / "pper.json").read_text())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_a_recipe_names_options_that_there_are(path):
    """Cheap, so that a renamed option is noticed by the fast tests."""
    from dataclasses import fields

    from trl import ModelConfig

    from trl_pper.cli.commands import COMMANDS
    from trl_pper.cli.train_options import DataArguments
    from trl_pper.training.config import PPERConfig

    given = yaml.safe_load(path.read_text())
    if path.name.endswith("_train.yaml"):
        known = {field.name for kind in (DataArguments, PPERConfig, ModelConfig) for field in fields(kind)}
    elif path.name.endswith("_collect.yaml"):
        known = {name for one in COMMANDS["collect"][1] for name in (one.name, *one.aliases)}
    else:
        known = {"mixture", "size", "seed"}
    assert given.keys() <= known
