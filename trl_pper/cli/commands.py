"""Run the `trl-pper` command: the table of its commands with their options, and the function that each of them calls.

Every import that costs time happens inside the command that needs it, so that `--help` answers at once. The help of
`train` lists the options of TRL and has to load TRL.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from trl_pper import __version__
from trl_pper.cli.launch import is_first_process
from trl_pper.cli.options import Option, make_parser, read_file, read_line, split_config
from trl_pper.cli.sources import TASK_OPTIONS, TASKS, is_mixture, source_options
from trl_pper.cli.yaml_file import read_entries
from trl_pper.files import check_outputs
from trl_pper.generation.extraction import LEARNED

if TYPE_CHECKING:
    import datasets

_ISOLATION = Option(
    "isolation", str, default="auto",
    help="isolation level (default: the strongest available, at least landlock; without Linux, name processes)",
)  # fmt: skip
_JUDGE = (
    Option("workers", int, "judging processes (default: the cores)"),
    _ISOLATION,
    Option("cpu_seconds", float, "CPU time per test, in seconds"),
    Option("memory_bytes", int, "memory per program, in bytes"),
)
_JUDGE_ANYWHERE = (
    *_JUDGE,
    Option(
        "judge_cluster", str,
        "Ray cluster on whose CPUs programs are judged, with --workers on each node: auto for the running one, or its "
        "address, HOST:6379 or ray://HOST:10001",
    ),
)  # fmt: skip
_BUFFER_TO_WRITE = Option("output", Path, "buffer file (.parquet) to write", required=True)
CONFIG = Option("config", Path, "YAML file of these options; options on the command line override it")

_PAIR_OPTIONS = ("min_pass_rate", "strategy", "pairs_per_task", "min_gap", "seed")
#: The options of each kind of data set that a buffer is exported to. Kinds for TRL are named after its trainers.
_BUFFER_EXPORTS: dict[str, tuple[str, ...]] = {
    "sft": ("min_pass_rate",),
    "dpo": _PAIR_OPTIONS,
    "kto": ("min_pass_rate", "seed"),
    "reward": _PAIR_OPTIONS,
    "verl": ("tasks",),
}

#: The description and the options of each command. `train` has its own (see train_options.py).
COMMANDS = {
    "demo": ("improve an embedded tiny model on held-out tasks, in a minute", (
        Option("output", Path, "folder for summary and report", default=Path("outputs/demo")),
        Option("seed", int, "seed of tasks, draws and optimizer", default=0),
        Option("rounds", int, "rounds of collection and training"),
        _ISOLATION,
    )),
    "train": ("fine-tune a model: trl-pper train --config x.yaml", ()),
    "collect": ("fill a buffer with judged programs, without training", (
        TASKS,
        *TASK_OPTIONS,
        Option("output", Path, "buffer file (.parquet); added to if it exists", required=True),
        *source_options(3),
        Option("scorer", str, "model that scores the programs without a log-probability"),
        Option(
            "learn", str, default="completion", choices=tuple(LEARNED),
            help="text to train on: the completion as it was written, or only the program in it",
        ),
        Option(
            "cluster", str,
            "Ray cluster whose GPUs write the programs of --model, and whose CPUs judge them: auto for the running "
            "one, or its address",
        ),
        Option("num_shards", int, "number of machines that share the tasks, without a cluster", default=1),
        Option("shard_index", int, "index of this machine, from 0"),
        *_JUDGE_ANYWHERE,
    )),
    "merge": ("put buffers, such as those of several machines, into one; or an adapter into its base model", (
        Option(
            "sources", list[str],
            "buffer files (.parquet); or an adapter (folder or id of the Hub) and the folder for the merged model",
            positional=True,
        ),
        Option("output", Path, "buffer file (.parquet) to write; or the folder for the merged model"),
        Option("push_to", str, "owner/name on the Hub, for a merged model"),
        Option("private", bool, "make a new repository on the Hub private"),
    )),
    "rescore": ("give the programs of a buffer the log-probabilities of a model", (
        Option("buffer", Path, "buffer file (.parquet)", positional=True),
        Option("scorer", str, "model id or path that scores the programs", required=True),
        Option("all", bool, "score the programs again that have a log-probability of another model"),
        _BUFFER_TO_WRITE,
    )),
    "judge": ("run programs on the tests of their tasks", (
        replace(TASKS, required=False),
        *TASK_OPTIONS,
        Option("programs", Path, 'rows {"task_id", "completion" or "program"}: .jsonl, .parquet, ...'),
        Option("output", Path, "verdicts, one JSON row per program, same order"),
        Option("check_references", bool, "judge the tasks' own references, in place of --programs; 1 if any fails"),
        Option("selftest", bool, "judge nothing: attack the sandbox and report what it prevents on this machine"),
        *_JUDGE_ANYWHERE,
    )),
    "amplify": ("add tests to tasks that have a reference solution", (
        TASKS,
        *TASK_OPTIONS,
        Option("output", Path, "tasks with the new tests, as native rows", required=True),
        Option("new_tests", int, "most tests added to a task", default=20),
        Option("seed", int, "seed of the new inputs", default=0),
        Option("references", Path, "further correct programs, in rows like those of --programs"),
        Option(
            "programs", Path,
            'programs to judge with the new tests: rows {"task_id", "completion" or "program" or "completions"}',
        ),
        Option("report", Path, "numbers per task, as JSON"),
        *_JUDGE,
    )),
    "evaluate": ("pass@k and other scores of a model's programs for tasks", (
        TASKS,
        *TASK_OPTIONS,
        # No default, so that all programs of a file count unless a number is given.
        *source_options(None),
        Option("k", list[int], "the k of pass@k (default: 1, 10 and 100, as far as --n allows)"),
        Option("output", Path, "scores, with the settings behind them (.json)"),
        Option("verdicts", Path, "programs with their verdicts, one JSON row each (.jsonl)"),
        *_JUDGE_ANYWHERE,
    )),
    "report": ("show a buffer, or a run, as one HTML file", (
        Option(
            "source", Path, "buffer file (.parquet), a checkpoint, or the output folder of a run: its newest one",
            positional=True,
        ),
        Option("output", Path, "HTML file to write", default=Path("report.html")),
        Option("title", str, "heading of the page (the name of the source)"),
        Option("programs", int, "most programs to read in the page", default=2000),
        Option("png", Path, "folder for the charts as PNG files"),
    )),
    "export": ("turn a buffer into a data set for another trainer, or tasks into native rows", (
        Option(
            "source", str, "buffer file (.parquet), a checkpoint, or the output folder of a run: its newest one; "
            "with --to native tasks, like --tasks",
            positional=True,
        ),
        Option(
            "to", str, f"kind of data set: {', '.join(_BUFFER_EXPORTS)}, of a buffer; or native, of tasks",
            required=True,
        ),
        Option("output", Path, "data set file (.parquet or .jsonl)", required=True),
        Option(
            "min_pass_rate", float,
            "lowest pass rate of programs to learn (sft), label desirable (kto) or choose (dpo, reward); 1, reward: 0",
        ),
        Option("strategy", str, "pairs for dpo and reward: closest (the default), random, or mixed, half of each"),
        Option("pairs_per_task", int, "most pairs of a task, for dpo and reward (1)"),
        Option("min_gap", float, "smallest difference of the pass rates in a pair, for dpo and reward (0)"),
        Option("seed", int, "seed of random pairs, for dpo and reward, and of the order of the rows, for kto (0)"),
        replace(TASKS, required=False, help="for verl: the tasks of the buffer, whose tests are the ground truth"),
        *TASK_OPTIONS,
    )),
}  # fmt: skip

#: What `--to` is for other kinds of data and other trainers.
_NO_EXPORTS = {
    **dict.fromkeys(
        ("csv", "json", "jsonl", "parquet"), "The end of --output names the kind of file: .parquet or .jsonl"
    ),
    **dict.fromkeys(("preference", "preferences"), "Pairs are --to dpo, and --to reward with margins"),
    **dict.fromkeys(("orpo", "cpo"), "The trainers of trl.experimental take the pairs of --to dpo"),
    **dict.fromkeys(
        ("grpo", "rloo"), "GRPOTrainer and RLOOTrainer write programs themselves: give them tasks, --to native"
    ),
    "ppo": "TRL has no PPOTrainer: train a reward model on --to reward, and give it to GRPOTrainer or RLOOTrainer",
    "rllm": "rLLM reads the files of --to verl",
}
#: The suffixes of the files that each command writes, by option; a folder has none. `merge` checks its output itself.
_OUTPUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "demo": {"output": ()},
    "collect": {"output": (".parquet",)},
    "rescore": {"output": (".parquet",)},
    "judge": {"output": (".jsonl",)},
    "amplify": {"output": (".jsonl", ".parquet"), "report": (".json",)},
    "evaluate": {"output": (".json",), "verdicts": (".jsonl",)},
    "report": {"output": (".html", ".htm"), "png": ()},
    "export": {"output": (".parquet", ".jsonl")},
}
#: Options that name files and folders to read, in whatever command.
_INPUTS = ("config", "tasks", "programs", "references", "buffer", "source", "model", "scorer")
#: The way on after a signal, where it is more than to run the command again.
_WAY_ON = {
    "train": "the checkpoints and the programs collected so far are kept; go on with --resume_from_checkpoint true",
    "collect": "the programs so far are kept; run the same command again to go on",
    "evaluate": "with --output the programs so far are kept; run the same command again to go on",
    "judge": "with --output the verdicts so far are kept; run the same command again to go on",
}
#: Time within which a command that got a signal ends; a signal that comes later is a new one.
_STOP_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command with its options. None for the arguments of this process, which then ends with the command.

    Returns:
        The exit code: 0 for success, 2 for bad input, 130 after Ctrl-C and 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in COMMANDS:
        # Shows help or the version, or refuses, and exits.
        _overview().parse_args(arguments)
    command = arguments[0]
    with _stop_on_signals(for_good=argv is None) as got:
        try:
            return _train(arguments[1:]) if command == "train" else _run(command, parse(arguments))
        except BaseException as error:
            # A library may have made another error of the interrupt.
            if got or isinstance(error, KeyboardInterrupt):
                number = got[-1] if got else signal.SIGINT
                if is_first_process():
                    way_on = _WAY_ON.get(command, "run the same command again")
                    print(f"trl-pper {command}: stopped by {signal.Signals(number).name}; {way_on}", file=sys.stderr)
                return 128 + number
            if command == "train" or not isinstance(error, ValueError | OSError):
                raise
            print(f"trl-pper {command}: {error}", file=sys.stderr)
            return 2


@contextlib.contextmanager
def _stop_on_signals(*, for_good: bool) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on Ctrl-C and SIGTERM, and yield the list of the signals that have come.

    Args:
        for_good: Whether the process ends afterwards, and is to end quietly when more signals come.
    """
    got: list[int] = []
    last = -_STOP_SECONDS

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal last
        # The command is ending already. Much later, a library has swallowed the interrupt.
        if got and time.monotonic() < last + _STOP_SECONDS:
            return
        last = time.monotonic()
        got.append(number)
        raise KeyboardInterrupt

    def leave() -> None:
        if got:
            # The interpreter would look for garbage among all that the libraries loaded, which takes seconds, and kill
            # itself by SIGINT if the interrupt was raised inside of `exec`, as dataclasses use it.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + got[-1])

    if for_good:
        # Registered before any library is loaded, and so called after all that they register.
        atexit.register(leave)
    # Only the main thread may, and a signal that is ignored, as in a job of `nohup`, stays ignored.
    if threading.current_thread() is threading.main_thread():
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        before = {number: how for number, how in usual.items() if signal.getsignal(number) is how}
    else:
        before = {}
    for number in before:
        signal.signal(number, stop)
    try:
        yield got
    finally:
        for number, how in before.items():
            signal.signal(number, signal.SIG_IGN if got and for_good else how)


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trl-pper", description="Fine-tune a code model on programs it wrote.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, (help, _) in COMMANDS.items():
        commands.add_parser(name, help=help)
    return parser


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line that begins with a command; they override the YAML file of `--config`.

    Raises:
        ValueError: An option does not exist, is missing, or gets a value that it does not take.
        OSError: The file cannot be read.
    """
    command, (description, options) = arguments[0], COMMANDS[arguments[0]]
    path, words = split_config(arguments[1:])
    message = f"trl-pper {command} has no such option"
    places = "".join(f" {option.name}" for option in options if option.positional)
    usage = f"trl-pper {command}{places} [--config FILE.yaml] [--option value ...]"
    # In a file null stands for an option that is not given, and false for a flag that is not.
    nullable = [replace(option, hint=option.hint | None) for option in options]
    in_file = {} if path is None else read_file(read_entries(path), nullable, message=message)
    parser = make_parser((*options, CONFIG), usage=usage, description=description)
    on_line, _ = read_line(words, options, parser, message=message)
    given = {name: value for name, value in (in_file | on_line).items() if value is not None and value is not False}
    missing = [option.name for option in options if option.required and option.name not in given]
    if missing:
        raise ValueError(f"--{missing[0]}: required; give it on the command line or in the file of --config")
    return argparse.Namespace(**{option.name: option.default for option in options} | given | {"config": path})


def _check_files(command: str, options: argparse.Namespace) -> None:
    """Refuse outputs that would replace an input or each other, or that cannot be written."""
    shown = {option.name: option.name if option.positional else f"--{option.name}" for option in COMMANDS[command][1]}
    given = {name: getattr(options, name, None) for name in _INPUTS}
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    inputs = [
        (shown.get(name, f"--{name}"), path) for name in lists for path in lists[name] if isinstance(path, str | Path)
    ]
    outputs = {name: (getattr(options, name), suffixes) for name, suffixes in _OUTPUTS.get(command, {}).items()}
    outputs = {name: output for name, output in outputs.items() if output[0] is not None}
    tasks = given["source"] if getattr(options, "to", None) == "native" else given["tasks"]
    if tasks is not None and is_mixture(tasks):
        inputs += [("--tasks", path) for path in _mixed_files(Path(tasks))]
    check_outputs({f"--{name}": output for name, output in outputs.items()}, inputs)
    for name, (path, _) in outputs.items():
        # Every data file of the folder is read, and the next time this one would be.
        if tasks is not None and Path(tasks).is_dir() and Path(tasks).resolve() in path.resolve().parents:
            raise ValueError(f"--{name}: must lie outside of the folder of tasks, {tasks}; got {path}. Choose another")


def _mixed_files(path: Path) -> list[str]:
    """Return the sources of tasks that a mixture names; a malformed mixture is refused where it is read."""
    found = read_entries(path).get("mixture")
    sources = found.value.values() if found is not None and isinstance(found.value, dict) else ()
    return [one["tasks"] for one in sources if isinstance(one, dict) and isinstance(one.get("tasks"), str)]


def _train(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments or not arguments:
        from trl_pper.cli.train_options import train_help

        print(train_help(), end="")
        return 0
    from trl_pper.cli.train import train

    return train(arguments)


def _run(command: str, options: argparse.Namespace) -> int:
    if command == "export":
        # First, since what files are right depends on it.
        _check_export(options)
    _check_files(command, options)
    match command:
        case "demo":
            from trl_pper.demo.run import run_demo

            judge = {"judge_isolation": options.isolation}
            run_demo(options.output, seed=options.seed, rounds=options.rounds, options=judge)
            return 0
        case "merge":
            return _merge(options)
        case "collect" | "rescore":
            from trl_pper.cli import collect

            return {"collect": collect.collect, "rescore": collect.rescore_file}[command](options)
        case "judge":
            from trl_pper.cli.judge import judge_file

            return judge_file(options)
        case "amplify":
            from trl_pper.cli.amplify import amplify_file

            return amplify_file(options)
        case "evaluate":
            from trl_pper.cli.evaluate import evaluate

            return evaluate(options)
        case "report":
            return _report(options)
    return _export(options)


def _report(options: argparse.Namespace) -> int:
    from trl_pper.report.history import find_run
    from trl_pper.report.page import write_report

    run = find_run(options.source)
    title = options.title or str(options.source)
    write_report(
        options.output, run.buffer, title=title, history=run.history, programs=options.programs, png=options.png
    )
    rounds = f" and {len(run.history.rounds)} rounds" if run.history.rounds else ""
    print(f"report of {len(run.buffer.without_repairs())} programs{rounds} in {run.path}: {options.output}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    """Merge buffers, or an adapter into its base model: an adapter is a folder, or a name of the Hub."""
    first = Path(options.sources[0])
    if first.is_file() or first.suffix == ".parquet":
        from trl_pper.cli.collect import merge

        if options.output is None:
            raise ValueError("--output: required; give the buffer file (.parquet) to write")
        for name in ("push_to", "private"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name}: belongs to the merge of an adapter; got it with buffers. Leave it out")
        _check_merged(options.sources, options.output, (".parquet",))
        return merge(options)
    adapter, *folders = options.sources
    folders += [] if options.output is None else [options.output]
    if len(folders) != 1:
        got = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"merge: an adapter needs one folder for the merged model; got {got}: merge ADAPTER OUTPUT")
    if first.is_dir() and not (first / "adapter_config.json").is_file():
        raise ValueError(
            f"{first}: must be a buffer file (.parquet), or hold an adapter (adapter_config.json). Runs with use_peft "
            "or peft_config have one in their output folder"
        )
    if options.private and options.push_to is None:
        raise ValueError("--private: belongs to --push_to; name the repository, or leave it out")
    _check_merged([adapter], folders[0], ())
    # Slow to import.
    from trl_pper.training.push import merge_adapter

    folder = merge_adapter(adapter, folders[0], push_to=options.push_to, private=options.private)
    print(f"{adapter} merged: {folder}" + (f", pushed to {options.push_to}" if options.push_to else ""))
    return 0


def _check_merged(sources: Sequence[str], output: str | Path, suffixes: Sequence[str]) -> None:
    # What kind of output it is depends on the sources.
    check_outputs({"--output": (output, suffixes)}, [("sources", source) for source in sources])


def _export(options: argparse.Namespace) -> int:
    from trl_pper.cli.sources import read_given_tasks
    from trl_pper.files import atomic_file
    from trl_pper.tasks.loading import write_tasks

    if options.to == "native":
        tasks = read_given_tasks(options.source, options)
        write_tasks(options.output, tasks)
        print(f"{len(tasks)} tasks: {options.output}")
        return 0
    from trl_pper.replay.exports.trainers import label_weights
    from trl_pper.report.history import find_run

    run = find_run(options.source)
    buffer = run.buffer
    chosen = {name: value for name in _BUFFER_EXPORTS[options.to] if (value := getattr(options, name)) is not None}
    if options.to == "verl":
        rows = buffer.to_verl(read_given_tasks(options.tasks, options))
    else:
        methods: dict[str, Callable[..., datasets.Dataset]] = {
            "sft": buffer.to_sft,
            "dpo": buffer.to_preferences,
            "kto": buffer.to_unpaired,
            "reward": buffer.to_reward_model,
        }
        rows = methods[options.to](**chosen)
    write = rows.to_json if options.output.suffix == ".jsonl" else rows.to_parquet
    with atomic_file(options.output) as file:
        write(file)
    print(f"{len(rows)} rows of {run.path}: {options.output}")
    if options.to != "verl" and (cut := int(buffer.truncated().sum())):
        print(f"{cut} of {len(buffer)} programs were cut off while they were written, and are in no row")
    if options.to == "kto":
        labels = rows["label"][:]
        if 0 < sum(labels) < len(labels):
            weights = ", ".join(f"{name}={value:.4g}" for name, value in label_weights(labels).items())
            print(f"{sum(labels)} of {len(labels)} rows are desirable: KTOConfig({weights}) makes up for it")
        else:
            print(f"all rows are {'desirable' if labels[0] else 'undesirable'}: KTO learns little from a single label")
    return 0


def _check_export(options: argparse.Namespace) -> None:
    """Refuse a kind of data set that there is none of, and options that belong to other kinds."""
    kinds = (*_BUFFER_EXPORTS, "native")
    if options.to not in kinds:
        remedy = f". {_NO_EXPORTS[options.to.lower()]}" if options.to.lower() in _NO_EXPORTS else ""
        raise ValueError(f"--to: must be one of {', '.join(kinds)}; got {options.to!r:.80}{remedy}")
    for name in dict.fromkeys(name for names in _BUFFER_EXPORTS.values() for name in names):
        if getattr(options, name) is not None and name not in _BUFFER_EXPORTS.get(options.to, ()):
            owners = " and ".join(f"--to {kind}" for kind, names in _BUFFER_EXPORTS.items() if name in names)
            raise ValueError(f"--{name}: belongs to {owners}; got it with {options.to}. Leave it out")
    if options.to == "verl":
        if options.tasks is None:
            raise ValueError(
                "--tasks: required for --to verl, since a buffer holds no tests; give the tasks of the run"
            )
        if options.output.suffix != ".parquet":
            raise ValueError(f"--output: must end in .parquet, which verl reads; got {options.output}")
    elif options.to != "native":
        from trl_pper.cli.sources import task_options

        # Options of tasks mean nothing to a buffer; a value that differs from its default is refused, not ignored.
        defaults = {option.name: option.default for option in TASK_OPTIONS}
        given = [name for name, value in task_options(options).items() if value != defaults[name]]
        if given:
            raise ValueError(f"--{given[0]}: only tasks have it; leave it out, or export --to native")
        _check_trainer(options.to)


def _check_trainer(kind: str) -> None:
    # Looked up without being imported, which takes seconds.
    if importlib.util.find_spec(f"trl.trainer.{kind}_trainer") is None:
        from importlib.metadata import version

        raise ValueError(
            f"--to: the TRL that is installed, {version('trl')}, has no trainer for {kind!r}. "
            "Install trl>=1.16,<2, or export another kind"
        )


if __name__ == "__main__":
    sys.exit(main())
