"""Writes flatbuffers (https://flatbuffers.dev/internals): tables, vectors and strings, whatever is equal once.

By hand, so that the same content is the same bytes whatever is installed: the flatbuffers package lays out its buffers
differently from version to version.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Something that was written already: its distance from the buffer's end to its start, in bytes."""

    position: int


class Builder:
    """A buffer that grows at its front, so that whatever refers stands before what it refers to."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._written: dict[tuple[object, ...], Reference] = {}
        self._alignment = 4

    def padding(self, length: int, alignment: int) -> int:
        """How many bytes are lost if `length` bytes that want an alignment are written next."""
        return -(self._size + length) % alignment

    def vector(self, data: bytes, count: int, alignment: int = 4) -> Reference:
        """A vector of `count` elements that are `data`, each to be aligned."""
        key = (data, count, alignment)
        if key not in self._written:
            self._written[key] = self._write_vector(data, count, alignment)
        return self._written[key]

    def string(self, text: str) -> Reference:
        """A string: its vector ends with a zero byte that is not counted."""
        data = text.encode()
        return self.vector(data + b"\0", len(data))

    def references(self, items: Sequence[Reference]) -> Reference:
        """A vector of references."""
        self._align(0, 4)
        # An offset counts from where it stands to what it refers to.
        offsets = [self._size + 4 * (len(items) - index) - item.position for index, item in enumerate(items)]
        return self._write_vector(struct.pack(f"<{len(items)}I", *offsets), len(items), 4)

    def table(self, fields: Mapping[int, Reference | tuple[str, int]]) -> Reference:
        """A table.

        Args:
            fields: by the field's number: a reference, or a scalar's struct format ("b", "B", "i" or "I") and value.
        """
        key = ("table", *sorted(fields.items(), key=lambda item: item[0]))
        if key not in self._written:
            self._written[key] = self._write_table(fields)
        return self._written[key]

    def finish(self, root: Reference, identifier: bytes) -> bytes:
        """The buffer, from the root's offset and the four bytes of the file identifier on."""
        self._align(8, max(self._alignment, 4))
        self._prepend(identifier)
        self._prepend(struct.pack("<I", self._size + 4 - root.position))
        return b"".join(reversed(self._parts))

    def _write_vector(self, data: bytes, count: int, alignment: int) -> Reference:
        self._align(len(data), max(alignment, 4))
        self._prepend(data)
        self._prepend(struct.pack("<I", count))
        return Reference(self._size)

    def _write_table(self, fields: Mapping[int, Reference | tuple[str, int]]) -> Reference:
        # Scalars of one byte stand last, where they need no padding between them.
        order = sorted(fields, key=lambda number: (_width(fields[number]) == 1, number))
        offsets, length = {}, 4  # the first four bytes lead to the vtable
        for number in order:
            offsets[number] = length
            length += _width(fields[number])
        self._align(length, 4)
        start = self._size + length
        body = bytearray()
        for number in order:
            value = fields[number]
            if isinstance(value, Reference):
                body += struct.pack("<I", start - offsets[number] - value.position)
            else:
                body += struct.pack("<" + value[0], value[1])
        self._prepend(bytes(body))
        slots = [offsets.get(number, 0) for number in range(max(fields, default=-1) + 1)]
        vtable = struct.pack(f"<{2 + len(slots)}H", 4 + 2 * len(slots), length, *slots)
        known = self._written.get(("vtable", vtable))
        # A vtable may stand on either side: a new one goes before the table, four bytes from it at the nearest.
        padding = -(start + len(vtable)) % 4
        position = known.position if known else start + padding + len(vtable)
        self._prepend(struct.pack("<i", position - start))
        if known is None:
            self._prepend(bytes(padding))
            self._prepend(vtable)
            self._written["vtable", vtable] = Reference(self._size)
        return Reference(start)

    def _align(self, length: int, alignment: int) -> None:
        self._alignment = max(self._alignment, alignment)
        self._prepend(bytes(self.padding(length, alignment)))

    def _prepend(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)


def _width(value: Reference | tuple[str, int]) -> int:
    return 4 if isinstance(value, Reference) else struct.calcsize("<" + value[0])
