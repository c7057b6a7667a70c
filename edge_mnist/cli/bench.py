"""The command that measures speed, size, memory and accuracy: `bench`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from edge_mnist.cli import options


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option(
    "--seconds",
    type=options.FloatRange(0.01, 3600),
    default=2.0,
    show_default=True,
    help="Run each artifact for this many seconds for each size of batch and number of threads.",
)
@click.option(
    "--data",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Measure the accuracy on these labelled inputs: a folder of pictures in folders named after their classes, a "
    ".npz of images and labels, or a folder with MNIST's files.  [default: EDGE_MNIST_DATA or the cache]",
)
@click.option(
    "--images",
    type=click.IntRange(1, 1_000_000),
    help="Read at most this many of them.  [default: 10000, or fewer if the network is large]",
)
@click.option(
    "--accuracy-seconds",
    type=options.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Let all artifacts together classify them for this many seconds; 0 measures no accuracy.",
)
@options.resize
@options.skip_bad
@options.trust_changed
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(folder: Path, as_json: bool, **others: Any) -> None:
    """Measure speed, memory, size and accuracy of artifacts in DIR.

    DIR is a folder that `edge-mnist export` wrote, [default: artifacts]. Those artifacts are measured that this machine
    can run: one image and 32 at a time, on one thread and on all, the artifacts taking turns. What is timed is the
    call of the runtime, from a prepared input to the output as an array; memory is that of a process that does nothing
    else. The accuracy, of all artifacts on the same images, is measured where labelled images are at hand that fit the
    network, and is `-` elsewhere. On a Raspberry Pi, the board, the governor of its clock and its throttling are
    printed too.
    """
    from edge_mnist import pipeline
    from edge_mnist.measure.bench import print_tables
    from edge_mnist.system.tables import make_console

    facts = pipeline.benchmark(folder, **others)
    if as_json:
        click.echo(json.dumps(facts))
    else:
        print_tables(facts, make_console(highlight=False))
