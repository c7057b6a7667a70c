"""Runs ONNX artifacts in ONNX Runtime."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.runtime.classifier import Classifier
from edge_mnist.system.errors import check_package, explain_missing_packages


class OnnxClassifier(Classifier):
    """An artifact in ONNX Runtime on the CPU, with all its graph optimisations.

    Below the optimisation level "extended" it computes an int8 model in float, and a few logits differ by one step.
    """

    def __init__(self, data: bytes, name: str, threads: int, output: str | None = None) -> None:
        """Open an artifact; `output` names the output of the model to read instead of its first one."""
        super().__init__(data, name)
        # From version 1.32 on it would write an identifier of the machine into the user's cache, and send reports.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        with explain_missing_packages():
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # With the fallback enabled it would print each failure to stdout and try the same again.
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, all optimisations"
        self._input = self._session.get_inputs()[0].name
        self._output = output or self._session.get_outputs()[0].name

    @staticmethod
    def check_installed() -> None:
        """Check that ONNX Runtime is installed."""
        check_package("onnxruntime")

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._session.run([self._output], {self._input: inputs})[0])
