"""The names under which evaluations log their figures, taken apart: for the model card and for the report.

Enters: a name in a Trainer's log. Leaves: which figure it is, of which data and difficulty; nothing for other names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: `eval_accuracy`, `eval_<set>_pass@3`, `eval_accuracy_<difficulty>`, `eval_loss`, ...
_LOGGED = re.compile(
    r"eval_(?:(?P<data>.+?)_)?(?P<figure>accuracy|pass_rate|pass@\d+|loss)(?:_(?P<difficulty>.+))?", re.ASCII
)
#: `eval_mean_token_accuracy` is SFTTrainer's, of tokens and not of tasks.
_OF_TOKENS = "mean_token"


@dataclass(frozen=True, kw_only=True)
class FigureName:
    """What a name stands for.

    Args:
        figure: "accuracy", "pass_rate", "pass@<k>" or "loss".
        data: Name of the evaluation data, where there are several.
        difficulty: The difficulty of the tasks it is over; None for all.
    """

    figure: str
    data: str | None
    difficulty: str | None


def figure_named(name: str) -> FigureName | None:
    """Return what the name of a logged number stands for, or None where it is no figure of an evaluation.

    Examples:
        >>> figure_named("eval_easy_pass@3")
        FigureName(figure='pass@3', data='easy', difficulty=None)
        >>> figure_named("eval_mean_token_accuracy"), figure_named("eval_runtime")
        (None, None)
    """
    match = _LOGGED.fullmatch(name)
    return None if match is None or match["data"] == _OF_TOKENS else FigureName(**match.groupdict())
