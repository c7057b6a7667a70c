"""Runs TFLite artifacts in LiteRT, in tflite-runtime or in TensorFlow Lite Micro."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.runtime.classifier import Classifier, is_x86
from edge_mnist.system.errors import NotInstalledError, explain_missing_packages, is_installed
from edge_mnist.system.stderr import quiet_stderr

_MICRO_ARENA = 1 << 26
"""The bytes that TensorFlow Lite Micro may use for activations: 64 MiB. It touches only as many as a model needs."""

_NO_RUNTIME = "no TFLite runtime: pip install ai-edge-litert"
"""What errors say where neither LiteRT nor tflite-runtime is installed."""


class TFLiteClassifier(Classifier):
    """An artifact in LiteRT (the package ai-edge-litert), or in tflite-runtime where LiteRT is not installed."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        try:
            from ai_edge_litert.interpreter import Interpreter

            self.runtime = f"LiteRT {version('ai-edge-litert')}"
        except ImportError as trouble:
            try:
                from tflite_runtime.interpreter import Interpreter

                self.runtime = f"tflite-runtime {version('tflite-runtime')}"
                # tflite-runtime runs int8 convolutions in TensorFlow Lite's kernels, not in those of XNNPACK.
                self.rounding = "fixed-point, depthwise ties away" if is_x86() else "fixed-point, ties away"
            except ImportError as error:
                if not isinstance(trouble, ModuleNotFoundError):
                    raise trouble from None  # LiteRT is installed
                raise NotInstalledError(f"{name}: {_NO_RUNTIME}") from error
        with quiet_stderr():  # the runtime announces its kernels there, which `runtime` names
            self._interpreter = Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
        if self.runtime.startswith("LiteRT"):
            # XNNPACK is a delegate. It appears as an operation after those that it replaces.
            has_xnnpack = any(operation["op_name"] == "DELEGATE" for operation in self._interpreter._get_ops_details())
            self.runtime += ", XNNPACK" if has_xnnpack else ", without XNNPACK"
            if not has_xnnpack:
                self.rounding = "fixed-point" if is_x86() else "fixed-point, single rounding"
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = 1

    @staticmethod
    def check_installed() -> None:
        """Check that LiteRT or tflite-runtime is installed."""
        if not (is_installed("ai_edge_litert") or is_installed("tflite_runtime")):
            raise NotInstalledError(_NO_RUNTIME)

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        if not len(inputs):
            return np.zeros((0, *self._interpreter.get_output_details()[0]["shape"][1:]), self.contract.output_type)
        if len(inputs) != self._batch:
            self._interpreter.resize_tensor_input(self._input["index"], inputs.shape)
            self._interpreter.allocate_tensors()
            self._batch = len(inputs)
        self._interpreter.set_tensor(self._input["index"], inputs)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output))


class MicroClassifier(Classifier):
    """An artifact in TensorFlow Lite Micro with its reference kernels, as on a microcontroller.

    It runs one image at a time on one thread, whatever the number of threads asked for. It checks little of a file: a
    damaged one may end the process.
    """

    rounding = "fixed-point, reference kernels"

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        interpreter = import_micro_interpreter()
        self.runtime = f"TensorFlow Lite Micro {version('tflite-micro')}"
        with quiet_stderr():  # the runtime repeats there, in several lines, what its exception says in one
            self._interpreter = interpreter.from_bytes(data, arena_size=_MICRO_ARENA)
        self._shape = self._interpreter.get_output_details(0)["shape"][1:]

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        outputs = np.empty((len(inputs), *self._shape), self.contract.output_type)
        for index in range(len(inputs)):
            self._interpreter.set_input(inputs[index : index + 1], 0)
            self._interpreter.invoke()
            outputs[index] = self._interpreter.get_output(0)[0]
        return outputs


def import_micro_interpreter() -> Any:
    """Import the class `Interpreter` of TensorFlow Lite Micro.

    Raises:
        NotInstalledError: the package is not installed, or there is no build of it for this machine.
    """
    try:
        with explain_missing_packages():
            from tflite_micro import runtime
    except NotInstalledError as error:
        if platform.system() != "Linux" or not is_x86():
            raise NotInstalledError("tflite-micro has no wheel for this machine, only for Linux on x86-64") from error
        raise
    return runtime.Interpreter
