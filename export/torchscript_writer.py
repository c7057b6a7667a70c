"""Writes a graph as a TorchScript archive, which loads in Python and C++, on x86 (FBGEMM) and on ARM (QNNPACK).

The int8 form computes with quantized tensors and uint8 activations (the graph's int8 plus 128). Each operation is a
submodule, in order, with its name in the graph's `identifiers`. A chain is a Sequential of them; the submodules of any
other graph are called in the same order, each with the outputs that it takes. An archive contains the path of this
module and the names of its classes.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.ao.nn import quantized

from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.geometry import Pair, Window
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
from edge_mnist.runtime.torchscript import choose_quantized_engine
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY

Module = TypeVar("Module", bound=nn.Module)


def write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as a TorchScript archive of any batch size.

    A float model maps float32 inputs (N, *input_shape), pixels 0..255 or the user's numbers, to float32 outputs. An
    int8 model maps uint8 inputs of the same shape, pixels or quantized numbers plus 128, to uint8 outputs, which are
    the int8 ones plus 128. The outputs are logits (N, classes), or maps (N, channels, height, width).
    """
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript and eager quantization are deprecated. The version of torch is pinned, and later versions load
        # what this one writes.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.quantized.engine = choose_quantized_engine()
        network = _build(graph)
        example = torch.zeros(
            2, *graph.input_shape, dtype=torch.float32 if isinstance(graph, FloatGraph) else torch.uint8
        )
        traced = torch.jit.trace(network.eval().requires_grad_(False), example)  # type: ignore[no-untyped-call]
        archive = io.BytesIO()
        contract = FORMATS["torchscript"].make_contract(graph)
        torch.jit.save(traced, archive, _extra_files={METADATA_KEY: contract.to_json()})
    return _remove_debug_files(archive.getvalue())


class _Network(nn.Module):
    """Calls its submodules in order, each with the values that it takes.

    Value 0 is the input, and value i + 1 the output of submodule i.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], sources: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.sources = tuple(sources)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        values = [inputs]
        for layer, sources in zip(self.children(), self.sources, strict=True):
            values.append(layer(*(values[source] for source in sources)))
        return values[-1]


class _Unsqueeze(nn.Module):
    """Turns vectors (N, features) or sequences (N, channels, length) into maps, by inserting dimensions of size 1."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for _ in range(self.dimensions):
            values = values.unsqueeze(2)
        return values


class _Centre(nn.Module):
    """Subtracts zero_pixel from float pixels (N, channels, height, width)."""

    def __init__(self, zero_pixel: int) -> None:
        super().__init__()
        self.zero_pixel = float(zero_pixel)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels - self.zero_pixel


class _Pixels(nn.Module):
    """Turns uint8 pixels (N, channels, height, width) into a quantized tensor of scale 1 with the same integers."""

    def __init__(self, zero_pixel: int) -> None:
        super().__init__()
        self.zero_pixel = zero_pixel

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch._make_per_tensor_quantized_tensor(pixels, 1.0, self.zero_pixel)


class _Features(nn.Module):
    """Turns uint8 maps (N, channels, height, width) into a quantized tensor with the same integers."""

    def __init__(self, output: Quantization) -> None:
        super().__init__()
        self.scale, self.zero_point = _to_unsigned(output)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch._make_per_tensor_quantized_tensor(values, self.scale, self.zero_point)


class _Integers(nn.Module):
    """Turns a quantized map (N, classes, 1, 1) into its integers, uint8 (N, classes)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.int_repr().flatten(1)


class _IntegerMaps(nn.Module):
    """Turns quantized maps (N, channels, height, width) into their integers, uint8 of the same shape."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.int_repr()


class _Pad(nn.Module):
    """Pads maps with a value, by different numbers of elements on each side; quantized maps with its integer."""

    def __init__(self, window: Window, value: float) -> None:
        super().__init__()
        (above, left), (below, right) = window.padding, window.after
        self.margins = (left, right, above, below)
        self.value = value

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(values, self.margins, value=self.value)


