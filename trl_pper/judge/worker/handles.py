"""Represent, in the referee, objects that exist only in the candidate.

A handle passes the actions of test code on to the program, which answers with plain data or with another handle. The
program is asked for attributes, calls, items, text and truth of its own objects, and for the results of operators on
them: values that the tests then examine.

The program is never asked how its object compares with anything, nor for the result of an operator on its object and
plain data. In `abs(f(1) - 3.5) < eps` the plain data is the expected answer, and the difference would be the program's
verdict on itself. So a handle is unequal to plain data; `f(1) < 3` and `f(1) - 3.5` fail if `f(1)` is a handle; and
`f(1) == f(2)` of two handles cannot be judged.
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any, NamedTuple

from trl_pper.judge.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from trl_pper.judge.worker.conversation import Conversation


#: Test code reads these attributes of classes and functions. Python looks the other names in double underscores up by
#: itself, to find out which protocols an object supports.
_ASKED_DUNDERS = frozenset("__name__ __qualname__ __dict__ __annotations__ __wrapped__ __slots__ __members__".split())
_UNARY = "neg pos abs invert"
_BINARY = "add sub mul matmul truediv floordiv mod pow lshift rshift and or xor"
_COMPARING = "lt le gt ge contains"


class HandleState(NamedTuple):
    """The referee's record of an object of the program.

    Args:
        conversation: The conversation that the object came from.
        epoch: Number of the candidate that has the object, from 0.
        number: The candidate's number for the object.
        recipe: Operation and operands of the request that returned the object, and its position in the answer, to
            repeat the request with another candidate.
    """

    conversation: Conversation
    epoch: int
    number: int
    recipe: tuple[Any, ...]


class Handle:
    """An object of the program; the module lists the questions that the program is asked about it."""

    # A single name, since every other attribute is the program's.
    __slots__ = ("_state",)
    # By identity: the program's hash is never asked for, and Python would remove the method because of `__eq__`.
    __hash__ = object.__hash__

    def __init__(self, conversation: Conversation, epoch: int, number: int, recipe: tuple[Any, ...]) -> None:
        # This class's own `__setattr__` would ask the program.
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
        """Have the candidate call the object."""
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
        # Anything that the program sends in place of a bool counts as False.
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
        """Answer `isinstance(x, ProgramClass)`; plain data is never an instance of a class of the program."""
        # An object of a class that extends `list` crosses as a list, so that the true answer is not known here.
        if type(instance) is not Handle and conversation_behind(self).request("extends_data", self) is not False:
            raise unsupported(self, "isinstance with a class of the program that extends a builtin")
        return type(instance) is Handle and conversation_behind(self).request("is_instance", instance, self) is True

    def __enter__(self) -> Any:
        return conversation_behind(self).request("enter", self)

    def __exit__(self, kind: type | None, error: object, traceback: object) -> None:
        # The program's `__exit__` receives an empty builtin exception: classes and texts of the tests do not cross.
        name = "" if kind is None else kind.__name__
        if getattr(builtins, name, None) is not kind:
            name = "Exception"
        swallowed = conversation_behind(self).request("exit", self, name or None)
        if kind is not None and swallowed is not False:
            # It would swallow the asserts inside the block, too.
            raise unsupported(self, "a context manager of the program that swallows exceptions")


def same(one: object, other: object) -> bool:
    """Return whether two values are the same object; test code calls this in place of `is`."""
    # Whether two handles stand for the same object only the program knows, and it is not asked to compare.
    if type(one) is Handle and type(other) is Handle and one is not other:
        raise unsupported(one, "telling two objects of the program apart")
    return one is other


def conversation_behind(handle: Handle) -> Conversation:
    """Return the conversation that `handle` belongs to."""
    state: HandleState = object.__getattribute__(handle, "_state")
    return state.conversation


def unsupported(handle: Handle, what: str) -> BaseException:
    """Return the failure to raise in a test that needs something unsupported, which `what` describes."""
    return conversation_behind(handle).fail(Outcome.UNSUPPORTED, f"{what} is not supported")


def no_value(handle: Handle) -> BaseException:
    """Return the failure to raise in a test that computes with plain data and an object of the program."""
    # The outcome is a failure, not "unsupported": otherwise a program could return any object to have a test that it
    # fails left out.
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
    # Exactly this type: a bool or a handle would be a surprise for the tests.
    if type(number) is not kind:
        raise TypeError(f"{function}() of the program's object is no {kind.__name__}")
    return number


def _refusing(name: str) -> Callable[..., Any]:
    # Two objects of the program can be compared only by the program; the verdict is left open.
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


# Set on the class, because Python looks operators up there and never calls `__getattr__` for them.
for _name in _COMPARING.split():
    setattr(Handle, f"__{_name}__", _refusing(_name))
for _name in _UNARY.split():
    setattr(Handle, f"__{_name}__", _unary(_name))
for _name in _BINARY.split():
    setattr(Handle, f"__{_name}__", _binary(_name))
    setattr(Handle, f"__r{_name}__", _binary(_name, reflected=True))
