"""Writes a graph as artifacts in several formats, and verifies that all of them compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge_mnist.bundle.reference import Reference
from edge_mnist.export.c.writer import write_c, write_header
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.export.wasm.page import write_page
from edge_mnist.export.wasm.writer import find_clang, write_wasm
from edge_mnist.formats.table import Format
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError, check_package, explain_missing_packages

Writer = Callable[[FloatGraph | QuantizedGraph], bytes]
CompanionWriter = Callable[[Reference, bytes], bytes]


def _write_torchscript(graph: FloatGraph | QuantizedGraph) -> bytes:
    """Write TorchScript. Torch is imported only here, because the other formats do not need it."""
    try:
        with explain_missing_packages():
            from edge_mnist.export.torchscript_writer import write_torchscript
    except NotInstalledError as error:
        raise _suggest_other_formats(error) from error
    return write_torchscript(graph)


def _suggest_other_formats(missing: NotInstalledError) -> NotInstalledError:
    return NotInstalledError(f"{missing}, or leave TorchScript out: --format onnx --format tflite")


def check_writers(formats: Iterable[Format]) -> None:
    """Check that what writes each format is installed, so that it is not found missing after minutes of computation.

    Raises:
        NotInstalledError: PyTorch is missing, which writes TorchScript, or clang or its linker, for WebAssembly.
    """
    for record in formats:
        if record.name == "torchscript":
            try:
                check_package("torch")
            except NotInstalledError as error:
                raise _suggest_other_formats(error) from error
        elif record.name == "wasm":
            find_clang()


def _write_header(reference: Reference, artifact: bytes) -> bytes:
    """Write model.h."""
    if reference.quantized_graph is None:
        raise EdgeMnistError("the header declares the int8 network: export --int8")
    return write_header(reference.quantized_graph)


WRITERS: dict[str, Writer] = {
    "torchscript": _write_torchscript,
    "onnx": write_onnx,
    "tflite": write_tflite,
    "c": write_c,
    "wasm": write_wasm,
}
"""The function that writes a graph as the bytes of an artifact, by the name of its format in `FORMATS`."""

COMPANION_WRITERS: dict[str, CompanionWriter] = {"c": _write_header, "wasm": write_page}
"""The function that writes the file beside a format's int8 artifact, from the reference and the artifact's bytes."""
