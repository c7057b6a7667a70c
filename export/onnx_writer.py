"""A graph as ONNX bytes, written in protobuf's wire format by hand: no package needed, the same bytes everywhere.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the wire format is
https://protobuf.dev/programming-guides/encoding/. Every node has its output's name, which no other node can have.

The int8 form is "QDQ" with uint8 activations (the graph's int8 plus 128): each convolution stands between
DequantizeLinear and QuantizeLinear, which ONNX Runtime fuses into integer kernels. With int8 activations it takes three
times as long. The other form, QLinearConv, is refused by OpenVINO and OpenCV.
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

# IR version and opset. Old readers know 17; the onnx package's reference evaluator has DequantizeLinear from 19 on.
_FLOAT_VERSIONS, _INT8_VERSIONS = (8, 17), (9, 19)

# TensorProto.DataType
_FLOAT, _UINT8 = 1, 2
_DATA_TYPES = {"float32": _FLOAT, "uint8": _UINT8, "int8": 3, "int32": 6}
# AttributeProto.AttributeType
_INT, _INTS = 2, 7

INPUT, OUTPUT = "pixels", "logits"


def write_onnx(graph: FloatGraph | QuantizedGraph) -> bytes:
    """The graph as an ONNX model.

    Float: float32 pixels (N, channels, height, width), 0..255, to float32 logits (N, classes).
    Int8: uint8 pixels of that shape to uint8 logits (N, classes), zero point 128. The batch size is free.
    """
    body = _float_body(graph) if isinstance(graph, FloatGraph) else _quantized_body(graph)
    terms = FORMATS["onnx"].make_contract(graph)
    ir_version, opset = _FLOAT_VERSIONS if isinstance(graph, FloatGraph) else _INT8_VERSIONS
    classes = graph.shapes()[-1][0]
    parts = [_field(1, node) for node in body.nodes]
    parts.append(_field(2, b"edge-mnist"))
    parts.extend(_field(5, initializer) for initializer in body.initializers.values())
    parts.append(_field(11, _value_info(INPUT, _DATA_TYPES[terms.input_type], graph.input_shape)))
    parts.append(_field(12, _value_info(OUTPUT, _DATA_TYPES[terms.output_type], (classes,))))
    entry = _field(1, METADATA_KEY.encode()) + _field(2, terms.to_json().encode())
    return b"".join(
        [
            _integer_field(1, ir_version),
            _field(2, b"edge-mnist"),
            _field(7, b"".join(parts)),
            _field(8, _integer_field(2, opset)),
            _field(14, entry),
        ]
    )


def add_output(data: bytes, tensor: str, data_type: str) -> bytes:
    """The model with one more output, `tensor`.

    Protobuf merges a message that is given twice, so that the output is simply appended in a second graph field
    (https://protobuf.dev/programming-guides/encoding/#last-one-wins).
    """
    value_info = _field(1, tensor.encode()) + _field(2, _field(1, _integer_field(1, _DATA_TYPES[data_type])))
    return data + _field(7, _field(12, value_info))


class _Body:
    """Nodes and initializers of a graph under construction; equal constants are stored once."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.initializers: dict[tuple[object, ...], bytes] = {}
        self._names: dict[tuple[object, ...], str] = {}

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Store an array under `name`; return the name under which an equal one is stored."""
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self.initializers:
            self._names[key] = name
            self.initializers[key] = _tensor(name, array)
        return self._names[key]

    def node(self, operator: str, inputs: Iterable[str], output: str, **attributes: int | list[int]) -> str:
        """Add a node that is called what its output is; return that name."""
        parts = [_field(1, text.encode()) for text in inputs]
        parts.extend([_field(2, output.encode()), _field(3, output.encode()), _field(4, operator.encode())])
        parts.extend(_field(5, _attribute(key, value)) for key, value in attributes.items())
        self.nodes.append(b"".join(parts))
        return output


def _float_body(graph: FloatGraph) -> _Body:
    """Each operation's output is a tensor that `FloatGraph.identifiers` names."""
    body = _Body()
    tensor, names = INPUT, graph.identifiers()
    if graph.zero_pixel:
        zero = body.constant("zero_pixel", np.array(graph.zero_pixel, dtype=np.float32))
        tensor = body.node("Sub", [tensor, zero], "centred")
    for operation in graph.operations:
        name = names[operation.name]
        if isinstance(operation, MaxPool2d):
            tensor = body.node("MaxPool", [tensor], name, **_window_attributes(operation.window))
            continue
        inputs = [tensor, body.constant(f"{name}.w", operation.weight), body.constant(f"{name}.b", operation.bias)]
        sums = f"{name}.sum" if operation.relu else name
        tensor = body.node("Conv", inputs, sums, **_convolution_attributes(operation))
        if operation.relu:
            tensor = body.node("Relu", [tensor], name)
    body.node("Flatten", [tensor], OUTPUT)
    return body


def _quantized_body(graph: QuantizedGraph) -> _Body:
    """Each operation's uint8 output is named by `QuantizedGraph.identifiers`; the clamp at zero point 0 is the ReLU."""
    body = _Body()
    tensor, names = INPUT, graph.identifiers()
    for operation, source in zip(graph.operations, graph.quantizations(), strict=False):
        name = names[operation.name]
        if isinstance(operation, MaxPool2d):
            tensor = body.node("MaxPool", [tensor], name, **_window_attributes(operation.window))
            continue
        weight, scale = body.constant(f"{name}.w", operation.weight), body.constant(f"{name}.s", operation.weight_scale)
        bias = body.constant(f"{name}.b", operation.bias)
        bias_scale = body.constant(f"{name}.t", operation.weight_scale * np.float32(source.scale))
        inputs = [
            body.node("DequantizeLinear", [tensor, *_parameters(body, source)], f"{name}.x"),
            body.node("DequantizeLinear", [weight, scale], f"{name}.W", axis=0),
            body.node("DequantizeLinear", [bias, bias_scale], f"{name}.B", axis=0),
        ]
        sums = body.node("Conv", inputs, f"{name}.y", **_convolution_attributes(operation))
        tensor = body.node("QuantizeLinear", [sums, *_parameters(body, operation.output)], name)
    body.node("Flatten", [tensor], OUTPUT)
    return body


def _parameters(body: _Body, quantization: Quantization) -> list[str]:
    """Names of the constants that hold an activation's scale and zero point."""
    scale, zero_point = quantization.scale, quantization.zero_point + 128
    return [
        body.constant(f"s{scale:g}", np.array(scale, dtype=np.float32)),
        body.constant(f"z{zero_point}", np.array(zero_point, dtype=np.uint8)),
    ]


def _convolution_attributes(operation: Conv2d | QuantizedConv2d) -> dict[str, int | list[int]]:
    attributes = _window_attributes(operation.window)
    if operation.window.dilation != (1, 1):
        attributes["dilations"] = list(operation.window.dilation)
    if operation.groups != 1:
        attributes["group"] = operation.groups
    return attributes


def _window_attributes(window: Window) -> dict[str, int | list[int]]:
    """Attributes that Conv and MaxPool share; defaults are left out."""
    attributes: dict[str, int | list[int]] = {"kernel_shape": list(window.kernel_size)}
    if window.padding != (0, 0):
        attributes["pads"] = [*window.padding, *window.padding]
    if window.stride != (1, 1):
        attributes["strides"] = list(window.stride)
    return attributes


def _tensor(name: str, array: NDArray[np.generic]) -> bytes:
    """A TensorProto with raw, little-endian data."""
    dims = [_integer_field(1, size) for size in array.shape]
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return b"".join(
        [*dims, _integer_field(2, _DATA_TYPES[array.dtype.name]), _field(8, name.encode()), _field(9, data)]
    )


def _attribute(name: str, value: int | list[int]) -> bytes:
    """An AttributeProto that holds an integer or a list of integers."""
    if isinstance(value, int):
        return _field(1, name.encode()) + _integer_field(3, value) + _integer_field(20, _INT)
    return _field(1, name.encode()) + b"".join(_integer_field(8, item) for item in value) + _integer_field(20, _INTS)


def _value_info(name: str, data_type: int, shape: Iterable[int]) -> bytes:
    """A ValueInfoProto of a tensor whose first dimension is free and called N."""
    dims = [_field(1, _field(2, b"N")), *(_field(1, _integer_field(1, size)) for size in shape)]
    tensor_type = _integer_field(1, data_type) + _field(2, b"".join(dims))
    return _field(1, name.encode()) + _field(2, _field(1, tensor_type))


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field (wire type 2)."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _integer_field(number: int, value: int) -> bytes:
    """A varint field (wire type 0) of a value that is not negative."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Base-128 with the lowest seven bits first; the high bit says that more follow."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
