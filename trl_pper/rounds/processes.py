"""Wait until all processes of a run have reached the same point, and report a failure in any of them to the others.

A process that dies without raising an exception is not noticed here: the launcher (torchrun, accelerate launch) has
to end the others.
"""

from __future__ import annotations

import itertools
import os
import time

import torch
import torch.distributed
from accelerate import PartialState

# Processes meet in the key-value store of torch.distributed, not in a collective: collectives time out after some
# minutes, and a process can be later than that if all of its programs run into their time limit.
_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 10.0
_WELL = "well"
_meetings = itertools.count()


class OtherProcessFailed(RuntimeError):
    """A failure of another process of the run; the output of that process has the details."""


def meet(what: str, *, failure: BaseException | None = None) -> None:
    """Wait without a time limit until every process has called this function, and exchange failures.

    All processes have to call it the same number of times, in the same order.

    Args:
        what: Name of the work that the processes have done, for the error.
        failure: The failure of this process, which is raised again; None without a failure.

    Raises:
        OtherProcessFailed: Another process has a failure.
    """
    if PartialState().num_processes > 1:
        said = None if failure is None else f"{type(failure).__name__}: {failure}"
        try:
            answers = _exchange(f"trl_pper/{next(_meetings)}", said or _WELL)
        except torch.distributed.DistError as error:
            gone = OtherProcessFailed(f"{what}: the process that holds the store of torch.distributed has ended")
            raise failure or gone from error
        failed = [index for index, answer in enumerate(answers) if answer != _WELL]
        if failed and failure is None:
            index = failed[0]
            raise OtherProcessFailed(f"{what}: process {index} of {len(answers)} failed with {answers[index]}")
    if failure is not None:
        raise failure


def _exchange(meeting: str, said: str) -> list[str]:
    """Return the messages of all processes, once all have sent theirs."""
    state = PartialState()
    # torch.distributed has no public name for the store of the default group; a contract test pins this name.
    store = torch.distributed.distributed_c10d._get_default_store()
    store.set(f"{meeting}/{state.process_index}", said)
    keys = [f"{meeting}/{index}" for index in range(state.num_processes)]
    while not store.check(keys):
        time.sleep(_POLL_SECONDS)
    answers = [store.get(key).decode() for key in keys]
    store.add(f"{meeting}/read", 1)
    # Without a launcher that holds the store, it lives in process 0, which may be about to end: let the others read.
    until = time.monotonic() + _LEAVE_SECONDS
    while state.is_main_process and store.add(f"{meeting}/read", 0) < len(keys) and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
    return answers


def join_processes() -> None:
    """Join the other processes that a launcher started, if any; on the CPU if there is no accelerator.

    Raises:
        RuntimeError: The launcher started more processes than have joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        # Without `cpu=True` Accelerate would treat each process as a run of its own.
        PartialState(cpu=True)
    check_processes()


def check_processes() -> None:
    """Check that the processes of a launch have joined.

    Raises:
        RuntimeError: The launcher started more processes than have joined.
    """
    # Otherwise each process would train alone, and all would write into the same folder.
    started, found = int(os.environ.get("WORLD_SIZE", "1")), PartialState().num_processes
    if "LOCAL_RANK" in os.environ and started != found:
        raise RuntimeError(
            f"num_processes: the launcher started {started} processes, but each of them sees {found}. Without a GPU "
            'pass use_cpu=True (--use_cpu), or ddp_backend="gloo" (--ddp_backend gloo) with DeepSpeed; with GPUs '
            "check that torch.cuda.is_available() is True"
        )
