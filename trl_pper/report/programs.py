"""Choose the programs that a report shows in full, and pack them into the page.

The page unpacks the compressed text when it is opened.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.report.content import NO_OUTCOMES, OUTCOMES, Content, IntArray, best_pass_rates
from trl_pper.report.near_misses import NearMisses, difference
from trl_pper.tasks.task import Prompt

#: Most characters of a program or prompt, most outcomes of a program, and most tasks listed beyond the tasks of shown
#: programs.
CHARACTERS = 8_000
TESTS = 500
TASKS = 5_000

#: A letter for each outcome, by its position in `OUTCOMES`.
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def choose_programs(content: Content, near_misses: NearMisses, limit: int) -> IntArray:
    """Return the positions of the programs to show: all of them, if they are at most `limit`.

    Otherwise these are the programs of the near misses; then, for half of the remaining places, the programs of
    highest P2Value; then a random sample of all others, the same in every run.
    """
    if limit >= len(content):
        return np.arange(len(content))
    chosen = list(dict.fromkeys(place for pair in near_misses.pairs for place in (pair.failed, pair.passing)))[:limit]
    taken = np.zeros(len(content), np.bool_)
    taken[chosen] = True
    order = np.argsort(-content.p2values, kind="stable")
    likeliest = order[~taken[order]][: (limit - len(chosen)) // 2]
    taken[likeliest] = True
    others = np.flatnonzero(~taken)
    drawn = np.random.default_rng(0).choice(others, limit - int(taken.sum()), replace=False)
    taken[drawn] = True
    return np.flatnonzero(taken)


def pack(buffer: ReplayBuffer, content: Content, near_misses: NearMisses, chosen: IntArray) -> str:
    """Return programs, tasks and near misses as compressed JSON in base64."""
    shown = {int(place): row for row, place in enumerate(chosen)}
    programs, prompts = [], {}
    for place, one in zip(chosen.tolist(), _taken(buffer, chosen), strict=True):
        programs.append(_program(one, content, place))
        prompts[int(content.task[place])] = _prompt(one.prompt)
    data = {
        "outcomes": [*map(str, OUTCOMES)],
        "unknown": NO_OUTCOMES,
        "sources": content.names["source"],
        "scorers": content.names["scorer"],
        "programs": programs,
        "tasks": _tasks(content, prompts),
        "all_tasks": len(content.tasks),
        "near_misses": _near_misses(buffer, near_misses, shown),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Without a time, so that the same buffer gives the same page.
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _taken(buffer: ReplayBuffer, places: IntArray) -> Iterator[Experience]:
    """Yield experiences in small batches."""
    # Programs may be long, and all of them as objects at a time would take much memory.
    for start in range(0, len(places), 256):
        yield from buffer.take(places[start : start + 256])


def _program(one: Experience, content: Content, place: int) -> dict[str, Any]:
    draw = None if content.draws is None else float(content.draws[place])
    return {
        "task": int(content.task[place]),
        "text": one.program[:CHARACTERS],
        "more": max(0, len(one.program) - CHARACTERS),
        "pass_rate": _short(one.pass_rate),
        "possibility": _short(float(content.possibilities[place])),
        "p2value": _short(float(content.p2values[place])),
        "draw": _short(draw),
        "outcomes": "".join(LETTERS[OUTCOMES.index(outcome)] for outcome in one.outcomes[:TESTS]),
        "tests": len(one.outcomes),
        "worst": int(content.worst[place]),
        "source": int(content.named["source"][place]),
        "scorer": int(content.named["scorer"][place]),
        "round": one.round_index,
        "truncated": one.truncated,
        "settings": one.settings[:CHARACTERS],
    }


def _tasks(content: Content, prompts: dict[int, str]) -> list[dict[str, Any]]:
    """Return the tasks with the lowest best pass rates, up to `TASKS`, and all tasks with a shown program."""
    best = best_pass_rates(content)
    total = np.bincount(content.task)
    passing = np.bincount(content.task, content.pass_rates == 1.0)
    # The last key counts most: unsolved tasks first, of these the tasks with most programs.
    order = np.lexsort((-total, passing / total, best))
    wanted = dict.fromkeys([*order[:TASKS].tolist(), *sorted(prompts)])
    return [
        {
            "number": task,
            "name": content.tasks[task],
            "programs": int(total[task]),
            "passing": int(passing[task]),
            "best": _short(float(best[task])),
            "prompt": prompts.get(task),
        }
        for task in wanted
    ]


def _prompt(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt[:CHARACTERS]
    return "\n\n".join(f"{message.get('role')}: {message.get('content')}" for message in prompt)[:CHARACTERS]


def _near_misses(buffer: ReplayBuffer, near_misses: NearMisses, shown: dict[int, int]) -> list[dict[str, Any]]:
    pairs = [pair for pair in near_misses.pairs if pair.failed in shown and pair.passing in shown]
    places = np.array([place for pair in pairs for place in (pair.failed, pair.passing)], np.int64)
    texts = [one.program for one in _taken(buffer, places)]
    return [
        {
            "failed": shown[pair.failed],
            "passing": shown[pair.passing],
            "similarity": _short(pair.similarity),
            "rows": difference(texts[2 * number], texts[2 * number + 1]),
        }
        for number, pair in enumerate(pairs)
    ]


def _short(value: float | None) -> float | None:
    """Return a number with four significant digits; None for an unknown number, because JSON has no NaN."""
    return None if value is None or math.isnan(value) else float(f"{value:.4g}")
