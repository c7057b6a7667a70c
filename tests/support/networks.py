"""Random small networks, as checkpoints, that use every operation, stride, padding, dilation and group there is."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import Layer


class Sketch:
    """A chain of layers under construction, with random weights; `shape` is that of its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: list[Layer] = []
        self.weights: dict[str, np.ndarray] = {}
        self.shape = (
            int(self.rng.choice([1, 1, 1, 2, 3])),
            int(self.rng.integers(6, 15)),
            int(self.rng.integers(6, 15)),
        )
        self.input_shape = self.shape
        self.rectified = False  # a padded max pool needs a ReLU before it

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def add(self, op: str, **fields: Any) -> str:
        name = f"{op.split('_')[0]}{len(self.layers)}"
        self.layers.append(Layer.from_json({"op": op, "name": name, **fields}))
        return name

    def window(self, kernel: list[int], *, dilate: bool) -> dict[str, list[int]] | None:
        """A random window, or None if it does not fit."""
        dilation = [int(self.rng.integers(1, 3)) if dilate and self.chance(0.3) else 1 for _ in range(2)]
        padding = [int(self.rng.integers(0, k // 2 + 1)) if self.chance(0.5) else 0 for k in kernel]
        stride = [int(self.rng.choice([1, 1, 2, 3])) for _ in range(2)]
        extents = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        sizes = [(n + 2 * p - e) // s + 1 for n, p, e, s in zip(self.shape[1:], padding, extents, stride, strict=True)]
        if min(sizes) < 1 or min(n + 2 * p - e for n, p, e in zip(self.shape[1:], padding, extents, strict=True)) < 0:
            return None
        self.sizes = tuple(sizes)
        return {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}

    def convolution(self) -> None:
        channels = self.shape[0]
        window = self.window([int(k) for k in self.rng.integers(1, 5, 2)], dilate=True)
        if window is None:
            return
        groups = int(self.rng.choice([g for g in (1, 1, 2, 3, channels) if channels % g == 0]))
        outputs = groups * int(self.rng.integers(1, 4 if groups > 1 else 12))
        bias = self.chance(0.8)
        name = self.add("conv2d", in_channels=channels, out_channels=outputs, groups=groups, bias=bias, **window)
        taps = (outputs, channels // groups, *window["kernel_size"])
        self.weights[f"{name}.weight"] = self.normal(taps, 1.4 / np.sqrt(np.prod(taps[1:])))
        if bias:
            self.weights[f"{name}.bias"] = self.normal((outputs,), 0.3)
        self.shape = (outputs, *self.sizes)
        self.rectified = False

    def batch_norm(self) -> None:
        channels = self.shape[0]
        affine = self.chance(0.8)
        name = self.add("batch_norm2d", num_features=channels, eps=1e-5, affine=affine)
        if affine:
            self.weights[f"{name}.weight"] = self.normal((channels,), 0.3) + np.float32(1)
            self.weights[f"{name}.bias"] = self.normal((channels,), 0.4)
        self.weights[f"{name}.running_mean"] = self.normal((channels,), 0.2)
        self.weights[f"{name}.running_var"] = self.rng.uniform(0.4, 1.5, channels).astype(np.float32)
        self.rectified = False

    def relu(self) -> None:
        self.add("relu")
        self.rectified = True

    def pool(self, op: str) -> None:
        window = self.window([int(k) for k in self.rng.integers(1, 4, 2)], dilate=False)
        if window is None:
            return
        if op == "max_pool2d" and window["padding"] != [0, 0] and not self.rectified:
            self.relu()  # TFLite cannot pad a max pool over values that may be negative
        del window["dilation"]
        self.add(op, **window)
        self.shape = (self.shape[0], *self.sizes)

    def linear(self, outputs: int) -> None:
        features = int(np.prod(self.shape))
        bias = self.chance(0.8)
        name = self.add("linear", in_features=features, out_features=outputs, bias=bias)
        self.weights[f"{name}.weight"] = self.normal((outputs, features), 1.6 / np.sqrt(features))
        if bias:
            self.weights[f"{name}.bias"] = self.normal((outputs,), 0.3)
        self.shape = (outputs, 1, 1)
        self.rectified = False

    def normal(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        return self.rng.normal(0, deviation, shape).astype(np.float32)


def random_checkpoint(seed: int) -> Checkpoint:
    """A random network that the seed determines."""
    sketch = Sketch(seed)
    if sketch.chance(0.15):
        sketch.pool("max_pool2d")
    for _ in range(int(sketch.rng.integers(1, 5))):
        sketch.convolution()
        if sketch.chance(0.5):
            sketch.batch_norm()
        if sketch.chance(0.75):
            sketch.relu()
        if sketch.chance(0.15):
            sketch.batch_norm()
        if sketch.chance(0.4):
            sketch.pool(str(sketch.rng.choice(["max_pool2d", "avg_pool2d"])))
        if sketch.chance(0.1):
            sketch.relu()
    if sketch.chance(0.4):
        sketch.add("adaptive_avg_pool2d")
        sketch.shape = (sketch.shape[0], 1, 1)
    sketch.add("flatten")
    if sketch.shape[1:] != (1, 1) or sketch.chance(0.7) or len(sketch.layers) < 4:
        if sketch.chance(0.3):
            sketch.linear(int(sketch.rng.integers(4, 16)))
            if sketch.chance(0.8):
                sketch.relu()
        sketch.linear(int(sketch.rng.integers(2, 12)))
    mean, std = (0.1307, 0.3081) if sketch.chance(0.7) else (0.5, 0.25)
    return Checkpoint(tuple(sketch.layers), sketch.input_shape, mean, std, sketch.weights, {}, {})


def random_images(checkpoint: Checkpoint, count: int, seed: int) -> np.ndarray:
    """Smooth blobs and noise, uint8 (count, channels, height, width): some channels bright, some dark."""
    rng = np.random.default_rng(seed)
    channels, height, width = checkpoint.input_shape
    rows, columns = np.mgrid[:height, :width]
    angles = rng.uniform(0, 2 * np.pi, (count, channels, 3, 1, 1))
    waves = np.sin(angles[:, :, 0] + rows * np.cos(angles[:, :, 1]) + columns * np.sin(angles[:, :, 2]))
    noise = rng.normal(0, 0.4, waves.shape)
    return np.clip(127 + 127 * (waves + noise), 0, 255).astype(np.uint8)
