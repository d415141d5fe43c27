"""The names of the tests, which are what a reader of their list and of a failure sees first."""

import ast
from pathlib import Path

LONGEST = 60


def test_names_of_tests_are_short():
    trees = [ast.parse(path.read_text()) for path in Path(__file__).parents[1].rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = {function.name for function in functions if function.name.startswith("test_")}
    assert len(names) > 1000
    assert [name for name in names if len(name) > LONGEST] == []
