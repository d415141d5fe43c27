import ast
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_pper.files import read_rows
from trl_pper.generation.extraction import extract, extract_program
from trl_pper.tasks.loading import load_tasks
from trl_pper.tasks.syntax import parse

SOLUTION = "def f(x):\n    return x + 1\n"
OTHER = "def g(x):\n    y = x\n    z = y\n    return z\n"
PROMPT = (
    'import math\n\n\ndef helper(x):\n    return x\n\n\ndef f(x):\n    """Add one.\n    >>> f(1)\n    2\n    """\n'
)
HEAD = PROMPT.partition("def f")[0]


def behaves(program, *, argument=1, expected=2):
    """Run a program written in this file, and see whether its f adds one."""
    namespace = {}
    exec(program, namespace)
    return namespace["f"](argument) == expected


@pytest.mark.parametrize(
    "completion",
    [
        SOLUTION,
        f"```python\n{SOLUTION}```",
        f"```py\n{SOLUTION}```\n",
        f"```Python3\n{SOLUTION}```",
        f"```\n{SOLUTION}```",
        f"~~~python\n{SOLUTION}~~~",
        f"````python\n{SOLUTION}````",
        f"```python\n{SOLUTION}",
        f"Sure! Here is `f`:\n\n```python\n{SOLUTION}```\n\nIt adds one. Don't worry (really.",
        f"Sure! ```python\n{SOLUTION}```",
        "1. Step:\n\n   ```python\n   def f(x):\n       return x + 1\n   ```",
        f"{SOLUTION}```\n\nThis adds one.",
        f"First a sketch:\n```python\n{OTHER}```\nThen:\n```python\n{SOLUTION}```",
        f"Run this:\n```bash\npip install x\n```\n```python\n{SOLUTION}```",
        f"Here is the function:\n\n{SOLUTION}",
        f"Sure\nHere is the function:\n\n{SOLUTION}\nThis function isn't hard (it adds one.",
        f"{SOLUTION}\nExplanation: it adds one.",
        f"{SOLUTION}\n\ndef g(x):\n    for y in",
        f"{SOLUTION}\n\ndef f(x):\n    total = 0\n    for y in",
        f'{SOLUTION}\n\ndef f(x):\n    """Add one."""\n',
        f"{SOLUTION}\n# Test\nprint(f(1)\n",
        f" {SOLUTION}",
        f"<think>\nMaybe\n```python\n{OTHER}```\n</think>\n{SOLUTION}",
        SOLUTION.replace("\n", "\r\n"),
        "f = lambda x: x + 1",
        "from operator import pos as f\nf = lambda x: x + 1",
    ],
)
def test_the_program_is_found_in_what_a_model_says(completion):
    assert behaves(extract_program(completion, entry_point="f"))
    chat = [{"role": "user", "content": PROMPT}]
    assert extract_program(completion, prompt=chat, entry_point="f") == extract_program(completion, entry_point="f")


@pytest.mark.parametrize(
    "completion",
    [
        "    return x + 1\n",
        "    return x + 1",
        "    y = x + 1\n    return y\n\n\nprint(f(2))",
        "return x + 1",
        "y = x + 1\nreturn y",
        "y = x + 1\n    return y",
        "    return x + 1\n\nThis returns x + 1.",
        "    return x + 1\n\ndef g(x):\n    for y in",
        '    return x + 1\n\n\ndef f(x):\n    """Add',
        "```python\n    return x + 1\n```",
        "```python\nreturn x + 1\n```\nThat is it.",
        SOLUTION,
        f"Here you are:\n```python\n{SOLUTION}```",
        f"Here you are:\n\n{SOLUTION}\nIt adds one, (see",
        "def f(x):\n    return helper(x) + math.floor(1.5)\n",
        "```python\ndef f(x):\n    return helper(x) + math.floor(1.5)\n```",
    ],
)
@pytest.mark.parametrize("prompt", [PROMPT, PROMPT.rstrip("\n"), HEAD + "def f(x):\n", HEAD + "def f(x):"])
def test_a_code_prompt_is_continued_or_repeated(completion, prompt):
    if not prompt.endswith("\n") and completion.startswith(" "):
        completion = "\n" + completion
    assert behaves(extract_program(completion, prompt=prompt, entry_point="f"))
    assert behaves(extract_program(completion, prompt=prompt))


