"""Keep the console to a line for each round: the figures of rounds go to log and trackers only.

The Trainer prints its log as dictionaries. The figures of a round travel with the next entry of a training step, and a
line of their own has been printed already.
"""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import CallbackHandler

#: Beginning of the names of a round's figures in logs.
PREFIX = "pper/"


class _WithoutRounds(TrainerCallback):  # type: ignore[misc]
    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any) -> None:
        """Print an entry without the figures of rounds; nothing if nothing else is in it."""
        shown = {name: value for name, value in (logs or {}).items() if not name.startswith(PREFIX)}
        if shown:
            super().on_log(args, state, control, logs=shown, **others)


class _Printer(_WithoutRounds, PrinterCallback):  # type: ignore[misc]
    pass


class _Progress(_WithoutRounds, ProgressCallback):  # type: ignore[misc]
    pass


def print_lines_only(handler: CallbackHandler) -> None:
    """Replace the Trainer's own printers among the callbacks by printers that leave out the figures of rounds."""
    replacements = {PrinterCallback: _Printer, ProgressCallback: _Progress}
    # Printers of other classes belong to the user or to a notebook.
    handler.callbacks = [replacements[type(one)]() if type(one) in replacements else one for one in handler.callbacks]
