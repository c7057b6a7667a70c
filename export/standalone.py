"""Writes a zip for a device without this package: the int8 TFLite model, golden images, and a script that runs it."""

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
"""The script that becomes classify.py in the zip. It is no module of this package, which it does not import."""

_EPOCH = 1980, 1, 1, 0, 0, 0
"""The time of each entry: the earliest that a zip can express, so that the bytes do not depend on the time."""


def write_standalone(reference: Reference) -> bytes:
    """Write a zip of model_int8.tflite, golden_images.npy, golden_logits.npy and classify.py.

    The images are uint8 (64, height, width, channels), or the inputs float32 if the network takes no pixels; the logits
    are the oracle's, int8 (64, outputs). The same reference gives the same bytes on every machine.

    Raises:
        EdgeMnistError: the reference has no int8 network.
    """
    if reference.quantized_graph is None or reference.int8_logits is None:
        raise EdgeMnistError("the zip holds the int8 network, but only a float network was exported: add --int8")
    files = {
        "classify.py": SCRIPT.read_bytes(),
        "model_int8.tflite": write_tflite(reference.quantized_graph),
        "golden_images.npy": _to_npy(np.moveaxis(reference.images, 1, -1)),
        "golden_logits.npy": _to_npy(reference.int8_logits),
    }
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return result.getvalue()


def _to_npy(array: NDArray[np.generic]) -> bytes:
    """The content of an .npy file of an array."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array))
    return file.getvalue()
