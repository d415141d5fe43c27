"""Fine-tune a model on programs drawn from a replay buffer: `PPERTrainer`, a subclass of TRL's `SFTTrainer`.

The trainer only connects the other modules. A contract test, `tests/training/test_trl_contract.py`, lists the methods
of TRL and transformers that it overrides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback, TrainerControl
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput
from trl import SFTTrainer

from trl_pper.generation.beam_search import BeamSearchSource
from trl_pper.generation.local_model import LocalModel
from trl_pper.judge.judge import Judge
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.rounds.collection_report import CollectionReport
from trl_pper.rounds.display import say, warnings_above_bars
from trl_pper.rounds.evaluation import evaluate_tasks
from trl_pper.rounds.journal import JudgedProgram
from trl_pper.rounds.processes import check_processes
from trl_pper.rounds.program_table import show_round
from trl_pper.tasks.chat import put_to
from trl_pper.tasks.loading import load_tasks
from trl_pper.tasks.task import CodingTask
from trl_pper.training.card import PAPER, evaluations, hide_local_paths, run_facts, write_model_card
from trl_pper.training.checkpoint import last_complete_checkpoint, load_buffer, read_first_round, save_buffer
from trl_pper.training.collator import (
    BATCH_KEY,
    OBJECTIVE_KEY,
    ROW_KEYS,
    ColumnCollator,
    with_scaled_log_probs,
)
from trl_pper.training.config import PPERConfig
from trl_pper.training.console import print_lines_only
from trl_pper.training.dataset import (
    ReplayDataset,
    as_dataset,
    as_eval_dataset,
    check_train_columns,
    holds_tasks,
    judged_experiences,
)
from trl_pper.training.parts import (
    build_beam_search,
    build_buffer,
    build_columns,
    build_judge,
    build_objective,
    build_source,
    check_context,
    check_draws,
    check_formatting,
    check_keywords,
    check_model,
    check_options_of_logits,
    check_prompt_room,
    check_sharding,
    check_weighing,
    check_writer,
    check_writer_logprobs,
    choose_learning_rate,
    claim_buffer,
    config_or_default,
    evaluation_batch_size,
    find_collector,
    fit_best_metric,
    line_on_draws,
    line_on_prompts,
    with_collector,
)
from trl_pper.training.push import check_push, push_in_background
from trl_pper.training.sampler import Lengths, Positions, PrioritizedSampler, draw_round


class PPERTrainer(SFTTrainer):  # type: ignore[misc]
    """A trainer that fine-tunes a model by prioritised experience replay of judged programs (arXiv 2410.12236).

    A Trainer epoch is a round: at its beginning the collector fills the buffer, then minibatches are drawn by P2Value.

    Args:
        model: A model id, a path, or a `PreTrainedModel`, as in `SFTTrainer`.
        args: A `PPERConfig`.
        train_dataset: Tasks (a list of `CodingTask`, rows in a format of `load_tasks`, or a source of it: a path or a
            Hub id), or judged programs (a data set with the columns prompt, completion, logprob and pass_rate), to
            which no further programs are added.
        eval_dataset: Tasks to generate and judge programs for, as above, or an evaluation set of `SFTTrainer`.
        processing_class: The tokenizer; the model's own by default.
        data_collator: As in `SFTTrainer`.
        compute_loss_func: As in `SFTTrainer`.
        compute_metrics: As in `SFTTrainer`, for an evaluation set of answers.
        callbacks: Further callbacks; a `BeamSampleCollector` among them replaces the default collector.
        optimizers: As in `SFTTrainer`; a scheduler has to count the steps of rounds (see `steps_per_round`).
        optimizer_cls_and_kwargs: As in `SFTTrainer`.
        preprocess_logits_for_metrics: As in `SFTTrainer`, for an evaluation set of answers.
        quantization_config: As in `SFTTrainer`.
        peft_config: As in `SFTTrainer`.
        formatting_func: Not supported, as programs are not formatted.
        buffer: A buffer to continue with, which keeps its own settings; by default an empty buffer with the settings
            of `args`.
        **unknown: No further arguments; the error names the nearest.

    Raises:
        TypeError: `args` is not a `PPERConfig`, or there is no such argument.
        ValueError: The data sets, the buffer and the collector do not fit together.

    Examples:
        The switch from `SFTTrainer` in README.md, which the tests run.
    """

    _tag_names = ["trl", "pper"]  # noqa: RUF012
    _name = "PPER"
    _paper = PAPER

    # In the order of SFTTrainer, whose scripts may pass arguments by position.
    def __init__(
        self,
        model: Any,
        args: PPERConfig | None = None,
        data_collator: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        train_dataset: Sequence[CodingTask | Mapping[str, Any]] | datasets.Dataset | str | Path | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        callbacks: Sequence[TrainerCallback | type[TrainerCallback]] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Any], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        quantization_config: Any = None,
        peft_config: Any = None,
        formatting_func: Callable[[dict[str, Any]], str] | None = None,
        *,
        buffer: ReplayBuffer | None = None,
        **unknown: Any,
    ) -> None:
        check_keywords(unknown)
        check_model(model)
        args = config_or_default(args, model)
        check_processes()
        if args.push_to_hub:
            check_push(args.output_dir, strategy=args.hub_strategy)
        check_formatting(formatting_func)
        train = as_dataset("train_dataset", train_dataset)
        check_train_columns(train)
        evaluated = as_eval_dataset(eval_dataset)
        check_options_of_logits(
            args,
            evaluated,
            compute_metrics=compute_metrics,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        callbacks = list(callbacks or [])
        fit_best_metric(args, evaluated, callbacks, has_metrics=compute_metrics is not None)
        self.buffer = buffer if buffer is not None else build_buffer(args)
        self.collector = find_collector(callbacks, train)
        self.objective = build_objective(args)
        check_writer(self.objective, self.collector)
        check_draws(args, self.buffer, train, collects=self.collector is not None)
        self._judge: Judge | None = None
        self._train_rows = train
        # TRL looks at a row for the form of prompts, and takes any column of it: a completion is text beside messages.
        self._prompts = train.select_columns(["prompt"])
        self._round_figures: dict[str, float] = {}
        self._told: set[str] = set()
        self._rounds_begun = 0
        #: The round whose draws are known, and their positions in the buffer.
        self._drawn: tuple[int, Positions] = (-1, np.empty(0, np.int64))
        self.evaluated_before: list[Mapping[str, Any]] = []
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=self._prompts,
            eval_dataset=evaluated,
            processing_class=processing_class,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=with_collector(callbacks, self.collector),
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
            quantization_config=quantization_config,
            peft_config=peft_config,
        )
        print_lines_only(self.callback_handler)
        check_sharding(self.accelerator)
        if args.scales_loss:
            check_weighing(self.accelerator, self.compute_loss_func)
            self.data_collator: Any = ColumnCollator(self.data_collator, padding_free=self.padding_free)
        claim_buffer(self.buffer, self.processing_class)
        self._tell(choose_learning_rate(args, self.model))
        self._tell(line_on_draws(self.objective, self.buffer))
        self._complete_collector()
        # Ages are counted in optimizer steps.
        self.buffer.steps_per_round = self.steps_per_round
        self._check_eval_tasks()

    @property
    def judge(self) -> Judge:
        """The judge of collection and evaluation, created on first use."""
        # A run that judges nothing, such as training on judged programs, needs no sandbox.
        if self._judge is None:
            collector = self.collector
            self._judge = (
                collector.judge if collector is not None and collector.judge is not None else build_judge(self.args)
            )
        return self._judge

    @property
    def student(self) -> LocalModel:
        """The model in training, for inference."""
        # Made anew each time: the Trainer wraps its model when training begins.
        return LocalModel(
            model=self.model_wrapped,
            processing_class=self.processing_class,
            accelerator=self.accelerator,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
            name=getattr(self.model.config, "_name_or_path", "") or "student",
            gather=self.args.ds3_gather_for_generation,
            # With `assistant_only_loss` TRL may replace the template by one that marks assistant messages.
            chat_template=self.chat_template,
            chat_template_kwargs=self.args.chat_template_kwargs or {},
        )

    @property
    def base(self) -> LocalModel:
        """The base model without the adapter in training, for inference; it takes no further memory.

        Raises:
            ValueError: The model has no adapter.
        """
        return self.student.without_adapter()

    def beam_search(self) -> BeamSearchSource:
        """Return a source that runs beam search with the settings of `args`, for evaluation."""
        return build_beam_search(self.args, batch_size=evaluation_batch_size(self.args))

    @property
    def draws_per_step(self) -> int:
        """Size of the global minibatch of an optimizer step."""
        return int(self._train_batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes)

    @property
    def steps_per_round(self) -> int:
        """Number of optimizer steps between two collections, which are an epoch; a scheduler has to count these."""
        # By default each program of a collection is drawn once on average. The number of programs is an estimate: the
        # Trainer needs the length of a round before the first collection.
        if self.args.steps_per_round is not None:
            return int(self.args.steps_per_round)
        if self.collector is None:
            programs = len(self.buffer)
        elif isinstance(self.collector.source, Sized):
            programs = len(self.collector.source)
        else:
            programs = len(self.collector.tasks or []) * self.args.num_beams
        return max(1, math.ceil(programs / self.draws_per_step))

    @property
    def _next_round(self) -> int:
        """The first round that has not begun."""
        return self._rounds_begun if self.collector is None else self.collector.next_round

    @_next_round.setter
    def _next_round(self, round_index: int) -> None:
        if self.collector is None:
            self._rounds_begun = round_index
        else:
            self.collector.next_round = round_index

    @property
    def _longest_row(self) -> int | None:
        """The longest row that is learned whole, in tokens; None without a bound."""
        bounds = [bound for bound in (self.args.max_length, self.student.context) if bound is not None]
        return min(bounds, default=None)

    def _draws(self) -> dict[str, int]:
        """Return the numbers that draws depend on besides the buffer, as keyword arguments of the sampler."""
        return {
            "draws_per_step": self.draws_per_step,
            "steps_per_round": self.steps_per_round,
            "seed": self.args.seed if self.args.data_seed is None else self.args.data_seed,
            "grouping_steps": self.args.length_grouping_steps,
            # A run resumes only with equal numbers: leave out the batch size where it does not affect the draws.
            "micro_batch_size": self._train_batch_size if self.args.length_grouping_steps > 1 else 1,
        }

    def _encode(self, experiences: Sequence[Experience]) -> list[dict[str, list[int]]]:
        """Return the row of each program: the sequence that its log-probability is of."""
        encoder = self.student.encoder
        return [
            encoder.row(
                one.prompt,
                one.completion,
                ended=not one.truncated,
                token_ids=one.token_ids,
                with_assistant_masks=self.args.assistant_only_loss,
            )
            for one in experiences
        ]

    def _put(self, tasks: Sequence[CodingTask]) -> list[CodingTask]:
        """Return tasks as the model is asked them, and tell once how."""
        prompted = put_to(tasks, self.student.encoder, prompts=self.args.prompts)
        self._tell(prompted.line)
        return prompted.tasks

    def _tell(self, line: str) -> None:
        if line and line not in self._told and self.is_world_process_zero():
            say(line, log_level=self.args.get_process_log_level())
        self._told.add(line)

    def _coefficients(self, columns: Mapping[str, torch.Tensor], logprob: torch.Tensor) -> torch.Tensor:
        """Return the coefficient of each row in the loss, shape [rows], and note the mean ratio for the log."""
        assert self.objective is not None  # only its rows have columns
        ratios = self.objective.ratios(columns, logprob)
        if ratios is not None:
            mean = self.accelerator.gather(ratios.nanmean()).nanmean().item()
            if not math.isnan(mean):
                self._metrics["train"]["pper/objective_ratio_mean"].append(mean)
        return self.objective.coefficients(columns, ratios)

    def _complete_collector(self) -> None:
        collector = self.collector
        if collector is None:
            # Numbers of tokens may have to be counted, with the end tokens of the model.
            self.buffer.add(judged_experiences(self._train_rows, self.student.encoder))
            check_writer_logprobs(self.objective, self.buffer)
            self._tell(line_on_prompts(self.args.prompts, self.student.encoder, self.buffer))
            # All rows that may be drawn, so that nothing to draw, and a completion that `max_length` cuts off, are
            # errors before training. A truncated completion without text has no token, and is never drawn.
            self.train_dataset.prepare(np.flatnonzero(self.buffer.probabilities()))
            return
        check_writer_logprobs(self.objective, self.buffer)
        if collector.tasks is not None:
            collector.tasks = self._put(collector.tasks)
        collection = collector.attach(
            self.buffer,
            source=build_source(self.args),
            judge=self.judge,
            # `push_to_hub` uploads no files whose names begin with an underscore.
            journal_folder=Path(self.args.output_dir) / "_pper" / "journal",
            find_student=lambda: self.student,
            steps_per_round=self.steps_per_round,
            max_length=self._longest_row,
            before_collection=self._before_collection,
            on_collected=self._on_collected,
        )
        check_prompt_room(
            collection.tasks,
            self.student,
            max_length=self.args.max_length,
            max_completion_length=self.args.max_completion_length,
        )
        collection.source.check(collection.tasks, student=self.student)
        check_context(collection.source, collection.tasks, self.student, max_length=self.args.max_length)

    def _check_eval_tasks(self) -> None:
        given = self.eval_dataset
        for part in given.values() if isinstance(given, dict) else [given]:
            if holds_tasks(part):
                self.beam_search().check(self._put(load_tasks(part, format="native")), student=self.student)

    def _on_collected(self, report: CollectionReport) -> None:
        if not len(self.buffer):
            raise ValueError(
                f"buffer: empty after round {report.round_index}: none of {report.programs} programs could be judged. "
                "See `Judge().report()`; the sandbox may not work here. The programs are stored in "
                f"{self.collector.collection.journal_folder if self.collector else None}, and are judged when the run "
                "is started again"
            )
        # With logging_strategy="no" no entry of a training step has taken the figures of the last round along.
        if self._round_figures:
            self._log_apart(self._round_figures)
        self._round_figures = report.metrics()
        if self.buffer.priority == "best" and not self.buffer.pass_rates().any():
            self._tell(
                f"round {report.round_index + 1}: no program passes any test yet, so that the most probable program "
                "of every task is drawn, from which there is nothing to learn; give easier tasks, more programs per "
                "task (num_beams), or a teacher's programs"
            )
        if self.args.log_completions and self.is_world_process_zero():
            show_round(
                self.buffer,
                report.round_index,
                first_round=self.collector.first_round if self.collector is not None else 0,
                step=self.state.global_step,
                number=self.args.num_completions_to_print,
                report_to=self.args.report_to,
            )

    def _prepare_round(self, positions: Positions) -> Lengths:
        self._drawn = self.state.global_step // self.steps_per_round, positions
        lengths: Lengths = self.train_dataset.prepare(positions)
        return lengths

    def _begin_round(self, round_index: int) -> None:
        # A collector counts the draws of the round before when it collects.
        if self.collector is None and round_index >= self._next_round:
            self._count_draws(round_index)
            self._next_round = round_index + 1
        self._tell_buffer(round_index)

    def _before_collection(self, round_index: int) -> None:
        self._count_draws(round_index)
        self._tell_buffer(round_index)

    def _tell_buffer(self, round_index: int) -> None:
        """Tell the buffer whether a round is the last."""
        # Only now: draws of the round before are made again, and counted, as they were.
        is_last = (round_index + 1) * self.steps_per_round >= self.state.max_steps
        # A user may collect without training.
        self.buffer.last_round = self.is_in_train and is_last

    def _count_draws(self, round_index: int) -> None:
        """Count the draws of the round before `round_index` in the buffer."""
        if round_index == 0 or not len(self.buffer):
            return
        drawn_in, positions = self._drawn
        if drawn_in != round_index - 1:
            # Drawn again: a run that resumes between two rounds then counts as an uninterrupted run does.
            draws = self._draws()
            numbers = {name: draws[name] for name in ("draws_per_step", "steps_per_round", "seed")}
            positions = draw_round(self.buffer, round_index - 1, **numbers)
        self.buffer.count_draws(positions)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log an entry; that of a training step has the figures of the round, too."""
        # Callbacks of users expect a loss in every entry of a training run.
        if self._round_figures and ("loss" in logs or "train_runtime" in logs):
            logs |= self._round_figures
            self._round_figures = {}
        super().log(logs, start_time)

    def _log_apart(self, metrics: dict[str, float]) -> None:
        # Unless the model is in eval mode, TRL's `log` adds the means of the training steps so far and resets them.
        # Each training step switches the model back to train mode.
        self.model.eval()
        self.log(metrics)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train the model; see `Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint folder, or True for the newest complete checkpoint in `output_dir`.
            **kwargs: Further arguments of `Trainer.train`.
        """
        self._next_round = 0
        self._drawn = -1, np.empty(0, np.int64)
        if self.collector is not None:
            # Behind the rounds of an earlier run, whose programs would otherwise count as the younger ones.
            self.collector.first_round = int(self.buffer.round_indices().max(initial=-1)) + 1
        # After a first training it is the Trainer's own.
        if self.lr_scheduler is not None and self.state.global_step == 0:
            self._tell(
                f"optimizers: the scheduler has to count optimizer steps: an epoch is a round of "
                f"{self.steps_per_round} (trainer.steps_per_round), not a pass over the data set"
            )
        # The Trainer begins a new log: remember evaluations before training for the model card.
        self.evaluated_before = evaluations(self.state.log_history)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(last_complete_checkpoint(self.args.output_dir))
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        finally:
            self.buffer.last_round = False

    # The methods below override SFTTrainer and Trainer. The contract test pins each of them.

    def _prepare_dataset(
        self,
        dataset: Any,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Callable[[dict[str, Any]], str] | None,
        dataset_name: str,
    ) -> Any:
        prepare = super()._prepare_dataset
        # SFTTrainer tokenises a training set once. Here rows are tokenised when they are drawn.
        if dataset is self._prompts:
            return ReplayDataset(
                self.buffer,
                encode=self._encode,
                label=lambda rows: prepare(rows, processing_class, args, False, None, "replayed"),
                columns=build_columns(args),
            )
        if holds_tasks(dataset):
            return dataset
        return prepare(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # The Trainer removes columns that are not listed here.
        if self.args.scales_loss:
            self._signature_columns += [name for name in ROW_KEYS if name not in self._signature_columns]

    def _get_train_sampler(self, train_dataset: Any = None) -> PrioritizedSampler:
        return PrioritizedSampler(
            self.buffer,
            prepare=self._prepare_round,
            global_step=lambda: self.state.global_step,
            begin_round=self._begin_round,
            **self._draws(),
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss of `SFTTrainer`, with log-probabilities scaled by the numbers of rows, if any."""
        weights, columns = inputs.pop(BATCH_KEY, None), inputs.pop(OBJECTIVE_KEY, None)
        if weights is not None or columns is not None:
            model = with_scaled_log_probs(model, weights, columns, self._coefficients)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def num_examples(self, dataloader: Any) -> int:
        """Return the number of examples in an epoch; for the replay data set, the number of draws in a round."""
        # The replay data set is as long as the buffer, which is empty at first and grows.
        if isinstance(dataloader.dataset, ReplayDataset):
            return self.steps_per_round * self.draws_per_step
        return int(super().num_examples(dataloader))

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the model: on tasks by generating and judging programs, on other data as `SFTTrainer` does.

        Args:
            eval_dataset: Tasks or another evaluation set, or the name of a set in the trainer's own `eval_dataset`;
                None for the whole of it.
            ignore_keys: As in `Trainer.evaluate`; not used for tasks.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            For tasks `eval_pass_rate`, `eval_accuracy`, `eval_pass@k` (k as a number) and the counts of `TaskScores`.
        """
        # The Trainer names the sets of a dictionary one by one.
        given = eval_dataset if isinstance(eval_dataset, str) else as_eval_dataset(eval_dataset)
        chosen = self.eval_dataset if given is None else given
        if isinstance(chosen, str):
            chosen = self.eval_dataset[chosen]
        if not holds_tasks(chosen):
            return dict(super().evaluate(given, ignore_keys, metric_key_prefix))
        metrics = self._evaluate_tasks(chosen, metric_key_prefix)
        self._log_apart(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._renew_card()
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Generate and judge programs for tasks; predict other data as `SFTTrainer` does.

        Args:
            test_dataset: Tasks, or a tokenised data set.
            ignore_keys: As in `Trainer.predict`; not used for tasks.
            metric_key_prefix: Prefix of the metrics' names.

        Returns:
            For tasks the programs of each task in `predictions`, the most probable first, and the scores in `metrics`.
        """
        given = as_eval_dataset(test_dataset)
        if not holds_tasks(given):
            return super().predict(given, ignore_keys, metric_key_prefix)
        programs: dict[int, list[str]] = {}
        metrics = self._evaluate_tasks(given, metric_key_prefix, programs)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        found = dict(gather_object(list(programs.items())))
        return PredictionOutput(predictions=[found[at] for at in range(len(given))], label_ids=None, metrics=metrics)

    def _evaluate_tasks(
        self, rows: datasets.Dataset, prefix: str, programs: dict[int, list[str]] | None = None
    ) -> dict[str, float]:
        """Return the scores on tasks; the programs of this process's tasks are put into `programs`, by position."""

        def keep(position: int, judged: list[JudgedProgram]) -> None:
            if programs is not None:
                programs[position] = [one.program for one in judged]

        tasks = self._put(load_tasks(rows, format="native"))
        quiet = self.args.disable_tqdm
        with warnings_above_bars():
            scores = evaluate_tasks(
                tasks, self.beam_search(), self.judge, student=self.student, quiet=quiet, on_judged=keep
            )
            if self.is_world_process_zero():
                say(scores.line(prefix), log_level=self.args.get_process_log_level())
        return {f"{prefix}_{name}": value for name, value in scores.metrics().items()}

    def _renew_card(self) -> None:
        # During training each checkpoint writes the card. After it, an evaluation is of the final weights.
        trained = self.state.global_step > 0 and not self.is_in_train
        if trained and self.is_world_process_zero() and (Path(self.args.output_dir) / "README.md").is_file():
            self.create_model_card(model_name=Path(self.hub_model_id or self.args.output_dir).name)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card of the run; see `trl_pper.training.card`."""
        # TRL's card is written first: our card takes over its metadata, links and citations.
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            write_model_card(Path(self.args.output_dir), run_facts(self), repo_id=self.hub_model_id)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        hide_local_paths(Path(output_dir or self.args.output_dir))

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Upload the model with its card, without buffer, programs and tests; see `Trainer.push_to_hub`.

        Args:
            *args: Arguments of `Trainer.push_to_hub`.
            **kwargs: Keyword arguments of `Trainer.push_to_hub`.

        Raises:
            ValueError: The output folder has tasks or programs that would be uploaded.
        """
        check_push(self.args.output_dir, strategy=self.args.hub_strategy)
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        push_in_background(self, checkpoint_folder, push=super()._push_from_checkpoint)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            # Before the Trainer's own files, so that a complete checkpoint always has its buffer.
            save_buffer(
                folder,
                self.buffer,
                next_round=self._next_round,
                first_round=self.collector.first_round if self.collector is not None else 0,
                draws=self._draws(),
                num_processes=self.accelerator.num_processes,
                model_only=self.args.save_only_model,
            )
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        # The Trainer calls this when a run resumes, before the first `on_epoch_begin` decides whether to collect.
        if checkpoint is not None:
            self._next_round = load_buffer(Path(checkpoint), self.buffer, draws=self._draws())
            if self.collector is not None:
                self.collector.first_round = read_first_round(Path(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)
