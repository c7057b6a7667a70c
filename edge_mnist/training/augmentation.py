"""Random numbers that depend on nothing but their key, and the whole-batch affine augmentation drawn from them.

Each number is a hash of (seed, epoch, image index, what it is for). So an image is moved in the same way however the
batches are cut, in whatever order and process they are drawn, and a run that goes on after a stop draws what it would
have drawn.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from edge_mnist.graph.arithmetic import splitmix64
from edge_mnist.training.recipes import Augmentation

_ORDER = 6  # the amounts of an affine map take 0 .. 5
_BEND = 1000  # and so many more as a grid has numbers
_GRID = 5


def epoch_order(seed: int, epoch: int, count: int) -> npt.NDArray[np.int64]:
    """A permutation of 0 .. count - 1, (count,) int64, drawn from the seed and the epoch."""
    return np.argsort(_random_bits(seed, epoch, np.arange(count), _ORDER), kind="stable")


def augment(
    images: torch.Tensor, indices: npt.NDArray[np.int64], amount: Augmentation, seed: int, epoch: int
) -> torch.Tensor:
    """Each image rotated, scaled, sheared, shifted and bent about its centre, bilinear, black outside.

    Args:
        images: (N, 1, H, W) float32, black is 0.
        indices: (N,) int64, each image's index in the data set: the key of its random numbers.
        amount: the furthest that an image is moved.
        seed: the run's seed.
        epoch: counted from 0.

    Returns:
        (N, 1, H, W) float32, on the device of `images`.
    """
    height, width = images.shape[2:]
    matrices = _inverse_maps(indices, amount, seed, epoch)  # (N, 2, 3), in pixels from the centre
    # grid_sample counts from -1 to 1 over a whole side (align_corners=False)
    matrices[:, :, 2] *= (2 / width, 2 / height)
    maps = torch.from_numpy(matrices.astype(np.float32)).to(images.device)[:, :, :, None, None]  # (N, 2, 3, 1, 1)
    down = torch.arange(0.5, height, device=images.device)[:, None] * (2 / height) - 1  # (H, 1)
    across = torch.arange(0.5, width, device=images.device) * (2 / width) - 1  # (W,)
    # not affine_grid: its matrix product may round differently in a batch of another size
    grid = maps[:, :, 0] * across + maps[:, :, 1] * down + maps[:, :, 2]  # (N, 2, H, W)
    if amount.elastic:
        grid += _bends(indices, amount.elastic, seed, epoch, (height, width)).to(images.device)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False)


def _inverse_maps(
    indices: npt.NDArray[np.int64], amount: Augmentation, seed: int, epoch: int
) -> npt.NDArray[np.float64]:
    """Where each pixel of the result comes from: (N, 2, 3) float64, rows x and y, in pixels from the centre."""
    drawn = [2 * uniform(seed, epoch, indices, purpose) - 1 for purpose in range(_ORDER)]
    angle = drawn[0] * math.radians(amount.rotation)
    stretch_x, stretch_y = 1 / (1 + drawn[1] * amount.scale), 1 / (1 + drawn[2] * amount.scale)
    shear = drawn[3] * amount.shear
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.empty((len(indices), 2, 3))
    matrices[:, 0, 0] = stretch_x * cos
    matrices[:, 0, 1] = stretch_x * (shear * cos - sin)
    matrices[:, 1, 0] = stretch_y * sin
    matrices[:, 1, 1] = stretch_y * (shear * sin + cos)
    matrices[:, 0, 2] = drawn[4] * amount.shift
    matrices[:, 1, 2] = drawn[5] * amount.shift
    return matrices


def _bends(indices: npt.NDArray[np.int64], amount: float, seed: int, epoch: int, size: tuple[int, int]) -> torch.Tensor:
    """Smooth displacements (N, 2, H, W) float32, x and y, a whole side being 2."""
    purposes = _BEND + np.arange(2 * _GRID**2)
    drawn = 2 * uniform(seed, epoch, np.tile(indices[:, None], len(purposes)), purposes) - 1
    corners = drawn.reshape(-1, 2, _GRID, _GRID) * amount
    corners *= np.array([2 / size[1], 2 / size[0]])[:, None, None]
    return F.interpolate(torch.from_numpy(corners.astype(np.float32)), size, mode="bicubic", align_corners=True)


def uniform(
    seed: int, epoch: int, indices: npt.NDArray[np.int64], purpose: int | npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Random numbers of the key, float64 of the shape of `indices`, in [0, 1) on a grid of 2^-53."""
    mantissas = _random_bits(seed, epoch, indices, purpose) >> np.uint64(11)
    numbers: npt.NDArray[np.float64] = mantissas.astype(np.float64) * 2.0**-53
    return numbers


def _random_bits(
    seed: int, epoch: int, indices: npt.NDArray[np.int64], purpose: int | npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """The words of the key, each stirred in by SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    state = np.zeros(indices.shape, np.uint64)
    for word in (seed, epoch, purpose, indices):
        state = splitmix64(state ^ np.asarray(word, np.uint64))
    return state
