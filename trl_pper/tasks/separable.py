"""Decide whether test code can run in another process than the program and mean the same.

In another process the program answers calls with copies of plain data. Test code means the same there if it calls the
program's functions, or methods of objects that it makes of the program's classes, with data that nothing else refers
to, and if it uses the answers as data: compares, indexes, iterates, measures or searches them, through builtins and
the functions listed here. Code of any other kind runs in one process with the program.

The decision follows from the text of the tests alone, never from a program. Kinds of values are propagated through
assignments, loops and calls of the tests' own functions until nothing changes. The analysis errs on one side: an
expression that it does not know is not separable.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from trl_pper.tasks.scopes import (
    ANSWER,
    ARRAYS,
    CALLING,
    CHANGING,
    CLASS_NAME,
    DATA,
    DATA_TYPES,
    ERRORS,
    FUNCTIONS,
    INSTANCE,
    LIBRARY,
    METHOD,
    NEVER,
    OBJECT,
    ON_ANSWERS,
    OWN,
    PURE,
    READABLE,
    READING,
    SCALAR_RESULTS,
    Kind,
    NotSeparable,
    Scope,
    aliases,
    asks_type,
    end,
    holds_call,
    holds_displays,
    index,
    is_bound_around,
    is_constant,
    listed,
    loop_around,
    position,
    public_names,
)
from trl_pper.tasks.tests import walk

_REFLECTING = frozenset("iter next hash getattr hasattr callable eval".split())
_IDENTITY_CONSTANTS = (None, True, False, Ellipsis)


@dataclass(frozen=True, kw_only=True)
class Separable:
    """The facts that a process with separate tests needs to know about their code.

    Args:
        classes: Names of the program that the tests make objects of.
        operations: Calls of the program of which the tests do not need the result itself, each with its operation (see
            `wire.rules.Call`): "drop", "truth", "none" and "text", or "make" for a result that only the program gets.
        exact: Whether the tests look at the exact types of answers, or at texts of answers, which show them.
    """

    classes: frozenset[str]
    operations: tuple[tuple[ast.Call, str], ...]
    exact: bool


def check_separable(
    tree: ast.Module, setup: ast.Module, program_names: Sequence[str], module_names: Collection[str] = ()
) -> Separable:
    """Raise `NotSeparable` unless tests mean the same in a process of their own.

    Args:
        tree: The test code, with the calls that start it.
        setup: The code before it.
        program_names: Names that the program must define.
        module_names: Modules of the standard library that the tests use without importing them.
    """
    classes: frozenset[str] = frozenset()
    while True:
        analysis = _Analysis([*setup.body, *tree.body], program_names, classes)
        analysis.module.kinds.update({name: Kind("library", name) for name in module_names})
        analysis.run()
        if analysis.used_as_classes <= classes:
            operations = tuple(analysis.operations.values())
            return Separable(classes=classes, operations=operations, exact=analysis.exact)
        classes |= analysis.used_as_classes


class _Analysis:
    def __init__(self, body: list[ast.stmt], program_names: Sequence[str], classes: frozenset[str]) -> None:
        self.body = body
        self.program_names = frozenset(program_names)
        self.classes = classes
        self.used_as_classes: frozenset[str] = frozenset()
        self.exact = False
        self.changed = False
        #: Counts changes of any kind; and the count when a function was last looked at.
        self.version = 0
        self.looked_at: dict[int, int] = {}
        self.scopes: dict[int, Scope] = {}
        self.at_work: list[ast.AST] = []
        self.closed: dict[int, bool] = {}
        #: Arguments that were noted as bindings of parameters.
        self.given: set[tuple[int, str]] = set()
        #: Calls that reach the program, each with its scope.
        self.calls: dict[int, tuple[Scope, ast.Call]] = {}
        #: Expressions that `check_exclusive` has looked at.
        self.exclusive: set[int] = set()
        #: Functions that `check_returned` has looked at.
        self.returned: set[int] = set()
        #: Calls of the program of which the tests do not need the result itself; see `Separable`.
        self.operations: dict[int, tuple[ast.Call, str]] = {}
        #: Answers that are arguments of calls of the program, each with its scope.
        self.passed_back: dict[int, tuple[Scope, ast.expr]] = {}
        self.module = Scope()
        self.scope = self.module
        #: Arguments of calls of the program, each with its scope and call.
        self.arguments: dict[int, tuple[Scope, ast.expr, ast.AST]] = {}

    def run(self) -> None:
        index(self.module, self.body)
        self.refuse_unused_arrays()
        for _ in range(20):
            self.changed, self.at_work = False, []
            for statement in self.body:
                self.statement(statement)
            if not self.changed:
                break
        else:
            raise NotSeparable("the test code is too involved")
        for scope, expression, call in self.arguments.values():
            self.check_exclusive(scope, expression, call, set())
        for scope, expression in self.passed_back.values():
            self.keep(scope, expression)
        for scope in [self.module, *self.scopes.values()]:
            self.check_kept_answers(scope)

    def refuse_unused_arrays(self) -> None:
        for node in self.body:
            for alias in node.names if isinstance(node, ast.Import) else []:
                name = alias.asname or alias.name.partition(".")[0]
                if alias.name.partition(".")[0] in ARRAYS and not any(
                    isinstance(each, ast.Name) and each.id == name for part in self.body for each in walk(part)
                ):
                    # Imported for the sake of the answers.
                    raise NotSeparable(f"answers may be objects of {alias.name}")

    # Statements

    def block(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                if isinstance(node, ast.AsyncFunctionDef):
                    kind = Kind("unknown", f"the asynchronous function {node.name}")
                elif node.decorator_list:
                    kind = Kind("unknown", f"the decorated function {node.name}")
                else:
                    kind = Kind("def", node)
                self.bind(node.name, kind)
            case ast.ClassDef():
                self.bind(node.name, Kind("unknown", f"the tests' own class {node.name}"))
            case ast.Import():
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    self.bind(name, Kind("library", alias.name if alias.asname else name))
            case ast.ImportFrom():
                for alias in node.names:
                    for name in public_names(node.module) if alias.name == "*" else [alias.name]:
                        self.bind(alias.asname or name, Kind("library", f"{node.module}.{name}"))
            case ast.Assert():
                self.truth(node.test)
                if node.msg is not None:
                    self.value(node.msg)
            case ast.Expr():
                kind = self.expression(node.value)
                if isinstance(node.value, ast.Call) and self.reaches_program(node.value.func):
                    self.operations[id(node.value)] = node.value, "drop"
                elif kind.name not in ("result", "instance"):
                    self.plain(kind, node.value)
            case ast.Assign():
                kind = self.expression(node.value)
                for target in node.targets:
                    self.assign(target, kind, node.value)
            case ast.AnnAssign():
                if node.value is not None:
                    self.assign(node.target, self.expression(node.value), node.value)
            case ast.AugAssign():
                kind = self.value(node.value)
                if isinstance(node.target, ast.Name) and self.lookup(node.target.id) == ANSWER:
                    self.refuse_change_of_answer(node.target.id)
                self.assign(node.target, kind, node.value)
            case ast.For():
                self.loop(node.target, node.iter, node)
                if self.value(node.iter) == ANSWER and any(isinstance(each, ast.Break) for each in walk(node)):
                    raise NotSeparable("a loop over an answer that breaks off")
                self.block(node.body)
                self.block(node.orelse)
            case ast.While():
                self.truth(node.test)
                self.block(node.body)
                self.block(node.orelse)
            case ast.If():
                self.truth(node.test)
                self.block(node.body)
                self.block(node.orelse)
            case ast.With():
                for item in node.items:
                    self.context(item)
                self.block(node.body)
            case ast.Try():
                for handler in node.handlers:
                    self.handler(handler)
                for body in (node.body, node.orelse, node.finalbody, *(each.body for each in node.handlers)):
                    self.block(body)
            case ast.Raise():
                if node.exc is not None:
                    self.raised(node.exc)
            case ast.Return():
                if node.value is not None:
                    kind = self.expression(node.value)
                    joined = self.joined(self.scope.result, kind)
                    if joined != self.scope.result:
                        self.scope.result, self.changed = joined, True
                        self.version += 1
            case ast.Delete() if all(isinstance(each, ast.Name) for each in node.targets):
                pass
            case ast.Pass() | ast.Break() | ast.Continue():
                pass
            case _:
                raise NotSeparable(f"a statement of the kind {type(node).__name__}")

    def reaches_program(self, function: ast.expr) -> bool:
        return self.expression(function).name in ("program", "method")

    def refuse_change_of_answer(self, name: str) -> None:
        # `+=` changes a list in place, also for the program that may have kept it.
        for value, _, loop in self.scope.bindings.get(name, []):
            if value is not None and not isinstance(loop, ast.AugAssign) and self.expression(value) == ANSWER:
                raise NotSeparable(f"{name}, an answer of the program, is changed")

    def context(self, item: ast.withitem) -> None:
        call = item.context_expr
        if item.optional_vars is None and isinstance(call, ast.Call):
            function = ast.unparse(call.func)
            kinds = [ast.unparse(each) for each in call.args]
            if function in ("contextlib.suppress", "suppress") and kinds and set(kinds) <= ERRORS:
                return
        raise NotSeparable(f"with {ast.unparse(call)[:60]}")

    def handler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            for kind in kinds:
                if not (isinstance(kind, ast.Name) and kind.id in ERRORS and self.lookup(kind.id) is None):
                    raise NotSeparable(f"except {ast.unparse(kind)[:60]}")
        if node.name is not None and any(
            isinstance(each, ast.Name) and each.id == node.name for body in node.body for each in walk(body)
        ):
            raise NotSeparable("the test code looks into an exception")

    def raised(self, node: ast.expr) -> None:
        function = node.func if isinstance(node, ast.Call) else node
        if not (isinstance(function, ast.Name) and function.id in ERRORS):
            raise NotSeparable(f"raise {ast.unparse(node)[:60]}")
        for each in node.args if isinstance(node, ast.Call) else []:
            self.value(each)

    def assign(self, target: ast.expr, kind: Kind, value: ast.expr) -> None:
        match target:
            case ast.Name():
                self.bind(target.id, kind)
            case ast.Tuple() | ast.List():
                values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
                for place, each in enumerate(target.elts):
                    inner = each.value if isinstance(each, ast.Starred) else each
                    if len(values) == len(target.elts):
                        self.assign(inner, self.expression(values[place]), values[place])
                    else:
                        self.assign(inner, self.plain(kind, value), value)
            case ast.Subscript():
                base = self.expression(target.value)
                self.value(target.slice)
                if base != DATA or not isinstance(target.value, ast.Name):
                    raise NotSeparable(f"{ast.unparse(target)[:60]} is changed")
                self.bind(target.value.id, self.plain(kind, value))
            case _:
                raise NotSeparable(f"{ast.unparse(target)[:60]} is assigned to")

    def loop(self, target: ast.expr, iterated: ast.expr, node: ast.AST) -> None:
        kind = self.value(iterated)
        for each in ast.walk(target):
            if isinstance(each, ast.Name):
                self.bind(each.id, kind)
            elif not isinstance(each, ast.Tuple | ast.List | ast.Starred | ast.expr_context):
                raise NotSeparable(f"a loop over {ast.unparse(target)[:60]}")

    def bind(self, name: str, kind: Kind) -> None:
        known = self.scope.kinds.get(name)
        joined = kind if known is None else self.joined(known, kind, name)
        if known is not None and {known.name, kind.name} == {"def"}:
            # The later of two definitions with the same name counts.
            joined = kind if kind.ref.lineno > known.ref.lineno else known
        if joined != known:
            self.scope.kinds[name] = joined
            self.changed = True
            self.version += 1

    def joined(self, one: Kind, other: Kind, name: str = "") -> Kind:
        if one == other:
            return one
        one, other = (DATA if each.name == "library" and is_constant(each.ref) else each for each in (one, other))
        if one == other:
            return one
        for stronger in (ANSWER, OBJECT):
            if {one, other} == {DATA, stronger}:
                return stronger
        return Kind("unknown", f"a name of several kinds, {name}")

    def lookup(self, name: str) -> Kind | None:
        scope: Scope | None = self.scope
        while scope is not None:
            if name in scope.kinds:
                return scope.kinds[name]
            scope = scope.parent
        return None

    # Expressions

    def value(self, node: ast.expr) -> Kind:
        """Return the kind of an expression that must be data or an answer."""
        return self.plain(self.expression(node), node)

    def truth(self, node: ast.expr) -> None:
        """Look at an expression of which only the truth is used."""
        if isinstance(node, ast.BoolOp):
            for each in node.values:
                self.truth(each)
            return
        if not self.answers(node, "truth"):
            self.value(node)

    def answers(self, node: ast.expr, operation: str) -> bool:
        """Return whether an expression is a call of the program; note that `operation` is all it has to answer."""
        kind = self.expression(node)
        # Objects of the program that are true because they exist need no value, either.
        if isinstance(node, ast.Call) and self.reaches_program(node.func) and (kind == ANSWER or operation == "truth"):
            self.operations[id(node)] = node, operation
            return True
        return False

    def plain(self, kind: Kind, node: ast.expr) -> Kind:
        if kind in (DATA, ANSWER, OBJECT):
            return kind
        if kind.name == "library" and is_constant(kind.ref):
            return DATA
        if kind.name == "member" and kind.ref[1].attr in READABLE:
            base: Kind = kind.ref[0]
            return base
        what = kind.ref if kind.name == "unknown" else ast.unparse(node)[:60]
        raise NotSeparable(f"{what} is used as a value")

    def values(self, nodes: Sequence[ast.expr | None]) -> Kind:
        """Return ANSWER if any of several values is one, else DATA."""
        kinds = [self.value(node) for node in nodes if node is not None]
        return ANSWER if ANSWER in kinds else OBJECT if OBJECT in kinds else DATA

    def expression(self, node: ast.expr) -> Kind:
        match node:
            case ast.Constant():
                return DATA
            case ast.Name():
                return self.name(node)
            case ast.List() | ast.Tuple() | ast.Set():
                return self.values([each for each in node.elts if type(each) is not ast.Constant])
            case ast.Dict():
                return self.values([each for each in (*node.keys, *node.values) if type(each) is not ast.Constant])
            case ast.Starred():
                return self.value(node.value)
            case ast.Call():
                return self.call(node)
            case ast.Attribute():
                return self.attribute(node)
            case ast.Subscript():
                return self.values([node.value, node.slice])
            case ast.Slice():
                return self.values([node.lower, node.upper, node.step])
            case ast.Compare():
                return self.compare(node)
            case ast.BoolOp():
                return self.values(node.values)
            case ast.BinOp():
                if isinstance(node.op, ast.Mult) and any(holds_displays(side) for side in (node.left, node.right)):
                    raise NotSeparable("a list that holds the same list several times")
                if isinstance(node.op, ast.Mod) and self.value(node.left) == ANSWER:
                    raise NotSeparable("an answer may be a template")
                return self.values([node.left, node.right])
            case ast.UnaryOp():
                if isinstance(node.op, ast.Not):
                    self.truth(node.operand)
                    return ANSWER
                return self.value(node.operand)
            case ast.IfExp():
                self.truth(node.test)
                test = self.expression(node.test)
                chosen = self.values([node.body, node.orelse])
                return ANSWER if test == ANSWER and chosen == DATA else chosen
            case ast.JoinedStr():
                kind = self.values([each.value for each in node.values if isinstance(each, ast.FormattedValue)])
                self.exact |= kind == ANSWER
                return kind
            case ast.NamedExpr():
                kind = self.expression(node.value)
                self.bind(node.target.id, kind)
                return kind
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for each in node.generators:
                    self.loop(each.target, each.iter, each)
                    for condition in each.ifs:
                        self.truth(condition)
                parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                iterated = self.values([each.iter for each in node.generators])
                return ANSWER if ANSWER in (iterated, self.values(parts)) else self.values(parts)
            case ast.Lambda():
                return Kind("def", node)
            case _:
                raise NotSeparable(f"an expression of the kind {type(node).__name__}")

    def name(self, node: ast.Name) -> Kind:
        kind = self.lookup(node.id)
        if kind is not None:
            return kind
        if node.id in self.program_names:
            return Kind("program", node.id)
        if hasattr(builtins, node.id):
            return Kind("builtin", node.id)
        if node.id in ("__name__", "__file__", "__doc__"):
            return DATA
        # Bound only later in the text, as far as is known by now.
        return DATA if self.changed else Kind("unknown", node.id)

    def attribute(self, node: ast.Attribute) -> Kind:
        base = self.expression(node.value)
        if base.name == "library":
            return Kind("library", f"{base.ref}.{node.attr}")
        if base.name == "result":
            self.used_as_classes |= {base.ref}
            return METHOD
        if base == INSTANCE:
            if node.attr.startswith("_"):
                raise NotSeparable(f"the test code looks at {node.attr}")
            return METHOD
        if base in (DATA, OBJECT, ANSWER):
            return Kind("member", (base, node))
        if base.name == "builtin" and base.ref in DATA_TYPES:
            return Kind("member", (DATA, node))
        raise NotSeparable(f"{ast.unparse(node)[:60]}, an attribute of the program")

    def compare(self, node: ast.Compare) -> Kind:
        sides = [node.left, *node.comparators]
        for operator, one, other in zip(node.ops, sides, sides[1:], strict=False):
            if (
                isinstance(operator, ast.Is | ast.IsNot | ast.Eq | ast.NotEq)
                and asks_type(one)
                and asks_type(other, True)
            ):
                for side in (one, other):
                    if isinstance(side, ast.Call):
                        self.values(side.args)
                self.exact = True
                return ANSWER
            if isinstance(operator, ast.Is | ast.IsNot):
                constants = [each for each in (one, other) if isinstance(each, ast.Constant)]
                if not any(any(each.value is known for known in _IDENTITY_CONSTANTS) for each in constants):
                    raise NotSeparable("the test code asks for the same object")
                if len(sides) == 2 and isinstance(other, ast.Constant) and other.value is None:
                    if self.answers(one, "none"):
                        return ANSWER
        return self.values(sides)

    def call(self, node: ast.Call) -> Kind:
        arguments = [*node.args, *(each.value for each in node.keywords)]
        function = self.expression(node.func)
        if function.name in ("program", "method") or (
            function.name == "def" and not (isinstance(function.ref, ast.FunctionDef) and self.is_closed(function.ref))
        ):
            self.calls[id(node)] = self.scope, node
        match function.name:
            case "program":
                self.pass_on(node, arguments)
                if function.ref in self.classes:
                    return INSTANCE
                return Kind("result", function.ref) if CLASS_NAME.fullmatch(function.ref) else ANSWER
            case "method":
                self.pass_on(node, arguments)
                return ANSWER
            case "builtin":
                return self.builtin(node, function.ref, arguments)
            case "library":
                return self.library(node, function.ref, arguments)
            case "member":
                base, member = function.ref
                return self.member(base, member, arguments)
            case "def":
                return self.defined(node, function.ref)
        raise NotSeparable(f"{ast.unparse(node.func)[:60]} is called")

    def pass_on(self, node: ast.Call, arguments: Sequence[ast.expr]) -> None:
        for each in arguments:
            if any(isinstance(part, ast.NamedExpr) for part in walk(each)):
                raise NotSeparable("an argument is given a name")
            kind = self.expression(each)
            if kind.name == "builtin" and kind.ref in DATA_TYPES:
                continue
            if self.plain(kind, each) == OBJECT:
                raise NotSeparable(f"{ast.unparse(each)[:60]} is passed to the program")
            if kind == ANSWER:
                self.passed_back[id(each)] = self.scope, each
            self.arguments[id(each)] = self.scope, each, node

    def builtin(self, node: ast.Call, name: str, arguments: Sequence[ast.expr]) -> Kind:
        if name in NEVER:
            raise NotSeparable(f"{name} is called")
        if name == "isinstance" and len(arguments) == 2:
            self.value(arguments[0])
            types = arguments[1].elts if isinstance(arguments[1], ast.Tuple) else [arguments[1]]
            if all(ast.unparse(each) in (*DATA_TYPES, "np.ndarray", "numpy.ndarray") for each in types):
                return ANSWER
            raise NotSeparable(f"isinstance with {ast.unparse(arguments[1])[:60]}")
        if name in ERRORS:
            self.values(arguments)
            return OBJECT
        if name == "float" and any(
            isinstance(each, ast.Constant) and "nan" in str(each.value).lower() for each in arguments
        ):
            raise NotSeparable("not-a-number is found in a list only by its identity")
        if name in CALLING and any(self.reaches_program(each) for each in arguments):
            # The builtin calls the program with items of the other arguments.
            for each in arguments:
                if not self.reaches_program(each):
                    if self.value(each) == ANSWER:
                        raise NotSeparable(f"{name} passes an answer back to the program")
                    self.arguments[id(each)] = self.scope, each, node
            return ANSWER
        if name in ("bool", "str") and len(arguments) == len(node.args) == 1:
            if self.answers(arguments[0], "truth" if name == "bool" else "text"):
                return ANSWER
        if (
            name in ("all", "any")
            and len(arguments) == 1
            and isinstance(arguments[0], ast.GeneratorExp | ast.ListComp)
        ):
            # First, so that names of the loops are known.
            self.expression(arguments[0])
            self.answers(arguments[0].elt, "truth")
        kinds = [self.argument(each) for each in arguments]
        if name == "type" or (ANSWER in kinds and name not in ON_ANSWERS):
            raise NotSeparable(f"{name} of an answer")
        if name in ("zip", "map", "filter", "enumerate") and ANSWER in kinds:
            # They stop early, or leave an endless answer to whoever reads them. Next to a literal an answer is a list.
            endless = [each for each, kind in zip(arguments, kinds, strict=True) if kind == ANSWER]
            lazy = [each for each in endless if not _is_finite(each)]
            counted = name == "zip" and any(isinstance(each, ast.Call) for each in arguments if each not in endless)
            if lazy and (counted or not self.is_consumed(node)):
                raise NotSeparable(f"{name} over an answer")
        # The text of a value shows its exact type.
        self.exact |= name in ("str", "repr", "print") and ANSWER in kinds
        return ANSWER if ANSWER in kinds else DATA

    def is_consumed(self, node: ast.Call) -> bool:
        parent = self.scope.parents.get(id(node))
        return isinstance(parent, ast.Call | ast.For | ast.comprehension)

    def argument(self, node: ast.expr) -> Kind:
        """Return the kind of an argument of a builtin or a library function, which may be a function, too."""
        kind = self.expression(node)
        if kind.name in ("builtin", "library"):
            if kind.name == "builtin" and kind.ref not in ON_ANSWERS | DATA_TYPES:
                raise NotSeparable(f"{kind.ref} is passed on")
            if kind.name == "library" and not listed(kind.ref, OWN):
                raise NotSeparable(f"{kind.ref} is used")
            return DATA
        if kind.name == "def":
            # It may be called with answers.
            parameters = kind.ref.args
            names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)]
            return self.entered(kind.ref, {name: ANSWER for name in names})
        if kind.name in ("program", "method"):
            # `map(f, [1, 2])` calls the program with items of data.
            raise NotSeparable(f"{ast.unparse(node)[:60]} is passed on")
        if kind.name == "member" and kind.ref[1].attr in READING:
            return DATA
        return self.plain(kind, node)

    def library(self, node: ast.Call, name: str, arguments: Sequence[ast.expr]) -> Kind:
        if name.endswith(".seed"):
            raise NotSeparable("the test code sets a seed, which the program may use")
        kinds = [self.argument(each) for each in arguments]
        if not listed(name, LIBRARY if ANSWER in kinds else OWN):
            raise NotSeparable(f"{name} is called")
        if name == "json.dumps":
            self.exact = True
        if name in (
            "random.Random",
            "random.SystemRandom",
            "re.compile",
            "functools.partial",
            "itertools.count",
            "iter",
        ):
            return OBJECT
        return ANSWER if ANSWER in kinds else DATA

    def member(self, base: Kind, member: ast.Attribute, arguments: Sequence[ast.expr]) -> Kind:
        name = member.attr
        kinds = [self.argument(each) for each in arguments]
        if base == ANSWER:
            if name not in READING:
                raise NotSeparable(f"{name} of an answer is called")
            return ANSWER
        if base == OBJECT:
            if ANSWER in kinds:
                raise NotSeparable(f"{name} is called with an answer")
            return DATA
        if name in CHANGING and isinstance(member.value, ast.Name):
            if ANSWER in kinds:
                self.bind(member.value.id, ANSWER)
            return ANSWER if ANSWER in kinds else DATA
        if name not in READING | CHANGING | {"format"}:
            raise NotSeparable(f"{name} is called")
        return ANSWER if ANSWER in kinds else DATA

    def defined(self, node: ast.Call, function: ast.FunctionDef | ast.Lambda) -> Kind:
        """Return the kind of the result of a function of the tests, after a look at its body."""
        parameters = function.args
        if parameters.vararg or parameters.kwarg or any(isinstance(each, ast.Starred) for each in node.args):
            if any(self.value(each) == ANSWER for each in node.args):
                raise NotSeparable("a function of the tests with any number of arguments gets an answer")
        given_kinds = [self.expression(each) for each in (*node.args, *(each.value for each in node.keywords))]
        if isinstance(function, FUNCTIONS) and all(kind == DATA for kind in given_kinds) and self.is_closed(function):
            return DATA
        names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)]
        given: dict[str, Kind] = {}
        pairs = [*zip(names, node.args, strict=False), *((each.arg, each.value) for each in node.keywords)]
        scope = self.scope_of(function)
        for name, value in pairs:
            if name is not None:
                kind = self.expression(value)
                given[name] = kind
                if (id(value), name) not in self.given:
                    self.given.add((id(value), name))
                    scope.bindings.setdefault(name, []).append((value, self.scope, None))
        rest = [(parameters.vararg, each) for each in node.args[len(names) :]]
        known = {*names, *(each.arg for each in parameters.kwonlyargs)}
        rest += [(parameters.kwarg, each.value) for each in node.keywords if each.arg not in known]
        for parameter, value in rest:
            self.value(value)
            if parameter is not None and (id(value), parameter.arg) not in self.given:
                self.given.add((id(value), parameter.arg))
                scope.bindings.setdefault(parameter.arg, []).append((value, self.scope, None))
        return self.entered(function, given)

    def is_closed(self, function: ast.FunctionDef) -> bool:
        """Return whether a function of the tests, given data, computes data and reaches nothing of the program."""
        known = self.closed.get(id(function))
        if known is None:
            # A function that calls itself is closed if the rest of it is.
            self.closed[id(function)] = True
            own = {each.arg for each in ast.walk(function) if isinstance(each, ast.arg)}
            nodes = [node for body in function.body for node in walk(body)]
            own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
            own |= {node.name for node in nodes if isinstance(node, (*FUNCTIONS, ast.ExceptHandler)) and node.name}
            for node in nodes:
                for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else []:
                    own.add(alias.asname or alias.name.partition(".")[0])
            names = {node.id for node in nodes if isinstance(node, ast.Name)} - own
            known = self.closed[id(function)] = all(map(self.is_closed_name, names)) and not any(
                isinstance(node, ast.Global | ast.Nonlocal | ast.AsyncFunctionDef | ast.ClassDef) for node in nodes
            )
        return known

    def is_closed_name(self, name: str) -> bool:
        kind = self.module.kinds.get(name)
        if kind is None:
            return name not in self.program_names and name not in NEVER - _REFLECTING and hasattr(builtins, name)
        if kind.name == "def":
            return isinstance(kind.ref, ast.FunctionDef) and self.is_closed(kind.ref)
        return kind == DATA or (kind.name == "library" and kind.ref.partition(".")[0] in PURE)

    def scope_of(self, function: ast.FunctionDef | ast.Lambda) -> Scope:
        scope = self.scopes.get(id(function))
        if scope is None:
            scope = self.scopes[id(function)] = Scope(parent=self.scope, function=function)
            body = function.body if isinstance(function, FUNCTIONS) else [ast.Return(value=function.body)]
            if any(isinstance(each, ast.Yield | ast.YieldFrom) for part in body for each in walk(part)):
                raise NotSeparable("a function of the tests is a generator")
            index(scope, body)
            self.note_defaults(scope, function.args)
        return scope

    def note_defaults(self, scope: Scope, parameters: ast.arguments) -> None:
        names = [each.arg for each in (*parameters.posonlyargs, *parameters.args)]
        pairs: list[tuple[str, ast.expr | None]] = [
            *zip(names[len(names) - len(parameters.defaults) :], parameters.defaults, strict=True),
            *zip([each.arg for each in parameters.kwonlyargs], parameters.kw_defaults, strict=True),
        ]
        for name, default in pairs:
            if default is not None:
                scope.bindings.setdefault(name, []).append((default, self.scope, None))
                if not self.is_immutable(self.scope, default, set()):
                    scope.kept_defaults.add(name)

    def entered(self, function: ast.FunctionDef | ast.Lambda, given: dict[str, Kind]) -> Kind:
        scope, outer = self.scope_of(function), self.scope
        parameters = function.args
        for name in [each.arg for each in (*parameters.posonlyargs, *parameters.args, *parameters.kwonlyargs)]:
            given.setdefault(name, scope.kinds.get(name, DATA))
        for extra in (parameters.vararg, parameters.kwarg):
            if extra is not None:
                given.setdefault(extra.arg, DATA)
        self.scope = scope
        try:
            for name, kind in given.items():
                self.bind(name, kind)
            # A function that calls itself, directly or not, is looked at again until nothing changes.
            if any(each is function for each in self.at_work) or self.looked_at.get(id(function)) == self.version:
                return scope.result
            self.at_work.append(function)
            if isinstance(function, ast.Lambda):
                kind = self.expression(function.body)
                joined = self.joined(scope.result, kind)
                if joined != scope.result:
                    scope.result, self.changed = joined, True
                    self.version += 1
            else:
                self.block(function.body)
            self.at_work.pop()
            self.looked_at[id(function)] = self.version
            return scope.result
        finally:
            self.scope = outer

    # Arguments

    def check_exclusive(self, scope: Scope, node: ast.expr, call: ast.AST, seen: set[tuple[int, str]]) -> None:
        """Raise unless an argument is out of the tests' sight after the call, or cannot change.

        The program gets a copy, so a change of it would be lost on the tests.
        """
        if id(node) in self.exclusive:
            return
        self.exclusive.add(id(node))
        for function in self.called_in(scope, node):
            self.check_returned(function)
        for root, path, load in aliases(node):
            owner: Scope | None = scope
            while owner is not None and root not in owner.kinds:
                owner = owner.parent
            if owner is None or (id(owner), root) in seen:
                continue
            kind = owner.kinds[root]
            if kind.name not in ("data", "answer") or self.is_scalar(owner, root, set()):
                continue
            if root in owner.kept_defaults:
                raise NotSeparable(f"{root}, a default value that the program may change")
            if owner is not scope and not self.runs_once(scope, owner):
                raise NotSeparable(f"{root} is passed to the program by a function that may run several times")
            others = [each for each, where in owner.loads.get(root, []) if where is not load]
            if owner is not scope:
                others += [each for each, where in scope.loads.get(root, []) if where is not load]
            if any(each[: len(path)] == path[: len(each)] for each in others):
                raise NotSeparable(f"{root} is passed to the program and used elsewhere")
            bindings = owner.bindings.get(root, [])
            loop = loop_around(scope, call)
            for value, where, binder in bindings:
                if (
                    loop is not None
                    and binder is None
                    and (owner is not scope or loop_around(scope, value) is not loop)
                ):
                    raise NotSeparable(f"{root} is passed to the program several times")
                assignment = where.parents.get(id(value))
                if isinstance(assignment, ast.Assign) and len(assignment.targets) > 1:
                    raise NotSeparable(f"{root} is passed to the program and has several names")
                if value is not None:
                    self.check_exclusive(where, value, value, {*seen, (id(owner), root)})

    def runs_once(self, scope: Scope, until: Scope) -> bool:
        """Return whether a function, and each that calls it up to the scope `until`, is called once, in no loop."""
        while scope is not until:
            function, outer = scope.function, scope.parent
            if outer is None or not isinstance(function, ast.FunctionDef):
                return False
            uses = [
                load
                for where in (self.module, *self.scopes.values())
                for _, load in where.loads.get(function.name, [])
            ]
            if len(uses) != 1 or id(uses[0]) not in outer.parents or loop_around(outer, uses[0]) is not None:
                return False
            scope = outer
        return True

    def called_in(self, scope: Scope, node: ast.expr) -> Iterator[ast.FunctionDef | ast.Lambda]:
        """Yield the functions of the tests that an argument calls by name."""
        self.scope, outer = scope, self.scope
        try:
            for each in walk(node):
                kind = (
                    self.lookup(each.func.id)
                    if isinstance(each, ast.Call) and isinstance(each.func, ast.Name)
                    else None
                )
                if kind is not None and kind.name == "def":
                    yield kind.ref
        finally:
            self.scope = outer

    def check_returned(self, function: ast.FunctionDef | ast.Lambda) -> None:
        """Raise if a function of the tests returns an object that outlives its calls, unless it cannot change."""
        if id(function) in self.returned:
            return
        self.returned.add(id(function))
        scope = self.scope_of(function)
        returned = [function.body] if isinstance(function, ast.Lambda) else []
        for part in function.body if isinstance(function, ast.FunctionDef) else []:
            returned += [each.value for each in walk(part) if isinstance(each, ast.Return) and each.value is not None]
        local = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
        seen: set[str] = set()
        while returned:
            value = returned.pop()
            for inner in self.called_in(scope, value):
                self.check_returned(inner)
            for root, _, _ in aliases(value):
                if root in seen or self.is_scalar(scope, root, set()):
                    continue
                seen.add(root)
                if root in scope.kept_defaults or (
                    root not in local and root not in scope.bindings and is_bound_around(scope, root)
                ):
                    raise NotSeparable(f"{root}, which a function of the tests returns, may be passed to the program")
                returned += [
                    each for each, where, _ in scope.bindings.get(root, []) if each is not None and where is scope
                ]

    def keep(self, scope: Scope, node: ast.expr) -> None:
        """Note that the result of a call, which only the program gets, stays in the program; raise if more gets it.

        The program may change it, or it may be an object that cannot cross.
        """
        self.scope = scope
        if isinstance(node, ast.Name) and len(bindings := scope.bindings.get(node.id, [])) == 1:
            [(value, _, _)] = bindings
            assignment = scope.parents.get(id(value))
            if (
                isinstance(assignment, ast.Assign)
                and isinstance(assignment.targets[0], ast.Name)
                and len(assignment.targets) == len(scope.loads[node.id]) == 1
                and value is not None
                and self.answers(value, "make")
            ):
                return
        elif self.answers(node, "make"):
            return
        if not isinstance(node, ast.BinOp | ast.UnaryOp | ast.Compare | ast.JoinedStr) and not (
            isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in SCALAR_RESULTS
        ):
            raise NotSeparable(f"{ast.unparse(node)[:60]}, an answer, is passed back to the program")

    def check_kept_answers(self, scope: Scope) -> None:
        """Raise if the tests read an answer that they keep while they call the program again.

        The program may change a list that it has returned; the tests have a copy.
        """
        calls = [position(node) for where, node in self.calls.values() if where is scope]
        for name, bindings in scope.bindings.items():
            if scope.kinds.get(name) != ANSWER:
                continue
            for value, _, binder in bindings:
                # A name that a loop or a sum binds anew has a part of an answer, or a number.
                if value is None or binder is not None or not holds_call(value) or id(value) in self.operations:
                    continue
                bound = end(value)
                for _, read in scope.loads.get(name, []):
                    if any(bound < call < position(read) for call in calls):
                        raise NotSeparable(f"{name}, an answer, is read after another call of the program")

    def is_scalar(self, scope: Scope, name: str, seen: set[tuple[int, str]]) -> bool:
        """Return whether a name is bound only to numbers, texts and tuples of these."""
        owner: Scope | None = scope
        while owner is not None and name not in owner.bindings:
            owner = owner.parent
        if owner is None or (id(owner), name) in seen:
            return False
        return all(
            value is not None and self.is_immutable(where, value, {*seen, (id(owner), name)}, item=loop is not None)
            for value, where, loop in owner.bindings[name]
        )

    def is_immutable(self, scope: Scope, node: ast.expr, seen: set[tuple[int, str]], *, item: bool = False) -> bool:
        match node:
            case ast.Constant() | ast.JoinedStr() | ast.Compare():
                return True
            case ast.UnaryOp():
                return self.is_immutable(scope, node.operand, seen)
            case ast.BinOp():
                return self.is_immutable(scope, node.left, seen) and self.is_immutable(scope, node.right, seen)
            case ast.Tuple():
                return all(self.is_immutable(scope, each, seen) for each in node.elts)
            case ast.List() | ast.Set():
                return item and all(self.is_immutable(scope, each, seen) for each in node.elts)
            case ast.Name():
                return self.is_scalar(scope, node.id, seen)
            case ast.Call():
                if item and ast.unparse(node.func) in ("zip", "enumerate", "list", "reversed", "sorted"):
                    return all(self.is_immutable(scope, each, seen, item=True) for each in node.args)
                return ast.unparse(node.func).rpartition(".")[2] in SCALAR_RESULTS
        return False


def _is_finite(node: ast.expr) -> bool:
    """Return whether an expression reads its answers to the end."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id)
