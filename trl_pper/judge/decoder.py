"""Rebuilds a value from bytes that an untrusted peer may have made, out of exact types of the standard library.

Enters: bytes. Leaves: one value, or a `CodecError`; nothing of the peer's code runs, and no table is built whose keys
were made to collide. Names in the bytes are looked up in fixed tables, never imported freely.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

from trl_pper.judge.codec_rules import COUNT, MAX_DEPTH, CodecError, check_hashes
from trl_pper.judge.instances import InstanceTable
from trl_pper.judge.readers import READERS, pairs


class Decoder:
    """Reads one message.

    Args:
        data: The bytes.
        start: Where the value begins in them.
        resolve: Gives the object that a tag and a number, or a name, stand for; None refuses such objects.
        instances: The instances both sides know; None refuses instances of classes.
    """

    __slots__ = ("data", "instances", "pending", "position", "read_already", "resolve")

    def __init__(
        self, data: bytes, start: int, resolve: Callable[[bytes, Any], Any] | None, instances: InstanceTable | None
    ) -> None:
        self.data = data
        self.position = start
        self.resolve = resolve
        self.instances = instances
        self.read_already: set[int] = set()
        self.pending: collections.deque[Any] = collections.deque()

    def message(self) -> Any:
        """Return the value; nothing may follow it."""
        value = self.read(0)
        while self.pending:
            instance = self.pending.popleft()
            self.table().set_state(instance, self.read(0))
        if self.position != len(self.data):
            raise CodecError(f"malformed value: {len(self.data) - self.position} bytes too many")
        return value

    def table(self) -> InstanceTable:
        """Return the table of instances."""
        if self.instances is None:
            raise CodecError("an instance cannot cross here")
        return self.instances

    def read(self, depth: int) -> Any:
        """Return the next value."""
        position = self.position
        self.position = position + 1
        # Beyond the end this is an IndexError, which `decode` takes for the malformed value it is.
        return READERS[self.data[position]](self, depth)

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self.position + size
        if end > len(self.data):
            raise CodecError("malformed value: it ends too early")
        part = self.data[self.position : end]
        self.position = end
        return part

    def count(self) -> int:
        """Return a number of items or bytes that follow."""
        number: int = COUNT.unpack_from(self.data, self.position)[0]
        self.position += 4
        # Every item takes at least one byte, so a count beyond the remaining bytes is a lie.
        if number > len(self.data) - self.position:
            raise CodecError("malformed value: a count exceeds its data")
        return number

    def sized(self) -> bytes:
        """Return bytes that come with their length."""
        return self.take(self.count())

    def text(self) -> str:
        """Return text."""
        return self.sized().decode("utf-8", "surrogatepass")

    def items(self, depth: int) -> list[Any]:
        """Return counted items."""
        if depth > MAX_DEPTH:
            raise CodecError(f"value nested deeper than {MAX_DEPTH} levels")
        depth += 1
        read = self.read
        return [read(depth) for _ in range(self.count())]

    def keys(self, depth: int) -> list[Any]:
        """Return counted items that will be hashed."""
        items = self.items(depth)
        check_hashes(items)
        return items

    def pairs(self, depth: int) -> dict[Any, Any]:
        """Return keys and values in turn as a dict."""
        return pairs(self.items(depth))

    def whole_numbers(self, depth: int, count: int) -> list[Any]:
        """Return items that have to be whole numbers or None."""
        items = self.items(depth)
        if len(items) != count or not all(item is None or type(item) is int for item in items):
            raise CodecError(f"malformed value: {count} whole numbers expected")
        return items
