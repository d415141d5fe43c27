"""The listing is the map: where modules may lie, and what each room says of itself."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "trl_pper"
#: Folders of data.
UNMAPPED = {"templates", "model", "__pycache__"}
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
#: Words that stand where a noun should.
BARE = {"what", "those", "one", "whose"}


def members(room: Path) -> set[str]:
    """The modules and sub-rooms of a room."""
    modules = {path.stem for path in room.glob("*.py")} - {"__init__"}
    return modules | {path.name for path in room.iterdir() if path.is_dir() and path.name not in UNMAPPED}


def docstrings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def test_the_root_holds_rooms_and_nothing_else():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cluster.py", "files.py"}
    rooms = "tasks generation judge replay metrics rounds training report cli amplify demo"
    assert members(PACKAGE) == {*rooms.split(), "cluster", "files"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_is_a_map_of_at_most_13_modules(room):
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    lines = re.findall(r"^- (.*)", text, flags=re.MULTILINE)
    named = {name for line in lines for name in re.findall(r"`(\w+)`", line.partition(":")[0])}
    assert named == members(room)
    assert len([*room.glob("*.py")]) - 1 <= 13


def test_modules_are_few_and_whole():
    lines = [len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert 50 < len(lines) <= 160
    assert sum(number < 80 for number in lines) < 20


def test_docstrings_name_their_subject():
    texts = " ".join(text for path in PACKAGE.rglob("*.py") for text in docstrings(path))
    words = re.findall("[a-z]+", texts.lower())
    assert len(words) > 20_000
    assert 1000 * sum(word in BARE for word in words) / len(words) <= 4


def test_functions_are_named_after_what_they_do():
    names = [
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(names) > 1000
    assert len([name for name in names if name.endswith("_of")]) < 12
