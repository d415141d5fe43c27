"""Follow the names of test code: the kinds of their values, where they are bound and read, and what they share.

`separable` decides with this module. It holds the kinds of values, the scopes of a module and its functions, the
functions that find out which objects an expression passes on, and the builtins, methods and library functions that
separate tests may use.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import string
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl_pper.tasks.tests import walk

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.While, ast.comprehension)
#: PEP 8 gives classes such names. A program's function with such a name runs its tests shared.
CLASS_NAME = re.compile(r"[A-Z][A-Za-z0-9]*")
#: Builtins that read an answer from its first item to its last, and the functions of values.
ON_ANSWERS = frozenset(
    "abs all any ascii bin bool bytearray bytes chr complex dict divmod enumerate filter float frozenset hex int"
    " isinstance len list map max min oct ord pow print range repr reversed round set slice sorted str sum tuple"
    " zip".split()
)
NEVER = frozenset(
    "eval exec compile globals locals vars dir open input breakpoint memoryview __import__ id getattr setattr delattr"
    " hasattr callable super object property staticmethod classmethod iter next issubclass hash aiter anext exit"
    " quit".split()
)
#: Types whose instances are data, and that `isinstance` tells apart there as here.
DATA_TYPES = frozenset(
    "int float complex bool str bytes bytearray list tuple set frozenset dict range NoneType".split()
)
ERRORS = frozenset(
    name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
) - {"StopIteration", "StopAsyncIteration", "GeneratorExit", "BaseExceptionGroup", "ExceptionGroup", "SystemExit"}
#: Methods of builtin values that change nothing. `format` is not here: an answer may be a template that reads secrets.
READING = frozenset(
    "as_integer_ratio bit_count bit_length capitalize casefold center conjugate copy count decode difference"
    " elements encode endswith expandtabs find fromhex get hex index intersection is_integer isalnum isalpha isascii"
    " isdecimal isdigit isdisjoint isidentifier islower isnumeric isprintable isspace issubset issuperset istitle"
    " isupper items join keys ljust lower lstrip most_common partition removeprefix removesuffix replace rfind rindex"
    " rjust rpartition rsplit rstrip split splitlines startswith strip swapcase symmetric_difference title tolist"
    " total translate union upper values zfill fromkeys maketrans from_bytes to_bytes".split()
)
#: Attributes of numbers and arrays.
READABLE = frozenset("real imag numerator denominator dtype shape size ndim".split())
#: Methods that change a value of the tests' own.
CHANGING = frozenset(
    "add append appendleft clear discard extend extendleft insert pop popitem popleft remove reverse rotate setdefault"
    " sort subtract update".split()
)
#: Functions of libraries that take answers. A name with a star stands for a whole module.
LIBRARY = frozenset(
    "math.* cmath.* statistics.* bisect.bisect bisect.bisect_left bisect.bisect_right collections.Counter"
    " collections.OrderedDict collections.deque collections.defaultdict copy.copy copy.deepcopy decimal.Decimal"
    " fractions.Fraction functools.reduce heapq.nlargest heapq.nsmallest itertools.chain itertools.combinations"
    " itertools.permutations itertools.product itertools.accumulate itertools.pairwise itertools.starmap"
    " itertools.zip_longest json.dumps json.loads operator.* re.findall re.fullmatch re.match re.search re.split"
    " re.sub string.* numpy.allclose numpy.isclose numpy.array_equal numpy.testing.assert_allclose"
    " numpy.testing.assert_almost_equal numpy.testing.assert_array_almost_equal numpy.testing.assert_array_equal"
    " numpy.testing.assert_equal datetime.date datetime.datetime datetime.time datetime.timedelta".split()
)
#: Functions of libraries that the tests may use on data of their own.
OWN = LIBRARY | frozenset(
    "random.* itertools.* collections.* functools.* copy.* datetime.* decimal.* fractions.* heapq.* bisect.* json.*"
    " re.* string.* sys.getsizeof time.time time.perf_counter hashlib.* textwrap.* typing.*".split()
)
#: Modules whose functions neither see nor change the surroundings.
PURE = frozenset(name.partition(".")[0] for name in OWN) - {"sys", "time"}
#: Libraries with objects that do not cross.
ARRAYS = frozenset("numpy pandas scipy torch sklearn sympy".split())


class NotSeparable(Exception):
    """An error: the test code does what only a common process reproduces; the message says what."""


@dataclass(frozen=True)
class Kind:
    """A kind of value: its name, and the name or definition that it refers to."""

    name: str
    ref: Any = None


DATA, OBJECT, ANSWER = Kind("data"), Kind("object"), Kind("answer")
INSTANCE, METHOD = Kind("instance"), Kind("method")


@dataclass(eq=False)
class Scope:
    """The names of a module or a function of the tests."""

    parent: Scope | None = None
    kinds: dict[str, Kind] = field(default_factory=dict)
    #: Expressions that names were bound to, each with the loop that binds the name to an item of it, or None.
    bindings: dict[str, list[tuple[ast.expr | None, Scope, ast.AST | None]]] = field(default_factory=dict)
    #: For each name the places where it is read: constant indices behind the name, and the node.
    loads: dict[str, list[tuple[tuple[Any, ...], ast.AST]]] = field(default_factory=dict)
    parents: dict[int, ast.AST] = field(default_factory=dict)
    result: Kind = DATA
    #: The function whose scope it is; None for a module.
    function: ast.FunctionDef | ast.Lambda | None = None
    #: Parameters with a default value that calls share.
    kept_defaults: set[str] = field(default_factory=set)


SCALAR_RESULTS = frozenset(
    "abs bin bool chr complex float hash hex int len oct ord pow range repr round str sum randint random uniform"
    " choice randrange join lower upper strip replace format sqrt floor ceil fabs gcd Decimal Fraction date datetime"
    " timedelta bytes frozenset gauss".split()
)


def index(scope: Scope, body: Sequence[ast.AST]) -> None:
    """Fill in where a scope's own code binds and reads names; bodies of functions in it have scopes of their own."""
    waiting: list[tuple[ast.AST, ast.AST | None]] = [(node, None) for node in body]
    while waiting:
        node, parent = waiting.pop()
        if parent is not None:
            scope.parents[id(node)] = parent
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        match node:
            case ast.Assign():
                for target in node.targets:
                    note_bindings(scope, target, node.value, None)
            case ast.AnnAssign() | ast.NamedExpr():
                if node.value is not None:
                    note_bindings(scope, node.target, node.value, None)
            case ast.AugAssign():
                note_bindings(scope, node.target, node.value, node)
            case ast.For() | ast.comprehension():
                note_bindings(scope, node.target, node.iter, node)
            case ast.Name() if isinstance(node.ctx, ast.Load):
                behind, top = indices(node, scope.parents)
                scope.loads.setdefault(node.id, []).append((behind, top))
        for child in ast.iter_child_nodes(node):
            if type(child) is not ast.Constant and not isinstance(child, ast.expr_context):
                waiting.append((child, node))


