"""Reads the contract and the constants in a model.c that edge-mnist wrote, without compiling it."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FIRST_LINE = re.compile(rb"/\* (\w+): (\{.*\}) \*/\n")
"""The first line: the name of the metadata entry, and the contract in JSON."""
_LAYER = re.compile(r"^/\* (L\d\w*): ", re.MULTILINE)
"""The comment before the constants of a layer, with the layer's identifier."""
_ARRAY = re.compile(
    r"^static const \w+ \w+_(weight|bias|multiplier|chain|factors|table)\[\] = \{\n(.*?)^\};\n", re.M | re.S
)
"""An array of constants: what it holds, and its values."""
_RECORDS = re.compile(r"^static const em_(layer|ring) \w+\[[^\]]*\] = \{\n(.*?)^\};\n", re.M | re.S)
"""A table with one line of numbers for each layer or each buffer."""


def is_c(data: bytes) -> bool:
    """Whether a file begins with the comment in which a model.c holds its contract."""
    return _FIRST_LINE.match(data[:4096]) is not None


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The text of the entry `name` in the first line, or None if there is no such entry."""
    found = _FIRST_LINE.match(data[:4096])
    return found[2] if found and found[1] == name.encode() else None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Everything in a model.c: the constants layer by layer, then the lines of its tables, then the code.

    Yields:
        The identifier of the layer ("" for the code), what the part is, and its text.
    """
    text = data.decode(errors="replace")
    code = _RECORDS.sub("", text)
    headings = list(_LAYER.finditer(text))
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=True):
        for array in _ARRAY.finditer(text[heading.start() : end]):
            yield heading[1], array[1], array[2].encode()
            code = code.replace(array[0], "")
    layers = [heading[1] for heading in headings]
    for records in _RECORDS.finditer(text):
        names = layers if records[1] == "layer" else ["pixels", *layers]
        for name, line in zip(names, records[2].splitlines(), strict=False):
            yield name, f"the {records[1]}'s line of numbers", line.encode()
    yield "", "its code", code.encode()
