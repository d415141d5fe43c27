"""Beam search with transformers: the k most probable programs of each task (Algorithm 1, sampling phase).

Enters: tasks and a model. Leaves: k completions a task, most probable first, each with log P(t_i). The log-probability
comes from one teacher-forced pass over what was generated, since the scores of `generate` would need
steps * batch * beams * vocabulary floats of memory and include every processor that touched them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from trl_pper.generation.fingerprint import tokenizer_fingerprint, weights_fingerprint
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram
from trl_pper.task import CodingTask


class BeamSearchSource:
    """Programs by beam search from a transformers model (arXiv 2410.12236, beam search sampling phase).

    Args:
        model: A causal language model, or None to generate with the model in training.
        processing_class: Its tokenizer; required with `model`.
        num_beams: k, the number of beams kept and of programs returned per task.
        max_completion_length: Longest completion, in tokens.
        batch_size: How many prompts are generated for at once.
        length_penalty: Exponent of the length in the beams' final ranking; 1 ranks by mean token log-probability
            (matches `possibility="mean"`), 0 by the log-probability of the whole program ("product").

    Raises:
        ValueError: An argument is out of range, or a model came without its tokenizer.

    Examples:
        >>> BeamSearchSource(num_beams=3, max_completion_length=128).num_beams
        3
    """

    def __init__(
        self,
        model: Any = None,
        processing_class: Any = None,
        *,
        num_beams: int = 3,
        max_completion_length: int = 256,
        batch_size: int = 8,
        length_penalty: float = 1.0,
    ) -> None:
        counts = {"num_beams": num_beams, "max_completion_length": max_completion_length, "batch_size": batch_size}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}")
        if model is not None and processing_class is None:
            raise ValueError("processing_class: required together with model; pass the model's tokenizer")
        self.num_beams = num_beams
        self.max_completion_length = max_completion_length
        self.batch_size = batch_size
        self.length_penalty = length_penalty
        self._own = None
        if model is not None:
            name = getattr(model.config, "_name_or_path", "") or type(model).__name__
            self._own = LocalModel(model=model, processing_class=processing_class, name=name)

    @property
    def uses_student(self) -> bool:
        """Whether the model in training writes the programs."""
        return self._own is None

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return all that decides what this source writes: its settings, the weights, the tokenizer, the template."""
        local = self._model(student)
        with local.inference() as bare:
            weights = weights_fingerprint(bare)
        return {
            "source": type(self).__name__,
            "num_beams": self.num_beams,
            "max_completion_length": self.max_completion_length,
            "batch_size": self.batch_size,
            "length_penalty": self.length_penalty,
            "weights": weights,
            "tokenizer": tokenizer_fingerprint(local.processing_class),
            "chat_template": getattr(local.processing_class, "chat_template", None),
            "eos_token_ids": local.eos_token_ids(),
        }

    def _model(self, student: LocalModel | None) -> LocalModel:
        local = self._own or student
        if local is None:
            raise ValueError(
                "model: this source has none and no model in training was given; pass BeamSearchSource(model=...)"
            )
        return local

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield `num_beams` programs per task, most probable first.

        Args:
            tasks: What to write programs for.
            student: The model to generate with when the source has none of its own.

        Raises:
            ValueError: There is no model, the vocabulary holds fewer tokens than beams, or a prompt and its
                completion do not fit the model's context.
        """
        local = self._model(student)
        prompt_ids = self._checked_prompts(local, tasks)
        for start in range(0, len(tasks), self.batch_size):
            yield from self._generate_batch(local, prompt_ids[start : start + self.batch_size])

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Raise the ValueError that `generate` would raise, before anything is generated."""
        self._checked_prompts(self._model(student), tasks)

    def _checked_prompts(self, local: LocalModel, tasks: Sequence[CodingTask]) -> list[list[int]]:
        prompt_ids = local.encode([task.prompt for task in tasks])
        vocabulary = local.config.vocab_size
        if self.num_beams >= vocabulary:
            raise ValueError(f"num_beams: must be below the vocabulary size {vocabulary}; got {self.num_beams}")
        context = getattr(local.config, "max_position_embeddings", None)
        for task, ids in zip(tasks, prompt_ids, strict=True):
            if not ids:
                raise ValueError(f"prompt: task {task.task_id!r} encodes to no token; give it some text")
            if context is not None and len(ids) + self.max_completion_length > context:
                raise ValueError(
                    f"max_completion_length: {self.max_completion_length} tokens after the {len(ids)} of task "
                    f"{task.task_id!r} exceed the model's context of {context}; lower it or drop the task"
                )
        return prompt_ids

    def _generate_batch(self, local: LocalModel, prompts: list[list[int]]) -> Iterator[list[GeneratedProgram]]:
        eos = local.eos_token_ids()
        width = max(map(len, prompts))
        # Left padding: every prompt has to end where generation starts.
        padded = [[local.pad_token_id] * (width - len(ids)) + ids for ids in prompts]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]
        with local.inference() as bare:
            output = bare.generate(
                input_ids=torch.tensor(padded, device=local.device),
                attention_mask=torch.tensor(mask, device=local.device),
                generation_config=self.generation_config(eos, local.pad_token_id),
                # A process whose beams have ended goes on with those of the others, which need its shards.
                synced_gpus=local.is_sharded,
            )
        completions = [_until_end(row, eos) for row in output[:, width:].tolist()]
        repeated = [ids for ids in prompts for _ in range(self.num_beams)]
        logprobs = local.logprobs(repeated, completions, batch_size=self.batch_size)
        programs = [
            GeneratedProgram(
                completion=local.processing_class.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
                logprob=logprob if ids else None,
                num_tokens=len(ids) or None,
                source=local.name,
            )
            for ids, logprob in zip(completions, logprobs, strict=True)
        ]
        for start in range(0, len(programs), self.num_beams):
            yield programs[start : start + self.num_beams]

    def generation_config(self, eos_token_id: list[int], pad_token_id: int) -> GenerationConfig:
        """Return the generation configuration with every field that changes beams or scores set here.

        `LocalModel.inference` empties the model's own configuration meanwhile, because fields left None would be
        filled from it: an inherited `do_sample` samples, an inherited `repetition_penalty` shifts the scores.
        """
        return GenerationConfig(
            max_new_tokens=self.max_completion_length,
            num_beams=self.num_beams,
            num_return_sequences=self.num_beams,
            do_sample=False,
            early_stopping=False,
            length_penalty=self.length_penalty,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )


def _until_end(ids: list[int], eos: list[int]) -> list[int]:
    # Beams shorter than the longest are padded, often with the end token itself: keep the first end token only.
    for position, token in enumerate(ids):
        if token in eos:
            return ids[: position + 1]
    return ids
