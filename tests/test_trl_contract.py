"""What `PPERTrainer` relies on in the installed TRL and transformers, pinned: an upgrade that breaks it fails here."""

import inspect

import datasets
import pytest
from transformers import Trainer
from trl import SFTTrainer

from trl_pper import PPERConfig, PPERTrainer

HOOKS = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"],
    "_get_train_sampler": ["self", "train_dataset"],
    "num_examples": ["self", "dataloader"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
}
OWN = {
    "__init__", "train", "judge", "student", "beam_search", "draws_per_step", "steps_per_round", "_complete_collector",
    "_check_prompt_room", "_on_collected", "_log_apart", "_draws", "_check_eval_tasks",
}  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_keep_their_signatures(hook):
    assert list(inspect.signature(getattr(SFTTrainer, hook)).parameters) == HOOKS[hook]
    ours = inspect.signature(getattr(PPERTrainer, hook))
    passes_on = {parameter.kind for parameter in ours.parameters.values()} >= {inspect.Parameter.VAR_POSITIONAL}
    assert passes_on or list(ours.parameters) == HOOKS[hook]


def test_only_the_listed_methods_are_ours():
    callables = {name for name, value in vars(PPERTrainer).items() if callable(value) or isinstance(value, property)}
    assert callables == set(HOOKS) | OWN
    shadowed = {name for name in OWN if hasattr(SFTTrainer, name)}
    assert shadowed == {"__init__", "train"}


def test_the_init_arguments_we_pass_on_by_keyword_exist():
    accepted = inspect.signature(SFTTrainer.__init__).parameters
    assert {
        "model", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks", "peft_config",
        "quantization_config", "data_collator", "optimizers", "formatting_func",
    } <= set(accepted)  # fmt: skip
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())


def test_the_order_of_calls_that_the_rounds_depend_on():
    loop = inspect.getsource(Trainer._inner_training_loop)
    steps = [
        "get_train_dataloader()",
        "set_initial_training_values(",
        "_prepare_for_training(",
        "on_epoch_begin(",
        "_run_epoch(",
    ]
    positions = [loop.index(step) for step in steps]
    assert positions == sorted(positions)
    assert "_load_optimizer_and_scheduler(" in inspect.getsource(Trainer._prepare_for_training)
    epoch = inspect.getsource(Trainer._run_epoch)
    assert epoch.index("skip_first_batches(") < epoch.index("iter(train_dataloader)")


def test_preparing_rows_keeps_further_columns_and_gives_ids_and_labels(make_model, tokenizer, tmp_path):
    trainer = SFTTrainer(
        make_model(),
        PPERConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[]),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}]),
        processing_class=tokenizer,
    )
    rows = datasets.Dataset.from_list([{"prompt": "a", "completion": "b", "position": 7}])
    (row,) = trainer._prepare_dataset(rows, tokenizer, trainer.args, False, None, "replayed")
    a, b = tokenizer(text="ab")["input_ids"]
    assert row["position"] == 7
    assert row["input_ids"] == [a, b, tokenizer.eos_token_id]
    assert row["labels"] == [-100, b, tokenizer.eos_token_id]
