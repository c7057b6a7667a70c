"""Compares the time of an epoch of training with that of the usual loop: `python benchmarks/training.py`.

Run it from the checkout. The usual loop uses torchvision's MNIST, a DataLoader and Adam, in float32, with the same
network and without augmentation, in the fastest of its configurations; edge-mnist trains with augmentation. Each epoch
runs in a new process, and the sides take turns in rounds, so that whatever disturbs the machine disturbs all of them.
Starting, importing, loading files and the first steps are not timed. For edge-mnist the steps are timed, as recorded
in its metrics.jsonl; for the usual loop the whole loop, in which the DataLoader starts and ends its workers.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import click
import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist import doctor
from edge_mnist.data import mnist
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import write_whole
from edge_mnist.training import loop
from edge_mnist.training.network import MEAN, STD, DigitNet
from edge_mnist.training.precision import choose_bfloat16
from edge_mnist.training.recipes import RECIPES
from edge_mnist.training.runs import METRICS, TrainingSettings, has_bfloat16
from edge_mnist.training.torchvision_shim import import_torchvision

EPOCH = 60_000
"""The number of images in an epoch of MNIST."""
WARM_UP = 20
"""The number of batches that the usual loop runs before it is timed; edge-mnist runs a whole epoch before."""
TRIAL = 150
"""The number of batches with which the configurations of the usual loop are compared."""
NUM_WORKERS = (0, 1, 2)
"""The numbers of DataLoader workers that are tried."""
USUAL = "usual loop"
"""The name of the usual loop in the tables."""

Facts = dict[str, Any]


def measure(images: int, rounds: int) -> Facts:
    """Time all sides on the first `images` training images (0: all), in images/s.

    Raises:
        EdgeMnistError: MNIST cannot be read, or a side failed.
    """
    host = [dataclasses.asdict(finding) for finding in doctor.examine_machine()]
    faster = choose_bfloat16(TrainingSettings(RECIPES["adam-onecycle"], device="cpu"))
    precision, other = ("bfloat16", "float32") if faster else ("float32", "bfloat16")
    with tempfile.TemporaryDirectory() as root:
        count = write_data(Path(root), images)
        trials = []
        for num_workers, threads in itertools.product(NUM_WORKERS, sorted({1, torch.get_num_threads()})):
            label = f"{USUAL}, num_workers {num_workers}, torch threads {threads}"
            speed = time_side(label, ["usual", root, str(num_workers), str(threads), str(TRIAL)])
            trials.append({"num_workers": num_workers, "threads": threads, "images_per_second": speed})
        best = max(trials, key=lambda trial: trial["images_per_second"])
        sides = {
            "edge-mnist": ["ours", root, precision],
            USUAL: ["usual", root, str(best["num_workers"]), str(best["threads"])],
            f"edge-mnist, {other}": ["ours", root, other],
            "edge-mnist, one process": ["ours", root, precision, "--processes", "1"],
        }
        if not has_bfloat16("cpu"):
            del sides["edge-mnist, bfloat16"]  # it is emulated there, which nobody would use
        speeds: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(1, rounds + 1):
            for name, arguments in sides.items():
                speeds[name].append(time_side(f"round {turn}/{rounds}: {name}", arguments))
    facts = {"machine": host, "torch": torch.__version__, "precision": precision, "images": count}
    compared = {name: compare(values, speeds[USUAL]) for name, values in speeds.items()}
    return facts | {"trials": trials, "best": best, "sides": compared}


def write_data(root: Path, images: int) -> int:
    """Write the first `images` of each part of MNIST (0: all) as torchvision expects them; return how many train."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    parts = {"train": mnist.load("train"), "t10k": mnist.load("test")}
    for name, part in parts.items():
        for kind, values in (("images-idx3", part.images), ("labels-idx1", part.labels)):
            chosen = values[: images or None].astype(np.uint8)
            header = np.array([0x800 + chosen.ndim, *chosen.shape], ">u4")  # of an IDX file: 8 means unsigned bytes
            (raw / f"{name}-{kind}-ubyte").write_bytes(header.tobytes() + chosen.tobytes())
    return min(images or len(parts["train"]), len(parts["train"]))


