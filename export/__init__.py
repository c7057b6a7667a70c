"""Writers, bundle and proof: from a graph to artifacts that are shown to be the same model."""

from __future__ import annotations

from collections.abc import Callable

from edge_mnist.export.c.writer import write_c
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError, missing_package

Writer = Callable[[FloatGraph | QuantizedGraph], bytes]


def _write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Torch is imported only when TorchScript is written: the other formats do without."""
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
"""By the name of each format in `FORMATS`: what writes a graph as the bytes of an artifact."""
