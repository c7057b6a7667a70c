"""Writes a graph as ONNX bytes, in protobuf's wire format: no package is needed, and the bytes are the same everywhere.

Field numbers are those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); the wire format is
https://protobuf.dev/programming-guides/encoding/. Every node is named after its output, so that its name is unique.

The int8 form is "QDQ" with uint8 activations (the graph's int8 plus 128): each convolution, sum and product is placed
between DequantizeLinear and QuantizeLinear, which ONNX Runtime fuses into integer kernels. With int8 activations it
takes three times as long. OpenVINO and OpenCV refuse the other form, QLinearConv. Operations that only move values
(maximum pooling, concatenation, up-sampling) take the integers as they are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.arithmetic import is_exact_in_float
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Bounds,
    Concatenate,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
)
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

_FLOAT_VERSIONS, _INT8_VERSIONS = (8, 17), (9, 19)
"""The IR version and the opset of float and int8 models.

Old readers support opset 17; the onnx package's reference evaluator has DequantizeLinear from 19 on.
"""

_DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
"""By the name of a type: its value in the enumeration TensorProto.DataType of onnx.proto."""

_FLOAT, _INT, _STRING, _INTS = 1, 2, 3, 7
"""Values of the enumeration AttributeProto.AttributeType of onnx.proto."""

_FIXED32 = 5
"""The wire type of four bytes, which a float takes."""

_FAST_FUNCTIONS = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "leaky_relu", "elu", "gelu")
"""The functions that ONNX Runtime computes in float faster than it looks the values up in a table."""

Attribute = int | float | str | list[int]


def write_onnx(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as an ONNX model of any batch size.

    A float model maps float32 inputs (N, *input_shape), pixels 0..255 or the user's numbers, to float32 outputs. An
    int8 model maps uint8 inputs of the same shape, pixels or quantized numbers plus 128, to uint8 outputs, which are
    the int8 ones plus 128. The outputs are logits (N, classes), or maps (N, channels, height, width).
    """
    builder = _build_float(graph) if isinstance(graph, FloatGraph) else _build_quantized(graph)
    contract = FORMATS["onnx"].make_contract(graph)
    ir_version, opset = _FLOAT_VERSIONS if isinstance(graph, FloatGraph) else _INT8_VERSIONS
    output, shape = _name_output(graph)
    nodes = b"".join(_encode(1, node) for node in builder.nodes)
    initializers = b"".join(_encode(5, initializer) for initializer in builder.initializers.values())
    source = _encode_value_info(_name_input(graph), _DATA_TYPES[contract.input_type], graph.input_shape)
    target = _encode_value_info(output, _DATA_TYPES[contract.output_type], shape)
    return b"".join(
        [
            _encode(1, ir_version),
            _encode(2, "edge-mnist"),
            _encode(7, nodes + _encode(2, "edge-mnist") + initializers + _encode(11, source) + _encode(12, target)),
            _encode(8, _encode(2, opset)),
            _encode(14, _encode(1, METADATA_KEY) + _encode(2, contract.to_json())),
        ]
    )


def _name_input(graph: FloatGraph | QuantizedGraph) -> str:
    """The name of the input tensor."""
    return "pixels" if graph.is_pixels else "features"


