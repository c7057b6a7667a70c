"""Prints what the limit of 2^24 on accumulators costs: `python benchmarks/accumulators.py [FOLDER...]`.

It needs nothing but the checkout. The first table is of wide layers with random weights, whose inputs come after a ReLU
or are pixels; the second one is of the networks that were exported into the folders. A channel whose accumulator could
reach 2^24 gets fewer levels for its weights than the 64 (or with `--weight-range 127`, 127) on each side of zero.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist.bundle.reference import read_bundle
from edge_mnist.graph import calibration
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.operations import (
    ACCUMULATOR_LIMIT,
    Conv2d,
    FloatGraph,
    QuantizedConv2d,
    QuantizedGraph,
    bound_accumulators,
)
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.tables import make_console, make_table, print_table

LAYERS = {"1x1 over 1,024": (1024, 1), "3x3 over 512": (512, 3), "3x3 over 1,024": (1024, 3)}
"""The channels and the kernel size of layers with random weights."""

DISTRIBUTIONS = ("Laplace", "normal", "uniform")
"""The distributions of the weights. PyTorch's initial weights of a convolution are uniform."""

RANGES = (64, 127)
"""The largest magnitudes of a weight that are tried."""


def draw_weights(distribution: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw weights, float32 of a shape."""
    random = np.random.Generator(np.random.PCG64(0))
    values = {
        "Laplace": lambda: random.laplace(size=shape),
        "normal": lambda: random.standard_normal(shape),
        "uniform": lambda: random.uniform(-1, 1, shape),
    }[distribution]()
    return np.asarray(values / 100, np.float32)


def quantize_layer(channels: int, size: int, distribution: str, weight_range: int) -> QuantizedGraph:
    """Quantize one convolution of random weights over pixels, which are all positive, with 64 output channels."""
    weight = draw_weights(distribution, (64, channels, size, size))
    convolution = Conv2d("convolution", weight, np.zeros(64, np.float32), Window((size, size)))
    graph = FloatGraph((channels, size, size), 0, (convolution,))
    pixels = np.random.Generator(np.random.PCG64(1)).integers(0, 256, (32, *graph.input_shape), dtype=np.uint8)
    return quantize_graph(graph, calibration.collect(graph, pixels), weight_range=weight_range)[0]


def measure_layers(graph: QuantizedGraph) -> list[tuple[str, int, NDArray[np.int64], float]]:
    """For each convolution its name, its number of weights a channel, its levels, and the share of the limit.

    The levels are the largest magnitude of a weight of each channel, int64 (channels,), without channels of zeros; the
    share is that of the largest possible accumulator.
    """
    rows = []
    quantizations = graph.quantizations()
    for index, operation in enumerate(graph.operations):
        if isinstance(operation, QuantizedConv2d):
            zero_point = quantizations[graph.sources(index)[0]].zero_point
            bound = int(bound_accumulators(operation.weight, operation.bias, zero_point).max())
            levels = np.abs(operation.weight.astype(np.int64)).reshape(len(operation.weight), -1).max(axis=1)
            rows.append((operation.name, operation.weight[0].size, levels[levels > 0], bound / ACCUMULATOR_LIMIT))
    return rows


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
def main(folders: tuple[Path, ...]) -> None:
    """Print how near the accumulators of wide layers, and of the networks in FOLDERS, come to 2^24."""
    console = make_console(highlight=False)
    headings = [f"{column}\n+-{limit}" for limit in RANGES for column in ("levels", "of 2^24")]
    table = make_table("Layers with random weights, inputs of one sign", ("layer", "weights"), headings)
    for name, (channels, size) in LAYERS.items():
        for distribution in DISTRIBUTIONS:
            cells = []
            for weight_range in RANGES:
                (_, _, levels, share) = measure_layers(quantize_layer(channels, size, distribution, weight_range))[0]
                cells += [f"{levels.mean():.0f}", f"{share:.2f}"]
            table.add_row(name, distribution, *cells)
    print_table(table, console)
    if not folders:
        return
    table = make_table(
        "\nThe layer of each exported network that comes nearest to 2^24", ("network", "layer"), ("taps", "of 2^24")
    )
    for folder in folders:
        try:
            graph = read_bundle(folder)[1].quantized_graph
        except EdgeMnistError as error:
            raise click.ClickException(str(error)) from error
        if graph is None:
            raise click.ClickException(f"{folder}: holds no int8 network: export with --int8")
        name, taps, _, share = max(measure_layers(graph), key=lambda row: row[3])
        table.add_row(folder.name, name, f"{taps:,}", f"{share:.2f}")
    print_table(table, console)


if __name__ == "__main__":
    main()
