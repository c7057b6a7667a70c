"""Writes flatbuffers (https://flatbuffers.dev/internals): tables, vectors and strings; equal ones are stored once.

The flatbuffers package is not used because it lays out its buffers differently from version to version; here the same
content is always the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Offset:
    """Where something was written: the distance from the end of the buffer to its start, in bytes."""

    position: int


Field = Offset | tuple[str, float]
"""The value of a table's field: an offset, or a scalar as its struct format ("b", "B", "i", "I", "f") and its value."""


class Builder:
    """A buffer that grows at its front, so that whatever refers to something precedes it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._offsets: dict[tuple[object, ...], Offset] = {}
        self._alignment = 4

    def compute_padding(self, length: int, alignment: int) -> int:
        """The number of padding bytes if `length` bytes that need an alignment were written next."""
        return -(self._size + length) % alignment

    def write_vector(self, data: bytes, count: int, alignment: int = 4) -> Offset:
        """Write a vector of `count` elements whose bytes are `data`; the first is aligned."""
        key = (data, count, alignment)
        if key not in self._offsets:
            self._offsets[key] = self._append_vector(data, count, alignment)
        return self._offsets[key]

    def write_string(self, text: str) -> Offset:
        """Write a string: a vector that is followed by a zero byte, which is not counted."""
        data = text.encode()
        return self.write_vector(data + b"\0", len(data))

    def write_offsets(self, items: Sequence[Offset]) -> Offset:
        """Write a vector of offsets."""
        self._align(0, 4)
        # In the file, an offset is the distance from its own place to what it refers to.
        offsets = [self._size + 4 * (len(items) - index) - item.position for index, item in enumerate(items)]
        return self._append_vector(struct.pack(f"<{len(items)}I", *offsets), len(items), 4)

    def write_table(self, fields: Mapping[int, Field]) -> Offset:
        """Write a table from its fields, by their numbers."""
        key = ("table", *sorted(fields.items(), key=lambda item: item[0]))
        if key not in self._offsets:
            self._offsets[key] = self._append_table(fields)
        return self._offsets[key]

    def finish(self, root: Offset, identifier: bytes) -> bytes:
        """The whole buffer, which begins with the offset of the root and the four bytes of the file identifier."""
        self._align(8, max(self._alignment, 4))
        self._prepend(identifier)
        self._prepend(struct.pack("<I", self._size + 4 - root.position))
        return b"".join(reversed(self._parts))

    def _append_vector(self, data: bytes, count: int, alignment: int) -> Offset:
        self._align(len(data), max(alignment, 4))
        self._prepend(data)
        self._prepend(struct.pack("<I", count))
        return Offset(self._size)

    def _append_table(self, fields: Mapping[int, Field]) -> Offset:
        # Scalars of one byte come last, where they need no padding between them.
        order = sorted(fields, key=lambda number: (_field_size(fields[number]) == 1, number))
        places, length = {}, 4  # the first four bytes lead to the vtable
        for number in order:
            places[number] = length
            length += _field_size(fields[number])
        self._align(length, 4)
        start = self._size + length
        body = bytearray()
        for number in order:
            value = fields[number]
            if isinstance(value, Offset):
                body += struct.pack("<I", start - places[number] - value.position)
            else:
                body += struct.pack("<" + value[0], value[1])
        self._prepend(bytes(body))
        slots = [places.get(number, 0) for number in range(max(fields, default=-1) + 1)]
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), length, *slots)
        shared = self._offsets.get(("vtable", vtable))
        # A table may come before or after its vtable. A new vtable precedes it, with at most two bytes between them.
        padding = -(start + len(vtable)) % 4
        position = shared.position if shared else start + padding + len(vtable)
        self._prepend(struct.pack("<i", position - start))
        if shared is None:
            self._prepend(bytes(padding))
            self._prepend(vtable)
            self._offsets["vtable", vtable] = Offset(self._size)
        return Offset(start)

    def _align(self, length: int, alignment: int) -> None:
        """Pad so that `length` bytes that are written next start at a multiple of `alignment`."""
        self._alignment = max(self._alignment, alignment)
        self._prepend(bytes(self.compute_padding(length, alignment)))

    def _prepend(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)


def _field_size(value: Field) -> int:
    """The size of a field in a table, in bytes."""
    return 4 if isinstance(value, Offset) else struct.calcsize("<" + value[0])
