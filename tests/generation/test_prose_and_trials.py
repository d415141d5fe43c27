"""Prose that parses, marks of chat templates, drafts and a model's own trials are no part of the program."""

import ast
import sys

import pytest

from trl_pper.generation.extraction import extract, extract_program

SOLUTION = "def f(x):\n    y = x\n    return y + 1\n"
BODY = "    y = x\n    return y + 1"
WRONG = "def f(x):\n    return 0\n"
PROMPT = 'import math\n\n\ndef f(x):\n    """Add one.\n    >>> f(1)\n    2\n    """\n'
CHAT = [{"role": "user", "content": PROMPT}]


def fenced(code):
    return f"```python\n{code.rstrip()}\n```\n"


def adds_one(completion, prompt=""):
    """Extract a program written in this file, run it, and see whether its f adds one."""
    found = extract(completion, prompt=prompt, entry_point="f")
    namespace = {"__name__": "program"}
    exec(found.program, namespace)
    return found.found and namespace["f"](1) == 2


PROSE = [
    "Done",
    "[DONE]",
    "(end)",
    "a, b",
    "Complexity: O(n)",
    "Runtime: O(N * log(N))",
    "Note: untested",
    "Human: thanks",
    "Input: xs = [1, 2]",
    "Example: f(1) == 2",
    "Output: 3",
    "- loops",
    "- adds\n- returns",
    "* item",
    "1. foo",
    "O(n)",
    "O = n",
    "not needed",
    "it is correct",
    "works and passes",
    "continue",
    "Sorted by key (see above",
]


@pytest.mark.parametrize("prose", PROSE)
def test_prose_that_parses_is_dropped(prose):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(f"{SOLUTION}\n{prose}\n", prompt)
        assert adds_one(f"{prose}\n\n{SOLUTION}", prompt)
    assert adds_one(f"{BODY}\n\n{prose}\n", PROMPT)
    assert extract_program(f"k = int(input())\nprint(k)\n\n{prose}\n") == "k = int(input())\nprint(k)\n"


@pytest.mark.parametrize(
    "code",
    [
        '"""Add."""\nx: int = 3\nprint(x)\n',
        "from typing import TypeAlias\nT: TypeAlias\nT = int\nprint(1)\n",
        "def main():\n    print(input())\n\n\nmain()\n",
        "from math import *\npi\nprint(pi)\n",
        "from math import *\nprint(sqrt(4))\nx = floor(2.5)\n",
        "from nowhere import *\nread\nprint(1)\n",
        "globals()['n'] = 1\nn\nprint(2)\n",
        "exec('n = 1')\nm = n\n",
        "print(1)\nsolve()\n",
        "print(1)\nsolve(1)\n",
        "heapq.heapify(arr)\nprint(1)\n",
        "print(1)\nm = k + 1\nprint(2)\n",
        "with open(0) as lines:\n    first = next(lines)\nfirst\n",
        "try:\n    n\nexcept NameError:\n    print(0)\n",
        "[print(i) for i in range(3)]\n",
        "def g():\n    global n\n    n = 1\n\n\ng()\nn\n",
        "print(1); Done\n",
    ],
)
def test_code_is_not_taken_for_prose(code):
    assert extract_program(code) == code


def test_prose_alone_is_no_program():
    for text in ("Time: O(n)", "- loops\n- returns", "Note: untested\nDone", "Complexity"):
        assert not extract(text).found
        assert not extract(text, prompt=CHAT, entry_point="f").found
        assert not extract(f"    {text.split()[0].strip(':-')}\n", prompt="def f(x):\n", entry_point="f").found


TOKENS = [
    *(
        "<|endoftext|>",
        "</s>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|EOT|>",
        "<eos>",
        " <EOT>",
        "<end_of_turn>",
        "<fim_middle>",
    ),
    *("<\uff5cend\u2581of\u2581sentence\uff5c>", "[/INST]", "</code>", "<turn|>", "</s></s>", "[DONE]"),
    *("<|im_end|>\n<|im_start|>user\nThanks!", f"<|endoftext|>{WRONG}"),
]


