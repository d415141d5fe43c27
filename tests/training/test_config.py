"""PPERConfig: defaults, presets and what it refuses."""

import pickle

import pytest

from trl_pper.training.config import PPERConfig


def config(**options) -> PPERConfig:
    return PPERConfig(**{"output_dir": "unused", "use_cpu": True, "bf16": False, "report_to": [], **options})


def test_every_option_has_a_help_text():
    from dataclasses import fields

    from trl import SFTConfig

    own = {field.name for field in fields(PPERConfig)} - {field.name for field in fields(SFTConfig)}
    assert own
    for field in fields(PPERConfig):
        if field.name in own:
            assert field.metadata["help"].endswith("."), field.name


def test_the_paper_preset_sets_what_the_paper_says():
    chosen = config(preset="paper", num_beams=7)
    assert (chosen.num_beams, chosen.possibility, chosen.priority) == (3, "product", "proportional")


@pytest.mark.parametrize(
    ("options", "exponent"),
    [
        ({}, 1.0),
        ({"priority": "proportional"}, 4.0),
        ({"priority": "proportional", "possibility": "product"}, 1.0),
        ({"priority": "rank"}, 1.0),
        ({"preset": "paper"}, 1.0),
        ({"priority_exponent": 0}, 0),
        ({"priority": "rank", "priority_exponent": 2.5}, 2.5),
    ],
)
def test_the_default_exponent_follows_how_close_the_p2values_lie(options, exponent):
    assert config(**options).priority_exponent == exponent


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 0}, "num_beams"),
        ({"num_beams": True}, "num_beams"),
        ({"num_beams": "3"}, "num_beams"),
        ({"decoding": "greedy"}, "decoding"),
        ({"num_beam_groups": 2}, "num_beam_groups"),
        ({"num_beam_groups": 0}, "num_beam_groups"),
        ({"num_beam_groups": 3, "decoding": "nucleus"}, "num_beam_groups"),
        ({"diversity_penalty": -0.1}, "diversity_penalty"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_completion_length": 0}, "max_completion_length"),
        ({"max_completion_length": 1024}, "max_completion_length"),
        ({"generation_batch_size": 0}, "generation_batch_size"),
        ({"steps_per_round": 0}, "steps_per_round"),
        ({"buffer_capacity": 0}, "buffer_capacity"),
        ({"judge_workers": -1}, "judge_workers"),
        ({"judge_cpu_seconds": 0}, "judge_cpu_seconds"),
        ({"judge_memory_bytes": 0.5}, "judge_memory_bytes"),
        ({"possibility_weight": 1.5}, "possibility_weight"),
        ({"possibility_weight": float("nan")}, "possibility_weight"),
        ({"priority_exponent": -1}, "priority_exponent"),
        ({"priority_exponent": float("inf")}, "priority_exponent"),
        ({"importance_exponent": -0.5}, "importance_exponent"),
        ({"importance_exponent": None}, "importance_exponent"),
        ({"importance_exponent": "1"}, "importance_exponent"),
        ({"loss_weighting": "pass_rate"}, "loss_weighting"),
        ({"loss_weighting": "p2value", "loss_type": "dft"}, "loss_type"),
        ({"importance_exponent": 0.4, "label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"objective": "dpo"}, "objective"),
        ({"objective": ["topr"]}, "objective"),
        ({"preset": ["paper"]}, "preset"),
        ({"priority_exponent": 10**400}, "priority_exponent"),
        ({"objective_baseline_shift": -(10**400)}, "objective_baseline_shift"),
        ({"task_exponent": 10**400}, "task_exponent"),
        ({"objective_ratio": "sum"}, "objective_ratio"),
        ({"objective_clip_high": 0}, "objective_clip_high"),
        ({"objective_clip_high": "2"}, "objective_clip_high"),
        ({"objective_baseline_shift": float("nan")}, "objective_baseline_shift"),
        ({"objective": "nft", "loss_type": "dft"}, "loss_type"),
        ({"objective": "asymre", "label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"objective": "asymre", "completion_only_loss": False}, "completion_only_loss"),
        ({"objective": "topr", "assistant_only_loss": True}, "assistant_only_loss"),
        ({"length_grouping_steps": 0}, "length_grouping_steps"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy"),
        ({"possibility": "sum"}, "possibility"),
        ({"priority": "worst"}, "priority"),
        ({"buffer_eviction": "oldest"}, "buffer_eviction"),
        ({"preset": "other"}, "preset"),
        ({"packing": True}, "packing"),
        ({"padding_free": True}, "max_length"),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config.split_batches"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config.dispatch_batches"),
        ({"push_to_hub": True, "hub_strategy": "all_checkpoints"}, "hub_strategy"),
    ],
)
def test_bad_options_are_named_before_any_work(options, named):
    with pytest.raises(ValueError, match=rf"^{named}: must be .*; got "):
        config(**options)


def test_the_remedy_for_packing_is_one_that_works():
    with pytest.raises(ValueError, match=r"^packing: .*; padding_free=True with max_length=None saves"):
        config(packing=True)
    with pytest.raises(ValueError, match=r"^max_length: must be None with padding_free, .*got 1024; set it to None"):
        config(padding_free=True)
    assert config(padding_free=True, max_length=None).padding_free


def test_losses_of_trl_stay_free_to_choose_without_weights():
    assert config(loss_type="dft", label_smoothing_factor=0.1).weighs_loss is False
    assert config(importance_exponent=0.4).weighs_loss is True
    assert config(loss_weighting="p2value").weighs_loss is True
    assert config(loss_type="dft").scales_loss is False
    assert config(objective="asymre").scales_loss is True


def test_the_options_of_the_buffer_reach_it():
    from trl_pper.training.parts import build_buffer

    chosen = {
        "seed": 4, "possibility": "product", "possibility_weight": 0.3, "priority": "rank",
        "priority_temperature": 0.1, "task_weight": "equal", "task_exponent": 3.0, "programs_per_task": 2,
        "age_decay": 50.0, "possibility_exponent": -0.5, "cpu_time_exponent": 0.25,
    }  # fmt: skip
    buffer = build_buffer(
        config(
            buffer_capacity=5, buffer_eviction="age", priority_exponent=0.7, mask_truncated_completions=True, **chosen
        )
    )
    assert buffer.settings() == {
        **chosen,
        "capacity": 5,
        "eviction": "age",
        "priority_exponent": 0.7,
        "mask_truncated_completions": True,
        "steps_per_round": 1,
    }


def test_the_options_of_decoding_reach_the_source():
    from trl_pper import BeamSearchSource, NucleusSource
    from trl_pper.training.parts import build_beam_search, build_source

    chosen = config(decoding="nucleus", num_beams=5, temperature=0.3, top_p=0.7, seed=9, max_completion_length=7)
    source = build_source(chosen)
    assert isinstance(source, NucleusSource)
    assert source.settings == {
        "method": "nucleus sampling", "num_programs": 5, "max_completion_length": 7, "temperature": 0.3,
        "top_p": 0.7, "seed": 9,
    }  # fmt: skip
    assert build_beam_search(chosen).num_beams == 5
    source = build_source(config(num_beams=6, num_beam_groups=3, diversity_penalty=0.25, possibility="product"))
    assert isinstance(source, BeamSearchSource)
    assert (source.num_beams, source.num_beam_groups, source.diversity_penalty) == (6, 3, 0.25)
    assert source.length_penalty == 0.0


def test_max_length_none_leaves_room_for_any_completion():
    assert config(max_length=None, max_completion_length=5000).max_completion_length == 5000


def test_the_hub_token_is_not_pickled():
    assert b"hf_secret" not in pickle.dumps(config(hub_token="hf_secret"))


def test_tokens_passed_on_are_used_but_not_pickled_nor_logged():
    chosen = config(model_init_kwargs={"token": "hf_secret", "nested": {"api_key": "hf_secret"}, "dtype": "float32"})
    assert b"hf_secret" not in pickle.dumps(chosen)
    assert "hf_secret" not in chosen.to_json_string()
    assert chosen.to_dict()["model_init_kwargs"]["dtype"] == "float32"
    assert pickle.loads(pickle.dumps(chosen)).model_init_kwargs["dtype"] == "float32"
    assert chosen.model_init_kwargs["token"] == "hf_secret"


@pytest.mark.parametrize("name", ["humaneval", "a/b/c", "a/b:", "a/b:c:d", "", 3, "é/b"])
def test_a_benchmark_is_named_as_on_the_hub(name):
    with pytest.raises(ValueError, match="eval_benchmark: must be None, 'owner/name' or"):
        config(eval_benchmark=name)
    assert config(eval_benchmark="a-b/c.d:e").eval_benchmark == "a-b/c.d:e"
