"""Writes a graph as TensorFlow Lite bytes.

Activations are (N, height, width, channels). The int8 form has int8 input and output, no QUANTIZE or DEQUANTIZE, and
only operations that XNNPACK supports (https://github.com/google/XNNPACK, tflite/delegates/xnnpack/README.md). The
quantization follows TensorFlow's "LiteRT 8-bit quantization specification".

The graph is first turned into lists of tensors and operators, which are then written as a flatbuffer. Tables, field
numbers and enumerations are those of schema.fbs
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_mnist.export.tflite.flatbuffer import Builder, Field, Offset
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

INPUT, OUTPUT = "pixels", "logits"
"""The names of the input and output tensors."""

_SAME, _VALID = 0, 1
"""Values of the enumeration Padding of schema.fbs."""

_RELU = 1
"""The value of RELU in the enumeration ActivationFunctionType of schema.fbs."""

_TENSOR_TYPES = {"FLOAT32": 0, "INT32": 2, "INT8": 9}
"""Values of the enumeration TensorType of schema.fbs."""

_OPERATORS = {
    "CONV_2D": (3, 1),
    "DEPTHWISE_CONV_2D": (4, 2),
    "MAX_POOL_2D": (17, 5),
    "RESHAPE": (22, 17),
    "PAD": (34, 22),
    "SUB": (41, 28),
}
"""By the name of an operator: its values in the enumerations BuiltinOperator and BuiltinOptions of schema.fbs."""

_WINDOW_FIELDS = {"Padding": (0, "b", 0), "StrideW": (1, "i", 0), "StrideH": (2, "i", 0)}
_OPTIONS = {
    "CONV_2D": {**_WINDOW_FIELDS, "Activation": (3, "b", 0), "DilationW": (4, "i", 1), "DilationH": (5, "i", 1)},
    "DEPTHWISE_CONV_2D": {
        **_WINDOW_FIELDS,
        "DepthMultiplier": (3, "i", 0),
        "Activation": (4, "b", 0),
        "DilationW": (5, "i", 1),
        "DilationH": (6, "i", 1),
    },
    "MAX_POOL_2D": {**_WINDOW_FIELDS, "FilterWidth": (3, "i", 0), "FilterHeight": (4, "i", 0)},
    "RESHAPE": {},
    "PAD": {},
    "SUB": {},
}
"""By the name of an operator: the fields of its options' table in schema.fbs, as number, struct format and default."""

_FLOAT_VERSIONS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "MAX_POOL_2D": 1, "PAD": 1}
_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "MAX_POOL_2D": 2, "PAD": 2}
"""The lowest operator versions that support float and int8 (tensorflow/lite/tools/versioning/op_version.cc)."""

_SCHEMA_VERSION = 3
"""The version of schema.fbs, which every .tflite file states."""

_BUFFER_ALIGNMENT = 16
"""The alignment of a constant in the file, in bytes: `force_align` of Buffer.data in schema.fbs."""

_SIGNATURE = "serving_default"
"""The key of the model's signature, as TensorFlow's own converter writes it."""


@dataclass(frozen=True, eq=False)
class _Tensor:
    """An activation or a constant.

    Attributes:
        name: the name of the tensor in the file.
        dtype: the type of its elements, a key of `_TENSOR_TYPES`.
        shape: its shape; a first dimension of 0 stands for a batch of any size.
        data: the elements of a constant; None for an activation.
        scales: float32, one scale, or one for each channel; None if the tensor is not quantized.
        zero_points: int64, as many as there are scales.
        dimension: the index of the dimension of the channels, if each channel has a scale.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.generic] | None = None
    scales: NDArray[np.float32] | None = None
    zero_points: NDArray[np.int64] | None = None
    dimension: int = 0


@dataclass(frozen=True)
class _Operator:
    """An operation on tensors, which are given by their indices.

    Attributes:
        name: a key of `_OPERATORS`.
        version: the version of the operator that a runtime must support.
        inputs: the indices of the input tensors.
        output: the index of the output tensor.
        options: the values of the fields that `_OPTIONS` lists for the operator.
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    output: int
    options: dict[str, int]


