"""Several processes of one run: how they tell each other that they are done, or that one of them failed.

A collective of torch.distributed ends with an error when one process comes minutes after the others, as it does when
its programs all run into their time limit. Here processes meet in the key-value store that torch.distributed started
with, which knows no such clock. It is the launcher's part (torchrun, accelerate launch) to end everybody when a
process dies without a word.
"""

from __future__ import annotations

import itertools
import os
import time

import torch
import torch.distributed
from accelerate import PartialState

_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 10.0
_WELL = "well"
_meetings = itertools.count()


class OtherProcessFailed(RuntimeError):
    """Another process of the run failed; its own error, which says more, stands in its output."""


def meet(what: str, *, failure: BaseException | None = None) -> None:
    """Wait, for as long as it takes, until every process has come here, and say how it went.

    All processes have to call this the same number of times, in the same order.

    Args:
        what: What was being done, for the error.
        failure: What went wrong in this process, or None.

    Raises:
        OtherProcessFailed: Some process came with a failure; that process gets its failure raised as it is.
    """
    if PartialState().num_processes > 1:
        said = None if failure is None else f"{type(failure).__name__}: {failure}"
        try:
            answers = _exchange(f"trl_pper/{next(_meetings)}", said or _WELL)
        except torch.distributed.DistError as error:
            gone = OtherProcessFailed(f"{what}: the process that holds the store of torch.distributed is gone")
            raise failure or gone from error
        failed = [index for index, answer in enumerate(answers) if answer != _WELL]
        if failed and failure is None:
            index = failed[0]
            raise OtherProcessFailed(f"{what}: process {index} of {len(answers)} failed with {answers[index]}")
    if failure is not None:
        raise failure


def _exchange(meeting: str, said: str) -> list[str]:
    """Return what each process has to say, once all of them have said it."""
    state = PartialState()
    # Public torch.distributed has no word for the store of the default group; the contract test pins this one.
    store = torch.distributed.distributed_c10d._get_default_store()
    store.set(f"{meeting}/{state.process_index}", said)
    keys = [f"{meeting}/{index}" for index in range(state.num_processes)]
    while not store.check(keys):
        time.sleep(_POLL_SECONDS)
    answers = [store.get(key).decode() for key in keys]
    store.add(f"{meeting}/read", 1)
    # Without a launcher that holds it, the store lives in process 0, which may be about to end: it leaves last.
    until = time.monotonic() + _LEAVE_SECONDS
    while state.is_main_process and store.add(f"{meeting}/read", 0) < len(keys) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return answers


def join_processes() -> None:
    """Take part in the processes of a launch, if this is one: on the CPU where there is no accelerator.

    Raises:
        RuntimeError: A launcher started more processes than take part.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        # Accelerate takes each process for a run of its own otherwise.
        PartialState(cpu=True)
    check_processes()


def check_processes() -> None:
    """Refuse processes of one launch that do not know of each other: each would train alone, into the same folder.

    Raises:
        RuntimeError: A launcher started more processes than take part.
    """
    started, found = int(os.environ.get("WORLD_SIZE", "1")), PartialState().num_processes
    if "LOCAL_RANK" in os.environ and started != found:
        raise RuntimeError(
            f"num_processes: the launcher started {started} processes, but each of them sees {found}. Without a GPU "
            'pass use_cpu=True (--use_cpu), or ddp_backend="gloo" (--ddp_backend gloo) with DeepSpeed; with GPUs look '
            "whether torch.cuda.is_available()"
        )
