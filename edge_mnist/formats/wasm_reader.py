"""Reads the sections of a WebAssembly module that edge-mnist wrote, without running it.

The section numbers and encodings are those of the core specification (https://webassembly.github.io/spec/core/binary/);
the names of data segments are those of its extended name section
(https://github.com/WebAssembly/extended-name-section), which LLVM's linker writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SIMD_SECTION = "edge_mnist_simd128"
"""The name of the custom section that holds the same network as a module with SIMD128 instructions.

A module with these instructions is refused as a whole by an engine without them. So the module around it has none, and
whoever runs it takes the inner one where `WebAssembly.validate` accepts it."""

_START = b"\0asm\1\0\0\0"
"""The magic number and the version of a binary module."""
_CUSTOM, _CODE, _DATA = 0, 10, 11
"""The numbers of sections."""
_DATA_SEGMENT_NAMES = 9
"""The number of the subsection of the names of data segments."""
_ARRAY = re.compile(r"\.rodata\.(L\d\w*)_(weight|bias|multiplier|chain|factors|table)$")
"""The name of the segment of an array of constants of model.c: the layer's identifier, and what it holds."""


def is_wasm(data: bytes) -> bool:
    """Whether a file begins as a WebAssembly module does."""
    return data.startswith(_START)


def append_section(data: bytes, name: str, content: bytes) -> bytes:
    """A module with one more custom section at its end."""
    title = name.encode()
    body = _encode_unsigned(len(title)) + title + content
    return data + bytes([_CUSTOM]) + _encode_unsigned(len(body)) + body


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The content of the custom section `name`, or None if there is no such section or the module is damaged."""
    try:
        for number, body in _read_sections(data):
            if number == _CUSTOM:
                title, content = _split_name(body)
                if title == name:
                    return content
    except ValueError:
        pass
    return None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The constants of a module and of the module with SIMD128 inside it, layer by layer, then their code.

    Yields:
        The identifier of the layer, or "" for what belongs to none, what the part is, and its bytes.

    Raises:
        ValueError: the module is cut short or damaged.
    """
    constants, others = [], []
    for module, suffix in ((data, ""), (read_metadata(data, SIMD_SECTION) or b"", " with SIMD128")):
        names: list[str] = []
        segments: list[bytes] = []
        code = b""
        for number, body in _read_sections(module):
            if number == _DATA:
                segments = list(_read_segments(body))
            elif number == _CODE:
                code = body
            elif number == _CUSTOM and _split_name(body)[0] == "name":
                names = _read_segment_names(_split_name(body)[1])
        for index, content in enumerate(segments):
            name = names[index] if index < len(names) else ""
            array = _ARRAY.match(name)
            if array:
                constants.append((array[1], array[2] + suffix, content))
            else:
                others.append(("", f"the data {name}{suffix}", content))
        others.append(("", f"its code{suffix}", code))
    # The linker's order is not that of the layers.
    yield from sorted(constants, key=lambda part: int(re.findall(r"\d+", part[0])[0]))
    yield from others


def _read_sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the content of each section of a module; nothing of an empty text."""
    if data and not is_wasm(data):
        raise ValueError("not a WebAssembly module")
    at = len(_START)
    while at < len(data):
        size, start = _read_unsigned(data, at + 1)
        if start + size > len(data):
            raise ValueError("the module is cut short")
        yield data[at], data[start : start + size]
        at = start + size


def _split_name(body: bytes) -> tuple[str, bytes]:
    """The name at the beginning of some bytes, and the rest."""
    size, start = _read_unsigned(body, 0)
    return body[start : start + size].decode(errors="replace"), body[start + size :]


def _read_segments(body: bytes) -> Iterator[bytes]:
    """The content of each data segment: those that edge-mnist writes are active, at a constant address."""
    count, at = _read_unsigned(body, 0)
    for _ in range(count):
        # The kind 0, the instruction i32.const (0x41) with a signed number of the same length as an unsigned one, end.
        if body[at : at + 2] != b"\0\x41":
            raise ValueError("a data segment has no constant address")
        _, at = _read_unsigned(body, at + 2)
        size, at = _read_unsigned(body, at + 1)
        if at + size > len(body):
            raise ValueError("a data segment is cut short")
        yield body[at : at + size]
        at += size


def _read_segment_names(content: bytes) -> list[str]:
    """The names of the data segments in the content of the section "name"."""
    at = 0
    while at < len(content):
        size, start = _read_unsigned(content, at + 1)
        if content[at] == _DATA_SEGMENT_NAMES:
            count, rest = _read_unsigned(content, start)
            names = []
            for _ in range(min(count, size)):
                _, rest = _read_unsigned(content, rest)
                length, rest = _read_unsigned(content, rest)
                names.append(content[rest : rest + length].decode(errors="replace"))
                rest += length
            return names
        at = start + size
    return []


def _read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    """The number in LEB128 at a position, of at most 32 bits, and the position behind it."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
    raise ValueError("a number is cut short")


def _encode_unsigned(value: int) -> bytes:
    """A number in LEB128."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
