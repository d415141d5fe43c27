"""Train the demo's base model from scratch: a small code model that repeats the same mistakes.

Run `python -m trl_pper.demo.base_model --output trl_pper/demo/model` to write the weights, the tokenizer and a README
of measured scores. The same seed gives the same weights on the same machine.

The corpus holds programs of the train compositions only, by an imagined author who makes one-token slips: more often
than not in some components, now and then in the others. The model learns to prefer the wrong token in these
components, while its beams still hold the right token.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from trl_pper.demo.tasks import Split, compositions, demo_tasks, draw_composition
from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.judge.judge import Judge
from trl_pper.rounds.evaluation import TaskScores, evaluate_tasks

EOS, PAD = "<|endoftext|>", "<|pad|>"
VOCABULARY_SIZE = 448
TOKENIZER_PROGRAMS = 4000
IGNORED_LABEL = -100
MAX_POSITIONS = 512
NUM_BEAMS = 3
#: The longest right body has 49 tokens, and the end token.
MAX_COMPLETION_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of the base model's training.

    Args:
        steps: Optimizer steps.
        batch_size: Programs in each step.
        learning_rate: Peak learning rate, reached after the warm-up; it then falls linearly to zero.
        warmup_steps: Steps of linear warm-up.
        seed: Seed of the corpus, the initial weights and the order.
    """

    steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1:
            raise ValueError(f"steps, batch_size: must be at least 1; got {self.steps} and {self.batch_size}")


def train_tokenizer(programs: Iterator[tuple[str, str]]) -> Qwen2Tokenizer:
    """Train a byte-level BPE tokenizer on pairs of prompt and body, with the pre-tokenizer of Qwen2."""
    # `AutoTokenizer` rebuilds the tokenizer of a Qwen2 model with Qwen2's pre-tokenizer, whatever the file says.
    # That pre-tokenizer never joins a line break with the indentation after it, so that the tokens of a prompt are
    # a prefix of the tokens of prompt and body.
    blank = Qwen2Tokenizer(eos_token=EOS, pad_token=PAD)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe = blank.backend_tokenizer
    bpe.train_from_iterator(("".join(pair) for pair in islice(programs, TOKENIZER_PROGRAMS)), trainer)
    state = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(merge) for merge in state["merges"]],
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """Return an untrained model of about 0.2 million parameters."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        # The embeddings are a large part of so small a model; a second matrix would double them.
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def batches(
    tokenizer: Qwen2Tokenizer, programs: Iterator[tuple[str, str]], batch_size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield right-padded batches with labels for the bodies and the end token only."""
    while True:
        pairs = [next(programs) for _ in range(batch_size)]
        prompts = [len(ids) for ids in tokenizer([prompt for prompt, _ in pairs])["input_ids"]]
        rows = tokenizer([prompt + body + EOS for prompt, body in pairs])["input_ids"]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORED_LABEL)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            labels[index, prompts[index] : len(row)] = torch.tensor(row[prompts[index] :])
        # Padding comes after every token with a label, so that causal attention needs no mask for it.
        yield {"input_ids": ids, "labels": labels}


def train(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, recipe: Recipe, programs: Iterator[tuple[str, str]]
) -> float:
    """Train the model in place on pairs of prompt and body, and return the last loss in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / recipe.warmup_steps, 1 - step / recipe.steps)
    )
    model.train()
    loss = torch.tensor(float("nan"))
    for step, batch in zip(range(recipe.steps), batches(tokenizer, programs, recipe.batch_size), strict=False):
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.eval()
    return loss.item()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Scores of the trained model on a split of the tasks."""

    split: Split
    scores: TaskScores


