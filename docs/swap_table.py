"""Say for each argument and option of `SFTTrainer` what `PPERTrainer` makes of it.

The page docs/from-sfttrainer.md shows this table, and `tests/training/test_swap.py` runs every row of it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Args:
        name: An argument of the trainer, or an option of its configuration.
        note: What it means; "" if it means what it means to `SFTTrainer`.
    """

    name: str
    note: str = ""


#: Arguments and options with the meaning that they have for `SFTTrainer`.
STAYS = (
    Row("model", "an id, a path or an object"),
    Row("processing_class", "a tokenizer, or a processor, whose tokenizer is used"),
    Row("data_collator"),
    Row("callbacks", "objects or classes"),
    Row("optimizers", "a scheduler counts the steps of rounds, `trainer.steps_per_round` in an epoch"),
    Row("optimizer_cls_and_kwargs"),
    Row("peft_config"),
    Row("quantization_config"),
    Row(
        "compute_loss_func", "refused with `importance_exponent`, `loss_weighting` or an `objective` other than 'sft'"
    ),
    Row("compute_metrics", "with rows of answers as `eval_dataset`; refused with tasks alone"),
    Row("preprocess_logits_for_metrics", "likewise"),
    Row("learning_rate", "if none is given, 1e-4 with a LoRA adapter, and a line says so"),
    Row("lr_scheduler_type", "`reduce_lr_on_plateau` raises the accuracy, where it lowered the loss"),
    Row("warmup_steps"),
    Row("weight_decay"),
    Row("max_grad_norm"),
    Row("optim"),
    Row("gradient_accumulation_steps"),
    Row("gradient_checkpointing"),
    Row("neftune_noise_alpha"),
    Row("loss_type", "'nll' with `importance_exponent`, `loss_weighting` or an `objective` other than 'sft'"),
    Row("label_smoothing_factor", "0 with these options"),
    Row("assistant_only_loss", "needs chat messages"),
    Row("padding_free", "with `max_length=None`"),
    Row("pad_to_multiple_of"),
    Row("truncation_mode"),
    Row("eos_token"),
    Row("pad_token"),
    Row("chat_template_path"),
    Row("model_init_kwargs"),
    Row("max_steps", "training may end within a round"),
    Row("logging_steps", "the last step of a round is logged as well, with the figures of the round"),
    Row("save_steps"),
    Row("save_total_limit"),
    Row("eval_strategy"),
    Row("eval_on_start"),
    Row("load_best_model_at_end", "by accuracy, if tasks are evaluated and `metric_for_best_model` is not given"),
    Row("metric_for_best_model", "checked before training"),
    Row("seed"),
    Row("report_to"),
    Row("disable_tqdm"),
)

#: Options with another meaning.
CHANGES = (
    Row("train_dataset", "tasks, for which programs are written, or judged programs"),
    Row("eval_dataset", "tasks are evaluated by generating and judging; rows of answers by their loss"),
    Row("num_train_epochs", "the number of rounds: a collection, then `steps_per_round` optimizer steps"),
    Row("completion_only_loss", "True by default: the model is not to imitate the prompt"),
    Row("max_length", "must hold the longest prompt and `max_completion_length`; checked before any work"),
    Row(
        "per_device_eval_batch_size",
        "for tasks the number of prompts in a batch of generation, if it is not the default",
    ),
    Row("data_seed", "decides which programs are drawn"),
    Row("shuffle_dataset", "the draw shuffles"),
    Row("dataset_text_field", "has no effect on programs; for rows of answers as in `SFTTrainer`"),
)

#: Options that are refused before anything is generated, with the value that is refused.
REFUSED = (
    Row("packing", "each drawn program is a row; `padding_free` saves the same padding"),
    Row("formatting_func", "the training rows are programs"),
    Row("dataloader_num_workers", "a worker would hold an old copy of the buffer"),
    Row("auto_find_batch_size", "the length of a round follows from the batch size"),
    Row("train_sampling_strategy", "other than random: draws are sorted by length already"),
    Row("dataset_kwargs", "`skip_prepare_dataset`: programs are tokenised as they are drawn"),
    Row("debug", "`underflow_overflow`: its hooks fail when a model generates"),
    Row("ignore_data_skip", "a resumed round would draw its first minibatches again"),
    Row("accelerator_config", "`split_batches`, `dispatch_batches`: every process reads its own part"),
    Row("hub_strategy", "`checkpoint`, `all_checkpoints`: checkpoints hold the buffer, with every task and program"),
    Row("prediction_loss_only", "with tasks alone as `eval_dataset`, as the following"),
    Row("batch_eval_metrics", ""),
    Row("include_for_metrics", ""),
    Row("eval_accumulation_steps", ""),
    Row("eval_do_concat_batches", ""),
    Row("eval_packing", ""),
)


def table(rows: tuple[Row, ...], heading: str) -> str:
    """Return rows as a table in Markdown.

    Args:
        rows: The rows.
        heading: The heading of the second column.
    """
    lines = [f"| Option | {heading} |", "|---|---|", *(f"| `{row.name}` | {row.note} |" for row in rows)]
    return "\n".join(lines) + "\n"


#: The tables of the page, by the name of their marks.
TABLES = {
    "swap-stays": lambda: table(STAYS, "Remark"),
    "swap-changes": lambda: table(CHANGES, "With `PPERTrainer`"),
    "swap-refused": lambda: table(REFUSED, "Reason"),
}
