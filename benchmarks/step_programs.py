"""Judged programs whose lengths are those of real ones, and a tokenizer that cuts them as a code model's would.

Enters: a folder of public benchmark data, or nothing. Leaves: rows with prompt, completion and pass rate, by the name
of where they come from. Without the folder only the demo's programs are there, which are short and much alike.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from trl_pper import Experience, ReplayBuffer
from trl_pper.demo.tasks import composition, demo_tasks

Row = dict[str, Any]
DEMO, HUMAN_EVAL, APPS = "demo", "HumanEval, CodeGen 16B", "APPS, ChatGPT"
EOS, PAD = "<eos>", "<pad>"
VOCABULARY_SIZE = 4096


def programs(folder: Path | None) -> dict[str, list[Row]]:
    """Return rows by their source: the demo's, and those whose files are in `folder`."""
    found = {DEMO: list(_demo())}
    if folder is not None:
        human_eval = folder / "dumps" / "codet_humaneval_codegen16B_k100.dev.jsonl.gz"
        if human_eval.exists():
            found[HUMAN_EVAL] = list(_human_eval(human_eval))
        if (folder / "apps_mapcoder").is_dir():
            found[APPS] = list(_apps(folder / "apps_mapcoder"))
    return found


def as_buffer(rows: list[Row]) -> ReplayBuffer:
    """Return a buffer of the rows, drawn in proportion to their pass rates."""
    buffer = ReplayBuffer(possibility_weight=0.0)
    buffer.add(Experience(program=row["completion"], **row) for row in rows)
    return buffer


def train_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the rows."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((row["prompt"] + row["completion"] for row in rows), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=EOS, pad_token=PAD)


def token_lengths(buffer: ReplayBuffer, tokenizer: PreTrainedTokenizerFast) -> NDArray[np.int64]:
    """Return the tokens of each experience, prompt, completion and end token together, shape [len(buffer)]."""
    texts = [f"{one.prompt}{one.completion}{EOS}" for one in buffer]
    return np.array([len(ids) for ids in tokenizer(texts)["input_ids"]], dtype=np.int64)


def _demo() -> Iterator[Row]:
    for task in demo_tasks():
        asked = composition(task.task_id)
        for slip in itertools.product([False, True], repeat=3):
            yield _row(task.task_id, asked.prompt, asked.completion(slip), 1.0 - sum(slip) / 3)


def _human_eval(file: Path) -> Iterator[Row]:
    for task in _read(file):
        for completion, passed in zip(task["completions"], task["measured_n_pass"], strict=True):
            yield _row(task["task_id"], task["prompt"], completion, max(passed, 0) / task["n_tests"])


def _apps(folder: Path) -> Iterator[Row]:
    descriptions = {task["id"]: task["description"] for task in _read(folder / "selected150.dev.jsonl")}
    for file in sorted(folder.glob("ChatGPT-*.jsonl")):
        for row in _read(file):
            if row["task_id"] in descriptions:
                prompt = descriptions[row["task_id"]] + "\n"
                yield _row(row["task_id"], prompt, row["program"], row["measured_pass_rate"] or 0.0)


def _row(task_id: str, prompt: str, completion: str, pass_rate: float) -> Row:
    return {"task_id": str(task_id), "prompt": prompt, "completion": completion, "pass_rate": pass_rate}


def _read(file: Path) -> list[Row]:
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return [json.loads(line) for line in content.split(b"\n") if line]
