"""Opens any artifact as a `Classifier`: uint8 images in, logits out, whatever the format.

The back ends are imported when one is opened: a machine needs only the runtime of the format it uses.
"""

from __future__ import annotations

import io
import logging
import math
import os
import platform
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import MANIFEST, is_listed
from edge_mnist.formats.table import detect_format, find_format, read_contract
from edge_mnist.graph.interpreter import Rounding
from edge_mnist.system import archives
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError, missing_package
from edge_mnist.system.files import read_bytes
from edge_mnist.system.stderr import quiet_stderr

_LOG = logging.getLogger(__name__)

MICRO = "tflite-micro"
"""The runtime TensorFlow Lite Micro, by the name of its package."""

_MICRO_ARENA = 1 << 26
"""Bytes that TensorFlow Lite Micro may use for activations: 64 MiB. It touches only what a model needs."""


def load(path: str | os.PathLike[str], threads: int = 1, *, trust: bool = False) -> Classifier:
    """Open an artifact: TorchScript, ONNX, TFLite or C, float or int8, told apart by content.

    Args:
        path: the file.
        threads: how many the runtime may use, from 1.
        trust: open a TorchScript archive or a model.c although no manifest beside it holds its hash. They carry code.

    Raises:
        UsageError: there is no such file, or it is a folder.
        EdgeMnistError: the file is not such an artifact, is damaged, or its runtime (for C: a compiler) is missing.
    """
    path = Path(path)
    data = read_bytes(path)
    check_origin(path, data, trust=trust)
    return load_bytes(data, str(path), threads)


def check_origin(path: Path, data: bytes, *, trust: bool = False) -> None:
    """Refuse to open what carries code, a TorchScript archive or a model.c, and is of unknown origin.

    Args:
        path: the artifact; a manifest beside it may hold its hash.
        data: its content.
        trust: do not refuse.

    Raises:
        EdgeMnistError: it carries code, and no manifest beside it holds its hash.
    """
    kind = detect_format(data)
    if kind is not None and kind.carries_code and not (trust or is_listed(path, data)):
        raise EdgeMnistError(
            f"{path}: {kind.title} carries code, and {path.parent / MANIFEST} does not hold its hash: "
            "put the manifest of its export beside it, or, if you trust its origin, say so (trust=True, --trust)"
        )


def load_bytes(data: bytes, name: str, threads: int = 1, runtime: str = "") -> Classifier:
    """Open an artifact that is in memory, and trusted; `name` is what errors call it. Otherwise as `load`.

    `runtime` is MICRO to run a TFLite artifact in TensorFlow Lite Micro, and "" for the format's usual runtime.
    """
    kind = find_format(data, name).name
    if runtime and (runtime, kind) != (MICRO, "tflite"):
        raise EdgeMnistError(f"{name}: expected a TFLite artifact for {MICRO}, found {kind} for {runtime}")
    try:
        classifier = MicroClassifier(data, name) if runtime else RUNTIMES[kind](data, name, threads)
    except EdgeMnistError:
        raise
    except Exception as error:  # damage raises anything in a runtime; their exceptions share no other base class
        raise _unreadable(name, error) from error
    _LOG.debug("%s: opened in %s", name, classifier.runtime)
    return classifier


