"""Generate completions with a local model batch by batch, cut them at their stops, and score them.

Beam search and nucleus sampling share these steps. The log-probability of a completion is the model's own, so that it
is comparable between beams and samples at any temperature. It is noted while the completion is written; where that
cannot be, it takes a teacher-forced forward pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from trl_pper.generation.encoding import Encoder
from trl_pper.generation.engines.prompt_cache import left_padded, prompt_cache
from trl_pper.generation.engines.token_scores import BeamScores, Completion, SampleScores
from trl_pper.generation.extraction import extract
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram, is_truncated, tell_written
from trl_pper.generation.stops import first_stop, kept_before
from trl_pper.tasks.task import CodingTask


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """A batch of prompts with their stops.

    Args:
        tasks: The tasks of the prompts.
        ids: The token ids of each prompt, none empty.
        stops: For each prompt the texts at which its completions end.
    """

    tasks: Sequence[CodingTask]
    ids: list[list[int]]
    stops: list[tuple[str, ...]]

    @property
    def width(self) -> int:
        """Length of the longest prompt, in tokens."""
        return max(map(len, self.ids))


def own_model(
    model: Any, processing_class: Any, chat_template_kwargs: Mapping[str, Any] | None = None
) -> LocalModel | None:
    """Return the model given to a source as a `LocalModel`, or None if no model was given.

    Raises:
        ValueError: A model came without its tokenizer, or arguments of the chat template without a model.
    """
    if model is None:
        if chat_template_kwargs:
            raise ValueError(
                "chat_template_kwargs: need a model of the source; the model in training has the ones of PPERConfig. "
                "Set them there"
            )
        return None
    if processing_class is None:
        raise ValueError("processing_class: required together with model; pass the model's tokenizer")
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return LocalModel(
        model=model, processing_class=processing_class, name=name, chat_template_kwargs=chat_template_kwargs or {}
    )


def chosen_model(own: LocalModel | None, student: LocalModel | None) -> LocalModel:
    """Return the model to generate with: the source's own model, or else the model in training.

    Raises:
        ValueError: Both are None.
    """
    local = own or student
    if local is None:
        raise ValueError("model: this source has no model, and no model in training was given. Pass model=...")
    return local


def checked_prompts(local: LocalModel, tasks: Sequence[CodingTask], *, max_completion_length: int) -> list[list[int]]:
    """Return the token ids of each task's prompt.

    Raises:
        ValueError: A prompt is empty, or it and its completion do not fit the model's context.
    """
    prompt_ids = local.encode([task.prompt for task in tasks])
    context = local.context
    for task, ids in zip(tasks, prompt_ids, strict=True):
        if not ids:
            raise ValueError(f"prompt: task {task.task_id!r} encodes to no token; give it some text")
        if context is not None and len(ids) + max_completion_length > context:
            raise ValueError(
                f"max_completion_length: {max_completion_length} tokens after the {len(ids)} of task "
                f"{task.task_id!r} exceed the model's context of {context}; lower it or drop the task"
            )
    return prompt_ids


def batches(
    prompt_ids: Sequence[list[int]], tasks: Sequence[CodingTask], stop: Iterable[str], *, batch_size: int
) -> list[PromptBatch]:
    """Divide prompts into batches, in order.

    Args:
        prompt_ids: The token ids of each prompt.
        tasks: The tasks of the prompts.
        stop: Stops of every prompt, in addition to the stops of its task.
        batch_size: Number of prompts in a batch.
    """
    stops = [tuple(dict.fromkeys((*task.stop, *stop))) for task in tasks]
    return [
        PromptBatch(
            tasks=tasks[start : start + batch_size],
            ids=list(prompt_ids[start : start + batch_size]),
            stops=stops[start : start + batch_size],
        )
        for start in range(0, len(prompt_ids), batch_size)
    ]


def generate_ids(
    local: LocalModel,
    batch: PromptBatch,
    config: GenerationConfig,
    *,
    processors: Sequence[Any] = (),
    part: float = 1.0,
    with_logprobs: bool = True,
) -> list[list[Completion]]:
    """Generate completions for a batch of prompts.

    Args:
        local: The model.
        batch: The prompts.
        config: The whole generation configuration; the model's own configuration has no effect.
        processors: Logits processors.
        part: The part of the batch's programs that this call writes, in (0, 1], for a display.
        with_logprobs: Whether to note log-probabilities; those of a sharded model, or of scores that processors
            change, are not noted.

    Returns:
        For each prompt `config.num_return_sequences` completions, each up to its first end token.
    """
    eos = local.eos_token_ids()
    width, count = batch.width, config.num_return_sequences
    stopping = [TaskStops(local.tokenizer, batch.stops, start=width)] if any(batch.stops) else []
    steps = StepsTold(config.max_new_tokens, tasks=part * len(batch.ids))
    scores = _scores(config, eos) if with_logprobs and not processors and not local.is_sharded else None
    # Samples need no record beside their tokens, and asking for one delays the end of a generation on a GPU.
    config.return_dict_in_generate = config.num_beams > 1
    # `generate` fills fields of `config` that are None from the model's own configuration, which `inference` empties.
    with local.inference() as bare:
        # Left padding: every prompt has to end where generation starts.
        ids, mask = left_padded(batch.ids, local.pad_token_id, local.device)
        # `generate` would run a prompt through the model once for each of its completions.
        cache = prompt_cache(bare, ids, mask) if count > 1 and not local.is_sharded else None
        if cache is not None:
            cache.batch_repeat_interleave(count)
        output = bare.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=[*([scores] if scores else []), *processors, steps],
            stopping_criteria=stopping,
            # A process whose sequences have ended goes on computing: the other processes need its shards.
            synced_gpus=local.is_sharded,
            **({} if cache is None else {"past_key_values": cache}),
        )
    steps.tell_rest()
    written = getattr(output, "sequences", output)[:, width:]
    rows = [_until_end(row, eos, local.pad_token_id) for row in written.tolist()]
    beam_indices = getattr(output, "beam_indices", None)
    found = list(map(Completion, rows))
    # A model with a `generate` of its own may call no processors.
    if isinstance(scores, SampleScores) and scores.steps >= written.shape[1]:
        found = scores.completions(written, rows)
    elif isinstance(scores, BeamScores) and beam_indices is not None and scores.steps >= written.shape[1]:
        found = scores.completions(beam_indices, rows)
    return [found[start : start + count] for start in range(0, len(found), count)]


def _scores(config: GenerationConfig, eos: list[int]) -> SampleScores | BeamScores:
    if config.num_beams == 1:
        return SampleScores(eos)
    # As many as beam search looks at, so that enough beams go on where others end.
    return BeamScores(max(2, 1 + len(eos)) * config.num_beams, eos)


def decode_programs(
    local: LocalModel,
    batch: PromptBatch,
    completions: Sequence[Sequence[Completion]],
    *,
    settings: str,
    with_logprobs: bool = True,
    score_batch_size: int = 8,
) -> list[list[GeneratedProgram]]:
    """Decode the completions of each prompt, cut them at its stops, and score them.

    Args:
        local: The model that generated and scores.
        batch: The prompts.
        completions: For each prompt its completions.
        settings: How they were generated, for the record.
        with_logprobs: Whether log-probabilities are needed. Those that were not noted take a forward pass.
        score_batch_size: How many completions are scored at once.

    Returns:
        For each prompt its programs, in the order of `completions`. The log-probability is that of the sequence to
        learn: of the tokens before the cut, with the end token unless the completion is truncated. It is None for an
        empty sequence.
    """
    asked = [
        (task, prompt, stops)
        for task, prompt, stops, found in zip(batch.tasks, batch.ids, batch.stops, completions, strict=True)
        for _ in found
    ]
    flat = [one for found in completions for one in found]
    encoder = local.encoder
    written = [_write_down(encoder, *each, one) for each, one in zip(asked, flat, strict=True)]
    logprobs = [one.logprob if with_logprobs else None for one in written]
    # An empty sequence is scored, too: the processes of a sharded model have to score as many.
    missing = [at for at, one in enumerate(written) if with_logprobs and one.logprob is None]
    if missing:
        pairs = [written[at].pair for at in missing]
        prompts, ids = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for at, logprob in zip(missing, local.logprobs(prompts, ids, batch_size=score_batch_size), strict=True):
            logprobs[at] = logprob
    programs = iter(
        GeneratedProgram(
            completion=one.text,
            logprob=logprob if all(one.pair) else None,
            num_tokens=len(one.pair[1]) or None,
            source=local.name,
            scorer=local.name if all(one.pair) and logprob is not None else "",
            settings=settings,
            finish_reason=one.finish_reason,
            token_ids=tuple(one.pair[1]) if one.is_unlike_text else (),
        )
        for one, logprob in zip(written, logprobs, strict=True)
    )
    return [[next(programs) for _ in found] for found in completions]


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A completion as it is to be scored and learned.

    Args:
        text: The text before the cut.
        finish_reason: How it ended, as in `GeneratedProgram`.
        pair: The token ids of the prompt and of the completion.
        is_unlike_text: Whether the tokenizer makes other tokens of the text.
        logprob: Log-probability of the completion's token ids as it was noted; None if it has to be computed.
    """

    text: str
    finish_reason: str
    pair: tuple[list[int], list[int]]
    is_unlike_text: bool
    logprob: float | None = None


