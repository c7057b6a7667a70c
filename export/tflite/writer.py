"""Writes a graph as TensorFlow Lite bytes.

Activations are (N, height, width, channels). The int8 form has int8 input and output. Where several operators compute
the same integers, it has those that XNNPACK supports (https://github.com/google/XNNPACK,
tflite/delegates/xnnpack/README.md). It has QUANTIZE and DEQUANTIZE only around some functions of one number, see
`_add_table`. The quantization follows TensorFlow's "LiteRT 8-bit quantization specification".

The graph is first turned into lists of tensors and operators, which are then written as a flatbuffer. Tables, field
numbers and enumerations are those of schema.fbs
(https://github.com/tensorflow/tensorflow/blob/master/tensorflow/compiler/mlir/lite/schema/schema.fbs).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_mnist.export.tflite.flatbuffer import Builder, Field, Offset
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.arithmetic import is_exact_in_float
from edge_mnist.graph.geometry import MapShape, Pair, Window
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

PIXELS, FEATURES, LOGITS, MAPS = "pixels", "features", "logits", "maps"
"""The names of the input, which is pixels or features, and of the output, which is logits or maps."""

_SAME, _VALID = 0, 1
"""Values of the enumeration Padding of schema.fbs."""

_FUSED_ACTIVATIONS: dict[Bounds, int] = {UNBOUNDED: 0, RELU: 1, (-1.0, 1.0): 2, (0.0, 6.0): 3}
"""By the bounds to which an operator clamps its output: the value in the enumeration ActivationFunctionType of
schema.fbs."""

_TENSOR_TYPES = {"FLOAT32": 0, "INT32": 2, "INT8": 9}
"""Values of the enumeration TensorType of schema.fbs."""

_OPERATORS = {
    "ADD": (0, 11),
    "CONCATENATION": (2, 10),
    "CONV_2D": (3, 1),
    "DEPTHWISE_CONV_2D": (4, 2),
    "DEQUANTIZE": (6, 0),
    "LOGISTIC": (14, 0),
    "MAX_POOL_2D": (17, 5),
    "MUL": (18, 21),
    "RESHAPE": (22, 17),
    "TANH": (28, 0),
    "PAD": (34, 22),
    "GATHER": (36, 23),
    "SUB": (41, 28),
    "DIV": (42, 29),
    "EXP": (47, 0),
    "CAST": (53, 37),
    "MAXIMUM": (55, 0),
    "MINIMUM": (57, 0),
    "PADV2": (60, 0),
    "LOG": (73, 0),
    "LEAKY_RELU": (98, 75),
    "ABS": (101, 0),
    "ELU": (111, 0),
    "QUANTIZE": (114, 0),
    "HARD_SWISH": (117, 0),
}
"""By the name of an operator: its values in the enumerations BuiltinOperator and BuiltinOptions of schema.fbs. The
second is 0 if the operator has no options, or none that a runtime reads."""

_WINDOW_FIELDS = {"Padding": (0, "b", 0), "StrideW": (1, "i", 0), "StrideH": (2, "i", 0)}
_OPTIONS: dict[str, dict[str, tuple[int, str, float]]] = {
    "ADD": {"Activation": (0, "b", 0)},
    "CONCATENATION": {"Axis": (0, "i", 0)},
    "CONV_2D": {**_WINDOW_FIELDS, "Activation": (3, "b", 0), "DilationW": (4, "i", 1), "DilationH": (5, "i", 1)},
    "DEPTHWISE_CONV_2D": {
        **_WINDOW_FIELDS,
        "DepthMultiplier": (3, "i", 0),
        "Activation": (4, "b", 0),
        "DilationW": (5, "i", 1),
        "DilationH": (6, "i", 1),
    },
    "MAX_POOL_2D": {**_WINDOW_FIELDS, "FilterWidth": (3, "i", 0), "FilterHeight": (4, "i", 0)},
    "CAST": {"InDataType": (0, "b", 0), "OutDataType": (1, "b", 0)},
    "LEAKY_RELU": {"Alpha": (0, "f", 0.0)},
}
"""By the name of an operator: the fields of its options' table in schema.fbs, as number, struct format and default. The
other operators have no fields, or only such as keep their defaults."""

_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "RESHAPE": 1, "CAST": 1, "QUANTIZE": 1}
"""The lowest versions of operators that support int8 (tensorflow/lite/tools/versioning/op_version.cc); that of the
other operators is 2. In float every operator has version 1."""

_KERNELS = {"sigmoid": ("LOGISTIC", Quantization(2.0**-8, -128)), "tanh": ("TANH", Quantization(2.0**-7, 0))}
"""By the name of a function: the operator that computes it in int8, and the only quantization of its output. It is not
used at input scales above 1: at 16, which was tried, TensorFlow Lite Micro saturates even at the input 0."""

_MOST_INPUTS = 4
"""The most inputs of one CONCATENATION: XNNPACK takes up to 5 (4 in older versions), TensorFlow Lite Micro 10."""

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
    options: dict[str, float]


@dataclass
class _Subgraph:
    """The tensors and operators of a model, which are appended one after the other.

    The inputs and outputs are the indices of tensors, by the names that the model's signature gives them.
    """

    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    tensors: list[_Tensor] = field(default_factory=list)
    operators: list[_Operator] = field(default_factory=list)

    def add_tensor(self, tensor: _Tensor) -> int:
        """Append a tensor and return its index."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add_constant(self, name: str, values: ArrayLike) -> int:
        """Append a constant that is not quantized: int32 if `values` are integers, else float32; return its index."""
        data = np.asarray(values)
        is_integer = np.issubdtype(data.dtype, np.integer)
        data = data.astype(np.int32 if is_integer else np.float32)
        return self.add_tensor(_Tensor(name, "INT32" if is_integer else "FLOAT32", data.shape, data))

    def add_operator(self, name: str, inputs: tuple[int, ...], output: int, **options: float) -> None:
        """Append an operator, in the lowest version that supports the types of its first input and its output."""
        is_int8 = "INT8" in (self.tensors[inputs[0]].dtype, self.tensors[output].dtype)
        version = _INT8_VERSIONS.get(name, 2) if is_int8 else 1
        self.operators.append(_Operator(name, version, inputs, output, options))


