"""Launches that would go wrong without a word are refused before anything is trained."""

from types import SimpleNamespace

import pytest

from trl_pper import PPERConfig, PPERTrainer
from trl_pper.rounds.processes import meet
from trl_pper.training.parts import check_sharding


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch, make_model, tokenizer, tasks, tmp_path):
    args = PPERConfig(str(tmp_path), use_cpu=True, bf16=False, report_to=[], max_completion_length=4)

    def trainer():
        return PPERTrainer(model=make_model(), args=args, train_dataset=tasks, processing_class=tokenizer)

    # As a scheduler may set it where no launcher is about.
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    trainer()
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RuntimeError, match="the launcher started 2 processes, but each of them sees 1"):
        trainer()


@pytest.mark.parametrize(("version", "refused"), [(1, True), (2, False)])
def test_fsdp_of_the_first_version_is_refused(version, refused):
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=version)))
    if not refused:
        check_sharding(accelerator)
        return
    with pytest.raises(ValueError, match=r"fsdp_version: must be 2.*fsdp\.yaml"):
        check_sharding(accelerator)


def test_one_process_meets_nobody_and_gets_its_own_failure():
    meet("collection")
    with pytest.raises(KeyError, match="gone"):
        meet("collection", failure=KeyError("gone"))
