"""Build the parts of a trainer from its arguments, and check that they fit together before anything is generated.

The parts are the configuration itself, buffer, source, judge, collector, loss weights and objective.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from peft import LoraConfig
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import SaveStrategy, SchedulerType
from trl import SFTTrainer

from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.dataset import DatasetSource
from trl_pper.generation.encoding import Encoder
from trl_pper.generation.local_model import LocalModel
from trl_pper.generation.nucleus import NucleusSource
from trl_pper.generation.scorer import tokenizer_fingerprint
from trl_pper.generation.vllm import VLLMOptions, VLLMSource
from trl_pper.judge.cluster.judge import open_judge
from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.loss_weights import loss_weights
from trl_pper.replay.priority import FloatArray
from trl_pper.rounds.collector import BeamSampleCollector
from trl_pper.rounds.evaluation import TaskScores
from trl_pper.tasks.loading import load_tasks
from trl_pper.tasks.task import CodingTask
from trl_pper.training.collator import OBJECTIVE_ROW_KEYS, ROW_KEY
from trl_pper.training.config import PPERConfig
from trl_pper.training.dataset import holds_tasks
from trl_pper.training.objectives import Objective, writer_logprobs

#: The learning rate of LoRA adapters where none is given.
LORA_LEARNING_RATE = 1e-4

_ADAPTER_FILE = "adapter_config.json"
#: Arguments of other trainers, and of scripts, by the names that people try.
_MEANT = {
    "tokenizer": "processing_class", "config": "args", "training_args": "args", "dataset": "train_dataset",
    "tasks": "train_dataset", "train_data": "train_dataset", "eval_tasks": "eval_dataset",
    "test_dataset": "eval_dataset", "lora_config": "peft_config", "replay_buffer": "buffer", "collector": "callbacks",
}  # fmt: skip


def check_keywords(given: Iterable[str]) -> None:
    """Raise TypeError for an argument that neither `PPERTrainer` nor `SFTTrainer` has.

    Args:
        given: The names of the arguments that `PPERTrainer` passes on.
    """
    # Passed on, it would be an error of SFTTrainer.__init__, which nobody has called.
    taken = [name for name in inspect.signature(SFTTrainer.__init__).parameters if name != "self"]
    for name in given:
        if name in taken:
            continue
        if name in PPERConfig.__dataclass_fields__:
            remedy = f"; it is an option: pass args=PPERConfig({name}=...)"
        else:
            near = [_MEANT[name]] if name in _MEANT else get_close_matches(name, [*taken, "buffer"], n=1)
            remedy = f"; the nearest is {near[0]}" if near else ""
        raise TypeError(f"{name}: PPERTrainer has no such argument{remedy}")


def config_or_default(args: PPERConfig | None, model: Any) -> PPERConfig:
    """Return the configuration; if it is None, a default configuration with an output folder named after the model.

    Raises:
        TypeError: The configuration is no `PPERConfig`.
    """
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        return PPERConfig(f"{Path(name).name or 'model'}-PPER")
    if not isinstance(args, PPERConfig):
        raise TypeError(
            f"args: must be a PPERConfig; got {type(args).__name__}. PPERConfig takes every SFTConfig option"
        )
    return args


def build_buffer(args: PPERConfig) -> ReplayBuffer:
    """Return an empty buffer with the settings of a configuration."""
    return ReplayBuffer(
        args.buffer_capacity,
        seed=args.seed,
        possibility_weight=args.possibility_weight,
        possibility=args.possibility,
        eviction=args.buffer_eviction,
        mask_truncated_completions=args.mask_truncated_completions,
        **args.draw_options(),
    )


def check_draws(args: PPERConfig, buffer: ReplayBuffer, train: datasets.Dataset, *, collects: bool) -> None:
    """Raise ValueError if an option of the draws or of their weights has nothing to work on.

    Args:
        args: The configuration.
        buffer: The buffer, with settings of the configuration or of its own.
        train: The tasks or judged programs.
        collects: Whether programs are collected in rounds.
    """
    if args.importance_exponent > 0 and buffer.priority == "best":
        raise ValueError(
            "importance_exponent: must be 0 with the priority 'best', which hardly ever draws most programs: their "
            f"weights would leave nothing to all others; got {args.importance_exponent}. Choose "
            "priority='proportional' or 'rank'"
        )
    if buffer.age_decay is not None and not collects and "round_index" not in train.column_names:
        raise ValueError(
            "age_decay: needs programs of several rounds; got judged programs without a column round_index. Leave it "
            "out, or pass tasks"
        )


def build_beam_search(
    args: PPERConfig, *, num_beam_groups: int = 1, batch_size: int | None = None
) -> BeamSearchSource:
    """Return a source that runs beam search with the model in training, in batches as of collections by default."""
    return BeamSearchSource(
        num_beams=args.num_beams,
        max_completion_length=args.max_completion_length,
        batch_size=batch_size or args.generation_batch_size,
        # Beams are ranked as their possibility ranks them.
        length_penalty=1.0 if args.possibility == "mean" else 0.0,
        num_beam_groups=num_beam_groups,
        diversity_penalty=args.diversity_penalty,
    )


def build_source(args: PPERConfig) -> BeamSearchSource | NucleusSource | VLLMSource:
    """Return the source of a collection, which generates with the model in training."""
    if args.decoding == "beam":
        return build_beam_search(args, num_beam_groups=args.num_beam_groups)
    sampling: dict[str, Any] = {
        "num_programs": args.num_beams,
        "max_completion_length": args.max_completion_length,
        "batch_size": args.generation_batch_size,
        "temperature": args.temperature,
        "top_p": args.top_p,
    }
    if args.generation_engine == "vllm":
        options = VLLMOptions(**args.vllm_options())
        return VLLMSource(**sampling, options=options, trust_remote_code=args.trust_remote_code)
    return NucleusSource(**sampling, seed=args.seed, engine=args.generation_engine)


def build_loss_weights(args: PPERConfig) -> Callable[[ReplayBuffer], FloatArray]:
    """Return a function from a buffer to the loss weight of each experience, with the options of a configuration."""
    return lambda buffer: loss_weights(
        buffer.probabilities(),
        buffer.p2values(),
        importance_exponent=args.importance_exponent,
        weighting=args.loss_weighting,
    )


def build_objective(args: PPERConfig) -> Objective | None:
    """Return the objective of a configuration; None for plain SFT."""
    if args.objective == "sft":
        return None
    return Objective(
        name=args.objective,
        ratio=args.objective_ratio,
        clip_high=args.objective_clip_high,
        baseline_shift=args.objective_baseline_shift,
    )


def build_columns(args: PPERConfig) -> Callable[[ReplayBuffer], dict[str, FloatArray]] | None:
    """Return a function from a buffer to the numbers of each experience that the loss needs; None if it needs none."""
    weigh = build_loss_weights(args) if args.weighs_loss else None
    objective = build_objective(args)
    if weigh is None and objective is None:
        return None

    def columns(buffer: ReplayBuffer) -> dict[str, FloatArray]:
        weights = {} if weigh is None else {ROW_KEY: weigh(buffer)}
        found = {} if objective is None else objective.columns(buffer)
        return weights | {OBJECTIVE_ROW_KEYS[name]: values for name, values in found.items()}

    return columns


def check_writer(objective: Objective | None, collector: BeamSampleCollector | None) -> None:
    """Raise ValueError if a collector adds programs without the log-probability of the model that wrote them.

    Only sources that generate with the model in training are sure to tell it: the scorer of a collection fills in
    the probability that another model has for a teacher's programs.
    """
    if objective is None or not objective.has_ratio or collector is None:
        return
    source = collector.source
    need = f"with objective={objective.name!r}, which needs the probability that the writer of a program gave it"
    remedy = "Choose objective='asymre', which needs none, or 'sft'"
    if source is not None and getattr(source, "own_model", source) is not None:
        raise ValueError(
            f"source: must generate with the model in training {need}; got {type(source).__name__}. {remedy}. Judged "
            "programs with a column logprob of their writer may be the train_dataset"
        )
    if collector.scorer is not None:
        raise ValueError(f"scorer: must be None {need}; got {collector.scorer.name!r}. Leave it out. {remedy}")


def check_model(model: Any) -> None:
    """Raise ValueError if a model is named by the folder of an adapter, which holds no model."""
    # TRL would say that the model has no known type.
    if isinstance(model, str) and Path(model, _ADAPTER_FILE).is_file() and not Path(model, "config.json").is_file():
        raise ValueError(
            f"model: must be a whole model; {model} holds an adapter alone ({_ADAPTER_FILE}). Merge it first, and "
            f"train the merged model: trl-pper merge {model} OUTPUT"
        )


def line_on_prompts(prompts: str, encoder: Encoder, buffer: ReplayBuffer) -> str:
    """Return a line that tells of an instruct model that learns answers to text prompts; "" if it does not."""
    if prompts != "auto" or not encoder.answers_messages:
        return ""
    text = buffer.text_prompts()
    if not text:
        return ""
    return (
        f"{text} of {len(buffer)} programs answer text prompts, and this is an instruct model, which is asked in chat "
        "messages: collect with --prompts chat, or with prompts='text' it is asked in text"
    )


def line_on_draws(objective: Objective | None, buffer: ReplayBuffer) -> str:
    """Return a line that tells of draws without failed programs, where an objective unlearns these; "" if none."""
    if objective is None or objective.name == "importance" or buffer.priority not in ("best", "filter"):
        return ""
    return (
        f"objective: {objective.name!r} learns from failed programs, too, which priority={buffer.priority!r} hardly "
        "draws from tasks with passing programs; priority='uniform' draws them as often"
    )


def check_writer_logprobs(objective: Objective | None, buffer: ReplayBuffer) -> None:
    """Raise ValueError if an objective needs log-probabilities of writers, and programs to draw have none."""
    if objective is None or not objective.has_ratio or not buffer.can_draw:
        return
    lacking = np.flatnonzero(np.isnan(writer_logprobs(buffer)) & (buffer.probabilities() > 0))
    if len(lacking):
        (first,) = buffer.take(lacking[:1])
        raise ValueError(
            f"logprob: required of every program with objective={objective.name!r}, and computed by the model that "
            f"wrote it: the columns source and scorer name the same model, or neither; got {len(lacking)} of "
            f"{len(buffer)} programs without, the first of task {first.task_id!r} by {first.source!r}, with logprob "
            f"{first.logprob} by {first.scorer!r}. Choose objective='asymre', which needs none, or 'sft'"
        )


def build_judge(args: PPERConfig) -> Judge:
    """Return a judge with the limits of a configuration; its workers start on first use."""
    limits = Limits(cpu_seconds=args.judge_cpu_seconds, memory_bytes=args.judge_memory_bytes)
    return open_judge(args.judge_cluster, workers=args.judge_workers, isolation=args.judge_isolation, limits=limits)


def choose_learning_rate(args: PPERConfig, model: Any) -> str:
    """Set the learning rate where the user gave none, and return a line that tells of a rate other than TRL's."""
    adapters = getattr(model, "peft_config", None)
    lora = isinstance(adapters, dict) and any(isinstance(one, LoraConfig) for one in adapters.values())
    if args.given_learning_rate is not None or not lora:
        return ""
    # A rate for whole models is too low for adapters: "LoRA Without Regret" (thinkingmachines.ai/blog/lora, 2025)
    # finds the best rate to be about ten times as high.
    args.learning_rate = LORA_LEARNING_RATE
    return f"learning_rate: {LORA_LEARNING_RATE:g}, as an adapter is trained and no rate is given"


