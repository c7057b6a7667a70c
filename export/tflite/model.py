"""A TensorFlow Lite model as plain lists, and its bytes.

Tables, field numbers and enumerations are those of schema.fbs
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_mnist.export.tflite.flatbuffer import Builder, Reference

# TensorType
_TENSOR_TYPES = {"FLOAT32": 0, "INT32": 2, "INT8": 9}

# BuiltinOperator, BuiltinOptions
_OPERATORS = {
    "CONV_2D": (3, 1),
    "DEPTHWISE_CONV_2D": (4, 2),
    "MAX_POOL_2D": (17, 5),
    "RESHAPE": (22, 17),
    "PAD": (34, 22),
    "SUB": (41, 28),
}

# The fields of the options' tables: number, struct format, default.
_WINDOW = {"Padding": (0, "b", 0), "StrideW": (1, "i", 0), "StrideH": (2, "i", 0)}
_OPTIONS = {
    "CONV_2D": {**_WINDOW, "Activation": (3, "b", 0), "DilationW": (4, "i", 1), "DilationH": (5, "i", 1)},
    "DEPTHWISE_CONV_2D": {
        **_WINDOW,
        "DepthMultiplier": (3, "i", 0),
        "Activation": (4, "b", 0),
        "DilationW": (5, "i", 1),
        "DilationH": (6, "i", 1),
    },
    "MAX_POOL_2D": {**_WINDOW, "FilterWidth": (3, "i", 0), "FilterHeight": (4, "i", 0)},
    "RESHAPE": {},
    "PAD": {},
    "SUB": {},
}

_SCHEMA_VERSION = 3
_BUFFER_ALIGNMENT = 16  # force_align of Buffer.data
_SIGNATURE = "serving_default"  # the key that TensorFlow's own converter gives


@dataclass(frozen=True, eq=False)
class Tensor:
    """An activation or a constant.

    Attributes:
        name: its name.
        dtype: "FLOAT32", "INT8" or "INT32".
        shape: its shape; 0 as the first dimension stands for the batch, of any size.
        data: the constant's elements, or None.
        scales: float32 scales, one or one a channel; None if not quantized.
        zero_points: int64, as many.
        dimension: of the channels, if there are several scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.generic] | None = None
    scales: NDArray[np.float32] | None = None
    zero_points: NDArray[np.int64] | None = None
    dimension: int = 0


@dataclass(frozen=True)
class Operator:
    """One operation on tensors that are given by index.

    Attributes:
        name: of the schema's BuiltinOperator, such as "CONV_2D".
        version: of the operator.
        inputs: indices of tensors.
        output: index of a tensor.
        options: the fields of its options.
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int]


@dataclass
class Model:
    """A model of one subgraph, built up by appending."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    tensors: list[Tensor] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> int:
        """Append a tensor; return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def serialize(model: Model) -> bytes:
    """The bytes of a .tflite file."""
    builder = Builder()
    contents: list[bytes] = [b""]  # buffer 0 is the empty one
    for tensor in model.tensors:
        if tensor.data is not None and _data(tensor.data) not in contents:
            contents.append(_data(tensor.data))
    first_metadata = len(contents)
    contents.extend(model.metadata.values())
    buffers = _write_buffers(builder, contents)
    ends = {*model.inputs, *model.outputs}
    tensors = [
        _write_tensor(builder, tensor, contents, is_end=index in ends) for index, tensor in enumerate(model.tensors)
    ]
    versions = {operator.name: operator.version for operator in model.operators}
    operators = [_write_operator(builder, operator, list(versions)) for operator in model.operators]
    subgraph = builder.table(
        {
            0: builder.references(tensors),
            1: _vector(builder, np.array(model.inputs, np.int32)),
            2: _vector(builder, np.array(model.outputs, np.int32)),
            3: builder.references(operators),
        }
    )
    metadata = [
        builder.table({0: builder.string(name), 1: ("I", first_metadata + index)})
        for index, name in enumerate(model.metadata)
    ]
    signature = builder.table(
        {
            0: _write_ends(builder, model, model.inputs),
            1: _write_ends(builder, model, model.outputs),
            2: builder.string(_SIGNATURE),
            4: ("I", 0),  # of the one subgraph
        }
    )
    root = builder.table(
        {
            0: ("I", _SCHEMA_VERSION),
            1: builder.references([_write_code(builder, name, version) for name, version in versions.items()]),
            2: builder.references([subgraph]),
            4: builder.references(buffers),
            6: builder.references(metadata),
            7: builder.references([signature]),
        }
    )
    return builder.finish(root, b"TFL3")


def _write_ends(builder: Builder, model: Model, indices: tuple[int, ...]) -> Reference:
    """The TensorMaps of a signature: inputs or outputs by their tensors' names."""
    names = [builder.string(model.tensors[index].name) for index in indices]
    maps = [builder.table({0: name, 1: ("I", index)}) for name, index in zip(names, indices, strict=True)]
    return builder.references(maps)


