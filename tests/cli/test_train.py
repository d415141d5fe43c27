"""`trl-pper train` up to the first step: what it starts where, what it refuses with one line, and its --help."""

import argparse
import os
import re
import subprocess
import sys
from dataclasses import fields, replace

import datasets
import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from trl_pper.cli import launch
from trl_pper.cli.commands import main
from trl_pper.cli.train_options import CONFIGURATIONS, train_options

RUN = "tasks: tasks.jsonl\nmodel_name_or_path: m\nuse_cpu: true\nbf16: false\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with run.yaml and no launcher around it, where a model that is loaded fails the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RUN)
    for name in launch.LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("accelerate.commands.config.default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setattr("trl_pper.cli.train_run.PPERTrainer", lambda **_: pytest.fail("a model was loaded"))
    return tmp_path


@pytest.fixture
def launched(folder, monkeypatch):
    """What would be launched: the arguments of `accelerate launch`."""
    seen = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", seen.append)
    return seen


def refused(capsys, *arguments):
    """Return the one line that is said of arguments."""
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("trl-pper train: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num_beem", "3"], "--num_beem: neither trl-pper train nor accelerate launch has such an option; "
                              "the nearest is --num_beams"),
        (["--num_proceses", "3"], "--num_proceses: neither trl-pper train nor accelerate launch has such an option; "
                                  "the nearest is --num_processes"),
        (["--use_peft", "--zzz", "3"], "--zzz: neither trl-pper train nor accelerate launch has such an option"),
        (["--n", "3"], "--n: neither trl-pper train nor accelerate launch has such an option"),
        (["--module"], "--module: neither trl-pper train nor accelerate launch has such an option"),
        (["stray"], "stray: must be the value of an option; got it before any"),
        (["--num_beams", "2.5"], "--num_beams: must be a whole number; got 2.5"),
        (["--num_beams"], "argument --num_beams: expected one argument"),
        (["--priority", "rnak"], "--priority: must be one of best, proportional, rank, uniform, filter; got rnak"),
        (["--use_peft", "perhaps"], "--use_peft: must be true or false; got perhaps"),
        (["--learning_rate", "fast"], "--learning_rate: must be a number or null; got fast"),
        (["--num_beams", "0"], "num_beams: must be a whole number of at least 1; got 0"),
        (["--eval_strategy", "sometimes"], "--eval_strategy: must be one of no, steps, epoch; got sometimes"),
        (["--num_processes", "two"], "argument --num_processes/--num-processes: invalid int value: 'two'"),
        (["--num_beams", "2", "3"], "3: must be the value of an option; the one before it takes no more"),
        (["--num_processes", "2", "3"], "3: must be the value of an option; the one before it takes no more"),
        (["--accelerate_config", "zero9"], "accelerate_config: must be a file or one of fsdp1, fsdp2, multi_gpu"),
        (["--accelerate_config", "zero2", "--config_file=x.yaml"], "accelerate_config: stands for --config_file"),
        (["--buffer", "b.parquet"], "tasks: exactly one of tasks and buffer is required"),
        (["--task_format", "apsp"], "--task_format: must be one of auto, humaneval, mbpp, apps"),
        ([], "tasks.jsonl: "),
        (["--tasks", "tasks.yaml", "--task_split", "test"], "task_split: each source of the mixture tasks.yaml has"),
        (["--config", "other.yaml"], "--config: must be one file; got run.yaml and other.yaml"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(folder, launched, capsys, arguments, said):
    assert refused(capsys, "--config", "run.yaml", *arguments).startswith(said)
    assert launched == []


def test_what_accelerate_refuses_is_said_in_one_line(folder, capsys):
    said = refused(capsys, "--config", "run.yaml", "--cpu", "--multi_gpu")
    assert said.startswith("You can only use one of `--cpu`, `--multi_gpu`")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_beams: 2.5", "run.yaml:5: num_beams: must be a whole number; got 2.5"),
        ("num_beem: 2", "run.yaml:5: num_beem: neither trl-pper train nor accelerate launch has such an option"),
        ("num_processes: two", "run.yaml:5: num_processes: must be a whole number or null; got two"),
        ("multi_gpu: 2", "run.yaml:5: multi_gpu: must be true or false or null; got 2"),
        ("bf16: true", "run.yaml:5: bf16: must stand there once; line 4 has it already"),
        ("env: [A]", "run.yaml:5: env: must be a mapping of environment variables to values; got list"),
        ("a: [", "run.yaml: must be YAML; got"),
        ("help: true", "run.yaml:5: help: neither trl-pper train nor accelerate launch has such an option"),
        ("config: other.yaml", "run.yaml:5: config: neither trl-pper train nor"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(folder, capsys, text, said):
    (folder / "run.yaml").write_text(f"{RUN}{text}\n")
    assert refused(capsys, "--config", "run.yaml").startswith(said)


def test_a_file_or_a_model_that_is_missing_is_named(folder, capsys):
    assert refused(capsys, "--config", "none.yaml") == "none.yaml: no such file"
    assert refused(capsys, "--config") == "--config: a YAML file is required; got nothing"
    assert refused(capsys, "--tasks", "x.jsonl") == "model_name_or_path: required; give a model id or a path"
    (folder / "run.yaml").write_bytes(b"\xff\xfe")
    assert refused(capsys, "--config", "run.yaml").startswith("run.yaml: must be YAML; got 'utf-8' codec")


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a full disk")])
def test_what_goes_wrong_in_training_is_raised_as_it_is(folder, monkeypatch, error):
    def fail(trainer):
        raise error

    monkeypatch.setattr("trl_pper.cli.train_run.prepare", lambda *configurations: None)
    monkeypatch.setattr("trl_pper.cli.train_run.run", fail)
    with pytest.raises(type(error), match=str(error)):
        main(["train", "--config", "run.yaml"])


def test_launch_options_go_to_accelerate_and_override_the_file(folder, launched):
    (folder / "run.yaml").write_text(
        f"{RUN}num_processes: 4\nmulti_gpu: true\nsame_network: false\nmain_process_port: 1234\nnum_beams: 2\n"
    )
    command = ["--num_beams", "5", "--num-processes=2", "--max_steps", "-1", "--main_process_ip", "127.0.0.1"]
    assert main(["train", "--config", "run.yaml", *command]) == 0
    (chosen,) = launched
    assert (chosen.num_processes, chosen.multi_gpu, chosen.main_process_port) == (2, True, 1234)
    assert chosen.main_process_ip == "127.0.0.1"
    assert (chosen.module, chosen.training_script) == (True, "trl_pper.cli")
    given = ["train", "--config", "run.yaml", "--num_beams", "5", "--max_steps", "-1"]
    assert chosen.training_script_args == given
    # What the process makes of them.
    found = train_options(given[1:]).given
    assert (found["num_beams"], found["max_steps"]) == (5, -1)


def test_a_configuration_is_named_as_with_trl_or_is_a_file(folder, launched):
    (folder / "mine.yaml").write_text("distributed_type: MULTI_GPU\n")
    for name in ("zero2", "mine.yaml"):
        assert main(["train", "--config", "run.yaml", "--accelerate_config", name, "--num_processes", "3"]) == 0
    from_trl, mine = launched
    assert from_trl.config_file.endswith("trl/accelerate_configs/zero2.yaml")
    assert mine.config_file == "mine.yaml"
    assert (from_trl.num_processes, from_trl.multi_gpu) == (3, False)
    (folder / "run.yaml").write_text(f"{RUN}accelerate_config: fsdp2\n")
    assert main(["train", "--config", "run.yaml"]) == 0
    assert launched[-1].config_file.endswith("fsdp2.yaml")


@pytest.mark.parametrize("name", ["multi_gpu", "single_gpu", "fsdp1", "fsdp2", "zero1", "zero2", "zero3"])
def test_the_names_that_the_page_promises_are_those_of_trl(name):
    assert launch._config_file(name).is_file()


def test_several_processes_without_a_gpu_are_really_started(folder, launched, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    assert main(["train", "--config", "run.yaml", "--num_processes", "2"]) == 0
    # Accelerate leaves them to mpirun otherwise, and starts a single one.
    assert launched[0].multi_gpu
    for told in (["--cpu"], ["--use_deepspeed"], ["--accelerate_config", "single_gpu"]):
        assert main(["train", "--config", "run.yaml", "--num_processes", "2", *told]) == 0
        assert not launched[-1].multi_gpu


@pytest.mark.parametrize(
    ("default_config", "devices", "use_cpu", "worth"),
    [(False, 0, False, False), (False, 1, False, False), (False, 2, False, True), (False, 2, True, False),
     (True, 0, True, True), (True, 2, False, True)],
)  # fmt: skip
def test_without_options_a_launch_has_to_be_worth_it(folder, monkeypatch, default_config, devices, use_cpu, worth):
    monkeypatch.setattr("torch.accelerator.device_count", lambda: devices)
    if default_config:
        (folder / "none.yaml").write_text("distributed_type: MULTI_GPU\n")
    assert launch.is_worth_a_launch([], use_cpu=use_cpu) is worth
    assert launch.is_worth_a_launch(["--num_processes=1"], use_cpu=True)


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "ACCELERATE_MIXED_PRECISION", "OMPI_COMM_WORLD_LOCAL_RANK"])
def test_inside_a_launcher_nothing_is_launched_again(folder, launched, capsys, monkeypatch, variable):
    (folder / "run.yaml").write_text(f"{RUN}num_processes: 2\n")
    monkeypatch.setenv(variable, "0")

    def configurations(self):
        raise ValueError("this process trains")

    monkeypatch.setattr("trl_pper.cli.train_options.TrainOptions.configurations", configurations)
    assert refused(capsys, "--config", "run.yaml") == "this process trains"
    said = refused(capsys, "--config", "run.yaml", "--num_processes", "2")
    assert said.startswith("--num_processes: a launcher started this process already")
    assert launched == []


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (subprocess.CalledProcessError(returncode=2, cmd="x"), 2),
        (subprocess.CalledProcessError(returncode=-9, cmd="x"), 137),
        (ChildFailedError("x", {1: ProcessFailure(local_rank=1, pid=1, exitcode=7, error_file="none")}), 7),
        (ChildFailedError("x", {0: ProcessFailure(local_rank=0, pid=1, exitcode=-15, error_file="none")}), 143),
    ],
)
def test_a_failed_launch_ends_with_the_exit_code_of_its_process(folder, monkeypatch, failure, code):
    def fail(chosen):
        raise failure

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert main(["train", "--config", "run.yaml", "--num_processes", "1"]) == code


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (ImportError("DeepSpeed is not installed"), "DeepSpeed"),
        (ConnectionError("Port 29500 is in use"), "Port 29500"),
    ],
)
def test_a_launch_that_cannot_start_says_why_in_one_line(folder, monkeypatch, capsys, failure, said):
    def fail(chosen):
        raise failure

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert refused(capsys, "--config", "run.yaml", "--accelerate_config", "zero2").startswith(said)


