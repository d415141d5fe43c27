"""Define the limits on a judged program: CPU time, wall time, memory, output, processes and files.

The isolation level decides how a limit is enforced, and whether it is: "processes" does not bound memory, for example.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from trl_pper.tasks.task import MAX_CPU_SECONDS, CodingTask

_MEBIBYTE = 1 << 20
_TEBIBYTE = 1 << 40
#: The lowest and the highest value of each limit in whole numbers. Systems refuse some of the values above, and no
#: program needs any of them.
_RANGES = {
    # An interpreter needs as much; the highest is all that a process can address on common machines.
    "memory_bytes": (64 * _MEBIBYTE, 128 * _TEBIBYTE),
    "output_bytes": (1, _TEBIBYTE),
    "value_bytes": (1, _TEBIBYTE),
    "processes": (1, 1_000_000),
    "threads": (1, 1_000_000),
    "files": (1, 1_000_000_000),
    "file_bytes": (1, _TEBIBYTE),
    # An interpreter needs as much; the highest is what Linux allows by default.
    "open_files": (16, 1 << 20),
    "max_timeouts": (1, 1_000_000_000),
}
#: With the longest CPU time, wall time is still within what timers count.
_MAX_WALL_FACTOR = 1000.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A set of bounds on a program; CPU and wall time are per test, everything else per process.

    CPU time decides a timeout, so that a verdict does not depend on how busy the machine is. Wall time is the backstop
    for programs that sleep or wait for ever: `wall_factor * cpu_seconds + 1`.

    Args:
        cpu_seconds: CPU seconds of a test, at most 86,400, a day; loading the program has the same time once. A task's
            own `cpu_seconds` override it.
        wall_factor: Wall seconds allowed for each allowed CPU second; at most 1,000.
        memory_bytes: Address space of the program's process, in bytes; from 64 MiB to 128 TiB.
        output_bytes: Bytes that a program may write to standard output in a stdio test, at most 1 TiB; the same again
            for standard error.
        value_bytes: Encoded size of a value that crosses between tests and program (arguments, returned values); at
            most 1 TiB.
        processes: Processes that a program may have at once, at most a million; 1 means that it cannot fork. Above 1,
            only wall time bounds the CPU time of its subprocesses.
        threads: Threads that a program may have at once; at most a million.
        files: Files and directories that a program may have in its working directory; at most a billion.
        file_bytes: Bytes of all its files together, and of each file; at most 1 TiB.
        open_files: Descriptors that a program may have open; from 16 to 1,048,576.
        max_timeouts: After this many timeouts of a program, at most a billion, its remaining tests are not run and
            count as timeouts.

    Raises:
        ValueError: A limit is not a number of its kind, or out of its range.

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
    threads: int = 128
    files: int = 1000
    file_bytes: int = 64 * _MEBIBYTE
    open_files: int = 128
    max_timeouts: int = 2

    def __post_init__(self) -> None:
        _check_number("cpu_seconds", self.cpu_seconds, MAX_CPU_SECONDS)
        _check_number("wall_factor", self.wall_factor, _MAX_WALL_FACTOR)
        for name, (lowest, highest) in _RANGES.items():
            _check_whole_number(name, getattr(self, name), lowest, highest)

    @property
    def wall_seconds(self) -> float:
        """Wall seconds after which a test is abandoned, however little CPU time it used."""
        return self.wall_factor * self.cpu_seconds + 1.0

    def for_task(self, task: CodingTask) -> Limits:
        """Return the limits that apply to a task, which may set its own CPU seconds."""
        return self if task.cpu_seconds is None else replace(self, cpu_seconds=task.cpu_seconds)

    def to_dict(self) -> dict[str, float | int]:
        """Return the limits, and `wall_seconds`, as plain numbers by name, for a worker."""
        return {**asdict(self), "wall_seconds": self.wall_seconds}


def _check_number(name: str, value: object, highest: float) -> None:
    # YAML reads `yes` as a bool, which Python takes for the number 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= highest:
        raise ValueError(f"{name}: must be a finite number above 0 and at most {highest:,.0f}; got {value!r:.80}")


def _check_whole_number(name: str, value: object, lowest: int, highest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise ValueError(f"{name}: must be a whole number from {lowest:,} to {highest:,}; got {value!r:.80}")
