"""The part of the model card that is ours: what the buffer held, and under which isolation it was judged.

Enters: a buffer and the run's rounds. Leaves: a Markdown section behind TRL's own card. No task, program or test is
quoted.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader

from trl_pper import __version__
from trl_pper.collection_report import CollectionReport
from trl_pper.replay import ReplayBuffer


def replay_section(buffer: ReplayBuffer, *, rounds: Sequence[CollectionReport] = (), isolation: str) -> str:
    """Return the section as Markdown.

    Args:
        buffer: What was replayed; may be empty.
        rounds: What each collection did, in order.
        isolation: The judge's isolation level.
    """
    # Markdown, and nothing but numbers and names of our own goes in: no HTML to escape.
    environment = Environment(loader=PackageLoader("trl_pper"), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("model_card.md.j2").render(
        version=__version__,
        programs=len(buffer),
        tasks=len({one.task_id for one in buffer}),
        solved=len({one.task_id for one in buffer if one.pass_rate == 1.0}),
        pass_rate=float(buffer.pass_rates().mean()) if len(buffer) else None,
        sources=sorted({one.source for one in buffer}),
        settings=buffer.settings(),
        rounds=rounds,
        isolation=isolation,
    )
