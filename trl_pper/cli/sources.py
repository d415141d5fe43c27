"""Read the tasks and the sources of programs that a command line names.

Tasks are a file, a folder, a data set of the Hub, or a YAML file that mixes several of them (C4):

    size: 500                     # optional: tasks drawn in all; as many as the proportions allow without it
    seed: 0                       # optional: of the draw
    mixture:
      apps: {tasks: codeparrot/apps, subset: all, split: train, on_error: skip, weight: 3}
      mine: {tasks: tasks.jsonl, weight: 1}

A source is a model, a server or a file. An option that the chosen source does not have is refused rather than ignored.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_pper.cli.options import Option
from trl_pper.cli.yaml_file import read_entries
from trl_pper.tasks.chat import PROMPTS, as_chat, put_to
from trl_pper.tasks.loading import FORMATS, load_tasks
from trl_pper.tasks.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.source import ProgramSource

#: Each source by the option that names it; the values are those of --source.
_SOURCES = {"model": "model", "server": "server", "programs": "dataset"}

# Options of a single source have no default here, so that one given with another source is noticed. The source's own
# default holds; the help tells it.
_SAMPLING = (
    Option("temperature", float, "sampling temperature (0.8)"),
    Option("top_p", float, "probability mass to sample from (0.95; the server's default)"),
    Option("sampling_seed", int, "seed of the samples (0; none for a server)"),
    Option("stop", list[str], "texts that end a program, in addition to those of its task"),
)
_MODEL = (
    Option("decoding", str, "the most probable programs (beam), or samples (nucleus)", choices=("beam", "nucleus")),
    Option(
        "generation_engine",
        str,
        "what writes samples: generate (transformers), or generate_batch with a paged cache",
        choices=("transformers", "continuous_batching"),
    ),
    Option("num_beam_groups", int, "number of groups that the beams are searched in, one after the other (1)"),
    Option(
        "diversity_penalty", float, "penalty, in nats, for a token that an earlier group has in the same place (0.5)"
    ),
    Option(
        "chat_template_kwargs",
        str | dict,
        "further arguments of the chat template, such as '{\"enable_thinking\": false}'",
    ),
    Option("dtype", str, "number type of the weights, such as bfloat16 (that of the checkpoint)"),
    Option("revision", str, "branch, tag or commit of the model"),
    Option("attn_implementation", str, "implementation of attention, such as sdpa or flash_attention_2"),
    Option("trust_remote_code", bool, "run code from the model's repository"),
    Option("load_in_4bit", bool, "weights in 4 bits, by bitsandbytes"),
    Option("load_in_8bit", bool, "weights in 8 bits, by bitsandbytes"),
)
#: The options that `load_model` takes; the others are of the source.
LOADING = ("dtype", "revision", "attn_implementation", "trust_remote_code", "load_in_4bit", "load_in_8bit")
_SERVER = (
    Option("server_model", str, "name of the model on the servers"),
    Option("api_key_env", str, "environment variable that holds the API key"),
    Option("concurrency", int, "tasks requested at the same time, of all servers together (8)"),
    Option("requests_per_minute", float, "highest rate of requests to each server (no limit)"),
    Option("max_retries", int, "most retries of a request after a temporary failure (5)"),
    Option("timeout_seconds", float, "longest wait for a reply (600)"),
    Option("chat", bool, "send text prompts as chat messages"),
    Option("extra_body", str | dict, "further fields of a request, such as '{\"use_beam_search\": true}'"),
    Option("prompt_price", float, "price of a million prompt tokens, for the cost"),
    Option("completion_price", float, "price of a million completion tokens, for the cost"),
)
_OWNED = {"model": (*_SAMPLING, *_MODEL), "server": (*_SAMPLING, *_SERVER)}
#: The decoding that an option of a model belongs to; other options belong to both.
_DECODING = {
    "num_beam_groups": "beam", "diversity_penalty": "beam", "temperature": "nucleus", "top_p": "nucleus",
    "sampling_seed": "nucleus", "generation_engine": "nucleus",
}  # fmt: skip


def source_options(num_programs: int | None) -> tuple[Option, ...]:
    """Return the options; `num_programs` is the default number of programs per task, None for all that there are."""
    source = "who writes the programs (default: whichever of --model, --server and --programs is given)"
    return (
        Option("source", str, source, choices=tuple(_SOURCES.values())),
        Option("model", str, "model id or path that writes the programs"),
        Option(
            "server", list[str],
            "OpenAI-compatible address, for instance http://localhost:8000/v1, or several of one model",
        ),
        Option(
            "programs", Path, "programs written earlier: rows with task_id and completion, or a preference or SFT set"
        ),
        Option(
            "num_programs", int, "programs per task" if num_programs else "programs per task (1; of a file, all)",
            default=num_programs, aliases=("num_beams", "n"),
        ),
        Option("max_completion_length", int, "longest program, in tokens", default=256),
        Option("batch_size", int, "prompts per batch of generation", default=8),
        *_SAMPLING,
        *(replace(option, group="programs from a model (--model)") for option in _MODEL),
        *(replace(option, group="programs from a server (--server)") for option in _SERVER),
    )  # fmt: skip


def build_source(options: argparse.Namespace, *, decoding: str = "beam", with_logprobs: bool = True) -> ProgramSource:
    """Return the source that options describe; see `source_builder`."""
    return source_builder(options, decoding=decoding, with_logprobs=with_logprobs)()


def source_builder(
    options: argparse.Namespace, *, decoding: str = "beam", with_logprobs: bool = True
) -> Callable[[], ProgramSource]:
    """Check options, and return a function that makes the source they describe: here, or on another machine.

    Args:
        options: Parsed options of `source_options`.
        decoding: The decoding of a local model where `--decoding` is not given.
        with_logprobs: Whether log P(t) of samples is needed.

    Raises:
        ValueError: No source is named, or several, or an option belongs to another source.
    """
    source = _check_source(options)
    if source == "programs":
        from trl_pper.generation.dataset import DatasetSource

        return functools.partial(DatasetSource, options.programs)
    return _server(options) if source == "server" else _model(options, decoding, with_logprobs=with_logprobs)


def _check_source(options: argparse.Namespace) -> str:
    """Return the option that names the source."""
    given = [name for name in _SOURCES if getattr(options, name) is not None]
    if len(given) != 1 or options.source not in (None, _SOURCES[given[0]]):
        named = {source: name for name, source in _SOURCES.items()}
        wanted = "exactly one" if options.source is None else f"--{named[options.source]} and no other"
        got = ", ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"--source: {wanted} of --model, --server and --programs is required; got {got}")
    for option in {option.name: option for owned in _OWNED.values() for option in owned}.values():
        owners = [source for source, owned in _OWNED.items() if option in owned]
        if getattr(options, option.name) is not None and given[0] not in owners:
            belongs = " or ".join(f"--{owner}" for owner in owners)
            raise ValueError(f"--{option.name}: belongs to {belongs}; got it with --{given[0]}. Leave it out")
    return given[0]


def _settings(options: argparse.Namespace, owned: Iterable[Option], *, without: Iterable[str]) -> dict[str, Any]:
    """Return the given options by the names that sources have for them."""
    values = {option.name: getattr(options, option.name) for option in owned if option.name not in without}
    return {
        "max_completion_length": options.max_completion_length,
        **{
            name.removeprefix("sampling_").removeprefix("generation_"): value
            for name, value in values.items()
            if value is not None
        },
    }


def _model(options: argparse.Namespace, decoding: str, *, with_logprobs: bool) -> Callable[[], ProgramSource]:
    from trl_pper.generation.beam_search import BeamSearchSource
    from trl_pper.generation.nucleus import NucleusSource

    decoding = options.decoding or decoding
    for name, owner in _DECODING.items():
        if getattr(options, name) is not None and owner != decoding:
            raise ValueError(f"--{name}: belongs to --decoding {owner}; got {decoding}. Leave it out")
    chosen = _settings(options, _OWNED["model"], without=("decoding", "chat_template_kwargs", *LOADING))
    template = _mapping("chat_template_kwargs", options.chat_template_kwargs)
    chosen["batch_size"] = options.batch_size
    kind: Callable[..., ProgramSource] = BeamSearchSource if decoding == "beam" else NucleusSource
    chosen |= (
        {"num_beams": options.num_programs}
        if decoding == "beam"
        else {"num_programs": options.num_programs, "with_logprobs": with_logprobs}
    )
    kind(**chosen)  # So that a value out of range is refused before a model is loaded.
    chosen["chat_template_kwargs"] = template
    return functools.partial(_load, kind, options.model, {name: getattr(options, name) for name in LOADING}, chosen)


def _load(
    kind: Callable[..., ProgramSource], model: str, loading: dict[str, Any], chosen: dict[str, Any]
) -> ProgramSource:
    """Return a source with its own model; a function by itself, which pickle finds by its name."""
    from trl_pper.generation.local_model import load_model

    return kind(*load_model(model, **loading), **chosen)


def _mapping(name: str, given: Any) -> dict[str, Any] | None:
    """Return an option that is a mapping; None if it is not given."""
    found = given
    if isinstance(given, str):
        # From the command line; a file may have a mapping.
        with contextlib.suppress(json.JSONDecodeError):
            found = json.loads(given)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"--{name}: a JSON object is required; got {given!r}")
    return found


def _server(options: argparse.Namespace) -> Callable[[], ProgramSource]:
    from trl_pper.generation.servers.server_source import ServerSource

    if options.server_model is None:
        raise ValueError("--server_model: required with --server; name the model to ask for")
    return functools.partial(
        ServerSource,
        options.server,
        model=options.server_model,
        num_programs=options.num_programs,
        extra_body=_mapping("extra_body", options.extra_body) or {},
        **_settings(
            options, _OWNED["server"], without=("server_model", "extra_body", "prompt_price", "completion_price")
        ),
    )


TASKS = Option(
    "tasks", str, required=True,
    help="tasks: .jsonl, .jsonl.gz, .json or .parquet, a folder, a mixture (.yaml) or the id of a data set on the Hub",
)  # fmt: skip
#: Options of every command that reads tasks, as `read_tasks` takes them.
TASK_OPTIONS = (
    Option("format", str, "format of the tasks", default="auto", choices=("auto", *FORMATS)),
    Option("subset", str, "configuration of a data set of the Hub"),
    Option("split", str, "split of a data set"),
    Option("difficulty", list[str], "only tasks of these difficulties"),
    Option("max_tests", int, "most tests used of each task, the first ones"),
    Option(
        "on_error", str, "malformed rows: raise an error, or skip them", default="raise", choices=("raise", "skip")
    ),
    Option(
        "prompts",
        str,
        "text prompts to be continued (text) or put as messages (chat); auto: as the model was made for",
        default="auto",
        choices=PROMPTS,
    ),
)

#: Options of `load_tasks` that a source of a mixture may have; `errors` and a judge are objects of the caller's.
_DEFAULTS = {
    name: one.default
    for name, one in inspect.signature(load_tasks).parameters.items()
    if name not in ("source", "errors", "check_references")
}


def read_tasks(source: str, *, prompts: str = "auto", **options: Any) -> list[CodingTask]:
    """Read tasks.

    Args:
        source: A source that `load_tasks` takes, or the path of a mixture (.yaml, .yml).
        prompts: "text" for prompts as their format has them, "chat" for messages (see `as_chat`), "auto" for what
            `put_to_writer` decides.
        **options: Options of `load_tasks`; each source of a mixture has its own in the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The tasks or the mixture are malformed, or options are given for a mixture.
    """
    if prompts not in PROMPTS:
        raise ValueError(f"prompts: must be one of {', '.join(PROMPTS)}; got {prompts!r}")
    if is_mixture(source):
        # Options would be ambiguous: for all sources, or in place of their own?
        for name, value in options.items():
            if value != _DEFAULTS[name]:
                raise ValueError(f"{name}: each source of the mixture {source} has its own; write it there")
        tasks = _mixed(Path(source))
    else:
        tasks = load_tasks(source, **options)
    return as_chat(tasks) if prompts == "chat" else tasks


def put_to_writer(tasks: list[CodingTask], source: ProgramSource, prompts: str) -> list[CodingTask]:
    """Return tasks as a local model is to be asked them, and print how; those of a file as its rows ask them."""
    from accelerate import PartialState

    from trl_pper.generation.dataset import DatasetSource

    if isinstance(source, DatasetSource):
        return source.as_asked(tasks) if prompts == "auto" else tasks
    own = getattr(source, "own_model", None)
    asked = getattr(source, "asked", None) if own is None else own.encoder
    if asked is None:
        return tasks
    prompted = put_to(tasks, asked, prompts=prompts)
    if prompted.line and PartialState().is_main_process:
        print(prompted.line.replace("prompts=", "--prompts "))
    return prompted.tasks


def task_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of a command line that `read_tasks` takes."""
    return {option.name: getattr(options, option.name) for option in TASK_OPTIONS}


