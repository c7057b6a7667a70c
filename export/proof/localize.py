"""Names the first layer in which an artifact departs from the reference.

`python -m
edge_mnist.export.proof.localize ARTIFACT REFERENCE float|int8 trust|distrust [RUNTIME]`, where RUNTIME is as in
`runtime.load_bytes`.

The artifact is cut after each layer in turn, run over the golden images, and held against the oracle. If no output
differs (a weight behind a dead ReLU, a bias scale that no kernel reads), its constants are held against a fresh
export's. Prints one JSON object: the layer, or null, and what differs in it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mnist.bundle.reference import deserialize
from edge_mnist.export import WRITERS
from edge_mnist.export.c.tables import fuse_operations
from edge_mnist.export.onnx_writer import add_output
from edge_mnist.export.proof.run_artifact import FLOAT_TOLERANCE, MEMORY
from edge_mnist.formats import tflite_reader
from edge_mnist.formats.table import detect_format, read_contract, require_format
from edge_mnist.graph.interpreter import Rounding, float_activations, quantized_activations
from edge_mnist.graph.operations import FloatGraph, QuantizedGraph
from edge_mnist.runtime import load_bytes
from edge_mnist.runtime.compiled_c import open_library
from edge_mnist.runtime.onnx_runtime import OnnxClassifier
from edge_mnist.runtime.torchscript import TorchScriptClassifier
from edge_mnist.system.child_processes import limit_memory
from edge_mnist.system.errors import EdgeMnistError, first_line


def find_first_difference(
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8], *, trust: bool, runtime: str = ""
) -> tuple[str | None, str]:
    """The first layer of an artifact that departs from a graph, and how; (None, "") if none does.

    Args:
        data: the artifact.
        graph: what it should compute.
        images: uint8, to run it over.
        trust: run the code that a TorchScript archive or a model.c carries; otherwise only its constants are compared.
        runtime: what to run it in, as in `runtime.load_bytes`.
    """
    kind = detect_format(data)
    is_run = trust or kind is None or not kind.carries_code
    found = [_first_output_difference(data, graph, images, runtime)] if is_run else []
    found.append(_first_constant_difference(data, graph))
    order = [operation.name for operation in graph.operations]
    # A changed constant may show later in the outputs than where it is, or not at all.
    named = [(layer, difference) for layer, difference in found if layer is not None]
    unnamed = next((item for item in found if item[1]), (None, ""))
    return min(named, key=lambda item: order.index(item[0]) if item[0] in order else len(order), default=unnamed)


def _first_constant_difference(data: bytes, graph: FloatGraph | QuantizedGraph) -> tuple[str | None, str]:
    """The first layer of which a constant differs from a fresh export's."""
    names = {identifier: name for name, identifier in graph.identifiers().items()}
    convolutions = [operation.name for operation in graph.convolutions]
    try:
        kind = require_format(data, "the artifact")
        constants = list(kind.read_constants(data))
    except Exception as error:  # damage may break a reader anywhere
        return None, f"it is damaged: {first_line(error)}"
    for changed, original in zip_longest(constants, kind.read_constants(WRITERS[kind.name](graph))):
        if changed != original:
            name, what, _ = changed or original or ("", "", b"")
            # A constant's name begins with its layer's identifier: "L0_conv1.w".
            layer = convolutions[int(name)] if kind.name == "torchscript" else names.get(name.partition(".")[0], name)
            return layer or None, f"{what} differs"
    return None, ""


def _first_output_difference(
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8], runtime: str
) -> tuple[str | None, str]:
    """The first layer whose output departs from that of the oracle's mode of the runtime."""
    try:
        rounding = load_bytes(data, "the artifact", runtime=runtime).rounding
    except Exception:  # what damage does shows below, at its layer
        rounding = "float"
    found = _layer_outputs(data, graph, images, runtime)
    for operation, expected in zip(graph.operations, _oracle(graph, images, rounding), strict=True):
        try:
            values = next(found)
        except Exception as error:  # damage may break a reader or a runtime anywhere; they share no base class
            # What cannot be opened at all tells nothing of its first layer.
            layer = None if operation is graph.operations[0] else operation.name
            return layer, f"it cannot be run: {first_line(error)}"
        difference = "" if values is None else _difference(values, expected)
        if difference:
            return operation.name, difference
    return None, ""


