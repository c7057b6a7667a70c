"""Networks that teach DigitNet: larger than it, and built in other ways, so that they err on other images.

Each is a factory for `edge-mnist train --network benchmarks.teachers:NAME`; `benchmarks/best.sh` trains them. The third
teacher is DigitNet itself with three times the channels, `edge_mnist.training.network:wide`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def strided() -> nn.Sequential:
    """Make a plain network of seven convolutions and 269,066 parameters, in which strides take the place of pooling.

    After Deotte, "25 Million Images! [0.99757] MNIST" (Kaggle, 2018), without its dropout.
    """
    layers: list[nn.Module] = []
    inputs = 1
    for outputs, stride in ((32, 1), (32, 1), (32, 2), (64, 1), (64, 1), (64, 2), (128, 1)):
        kernel, padding = (3, 0) if stride == 1 else (5, 2)
        layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def residual() -> nn.Sequential:
    """Make a residual network of four blocks and 169,834 parameters (He et al., "Deep Residual Learning", 2016)."""
    first = nn.Sequential(_convolution(1, 32), nn.ReLU(), nn.MaxPool2d(2))
    blocks = (_Block(32, 32, 1), _Block(32, 32, 1), _Block(32, 64, 2), _Block(64, 64, 1))
    return nn.Sequential(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    """A convolution that keeps the size, or halves it, with batch normalisation."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    """Two convolutions, added to what they are given, which a 1x1 convolution brings into their shape if need be."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride)
        self.second = _convolution(outputs, outputs)
        is_same = inputs == outputs and stride == 1
        self.beside = nn.Identity() if is_same else _convolution(inputs, outputs, stride, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.beside(features) + self.second(torch.relu(self.first(features))))
