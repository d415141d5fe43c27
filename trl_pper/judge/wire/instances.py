"""Carry instances of classes that the tests and the program both define, such as the nodes of a linked list.

An instance crosses as a number and its attributes; the other side gives the attributes to an instance of its own class
of the same name. No constructor, property or `__setattr__` runs. Both sides number the instances of a call in the same
order, so that shared references, cycles and identity survive. Classes that extend a builtin are not carried.
"""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Mapping
from typing import Any

from trl_pper.judge.wire.rules import CodecError
from trl_pper.judge.wire.write_back import CONTAINERS, write_back

_MAX_INSTANCES = 1_000_000


class MissingClass(CodecError):
    """An error: the tests pass an instance of a class that the program does not define."""


class InstanceTable:
    """A table of the classes that both sides know, and of their instances that crossed during a call.

    Args:
        namespace: Globals that hold the classes.
        names: Names of the classes. The value tells whether the class holds only attributes, so that a stand-in can be
            made in a program that lacks it.
        trusted: Whether this is the referee's table. There an attribute from the program never hides a method or
            property of the class.
    """

    def __init__(self, namespace: Mapping[str, Any], names: Mapping[str, bool], *, trusted: bool) -> None:
        self.namespace = namespace
        self.names = names
        self.trusted = trusted
        self.objects: list[Any] = []
        self.number_by_id: dict[int, int] = {}
        self.stand_ins: dict[str, type] = {}

    def name_of(self, kind: type) -> str | None:
        """Return the name under which both sides know `kind`, or None."""
        name = kind.__name__
        if name not in self.names:
            return None
        # Looked up each time: the tests and the program define their classes while they run.
        known = self.namespace.get(name)
        return name if (known if known is not None else self.stand_ins.get(name)) is kind else None

    def find(self, name: object) -> type:
        """Return this side's class called `name`, or a stand-in in a program that lacks a class of attributes only.

        Raises:
            CodecError: `name` is no class of the tests.
            MissingClass: This side does not define the class, and no stand-in can take its place.
        """
        if not isinstance(name, str) or name not in self.names:
            raise CodecError(f"{name!r} is no class of the tests")
        kind = self.namespace.get(name)
        if isinstance(kind, type):
            return kind
        if kind is not None or self.trusted or not self.names[name]:
            raise MissingClass(name)
        return self.stand_ins.setdefault(name, type(name, (), {}))

    def carries(self, kind: Any) -> bool:
        """Return whether an instance of `kind` can be rebuilt from its attributes alone."""
        return _is_plain(kind)

    def clear(self) -> None:
        """Forget all instances, before another call begins."""
        self.truncate(0)

    def truncate(self, size: int) -> None:
        """Forget the instances from number `size` on."""
        while len(self.objects) > size:
            # `objects` keeps each instance alive as long as its id is a key.
            del self.number_by_id[id(self.objects.pop())]

    def number(self, value: Any) -> int:
        """Return the number of the instance `value`; a new instance gets the next number.

        Raises:
            CodecError: Too many instances crossed in this call.
        """
        number = self.number_by_id.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            if number >= _MAX_INSTANCES:
                del self.number_by_id[id(value)]
                raise CodecError(f"more than {_MAX_INSTANCES} instances in one call")
            self.objects.append(value)
        return number

    def instance(self, number: int, name: object) -> Any:
        """Return the instance with `number`; the next number makes a new instance, without its constructor.

        Raises:
            CodecError: `number` is neither known nor the next, or stands for an instance of another class, or no
                instance of the class can be made.
        """
        kind = self.find(name)
        if number < len(self.objects):
            # The number comes from the other side, which may lie about the class.
            if type(self.objects[number]) is not kind:
                raise CodecError(f"instance {number} is no {name}")
        elif number > len(self.objects) or not self.carries(kind):
            raise CodecError(f"an instance of {name} cannot be made")
        else:
            self.number(object.__new__(kind))
        return self.objects[number]

    def set_state(self, instance: Any, state: object) -> None:
        """Give `instance` the attributes `state`, and remove all others.

        Raises:
            CodecError: `state` is no dict of names and values, or the class has no place for an attribute.
        """
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise CodecError("attributes are a dict")
        kind: Any = type(instance)
        slots = _slots(kind)
        # Through the slot and the `__dict__`: `setattr` would run a `__setattr__` or a property of the class.
        for name, slot in slots.items():
            if name in state:
                slot.__set__(instance, _renewed(_read_slot(slot, instance), state[name]))
            elif _read_slot(slot, instance) is not _EMPTY:
                slot.__delete__(instance)
        attributes = getattr(instance, "__dict__", {})
        for name in attributes.keys() - state.keys():
            del attributes[name]
        for name in [name for name in state if name not in slots]:
            if not kind.__dictoffset__:
                raise CodecError(f"an instance of {kind.__name__} has no attribute {name!r}")
            # The program must not replace a method that the test code calls to judge it.
            if not (self.trusted and _hides(kind, name)):
                attributes[name] = _renewed(attributes.get(name), state[name])


