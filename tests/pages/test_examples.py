"""Every example runs as a user would run it: a program of its own, in an empty folder, with what it says of itself."""

import json
import os
import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open

from tests.support.loopback_hub import TOKEN, LoopbackHub
from tests.support.pages import ROOT, launched, marked_to_run
from trl_pper.demo import MODEL
from trl_pper.demo.tasks import demo_tasks, reference_program

EXAMPLES = ROOT / "examples"
README = EXAMPLES / "README.md"
slow = pytest.mark.slow
long = pytest.mark.timeout(400)


@pytest.fixture
def run(tmp_path, request):
    """Run an example in an empty folder, offline unless the environment given says else; return what it prints."""

    def example(name: str, *arguments: str, status: int = 0, **environment: str) -> str:
        assert f"examples/{name}" in request.node.get_closest_marker("runs").args
        command = [sys.executable, str(EXAMPLES / name), *arguments]
        surroundings = {name: value for name, value in {**os.environ, **environment}.items() if value}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=350, env=surroundings)
        assert done.returncode == status, done.stderr[-3000:]
        return done.stdout if status == 0 else done.stderr

    return example


def shares(text: str) -> list[float]:
    """The percentages in a text."""
    return [float(found) for found in re.findall(r"([\d.]+)%", text)]


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@slow
@long
@pytest.mark.runs("examples/sft_swap.py")
def test_sft_swap(run):
    lines = run("sft_swap.py").splitlines()
    [before], [sft], [pper] = (
        shares(line) for line in lines if line.startswith(("held-out", "SFTTrainer", "PPERTrainer"))
    )
    assert before + 20 < min(sft, pper)


@slow
@long
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
@pytest.mark.runs("examples/lora.py", "examples/qlora.py")
def test_adapters(run, tmp_path, adapter):
    before, after, merged = shares(last_line(run("lora.py" if adapter == "lora" else "qlora.py")))
    assert before + 20 < after
    # The base of QLoRA was rounded to 4 bits in training and is whole in the merge.
    assert abs(after - merged) <= (0 if adapter == "lora" else 10)
    folder = tmp_path / "outputs"
    assert json.loads((folder / adapter / "adapter_config.json").read_text())["peft_type"] == "LORA"
    with (
        safe_open(folder / f"{adapter}-merged" / "model.safetensors", "pt") as full,
        safe_open(MODEL / "model.safetensors", "pt") as base,
    ):
        assert {full.get_tensor(name).dtype for name in full.keys()} == {base.get_tensor("model.norm.weight").dtype}


@slow
@long
@pytest.mark.runs("examples/teacher_file.py")
def test_teacher_file(run, tmp_path):
    output = run("teacher_file.py")
    assert "60 replies, of which 80% are right" in output
    task = demo_tasks("train")[0]
    assert reference_program(task.task_id).removeprefix(task.prompt) in output
    before, after = shares(last_line(output))
    assert before + 20 < after
    assert "Of course!" in (tmp_path / "outputs/teacher/_replies.jsonl").read_text()


@slow
@long
@pytest.mark.runs("examples/grpo_reward.py")
def test_grpo_reward(run):
    found = [shares(line) for line in run("grpo_reward.py").splitlines() if line.startswith("step ")]
    assert len(found) == 3
    assert found[0][0] < found[-1][0]
    assert all(accepted <= pass_rate for pass_rate, accepted in found)


@slow
@long
@pytest.mark.runs("examples/pper_then_grpo.py")
def test_pper_then_grpo(run):
    lines = run("pper_then_grpo.py").splitlines()
    # Half of the tasks have a success, which has one of eight places.
    assert "30 programs of the teacher; 6.2% of the completions are replayed" in lines
    before, between, after = shares(lines[-1])
    assert before + 20 < between <= after


