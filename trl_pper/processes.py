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
from typing import Any

import torch.distributed
from accelerate import PartialState

_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 10.0
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
    state = PartialState()
    if state.num_processes > 1:
        # Public torch.distributed has no word for the store of the default group; the contract test pins this one.
        store = torch.distributed.distributed_c10d._get_default_store()
        prefix = f"trl_pper/{next(_meetings)}"
        said = "" if failure is None else f"{type(failure).__name__}: {failure}"
        store.set(f"{prefix}/{state.process_index}", said or "well")
        keys = [f"{prefix}/{index}" for index in range(state.num_processes)]
        while not store.check(keys):
            time.sleep(_POLL_SECONDS)
        answers = [store.get(key).decode() for key in keys]
        store.add(f"{prefix}/read", 1)
        failed = [(index, answer) for index, answer in enumerate(answers) if answer != "well"]
        if failed:
            _wait_for_readers(store, f"{prefix}/read", len(keys))
        if failed and failure is None:
            index, answer = failed[0]
            raise OtherProcessFailed(f"{what}: process {index} of {len(keys)} failed with {answer}")
    if failure is not None:
        raise failure


def _wait_for_readers(store: Any, key: str, readers: int) -> None:
    # The store may live in a process that failed and is about to end: the others read first, if they live.
    until = time.monotonic() + _LEAVE_SECONDS
    while store.add(key, 0) < readers and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)


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
