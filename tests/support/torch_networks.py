"""Networks of layers as PyTorch modules, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import (
    INPUT,
    ActivationLayer,
    AddLayer,
    AffineLayer,
    AvgPool2dLayer,
    BatchNorm2dLayer,
    CeilMaxPool2dLayer,
    ClampLayer,
    ConcatenateLayer,
    Conv1dLayer,
    Conv2dLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    MultiplyLayer,
    ReluLayer,
    UnsqueezeLayer,
    UpsampleLayer,
    ZeroPad2dLayer,
    resolve_sources,
)
from edge_mnist.training.network import set_weights

ACTIVATIONS: dict[str, Callable[[float], nn.Module]] = {
    "sigmoid": lambda _: nn.Sigmoid(),
    "tanh": lambda _: nn.Tanh(),
    "hardsigmoid": lambda _: nn.Hardsigmoid(),
    "hardswish": lambda _: nn.Hardswish(),
    "silu": lambda _: nn.SiLU(),
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": lambda _: nn.GELU(),
    "softplus": lambda _: nn.Softplus(),
    "mish": lambda _: nn.Mish(),
}


class Layers(nn.Module):
    """The layers of a checkpoint, each as a module or a function; sequences are (N, channels, length)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        is_sequence = len(checkpoint.input_shape) == 2
        self.sources = dict(
            zip(
                (layer.name for layer in checkpoint.architecture),
                resolve_sources(checkpoint.architecture),
                strict=True,
            )
        )
        self.functions: dict[str, Callable[..., Any]] = {}
        for layer in checkpoint.architecture:
            step = to_sequence_module(layer) if is_sequence else to_module(layer)
            if isinstance(step, nn.Module):
                self.add_module(layer.name, step)
            else:
                self.functions[layer.name] = step
        set_weights(self, checkpoint.weights, "they do not fit")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {INPUT: x}
        for name, sources in self.sources.items():
            step = self.functions.get(name) or self.get_submodule(name)
            values[name] = step(*(values[source] for source in sources))
        return values[name]


def as_module(checkpoint: Checkpoint) -> nn.Module:
    """A checkpoint as a PyTorch module in inference, with its weights."""
    return Layers(checkpoint).eval()


def to_module(layer: Layer) -> nn.Module | Callable[..., Any]:
    """A layer over maps or features as a module of torch.nn, or as a function."""
    match layer:
        case Conv2dLayer():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                layer.groups, layer.bias,
            )  # fmt: skip
        case LinearLayer():
            return nn.Linear(layer.in_features, layer.out_features, layer.bias)
        case BatchNorm2dLayer():
            # BatchNorm1d takes features and sequences, BatchNorm2d maps.
            return _BatchNorm(layer.num_features, layer.eps, affine=layer.affine)
        case MaxPool2dLayer():
            is_ceil = isinstance(layer, CeilMaxPool2dLayer)
            return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=is_ceil)
        case AvgPool2dLayer():
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)
        case GlobalAvgPool2dLayer():
            return nn.AdaptiveAvgPool2d(1)
        case ZeroPad2dLayer():
            (top, left), (bottom, right) = layer.before, layer.after
            return nn.ZeroPad2d((left, right, top, bottom))
        case UpsampleLayer():
            return nn.Upsample(scale_factor=tuple(float(factor) for factor in layer.factor))
    return to_function(layer)


def to_sequence_module(layer: Layer) -> nn.Module | Callable[..., Any]:
    """A layer over sequences as a module of torch.nn, or as a function."""
    match layer:
        case Conv1dLayer():
            window = (layer.kernel_size[1], layer.stride[1], layer.padding[1], layer.dilation[1])
            return nn.Conv1d(layer.in_channels, layer.out_channels, *window, layer.groups, layer.bias)
        case MaxPool2dLayer():
            is_ceil = isinstance(layer, CeilMaxPool2dLayer)
            return nn.MaxPool1d(layer.kernel_size[1], layer.stride[1], layer.padding[1], ceil_mode=is_ceil)
        case AvgPool2dLayer():
            return nn.AvgPool1d(layer.kernel_size[1], layer.stride[1], layer.padding[1])
        case GlobalAvgPool2dLayer():
            return nn.AdaptiveAvgPool1d(1)
        case ZeroPad2dLayer():
            return nn.ZeroPad1d((layer.before[1], layer.after[1]))
        case UpsampleLayer():
            return nn.Upsample(scale_factor=float(layer.factor[1]))
    return to_module(layer)


def to_function(layer: Layer) -> nn.Module | Callable[..., Any]:
    """A layer that works alike on maps, sequences and features."""
    match layer:
        case ReluLayer():
            return nn.ReLU()
        case ClampLayer():
            return nn.Hardtanh(layer.low, layer.high)
        case ActivationLayer():
            return ACTIVATIONS[layer.function](layer.parameter)
        case AffineLayer():
            return lambda x: x * layer.factor + layer.offset
        case AddLayer():
            return torch.add
        case MultiplyLayer():
            return torch.mul
        case ConcatenateLayer():
            return lambda *values: torch.cat(values, 1)
        case UnsqueezeLayer():
            return lambda x: x[:, :, None, None]
    return nn.Flatten()


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization of inputs of any dimension."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )
