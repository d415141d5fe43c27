"""Train code models by prioritised experience replay of judged programs, on top of TRL (arXiv 2410.12236).

Public names such as `trl_pper.PPERTrainer` load on first use. The package, in reading order:

- `tasks`: coding tasks and their tests, read from benchmark files
- `judge`: run untrusted programs on tests, and return a verdict for each program
- `generation`: write programs for tasks with a model, and score their log-probabilities
- `replay`: store judged programs as experiences, and draw them by priority
- `rounds`: generate, judge and store the programs of a round; evaluate a model on held-out tasks
- `training`: the configuration, the sampler, the trainer and the push to the Hub
- `metrics`: pass rate, pass@k and other scores, a reward function and a metric for `evaluate`
- `report`: an HTML page about a buffer and the run that filled it
- `amplify`: add tests to tasks that have a trusted reference solution
- `demo`: a tiny model, its tasks and a training run of seconds
- `cli`: the `trl-pper` command
- `cluster`: join a Ray cluster, for `judge` and `generation`
- `files`: read files of rows, and write files that appear complete or not at all
"""

from __future__ import annotations

import importlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

# A table instead of imports: importing the package must cost neither torch nor transformers, which take seconds.
_EXPORTS = {
    "BeamSampleCollector": "trl_pper.rounds.collector",
    "BeamSearchSource": "trl_pper.generation.beam_search",
    "ClusterSource": "trl_pper.generation.cluster.cluster_source",
    "ClusterUnavailable": "trl_pper.cluster",
    "CodingTask": "trl_pper.tasks.task",
    "DatasetSource": "trl_pper.generation.dataset",
    "DrawRule": "trl_pper.replay.draw_rule",
    "Experience": "trl_pper.replay.experience",
    "FunctionTests": "trl_pper.tasks.task",
    "GeneratedProgram": "trl_pper.generation.source",
    "IsolationUnavailable": "trl_pper.judge.levels",
    "Judge": "trl_pper.judge.judge",
    "Limits": "trl_pper.judge.limits",
    "NucleusSource": "trl_pper.generation.nucleus",
    "Outcome": "trl_pper.judge.verdict",
    "PPERConfig": "trl_pper.training.config",
    "PPERTrainer": "trl_pper.training.trainer",
    "ProgramColumns": "trl_pper.replay.program_columns",
    "ProgramSource": "trl_pper.generation.source",
    "RayJudge": "trl_pper.judge.cluster.judge",
    "ReplayBuffer": "trl_pper.replay.buffer",
    "ReplayGRPOTrainer": "trl_pper.training.replay_grpo",
    "Scorer": "trl_pper.generation.scorer",
    "ServerSource": "trl_pper.generation.servers.server_source",
    "StdioCase": "trl_pper.tasks.task",
    "StdioTests": "trl_pper.tasks.task",
    "Verdict": "trl_pper.judge.verdict",
    "amplify_tasks": "trl_pper.amplify.tasks",
    "as_chat": "trl_pper.tasks.chat",
    "count_by_source": "trl_pper.tasks.mixture",
    "count_task": "trl_pper.metrics.scores",
    "extract_program": "trl_pper.generation.extraction",
    "draw_probabilities": "trl_pper.replay.draw_rule",
    "evaluate_tasks": "trl_pper.rounds.evaluation",
    "find_run": "trl_pper.report.history",
    "history_of": "trl_pper.report.history",
    "label_weights": "trl_pper.replay.exports.trainers",
    "load_tasks": "trl_pper.tasks.loading",
    "merge_adapter": "trl_pper.training.push",
    "mix_tasks": "trl_pper.tasks.mixture",
    "p2value": "trl_pper.replay.priority",
    "pass_at_k": "trl_pper.metrics.scores",
    "pass_rate_reward": "trl_pper.metrics.rewards",
    "register_comparison": "trl_pper.tasks.task",
    "rejudge": "trl_pper.rounds.revise",
    "rescore": "trl_pper.rounds.revise",
    "sum_up": "trl_pper.metrics.scores",
    "task_rows": "trl_pper.tasks.task",
    "write_report": "trl_pper.report.page",
}
#: Sub-packages that users reach as `trl_pper.demo` and `trl_pper.metrics` without importing them.
_ROOMS = ("demo", "metrics")

