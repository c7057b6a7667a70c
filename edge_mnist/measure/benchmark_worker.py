"""Times one model in a process of its own: `python -m edge_mnist.measure.benchmark_worker ARTIFACT IMAGES.npy THREADS`.

It prints a line of JSON with the runtime and how long loading takes, then for each line `BATCH SECONDS` on stdin one
with how long each of the runs within so many seconds took.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.system.errors import EdgeMnistError, NotInstalledError

LOADS = 5
"""How often a model is opened, to say how long that takes."""

WARM_UP = 0.2
"""Part of each turn that is run before it counts: another process has just had the caches."""


@dataclass(frozen=True)
class Model:
    """What is timed.

    Attributes:
        runtime: its name and version.
        run: from prepared inputs, (batch, ...), to outputs as an array.
        inputs: prepared, (N, ...), as many as the largest batch or more.
    """

    runtime: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    inputs: NDArray[Any]


def serve(load: Callable[[], Model]) -> None:
    """Load a model several times, then time runs as stdin asks; what cannot be loaded is told as {"error": ...}."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what runtimes print is no answer
    seconds = []
    try:
        for _ in range(LOADS):
            start = time.perf_counter()
            model = load()
            model.run(model.inputs[:1])
            seconds.append(time.perf_counter() - start)
    except EdgeMnistError as error:
        print(json.dumps({"error": str(error), "missing": isinstance(error, NotInstalledError)}), file=answers)
        return
    print(json.dumps({"runtime": model.runtime, "load_ms": 1e3 * sorted(seconds)[LOADS // 2]}), file=answers)
    for line in sys.stdin:
        batch, turn = line.split()
        print(json.dumps({"nanoseconds": nanoseconds(model, int(batch), float(turn))}), file=answers)


def nanoseconds(model: Model, batch: int, seconds: float) -> list[int]:
    """How long each run of `batch` inputs takes; runs, at least one, for so many seconds after a warm-up."""
    starts = range(0, len(model.inputs) - batch + 1, batch)
    batches = itertools.cycle([np.ascontiguousarray(model.inputs[start : start + batch]) for start in starts])
    _run_for(model, batches, WARM_UP * seconds)
    return _run_for(model, batches, seconds)


def _run_for(model: Model, batches: Iterator[NDArray[Any]], seconds: float) -> list[int]:
    times = []
    end = time.perf_counter_ns() + int(1e9 * seconds)
    for inputs in batches:
        start = time.perf_counter_ns()
        model.run(inputs)
        now = time.perf_counter_ns()
        times.append(now - start)
        if now >= end:
            break
    return times


def main(artifact: str, images_file: str, threads: str) -> None:
    """Serve an artifact; C, whose origin the caller has looked at, and TorchScript are trusted."""
    from edge_mnist import runtime

    data, images = Path(artifact).read_bytes(), np.load(images_file)

    def load() -> Model:
        classifier = runtime.load_bytes(data, Path(artifact).name, int(threads))
        return Model(classifier.runtime, classifier.run, classifier.contract.convert_images(images))

    serve(load)


if __name__ == "__main__":
    main(*sys.argv[1:])