class Classifier(ABC):
    """An opened artifact.

    Attributes:
        name: what errors call it.
        contract: what the artifact takes and gives.
        runtime: the runtime's name and version.
        rounding: how an int8 artifact requantizes there, see `interpreter.Rounding`.
    """

    runtime: str
    rounding: Rounding = "float"

    def __init__(self, data: bytes, name: str) -> None:
        """Read the contract inside an artifact, which errors call `name`."""
        self.name = name
        self.contract = read_contract(data, name)

    def outputs(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """What the artifact gives, made comparable.

        Args:
            images: uint8 (N, height, width), or (N, channels, height, width).

        Returns:
            float32 (N, classes) logits of a float artifact; int8 (N, classes) of an int8 one, with unsigned ones
            shifted.

        Raises:
            EdgeMnistError: the images are of another type or shape; or the artifact cannot be run, or gives something
                other than its contract says.
        """
        outputs = self.run(self.contract.inputs(images))
        if outputs.ndim != 2 or len(outputs) != len(images) or outputs.dtype != self.contract.output_type:
            raise EdgeMnistError(
                f"{self.name}: gives {outputs.dtype} {outputs.shape} for {len(images)} images, expected "
                f"{self.contract.output_type} ({len(images)}, classes): it is damaged, export it again"
            )
        return self.contract.signed(outputs)

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits, float32 (N, classes), of uint8 images (N, height, width) or (N, channels, height, width)."""
        outputs = self.outputs(images)
        if outputs.dtype == np.float32:
            return outputs
        shift = 128 if self.contract.output_type == "uint8" else 0
        zero_point = self.contract.output_zero_point - shift
        return (outputs.astype(np.float32) - np.float32(zero_point)) * np.float32(self.contract.output_scale)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Classes, int64 (N,), of uint8 images; of equal logits the first."""
        return np.asarray(self.outputs(images).argmax(axis=1), dtype=np.int64)

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """The artifact's own outputs for its own inputs.

        Raises:
            EdgeMnistError: the runtime cannot run it.
        """
        try:
            return self._run(inputs)
        except Exception as error:  # as in `load_bytes`
            what = f"{inputs.dtype} {inputs.shape}"
            raise EdgeMnistError(f"{self.name}: the runtime cannot run it on {what}: {_first_line(error)}") from error

    @abstractmethod
    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """As `run`, with the runtime's own exceptions."""


class TFLiteClassifier(Classifier):
    """LiteRT (ai-edge-litert), or tflite-runtime where that is what is installed."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        try:
            from ai_edge_litert.interpreter import Interpreter

            self.runtime = f"LiteRT {version('ai-edge-litert')}"
        except ImportError:
            try:
                from tflite_runtime.interpreter import Interpreter

                self.runtime = f"tflite-runtime {version('tflite-runtime')}"
                # it leaves int8 convolutions to kernels without XNNPACK
                self.rounding = "fixed-point" if _is_x86() else "fixed-point, ties away"
            except ImportError as error:
                raise NotInstalledError(f"{name}: no TFLite runtime: pip install ai-edge-litert") from error
        with quiet_stderr():  # it announces its kernels on stderr; `runtime` says them
            self._interpreter = Interpreter(model_content=data, num_threads=threads)
            self._interpreter.allocate_tensors()
        if self.runtime.startswith("LiteRT"):
            # XNNPACK is a delegate: it shows as an operation of its own, after those that it replaces.
            has_xnnpack = any(operation["op_name"] == "DELEGATE" for operation in self._interpreter._get_ops_details())
            self.runtime += ", XNNPACK" if has_xnnpack else ", without XNNPACK"
            if not has_xnnpack:
                self.rounding = "fixed-point" if _is_x86() else "fixed-point, single rounding"
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = 1

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
    """TensorFlow Lite Micro with its reference kernels, as on a microcontroller: one image at a time, on one thread.

    It checks little of a file: one that is damaged may end the process.
    """

    rounding = "fixed-point, reference kernels"

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data, name)
        interpreter = micro_interpreter()
        self.runtime = f"TensorFlow Lite Micro {version('tflite-micro')}"
        with quiet_stderr():  # it explains there in several lines what its exception says in one
            self._interpreter = interpreter.from_bytes(data, arena_size=_MICRO_ARENA)
        self._shape = self._interpreter.get_output_details(0)["shape"][1:]

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        outputs = np.empty((len(inputs), *self._shape), self.contract.output_type)
        for index in range(len(inputs)):
            self._interpreter.set_input(inputs[index : index + 1], 0)
            self._interpreter.invoke()
            outputs[index] = self._interpreter.get_output(0)[0]
        return outputs


def micro_interpreter() -> Any:
    """TensorFlow Lite Micro's class `Interpreter`; NotInstalledError if it is not installed."""
    try:
        from tflite_micro import runtime
    except ImportError as error:
        if platform.system() != "Linux" or not _is_x86():
            raise NotInstalledError("tflite-micro has no wheel for this machine, only for Linux on x86-64") from error
        raise missing_package("tflite-micro", "micro") from error
    return runtime.Interpreter


class OnnxClassifier(Classifier):
    """ONNX Runtime on the CPU, with all its optimisations. With `output`, not the model's first output is read.

    Below its level "extended" it computes an int8 model in float, and a few logits differ by one step.
    """

    def __init__(self, data: bytes, name: str, threads: int, output: str | None = None) -> None:
        super().__init__(data, name)
        # From 1.32 on it would write an identifier of the machine into the user's cache, and send reports.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("onnxruntime", "onnx") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # With its fallback it would print to stdout when it fails, and try the same again.
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}, all optimisations"
        self._input = self._session.get_inputs()[0].name
        self._output = output or self._session.get_outputs()[0].name

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self._session.run([self._output], {self._input: inputs})[0])


