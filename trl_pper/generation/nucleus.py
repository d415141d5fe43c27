"""Draw n programs for each task by nucleus sampling with transformers (arXiv 1904.09751).

The programs of a task are independent draws. Their log-probability is that of the model itself, not that of the
truncated distribution they are drawn from. The programs depend neither on the number of processes nor on restarts.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from trl_pper.generation.decoding import (
    PromptBatch,
    batches,
    checked_prompts,
    chosen_model,
    decode_programs,
    generate_ids,
    own_model,
)
from trl_pper.generation.engines.continuous import check_continuous, generate_continuously
from trl_pper.generation.engines.token_scores import Completion
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import model_identity
from trl_pper.generation.source import (
    ENGINES,
    GeneratedProgram,
    ProgramSource,
    check_at_least_one,
    check_sampling,
    settings_json,
    tell_written,
)
from trl_pper.tasks.task import CodingTask, checked_stop


class NucleusSource(ProgramSource):
    """A source of programs that samples from a transformers model.

    Unlike beams, which repeat themselves with a weak model, samples differ. An unbiased pass@k needs samples.

    Args:
        model: A causal language model, or None to generate with the model in training.
        processing_class: The model's tokenizer; required with `model`.
        num_programs: n, the number of programs per task.
        max_completion_length: Longest completion, in tokens.
        batch_size: Number of prompts in a batch.
        max_sequences: Largest number of sequences that "transformers" generates at once. If a batch needs more, the
            programs of each of its tasks are generated in several passes.
        temperature: Divisor of the logits, above 0.
        top_p: Probability mass to sample from: the least probable tokens, with a total probability below 1 - top_p,
            are excluded. 1 excludes none.
        top_k: Largest number of tokens to sample from; 0 for all.
        seed: Seed of the random numbers.
        stop: Texts that end a completion, in addition to the stops of its task.
        chat_template_kwargs: With `model`: further arguments of the chat template, such as `enable_thinking`.
        with_logprobs: Whether to compute log P(t_i), which an evaluation does not need.
        engine: "transformers" for `generate`; "continuous_batching" for `generate_batch`, which fills a GPU better
            where completions differ in length.

    Raises:
        ValueError: An argument is out of range, or a model came without its tokenizer.

    Examples:
        >>> NucleusSource(num_programs=20, temperature=0.8, top_p=0.95).num_programs
        20
    """

    def __init__(
        self,
        model: Any = None,
        processing_class: Any = None,
        *,
        num_programs: int = 3,
        max_completion_length: int = 256,
        batch_size: int = 8,
        max_sequences: int = 64,
        temperature: float = 0.8,
        top_p: float = 0.95,
        top_k: int = 0,
        seed: int = 0,
        stop: Sequence[str] = (),
        with_logprobs: bool = True,
        engine: str = "transformers",
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_at_least_one(
            num_programs=num_programs,
            max_completion_length=max_completion_length,
            batch_size=batch_size,
            max_sequences=max_sequences,
        )
        check_sampling(temperature=temperature, top_p=top_p, top_k=top_k)
        if engine not in ENGINES:
            raise ValueError(f"engine: must be one of {', '.join(ENGINES)}; got {engine!r:.80}")
        self.num_programs = num_programs
        self.max_completion_length = max_completion_length
        self.batch_size = batch_size
        self.max_sequences = max_sequences
        self.temperature = temperature
        self.top_p = top_p
        self.top_k = top_k
        self.seed = seed
        self.stop = checked_stop(stop)
        self.with_logprobs = with_logprobs
        self.engine = engine
        self.round_index = 0
        #: The source's own model; None if it generates with the model in training.
        self.own_model = own_model(model, processing_class, chat_template_kwargs)
        self.uses_student = self.own_model is None

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide how programs are generated, as plain values."""
        return {
            "method": "nucleus sampling",
            "num_programs": self.num_programs,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "top_p": self.top_p,
            **({"top_k": self.top_k} if self.top_k else {}),
            "seed": self.seed,
            **({"engine": self.engine} if self.engine != "transformers" else {}),
            **({"stop": list(self.stop)} if self.stop else {}),
        }

    def for_round(self, round_index: int) -> NucleusSource:
        """Return this source with the random numbers of a round."""
        # With the same numbers in each round, a model that does not change would write the same programs again.
        other = copy.copy(self)
        other.round_index = round_index
        return other

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return everything that decides the programs: settings, round, weights, tokenizer and chat template."""
        # Batches decide which random numbers a program is drawn with.
        shape = {"batch_size": self.batch_size, "max_sequences": self.max_sequences, "round_index": self.round_index}
        return self.settings | shape | model_identity(chosen_model(self.own_model, student))

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield `num_programs` programs per task.

        Args:
            tasks: The tasks to write programs for.
            student: The model to generate with when the source has no model of its own.

        Raises:
            ValueError: There is no model, or a prompt and its completion do not fit the model's context.
        """
        local = chosen_model(self.own_model, student)
        prompt_ids = self._checked_prompts(local, tasks)
        for index, batch in enumerate(batches(prompt_ids, tasks, self.stop, batch_size=self.batch_size)):
            names = [task.task_id for task in tasks[index * self.batch_size :][: self.batch_size]]
            yield from self._write(local, batch, names)

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Check the arguments as `generate` does, before anything is generated.

        Raises:
            ValueError: The same errors as `generate`.
        """
        self._checked_prompts(chosen_model(self.own_model, student), tasks)

    def _checked_prompts(self, local: LocalModel, tasks: Sequence[CodingTask]) -> list[list[int]]:
        if self.engine == "continuous_batching":
            check_continuous(local)
        return checked_prompts(local, tasks, max_completion_length=self.max_completion_length)

    def _write(self, local: LocalModel, batch: PromptBatch, names: list[str]) -> list[list[GeneratedProgram]]:
        at_once = max(1, self.max_sequences // len(batch.ids))
        if self.engine == "continuous_batching":
            # The engine itself divides the sequences by the memory it finds.
            at_once = self.num_programs
        settings = settings_json(self.settings)
        written: list[list[GeneratedProgram]] = [[] for _ in batch.ids]
        for first in range(0, self.num_programs, at_once):
            count = min(at_once, self.num_programs - first)
            config = self.generation_config(local.eos_token_ids(), local.pad_token_id, num_programs=count)
            completions = self._completions(
                local, batch, config, seed=_seed(self.seed, self.round_index, names, first)
            )
            parts = decode_programs(
                local,
                batch,
                completions,
                settings=settings,
                with_logprobs=self.with_logprobs,
                score_batch_size=self.batch_size,
            )
            for programs, part in zip(written, parts, strict=True):
                programs += part
        return written

    def _completions(
        self, local: LocalModel, batch: PromptBatch, config: GenerationConfig, *, seed: int
    ) -> list[list[Completion]]:
        part = config.num_return_sequences / self.num_programs
        devices = range(torch.cuda.device_count()) if local.device.type == "cuda" else ()
        # The seed follows from the batch alone, so that the programs depend neither on the batches this process has
        # generated before nor on a restart. The generators of training are restored afterwards.
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            if self.engine == "transformers":
                return generate_ids(local, batch, config, part=part, with_logprobs=self.with_logprobs)
            found = generate_continuously(local, batch, config, seed=seed)
        tell_written(part * len(batch.ids))
        return found

    def generation_config(self, eos_token_id: list[int], pad_token_id: int, *, num_programs: int) -> GenerationConfig:
        """Return the generation configuration, with every field set that changes the distribution."""
        # A field that is not set could come from the model's own configuration.
        return GenerationConfig(
            max_new_tokens=self.max_completion_length,
            num_beams=1,
            num_return_sequences=num_programs,
            do_sample=True,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )


def _seed(*parts: Any) -> int:
    # A hash, since sums would collide: seed 0 in round 1 and seed 1 in round 0 must not draw the same.
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:8], "big")
