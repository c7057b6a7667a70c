"""Degrades images as pens, paper and cameras do: strokes of another width, hidden parts, faint ink, light, blur, noise.

The amounts are drawn from (seed, epoch, image index), see `edge_mnist.data.keyed_random`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edge_mnist.data.keyed_random import draw_uniform
from edge_mnist.graph.arithmetic import splitmix64
from edge_mnist.training.recipes import Augmentation

_FIRST_PURPOSE = 2000
"""The first purpose of the random numbers here, above all that `augmentation` uses."""
# The limits of the effects are this project's choice; docs/training.md has what they change together.
_MAX_NOISE = 0.25
"""The largest standard deviation of the noise, where black to white is 1."""
_MAX_BLUR = 1.2
"""The largest standard deviation of the Gaussian blur, in pixels."""
_MEAN_LIGHT = 0.3
"""The mean of the strength of uneven light, where black to white is 1; it is drawn from 0 to twice this."""
_MAX_FADING = 0.6
"""The largest share of the contrast that faint ink loses."""
_MAX_HIDDEN = 12
"""The largest side of a hidden rectangle, in pixels."""


class _Random:
    """Draws one random number for each image of a batch; each call uses the next purpose."""

    def __init__(self, seed: int, epoch: int, indices: NDArray[np.int64], purpose: int, device: torch.device) -> None:
        self._key, self._indices, self._purpose, self._device = (seed, epoch), indices, purpose, device

    def uniform(self, low: float, high: float) -> torch.Tensor:
        """Draw numbers from [low, high), float32 (N, 1, 1, 1)."""
        self._purpose += 1
        numbers = low + (high - low) * draw_uniform(*self._key, self._indices, self._purpose)
        return torch.from_numpy(numbers.astype(np.float32)).to(self._device)[:, None, None, None]

    def normal(self, shape: torch.Size) -> torch.Tensor:
        """Draw nearly normal numbers of mean 0 and deviation 1, float32: sums of four uniform numbers of 16 bits."""
        self._purpose += 1
        starts = (draw_uniform(*self._key, self._indices, self._purpose) * 2.0**53).astype(np.uint64)
        offsets = np.arange(shape[-2] * shape[-1], dtype=np.uint64) << np.uint64(53 - 42)
        words = splitmix64(starts[:, None] ^ offsets).view(np.uint16).reshape(len(starts), -1, 4)
        sums = words.astype(np.float32).sum(2) / 65535 - 2
        return torch.from_numpy(sums * np.float32(3**0.5)).to(self._device).reshape(shape)


def degrade(
    images: torch.Tensor, indices: NDArray[np.int64], limits: Augmentation, seed: int, epoch: int
) -> torch.Tensor:
    """Make the strokes of all images thinner or thicker, and apply each effect to its own random share of them.

    Args:
        images: float32 (N, 1, H, W), 0 to 255, with a black background.
        indices: int64 (N,), each image's index in the data set: the key of its random numbers.
        limits: its `stroke` and `degradation` are used.
        seed: the seed of the run.
        epoch: counted from 0.

    Returns:
        float32 (N, 1, H, W), 0 to 255, on the device of `images`.
    """
    if limits.stroke:
        random = _Random(seed, epoch, indices, _FIRST_PURPOSE, images.device)
        images = _change_strokes(images, random.uniform(-limits.stroke, limits.stroke))
    effects = (_hide_rectangle, _fade_ink, _add_light, _blur, _add_noise)
    for number, effect in enumerate(effects if limits.degradation else ()):
        purpose = _FIRST_PURPOSE + 100 * (number + 1)
        chosen = np.flatnonzero(draw_uniform(seed, epoch, indices, purpose) < limits.degradation)
        if len(chosen):
            random = _Random(seed, epoch, indices[chosen], purpose, images.device)
            images = images.index_copy(0, torch.from_numpy(chosen).to(images.device), effect(images[chosen], random))
    return images.clamp(0, 255)


def _change_strokes(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Blend each pixel with the lightest pixel around it, or for a negative amount with the darkest."""
    thicker, thinner = _filter_3x3(images, torch.maximum), _filter_3x3(images, torch.minimum)
    return images + torch.where(amounts > 0, thicker - images, images - thinner) * amounts


def _filter_3x3(images: torch.Tensor, choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Take the maximum or minimum of each pixel and its eight neighbours; faster than max_pool2d with one channel."""
    for axis in (2, 3):
        size = images.shape[axis]
        padded = F.pad(images, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0), mode="replicate")
        images = choose(choose(images, padded.narrow(axis, 0, size)), padded.narrow(axis, 2, size))
    return images


def _hide_rectangle(images: torch.Tensor, random: _Random) -> torch.Tensor:
    """Black out a rectangle at any place (Zhong et al., "Random erasing data augmentation", AAAI 2020)."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)
    y, x = random.uniform(0, height), random.uniform(0, width)
    inside_rows = (rows - y).abs() < random.uniform(1, _MAX_HIDDEN / 2)
    inside = inside_rows & ((columns - x).abs() < random.uniform(1, _MAX_HIDDEN / 2))  # (N, 1, H, W)
    return torch.where(inside, torch.zeros_like(images), images)


def _fade_ink(images: torch.Tensor, random: _Random) -> torch.Tensor:
    """Reduce the contrast, and lighten the background by up to half of the loss."""
    gain = random.uniform(1 - _MAX_FADING, 1)
    return images * gain + 255 * (1 - gain) * random.uniform(0, 0.5)


def _add_light(images: torch.Tensor, random: _Random) -> torch.Tensor:
    """Lighten the background towards one side."""
    height, width = images.shape[-2:]
    rows = torch.linspace(-0.5, 0.5, height, device=images.device)[:, None]
    columns = torch.linspace(-0.5, 0.5, width, device=images.device)
    slope = random.uniform(-1, 1) * rows + random.uniform(-1, 1) * columns + 0.5  # (N, 1, H, W)
    return images + (255 - images) * slope.clamp(0, 1) * random.uniform(0, 2 * _MEAN_LIGHT)


def _blur(images: torch.Tensor, random: _Random) -> torch.Tensor:
    """Blur each image with its own Gaussian."""
    steps = torch.arange(-3, 4, device=images.device)
    weights = torch.exp(-0.5 * (steps / random.uniform(0.3, _MAX_BLUR)) ** 2)  # (N, 1, 1, 7)
    weights = weights / weights.sum(-1, keepdim=True)
    # not conv2d with one group per image: it may add in another order in a batch of another size
    for axis in (2, 3):
        size = images.shape[axis]
        padded = F.pad(images, (0, 0, 3, 3) if axis == 2 else (3, 3, 0, 0))
        images = sum(
            (weights[..., step, None] * padded.narrow(axis, step, size) for step in range(7)), torch.zeros_like(images)
        )
    return images


def _add_noise(images: torch.Tensor, random: _Random) -> torch.Tensor:
    return images + random.uniform(0, _MAX_NOISE) * 255 * random.normal(images.shape)