def changeable(
    args: tuple[Any, ...], keywords: dict[str, Any], instances: InstanceTable
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of a call with None in place of each argument that the call cannot change.

    Args:
        args: Positional arguments.
        keywords: Keyword arguments.
        instances: The table of classes that both sides have; their instances can change.

    Returns:
        The two in the same shape; None when the call can change no argument.
    """

    def can_change(value: Any) -> bool:
        return type(value) in _MUTABLE or type(value).__name__ in instances.names or type(value).__module__ == "numpy"

    if not any(map(can_change, (*args, *keywords.values()))):
        return None
    return (
        tuple([value if can_change(value) else None for value in args]),
        {name: value if can_change(value) else None for name, value in keywords.items()},
    )


#: Types with content that a call can change; a tuple may hold a list.
_MUTABLE = frozenset((*CONTAINERS, tuple))


def _renewed(old: Any, new: Any) -> Any:
    """Return the container `old` with the content of `new` where possible, otherwise `new`."""
    # The same object, so that other references to the container see the change.
    return old if write_back(old, new) else new


def read_state(instance: Any) -> dict[str, Any]:
    """Return the attributes of `instance`, in its `__dict__` and in slots."""
    kind: Any = type(instance)
    state = dict(getattr(instance, "__dict__", ()))
    for name, slot in _slots(kind).items():
        value = _read_slot(slot, instance)
        if value is not _EMPTY:
            state[name] = value
    return state


_EMPTY = object()


def _read_slot(slot: types.MemberDescriptorType, instance: Any) -> Any:
    try:
        return slot.__get__(instance, type(instance))
    except AttributeError:
        return _EMPTY


def hashes_by_value(kind: type) -> bool:
    """Return whether instances of `kind` are hashable by their content, not by identity."""
    own: object = kind.__hash__
    return own is not None and own is not object.__hash__


@functools.lru_cache(maxsize=256)
def _slots(kind: Any) -> dict[str, types.MemberDescriptorType]:
    return {
        name: value
        for base in reversed(kind.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, types.MemberDescriptorType)
    }


@functools.lru_cache(maxsize=256)
def _is_plain(kind: Any) -> bool:
    # Members of an enumeration cross by name, a callable as a callback or a handle. `__next__` has a position and
    # `__del__` an effect that attributes do not carry.
    if issubclass(kind, enum.Enum) or any(
        name in vars(base) for base in kind.__mro__ for name in ("__del__", "__next__", "__call__")
    ):
        return False
    # `object.__new__` refuses classes that extend a builtin with a state of its own.
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return True


def _hides(kind: type, name: str) -> bool:
    """Return whether an attribute `name` of an instance would hide a method or property of its class."""
    for base in kind.__mro__:
        if name in vars(base):
            value = vars(base)[name]
            return callable(value) or hasattr(type(value), "__get__")
    return False
