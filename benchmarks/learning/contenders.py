"""Name the ways to learn that the bench compares, and the settings that it compares them in.

All contenders of a setting generate and judge the same number of programs, and take the same number of optimizer steps
on minibatches of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trl_pper import DrawRule, ProgramColumns

ROUNDS = 3
STEPS_PER_ROUND = 50
TASKS = 200
PROGRAMS_PER_TASK = 3
#: With 200 tasks of 3 programs each program is drawn once a round on average.
BATCH_SIZE = 12

#: Options that all trainers have alike.
ALIKE: Mapping[str, Any] = {
    # Later rounds have more right programs: a rate that falls would learn least from these.
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "bf16": False,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "gradient_checkpointing": False,
    "logging_steps": 10,
    "log_level": "error",
}
#: The rate at which "filter" learns most, see the study "rates".
LEARNING_RATE = 5e-4

Method = Literal["none", "references", "pper", "grpo", "dpo"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to learn.

    Args:
        method: The trainer: none, PPER on reference programs, PPER on generated programs, or TRL's GRPO or DPO.
        options: Options of the trainer's configuration.
        repairs: Number of repair experiences for each task and round.
        priority: A priority function, for a buffer that is passed to the trainer.
        contrast: Weight of the contrast of `ContrastTrainer`, 0 for none.
    """

    method: Method = "pper"
    options: Mapping[str, Any] = field(default_factory=dict)
    repairs: int = 0
    priority: Callable[..., Any] | None = None
    contrast: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The conditions that contenders meet.

    Args:
        family: Name of the task family.
        regime: How often the base model's programs pass, see `base_models.REGIMES`.
        tests: Tests of each training task; held-out tasks have 8.
        programs: Programs for each task and round.
        decoding: "beam" or "nucleus".
        rounds: Rounds of collection; 1 for a single collection, from which all steps are drawn.
        source: Who writes: the model in training, a base model of the regime "common" (a teacher), or the teacher in
            the first round and the model in the others.
    """

    family: str = "lists"
    regime: str = "rare"
    tests: int = 8
    programs: int = PROGRAMS_PER_TASK
    decoding: str = "beam"
    rounds: int = ROUNDS
    source: Literal["self", "teacher", "mixed"] = "self"

    @property
    def name(self) -> str:
        """A name that tells the setting apart, for files and tables."""
        parts = [self.family, self.regime]
        parts += [f"{self.tests} tests"] * (self.tests != 8)
        parts += [f"{self.programs} programs"] * (self.programs != PROGRAMS_PER_TASK)
        parts += [self.decoding] * (self.decoding != "beam")
        parts += ["one collection"] * (self.rounds == 1)
        parts += [self.source] * (self.source != "self")
        return ", ".join(parts)


def tail(
    p2values: NDArray[np.float64], task: NDArray[np.int64], pass_rate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the integral of 1 / N(t) over t from 0 to each pass rate, shape [n].

    N(t) is the number of the task's programs whose pass rate is at least t, so that every threshold has the same
    weight, however few programs reach it.
    """
    priorities = np.zeros(len(p2values))
    for chosen in (np.flatnonzero(task == one) for one in np.unique(task)):
        reached, below = 0.0, 0.0
        for index in chosen[np.argsort(pass_rate[chosen], kind="stable")]:
            at_least = np.count_nonzero(pass_rate[chosen] >= pass_rate[index])
            reached += (pass_rate[index] - below) / at_least
            below = pass_rate[index]
            priorities[index] = reached
    return priorities


