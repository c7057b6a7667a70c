"""Compares a folded graph with the module from which it was made, before anything is exported.

torch.fx does not see everything: not a hook on the network itself, a replaced forward of one layer, or code around
`__call__`. So the module is run, and its outputs are compared with those of the graph.
"""

from __future__ import annotations

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
    AvgPool2dLayer,
    BatchNorm2dLayer,
    Conv2dLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
)
from edge_mnist.system.errors import EdgeMnistError, first_line

_IMAGES = 16
"""The number of images that are run: the first is black, the others hold more and more noise."""
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
    # With a mean that is a whole pixel the graph pads exactly as the module does, see `folding.fold`.
    checkpoint = replace(checkpoint, mean=round(255 * checkpoint.mean) / 255)
    expected = run_float(fold(checkpoint), _make_images(checkpoint.input_shape))
    name = type(module).__name__
    modes = {part: part.training for part in module.modules()}
    comparison = _LayerComparison(module, checkpoint)
    try:
        module.eval()
        # On a GPU, cuDNN may multiply in TF32, which is coarser than the tolerance.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
            outputs = module(_make_inputs(module, checkpoint))
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
    logits = outputs.cpu().float().flatten(1).numpy()  # (N, classes)
    if logits.shape != expected.shape:
        raise EdgeMnistError(f"{name}: gives logits of shape {logits.shape}, but its layers give {expected.shape}")
    difference = _describe_difference(torch.from_numpy(logits), torch.from_numpy(expected))
    if difference:
        raise EdgeMnistError(
            f"{name}: gives logits that differ from those of its layers by {difference}: something around the layers "
            "would be lost, such as a hook, a forward or __call__ that was replaced, or random numbers: remove it"
        )


class _LayerComparison:
    """Compares the output of each layer, while the module runs, with the result of its weights and settings."""

    def __init__(self, module: nn.Module, checkpoint: Checkpoint) -> None:
        self.trouble = ""
        """What is wrong with the first layer that differs; empty if none does."""
        self._weights = checkpoint.weights
        self._expected = torch.empty(0)
        parts = dict(module.named_modules())
        self._hooks: list[RemovableHandle] = []
        for layer in checkpoint.architecture:
            if part := parts.get(layer.name):
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
        if output.shape == self._expected.shape:
            difference = _describe_difference(output, self._expected)
        else:
            difference = f"their shape, {tuple(output.shape)} for {tuple(self._expected.shape)}"
        if difference and not self.trouble:
            self.trouble = (
                f"{layer.name}: gives values that differ from those of a {layer.op} of its weights by {difference}: "
                "its forward was replaced, or it does not work as in inference: use a plain layer"
            )


def _compute(layer: Layer, weights: Any, values: torch.Tensor) -> torch.Tensor:
    """Compute the output of a layer from its description and its weights."""

    def tensor(key: str) -> Any:
        array = weights.get(f"{layer.name}.{key}")
        return None if array is None else torch.from_numpy(array.copy()).to(values.device)

    weight, bias = tensor("weight"), tensor("bias")
    match layer:
        case Conv2dLayer():
            return F.conv2d(values, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        case BatchNorm2dLayer():
            mean, variance = tensor("running_mean"), tensor("running_var")
            return F.batch_norm(values, mean, variance, weight, bias, eps=layer.eps)
        case LinearLayer():
            return F.linear(values, weight, bias)
        case MaxPool2dLayer():
            return F.max_pool2d(values, layer.kernel_size, layer.stride, layer.padding)
        case AvgPool2dLayer():
            return F.avg_pool2d(values, layer.kernel_size, layer.stride, layer.padding)
        case GlobalAvgPool2dLayer():
            return F.adaptive_avg_pool2d(values, 1)
        case ReluLayer():
            return F.relu(values)
        case _:
            return values.flatten(1)


def _describe_difference(actual: torch.Tensor, expected: torch.Tensor) -> str:
    """Describe by how much values differ; empty if the difference is only rounding."""
    error, largest = float((actual - expected).abs().max()), float(expected.abs().max())
    return "" if error <= _TOLERANCE * largest else f"up to {error:.3g}, of values of up to {largest:.3g}"


def _make_images(shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Make the images, uint8 (16, channels, height, width)."""
    rng = np.random.Generator(np.random.PCG64(11))
    density = np.linspace(0, 1, _IMAGES)[:, None, None, None]
    noise = rng.integers(0, 256, (_IMAGES, *shape))
    return np.where(rng.random((_IMAGES, *shape)) < density, noise, 0).astype(np.uint8)


def _make_inputs(module: nn.Module, checkpoint: Checkpoint) -> torch.Tensor:
    """Normalise the images and move them to the module's device: float32 (16, channels, height, width)."""
    pixels = torch.from_numpy(_make_images(checkpoint.input_shape).astype(np.float32))
    device = next(module.parameters(), pixels).device
    return ((pixels / 255 - checkpoint.mean) / checkpoint.std).to(device)