def _name_output(graph: FloatGraph | QuantizedGraph) -> tuple[str, Sequence[int]]:
    """The name of the output tensor, and the shape of one output: (classes,), or (channels, height, width) of maps."""
    shape = graph.shapes()[-1]
    return ("logits", shape[:1]) if shape[1:] == (1, 1) else ("maps", shape)


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

    def add_node(self, operator: str, inputs: Iterable[str], output: str, **attributes: Attribute) -> str:
        """Add a node and return the name of its output, which is also the name of the node."""
        parts = [_encode(1, text) for text in inputs]
        parts.extend([_encode(2, output), _encode(3, output), _encode(4, operator)])
        parts.extend(_encode(5, _encode_attribute(key, value)) for key, value in attributes.items())
        self.nodes.append(b"".join(parts))
        return output

    def add_bounded_node(
        self, bounds: Bounds, operator: str, inputs: Iterable[str], name: str, **attributes: Attribute
    ) -> str:
        """Add a node of floats and what clamps its output to `bounds`; return the name of the clamped output."""
        if bounds == UNBOUNDED:
            return self.add_node(operator, inputs, name, **attributes)
        sums = self.add_node(operator, inputs, f"{name}.sum", **attributes)
        low, high = bounds
        if bounds == RELU:
            return self.add_node("Relu", [sums], name)
        limits = [self._add_limit(f"{name}.low", low), self._add_limit(f"{name}.high", high)]
        return self.add_node("Clip", [sums, *limits] if limits[1] else [sums, limits[0]], name)

    def _add_limit(self, name: str, limit: float) -> str:
        """Store a limit of Clip and return its name; "", which stands for no limit, if it is infinite."""
        return self.add_constant(name, np.array(limit, dtype=np.float32)) if math.isfinite(limit) else ""


def _build_float(graph: FloatGraph) -> _GraphBuilder:
    """Build the float model; the output of each operation has its name in `FloatGraph.identifiers`."""
    builder = _GraphBuilder()
    tensor, names = _add_input(builder, graph), graph.identifiers()
    if graph.zero_pixel:
        zero = builder.add_constant("zero_pixel", np.array(graph.zero_pixel, dtype=np.float32))
        tensor = builder.add_node("Sub", [tensor, zero], "centred")
    values = [tensor]
    for index, operation in enumerate(graph.operations):
        inputs = [values[source] for source in graph.sources(index)]
        values.append(_add_float_operation(builder, operation, inputs, names[operation.name]))
    _add_output(builder, graph, values[-1])
    return builder


def _add_float_operation(builder: _GraphBuilder, operation: FloatOperation, inputs: list[str], name: str) -> str:
    """Add the nodes of an operation; the output is called `name`."""
    match operation:
        case Conv2d():
            weight = builder.add_constant(f"{name}.w", operation.weight)
            inputs = [*inputs, weight, builder.add_constant(f"{name}.b", operation.bias)]
            return builder.add_bounded_node(
                operation.bounds, "Conv", inputs, name, **_convolution_attributes(operation)
            )
        case Add():
            return builder.add_bounded_node(operation.bounds, "Add", inputs, name)
        case Multiply():
            return builder.add_node("Mul", inputs, name)
        case Activation():
            return _add_function(builder, operation.function, operation.parameter, inputs[0], name, name)
        case _:
            return _add_move(builder, operation, inputs, name)


def _build_quantized(graph: QuantizedGraph) -> _GraphBuilder:
    """Build the int8 model; the uint8 output of each operation has its name in `QuantizedGraph.identifiers`.

    There is no Relu and no Clip: the clamp at 0 and 255 does the same.
    """
    builder = _GraphBuilder()
    names, quantizations = graph.identifiers(), graph.quantizations()
    values = [_add_input(builder, graph)]
    for index, operation in enumerate(graph.operations):
        sources = graph.sources(index)
        inputs = [values[source] for source in sources]
        name, types = names[operation.name], [quantizations[source] for source in sources]
        values.append(_add_quantized_operation(builder, operation, inputs, types, name))
    _add_output(builder, graph, values[-1])
    return builder


