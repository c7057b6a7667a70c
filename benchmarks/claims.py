"""Measures what the reference claims of the deployed model: `python benchmarks/claims.py artifacts`, from the checkout.

Each artifact runs in a process of its own, one thread, one image at a time; the processes take turns in rounds, so that
what disturbs the machine disturbs all of them. Measure when the machine is idle: the load is printed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from edge_mnist import summary
from edge_mnist.contract import Contract
from edge_mnist.errors import EdgeMnistError
from edge_mnist.export.bundle import read_bundle
from edge_mnist.files import read_bytes
from edge_mnist.sources import SHIPPED

ROOT = Path(__file__).parent.parent

RUNS = 100
"""Runs of an artifact in a round, before it is the next one's turn."""

CLAIMS = {"parameters": 18_662, "bytes": 73_000, "milliseconds": 1.0, "megabytes": 50.0, "epoch_seconds": 6.5}

Facts = dict[str, Any]


class Worker:
    """A process that holds one artifact and waits for its turn; `told` is what it measured of itself on starting."""

    def __init__(self, artifact: Path, inputs: Path, images: Path) -> None:
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "claims_worker.py"),
            str(artifact),
            str(inputs),
            str(images),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.told = self._ask("")

    def time(self, runs: int) -> dict[str, list[int]]:
        """Nanoseconds of each of `runs` calls of the runtime ("run") and of `Classifier.predict` ("predict")."""
        return self._ask(f"{runs}\n")

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, question: str) -> Facts:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        self._process.stdin.write(question)
        self._process.stdin.flush()
        answer: Facts = json.loads(self._process.stdout.readline() or "null")
        if answer is None:
            raise EdgeMnistError("the process of an artifact ended; its last words stand above")
        return answer


def measure(folder: Path, rounds: int) -> list[Facts]:
    """Run every artifact of a bundle, `RUNS * rounds` times each; sizes in bytes, times in us, memory in MB.

    Raises:
        EdgeMnistError: the folder is no bundle, or an artifact cannot be run.
    """
    manifest, reference = read_bundle(folder)
    entries = {name: entry for name, entry in manifest["files"].items() if "format" in entry}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "images.npy")
        np.save(images, reference.images)
        try:
            for name, entry in entries.items():
                inputs = Path(scratch, f"{name}.npy")
                np.save(inputs, Contract.from_json(json.dumps(entry["contract"])).inputs(reference.images))
                workers[name] = Worker(folder / name, inputs, images)
            times: dict[str, dict[str, list[int]]] = {name: {"run": [], "predict": []} for name in entries}
            for _ in range(rounds):
                for name, worker in workers.items():
                    for call, nanoseconds in worker.time(RUNS).items():
                        times[name][call] += nanoseconds
        finally:
            for worker in workers.values():
                worker.stop()
    return [
        {
            "file": name,
            "bytes": entry["bytes"],
            **workers[name].told,
            "run_us": quantiles(times[name]["run"]),
            "predict_us": quantiles(times[name]["predict"]),
        }
        for name, entry in entries.items()
    ]


def quantiles(nanoseconds: list[int]) -> Facts:
    """The 5th, 50th and 99th percentile, in microseconds."""
    values: NDArray[np.float64] = np.percentile(nanoseconds, [5, 50, 99]) / 1e3
    return dict(zip(("p5", "median", "p99"), values.round(1).tolist(), strict=True))


def epochs(run: Path) -> Facts:
    """How long the epochs of a training run took, in seconds, with validation.

    Raises:
        EdgeMnistError: the run has no metrics.
    """
    try:
        lines = [json.loads(line) for line in read_bytes(run / "metrics.jsonl").splitlines()]
        seconds = [line["seconds"] for line in lines]
        speed = statistics.median(line["images_per_second"] for line in lines)
    except (ValueError, KeyError) as error:
        raise EdgeMnistError(f"{run / 'metrics.jsonl'}: expected the metrics of a run of edge-mnist") from error
    return {
        "epochs": len(seconds),
        "median": statistics.median(seconds),
        "least": min(seconds),
        "images_per_second": speed,
    }


