"""Holds a folded graph against the module that it was made of, before anything is exported.

torch.fx does not see everything: a hook on the network itself, a forward that was replaced on one layer, code around
`__call__`. So the module is run, and what it gives is compared with what the graph gives.
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
"""Images that are run: black, then noise that is ever denser."""
_TOLERANCE = 1e-4
"""By how much values may differ, as a share of the largest of them: rounding makes 2e-6 of it in the shipped one."""


def check_same_logits(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuse a module that computes something else than the layers found in it.

    Args:
        module: maps float32 (N, *input_shape) to logits; it is run in inference, and its modes stay as they are.
        checkpoint: its layers and weights.

    Raises:
        EdgeMnistError: the logits differ; the text names the first layer that computes something else, if one does. Or
            the module fails when it is run.
    """
    # With a mean that is a whole pixel the graph pads exactly as the module does, see `folding.fold`.
    checkpoint = replace(checkpoint, mean=round(255 * checkpoint.mean) / 255)
    expected = run_float(fold(checkpoint), _images(checkpoint.input_shape))
    name = type(module).__name__
    modes = {part: part.training for part in module.modules()}
    layers = _Layers(module, checkpoint)
    try:
        module.eval()
        # On a GPU, cuDNN may multiply in TF32, which is coarser than the tolerance.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
            outputs = module(_normalized(module, checkpoint))
    except (Exception, SystemExit) as error:  # it is the user's code
        raise EdgeMnistError(f"{name}: cannot be run: {first_line(error)}") from error
    finally:
        layers.remove()
        for part, training in modes.items():
            part.training = training
    if layers.trouble:
        raise EdgeMnistError(layers.trouble)
    if not isinstance(outputs, torch.Tensor):
        raise EdgeMnistError(f"{name}: gives a {type(outputs).__name__}, expected a tensor of logits")
    found = outputs.cpu().float().flatten(1).numpy()
    if found.shape != expected.shape:
        raise EdgeMnistError(f"{name}: gives logits of shape {found.shape}, but its layers give {expected.shape}")
    difference = _difference(torch.from_numpy(found), torch.from_numpy(expected))
    if difference:
        raise EdgeMnistError(
            f"{name}: gives logits that differ from those of its layers by {difference}: something around the layers "
            "would be lost, such as a hook, a forward or __call__ that was replaced, or random numbers: remove it"
        )


class _Layers:
    """Compares what each layer of a module gives with what its weights and settings say, while the module runs."""

    def __init__(self, module: nn.Module, checkpoint: Checkpoint) -> None:
        self.trouble = ""
        """What is wrong with the first layer that gives something else."""
        self._weights = checkpoint.weights
        self._expected = torch.empty(0)
        parts = dict(module.named_modules())
        self._hooks: list[RemovableHandle] = []
        for layer in checkpoint.architecture:
            if part := parts.get(layer.name):
                begin, end = partial(self._begin, layer), partial(self._end, layer)
                self._hooks.append(part.register_forward_pre_hook(begin, with_kwargs=True))
                self._hooks.append(part.register_forward_hook(end))

    def remove(self) -> None:
        """Leave the module as it was."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, layer: Layer, part: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        values = (*inputs, *named.values())[0].detach().clone()  # the layer may write into its input
        self._expected = _compute(layer, self._weights, values)

    def _end(self, layer: Layer, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        found = output.shape == self._expected.shape and _difference(output, self._expected)
        if found is False:
            found = f"their shape, {tuple(output.shape)} for {tuple(self._expected.shape)}"
        if found and not self.trouble:
            self.trouble = (
                f"{layer.name}: gives values that differ from those of a {layer.op} of its weights by {found}: "
                "its forward was replaced, or it does not work as in inference: use a plain layer"
            )


def _compute(layer: Layer, weights: Any, values: torch.Tensor) -> torch.Tensor:
    """What a layer's description says that it gives."""

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


def _difference(found: torch.Tensor, expected: torch.Tensor) -> str:
    """By how much values differ, in words; "" if it is no more than rounding makes of it."""
    error, largest = float((found - expected).abs().max()), float(expected.abs().max())
    return "" if error <= _TOLERANCE * largest else f"up to {error:.3g}, of values of up to {largest:.3g}"


def _images(shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (16, channels, height, width)."""
    rng = np.random.Generator(np.random.PCG64(11))
    density = np.linspace(0, 1, _IMAGES)[:, None, None, None]
    noise = rng.integers(0, 256, (_IMAGES, *shape))
    return np.where(rng.random((_IMAGES, *shape)) < density, noise, 0).astype(np.uint8)


def _normalized(module: nn.Module, checkpoint: Checkpoint) -> torch.Tensor:
    """The images as the module takes them, where it is: float32 (16, channels, height, width)."""
    pixels = torch.from_numpy(_images(checkpoint.input_shape).astype(np.float32))
    place = next(module.parameters(), pixels).device
    return ((pixels / 255 - checkpoint.mean) / checkpoint.std).to(place)
