"""Finds the first layer in which an artifact differs from the reference.

`python -m edge_mnist.export.proof.localize ARTIFACT REFERENCE float|int8 trust|distrust [RUNTIME]`, where RUNTIME is
that of `runtime.load_bytes`, prints one JSON object: the layer, or null, and what differs in it.

The artifact is cut after each layer in turn, run on the golden inputs, and compared with the oracle. Its constants are
also compared with those of a new export, because a changed constant need not change any output (a weight before a ReLU
that is always 0, a bias scale that no kernel reads).
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
from edge_mnist.export.proof.run_artifact import BATCH_VALUES, MEMORY, compute_tolerance
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
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.generic], *, trust: bool, runtime: str = ""
) -> tuple[str | None, str]:
    """Find the first layer in which an artifact differs from a graph.

    Args:
        data: the content of the artifact.
        graph: what it should compute.
        images: uint8 pixels or float32 features (N, *input_shape), on which the outputs of the layers are compared.
        trust: run the code that a TorchScript archive or a model.c carries; otherwise only its constants are compared.
        runtime: the runtime, as in `runtime.load_bytes`.

    Returns:
        The name of the layer, or None if no layer can be named, and what differs, or "" if nothing does.
    """
    detected = detect_format(data)
    may_run = trust or detected is None or not detected.carries_code
    differences = [_find_output_difference(data, graph, images, runtime)] if may_run else []
    differences.append(_find_constant_difference(data, graph))
    order = [operation.name for operation in graph.operations]
    # A changed constant may change the outputs of a later layer first, or no output at all.
    named = [(layer, difference) for layer, difference in differences if layer is not None]
    unnamed = next((item for item in differences if item[1]), (None, ""))
    return min(named, key=lambda item: order.index(item[0]) if item[0] in order else len(order), default=unnamed)


def _find_constant_difference(data: bytes, graph: FloatGraph | QuantizedGraph) -> tuple[str | None, str]:
    """Find the first layer of which a constant differs from that of a new export."""
    names = {identifier: name for name, identifier in graph.identifiers().items()}
    try:
        record = require_format(data, "the artifact")
        constants = list(record.read_constants(data))
    except Exception as error:  # a damaged file may raise anything in a reader
        return None, f"it is damaged: {first_line(error)}"
    for changed, original in zip_longest(constants, record.read_constants(WRITERS[record.name](graph))):
        if changed != original:
            name, what, _ = changed or original or ("", "", b"")
            # A constant's name begins with its layer's identifier: "L0_conv1.w".
            layer = names.get(name.partition(".")[0], name)
            return layer or None, f"{what} differs"
    return None, ""


def _find_output_difference(
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.generic], runtime: str
) -> tuple[str | None, str]:
    """Find the first layer whose output differs from the oracle's with the rounding of the runtime."""
    try:
        rounding = load_bytes(data, "the artifact", runtime=runtime).rounding
    except Exception:  # the damage is reported below, with its layer
        rounding = "float"
    outputs = _run_layers(data, graph, images, runtime)
    for operation, expected in zip(graph.operations, _run_oracle(graph, images, rounding), strict=True):
        try:
            values = next(outputs)
        except Exception as error:  # a damaged file may raise anything in a reader or a runtime
            # A file that cannot be opened at all says nothing about its first layer.
            layer = None if operation is graph.operations[0] else operation.name
            return layer, f"it cannot be run: {first_line(error)}"
        difference = "" if values is None else _describe_difference(values, expected)
        if difference:
            return operation.name, difference
    return None, ""


def _run_oracle(
    graph: FloatGraph | QuantizedGraph, images: NDArray[np.generic], rounding: Rounding
) -> Iterator[NDArray[Any]]:
    """Compute the output of each operation, int8 or float32 (N, height, width, channels)."""
    steps: Iterator[NDArray[Any]] = (
        float_activations(graph, images)
        if isinstance(graph, FloatGraph)
        else quantized_activations(graph, images, rounding)
    )
    next(steps)  # the input
    return steps


