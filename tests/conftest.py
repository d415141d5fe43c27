"""Tiny models, tokenizers and tasks, made in memory: no test needs a network, a GPU or files from elsewhere."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# Before any import of a Hugging Face library: nothing in the tests may look for the Hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests.judge.hostile.arena import Arena, open_arena
from tests.judge.hostile.attack import LEVELS
from tests.support.pages import ROOT
from trl_pper.tasks.task import CodingTask, FunctionTests


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage among what the libraries leave for good: not while they load, nor in what tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One intra-op thread is faster for tiny models, and leaves a core to each test worker."""
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Find a file of real benchmark data beside the checkout; skip where there is none, fail where CI promises it."""
    folder = ROOT.parent / "shared" / "data"

    def find(name: str) -> Path:
        if not (folder / name).exists():
            if os.environ.get("CI") == "true":
                pytest.fail(f"{name}: CI needs the benchmark data beside the checkout, and it is missing")
            pytest.skip(f"{name}: no benchmark data beside the checkout")
        return folder / name

    return find


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Path:
    """The one page whose code the test is marked to run."""
    (name,) = request.node.get_closest_marker("runs").args
    return ROOT / name


@pytest.fixture(scope="module", params=LEVELS)
def arena(request: pytest.FixtureRequest) -> Iterator[Arena]:
    """Where hostile programs meet the judge, at each isolation level that is to withstand them."""
    with open_arena(request.param) as arena:
        yield arena


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level tokenizer without merges: every text round-trips, end and padding tokens differ."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<eos>", "<pad>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """Build a GPT-2 of a few thousand parameters, the same for the same seed."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(1)

    def build(seed: int = 0, dropout: float = 0.0, **overrides):
        torch.manual_seed(seed)
        settings = dict(
            vocab_size=len(tokenizer), n_positions=256, n_embd=16, n_layer=2, n_head=2, resid_pdrop=dropout,
            embd_pdrop=dropout, attn_pdrop=dropout, eos_token_id=0, bos_token_id=0, pad_token_id=1,
        )  # fmt: skip
        return GPT2LMHeadModel(GPT2Config(**{**settings, **overrides}))

    return build


@pytest.fixture
def local(make_model, tokenizer):
    """A tiny model held for inference, with its tokenizer."""
    from trl_pper.generation.local_model import LocalModel

    return LocalModel(model=make_model().eval(), processing_class=tokenizer)


@pytest.fixture
def generated(local, monkeypatch):
    """What `generate` returned, call by call: the ids behind the prompts."""
    calls, generate = [], local.model.generate

    def record(**inputs):
        output = generate(**inputs)
        calls.append(getattr(output, "sequences", output)[:, inputs["input_ids"].shape[1] :].tolist())
        return output

    monkeypatch.setattr(local.model, "generate", record)
    return calls


@pytest.fixture
def server(make_model, tokenizer):
    """An OpenAI-style server over a tiny model."""
    from tests.support.openai_server import serve

    with serve(make_model().eval(), tokenizer) as server:
        yield server


@pytest.fixture
def servers(make_model, tokenizer):
    """Two OpenAI-style servers over the same tiny model."""
    from tests.support.openai_server import serve

    model = make_model().eval()
    with serve(model, tokenizer) as first, serve(model, tokenizer) as second:
        yield first, second


@pytest.fixture(scope="session")
def tasks() -> list[CodingTask]:
    """Four small tasks with prompts of different lengths."""
    return [
        CodingTask(
            task_id=f"add-{n}",
            prompt=f"# add {'one ' * n}\ndef f(x):\n",
            tests=FunctionTests(
                entry_point="f", code=f"assert f(1) == {n + 1}\nassert f(0) == {n}\nassert f(-{n}) == 0"
            ),
        )
        for n in range(1, 5)
    ]