class _Upsample(nn.Module):
    """Repeats each value in a block. Interpolation does not: it multiplies by 1 / 41 in float32 and rounds down."""

    def __init__(self, factor: Pair) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.repeat_interleave(self.factor[0], 2).repeat_interleave(self.factor[1], 3)


class _Concatenate(nn.Module):
    """Joins the channels of maps; quantized ones have one scale and one zero point, and keep their integers."""

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.cat(values, 1)


class _Clamp(nn.Module):
    """Clamps values to bounds, of which one may be infinite."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self.bounds = bounds

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _clamp(values, self.bounds)


class _Add(nn.Module):
    """Adds two float tensors, and clamps the sum to bounds."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__()
        self.bounds = bounds

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return _clamp(first + second, self.bounds)


class _Multiply(nn.Module):
    """Multiplies two float tensors."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return first * second


class _QuantizedAdd(nn.Module):
    """Adds two quantized tensors."""

    def __init__(self, output: Quantization) -> None:
        super().__init__()
        self.scale, self.zero_point = _to_unsigned(output)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = torch.ops.quantized.add(first, second, self.scale, self.zero_point)
        return total


class _QuantizedMultiply(nn.Module):
    """Multiplies two quantized tensors, of which the second may have one value for each channel."""

    def __init__(self, output: Quantization) -> None:
        super().__init__()
        self.scale, self.zero_point = _to_unsigned(output)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.quantized.mul(first, second, self.scale, self.zero_point)
        return product


class _Table(nn.Module):
    """Looks up the integer of each value of a quantized tensor."""

    table: torch.Tensor

    def __init__(self, operation: Table) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(operation.values.view("uint8") ^ 0x80))
        self.scale, self.zero_point = _to_unsigned(operation.output)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        integers = self.table[values.int_repr().long()]
        return torch._make_per_tensor_quantized_tensor(integers, self.scale, self.zero_point)


def _build(graph: FloatGraph | QuantizedGraph) -> nn.Module:
    """Make the module of a graph."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(graph.input_shape) < 3:
        layers["unsqueeze"] = _Unsqueeze(3 - len(graph.input_shape))
    if isinstance(graph, FloatGraph):
        if graph.zero_pixel:
            layers["centre"] = _Centre(graph.zero_pixel)
        operations = [_make_float(operation) for operation in graph.operations]
    else:
        if graph.features is None:
            layers["pixels"] = _Pixels(graph.zero_pixel)
        else:
            layers["features"] = _Features(graph.features)
        quantizations = graph.quantizations()
        operations = [
            _make_quantized(operation, quantizations[graph.sources(index)[0]])
            for index, operation in enumerate(graph.operations)
        ]
    first = len(layers)
    layers.update(zip(graph.identifiers().values(), operations, strict=True))
    is_vector = graph.shapes()[-1][1:] == (1, 1)
    if isinstance(graph, QuantizedGraph):
        layers["integers"] = _Integers() if is_vector else _IntegerMaps()
    elif is_vector:
        layers["flatten"] = nn.Flatten()
    if graph.is_chain:
        return nn.Sequential(layers)
    sources: list[tuple[int, ...]] = [(index,) for index in range(len(layers))]
    for index in range(len(operations)):
        sources[first + index] = tuple(first + source for source in graph.sources(index))
    return _Network(layers, sources)


def _make_float(operation: FloatOperation) -> nn.Module:
    match operation:
        case Conv2d():
            convolution = _make_convolution(nn.Conv2d, operation)
            arrays = {"weight": operation.weight, "bias": operation.bias}
            convolution.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
            steps = _pad_before(convolution, operation.window, 0.0)
            if operation.bounds != UNBOUNDED:
                steps.append(nn.ReLU() if operation.bounds == RELU else _Clamp(operation.bounds))
            return _join(steps)
        case MaxPool2d():
            return _join(_pad_before(_make_max_pool(operation), operation.window, -torch.inf))
        case Upsample():
            return _Upsample(operation.factor)
        case Concatenate():
            return _Concatenate()
        case Add():
            return _Add(operation.bounds)
        case Multiply():
            return _Multiply()
        case Activation():
            return _make_activation(operation)


