"""The `trl-pper` command: `demo`, `train`, `collect`, `judge`, `evaluate`, `report`, `export` and what goes with them.

Enters: a command line. Leaves: files and a few lines of text. Every import that costs time happens inside the command
that needs it, so that `--help` answers at once; that of `train` lists the options of TRL and has to load it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trl_pper import __version__
from trl_pper.cli.options.types import with_file
from trl_pper.cli.sources import add_source_options
from trl_pper.cli.tasks import PROMPTS
from trl_pper.generation.extraction import LEARNED
from trl_pper.tasks.loading import FORMATS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 for success, 2 for bad input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        return _train(arguments[1:])
    parser, commands = parsers()
    try:
        if arguments[:1] and arguments[0] in commands:
            arguments[1:] = with_file(commands[arguments[0]], arguments[1:])
        options = parser.parse_args(arguments)
        return int(_COMMANDS[options.command](options))
    except (ValueError, OSError) as error:
        print(f"trl-pper {arguments[0]}: {error}", file=sys.stderr)
        return 2


def parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of the command line, and that of each command by its name."""
    parser = argparse.ArgumentParser(prog="trl-pper", description="Fine-tune a code model on programs it wrote.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_demo(commands.add_parser("demo", help="improve an embedded tiny model on held-out tasks, in a minute"))
    commands.add_parser("train", help="fine-tune a model: trl-pper train --config x.yaml", add_help=False)
    _add_collect(commands.add_parser("collect", help="fill a buffer with judged programs, without training"))
    _add_merge(commands.add_parser("merge", help="put buffers, such as those of several machines, into one"))
    _add_rescore(commands.add_parser("rescore", help="give programs of a buffer the log-probabilities of a model"))
    _add_judge(commands.add_parser("judge", help="run programs on the tests of their tasks"))
    _add_amplify(commands.add_parser("amplify", help="add tests to tasks that have a reference solution"))
    _add_evaluate(commands.add_parser("evaluate", help="pass@k and other figures of a model's programs for tasks"))
    _add_report(commands.add_parser("report", help="show a buffer, or a run, as one HTML file"))
    _add_export(
        commands.add_parser(
            "export", help="turn a buffer into an SFT, preference or KTO data set, or tasks into native rows"
        )
    )
    for name, command in commands.choices.items():
        if name != "train":
            _add_config(command)
    return parser, dict(commands.choices)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder for summary and report")
    parser.add_argument("--seed", type=int, default=0, help="seed of tasks, draws and optimizer")
    parser.add_argument("--rounds", type=int, default=None, help="rounds of collection and training")
    _add_isolation(parser)


def _add_task_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    help = (
        "tasks: .jsonl, .jsonl.gz, .json or .parquet, a folder, a mixture (.yaml), or the id of a data set on the Hub"
    )
    parser.add_argument("--tasks", required=required, help=help)
    _add_format_options(parser)


def _add_format_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="auto", choices=("auto", *FORMATS), help="format of the tasks")
    parser.add_argument("--subset", default=None, help="configuration of a data set of the Hub")
    parser.add_argument("--split", default=None, help="split of a data set")
    parser.add_argument("--difficulty", nargs="+", default=None, help="only tasks of these difficulties")
    parser.add_argument("--max_tests", type=int, default=None, help="only the first so many tests of each task")
    parser.add_argument("--on_error", default="raise", choices=("raise", "skip"), help="what malformed rows do")
    parser.add_argument("--prompts", default="text", choices=PROMPTS, help="text to continue, or messages to answer")


def _add_judge_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=None, help="judging processes (default: the cores)")
    _add_isolation(parser)
    parser.add_argument("--cpu_seconds", type=float, default=None, help="CPU time per test, in seconds")
    parser.add_argument("--memory_bytes", type=int, default=None, help="memory per program, in bytes")


def _add_isolation(parser: argparse.ArgumentParser) -> None:
    help = "isolation level (default: the strongest available, never below landlock; without Linux name processes)"
    parser.add_argument("--isolation", default="auto", help=help)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    _add_task_options(parser, required=False)
    parser.add_argument(
        "--programs", type=Path, help='rows {"task_id", "completion" or "program"}: .jsonl, .parquet, ...'
    )
    parser.add_argument("--output", type=Path, help="verdicts, one JSON row per program, same order")
    parser.add_argument(
        "--selftest", action="store_true", help="judge nothing: try to break out and say what holds on this machine"
    )
    _add_judge_options(parser)


def _add_amplify(parser: argparse.ArgumentParser) -> None:
    _add_task_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="tasks with the new tests, as native rows")
    parser.add_argument("--new_tests", type=int, default=20, help="most tests added to a task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the new inputs")
    parser.add_argument("--references", type=Path, help="further programs known to be right, as rows of --programs")
    programs = 'programs to find out: rows {"task_id", "completion" or "program" or "completions"}'
    parser.add_argument("--programs", type=Path, help=programs)
    parser.add_argument("--report", type=Path, help="figures per task, as JSON")
    _add_judge_options(parser)


