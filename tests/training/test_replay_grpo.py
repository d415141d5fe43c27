"""GRPO with replayed successes: which completions are replaced, and what plain GRPO learns from the same ones."""

import inspect
import json
import math
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from trl_pper import Experience, ReplayBuffer, ReplayGRPOTrainer
from trl_pper.generation.local_model import CHECKPOINTING

PROMPTS = ("# one\n", "# two\n", "# three\n")
LENGTH = 8


def program(prompt: str, completion: str, *, pass_rate: float = 1.0, **more) -> Experience:
    given = {"logprob": -1.0, "num_tokens": 2, "round_index": 0, "source": "teacher", **more}
    texts = {"prompt": prompt, "completion": completion, "program": completion}
    return Experience(task_id=str(prompt), **texts, pass_rate=pass_rate, **given)


def filled(*programs: Experience, **settings) -> ReplayBuffer:
    buffer = ReplayBuffer(**settings)
    buffer.add(programs)
    return buffer


def valued(*programs: tuple[str, str, float], least: float) -> ReplayBuffer:
    """Return a buffer of passing programs with given possibilities, which are their priorities from `least` on."""
    made = [program(prompt, text, logprob=math.log(value), num_tokens=1) for prompt, text, value in programs]
    chosen = lambda p2values: np.where(p2values >= least, p2values, 0.0)  # noqa: E731
    return filled(*made, priority=chosen, possibility_weight=1.0)


#: Two prompts with successes; of the third nothing passes.
BUFFER = (
    program("# one\n", "right"),
    program("# one\n", "fails", pass_rate=0.5),
    program("# two\n", "a"),
    program("# two\n", "bb"),
    program("# two\n", "cut", truncated=True),
    program("# three\n", "near", pass_rate=0.9),
)


@pytest.fixture
def build(make_model, tokenizer, tmp_path):
    """Build a trainer that records what it gives to its reward function, and learns at a high rate."""

    def build(
        kind=ReplayGRPOTrainer,
        *,
        prompts=PROMPTS,
        template=None,
        config=None,
        tokenizer=tokenizer,
        model=None,
        **given,
    ):
        tokenizer.chat_template = template
        seen = []

        def reward(prompts, completions, completion_ids, **_):
            seen.append(list(zip(prompts, completions, completion_ids, strict=True)))
            return [float(len(str(text)) % 3) for text in completions]

        settings = {
            "max_steps": 1, "per_device_train_batch_size": 12, "num_generations": 4, "max_completion_length": LENGTH,
            "report_to": [], "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no",
            "logging_steps": 1, "learning_rate": 1e-2, "seed": 5, CHECKPOINTING: False, **(config or {}),
        }  # fmt: skip
        trainer = kind(
            model or make_model(vocab_size=len(tokenizer)),
            reward_funcs=reward,
            args=GRPOConfig(str(tmp_path), **settings),
            train_dataset=datasets.Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
            processing_class=tokenizer,
            **given,
        )
        return trainer, seen

    yield build
    tokenizer.chat_template = None


def groups(rows) -> dict[str, list[str]]:
    """The completions of each prompt, in order."""
    found: dict[str, list[str]] = {}
    for prompt, completion, _ in rows:
        found.setdefault(str(prompt), []).append(completion)
    return found


def test_the_last_of_a_group_are_passing_programs_of_its_prompt(build, monkeypatch):
    trainer, seen = build(buffer=filled(*BUFFER), replayed_generations=2)
    written, generate = [], trainer.model.generate

    def counted(*args, **kwargs):
        output = generate(*args, **kwargs)
        written.append(len(output))
        return output

    monkeypatch.setattr(trainer.model, "generate", counted)
    trainer.train()
    found = groups(seen[0])
    assert {len(group) for group in found.values()} == {4}
    # One success has one place, and a prompt without any has none.
    assert found["# one\n"][-1] == "right"
    assert set(found["# two\n"][-2:]) == {"a", "bb"}
    alone = {text for prompt, group in found.items() for text in (group if "three" in prompt else group[:2])}
    assert not alone & {"right", "a", "bb", "near", "fails", "cut"}
    ends = {text: ids for _, text, ids in seen[0] if text in ("right", "a", "bb")}
    assert all(ids[-1] == trainer._tokenizer.eos_token_id for ids in ends.values())
    # What is replaced is not written.
    assert written == [9]
    [logged] = [entry for entry in trainer.state.log_history if "replayed" in entry]
    assert logged["replayed"] == pytest.approx(3 / 12)


#: Where a rounding error of a gradient stays small.
SGD = {"optim": "sgd", "learning_rate": 100.0}


