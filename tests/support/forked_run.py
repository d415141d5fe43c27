"""Training runs in processes of their own, forked after TRL was imported once, and killed where the plan says so.

Started by `forked_plan.py` with a folder that holds `plan.json`, a list of runs: `{"name", "output", "processes",
"config", "lora", "tasks", "dropout", "launch", "resume", "evaluate", "kill", "slow", "timeout", "barrier",
"fail", "differ"}`. Each process that comes to the end of its run, or to an error that the plan foresees, writes what
it saw to `<name>-<rank>.json`; the exit codes of all of them go to `exits.json`.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from tests.support.launch_environment import launch_environment
from trl_pper import Experience, Judge, PPERConfig, PPERTrainer
from trl_pper.demo.run import MODEL
from trl_pper.demo.tasks import demo_tasks
from trl_pper.rounds import collector
from trl_pper.rounds.journal import Journal

CONFIG = dict(
    use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2, max_completion_length=48,
    generation_batch_size=2, per_device_train_batch_size=2, steps_per_round=3, num_train_epochs=2, learning_rate=1e-3,
    logging_steps=1, save_strategy="no", judge_workers=1, judge_cpu_seconds=2.0, gradient_checkpointing=False,
    ddp_find_unused_parameters=False,
)  # fmt: skip

#: Made once, before the processes are forked: the tasks, and what transformers keeps of the first loading of a model.
TASKS = demo_tasks("train")
AutoModelForCausalLM.from_pretrained(MODEL)


class KillAtStep(TrainerCallback):
    """Kills the process at the end of an optimizer step, before a checkpoint of that step is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_at_append(number: int) -> None:
    """Kill the process when its journal is about to be given the programs of that many tasks more."""
    append, left = Journal.append, [number]

    def counted(self, *args, **kwargs):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        append(self, *args, **kwargs)

    Journal.append = counted


def kill_at_save(trainer: PPERTrainer, step: int) -> None:
    """Kill the process in the middle of the checkpoint of that step: model and buffer are written, nothing else."""
    save = trainer._save_optimizer_and_scheduler

    def killed(folder):
        if trainer.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        save(folder)

    trainer._save_optimizer_and_scheduler = killed


def slow_down(judge: Judge, seconds: float) -> None:
    """Make the judge's first verdict take that long."""
    submit = judge.submit

    def slow(*args, **kwargs):
        judge.submit = submit
        time.sleep(seconds)
        return submit(*args, **kwargs)

    judge.submit = slow


def broken(*args, **kwargs):
    """Stands in for a source's `generate` and fails."""
    raise ConnectionError("the server is gone")


def barrier(what, *, failure=None):
    """Stands in for `meet`: a collective, with the clock that collectives have."""
    torch.distributed.barrier()


ODD_ONE = Experience(task_id="odd", prompt="# odd\n", completion="pass\n", program="pass\n", pass_rate=0.5)


class Recorder:
    """Stands in for the collator and remembers the rows of every micro-batch."""

    def __init__(self, collate) -> None:
        self.collate = collate
        self.rows: list[list[list[int]]] = []

    def __call__(self, examples):
        self.rows.append([list(example["input_ids"]) for example in examples])
        return self.collate(examples)


def configuration(folder: Path, run: dict) -> PPERConfig:
    """Make the configuration of a run, and before it what a launcher makes."""
    given = {**CONFIG, **run.get("config", {})}
    if "launch" in run:
        os.environ.update(launch_environment(run["launch"], run["processes"]))
    if run.get("launch", "").startswith("zero"):
        given.update(use_cpu=False, ddp_backend="gloo", ddp_timeout=120)
    elif "timeout" in run or "launch" in run:
        # With use_cpu transformers hands on no ddp_timeout, so the state is made here, which it then takes as it is.
        PartialState(cpu=True, timeout=timedelta(seconds=run.get("timeout", 120)))
        given["accelerator_config"] = {"use_configured_state": True}
    if run.get("launch") == "fsdp.yaml":
        # Accelerate shards for GPUs alone; the code that it then runs asks for the device, which stays the CPU.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    args = PPERConfig(str(folder / run["output"]), **given)
    if run.get("launch") == "zero3.yaml":
        # Below it, parameters stay whole once gathered, which would be all of a small model.
        args.deepspeed_plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return args


def make_trainer(folder: Path, run: dict) -> PPERTrainer:
    """Make the trainer of a run."""
    args = configuration(folder, run)
    torch.manual_seed(3)
    options = {"attention_dropout": run.get("dropout", 0.1)}
    if "launch" in run:
        # By its path, so that sharded loading takes place.
        model, args.model_init_kwargs = str(MODEL), options
    else:
        model = AutoModelForCausalLM.from_pretrained(MODEL, **options)
    trainer = PPERTrainer(
        model=model,
        args=args,
        train_dataset=TASKS[: run.get("tasks", 7)],
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear") if run.get("lora") else None,
    )
    # As some models ship it; beam search has to leave it aside, however the model is wrapped.
    trainer.model.generation_config.update(do_sample=True, temperature=9.0)
    return trainer


