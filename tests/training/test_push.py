"""Runs pushed to a Hub: what comes back is what was trained, what fails is told, and nothing but the model goes up."""

import gzip
import io
import json
import pickletools
import shutil
import zipfile

import pytest
from huggingface_hub import ModelCard

from tests.support.loopback_hub import TOKEN, Client, LoopbackHub, Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: Secrets and texts that nothing uploaded may hold, one of each kind.
CANARIES = {
    kind: f"canary{kind}7g"
    for kind in ("prompt", "testcode", "setup", "input", "output", "program", "reference", "preamble", "taskid",
                 "secret", "inittoken", "argtoken")
}  # fmt: skip
TASKS = [
    {
        "task_id": f"{CANARIES['taskid']}-{n}",
        "prompt": f"# {CANARIES['prompt']} {n}\ndef f(x):\n",
        "tests": json.dumps(
            {"type": "function", "entry_point": "f", "setup": f"y = '{CANARIES['setup']}'",
             "code": f"assert f(1) == {n}, '{CANARIES['testcode']}'"}
        ),
        "source": "set-a", "difficulty": "easy", "reference": f"def f(x): '{CANARIES['reference']}'",
        "preamble": f"z = '{CANARIES['preamble']}'",
    }
    for n in range(2)
]  # fmt: skip
TASKS.append(
    {
        "task_id": "echo", "prompt": "# echo\n", "source": "set-b", "difficulty": "hard",
        "tests": json.dumps(
            {"type": "stdio", "cases": [{"input": CANARIES["input"], "output": CANARIES["output"]}]}
        ),
    }
)  # fmt: skip
PROGRAMS = [
    {"task_id": task["task_id"], "completion": f"    return {n}  # {CANARIES['program']}\n"}
    for task in TASKS
    for n in range(2)
]

WRITE = """
import torch
prompt = torch.tensor([[30, 31, 32, 33]])
def write(model):
    return model.eval().generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=1)[0].tolist()
"""
START = (
    WRITE
    + """
import contextlib, json, logging, os, sys
from pathlib import Path
torch.set_num_threads(1)
from peft import LoraConfig
from trl_pper import BeamSampleCollector, CodingTask, DatasetSource, PPERConfig, PPERTrainer
os.environ["MY_SECRET"] = argument["secret"]
told = []
class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("trl_pper").addHandler(Told())
tasks = [CodingTask.from_row(row) for row in argument["tasks"]]
with contextlib.redirect_stdout(sys.stderr):
    trainer = PPERTrainer(
        model="me/base",
        args=PPERConfig(
            **dict(
                output_dir=argument["folder"], use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
                max_completion_length=4, max_length=200, per_device_train_batch_size=2, steps_per_round=1,
                num_train_epochs=2, learning_rate=1e-2, save_strategy="steps", save_steps=1, judge_workers=1,
                judge_cpu_seconds=1.0, judge_memory_bytes=2**30, gradient_checkpointing=False, push_to_hub=True,
                hub_model_id="me/run", hub_private_repo=True,
            )
            | argument["options"]
        ),
        train_dataset=tasks,
        eval_dataset=tasks[:1],
        peft_config=LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True) if argument["lora"] else None,
        callbacks=[BeamSampleCollector(source=DatasetSource(argument["programs"], name="teacher"))],
    )
"""
)
RUN = (
    START
    + """
with contextlib.redirect_stdout(sys.stderr):
    trainer.evaluate()
    trainer.train()
    trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()
    result = {"steps": trainer.state.global_step, "level": trainer.judge.isolation}
    try:
        result["address"] = str(trainer.push_to_hub())
    except Exception as error:
        result["refused"] = f"{type(error).__name__}: {error}"
    trainer.judge.close()
result |= {"told": told, "written": write(trainer.model)}
"""
)


@pytest.fixture(scope="module")
def connection(tmp_path_factory, make_model, tokenizer):
    folder = tmp_path_factory.mktemp("hub")
    make_model().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = {path.name: path.read_bytes() for path in (folder / "base").iterdir()}
    with LoopbackHub() as hub:
        client = Client(hub, folder / "home")
        yield hub, client, folder, base
        client.close()


