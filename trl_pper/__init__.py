"""Prioritised experience replay of judged programs for TRL (arXiv 2410.12236).

Public names load on first use, so that importing the package costs neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "BeamSampleCollector": "trl_pper.collector",
    "BeamSearchSource": "trl_pper.generation.beam_search",
    "CodingTask": "trl_pper.task",
    "DatasetSource": "trl_pper.generation.dataset",
    "Experience": "trl_pper.experience",
    "FunctionTests": "trl_pper.task",
    "Judge": "trl_pper.judge",
    "Limits": "trl_pper.judge",
    "NucleusSource": "trl_pper.generation.nucleus",
    "PPERConfig": "trl_pper.config",
    "PPERTrainer": "trl_pper.trainer",
    "ReplayBuffer": "trl_pper.replay",
    "Scorer": "trl_pper.generation.scorer",
    "ServerSource": "trl_pper.generation.server",
    "StdioTests": "trl_pper.task",
    "Verdict": "trl_pper.verdict",
    "amplify_tasks": "trl_pper.amplify.tasks",
    "as_chat": "trl_pper.formats",
    "draw_probabilities": "trl_pper.priority",
    "load_tasks": "trl_pper.formats",
    "merge_adapter": "trl_pper.merged_model",
    "mix_tasks": "trl_pper.mixture",
    "p2value": "trl_pper.priority",
    "pass_rate_reward": "trl_pper.rewards",
    "rejudge": "trl_pper.judging",
    "rescore": "trl_pper.generation.scorer",
}

__all__ = [*sorted(_EXPORTS)]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'trl_pper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from trl_pper.amplify.tasks import amplify_tasks as amplify_tasks
    from trl_pper.collector import BeamSampleCollector as BeamSampleCollector
    from trl_pper.config import PPERConfig as PPERConfig
    from trl_pper.experience import Experience as Experience
    from trl_pper.formats import as_chat as as_chat
    from trl_pper.formats import load_tasks as load_tasks
    from trl_pper.generation.beam_search import BeamSearchSource as BeamSearchSource
    from trl_pper.generation.dataset import DatasetSource as DatasetSource
    from trl_pper.generation.nucleus import NucleusSource as NucleusSource
    from trl_pper.generation.scorer import Scorer as Scorer
    from trl_pper.generation.scorer import rescore as rescore
    from trl_pper.generation.server import ServerSource as ServerSource
    from trl_pper.judge import Judge as Judge
    from trl_pper.judge import Limits as Limits
    from trl_pper.judging import rejudge as rejudge
    from trl_pper.merged_model import merge_adapter as merge_adapter
    from trl_pper.mixture import mix_tasks as mix_tasks
    from trl_pper.priority import draw_probabilities as draw_probabilities
    from trl_pper.priority import p2value as p2value
    from trl_pper.replay import ReplayBuffer as ReplayBuffer
    from trl_pper.rewards import pass_rate_reward as pass_rate_reward
    from trl_pper.task import CodingTask as CodingTask
    from trl_pper.task import FunctionTests as FunctionTests
    from trl_pper.task import StdioTests as StdioTests
    from trl_pper.trainer import PPERTrainer as PPERTrainer
    from trl_pper.verdict import Verdict as Verdict
