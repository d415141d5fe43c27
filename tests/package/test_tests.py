"""The tests themselves: names that a reader of a failure understands, and nothing left behind for the next test."""

import ast
import functools
from pathlib import Path

LONGEST = 60


@functools.cache
def trees():
    return {path: ast.parse(path.read_text()) for path in Path(__file__).parents[1].rglob("*.py")}


def set_constants(tree):
    """Yield the lines on which a constant of something else, as of a module, is set."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store) and target.attr.isupper():
                yield target.lineno


def test_names_of_tests_are_short():
    functions = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names = {function.name for function in functions if function.name.startswith("test_")}
    assert len(names) > 1000
    assert [name for name in names if len(name) > LONGEST] == []


def test_no_test_sets_a_constant_for_those_after_it():
    """Tests share the modules of a process, and which tests share one differs from run to run."""
    assert list(set_constants(ast.parse("tables.RESAMPLES = 500\nthis.number = 1\nX = tables.RESAMPLES"))) == [1]
    # Files of other names run in processes of their own.
    found = {path: list(set_constants(tree)) for path, tree in trees().items() if path.name.startswith("test_")}
    assert {path: lines for path, lines in found.items() if lines} == {}
