"""A graph as TensorFlow Lite bytes.

Activations are (N, height, width, channels). The int8 form has int8 input and output, no QUANTIZE or DEQUANTIZE, and
only operations that XNNPACK takes (https://github.com/google/XNNPACK, tflite/delegates/xnnpack/README.md). The
quantization follows TensorFlow's "LiteRT 8-bit quantization specification".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edge_mnist.export.tflite.model import Model, Operator, Tensor, serialize
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

INPUT, OUTPUT = "pixels", "logits"

# Enumerations of schema.fbs.
_SAME, _VALID = 0, 1  # Padding
_RELU = 1  # ActivationFunctionType

# The least operator versions that know int8 (tensorflow/lite/tools/versioning/op_version.cc).
_FLOAT_VERSIONS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "MAX_POOL_2D": 1, "PAD": 1}
_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "MAX_POOL_2D": 2, "PAD": 2}


def write_tflite(graph: FloatGraph | QuantizedGraph) -> bytes:
    """The graph as a .tflite model.

    Float: float32 pixels (N, height, width, channels), 0..255, to float32 logits (N, classes).
    Int8: int8 (pixels - 128) of that shape to int8 logits (N, classes), zero point 0. The batch can be resized.

    Raises:
        EdgeMnistError: a padded max pool over values that may be negative, which TFLite cannot express.
    """
    model = Model(metadata={METADATA_KEY: FORMATS["tflite"].make_contract(graph).to_json().encode()})
    shapes, names = graph.shapes(), graph.identifiers()
    quantizations: list[Quantization | None] = [None] * len(shapes)
    if isinstance(graph, QuantizedGraph):
        quantizations = [*graph.quantizations()]
    tensor = model.add(_activation(INPUT, _map(shapes[0]), quantizations[0]))
    model.inputs = (tensor,)
    if isinstance(graph, FloatGraph) and graph.zero_pixel:
        zero = model.add(Tensor("zero_pixel", "FLOAT32", (), np.array(graph.zero_pixel, np.float32)))
        centred = model.add(_activation("centred", _map(shapes[0]), None))
        model.operators.append(Operator("SUB", 1, (tensor, zero), centred, {}))
        tensor = centred
    never_negative = graph.zero_pixel == 0
    for index, operation in enumerate(graph.operations):
        source, target = quantizations[index], quantizations[index + 1]
        shape, size, name = shapes[index], shapes[index][1:], names[operation.name]
        if operation.window.padding != (0, 0) and not _is_same(operation.window, size):
            if isinstance(operation, MaxPool2d) and not never_negative:
                raise EdgeMnistError(
                    f"{operation.name}: TFLite cannot pad a max pool by {operation.window.padding} over values that "
                    "may be negative: put a ReLU before it, or leave out --format tflite"
                )
            down, right = operation.window.padding
            shape = (shape[0], shape[1] + 2 * down, shape[2] + 2 * right)
            tensor = _add_pad(model, f"{name}.padded", tensor, operation.window, shape, source)
            padding = _VALID
        else:
            padding = _SAME if operation.window.padding != (0, 0) else _VALID
        output = model.add(_activation(name, _map(shapes[index + 1]), target))
        if isinstance(operation, MaxPool2d):
            model.operators.append(_max_pool(operation.window, padding, tensor, output, integer=target is not None))
        else:
            never_negative = operation.relu
            model.operators.append(_convolution(model, name, operation, shape, source, padding, tensor, output))
        tensor = output
    tensor = _add_reshape(model, tensor, shapes[-1][0], quantizations[-1])
    model.outputs = (tensor,)
    return serialize(model)


def _convolution(
    model: Model,
    name: str,
    operation: Conv2d | QuantizedConv2d,
    shape: MapShape,
    source: Quantization | None,
    padding: int,
    tensor: int,
    output: int,
) -> Operator:
    """The operator of a convolution; its constants are added to the model."""
    is_depthwise = operation.groups == shape[0] and operation.groups > 1
    weight = operation.weight
    if is_depthwise:
        weight = weight.transpose(1, 2, 3, 0)  # (1, height, width, out)
    else:
        weight = weight.transpose(0, 2, 3, 1)  # (out, height, width, in / groups)
    constants = _constants(name, operation, weight, source, dimension=3 if is_depthwise else 0)
    inputs = (tensor, *(model.add(constant) for constant in constants))
    fields = _window_fields(operation.window, padding)
    if operation.relu and source is None:  # in int8 the clamp at the zero point -128 is the ReLU
        fields["Activation"] = _RELU
    fields |= {"DilationH": operation.window.dilation[0], "DilationW": operation.window.dilation[1]}
    if is_depthwise:
        fields["DepthMultiplier"] = len(operation.weight) // operation.groups
        return _operator("DEPTHWISE_CONV_2D", source, inputs, output, fields)
    return _operator("CONV_2D", source, inputs, output, fields)


def _constants(
    name: str,
    operation: Conv2d | QuantizedConv2d,
    weight: NDArray[np.generic],
    source: Quantization | None,
    dimension: int,
) -> tuple[Tensor, Tensor]:
    """Weight and bias; int8 with scales per channel, and zero points, which LiteRT and XNNPACK insist on, all zero."""
    outputs = len(operation.bias)
    if isinstance(operation, Conv2d) or source is None:
        return (
            Tensor(f"{name}.w", "FLOAT32", weight.shape, weight),
            Tensor(f"{name}.b", "FLOAT32", (outputs,), operation.bias),
        )
    scales, zeros = operation.weight_scale, np.zeros(outputs, np.int64)
    return (
        Tensor(f"{name}.w", "INT8", weight.shape, weight, scales, zeros, dimension),
        Tensor(f"{name}.b", "INT32", (outputs,), operation.bias, scales * np.float32(source.scale), zeros),
    )


def _max_pool(window: Window, padding: int, tensor: int, output: int, *, integer: bool) -> Operator:
    fields = _window_fields(window, padding)
    fields |= {"FilterHeight": window.kernel_size[0], "FilterWidth": window.kernel_size[1]}
    version = 2 if integer else 1
    return Operator("MAX_POOL_2D", version, (tensor,), output, fields)


def _add_pad(
    model: Model, name: str, tensor: int, window: Window, shape: MapShape, quantization: Quantization | None
) -> int:
    """Pad with the real number 0, which is the zero point; return the padded tensor. `shape` is the padded one."""
    down, right = window.padding
    amounts = np.array([[0, 0], [down, down], [right, right], [0, 0]], np.int32)
    paddings = model.add(Tensor(f"{name}.amounts", "INT32", amounts.shape, amounts))
    padded = model.add(_activation(name, _map(shape), quantization))
    model.operators.append(_operator("PAD", quantization, (tensor, paddings), padded, {}))
    return padded


def _add_reshape(model: Model, tensor: int, classes: int, quantization: Quantization | None) -> int:
    """(N, 1, 1, classes) to (N, classes)."""
    target = np.array([-1, classes], np.int32)
    shape = model.add(Tensor("logits.shape", "INT32", target.shape, target))
    output = model.add(_activation(OUTPUT, (0, classes), quantization))
    model.operators.append(Operator("RESHAPE", 1, (tensor, shape), output, {}))
    return output


def _operator(
    name: str,
    quantization: Quantization | None,
    inputs: tuple[int, ...],
    output: int,
    options: dict[str, int],
) -> Operator:
    """An operator in the version for its type; `quantization` is that of an input, None for float."""
    versions = _FLOAT_VERSIONS if quantization is None else _INT8_VERSIONS
    return Operator(name, versions[name], inputs, output, options)


def _activation(name: str, shape: tuple[int, ...], quantization: Quantization | None) -> Tensor:
    if quantization is None:
        return Tensor(name, "FLOAT32", shape)
    scale, zero_point = np.array([quantization.scale], np.float32), np.array([quantization.zero_point], np.int64)
    return Tensor(name, "INT8", shape, None, scale, zero_point)


def _window_fields(window: Window, padding: int) -> dict[str, int]:
    return {"Padding": padding, "StrideH": window.stride[0], "StrideW": window.stride[1]}


def _is_same(window: Window, size: tuple[int, int]) -> bool:
    """Whether TensorFlow's SAME padding is this window's padding.

    SAME pads by `max((ceil(size / stride) - 1) * stride + extent - size, 0)` in all, the smaller half first
    (https://www.tensorflow.org/api_docs/python/tf/nn, "Notes on padding").
    """
    for n, padding, stride, extent, outputs in zip(
        size, window.padding, window.stride, window.extent, window.output_size(size), strict=True
    ):
        same_outputs = math.ceil(n / stride)
        total = max((same_outputs - 1) * stride + extent - n, 0)
        if outputs != same_outputs or padding != total // 2:
            return False
    return True


def _map(shape: MapShape) -> tuple[int, int, int, int]:
    """Dimensions of a batch of activations of a shape, in TFLite's order."""
    channels, height, width = shape
    return 0, height, width, channels
