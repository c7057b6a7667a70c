"""Collects the statistics of a network's activations, from which quantization chooses its scales.

The statistics are a dict of arrays. A checkpoint carries them, so that export needs no images. For each convolution,
sum, product and activation NAME:

- `NAME.range`: float64 (2,), the smallest and the largest output. The output is taken after clamping, and after the max
  pools that follow, if nothing else takes it, because only what is read matters;
- `NAME.histogram`: int64 (2048,), the counts of these outputs in equal bins over the range;
- `NAME.input_mean`, of a convolution: float64 (in_channels, kernel height, kernel width), the mean of the inputs of
  each weight.

`pixels.histogram` is int64 (256,), the counts of the pixel values. For inputs that are not pixels, there are
`input.range` and `input.histogram` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import extract_patches, float_activations, split_batches
from edge_mnist.graph.operations import Activation, Add, Conv2d, FloatGraph, MaxPool2d, Multiply, to_batch
from edge_mnist.system.errors import EdgeMnistError

Statistics = Mapping[str, NDArray[np.generic]]
"""The statistics of a network, by the names that the module's docstring lists."""

BINS = 2048
"""The number of bins of a histogram: eight for each of the 256 values of an int8 that covers the same range."""

IMAGES = 4096
"""The number of images from which the statistics of a checkpoint are collected."""


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused
def collect(graph: FloatGraph, inputs: NDArray[Any]) -> dict[str, NDArray[np.generic]]:
    """Run the float network over inputs and collect the statistics of its activations.

    Args:
        graph: the network.
        inputs: uint8 pixels (N, height, width) or (N, *graph.input_shape), or float32 features (N, *graph.input_shape);
            `IMAGES` of them are enough.

    Returns:
        The arrays that the module's docstring lists.

    Raises:
        EdgeMnistError: there are no inputs, they do not fit the network, or they or the outputs of a layer are not
            finite.
    """
    _check_inputs(graph, inputs)
    names = _name_values(graph)
    statistics: dict[str, NDArray[np.generic]] = {}
    if graph.is_pixels:
        statistics["pixels.histogram"] = np.bincount(inputs.ravel(), minlength=256).astype(np.int64)
    convolutions = [
        [operation for index in readers if isinstance(operation := graph.operations[index], Conv2d)]
        for readers in graph.readers()
    ]
    lows: dict[str, float] = {}
    highs: dict[str, float] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for batch in split_batches(inputs):
        for index, values in enumerate(float_activations(graph, batch)):
            for convolution in convolutions[index]:
                name, total = convolution.name, _average_patches(values, convolution.window) * len(batch)
                means[name] = means.get(name, 0) + total / len(inputs)
            if name := names.get(index, ""):
                low, high = float(values.min()), float(values.max())
                if not np.isfinite([low, high]).all():
                    raise EdgeMnistError(
                        f"{name}: gives values that are not finite on the calibration data: the network diverged in "
                        "training, or the data is of another scale than that of its training"
                    )
                lows[name] = min(lows.get(name, np.inf), low)
                highs[name] = max(highs.get(name, -np.inf), high)
    histograms: dict[str, NDArray[np.int64]] = {}
    for batch in split_batches(inputs):
        for index, values in enumerate(float_activations(graph, batch)):
            if name := names.get(index, ""):
                counts = _count_values(values, lows[name], highs[name])
                histograms[name] = histograms.get(name, 0) + counts
    for name, mean in means.items():
        statistics[f"{name}.input_mean"] = mean
    for name in names.values():
        statistics[f"{name}.range"] = np.array([lows[name], highs[name]])
        statistics[f"{name}.histogram"] = histograms[name]
    return statistics


def _count_values(values: NDArray[Any], low: float, high: float) -> NDArray[np.int64]:
    """Count values in `BINS` bins from low to high, int64 (BINS,)."""
    try:
        return np.histogram(values, BINS, (low, high))[0].astype(np.int64)
    except ValueError:  # the range is too narrow for its magnitude to have so many bins: all values are nearly equal
        counts = np.zeros(BINS, np.int64)
        counts[0] = values.size
        return counts


def _check_inputs(graph: FloatGraph, inputs: NDArray[Any]) -> None:
    """Check that there are inputs, that they fit the network, and that they are finite.

    Raises:
        EdgeMnistError: they are not.
    """
    to_batch(inputs, graph)
    if not len(inputs):
        raise EdgeMnistError("there is no calibration data: expected at least one input")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        damaged = ~np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        raise EdgeMnistError(
            f"calibration data: {np.count_nonzero(damaged)} of {len(inputs)} inputs hold NaN or infinite values, the "
            f"first is number {int(damaged.argmax())}: leave them out"
        )


def _name_values(graph: FloatGraph) -> dict[int, str]:
    """The values of which a range is collected, by index, and the names of the operations that compute them."""
    readers = graph.readers()
    names = {} if graph.is_pixels else {0: "input"}
    for index, operation in enumerate(graph.operations):
        if isinstance(operation, Conv2d | Add | Multiply | Activation):
            value = index + 1
            while len(readers[value]) == 1 and isinstance(graph.operations[readers[value][0]], MaxPool2d):
                value = readers[value][0] + 1
            names[value] = operation.name
    return names


def _average_patches(values: NDArray[np.float32], window: Window) -> NDArray[np.float64]:
    """The mean of what each weight sees: float64 (channels, kernel height, kernel width)."""
    patches = extract_patches(values, window)  # (N, out height, out width, channels, kernel height, kernel width)
    return np.asarray(patches.mean(axis=(0, 1, 2), dtype=np.float64))
