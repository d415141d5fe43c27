"""Remembers verdicts of equal programs on equal tests under equal limits: beams and samples repeat themselves.

Enters: verdicts. Leaves: the same verdicts. What may come out otherwise the next time is not remembered: timeouts,
exhausted memory, and everything that says nothing about the program.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from trl_pper.judge.limits import Limits
from trl_pper.task import Tests
from trl_pper.verdict import UNJUDGED, Outcome, Verdict

#: Outcomes that depend on more than program, tests and limits.
_UNSTEADY = UNJUDGED - {Outcome.UNSUPPORTED} | {Outcome.TIMEOUT, Outcome.MEMORY_LIMIT}


class VerdictCache:
    """A bounded, thread-safe store of verdicts; the least recently used goes first.

    Args:
        capacity: Verdicts kept; 0 keeps none.

    Raises:
        ValueError: `capacity` is not a whole number of at least 0.
    """

    def __init__(self, capacity: int) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0:
            raise ValueError(f"cache_size: must be a whole number of at least 0; got {capacity!r}")
        self.capacity = capacity
        self._lock = threading.Lock()
        self._verdicts: OrderedDict[tuple[str, Tests, Limits], Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, program: str, tests: Tests, limits: Limits) -> Verdict | None:
        """Return the verdict of an equal program on equal tests under equal limits, or None."""
        key = (program, tests, limits)
        with self._lock:
            verdict = self._verdicts.get(key)
            if verdict is not None:
                self._verdicts.move_to_end(key)
            return verdict

    def put(self, program: str, tests: Tests, limits: Limits, verdict: Verdict) -> None:
        """Remember `verdict`, unless it may come out otherwise the next time."""
        if self.capacity == 0 or not _UNSTEADY.isdisjoint(verdict.outcomes):
            return
        with self._lock:
            self._verdicts[program, tests, limits] = verdict
            while len(self._verdicts) > self.capacity:
                self._verdicts.popitem(last=False)