@pytest.mark.parametrize("token", TOKENS)
def test_special_tokens_behind_code_are_cut(token):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(SOLUTION.rstrip() + token, prompt)
        assert adds_one(fenced(SOLUTION).rstrip() + token, prompt)
    assert adds_one(BODY + token, PROMPT)


@pytest.mark.parametrize("mark", ["<s>", "<|im_start|>assistant\n", "[PYTHON]\n", "<code>", "\u200b", "\ufeff"])
def test_marks_before_code_are_cut(mark):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(mark + SOLUTION, prompt)
        assert adds_one(mark + fenced(SOLUTION), prompt)


def test_marks_in_strings_stay():
    for string in ("'<|endoftext|>'", '"""\n</s>\n<code>\n"""', "'[DONE]'", "'</think>'", "'\u200b'"):
        code = f"EOS = {string}\n\n\n{SOLUTION}"
        assert extract_program(code, entry_point="f") == code
        assert extract_program(f"Sure.\n{fenced(code)}It's done.</s>", prompt=CHAT, entry_point="f") == code
        assert extract_program(code.rstrip() + "<|im_end|>", entry_point="f").rstrip() == code.rstrip()
    index = "DONE = 0\n\n\ndef f(x):\n    return [x + 1][DONE]\n"
    assert extract_program(index, entry_point="f") == index


@pytest.mark.parametrize(
    "completion",
    [
        "```def f(x): return x + 1```",
        "```python def f(x): return x + 1```",
        f"```{SOLUTION}```",
        f"```python {SOLUTION}```",
        f"{SOLUTION.rstrip()}```",
        f"{SOLUTION.rstrip()}```\n\nThat is it.",
        SOLUTION.replace("    ", "\u00a0\u00a0\u00a0\u00a0"),
        "\n".join(f"> {line}" for line in fenced(SOLUTION).split("\n")),
        "\n".join(f">{line}" for line in fenced(SOLUTION).split("\n")),
    ],
)
def test_fences_and_quotations_glued_to_code_are_cut(completion):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(completion, prompt)
    assert adds_one(f"{BODY}```", PROMPT)


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning", "scratchpad", "reflection", "Thinking"])
def test_drafts_are_not_the_program(tag):
    for draft in (fenced(WRONG), WRONG, "f = 0\n", "I don't know.\n"):
        for prompt in ("", CHAT, PROMPT):
            assert adds_one(f"<{tag}>\n{draft}</{tag}>\n{fenced(SOLUTION)}", prompt)
            assert adds_one(f"<{tag}>{draft}</{tag}>{SOLUTION}", prompt)
            assert adds_one(f"{draft}</{tag}>\n\n{SOLUTION}", prompt)
            assert adds_one(f"{fenced(SOLUTION)}<{tag}>\n{draft}</{tag}>\n", prompt)
            assert adds_one(f"{fenced(SOLUTION)}<{tag}>\n{draft}", prompt)
    assert not extract(f"<{tag}>\n{fenced(SOLUTION)}", entry_point="f").found
    assert not extract(f"<{tag}>\n{SOLUTION}", prompt=PROMPT, entry_point="f").found


@pytest.mark.parametrize(
    "completion",
    [
        f"First try:\n{fenced(WRONG)}That is wrong:\n{fenced(SOLUTION)}",
        f"{fenced(SOLUTION)}Usage:\n{fenced('print(f(1))')}",
        f"{fenced(SOLUTION)}Usage:\n{fenced('from solution import f' + chr(10) + 'assert f(1) == 3')}",
        f"{fenced(SOLUTION)}In short:\n{fenced('def f(x):' + chr(10) + '    ...')}",
        f"{fenced('def add(a, b):' + chr(10) + '    return a + b')}and\n"
        f"{fenced('def f(x):' + chr(10) + '    return add(x, 1)')}",
        f"{fenced('def f(x):' + chr(10) + '    return add(x, 1)')}where\n"
        f"{fenced('def add(a, b):' + chr(10) + '    return a + b')}",
    ],
)
def test_the_last_version_of_the_function_is_the_program(completion):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(completion, prompt)


