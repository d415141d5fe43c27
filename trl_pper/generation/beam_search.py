"""Generate the k most probable programs of each task by beam search (Algorithm 1 of the paper, sampling phase)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformers import GenerationConfig

from trl_pper.generation.decoding import (
    EarlierGroups,
    PromptBatch,
    batches,
    checked_prompts,
    chosen_model,
    decode_programs,
    generate_ids,
    own_model,
)
from trl_pper.generation.engines.token_scores import Completion
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.scorer import model_identity
from trl_pper.generation.source import (
    GeneratedProgram,
    ProgramSource,
    check_at_least_one,
    check_not_negative,
    settings_json,
)
from trl_pper.tasks.task import CodingTask, checked_stop


class BeamSearchSource(ProgramSource):
    """A source of programs that runs beam search with a transformers model.

    The method is the beam search sampling phase of arXiv 2410.12236.

    Args:
        model: A causal language model, or None to generate with the model in training.
        processing_class: The model's tokenizer; required with `model`.
        num_beams: k, the number of beams and of programs returned per task.
        max_completion_length: Longest completion, in tokens.
        batch_size: Number of prompts in a batch.
        length_penalty: Exponent of the length in the beams' final ranking; 1 ranks by mean token log-probability
            (matches `possibility="mean"`), 0 by the log-probability of the whole program ("product").
        num_beam_groups: Number of groups of beams; it divides `num_beams`. The groups are searched in turn. Beams of
            the same group resemble each other.
        diversity_penalty: Penalty of a token, in nats, for each program of an earlier group that has the same token
            at the same position: the Hamming diversity of diverse beam search (arXiv 1610.02424, section 4).
        stop: Texts that end a completion, in addition to the stops of its task.
        chat_template_kwargs: With `model`: further arguments of the chat template, such as `enable_thinking`.

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
        num_beam_groups: int = 1,
        diversity_penalty: float = 0.5,
        stop: Sequence[str] = (),
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        check_at_least_one(
            num_beams=num_beams,
            max_completion_length=max_completion_length,
            batch_size=batch_size,
            num_beam_groups=num_beam_groups,
        )
        if num_beams % num_beam_groups:
            raise ValueError(f"num_beam_groups: must divide num_beams ({num_beams}); got {num_beam_groups}")
        check_not_negative(diversity_penalty=diversity_penalty)
        self.num_beams = num_beams
        self.max_completion_length = max_completion_length
        self.batch_size = batch_size
        self.length_penalty = length_penalty
        self.num_beam_groups = num_beam_groups
        self.diversity_penalty = diversity_penalty
        self.stop = checked_stop(stop)
        #: The source's own model; None if it generates with the model in training.
        self.own_model = own_model(model, processing_class, chat_template_kwargs)
        self.uses_student = self.own_model is None

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide how programs are generated, as plain values."""
        groups = {"num_beam_groups": self.num_beam_groups, "diversity_penalty": self.diversity_penalty}
        # Options without effect are left out: with a single group the penalty changes nothing.
        return {
            "method": "beam search",
            "num_beams": self.num_beams,
            "max_completion_length": self.max_completion_length,
            "length_penalty": self.length_penalty,
            **(groups if self.num_beam_groups > 1 else {}),
            **({"stop": list(self.stop)} if self.stop else {}),
        }

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return everything that decides the programs: settings, weights, tokenizer and chat template."""
        # The batch size counts, too: padding changes the rounding of logits, which can swap two close beams.
        return self.settings | {"batch_size": self.batch_size} | model_identity(chosen_model(self.own_model, student))

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield `num_beams` programs per task, most probable first.

        Args:
            tasks: The tasks to write programs for.
            student: The model to generate with when the source has no model of its own.

        Raises:
            ValueError: There is no model, the vocabulary holds fewer tokens than beams, or a prompt and its
                completion do not fit the model's context.
        """
        local = chosen_model(self.own_model, student)
        prompt_ids = self._checked_prompts(local, tasks)
        for batch in batches(prompt_ids, tasks, self.stop, batch_size=self.batch_size):
            yield from self._write(local, batch)

    def check(self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None) -> None:
        """Check the arguments as `generate` does, before anything is generated.

        Raises:
            ValueError: The same errors as `generate`.
        """
        self._checked_prompts(chosen_model(self.own_model, student), tasks)

    def _checked_prompts(self, local: LocalModel, tasks: Sequence[CodingTask]) -> list[list[int]]:
        # The first step of beam search needs at least as many different tokens as beams.
        vocabulary = local.config.vocab_size
        if self.num_beams >= vocabulary:
            raise ValueError(f"num_beams: must be below the vocabulary size {vocabulary}; got {self.num_beams}")
        return checked_prompts(local, tasks, max_completion_length=self.max_completion_length)

    def _write(self, local: LocalModel, batch: PromptBatch) -> list[list[GeneratedProgram]]:
        config = self.generation_config(local.eos_token_ids(), local.pad_token_id)
        found: list[list[Completion]] = [[] for _ in batch.ids]
        # An earlier group is searched to its end before the next begins; the paper advances all groups step by step.
        for group in range(self.num_beam_groups):
            earlier = [[one.ids for one in completions] for completions in found]
            apart = [EarlierGroups(earlier, start=batch.width, penalty=self.diversity_penalty)] if group else []
            written = generate_ids(local, batch, config, processors=apart, part=1 / self.num_beam_groups)
            for all_groups, beams in zip(found, written, strict=True):
                all_groups += beams
        settings = settings_json(self.settings)
        decoded = decode_programs(local, batch, found, settings=settings, score_batch_size=self.batch_size)
        # Several groups have to be sorted by log-probability: the scores of `generate` contain the diversity penalty.
        return decoded if self.num_beam_groups == 1 else [self._most_probable_first(programs) for programs in decoded]

    def _most_probable_first(self, programs: list[GeneratedProgram]) -> list[GeneratedProgram]:
        def score(one: GeneratedProgram) -> float:
            # The log-probability of an empty completion is unknown.
            if one.logprob is None or one.num_tokens is None:
                return float("-inf")
            return float(one.logprob / one.num_tokens**self.length_penalty)

        return sorted(programs, key=score, reverse=True)

    def generation_config(self, eos_token_id: list[int], pad_token_id: int) -> GenerationConfig:
        """Return the generation configuration of a group, with every field set that changes beams or scores."""
        # A field that is not set could come from the model's own configuration: `do_sample` would draw at random,
        # `repetition_penalty` would shift the scores.
        beams = self.num_beams // self.num_beam_groups
        return GenerationConfig(
            max_new_tokens=self.max_completion_length,
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            early_stopping=False,
            length_penalty=self.length_penalty,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
        )
