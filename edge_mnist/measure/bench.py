"""Measures the latency, loading time, memory and accuracy of artifacts, and prints the tables of `edge-mnist bench`.

Every model runs in a process of its own, and the processes take turns, so that whatever else disturbs the machine
disturbs all of them alike.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_mnist import runtime
from edge_mnist.data.images import Images
from edge_mnist.formats.table import read_contract, require_format
from edge_mnist.formats.wasm_reader import SIMD_SECTION, read_metadata
from edge_mnist.runtime import compiled_c
from edge_mnist.system.child_processes import JsonLinesProcess, module_command
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes
from edge_mnist.system.tables import make_table, print_table

BATCH_SIZES = (1, 32)
"""Images per call of the runtime: one, as a camera delivers them, and enough to keep several cores busy."""
TURN = 0.1
"""Seconds that a model runs before the next one's turn: long against a call, short against a disturbance."""
_LEAST_BATCH, _LARGEST_BATCH = 8, 256
"""How many inputs each artifact classifies in its first turn, and in any turn at most: a large network has time for
few."""
_ORDER_SEED = 3
"""The seed of the order in which inputs are classified. MNIST's own begins with the easier half."""

JsonObject = dict[str, Any]
"""A JSON object."""
ReportProgress = Callable[[str, float], None]
"""A callback that takes what is being done and the completed part of the whole, 0 to 1."""


@dataclass(frozen=True)
class Timing:
    """What was measured in one process.

    Attributes:
        runtime: the runtime's name and version.
        load_ms: milliseconds from the file's content to the first result; the runtime has been imported before.
        latency: what `summarize_latency` returns, by batch size.
        turn_medians: the median duration of the calls of each turn, in microseconds, by batch size. Turns of several
            models with the same index are neighbours in time.
    """

    runtime: str
    load_ms: float
    latency: Mapping[int, JsonObject]
    turn_medians: Mapping[int, Sequence[float]]