def _describe_difference(values: NDArray[Any], expected: NDArray[Any]) -> str:
    """Say how much the activations of an artifact differ from the oracle's; "" if they do not.

    Args:
        values: the activations of the artifact, (N, channels, height, width), or (N, classes) of the logits.
        expected: the activations of the oracle, (N, height, width, channels).
    """
    expected = expected.transpose(0, 3, 1, 2).reshape(len(expected), -1)  # (N, channels * height * width)
    if values.size != expected.size:
        return f"it gives {values.size} values, expected {expected.size}"
    error = np.abs(values.reshape(expected.shape).astype(np.float64) - expected)
    limit = compute_tolerance(expected)
    count = int((~(error <= limit)).sum())  # NaN counts as a difference
    return f"{count} of {error.size} values differ, by up to {error.max():g}" if count else ""


def _run_layers(
    data: bytes, graph: FloatGraph | QuantizedGraph, images: NDArray[np.generic], runtime: str
) -> Iterator[NDArray[Any] | None]:
    """Compute the output of each operation of an artifact.

    Yields:
        int8 or float32 (N, channels, height, width), or (N, classes) of the logits. None for what cannot be seen: a
        convolution whose sums the C kernels pool before they requantize them, the inner operations of WebAssembly.
    """
    contract = read_contract(data, "the artifact")
    inputs = contract.convert_images(images)
    kind = require_format(data, "the artifact").name
    if kind == "torchscript":
        classifier = TorchScriptClassifier(data, "the artifact", 1)
        yield from (contract.to_signed(values) for values in classifier.layer_outputs(inputs))
        return
    if kind == "c" and isinstance(graph, QuantizedGraph):
        yield from _run_c_layers(data, graph, inputs)
        return
    names = graph.identifiers()
    for operation in graph.operations:
        name = names[operation.name]
        if kind == "wasm" and operation is not graph.operations[-1]:
            yield None  # the module gives nothing but the last output
            continue
        if kind == "onnx":
            values = OnnxClassifier(add_output(data, name, contract.output_type), name, 1, name).run(inputs)
        else:
            is_last = operation is graph.operations[-1]
            part = data if is_last else tflite_reader.cut_after(data, name)
            values = load_bytes(part, name, runtime=runtime).run(inputs)
            values = values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
        yield contract.to_signed(values)


def _run_c_layers(data: bytes, graph: QuantizedGraph, inputs: NDArray[Any]) -> Iterator[NDArray[np.int8] | None]:
    """Compute the output of each operation of a model.c, as `_run_layers` does."""
    operations = fuse_operations(graph)
    outputs = open_library(data, "the artifact", traced=True).trace(inputs, len(operations))
    for fused, values in zip(operations, outputs, strict=True):
        channels, height, width = fused.output_shape
        if fused.pool:
            yield None
        yield values.reshape(len(values), height, width, channels).transpose(0, 3, 1, 2)


def choose_images(images: NDArray[np.generic]) -> NDArray[np.generic]:
    """Choose those of the golden inputs on which layers are compared: fewer if they are large, at least 4.

    The artifact is run once for each of its layers, so that all of them would take too long.
    """
    count = min(len(images), max(BATCH_VALUES // images[0].size, 4))
    return images[:: -(-len(images) // count)]


def main(artifact: str, reference_file: str, precision: str, trust: str, runtime: str = "") -> None:
    """Find the first difference of an artifact as the text of this module says, and print it.

    Args:
        artifact: the path of the artifact.
        reference_file: the path of the bundle's reference.
        precision: "float" or "int8", the graph of the reference that is compared.
        trust: "trust" or "distrust", whether the code that an artifact carries may run.
        runtime: the runtime, as in `runtime.load_bytes`.
    """
    limit_memory(MEMORY)
    reference = deserialize(Path(reference_file).read_bytes(), reference_file)
    graph = reference.quantized_graph if precision == "int8" else reference.float_graph
    layer, difference = None, ""
    if graph is not None:
        try:
            data = Path(artifact).read_bytes()
            layer, difference = find_first_difference(
                data, graph, choose_images(reference.images), trust=trust == "trust", runtime=runtime
            )
        except EdgeMnistError as error:
            difference = str(error)
    print(json.dumps({"layer": layer, "difference": difference}))


if __name__ == "__main__":
    main(*sys.argv[1:])
