"""Run reference programs on new inputs inside the judge, and return the outputs that can serve as expectations.

An output counts only if the program ends well, in time, and prints the same in two processes with different hash
seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from trl_pper.judge.cluster.judge import RayJudge
from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome
from trl_pper.tasks.task import CodingTask, StdioCase, StdioTests

#: A reference must answer within this part of a test's CPU seconds, because other right programs may be slower.
CPU_SHARE = 0.25
#: Longest output that can become an expectation, in characters.
MAX_OUTPUT_CHARS = 100_000
NOT_TWICE_THE_SAME = "not twice the same"
_SEEDS = (1, 2)
_MAX_TIMEOUTS = 3

#: Script that reads arguments as literals, calls the function and prints the result as a literal. A result without a
#: literal raises TypeError. Items of sets and dictionaries are sorted, because equal ones may have different orders.
_DRIVER = """\
import ast, sys, types

def _text(value):
    kind = type(value)
    if kind in (str, bytes, bool, int, float, type(None)):
        return repr(value)
    if kind is list:
        return "[" + ", ".join(map(_text, value)) + "]"
    if kind is tuple:
        return "(" + "".join(_text(item) + ", " for item in value) + ")"
    if kind is set:
        return "{{" + ", ".join(sorted(map(_text, value))) + "}}" if value else "set()"
    if kind is dict:
        return "{{" + ", ".join(sorted(_text(key) + ": " + _text(item) for key, item in value.items())) + "}}"
    raise TypeError(kind.__name__ + " has no literal")

_print, _places, _keywords = print, *ast.literal_eval(sys.stdin.read())
_module = types.ModuleType("__main__")
sys.modules["__main__"] = _module
exec(compile({program!r}, "program.py", "exec"), _module.__dict__)
_written = sys.stdout
sys.stdout = open("/dev/null", "w")
_value = eval({function!r}, _module.__dict__)(*_places, **_keywords)
_print(_text(_value), file=_written)
_written.flush()
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A program and the inputs to run it on.

    Args:
        program: Program that reads standard input.
        inputs: Distinct input texts.
        cpu_seconds: CPU seconds allowed for a test of the task; None takes the judge's limit.
    """

    program: str
    inputs: tuple[str, ...]
    cpu_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The output of a program for an input, or the reason why there is no usable output ("" if there is an output)."""

    output: str = ""
    reason: str = ""


def as_script(program: str, function: str) -> str:
    """Return a script that reads a tuple and a dictionary of arguments, calls the function and prints its result."""
    return _DRIVER.format(program=program, function=function)


def answers(questions: Sequence[Question], judge: Judge) -> Iterator[list[Answer]]:
    """Run every program on all of its inputs, twice, and yield the answers for each program.

    Args:
        questions: Programs with their inputs.
        judge: Judge that sets the number of workers, the isolation level and the limits; it runs nothing itself. For
            a judge of a cluster, too, programs run on this machine, where their outputs are recorded.
    """
    # The hash seed decides the order of sets of text. Answers that depend on it differ between the runs.
    runs = [_run(questions, judge, seed) for seed in _SEEDS]
    for first, second in zip(*runs, strict=True):
        yield [_agreed(one, other) for one, other in zip(first, second, strict=True)]


@dataclass(eq=False)
class _Recorder:
    """A comparison for `StdioTests` that records the outputs it compares, and always returns `passes`."""

    passes: bool
    printed: dict[str, str] = field(default_factory=dict)

    def __call__(self, given: str, output: str, expected: str) -> bool:
        # A character more than the limit shows that the output is too long.
        self.printed[given] = output[: MAX_OUTPUT_CHARS + 1]
        return self.passes


def _run(questions: Sequence[Question], judge: Judge, seed: int) -> list[list[Answer]]:
    limits = replace(judge.limits, cpu_seconds=CPU_SHARE * judge.limits.cpu_seconds, max_timeouts=_MAX_TIMEOUTS)
    # The judge continues in the same process only after a passed test. The first run passes all tests and can
    # share a process; the second fails all, so that each input gets a process of its own.
    recorders = [_Recorder(seed == _SEEDS[0]) for _ in questions]
    tasks = [_task(one, recorder, limits) for one, recorder in zip(questions, recorders, strict=True)]
    asked = [(task, [one.program]) for task, one in zip(tasks, questions, strict=True) if task is not None]
    # Without a cache: a remembered verdict would call no comparison, and record nothing.
    workers = None if isinstance(judge, RayJudge) else judge.workers
    with Judge(workers, judge.isolation, limits, cache_size=0, seed=seed) as runner:
        verdicts = iter(runner.run(asked))
    found = []
    for one, task, recorder in zip(questions, tasks, recorders, strict=True):
        outcomes = next(verdicts)[0].outcomes if task is not None else ()
        found.append([_answer(given, how, recorder) for given, how in zip(one.inputs, outcomes, strict=True)])
    return found


def _task(question: Question, recorder: _Recorder, limits: Limits) -> CodingTask | None:
    if not question.inputs:
        return None
    cases = tuple(StdioCase(input=given, output="") for given in question.inputs)
    seconds = None if question.cpu_seconds is None else CPU_SHARE * question.cpu_seconds
    return CodingTask(
        task_id="reference", prompt="reference", tests=StdioTests(cases=cases, compare=recorder), cpu_seconds=seconds
    )


def _answer(given: str, outcome: Outcome, recorder: _Recorder) -> Answer:
    if given not in recorder.printed or outcome not in (Outcome.PASSED, Outcome.WRONG_ANSWER):
        return Answer(reason="raises" if outcome is Outcome.RUNTIME_ERROR else str(outcome).replace("_", " "))
    output = recorder.printed[given]
    if not output.strip():
        return Answer(reason="prints nothing")
    if len(output) > MAX_OUTPUT_CHARS:
        return Answer(reason="output too long")
    # The judge decodes output with replacement characters where it is not UTF-8.
    if "\ufffd" in output:
        return Answer(reason="output is no text")
    return Answer(output=output)


def _agreed(one: Answer, other: Answer) -> Answer:
    if one.reason or other.reason:
        return one if one.reason else other
    return one if one.output == other.output else Answer(reason=NOT_TWICE_THE_SAME)