def _write_buffers(builder: Builder, contents: list[bytes]) -> list[Reference]:
    """A Buffer for each content, in an order that loses little to their alignment."""
    tables = {index: builder.table({}) for index, content in enumerate(contents) if not content}
    while len(tables) < len(contents):
        left = (index for index in range(len(contents)) if index not in tables)
        best = min(left, key=lambda index: builder.padding(len(contents[index]), _BUFFER_ALIGNMENT))
        tables[best] = builder.table({0: builder.vector(contents[best], len(contents[best]), _BUFFER_ALIGNMENT)})
    return [tables[index] for index in range(len(contents))]


def _write_tensor(builder: Builder, tensor: Tensor, contents: list[bytes], *, is_end: bool) -> Reference:
    fields: dict[int, Reference | tuple[str, int]] = {}
    is_free = tensor.shape[:1] == (0,)
    fields[0] = _vector(builder, np.array((1, *tensor.shape[1:]) if is_free else tensor.shape, np.int32))
    if tensor.dtype != "FLOAT32":  # the default
        fields[1] = ("b", _TENSOR_TYPES[tensor.dtype])
    if tensor.data is not None:
        fields[2] = ("I", contents.index(_data(tensor.data)))
    fields[3] = builder.string(tensor.name)
    if tensor.scales is not None and tensor.zero_points is not None:
        quantization: dict[int, Reference | tuple[str, int]] = {
            2: _vector(builder, tensor.scales),
            3: _vector(builder, tensor.zero_points),
        }
        if tensor.dimension:
            quantization[6] = ("i", tensor.dimension)
        fields[4] = builder.table(quantization)
    if is_free and is_end:  # only the ends' signatures are read, by whoever resizes the batch
        fields[7] = _vector(builder, np.array((-1, *tensor.shape[1:]), np.int32))
    return builder.table(fields)


def _write_operator(builder: Builder, operator: Operator, codes: list[str]) -> Reference:
    known = _OPTIONS[operator.name]
    options: dict[int, Reference | tuple[str, int]] = {}
    for name, value in operator.options.items():
        number, kind, default = known[name]
        if value != default:
            options[number] = (kind, value)
    fields: dict[int, Reference | tuple[str, int]] = {
        1: _vector(builder, np.array(operator.inputs, np.int32)),
        2: _vector(builder, np.array([operator.output], np.int32)),
        3: ("B", _OPERATORS[operator.name][1]),
        4: builder.table(options),
    }
    index = codes.index(operator.name)
    return builder.table({0: ("I", index), **fields} if index else fields)


def _write_code(builder: Builder, name: str, version: int) -> Reference:
    code = _OPERATORS[name][0]
    fields: dict[int, Reference | tuple[str, int]] = {0: ("b", code), 3: ("i", code)}  # field 0 is for older readers
    return builder.table({**fields, 2: ("i", version)} if version != 1 else fields)


def _vector(builder: Builder, array: NDArray[np.generic]) -> Reference:
    return builder.vector(_data(array), array.size, array.itemsize)


def _data(array: NDArray[np.generic]) -> bytes:
    """Elements in the file's byte order, which is little-endian."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