@dataclass
class _Subgraph:
    """The tensors and operators of a model, which are appended one after the other."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)

    def add_tensor(self, tensor: _Tensor) -> int:
        """Append a tensor and return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def write_tflite(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as a .tflite model, whose batch can be resized.

    A float model maps float32 pixels (N, height, width, channels), 0..255, to float32 logits (N, classes). An int8
    model maps int8 pixels of the same shape, each 128 less, to int8 logits (N, classes).

    Raises:
        EdgeMnistError: a max pool pads values that may be negative, which TFLite cannot express.
    """
    return _serialize(_build_subgraph(graph), {METADATA_KEY: FORMATS["tflite"].make_contract(graph).to_json().encode()})


def _build_subgraph(graph: FloatGraph | QuantizedGraph) -> _Subgraph:
    """Turn a graph into tensors and operators of TensorFlow Lite."""
    subgraph = _Subgraph()
    shapes, names = graph.shapes(), graph.identifiers()
    quantizations: list[Quantization | None] = [None] * len(shapes)
    if isinstance(graph, QuantizedGraph):
        quantizations = [*graph.quantizations()]
    tensor = subgraph.add_tensor(_make_activation(INPUT, _to_dimensions(shapes[0]), quantizations[0]))
    subgraph.inputs = (tensor,)
    if isinstance(graph, FloatGraph) and graph.zero_pixel:
        zero = subgraph.add_tensor(_Tensor("zero_pixel", "FLOAT32", (), np.array(graph.zero_pixel, np.float32)))
        centred = subgraph.add_tensor(_make_activation("centred", _to_dimensions(shapes[0]), None))
        subgraph.operators.append(_Operator("SUB", 1, (tensor, zero), centred, {}))
        tensor = centred
    never_negative = graph.zero_pixel == 0
    for index, operation in enumerate(graph.operations):
        source, target = quantizations[index], quantizations[index + 1]
        shape, size, name = shapes[index], shapes[index][1:], names[operation.name]
        if operation.window.padding != (0, 0) and not _is_same_padding(operation.window, size):
            if isinstance(operation, MaxPool2d) and not never_negative:
                raise EdgeMnistError(
                    f"{operation.name}: TFLite cannot pad a max pool by {operation.window.padding} over values that "
                    "may be negative: put a ReLU before it, or leave out --format tflite"
                )
            down, right = operation.window.padding
            shape = (shape[0], shape[1] + 2 * down, shape[2] + 2 * right)
            tensor = _add_pad(subgraph, f"{name}.padded", tensor, operation.window, shape, source)
            padding = _VALID
        else:
            padding = _SAME if operation.window.padding != (0, 0) else _VALID
        output = subgraph.add_tensor(_make_activation(name, _to_dimensions(shapes[index + 1]), target))
        if isinstance(operation, MaxPool2d):
            subgraph.operators.append(_make_max_pool(operation.window, padding, tensor, output, source))
        else:
            never_negative = operation.relu
            _add_convolution(subgraph, name, operation, shape, source, padding, tensor, output)
        tensor = output
    subgraph.outputs = (_add_reshape(subgraph, tensor, shapes[-1][0], quantizations[-1]),)
    return subgraph


def _add_convolution(
    subgraph: _Subgraph,
    name: str,
    operation: Conv2d | QuantizedConv2d,
    shape: MapShape,
    source: Quantization | None,
    padding: int,
    tensor: int,
    output: int,
) -> None:
    """Append a convolution and its constants.

    Args:
        subgraph: what they are appended to.
        name: the identifier of the operation.
        operation: the convolution.
        shape: the shape of its input, padded if a PAD comes before it.
        source: the quantization of its input; None for a float convolution.
        padding: `_SAME` or `_VALID`.
        tensor: the index of its input.
        output: the index of its output.
    """
    is_depthwise = operation.groups == shape[0] and operation.groups > 1
    weight = operation.weight
    if is_depthwise:
        weight = weight.transpose(1, 2, 3, 0)  # (1, height, width, out)
    else:
        weight = weight.transpose(0, 2, 3, 1)  # (out, height, width, in / groups)
    constants = _make_constants(name, operation, weight, source, dimension=3 if is_depthwise else 0)
    inputs = (tensor, *(subgraph.add_tensor(constant) for constant in constants))
    options = _window_options(operation.window, padding)
    if operation.relu and source is None:  # in int8 the clamp at the zero point -128 is the ReLU
        options["Activation"] = _RELU
    options |= {"DilationH": operation.window.dilation[0], "DilationW": operation.window.dilation[1]}
    if is_depthwise:
        options["DepthMultiplier"] = len(operation.weight) // operation.groups
    kind = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    subgraph.operators.append(_make_operator(kind, source, inputs, output, options))


def _make_constants(
    name: str,
    operation: Conv2d | QuantizedConv2d,
    weight: NDArray[np.generic],
    source: Quantization | None,
    dimension: int,
) -> tuple[_Tensor, _Tensor]:
    """The weight and the bias of a convolution.

    In int8 each channel has a scale, and a zero point of 0, which LiteRT and XNNPACK require to be stated.
    """
    outputs = len(operation.bias)
    if isinstance(operation, Conv2d) or source is None:
        return (
            _Tensor(f"{name}.w", "FLOAT32", weight.shape, weight),
            _Tensor(f"{name}.b", "FLOAT32", (outputs,), operation.bias),
        )
    scales, zeros = operation.weight_scale, np.zeros(outputs, np.int64)
    return (
        _Tensor(f"{name}.w", "INT8", weight.shape, weight, scales, zeros, dimension),
        _Tensor(f"{name}.b", "INT32", (outputs,), operation.bias, scales * np.float32(source.scale), zeros),
    )


def _make_max_pool(window: Window, padding: int, tensor: int, output: int, source: Quantization | None) -> _Operator:
    options = _window_options(window, padding)
    options |= {"FilterHeight": window.kernel_size[0], "FilterWidth": window.kernel_size[1]}
    return _make_operator("MAX_POOL_2D", source, (tensor,), output, options)


def _add_pad(
    subgraph: _Subgraph, name: str, tensor: int, window: Window, shape: MapShape, quantization: Quantization | None
) -> int:
    """Append a PAD with the real number 0, which is the zero point; return the index of its output.

    `shape` is the padded one.
    """
    down, right = window.padding
    amounts = np.array([[0, 0], [down, down], [right, right], [0, 0]], np.int32)
    paddings = subgraph.add_tensor(_Tensor(f"{name}.amounts", "INT32", amounts.shape, amounts))
    padded = subgraph.add_tensor(_make_activation(name, _to_dimensions(shape), quantization))
    subgraph.operators.append(_make_operator("PAD", quantization, (tensor, paddings), padded, {}))
    return padded


def _add_reshape(subgraph: _Subgraph, tensor: int, classes: int, quantization: Quantization | None) -> int:
    """Append a RESHAPE from (N, 1, 1, classes) to (N, classes); return the index of its output."""
    target = np.array([-1, classes], np.int32)
    shape = subgraph.add_tensor(_Tensor("logits.shape", "INT32", target.shape, target))
    output = subgraph.add_tensor(_make_activation(OUTPUT, (0, classes), quantization))
    subgraph.operators.append(_Operator("RESHAPE", 1, (tensor, shape), output, {}))
    return output


def _make_operator(
    name: str,
    quantization: Quantization | None,
    inputs: tuple[int, ...],
    output: int,
    options: dict[str, int],
) -> _Operator:
    """An operator in the version that its type needs; `quantization` is that of its input, None for float."""
    versions = _FLOAT_VERSIONS if quantization is None else _INT8_VERSIONS
    return _Operator(name, versions[name], inputs, output, options)


def _make_activation(name: str, shape: tuple[int, ...], quantization: Quantization | None) -> _Tensor:
    if quantization is None:
        return _Tensor(name, "FLOAT32", shape)
    scale, zero_point = np.array([quantization.scale], np.float32), np.array([quantization.zero_point], np.int64)
    return _Tensor(name, "INT8", shape, None, scale, zero_point)


def _window_options(window: Window, padding: int) -> dict[str, int]:
    return {"Padding": padding, "StrideH": window.stride[0], "StrideW": window.stride[1]}


def _is_same_padding(window: Window, size: tuple[int, int]) -> bool:
    """Whether TensorFlow's SAME padding is the padding of this window.

    SAME pads by `max((ceil(size / stride) - 1) * stride + extent - size, 0)` in total, the smaller half first
    (https://www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding").

    Args:
        window: the window.
        size: height and width of the input.
    """
    for n, padding, stride, extent, outputs in zip(
        size, window.padding, window.stride, window.extent, window.output_size(size), strict=True
    ):
        same_outputs = math.ceil(n / stride)
        total = max((same_outputs - 1) * stride + extent - n, 0)
        if outputs != same_outputs or padding != total // 2:
            return False
    return True


def _to_dimensions(shape: MapShape) -> tuple[int, int, int, int]:
    """The dimensions (N, height, width, channels) of a batch of activations; N is 0, which stands for any size."""
    channels, height, width = shape
    return 0, height, width, channels


def _serialize(subgraph: _Subgraph, metadata: dict[str, bytes]) -> bytes:
    """Write a subgraph, and entries of metadata by their names, as a .tflite file."""
    builder = Builder()
    contents: list[bytes] = [b""]  # the specification reserves buffer 0 for tensors without data
    for tensor in subgraph.tensors:
        if tensor.data is not None and _to_bytes(tensor.data) not in contents:
            contents.append(_to_bytes(tensor.data))
    first_metadata = len(contents)
    contents.extend(metadata.values())
    buffers = _write_buffers(builder, contents)
    ends = {*subgraph.inputs, *subgraph.outputs}
    tensors = [
        _write_tensor(builder, tensor, contents, is_end=index in ends) for index, tensor in enumerate(subgraph.tensors)
    ]
    versions = {operator.name: operator.version for operator in subgraph.operators}
    operators = [_write_operator(builder, operator, list(versions)) for operator in subgraph.operators]
    subgraph_table = builder.write_table(
        {
            0: builder.write_offsets(tensors),
            1: _write_array(builder, np.array(subgraph.inputs, np.int32)),
            2: _write_array(builder, np.array(subgraph.outputs, np.int32)),
            3: builder.write_offsets(operators),
        }
    )
    entries = [
        builder.write_table({0: builder.write_string(name), 1: ("I", first_metadata + index)})
        for index, name in enumerate(metadata)
    ]
    signature = builder.write_table(
        {
            0: _write_tensor_maps(builder, subgraph, subgraph.inputs),
            1: _write_tensor_maps(builder, subgraph, subgraph.outputs),
            2: builder.write_string(_SIGNATURE),
            4: ("I", 0),  # the index of the only subgraph
        }
    )
    root = builder.write_table(
        {
            0: ("I", _SCHEMA_VERSION),
            1: builder.write_offsets([_write_code(builder, name, version) for name, version in versions.items()]),
            2: builder.write_offsets([subgraph_table]),
            4: builder.write_offsets(buffers),
            6: builder.write_offsets(entries),
            7: builder.write_offsets([signature]),
        }
    )
    return builder.finish(root, b"TFL3")


def _write_tensor_maps(builder: Builder, subgraph: _Subgraph, indices: tuple[int, ...]) -> Offset:
    """Write the TensorMaps of a signature: the inputs or outputs by the names of their tensors."""
    names = [builder.write_string(subgraph.tensors[index].name) for index in indices]
    maps = [builder.write_table({0: name, 1: ("I", index)}) for name, index in zip(names, indices, strict=True)]
    return builder.write_offsets(maps)


def _write_buffers(builder: Builder, contents: list[bytes]) -> list[Offset]:
    """Write a Buffer for each content, always the one next whose alignment wastes the fewest bytes."""
    tables = {index: builder.write_table({}) for index, content in enumerate(contents) if not content}
    while len(tables) < len(contents):
        remaining = (index for index in range(len(contents)) if index not in tables)
        best = min(remaining, key=lambda index: builder.compute_padding(len(contents[index]), _BUFFER_ALIGNMENT))
        vector = builder.write_vector(contents[best], len(contents[best]), _BUFFER_ALIGNMENT)
        tables[best] = builder.write_table({0: vector})
    return [tables[index] for index in range(len(contents))]


def _write_tensor(builder: Builder, tensor: _Tensor, contents: list[bytes], *, is_end: bool) -> Offset:
    """Write a Tensor; `is_end` says whether it is an input or an output of the model."""
    fields: dict[int, Field] = {}
    has_batch = tensor.shape[:1] == (0,)
    fields[0] = _write_array(builder, np.array((1, *tensor.shape[1:]) if has_batch else tensor.shape, np.int32))
    if tensor.dtype != "FLOAT32":  # the default, which is left out
        fields[1] = ("b", _TENSOR_TYPES[tensor.dtype])
    if tensor.data is not None:
        fields[2] = ("I", contents.index(_to_bytes(tensor.data)))
    fields[3] = builder.write_string(tensor.name)
    if tensor.scales is not None and tensor.zero_points is not None:
        quantization: dict[int, Field] = {
            2: _write_array(builder, tensor.scales),
            3: _write_array(builder, tensor.zero_points),
        }
        if tensor.dimension:
            quantization[6] = ("i", tensor.dimension)
        fields[4] = builder.write_table(quantization)
    if has_batch and is_end:  # whoever resizes the batch reads shape_signature of the inputs and outputs only
        fields[7] = _write_array(builder, np.array((-1, *tensor.shape[1:]), np.int32))
    return builder.write_table(fields)


def _write_operator(builder: Builder, operator: _Operator, codes: list[str]) -> Offset:
    known_fields = _OPTIONS[operator.name]
    options: dict[int, Field] = {}
    for name, value in operator.options.items():
        number, scalar, default = known_fields[name]
        if value != default:
            options[number] = (scalar, value)
    fields: dict[int, Field] = {
        1: _write_array(builder, np.array(operator.inputs, np.int32)),
        2: _write_array(builder, np.array([operator.output], np.int32)),
        3: ("B", _OPERATORS[operator.name][1]),
        4: builder.write_table(options),
    }
    index = codes.index(operator.name)
    return builder.write_table({0: ("I", index), **fields} if index else fields)


def _write_code(builder: Builder, name: str, version: int) -> Offset:
    """Write an OperatorCode."""
    code = _OPERATORS[name][0]
    fields: dict[int, Field] = {0: ("b", code), 3: ("i", code)}  # field 0 is read by runtimes older than field 3
    return builder.write_table({**fields, 2: ("i", version)} if version != 1 else fields)


def _write_array(builder: Builder, array: NDArray[np.generic]) -> Offset:
    return builder.write_vector(_to_bytes(array), array.size, array.itemsize)


def _to_bytes(array: NDArray[np.generic]) -> bytes:
    """The elements in the byte order of the file, which is little-endian."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