def time_in_turns(
    commands: Mapping[str, Sequence[str]],
    report: ReportProgress,
    seconds: float,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time models in processes that answer as `timing_worker` does.

    Args:
        commands: the command that starts each model's process, by the model's name.
        report: is called before each step.
        seconds: how long each model runs with each batch size, in turns of `TURN`.
        batch_sizes: images per call.

    Returns:
        The measurements by name, and the reasons why the other models cannot run on this machine, by name.

    Raises:
        EdgeMnistError: a model cannot be run for another reason than a missing package, or its process ended.
    """
    with ExitStack() as stack:
        processes: dict[str, JsonLinesProcess] = {}
        loaded: dict[str, JsonObject] = {}
        missing: dict[str, str] = {}
        for number, (name, command) in enumerate(commands.items()):
            report(f"loading {name}", number / len(commands) / 10)
            process = stack.enter_context(JsonLinesProcess(name, command))
            answer = process.request()
            if "error" not in answer:
                processes[name], loaded[name] = process, answer
            elif answer["missing"]:
                missing[name] = answer["error"]
            else:
                raise EdgeMnistError(answer["error"])
        rounds = math.ceil(seconds / TURN)
        turns: dict[str, dict[int, list[list[int]]]] = {name: {size: [] for size in batch_sizes} for name in processes}
        for turn in range(rounds):
            for size in batch_sizes:
                for number, (name, process) in enumerate(processes.items()):
                    done = (turn + (batch_sizes.index(size) + number / len(processes)) / len(batch_sizes)) / rounds
                    report(f"{size} at a time: {name}", 0.1 + 0.9 * done)
                    turns[name][size].append(process.request(f"{size} {seconds / rounds}")["nanoseconds"])
    timings = {
        name: Timing(
            answer["runtime"],
            answer["load_ms"],
            {size: summarize_latency(list(chain.from_iterable(turns[name][size])), size) for size in batch_sizes},
            {size: [median(turn) / 1e3 for turn in turns[name][size]] for size in batch_sizes},
        )
        for name, answer in loaded.items()
    }
    return timings, missing


def summarize_latency(nanoseconds: Sequence[int], batch_size: int) -> JsonObject:
    """Summarize the durations of calls with `batch_size` images each.

    Returns:
        "runs"; "median_us", "p5_us" and "p99_us", percentiles of a call in microseconds; "images_per_second" at the
        median.
    """
    p5, median, p99 = np.percentile(nanoseconds, [5, 50, 99]) / 1e3
    figures = {"median_us": median, "p5_us": p5, "p99_us": p99, "images_per_second": 1e6 * batch_size / median}
    return {"runs": len(nanoseconds), **{name: round(float(value), 2) for name, value in figures.items()}}


def measure_artifacts(
    paths: Sequence[Path],
    images: NDArray[np.generic],
    report: ReportProgress,
    seconds: float,
    *,
    trust: bool,
    labelled: Images | None = None,
    accuracy_seconds: float = 0.0,
) -> JsonObject:
    """Time artifacts on one thread and on all cores, and measure the memory of their processes and their accuracy.

    Args:
        paths: the artifacts.
        images: what the network takes, uint8 (N, *input_shape) or float32, at least as many as the largest batch.
        report: is called before each step.
        seconds: how long each artifact runs with each batch size and number of threads.
        trust: whether TorchScript archives and C sources are run although no manifest beside them lists them.
        labelled: inputs with the labels of the network's classes; None to measure no accuracy.
        accuracy_seconds: how long all artifacts together classify these inputs; each classifies at least some.

    Returns:
        "threads" and "batches", the numbers of threads and the batch sizes; "artifacts", for each file "file",
        "format", "precision", "bytes", "runtime", "load_ms", "start_ms" (including the import of the runtime), "python"
        and "memory" (see `memory_worker`), "latency" by "threads" and "batch", and "accuracy", 0 to 1 or None;
        "accuracy", None or the "data" of the accuracy, the number of "images" that all artifacts classified, and the
        "seconds" that it took; "not_run", what is missing by file.

    Raises:
        EdgeMnistError: an artifact cannot be run, or this machine lacks the runtimes of all of them.
    """
    thread_counts = sorted({1, count_usable_cores()})
    contents = {path: read_bytes(path) for path in paths}
    for path, data in contents.items():
        runtime.check_origin(path, data, trust=trust)
    with tempfile.TemporaryDirectory() as scratch:
        images_file = Path(scratch, "images.npy")
        np.save(images_file, images)
        commands = {}
        for path, data in contents.items():
            Path(scratch, path.name).write_bytes(data)
        for threads in thread_counts:
            for path, data in contents.items():
                if threads == 1 or not require_format(data, str(path)).is_single_threaded:
                    arguments = (Path(scratch, path.name), images_file, threads)
                    commands[_label(path, threads)] = module_command("edge_mnist.measure.timing_worker", *arguments)
        timings, missing = time_in_turns(commands, report, seconds)
        not_run = {path.name: missing[_label(path, 1)] for path in paths if _label(path, 1) in missing}
        if len(not_run) == len(paths):
            raise EdgeMnistError("nothing can be run here: " + "; ".join(not_run.values()))
        rows = []
        for path, data in contents.items():
            if path.name in not_run:
                continue
            report(f"memory: {path.name}", 1.0)
            contract, single_thread = read_contract(data, str(path)), timings[_label(path, 1)]
            rows.append(
                {
                    "file": path.name,
                    "format": require_format(data, str(path)).name,
                    "precision": contract.precision,
                    "bytes": len(data),
                    "runtime": single_thread.runtime,
                    "load_ms": round(single_thread.load_ms, 2),
                    **_measure_memory(path, data, contract.convert_images(images), Path(scratch)),
                    "latency": [
                        {"threads": threads, "batch": size, **figures}
                        for threads in thread_counts
                        if _label(path, threads) in timings
                        for size, figures in timings[_label(path, threads)].latency.items()
                    ],
                }
            )
        accuracies: dict[str, float] = {}
        accuracy = None
        if labelled is not None and labelled.labels is not None and accuracy_seconds > 0:
            files = {row["file"]: Path(scratch, row["file"]) for row in rows}
            accuracies, accuracy = _measure_accuracy(files, labelled, Path(scratch), report, accuracy_seconds)
        for row in rows:
            row["accuracy"] = accuracies.get(row["file"])
    facts: JsonObject = {"threads": thread_counts, "batches": list(BATCH_SIZES), "artifacts": rows}
    return {**facts, "accuracy": accuracy, "not_run": not_run}


def _measure_accuracy(
    files: Mapping[str, Path], labelled: Images, scratch: Path, report: ReportProgress, seconds: float
) -> tuple[dict[str, float], JsonObject]:
    """Measure the accuracy of artifacts on the same inputs: they take turns until the time is over.

    Returns:
        The share of the inputs, 0 to 1, that each artifact classifies as labelled, by name; and "accuracy" as in
        `measure_artifacts`.
    """
    labels = np.asarray(labelled.labels)
    order = np.random.Generator(np.random.PCG64(_ORDER_SEED)).permutation(len(labels))
    labels, inputs_file = labels[order], scratch / "labelled.npy"
    np.save(inputs_file, labelled.pixels[order])
    with ExitStack() as stack:
        processes = {}
        for name, path in files.items():
            command = module_command("edge_mnist.measure.accuracy_worker", path, inputs_file)
            processes[name] = stack.enter_context(JsonLinesProcess(name, command))
            _request(processes[name])
        right, count, batch = dict.fromkeys(files, 0), 0, _LEAST_BATCH
        start, turn_seconds = time.monotonic(), 0.0
        # All artifacts classify the same inputs: a turn that would take too long is not begun.
        while count < len(labels) and (count == 0 or time.monotonic() - start + turn_seconds <= seconds):
            stop, turn_start = min(count + batch, len(labels)), time.monotonic()
            report(f"accuracy: {stop:,} images", stop / len(labels))
            for name, process in processes.items():
                classes = _request(process, f"{count} {stop}")["classes"]
                right[name] += int((np.asarray(classes) == labels[count:stop]).sum())
            next_batch = min(2 * batch, _LARGEST_BATCH)
            turn_seconds = (time.monotonic() - turn_start) * next_batch / batch
            count, batch = stop, next_batch
    accuracy = {"data": labelled.name, "images": count, "seconds": round(time.monotonic() - start, 2)}
    return {name: found / count for name, found in right.items()}, accuracy


def _request(process: JsonLinesProcess, line: str | None = None) -> JsonObject:
    """Request an answer of a process.

    Raises:
        EdgeMnistError: the process answers with an error, or has ended.
    """
    answer = process.request(line)
    if "error" in answer:
        raise EdgeMnistError(answer["error"])
    return answer


def count_usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _label(path: Path, threads: int) -> str:
    return f"{path.name}, {threads} thread{'s' if threads > 1 else ''}"


def _measure_memory(path: Path, data: bytes, inputs: NDArray[Any], scratch: Path) -> JsonObject:
    """Measure the memory of a process that only runs the model, and the time until its first result."""
    inputs_file = scratch / "inputs.npy"
    np.save(inputs_file, inputs)
    kind, model = require_format(data, str(path)).name, path
    if kind == "c":
        model = compiled_c.open_library(data, str(path)).path
    elif kind == "wasm":
        model = scratch / "simd.wasm"
        model.write_bytes(read_metadata(data, SIMD_SECTION) or data)
    command = module_command("edge_mnist.measure.memory_worker", model, inputs_file)
    with JsonLinesProcess(path.name, command) as process:
        return process.request()


def print_tables(result: JsonObject, console: Console) -> None:
    """Print the result of `measure_artifacts` with "machine" and "machine_after", the doctor's findings."""
    print_machine(result, console)
    for batch_size in result["batches"]:
        for threads in result["threads"]:
            print_table(_make_latency_table(result, threads, batch_size), console)
    print_table(_make_memory_table(result), console)
    if accuracy := result["accuracy"]:
        text = f"on {accuracy['images']:,} images of {accuracy['data']}, in {accuracy['seconds']:.1f} s"
        console.print(f"accuracy: {text}", soft_wrap=True)
    elif result["accuracy_seconds"]:
        text = "not measured: no labelled images that fit the network are at hand; --data names some"
        console.print(f"accuracy: {text}", soft_wrap=True)
    files: dict[str, list[str]] = {}
    for file, reason in result["not_run"].items():
        files.setdefault(reason.removeprefix(f"{file}: "), []).append(file)
    for reason, names in files.items():
        console.print(f"not run: {', '.join(names)}: {reason}", soft_wrap=True)


def print_machine(result: JsonObject, console: Console) -> None:
    """Print what the figures depend on, and what changed during the measurement."""
    for finding in result["machine"]:
        remedy = f": {finding['remedy']}" if finding["remedy"] else ""
        console.print(f"{finding['name']:<11} {finding['text']}{remedy}", soft_wrap=True)
    before = {finding["name"]: finding for finding in result["machine"]}
    for finding in result["machine_after"]:
        if finding["name"] in ("Load", "Power", "Temperature") and finding != before.get(finding["name"]):
            console.print(f"{finding['name']:<11} {finding['text']} afterwards", soft_wrap=True)


def _make_latency_table(result: JsonObject, threads: int, batch_size: int) -> Table:
    images = "1 image at a time" if batch_size == 1 else f"{batch_size} images at a time"
    title = f"{images}, {threads} thread{'s' if threads > 1 else ''}; microseconds"
    table = make_table(f"\n{title}", ("artifact",), ("median", "p5", "p99", "images/s"))
    for row in result["artifacts"]:
        for figures in row["latency"]:
            if (figures["threads"], figures["batch"]) == (threads, batch_size):
                times = (f"{figures[name]:,.1f}" for name in ("median_us", "p5_us", "p99_us"))
                table.add_row(row["file"], *times, f"{figures['images_per_second']:,.0f}")
    return table


def _make_memory_table(result: JsonObject) -> Table:
    headings = ("bytes", "load\nms", "with\nimport", "Rss\nMB", "private\nMB", "accuracy")
    title = "\nSize; loading; memory of a process that only runs the model, one thread; accuracy"
    table = make_table(title, ("artifact", "runtime"), headings, wraps=("runtime",))
    for row in result["artifacts"]:
        cells = [f"{row['bytes']:,}", f"{row['load_ms']:.1f}", f"{row['start_ms']:,.0f}"]
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}"
        table.add_row(row["file"], row["runtime"], *cells, *_format_megabytes(row["memory"]), accuracy)
    table.add_section()
    table.add_row("Python and NumPy", "", "", "", "", *_format_megabytes(result["artifacts"][0]["python"]), "")
    return table


def _format_megabytes(memory: JsonObject | None) -> tuple[str, str]:
    """Format resident and private memory; "?" where the system does not report it."""
    return (f"{memory['rss_mb']:.1f}", f"{memory['private_mb']:.1f}") if memory else ("?", "?")
