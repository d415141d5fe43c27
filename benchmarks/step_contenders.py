"""The trainers that are compared: `PPERTrainer`, and `SFTTrainer` on the same rows in the same order.

Enters: judged programs, a tokenizer and a size. Leaves: trainers with equal models of their own, and the assertions
that they load the same batches and learn the same weights. A second `SFTTrainer` like the first is the control; a
third has the same draws of each step in the order drawn.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from step_padding import draws_in_order
from step_programs import Row
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from trl_pper import PPERConfig, PPERTrainer

PPER, SFT, SFT_AGAIN, SFT_AS_DRAWN = "PPERTrainer", "SFTTrainer", "SFTTrainer again", "SFTTrainer, as drawn"
MAX_LENGTH = 1024


class Contenders:
    """Builds the trainers anew, as often as wanted, in any order.

    Args:
        rows: Judged programs, all of them in the buffer.
        tokenizer: Cuts them.
        options: `device`, `batch`, `accumulation`, `steps` and `layers`.
        hidden: Hidden size of the models.
    """

    def __init__(self, rows: list[Row], tokenizer: Any, options: argparse.Namespace, *, hidden: int) -> None:
        self._rows = datasets.Dataset.from_list([{**row, "logprob": None} for row in rows])
        self._tokenizer = tokenizer
        self._options = options
        self._hidden = hidden
        pper = self._pper()
        setting = (options.batch, options.accumulation, 1)
        as_drawn = draws_in_order(pper.buffer, np.ones_like, steps=options.steps, setting=setting)
        ordered = [pper.buffer[position] for position in pper._get_train_sampler()]
        drawn = [pper.buffer[position] for position in as_drawn.ravel().tolist()]
        self._makers: dict[str, Callable[[], SFTTrainer]] = {
            PPER: self._pper,
            SFT: partial(self._sft, ordered),
            SFT_AGAIN: partial(self._sft, ordered),
            SFT_AS_DRAWN: partial(self._sft, drawn),
        }

    def build(self, *, first: int = 0) -> dict[str, SFTTrainer]:
        """Return fresh trainers, made in turn from number `first` on: what is made later lies elsewhere in memory.

        Odd numbers go the other way about, so that each trainer follows each neighbour as often as it precedes it.
        """
        names = list(self._makers)[:: -1 if first % 2 else 1]
        return {name: self._makers[name]() for name in names[first % len(names) :] + names[: first % len(names)]}

    def _common(self) -> dict[str, Any]:
        options = self._options
        return {
            "output_dir": tempfile.gettempdir(),
            "use_cpu": options.device == "cpu",
            "bf16": False,
            "report_to": [],
            "disable_tqdm": True,
            "logging_strategy": "no",
            "save_strategy": "no",
            "num_train_epochs": 1,
            "max_length": MAX_LENGTH,
            "per_device_train_batch_size": options.batch,
            "gradient_accumulation_steps": options.accumulation,
            "learning_rate": 1e-4,
            "seed": 0,
        }

    def _pper(self) -> PPERTrainer:
        config = PPERConfig(
            **self._common(),
            steps_per_round=self._options.steps,
            max_completion_length=MAX_LENGTH // 2,
            possibility_weight=0.0,
            priority_exponent=1.0,
        )
        return PPERTrainer(self._model(), config, train_dataset=self._rows, processing_class=self._tokenizer)

    def _sft(self, experiences: list[Any]) -> SFTTrainer:
        config = SFTConfig(**self._common(), completion_only_loss=True, train_sampling_strategy="sequential")
        pairs = [{"prompt": one.prompt, "completion": one.completion} for one in experiences]
        rows = datasets.Dataset.from_list(pairs)
        return SFTTrainer(self._model(), config, train_dataset=rows, processing_class=self._tokenizer)

    def _model(self) -> Qwen2ForCausalLM:
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(self._tokenizer),
            hidden_size=self._hidden,
            intermediate_size=3 * self._hidden,
            num_hidden_layers=self._options.layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=self._tokenizer.eos_token_id,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return Qwen2ForCausalLM(config)


def assert_same_batches(ours: SFTTrainer, theirs: SFTTrainer) -> None:
    """Raise AssertionError unless both load the same batches in the same order."""
    for one, other in zip(ours.get_train_dataloader(), theirs.get_train_dataloader(), strict=True):
        assert one.keys() == other.keys(), (one.keys(), other.keys())
        assert all(torch.equal(one[name], other[name]) for name in other)


def assert_same_weights(ours: SFTTrainer, theirs: SFTTrainer) -> None:
    """Raise AssertionError unless both learned the same: on a CPU to the bit."""
    for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other) if one.device.type == "cpu" else torch.allclose(one, other, atol=1e-3)


def round_seconds(trainer: PPERTrainer, repetitions: int = 30) -> NDArray[np.float64]:
    """Return the CPU time of drawing, preparing and ordering a round whose programs were tokenised before."""
    sampler = trainer._get_train_sampler()
    seconds = []
    for _ in range(repetitions):
        began = time.thread_time()
        list(sampler)
        seconds.append(time.thread_time() - began)
    return np.array(seconds)


def function_calls(trainer: SFTTrainer) -> int:
    """Train once more and return how many functions, Python's and built-in ones, were called."""
    with cProfile.Profile() as profile:
        trainer.train()
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]