def best_in_all_rounds(
    p2values: NDArray[np.float64], task: NDArray[np.int64], pass_rate: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the probabilities of the default before the last round, shape [n], whatever the round."""
    rule = DrawRule(priority="best")
    return rule.probabilities(ProgramColumns(p2values, task=task, pass_rate=pass_rate))


CONTENDERS: dict[str, Contender] = {
    "no training": Contender(method="none"),
    "references": Contender(method="references", options={"priority": "uniform"}),
    "filter": Contender(options={"priority": "filter"}),
    "filter, equal tasks": Contender(options={"priority": "filter", "task_weight": "equal"}),
    "uniform": Contender(options={"priority": "uniform"}),
    "proportional, exponent 1": Contender(options={"priority": "proportional", "priority_exponent": 1.0}),
    "proportional, exponent 4": Contender(options={"priority": "proportional", "priority_exponent": 4.0}),
    "rank": Contender(options={"priority": "rank"}),
    "paper": Contender(options={"preset": "paper"}),
    "best": Contender(options={"priority": "best"}),
}
MAIN = tuple(CONTENDERS)

#: Variants of the default.
VARIANTS: dict[str, Contender] = {
    "best, temperature 0": Contender(options={"priority": "best", "priority_temperature": 0.0}),
    "best, temperature 0.03": Contender(options={"priority": "best", "priority_temperature": 0.03}),
    "best, temperature 0.1": Contender(options={"priority": "best", "priority_temperature": 0.1}),
    "best, pass rates only": Contender(options={"priority": "best", "possibility_weight": 0.0}),
    "best, task exponent 4": Contender(options={"priority": "best", "task_exponent": 4.0}),
    "best, task exponent 8": Contender(options={"priority": "best", "task_exponent": 8.0}),
    "best, near misses in all rounds": Contender(priority=best_in_all_rounds),
    "best, equal tasks": Contender(options={"priority": "best", "task_weight": "equal"}),
    "best, age decay 50": Contender(options={"priority": "best", "age_decay": 50.0}),
    "best, learnability": Contender(options={"priority": "best", "task_weight": "learnability"}),
    "tail": Contender(priority=tail),
    "filter, unsolved tasks": Contender(options={"priority": "filter", "task_weight": "unsolved"}),
    "filter, probable": Contender(options={"priority": "filter", "task_weight": "equal", "possibility_exponent": 1.0}),
    "filter, improbable": Contender(
        options={"priority": "filter", "task_weight": "equal", "possibility_exponent": -1.0}
    ),
    "filter, 1 a task": Contender(options={"priority": "filter", "task_weight": "equal", "programs_per_task": 1}),
    "filter, age decay 50": Contender(options={"priority": "filter", "task_weight": "equal", "age_decay": 50.0}),
}

#: Eq. 6 and 7 over their two weights, as in appendices A to C of the paper.
ABLATIONS: dict[str, Contender] = {
    f"{priority}, a = {weight}, e = {exponent}": Contender(
        options={"priority": priority, "possibility_weight": weight, "priority_exponent": exponent}
    )
    for priority in ("proportional", "rank")
    for weight in (0.0, 0.2, 0.5, 0.8, 1.0)
    for exponent in (1.0, 4.0)
}

#: Other trainers, and losses that learn from failed programs as well.
OTHERS: dict[str, Contender] = {
    **{
        f"{objective}, {weight} tasks": Contender(
            options={"objective": objective, "priority": "uniform", "task_weight": weight}
        )
        for objective in ("topr", "nft", "asymre")
        for weight in ("equal", "learnability")
    },
    "importance, filter": Contender(options={"objective": "importance", "priority": "filter", "task_weight": "equal"}),
    "best, DFT": Contender(options={"priority": "best", "loss_type": "dft"}),
    "best, contrast 0.1": Contender(options={"priority": "best"}, contrast=0.1),
    "best, contrast 1": Contender(options={"priority": "best"}, contrast=1.0),
    "best, repairs": Contender(options={"priority": "best"}, repairs=1),
    "GRPO": Contender(method="grpo"),
    "DPO": Contender(method="dpo"),
}
#: Learning rates. All contenders but GRPO and DPO have the one at which "filter" learns most.
RATES: dict[str, Contender] = {
    f"filter, {schedule} rate {rate}": Contender(
        options={"priority": "filter", "learning_rate": rate, "lr_scheduler_type": schedule}
    )
    for schedule, rate in (("constant", 2.5e-4), ("constant", 1e-3), ("linear", 1e-3), ("linear", 2e-3))
} | {
    f"{name}, rate {rate}": Contender(method=method, options={"learning_rate": rate})
    for name, method in (("GRPO", "grpo"), ("DPO", "dpo"))
    for rate in (1e-5, 1e-4, 5e-4)
}
#: Numbers that the default might have.
TUNING = (
    "best", "best, near misses in all rounds", "best, task exponent 4", "best, task exponent 8",
    "best, temperature 0", "best, temperature 0.03", "best, pass rates only",
)  # fmt: skip
CONTENDERS |= VARIANTS | ABLATIONS | OTHERS | RATES

#: The contenders of settings besides those of the main table.
FEW = ("filter", "uniform", "proportional, exponent 4", "best")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A part of the bench: settings, contenders and seeds, each with each.

    Args:
        settings: The settings.
        contenders: Names of contenders.
        seeds: Number of seeds.
        first_seed: The first of them.
    """

    settings: tuple[Setting, ...]
    contenders: tuple[str, ...]
    seeds: int
    first_seed: int = 0


STUDIES: dict[str, Study] = {
    "main": Study(
        settings=tuple(Setting(regime=regime) for regime in ("rare", "common", "almost_none")),
        contenders=MAIN,
        seeds=10,
    ),
    "variants": Study(settings=(Setting(),), contenders=tuple(VARIANTS), seeds=4),
    "others": Study(settings=(Setting(),), contenders=tuple(OTHERS), seeds=4),
    "families": Study(
        settings=tuple(
            Setting(family=family, regime=regime)
            for family in ("strings", "conditionals", "stdin")
            for regime in ("rare", "common")
        ),
        contenders=FEW,
        seeds=3,
    ),
    "conditions": Study(
        settings=(
            Setting(tests=2),
            Setting(programs=1),
            Setting(programs=5),
            Setting(programs=10),
            Setting(decoding="nucleus"),
            Setting(rounds=1, programs=ROUNDS * PROGRAMS_PER_TASK),
            Setting(source="teacher"),
            Setting(source="mixed"),
        ),
        contenders=FEW,
        seeds=3,
    ),
    # Where passes are rare, nearly all of them learn next to nothing.
    "ablations": Study(settings=(Setting(regime="common"),), contenders=tuple(ABLATIONS), seeds=3),
    # On seeds that no other table has.
    "tuning": Study(
        settings=(Setting(), Setting(regime="almost_none")), contenders=("filter", *TUNING), seeds=4, first_seed=20
    ),
    "rates": Study(settings=(Setting(),), contenders=("filter", *RATES), seeds=4, first_seed=20),
    "quick": Study(settings=(Setting(regime="common"),), contenders=("filter", "best"), seeds=1),
}