def _write_down(
    encoder: Encoder, task: CodingTask, prompt: list[int], stops: Sequence[str], completion: Completion
) -> _Written:
    """Cut a completion before its first stop, and put an end token behind a program that the stop ended."""
    ids = completion.ids
    text, reason, number = _finish(encoder, prompt, ids, stops)
    # Whether a whole program is in it matters only behind a stop.
    whole = reason == "stop" and extract(text, prompt=task.prompt, entry_point=task.entry_point).found
    ended = not is_truncated(reason, extracted=whole)
    encoded = encoder.pair(task.prompt, text, ended=ended)
    if number is None:
        # The cut goes through a token: no tokens that the model wrote make this text.
        return _Written(text=text, finish_reason=reason, pair=encoded, is_unlike_text=False)
    end = encoded[1][-1:] if reason == "stop" and ended else []
    pair = (prompt, ids[:number] + end)
    return _Written(
        text=text,
        finish_reason=reason,
        pair=pair,
        is_unlike_text=pair != encoded,
        logprob=completion.logprob(number, end[0] if end else None),
    )


def _until_end(ids: list[int], eos: list[int], pad: int) -> list[int]:
    # Shorter completions are padded, often with the end token itself: keep the first end token only.
    for position, token in enumerate(ids):
        if token in eos:
            return ids[: position + 1]
    # A completion that ended at a stop has no end token before its padding.
    end = len(ids)
    while end and ids[end - 1] == pad:
        end -= 1
    return ids[:end]


