"""Check the settings of a replay buffer, and convert them to plain values and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from trl_pper.replay.draw_rule import DrawRule, is_number, plain_fields
from trl_pper.replay.experience import POSSIBILITIES
from trl_pper.replay.priority import PriorityFunction, needs_function, p2value, priority_name

#: Which experience a full buffer evicts first: of the lowest P2Value, or of the earliest round.
EVICTIONS = ("p2value", "age")


@dataclass(frozen=True, kw_only=True)
class BufferSettings(DrawRule):
    """The settings of a buffer, among them those of its draws; `ReplayBuffer` describes each setting.

    Raises:
        ValueError: A setting is out of range; the message names it.
    """

    capacity: int | None = None
    seed: int = 0
    possibility_weight: float = 0.5
    possibility: str = "mean"
    eviction: str = "p2value"
    mask_truncated_completions: bool = False
    steps_per_round: int = 1

    def __post_init__(self) -> None:
        plain_fields(self, "capacity", "seed", "possibility_weight", "steps_per_round")
        if self.capacity is not None and not (is_number(self.capacity, Integral) and self.capacity >= 1):
            raise ValueError(
                f"capacity: must be a whole number of at least 1, or None for no bound; got {self.capacity!r:.80}"
            )
        if not (is_number(self.seed, Integral) and 0 <= self.seed < 2**64):
            raise ValueError(f"seed: must be a whole number in [0, 2**64); got {self.seed!r:.80}")
        if not is_number(self.possibility_weight, Real):
            raise ValueError(f"possibility_weight: must be a number; got {self.possibility_weight!r:.80}")
        if not (is_number(self.steps_per_round, Integral) and self.steps_per_round >= 1):
            raise ValueError(
                f"steps_per_round: must be a whole number of at least 1; got {self.steps_per_round!r:.80}"
            )
        if not isinstance(self.mask_truncated_completions, bool):
            raise ValueError(
                f"mask_truncated_completions: must be True or False; got {self.mask_truncated_completions!r:.80}"
            )
        for name, known in (("possibility", POSSIBILITIES), ("eviction", EVICTIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: must be one of {', '.join(known)}; got {getattr(self, name)!r:.80}")
        # Called without programs for the check of the weight.
        p2value([], [], possibility_weight=self.possibility_weight)
        super().__post_init__()

    def changed(self) -> dict[str, Any]:
        """Return the settings as plain values, without those of later versions that have their default."""
        return {name: value for name, value in self.to_dict().items() if value != _LATER.get(name, _REQUIRED)}

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
        # Files of earlier versions lack later settings.
        if set(settings) | set(_LATER) != names:
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


_REQUIRED = object()
#: Settings that the first version did not have, and their defaults.
_LATER = {
    field.name: field.default
    for field in fields(BufferSettings)
    if field.name in ("mask_truncated_completions", "steps_per_round")
    or (field.name in DrawRule.__dataclass_fields__ and field.name not in ("priority", "priority_exponent"))
}


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
