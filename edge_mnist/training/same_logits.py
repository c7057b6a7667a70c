"""Compares a folded graph with the module from which it was made, before anything is exported.

Tracing does not see everything: not a hook that is added later, a replaced forward of one layer, or code around
`__call__`. So the module is run, and its outputs are compared with those of the graph.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import run_float
from edge_mnist.graph.layers import (
    ActivationLayer,
    AvgPool2dLayer,
    BatchNorm2dLayer,
    CeilMaxPool2dLayer,
    ClampLayer,
    Conv2dLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
    UpsampleLayer,
    ZeroPad2dLayer,
    output_shapes,
    resolve_sources,
)
from edge_mnist.system.errors import EdgeMnistError, first_line

_INPUTS = 16
"""The number of inputs that are run: the first is black, or all zeros, the others hold more and more noise."""
_FEWEST_INPUTS = 4
_NUMBERS = 1 << 20
"""How many numbers the inputs have together at most, as far as the fewest inputs allow."""
_TOLERANCE = 1e-4
"""The largest difference, relative to the largest value, that counts as rounding; the shipped network has 2e-6."""


def check_same_logits(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a module that computes something else than the layers that were found in it.

    Args:
        module: maps float32 (N, *input_shape) to logits. It is run in inference; its parts keep their training modes.
        checkpoint: the layers and weights of the module.

    Raises:
        EdgeMnistError: the module fails when it is run, or the logits differ; the text names the first layer that
            computes something else, if there is one.
    """
    # With means that are whole pixels the graph pads exactly as the module does, see `folding.fold`.
    checkpoint = replace(checkpoint, mean=tuple(round(255 * mean) / 255 for mean in checkpoint.means))
    inputs = _make_inputs(checkpoint)
    outputs_of_graph = run_float(fold(checkpoint), inputs)
    name = type(module).__name__
    modes = {part: part.training for part in module.modules()}
    comparison = _LayerComparison(module, checkpoint)
    try:
        module.eval()
        # On a GPU, cuDNN may multiply in TF32, which is coarser than the tolerance.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
            outputs = module(_normalize(inputs, checkpoint).to(next(module.parameters(), torch.empty(0)).device))
    except (Exception, SystemExit) as error:  # user code may fail in any way
        raise EdgeMnistError(f"{name}: cannot be run: {first_line(error)}") from error
    finally:
        comparison.remove_hooks()
        for part, training in modes.items():
            part.training = training
    if comparison.trouble:
        raise EdgeMnistError(comparison.trouble)
    if not isinstance(outputs, torch.Tensor):
        raise EdgeMnistError(f"{name}: gives a {type(outputs).__name__}, expected a tensor of logits")
    logits = outputs.cpu().float().flatten(1)  # (N, features)
    expected = _apply_ending(checkpoint, torch.from_numpy(outputs_of_graph))
    if logits.shape != expected.shape:
        raise EdgeMnistError(
            f"{name}: gives logits of shape {tuple(logits.shape)}, but its layers give {tuple(expected.shape)}"
        )
    if difference := _describe_difference(logits, expected):
        raise EdgeMnistError(
            f"{name}: gives logits that differ from those of its layers by {difference}: something around the layers "
            "would be lost, such as a hook, a forward or __call__ that was replaced, or random numbers: remove it"
        )


def _apply_ending(checkpoint: Checkpoint, logits: torch.Tensor) -> torch.Tensor:
    """Apply what the module does after its last layer to the outputs of the graph, (N, features)."""
    if not checkpoint.ending:
        return logits
    shape = output_shapes(checkpoint.architecture, checkpoint.input_shape)[-1]
    ending = F.softmax if checkpoint.ending == "softmax" else F.log_softmax
    return ending(logits.reshape(len(logits), *shape), dim=1).flatten(1)


