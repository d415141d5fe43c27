"""The model card of a run: how the model was made, what it can do before and after, and what that does not say.

Enters: the facts of a run, and the card TRL wrote for it, whose metadata, links and citations are kept. Leaves:
`README.md` and, for a benchmark of the Hub, a file in `.eval_results/`. No task, program or test is quoted.

What a trainer knows of its run, for the model card.

Enters: a `PPERTrainer`. Leaves: `RunFacts`: numbers and names, no text of tasks or programs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from accelerate.utils import is_peft_model
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.constants import EVAL_RESULTS_FOLDER
from jinja2 import Environment, PackageLoader

from trl_pper import __version__
from trl_pper.replay.hub import BufferContents, as_code
from trl_pper.rounds.collection_report import CollectionReport
from trl_pper.tasks.mixture import SourceCount, count_by_source
from trl_pper.training.history import Change, benchmark_entries, changes, eval_results, evaluations

#: What TRL's card needs of a trainer to name the method.
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
class RunFacts:
    """What a card says of a run.

    Args:
        contents: The buffer, in numbers and names.
        settings: The buffer's settings.
        tasks: The tasks that programs were written for, by source; empty where the programs were handed in.
        rounds: What each collection did, in order.
        evaluated: How the figures of the evaluations changed.
        eval_tasks: On how many tasks; None where on none.
        benchmark: The data set of the Hub that these tasks are, or None.
        isolation: The judge's isolation level; None where this run judged nothing.
        adapter: Whether the model is an adapter of its base model.
    """

    contents: BufferContents
    settings: Mapping[str, Any]
    tasks: Sequence[SourceCount] = ()
    rounds: Sequence[CollectionReport] = ()
    evaluated: Sequence[Change] = ()
    eval_tasks: int | None = None
    benchmark: str | None = None
    isolation: str | None = None
    adapter: bool = False


def write_model_card(folder: Path, run: RunFacts, *, repo_id: str | None) -> None:
    """Put our model card in the place of the one that TRL wrote into a folder.

    Args:
        folder: Where `README.md` lies.
        run: What to say.
        repo_id: Name of the model on the Hub, if it has one.
    """
    path = folder / "README.md"
    theirs = ModelCard.load(path)
    data = theirs.data
    # A metadata key that the Hub does not know, with a placeholder in it.
    data.__dict__.pop("licence", None)
    data.library_name = "peft" if run.adapter else "transformers"
    data.pipeline_tag = "text-generation"
    data.eval_results = eval_results(run.evaluated, benchmark=run.benchmark) or None
    path.write_text(f"---\n{data.to_yaml()}\n---\n\n{_body(run, data, theirs.text, repo_id)}", encoding="utf-8")
    entries = eval_result_entries_to_yaml(benchmark_entries(run.evaluated, benchmark=run.benchmark))
    if entries:
        (folder / _EVAL_RESULTS).parent.mkdir(exist_ok=True)
        (folder / _EVAL_RESULTS).write_text(yaml.safe_dump(entries, sort_keys=False), encoding="utf-8")


def _body(run: RunFacts, data: ModelCardData, theirs: str, repo_id: str | None) -> str:
    # Markdown, and of what others wrote only names go in, as code on one line: no HTML to escape.
    environment = Environment(loader=PackageLoader("trl_pper.training"), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("model_card.md.j2").render(
        run=run,
        name=data.model_name or "this model",
        base_model=data.base_model,
        repo_id=repo_id,
        tasks=[_task_row(count) for count in run.tasks],
        paper=PAPER,
        version=__version__,
        libraries={library: version(library) for library in _LIBRARIES},
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
    """Sum a run up; the judge is started to ask for its isolation level, if the run has one."""
    collector, args, state = trainer.collector, trainer.args, trainer.state
    logged = [*trainer.evaluated_before, *evaluations(state.log_history)]
    judges = collector is not None or any("eval_tasks" in entry for entry in logged)
    return RunFacts(
        contents=trainer.buffer.contents(),
        settings=trainer.buffer.settings(),
        tasks=count_by_source(collector.tasks or []) if collector is not None else [],
        rounds=collector.reports if collector is not None else [],
        evaluated=changes(logged, kept_step=state.best_global_step if args.load_best_model_at_end else None),
        eval_tasks=next((int(entry["eval_tasks"]) for entry in reversed(logged) if "eval_tasks" in entry), None),
        benchmark=args.eval_benchmark,
        isolation=trainer.judge.isolation if judges else None,
        adapter=is_peft_model(trainer.model),
    )
