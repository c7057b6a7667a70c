"""Times models, each in a process of its own, taking turns, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.formats.table import read_contract, require_format
from edge_mnist.runtime import compiled_c
from edge_mnist.system.child_processes import JsonLinesProcess, module_command
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes

BATCHES = (1, 32)
TURN = 0.1
"""Seconds that a model runs before it is the next one's turn."""

Facts = dict[str, Any]
Tell = Callable[[str, float], None]
"""Is told what is being done, and the part of the whole (0 to 1) that is done."""


@dataclass(frozen=True)
class Timed:
    """What was measured of one process.

    Attributes:
        runtime: its name and version.
        load_ms: milliseconds from the file's content to the first result, the runtime being imported.
        latency: by size of the batch.
    """

    runtime: str
    load_ms: float
    latency: Mapping[int, Facts]


def alternate(
    commands: Mapping[str, Sequence[str]], tell: Tell, seconds: float, batches: Sequence[int] = BATCHES
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Time models whose processes serve as `benchmark_worker` does.

    Args:
        commands: starts the process of each.
        tell: see `Tell`.
        seconds: for which each runs with each size of batch, in turns of `TURN`.
        batches: their sizes.

    Returns:
        What was measured by name, and of those that lack something on this machine what that is.

    Raises:
        EdgeMnistError: a model cannot be run, or its process ended.
    """
    with ExitStack() as stack:
        processes: dict[str, JsonLinesProcess] = {}
        told: dict[str, Facts] = {}
        missing: dict[str, str] = {}
        for number, (name, command) in enumerate(commands.items()):
            tell(f"loading {name}", number / len(commands) / 10)
            process = stack.enter_context(JsonLinesProcess(name, command))
            answer = process.request()
            if "error" not in answer:
                processes[name], told[name] = process, answer
            elif answer["missing"]:
                missing[name] = answer["error"]
            else:
                raise EdgeMnistError(answer["error"])
        rounds = math.ceil(seconds / TURN)
        times: dict[str, dict[int, list[int]]] = {name: {batch: [] for batch in batches} for name in processes}
        for turn in range(rounds):
            for batch in batches:
                for number, (name, process) in enumerate(processes.items()):
                    done = (turn + (batches.index(batch) + number / len(processes)) / len(batches)) / rounds
                    tell(f"{batch} at a time: {name}", 0.1 + 0.9 * done)
                    times[name][batch] += process.request(f"{batch} {seconds / rounds}")["nanoseconds"]
    timed = {
        name: Timed(
            answer["runtime"], answer["load_ms"], {batch: latency(times[name][batch], batch) for batch in batches}
        )
        for name, answer in told.items()
    }
    return timed, missing


def latency(nanoseconds: Sequence[int], batch: int) -> Facts:
    """Percentiles of how long runs of `batch` images took, in microseconds; images/s at the median."""
    p5, median, p99 = np.percentile(nanoseconds, [5, 50, 99]) / 1e3
    facts = {"median_us": median, "p5_us": p5, "p99_us": p99, "images_per_second": 1e6 * batch / median}
    return {"runs": len(nanoseconds), **{name: round(float(value), 2) for name, value in facts.items()}}


def measure(paths: Sequence[Path], images: NDArray[np.uint8], tell: Tell, seconds: float, *, trust: bool) -> Facts:
    """Time artifacts on one thread and on all, and weigh their processes.

    Args:
        paths: the artifacts.
        images: uint8 (N, channels, height, width), as many as the largest batch or more.
        tell: see `Tell`.
        seconds: see `alternate`.
        trust: run TorchScript archives and C that no manifest beside them knows.

    Returns:
        "threads", "batches"; "artifacts": of each file, format, precision, bytes, runtime, load_ms, start_ms (with the
        import of the runtime), memory (see `benchmark_memory`), and latency by threads and batch; "not_run": by file,
        what is missing.

    Raises:
        EdgeMnistError: an artifact cannot be run; nothing can be.
    """
    cores = usable_cores()
    contents = {path: read_bytes(path) for path in paths}
    for path, data in contents.items():
        runtime.check_origin(path, data, trust=trust)
    with tempfile.TemporaryDirectory() as scratch:
        images_file = Path(scratch, "images.npy")
        np.save(images_file, images)
        commands = {}
        for path, data in contents.items():
            Path(scratch, path.name).write_bytes(data)
        for threads in sorted({1, cores}):
            for path, data in contents.items():
                if threads == 1 or require_format(data, str(path)).name != "c":  # C runs on one thread
                    arguments = (Path(scratch, path.name), images_file, threads)
                    commands[_name(path, threads)] = module_command("edge_mnist.measure.benchmark_worker", *arguments)
        timed, missing = alternate(commands, tell, seconds)
        not_run = {path.name: missing[_name(path, 1)] for path in paths if _name(path, 1) in missing}
        if len(not_run) == len(paths):
            raise EdgeMnistError("nothing can be run here: " + "; ".join(not_run.values()))
        rows = []
        for path, data in contents.items():
            if path.name in not_run:
                continue
            tell(f"memory: {path.name}", 1.0)
            terms, first = read_contract(data, str(path)), timed[_name(path, 1)]
            rows.append(
                {
                    "file": path.name,
                    "format": require_format(data, str(path)).name,
                    "precision": terms.precision,
                    "bytes": len(data),
                    "runtime": first.runtime,
                    "load_ms": round(first.load_ms, 2),
                    **_weigh(path, data, terms.convert_images(images), Path(scratch)),
                    "latency": [
                        {"threads": threads, "batch": batch, **facts}
                        for threads in sorted({1, cores})
                        if _name(path, threads) in timed
                        for batch, facts in timed[_name(path, threads)].latency.items()
                    ],
                }
            )
    return {"threads": sorted({1, cores}), "batches": list(BATCHES), "artifacts": rows, "not_run": not_run}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _name(path: Path, threads: int) -> str:
    return f"{path.name}, {threads} thread{'s' if threads > 1 else ''}"


def _weigh(path: Path, data: bytes, inputs: NDArray[Any], scratch: Path) -> Facts:
    """The memory of a process that only runs the model, and how long that takes to its first result."""
    inputs_file = scratch / "inputs.npy"
    np.save(inputs_file, inputs)
    model = compiled_c.open_library(data, str(path)).path if require_format(data, str(path)).name == "c" else path
    command = module_command("edge_mnist.measure.benchmark_memory", model, inputs_file)
    with JsonLinesProcess(path.name, command) as process:
        return process.request()