def check_formatting(formatting_func: Any) -> None:
    """Raise ValueError if a formatting function is given, which would not be called."""
    if formatting_func is not None:
        raise ValueError(
            "formatting_func: must be None, since the training rows are programs written for tasks; got "
            f"{formatting_func!r:.80}. Format an eval_dataset of answers before it is passed, and prompts with as_chat"
        )


def with_collector(callbacks: Sequence[Any], collector: BeamSampleCollector | None) -> list[Any]:
    """Return the callbacks with the collector, which takes the place of a class of collectors."""
    others = [one for one in callbacks if one is not collector and not _is_collector_class(one)]
    return others if collector is None else [*others, collector]


def _is_collector_class(callback: Any) -> bool:
    return isinstance(callback, type) and issubclass(callback, BeamSampleCollector)


def find_collector(callbacks: Sequence[Any], train: datasets.Dataset) -> BeamSampleCollector | None:
    """Return the collector among the callbacks, or a new collector; None if the data set has judged programs.

    Raises:
        ValueError: There are several collectors, or a collector without tasks, and the data set has none.
    """
    # The Trainer takes classes of callbacks, too.
    found = [one() if _is_collector_class(one) else one for one in callbacks]
    given = [callback for callback in found if isinstance(callback, BeamSampleCollector)]
    if len(given) > 1:
        raise ValueError(f"callbacks: must hold at most one BeamSampleCollector; got {len(given)}. Remove the others")
    if not holds_tasks(train):
        if given and given[0].tasks is None:
            raise ValueError(
                "callbacks: a BeamSampleCollector needs tasks, but train_dataset holds judged programs. "
                "Pass tasks as train_dataset, or to the collector"
            )
        return given[0] if given else None
    collector = given[0] if given else BeamSampleCollector()
    if collector.tasks is None:
        collector.tasks = load_tasks(train, format="native")
    return collector


