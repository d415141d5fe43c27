"""Define the limits on a judged program: CPU time, wall time, memory, output, processes and files.

The isolation level decides how a limit is enforced, and whether it is: "processes" does not bound memory, for example.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from trl_pper.tasks.task import CodingTask

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A set of bounds on a program; CPU and wall time are per test, everything else per process.

    CPU time decides a timeout, so that a verdict does not depend on how busy the machine is. Wall time is the backstop
    for programs that sleep or wait for ever: `wall_factor * cpu_seconds + 1`.

    Args:
        cpu_seconds: CPU seconds of a test; loading the program has the same time once. A task's own `cpu_seconds`
            override it.
        wall_factor: Wall seconds allowed for each allowed CPU second.
        memory_bytes: Address space of the program's process, in bytes; at least 64 MiB.
        output_bytes: Bytes that a program may write to standard output in a stdio test; the same again for standard
            error.
        value_bytes: Encoded size of a value that crosses between tests and program (arguments, returned values).
        processes: Processes that a program may have at once; 1 means that it cannot fork. Above 1, only wall time
            bounds the CPU time of its subprocesses.
        threads: Threads that a program may have at once.
        files: Files and directories that a program may have in its working directory.
        file_bytes: Bytes of all its files together, and of each file.
        open_files: Descriptors that a program may have open; at least 16.
        max_timeouts: After this many timeouts of a program, its remaining tests are not run and count as timeouts.

    Raises:
        ValueError: A limit is not a number of its kind, or too low for an interpreter.

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
        """Wall seconds after which a test is abandoned, however little CPU time it used."""
        return self.wall_factor * self.cpu_seconds + 1.0

    def for_task(self, task: CodingTask) -> Limits:
        """Return the limits that apply to a task, which may set its own CPU seconds."""
        return self if task.cpu_seconds is None else replace(self, cpu_seconds=task.cpu_seconds)

    def to_dict(self) -> dict[str, float | int]:
        """Return the limits, and `wall_seconds`, as plain numbers by name, for a worker."""
        return {**asdict(self), "wall_seconds": self.wall_seconds}


def _check_positive_number(name: str, value: object) -> None:
    # YAML reads `yes` as a bool, which Python takes for the number 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name}: must be a finite number above 0; got {value!r}")


def _check_positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name}: must be a whole number above 0; got {value!r}")