def tamper(trainer: PPERTrainer, run: dict) -> None:
    """Do to the process what the plan has for its rank."""
    rank = trainer.accelerator.process_index
    kill = run.get("kill", {})
    if kill.get("rank", 0) == rank:
        if "append" in kill:
            kill_at_append(kill["append"])
        if "step" in kill:
            trainer.add_callback(KillAtStep(kill["step"]))
        if "save" in kill:
            kill_at_save(trainer, kill["save"])
    if run.get("slow", {}).get("rank") == rank:
        slow_down(trainer.judge, run["slow"]["seconds"])
    if run.get("barrier"):
        collector.meet = barrier
    if run.get("fail") == rank:
        trainer.collector.collection.source.generate = broken
    if run.get("differ") == rank:
        trainer.buffer.add([ODD_ONE])


def train(folder: Path, run: dict) -> None:
    """Train as one process of a run."""
    torch.set_num_threads(1)
    trainer = make_trainer(folder, run)
    tamper(trainer, run)
    recorder = trainer.data_collator = Recorder(trainer.data_collator)
    seen = {"world_size": trainer.accelerator.num_processes}
    report = folder / f"{run['name']}-{trainer.accelerator.process_index}.json"
    started = time.perf_counter()
    if run.get("evaluate"):
        seen["accuracy_before"] = accuracy(trainer)
    try:
        trainer.train(resume_from_checkpoint=run.get("resume"))
    except Exception as error:
        if not run.keys() & {"fail", "differ"}:
            raise
        seconds = time.perf_counter() - started
        report.write_text(json.dumps({**seen, "error": f"{type(error).__name__}: {error}", "seconds": seconds}))
        return
    report.write_text(json.dumps({**seen, **told(trainer, recorder), **sharding(trainer, folder, run)}))
    trainer.judge.close()


def told(trainer: PPERTrainer, recorder: Recorder) -> dict:
    """Return what a finished run has to tell."""
    return {
        "steps": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "batches": recorder.rows,
        "digest": trainer.buffer.digest(),
        "programs": len(trainer.buffer),
        "prompt_lengths": sorted({len(one.prompt) for one in trainer.buffer}),
        "completion_lengths": sorted({len(one.completion) for one in trainer.buffer}),
        "pass_rates": sorted(set(trainer.buffer.pass_rates().tolist())),
        "restored": [report.restored for report in trainer.collector.reports],
        "rounds": [report.round_index for report in trainer.collector.reports],
    }


def sharding(trainer: PPERTrainer, folder: Path, run: dict) -> dict:
    """Return the weights, and for a run that may be sharded who holds how many of them; save the model as well."""
    if "launch" not in run:
        weights = trainer.model.state_dict()
        return {"weights": fingerprint(weights), "sums": sums(weights)}
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    trainer.save_model(str(folder / run["output"] / "model"))
    with trainer.student.inference() as bare:
        whole = sum(parameter.numel() for parameter in bare.parameters())
    return {
        "distributed_type": trainer.accelerator.distributed_type.value,
        "whole": whole,
        "held": sum(held(parameter).numel() for parameter in trainer.model.parameters()),
        "accuracy": accuracy(trainer) if run.get("evaluate") else None,
        "sums": sums(weights) if trainer.accelerator.is_main_process else None,
    }


def accuracy(trainer: PPERTrainer) -> float:
    return trainer.evaluate(trainer.collector.tasks)["eval_accuracy"]


def held(parameter: torch.Tensor) -> torch.Tensor:
    """Return the part of a parameter that this process holds."""
    if hasattr(parameter, "to_local"):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)


def sums(weights: dict) -> dict[str, float]:
    return {name: float(value.double().sum()) for name, value in weights.items()}


def fingerprint(weights: dict) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(weights.items()):
        sha.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def fork(folder: Path, run: dict, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    processes = run["processes"]
    if processes > 1:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
        )  # fmt: skip
    status = 1
    try:
        train(folder, run)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def launch(folder: Path, run: dict) -> list[int]:
    """Run every process of a run; as a launcher does, end the others when one of them died."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {fork(folder, run, rank, port): rank for rank in range(run["processes"])}
    codes = [0] * run["processes"]
    while running:
        pid, status = os.wait()
        if pid not in running:
            continue
        rank = running.pop(pid)
        codes[rank] = os.waitstatus_to_exitcode(status)
        if codes[rank]:
            time.sleep(0.2)
            for other in running:
                os.kill(other, signal.SIGKILL)
    return codes


def main(folder: Path) -> None:
    """Carry out the plan."""
    plan = json.loads((folder / "plan.json").read_text())
    if any(run.get("launch", "").startswith("zero") for run in plan):
        import deepspeed

        # Shared memory in place of gloo for processes of one machine: would be compiled first, and changes no result.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    exits = {}
    for run in plan:
        started = time.perf_counter()
        exits[run["name"]] = launch(folder, run)
        print(run["name"], exits[run["name"]], f"{time.perf_counter() - started:.1f} s", flush=True)
    (folder / "exits.json").write_text(json.dumps(exits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