@dataclass(frozen=True)
class _Step:
    """What one operation of a graph takes and gives.

    Attributes:
        name: the identifier of the operation, with which the names of its tensors begin.
        inputs: the indices of the tensors that it takes.
        shapes: their shapes (channels, height, width).
        sources: their quantizations; None in a float graph.
        never_negative: whether the numbers that it takes are never negative, as far as the graph shows.
        shape: the shape of its output.
        target: the quantization of its output.
    """

    name: str
    inputs: tuple[int, ...]
    shapes: tuple[MapShape, ...]
    sources: tuple[Quantization | None, ...]
    never_negative: bool
    shape: MapShape
    target: Quantization | None


def write_tflite(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as a .tflite model, whose batch can be resized.

    A float model maps float32 pixels (N, height, width, channels), 0..255, to float32 logits (N, classes). An int8
    model maps int8 pixels of the same shape, each 128 less, to int8 logits (N, classes). Inputs that are not pixels
    are the float32 numbers themselves, or int8 numbers at `graph.features`. A sequence is (N, length, channels) and a
    vector (N, features). If the output is not one number for each class, it is maps (N, height, width, channels).
    """
    return _serialize(_build_subgraph(graph), {METADATA_KEY: FORMATS["tflite"].make_contract(graph).to_json().encode()})


def _build_subgraph(graph: FloatGraph | QuantizedGraph) -> _Subgraph:
    """Turn a graph into tensors and operators of TensorFlow Lite."""
    subgraph = _Subgraph()
    shapes, names = graph.shapes(), graph.identifiers()
    quantizations: list[Quantization | None] = [None] * len(shapes)
    if isinstance(graph, QuantizedGraph):
        quantizations = [*graph.quantizations()]
    tensors = [_add_input(subgraph, graph, shapes[0], quantizations[0])]
    never_negative = [graph.is_pixels and graph.zero_pixel == 0]
    for index, operation in enumerate(graph.operations):
        sources = graph.sources(index)
        step = _Step(
            names[operation.name],
            tuple(tensors[source] for source in sources),
            tuple(shapes[source] for source in sources),
            tuple(quantizations[source] for source in sources),
            all(never_negative[source] for source in sources),
            shapes[index + 1],
            quantizations[index + 1],
        )
        tensors.append(_add_operation(subgraph, step, operation))
        if isinstance(operation, Conv2d | QuantizedConv2d | Add):
            never_negative.append(operation.bounds[0] >= 0)
        else:
            keeps_values = isinstance(operation, MaxPool2d | Upsample | Concatenate)
            never_negative.append(keeps_values and step.never_negative)
    if shapes[-1][1:] == (1, 1):
        logits = _add_reshape(subgraph, LOGITS, tensors[-1], (shapes[-1][0],), quantizations[-1])
        subgraph.outputs[LOGITS] = logits
    else:
        subgraph.outputs[MAPS] = tensors[-1]
    return subgraph


def _add_input(
    subgraph: _Subgraph, graph: FloatGraph | QuantizedGraph, shape: MapShape, quantization: Quantization | None
) -> int:
    """Append the input, as maps of `shape` from which the zero pixel is subtracted; return the index of the tensor."""
    name = PIXELS if graph.is_pixels else FEATURES
    channels, *sizes = graph.input_shape
    tensor = subgraph.add_tensor(_make_activation(name, (0, *sizes, channels), quantization))
    subgraph.inputs[name] = tensor
    if len(sizes) < 2:
        tensor = _add_reshape(subgraph, f"{name}.maps", tensor, (*shape[1:], shape[0]), quantization)
    if isinstance(graph, FloatGraph) and graph.zero_pixel:
        zero = subgraph.add_constant("zero_pixel", float(graph.zero_pixel))
        centred = subgraph.add_tensor(_make_activation("centred", _to_dimensions(shape), None))
        subgraph.add_operator("SUB", (tensor, zero), centred)
        tensor = centred
    return tensor


def _add_operation(subgraph: _Subgraph, step: _Step, operation: FloatOperation | QuantizedOperation) -> int:
    """Append what computes an operation; return the index of its output, whose name is that of the step."""
    match operation:
        case Conv2d() | QuantizedConv2d():
            return _add_convolution(subgraph, step, operation)
        case MaxPool2d():
            return _add_max_pool(subgraph, step, operation.window)
        case Upsample():
            return _add_upsample(subgraph, step, operation.factor)
        case Concatenate():
            return _add_concatenation(subgraph, step.name, step.inputs, 3)
        case Add():
            output = _add_output(subgraph, step, operation.bounds)
            subgraph.add_operator("ADD", step.inputs, output, Activation=_fuse(operation.bounds, step.target))
            return _add_clamp(subgraph, step, operation.bounds, output)
        case Multiply():
            return _add_multiplication(subgraph, step)
        case Activation():
            return _add_expression(subgraph, step.name, _express(operation, step.inputs[0]), step.shape)
        case Table():
            return _add_table(subgraph, step, operation)


def _add_convolution(subgraph: _Subgraph, step: _Step, operation: Conv2d | QuantizedConv2d) -> int:
    """Append a convolution, its constants, and a PAD and a clamp if it needs them; return the index of its output."""
    tensor, padding = _add_padding(subgraph, step, operation.window, 0.0)
    output = _add_output(subgraph, step, operation.bounds)
    is_depthwise = operation.groups == step.shapes[0][0] and operation.groups > 1
    weight = operation.weight
    if is_depthwise:
        weight = weight.transpose(1, 2, 3, 0)  # (1, height, width, out)
    else:
        weight = weight.transpose(0, 2, 3, 1)  # (out, height, width, in / groups)
    constants = _make_constants(step.name, operation, weight, step.sources[0], dimension=3 if is_depthwise else 0)
    inputs = (tensor, *(subgraph.add_tensor(constant) for constant in constants))
    options = _window_options(operation.window, padding) | {"Activation": _fuse(operation.bounds, step.target)}
    options |= {"DilationH": operation.window.dilation[0], "DilationW": operation.window.dilation[1]}
    if is_depthwise:
        options["DepthMultiplier"] = len(operation.weight) // operation.groups
    subgraph.add_operator("DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D", inputs, output, **options)
    return _add_clamp(subgraph, step, operation.bounds, output)


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


def _add_max_pool(subgraph: _Subgraph, step: _Step, window: Window) -> int:
    """Append a max pool; return the index of its output."""
    tensor, padding = _add_padding(subgraph, step, window, -math.inf)
    output = _add_output(subgraph, step)
    options = _window_options(window, padding)
    options |= {"FilterHeight": window.kernel_size[0], "FilterWidth": window.kernel_size[1]}
    subgraph.add_operator("MAX_POOL_2D", (tensor,), output, **options)
    return output


def _add_padding(subgraph: _Subgraph, step: _Step, window: Window, value: float) -> tuple[int, int]:
    """Append what pads the input of a window, where TensorFlow's SAME padding does not.

    Args:
        subgraph: what is appended to.
        step: the operation, whose first input is padded.
        window: what slides over it.
        value: the real number that represents the padding, 0 or minus infinity.

    Returns:
        The index of the padded tensor, or of the input if the operator pads by itself, and `_SAME` or `_VALID`.
    """
    (tensor, *_), (shape, *_), (source, *_) = step.inputs, step.shapes, step.sources
    if not window.is_padded:
        return tensor, _VALID
    if _is_same_padding(window, shape[1:]):
        return tensor, _SAME
    (above, left), (below, right) = window.padding, window.after
    name = f"{step.name}.padded"
    inputs = (tensor, subgraph.add_constant(f"{name}.amounts", [[0, 0], [above, below], [left, right], [0, 0]]))
    padded = subgraph.add_tensor(
        _make_activation(name, _to_dimensions((shape[0], *window.padded_size(shape[1:]))), source)
    )
    # PAD pads with the real number 0, which the zero point represents. Unlike PADV2, it runs in XNNPACK.
    if value == 0.0 or step.never_negative or (source is not None and source.zero_point == -128):
        subgraph.add_operator("PAD", inputs, padded)
    elif source is None:
        subgraph.add_operator("PADV2", (*inputs, subgraph.add_constant(f"{name}.value", value)), padded)
    else:
        lowest = _make_activation(f"{name}.value", (), source, np.array(-128, np.int8))
        subgraph.add_operator("PADV2", (*inputs, subgraph.add_tensor(lowest)), padded)
    return padded, _VALID


def _add_upsample(subgraph: _Subgraph, step: _Step, factor: Pair) -> int:
    """Append what repeats each value `factor` times; return the index of its output.

    A row of columns (width, channels) that is joined with itself along the channels is, in memory, a row in which each
    column is repeated; likewise for rows. RESIZE_NEAREST_NEIGHBOR is not used: XNNPACK lacks it, and in TensorFlow
    Lite Micro it takes a wrong neighbour for some factors, because it divides in float32.
    """
    (channels, height, width), (tensor, *_) = step.shapes[0], step.inputs
    if factor == (1, 1):  # the output needs a name of its own, by which `tflite_reader.cut_after` finds it
        return _add_reshape(subgraph, step.name, tensor, (height, width, channels), step.target)
    for axis, count in ((3, factor[1]), (2, factor[0])):
        if count == 1:
            continue
        name = f"{step.name}.{'columns' if axis == 3 else 'rows'}"
        joined = _add_concatenation(subgraph, name, (tensor,) * count, axis)
        width, height = (width * count, height) if axis == 3 else (width, height * count)
        is_last = axis == 2 or factor[0] == 1
        name = step.name if is_last else f"{name}.maps"
        tensor = _add_reshape(subgraph, name, joined, (height, width, channels), step.target)
    return tensor


def _add_concatenation(subgraph: _Subgraph, name: str, inputs: tuple[int, ...], axis: int) -> int:
    """Append what joins tensors of one quantization along an axis; return the index of its output.

    More than `_MOST_INPUTS` are joined in groups first, of which equal ones are joined once.
    """
    groups: dict[tuple[int, ...], int] = {}
    while len(inputs) > _MOST_INPUTS:
        chunks = [inputs[start : start + _MOST_INPUTS] for start in range(0, len(inputs), _MOST_INPUTS)]
        for chunk in chunks:
            if len(chunk) == 1:
                groups[chunk] = chunk[0]
            elif chunk not in groups:
                groups[chunk] = _join(subgraph, f"{name}.part{len(groups)}", chunk, axis)
        inputs = tuple(groups[chunk] for chunk in chunks)
    return _join(subgraph, name, inputs, axis)


def _join(subgraph: _Subgraph, name: str, inputs: tuple[int, ...], axis: int) -> int:
    """Append one CONCATENATION; return the index of its output."""
    tensors = [subgraph.tensors[index] for index in inputs]
    shape = list(tensors[0].shape)
    shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
    output = subgraph.add_tensor(replace(tensors[0], name=name, shape=tuple(shape)))
    subgraph.add_operator("CONCATENATION", inputs, output, Axis=axis)
    return output


def _add_multiplication(subgraph: _Subgraph, step: _Step) -> int:
    """Append a product; return the index of its output."""
    output = _add_output(subgraph, step)
    subgraph.add_operator("MUL", step.inputs, output)
    first, second = step.sources
    if first and second and step.target and first.scale * second.scale >= step.target.scale:
        # This version supports products that are multiplied by 1 or more on the way to the output's scale.
        subgraph.operators[-1] = replace(subgraph.operators[-1], version=3)
    return output


def _add_table(subgraph: _Subgraph, step: _Step, operation: Table) -> int:
    """Append what looks up each value; return the index of its output.

    The general form is a GATHER from a constant, whose indices are the values 0..255 as int32. It is exact whatever the
    table holds, but XNNPACK lacks it. Where the function, computed in float, is nowhere near a tie, it takes the place
    of the table: between DEQUANTIZE and QUANTIZE, which XNNPACK joins with a single operator to a table of its own.
    """
    (tensor, *_), (source, *_) = step.inputs, step.sources
    if source is not None and is_exact_in_float(operation, source):
        output = _make_activation(step.name, _to_dimensions(step.shape), step.target)
        kernel, kernel_output = _KERNELS.get(operation.function, ("", None))
        if operation.output == kernel_output and source.scale <= 1:
            index = subgraph.add_tensor(output)
            subgraph.add_operator(kernel, (tensor,), index)
            return index
        name = f"{step.name}.real"
        real = subgraph.add_tensor(_make_activation(f"{name}.input", output.shape, None))
        subgraph.add_operator("DEQUANTIZE", (tensor,), real)
        function = Activation(operation.name, operation.function, operation.parameter)
        result = _add_expression(subgraph, name, _express(function, real), step.shape)
        index = subgraph.add_tensor(output)
        subgraph.add_operator("QUANTIZE", (result,), index)
        return index
    dimensions = _to_dimensions(step.shape)
    integers = subgraph.add_tensor(_Tensor(f"{step.name}.integers", "INT32", dimensions))
    types = {"InDataType": _TENSOR_TYPES["INT8"], "OutDataType": _TENSOR_TYPES["INT32"]}
    subgraph.add_operator("CAST", (tensor,), integers, **types)
    indices = subgraph.add_tensor(_Tensor(f"{step.name}.indices", "INT32", dimensions))
    subgraph.add_operator("ADD", (integers, subgraph.add_constant(f"{step.name}.offset", 128)), indices)
    table = subgraph.add_tensor(_make_activation(f"{step.name}.table", (256,), operation.output, operation.values))
    index = _add_output(subgraph, step)
    subgraph.add_operator("GATHER", (table, indices), index)
    return index


_Expression = int | float | tuple[Any, ...]
"""A formula of TensorFlow Lite's float operators: the index of a tensor, a constant as a float, or the name of an
operator and its arguments, each an expression, with the operator's options last if it has any."""


def _express(operation: Activation, x: int) -> _Expression:
    """The expression of a function of one number; `x` is the index of the tensor of its arguments."""
    match operation.function:
        case "sigmoid":
            return "LOGISTIC", x
        case "tanh":
            return "TANH", x
        case "hardswish":
            return "HARD_SWISH", x
        case "hardsigmoid":
            return "MUL", ("ADD", x, 3.0, {"Activation": _FUSED_ACTIVATIONS[0.0, 6.0]}), 1 / 6
        case "silu":
            return "MUL", x, ("LOGISTIC", x)
        case "leaky_relu":
            return "LEAKY_RELU", x, {"Alpha": operation.parameter}
        case "elu" if operation.parameter == 1.0:
            return "ELU", x
        case "elu":
            return "ADD", ("MAXIMUM", x, 0.0), ("MUL", ("ELU", ("MINIMUM", x, 0.0)), operation.parameter)
        case "softplus":
            return _express_softplus(x)
        case "mish":
            return "MUL", x, ("TANH", _express_softplus(x))
        case "gelu":
            return _express_gelu(x)
    raise EdgeMnistError(f"{operation.name}: TFLite has no form of {operation.function}")


def _express_softplus(x: int) -> _Expression:
    """log(1 + exp(x)) as max(x, 0) - log(1 / (1 + exp(-|x|))), which overflows nowhere."""
    return "SUB", ("MAXIMUM", x, 0.0), ("LOG", ("LOGISTIC", ("ABS", x)))


def _express_gelu(x: int) -> _Expression:
    """Write gelu, x * P(x) where P is the normal distribution, as max(x, 0) - |x| * P(-|x|).

    P(-|x|) is formula 26.2.17 of Abramowitz and Stegun, "Handbook of Mathematical Functions": a polynomial in
    t = 1 / (1 + 0.2316419 |x|) times exp(-x^2 / 2) / sqrt(2 pi), with an error below 7.5e-8. The operator GELU is not
    used: TensorFlow Lite Micro lacks it.
    """
    magnitude: _Expression = ("ABS", x)
    t: _Expression = ("DIV", 1.0, ("ADD", ("MUL", magnitude, 0.2316419), 1.0))
    polynomial: _Expression = 1.330274429
    for coefficient in (-1.821255978, 1.781477937, -0.356563782, 0.319381530, 0.0):
        polynomial = ("ADD", ("MUL", polynomial, t), coefficient) if coefficient else ("MUL", polynomial, t)
    density: _Expression = ("MUL", ("EXP", ("MUL", ("MUL", x, x), -0.5)), 1 / math.sqrt(2 * math.pi))
    return "SUB", ("MAXIMUM", x, 0.0), ("MUL", magnitude, ("MUL", density, polynomial))


def _add_expression(subgraph: _Subgraph, name: str, expression: _Expression, shape: MapShape) -> int:
    """Append the operators of a float expression, equal parts once; return the index of its output, called `name`."""
    known: dict[object, int] = {}

    def add(part: _Expression) -> int:
        if isinstance(part, int):
            return part
        key = repr(part)
        if key in known:
            return known[key]
        if isinstance(part, float):
            known[key] = subgraph.add_constant(f"{name}.part{len(known)}", part)
        else:
            operator, *arguments = part
            options = arguments.pop() if isinstance(arguments[-1], dict) else {}
            inputs = tuple(add(argument) for argument in arguments)
            label = name if part is expression else f"{name}.part{len(known)}"
            output = subgraph.add_tensor(_make_activation(label, _to_dimensions(shape), None))
            subgraph.add_operator(operator, inputs, output, **options)
            known[key] = output
        return known[key]

    return add(expression)


def _add_output(subgraph: _Subgraph, step: _Step, bounds: Bounds = UNBOUNDED) -> int:
    """Append the tensor of an operation's output, or of what a clamp of its own must follow; return its index."""
    needs_clamp = step.target is None and bounds not in _FUSED_ACTIVATIONS
    name = f"{step.name}.unclamped" if needs_clamp else step.name
    return subgraph.add_tensor(_make_activation(name, _to_dimensions(step.shape), step.target))


def _fuse(bounds: Bounds, target: Quantization | None) -> int:
    """The activation function of an operator that clamps to `bounds`. In int8 the range of the values is the clamp."""
    return _FUSED_ACTIVATIONS.get(bounds, 0) if target is None else 0


def _add_clamp(subgraph: _Subgraph, step: _Step, bounds: Bounds, tensor: int) -> int:
    """Append a clamp to bounds that no activation function of an operator has; return the index of its output."""
    if step.target is not None or bounds in _FUSED_ACTIVATIONS:
        return tensor
    expression: _Expression = tensor
    for operator, bound in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True):
        if math.isfinite(bound):
            expression = (operator, expression, bound)
    return _add_expression(subgraph, step.name, expression, step.shape)


