"""Numbers that a source is made with: each is checked before anything is generated, and named where it will not do.

Enters: numbers by the names of their arguments. Leaves: nothing, or a ValueError.
"""

from __future__ import annotations


def check_at_least_one(**counts: int) -> None:
    """Raise ValueError unless every count is at least 1."""
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}: must be at least 1; got {value}")


def check_above_zero(**numbers: float | None) -> None:
    """Raise ValueError unless every number that is given is above 0."""
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name}: must be above 0; got {value}")


def check_not_negative(**numbers: float) -> None:
    """Raise ValueError unless every number is at least 0."""
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(f"{name}: must not be negative; got {value}")
