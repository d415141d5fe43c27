"""Wrap the pass rate as a metric for `evaluate.load`; the arithmetic is in `trl_pper.metrics.compute`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from trl_pper.judge.judge import Judge
from trl_pper.metrics.compute import check_inputs, compute, require_consent

_DESCRIPTION = """
How many of their tests programs pass: pass rate, strict accuracy, pass@k and compile rate. Programs run in processes
of their own.
"""

_INPUTS = """
Args:
    predictions: for each task a list of programs, best first.
    references: for each task its tests, as the JSON string of trl_pper's native `tests` column.
    k: list of k for pass@k; those for which a task has too few programs are left out.
    judge: a `trl_pper.Judge`, to bound its workers, limits or isolation; a new one by default.
Returns:
    pass_rate, accuracy, pass@k, compile_rate, unjudged, rows
Examples:
    >>> tests = '{"type": "function", "entry_point": "f", "code": "assert f(1) == 2"}'
    >>> metric = evaluate.load(trl_pper.metrics.path("pass_rate"))
    >>> metric.compute(predictions=[["def f(x): return x + 1"]], references=[tests], k=[1])["pass@1"]
    1.0
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _INPUTS)
class PassRate(evaluate.Metric):  # type: ignore[misc]
    """A metric for `evaluate`: pass rate, accuracy, pass@k and compile rate of programs."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="arXiv:2410.12236; pass@k: arXiv:2107.03374",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Sequence(datasets.Value("string")), "references": datasets.Value("string")}
            ),
            license="Apache-2.0",
        )

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Add programs and tests of some tasks.

        Args:
            predictions: Programs of each task, best first.
            references: Tests of each task, as native JSON.
            **kwargs: Passed on to `evaluate`, which refuses them.
        """
        # Checked before Arrow, which would accept a missing program, and refuse other values in terms of its
        # own types.
        check_inputs(predictions, references)
        for index, tests in enumerate(references):
            if not isinstance(tests, str):
                raise ValueError(
                    f"references[{index}]: must be the JSON text of the native `tests` column; got "
                    f'{type(tests).__name__}. Write it with `CodingTask.to_row`, which has it under "tests"'
                )
        super().add_batch(predictions=list(predictions), references=list(references), **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Add programs and tests of a single task.

        Args:
            prediction: Programs of the task, best first.
            reference: Tests of the task, as native JSON.
            **kwargs: Passed on to `evaluate`, which refuses them.
        """
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(
        self,
        predictions: list[list[str]],
        references: list[str],
        k: Sequence[int] = (1, 10),
        judge: Judge | None = None,
    ) -> dict[str, Any]:
        # Only here: results are gathered before, but programs run in `compute`.
        require_consent()
        return compute(predictions, references, k=k, judge=judge)
