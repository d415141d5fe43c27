"""Encode prompts and completions as token ids, alike for generating, scoring and learning.

A text has the ids of TRL's `SFTTrainer` up to the end of the completion: its end token if the completion is whole,
else its last own token. The ids that a model wrote in another way are learned as they were written.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl.data_utils import common_prefix_length

from trl_pper.tasks.task import Message, Prompt, answer

logger = logging.getLogger(__name__)

_NEXT_TURN: Message = {"role": "user", "content": "trl-pper-next-turn"}
#: Number of tokens of the prompt that are decoded with a completion; a character has at most four bytes, or tokens.
_CONTEXT_TOKENS = 4


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A tokenizer with the options that decide how prompts and completions are encoded.

    Args:
        tokenizer: The tokenizer.
        end_token_ids: Every token that ends a completion.
        chat_template: Template of chat messages; the tokenizer's own by default.
        chat_template_kwargs: Further arguments of the template, such as `enable_thinking`.
    """

    tokenizer: Any
    end_token_ids: frozenset[int]
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def prompt(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt, at whose end a completion begins."""
        if isinstance(prompt, str):
            return self._text_ids(prompt)
        return list(self._rendered(prompt, add_generation_prompt=True)["input_ids"])

    @property
    def has_template(self) -> bool:
        """Whether chat messages can be encoded."""
        return bool(self.chat_template or getattr(self.tokenizer, "chat_template", None))

    @property
    def answers_messages(self) -> bool:
        """Whether the model is an instruct model: its chat template ends a turn with an end token of the model."""
        # Base models often have the template of their instruct model, but end their texts in another way. Where a
        # template puts nothing behind a turn, as GLM's, the models write the token that opens the next turn.
        asked = [{"role": "user", "content": "?"}]
        return self.has_template and any(
            not self.end_token_ids.isdisjoint(self._closing(asked, *then)) for then in ([], [_NEXT_TURN])
        )

    def decode(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that the token ids of a completion add to a prompt, without special tokens."""
        # Some tokenizers drop a space at the start of a text: alone, the first line would lose its indentation.
        before = list(prompt_ids[-_CONTEXT_TOKENS:])
        known, whole = self._text(before), self._text([*before, *ids])
        return whole[len(known) :] if whole.startswith(known) else self._text(ids)

    def pair(
        self, prompt: Prompt, completion: str, *, ended: bool = True, token_ids: Sequence[int] = ()
    ) -> tuple[list[int], list[int]]:
        """Return the token ids of a prompt and of its completion; the arguments are those of `row`."""
        row, start, _ = self._row(prompt, completion, ended, token_ids, with_assistant_masks=False)
        return row["input_ids"][:start], row["input_ids"][start:]

    def row(
        self,
        prompt: Prompt,
        completion: str,
        *,
        ended: bool = True,
        token_ids: Sequence[int] = (),
        with_assistant_masks: bool = False,
    ) -> dict[str, list[int]]:
        """Return a prompt with its completion as a row of a tokenised data set, as `SFTTrainer` reads it.

        Args:
            prompt: Text, or chat messages.
            completion: The text of the completion.
            ended: Whether the completion is whole: the row then ends with the end token.
            token_ids: The ids of the completion as a model wrote it, in place of the ids that the tokenizer makes of
                the text. They are ignored if they are empty or, with another tokenizer, no ids of this text.
            with_assistant_masks: Whether to mark the tokens of assistant messages; needs chat messages.

        Returns:
            `input_ids`, `completion_mask` (1 for the tokens of the completion) and perhaps `assistant_masks`, each of
            shape [tokens].
        """
        row, start, asked = self._row(prompt, completion, ended, token_ids, with_assistant_masks=with_assistant_masks)
        if start < asked:
            _warn_of_border(type(self.tokenizer).__name__)
        return row

    def _row(
        self, prompt: Prompt, completion: str, ended: bool, token_ids: Sequence[int], *, with_assistant_masks: bool
    ) -> tuple[dict[str, list[int]], int, int]:
        """Return the row, the index of the first token of the completion, and the length of the prompt alone."""
        asked = self.prompt(prompt)
        masks = {}
        if token_ids and self.decode(asked, token_ids) == completion:
            ids, start, end = [*asked, *token_ids], len(asked), len(asked) + len(token_ids)
            if with_assistant_masks:
                # Earlier answers in the prompt are assistant messages, too.
                before = self._rendered(prompt, add_generation_prompt=True, return_assistant_tokens_mask=True)
                masks = {"assistant_masks": [*before["assistant_masks"], *[1] * len(token_ids)]}
        else:
            if isinstance(prompt, str):
                ids = self._text_ids(prompt + completion + (self._end_text(completion) if ended else ""))
                end = len(ids)
            else:
                rendered = self._rendered(
                    [*prompt, *answer(prompt, completion)], return_assistant_tokens_mask=with_assistant_masks
                )
                ids = list(rendered["input_ids"])
                end = self._end(ids, common_prefix_length(asked, ids), self._closing(prompt), ended=ended)
                masks = {"assistant_masks": list(rendered["assistant_masks"])} if with_assistant_masks else {}
            # Tokens may merge across the border between prompt and completion, and templates may render a prompt alone
            # in another way: the completion begins with the first token that differs.
            start = min(common_prefix_length(asked, ids), end)
        row = {"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start), **masks}
        return {name: values[:end] for name, values in row.items()}, start, len(asked)

    def _text(self, ids: Sequence[int]) -> str:
        # Cleaning up would remove spaces before punctuation: the text would no longer match tokens or program.
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _end_text(self, completion: str) -> str:
        eos = self.tokenizer.eos_token or ""
        return "" if completion.endswith(eos) else eos

    def _text_ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text=text)["input_ids"])
        # Some tokenizers append an end token to every text, which would end a prompt before its completion.
        return ids[: len(ids) - self._appended]

    @functools.cached_property
    def _appended(self) -> int:
        """Return the number of tokens that the tokenizer appends to every text."""
        with_special = list(self.tokenizer(text="a")["input_ids"])
        bare = list(self.tokenizer(text="a", add_special_tokens=False)["input_ids"])
        more = len(with_special) - len(bare)
        return more - next((at for at in range(more) if with_special[at : at + len(bare)] == bare), more)

    def _rendered(self, messages: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=True,
            return_dict=True,
            **options,
            **self.chat_template_kwargs,
        )

    def _closing(self, prompt: Any, *then: Message) -> list[int]:
        """Return the token ids that the chat template puts behind the text of a completion, up to the next turn's."""
        # A text that no template contains, so that the rendered text can be split at it.
        probe = "trl-pper-probe"
        rendered = self.tokenizer.apply_chat_template(
            [*prompt, *answer(prompt, probe), *then],
            chat_template=self.chat_template,
            tokenize=False,
            **self.chat_template_kwargs,
        )
        closing = rendered.rpartition(probe)[2].partition(_NEXT_TURN["content"])[0]
        return list(self.tokenizer(text=closing, add_special_tokens=False)["input_ids"])

    def _end(self, ids: list[int], start: int, closing: list[int], *, ended: bool) -> int:
        """Return the length of a rendered sequence without what the template puts behind the completion.

        Args:
            ids: The sequence.
            start: Index of the first token of the completion.
            closing: What the template puts behind it.
            ended: Whether the completion is whole.
        """
        content = len(ids) - len(closing)
        if ids[content:] != closing:
            # The first token behind the completion merged with its text; the end token of the turn never merges. Some
            # templates have end tokens in the prompt only.
            places = [place for place in range(start, len(ids)) if ids[place] in self.end_token_ids]
            content = places[-1] if places else len(ids)
        if not ended:
            return content
        # Templates put line feeds and further tokens behind the end token, which no model writes. Without an end token
        # all of it stays, as in `SFTTrainer`.
        return next((at + 1 for at in range(content, len(ids)) if ids[at] in self.end_token_ids), len(ids))


@functools.cache
def _warn_of_border(tokenizer: str) -> None:
    logger.warning(
        "%s: a prompt has other tokens with its completion than alone, because tokens merge across the border or the "
        "chat template renders a prompt alone in another way. Completions are learned from the first token that "
        "differs, after a slightly different prompt than at inference. End prompts with a line feed, or choose a "
        "template that renders both alike",
        tokenizer,
    )