def note_bindings(scope: Scope, target: ast.expr, value: ast.expr, loop: ast.AST | None) -> None:
    """Note that a target is bound to `value`, or to an item of it by `loop`."""
    for each in ast.walk(target):
        if isinstance(each, ast.Name):
            scope.bindings.setdefault(each.id, []).append((value, scope, loop))


def indices(node: ast.expr, parents: dict[int, ast.AST]) -> tuple[tuple[Any, ...], ast.AST]:
    """Return the constant indices behind a name, and the outermost subscript."""
    path: list[Any] = []
    while True:
        parent = parents.get(id(node))
        if not (isinstance(parent, ast.Subscript) and parent.value is node and isinstance(parent.slice, ast.Constant)):
            return tuple(path), node
        path.append(parent.slice.value)
        node = parent


def aliases(node: ast.expr) -> Iterator[tuple[str, tuple[Any, ...], ast.AST]]:
    """Yield the names whose objects, or parts of them, an expression passes on: name, constant indices, node."""
    waiting: list[ast.AST] = [node]
    while waiting:
        each = waiting.pop()
        match each:
            case ast.Name():
                yield each.id, (), each
            case ast.Subscript():
                path: list[Any] = []
                base: ast.expr = each
                whole: ast.expr = each
                while isinstance(base, ast.Subscript):
                    if isinstance(base.slice, ast.Constant):
                        path.insert(0, base.slice.value)
                    else:
                        path, whole = [], base.value
                    base = base.value
                if isinstance(base, ast.Name):
                    yield base.id, tuple(path), whole
                else:
                    waiting.append(base)
            case ast.List() | ast.Tuple() | ast.Set():
                waiting.extend([item for item in each.elts if type(item) is not ast.Constant])
            case ast.Dict():
                waiting.extend([item for item in each.values if type(item) is not ast.Constant])
            case ast.Starred() | ast.NamedExpr():
                waiting.append(each.value)
            case ast.IfExp():
                waiting.extend((each.body, each.orelse))
            case ast.BoolOp():
                waiting.extend(each.values)
            case ast.BinOp():
                waiting.extend((each.left, each.right))
            case ast.Call():
                # Functions pass the items of their arguments on, unless their results are known to be new.
                function = each.func.attr if isinstance(each.func, ast.Attribute) else ast.unparse(each.func)
                if function not in NEW_RESULTS:
                    waiting.extend(each.args)
                    waiting.extend(one.value for one in each.keywords)
                    waiting.extend([each.func.value] if isinstance(each.func, ast.Attribute) else [])
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                waiting.append(each.elt)
            case ast.DictComp():
                waiting.append(each.value)