# PEFT imports bitsandbytes wherever that is installed, quantised model or not, and bitsandbytes then warns of a kernel
# for 4-bit weights on a CPU: it would be the first line of every run. Nothing else of bitsandbytes is silenced.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
)
# TRL 1.16 and PEFT 0.21 use names that transformers 5.23 renamed, and every run would begin with its two warnings.
warnings.filterwarnings(
    "ignore", message="`(is_)?gradient_checkpointing` is deprecated", category=FutureWarning, module="transformers"
)

__all__ = [*sorted(_EXPORTS)]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
        # Next time Python finds the name itself and does not call this function.
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"trl_pper.{name}")
    raise AttributeError(f"module 'trl_pper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]


if TYPE_CHECKING:
    # Type checkers do not run `__getattr__`. `import x as x` marks a name as exported (PEP 484).
    from trl_pper import demo as demo
    from trl_pper import metrics as metrics
    from trl_pper.amplify.tasks import amplify_tasks as amplify_tasks
    from trl_pper.cluster import ClusterUnavailable as ClusterUnavailable
    from trl_pper.generation.beam_search import BeamSearchSource as BeamSearchSource
    from trl_pper.generation.cluster.cluster_source import ClusterSource as ClusterSource
    from trl_pper.generation.dataset import DatasetSource as DatasetSource
    from trl_pper.generation.extraction import extract_program as extract_program
    from trl_pper.generation.nucleus import NucleusSource as NucleusSource
    from trl_pper.generation.scorer import Scorer as Scorer
    from trl_pper.generation.servers.server_source import ServerSource as ServerSource
    from trl_pper.generation.source import GeneratedProgram as GeneratedProgram
    from trl_pper.generation.source import ProgramSource as ProgramSource
    from trl_pper.judge.cluster.judge import RayJudge as RayJudge
    from trl_pper.judge.judge import Judge as Judge
    from trl_pper.judge.levels import IsolationUnavailable as IsolationUnavailable
    from trl_pper.judge.limits import Limits as Limits
    from trl_pper.judge.verdict import Outcome as Outcome
    from trl_pper.judge.verdict import Verdict as Verdict
    from trl_pper.metrics.rewards import pass_rate_reward as pass_rate_reward
    from trl_pper.metrics.scores import count_task as count_task
    from trl_pper.metrics.scores import pass_at_k as pass_at_k
    from trl_pper.metrics.scores import sum_up as sum_up
    from trl_pper.replay.buffer import ReplayBuffer as ReplayBuffer
    from trl_pper.replay.draw_rule import DrawRule as DrawRule
    from trl_pper.replay.draw_rule import draw_probabilities as draw_probabilities
    from trl_pper.replay.experience import Experience as Experience
    from trl_pper.replay.exports.trainers import label_weights as label_weights
    from trl_pper.replay.priority import p2value as p2value
    from trl_pper.replay.program_columns import ProgramColumns as ProgramColumns
    from trl_pper.report.history import find_run as find_run
    from trl_pper.report.history import history_of as history_of
    from trl_pper.report.page import write_report as write_report
    from trl_pper.rounds.collector import BeamSampleCollector as BeamSampleCollector
    from trl_pper.rounds.evaluation import evaluate_tasks as evaluate_tasks
    from trl_pper.rounds.revise import rejudge as rejudge
    from trl_pper.rounds.revise import rescore as rescore
    from trl_pper.tasks.chat import as_chat as as_chat
    from trl_pper.tasks.loading import load_tasks as load_tasks
    from trl_pper.tasks.mixture import count_by_source as count_by_source
    from trl_pper.tasks.mixture import mix_tasks as mix_tasks
    from trl_pper.tasks.task import CodingTask as CodingTask
    from trl_pper.tasks.task import FunctionTests as FunctionTests
    from trl_pper.tasks.task import StdioCase as StdioCase
    from trl_pper.tasks.task import StdioTests as StdioTests
    from trl_pper.tasks.task import register_comparison as register_comparison
    from trl_pper.tasks.task import task_rows as task_rows
    from trl_pper.training.config import PPERConfig as PPERConfig
    from trl_pper.training.push import merge_adapter as merge_adapter
    from trl_pper.training.replay_grpo import ReplayGRPOTrainer as ReplayGRPOTrainer
    from trl_pper.training.trainer import PPERTrainer as PPERTrainer
