"""Reads a .tflite file, and cuts it after a layer, with no schema at hand: tflite-runtime brings none.

Tables and vectors are as https://flatbuffers.dev/internals describes them; field numbers are those of schema.fbs
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
    """The content of the metadata entry called `name`; None if there is none, or the file is damaged."""
    try:
        model, wanted = _u32(data, 0), name.encode()
        for entry in _tables(data, model, _MODEL_METADATA):
            at = _field(data, entry, _METADATA_NAME)
            start, count = _vector(data, at) if at else (0, 0)
            # A damaged length may take in the whole file, in each entry: no more is copied than can be equal.
            if data[start : start + min(count, len(wanted) + 1)] == wanted:
                return _buffer(data, _u32(data, _field(data, entry, _METADATA_BUFFER)))
    except struct.error:
        pass
    return None


def cut_after(data: bytes, layer: str) -> bytes:
    """The model up to the operation whose output is the tensor called `layer`, which becomes the model's output.

    Nothing moves: the list of operations is shortened, and the index of the output replaced, in place.

    Raises:
        KeyError: no operation's output has that name.
    """
    subgraph = next(_tables(data, _u32(data, 0), _MODEL_SUBGRAPHS))
    names = [_bytes(data, tensor, _TENSOR_NAME) for tensor in _tables(data, subgraph, _SUBGRAPH_TENSORS)]
    for position, operator in enumerate(_tables(data, subgraph, _SUBGRAPH_OPERATORS)):
        output = _u32(data, _vector(data, _field(data, operator, _OPERATOR_OUTPUTS))[0])
        if names[output] == layer.encode():
            result = bytearray(data)
            operators, _ = _vector(data, _field(data, subgraph, _SUBGRAPH_OPERATORS))
            outputs, _ = _vector(data, _field(data, subgraph, _SUBGRAPH_OUTPUTS))
            struct.pack_into("<I", result, operators - 4, position + 1)
            struct.pack_into("<I", result, outputs, output)
            return bytes(result)
    raise KeyError(layer)


def read_constants(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Every tensor's name, what of it (data, scale, zero point), and its bytes, in the order of the tensors."""
    subgraph = next(_tables(data, _u32(data, 0), _MODEL_SUBGRAPHS))
    for tensor in _tables(data, subgraph, _SUBGRAPH_TENSORS):
        name = _bytes(data, tensor, _TENSOR_NAME).decode(errors="replace")
        at = _field(data, tensor, _TENSOR_BUFFER)
        yield name, "data", _buffer(data, _u32(data, at) if at else 0)
        at = _field(data, tensor, _TENSOR_QUANTIZATION)
        if at:
            quantization = at + _u32(data, at)
            yield name, "scale", _bytes(data, quantization, _QUANTIZATION_SCALE, 4)
            yield name, "zero point", _bytes(data, quantization, _QUANTIZATION_ZERO_POINT, 8)


def _u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, index: int) -> int:
    """Position of a field of a table; 0 if it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * index >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, vtable + 4 + 2 * index)[0])
    return table + offset if offset else 0


def _vector(data: bytes, at: int) -> tuple[int, int]:
    """Position of the first element of the vector that the field at `at` refers to, and the number of elements."""
    start = at + _u32(data, at)
    return start + 4, _u32(data, start)


def _tables(data: bytes, table: int, index: int) -> Iterator[int]:
    """Positions of the tables in a vector that is a field of `table`."""
    at = _field(data, table, index)
    start, count = _vector(data, at) if at else (0, 0)
    for entry in range(start, start + 4 * count, 4):
        yield entry + _u32(data, entry)


def _bytes(data: bytes, table: int, index: int, element: int = 1) -> bytes:
    """Bytes of a string, or of a vector with elements of a size, that is a field of `table`; none if it is absent."""
    at = _field(data, table, index)
    if not at:
        return b""
    start, count = _vector(data, at)
    return data[start : start + element * count]


def _buffer(data: bytes, index: int) -> bytes:
    """Content of the model's buffer of that index."""
    for position, buffer in enumerate(_tables(data, _u32(data, 0), _MODEL_BUFFERS)):
        if position == index:
            return _bytes(data, buffer, 0)
    return b""
