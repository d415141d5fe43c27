"""What one judged program may use: CPU seconds, wall time, memory, output, processes and files.

Enters: numbers with their units in their names. Leaves: a frozen, validated record that the host sends to its workers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from trl_pper.tasks.task import CodingTask

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one program; CPU and wall time are per test, everything else per process.

    CPU time decides a timeout, so that a verdict does not depend on how busy the machine is. Wall time is the backstop
    for programs that sleep or wait for ever: `wall_factor * cpu_seconds + 1`.

    Args:
        cpu_seconds: CPU seconds of one test; loading the program has the same allowance once. A task's own
            `cpu_seconds` take their place.
        wall_factor: Wall seconds allowed for each allowed CPU second.
        memory_bytes: Address space of the program's process.
        output_bytes: Bytes a program may write to standard output, and again to standard error, in one stdio test.
        value_bytes: Encoded size of one value that crosses between tests and program (arguments, returned values).
        processes: Processes a program may have at once; 1 means that it cannot fork. Above 1, CPU time of its
            subprocesses is bounded by wall time only.
        threads: Threads a program may have at once.
        files: Files and directories a program may have in its working directory.
        file_bytes: Bytes of all of them, and of any one file.
        open_files: Descriptors a program may have open.
        max_timeouts: After this many timed-out tests of one program its remaining tests count as timeouts unrun.

    Examples:
        >>> Limits(cpu_seconds=2.0).wall_seconds
        9.0
    """

    cpu_seconds: float = 10.0
    wall_factor: float = 4.0
    memory_bytes: int = 4096 * _MEBIBYTE
    output_bytes: int = 16 * _MEBIBYTE
    value_bytes: int = 16 * _MEBIBYTE
    processes: int = 1
    threads: int = 64
    files: int = 1000
    file_bytes: int = 64 * _MEBIBYTE
    open_files: int = 128
    max_timeouts: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("cpu_seconds", "wall_factor"):
                _check_positive_number(name, value)
            else:
                _check_positive_int(name, value)
        if self.memory_bytes < 64 * _MEBIBYTE:
            raise ValueError(f"memory_bytes: an interpreter needs at least {64 * _MEBIBYTE}; got {self.memory_bytes}")
        if self.open_files < 16:
            raise ValueError(f"open_files: an interpreter needs at least 16; got {self.open_files}")

    @property
    def wall_seconds(self) -> float:
        """Wall seconds after which a test is abandoned whatever CPU time it used."""
        return self.wall_factor * self.cpu_seconds + 1.0

    def for_task(self, task: CodingTask) -> Limits:
        """Return the limits that apply to a task, which may have CPU seconds of its own."""
        return self if task.cpu_seconds is None else replace(self, cpu_seconds=task.cpu_seconds)

    def to_dict(self) -> dict[str, float | int]:
        """Return the limits as plain numbers by name, `wall_seconds` among them, for a worker."""
        return {**asdict(self), "wall_seconds": self.wall_seconds}


def _check_positive_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name}: must be a finite number above 0; got {value!r}")


def _check_positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name}: must be a whole number above 0; got {value!r}")