#: Functions and methods whose results share nothing with their arguments that could change.
NEW_RESULTS = SCALAR_RESULTS | frozenset("deepcopy split splitlines loads range permutations combinations".split())
#: Builtins that call a function that they are given.
CALLING = frozenset("map filter sorted min max".split())


def loop_around(scope: Scope, node: ast.AST | None) -> ast.AST | None:
    """Return the innermost loop of a scope around a node, or None."""
    while node is not None:
        node = scope.parents.get(id(node))
        if isinstance(node, LOOPS):
            return node
    return None


def is_bound_around(scope: Scope, name: str) -> bool:
    """Return whether a scope around this one binds a name."""
    outer = scope.parent
    while outer is not None and name not in outer.bindings:
        outer = outer.parent
    return outer is not None


def position(node: Any) -> tuple[int, int]:
    """Return line and column where a node begins."""
    return node.lineno, node.col_offset


def end(node: ast.expr) -> tuple[int, int]:
    """Return line and column where an expression ends."""
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def holds_call(node: ast.expr) -> bool:
    """Return whether an expression calls anything."""
    return any(isinstance(each, ast.Call) for each in walk(node))


def holds_displays(node: ast.expr) -> bool:
    """Return whether an expression is a list with items that are not constants."""
    return isinstance(node, ast.List) and any(not isinstance(each, ast.Constant | ast.UnaryOp) for each in node.elts)


def asks_type(node: ast.expr, or_names: bool = False) -> bool:
    """Return whether an expression is `type(x)` or, where that will do, the name of a type of data."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
        return len(node.args) == 1
    return or_names and isinstance(node, ast.Name) and node.id in DATA_TYPES


def listed(name: str, names: frozenset[str]) -> bool:
    """Return whether a name, or its module as a whole, is in `names`."""
    return name in names or f"{name.rpartition('.')[0]}.*" in names


def is_constant(name: str) -> bool:
    """Return whether `name` is a value of a library that is data, such as `math.pi`."""
    module, _, attribute = name.rpartition(".")
    return attribute in CONSTANTS.get(module, ())


CONSTANTS = {
    "math": frozenset("pi e inf tau".split()),
    "cmath": frozenset("pi e inf tau".split()),
    "sys": frozenset(("maxsize",)),
    "string": frozenset(name for name, value in vars(string).items() if isinstance(value, str) and name[0] != "_"),
    "numpy": frozenset("float32 float64 int32 int64 pi e inf".split()),
}


def public_names(module: str | None) -> Sequence[str]:
    """Return the names that `from module import *` binds, for modules of the standard library."""
    if module is None or module.partition(".")[0] not in sys.stdlib_module_names:
        raise NotSeparable(f"all names of {module} are imported")
    loaded = importlib.import_module(module)
    return getattr(loaded, "__all__", None) or [name for name in vars(loaded) if not name.startswith("_")]