def _add_quantized_operation(
    builder: _GraphBuilder, operation: QuantizedOperation, inputs: list[str], types: list[Quantization], name: str
) -> str:
    """Add the nodes of an operation, whose inputs have the quantizations `types`; the output is called `name`."""
    match operation:
        case QuantizedConv2d():
            weight = builder.add_constant(f"{name}.w", operation.weight)
            scale = builder.add_constant(f"{name}.s", operation.weight_scale)
            bias = builder.add_constant(f"{name}.b", operation.bias)
            bias_scale = builder.add_constant(f"{name}.t", operation.weight_scale * np.float32(types[0].scale))
            reals = [
                *_add_dequantize(builder, inputs, types, name),
                builder.add_node("DequantizeLinear", [weight, scale], f"{name}.W", axis=0),
                builder.add_node("DequantizeLinear", [bias, bias_scale], f"{name}.B", axis=0),
            ]
            real = builder.add_node("Conv", reals, f"{name}.y", **_convolution_attributes(operation))
        case Add() | Multiply():
            reals = _add_dequantize(builder, inputs, types, name)
            real = builder.add_node("Add" if isinstance(operation, Add) else "Mul", reals, f"{name}.y")
        case Table() if operation.function in _FAST_FUNCTIONS and is_exact_in_float(operation, types[0]):
            (real,) = _add_dequantize(builder, inputs, types, name)
            real = _add_function(builder, operation.function, operation.parameter, real, name, f"{name}.y")
        case Table():
            table = builder.add_constant(f"{name}.table", (operation.values.view(np.uint8) ^ 0x80))
            indices = builder.add_node("Cast", inputs, f"{name}.i", to=_DATA_TYPES["int32"])
            return builder.add_node("Gather", [table, indices], name)
        case _:
            return _add_move(builder, operation, inputs, name)
    if operation.output is None:
        raise EdgeMnistError(f"{operation.name}: its output has no quantization")
    return builder.add_node("QuantizeLinear", [real, *_add_parameters(builder, operation.output)], name)


def _add_dequantize(builder: _GraphBuilder, inputs: list[str], types: list[Quantization], name: str) -> list[str]:
    """Add the node that dequantizes each input of an operation, for that operation alone."""
    suffixes = ("x",) if len(inputs) == 1 else ("x0", "x1")
    return [
        builder.add_node("DequantizeLinear", [tensor, *_add_parameters(builder, quantization)], f"{name}.{suffix}")
        for tensor, quantization, suffix in zip(inputs, types, suffixes, strict=True)
    ]


def _add_move(
    builder: _GraphBuilder,
    operation: MaxPool2d | Upsample | Concatenate | FloatOperation | QuantizedOperation,
    inputs: list[str],
    name: str,
) -> str:
    """Add the node of an operation that only moves values, in float and in integers alike."""
    match operation:
        case MaxPool2d():
            return builder.add_node("MaxPool", inputs, name, **_window_attributes(operation.window))
        case Concatenate():
            return builder.add_node("Concat", inputs, name, axis=1)
        case Upsample():
            factors = builder.add_constant(f"{name}.f", np.array([1, 1, *operation.factor], dtype=np.float32))
            # The value at i is that at floor(i / factor), as integers.
            rule = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
            return builder.add_node("Resize", [*inputs, "", factors], name, **rule)
        case _:
            raise EdgeMnistError(f"{operation.name}: ONNX has no form of {type(operation).__name__}")


def _add_function(builder: _GraphBuilder, function: str, parameter: float, tensor: str, name: str, output: str) -> str:
    """Add the nodes that apply a function of `layers.ACTIVATIONS` to a tensor of floats.

    Args:
        builder: receives the nodes.
        function: the function.
        parameter: its parameter.
        tensor: what it is applied to.
        name: with what the names of other tensors begin.
        output: the name of the result.
    """
    one_node: dict[str, tuple[str, dict[str, Attribute]]] = {
        "sigmoid": ("Sigmoid", {}),
        "tanh": ("Tanh", {}),
        "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
        "hardswish": ("HardSwish", {}),
        "leaky_relu": ("LeakyRelu", {"alpha": parameter}),
        "elu": ("Elu", {"alpha": parameter}),
        "softplus": ("Softplus", {}),
    }
    if function in one_node:
        operator, attributes = one_node[function]
        return builder.add_node(operator, [tensor], output, **attributes)

    def constant(suffix: str, value: float) -> str:
        return builder.add_constant(f"{name}.{suffix}", np.array(value, dtype=np.float32))

    if function == "silu":
        gate = builder.add_node("Sigmoid", [tensor], f"{name}.gate")
    elif function == "mish":
        gate = builder.add_node("Tanh", [builder.add_node("Softplus", [tensor], f"{name}.log")], f"{name}.gate")
    else:  # gelu: ONNX has it from opset 20 on
        divided = builder.add_node("Div", [tensor, constant("root", math.sqrt(2))], f"{name}.divided")
        erf = builder.add_node("Erf", [divided], f"{name}.erf")
        sums = builder.add_node("Add", [erf, constant("one", 1.0)], f"{name}.sum")
        product = builder.add_node("Mul", [tensor, sums], f"{name}.product")
        return builder.add_node("Mul", [product, constant("half", 0.5)], output)
    return builder.add_node("Mul", [tensor, gate], output)


