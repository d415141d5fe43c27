"""Train on-policy with replayed successes: `ReplayGRPOTrainer`, a subclass of TRL's `GRPOTrainer`.

A group of completions that all fail teaches GRPO nothing. With a passing program of the buffer in the group there is
a difference to learn from, as in RLEP (arXiv 2507.07451) and ExGRPO (arXiv 2510.02245).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trl import GRPOTrainer

from trl_pper.generation.encoding import Encoder
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience, chat_json
from trl_pper.tasks.task import Prompt, content_text

#: Token ids of a prompt, as the trainer tokenises it.
_Ids = tuple[int, ...]
#: The passing programs of each prompt with their draw probabilities, by the JSON text of the prompt.
_Successes = dict[str, list[tuple[Experience, float]]]
#: The token ids of the completions of a prompt, and their draw probabilities.
_Encoded = tuple[list[list[int]], NDArray[np.float64]]


class ReplayGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """A `GRPOTrainer` in whose groups passing programs of a replay buffer take the place of completions.

    Of the `num_generations` completions of a prompt the last `replayed_generations` come from the buffer, or as many
    as it holds different whole programs for this prompt that pass every test; the model writes the others. Replayed
    completions are rewarded, normalised and learned like the model's own: the ratio of the loss begins at 1 for them,
    too. Text models write the other completions only, unless vLLM does. In evaluation nothing is replayed.

    Which programs are replayed follows from the seed, the optimizer step and the group, so that it is the same on any
    number of processes and after a resume: they are drawn without replacement by their draw probabilities in the
    buffer, among the passing programs of the prompt.

    Args:
        args: Positional arguments of `GRPOTrainer`.
        buffer: Judged programs, for the prompts of `train_dataset` as they stand there: text or chat messages. The
            trainer reads it once and adds nothing to it.
        replayed_generations: Number of replayed completions of a group, from 0 to `num_generations` - 1.
        kwargs: Arguments of `GRPOTrainer` by keyword, other than `rollout_func`, `tools` and `environment_factory`.

    Raises:
        ValueError: An argument is out of range; or the buffer holds no passing program, or none for a prompt of
            `train_dataset`.
    """

    def __init__(self, *args: Any, buffer: ReplayBuffer, replayed_generations: int = 1, **kwargs: Any) -> None:
        for name in ("rollout_func", "tools", "environment_factory"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{name}: a replayed completion is a single answer, which needs no {name}; got one. "
                    "Leave it out, or train with trl.GRPOTrainer"
                )
        successes = _passing(buffer)
        super().__init__(*args, **kwargs)
        self.replayed_generations = replayed_generations
        most = self.num_generations - 1
        whole = isinstance(replayed_generations, int) and not isinstance(replayed_generations, bool)
        if not (whole and 0 <= replayed_generations <= most):
            raise ValueError(
                f"replayed_generations: must be a whole number from 0 to {most}, so that the model writes one of the "
                f"{self.num_generations} completions of a group or more; got {replayed_generations!r:.80}. Lower it, "
                "or raise num_generations"
            )
        _check_prompts([programs[0][0].prompt for programs in successes.values()], self.train_dataset)
        self._successes = self._encode(successes)

    def _encode(self, successes: _Successes) -> dict[_Ids, _Encoded]:
        """Return the completions and draw probabilities of each prompt, by the token ids of the prompt."""
        encoder = Encoder(
            tokenizer=self._tokenizer,
            end_token_ids=frozenset(self.eos_token_ids),
            chat_template=self.chat_template,
            chat_template_kwargs=self.chat_template_kwargs or {},
        )
        encoded: dict[_Ids, _Encoded] = {}
        for programs in successes.values():
            [asked], _, _ = self._tokenize_prompts([programs[0][0].prompt])
            kept: dict[_Ids, float] = {}
            for one, weight in programs:
                prompt_ids, ids = encoder.pair(one.prompt, one.completion, token_ids=one.token_ids)
                if prompt_ids != asked:
                    # Tokens merge across the border: a model that is given the prompt alone would write these.
                    ids = [*self._tokenizer(text=one.completion, add_special_tokens=False)["input_ids"]]
                    ids += [self._tokenizer.eos_token_id]
                if len(ids) <= self.max_completion_length:
                    kept[tuple(ids)] = kept.get(tuple(ids), 0.0) + weight
            if kept:
                weights = np.array([*kept.values()])
                # A rule may give none of them a share, as one that prefers other rounds does.
                weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(kept), 1 / len(kept))
                encoded[tuple(asked)] = ([list(ids) for ids in kept], weights)
        return encoded

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.model.training:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        replayed = self._replayed(prompt_ids)
        share = torch.tensor([len(replayed) / len(prompt_ids)], device=self.accelerator.device)
        self._metrics["train"]["replayed"].append(self.accelerator.gather(share).mean().item())
        written = [row for row in range(len(prompt_ids)) if row not in replayed]
        if self.use_vllm or images or multimodal_fields or not written:
            # vLLM is asked for whole groups, and the fields, which text may have as well, are of all rows. Every
            # process takes part in what gathers sharded weights.
            written = list(range(len(prompt_ids)))
        chosen = [prompt_ids[row] for row in written]
        texts, logprobs = super()._generate_single_turn(chosen, images, multimodal_fields, *args, **kwargs)
        completions = dict(zip(written, texts, strict=True)) | replayed
        if logprobs is not None:
            # Nobody knows these at the temperature of this run: TRL corrects no token whose log-probability is None.
            known = dict(zip(written, logprobs, strict=True))
            known |= {row: [None] * len(ids) for row, ids in replayed.items()}
            logprobs = [known[row] for row in range(len(prompt_ids))]
        return [completions[row] for row in range(len(prompt_ids))], logprobs

    def _replayed(self, prompt_ids: Any) -> dict[int, list[int]]:
        """Return the completions that this process replays, by row."""
        # The rows of all processes, one behind the other, are groups of equal prompts.
        first = self.accelerator.process_index * len(prompt_ids)
        replayed = {}
        for row, asked in enumerate(prompt_ids):
            group, place = divmod(first + row, self.num_generations)
            behind = self.num_generations - 1 - place
            drawn = self._drawn(tuple(asked), group) if behind < self.replayed_generations else []
            if behind < len(drawn):
                replayed[row] = drawn[behind]
        return replayed

    def _drawn(self, asked: _Ids, group: int) -> list[list[int]]:
        """Return the completions that a group of a prompt replays, from its last place on."""
        if asked not in self._successes:
            return []
        completions, weights = self._successes[asked]
        count = min(self.replayed_generations, int(np.count_nonzero(weights)))
        generator = np.random.default_rng([self.args.seed, self.state.global_step, group])
        return [completions[at] for at in generator.choice(len(completions), count, replace=False, p=weights)]


def _passing(buffer: ReplayBuffer) -> _Successes:
    """Return the whole programs that pass every test."""
    positions = np.flatnonzero((buffer.pass_rates() >= 1.0) & ~buffer.truncated())
    if not len(positions):
        raise ValueError(
            f"buffer: must hold a whole program that passes every test, as there is nothing to replay otherwise; got "
            f"{len(buffer)} programs and none that does. Collect more, or train with trl.GRPOTrainer"
        )
    weights = buffer.probabilities()[positions]
    successes: _Successes = {}
    for one, weight in zip(buffer.take(positions), weights, strict=True):
        successes.setdefault(chat_json(one.prompt), []).append((one, float(weight)))
    return successes


def _check_prompts(solved: Sequence[Prompt], dataset: Any) -> None:
    """Raise an error if a data set has none of some prompts; a stream is not looked through."""
    if not hasattr(dataset, "__len__"):
        return
    prompts = {_words(prompt) for prompt in dataset["prompt"]}
    if prompts.isdisjoint(map(_words, solved)):
        raise ValueError(
            f"buffer: must hold passing programs for prompts of train_dataset, with the same text or messages; its "
            f"{len(solved)} prompts with such programs are none of the {len(prompts)} of train_dataset. Make the "
            "data set of the tasks that the programs were collected for, as chat messages (as_chat) if they were"
        )


def _words(prompt: Prompt) -> str:
    """Return a prompt as JSON text of its roles and texts: a data set gives all messages the keys of any of them."""
    messages = [] if isinstance(prompt, str) else prompt
    texts = [[message["role"], content_text(message["content"])] for message in messages]
    return chat_json(texts or prompt)
