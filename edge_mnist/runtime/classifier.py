"""What all runtimes have in common: images or features in, logits out, whatever the format of the artifact.

A runtime is imported when the first artifact of its format is opened: a machine needs only the runtimes that it uses.
"""

from __future__ import annotations

import logging
import os
import pkgutil
import platform
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import MANIFEST, is_listed
from edge_mnist.formats.table import FORMATS, detect_format, read_contract, require_format
from edge_mnist.graph.interpreter import Rounding
from edge_mnist.system.archives import TORCH_SAVE_HINT, is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError, first_line
from edge_mnist.system.files import read_bytes

_LOG = logging.getLogger(__name__)

RUNTIMES: dict[str, str] = {
    "torchscript": "edge_mnist.runtime.torchscript:TorchScriptClassifier",
    "onnx": "edge_mnist.runtime.onnx_runtime:OnnxClassifier",
    "tflite": "edge_mnist.runtime.tflite:TFLiteClassifier",
    "c": "edge_mnist.runtime.compiled_c:CClassifier",
    "wasm": "edge_mnist.runtime.wasm:WasmClassifier",
}
"""The class that opens artifacts of each format of `FORMATS`, as MODULE:CLASS. Its module is imported on first use.

The class is called with the content of the artifact, the name that errors use for it and the number of threads. Its
`check_installed` raises a NotInstalledError if what it needs is not installed, and loads nothing."""

MICRO = "tflite-micro"
"""The name of TensorFlow Lite Micro as a runtime, which is also the name of its package."""

SCALAR = "scalar"
"""The name of the runtime that runs a WebAssembly artifact as engines without SIMD128 do."""

OTHER_RUNTIMES: dict[str, tuple[str, str]] = {
    MICRO: ("tflite", "edge_mnist.runtime.tflite:MicroClassifier"),
    SCALAR: ("wasm", "edge_mnist.runtime.wasm:ScalarWasmClassifier"),
}
"""The runtimes beside those of `RUNTIMES`, by name: the format that they run, and the class as in `RUNTIMES`."""


def check_runtime(kind: str) -> None:
    """Check that the runtime of a format is installed, without loading it.

    Args:
        kind: the name of the format.

    Raises:
        NotInstalledError: it is not; the text says how to install it.
    """
    pkgutil.resolve_name(RUNTIMES[kind]).check_installed()


def load(path: str | os.PathLike[str], threads: int = 1, *, trust: bool = False) -> Classifier:
    """Open an artifact in its runtime. Its format, one of `FORMATS`, is recognised by the content.

    Args:
        path: the file.
        threads: the number of threads that the runtime may use, at least 1.
        trust: open a TorchScript archive or a model.c, which carry code, even if no manifest beside it lists its hash.

    Raises:
        UsageError: there is no such file, or it is a folder.
        EdgeMnistError: the file is not an artifact, it is damaged, its origin is unknown, or its runtime (for C: a
            compiler) is not installed.
    """
    path = Path(path)
    data = read_bytes(path)
    check_origin(path, data, trust=trust)
    return load_bytes(data, str(path), threads)


def check_origin(path: Path, data: bytes, *, trust: bool = False) -> None:
    """Refuse an artifact that carries code (a TorchScript archive or a model.c) if its origin is unknown.

    Args:
        path: the artifact. Its origin is known if a manifest beside it lists its hash.
        data: the content of the artifact.
        trust: accept any origin.

    Raises:
        EdgeMnistError: the artifact carries code, and no manifest beside it lists its hash.
    """
    kind = detect_format(data)
    if kind is not None and kind.carries_code and not (trust or is_listed(path, data)):
        if is_torch_save_file(data):
            raise EdgeMnistError(f"{path}: {TORCH_SAVE_HINT}")
        raise EdgeMnistError(
            f"{path}: {kind.title} carries code, and {path.parent / MANIFEST} does not hold its hash: "
            "put the manifest of its export beside it, or, if you trust its origin, say so (trust=True, --trust)"
        )


def load_bytes(data: bytes, name: str, threads: int = 1, runtime: str = "") -> Classifier:
    """Open an artifact from memory, without a check of its origin.

    Args:
        data: the content of the artifact.
        name: the name that errors use for it.
        threads: the number of threads that the runtime may use, at least 1.
        runtime: a name in `OTHER_RUNTIMES`, or "" for the usual runtime of the format.

    Raises:
        EdgeMnistError: as in `load`, or the runtime does not run this format.
        MemoryError: there is too little memory to load the runtime.
    """
    kind = require_format(data, name).name
    expected, place = OTHER_RUNTIMES[runtime] if runtime else (kind, RUNTIMES[kind])
    if kind != expected:
        raise EdgeMnistError(f"{name}: expected a {FORMATS[expected].title} artifact for {runtime}, found {kind}")
    try:
        open_artifact = pkgutil.resolve_name(place)
        classifier: Classifier = open_artifact(data, name, threads)
    except EdgeMnistError:
        raise
    except ImportError as error:
        if any(sign in str(error) for sign in ("failed to map segment", "annot allocate memory")):
            raise MemoryError(str(error)) from error
        raise EdgeMnistError(f"{name}: its runtime is installed and cannot be loaded: {first_line(error)}") from error
    except Exception as error:  # the exceptions that runtimes raise on damaged files share no other base class
        raise _explain_failure(name, error) from error
    _LOG.debug("%s: opened in %s", name, classifier.runtime)
    return classifier


