"""One artifact in a process of its own, for claims.py: ARTIFACT INPUTS.npy IMAGES.npy.

Nothing but NumPy and the runtime is imported until memory is read. Prints a line of JSON with memory, and load times in
seconds; then, for each line on stdin that holds a number, one with the nanoseconds of as many runs.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[Any]], NDArray[Any]]

WARM_UP = 20
"""Runs before each round: another process has just had the caches."""


def open_bare(path: str) -> Run:
    """The artifact's own runtime on one thread, without edge_mnist."""
    if path.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(path, num_threads=1)
        interpreter.allocate_tensors()
        source = interpreter.get_input_details()[0]["index"]
        target = interpreter.get_output_details()[0]["index"]

        def run_tflite(inputs: NDArray[Any]) -> NDArray[Any]:
            interpreter.set_tensor(source, inputs)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(target))

        return run_tflite
    if path.endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda inputs: np.asarray(session.run(None, {"pixels": inputs})[0])
    import torch

    torch.set_num_threads(1)
    if "fbgemm" in torch.backends.quantized.supported_engines:
        torch.backends.quantized.engine = "fbgemm"
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def run_torch(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(inputs)))

    return run_torch


def memory() -> dict[str, float]:
    """MB (10^6 bytes) of this process in memory: at most so far (VmHWM), and now (VmRSS). Empty without /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmHWM", "VmRSS")}


def nanoseconds(call: Callable[[Any], object], arguments: list[Any], runs: int) -> list[int]:
    """How long each of `runs` calls took, the arguments in turn."""
    for index in range(WARM_UP):
        call(arguments[index % len(arguments)])
    times = []
    for index in range(runs):
        argument = arguments[index % len(arguments)]
        start = time.perf_counter_ns()
        call(argument)
        times.append(time.perf_counter_ns() - start)
    return times


def main(artifact: str, inputs_file: str, images_file: str) -> None:
    """Measure as the module's text says."""
    inputs = list(np.load(inputs_file)[:, None])  # each (1, ...)
    alone = memory()
    start = time.perf_counter()
    run = open_bare(artifact)
    run(inputs[0])
    first = time.perf_counter() - start
    for values in inputs * 4:
        run(values)
    told = {"numpy": alone, "memory": memory(), "first_s": first}

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from edge_mnist import runtime

    loads = []
    for _ in range(5):
        start = time.perf_counter()
        classifier = runtime.load(artifact)
        classifier.run(inputs[0])
        loads.append(time.perf_counter() - start)
    images = list(np.load(images_file)[:, None])
    print(json.dumps({**told, "load_s": sorted(loads)[2], "runtime": classifier.runtime}), flush=True)
    for line in sys.stdin:
        runs = int(line)
        calls = {
            "run": nanoseconds(classifier.run, inputs, runs),
            "predict": nanoseconds(classifier.predict, images, runs),
        }
        print(json.dumps(calls), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
