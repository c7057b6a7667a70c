"""Reads a model.c that edge-mnist wrote: the contract in its first line, and its constants; nothing is compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FIRST_LINE = re.compile(rb"/\* (\w+): (\{.*\}) \*/\n")
_LAYER = re.compile(r"^/\* (L\d\w*): ", re.MULTILINE)
_ARRAY = re.compile(r"^static const \w+ \w+_(weight|bias|multiplier|chain)\[\] = \{\n(.*?)^\};\n", re.M | re.S)
_RECORDS = re.compile(r"^static const em_(layer|ring) \w+\[[^\]]*\] = \{\n(.*?)^\};\n", re.M | re.S)


def is_c(data: bytes) -> bool:
    """Whether a file begins as a model.c does."""
    return _FIRST_LINE.match(data[:4096]) is not None


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The text of the first line's entry called `name`; None if there is none."""
    found = _FIRST_LINE.match(data[:4096])
    return found[2] if found and found[1] == name.encode() else None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Layer, kind and text of everything in a model.c: constants layer by layer, lines of tables, and the code."""
    text = data.decode(errors="replace")
    code = _RECORDS.sub("", text)
    marks = list(_LAYER.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        part = text[mark.start() : following.start() if following else len(text)]
        for array in _ARRAY.finditer(part):
            yield mark[1], array[1], array[2].encode()
            code = code.replace(array[0], "")
    names = [mark[1] for mark in marks]
    for records in _RECORDS.finditer(text):
        owners = names if records[1] == "layer" else ["pixels", *names]
        for owner, line in zip(owners, records[2].splitlines(), strict=False):
            yield owner, f"the {records[1]}'s line of numbers", line.encode()
    yield "", "its code", code.encode()