@pytest.fixture
def hub(connection):
    hub, _, folder, base = connection
    shutil.rmtree(folder / "home" / "hub", ignore_errors=True)
    hub.repositories.clear()
    hub.requests.clear()
    hub.objects.clear()
    hub.faults.clear()
    hub.repositories["models", "me/base"] = Repository(private=False, commits=[base])
    return hub


@pytest.fixture
def run(connection, tmp_path):
    client = connection[1]

    def run(code=RUN, *, lora=False, token=TOKEN, **options):
        argument = {"tasks": TASKS, "programs": PROGRAMS, "folder": str(tmp_path / "run"), "lora": lora,
                    "options": options, "secret": CANARIES["secret"]}  # fmt: skip
        return client.run(code, argument, token=token)

    return run


def texts(content: bytes):
    """Yield all bytes that a file holds: as it is, unpacked, and each string of a pickle."""
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield name.encode()
                yield from texts(archive.read(name))
    elif content[:2] == b"\x1f\x8b":
        yield from texts(gzip.decompress(content))
    elif content[:1] == b"\x80":
        for _, value, _ in pickletools.genops(content):
            if isinstance(value, str | bytes):
                yield value.encode() if isinstance(value, str) else value


def uploaded(hub) -> dict[str, bytes]:
    """Return everything the Hub was ever given, by where it came in."""
    given = {f"object {name}": content for name, content in hub.objects.items()}
    for n, (method, path, body) in enumerate(hub.requests):
        given[f"{n} {method} {path}"] = body if isinstance(body, bytes) else json.dumps(body).encode()
    for (kind, name), repository in hub.repositories.items():
        for n, files in enumerate(repository.commits if name != "me/base" else []):
            given |= {f"{kind} {name} {n} {path}": content for path, content in files.items()}
    return given


def found(hub, text: str) -> list[str]:
    return [place for place, content in uploaded(hub).items() if any(text.encode() in one for one in texts(content))]


def model_files(hub) -> dict[str, bytes]:
    return hub.repositories["models", "me/run"].files


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("strategy", ["every_save", "end"])
def test_nothing_but_the_model_is_ever_uploaded(hub, run, tmp_path, strategy, lora):
    done = run(
        lora=lora, hub_strategy=strategy, hub_token=TOKEN,
        model_init_kwargs={"token": TOKEN, "dtype": "float32"},
    )  # fmt: skip
    assert done.get("steps") == 2, done
    assert done["told"] == []
    repository = hub.repositories["models", "me/run"]
    assert repository.private
    # The first commit is empty. The second checkpoint is not pushed while the first still is: with `hub_always_push`,
    # an upload reads files that the next one writes.
    assert len(repository.commits) >= (3 if strategy == "every_save" else 2)
    weights = "adapter_model.safetensors" if lora else "model.safetensors"
    assert {weights, "README.md", "training_args.bin", "eval_results.json"} <= set(repository.files)
    names = {path for files in repository.commits for path in files}
    assert not any(part in name for name in names for part in ("_pper", "checkpoint", "buffer", "journal", ".parquet"))
    # The run holds what must not go up, and the search finds what did.
    held = b"".join(path.read_bytes() for path in (tmp_path / "run" / "_pper").rglob("*") if path.is_file())
    assert CANARIES["program"].encode() in held
    assert any(place.endswith("training_args.bin") for place in found(hub, "priority_exponent"))
    leaks = {text: places for text in [TOKEN, *CANARIES.values()] if (places := found(hub, text))}
    assert leaks == {}


def test_a_full_model_comes_back_and_writes_the_same(hub, run, connection):
    done = run()
    assert done["address"].startswith(f"{hub.url}/models/me/run/commit/"), done
    again = connection[1].run(WRITE + """
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("me/run", dtype="float32")
tokenizer = AutoTokenizer.from_pretrained("me/run")
result = [write(model), tokenizer.decode(tokenizer("def f(x):").input_ids)]
""")  # fmt: skip
    assert again == [done["written"], "def f(x):"]