def _finish(encoder: Encoder, prompt: list[int], ids: list[int], stops: Sequence[str]) -> tuple[str, str, int | None]:
    """Return a completion's text before its first stop, how it ended, as in `GeneratedProgram`, and its tokens.

    The number of tokens is None if the cut splits a token.
    """
    text = encoder.decode(prompt, ids)
    place = first_stop(text, stops)
    if place is None:
        return text, "eos" if ids and ids[-1] in encoder.end_token_ids else "length", len(ids)
    kept = kept_before(text, place, _token_ends(encoder, prompt, ids, text))
    return kept.text, "stop", kept.num_tokens


def _token_ends(encoder: Encoder, prompt: list[int], ids: list[int], text: str) -> list[int]:
    """Return where each token ends, in bytes of the text; tokens that share a character all end after it."""
    ends: list[int] = []
    end = len(text.encode("utf-8", "surrogatepass"))
    for count in range(len(ids), 0, -1):
        before = encoder.decode(prompt, ids[:count])
        # Part of a character decodes to a placeholder (U+FFFD), which is not in the text.
        if text.startswith(before):
            end = len(before.encode("utf-8", "surrogatepass"))
        ends.append(end)
    return ends[::-1]


class EarlierGroups(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that lowers the scores of tokens that earlier groups of beams chose at the same position.

    A token loses `penalty` for each earlier completion of its prompt that has it at this position (Hamming diversity,
    arXiv 1610.02424).

    Args:
        completions: For each prompt the token ids of the completions of earlier groups.
        start: Where completions start, in tokens.
        penalty: The strength of Hamming diversity (lambda of section 4 of the paper), in nats.
    """

    def __init__(self, completions: Sequence[Sequence[Sequence[int]]], *, start: int, penalty: float) -> None:
        self.completions = [[list(ids) for ids in found] for found in completions]
        self.start = start
        self.penalty = penalty

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores minus the penalties, shape [rows, vocabulary]."""
        place = input_ids.shape[1] - self.start
        # `generate` lays out rows prompt by prompt, the same number for each.
        rows_each = len(input_ids) // len(self.completions)
        scores = scores.clone()
        for prompt, found in enumerate(self.completions):
            counts = Counter(ids[place] for ids in found if place < len(ids))
            rows = slice(prompt * rows_each, (prompt + 1) * rows_each)
            for token, count in counts.items():
                scores[rows, token] -= self.penalty * count
        return scores


class StepsTold(LogitsProcessor):  # type: ignore[misc]
    """A logits processor that tells a display of each decoding step, and changes nothing.

    Args:
        most: Largest number of steps.
        tasks: Number of tasks whose programs the steps write, in part if some of their programs only.
    """

    # `generate` takes no streamer with beams, and a stopping criterion would have to make a tensor in each step.

    def __init__(self, most: int, *, tasks: float) -> None:
        self.each = tasks / most
        self.rest = tasks

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores unchanged, shape [rows, vocabulary]."""
        self.rest -= self.each
        tell_written(self.each)
        return scores

    def tell_rest(self) -> None:
        """Tell of the steps that were not needed, since all rows ended before."""
        # The parts of all steps need not sum up exactly.
        tell_written(max(self.rest, 0.0))
        self.rest = 0.0


class TaskStops(StoppingCriteria):  # type: ignore[misc]
    """A stopping criterion that ends a row as soon as its last tokens contain a stop of its prompt.

    Stopping early only saves steps. The exact end of a completion is found later, in its whole text.

    Args:
        tokenizer: The tokenizer that decodes the rows.
        stops: For each prompt its stops. `generate` lays out rows prompt by prompt, the same number for each.
        start: Where completions start, in tokens.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[Sequence[str]], *, start: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [tuple(each) for each in stops]
        self.start = start
        # As many tokens as the stop has bytes are enough: every token but the special ones holds at least a byte.
        self.windows = [max((len(stop.encode()) for stop in each), default=0) for each in self.stops]

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return whether each row has ended, bool, shape [rows]."""
        rows_each = len(input_ids) // len(self.stops)
        ended = [self._has_ended(row, index // rows_each) for index, row in enumerate(input_ids.tolist())]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)

    def _has_ended(self, row: list[int], prompt: int) -> bool:
        if not self.stops[prompt]:
            return False
        tail = row[max(self.start, len(row) - self.windows[prompt]) :]
        text = self.tokenizer.decode(tail, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in self.stops[prompt])
