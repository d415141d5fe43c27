"""Instances of classes that the tests and the program both define, such as the nodes of a list, crossing by value.

Enters: instances, or their attributes as plain data. Leaves: the same attributes, or instances of this side's own
class that carry them; no constructor, property or `__setattr__` runs. Both sides number the instances of one call
alike, so that shared references, cycles and identity survive. Classes that extend a builtin are not carried.
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
    """The program does not define a class whose instances the tests pass to it."""


class InstanceTable:
    """The classes both sides know, and the instances of them that crossed during one call.

    Args:
        namespace: Globals in which the classes are looked up, each time anew.
        names: Their names; the value says whether a class holds nothing but attributes, so that a program that lacks
            it can be given one.
        trusted: Whether this is the referee's table. There an attribute never hides a method of the class, since
            the test code is to meet its own methods.
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
        known = self.namespace.get(name)
        return name if (known if known is not None else self.stand_ins.get(name)) is kind else None

    def find(self, name: object) -> type:
        """Return this side's class.

        Raises:
            CodecError: There is none of that name.
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
        """Whether instances of `kind` are made of nothing but their attributes."""
        return _is_plain(kind)

    def clear(self) -> None:
        """Forget all instances: another call begins."""
        self.truncate(0)

    def truncate(self, size: int) -> None:
        """Forget the instances from number `size` on."""
        while len(self.objects) > size:
            del self.number_by_id[id(self.objects.pop())]

    def number(self, value: Any) -> int:
        """Return the number of an instance, the next one when it is new."""
        number = self.number_by_id.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            if number >= _MAX_INSTANCES:
                del self.number_by_id[id(value)]
                raise CodecError(f"more than {_MAX_INSTANCES} instances in one call")
            self.objects.append(value)
        return number

    def instance(self, number: int, name: object) -> Any:
        """Return the instance with `number`, made without its constructor when the number is the next one.

        Raises:
            CodecError: There is no such number, or it stands for an instance of another class.
        """
        kind = self.find(name)
        if number < len(self.objects):
            if type(self.objects[number]) is not kind:
                raise CodecError(f"instance {number} is no {name}")
        elif number > len(self.objects) or not self.carries(kind):
            raise CodecError(f"an instance of {name} cannot be made")
        else:
            self.number(object.__new__(kind))
        return self.objects[number]

    def set_state(self, instance: Any, state: object) -> None:
        """Give `instance` the attributes `state`, and no others.

        Raises:
            CodecError: `state` is no set of attributes, or the class has no place for one.
        """
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise CodecError("attributes are a dict")
        kind: Any = type(instance)
        slots = _slots(kind)
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
            if not (self.trusted and _hides(kind, name)):
                attributes[name] = _renewed(attributes.get(name), state[name])


def changeable(
    args: tuple[Any, ...], keywords: dict[str, Any], instances: InstanceTable
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of a call with None for those that it cannot change; None when it can change none."""

    def can_change(value: Any) -> bool:
        return type(value) in _MUTABLE or type(value).__name__ in instances.names or type(value).__module__ == "numpy"

    if not any(map(can_change, (*args, *keywords.values()))):
        return None
    return (
        tuple([value if can_change(value) else None for value in args]),
        {name: value if can_change(value) else None for name, value in keywords.items()},
    )


#: A tuple may hold something that changes.
_MUTABLE = frozenset((*CONTAINERS, tuple))


def _renewed(old: Any, new: Any) -> Any:
    """Return `new`, as the container `old` when that can hold the same, so that other references to it see it."""
    return old if write_back(old, new) else new


def read_state(instance: Any) -> dict[str, Any]:
    """Return the attributes of `instance`, those in slots too."""
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
    """Whether instances of `kind` can be keys and their hash depends on what they hold."""
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
    # Members cross by name, and what can be called is called back. For the rest, making one is the test: object's
    # constructor refuses classes that extend a builtin with a state of its own.
    if issubclass(kind, enum.Enum) or any(
        name in vars(base) for base in kind.__mro__ for name in ("__del__", "__next__", "__call__")
    ):
        return False
    try:
        object.__new__(kind)
    except TypeError:
        return False
    return True


def _hides(kind: type, name: str) -> bool:
    """Whether an attribute `name` of an instance would take the place of a method or property of its class."""
    for base in kind.__mro__:
        if name in vars(base):
            value = vars(base)[name]
            return callable(value) or hasattr(type(value), "__get__")
    return False
