"""Geometric augmentation: rotates, scales, shears, shifts and bends a whole batch of images.

The amounts are drawn from (seed, epoch, image index), see `edge_mnist.data.keyed_random`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edge_mnist.data.keyed_random import draw_uniform
from edge_mnist.training.recipes import Augmentation

_AFFINE_PURPOSES = 6
"""The random numbers that an affine map takes: rotation, two scales, shear and two shifts, with purposes 0 to 5."""
_ELASTIC_PURPOSE = 1000
"""The first purpose of the random numbers of the elastic grid, which takes 2 x `_GRID_SIZE`^2 of them."""
_GRID_SIZE = 5
"""Corners of the elastic grid along each side: 7 pixels apart in an image of 28x28."""


def augment(
    images: torch.Tensor, indices: NDArray[np.int64], limits: Augmentation, seed: int, epoch: int
) -> torch.Tensor:
    """Rotate, scale, shear, shift and bend each image about its centre, bilinear, with black outside.

    Args:
        images: float32 (N, 1, H, W), where black is 0.
        indices: int64 (N,), each image's index in the data set: the key of its random numbers.
        limits: the largest amounts.
        seed: the seed of the run.
        epoch: counted from 0.

    Returns:
        float32 (N, 1, H, W), on the device of `images`.
    """
    height, width = images.shape[2:]
    matrices = _draw_inverse_maps(indices, limits, seed, epoch)  # (N, 2, 3), in pixels from the centre
    # grid_sample counts from -1 to 1 over a whole side (align_corners=False)
    matrices[:, :, 2] *= (2 / width, 2 / height)
    maps = torch.from_numpy(matrices.astype(np.float32)).to(images.device)[:, :, :, None, None]  # (N, 2, 3, 1, 1)
    y = torch.arange(0.5, height, device=images.device)[:, None] * (2 / height) - 1  # (H, 1)
    x = torch.arange(0.5, width, device=images.device) * (2 / width) - 1  # (W,)
    # not affine_grid: its matrix product may round differently in a batch of another size
    grid = maps[:, :, 0] * x + maps[:, :, 1] * y + maps[:, :, 2]  # (N, 2, H, W)
    if limits.elastic:
        grid += _draw_elastic_field(indices, limits.elastic, seed, epoch, (height, width)).to(images.device)
    return F.grid_sample(images, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=False)


def _draw_inverse_maps(indices: NDArray[np.int64], limits: Augmentation, seed: int, epoch: int) -> NDArray[np.float64]:
    """Draw the affine maps from a pixel of the result to its place in the image.

    Returns:
        float64 (N, 2, 3), rows x and y, in pixels from the centre.
    """
    drawn = [2 * draw_uniform(seed, epoch, indices, purpose) - 1 for purpose in range(_AFFINE_PURPOSES)]  # (N,) each
    angle = drawn[0] * math.radians(limits.rotation)
    stretch_x, stretch_y = 1 / (1 + drawn[1] * limits.scale), 1 / (1 + drawn[2] * limits.scale)
    shear = drawn[3] * limits.shear
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.empty((len(indices), 2, 3))
    matrices[:, 0, 0] = stretch_x * cos
    matrices[:, 0, 1] = stretch_x * (shear * cos - sin)
    matrices[:, 1, 0] = stretch_y * sin
    matrices[:, 1, 1] = stretch_y * (shear * sin + cos)
    matrices[:, 0, 2] = drawn[4] * limits.shift
    matrices[:, 1, 2] = drawn[5] * limits.shift
    return matrices


def _draw_elastic_field(
    indices: NDArray[np.int64], limit: float, seed: int, epoch: int, size: tuple[int, int]
) -> torch.Tensor:
    """Draw smooth displacements of up to `limit` pixels.

    Returns:
        float32 (N, 2, H, W), x and y, where a whole side is 2.
    """
    purposes = _ELASTIC_PURPOSE + np.arange(2 * _GRID_SIZE**2)
    drawn = 2 * draw_uniform(seed, epoch, np.tile(indices[:, None], len(purposes)), purposes) - 1
    corners = drawn.reshape(-1, 2, _GRID_SIZE, _GRID_SIZE) * limit
    corners *= np.array([2 / size[1], 2 / size[0]])[:, None, None]
    return F.interpolate(torch.from_numpy(corners.astype(np.float32)), size, mode="bicubic", align_corners=True)
