"""Write the model card of a run: how the model was trained, and its scores before and after training.

The card replaces the card that TRL wrote, and takes over its metadata, links and citations. For a benchmark of the Hub
there is also a file in `.eval_results/`. The card contains no tasks, programs or tests.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import is_peft_model
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from jinja2 import Environment, PackageLoader

from trl_pper import __version__
from trl_pper.files import atomic_file
from trl_pper.metrics.scores import FigureName, figure_named
from trl_pper.replay.exports.summary import ExportSummary, summarise_exports
from trl_pper.replay.hub import BufferContents, as_code
from trl_pper.rounds.collection_report import CollectionReport
from trl_pper.tasks.mixture import SourceCount, count_by_source

#: The paper, in the form in which TRL's card reads it from a trainer.
PAPER = {
    "title": "Enhancing LLM Agents for Code Generation with Possibility and Pass-rate Prioritized Experience Replay",
    "id": "2410.12236",
    "citation": """\
@article{chen2024pper,
  title  = {Enhancing {LLM} Agents for Code Generation with Possibility and Pass-rate Prioritized Experience Replay},
  author = {Chen, Yuyang and Zhao, Kaiyan and Wang, Yiming and Yang, Ming and Zhang, Jian and Niu, Xiaoguang},
  journal = {arXiv preprint arXiv:2410.12236},
  year   = {2024}
}""",
}

_LIBRARIES = ("trl", "transformers", "torch", "datasets")
_EVAL_RESULTS = Path(EVAL_RESULTS_FOLDER) / "trl_pper.yaml"


@dataclass(frozen=True, kw_only=True)
class LocalBase:
    """A base model in a folder, as its own card and configuration name it.

    Args:
        name: The model's name, escaped for inline code; None without one.
        parents: Ids on the Hub of the models that it was made from.
    """

    name: str | None
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """A record of the facts of a run that are in its model card.

    Args:
        contents: The summary of the buffer.
        settings: The buffer's settings.
        exports: What exports of the buffer would hold; None to leave it out.
        tasks: Number of tasks that programs were written for, by source; empty for a run on judged programs.
        rounds: The report of each collection, in order.
        evaluated: The changes of the scores of evaluations.
        eval_tasks: Number of evaluation tasks; None without an evaluation on tasks.
        benchmark: The data set of the Hub that consists of the evaluation tasks, or None.
        isolation: The judge's isolation level; None if the run judged nothing.
        adapter: Whether the model is an adapter of its base model.
        chat: Whether the tasks were asked as chat messages.
        base: The base model, if it was loaded from a folder of the machine.
    """

    contents: BufferContents
    settings: Mapping[str, Any]
    exports: ExportSummary | None = None
    tasks: Sequence[SourceCount] = ()
    rounds: Sequence[CollectionReport] = ()
    evaluated: Sequence[Change] = ()
    eval_tasks: int | None = None
    benchmark: str | None = None
    isolation: str | None = None
    adapter: bool = False
    chat: bool = False
    base: LocalBase | None = None


def write_model_card(folder: Path, run: RunFacts, *, repo_id: str | None) -> None:
    """Replace the model card that TRL wrote into a folder.

    Args:
        folder: The folder of `README.md`.
        run: The facts of the run.
        repo_id: Name of the model on the Hub; None if it is not there.
    """
    path = folder / "README.md"
    theirs = ModelCard.load(path)
    data = theirs.data
    # TRL writes a key `licence`, which the Hub does not know, with a placeholder.
    data.__dict__.pop("licence", None)
    data.library_name = "peft" if run.adapter else "transformers"
    data.pipeline_tag = "text-generation"
    _forget_paths(data)
    if run.base is not None and run.base.parents and not data.base_model:
        data.base_model = list(run.base.parents) if len(run.base.parents) > 1 else run.base.parents[0]
    data.eval_results = eval_results(run.evaluated, benchmark=run.benchmark) or None
    with atomic_file(path) as file:
        file.write(f"---\n{data.to_yaml()}\n---\n\n{_body(run, data, theirs.text, repo_id)}".encode())
    entries = eval_result_entries_to_yaml(benchmark_entries(run.evaluated, benchmark=run.benchmark))
    if entries:
        (folder / _EVAL_RESULTS).parent.mkdir(exist_ok=True)
        (folder / _EVAL_RESULTS).write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")


def hide_local_paths(folder: Path) -> None:
    """Remove paths of the machine from the metadata of a card, if a folder has a card.

    PEFT names the base model by the path that it was loaded from, whenever an adapter is saved.
    """
    path = folder / "README.md"
    if path.is_file():
        card = ModelCard.load(path)
        if _forget_paths(card.data):
            with atomic_file(path) as file:
                file.write(str(card).encode())


def _forget_paths(data: ModelCardData) -> bool:
    """Remove the base models that are no ids of the Hub; return whether there were any."""
    named = [data.base_model] if isinstance(data.base_model, str) else list(data.base_model or [])
    tags = [tag for tag in data.tags or [] if not tag.startswith("base_model:") or is_hub_id(tag.rpartition(":")[2])]
    kept = [name for name in named if is_hub_id(name)]
    if kept == named and len(tags) == len(data.tags or []):
        return False
    data.base_model, data.tags = (kept or None), (tags or None)
    return True


def is_hub_id(name: str) -> bool:
    """Return whether a name may be a model's id on the Hub, and is no path of this machine.

    Examples:
        >>> is_hub_id("org/model"), is_hub_id("/home/me/model"), is_hub_id("./model")
        (True, False, False)
    """
    return re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name) is not None and not Path(name).exists()


def local_base(path: str) -> LocalBase | None:
    """Return a base model as its own card and configuration name it; None if `path` is no folder."""
    folder = Path(path)
    if not path or not folder.is_dir():
        return None
    data: dict[str, Any] = {}
    if (folder / "README.md").is_file():
        # Cards are written by anybody: a card that cannot be read names no model.
        with contextlib.suppress(ValueError, yaml.YAMLError):
            data = ModelCard.load(folder / "README.md").data.to_dict()
    name, parents = data.get("model_name"), data.get("base_model") or []
    if not parents and (folder / "config.json").is_file():
        parents = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path") or []
    listed = [parents] if isinstance(parents, str) else list(parents)
    return LocalBase(
        name=as_code(name) if isinstance(name, str) and "/" not in name else None,
        # A name without an owner could be that of a folder.
        parents=tuple(one for one in listed if isinstance(one, str) and "/" in one and is_hub_id(one)),
    )


def _body(run: RunFacts, data: ModelCardData, theirs: str, repo_id: str | None) -> str:
    # Autoescaping is for HTML. The only untrusted text in the card are names, which are escaped as inline code.
    environment = Environment(loader=PackageLoader("trl_pper.training"), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("model_card.md.j2").render(
        run=run,
        name=data.model_name or "this model",
        base_models=[data.base_model] if isinstance(data.base_model, str) else data.base_model or [],
        repo_id=repo_id,
        tasks=[_task_row(count) for count in run.tasks],
        paper=PAPER,
        version=__version__,
        libraries={library: version(library) for library in _LIBRARIES},
        # TRL's links to the runs in trackers.
        links=[line.strip() for line in theirs.splitlines() if "Visualize in" in line],
        citations=re.findall(r"^```bibtex\n.*?^```$", theirs, flags=re.DOTALL | re.MULTILINE),
    )


def _task_row(count: SourceCount) -> dict[str, Any]:
    difficulties = {as_code(str(name)): tasks for name, tasks in count.difficulties.items() if name is not None}
    return {
        "source": None if count.source is None else as_code(count.source),
        "tasks": count.tasks,
        "difficulties": ", ".join(f"`{name}` {tasks:,}" for name, tasks in sorted(difficulties.items())),
    }


def run_facts(trainer: Any) -> RunFacts:
    """Return the facts of a trainer's run."""
    collector, args, state = trainer.collector, trainer.args, trainer.state
    logged = [*trainer.evaluated_before, *evaluations(state.log_history)]
    # A run that judged nothing must not start a judge for its isolation level.
    judges = collector is not None or any("eval_tasks" in entry for entry in logged)
    return RunFacts(
        contents=trainer.buffer.contents(),
        settings=trainer.buffer.settings(),
        exports=summarise_exports(trainer.buffer),
        tasks=count_by_source(collector.tasks or []) if collector is not None else [],
        rounds=collector.reports if collector is not None else [],
        evaluated=changes(logged, kept_step=state.best_global_step if args.load_best_model_at_end else None),
        eval_tasks=next((int(entry["eval_tasks"]) for entry in reversed(logged) if "eval_tasks" in entry), None),
        benchmark=args.eval_benchmark,
        isolation=trainer.judge.isolation if judges else None,
        adapter=is_peft_model(trainer.model),
        chat=_asks_messages(trainer),
        base=local_base(getattr(trainer.model.config, "_name_or_path", "")),
    )


