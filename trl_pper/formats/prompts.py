"""The prompt of a problem in words: the question, the code to start from, how the program is called, and ANSWER.

Enters: what a benchmark says. Leaves: text that a base model continues with a program, and the stops at which it has
begun something else. The layout is the one that the authors of APPS fine-tuned and evaluated with
(github.com/hendrycks/apps, eval/generate_gpt_codes.py), also for CodeContests and LiveCodeBench, so that a mixture
asks in one way.
"""

from __future__ import annotations

import re

from trl_pper.syntax import Parser, parse_open

_TYPING = ("Any", "Callable", "Deque", "Dict", "Iterable", "Iterator", "List", "Optional", "Set", "Tuple", "Union")
_NAMES = re.compile(rf"\b(?:{'|'.join(_TYPING)})\b")
_LAYOUT = re.compile(r"\nQUESTION:\n(?P<text>.*)\nUse (?:Call-Based|Standard Input) format\n\nANSWER:\n", re.DOTALL)
_CODE_LINE = re.compile(r"^(?:from|import|class|def|async|@)\b", re.MULTILINE)
#: Stands before programs of which a function is called: LeetCode, where many of them come from, needs no imports.
CALL_PREAMBLE = f"from typing import {', '.join(_TYPING)}\n"
#: Where a model that was asked in the layout of `question_prompt` has begun another problem.
QUESTION_STOPS = ("\nQUESTION:",)
# What follows a function that is finished. `def`, `import` and `#` alone do not: they begin a helper that the function
# calls, or the function once more. `benchmarks/completions.py` counts the right programs that each stop would break.
_CODE_STOPS = ("\nif __name__", "\nprint(", "\nassert ", '\n"""', "\ndef test", "\ndef main(", "\ndef check(")
_PREFIX_STOPS = ("\nclass ", "\n# ")


def code_stops(entry_point: str | None, *, opened: bool) -> tuple[str, ...]:
    """Return where a model that continues code has begun something else.

    Args:
        entry_point: The function asked for, whose own definition is no stop.
        opened: Whether the prompt opens that function, so that a class or a comment comes after it.
    """
    stops = (*_CODE_STOPS, *(_PREFIX_STOPS if opened else ()))
    return tuple(stop for stop in stops if not f"\ndef {entry_point}(".startswith(stop))


def question_prompt(question: str, *, starter_code: str = "", calls: bool = False) -> str:
    """Return the prompt.

    Args:
        question: The problem.
        starter_code: What the program begins with, or ""; it gets the imports from typing that it lacks.
        calls: Whether a function is called, instead of standard input read.
    """
    start = f"\n{with_typing(starter_code)}" if starter_code.strip() else ""
    kind = "Call-Based" if calls else "Standard Input"
    return f"\nQUESTION:\n{question}\n{start}\nUse {kind} format\n\nANSWER:\n"


def question_parts(prompt: str) -> tuple[str, str] | None:
    """Return question and starter code of a prompt that `question_prompt` made, or None for another prompt."""
    asked = _LAYOUT.fullmatch(prompt)
    if asked is None:
        return None
    text = asked["text"]
    for start in _CODE_LINE.finditer(text):
        code = text[start.start() :]
        if parse_open(code, Parser(10 * len(code) + 1000)) is not None:
            return text[: start.start()].strip("\n"), code.rstrip(" ").rstrip("\n")
    return text.strip("\n"), ""


def with_typing(code: str) -> str:
    """Return code with the imports from typing that it needs: LeetCode runs `def f(x: List[int])` without any."""
    names = sorted(set(_NAMES.findall(code)))
    if not names or re.search(r"^\s*(?:from typing import|import typing\b)", code, re.MULTILINE):
        return code
    return f"from typing import {', '.join(names)}\n\n{code.lstrip(chr(10))}"