def test_a_completion_that_fits_is_left_exactly_as_it_is():
    assert extract_program("    return x + 1 \n\n", prompt=PROMPT, entry_point="f") == PROMPT + "    return x + 1 \n\n"
    assert extract_program(SOLUTION + "\n# end", entry_point="f") == SOLUTION + "\n# end"


def test_a_prompt_may_end_in_the_middle_of_a_line():
    assert behaves(extract_program("x + 1\n", prompt="def f(x):\n    return ", entry_point="f"))


def test_a_method_continues_its_class():
    prompt = "class Solution:\n    def f(self, x):\n        "
    program = extract_program("return x + 1", prompt=prompt, entry_point="Solution().f")
    assert program == prompt + "return x + 1"


@pytest.mark.parametrize(
    "prompt", ['"""\nAdd one.\nassert f(41) == 42\n"""\n', "# Add one to 41: 42\n", "Define f: 42"]
)
def test_a_prompt_that_defines_nothing_is_no_part_of_the_program(prompt):
    assert "42" not in extract_program(SOLUTION, prompt=prompt, entry_point="f")
    assert "42" not in extract_program("nothing that parses (", prompt=prompt, entry_point="f")


def test_whole_programs_need_no_entry_point():
    program = "n = int(input())\nprint(n + 1)\n"
    for completion in (
        program,
        f"```python\n{program}```",
        f"Read the number.\n\n{program}",
        f"For example:\n```python\n{OTHER * 3}```\nThe solution:\n```python\n{program}```\nInput:\n```\n41\n```",
    ):
        assert extract_program(completion) == program


def test_without_an_entry_point_the_longest_valid_block_wins():
    longer = OTHER.replace("g", "h") + "h(1)\n"
    assert extract_program(f"```\n{SOLUTION}```\n```\n{longer}```\n```\n{longer}(\n```") == longer


def test_a_broken_program_in_a_fence_stays_broken():
    assert extract_program("Look:\n```python\nn = int(input()\nprint(n)\n```\nDone.") == "n = int(input()\nprint(n)\n"


def test_fences_in_a_docstring_are_no_fences():
    program = 'def f(x):\n    """Add.\n\n    ```\n    f(1)\n    ```\n    """\n    return x + 1\n'
    assert extract_program(program, entry_point="f") == program


def test_a_program_under_another_name_is_still_a_program():
    assert extract_program(f"Sure:\n```python\n{OTHER}```", entry_point="f") == OTHER


@pytest.mark.parametrize(
    ("completion", "prompt", "entry_point"),
    [
        (SOLUTION, "", "f"),
        (SOLUTION, "", None),
        (f"Sure:\n```python\n{SOLUTION}```", "Write f.", "f"),
        (f"Sure:\n{SOLUTION}\nIt adds", [{"role": "user", "content": "Write f."}], "f"),
        ("    return x + 1\n", PROMPT, "f"),
        ("x + 1\n", "def f(x):\n    return ", "f"),
        (SOLUTION, PROMPT, "f"),
        ("class Solution:\n    def f(self): return 1", "", "Solution().f"),
        ("print(input())", "", None),
        ("def f(x):\n    return x\n\ndef f(x):\n    pass\n", "", "f"),
    ],
)
def test_a_program_is_found(completion, prompt, entry_point):
    found = extract(completion, prompt=prompt, entry_point=entry_point)
    assert found.found
    assert found.program == extract_program(completion, prompt=prompt, entry_point=entry_point)
    ast.parse(found.program)


@pytest.mark.parametrize(
    ("completion", "prompt", "entry_point"),
    [
        (OTHER, "", "f"),
        (f"Sure:\n```python\n{OTHER}```", "", "f"),
        ("    pass\n", PROMPT, "f"),
        ("def f(x):\n    pass\n", "", "f"),
        ("Yes", "", None),
        ("```python\n```", "", None),
        ("```python\nprint((\n```", "", None),
        ("def f(self): return 1", "", "Solution().f"),
    ],
)
def test_no_program_is_found(completion, prompt, entry_point):
    found = extract(completion, prompt=prompt, entry_point=entry_point)
    assert not found.found
    assert found.program == extract_program(completion, prompt=prompt, entry_point=entry_point)