def test_an_adapter_comes_back_on_its_base_and_writes_the_same(hub, run, connection):
    done = run(lora=True)
    assert "model.safetensors" not in model_files(hub)
    again = connection[1].run(
        WRITE
        + """
from peft import AutoPeftModelForCausalLM
result = write(AutoPeftModelForCausalLM.from_pretrained("me/run", dtype="float32"))
"""
    )
    assert again == done["written"]
    data = ModelCard(model_files(hub)["README.md"].decode()).data
    assert (data.base_model, data.library_name) == ("me/base", "peft")


MERGE = (
    WRITE
    + """
from transformers import AutoModelForCausalLM
from trl_pper import merge_adapter
folder = merge_adapter(argument["from"], argument["folder"], push_to="me/merged", private=True)
result = [write(AutoModelForCausalLM.from_pretrained(one)) for one in (folder, "me/merged")]
"""
)


@pytest.mark.parametrize("source", ["folder", "Hub"])
def test_a_merged_model_is_pushed_and_writes_the_same(hub, run, connection, tmp_path, source):
    done = run(lora=True)
    argument = {"from": str(tmp_path / "run") if source == "folder" else "me/run", "folder": str(tmp_path / "merged")}
    assert connection[1].run(MERGE, argument) == [done["written"]] * 2
    merged = hub.repositories["models", "me/merged"]
    assert merged.private
    assert {"model.safetensors", "tokenizer.json", "README.md"} <= set(merged.files)
    assert not any("adapter" in name for name in merged.files)
    card = ModelCard(merged.files["README.md"].decode())
    assert (card.data.library_name, card.data.base_model) == ("transformers", "me/base")
    assert 'AutoModel.from_pretrained("me/merged")' in card.text
    assert "from transformers import AutoModelForCausalLM as AutoModel" in card.text
    assert card.text.lstrip().startswith("# merged\n")
    assert card.data.to_dict()["model-index"][0]["name"] == "merged"
    assert {text: places for text in [TOKEN, *CANARIES.values()] if (places := found(hub, text))} == {}
    assert "ValueError: output: must be a new or an empty folder" in connection[1].run(MERGE, argument)["error"]


def test_the_card_on_the_hub_tells_the_run(hub, run):
    done = run(eval_benchmark="me/set:all")
    card = ModelCard(model_files(hub)["README.md"].decode())
    assert {"trl", "pper"} <= set(card.data.tags)
    assert card.data.base_model == "me/base"
    assert "accuracy" in {result.metric_type for result in card.data.eval_results}
    for line in (
        "arXiv 2410.12236",
        "| `set-a` | 2 | `easy` 2 |",
        "| `set-b` | 1 | `hard` 1 |",
        "| programs | 6 |",
        f"| isolation level of the judge | `{done['level']}` |",
        "(step 0, before training) | 0.000 (step 2)",
        "Measured on 1 evaluation tasks.",
        "chen2024pper",
        "vonwerra2020trl",
        "## Limitations",
    ):
        assert line in card.text
    assert b"id: me/set" in model_files(hub)[".eval_results/trl_pper.yaml"]


def test_a_failed_background_upload_is_told_and_the_run_goes_on(hub, run, tmp_path):
    hub.faults[r"POST /api/models/me/run/commit/.*"] = 503
    done = run()
    assert done["steps"] == 2
    assert len(done["told"]) >= 1
    assert "me/run: the upload of" in done["told"][0]
    assert "503" in done["told"][0]
    assert "refused" in done
    assert "503" in done["refused"]
    # Everything is on the disk; the Hub comes back and the same run is pushed.
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()
    hub.faults.clear()
    again = run(START + "result = str(trainer.push_to_hub())\ntrainer.judge.close()")
    assert "/commit/" in again, again
    assert "model.safetensors" in model_files(hub)


