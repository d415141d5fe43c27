"""Train on-policy with replayed successes: `ReplayGRPOTrainer`, a subclass of TRL's `GRPOTrainer`.

A group of completions that all fail teaches GRPO nothing. With a passing program of the buffer in the group there is
a difference to learn from, as in RLEP (arXiv 2507.07451) and ExGRPO (arXiv 2510.02245).
"""

from __future__ import annotations

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
#: Passing programs with their draw probabilities.
_Programs = list[tuple[Experience, float]]
#: The token ids of the completions of a prompt, and their draw probabilities.
_Encoded = tuple[list[list[int]], NDArray[np.float64]]


class ReplayGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """A `GRPOTrainer` in whose groups passing programs of a replay buffer take the place of completions.

    Of the `num_generations` completions of a prompt the last `replayed_generations` come from the buffer, or as many
    as it holds different whole programs for this prompt that pass every test; the model writes the others. Replayed
    completions are rewarded, normalised and learned like the model's own: the ratio of the loss begins at 1 for them,
    too. Each ends with an end token; programs longer than `max_completion_length` with it are left out. Text models
    write the other completions only, unless vLLM does. In evaluation nothing is replayed.

    Which programs are replayed follows from the seed, the optimizer step and the group, so that it is the same on any
    number of processes and after a resume: they are drawn without replacement by their draw probabilities in the
    buffer, among the passing programs of the prompt. From a checkpoint between steps that share a generation, as with
    `num_iterations` above 1, `GRPOTrainer` goes on with a new generation, and new programs are drawn.

    Args:
        args: Positional arguments of `GRPOTrainer`.
        buffer: Judged programs, for the prompts of `train_dataset` as they stand there: text or chat messages. The
            trainer reads it once and adds nothing to it.
        replayed_generations: Number of replayed completions of a group, from 0 to `num_generations` - 1.
        kwargs: Arguments of `GRPOTrainer` by keyword, other than `rollout_func`, `tools` and `environment_factory`.

    Raises:
        TypeError: `buffer` is no buffer.
        ValueError: An argument is out of range; or the buffer holds no passing program, none for a prompt of
            `train_dataset` (a stream is not looked through), or none that fits into `max_completion_length`.
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
        self._solved = self._encode(_asked_for(successes, self.train_dataset))
        self._successes = self._by_tokens()
        #: The optimizer step of the last generation, and its number among those of the step.
        self._generation = (-1, 0)

    def _encode(self, solved: list[tuple[Prompt, _Programs]]) -> list[tuple[Prompt, _Encoded]]:
        """Return each prompt with its completions and their draw probabilities."""
        encoder = Encoder(
            tokenizer=self._tokenizer,
            end_token_ids=frozenset(self.eos_token_ids),
            chat_template=self.chat_template,
            chat_template_kwargs=self.chat_template_kwargs or {},
        )
        kept: dict[_Ids, tuple[Prompt, dict[_Ids, float]]] = {}
        lengths = []
        for prompt, programs in solved:
            asked = self._tokens(prompt)
            for one, weight in programs:
                ids = tuple(_ended_ids(encoder, prompt, list(asked), one))
                lengths.append(len(ids))
                if len(ids) <= self.max_completion_length:
                    # Prompts that differ in what a template leaves out have the same tokens.
                    _, shares = kept.setdefault(asked, (prompt, {}))
                    shares[ids] = shares.get(ids, 0.0) + weight
        if not kept:
            raise ValueError(
                f"max_completion_length: must have room for a passing program of the buffer and its end token; got "
                f"{self.max_completion_length}, and the shortest of {len(lengths)} programs for prompts of "
                f"train_dataset has {min(lengths)} tokens. Raise it to at least that"
            )
        encoded = []
        for prompt, shares in kept.values():
            weights = np.array([*shares.values()])
            # A rule may give none of them a share, as one that prefers other rounds does.
            weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(shares), 1 / len(shares))
            encoded.append((prompt, ([list(ids) for ids in shares], weights)))
        return encoded

    def _tokens(self, prompt: Prompt) -> _Ids:
        """Return the token ids that a prompt has now."""
        [asked], _, _ = self._tokenize_prompts([prompt])
        return tuple(asked)

    def _by_tokens(self) -> dict[_Ids, _Encoded]:
        """Return the completions and draw probabilities of each prompt, by the token ids that the prompt has now."""
        return {self._tokens(prompt): encoded for prompt, encoded in self._solved}

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if not self.model.training:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **kwargs)
        if self._tokens(self._solved[0][0]) not in self._successes:
            # Chat templates may write the date: from midnight on all prompts have other tokens.
            self._successes = self._by_tokens()
        step, number = self._generation
        self._generation = (self.state.global_step, number + 1 if step == self.state.global_step else 0)
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
        # The rows of all processes, one behind the other, are groups of equal prompts. Groups are counted through an
        # optimizer step, which may have several generations: with equal numbers they would replay the same programs.
        rows, (_, earlier) = len(prompt_ids), self._generation
        first = (earlier * self.accelerator.num_processes + self.accelerator.process_index) * rows
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


def _passing(buffer: ReplayBuffer) -> _Programs:
    """Return the whole programs that pass every test."""
    if not isinstance(buffer, ReplayBuffer):
        raise TypeError(
            f"buffer: must be a ReplayBuffer; got {type(buffer).__name__}. Read a file with ReplayBuffer.load(path)"
        )
    positions = np.flatnonzero((buffer.pass_rates() >= 1.0) & ~buffer.truncated())
    if not len(positions):
        raise ValueError(
            f"buffer: must hold a whole program that passes every test, as there is nothing to replay otherwise; got "
            f"{len(buffer)} programs and none that does. Collect more, or train with trl.GRPOTrainer"
        )
    weights = buffer.probabilities()[positions]
    return list(zip(buffer.take(positions), weights.tolist(), strict=True))


def _asked_for(successes: _Programs, dataset: Any) -> list[tuple[Prompt, _Programs]]:
    """Return the prompts of a data set with their programs, or raise an error if no prompt has any.

    A stream is not looked through: the prompts of the programs stand for its prompts.
    """
    programs: dict[str, _Programs] = {}
    for one, weight in successes:
        programs.setdefault(_words(one.prompt), []).append((one, weight))
    if not hasattr(dataset, "__len__"):
        return [(found[0][0].prompt, found) for found in programs.values()]
    # As they stand there: a template may render further keys of a message.
    prompts = {repr(prompt): prompt for prompt in dataset["prompt"]}
    asked = [(prompt, programs[words]) for prompt in prompts.values() if (words := _words(prompt)) in programs]
    if not asked:
        raise ValueError(
            f"buffer: must hold passing programs for prompts of train_dataset, with the same text or messages; its "
            f"{len(programs)} prompts with such programs are none of the {len(prompts)} of train_dataset. Make the "
            "data set of the tasks that the programs were collected for, as chat messages (as_chat) if they were"
        )
    return asked


def _ended_ids(encoder: Encoder, prompt: Prompt, asked: list[int], one: Experience) -> list[int]:
    """Return the token ids of a completion, the last of which ends it.

    Args:
        encoder: Encodes prompts and completions.
        prompt: The prompt, as the data set has it.
        asked: The token ids of the prompt alone.
        one: The program.
    """
    prompt_ids, ids = encoder.pair(prompt, one.completion, token_ids=one.token_ids)
    end = next((last for last in ids[-1:] if last in encoder.end_token_ids), encoder.tokenizer.eos_token_id)
    if end not in ids[-1:]:
        # What the template puts behind an answer, if anything, ends nothing: TRL would count the program as cut off.
        prompt_ids, ids = encoder.pair(prompt, one.completion, ended=False, token_ids=one.token_ids)
    if prompt_ids != asked:
        # Tokens merge across the border: a model that is given the prompt alone would write these.
        ids = [*encoder.tokenizer(text=one.completion, add_special_tokens=False)["input_ids"]]
    return ids if end in ids[-1:] else [*ids, end]


def _words(prompt: Prompt) -> str:
    """Return a prompt as JSON text of its roles and texts: a data set gives all messages the keys of any of them."""
    messages = [] if isinstance(prompt, str) else prompt
    texts = [[message["role"], content_text(message["content"])] for message in messages]
    return chat_json(texts or prompt)