class TorchScriptClassifier(Classifier):
    """PyTorch: FBGEMM for int8 on x86, QNNPACK on ARM."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        super().__init__(data, name)
        try:
            import torch
        except ImportError as error:
            raise missing_package("torch", "train") from error
        archives.check_archive(data)
        engine = quantized_engine()
        torch.backends.quantized.engine = engine
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated in the version that is pinned
            self._module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        self.runtime = f"PyTorch {torch.__version__.split('+')[0]}"
        if self.contract.precision == "int8":
            self.runtime += f", {engine}"
        self._torch = torch

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        with self._torch.inference_mode():
            return self._array(self._module(self._torch.from_numpy(inputs)))

    def steps(self, inputs: NDArray[Any], operations: int) -> Iterator[NDArray[Any]]:
        """What each of the last `operations` layers before the final one, which only reshapes, gives for `inputs`."""
        values = self._torch.from_numpy(inputs)
        *layers, _ = self._module.children()
        with self._torch.inference_mode():
            for index, layer in enumerate(layers):
                values = layer(values)
                if index >= len(layers) - operations:
                    yield self._array(values)

    @staticmethod
    def _array(tensor: Any) -> NDArray[Any]:
        """A tensor's numbers; the integers of a quantized one."""
        return np.asarray((tensor.int_repr() if tensor.is_quantized else tensor).numpy())


class CClassifier(Classifier):
    """A model.c, compiled with the machine's C compiler on first use; it runs on one thread."""

    def __init__(self, data: bytes, name: str, threads: int) -> None:
        from edge_mnist.runtime.compiled_c import open_library

        super().__init__(data, name)
        self._library = open_library(data, name)
        if self._library.pixels != math.prod(self.contract.input_shape):
            raise ValueError(f"its code takes {self._library.pixels} pixels, its contract says otherwise")
        self.runtime = self._library.built
        self.rounding = "fixed-point" if self._library.is_fixed_point else "float"

    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return self._library.run(inputs)


RUNTIMES: dict[str, Callable[[bytes, str, int], Classifier]] = {
    "torchscript": TorchScriptClassifier,
    "onnx": OnnxClassifier,
    "tflite": TFLiteClassifier,
    "c": CClassifier,
}
"""By the name of each format in `FORMATS`: what opens an artifact of it."""


def quantized_engine() -> str:
    """PyTorch's int8 kernels that are exact here: FBGEMM on x86, QNNPACK elsewhere; oneDNN differs by one at times."""
    return "fbgemm" if _is_x86() else "qnnpack"


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _unreadable(name: str, error: Exception) -> EdgeMnistError:
    line = _first_line(error)
    if "Didn't find op" in line:  # LiteRT's and tflite-runtime's words
        remedy = "pip install --upgrade ai-edge-litert"
        return EdgeMnistError(f"{name}: this runtime lacks a kernel that the model needs: {remedy}: {line}")
    return EdgeMnistError(f"{name}: the runtime cannot open it, it is damaged or of a newer version: {line}")


def _first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
