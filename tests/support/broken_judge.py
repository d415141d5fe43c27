"""A judge whose sandbox fails on programs of chosen tasks, through the judge's own path."""

from collections.abc import Callable

from trl_pper import CodingTask, Judge, Outcome, Verdict
from trl_pper.judge.host.slot import total_tests


class BrokenJudge(Judge):
    """Gives a verdict of `otherwise` to each test of a task for which `breaks` is false."""

    def __init__(
        self,
        workers: int = 1,
        *,
        breaks: Callable[[CodingTask], bool] = lambda task: True,
        otherwise: Outcome = Outcome.PASSED,
    ) -> None:
        super().__init__(workers)

        def judge(task: CodingTask, program: str) -> Verdict:
            outcome = Outcome.SANDBOX_ERROR if breaks(task) else otherwise
            return Verdict.uniform(outcome, total_tests(task.tests), "no sandbox")

        for slot in self._dispatcher.slots:
            slot.judge = judge
