"""Define and check the options of a PPER run: `SFTConfig` plus options of generation, judging and replay.

Options of `SFTConfig` that PPER does not support (packing, dataloader workers, ...) are errors before any model is
loaded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from trl import SFTConfig

from trl_pper.generation.source import ENGINES
from trl_pper.generation.vllm import VLLMOptions
from trl_pper.replay.draw_rule import TASK_WEIGHTS, DrawRule
from trl_pper.replay.experience import POSSIBILITIES
from trl_pper.replay.loss_weights import LOSS_WEIGHTINGS
from trl_pper.replay.priority import PRIORITIES
from trl_pper.replay.settings import EVICTIONS
from trl_pper.tasks.chat import PROMPTS
from trl_pper.training.objectives import OBJECTIVES, RATIOS, Objective

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2410.12236: k = 3, the raw product of token probabilities (Eq. 2), proportional draws (Eq. 8).
    "paper": {
        "num_beams": 3,
        "possibility": "product",
        "priority": "proportional",
        "task_weight": "pooled",
        "programs_per_task": None,
        "age_decay": None,
        "possibility_exponent": 0.0,
        "cpu_time_exponent": 0.0,
    },
}


#: Keys of secrets in options that are dictionaries, such as `model_init_kwargs`.
_TOKENS = ("token", "hub_token", "use_auth_token", "api_key")
_BENCHMARK = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", re.ASCII)
DECODINGS = ("beam", "nucleus")
GENERATION_ENGINES = (*ENGINES, "vllm")


def _option(default: Any, help: str, **metadata: Any) -> Any:
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class PPERConfig(SFTConfig):  # type: ignore[misc]
    r"""A configuration of [`PPERTrainer`], with the options of `SFTConfig` and the options below.

    Raises:
        ValueError: An option is out of range or contradicts another; the message names it and the remedy.

    Examples:
        >>> PPERConfig("outputs", num_beams=5, priority="rank", bf16=False, use_cpu=True).num_beams
        5
    """

    _VALID_DICT_FIELDS = [*SFTConfig._VALID_DICT_FIELDS, "chat_template_kwargs"]  # noqa: RUF012

    learning_rate: float | None = _option(
        None, "Peak learning rate of the optimizer. If None, 1e-4 with a LoRA adapter, and otherwise TRL's 2e-5."
    )
    completion_only_loss: bool | None = _option(
        True, "Whether the loss covers only the program, not the prompt. Set to False to learn the prompt as well."
    )
    preset: str | None = _option(
        None,
        "'paper' sets num_beams, possibility and all options of the draws but priority_exponent as in "
        "arXiv 2410.12236.",
        choices=[None, "paper"],
    )
    num_beams: int = _option(3, "k: number of programs generated per task (3 beams in the paper).")
    decoding: str = _option(
        "beam",
        "How a collection generates programs: 'beam' searches for the k most probable programs, 'nucleus' draws k "
        "samples, which repeat themselves less. Evaluation always uses beam search.",
        choices=list(DECODINGS),
    )
    generation_engine: str = _option(
        "transformers",
        "What writes the programs of a collection: 'transformers' for `generate`, or, with nucleus sampling, "
        "'continuous_batching' for `generate_batch` and its paged cache, which fills a GPU better, or 'vllm'.",
        choices=list(GENERATION_ENGINES),
    )
    vllm_mode: str = _option(
        "colocate",
        "With the engine 'vllm': 'colocate' for an engine in each training process, 'server' for one that is started "
        "with `trl vllm-serve`.",
        choices=["colocate", "server"],
    )
    vllm_server_base_url: str | None = _option(
        None, "Address of the vLLM server, such as 'http://localhost:8000'. If None, host and port tell it."
    )
    vllm_server_host: str = _option("0.0.0.0", "Host of the vLLM server.")
    vllm_server_port: int = _option(8000, "Port of the vLLM server.")
    vllm_server_timeout: float = _option(240.0, "Longest wait for the vLLM server to be up, in seconds.")
    vllm_group_port: int = _option(51216, "Port on which weights are sent to the vLLM server.")
    vllm_gpu_memory_utilization: float = _option(
        0.3, "Share of a GPU's memory for a vLLM engine beside the trainer, in (0, 1]."
    )
    vllm_max_model_length: int | None = _option(
        None, "Longest prompt and completion together for vLLM, in tokens. If None, the model's context."
    )
    vllm_tensor_parallel_size: int = _option(1, "Number of GPUs of a vLLM engine beside the trainer.")
    vllm_enable_sleep_mode: bool = _option(False, "Whether vLLM gives its memory up while the model trains.")
    vllm_model_impl: str = _option("vllm", "Whose code of the model vLLM runs.", choices=["vllm", "transformers"])
    num_beam_groups: int = _option(
        1,
        "Number of groups of beams; it divides num_beams. The groups are searched in turn, and diversity_penalty "
        "makes each group differ from the groups before.",
    )
    diversity_penalty: float = _option(
        0.5,
        "Penalty of a token, in nats, for each program of an earlier group that has the same token at the same "
        "position.",
    )
    temperature: float = _option(0.8, "With nucleus sampling: divisor of the logits.")
    top_p: float = _option(0.95, "With nucleus sampling: probability mass of the most probable tokens to sample from.")
    max_completion_length: int = _option(256, "Longest generated program, in tokens.")
    mask_truncated_completions: bool = _option(
        False,
        "Whether to leave programs out of the loss that were cut off, by max_completion_length or by a stop within "
        "the program. They stay in the buffer, but are never drawn.",
    )
    chat_template_kwargs: dict[str, Any] | str | None = _option(  # noqa: RUF009 - it returns a field
        None,
        "Further arguments of the chat template for every prompt of tasks and programs, such as "
        "{'enable_thinking': False}; in a string as JSON.",
    )
    prompts: str = _option(
        "auto",
        "How text prompts are put to the model: 'text' to be continued, 'chat' as messages to be answered; 'auto' "
        "asks instruct models in messages: those whose chat template ends a turn with an end token of the model.",
        choices=list(PROMPTS),
    )
    generation_batch_size: int = _option(8, "Number of prompts in a generation batch, per process.")
    ds3_gather_for_generation: bool = _option(
        True,
        "With DeepSpeed ZeRO-3: whether each process gathers all weights to generate. Set to False for a model that "
        "does not fit on a single device; generation is then slower.",
    )
    steps_per_round: int | None = _option(
        None,
        "Optimizer steps between two collections; a Trainer epoch is a round. If None, as many steps as draw each "
        "program of a collection once on average.",
    )
    possibility_weight: float = _option(
        0.5, "a of Eq. 6, in [0, 1]: the weight of the possibility against the pass rate in P2Value."
    )
    possibility: str = _option(
        "mean",
        "How P(program) is computed from the token probabilities: 'mean' is their geometric mean, 'product' their "
        "product, as in the paper, which is almost 0 for programs of a hundred tokens.",
        choices=list(POSSIBILITIES),
    )
    priority: str = _option(
        "best",
        "How P2Values are converted to draw probabilities: 'best' prefers the best programs of each task, and tasks "
        "by their best pass rate; 'proportional' or 'rank' (Eq. 8), 'uniform', or 'filter' (uniform over the programs "
        "that pass every test).",
        choices=list(PRIORITIES),
    )
    priority_temperature: float = _option(
        0.01,
        "With the priority 'best': difference of P2Values in a task at which a program is drawn 1/e as often.",
    )
    task_weight: str | None = _option(
        None,
        "How draws are divided among tasks: 'pooled' (not at all, as in the paper), 'equal', 'best' (the best pass "
        "rate to the power of task_exponent; in the last round only tasks with a passing program), 'unsolved' (the "
        "share of failing programs), or 'learnability' (p * (1 - p), where p is the share of passing programs). If "
        "None, 'best' with the priority 'best', and 'pooled' otherwise.",
        choices=[None, *TASK_WEIGHTS],
    )
    task_exponent: float = _option(20.0, "With the task weight 'best': exponent of a task's best pass rate.")
    programs_per_task: int | None = _option(
        None, "Largest number of a task's programs that can be drawn, those of highest priority. If None, no limit."
    )
    age_decay: float | None = _option(
        None,
        "Optimizer steps after which the probability of a program that was not written again has fallen to 1/e. If "
        "None, age has no effect.",
    )
    possibility_exponent: float = _option(
        0.0,
        "Exponent of the possibility as a further factor of the priority: above 0 prefers probable programs, below 0 "
        "improbable programs.",
    )
    cpu_time_exponent: float = _option(
        0.0, "Exponent by which passing programs lose priority with their CPU time, relative to the task's fastest."
    )
    priority_exponent: float | None = _option(
        None,
        "e of Eq. 7, for 'proportional' and 'rank': 0 draws uniformly, larger values prefer high priorities more "
        "strongly. If None, 4 for "
        "proportional draws with the mean possibility, whose P2Values lie close together, and 1 otherwise "
        "(docs/learning.md).",
    )
    importance_exponent: float = _option(
        0.0,
        "beta of prioritised experience replay (arXiv 1511.05952, section 3.4): each program's loss is multiplied by "
        "(N * P(i)) ** -beta, divided by the largest such weight. 0 corrects nothing, as in the paper; with 1 the "
        "expected gradient is that of uniform replay, up to a factor.",
    )
    loss_weighting: str | None = _option(
        None,
        "'p2value' multiplies each program's loss by its P2Value; None gives all programs the same weight, as in the "
        "paper.",
        choices=[None, *LOSS_WEIGHTINGS],
    )
    objective: str = _option(
        "sft",
        "What the loss makes of a program: 'sft' learns every drawn program, whether it passes or fails. 'importance' "
        "(arXiv 2507.12856) learns programs that pass every test, by how probable they have become; 'topr' (arXiv "
        "2503.14286), 'nft' (arXiv 2505.18116) and 'asymre' (arXiv 2506.20520) unlearn failed programs, too "
        "(docs/training.md).",
        choices=list(OBJECTIVES),
    )
    objective_ratio: str = _option(
        "mean",
        "With objective 'importance', 'topr' or 'nft': how the probability of a program is compared with that when it "
        "was written. 'mean' is the geometric mean of the tokens' ratios (arXiv 2507.18071), 'product' the ratio of "
        "the whole program, as in the papers, which is almost 0 or very large for programs of a hundred tokens.",
        choices=list(RATIOS),
    )
    objective_clip_high: float = _option(
        Objective.clip_high,
        "With objective 'importance' or 'nft': the largest ratio of a program's probability to that when it was "
        "written. The code of the authors of 'importance' has 16.",
    )
    objective_baseline_shift: float = _option(
        Objective.baseline_shift,
        "With objective 'asymre': number added to the baseline, the mean pass rate of the task's programs. Below 0 "
        "passing programs count for more than failed ones; from 0 on the paper finds that training collapses.",
    )
    length_grouping_steps: int = _option(
        1,
        "Number of optimizer steps whose draws are sorted by length together. With 1 each step's minibatch is an "
        "independent draw. A larger number needs less padding: micro-batches of similar lengths are assigned to the "
        "steps at random.",
    )
    buffer_capacity: int | None = _option(
        None, "Largest number of experiences in the buffer; see buffer_eviction. If None, there is no limit."
    )
    buffer_eviction: str = _option(
        "p2value",
        "Which experiences a full buffer evicts first: 'p2value', the lowest P2Value, or 'age', the earliest round.",
        choices=list(EVICTIONS),
    )
    judge_workers: int | None = _option(
        None,
        "Judge processes per training process, and per node with judge_cluster. If None, the cores are divided among "
        "the training processes.",
    )
    judge_cluster: str | None = _option(
        None,
        "The Ray cluster on whose CPUs programs are judged: 'auto' for the running one, or its address, 'HOST:6379' "
        "or 'ray://HOST:10001'; 'local' starts Ray on this machine. If None, programs are judged on this machine.",
    )
    judge_isolation: str = _option(
        "auto",
        "Isolation level of the judge; 'auto' takes the strongest available level, never below 'landlock'. Systems "
        "other than Linux have only 'processes'.",
    )
    judge_cpu_seconds: float = _option(10.0, "CPU time that a program may use on a test, in seconds.")
    judge_memory_bytes: int = _option(4 * 2**30, "Memory that a program may allocate, in bytes.")

    log_completions: bool = _option(
        False,
        "Whether to print a table of sampled programs after each collection, and to log all of the round's programs "
        "as a table `completions` to wandb and trackio, if report_to names them.",
    )
    num_completions_to_print: int | None = _option(
        None,
        "Number of programs in the printed table, evenly spaced from the round's highest P2Value to its lowest. If "
        "None, all of them.",
    )
    eval_benchmark: str | None = _option(
        None,
        "The data set of the Hub that consists of exactly the evaluation tasks, as 'owner/name' or 'owner/name:task'. "
        "The model card then names it, and `.eval_results/` has the accuracy for its leaderboard.",
    )

    def __post_init__(self) -> None:
        self._apply_preset()
        if self.priority_exponent is None:
            # With exponent 1 close P2Values give nearly uniform draws.
            close = self.priority == "proportional" and self.possibility == "mean"
            self.priority_exponent = 4.0 if close else 1.0
        # Defaults that fit the run are chosen by the trainer, which knows the adapter and the evaluation set.
        self.given_learning_rate = self.learning_rate
        self.given_metric_for_best_model = self.metric_for_best_model
        self.given_greater_is_better = self.greater_is_better
        if self.completion_only_loss is None:
            # As TRL decides for rows of prompts and completions; it would see prompts alone.
            self.completion_only_loss = True
        if self.learning_rate is None:
            self.learning_rate = SFTConfig.learning_rate
        self._check_ranges()
        self._check_training_options()
        # `accelerator_config` may be a dictionary or a file: the base class makes an object of it, checked below.
        super().__post_init__()
        arguments = self.chat_template_kwargs
        named = arguments is None or (isinstance(arguments, dict) and all(isinstance(name, str) for name in arguments))
        _require("chat_template_kwargs", named, "None, or a mapping of names to values", arguments)
        self._check_dataloader_options()

    @property
    def weighs_loss(self) -> bool:
        """Whether the loss of the drawn programs is weighted."""
        return self.importance_exponent > 0 or self.loss_weighting is not None

    @property
    def scales_loss(self) -> bool:
        """Whether the loss of the drawn programs is multiplied by weights, or by coefficients of an objective."""
        return self.weighs_loss or self.objective != "sft"

    def vllm_options(self) -> dict[str, Any]:
        """Return the options of vLLM as keyword arguments of `VLLMOptions`."""
        return {field.name: getattr(self, f"vllm_{field.name}") for field in fields(VLLMOptions)}

    def draw_options(self) -> dict[str, Any]:
        """Return the options of the draws, which are the fields of a `DrawRule`."""
        return {field.name: getattr(self, field.name) for field in fields(DrawRule)}

    def __getstate__(self) -> dict[str, Any]:
        # `Trainer` pickles its arguments into training_args.bin, which `push_to_hub` uploads: no secret may be in it.
        return {name: without_tokens(value) for name, value in self.__dict__.items()} | {"hub_token": None}

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values for logs, without secrets."""
        return {name: without_tokens(value) for name, value in super().to_dict().items()}

    def _apply_preset(self) -> None:
        if self.preset is None:
            return
        known = tuple(PRESETS)  # a list, from YAML, cannot be looked up in a dictionary
        _require("preset", self.preset in known, f"one of {', '.join(known)}", self.preset)
        for name, value in PRESETS[self.preset].items():
            setattr(self, name, value)

    def _check_ranges(self) -> None:
        # Types are checked, too: values from YAML have any type.
        for name in (
            "num_beams", "max_completion_length", "generation_batch_size", "judge_memory_bytes",
            "length_grouping_steps",
        ):  # fmt: skip
            _require(name, _is_count(getattr(self, name)), "a whole number of at least 1", getattr(self, name))
        for name in ("steps_per_round", "buffer_capacity", "judge_workers"):
            value = getattr(self, name)
            _require(name, value is None or _is_count(value), "None or a whole number of at least 1", value)
        cluster = self.judge_cluster
        named = cluster is None or (isinstance(cluster, str) and bool(cluster))
        _require("judge_cluster", named, "None, 'auto', 'local' or the address of a Ray cluster", cluster)
        printed = self.num_completions_to_print
        for name in ("log_completions", "mask_truncated_completions"):
            _require(name, isinstance(getattr(self, name), bool), "True or False", getattr(self, name))
        few = printed is None or printed == 0 or _is_count(printed)
        _require("num_completions_to_print", few, "None or a whole number of at least 0", printed)
        self._check_decoding()
        weight, exponent = self.possibility_weight, self.priority_exponent
        _require("possibility_weight", _is_number(weight) and 0 <= weight <= 1, "a number in [0, 1]", weight)
        _require("priority_exponent", _is_number(exponent) and exponent >= 0, "a number of at least 0", exponent)
        benchmark = self.eval_benchmark
        named = benchmark is None or (isinstance(benchmark, str) and _BENCHMARK.fullmatch(benchmark) is not None)
        _require("eval_benchmark", named, "None, 'owner/name' or 'owner/name:task'", benchmark)
        beta, weighting = self.importance_exponent, self.loss_weighting
        _require("importance_exponent", _is_number(beta) and beta >= 0, "a number of at least 0", beta)
        known = weighting is None or weighting in LOSS_WEIGHTINGS
        _require("loss_weighting", known, f"None or one of {', '.join(LOSS_WEIGHTINGS)}", weighting)
        self._check_objective()
        seconds = self.judge_cpu_seconds
        _require("judge_cpu_seconds", _is_number(seconds) and seconds > 0, "a number above 0", seconds)
        _require(
            "possibility", self.possibility in POSSIBILITIES, f"one of {', '.join(POSSIBILITIES)}", self.possibility
        )
        _require("prompts", self.prompts in PROMPTS, f"one of {', '.join(PROMPTS)}", self.prompts)
        _require("priority", self.priority in PRIORITIES, f"one of {', '.join(PRIORITIES)}", self.priority)
        # Its fields have the names of the options.
        DrawRule(**self.draw_options())
        eviction = self.buffer_eviction
        _require("buffer_eviction", eviction in EVICTIONS, f"one of {', '.join(EVICTIONS)}", eviction)

    def _check_decoding(self) -> None:
        _require("decoding", self.decoding in DECODINGS, f"one of {', '.join(DECODINGS)}", self.decoding)
        engine = self.generation_engine
        known = engine in GENERATION_ENGINES
        _require("generation_engine", known, f"one of {', '.join(GENERATION_ENGINES)}", engine)
        samples = engine == "transformers" or self.decoding == "nucleus"
        _require("generation_engine", samples, "'transformers' unless decoding is 'nucleus'", engine)
        # Its fields have the names of the options, without the prefix.
        VLLMOptions(**self.vllm_options())
        if engine != "vllm":
            default, required = VLLMOptions(), f"its default unless generation_engine is 'vllm' (it is {engine!r})"
            for name, value in self.vllm_options().items():
                _require(f"vllm_{name}", value == getattr(default, name), required, value)
        groups, penalty = self.num_beam_groups, self.diversity_penalty
        _require("num_beam_groups", _is_count(groups), "a whole number of at least 1", groups)
        divides = self.num_beams % groups == 0
        _require("num_beam_groups", divides, f"a divisor of num_beams ({self.num_beams})", groups)
        beams = groups == 1 or self.decoding == "beam"
        _require("num_beam_groups", beams, "1 unless decoding is 'beam'", groups)
        _require("diversity_penalty", _is_number(penalty) and penalty >= 0, "a number of at least 0", penalty)
        temperature, top_p = self.temperature, self.top_p
        _require("temperature", _is_number(temperature) and temperature > 0, "a number above 0", temperature)
        _require("top_p", _is_number(top_p) and 0 < top_p <= 1, "a number above 0 and at most 1", top_p)

    def _check_objective(self) -> None:
        known = tuple(OBJECTIVES)  # a list, from YAML, cannot be looked up in a dictionary
        _require("objective", self.objective in known, f"one of {', '.join(known)}", self.objective)
        ratio, high, shift = self.objective_ratio, self.objective_clip_high, self.objective_baseline_shift
        _require("objective_ratio", ratio in RATIOS, f"one of {', '.join(RATIOS)}", ratio)
        _require("objective_clip_high", _is_number(high) and high > 0, "a number above 0", high)
        _require("objective_baseline_shift", _is_number(shift), "a number", shift)
        if self.objective == "sft":
            return
        # A failed program would have its prompt unlearned, too, and ratios are of whole completions.
        why = f"with objective={self.objective!r}, whose coefficients are of completions"
        _require("completion_only_loss", bool(self.completion_only_loss), f"True {why}", self.completion_only_loss)
        _require("assistant_only_loss", not self.assistant_only_loss, f"False {why}", self.assistant_only_loss)

    def _check_training_options(self) -> None:
        _require(
            "packing",
            not self.packing,
            "False, since each drawn experience is one row",
            True,
            "padding_free=True with max_length=None saves the same padding",
        )
        # TRL refuses the pair as well, after the model is loaded, and advises packing.
        _require(
            "max_length",
            not self.padding_free or self.max_length is None,
            "None with padding_free, which cuts no rows off",
            self.max_length,
            "set it to None: a row then has the prompt and at most max_completion_length tokens",
        )
        _require(
            "auto_find_batch_size",
            not self.auto_find_batch_size,
            "False, since the length of a round depends on the batch size",
            True,
            "set per_device_train_batch_size",
        )
        _require(
            "dataloader_num_workers",
            not self.dataloader_num_workers,
            "0, since a worker process would hold a stale copy of the buffer",
            self.dataloader_num_workers,
        )
        prepared = not (self.dataset_kwargs or {}).get("skip_prepare_dataset")
        _require(
            "dataset_kwargs",
            prepared,
            "without skip_prepare_dataset, since programs are tokenised as they are drawn",
            self.dataset_kwargs,
        )
        _require(
            "ignore_data_skip",
            not self.ignore_data_skip,
            "False, since a resumed round would draw its first minibatches again",
            True,
        )
        _require(
            "debug",
            "underflow_overflow" not in str(self.debug),
            "without underflow_overflow, whose hooks fail when a model generates",
            self.debug,
        )
        _require(
            "train_sampling_strategy",
            self.train_sampling_strategy == "random",
            "'random', since draws are sorted by length already (see length_grouping_steps)",
            self.train_sampling_strategy,
        )
        if self.scales_loss:
            # The loss "dft" would take the probabilities of tokens from the scaled values, too.
            with_weights = (
                "with importance_exponent, loss_weighting or an objective other than 'sft', which scale the negative "
                "log-likelihood"
            )
            _require("loss_type", self.loss_type == "nll", f"'nll' {with_weights}", self.loss_type)
            smoothing = self.label_smoothing_factor
            _require("label_smoothing_factor", smoothing == 0, f"0 {with_weights}", smoothing)
        room = self.max_length is None or self.max_completion_length < self.max_length
        _require(
            "max_completion_length",
            room,
            f"below max_length ({self.max_length}), so that the prompt has room",
            self.max_completion_length,
            "raise max_length or set it to None",
        )

    def _check_dataloader_options(self) -> None:
        private = not self.push_to_hub or self.hub_strategy not in ("checkpoint", "all_checkpoints")
        _require(
            "hub_strategy",
            private,
            "'every_save' or 'end', since checkpoints hold the buffer with every task and program",
            self.hub_strategy,
        )
        accelerator_config = self.accelerator_config
        for name in ("split_batches", "dispatch_batches"):
            value = getattr(accelerator_config, name, None)
            _require(
                f"accelerator_config.{name}",
                not value,
                "unset, since every process reads its own part of a minibatch",
                value,
            )


def without_tokens(value: Any) -> Any:
    """Return the value of an option with its secrets replaced by None."""
    if not isinstance(value, Mapping):
        return value
    return {name: None if name in _TOKENS else without_tokens(inner) for name, inner in value.items()}


def _require(name: str, condition: bool, requirement: str, got: object, remedy: str = "") -> None:
    if not condition:
        raise ValueError(f"{name}: must be {requirement}; got {got!r}" + (f"; {remedy}" if remedy else ""))


def _is_count(value: object) -> bool:
    # True is an `int` in Python, and YAML reads `yes` as True.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> TypeGuard[float]:
    # A whole number may be beyond every float, where `math.isfinite` raises an error of its own.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max
