"""Networks that are larger than DigitNet and unlike it: teachers for distillation, which can be exported as well."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_CHANNELS = (32, 64, 128)
"""The output channels of the three stages of each network."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose result is added to their input (N, C, H, W), which keeps its shape.

    He, Zhang, Ren and Sun, "Deep residual learning for image recognition", arXiv:1512.03385.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape."""
        inner = F.relu(self.first_norm(self.first(x)))
        return F.relu(x + self.second_norm(self.second(inner)))


def residual() -> nn.Sequential:
    """Make a network of three residual blocks at strides 2, 4 and 8: from (N, 1, 28, 28) to logits (N, 10)."""
    layers: list[nn.Module] = []
    before = 1
    for size, channels in zip((5, 3, 3), _CHANNELS, strict=True):
        layers += _convolve(before, channels, size, stride=2, padding=size // 2)
        layers.append(ResidualBlock(channels))
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def plain() -> nn.Sequential:
    """Make a network of three pairs of 3x3 convolutions: from (N, 1, 28, 28) to logits (N, 10)."""
    layers: list[nn.Module] = []
    before = 1
    for channels, padding in zip(_CHANNELS, ((0, 0), (1, 1), (1, 0)), strict=True):
        if layers:
            layers.append(nn.MaxPool2d(2))
        layers += _convolve(before, channels, 3, stride=1, padding=padding[0])
        layers += _convolve(channels, channels, 3, stride=1, padding=padding[1])
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


def _convolve(before: int, channels: int, size: int, stride: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(before, channels, size, stride, padding), nn.BatchNorm2d(channels), nn.ReLU()]