def test_a_token_that_may_not_write_is_told_of_before_training(hub, run):
    assert "401" in run(token="hf_wrong")["error"]
    hub.faults[r"POST /api/repos/create"] = 403
    assert "403" in run()["error"]
    assert ("models", "me/run") not in hub.repositories


def test_rows_in_the_folder_of_the_run_are_not_published(hub, run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hidden_tests.jsonl").write_text("{}\n")
    error = run()["error"]
    assert "ValueError: output_dir: a push would publish" in error
    assert "hidden_tests.jsonl" in error
    assert ("models", "me/run") not in hub.repositories


def test_rows_that_appear_in_a_run_stop_its_pushes_alone(hub, run, tmp_path):
    report = 'Path(argument["folder"], "report.html").write_text("rows")\n'
    done = run(START + report + RUN.removeprefix(START))
    assert done["steps"] == 2
    assert done["told"][0].startswith("not pushed at step 1: output_dir: a push would publish")
    assert done["refused"].startswith("ValueError: output_dir: a push would publish")
    assert model_files(hub) == {}


def test_checkpoints_are_not_pushed_by_a_later_strategy_either(hub, run):
    changed = "trainer.args.hub_strategy = 'all_checkpoints'\n"
    done = run(START + changed + RUN.removeprefix(START))
    assert done["steps"] == 2
    assert "checkpoints hold the buffer" in done["told"][0]
    assert "checkpoints hold the buffer" in done["refused"]
    assert model_files(hub) == {}


COMMAND = """
import contextlib, sys
from trl_pper.cli.commands import main
with contextlib.redirect_stdout(sys.stderr):
    result = main(argument)
"""


def test_the_command_pushes_once_and_with_the_evaluation(hub, connection, tmp_path):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in TASKS))
    options = {
        "tasks": tmp_path / "tasks.jsonl", "eval_tasks": tmp_path / "tasks.jsonl", "output_dir": tmp_path / "run",
        "model_name_or_path": "me/base", "hub_model_id": "me/run", "push_to_hub": True, "hub_strategy": "end",
        "eval_on_start": True, "num_beams": 2, "max_completion_length": 4, "max_length": 200, "steps_per_round": 1,
        "num_train_epochs": 1, "judge_workers": 1, "use_cpu": True, "bf16": False, "dtype": "float32",
        "report_to": "none", "per_device_train_batch_size": 2, "disable_tqdm": True,
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert connection[1].run(COMMAND, ["train", *arguments]) == 0
    assert len(hub.repositories["models", "me/run"].commits) == 2
    assert "eval_results.json" in model_files(hub)
    card = model_files(hub)["README.md"].decode()
    assert "| `accuracy` | 0.000 (step 0, before training) | 0.000 (step 1) | +0.000 |" in card
    assert not (found(hub, CANARIES["testcode"]) + found(hub, CANARIES["prompt"]))


RANK = """
import json, os, sys
argument = json.loads(open(sys.argv[1]).read())
exec(argument["start"])
assert trainer.accelerator.num_processes == 2
trainer.train()
trainer.push_to_hub()
trainer.judge.close()
torch.distributed.destroy_process_group()
"""
TWO = """
import os, subprocess, sys
command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", *argument]
done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})
result = [done.returncode, done.stderr[-3000:]]
"""


def test_two_processes_push_one_model(hub, connection, tmp_path):
    argument = {"tasks": TASKS, "programs": PROGRAMS, "folder": str(tmp_path / "run"), "lora": False,
                "options": {}, "secret": CANARIES["secret"], "start": START}  # fmt: skip
    (tmp_path / "argument.json").write_text(json.dumps(argument))
    (tmp_path / "rank.py").write_text(RANK)
    code, errors = connection[1].run(TWO, [str(tmp_path / "rank.py"), str(tmp_path / "argument.json")])
    assert code == 0, errors
    assert len(hub.repositories["models", "me/run"].commits) >= 3
    assert {"model.safetensors", "README.md"} <= set(model_files(hub))
    assert {text: places for text in [TOKEN, *CANARIES.values()] if (places := found(hub, text))} == {}
