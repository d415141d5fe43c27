"""What a trainer knows of its run, for the model card.

Enters: a `PPERTrainer`. Leaves: `RunFacts`: numbers and names, no text of tasks or programs.
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import is_peft_model

from trl_pper.eval_history import changes, evaluations
from trl_pper.mixture import count_by_source
from trl_pper.model_card import RunFacts


def facts_of(trainer: Any) -> RunFacts:
    """Sum a run up; the judge is started to ask for its isolation level, if the run has one."""
    collector, args, state = trainer.collector, trainer.args, trainer.state
    logged = [*trainer.evaluated_before, *evaluations(state.log_history)]
    judges = collector is not None or any("eval_tasks" in entry for entry in logged)
    return RunFacts(
        contents=trainer.buffer.contents(),
        settings=trainer.buffer.settings(),
        tasks=count_by_source(collector.tasks or []) if collector is not None else [],
        rounds=collector.reports if collector is not None else [],
        evaluated=changes(logged, kept_step=state.best_global_step if args.load_best_model_at_end else None),
        eval_tasks=next((int(entry["eval_tasks"]) for entry in reversed(logged) if "eval_tasks" in entry), None),
        benchmark=args.eval_benchmark,
        isolation=trainer.judge.isolation if judges else None,
        adapter=is_peft_model(trainer.model),
    )