def test_plain_grpo_on_the_same_completions_learns_the_same(build, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trainer, seen = build(buffer=filled(*BUFFER), replayed_generations=2, config=SGD)
    trainer.train()

    def rollout(prompts, trainer):
        assert prompts == [prompt for prompt, _, _ in seen[0]]
        asked = [trainer._tokenizer(prompt)["input_ids"] for prompt in prompts]
        return {"prompt_ids": asked, "completion_ids": [ids for _, _, ids in seen[0]], "logprobs": None}

    plain, again = build(GRPOTrainer, rollout_func=rollout, config=SGD)
    plain.train()
    assert again[0] == seen[0]
    before, _ = build(GRPOTrainer)
    for ours, theirs, old in zip(*(one.model.parameters() for one in (trainer, plain, before)), strict=True):
        # TRL shuffles the rows of a minibatch, so that sums have another order.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        assert (ours - old).abs().max() > 1e-3


def test_none_replayed_is_plain_grpo(build):
    ours, seen = build(buffer=filled(*BUFFER), replayed_generations=0)
    ours.train()
    plain, theirs = build(GRPOTrainer)
    plain.train()
    assert seen == theirs
    assert all(torch.equal(*pair) for pair in zip(ours.model.parameters(), plain.model.parameters(), strict=True))


def test_nothing_is_replayed_in_evaluation(build):
    trainer, seen = build(buffer=filled(*BUFFER))
    trainer.evaluate(trainer.train_dataset)
    assert seen
    assert not {"right", "a", "bb"} & {text for rows in seen for _, text, _ in rows}


def test_draws_follow_the_seed_the_step_and_the_probabilities(build):
    shares = (0.7, 0.3, 0.1, 0.1, 0.1)
    preferred = valued(*(("# one\n", f"p{number}", share) for number, share in enumerate(shares)), least=0.2)
    trainer, _ = build(buffer=preferred, replayed_generations=3)
    asked = [trainer._tokenizer("# one\n")["input_ids"]] * 4

    def drawn(step, seed=5):
        trainer.state.global_step, trainer.args.seed = step, seed
        return [trainer._tokenizer.decode(ids, skip_special_tokens=True) for ids in trainer._replayed(asked).values()]

    # A program of weight 0 has no place, however many are left.
    assert all(sorted(drawn(step)) == ["p0", "p1"] for step in range(20))
    assert drawn(3) == drawn(3)
    trainer.replayed_generations = 1
    first = [drawn(step)[0] for step in range(2000)]
    assert first.count("p0") / len(first) == pytest.approx(0.7, abs=0.035)
    assert first != [drawn(step, seed=6)[0] for step in range(2000)]
    # Two groups of one prompt in a step do not replay the same.
    groups = [[trainer._drawn(tuple(asked[0]), group) for group in range(20)] for _ in range(2)]
    assert groups[0] == groups[1]
    assert len({str(one) for one in groups[0]}) == 2


def test_where_no_program_has_a_share_all_have_the_same(build):
    trainer, _ = build(buffer=valued(("# one\n", "p", 0.1), ("# one\n", "q", 0.2), ("# two\n", "r", 0.9), least=0.5))
    completions, weights = trainer._successes[tuple(trainer._tokenizer("# one\n")["input_ids"])]
    assert len(completions) == 2
    assert weights.tolist() == [0.5, 0.5]


def test_groups_lie_across_processes(build, monkeypatch):
    trainer, _ = build(buffer=filled(*BUFFER), replayed_generations=3)
    asked = trainer._tokenizer("# two\n")["input_ids"]
    whole = trainer._replayed([asked] * 4)
    halves = []
    for rank in range(2):
        monkeypatch.setattr(type(trainer.accelerator), "process_index", rank)
        halves.append(trainer._replayed([asked] * 2))
    assert halves == [{}, {row - 2: ids for row, ids in whole.items()}]
    assert len(whole) == 2


TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_messages_are_replayed_as_answers(build):
    # A data set of messages may have further keys, which are empty.
    chats = [[{"role": "user", "content": prompt, "name": None}] for prompt in PROMPTS]
    asked = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    buffer = filled(program(asked[0], "right"), program(asked[1], "too long to be written"))
    trainer, seen = build(prompts=chats, template=TEMPLATE, buffer=buffer)
    trainer.train()
    answers = [text for prompt, text, _ in seen[0] if prompt == chats[0]]
    assert answers[-1] == [{"role": "assistant", "content": "right"}]
    # What is longer than a completion may be has no place.
    assert len(trainer._successes) == 1


def test_prompts_are_rendered_with_the_keys_of_the_data_set(build):
    named = TEMPLATE.replace("{{ message.role }}", "{{ message.role }}{{ message.name }}")
    chats = [[{"role": "user", "content": prompt, "name": "Ann"}] for prompt in PROMPTS]
    asked = [{"role": "user", "content": PROMPTS[0]}]
    trainer, seen = build(prompts=chats, template=named, buffer=filled(program(asked, "right")))
    trainer.train()
    assert [text for prompt, text, _ in seen[0] if prompt == chats[0]][-1][0]["content"] == "right"


def test_prompts_with_a_date_are_known_after_midnight(build, tokenizer):
    class Midnight(TrainerCallback):
        def on_step_end(self, *_, **__):
            tokenizer.chat_template = TEMPLATE.replace("{% for", "2 May {% for", 1)

    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    given = {"template": TEMPLATE.replace("{% for", "1 May {% for", 1), "config": {"max_steps": 2}}
    trainer, _ = build(prompts=chats, buffer=filled(program(chats[0], "right")), callbacks=[Midnight()], **given)
    trainer.train()
    logged = [entry["replayed"] for entry in trainer.state.log_history if "replayed" in entry]
    assert logged == [pytest.approx(1 / 12)] * 2


UNLIKE = TEMPLATE.replace("<eos>", "<end>\n")
#: An answer after a prompt is rendered in another way than the prompt alone.
THOUGHT = UNLIKE.replace("<assistant>", "<assistant><think>")


@pytest.mark.parametrize(
    ("template", "ends", "end"),
    [
        (UNLIKE, ["<eos>"], "<eos>"),
        (UNLIKE.replace("<end>\n", ""), ["<eos>"], "<eos>"),
        (UNLIKE, ["<eos>", "<end>"], "<end>"),
        (THOUGHT, ["<eos>", "<end>"], "<end>"),
        (THOUGHT, ["<eos>"], "<eos>"),
    ],
)
def test_answers_end_as_the_model_ends_them(build, make_model, tokenizer, template, ends, end):
    """TRL takes a completion without an end token for cut off, and may leave it out."""
    more = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", pad_token="<pad>")
    more.add_special_tokens({"additional_special_tokens": ["<end>"]})
    model = make_model(vocab_size=len(more))
    model.generation_config.eos_token_id = more.convert_tokens_to_ids(ends)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    buffer = filled(program(chats[0], "right"), program(chats[1], ""))
    config = {"mask_truncated_completions": True}
    trainer, seen = build(prompts=chats, template=template, tokenizer=more, buffer=buffer, config=config, model=model)
    trainer.train()
    answers = {str(prompt): (text[0]["content"], more.decode(ids)) for prompt, text, ids in seen[0]}
    # The last of each group.
    assert answers[str(chats[0])] == ("right", f"right{end}")
    assert answers[str(chats[1])] == ("", end)
    [logged] = [entry for entry in trainer.state.log_history if "replayed" in entry]
    assert logged["completions/clipped_ratio"] <= 10 / 12


def test_prompts_of_the_same_tokens_share_their_programs(build):
    trimmed = TEMPLATE.replace("message.content", "message.content | trim")
    chats = [[{"role": "user", "content": text}] for text in ("one", "one\n", "two")]
    trainer, _ = build(prompts=chats, template=trimmed, buffer=filled(program(chats[0], "a"), program(chats[1], "b")))
    [(completions, weights)] = trainer._successes.values()
    assert [trainer._tokenizer.decode(ids) for ids in completions] == ["a<eos>", "b<eos>"]
    assert weights.tolist() == [0.5, 0.5]


def test_prompts_that_are_not_asked_are_not_encoded(build):
    """Chat messages need a template, which a tokenizer for text has not."""
    chat = [{"role": "user", "content": "# one\n"}]
    trainer, _ = build(buffer=filled(program("# one\n", "right"), program(chat, "right")))
    assert len(trainer._successes) == 1


def test_generations_of_one_step_replay_different_programs(build):
    shares = [program("# one\n", f"p{number}") for number in range(8)]
    config = {"per_device_train_batch_size": 4, "steps_per_generation": 1, "gradient_accumulation_steps": 8}
    trainer, seen = build(prompts=PROMPTS[:1] * 8, buffer=filled(*shares), config=config)
    trainer.train()
    replayed = [rows[-1][1] for rows in seen]
    assert len(replayed) == 8
    assert set(replayed) <= {f"p{number}" for number in range(8)}
    assert len(set(replayed)) > 2


@pytest.mark.parametrize("completion", ["right", "right<eos>"])
def test_tokens_that_merge_across_the_border_are_parted(build, tokenizer, completion):
    """A model is given the prompt alone, so that it cannot write a token that begins in the prompt."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    line_feed, first = "\u010a", "r"
    state["model"]["vocab"][line_feed + first] = len(tokenizer)
    state["model"]["merges"] = [[line_feed, first]]
    state["pre_tokenizer"]["use_regex"] = False
    merging = type(tokenizer)(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), eos_token="<eos>", pad_token="<pad>"
    )
    asked = merging("# one\n")["input_ids"]
    assert merging("# one\nright")["input_ids"][: len(asked)] != asked
    # A completion that ends in the text of the end token has one of them.
    trainer, seen = build(buffer=filled(program("# one\n", completion)), tokenizer=merging)
    trainer.train()
    [ids] = [ids for _, text, ids in seen[0] if text == "right"]
    assert ids == [*merging("right")["input_ids"], merging.eos_token_id]


def test_fields_that_tokenizers_give_for_each_row_stay_whole(build, tokenizer, monkeypatch):
    """Chat prompts of some tokenizers come with `token_type_ids`, of text models as well."""
    monkeypatch.setattr(tokenizer, "model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    trainer, seen = build(prompts=chats, template=TEMPLATE, buffer=filled(program(chats[0], "right")))
    fields = []
    generate = trainer.model.generate
    monkeypatch.setattr(trainer.model, "generate", lambda **given: fields.append(given) or generate(**given))
    trainer.train()
    assert len(fields[0]["token_type_ids"]) == len(fields[0]["input_ids"]) == 12
    assert [text for prompt, text, _ in seen[0] if prompt == chats[0]][-1][0]["content"] == "right"


def test_replayed_tokens_have_no_log_probability(build, monkeypatch):
    """vLLM gives the log-probabilities of what it writes, and is asked for whole groups."""
    trainer, _ = build(buffer=filled(*BUFFER))
    asked = [trainer._tokenizer("# one\n")["input_ids"]] * 4
    written = []

    def generate(self, prompt_ids, *_):
        written.append(len(prompt_ids))
        return [[5, 6]] * len(prompt_ids), [[-0.5, -0.25]] * len(prompt_ids)

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    trainer.use_vllm = True
    completions, logprobs = trainer._generate_single_turn(asked, None, {}, 4)
    assert written == [4]
    assert completions[:3] == [[5, 6]] * 3
    assert trainer._tokenizer.decode(completions[3], skip_special_tokens=True) == "right"
    assert logprobs == [[-0.5, -0.25]] * 3 + [[None] * len(completions[3])]


@pytest.mark.parametrize(
    ("programs", "given", "words"),
    [
        (BUFFER[1:2], {}, "buffer: must hold a whole program that passes every test.* 1 programs and none"),
        ((), {}, "got 0 programs and none"),
        ([program("# four\n", "x")], {}, "its 1 prompts with such programs are none of the 3 of train_dataset"),
        (
            [program("# one\n", "x" * LENGTH), program("# four\n", "x")],
            {},
            "max_completion_length: .* got 8, and the shortest of 1 programs for .* has 9 tokens",
        ),
        (BUFFER, {"replayed_generations": 4}, "must be a whole number from 0 to 3, .* of the 4 completions .* got 4"),
        (BUFFER, {"replayed_generations": -1}, "from 0 to 3"),
        (BUFFER, {"replayed_generations": True}, "from 0 to 3"),
        (BUFFER, {"replayed_generations": 1.0}, "from 0 to 3"),
        (BUFFER, {"tools": [len]}, "tools: a replayed completion is a single answer"),
        (BUFFER, {"rollout_func": len}, "rollout_func: .* Leave it out"),
    ],
)
def test_errors_say_what_to_do(build, programs, given, words):
    with pytest.raises(ValueError, match=words):
        build(buffer=filled(*programs), **given)


def test_a_path_is_no_buffer(build):
    with pytest.raises(TypeError, match=r"buffer: must be a ReplayBuffer; got str\. Read a file with"):
        build(buffer="buffer.parquet")


def test_the_hook_of_trl():
    """An upgrade that gives the hook other arguments, or does not go through it, fails here."""
    names = ["self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images"]
    assert list(inspect.signature(GRPOTrainer._generate_single_turn).parameters) == names
    ours = {name for name, value in vars(ReplayGRPOTrainer).items() if callable(value)}
    assert {name for name in ours if hasattr(GRPOTrainer, name)} == {"__init__", "_generate_single_turn"}
    assert "map it back to NaN" in inspect.getsource(GRPOTrainer._generate_and_score_completions)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_replay_what_one_replays(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    filled(*BUFFER).save(tmp_path / "buffer.parquet")
    seen = {}
    for processes in (1, 2):
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m",
            "tests.support.replay_grpo_run", str(tmp_path), str(processes),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = [json.loads((tmp_path / f"seen-{processes}-{rank}.json").read_text()) for rank in range(processes)]
        seen[processes] = [[row for rank in ranks for row in rank[step]] for step in range(2)]
    replayed = {
        processes: [[(prompt, text) for prompt, text in step if text in ("right", "a", "bb")] for step in steps]
        for processes, steps in seen.items()
    }
    assert replayed[1] == replayed[2]
    assert [len(step) for step in replayed[1]] == [3, 3]