def _oracle(
    graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8], rounding: Rounding
) -> Iterator[NDArray[Any]]:
    """Output of each operation: (N, height, width, channels)."""
    steps: Iterator[NDArray[Any]] = (
        float_activations(graph, images)
        if isinstance(graph, FloatGraph)
        else quantized_activations(graph, images, rounding)
    )
    next(steps)
    return steps


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> str:
    """How much an artifact's activations depart from the oracle's; "" if they do not."""
    expected = expected.transpose(0, 3, 1, 2).reshape(len(expected), -1)
    if found.size != expected.size:
        return f"it gives {found.size} values, expected {expected.size}"
    # An artifact's logits are two-dimensional in any format; maps are brought to PyTorch's order before.
    error = np.abs(found.reshape(expected.shape).astype(np.float64) - expected)
    limit = 0.0 if expected.dtype == np.int8 else FLOAT_TOLERANCE * max(1.0, float(np.abs(expected).max()))
    count = int((~(error <= limit)).sum())  # NaN counts
    return f"{count} of {error.size} values differ, by up to {error.max():g}" if count else ""


def _layer_outputs(
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.uint8], runtime: str
) -> Iterator[NDArray[Any] | None]:
    """Outputs of an artifact cut after each operation; signed, in PyTorch's order of elements.

    None for a convolution whose sums C pools at once: its own output is never there.
    """
    contract = read_contract(data, "the artifact")
    inputs = contract.convert_images(images)
    kind = require_format(data, "the artifact").name
    if kind == "torchscript":
        classifier = TorchScriptClassifier(data, "the artifact", 1)
        yield from (contract.to_signed(values) for values in classifier.layer_outputs(inputs, len(graph.operations)))
        return
    if kind == "c" and isinstance(graph, QuantizedGraph):
        yield from _c_layer_outputs(data, graph, inputs)
        return
    names = graph.identifiers()
    for operation in graph.operations:
        name = names[operation.name]
        if kind == "onnx":
            values = OnnxClassifier(add_output(data, name, contract.output_type), name, 1, name).run(inputs)
        else:
            is_last = operation is graph.operations[-1]
            part = data if is_last else tflite_reader.cut_after(data, name)
            values = load_bytes(part, name, runtime=runtime).run(inputs)
            values = values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
        yield contract.to_signed(values)


def _c_layer_outputs(data: bytes, graph: QuantizedGraph, inputs: NDArray[Any]) -> Iterator[NDArray[np.int8] | None]:
    """What each operation of a model.c gives: (N, channels, height, width); None where it is pooled at once."""
    steps = fuse_operations(graph)
    found = open_library(data, "the artifact", traced=True).trace(inputs, len(steps))
    for stage, values in zip(steps, found, strict=True):
        channels, height, width = stage.output_shape
        if stage.pool:
            yield None
        yield values.reshape(len(values), height, width, channels).transpose(0, 3, 1, 2)


def main(artifact: str, reference_file: str, precision: str, trust: str, runtime: str = "") -> None:
    """Run as the module's text says."""
    limit_memory(MEMORY)
    reference = deserialize(Path(reference_file).read_bytes(), reference_file)
    graph = reference.quantized_graph if precision == "int8" else reference.float_graph
    layer, difference = None, ""
    if graph is not None:
        try:
            data = Path(artifact).read_bytes()
            layer, difference = find_first_difference(
                data, graph, reference.images, trust=trust == "trust", runtime=runtime
            )
        except EdgeMnistError as error:
            difference = str(error)
    print(json.dumps({"layer": layer, "difference": difference}))


if __name__ == "__main__":
    main(*sys.argv[1:])
