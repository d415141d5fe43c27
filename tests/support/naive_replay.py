"""A replay buffer with a list and loops, to compare the real one with."""

import math

from trl_pper.replay.buffer import AddReport
from trl_pper.replay.experience import Experience


def make(number, task="t", pass_rate=0.5, **fields):
    return Experience(
        **{
            "task_id": task,
            "prompt": f"do {task}",
            "completion": f"c{number}",
            "program": f"g{number}",
            "pass_rate": pass_rate,
            **fields,
        }
    )


class NaiveBuffer:
    """The same store with a list and loops."""

    def __init__(self, capacity, eviction="p2value"):
        self.capacity, self.items = capacity, []
        # `min` takes the first, which is the one stored first.
        self.rank = self.p2 if eviction == "p2value" else lambda item: item.round_index

    def add(self, experiences):
        added, refreshed = self._put(experiences, lambda old, new: True)
        return AddReport(added=added, refreshed=refreshed, evicted=self._evict())

    def merge(self, *others):
        added, refreshed = self._put(
            [item for other in others for item in other], lambda old, new: new.round_index >= old.round_index
        )
        return AddReport(added=added, refreshed=refreshed, evicted=self._evict())

    def _put(self, experiences, replaces):
        added = refreshed = 0
        for new in experiences:
            for i, old in enumerate(self.items):
                if (old.task_id, old.program) == (new.task_id, new.program):
                    if replaces(old, new):
                        self.items[i], refreshed = new, refreshed + 1
                    break
            else:
                self.items.append(new)
                added += 1
        return added, refreshed

    def _evict(self):
        evicted = 0
        while self.capacity is not None and len(self.items) > self.capacity:
            self.items.remove(min(self.items, key=self.rank))
            evicted += 1
        return evicted

    @staticmethod
    def p2(item):
        possibility = item.possibility()
        return item.pass_rate if math.isnan(possibility) else 0.5 * possibility + 0.5 * item.pass_rate
