"""What the activations look like over images: histograms and means, from which quantization chooses its scales.

The statistics are a dict of arrays, which a checkpoint carries, so that export needs no data. For each convolution
NAME:

- `NAME.range`: float64 (2,), smallest and largest output, after ReLU and after the max pools that follow it, for only
  what the next convolution sees matters;
- `NAME.histogram`: int64 (2048,), counts of these outputs in equal bins over the range;
- `NAME.input_mean`: float64 (in_channels, kernel height, kernel width), mean of what each tap of the kernel sees.

`pixels.histogram` is int64 (256,), counts of the pixel values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.interpreter import extract_patches, float_activations, split_batches
from edge_mnist.graph.operations import FloatGraph, MaxPool2d

Statistics = Mapping[str, NDArray[np.generic]]

BINS = 2048

IMAGES = 4096
"""How many images the statistics of a checkpoint are of."""


def collect(graph: FloatGraph, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """Run the float network over images and keep the statistics of its activations.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width); `IMAGES` of them are enough.
    """
    statistics: dict[str, NDArray[np.generic]] = {
        "pixels.histogram": np.bincount(images.ravel(), minlength=256).astype(np.int64)
    }
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for batch in split_batches(images):
        for operation, values in zip(graph.operations, float_activations(graph, batch), strict=False):
            if not isinstance(operation, MaxPool2d):
                total = extract_patches(values, operation.window).mean(axis=(0, 1, 2), dtype=np.float64) * len(batch)
                means[operation.name] = means.get(operation.name, 0) + total / len(images)
        for name, values in _outputs(graph, batch):
            lows[name] = min(lows.get(name, np.inf), float(values.min()))
            highs[name] = max(highs.get(name, -np.inf), float(values.max()))
    for name, mean in means.items():
        statistics[f"{name}.input_mean"] = mean
        statistics[f"{name}.range"] = np.array([lows[name], highs[name]])
    histograms: dict[str, NDArray[np.int64]] = {}
    for batch in split_batches(images):
        for name, values in _outputs(graph, batch):
            counts = np.histogram(values, BINS, (lows[name], highs[name]))[0].astype(np.int64)
            histograms[name] = histograms.get(name, 0) + counts
    return {**statistics, **{f"{name}.histogram": counts for name, counts in histograms.items()}}


def _outputs(graph: FloatGraph, images: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Each convolution's name and its output as the next convolution sees it."""
    steps = float_activations(graph, images)
    next(steps)
    name = ""
    following = (*graph.operations[1:], None)
    for operation, after, values in zip(graph.operations, following, steps, strict=True):
        name = name if isinstance(operation, MaxPool2d) else operation.name
        if name and not isinstance(after, MaxPool2d):
            yield name, values
