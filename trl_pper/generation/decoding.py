"""Generate completions with a local model batch by batch, cut them at their stops, and score them.

Beam search and nucleus sampling share these steps. The log-probability of a completion is computed afterwards, from
one teacher-forced forward pass, so that it is comparable between beams and samples at any temperature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.source import GeneratedProgram
from trl_pper.generation.stops import first_stop, kept_before
from trl_pper.tasks.task import CodingTask


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """A batch of prompts with their stops.

    Args:
        ids: The token ids of each prompt, none empty.
        stops: For each prompt the texts at which its completions end.
    """

    ids: list[list[int]]
    stops: list[tuple[str, ...]]

    @property
    def width(self) -> int:
        """Length of the longest prompt, in tokens."""
        return max(map(len, self.ids))


def own_model(model: Any, processing_class: Any) -> LocalModel | None:
    """Return the model given to a source as a `LocalModel`, or None if no model was given.

    Raises:
        ValueError: A model came without its tokenizer.
    """
    if model is None:
        return None
    if processing_class is None:
        raise ValueError("processing_class: required together with model; pass the model's tokenizer")
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return LocalModel(model=model, processing_class=processing_class, name=name)


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
        PromptBatch(ids=list(prompt_ids[start : start + batch_size]), stops=stops[start : start + batch_size])
        for start in range(0, len(prompt_ids), batch_size)
    ]


def generate_ids(
    local: LocalModel, batch: PromptBatch, config: GenerationConfig, *, processors: Sequence[Any] = ()
) -> list[list[list[int]]]:
    """Generate completions for a batch of prompts.

    Args:
        local: The model.
        batch: The prompts.
        config: The whole generation configuration; the model's own configuration has no effect.
        processors: Logits processors.

    Returns:
        For each prompt the token ids of `config.num_return_sequences` completions, each up to its first end token.
    """
    eos = local.eos_token_ids()
    width, count = batch.width, config.num_return_sequences
    # Left padding: every prompt has to end where generation starts.
    padded = [[local.pad_token_id] * (width - len(ids)) + ids for ids in batch.ids]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in batch.ids]
    stopping = [TaskStops(local.processing_class, batch.stops, start=width)] if any(batch.stops) else []
    # `generate` fills fields of `config` that are None from the model's own configuration, which `inference` empties.
    with local.inference() as bare:
        output = bare.generate(
            input_ids=torch.tensor(padded, device=local.device),
            attention_mask=torch.tensor(mask, device=local.device),
            generation_config=config,
            logits_processor=list(processors),
            stopping_criteria=stopping,
            # A process whose sequences have ended goes on computing: the other processes need its shards.
            synced_gpus=local.is_sharded,
        )
    rows = [_until_end(row, eos, local.pad_token_id) for row in output[:, width:].tolist()]
    return [rows[start : start + count] for start in range(0, len(rows), count)]


def decode_programs(
    local: LocalModel,
    batch: PromptBatch,
    completions: Sequence[Sequence[list[int]]],
    *,
    settings: str,
    with_logprobs: bool = True,
    score_batch_size: int = 8,
) -> list[list[GeneratedProgram]]:
    """Decode the completions of each prompt, cut them at its stops, and score them.

    Args:
        local: The model that generated and scores.
        batch: The prompts.
        completions: For each prompt the token ids of its completions.
        settings: How they were generated, for the record.
        with_logprobs: Whether to compute log-probabilities, which takes a forward pass.
        score_batch_size: How many completions are scored at once.

    Returns:
        For each prompt its programs, in the order of `completions`. The log-probability covers the text before the
        cut; it is None where the cut goes through a token.
    """
    kept = [
        _cut(local.processing_class, ids, stops)
        for stops, found in zip(batch.stops, completions, strict=True)
        for ids in found
    ]
    prompts = [ids for ids, found in zip(batch.ids, completions, strict=True) for _ in found]
    logprobs: list[float | None] = [None] * len(kept)
    # The scores that `generate` returns are no alternative: they take steps * batch * sequences * vocabulary floats,
    # and temperature, truncation and every logits processor have changed them.
    if with_logprobs:
        logprobs = list(local.logprobs(prompts, [ids or [] for _, ids in kept], batch_size=score_batch_size))
    programs = iter(
        GeneratedProgram(
            completion=text,
            logprob=logprob if ids else None,
            num_tokens=len(ids) if ids else None,
            source=local.name,
            scorer=local.name if ids and logprob is not None else "",
            settings=settings,
        )
        for (text, ids), logprob in zip(kept, logprobs, strict=True)
    )
    return [[next(programs) for _ in found] for found in completions]


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


def _cut(tokenizer: Any, ids: list[int], stops: Sequence[str]) -> tuple[str, list[int] | None]:
    """Return a completion's text before its first stop, and its tokens; None for the tokens if the cut splits one."""
    text = _decode(tokenizer, ids)
    place = first_stop(text, stops)
    if place is None:
        return text, ids
    kept = kept_before(text, place, _token_ends(tokenizer, ids, text))
    return kept.text, None if kept.num_tokens is None else ids[: kept.num_tokens]


def _token_ends(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    """Return where each token ends, in bytes of the text; tokens that share a character all end after it."""
    ends: list[int] = []
    end = len(text.encode("utf-8", "surrogatepass"))
    for count in range(len(ids), 0, -1):
        before = _decode(tokenizer, ids[:count])
        # Part of a character decodes to a placeholder (U+FFFD), which is not in the text.
        if text.startswith(before):
            end = len(before.encode("utf-8", "surrogatepass"))
        ends.append(end)
    return ends[::-1]


def _decode(tokenizer: Any, ids: list[int]) -> str:
    # Cleaning up would remove spaces before punctuation: the text would no longer match the tokens, or the program.
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


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