def measure(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer) -> list[Measured]:
    """Judge the model's three most probable programs for each task of both splits."""
    source = BeamSearchSource(
        model, tokenizer, num_beams=NUM_BEAMS, max_completion_length=MAX_COMPLETION_TOKENS, batch_size=64
    )
    splits: tuple[Split, ...] = ("train", "test")
    with Judge() as judge:
        return [Measured(split=split, scores=evaluate_tasks(demo_tasks(split), source, judge)) for split in splits]


def describe(recipe: Recipe, parameters: int, loss: float, measured: list[Measured]) -> str:
    """Return the README of the model's folder, with the recipe and the measured scores."""
    rows = "\n".join(
        f"| {one.split} | {one.scores.tasks} | {one.scores.accuracy:.1%} | {one.scores.first_pass_rate:.1%} "
        f"| {one.scores.solved:.1%} |"
        for one in measured
    )
    prone = ", ".join(f"`{name}`" for name in sorted(PRONE))
    return f"""# Base model of the demo

Written by `python -m trl_pper.demo.base_model` together with the files beside it; do not edit.

A Qwen2 model of {parameters:,} parameters in float32, trained from scratch with seed {recipe.seed} for {recipe.steps}
steps of {recipe.batch_size} programs (last loss {loss:.4f} nats per token). The programs compose a filter, a map and a
reduction, as `trl_pper/demo/tasks.py` lists them. Each part of a program carries its one-token slip with probability
{PRONE_SLIP_PROBABILITY} if it is one of
{prone},
and {OTHER_SLIP_PROBABILITY} otherwise. The compositions of the test split are not in the corpus.

Measured on `demo_tasks(split, seed=0)` with {NUM_BEAMS} beams, before any fine-tuning:

| split | tasks | first beam passes every test | pass rate of the first beam | any beam passes every test |
| --- | --- | --- | --- | --- |
{rows}
"""


def main(arguments: list[str] | None = None) -> None:
    """Train, save, measure and describe the base model."""
    parser = argparse.ArgumentParser(description="Train the base model of the demo.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=Recipe.seed, help="fixes corpus and weights (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    recipe = Recipe(steps=options.steps, seed=options.seed)
    # The order of sums, and with it the weights, could depend on the number of threads.
    torch.set_num_threads(1)
    started = time.perf_counter()
    tokenizer = train_tokenizer(corpus(recipe.seed))
    model = build_model(tokenizer, recipe.seed)
    # Another seed than the tokenizer's, to train on other programs.
    loss = train(model, tokenizer, recipe, corpus(recipe.seed + 1))
    print(f"trained in {time.perf_counter() - started:.0f} s")
    model.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    # The file is written readable by its owner only, and an installed package would inherit that.
    (options.output / "model.safetensors").chmod(0o644)
    text = describe(recipe, model.num_parameters(), loss, measure(model, tokenizer))
    (options.output / "README.md").write_text(text, encoding="utf-8")
    print(text)


#: Components with a slip in most of their uses in the corpus; the others slip now and then.
PRONE = frozenset({"at_least", "at_most", "odd", "subtract", "remainder", "smallest", "positives"})
PRONE_SLIP_PROBABILITY = 0.6
OTHER_SLIP_PROBABILITY = 0.08


def corpus(
    seed: int, *, prone: float = PRONE_SLIP_PROBABILITY, other: float = OTHER_SLIP_PROBABILITY
) -> Iterator[tuple[str, str]]:
    """Yield endless pairs of prompt and body, from the train compositions, with slips.

    Args:
        seed: Seed of the compositions, their constants and the slips.
        prone: Probability of a slip in the components of `PRONE`.
        other: Probability of a slip in the other components.
    """
    rng = np.random.default_rng(seed)
    kinds = compositions("train")
    while True:
        chosen = kinds[rng.integers(len(kinds))]
        probabilities = [prone if c.name in PRONE else other for c in chosen]
        first, second, third = (rng.random(3) < probabilities).tolist()
        asked = draw_composition(chosen, rng)
        yield asked.prompt, asked.completion((first, second, third))


if __name__ == "__main__":
    main()
