"""Reads a .tflite file, and cuts it after a layer, without the generated schema, which tflite-runtime lacks.

Tables and vectors are as https://flatbuffers.dev/internals describes them. The field numbers are those of schema.fbs
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MODEL_SUBGRAPHS, _MODEL_BUFFERS, _MODEL_METADATA = 2, 4, 6
_SUBGRAPH_TENSORS, _SUBGRAPH_OUTPUTS, _SUBGRAPH_OPERATORS = 0, 2, 3
_TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = 2, 3, 4
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO_POINT = 2, 3
_OPERATOR_OUTPUTS = 2
_METADATA_NAME, _METADATA_BUFFER = 0, 1


def is_tflite(data: bytes) -> bool:
    """Whether a file has the file_identifier of schema.fbs, which FlatBuffers puts after the first four bytes."""
    return data[4:8] == b"TFL3"


def read_metadata(data: bytes, name: str) -> bytes | None:
    """The content of the metadata entry `name`, or None if there is no such entry or the file is damaged."""
    try:
        model, wanted = _read_u32(data, 0), name.encode()
        for entry in _find_tables(data, model, _MODEL_METADATA):
            at = _find_field(data, entry, _METADATA_NAME)
            start, count = _find_vector(data, at) if at else (0, 0)
            # In a damaged file every entry may claim to be as long as the file, so only what can be equal is copied.
            if data[start : start + min(count, len(wanted) + 1)] == wanted:
                return _read_buffer(data, _read_u32(data, _find_field(data, entry, _METADATA_BUFFER)))
    except struct.error:
        pass
    return None


def cut_after(data: bytes, layer: str) -> bytes:
    """Cut a model after the operation whose output is the tensor `layer`, which becomes the model's output.

    The list of operations is shortened and the index of the output is replaced, both in place, so that no offset
    changes.

    Args:
        data: the content of the file.
        layer: the name of the tensor.

    Raises:
        KeyError: no operation has an output of that name.
        struct.error, ValueError: the file is damaged.
    """
    subgraph = _find_subgraph(data)
    names = [_read_bytes(data, tensor, _TENSOR_NAME) for tensor in _find_tables(data, subgraph, _SUBGRAPH_TENSORS)]
    for position, operator in enumerate(_find_tables(data, subgraph, _SUBGRAPH_OPERATORS)):
        output = _read_u32(data, _find_vector(data, _find_field(data, operator, _OPERATOR_OUTPUTS))[0])
        if names[output] == layer.encode():
            result = bytearray(data)
            operators, _ = _find_vector(data, _find_field(data, subgraph, _SUBGRAPH_OPERATORS))
            outputs, _ = _find_vector(data, _find_field(data, subgraph, _SUBGRAPH_OUTPUTS))
            struct.pack_into("<I", result, operators - 4, position + 1)
            struct.pack_into("<I", result, outputs, output)
            return bytes(result)
    raise KeyError(layer)


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """The constants of every tensor, in the order of the tensors.

    Yields:
        The name of the tensor, "data", "scale" or "zero point", and the bytes.

    Raises:
        struct.error, ValueError: the file is damaged.
    """
    subgraph = _find_subgraph(data)
    for tensor in _find_tables(data, subgraph, _SUBGRAPH_TENSORS):
        name = _read_bytes(data, tensor, _TENSOR_NAME).decode(errors="replace")
        at = _find_field(data, tensor, _TENSOR_BUFFER)
        yield name, "data", _read_buffer(data, _read_u32(data, at) if at else 0)
        at = _find_field(data, tensor, _TENSOR_QUANTIZATION)
        if at:
            quantization = at + _read_u32(data, at)
            yield name, "scale", _read_bytes(data, quantization, _QUANTIZATION_SCALE, 4)
            yield name, "zero point", _read_bytes(data, quantization, _QUANTIZATION_ZERO_POINT, 8)


def _find_subgraph(data: bytes) -> int:
    """Find the position of the first subgraph.

    Raises:
        ValueError: there is none.
    """
    for subgraph in _find_tables(data, _read_u32(data, 0), _MODEL_SUBGRAPHS):
        return subgraph
    raise ValueError("the model has no subgraph")


def _read_u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _find_field(data: bytes, table: int, index: int) -> int:
    """The position of a field of a table, or 0 if the field is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0])
    return table + offset if offset else 0


def _find_vector(data: bytes, at: int) -> tuple[int, int]:
    """The position of the first element of the vector to which the field at `at` refers, and the number of elements."""
    start = at + _read_u32(data, at)
    return start + 4, _read_u32(data, start)


def _find_tables(data: bytes, table: int, index: int) -> Iterator[int]:
    """The positions of the tables in a vector that is a field of `table`."""
    at = _find_field(data, table, index)
    start, count = _find_vector(data, at) if at else (0, 0)
    for entry in range(start, start + 4 * count, 4):
        yield entry + _read_u32(data, entry)


def _read_bytes(data: bytes, table: int, index: int, element: int = 1) -> bytes:
    """The bytes of a field of `table` that is a string or a vector, of elements of `element` bytes; empty if absent."""
    at = _find_field(data, table, index)
    if not at:
        return b""
    start, count = _find_vector(data, at)
    return data[start : start + element * count]


def _read_buffer(data: bytes, index: int) -> bytes:
    """The content of the model's buffer with that index."""
    for position, buffer in enumerate(_find_tables(data, _read_u32(data, 0), _MODEL_BUFFERS)):
        if position == index:
            return _read_bytes(data, buffer, 0)
    return b""
