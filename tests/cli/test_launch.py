"""The documented commands with two processes each, the files for Accelerate, and what an error looks like then."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser

from trl_pper import ReplayBuffer
from trl_pper.demo.run import MODEL
from trl_pper.demo.tasks import demo_tasks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "multi-gpu.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
MODULES = {
    "trl-pper": "trl_pper.cli", "accelerate": "accelerate.commands.accelerate_cli",
    "torchrun": "torch.distributed.run",
}  # fmt: skip
SMALL = {
    "model_name_or_path": str(MODEL), "num_beams": 2, "max_completion_length": 48, "max_steps": 2,
    "steps_per_round": 2, "judge_cpu_seconds": 2, "report_to": "none", "disable_tqdm": True, "logging_steps": 1,
    "save_steps": 2, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def run_yaml(tmp_path_factory):
    """The file of the page, with the demo's model and five tasks."""
    folder = tmp_path_factory.mktemp("launch")
    tasks = demo_tasks("train")[:5]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    (of_page,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (folder / "run.yaml").write_text(
        yaml.safe_dump({**yaml.safe_load(of_page), **SMALL, "tasks": str(folder / "tasks.jsonl")})
    )
    return folder / "run.yaml"


def start(command: str, run_yaml: Path, *more: str) -> subprocess.CompletedProcess:
    program, *arguments = shlex.split(command)
    words = [str(run_yaml) if word == "run.yaml" else word for word in arguments]
    return subprocess.run(
        [sys.executable, "-m", MODULES[program], *words, *more], capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def test_the_page_shows_every_way_to_start():
    assert len(COMMANDS) == 5
    assert {shlex.split(command)[0] for command in COMMANDS} == set(MODULES)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_trains_with_two_processes(run_yaml, tmp_path, command):
    adapter = ["--use_peft", "--lora_target_modules", "all-linear"] if command.startswith("accelerate") else []
    done = start(command, run_yaml, "--output_dir", str(tmp_path), *adapter)
    assert done.returncode == 0, done.stderr[-4000:]
    # Each process has a shard of its own, of the tasks it wrote for.
    shards = sorted(shard.name[-13:-8] for shard in tmp_path.glob("_pper/journal/round-00000-*/*-0000?.parquet"))
    assert shards == ["00000", "00001"]
    assert len(ReplayBuffer.load(tmp_path / "checkpoint-2" / "_pper" / "buffer.parquet")) == 10
    assert (tmp_path / "adapter_model.safetensors").is_file() == bool(adapter)
    if not adapter:
        assert (tmp_path / "model.safetensors").read_bytes() != (MODEL / "model.safetensors").read_bytes()
    if "train_pper.py" in command:
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["processes"], summary["distributed_type"]) == (2, "MULTI_CPU")
        assert (summary["optimizer_steps"], summary["programs"]) == (2, 10)
        assert json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"'))) == summary


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("command", "code", "wrong", "said"),
    [
        (
            "trl-pper train --config run.yaml --num_processes 2", 2, ["--tasks", "nowhere.jsonl"],
            "trl-pper train: nowhere.jsonl: ",
        ),
        (
            "torchrun --nproc_per_node 2 -m trl_pper.cli train --config run.yaml", 1, ["--possibility_weight", "7"],
            "trl-pper train: possibility_weight: must be a number in [0, 1]; got 7",
        ),
    ],
)  # fmt: skip
def test_an_error_of_all_processes_appears_once(run_yaml, tmp_path, command, code, wrong, said):
    done = start(command, run_yaml, "--output_dir", str(tmp_path), *wrong)
    assert done.returncode == code, done.stderr[-4000:]
    assert done.stderr.count(said) == 1, done.stderr[-4000:]
    if command.startswith("trl-pper"):
        assert "Traceback" not in done.stderr


def files():
    return sorted((ROOT / "examples" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", files(), ids=lambda path: path.name)
def test_accelerate_reads_every_configuration(path):
    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    assert config.num_processes == 2
    # A key that Accelerate does not know would be refused; one of a section is an option of the launch.
    given = yaml.safe_load(path.read_text())
    known = vars(launch_command_parser().parse_args(["script.py"]))
    for section in ("fsdp_config", "deepspeed_config"):
        assert given.get(section, {}).keys() <= known.keys()
    assert f"`{path.name}`" in (path.parent / "README.md").read_text()


def test_there_are_configurations_to_read():
    assert {path.name for path in files()} >= {"ddp.yaml", "ddp_cpu.yaml", "fsdp.yaml", "zero2.yaml", "zero3.yaml"}