def _asks_messages(trainer: Any) -> bool:
    """Return whether the prompts of a run are chat messages; those that were learned decide, if there are any."""
    learned = next(iter(trainer.buffer), None)
    tasks = trainer.collector.tasks if trainer.collector is not None else None
    first = learned or next(iter(tasks or []), None)
    return first is not None and not isinstance(first.prompt, str)


@dataclass(frozen=True, kw_only=True)
class Change(FigureName):
    """A score in the first and in the last evaluation of a run.

    Args:
        figure: Name of the score, as in `FigureName`.
        data: Name of the evaluation data, as in `FigureName`.
        difficulty: The difficulty of the tasks, as in `FigureName`.
        first: The first value.
        first_step: The optimizer step of the first value; 0 is before training.
        last: The last value, from the weights of the final model.
        last_step: The optimizer step of the last value.
    """

    first: float
    first_step: int
    last: float
    last_step: int

    @property
    def name(self) -> str:
        """The name of the score, with data and difficulty in brackets."""
        of = ", ".join(part for part in (self.data, self.difficulty) if part)
        return f"{self.figure} ({of})" if of else self.figure


def evaluations(log_history: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of a log that an evaluation wrote."""
    return [entry for entry in log_history if any(name.startswith("eval_") for name in entry)]


def changes(logged: Sequence[Mapping[str, Any]], *, kept_step: int | None = None) -> list[Change]:
    """Return the change of every score, in the order in which scores were first logged.

    Args:
        logged: Log entries of evaluations, from `evaluations`.
        kept_step: The step of the final weights; None for the last step.

    Examples:
        >>> found = changes([{"eval_accuracy": 0.25, "step": 0}, {"eval_accuracy": 0.5, "step": 8}])
        >>> [(change.name, change.first, change.last, change.last_step) for change in found]
        [('accuracy', 0.25, 0.5, 8)]
    """
    values: dict[str, list[tuple[int, float]]] = {}
    for entry in logged:
        for name, value in entry.items():
            values.setdefault(name, []).append((int(entry.get("step", 0)), value))
    found = []
    for name, taken in values.items():
        named = figure_named(name)
        if named is None:
            continue
        first_step, first = taken[0]
        # With `load_best_model_at_end` the final weights are not those of the last evaluation.
        last_step, last = next((one for one in reversed(taken) if one[0] == kept_step), taken[-1])
        found.append(Change(**asdict(named), first=first, first_step=first_step, last=last, last_step=last_step))
    return found


def eval_results(found: Sequence[Change], *, benchmark: str | None = None) -> list[EvalResult]:
    """Return the last scores on tasks for the `model-index` of a model card.

    Args:
        found: The changes of scores, from `changes`.
        benchmark: The data set of the Hub that consists of the evaluation tasks, as in `PPERConfig.eval_benchmark`.
    """
    dataset = None if benchmark is None else benchmark.partition(":")[0]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="Code generation",
            dataset_type=dataset or change.data or "coding-tasks",
            dataset_name=dataset or change.data or "Coding tasks",
            metric_type=change.figure,
            metric_name=change.name,
            metric_value=change.last,
        )
        for change in found
        # The loss is no score, and a single difficulty is not the whole data set.
        if change.figure != "loss" and change.difficulty is None
    ]


def benchmark_entries(found: Sequence[Change], *, benchmark: str | None) -> list[EvalResultEntry]:
    """Return the entries of `.eval_results/`: the accuracy on a benchmark of the Hub, in percent.

    Args:
        found: The changes of scores, from `changes`.
        benchmark: "owner/name" or "owner/name:task", as in `PPERConfig.eval_benchmark`; None for other tasks.
    """
    if benchmark is None:
        return []
    dataset, _, task = benchmark.partition(":")
    return [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=task or "default",
            value=round(100 * change.last, 2),
            notes="share of tasks whose most probable program, by beam search, passes every test",
        )
        for change in found
        if change.name == "accuracy"
    ]
