"""Training runs in processes of their own, forked after TRL was imported once, and killed where the plan says so.

Started by `test_resume.py` and `test_distributed.py` with a folder that holds `plan.json`, a list of runs: `{"name",
"output", "processes", "config", "lora", "tasks", "kill", "slow", "fail", "resume"}`. Each process that comes to the
end of its run writes what it saw to `<name>-<rank>.json`; the exit codes of all of them go to `exits.json`.
"""

import hashlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from trl_pper import Judge, PPERConfig, PPERTrainer
from trl_pper.demo.run import MODEL
from trl_pper.demo.tasks import demo_tasks
from trl_pper.journal import Journal
from trl_pper.processes import OtherProcessFailed

CONFIG = dict(
    use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2, max_completion_length=48,
    generation_batch_size=2, per_device_train_batch_size=2, steps_per_round=3, num_train_epochs=2, learning_rate=1e-3,
    logging_steps=1, save_strategy="no", judge_workers=1, judge_cpu_seconds=2.0, gradient_checkpointing=False,
    ddp_find_unused_parameters=False,
)  # fmt: skip


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
    stream = judge.stream

    def slow(*args, **kwargs):
        time.sleep(seconds)
        yield from stream(*args, **kwargs)

    judge.stream = slow


class BrokenSource:
    """A source whose server is gone."""

    def generate(self, tasks, *, student=None):
        raise ConnectionError("the server is gone")
        yield


class Recorder:
    """Stands in for the collator and remembers the rows of every micro-batch."""

    def __init__(self, collate) -> None:
        self.collate = collate
        self.rows: list[list[list[int]]] = []

    def __call__(self, examples):
        self.rows.append([list(example["input_ids"]) for example in examples])
        return self.collate(examples)


def train(folder: Path, run: dict) -> None:
    """Train as one process of a run."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    trainer = PPERTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL, attention_dropout=0.1),
        args=PPERConfig(str(folder / run["output"]), **{**CONFIG, **run.get("config", {})}),
        train_dataset=demo_tasks("train")[: run.get("tasks", 7)],
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        peft_config=LoraConfig(r=4, lora_dropout=0.1, target_modules="all-linear") if run.get("lora") else None,
    )
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
    if run.get("fail") == rank:
        trainer.collector.source = BrokenSource()
    recorder = trainer.data_collator = Recorder(trainer.data_collator)
    try:
        trainer.train(resume_from_checkpoint=run.get("resume"))
    except (OtherProcessFailed, ConnectionError) as error:
        if "fail" not in run:
            raise
        seen = {"error": f"{type(error).__name__}: {error}", "world_size": trainer.accelerator.num_processes}
        (folder / f"{run['name']}-{rank}.json").write_text(json.dumps(seen))
        return
    seen = {
        "world_size": trainer.accelerator.num_processes,
        "steps": trainer.state.global_step,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "batches": recorder.rows,
        "digest": trainer.buffer.digest(),
        "programs": len(trainer.buffer),
        "pass_rates": sorted(set(trainer.buffer.pass_rates().tolist())),
        "restored": [report.restored for report in trainer.collector.reports],
        "rounds": [report.round_index for report in trainer.collector.reports],
        "weights": fingerprint(trainer.model),
    }
    (folder / f"{run['name']}-{rank}.json").write_text(json.dumps(seen))
    trainer.judge.close()


def fingerprint(model: torch.nn.Module) -> str:
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
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
    exits = {}
    for run in plan:
        exits[run["name"]] = launch(folder, run)
        print(run["name"], exits[run["name"]], flush=True)
    (folder / "exits.json").write_text(json.dumps(exits))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
