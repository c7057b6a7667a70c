"""Times one model in a process of its own: `python -m edge_mnist.measure.timing_worker ARTIFACT IMAGES.npy THREADS`.

It prints one line of JSON with the name of the runtime and the loading time. Then it reads lines `BATCH SECONDS` from
stdin and answers each with one line of JSON: the durations of the calls that it made in that time.
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
"""How many times the model is loaded; the median of the durations is reported."""

WARM_UP = 0.2
"""The part of each turn that is run before it counts, because another process has just used the caches."""


@dataclass(frozen=True)
class TimedModel:
    """A loaded model with prepared inputs.

    Attributes:
        runtime: the runtime's name and version.
        run: maps prepared inputs (batch, ...) to outputs, as arrays.
        inputs: (N, ...), at least as many as the largest batch.
    """

    runtime: str
    run: Callable[[NDArray[Any]], NDArray[Any]]
    inputs: NDArray[Any]


def serve(load: Callable[[], TimedModel]) -> None:
    """Load a model several times, then time its calls as stdin asks.

    A model that cannot be loaded is answered with {"error": text, "missing": whether a package is not installed}.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that what a runtime prints is not taken for an answer
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
        batch_size, turn = line.split()
        print(json.dumps({"nanoseconds": time_calls(model, int(batch_size), float(turn))}), file=answers)


def time_calls(model: TimedModel, batch_size: int, seconds: float) -> list[int]:
    """Call a model with `batch_size` inputs at a time for a number of seconds, at least once, after a warm-up.

    Returns:
        The duration of each call in nanoseconds.
    """
    starts = range(0, len(model.inputs) - batch_size + 1, batch_size)
    batches = itertools.cycle([np.ascontiguousarray(model.inputs[start : start + batch_size]) for start in starts])
    _call_for(model, batches, WARM_UP * seconds)
    return _call_for(model, batches, seconds)


def _call_for(model: TimedModel, batches: Iterator[NDArray[Any]], seconds: float) -> list[int]:
    durations = []
    end = time.perf_counter_ns() + int(1e9 * seconds)
    for inputs in batches:
        start = time.perf_counter_ns()
        model.run(inputs)
        now = time.perf_counter_ns()
        durations.append(now - start)
        if now >= end:
            break
    return durations


def main(artifact: str, images_file: str, threads: str) -> None:
    """Serve an artifact. TorchScript and C are trusted here, because the caller has checked where they come from."""
    from edge_mnist import runtime

    data, images = Path(artifact).read_bytes(), np.load(images_file)

    def load() -> TimedModel:
        classifier = runtime.load_bytes(data, Path(artifact).name, int(threads))
        return TimedModel(classifier.runtime, classifier.run, classifier.contract.convert_images(images))

    serve(load)


if __name__ == "__main__":
    main(*sys.argv[1:])