def test_processes_unaware_of_each_other_are_refused_in_a_line(folder, monkeypatch, capsys):
    configurations = train_options(["--config", "run.yaml"]).configurations()
    monkeypatch.setattr("trl_pper.cli.train_options.TrainOptions.configurations", lambda self: configurations)
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = refused(capsys, "--config", "run.yaml")
    assert said.startswith("num_processes: the launcher started 2 processes, but each of them sees 1")


def test_the_environment_of_the_file_is_set(folder, capsys, monkeypatch):
    monkeypatch.setenv("TRL_PPER_TESTED", "before")
    (folder / "run.yaml").write_text(f"{RUN}env:\n  TRL_PPER_TESTED: 3\n")
    refused(capsys, "--config", "run.yaml")
    assert os.environ["TRL_PPER_TESTED"] == "3"


@pytest.mark.parametrize(("rank", "waits"), [(None, 0), ("0", 0), ("1", 1)])
def test_the_first_process_prints_an_error_the_others_wait(folder, capsys, monkeypatch, rank, waits):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    # A process that nobody ends has an error of its own, which is not lost.
    assert refused(capsys, "--config", "run.yaml", "--num_beams", "0").startswith("num_beams: must be")
    assert len(waited) == waits


def test_prompts_that_are_too_long_are_left_out_with_a_warning(tasks, tokenizer, caplog):
    from trl_pper.cli.train_run import shorten
    from trl_pper.generation.encoding import Encoder

    encoder = Encoder(tokenizer=tokenizer, end_token_ids=frozenset([tokenizer.eos_token_id]))
    lengths = [len(tokenizer(task.prompt)["input_ids"]) for task in tasks]
    longer = replace(tasks[0], task_id="long", prompt=tasks[0].prompt + "# more\n" * 20)
    for data in ([*tasks, longer], datasets.Dataset.from_dict({"prompt": [one.prompt for one in [*tasks, longer]]})):
        caplog.clear()
        found = shorten(data, encoder, max(lengths))
        assert len(found) == len(tasks)
        assert f"max_prompt_length: 1 of {len(tasks) + 1} are left out" in caplog.text
    with pytest.raises(ValueError, match=rf"no prompt has at most 1 tokens, the shortest has {min(lengths)}"):
        shorten(tasks, encoder, 1)
    with pytest.raises(ValueError, match="max_prompt_length: must be at least 1; got 0"):
        shorten(tasks, encoder, 0)


