"""The settings of a replay buffer: their checks, and what of them comes back from a file.

Enters: settings as they were given or saved. Leaves: settings that a buffer can be made with, or an error that names
the one that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl_pper.experience import POSSIBILITIES
from trl_pper.priority import PriorityFunction, draw_probabilities, needs_function, p2value, priority_name

#: What a full buffer lets go first: the lowest P2Value, or the earliest round.
EVICTIONS = ("p2value", "age")

_NAMES = ("capacity", "seed", "possibility_weight", "possibility", "priority", "priority_exponent", "eviction")


def settings_of(buffer: Any) -> dict[str, Any]:
    """Return the settings of a buffer as plain values; a priority function is given by its name."""
    return {name: getattr(buffer, name) for name in _NAMES} | {"priority": priority_name(buffer.priority)}


def known_priority(priority: str | PriorityFunction) -> str | PriorityFunction:
    """Return the name of a function of `trl_pper.priority`, so that files know it, and anything else as it is."""
    name = priority_name(priority)
    return priority if name is None or needs_function(name) else name


def check_settings(buffer: Any) -> None:
    """Raise ValueError if a setting of a buffer is out of range; the message names it."""
    if buffer.capacity is not None and buffer.capacity < 1:
        raise ValueError(f"capacity: must be at least 1, or None for no bound; got {buffer.capacity!r}")
    if not 0 <= buffer.seed < 2**64:
        raise ValueError(f"seed: must be in [0, 2**64); got {buffer.seed!r}")
    for name, known in (("possibility", POSSIBILITIES), ("eviction", EVICTIONS)):
        if getattr(buffer, name) not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)}; got {getattr(buffer, name)!r}")
    if buffer.tokenizer is not None and (not isinstance(buffer.tokenizer, str) or not buffer.tokenizer):
        raise ValueError(f"tokenizer: must be a name or None; got {buffer.tokenizer!r}")
    # No programs, but the same checks of weight, priority and exponent as every later call.
    p2value([], [], possibility_weight=buffer.possibility_weight)
    draw_probabilities([], priority=buffer.priority, exponent=buffer.priority_exponent)


def restored_settings(
    settings: Mapping[str, Any], *, priority: str | PriorityFunction | None, tokenizer: str | None
) -> dict[str, Any]:
    """Return the arguments that make a buffer of saved settings.

    Args:
        settings: What `settings_of` returned.
        priority: The priority function, if the settings name one: they hold no code.
        tokenizer: What was saved with them.

    Raises:
        ValueError: The settings are others than a buffer's, or name a function other than `priority`.
    """
    if set(settings) != set(_NAMES):
        raise ValueError(f"settings: must hold {sorted(_NAMES)}; got {sorted(settings)}")
    chosen = dict(settings) | {"tokenizer": tokenizer}
    if needs_function(str(settings["priority"])):
        if not callable(priority) or priority_name(priority) != settings["priority"]:
            raise ValueError(
                f"priority: the state was written with {settings['priority']!r}, and a state holds no code. "
                f"Pass that function; got {priority_name(priority)!r}"
            )
        chosen["priority"] = priority
    return chosen


def one_tokenizer(*tokenizers: str | None) -> str | None:
    """Return the tokenizer of buffers that are to be one; None only if it is unknown of all.

    Raises:
        ValueError: They are of different tokenizers.
    """
    known = list(dict.fromkeys(name for name in tokenizers if name is not None))
    if len(known) > 1:
        raise ValueError(
            f"tokenizer: buffers of different tokenizers do not mix, as their log-probabilities are of different "
            f"tokens; got {', '.join(map(repr, known))}. Collect anew with one tokenizer, or score the programs again "
            "and set the buffer's tokenizer"
        )
    return known[0] if known else None
