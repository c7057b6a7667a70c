"""Finds digits of any size in a frame: the network looks at the frame at every second scale."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_mnist.training.finder import network

LARGEST = 1600
"""The longer side, in pixels, to which a larger frame is reduced: its smallest digits are then a 160th of it."""
ENLARGED = 360
"""A frame whose longer side is not above this, in pixels, is looked at twice as large, too."""
SMALLEST = 36
"""The longer side, in pixels, below which a scale is the last."""
MARGIN = 16
"""Pixels by which the edge of each scale is continued, so that a digit at the edge has something around it."""
OVERLAP = 0.4
"""Two boxes that share this part of their union are one digit; the one that was found with more confidence stays."""
INSIDE = 0.7
"""So are two of which one shares this part of its own area."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in a frame, the most confident first.

    Attributes:
        boxes: float32 (N, 4), left, top, right, bottom in pixels.
        confidence: float32 (N,), 0 to 1, that the middle of a digit is there.
        logits: float32 (N, 10), which digit the network takes it for.
    """

    boxes: NDArray[np.float32]
    confidence: NDArray[np.float32]
    logits: NDArray[np.float32]


def scales(grey: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """A frame, uint8 (H, W), at each scale that is looked at, the largest first."""
    height, width = grey.shape
    result = []
    if max(height, width) <= ENLARGED:
        result.append(cv2.resize(grey, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR))
    ratio = min(1.0, LARGEST / max(height, width))
    if ratio < 1:
        size = max(1, round(width * ratio)), max(1, round(height * ratio))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    result.append(grey)
    while max(grey.shape) >= SMALLEST:
        size = (grey.shape[1] + 1) // 2, (grey.shape[0] + 1) // 2
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        result.append(grey)
    return result


def find(finder: nn.Module, frame: NDArray[np.uint8], least: float = 0.4) -> Found:
    """Find the digits in a frame.

    Args:
        finder: the network, in evaluation mode on the CPU.
        frame: uint8 (H, W) grey.
        least: the confidence that each must have.
    """
    rows = [_find_at_scale(finder, grey, frame.shape, least) for grey in scales(frame)]
    table = np.concatenate(rows)
    table = table[np.argsort(-table[:, 4], kind="stable")]
    kept: list[int] = []
    areas = (table[:, 2] - table[:, 0]) * (table[:, 3] - table[:, 1])
    for index, row in enumerate(table):
        others = table[kept]
        shared = np.clip(np.minimum(row[2:4], others[:, 2:4]) - np.maximum(row[:2], others[:, :2]), 0, None).prod(1)
        smaller = np.minimum(areas[index], areas[kept])
        if not ((shared > OVERLAP * (areas[index] + areas[kept] - shared)) | (shared > INSIDE * smaller)).any():
            kept.append(index)
    chosen: NDArray[np.float32] = table[kept].astype(np.float32)
    return Found(chosen[:, :4], chosen[:, 4], chosen[:, 5:])


def _find_at_scale(
    finder: nn.Module, grey: NDArray[np.uint8], frame: tuple[int, ...], least: float
) -> NDArray[np.float64]:
    """What is found at one scale, (N, 15): the box in the frame, the confidence, ten logits."""
    height, width = grey.shape
    below, right = (MARGIN + -(side + 2 * MARGIN) % 8 for side in (height, width))
    padded = cv2.copyMakeBorder(grey, MARGIN, below, MARGIN, right, cv2.BORDER_REPLICATE)
    pixels = torch.from_numpy((padded.astype(np.float32) / 255 - network.MEAN) / network.STD)[None, None]
    with torch.inference_mode():
        values = network.places(finder(pixels))[0].numpy()  # (VALUES, h, w)
    heat = 1 / (1 + np.exp(-values[0].astype(np.float64)))
    peak = heat >= cv2.dilate(heat, np.ones((3, 3), np.uint8))
    down, across = np.nonzero(peak & (heat >= least))
    own = values[:, down, across].T.astype(np.float64)  # (N, VALUES)
    place = np.stack([across, down], 1) + 0.5
    middle = (place + own[:, 1:3] / network.BOX_GAIN) * network.PLACE - MARGIN
    half = np.exp(np.clip(own[:, 3:5] / network.SIZE_GAIN, -4, 4)) * network.SIZE / 2
    ratio = np.array([frame[1] / width, frame[0] / height])
    boxes = np.concatenate([(middle - half) * ratio, (middle + half) * ratio], 1)
    return np.concatenate([boxes, heat[down, across][:, None], own[:, 5:]], 1)