def test_help_has_every_option_once_ours_first(capsys):
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "%%" not in text
    words = " ".join(text.split())
    for configuration in CONFIGURATIONS:
        for one in fields(configuration):
            listed = re.findall(rf"^  --{one.name}(?: .*)?$", text, flags=re.MULTILINE)
            assert len(listed) == 1, one.name
            help = " ".join(one.metadata["help"].replace("%%", "%").split())
            # Lines are broken at hyphens, too.
            assert help.replace(" ", "") in words.replace(" ", ""), one.name
    assert text.index("--tasks") < text.index("--num_beams") < text.index("--lora_r") < text.index("--learning_rate ")
    assert re.search(r"--priority \{best,proportional,rank,uniform,filter\}\n(.*\n){1,3}?.*\[best\]", text)
    assert "--num_beams INT" in text
    assert "[3]" in text
    assert "--accelerate_config" in text


def test_help_comes_without_arguments_and_as_a_short_option(capsys):
    for arguments in ([], ["-h"], ["--config", "none.yaml", "--help"]):
        assert main(["train", *arguments]) == 0
        assert capsys.readouterr().out.startswith("usage: trl-pper train [--config FILE.yaml]")


def test_the_parser_of_accelerate_is_what_the_launch_expects():
    from accelerate.commands.launch import launch_command_parser

    parser = launch_command_parser()
    assert isinstance(parser, argparse.ArgumentParser)
    chosen = vars(parser.parse_args(["--num_processes", "2", "-m", "a.b", "--c", "d"]))
    assert (chosen["module"], chosen["training_script"], chosen["training_script_args"]) == (True, "a.b", ["--c", "d"])
    assert {"num_processes", "config_file", *launch._PARADIGMS} <= chosen.keys()
    assert {"num_processes", "config_file", "multi_gpu", "accelerate_config"} <= launch.launch_options().keys()


def test_the_commands_help_comes_without_the_libraries():
    code = "import sys; from trl_pper.cli.commands import parse; parse(['judge']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
