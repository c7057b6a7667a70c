"""Writes a graph as a TorchScript archive, which loads in Python and C++, on x86 (FBGEMM) and on ARM (QNNPACK).

The int8 form is a chain of torch.ao.nn.quantized modules with uint8 activations (the graph's int8 plus 128). Each
operation is a submodule, in order, with its name in the graph's `identifiers`. An archive contains the path of this
module and the names of its classes.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from torch.ao.nn import quantized

from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph
from edge_mnist.runtime.torchscript import choose_quantized_engine
from edge_mnist.system.files import METADATA_KEY

Module = TypeVar("Module", bound=nn.Module)


def write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write a graph as a TorchScript archive of any batch size.

    A float model maps float32 pixels (N, channels, height, width), 0..255, to float32 logits (N, classes). An int8
    model maps uint8 pixels of the same shape to uint8 logits (N, classes), which are the int8 ones plus 128.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript and eager quantization are deprecated. The version of torch is pinned, and later versions load
        # what this one writes.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.quantized.engine = choose_quantized_engine()
        network = _build_float(graph) if isinstance(graph, FloatGraph) else _build_quantized(graph)
        example = torch.zeros(
            2, *graph.input_shape, dtype=torch.float32 if isinstance(graph, FloatGraph) else torch.uint8
        )
        traced = torch.jit.trace(network.eval().requires_grad_(False), example)  # type: ignore[no-untyped-call]
        archive = io.BytesIO()
        contract = FORMATS["torchscript"].make_contract(graph)
        torch.jit.save(traced, archive, _extra_files={METADATA_KEY: contract.to_json()})
    return _remove_debug_files(archive.getvalue())


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


class _Integers(nn.Module):
    """Turns a quantized map (N, classes, 1, 1) into its integers, uint8 (N, classes)."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.int_repr().flatten(1)


def _build_float(graph: FloatGraph) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    names = graph.identifiers()
    if graph.zero_pixel:
        layers["centre"] = _Centre(graph.zero_pixel)
    for operation in graph.operations:
        if isinstance(operation, MaxPool2d):
            layers[names[operation.name]] = _make_max_pool(operation)
            continue
        convolution = _make_convolution(nn.Conv2d, operation)
        arrays = {"weight": operation.weight, "bias": operation.bias}
        convolution.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()})
        layers[names[operation.name]] = nn.Sequential(convolution, nn.ReLU()) if operation.relu else convolution
    layers["flatten"] = nn.Flatten()
    return nn.Sequential(layers)


def _build_quantized(graph: QuantizedGraph) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(pixels=_Pixels(graph.zero_pixel))
    names = graph.identifiers()
    for operation, source in zip(graph.operations, graph.quantizations(), strict=False):
        if isinstance(operation, MaxPool2d):
            layers[names[operation.name]] = _make_max_pool(operation)
            continue
        convolution = _make_convolution(quantized.Conv2d, operation)
        scales = torch.from_numpy(operation.weight_scale).double()
        zeros = torch.zeros(len(scales), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(torch.from_numpy(operation.weight), scales, zeros, 0)
        # PyTorch divides by the scale again; quantization.py chose scales at which it gets the integer bias back.
        bias = torch.from_numpy(operation.bias).float() * (torch.from_numpy(operation.weight_scale) * source.scale)
        convolution.set_weight_bias(weight, bias)
        convolution.scale, convolution.zero_point = _to_unsigned(operation.output)
        layers[names[operation.name]] = convolution
    layers["integers"] = _Integers()
    return nn.Sequential(layers)


def _make_convolution(kind: Callable[..., Module], operation: Conv2d | QuantizedConv2d) -> Module:
    """Make a torch convolution with a bias and with the shape, window and groups of an operation."""
    outputs, group_channels, *_ = operation.weight.shape
    window = operation.window
    return kind(
        group_channels * operation.groups,
        outputs,
        window.kernel_size,
        stride=window.stride,
        padding=window.padding,
        dilation=window.dilation,
        groups=operation.groups,
    )


def _make_max_pool(operation: MaxPool2d) -> nn.Module:
    return nn.MaxPool2d(operation.window.kernel_size, operation.window.stride, operation.window.padding)


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
