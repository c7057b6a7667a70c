"""Measures the memory of a process that runs a model: `python -m edge_mnist.measure.memory_worker MODEL INPUTS.npy`.

MODEL is an artifact, or the shared library that a model.c was compiled into; INPUTS.npy holds prepared inputs. Only
NumPy and the runtime are imported, so the result is what a program that does not use edge_mnist.runtime pays.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[Any]], object]
"""Runs a model on prepared inputs (N, ...)."""


def measure_memory() -> dict[str, float] | None:
    """Measure the memory of this process in MB (10^6 bytes).

    Returns:
        "rss_mb", what is resident, and "private_mb", what is shared with no other process; None where the system
        does not report them.
    """
    try:
        with open("/proc/self/smaps_rollup") as file:
            fields = dict(line.split(":", 1) for line in file.readlines()[1:])
    except OSError:
        return None
    kib = {name: int(value.split()[0]) for name, value in fields.items()}
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"rss_mb": kib["Rss"] * 1024 / 1e6, "private_mb": private * 1024 / 1e6}


def open_model(path: str) -> Run:
    """Open a model in its runtime, on one thread."""
    if path.endswith(".so"):
        return _open_library(path)
    if path.endswith(".tflite"):
        return _open_tflite(path)
    if path.endswith(".wasm"):
        return _open_wasm(path)
    if path.endswith(".onnx"):
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda inputs: session.run(None, {name: inputs})
    import torch

    torch.set_num_threads(1)
    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = "fbgemm" if "fbgemm" in engines else "qnnpack"
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(inputs: NDArray[Any]) -> object:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs))

    return run


def _open_library(path: str) -> Run:
    library = ctypes.CDLL(path)
    library.edge_mnist_size.restype = ctypes.c_size_t
    logits, arena = (ctypes.create_string_buffer(library.edge_mnist_size(which)) for which in (1, 2))
    size = ctypes.c_size_t(len(arena))
    return lambda inputs: library.edge_mnist_run(ctypes.c_void_p(inputs.ctypes.data), logits, arena, size)


def _open_tflite(path: str) -> Run:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(inputs: NDArray[Any]) -> object:
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def _open_wasm(path: str) -> Run:
    import wasmtime

    store = wasmtime.Store()
    exports: Any = wasmtime.Instance(store, wasmtime.Module.from_file(store.engine, path), []).exports(store)
    memory, compute, source = exports["memory"], exports["run"], exports["input"](store)

    def run(inputs: NDArray[Any]) -> object:
        memory.write(store, bytearray(inputs), source)
        return compute(store)

    return run


def main(model: str, inputs_file: str) -> None:
    """Print one line of JSON: the memory before and after running the inputs one by one, and the time of the first."""
    inputs = np.load(inputs_file)
    before = measure_memory()
    start = time.perf_counter()
    run = open_model(model)
    run(inputs[:1])
    seconds_to_first = time.perf_counter() - start
    for index in range(len(inputs)):
        run(inputs[index : index + 1])
    print(json.dumps({"python": before, "memory": measure_memory(), "start_ms": 1e3 * seconds_to_first}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