def read_given_tasks(source: str, options: argparse.Namespace) -> list[CodingTask]:
    """Read tasks with the options of a command line."""
    return read_tasks(source, **task_options(options))


def is_mixture(source: str) -> bool:
    """Return whether a source of tasks is the file of a mixture."""
    return Path(source).suffix in (".yaml", ".yml")


def _mixed(path: Path) -> list[CodingTask]:
    # Slow to import, and not needed for `--help`.
    from trl_pper.tasks.mixture import mix_tasks

    given = {name: entry.value for name, entry in read_entries(path).items()}
    if not isinstance(given.get("mixture"), dict) or not given["mixture"]:
        raise ValueError(f"{path}: mixture: must map at least one name to where its tasks are; got {given!r:.200}")
    unknown = sorted(given.keys() - {"mixture", "size", "seed"})
    if unknown:
        raise ValueError(f"{path}: {unknown[0]}: no such option; a mixture has mixture, size and seed")
    sources = {str(name): _source(f"{path}: {name}", spec) for name, spec in given["mixture"].items()}
    return mix_tasks(sources, size=given.get("size"), seed=given.get("seed", 0))


def _source(place: str, spec: Any) -> tuple[list[CodingTask], float]:
    """Return the tasks of a source of a mixture, and its weight."""
    if not isinstance(spec, dict) or not isinstance(spec.get("tasks"), str):
        raise ValueError(f"{place}: tasks: a file, a folder or the id of a data set is required; got {spec!r:.200}")
    options = {name: value for name, value in spec.items() if name not in ("tasks", "weight")}
    for name in options:
        if name not in _DEFAULTS:
            raise ValueError(f"{place}: {name}: no such option; there are tasks, weight, {', '.join(_DEFAULTS)}")
    weight = spec.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise ValueError(f"{place}: weight: must be a number above 0; got {weight!r}")
    return load_tasks(spec["tasks"], **options), weight
