"""Writes a graph as artifacts in several formats, and verifies that all of them compute the same."""

from __future__ import annotations

from collections.abc import Callable

from edge_mnist.export.c.writer import write_c
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError, missing_package

Writer = Callable[[FloatGraph | QuantizedGraph], bytes]


def _write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write TorchScript. Torch is imported only here, because the other formats do not need it."""
    try:
        from edge_mnist.export.torchscript_writer import write_torchscript
    except ImportError as error:
        missing = missing_package("torch", "train")
        raise EdgeMnistError(f"{missing}, or leave TorchScript out: --format onnx --format tflite") from error
    return write_torchscript(graph)


WRITERS: dict[str, Writer] = {
    "torchscript": _write_torchscript,
    "onnx": write_onnx,
    "tflite": write_tflite,
    "c": write_c,
}
"""The function that writes a graph as the bytes of an artifact, by the name of its format in `FORMATS`."""