def test_the_program_reads_its_input_rather_than_replaces_it():
    program = "n = int(input())\nprint(2 * n)\n"
    test = "import io, sys\nsys.stdin = io.StringIO('2')\nexec(open('solution.py').read())"
    assert extract_program(f"{fenced(program)}To test:\n{fenced(test)}") == program


def test_helpers_in_another_block_belong_to_the_program():
    helper, main = "def double(n):\n    return 2 * n\n", "print(double(int(input())))\n"
    program = extract_program(f"The helper:\n{fenced(helper)}Then:\n{fenced(main)}")
    assert ast.dump(ast.parse(program)) == ast.dump(ast.parse(helper + main))
    # An example that the program does not need stays out.
    assert extract_program(f"Not this:\n{fenced('def other(): pass')}But:\n{fenced('print(input())')}") == (
        "print(input())\n"
    )


TRIALS = [
    "assert f(1) == 3",
    "def test():\n    assert f(1) == 3\n\ntest()",
    "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 3)\nunittest.main()",
    "if __name__ == '__main__':\n    import unittest\n    unittest.main()",
    "import pytest\n@pytest.mark.parametrize('x', [1])\ndef test_f(x): assert f(x)",
    "import doctest\ndoctest.testmod(raise_on_error=nothing)",
    "n = int(input())\nprint(f(n))",
    "result = f(None)\nprint(result)",
    "for case in [None]:\n    print(f(case))",
    "def main():\n    print(f(int(input())))\n\nmain()",
    "def check(candidate):\n    assert candidate(1) == 3\n\ncheck(f)",
]


@pytest.mark.parametrize("trial", TRIALS)
def test_trials_behind_the_function_are_dropped(trial):
    for prompt in ("", CHAT, PROMPT):
        assert adds_one(f"{SOLUTION}\n{trial}\n", prompt)
        assert adds_one(fenced(f"{SOLUTION}\n{trial}\n"), prompt)
    assert adds_one(f"{BODY}\n\n{trial}\n", PROMPT)
    # Without a function to test, trials are what the program does.
    assert extract_program(f"{SOLUTION}\n{trial}\n") == f"{SOLUTION}\n{trial}\n"


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n    return table[x]\n\n\ntable = [1, 2]\n",
        "def f(x):\n    return table[x]\n\n\ntable = []\ntable.append(1)\ntable += [2]\n",
        "def f(x):\n    return table.get(x, x + 1)\n\n\ntable = {}\nfor i in range(2):\n    table[i] = f(i)\n",
        "def f(x):\n    return f.table[x]\n\n\nf.table = [1, 2]\n",
        "def f(x):\n    return f.table[x]\n\n\ndef init():\n    f.table = [1, 2]\n\n\ninit()\n",
        "def f(x):\n    return one + x\n\n\ndef init():\n    global one\n    one = len([f])\n\n\ninit()\n",
        "def f(x):\n    return g(x)\n\n\ndef g(x):\n    return x + 1\n",
        "import functools\n\n\ndef f(x):\n    return x + 1\n\n\nf = functools.cache(f)\n",
        "import sys\n\n\ndef f(x):\n    return x + 1\n\n\nsys.setrecursionlimit(10**6)\nsolve = f\n",
        "def f(x):\n    return x + 1\n\n\nclass Pair:\n    pass\n",
    ],
)
def test_the_state_of_the_function_stays(code):
    limit = sys.getrecursionlimit()
    try:
        assert adds_one(code)
    finally:
        # The code runs in this process, and with its limit a text that is nested deep would crash it.
        sys.setrecursionlimit(limit)
    assert extract_program(code, entry_point="f") == code
