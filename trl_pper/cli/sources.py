"""The options of a command line that say who writes programs: a model, a server or a file of an earlier day.

Enters: an argument parser, later its options. Leaves: a source. Options that the chosen source does not have are
refused rather than passed over. Nothing that costs time is imported before a source is made.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.cli.options.types import json_text

if TYPE_CHECKING:
    from trl_pper.generation.source import ProgramSource


SOURCES = ("model", "server", "dataset")

#: What each source is called in an error, and the option that names it.
_NAMED_BY = {"model": "model", "server": "server", "dataset": "programs"}

#: Options of a local model, by the decoding that has them; None for both.
_MODEL_OPTIONS = {
    "decoding": None, "dtype": None, "revision": None, "num_beam_groups": "beam", "diversity_penalty": "beam",
    "temperature": "nucleus", "top_p": "nucleus", "sampling_seed": "nucleus", "stop": None,
}  # fmt: skip

#: Options of a server, by what `ServerSource` calls them; None for those that are not passed on as they are.
_SERVER_OPTIONS = {
    "server_model": None, "api_key_env": "api_key_env", "concurrency": "concurrency",
    "requests_per_minute": "requests_per_minute", "max_retries": "max_retries", "timeout_seconds": "timeout_seconds",
    "temperature": "temperature", "top_p": "top_p", "stop": "stop", "sampling_seed": "seed", "chat": "chat",
    "extra_body": None, "prompt_price": None, "completion_price": None,
}  # fmt: skip


def add_source_options(parser: argparse.ArgumentParser, *, num_programs: int) -> None:
    """Add the options to a parser.

    Args:
        parser: What they are added to.
        num_programs: How many programs a task gets by default.
    """
    parser.add_argument("--source", choices=SOURCES, help="who writes the programs (told by the three options below)")
    parser.add_argument("--model", help="model id or path that writes the programs")
    parser.add_argument("--server", help="OpenAI-compatible address, for instance http://localhost:8000/v1")
    parser.add_argument("--programs", type=Path, help="programs written earlier: rows with task_id and completion")
    parser.add_argument(
        "--num_programs", "--num_beams", "--n", type=int, default=num_programs, metavar="N",
        help=f"programs per task ({num_programs})",
    )  # fmt: skip
    parser.add_argument("--max_completion_length", type=int, default=256, help="longest program, in tokens (256)")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts generated for at once (8)")
    # Without defaults, so that one given for another source is noticed; those of the sources hold.
    add = functools.partial(parser.add_argument, default=None)
    add("--temperature", type=float, help="sampling temperature (0.8)")
    add("--top_p", type=float, help="probability mass to sample from (0.95; the server's default)")
    add("--sampling_seed", type=int, help="seed of the samples (0; none for a server)")
    add("--stop", nargs="+", help="texts that end a program, beside those of its task")
    _add_model_options(parser.add_argument_group("programs from a model (--model)"))
    _add_server_options(parser.add_argument_group("programs from a server (--server)"))


def _add_model_options(group: argparse._ArgumentGroup) -> None:
    add = functools.partial(group.add_argument, default=None)
    add("--decoding", choices=("beam", "nucleus"), help="the most probable programs, or samples")
    add("--num_beam_groups", type=int, help="groups of beams that are kept apart (1)")
    add("--diversity_penalty", type=float, help="how strongly groups are kept apart, in nats (0.5)")
    add("--dtype", help="number type of the weights, such as bfloat16 (that of the checkpoint)")
    add("--revision", help="branch, tag or commit of the model")


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    add = functools.partial(group.add_argument, default=None)
    add("--server_model", help="name of the model on the server")
    add("--api_key_env", metavar="NAME", help="environment variable that holds the key")
    add("--concurrency", type=int, help="tasks asked for at once (8)")
    add("--requests_per_minute", type=float, help="highest rate of requests (no limit)")
    add("--max_retries", type=int, help="how often a request that may pass is sent again (5)")
    add("--timeout_seconds", type=float, help="longest wait for a reply (600)")
    group.add_argument("--chat", action="store_true", default=None, help="send text prompts as chat messages")
    add(
        "--extra_body",
        type=json_text,
        metavar="JSON",
        help="further fields of a request, such as '{\"use_beam_search\": true}'",
    )
    add("--prompt_price", type=float, help="price of a million prompt tokens, for the cost")
    add("--completion_price", type=float, help="price of a million completion tokens, for the cost")


def build_source(options: argparse.Namespace, *, decoding: str = "beam", with_logprobs: bool = True) -> ProgramSource:
    """Return the source that options describe.

    Args:
        options: Parsed options of `add_source_options`.
        decoding: How a local model decodes where no option says it.
        with_logprobs: Whether anybody needs log P(t) of samples.

    Raises:
        ValueError: No source is named, or several, or an option is not one of this source.
    """
    source = _chosen(options)
    if source == "dataset":
        from trl_pper.generation.dataset import DatasetSource

        return DatasetSource(options.programs)
    return _server(options) if source == "server" else _model(options, decoding, with_logprobs=with_logprobs)


def _chosen(options: argparse.Namespace) -> str:
    given = [source for source, name in _NAMED_BY.items() if getattr(options, name) is not None]
    if len(given) != 1 or options.source not in (None, *given):
        wanted = "exactly one" if options.source is None else f"--{_NAMED_BY[options.source]} and no other"
        got = ", ".join(f"--{_NAMED_BY[source]}" for source in given) or "none"
        raise ValueError(f"--source: {wanted} of --model, --server and --programs is required; got {got}")
    owned = {"model": _MODEL_OPTIONS, "server": _SERVER_OPTIONS}
    for name in {**_MODEL_OPTIONS, **_SERVER_OPTIONS}:
        if getattr(options, name) is not None and name not in owned.get(given[0], {}):
            owners = " or ".join(f"--{_NAMED_BY[source]}" for source in owned if name in owned[source])
            raise ValueError(f"--{name}: belongs to {owners}; got it with --{_NAMED_BY[given[0]]}. Leave it out")
    return given[0]


def _model(options: argparse.Namespace, decoding: str, *, with_logprobs: bool) -> ProgramSource:
    from trl_pper.generation.beam_search import BeamSearchSource
    from trl_pper.generation.local_model import load_model
    from trl_pper.generation.nucleus import NucleusSource

    decoding = options.decoding or decoding
    for name, owner in _MODEL_OPTIONS.items():
        if getattr(options, name) is not None and owner not in (None, decoding):
            raise ValueError(f"--{name}: belongs to --decoding {owner}; got {decoding}. Leave it out")
    names = {"sampling_seed": "seed"}
    chosen = {
        names.get(name, name): getattr(options, name)
        for name in ("num_beam_groups", "diversity_penalty", "temperature", "top_p", "sampling_seed", "stop")
        if getattr(options, name) is not None
    }
    chosen |= {"max_completion_length": options.max_completion_length, "batch_size": options.batch_size}

    def build(*local: Any) -> ProgramSource:
        if decoding == "beam":
            return BeamSearchSource(*local, num_beams=options.num_programs, **chosen)
        return NucleusSource(*local, num_programs=options.num_programs, with_logprobs=with_logprobs, **chosen)

    build()  # What is out of range is said before a model is loaded.
    return build(*load_model(options.model, dtype=options.dtype, revision=options.revision))


def _server(options: argparse.Namespace) -> ProgramSource:
    from trl_pper.generation.server import ServerSource

    if options.server_model is None:
        raise ValueError("--server_model: required with --server; name the model to ask for")
    given = {name: getattr(options, option) for option, name in _SERVER_OPTIONS.items() if name is not None}
    return ServerSource(
        options.server,
        model=options.server_model,
        num_programs=options.num_programs,
        max_completion_length=options.max_completion_length,
        extra_body=_json_object("--extra_body", options.extra_body),
        **{name: value for name, value in given.items() if value is not None},
    )


def _json_object(name: str, text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except json.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{name}: a JSON object is required; got {text!r}")
    return value