def time_side(label: str, arguments: list[str]) -> float:
    """Run a hidden command of this script in a process of its own, and return its images/s; stderr shows `label`.

    Raises:
        EdgeMnistError: the process failed.
    """
    click.echo(f"{label} ... ", err=True, nl=False)
    command = [sys.executable, __file__, *arguments]
    # in a session of its own, so that Ctrl-C reaches only this process, which then ends that one
    process = Popen(command, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    try:
        output, errors = process.communicate()
    except KeyboardInterrupt:
        process.terminate()
        process.communicate()  # waits for its workers too, which share its pipes
        raise
    if process.returncode:
        raise EdgeMnistError(f"{label}: ended with status {process.returncode}:\n{errors.strip()}")
    timed = json.loads(output)
    speed: float = timed["images"] / timed["seconds"]
    click.echo(f"{speed:,.0f} images/s", err=True)
    return speed


def compare(speeds: list[float], usual: list[float]) -> Facts:
    """Compare the images/s of a side in each round with those of the usual loop."""
    ratios = [speed / other for speed, other in zip(speeds, usual, strict=True)]
    median = statistics.median(speeds)
    ratio = median / statistics.median(usual)
    return {"images_per_second": speeds, "median": median, "ratio": ratio, "ratio_range": [min(ratios), max(ratios)]}


def show(facts: Facts, console: Console) -> None:
    """Print the configurations of the usual loop, then all sides with their ratios."""
    for finding in facts["machine"]:
        console.print(f"{finding['name']:<11} {finding['text']}")
    console.print(
        f"torch {facts['torch']}; {facts['images']:,} images; edge-mnist chose to train in {facts['precision']}\n\n"
        "The usual loop, part of an epoch:"
    )
    for trial in facts["trials"]:
        label = f"  num_workers {trial['num_workers']}, torch threads {trial['threads']}"
        mark = "  fastest" if trial == facts["best"] else ""
        console.print(f"{label}: {trial['images_per_second']:7,.0f} images/s{mark}")
    table = Table(title="\nWhole epochs", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"rounds: {len(facts['sides'][USUAL]['images_per_second'])}")
    headers = ("images/s\nminimum", "median", "maximum", "60,000\nimages, s", "times the\nusual loop", "by round")
    for header in headers:
        table.add_column(header, justify="right")
    for name, side in facts["sides"].items():
        speeds = (min(side["images_per_second"]), side["median"], max(side["images_per_second"]))
        low, high = side["ratio_range"]
        cells = [f"{EPOCH / side['median']:.2f}", f"{side['ratio']:.2f}", f"{low:.2f} to {high:.2f}"]
        table.add_row(name, *(f"{speed:,.0f}" for speed in speeds), *cells)
    console.print(table)


@click.group(invoke_without_command=True)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Time so many epochs of each side."
)
@click.option("--images", type=click.IntRange(0), default=0, help="Use only so many images, to try the script.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures into this file."
)
@click.pass_context
def main(context: click.Context, rounds: int, images: int, json_file: Path | None) -> None:
    """Compare the time of an epoch of training with that of the usual loop."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as for Ctrl-C, so that nothing is left behind
    if context.invoked_subcommand:
        return
    try:
        facts = measure(images, rounds)
        if json_file is not None:
            write_whole(json_file, (json.dumps(facts, indent=2) + "\n").encode())
    except EdgeMnistError as error:
        raise click.ClickException(str(error)) from error
    show(facts, Console(width=100, highlight=False))


@main.command(hidden=True)
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("precision")
@click.option("--processes", type=int)
def ours(root: Path, precision: str, processes: int | None) -> None:
    """Train two epochs with edge-mnist, of which the second is timed."""
    recipe = dataclasses.replace(RECIPES["adam-onecycle"], epochs=2)
    settings = TrainingSettings(recipe, everything=True, device="cpu", bfloat16=precision == "bfloat16")
    learn = mnist.load("train", root)
    with tempfile.TemporaryDirectory(dir=root) as out:
        loop.train(settings, learn, mnist.load("test", root), Path(out), worker_count=processes)
        row = json.loads((Path(out) / METRICS).read_text().splitlines()[1])
    batch = min(recipe.batch_size, len(learn))
    images = len(learn) // batch * batch  # whole batches only
    click.echo(json.dumps({"images": images, "seconds": images / row["images_per_second"]}))


@main.command(hidden=True)
@click.argument("root")
@click.argument("num_workers", type=int)
@click.argument("threads", type=int)
@click.argument("batches", type=int, required=False)
def usual(root: str, num_workers: int, threads: int, batches: int | None) -> None:
    """Train as everyone does, one epoch or its first `batches`."""
    import_torchvision()
    from torchvision import datasets, transforms

    torch.set_num_threads(threads)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    learn = datasets.MNIST(root=root, transform=transform)
    loader: DataLoader[Any] = DataLoader(learn, batch_size=128, shuffle=True, num_workers=num_workers)
    network = DigitNet()
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)

    def run(batches: int | None) -> int:
        seen, correct, total = 0, 0, 0.0
        for images, labels in itertools.islice(loader, batches):  # (B, 1, 28, 28), (B,)
            optimizer.zero_grad()
            logits = network(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item()
            correct += (logits.argmax(1) == labels).sum().item()
            seen += len(labels)
        return seen

    run(WARM_UP)
    began = time.perf_counter()
    images = run(batches)
    click.echo(json.dumps({"images": images, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
