"""Several processes of one run: how they tell each other that they are done, or that one of them failed.

A collective of torch.distributed ends with an error when one process comes minutes after the others, as it does when
its programs all run into their time limit. Here processes meet in the key-value store that torch.distributed started
with, which knows no such clock. It is the launcher's part (torchrun, accelerate launch) to end everybody when a
process dies without a word.
"""

from __future__ import annotations

import itertools
import time

import torch.distributed
from accelerate import PartialState

_POLL_SECONDS = 0.1
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
        failed = [(index, answer) for index, answer in enumerate(answers) if answer != "well"]
        if failed and failure is None:
            index, answer = failed[0]
            raise OtherProcessFailed(f"{what}: process {index} of {len(keys)} failed with {answer}")
    if failure is not None:
        raise failure
