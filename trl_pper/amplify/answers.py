"""What reference programs answer to new inputs, found out inside the judge's jail.

Enters: programs and inputs. Leaves: what they print, for inputs on which they end well and in time and print the same
twice, in processes that hash text otherwise. The judge runs tests whose comparison is a function of this process,
which sees what was printed. In the second run it passes nothing, so that every input has a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from trl_pper.judge.judge import Judge
from trl_pper.judge.limits import Limits
from trl_pper.judge.verdict import Outcome
from trl_pper.tasks.task import CodingTask, StdioCase, StdioTests

#: A reference must answer within this share of the CPU seconds of a test: other programs may be slower, and right.
CPU_SHARE = 0.25
#: Longest output that becomes an expectation, in characters.
MAX_OUTPUT_CHARS = 100_000
NOT_TWICE_THE_SAME = "not twice the same"
_SEEDS = (1, 2)
_MAX_TIMEOUTS = 3

#: Reads arguments as literals, calls the function and prints its result as one; what has no literal ends it. Items of
#: sets and dictionaries are sorted, since they have no order that equal ones share.
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
        program: Reads standard input.
        inputs: Texts, each once.
        cpu_seconds: CPU seconds of a test of its task, or None for the judge's.
    """

    program: str
    inputs: tuple[str, ...]
    cpu_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a program printed for an input, or why that is no expectation: `reason` is "" for one that is."""

    output: str = ""
    reason: str = ""


def as_script(program: str, function: str) -> str:
    """Return a program that reads arguments, as a literal of a tuple and a dictionary, and prints what it returns."""
    return _DRIVER.format(program=program, function=function)


def answers(questions: Sequence[Question], judge: Judge) -> Iterator[list[Answer]]:
    """Run every program on all of its inputs, twice, and yield what it answers to each.

    Args:
        questions: Programs with inputs.
        judge: Whose number of workers, isolation and limits to use; it runs nothing itself.
    """
    runs = [_run(questions, judge, seed) for seed in _SEEDS]
    for first, second in zip(*runs, strict=True):
        yield [_agreed(one, other) for one, other in zip(first, second, strict=True)]


@dataclass(eq=False)
class _Recorder:
    """A comparison that keeps what it sees; `passes` is its answer, and whether one process may go on to the next."""

    passes: bool
    printed: dict[str, str] = field(default_factory=dict)

    def __call__(self, given: str, output: str, expected: str) -> bool:
        self.printed[given] = output[: MAX_OUTPUT_CHARS + 1]
        return self.passes


def _run(questions: Sequence[Question], judge: Judge, seed: int) -> list[list[Answer]]:
    limits = replace(judge.limits, cpu_seconds=CPU_SHARE * judge.limits.cpu_seconds, max_timeouts=_MAX_TIMEOUTS)
    recorders = [_Recorder(seed == _SEEDS[0]) for _ in questions]
    tasks = [_task(one, recorder, limits) for one, recorder in zip(questions, recorders, strict=True)]
    asked = [(task, [one.program]) for task, one in zip(tasks, questions, strict=True) if task is not None]
    with Judge(judge.workers, judge.isolation, limits, cache_size=0, seed=seed) as runner:
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
    if "\ufffd" in output:
        return Answer(reason="output is no text")
    return Answer(output=output)


def _agreed(one: Answer, other: Answer) -> Answer:
    if one.reason or other.reason:
        return one if one.reason else other
    return one if one.output == other.output else Answer(reason=NOT_TWICE_THE_SAME)
