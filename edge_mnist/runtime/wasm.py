"""Runs WebAssembly artifacts in Wasmtime: inside the module's own memory, and for a limited time."""

from __future__ import annotations

import functools
import math
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.formats.wasm_reader import SIMD_SECTION, read_metadata
from edge_mnist.runtime.classifier import Classifier
from edge_mnist.system.errors import check_package, explain_missing_packages

if TYPE_CHECKING:
    from wasmtime import Engine

_MOST_SECONDS = 20
"""The seconds that a module may take for one input, so that a damaged one does not run for ever."""

_MOST_MEMORY = 1 << 30
"""The bytes of memory that a module may have: 1 GiB."""

_FUNCTIONS = ("input", "output", "input_size", "output_size", "run")
"""The functions that a module exports, see `edge_mnist.export.wasm.writer`."""


class WasmClassifier(Classifier):
    """The module with SIMD128 instructions of an artifact. It runs on one thread.

    Artifacts of unknown origin may be opened: a module that imports nothing reaches nothing but its own memory.
    """

    _has_simd = True

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        with explain_missing_packages():
            import wasmtime
        module = read_metadata(data, SIMD_SECTION) if self._has_simd else data
        if module is None:
            raise ValueError(f"it has no section {SIMD_SECTION}")
        self._trap = wasmtime.Trap
        self._lock = threading.Lock()
        engine = _make_engine()
        self._store = wasmtime.Store(engine)
        self._store.set_limits(memory_size=_MOST_MEMORY, instances=1, memories=1)
        self._store.set_epoch_deadline(_MOST_SECONDS)
        exports = wasmtime.Instance(self._store, wasmtime.Module(engine, module), []).exports(self._store)
        memory = exports.get("memory")
        self._functions: dict[str, Any] = {key: exports.get(key) for key in _FUNCTIONS}
        if not isinstance(memory, wasmtime.Memory) or None in self._functions.values():
            raise ValueError(f"it does not export memory, {', '.join(_FUNCTIONS)}")
        self._memory = memory
        self._input, self._output, taken, self._size = map(self._call, _FUNCTIONS[:-1])
        expected = math.prod(self.contract.input_shape)
        if taken != expected or not 0 <= self._size <= memory.data_len(self._store):
            raise ValueError(f"its code takes {taken} values and gives {self._size}, its contract says otherwise")
        self.runtime = f"Wasmtime {version('wasmtime')}, {'SIMD128' if self._has_simd else 'scalar'}"

    @staticmethod
    def check_installed() -> None:
        """Check that Wasmtime is installed."""
        check_package("wasmtime")

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        outputs = np.empty((len(inputs), self._size), np.int8)
        with self._lock:
            for values, result in zip(inputs, outputs, strict=True):
                self._memory.write(self._store, bytearray(values), self._input)
                self._call("run")
                computed = self._memory.read(self._store, self._output, self._output + self._size)
                result[:] = np.frombuffer(computed, np.int8)
        if self.contract.output_shape is None:
            return outputs
        maps = outputs.reshape(len(outputs), *self.contract.output_shape)  # (N, channels, height, width)
        return maps.transpose(0, 2, 3, 1)

    def _call(self, name: str) -> int:
        """Call a function of the module.

        Raises:
            TimeoutError: it takes too long.
            RuntimeError: it ends with a trap, such as an access outside of its memory.
        """
        self._store.set_epoch_deadline(_MOST_SECONDS)
        try:
            return int(self._functions[name](self._store))
        except self._trap as error:
            cause = str(error).strip().rpartition("wasm trap: ")[2]
            if cause == "interrupt":
                raise TimeoutError(f"its function {name} takes more than {_MOST_SECONDS} s") from error
            raise RuntimeError(f"its function {name} ends with a trap: {cause}") from error


class ScalarWasmClassifier(WasmClassifier):
    """The module of an artifact that engines without SIMD128 run."""

    _has_simd = False


@functools.cache
def _make_engine() -> Engine:
    """Make the engine of all modules. Its epoch, by which a module's time is limited, counts seconds."""
    import wasmtime

    config = wasmtime.Config()
    config.epoch_interruption = True
    engine = wasmtime.Engine(config)

    def count_seconds() -> None:
        while True:
            time.sleep(1)
            engine.increment_epoch()

    threading.Thread(target=count_seconds, daemon=True).start()
    return engine