def _add_reshape(
    subgraph: _Subgraph, name: str, tensor: int, shape: tuple[int, ...], quantization: Quantization | None
) -> int:
    """Append a RESHAPE of a batch to (N, *shape); return the index of its output."""
    target = subgraph.add_constant(f"{name}.shape", [-1, *shape])
    output = subgraph.add_tensor(_make_activation(name, (0, *shape), quantization))
    subgraph.add_operator("RESHAPE", (tensor, target), output)
    return output


def _make_activation(
    name: str, shape: tuple[int, ...], quantization: Quantization | None, data: NDArray[np.int8] | None = None
) -> _Tensor:
    """A float tensor, or an int8 one of a quantization, which is a constant if there are `data`."""
    if quantization is None:
        return _Tensor(name, "FLOAT32", shape)
    scale, zero_point = np.array([quantization.scale], np.float32), np.array([quantization.zero_point], np.int64)
    return _Tensor(name, "INT8", shape, data, scale, zero_point)


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
    ends = {*subgraph.inputs.values(), *subgraph.outputs.values()}
    tensors = [
        _write_tensor(builder, tensor, contents, is_end=index in ends) for index, tensor in enumerate(subgraph.tensors)
    ]
    codes = [*dict.fromkeys((operator.name, operator.version) for operator in subgraph.operators)]
    operators = [_write_operator(builder, operator, codes) for operator in subgraph.operators]
    subgraph_table = builder.write_table(
        {
            0: builder.write_offsets(tensors),
            1: _write_array(builder, np.array([*subgraph.inputs.values()], np.int32)),
            2: _write_array(builder, np.array([*subgraph.outputs.values()], np.int32)),
            3: builder.write_offsets(operators),
        }
    )
    entries = [
        builder.write_table({0: builder.write_string(name), 1: ("I", first_metadata + index)})
        for index, name in enumerate(metadata)
    ]
    signature = builder.write_table(
        {
            0: _write_tensor_maps(builder, subgraph.inputs),
            1: _write_tensor_maps(builder, subgraph.outputs),
            2: builder.write_string(_SIGNATURE),
            4: ("I", 0),  # the index of the only subgraph
        }
    )
    root = builder.write_table(
        {
            0: ("I", _SCHEMA_VERSION),
            1: builder.write_offsets([_write_code(builder, name, version) for name, version in codes]),
            2: builder.write_offsets([subgraph_table]),
            4: builder.write_offsets(buffers),
            6: builder.write_offsets(entries),
            7: builder.write_offsets([signature]),
        }
    )
    return builder.finish(root, b"TFL3")


def _write_tensor_maps(builder: Builder, indices: dict[str, int]) -> Offset:
    """Write the TensorMaps of a signature: the indices of the inputs or outputs by their names."""
    names = [builder.write_string(name) for name in indices]
    maps = [
        builder.write_table({0: name, 1: ("I", index)}) for name, index in zip(names, indices.values(), strict=True)
    ]
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


def _write_operator(builder: Builder, operator: _Operator, codes: list[tuple[str, int]]) -> Offset:
    known_fields = _OPTIONS.get(operator.name, {})
    options: dict[int, Field] = {}
    for name, value in operator.options.items():
        number, scalar, default = known_fields[name]
        if value != default:
            options[number] = (scalar, value)
    fields: dict[int, Field] = {
        1: _write_array(builder, np.array(operator.inputs, np.int32)),
        2: _write_array(builder, np.array([operator.output], np.int32)),
    }
    if kind := _OPERATORS[operator.name][1]:
        fields |= {3: ("B", kind), 4: builder.write_table(options)}
    index = codes.index((operator.name, operator.version))
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