class _LayerComparison:
    """Compares the output of each layer, while the module runs, with the result of its weights and settings."""

    def __init__(self, module: nn.Module, checkpoint: Checkpoint) -> None:
        self.trouble = ""
        """What is wrong with the first layer that differs; empty if none does."""
        self._weights = checkpoint.weights
        self._expected = torch.empty(0)
        parts = dict(module.named_modules())
        self._hooks: list[RemovableHandle] = []
        sources = resolve_sources(checkpoint.architecture)
        for layer, names in zip(checkpoint.architecture, sources, strict=True):
            part = parts.get(layer.name)
            # A convolution with a padding of its own before it takes other maps than its module.
            if part is not None and f"{layer.name}_pad" not in names:
                before, after = partial(self._compute_expected, layer), partial(self._compare, layer)
                self._hooks.append(part.register_forward_pre_hook(before, with_kwargs=True))
                self._hooks.append(part.register_forward_hook(after))

    def remove_hooks(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def _compute_expected(self, layer: Layer, part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = (*inputs, *named.values())[0].detach().clone()  # the layer may write into its input
        self._expected = _compute(layer, self._weights, values)

    def _compare(self, layer: Layer, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if output.numel() == self._expected.numel():
            difference = _describe_difference(output.flatten(), self._expected.flatten())
        else:
            difference = f"their shape, {tuple(output.shape)} for {tuple(self._expected.shape)}"
        if difference and not self.trouble:
            self.trouble = (
                f"{layer.place}: gives values that differ from those of a {_kind(layer)} of its weights by "
                f"{difference}: its forward was replaced, or it does not work as in inference: use a plain layer"
            )


def _kind(layer: Layer) -> str:
    """What an error calls a kind of layer."""
    return layer.function if isinstance(layer, ActivationLayer) else layer.op


def _compute(layer: Layer, weights: Any, values: torch.Tensor) -> torch.Tensor:
    """Compute the output of a layer of one input from its description and its weights.

    Args:
        layer: the layer.
        weights: the arrays of the checkpoint.
        values: (N, channels, height, width), (N, channels, length) or (N, features).
    """

    def tensor(key: str) -> Any:
        array = weights.get(f"{layer.name}.{key}")
        return None if array is None else torch.from_numpy(array.copy()).to(values.device)

    weight, bias = tensor("weight"), tensor("bias")
    if values.ndim == 3:
        values = values[:, :, None]  # (N, channels, 1, length)
    match layer:
        case Conv2dLayer():
            kernel = weight.reshape(*weight.shape[:2], *layer.kernel_size)
            return F.conv2d(values, kernel, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        case BatchNorm2dLayer():
            mean, variance = tensor("running_mean"), tensor("running_var")
            return F.batch_norm(values, mean, variance, weight, bias, eps=layer.eps)
        case LinearLayer():
            return F.linear(values, weight, bias)
        case MaxPool2dLayer():
            is_ceil = isinstance(layer, CeilMaxPool2dLayer)
            return F.max_pool2d(values, layer.kernel_size, layer.stride, layer.padding, ceil_mode=is_ceil)
        case AvgPool2dLayer():
            return F.avg_pool2d(values, layer.kernel_size, layer.stride, layer.padding)
        case GlobalAvgPool2dLayer():
            return F.adaptive_avg_pool2d(values, 1)
        case ReluLayer():
            return F.relu(values)
        case ClampLayer():
            return values.clamp(layer.low, layer.high)
        case ActivationLayer():
            parameters = (layer.parameter,) if layer.function in ("leaky_relu", "elu") else ()
            result: torch.Tensor = getattr(F, layer.function)(values, *parameters)
            return result
        case UpsampleLayer():
            return F.interpolate(values, scale_factor=[float(factor) for factor in layer.factor])
        case ZeroPad2dLayer():
            (top, left), (bottom, right) = layer.before, layer.after
            return F.pad(values, (left, right, top, bottom))
        case _:
            return values.flatten(1)


def _describe_difference(actual: torch.Tensor, expected: torch.Tensor) -> str:
    """Describe by how much values differ; empty if the difference is only rounding."""
    error, largest = float((actual - expected).abs().max()), float(expected.abs().max())
    return "" if error <= _TOLERANCE * largest else f"up to {error:.3g}, of values of up to {largest:.3g}"


def _make_inputs(checkpoint: Checkpoint) -> np.ndarray[Any, np.dtype[Any]]:
    """Make inputs (N, *input_shape): uint8 pixels, or float32 if the network takes no pixels."""
    rng = np.random.Generator(np.random.PCG64(11))
    shape = checkpoint.input_shape
    count = min(max(_NUMBERS // math.prod(shape), _FEWEST_INPUTS), _INPUTS)
    density = np.linspace(0, 1, count).reshape(count, *(1 for _ in shape))
    noise = rng.integers(0, 256, (count, *shape)) if checkpoint.is_pixels else rng.normal(0, 2, (count, *shape))
    values = np.where(rng.random((count, *shape)) < density, noise, 0)
    return values.astype(np.uint8 if checkpoint.is_pixels else np.float32)


def _normalize(inputs: np.ndarray[Any, np.dtype[Any]], checkpoint: Checkpoint) -> torch.Tensor:
    """The inputs as the module takes them, float32 (N, *input_shape)."""
    values = torch.from_numpy(inputs.astype(np.float32))
    if not checkpoint.is_pixels:
        return values
    # Each channel has its mean and standard deviation: (channels, 1, 1)
    mean, std = (
        torch.tensor(numbers).reshape(-1, *(1 for _ in checkpoint.input_shape[1:]))
        for numbers in (checkpoint.means, checkpoint.stds)
    )
    return (values / 255 - mean) / std
