"""Stands in the referee for an object that only the program has.

Enters: what test code does to the object. Leaves: the program's answer as plain data or as another handle. The
program is asked for attributes, calls, items, text, truth and sums of its own objects, which are values the tests then
look at. It is never asked how its object compares with anything, nor what it makes of plain data in an operator: in
`abs(f(1) - 3.5) < eps` the plain data is the expected answer, and the difference would be the program's verdict on
itself. So an object is unequal to plain data, `f(1) < 3` and `f(1) - 3.5` fail with an object on the left, and
`f(1) == f(2)` between two objects cannot be judged.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, NamedTuple

from trl_pper.judge.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from trl_pper.judge.worker.conversation import Conversation


#: Looked up on classes and functions by test code; anything else in double underscores is a protocol Python probes.
_ASKED_DUNDERS = frozenset("__name__ __qualname__ __dict__ __annotations__ __wrapped__ __slots__ __members__".split())
_UNARY = "neg pos abs invert"
_BINARY = "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor"
_COMPARING = "lt le gt ge contains"


class HandleState(NamedTuple):
    """What the referee knows of an object of the program.

    Args:
        conversation: The conversation it came from.
        epoch: The candidate that has it, counted from 0.
        number: The candidate's number for it.
        recipe: Operation, operands and place among the objects received, to get it again from another candidate.
    """

    conversation: Conversation
    epoch: int
    number: int
    recipe: tuple[Any, ...]


class Handle:
    """An object of the program; see the module for what the program is asked about it."""

    __slots__ = ("_state",)
    __hash__ = object.__hash__

    def __init__(self, conversation: Conversation, epoch: int, number: int, recipe: tuple[Any, ...]) -> None:
        object.__setattr__(self, "_state", HandleState(conversation, epoch, number, recipe))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _ASKED_DUNDERS:
            raise AttributeError(name)
        return conversation_behind(self).request("attribute", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        conversation_behind(self).request("set_attribute", self, name, value)

    def __delattr__(self, name: str) -> None:
        conversation_behind(self).request("delete_attribute", self, name)

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Have the candidate call its object."""
        return conversation_behind(self).request("call", self, args, keywords)

    def __iter__(self) -> Any:
        return iter(conversation_behind(self).request("items", self))

    def __next__(self) -> Any:
        return conversation_behind(self).request("next", self)

    def __len__(self) -> int:
        length = conversation_behind(self).request("length", self)
        if type(length) is not int or length < 0:
            raise TypeError("the program's object has no length")
        return length

    def __getitem__(self, key: Any) -> Any:
        return conversation_behind(self).request("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        conversation_behind(self).request("set_item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        conversation_behind(self).request("delete_item", self, key)

    def __eq__(self, other: object) -> bool:
        if type(other) is Handle and other is not self:
            raise unsupported(self, "comparing two objects of the program")
        return other is self

    def __bool__(self) -> bool:
        return conversation_behind(self).request("truth", self) is True

    def __str__(self) -> str:
        return _text(self, "str")

    def __repr__(self) -> str:
        return _text(self, "repr")

    def __int__(self) -> int:
        return int(_number(self, "int", int))

    def __float__(self) -> float:
        return float(_number(self, "float", float))

    def __index__(self) -> int:
        return int(_number(self, "index", int))

    def __instancecheck__(self, instance: object) -> bool:
        """Answer `isinstance(x, ProgramClass)`; what crossed as plain data is no object of the program's class."""
        if type(instance) is not Handle and conversation_behind(self).request("extends_data", self) is not False:
            raise unsupported(self, "isinstance with a class of the program that extends a builtin")
        return type(instance) is Handle and conversation_behind(self).request("is_instance", instance, self) is True

    def __enter__(self) -> Any:
        return conversation_behind(self).request("enter", self)

    def __exit__(self, kind: type | None, error: object, traceback: object) -> None:
        name = "" if kind is None else kind.__name__
        if getattr(builtins, name, None) is not kind:
            name = "Exception"
        swallowed = conversation_behind(self).request("exit", self, name or None)
        if kind is not None and swallowed is not False:
            # Among what it would swallow are the asserts inside the block.
            raise unsupported(self, "a context manager of the program that swallows exceptions")


def same(one: object, other: object) -> bool:
    """Return `one is other`; whether two handles stand for one object is the program's secret."""
    if type(one) is Handle and type(other) is Handle and one is not other:
        raise unsupported(one, "telling two objects of the program apart")
    return one is other


def conversation_behind(handle: Handle) -> Conversation:
    """Return the conversation that `handle` belongs to."""
    state: HandleState = object.__getattribute__(handle, "_state")
    return state.conversation


def unsupported(handle: Handle, what: str) -> BaseException:
    """Return the failure of a test that does `what`."""
    return conversation_behind(handle).fail(Outcome.UNSUPPORTED, f"{what} is not supported")


def no_value(handle: Handle) -> BaseException:
    """Return the failure of a test that computes with plain data and an object of the program.

    A failure, since a program could return any object to have a test that it fails left out.
    """
    return conversation_behind(handle).fail(
        Outcome.RUNTIME_ERROR, "the program gave an object where the tests need a value"
    )


def _text(handle: Handle, function: str) -> str:
    text = conversation_behind(handle).request("convert", function, handle)
    if type(text) is not str:
        raise TypeError(f"{function}() of the program's object is no text")
    return text


def _number(handle: Handle, function: str, kind: type) -> Any:
    number = conversation_behind(handle).request("convert", function, handle)
    if type(number) is not kind:
        raise TypeError(f"{function}() of the program's object is no {kind.__name__}")
    return number


def _refusing(name: str) -> Callable[..., Any]:
    def method(self: Handle, other: object) -> Any:
        if type(other) is not Handle and name != "contains":
            raise no_value(self)
        raise unsupported(self, f"__{name}__ on an object of the program")

    return method


def _unary(name: str) -> Callable[[Handle], Any]:
    return lambda self: conversation_behind(self).request("operator", name, self)


def _binary(name: str, *, reflected: bool = False) -> Callable[[Handle, object], Any]:
    def method(self: Handle, other: object) -> Any:
        if type(other) is not Handle:
            raise no_value(self)
        operands = (other, self) if reflected else (self, other)
        return conversation_behind(self).request("operator", name, *operands)

    return method


for _name in _COMPARING.split():
    setattr(Handle, f"__{_name}__", _refusing(_name))
for _name in _UNARY.split():
    setattr(Handle, f"__{_name}__", _unary(_name))
for _name in _BINARY.split():
    setattr(Handle, f"__{_name}__", _binary(_name))
    setattr(Handle, f"__r{_name}__", _binary(_name, reflected=True))