def _make_quantized(operation: QuantizedOperation, source: Quantization) -> nn.Module:
    """Make the module of an operation; `source` is the quantization of its first input."""
    match operation:
        case QuantizedConv2d():
            convolution = _make_convolution(quantized.Conv2d, operation)
            scales = torch.from_numpy(operation.weight_scale).double()
            zeros = torch.zeros(len(scales), dtype=torch.long)
            weight = torch._make_per_channel_quantized_tensor(torch.from_numpy(operation.weight), scales, zeros, 0)
            # PyTorch divides by the scale again; quantization.py chose scales at which it gets the integer bias back.
            bias = torch.from_numpy(operation.bias).float() * (torch.from_numpy(operation.weight_scale) * source.scale)
            convolution.set_weight_bias(weight, bias)
            convolution.scale, convolution.zero_point = _to_unsigned(operation.output)
            return _join(_pad_before(convolution, operation.window, 0.0))
        case MaxPool2d():
            return _join(_pad_before(_make_max_pool(operation), operation.window, source.range[0]))
        case Upsample():
            return _Upsample(operation.factor)
        case Concatenate():
            return _Concatenate()
        case Add(output=Quantization() as output):
            return _QuantizedAdd(output)
        case Multiply(output=Quantization() as output):
            return _QuantizedMultiply(output)
        case Table():
            return _Table(operation)
        case _:
            raise EdgeMnistError(f"{operation.name}: its output has no quantization")


def _make_activation(operation: Activation) -> nn.Module:
    match operation.function:
        case "leaky_relu":
            return nn.LeakyReLU(operation.parameter)
        case "elu":
            return nn.ELU(operation.parameter)
        case function:
            kinds: dict[str, Callable[[], nn.Module]] = {
                "sigmoid": nn.Sigmoid,
                "tanh": nn.Tanh,
                "hardsigmoid": nn.Hardsigmoid,
                "hardswish": nn.Hardswish,
                "silu": nn.SiLU,
                "gelu": nn.GELU,
                "softplus": nn.Softplus,
                "mish": nn.Mish,
            }
            return kinds[function]()


def _clamp(values: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    if bounds == UNBOUNDED:
        return values
    low, high = (None if abs(bound) == torch.inf else bound for bound in bounds)
    return values.clamp(low, high)


def _pad_before(module: nn.Module, window: Window, value: float) -> list[nn.Module]:
    """The steps of a module whose own padding is the same on opposite sides: a step that pads, unless it is."""
    return [module] if window.padding_after is None else [_Pad(window, value), module]


def _join(steps: list[nn.Module]) -> nn.Module:
    return steps[0] if len(steps) == 1 else nn.Sequential(*steps)


def _make_convolution(kind: Callable[..., Module], operation: Conv2d | QuantizedConv2d) -> Module:
    """Make a torch convolution with a bias and with the shape, window and groups of an operation."""
    outputs, group_channels, *_ = operation.weight.shape
    window = operation.window
    return kind(
        group_channels * operation.groups,
        outputs,
        window.kernel_size,
        stride=window.stride,
        padding=_own_padding(window),
        dilation=window.dilation,
        groups=operation.groups,
    )


def _make_max_pool(operation: MaxPool2d) -> nn.Module:
    window = operation.window
    return nn.MaxPool2d(window.kernel_size, window.stride, _own_padding(window))


def _own_padding(window: Window) -> Pair:
    """The padding that a torch module does itself, which is the same on opposite sides; see `_pad_before`."""
    return window.padding if window.padding_after is None else (0, 0)


def _to_unsigned(quantization: Quantization) -> tuple[float, int]:
    """The scale and the zero point of the same activation as uint8."""
    return quantization.scale, quantization.zero_point + 128


def _remove_debug_files(archive: bytes) -> bytes:
    """Remove the debug files, which contain paths of this machine, and the times of all entries."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))
    return result.getvalue()