@slow
@long
@pytest.mark.runs("examples/custom_priority.py")
def test_custom_priority(run):
    lines = run("custom_priority.py").splitlines()
    rows = [re.fullmatch(r"(\w[\w ]*\w) +(\d+)% +([\d.]+) +(\d+)", line) for line in lines]
    drawn = {row[1]: (float(row[2]), float(row[3]), int(row[4])) for row in rows if row}
    assert set(drawn) == {"best", "filter", "right and rare"}
    assert drawn["best"][0] <= drawn["filter"][0] == drawn["right and rare"][0] == 100
    assert drawn["right and rare"][1] < drawn["filter"][1]
    # What is drawn more often than the rest varies less.
    assert 1 < drawn["right and rare"][2] < drawn["filter"][2]
    before, after = shares(lines[-1])
    assert before + 20 < after


@pytest.mark.runs("examples/custom_checker.py")
def test_custom_checker(run):
    rows = {line[:22].strip(): shares(line) for line in run("custom_checker.py").splitlines()[1:]}
    assert rows == {
        "the answer on file": [100, 100, 100],
        "another right answer": [0, 100, 100],
        "one is no prime": [0, 0, 0],
        "no answer": [0, 0, 0],
    }


@slow
@long
@pytest.mark.runs("examples/hub_push.py")
def test_hub_push(run, tmp_path):
    with LoopbackHub() as hub:
        printed = run(
            "hub_push.py", "me/coder", HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN, HF_HOME=str(tmp_path / "home"),
            HF_HUB_DISABLE_XET="1", HF_HUB_OFFLINE="", NO_PROXY="127.0.0.1",
        )  # fmt: skip
        pushed = hub.repositories["models", "me/coder"]
    assert set(hub.repositories) == {("models", "me/coder")}
    assert pushed.private
    assert {"README.md", "model.safetensors", "tokenizer.json"} <= set(pushed.files)
    assert all(name in printed for name in pushed.files if not name.startswith("."))
    accuracy = next(line for line in printed.splitlines() if line.startswith("| `accuracy`"))
    assert accuracy in ModelCard(pushed.files["README.md"].decode()).text
    before, after = (float(found) for found in re.findall(r"(0\.\d+|1\.0+) \(step", accuracy))
    assert before < after
    held = [demo_tasks("train")[0].tests.code, "ys = [", TOKEN]
    assert not [name for name, content in pushed.files.items() for text in held if text.encode() in content]


@slow
@pytest.mark.runs("examples/hub_push.py")
def test_hub_push_says_what_it_needs(run):
    assert "usage: python examples/hub_push.py YOUR_NAME/coder" in run("hub_push.py", status=1)


def files() -> set[str]:
    found = (path for path in EXAMPLES.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(EXAMPLES).as_posix() for path in found if path.suffix != ".md"}


def test_every_file_is_run_by_a_test():
    marked = {name.removeprefix("examples/") for name in marked_to_run() if name.startswith("examples/")}
    assert len([name for name in marked if name.endswith(".py")]) >= 8
    words = {word for command in launched() for word in command.split()}
    by_launches = {name for name in files() if f"examples/{name}" in words}
    assert {"train_pper.py", "accelerate/ddp_cpu.yaml"} <= by_launches
    assert files() == marked | by_launches


def test_the_gallery_lists_every_file_with_its_command():
    table = re.findall(r"^\| \[`(.+)`\]\((.+)\) \|.+\| `(.+)` \| \d+ \|$", README.read_text(), re.MULTILINE)
    assert {name for name, _, _ in table} == {name for name in files() if "/" not in name}
    assert len(table) == len({name for name, _, _ in table})
    for name, link, command in table:
        assert (link, f"examples/{name}") == (name, command.split()[1 if name.endswith(".py") else 2])


@pytest.mark.parametrize("name", sorted(name for name in files() if name.endswith(".py")))
def test_an_example_is_short_and_says_first_how_it_is_run(name):
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 75
    docstring = text.split('"""')[1]
    # A neighbour has a command of its own.
    assert re.search(rf"^    .*\bexamples/{name}", docstring, flags=re.MULTILINE)
    assert name.startswith("neighbours/") or f"    python examples/{name}" in docstring
    assert "yours" in text or "--model_name_or_path" in text or "PROGRAMS" in text
