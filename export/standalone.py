"""The int8 TFLite model for a device without this package: a zip with golden vectors and a script that runs both."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.reference import Reference
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.system.errors import EdgeMnistError

SCRIPT = Path(__file__).with_name("classify.py.txt")

_EPOCH = 1980, 1, 1, 0, 0, 0
"""The earliest time that a zip can state: the same bytes at any time."""


def write_standalone(reference: Reference) -> bytes:
    """A zip of model_int8.tflite, golden_images.npy, golden_logits.npy and classify.py; the same bytes everywhere.

    The images are uint8 (64, height, width, channels), the logits the oracle's, int8 (64, classes).

    Raises:
        EdgeMnistError: the reference has no int8 network.
    """
    if reference.quantized_graph is None or reference.int8_logits is None:
        raise EdgeMnistError("the zip holds the int8 network, and there is none")
    files = {
        "classify.py": SCRIPT.read_bytes(),
        "model_int8.tflite": write_tflite(reference.quantized_graph),
        "golden_images.npy": _npy(reference.images.transpose(0, 2, 3, 1)),
        "golden_logits.npy": _npy(reference.int8_logits),
    }
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return result.getvalue()


def _npy(array: NDArray[np.uint8] | NDArray[np.int8]) -> bytes:
    """An array as an .npy file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array))
    return file.getvalue()