def _add_collect(parser: argparse.ArgumentParser) -> None:
    _add_task_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="buffer file (.parquet); added to if it exists")
    add_source_options(parser, num_programs=3)
    parser.add_argument("--scorer", help="model whose log-probabilities programs get that have none")
    help = "what is kept to learn: a reply as it was written, or the program in it alone"
    parser.add_argument("--learn", default="completion", choices=LEARNED, help=help)
    parser.add_argument("--num_shards", type=int, default=1, help="number of machines that share the tasks (1)")
    parser.add_argument("--shard_index", type=int, default=None, help="which of them this is, from 0")
    _add_judge_options(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_task_options(parser)
    add_source_options(parser, num_programs=1)
    # So that a file's programs all count where nobody says how many.
    parser.set_defaults(num_programs=None)
    parser.add_argument(
        "--k", nargs="+", type=int, default=None, help="for which k to give pass@k (those of 1, 10, 100 up to --n)"
    )
    parser.add_argument("--output", type=Path, help="figures, with all they depend on (.json)")
    parser.add_argument("--verdicts", type=Path, help="programs with their verdicts, one JSON row each (.jsonl)")
    _add_judge_options(parser)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML file of these options; the command line goes before it")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("buffers", nargs="+", type=Path, help="buffer files (.parquet)")
    parser.add_argument("--output", type=Path, required=True, help="buffer file (.parquet) to write")


def _add_rescore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("buffer", type=Path, help="buffer file (.parquet)")
    parser.add_argument("--scorer", required=True, help="model id or path whose log-probabilities programs get")
    parser.add_argument("--all", action="store_true", help="score those again that have one of another model")
    parser.add_argument("--output", type=Path, required=True, help="buffer file (.parquet) to write")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", type=Path, help="buffer file (.parquet), a checkpoint, or the output folder of a run: its newest one"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="HTML file to write (report.html)")
    parser.add_argument("--title", default=None, help="heading of the page (the name of the source)")
    parser.add_argument("--programs", type=int, default=2000, help="most programs to read in the page (2000)")
    parser.add_argument("--png", type=Path, default=None, metavar="FOLDER", help="write the charts as PNG files, too")


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="buffer file (.parquet); for native: tasks, as --tasks of collect")
    parser.add_argument("--to", required=True, choices=("sft", "preference", "kto", "native"), help="kind of data set")
    parser.add_argument("--output", type=Path, required=True, help="data set file (.parquet or .jsonl)")
    _add_format_options(parser)


def _demo(options: argparse.Namespace) -> int:
    from trl_pper.demo.run import run_demo

    judge = {"judge_isolation": options.isolation}
    run_demo(options.output, seed=options.seed, rounds=options.rounds, options=judge)
    return 0


def _train(arguments: list[str]) -> int:
    if "--help" in arguments or "-h" in arguments or not arguments:
        from trl_pper.cli.train_options import train_help

        print(train_help(), end="")
        return 0
    from trl_pper.cli.train import train

    return train(arguments)


def _collect(options: argparse.Namespace) -> int:
    from trl_pper.cli.collect import collect

    return collect(options)


def _merge(options: argparse.Namespace) -> int:
    from trl_pper.cli.collect import merge

    return merge(options)


def _rescore(options: argparse.Namespace) -> int:
    from trl_pper.generation.local_model import load_model
    from trl_pper.generation.scorer import Scorer
    from trl_pper.replay.buffer import ReplayBuffer
    from trl_pper.rounds.revise import rescore

    buffer = ReplayBuffer.load(options.buffer)
    scored = rescore(buffer, Scorer(*load_model(options.scorer), name=options.scorer), only_missing=not options.all)
    scored.save(options.output)
    known = sum(one.logprob is not None for one in scored)
    print(f"{known} of {len(scored)} programs have a log-probability: {options.output}")
    return 0


def _judge(options: argparse.Namespace) -> int:
    from trl_pper.cli.judge import judge_file, selftest

    if options.selftest:
        return selftest(options)
    for name in ("tasks", "programs", "output"):
        if getattr(options, name) is None:
            raise ValueError(f"--{name}: required, unless --selftest is given")
    return judge_file(options)


def _amplify(options: argparse.Namespace) -> int:
    from trl_pper.cli.amplify import amplify_file

    return amplify_file(options)


def _evaluate(options: argparse.Namespace) -> int:
    from trl_pper.cli.evaluate import evaluate

    return evaluate(options)


def _report(options: argparse.Namespace) -> int:
    from trl_pper.report.history import find_run
    from trl_pper.report.page import write_report

    run = find_run(options.source)
    write_report(
        options.output,
        run.buffer,
        title=options.title or str(options.source),
        history=run.history,
        programs=options.programs,
        png=options.png,
    )
    rounds = f" and {len(run.history.rounds)} rounds" if run.history.rounds else ""
    print(f"report of {len(run.buffer)} programs{rounds} in {run.path}: {options.output}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from trl_pper.cli.tasks import read_given_tasks, task_options
    from trl_pper.replay import export
    from trl_pper.replay.buffer import ReplayBuffer
    from trl_pper.tasks.loading import write_tasks

    if options.to == "native":
        tasks = read_given_tasks(options.source, options)
        write_tasks(options.output, tasks)
        print(f"{len(tasks)} tasks: {options.output}")
        return 0
    given = [name for name, value in task_options(options).items() if value not in (None, "auto", "raise", "text")]
    if given:
        raise ValueError(f"--{given[0]}: only tasks have it; leave it out, or export --to native")
    buffer = ReplayBuffer.load(options.source)
    rows = {"sft": export.to_sft, "preference": export.to_preference, "kto": export.to_kto}[options.to](buffer)
    write = rows.to_json if options.output.suffix == ".jsonl" else rows.to_parquet
    write(str(options.output))
    print(f"{len(rows)} rows: {options.output}")
    return 0


_COMMANDS = {
    "demo": _demo, "collect": _collect, "merge": _merge, "rescore": _rescore, "judge": _judge, "evaluate": _evaluate,
    "amplify": _amplify, "report": _report, "export": _export,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
