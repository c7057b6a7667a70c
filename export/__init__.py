"""Writers, bundle and proof: from a graph to artifacts that are shown to be the same model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edge_mnist.export.c.writer import write_c
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError, UsageError, missing_package

Writer = Callable[[FloatGraph | QuantizedGraph], bytes]


def _write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Torch is imported only when TorchScript is written: the other formats do without."""
    try:
        from edge_mnist.export.torchscript_writer import write_torchscript
    except ImportError as error:
        missing = missing_package("torch", "train")
        raise EdgeMnistError(f"{missing}, or leave TorchScript out: --format onnx --format tflite") from error
    return write_torchscript(graph)


WRITERS: dict[str, Writer] = {"torchscript": _write_torchscript, "onnx": write_onnx, "tflite": write_tflite}
"""By the name of each format: a graph to the bytes of an artifact. An export writes these unless told otherwise."""

ON_REQUEST: dict[str, Writer] = {"c": write_c}
"""Writers of formats that are written only when they are named, and in int8 only: to run C takes a compiler, which many
machines that run the others do not have."""

SUFFIXES = {"torchscript": ".pt", "onnx": ".onnx", "tflite": ".tflite", "c": ".c"}
"""By the name of each format: how its files' names end."""


def choose_formats(names: Sequence[str]) -> tuple[str, ...]:
    """The formats of these names, in the order of `WRITERS`, then `ON_REQUEST`; all of `WRITERS` if there are none.

    Raises:
        UsageError: a name is not a format's.
    """
    for name in names:
        if name not in SUFFIXES:
            raise UsageError(f"--format {name}: expected one of {', '.join(SUFFIXES)}")
    return tuple(kind for kind in SUFFIXES if kind in names or (kind in WRITERS and not names))


def writer(kind: str) -> Writer:
    """The writer of a format, whether it is written unasked or on request."""
    return {**WRITERS, **ON_REQUEST}[kind]
