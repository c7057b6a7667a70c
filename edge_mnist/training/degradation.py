"""What pen, paper and camera do to an image, drawn like all augmentation from (seed, epoch, image index)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edge_mnist.graph.arithmetic import splitmix64
from edge_mnist.training.augmentation import uniform
from edge_mnist.training.recipes import Augmentation

_FIRST = 2000  # above all that the geometry takes
_NOISE = 0.25
_BLUR = 1.2  # pixels
_LIGHT = 0.3
_FAINT = 0.6
_HIDDEN = 12  # pixels


class _Draw:
    """Random numbers for each image of a batch, each call with a purpose of its own."""

    def __init__(
        self, seed: int, epoch: int, indices: npt.NDArray[np.int64], purpose: int, device: torch.device
    ) -> None:
        self._key, self._indices, self._purpose, self._device = (seed, epoch), indices, purpose, device

    def __call__(self, low: float, high: float) -> torch.Tensor:
        """(N, 1, 1, 1) float32."""
        self._purpose += 1
        numbers = low + (high - low) * uniform(*self._key, self._indices, self._purpose)
        return torch.from_numpy(numbers.astype(np.float32)).to(self._device)[:, None, None, None]

    def noise(self, shape: torch.Size) -> torch.Tensor:
        """Nearly normal, mean 0 and deviation 1: the sum of four uniform numbers of 16 bits."""
        self._purpose += 1
        starts = (uniform(*self._key, self._indices, self._purpose) * 2.0**53).astype(np.uint64)
        places = np.arange(shape[-2] * shape[-1], dtype=np.uint64) << np.uint64(53 - 42)
        words = splitmix64(starts[:, None] ^ places).view(np.uint16).reshape(len(starts), -1, 4)
        sums = words.astype(np.float32).sum(2) / 65535 - 2
        return torch.from_numpy(sums * np.float32(3**0.5)).to(self._device).reshape(shape)


def wear(
    images: torch.Tensor, indices: npt.NDArray[np.int64], amount: Augmentation, seed: int, epoch: int
) -> torch.Tensor:
    """Each image with thinner or thicker strokes; a part of them, drawn anew for each effect, worn.

    Args:
        images: (N, 1, H, W) float32, 0 to 255, black background.
        indices: (N,) int64, each image's index in the data set: the key of its random numbers.
        amount: `stroke` and `wear` count.
        seed: the run's seed.
        epoch: counted from 0.

    Returns:
        (N, 1, H, W) float32, 0 to 255, on the device of `images`.
    """
    if amount.stroke:
        draw = _Draw(seed, epoch, indices, _FIRST, images.device)
        images = _stroke(images, draw(-amount.stroke, amount.stroke))
    for number, effect in enumerate((_hide, _fade, _light, _blur, _grain) if amount.wear else ()):
        purpose = _FIRST + 100 * (number + 1)
        worn = np.flatnonzero(uniform(seed, epoch, indices, purpose) < amount.wear)
        if len(worn):
            draw = _Draw(seed, epoch, indices[worn], purpose, images.device)
            images = images.index_copy(0, torch.from_numpy(worn).to(images.device), effect(images[worn], draw))
    return images.clamp(0, 255)


def _stroke(images: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
    """Towards the lightest, or for a negative amount the darkest, of the pixels around."""
    thicker, thinner = _around(images, torch.maximum), _around(images, torch.minimum)
    return images + torch.where(amounts > 0, thicker - images, images - thinner) * amounts


def _around(images: torch.Tensor, choose: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The largest or smallest of each pixel and its eight neighbours; faster than max_pool2d with one channel."""
    for axis in (2, 3):
        size = images.shape[axis]
        padded = F.pad(images, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0), mode="replicate")
        images = choose(choose(images, padded.narrow(axis, 0, size)), padded.narrow(axis, 2, size))
    return images


def _hide(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """A rectangle at any place is gone (Zhong et al., "Random erasing data augmentation", AAAI 2020)."""
    height, width = images.shape[-2:]
    down = torch.arange(height, device=images.device)[:, None]
    across = torch.arange(width, device=images.device)
    y, x = draw(0, height), draw(0, width)
    inside = ((down - y).abs() < draw(1, _HIDDEN / 2)) & ((across - x).abs() < draw(1, _HIDDEN / 2))
    return torch.where(inside, torch.zeros_like(images), images)


def _fade(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Faint ink on a ground that is not quite the darkest."""
    gain = draw(1 - _FAINT, 1)
    return images * gain + 255 * (1 - gain) * draw(0, 0.5)


def _light(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Light from one side: the ground rises towards it."""
    height, width = images.shape[-2:]
    down = torch.linspace(-0.5, 0.5, height, device=images.device)[:, None]
    across = torch.linspace(-0.5, 0.5, width, device=images.device)
    slope = draw(-1, 1) * down + draw(-1, 1) * across + 0.5
    return images + (255 - images) * slope.clamp(0, 1) * draw(0, 2 * _LIGHT)


def _blur(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """A Gaussian of its own for each image."""
    steps = torch.arange(-3, 4, device=images.device)
    weights = torch.exp(-0.5 * (steps / draw(0.3, _BLUR)) ** 2)  # (N, 1, 1, 7)
    weights = weights / weights.sum(-1, keepdim=True)
    # not conv2d with a group an image: it may add up otherwise in a batch of another size
    for axis in (2, 3):
        size = images.shape[axis]
        padded = F.pad(images, (0, 0, 3, 3) if axis == 2 else (3, 3, 0, 0))
        images = sum(
            (weights[..., step, None] * padded.narrow(axis, step, size) for step in range(7)), torch.zeros_like(images)
        )
    return images


def _grain(images: torch.Tensor, draw: _Draw) -> torch.Tensor:
    return images + draw(0, _NOISE) * 255 * draw.noise(images.shape)
