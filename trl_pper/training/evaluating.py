"""Fit the options of a Trainer's evaluation to tasks, which are evaluated by generating and judging programs.

What evaluates logits has no meaning for tasks and is refused; the metric of the best checkpoint is one that there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer_utils import SaveStrategy, SchedulerType

from trl_pper.rounds.evaluation import TaskScores
from trl_pper.tasks.loading import load_tasks
from trl_pper.training.config import PPERConfig
from trl_pper.training.dataset import holds_tasks

#: Options of an evaluation of logits, and the values that ask for nothing.
_OF_LOGITS: dict[str, Any] = {
    "prediction_loss_only": False,
    "batch_eval_metrics": False,
    "include_for_metrics": [],
    "eval_accumulation_steps": None,
    "eval_do_concat_batches": True,
    "eval_packing": None,
}


def check_options_of_logits(args: PPERConfig, eval_dataset: Any, **functions: Any) -> None:
    """Raise ValueError if an option of an evaluation of logits would be ignored, as there are tasks only.

    Args:
        args: The configuration.
        eval_dataset: The evaluation set, or a mapping from names to sets.
        **functions: Functions of the logits by the name of their argument, such as `compute_metrics`; None for none.
    """
    parts = [part for _, part in _parts(eval_dataset)]
    if not parts or not all(map(holds_tasks, parts)):
        return
    chosen = {name: getattr(args, name) for name in _OF_LOGITS if getattr(args, name) != _OF_LOGITS[name]}
    chosen |= {name: function for name, function in functions.items() if function is not None}
    for name, value in chosen.items():
        raise ValueError(
            f"{name}: must be left out, since tasks are evaluated by generating and judging programs, not on logits; "
            f"got {value!r:.80}. Pass rows with answers as eval_dataset for an evaluation on logits"
        )


def fit_best_metric(
    args: PPERConfig, eval_dataset: Any, callbacks: Iterable[Any], *, has_metrics: bool = False
) -> None:
    """Choose the metric of the best checkpoint where the user chose none, and check a chosen metric.

    Accuracy is the default for tasks, where TRL's is a loss that an evaluation on tasks does not have.

    Args:
        args: The configuration, whose `metric_for_best_model` and `greater_is_better` are set.
        eval_dataset: The evaluation set, or a mapping from names to sets.
        callbacks: The callbacks of the user, some perhaps as classes.
        has_metrics: Whether the user computes further metrics.

    Raises:
        ValueError: No evaluation will report the metric; the message names the metrics there are.
    """
    parts = list(_parts(eval_dataset))
    if has_metrics or not any(holds_tasks(part) for _, part in parts):
        return
    known = [f"{name}_{metric}" if name else metric for name, part in parts for metric in _metric_names(part, args)]
    given = args.given_metric_for_best_model
    if given is None:
        if not _needs_metric(args, callbacks):
            return
        if len(parts) > 1:
            raise ValueError(
                "metric_for_best_model: required with several evaluation sets; got None. Choose one of "
                f"{', '.join(known)}"
            )
        ((name, _),) = parts
        given = f"{name}_accuracy" if name else "accuracy"
        args.metric_for_best_model = given
        if args.given_greater_is_better is None:
            args.greater_is_better = True
    elif given.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model: must be a metric of the evaluation; got {given!r}. Choose one of "
            f"{', '.join(known)}"
        )
    if args.greater_is_better and args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):
        # These schedulers take any metric for a loss, and would lower the learning rate of a model that improves.
        args.lr_scheduler_kwargs = {"mode": "max", **(args.lr_scheduler_kwargs or {})}


def evaluation_batch_size(args: PPERConfig) -> int:
    """Return the number of prompts in a generation batch of an evaluation."""
    # The default of TRL was not chosen for generation: where the user chose nothing, memory suffices for the batches
    # of collections.
    default = next(field.default for field in fields(PPERConfig) if field.name == "per_device_eval_batch_size")
    chosen = args.per_device_eval_batch_size
    return args.generation_batch_size if chosen == default else int(chosen)


def _parts(eval_dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield the evaluation sets with their names; a single set has no name."""
    if isinstance(eval_dataset, Mapping):
        yield from eval_dataset.items()
    elif eval_dataset is not None:
        yield "", eval_dataset


def _metric_names(part: Any, args: PPERConfig) -> list[str]:
    if not holds_tasks(part):
        return ["loss"]
    difficulties = {task.difficulty for task in load_tasks(part, format="native")} - {None}
    numbers = {field.name: 0 for field in fields(TaskScores) if field.name != "accuracy_by_difficulty"}
    scores = TaskScores(
        **numbers | {"num_programs": args.num_beams},
        accuracy_by_difficulty={str(name): 0.0 for name in sorted(map(str, difficulties))},
    )
    return list(scores.metrics())


def _needs_metric(args: PPERConfig, callbacks: Iterable[Any]) -> bool:
    early = any(issubclass(one if isinstance(one, type) else type(one), EarlyStoppingCallback) for one in callbacks)
    plateau = args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
    return bool(early or plateau or args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST)
