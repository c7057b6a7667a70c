"""Reads the metadata and the constants of an .onnx file without the onnx package.

The file is in protobuf's wire format (https://protobuf.dev/programming-guides/encoding/). The field numbers are those
of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator

_MODEL_GRAPH, _MODEL_METADATA = 7, 14  # ModelProto
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5  # GraphProto
_NODE_INPUT, _NODE_OUTPUT = 1, 2  # NodeProto
_TENSOR_NAME = 8  # TensorProto
_ENTRY_KEY, _ENTRY_VALUE = 1, 2  # StringStringEntryProto
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The value of the metadata entry `name`, or None if there is no such entry or the file is damaged."""
    try:
        for number, entry in read_fields(data):
            parts = dict(read_fields(entry)) if number == _MODEL_METADATA else {}
            if parts.get(_ENTRY_KEY) == name.encode():
                return parts.get(_ENTRY_VALUE)
    except ValueError:
        pass
    return None


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Every node and every initializer of a model, in order. Any program may have written the model.

    Yields:
        The name of the node's output, "node" or "constant", and the bytes. A constant has the name of the first node
        that uses it.

    Raises:
        ValueError: the file is damaged.
    """
    graph = _find_field(data, _MODEL_GRAPH)
    users: dict[bytes, bytes] = {}
    for number, value in read_fields(graph):
        if number == _GRAPH_NODE:
            node = list(read_fields(value))
            output = _find_field(value, _NODE_OUTPUT)
            yield output.decode(), "node", value
            for key, content in node:
                if key == _NODE_INPUT:
                    users.setdefault(content, output)
        elif number == _GRAPH_INITIALIZER:
            name = _find_field(value, _TENSOR_NAME)
            yield users.get(name, name).decode(), "constant", value


def _find_field(message: bytes, wanted: int) -> bytes:
    """Find the first field of a number in a message.

    Raises:
        ValueError: there is none.
    """
    for number, content in read_fields(message):
        if number == wanted:
            return content
    raise ValueError(f"a message has no field {wanted}")


def read_fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the content of each length-delimited field of a message, in order; other fields are skipped.

    Raises:
        ValueError: the message is cut short, or it is not one.
    """
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, at = _read_varint(data, at)
        elif wire_type in (_FIXED32, _FIXED64):
            at += 4 if wire_type == _FIXED32 else 8
        elif wire_type == _LENGTH_DELIMITED:
            length, at = _read_varint(data, at)
            if at + length > len(data):
                raise ValueError("a field is longer than the message")
            yield tag >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire_type} is unknown")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The value of the varint at a position, and the position after it."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):  # ten bytes hold 64 bits
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("a varint is cut short or too long")
