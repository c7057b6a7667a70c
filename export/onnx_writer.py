"""Writes a graph as ONNX bytes, in protobuf's wire format: no package is needed, and the bytes are the same everywhere.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the wire format is
https://protobuf.dev/programming-guides/encoding/. Every node is named after its output, so that its name is unique.

The int8 form is "QDQ" with uint8 activations (the graph's int8 plus 128): each convolution is placed between
DequantizeLinear and QuantizeLinear, which ONNX Runtime fuses into integer kernels. With int8 activations it takes three
times as long. OpenVINO and OpenCV refuse the other form, QLinearConv.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import (
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
)
from edge_mnist.system.files import METADATA_KEY

_FLOAT_VERSIONS, _INT8_VERSIONS = (8, 17), (9, 19)
"""The IR version and the opset of float and int8 models.

Old readers support opset 17; the onnx package's reference evaluator has DequantizeLinear from 19 on.
"""

_DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}
"""By the name of a type: its value in the enumeration TensorProto.DataType of onnx.proto."""

_INT, _INTS = 2, 7
"""Values of the enumeration AttributeProto.AttributeType of onnx.proto."""

INPUT, OUTPUT = "pixels", "logits"
"""The names of the input and output tensors."""


def write_onnx(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as an ONNX model of any batch size.

    A float model maps float32 pixels (N, channels, height, width), 0..255, to float32 logits (N, classes). An int8
    model maps uint8 pixels of the same shape to uint8 logits (N, classes), which are the int8 ones plus 128.
    """
    builder = _build_float(graph) if isinstance(graph, FloatGraph) else _build_quantized(graph)
    contract = FORMATS["onnx"].make_contract(graph)
    ir_version, opset = _FLOAT_VERSIONS if isinstance(graph, FloatGraph) else _INT8_VERSIONS
    classes = graph.shapes()[-1][0]
    nodes = b"".join(_encode(1, node) for node in builder.nodes)
    initializers = b"".join(_encode(5, initializer) for initializer in builder.initializers.values())
    pixels = _encode_value_info(INPUT, _DATA_TYPES[contract.input_type], graph.input_shape)
    logits = _encode_value_info(OUTPUT, _DATA_TYPES[contract.output_type], (classes,))
    return b"".join(
        [
            _encode(1, ir_version),
            _encode(2, "edge-mnist"),
            _encode(7, nodes + _encode(2, "edge-mnist") + initializers + _encode(11, pixels) + _encode(12, logits)),
            _encode(8, _encode(2, opset)),
            _encode(14, _encode(1, METADATA_KEY) + _encode(2, contract.to_json())),
        ]
    )


def add_output(data: bytes, tensor: str, data_type: str) -> bytes:
    """Add an output to an ONNX model.

    A reader of protobuf merges a message field that occurs twice, so the output is appended in a second graph field
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins).

    Args:
        data: the model.
        tensor: the name of the tensor that becomes an output.
        data_type: its type: "float32", "uint8", "int8" or "int32".
    """
    value_info = _encode(1, tensor) + _encode(2, _encode(1, _encode(1, _DATA_TYPES[data_type])))
    return data + _encode(7, _encode(12, value_info))


