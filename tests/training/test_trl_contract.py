"""What `PPERTrainer` relies on in the installed TRL and transformers, pinned: an upgrade that breaks it fails here."""

import inspect

import datasets
import pytest
import torch
from transformers import Trainer
from transformers.trainer_utils import HubStrategy
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_pper import PPERConfig, PPERTrainer
from trl_pper.training.push import LEFT_OUT, WITH_CHECKPOINTS

HOOKS = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "packing", "formatting_func", "dataset_name"],
    "_set_signature_columns_if_needed": ["self"],
    "_get_train_sampler": ["self", "train_dataset"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
    "num_examples": ["self", "dataloader"],
    "evaluate": ["self", "eval_dataset", "ignore_keys", "metric_key_prefix"],
    "create_model_card": ["self", "model_name", "dataset_name", "tags"],
    "push_to_hub": ["self", "commit_message", "blocking", "token", "revision", "kwargs"],
    "_push_from_checkpoint": ["self", "checkpoint_folder"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_save": ["self", "output_dir", "state_dict"],
    "log": ["self", "logs", "start_time"],
    "predict": ["self", "test_dataset", "ignore_keys", "metric_key_prefix"],
}
OWN = {
    "__init__", "train", "judge", "student", "base", "beam_search", "draws_per_step", "steps_per_round",
    "_complete_collector", "_encode", "_on_collected", "_log_apart", "_draws",
    "_check_eval_tasks", "_put", "_tell", "_evaluate_tasks", "_renew_card",
    "_begin_round", "_before_collection", "_tell_buffer", "_prepare_round", "_longest_row", "_count_draws",
    "_next_round", "_coefficients",
}  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_keep_their_signatures(hook):
    upstream = list(inspect.signature(getattr(SFTTrainer, hook)).parameters)
    # transformers 5.23 named what 5.18 to 5.22 take among the keyword arguments; ours passes either on.
    if hook == "push_to_hub" and "private" in upstream:
        upstream.remove("private")
    assert upstream == HOOKS[hook]
    ours = inspect.signature(getattr(PPERTrainer, hook))
    passes_on = {parameter.kind for parameter in ours.parameters.values()} >= {inspect.Parameter.VAR_POSITIONAL}
    assert passes_on or list(ours.parameters) == HOOKS[hook]


def test_only_the_listed_methods_are_ours():
    callables = {name for name, value in vars(PPERTrainer).items() if callable(value) or isinstance(value, property)}
    assert callables == set(HOOKS) | OWN
    shadowed = {name for name in OWN if hasattr(SFTTrainer, name)}
    assert shadowed == {"__init__", "train"}


def test_the_init_arguments_are_those_of_sft_trainer():
    accepted = inspect.signature(SFTTrainer.__init__).parameters
    ours = list(inspect.signature(PPERTrainer.__init__).parameters)
    # In the same order, since scripts pass them by position.
    assert ours == [*accepted, "buffer", "unknown"]
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


def test_the_store_that_processes_meet_in_has_what_they_use():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        store.set("said", "well")
        assert store.check(["said"])
        assert not store.check(["said", "unsaid"])
        assert store.get("said") == b"well"
        assert [store.add("read", 1), store.add("read", 0)] == [1, 1]
    finally:
        torch.distributed.destroy_process_group()


@pytest.fixture
def sft_trainer(make_model, tokenizer, tmp_path):
    rows = [{"prompt": "a", "completion": completion} for completion in ("b", "bcd")]
    return SFTTrainer(
        make_model(),
        PPERConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[]),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def test_the_loss_sums_the_fused_heads_logprobs_of_each_token(sft_trainer):
    """Loss weights scale `outputs.log_probs` of the model that `compute_loss` is handed, and nothing else."""
    batch = sft_trainer.data_collator(list(sft_trainer.train_dataset))
    calls = []

    def model(**inputs):
        calls.append(inputs)
        outputs = sft_trainer.model(**inputs)
        assert outputs.log_probs.shape == (2, batch["labels"].size(1) - 1)
        # Position j predicts token j + 1.
        assert torch.equal(outputs.log_probs != 0, batch["labels"][:, 1:] != -100)
        assert torch.equal(outputs.label_mask, batch["labels"][:, 1:] != -100)
        outputs.log_probs = torch.where(outputs.label_mask, -6.0, 0.0)
        return outputs

    assert sft_trainer.compute_loss(model, dict(batch)).item() == 6.0
    (inputs,) = calls
    assert inputs["fused_lm_head"] is True
    assert {"input_ids", "labels", "attention_mask"} <= set(inputs)


def test_liger_kernels_leave_the_head_that_loss_weights_need():
    assert '"fused_linear_cross_entropy": False' in inspect.getsource(SFTTrainer.__init__)


def test_rows_reach_the_collator_through_the_signature_columns(sft_trainer):
    sft_trainer._set_signature_columns_if_needed()
    assert sft_trainer._signature_columns == ["input_ids", "labels", "seq_lengths"]
    assert "self.data_collator" in inspect.getsource(Trainer._get_dataloader)


def test_padding_free_joins_rows_one_behind_the_other():
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True, pad_to_multiple_of=4)
    batch = collate([{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [7, 8, 9], "labels": [-100, 8, 9]}])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, -100, 8, 9, -100, -100, -100]]


def test_preparing_rows_keeps_columns_and_gives_ids_and_labels(sft_trainer, tokenizer):
    rows = datasets.Dataset.from_list([{"prompt": "a", "completion": "b", "position": 7}])
    (row,) = sft_trainer._prepare_dataset(rows, tokenizer, sft_trainer.args, False, None, "replayed")
    a, b = tokenizer(text="ab")["input_ids"]
    assert row["position"] == 7
    assert row["input_ids"] == [a, b, tokenizer.eos_token_id]
    assert row["labels"] == [-100, b, tokenizer.eos_token_id]


def test_a_push_leaves_out_what_we_think_it_leaves_out():
    patterns = 'ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]'
    for method in (Trainer.push_to_hub, Trainer._push_from_checkpoint):
        assert patterns in inspect.getsource(method)
    assert LEFT_OUT == ("_*", "checkpoint-*")
    # Both uploads of a checkpoint are watched through this attribute.
    assert "self.push_in_progress = PushInProgress(push_jobs)" in inspect.getsource(Trainer._push_from_checkpoint)
    assert {"checkpoint", "all_checkpoints"} == set(WITH_CHECKPOINTS) == {one.value for one in HubStrategy} - {
        "end", "every_save",
    }  # fmt: skip
