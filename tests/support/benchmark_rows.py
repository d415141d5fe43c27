"""One small row of each format, in the layout of the benchmark, with a program that passes and one that does not."""

import base64
import json
import pickle
import zlib


def packed(cases) -> str:
    """Private tests as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


LOOP = """
import numpy as np

def assertion(out, exp, atol):
    assert out == exp, "wrong"

def check(candidate):
    inputs = [[4], [3], [0.5]]
    results = [2.0, 1.5, 0.25]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
"""
HALF = {"task_id": "HumanEval/2", "prompt": 'def half(x):\n    """ Halve. """\n', "entry_point": "half"}
HALVES = "def half(x): return x / 2"
THREE = "def f(x):\n    return x if x else 7"
SUM = "print(sum(map(int, open(0).read().split())))"

#: Format and edition: row, tests, a program that passes all of them, one that fails at least one and passes another.
#: A checker of open-r1/codeforces: a script that gets the paths of input, expected output and output.
DIVISOR = """\
import sys


def main():
    given, expected, output = (open(path).read() for path in sys.argv[1:])
    if int(output) < 2 or int(expected) < 2 or int(given) % int(output):
        print(0)
        sys.exit(1)
    print(1)


if __name__ == "__main__":
    main()
"""

ROWS = {
    "humaneval": (
        {
            **HALF,
            "canonical_solution": "    return x / 2\n",
            "test": "def check(candidate):\n    assert candidate(4) == 2\n    assert candidate(3) == 1.5\n",
        },
        2,
        HALVES,
        "def half(x): return x // 2",
    ),
    "humaneval plus": (
        {**HALF, "canonical_solution": "    return x / 2\n", "test": LOOP},
        3,
        HALVES,
        "def half(x): return x // 2",
    ),
    "humaneval evalplus": (
        {
            **HALF,
            "canonical_solution": "    return x / 2\n",
            "base_input": [[4], [3]],
            "plus_input": [[0.1]],
            "atol": 0,
        },
        3,
        "def half(x): return x * 0.5 + 1e-9",
        "def half(x): return x // 2 + 0.0",
    ),
    "mbpp": (
        {
            "task_id": 4,
            "text": "Double.",
            "code": "def double(x):\r\n  return 2 * x",
            "test_setup_code": "",
            "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
            "challenge_test_list": [],
        },
        2,
        "def double(x): return x + x",
        "def double(x): return x ** 2 if x else 1",
    ),
    "mbpp plus": (
        {
            "task_id": 4,
            "prompt": "Halve.",
            "code": "def half(x): return x / 2",
            "test_imports": [],
            "source_file": "",
            "test_list": ["assert half(4) == 2"],
            "test": LOOP.replace("def check(candidate):", "if True:")
            .replace("if True:\n", "")
            .replace("    inputs", "inputs")
            .replace("    results", "results")
            .replace("    for", "for")
            .replace("        assertion(candidate", "    assertion(half"),
        },
        3,
        HALVES,
        "def half(x): return x // 2",
    ),
    "apps": (
        {
            "problem_id": 7,
            "question": "Add.",
            "difficulty": "interview",
            "url": "",
            "starter_code": "",
            "solutions": json.dumps([SUM]),
            "input_output": json.dumps(
                {"inputs": ["1 2\n", ["3", "4"], [[5, 6], 7]], "outputs": ["3\n", ["7"], [18]]}
            ),
        },
        3,
        SUM,
        "print(3)",
    ),
    "apps calls": (
        {
            "problem_id": 8,
            "question": "Same.",
            "difficulty": "introductory",
            "url": "",
            "solutions": "",
            "starter_code": "class Solution:\n    def f(self, x: List[int]) -> int:\n        ",
            "input_output": json.dumps(
                {"fn_name": "f", "inputs": [[[1, 2]], [{"1": 2}]], "outputs": [[1, 2], [{"1": 2}]]}
            ),
        },
        2,
        "class Solution:\n    def f(self, x): return tuple(x) if type(x) is list else {k + 0: x[k] for k in x}",
        "class Solution:\n    def f(self, x): return [1, 2]",
    ),
    "code_contests": (
        {
            "name": "1_A. Add",
            "description": "Add.",
            "source": 2,
            "difficulty": 7,
            "input_file": "",
            "output_file": "",
            "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
            "private_tests": {"input": [], "output": []},
            "generated_tests": {"input": ["3 4\n", "5\n"], "output": ["7\n", "5\n"]},
            "solutions": {"language": [2, 1, 3], "solution": ["int main", "print 3", SUM]},
            "time_limit": {"seconds": 1, "nanos": 500000000},
            "memory_limit_bytes": 256000000,
        },
        3,
        SUM,
        "print(3)",
    ),
    "open_r1": (
        {
            "problem_id": "p1",
            "prompt": [{"role": "user", "content": "Add."}],
            "source": "apps",
            "gold_standard_solution": SUM,
            "metadata": {"difficulty": "EASY"},
            "verification_info": {
                "language": "python",
                "test_cases": [
                    {"fn_name": None, "input": "1 2\n", "output": "3\n", "type": "stdin_stdout"},
                    {"fn_name": None, "input": "4\n", "output": "4\n", "type": "stdin_stdout"},
                ],
            },
        },
        2,
        SUM,
        "print(3)",
    ),
    "open_r1 checker": (
        {
            "id": "p3",
            "prompt": "Print any divisor but 1 of a number.",
            "language": "python",
            "rating": 800,
            "time_limit": 2.0,
            "input_mode": "stdio",
            "official_tests": [{"input": "12\n", "output": "12\n"}, {"input": "9\n", "output": "9\n"}],
            "generated_checker": DIVISOR,
        },
        2,
        "n = int(input())\nprint(next(d for d in range(2, n + 1) if n % d == 0))",
        "print(2)",
    ),
    "open_r1 calls": (
        {
            "problem_id": "p2",
            "prompt": "Return it, or 7.",
            "verification_info": json.dumps(
                {
                    "language": "python",
                    "test_cases": json.dumps(
                        [
                            {"fn_name": "f", "input": "[3]", "output": "[3]", "type": "function_call"},
                            {"fn_name": "f", "input": [0], "output": 7, "type": "function_call"},
                            {"fn_name": "f", "input": '"a"\n', "output": "a", "type": "function_call"},
                        ]
                    ),
                }
            ),
        },
        3,
        THREE,
        "def f(x): return 3",
    ),
    "live_code_bench": (
        {
            "question_title": "Add",
            "question_content": "Add.",
            "platform": "atcoder",
            "question_id": "abc1_a",
            "starter_code": "",
            "difficulty": "easy",
            "metadata": "{}",
            "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
            "private_test_cases": packed([{"input": "4", "output": "4", "testtype": "stdin"}]),
        },
        2,
        SUM,
        "print(3)",
    ),
    "live_code_bench calls": (
        {
            "question_title": "Same",
            "question_content": "Same.",
            "platform": "leetcode",
            "question_id": "99",
            "starter_code": "class Solution:\n    def f(self, x: int, y: List[str]) -> int:\n        ",
            "difficulty": "hard",
            "metadata": json.dumps({"func_name": "f"}),
            "private_test_cases": "[]",
            "public_test_cases": json.dumps(
                [
                    {"input": '1\n["a"]', "output": '[1, ["a"]]', "testtype": "functional"},
                    {"input": "2\n[]", "output": "[2, []]", "testtype": "functional"},
                ]
            ),
        },
        2,
        "class Solution:\n    def f(self, x, y): return x, y",
        "class Solution:\n    def f(self, x, y): return [2, []]",
    ),
    "classeval": (
        {
            "task_id": "ClassEval_0",
            "skeleton": 'import math\n\nclass Circle:\n    def area(self, radius):\n        """ Give the area. """\n',
            "test": "import unittest\n\nclass CircleTestArea(unittest.TestCase):\n"
            "    def setUp(self):\n        self.circle = Circle()\n"
            "    def test_area_1(self):\n        self.assertAlmostEqual(self.circle.area(1), math.pi)\n"
            "    def test_area_2(self):\n        self.assertEqual(self.circle.area(0), 0)\n",
            "solution_code": "class Circle:\n    def area(self, radius):\n        return math.pi * radius ** 2\n",
            "import_statement": ["import math"],
            "class_name": "Circle",
            "test_classes": ["CircleTestArea"],
        },
        2,
        "class Circle:\n    def area(self, radius): return radius * radius * math.pi",
        "class Circle:\n    def area(self, radius): return radius",
    ),
    "big_code_bench": (
        {
            "task_id": "BigCodeBench/0",
            "complete_prompt": 'import math\nLIMIT = 9\n\ndef task_func(x):\n    """ Return the root, or -1. """\n',
            "instruct_prompt": "Return the root. You should write self-contained code starting with: ...",
            "canonical_solution": "    return math.sqrt(x) if x <= LIMIT else -1\n",
            "code_prompt": "import math\nLIMIT = 9\ndef task_func(x):\n",
            "test": "import unittest\nfrom unittest.mock import patch\n\nclass TestCases(unittest.TestCase):\n"
            "    def test_case_1(self):\n        self.assertEqual(task_func(4), 2)\n"
            "    def test_case_2(self):\n        self.assertEqual(task_func(10), -1)\n",
            "entry_point": "task_func",
            "doc_struct": "{}",
            "libs": "['math']",
        },
        2,
        "def task_func(x): return -1 if x > LIMIT else math.isqrt(x)",
        "def task_func(x): return math.isqrt(x)",
    ),
    "native": (
        {
            "task_id": "add",
            "prompt": "Add.",
            "difficulty": "easy",
            "cpu_seconds": 2,
            "reference": SUM,
            "source": None,
            "tests": json.dumps(
                {"type": "stdio", "cases": [{"input": "1 2", "output": "3"}, {"input": "", "output": "0"}]}
            ),
        },
        2,
        SUM,
        "print(3)",
    ),
}
