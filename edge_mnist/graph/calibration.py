"""Collects the statistics of a network's activations, from which quantization chooses its scales.

The statistics are a dict of arrays. A checkpoint carries them, so that export needs no images. For each convolution
NAME:

- `NAME.range`: float64 (2,), the smallest and the largest output. The output is taken after ReLU and after the max
  pools that follow, because only what the next convolution sees matters;
- `NAME.histogram`: int64 (2048,), the counts of these outputs in equal bins over the range;
- `NAME.input_mean`: float64 (in_channels, kernel height, kernel width), the mean of the inputs of each weight.

`pixels.histogram` is int64 (256,), the counts of the pixel values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.interpreter import extract_patches, float_activations, split_batches
from edge_mnist.graph.operations import FloatGraph, MaxPool2d

Statistics = Mapping[str, NDArray[np.generic]]
"""The statistics of a network, by the names that the module's docstring lists."""

BINS = 2048
"""The number of bins of a histogram: eight for each of the 256 values of an int8 that covers the same range."""

IMAGES = 4096
"""The number of images from which the statistics of a checkpoint are collected."""


def collect(graph: FloatGraph, images: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
    """Run the float network over images and collect the statistics of its activations.

    Args:
        graph: the network.
        images: uint8 (N, height, width) or (N, channels, height, width); `IMAGES` of them are enough.

    Returns:
        The arrays that the module's docstring lists.
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
                # (N, out height, out width, channels, kernel height, kernel width) -> (channels, kernel h, kernel w)
                total = extract_patches(values, operation.window).mean(axis=(0, 1, 2), dtype=np.float64) * len(batch)
                means[operation.name] = means.get(operation.name, 0) + total / len(images)
        for name, values in _convolution_outputs(graph, batch):
            lows[name] = min(lows.get(name, np.inf), float(values.min()))
            highs[name] = max(highs.get(name, -np.inf), float(values.max()))
    for name, mean in means.items():
        statistics[f"{name}.input_mean"] = mean
        statistics[f"{name}.range"] = np.array([lows[name], highs[name]])
    histograms: dict[str, NDArray[np.int64]] = {}
    for batch in split_batches(images):
        for name, values in _convolution_outputs(graph, batch):
            counts = np.histogram(values, BINS, (lows[name], highs[name]))[0].astype(np.int64)
            histograms[name] = histograms.get(name, 0) + counts
    return {**statistics, **{f"{name}.histogram": counts for name, counts in histograms.items()}}


def _convolution_outputs(graph: FloatGraph, images: NDArray[np.uint8]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The name of each convolution and its output as the next convolution sees it, after the max pools between them."""
    activations = float_activations(graph, images)
    next(activations)  # the first is the input
    name = ""
    following = (*graph.operations[1:], None)
    for operation, after, values in zip(graph.operations, following, activations, strict=True):
        name = name if isinstance(operation, MaxPool2d) else operation.name
        if name and not isinstance(after, MaxPool2d):
            yield name, values
