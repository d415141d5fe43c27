"""Check the settings of a replay buffer, and convert them to plain values and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from trl_pper.replay.experience import POSSIBILITIES
from trl_pper.replay.priority import PriorityFunction, draw_probabilities, needs_function, p2value, priority_name

#: Which experience a full buffer evicts first: of the lowest P2Value, or of the earliest round.
EVICTIONS = ("p2value", "age")


@dataclass(frozen=True, kw_only=True)
class BufferSettings:
    """The settings of a buffer; `ReplayBuffer` describes each setting.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """

    capacity: int | None = None
    seed: int = 0
    possibility_weight: float = 0.5
    possibility: str = "mean"
    priority: str | PriorityFunction = "proportional"
    priority_exponent: float = 1.0
    eviction: str = "p2value"
    mask_truncated_completions: bool = False

    def __post_init__(self) -> None:
        if self.capacity is not None and not (_is_number(self.capacity, Integral) and self.capacity >= 1):
            raise ValueError(
                f"capacity: must be a whole number of at least 1, or None for no bound; got {self.capacity!r:.80}"
            )
        if not (_is_number(self.seed, Integral) and 0 <= self.seed < 2**64):
            raise ValueError(f"seed: must be a whole number in [0, 2**64); got {self.seed!r:.80}")
        for name in ("possibility_weight", "priority_exponent"):
            if not _is_number(getattr(self, name), Real):
                raise ValueError(f"{name}: must be a number; got {getattr(self, name)!r:.80}")
        if not isinstance(self.priority, str) and not callable(self.priority):
            raise ValueError(f"priority: must be a name or a function; got {self.priority!r:.80}")
        if not isinstance(self.mask_truncated_completions, bool):
            raise ValueError(
                f"mask_truncated_completions: must be True or False; got {self.mask_truncated_completions!r:.80}"
            )
        for name, known in (("possibility", POSSIBILITIES), ("eviction", EVICTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: must be one of {', '.join(known)}; got {getattr(self, name)!r:.80}")
        # A function of the module `priority` is replaced by its name, which files can store.
        name_of_priority = priority_name(self.priority)
        if name_of_priority is not None and not needs_function(name_of_priority):
            object.__setattr__(self, "priority", name_of_priority)
        # Called without programs for the checks of weight, priority and exponent: they are the same in every call.
        p2value([], [], possibility_weight=self.possibility_weight)
        draw_probabilities([], priority=self.priority, exponent=self.priority_exponent)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values; a priority function becomes its name."""
        # Not `asdict`, which copies a priority function, if it can be copied at all.
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {"priority": priority_name(self.priority)}

    @classmethod
    def from_dict(
        cls, settings: Mapping[str, Any], *, priority: str | PriorityFunction | None = None
    ) -> BufferSettings:
        """Build settings from the plain values of `to_dict`.

        Args:
            settings: All settings, as plain values.
            priority: The priority function, required if the settings name a function.

        Raises:
            ValueError: A setting is missing, unknown or out of range, or the settings name a function other than
                `priority`.
        """
        names = {field.name for field in fields(cls)}
        # Files of versions before 5 lack it.
        if set(settings) | {"mask_truncated_completions"} != names:
            raise ValueError(f"settings: must hold {sorted(names)}; got {sorted(settings)}")
        chosen = dict(settings)
        if needs_function(str(settings["priority"])):
            if not callable(priority) or priority_name(priority) != settings["priority"]:
                raise ValueError(
                    f"priority: the state was written with {settings['priority']!r}, and a state contains no code. "
                    f"Pass that function; got {priority_name(priority)!r}"
                )
            chosen["priority"] = priority
        return cls(**chosen)


def _is_number(value: object, kind: type) -> bool:
    # Python counts bool as a whole number, and JSON files may hold `true`.
    return isinstance(value, kind) and not isinstance(value, bool)


def one_tokenizer(*tokenizers: str | None) -> str | None:
    """Return the common tokenizer of buffers to be merged; None if it is unknown for all of them.

    Raises:
        ValueError: The tokenizers differ.
    """
    # An unknown tokenizer mixes with any other: buffers made by hand need none.
    known = list(dict.fromkeys(name for name in tokenizers if name is not None))
    if len(known) > 1:
        raise ValueError(
            f"tokenizer: must be the same for all buffers, as their log-probabilities refer to its tokens; "
            f"got {', '.join(map(repr, known))}. Collect anew with one tokenizer, or score the programs again "
            "and set the buffer's tokenizer"
        )
    return known[0] if known else None