def claim_buffer(buffer: ReplayBuffer, processing_class: Any) -> None:
    """Record the tokenizer in a buffer without a tokenizer.

    Raises:
        ValueError: The buffer was filled with another tokenizer.
    """
    fingerprint = tokenizer_fingerprint(processing_class)
    if buffer.tokenizer not in (None, fingerprint):
        raise ValueError(
            f"buffer: was filled with the tokenizer {buffer.tokenizer}, and this model has {fingerprint}, so the "
            "buffer's log-probabilities refer to other tokens. Pass a new buffer, or train on buffer.to_dataset() "
            "without its columns logprob and num_tokens"
        )
    buffer.tokenizer = fingerprint


def check_sharding(accelerator: Any) -> None:
    """Raise ValueError if the model is sharded in a way in which it cannot generate."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 1:
        raise ValueError(
            "fsdp_version: must be 2, since FSDP1 gathers weights only for whole forward passes, not for "
            "`generate`; got 1. Set it in the file for `accelerate launch` (examples/accelerate/fsdp.yaml)"
        )


def check_weighing(accelerator: Any, compute_loss_func: Any) -> None:
    """Raise ValueError if loss weights would be ignored or misplaced without an error."""
    parallelism = accelerator.parallelism_config
    if compute_loss_func is not None:
        raise ValueError(
            "compute_loss_func: must be None with importance_exponent, loss_weighting or an objective other than "
            "'sft', which scale TRL's loss"
        )
    if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
        raise ValueError(
            "parallelism_config: importance_exponent, loss_weighting and an objective other than 'sft' do not support "
            "context or sequence parallelism, which splits rows. Turn these options or the parallelism off"
        )


def check_context(source: Any, tasks: Sequence[CodingTask], local: LocalModel, *, max_length: int | None) -> None:
    """Raise ValueError if a stored program does not fit the model's context and is not cut to `max_length` either."""
    context = local.context
    if not isinstance(source, DatasetSource) or context is None or (max_length is not None and max_length <= context):
        return
    encoder = local.encoder
    for task, programs in zip(tasks, source.generate(tasks), strict=True):
        for one in programs:
            # No token is shorter than a byte, so that most texts need not be encoded.
            if len(str(task.prompt).encode()) + len(one.completion.encode()) < context:
                continue
            length = sum(map(len, encoder.pair(task.prompt, one.completion)))
            if length > context:
                raise ValueError(
                    f"max_length: must be at most the model's context of {context} tokens, since a program of task "
                    f"{task.task_id!r} has {length} with its prompt; got {max_length}. Lower it, which cuts the "
                    "program, or leave the program out"
                )