def _add_input(builder: _GraphBuilder, graph: FloatGraph | QuantizedGraph) -> str:
    """Add what turns the input into maps, unless it is maps; return the name of the maps."""
    name = _name_input(graph)
    if len(graph.input_shape) == 3:
        return name
    return _add_reshape(builder, name, graph.shapes()[0], "reshaped")


def _add_reshape(builder: _GraphBuilder, tensor: str, shape: MapShape, output: str) -> str:
    """Add a node that reshapes each item of a batch to `shape`; the 0 keeps the size of the batch."""
    sizes = builder.add_constant(f"{output}.shape", np.array([0, *shape], dtype=np.int64))
    return builder.add_node("Reshape", [tensor, sizes], output)


def _add_output(builder: _GraphBuilder, graph: FloatGraph | QuantizedGraph, tensor: str) -> None:
    """Add the node that gives the output: it flattens maps of one element, and renames others."""
    name, shape = _name_output(graph)
    builder.add_node("Flatten" if len(shape) == 1 else "Identity", [tensor], name)


def _add_parameters(builder: _GraphBuilder, quantization: Quantization) -> list[str]:
    """Store the scale and the zero point of an activation; return the names of both constants."""
    scale, zero_point = quantization.scale, quantization.zero_point + 128
    return [
        builder.add_constant(f"s{scale:g}", np.array(scale, dtype=np.float32)),
        builder.add_constant(f"z{zero_point}", np.array(zero_point, dtype=np.uint8)),
    ]


def _convolution_attributes(operation: Conv2d | QuantizedConv2d) -> dict[str, Attribute]:
    attributes = _window_attributes(operation.window)
    if operation.window.dilation != (1, 1):
        attributes["dilations"] = list(operation.window.dilation)
    if operation.groups != 1:
        attributes["group"] = operation.groups
    return attributes


def _window_attributes(window: Window) -> dict[str, Attribute]:
    """The attributes that Conv and MaxPool share; those at their default are left out."""
    attributes: dict[str, Attribute] = {"kernel_shape": list(window.kernel_size)}
    if window.is_padded:
        attributes["pads"] = [*window.padding, *window.after]
    if window.stride != (1, 1):
        attributes["strides"] = list(window.stride)
    return attributes


def _encode_tensor(name: str, array: NDArray[np.generic]) -> bytes:
    """Encode a TensorProto with raw, little-endian data."""
    dims = b"".join(_encode(1, size) for size in array.shape)
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    return dims + _encode(2, _DATA_TYPES[array.dtype.name]) + _encode(8, name) + _encode(9, data)


def _encode_attribute(name: str, value: Attribute) -> bytes:
    """Encode an AttributeProto that holds a number, a text or a list of integers."""
    match value:
        case int():
            return _encode(1, name) + _encode(3, value) + _encode(20, _INT)
        case float():
            number = _encode_varint(2 << 3 | _FIXED32) + struct.pack("<f", value)
            return _encode(1, name) + number + _encode(20, _FLOAT)
        case str():
            return _encode(1, name) + _encode(4, value) + _encode(20, _STRING)
        case _:
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
