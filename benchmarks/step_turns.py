"""Lets trainers take turns step by step, so that whatever else the machine does meets all of them alike.

Enters: trainers, each to be trained in a thread of its own. Leaves: the seconds of each optimizer step. Only the
trainer whose turn it is runs; a step lasts from the end of the one before, or from the beginning of its epoch, and so
holds drawing and loading too.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

#: Shape [epochs, steps], by "wall" and "cpu" (of the trainer's own thread).
Seconds = dict[str, NDArray[np.float64]]


class Turns:
    """Who runs: one of `count` threads at a time, in a fixed order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._current = 0
        self._broken: BaseException | None = None
        self._changed = threading.Condition()

    def take(self, index: int) -> None:
        """Wait for the turn of thread `index`."""
        with self._changed:
            self._changed.wait_for(lambda: self._broken is not None or self._current == index)
            if self._broken is not None:
                raise RuntimeError("another trainer failed") from self._broken

    def give(self) -> None:
        """Let the next thread run."""
        with self._changed:
            self._current = (self._current + 1) % self._count
            self._changed.notify_all()

    def stop(self, error: BaseException) -> None:
        """End all threads at their next turn."""
        with self._changed:
            self._broken = self._broken or error
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what stopped the threads, if anything did."""
        if self._broken is not None:
            raise self._broken


class StepClock(TrainerCallback):  # type: ignore[misc]
    """Takes the time of each step of one trainer and hands the turn on after it."""

    def __init__(self, turns: Turns, index: int) -> None:
        self._turns = turns
        self._index = index
        self.epochs: list[list[tuple[float, float]]] = []

    def on_epoch_begin(self, *args: Any, **others: Any) -> None:
        """Start."""
        self.epochs.append([])
        self._start()

    def on_step_end(self, *args: Any, **others: Any) -> None:
        """Stop, let the others run, and start again."""
        _finish_device()
        wall, cpu = self._began
        self.epochs[-1].append((time.perf_counter() - wall, time.thread_time() - cpu))
        self._turns.give()
        self._turns.take(self._index)
        self._start()

    def _start(self) -> None:
        _finish_device()
        self._began = time.perf_counter(), time.thread_time()

    def seconds(self, *, warm_up: int) -> Seconds:
        """Return what was measured after the first `warm_up` epochs."""
        measured = np.array(self.epochs[warm_up:])
        return {"wall": measured[..., 0], "cpu": measured[..., 1]}


def train_by_turns(trainers: dict[str, Any], *, epochs: int, warm_up: int = 1) -> dict[str, Seconds]:
    """Train each trainer `warm_up + epochs` times over, in step; each has one epoch of as many steps.

    Raises:
        Exception: What the first trainer that failed raised.
    """
    turns = Turns(len(trainers))
    clocks = {name: StepClock(turns, index) for index, name in enumerate(trainers)}

    def train(name: str, index: int) -> None:
        try:
            turns.take(index)
            for _ in range(warm_up + epochs):
                trainers[name].train()
            turns.give()
        except BaseException as error:
            turns.stop(error)

    threads = [threading.Thread(target=train, args=(name, index)) for index, name in enumerate(trainers)]
    for name, clock in clocks.items():
        trainers[name].add_callback(clock)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, clock in clocks.items():
        trainers[name].remove_callback(clock)
    turns.check()
    return {name: clock.seconds(warm_up=warm_up) for name, clock in clocks.items()}


def _finish_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