def check_prompt_room(
    tasks: Sequence[CodingTask], local: LocalModel, *, max_length: int | None, max_completion_length: int
) -> None:
    """Raise ValueError unless every prompt and a completion of the longest length fit into `max_length` together."""
    if max_length is None:
        return
    # TRL cuts off the end of longer rows: the model would learn programs without an end.
    longest = max(map(len, local.encode([task.prompt for task in tasks])), default=0)
    if longest + max_completion_length > max_length:
        raise ValueError(
            f"max_length: must hold the longest prompt ({longest} tokens) and max_completion_length "
            f"({max_completion_length}); got {max_length}. Raise it, set it to None, or drop the longest tasks"
        )


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
    chosen = args.per_device_eval_batch_size
    return args.generation_batch_size if chosen == PPERConfig.per_device_eval_batch_size else int(chosen)


def _parts(eval_dataset: Any) -> Iterator[tuple[str, Any]]:
    """Yield the evaluation sets with their names; a single set has no name."""
    if isinstance(eval_dataset, Mapping):
        yield from eval_dataset.items()
    elif eval_dataset is not None:
        yield "", eval_dataset


def _metric_names(part: Any, args: PPERConfig) -> list[str]:
    if not holds_tasks(part):
        return ["loss"]
    difficulties = set(part["difficulty"]) - {None} if "difficulty" in part.column_names else set()
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