def machine() -> Facts:
    """The processor by name, its cores, and how busy they were in the last minute."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return {"processor": names[0] if names else platform.machine(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def show(facts: Facts, console: Console) -> None:
    """Print the tables."""
    host = facts["machine"]
    console.print(
        f"{host['processor']}, {host['cores']} cores, Python {facts['python']}; load {host['load']:.2f} before and "
        f"{facts['load_after']:.2f} after",
        highlight=False,
    )
    table = _table(f"One image at a time, one thread, {facts['runs']:,} runs each, in microseconds", 2)
    for header in ("runtime\nmedian", "p5", "p99", "predict()\nmedian", "p99"):
        table.add_column(header, justify="right")
    for row in facts["artifacts"]:
        run, predict = row["run_us"], row["predict_us"]
        times = (run["median"], run["p5"], run["p99"], predict["median"], predict["p99"])
        table.add_row(row["file"], row["runtime"], *(f"{value:,.0f}" for value in times))
    console.print(table)
    table = _table("Size; loading; memory of a process of NumPy, runtime and model, in MB", 1)
    for header in ("bytes", "load\nms", "with import\nof the runtime", "peak MB", "at rest", "NumPy\nalone"):
        table.add_column(header, justify="right")
    for row in facts["artifacts"]:
        memory = [*row["memory"].values(), *list(row["numpy"].values())[:1]]
        cells = [f"{row['bytes']:,}", f"{1e3 * row['load_s']:.1f}", f"{1e3 * row['first_s']:,.0f}"]
        table.add_row(row["file"], *cells, *(f"{value:.1f}" for value in memory or [float("nan")] * 3))
    console.print(table)
    table = _table("Against the claims", 3)
    table.columns[0].header, table.columns[1].header, table.columns[2].header = "claim", "of the reference", "here"
    for name, claimed, found in against_claims(facts):
        table.add_row(name, claimed, found)
    console.print(table)


def against_claims(facts: Facts) -> list[tuple[str, str, str]]:
    """Each claim: its name, what the reference says, what was measured here."""

    def of_each(values: dict[str, str]) -> str:
        return "\n".join(f"{value}  {name}" for name, value in values.items())

    rows = {row["file"].removeprefix("model_"): row for row in facts["artifacts"]}
    found = [
        ("parameters", f"{CLAIMS['parameters']:,}", f"{facts['parameters']:,}"),
        (
            "size",
            f"about {CLAIMS['bytes'] / 1e3:.0f} KB",
            of_each({n: f"{r['bytes'] / 1e3:.1f} KB" for n, r in rows.items()}),
        ),
        (
            "inference",
            f"under {CLAIMS['milliseconds']:.0f} ms",
            of_each({n: f"{r['run_us']['median'] / 1e3:.3f} ms" for n, r in rows.items()}),
        ),
    ]
    peaks = {name: f"{row['memory']['VmHWM']:.0f} MB" for name, row in rows.items() if row["memory"]}
    found.append(("memory", f"under {CLAIMS['megabytes']:.0f} MB", of_each(peaks)))
    if facts["training"]:
        run = facts["training"]
        told = f"{run['median']:.1f} s, median of {run['epochs']}; {run['images_per_second']:,.0f} images/s"
        found.append(("an epoch", f"{CLAIMS['epoch_seconds']} s", told))
    return found


def _table(title: str, names: int) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header in ("artifact", "runtime", "")[:names]:
        table.add_column(header)
    return table


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("artifacts"))
@click.option("--rounds", type=click.IntRange(1), default=50, show_default=True, help=f"Of {RUNS} runs each.")
@click.option(
    "--run", type=click.Path(path_type=Path), help="A training run's folder, to tell how long an epoch takes."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: Path, rounds: int, run: Path | None, as_json: bool) -> None:
    """Measure the artifacts in FOLDER, as `edge-mnist export --int8` writes them, against the reference's claims."""
    host = machine()
    try:
        facts = {
            "machine": host,
            "python": platform.python_version(),
            "parameters": summary.describe(SHIPPED)["parameters"],
            "runs": rounds * RUNS,
            "artifacts": measure(folder, rounds),
            "training": epochs(run) if run else None,
        }
    except EdgeMnistError as error:
        raise click.ClickException(str(error)) from error
    facts["load_after"] = os.getloadavg()[0]
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        show(facts, Console(width=100))


if __name__ == "__main__":
    main()