@pytest.mark.parametrize("completion", ["", "\n", "I cannot do that.", "def f(", "\x00", "\ud800", "```"])
def test_what_does_not_parse_comes_back_as_it_is(completion):
    assert extract_program(completion) == completion
    assert extract_program(completion, prompt=PROMPT, entry_point="f") == PROMPT + completion
    assert not extract(completion).found
    assert not extract(completion, prompt=PROMPT, entry_point="f").found


@given(
    st.lists(
        st.sampled_from(
            [
                SOLUTION,
                OTHER,
                "```python\n",
                "```\n",
                "~~~",
                "prose\n",
                "    return 1\n",
                "(",
                '"""',
                "try:\n",
                "\x00",
                "f",
            ]
        ),
        max_size=12,
    ).map("".join),
    st.sampled_from(["", PROMPT, "def f(x):", '"""doc"""\n']),
    st.sampled_from([None, "f", "Solution().f", "(", ""]),
)
@settings(max_examples=80, deadline=None)
def test_anything_gives_a_text_and_twice_the_same(completion, prompt, entry_point):
    program = extract_program(completion, prompt=prompt, entry_point=entry_point)
    assert isinstance(program, str)
    assert extract_program(completion, prompt=prompt, entry_point=entry_point) == program


@pytest.mark.parametrize("junk", ["defs", "brackets", "fences", "prose", "unclosed try", "minus", "trials", "tokens"])
def test_junk_takes_bounded_time(junk):
    size = 20_000
    text = {
        "defs": "def f(x):\n    return (\n",
        "brackets": "a[(,{",
        "fences": "```python\nx = (\n```\n",
        "prose": "foo(bar baz, then = f of it\n",
        "unclosed try": "    x = 1\n",
        "minus": "-",
        "trials": "def f(x): return x\na = f(1)\nprint(a)\nDone\n",
        "tokens": '<|a|>x = \'\\""" (\n',
    }[junk]
    # A megabyte costs no more for each character, and takes up to ten seconds.
    text = ("try:\n" if junk == "unclosed try" else "") + text * (size // len(text))
    start = time.process_time()
    for prompt, entry_point in (("", None), ("", "f"), (PROMPT, "f")):
        extract_program(text, prompt=prompt, entry_point=entry_point)
    assert time.process_time() - start < 15


def parses(program):
    try:
        return parse(program)
    except (SyntaxError, ValueError):
        return None


def test_real_raw_completions_become_programs_that_parse(shared):
    tasks = {task.task_id: task for task in load_tasks(shared("humaneval/HumanEval.dev.jsonl.gz"))}
    found = []
    for name in ("Bard_custom", "TheBloke_wizardLM-7B-GPTQ_ALPACA_MEDIUM"):
        for _, row in read_rows(shared(f"messy/{name}.jsonl")):
            task = tasks[row["task_id"]]
            found.append(extract_program(row["completion"], prompt=task.prompt, entry_point=task.entry_point))
    assert len(found) == 164
    assert sum(parses(program) is not None for program in found) >= 163


@pytest.mark.slow
def test_real_chat_replies_give_the_programs_published(shared):
    same = total = 0
    files = [*sorted(shared("apps_mapcoder").glob("ChatGPT-*.jsonl")), shared("atcoder/lcb_o1-prev.dev.jsonl.gz")]
    for file in files:
        for _, row in read_rows(file):
            mine, theirs = extract_program(row["raw_response"]), row["program"]
            trees = parses(mine), parses(theirs)
            total += 1
            same += mine.strip() == theirs.strip() or (None not in trees and ast.dump(trees[0]) == ast.dump(trees[1]))
    assert total == 629
    assert same >= 620


@pytest.mark.slow
def test_real_bodies_that_parse_are_continued_unchanged(shared):
    changed = shortened = parsed = 0
    for _, row in read_rows(shared("dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz")):
        for completion in row["completions"]:
            whole = (row["prompt"] + completion).replace("\r\n", "\n")
            if parses(whole) is not None:
                parsed += 1
                changed += extract_program(completion, prompt=row["prompt"]) != whole
                program = extract_program(completion, prompt=row["prompt"], entry_point=row["entry_point"])
                # The model's own trials go, and nothing comes in their place.
                shortened += program != whole and set(program.split("\n")) <= set(whole.split("\n"))
    assert parsed > 7800
    assert changed <= 10
    assert 90 < shortened < 150