class _GraphBuilder:
    """The nodes and initializers of an ONNX graph; equal constants are stored once."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.initializers: dict[tuple[object, ...], bytes] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def add_constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Store an array as `name`, unless an equal one is stored already; return the name of the stored one."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.initializers:
            self._names[key] = name
            self.initializers[key] = _encode_tensor(name, array)
        return self._names[key]

    def add_node(self, operator: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> str:
        """Add a node and return the name of its output, which is also the name of the node."""
        parts = [_encode(1, text) for text in inputs]
        parts.extend([_encode(2, output), _encode(3, output), _encode(4, operator)])
        parts.extend(_encode(5, _encode_attribute(key, value)) for key, value in attributes.items())
        self.nodes.append(b"".join(parts))
        return output


def _build_float(graph: FloatGraph) -> _GraphBuilder:
    """Build the float model; the output of each operation has its name in `FloatGraph.identifiers`."""
    builder = _GraphBuilder()
    tensor, names = INPUT, graph.identifiers()
    if graph.zero_pixel:
        zero = builder.add_constant("zero_pixel", np.array(graph.zero_pixel, dtype=np.float32))
        tensor = builder.add_node("Sub", [tensor, zero], "centred")
    for operation in graph.operations:
        name = names[operation.name]
        if isinstance(operation, MaxPool2d):
            tensor = builder.add_node("MaxPool", [tensor], name, **_window_attributes(operation.window))
            continue
        weight = builder.add_constant(f"{name}.w", operation.weight)
        inputs = [tensor, weight, builder.add_constant(f"{name}.b", operation.bias)]
        sums = f"{name}.sum" if operation.relu else name
        tensor = builder.add_node("Conv", inputs, sums, **_convolution_attributes(operation))
        if operation.relu:
            tensor = builder.add_node("Relu", [tensor], name)
    builder.add_node("Flatten", [tensor], OUTPUT)
    return builder


def _build_quantized(graph: QuantizedGraph) -> _GraphBuilder:
    """Build the int8 model; the uint8 output of each operation has its name in `QuantizedGraph.identifiers`.

    There is no Relu: the clamp at the zero point 0 does the same.
    """
    builder = _GraphBuilder()
    tensor, names = INPUT, graph.identifiers()
    for operation, source in zip(graph.operations, graph.quantizations(), strict=False):
        name = names[operation.name]
        if isinstance(operation, MaxPool2d):
            tensor = builder.add_node("MaxPool", [tensor], name, **_window_attributes(operation.window))
            continue
        weight = builder.add_constant(f"{name}.w", operation.weight)
        scale = builder.add_constant(f"{name}.s", operation.weight_scale)
        bias = builder.add_constant(f"{name}.b", operation.bias)
        bias_scale = builder.add_constant(f"{name}.t", operation.weight_scale * np.float32(source.scale))
        inputs = [
            builder.add_node("DequantizeLinear", [tensor, *_add_parameters(builder, source)], f"{name}.x"),
            builder.add_node("DequantizeLinear", [weight, scale], f"{name}.W", axis=0),
            builder.add_node("DequantizeLinear", [bias, bias_scale], f"{name}.B", axis=0),
        ]
        sums = builder.add_node("Conv", inputs, f"{name}.y", **_convolution_attributes(operation))
        tensor = builder.add_node("QuantizeLinear", [sums, *_add_parameters(builder, operation.output)], name)
    builder.add_node("Flatten", [tensor], OUTPUT)
    return builder


def _add_parameters(builder: _GraphBuilder, quantization: Quantization) -> list[str]:
    """Store the scale and the zero point of an activation; return the names of both constants."""
    scale, zero_point = quantization.scale, quantization.zero_point + 128
    return [
        builder.add_constant(f"s{scale:g}", np.array(scale, dtype=np.float32)),
        builder.add_constant(f"z{zero_point}", np.array(zero_point, dtype=np.uint8)),
    ]


def _convolution_attributes(operation: Conv2d | QuantizedConv2d) -> dict[str, int | list[int]]:
    attributes = _window_attributes(operation.window)
    if operation.window.dilation != (1, 1):
        attributes["dilations"] = list(operation.window.dilation)
    if operation.groups != 1:
        attributes["group"] = operation.groups
    return attributes


def _window_attributes(window: Window) -> dict[str, int | list[int]]:
    """The attributes that Conv and MaxPool share; those at their default are left out."""
    attributes: dict[str, int | list[int]] = {"kernel_shape": list(window.kernel_size)}
    if window.padding != (0, 0):
        attributes["pads"] = [*window.padding, *window.padding]
    if window.stride != (1, 1):
        attributes["strides"] = list(window.stride)
    return attributes


def _encode_tensor(name: str, array: NDArray[np.generic]) -> bytes:
    """Encode a TensorProto with raw, little-endian data."""
    dims = b"".join(_encode(1, size) for size in array.shape)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return dims + _encode(2, _DATA_TYPES[array.dtype.name]) + _encode(8, name) + _encode(9, data)


def _encode_attribute(name: str, value: int | list[int]) -> bytes:
    """Encode an AttributeProto that holds an integer or a list of integers."""
    if isinstance(value, int):
        return _encode(1, name) + _encode(3, value) + _encode(20, _INT)
    return _encode(1, name) + b"".join(_encode(8, item) for item in value) + _encode(20, _INTS)


def _encode_value_info(name: str, data_type: int, shape: Iterable[int]) -> bytes:
    """Encode a ValueInfoProto of a tensor whose first dimension may have any size and is called N."""
    dims = [_encode(1, _encode(2, "N")), *(_encode(1, _encode(1, size)) for size in shape)]
    tensor_type = _encode(1, data_type) + _encode(2, b"".join(dims))
    return _encode(1, name) + _encode(2, _encode(1, tensor_type))


def _encode(number: int, value: bytes | str | int) -> bytes:
    """Encode a field: bytes and text with their length (wire type 2), integers from 0 on as varints (wire type 0)."""
    if isinstance(value, bytes | str):
        data = value.encode() if isinstance(value, str) else value
        return _encode_varint(number << 3 | 2) + _encode_varint(len(data)) + data
    return _encode_varint(number << 3) + _encode_varint(value)


def _encode_varint(value: int) -> bytes:
    """Encode a number in base 128, the lowest seven bits first; a set high bit means that more bytes follow."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