class Classifier(ABC):
    """An opened artifact.

    Attributes:
        name: the name that errors use for the artifact.
        contract: the inputs that the artifact takes and the outputs that it gives.
        runtime: the name and the version of the runtime.
        rounding: how this runtime requantizes in an int8 artifact, see `interpreter.Rounding`.
    """

    runtime: str
    rounding: Rounding = "float"

    def __init__(self, data: bytes, name: str) -> None:
        """Read the contract of an artifact.

        Args:
            data: the content of the artifact.
            name: the name that errors use for it.

        Raises:
            EdgeMnistError: the content holds no contract.
        """
        self.name = name
        self.contract = read_contract(data, name)

    def outputs(self, images: NDArray[np.generic]) -> NDArray[Any]:
        """Run the artifact, and bring its outputs into the form that is the same for all formats.

        Args:
            images: uint8 (N, height, width), or (N, channels, height, width); float32 (N, *input_shape) if the
                network's input is not pixels.

        Returns:
            The logits of a float artifact as float32 (N, classes), those of an int8 artifact as int8 (N, classes); of
            maps (N, channels * height * width), in PyTorch's order. An artifact whose outputs are uint8 has 128
            subtracted from them.

        Raises:
            EdgeMnistError: the images are of another type or shape, the artifact cannot be run, or its outputs are not
                of the type and shape that its contract promises.
        """
        inputs = self.contract.convert_images(np.asarray(images))
        outputs = self.run(inputs)
        try:
            return self.contract.flatten_outputs(outputs, len(inputs))
        except ValueError as error:
            raise EdgeMnistError(
                f"{self.name}: gives {outputs.dtype} {outputs.shape} for {len(inputs)} images, expected {error}: it is "
                "damaged, export it again"
            ) from error

    def logits(self, images: NDArray[np.generic]) -> NDArray[np.float32]:
        """Compute the logits, float32 (N, classes), of images as in `outputs`; those of int8 artifacts dequantized."""
        return self.dequantize(self.outputs(images))

    def dequantize(self, outputs: NDArray[Any]) -> NDArray[np.float32]:
        """Turn some of the values that `outputs` gives, of any shape, into logits, float32."""
        if outputs.dtype == np.float32:
            return outputs
        shift = 128 if self.contract.output_type == "uint8" else 0
        zero_point = self.contract.output_zero_point - shift
        return (outputs.astype(np.float32) - np.float32(zero_point)) * np.float32(self.contract.output_scale)

    def predict(self, images: NDArray[np.generic]) -> NDArray[np.int64]:
        """Find the class with the largest logit, int64 (N,), of images as in `outputs`; of equal ones the first.

        Raises:
            EdgeMnistError: as `outputs`, or the artifact gives maps, not one value for each class.
        """
        if self.contract.output_shape is not None:
            shape = "x".join(map(str, self.contract.output_shape))
            raise EdgeMnistError(f"{self.name}: gives maps of {shape}, not classes: call outputs() or logits() instead")
        return np.asarray(self.outputs(images).argmax(axis=1), dtype=np.int64)

    def run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Run the artifact on inputs in the layout and type of its contract, and return its outputs unchanged.

        Raises:
            EdgeMnistError: the runtime cannot run it.
        """
        try:
            return self._run(inputs)
        except Exception as error:  # as in `load_bytes`
            shape = f"{inputs.dtype} {inputs.shape}"
            raise EdgeMnistError(f"{self.name}: the runtime cannot run it on {shape}: {first_line(error)}") from error

    @abstractmethod
    def _run(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Do the work of `run`; raise the exceptions of the runtime."""


def softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Turn logits (..., classes) into probabilities, float64 (..., classes), whose sum over the classes is 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)  # exp(x) of a large x would overflow
    powers = np.exp(shifted)
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities


def is_x86() -> bool:
    """Check whether this process runs on a 64-bit x86 processor, or on an emulated one."""
    return platform.machine().lower() in ("x86_64", "amd64")


def _explain_failure(name: str, error: Exception) -> EdgeMnistError:
    """Make the error that is raised when a runtime cannot open an artifact."""
    line = first_line(error)
    if "Didn't find op" in line:  # the words of LiteRT and of tflite-runtime
        remedy = "pip install --upgrade ai-edge-litert"
        return EdgeMnistError(f"{name}: this runtime lacks a kernel that the model needs: {remedy}: {line}")
    return EdgeMnistError(f"{name}: the runtime cannot open it, it is damaged or of a newer version: {line}")
