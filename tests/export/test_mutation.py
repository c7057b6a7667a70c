"""A changed weight, bias, scale or zero point, in any artifact, at any layer, must fail and name the layer."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_mnist.bundle.reference import Reference
from edge_mnist.data.images import load_test_images
from edge_mnist.export import WRITERS
from edge_mnist.export.proof import localize
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.export.proof.verification import verify
from edge_mnist.formats.table import FORMATS, choose_formats
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Concatenate,
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Multiply,
    QuantizedConv2d,
    QuantizedGraph,
    Table,
)
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_graph, random_images
from tests.support.without_torch import needs_torch

Mutate = Callable[[bytes, str, str], bytes]


def mutate_onnx(data: bytes, layer: str, what: str) -> bytes:
    model = onnx.load_from_string(data)
    constants = {constant.name: constant for constant in model.graph.initializer}
    suffix = {"weight": "w", "bias": "b", "weight scale": "s"}.get(what)
    if suffix:
        change(constants[f"{layer}.{suffix}"])
    else:
        # Layers share scales and zero points: this layer gets a changed one that no other layer uses.
        node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and layer in node.output)
        position = 1 if what == "output scale" else 2
        own = onnx.TensorProto()
        own.CopyFrom(constants[node.input[position]])
        own.name = "changed"
        change(own)
        model.graph.initializer.append(own)
        node.input[position] = "changed"
    return model.SerializeToString()


def change(constant: onnx.TensorProto) -> None:
    array = onnx.numpy_helper.to_array(constant).copy()
    constant.CopyFrom(onnx.numpy_helper.from_array(nudged(array), constant.name))


def nudged(array: np.ndarray) -> np.ndarray:
    """Change one element: an integer by one, a float by an eighth."""
    flat = array.reshape(-1)
    at = len(flat) // 2
    if array.dtype.kind == "f":
        flat[at] = flat[at] * np.float32(1.125) + np.float32(1e-3)
    else:
        flat[at] += 1 if flat[at] < np.iinfo(array.dtype).max else -1
    return array


def mutate_tflite(data: bytes, layer: str, what: str) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data)
    tensors = {tensor.name.decode(): tensor for tensor in model.subgraphs[0].tensors}
    output = tensors.get(layer, tensors.get("logits"))
    if what in ("weight", "bias"):
        tensor = tensors[f"{layer}.{what[0]}"]
        kinds = {
            schema.TensorType.FLOAT32: np.float32,
            schema.TensorType.INT8: np.int8,
            schema.TensorType.INT32: np.int32,
        }
        content = np.frombuffer(bytes(model.buffers[tensor.buffer].data), kinds[tensor.type]).copy()
        model.buffers[tensor.buffer].data = np.frombuffer(nudged(content).tobytes(), np.uint8)
    elif what == "weight scale":
        tensors[f"{layer}.w"].quantization.scale = nudged(
            np.array(tensors[f"{layer}.w"].quantization.scale, np.float32)
        )
    elif what == "output scale":
        output.quantization.scale = np.array(output.quantization.scale, np.float32) * 2
    else:
        output.quantization.zeroPoint = np.array(output.quantization.zeroPoint, np.int64) + 1
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def mutate_torchscript(data: bytes, layer: str, what: str, layers: list[str]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    is_int8 = any("quantized/modules" in name for name in entries)
    at = layers.index(layer)
    if what in ("weight", "weight scale", "bias"):
        sizes = {"weight": 0, "weight scale": 1, "bias": 3} if is_int8 else {"weight": 0, "bias": 1}
        name = f"archive/data/{at * (4 if is_int8 else 2) + sizes[what]}"
        kind = np.int8 if is_int8 and what == "weight" else np.float64 if what == "weight scale" else np.float32
        entries[name] = nudged(np.frombuffer(entries[name], kind).copy()).tobytes()
    else:
        name = [name for name in entries if "torch/ao/nn/quantized/modules/conv" in name][at]
        call = re.search(rb"quantized\.conv2d\((\w+), (\w+), ([\d.e-]+), (\d+)\)", entries[name])
        assert call is not None
        scale, zero = float(call[3]), int(call[4])
        scale, zero = (scale * 2, zero) if what == "output scale" else (scale, zero + 1)
        fresh = b"quantized.conv2d(%s, %s, %r, %d)" % (call[1], call[2], scale, zero)
        entries[name] = entries[name].replace(call[0], fresh)
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return result.getvalue()


def mutate(kind: str, data: bytes, layer: str, what: str, graph: FloatGraph | QuantizedGraph) -> bytes:
    if kind == "torchscript":
        return mutate_torchscript(data, layer, what, [operation.name for operation in graph.convolutions])
    return {"onnx": mutate_onnx, "tflite": mutate_tflite}[kind](data, graph.identifiers()[layer], what)


def cases(graph: FloatGraph | QuantizedGraph) -> list[tuple[str, str]]:
    kinds = ["weight", "bias"]
    if isinstance(graph, QuantizedGraph):
        kinds += ["weight scale", "output scale", "output zero point"]
    return [(operation.name, what) for operation in graph.convolutions for what in kinds]


@pytest.mark.parametrize(
    ("precision", "kind"),
    [
        *(("float", record.name) for record in choose_formats()),
        *(("int8", name) for name in ("onnx", "tflite")),
        pytest.param("int8", "torchscript", marks=pytest.mark.slow),
    ],
)
def test_every_mutation_names_its_layer(kind: str, precision: str, reference: Reference) -> None:
    graph = reference.float_graph if precision == "float" else reference.quantized_graph
    assert graph is not None
    data = WRITERS[kind](graph)
    trusts = (True, False) if kind == "torchscript" else (True,)
    assert [find_first_difference(data, graph, reference.images[:24], trust=trust) for trust in trusts] == [
        (None, "")
    ] * len(trusts)
    for number, (layer, what) in enumerate(cases(graph)):
        changed = mutate(kind, data, layer, what, graph)
        assert changed != data
        # Each trusted archive is compiled by torch, which takes long: every third case, which is every kind of change.
        for trust in trusts if number % 3 == 0 else trusts[-1:]:
            found, difference = find_first_difference(changed, graph, reference.images[:24], trust=trust)
            assert (found, bool(difference)) == (layer, True), (layer, what, trust, found, difference)


@pytest.fixture(scope="module")
def branches() -> tuple[FloatGraph, QuantizedGraph, np.ndarray]:
    """A random network with a sum, a product, tables and a concatenation, and images."""
    checkpoint = random_graph(594)
    images = random_images(checkpoint, 12, 594)
    graph = fold(checkpoint)
    quantized, _ = quantize_graph(graph, calibration.collect(graph, images))
    kinds = {type(operation) for operation in quantized.operations}
    assert kinds == {QuantizedConv2d, Table, MaxPool2d, Add, Multiply, Concatenate}
    return graph, quantized, images


def change_operations(graph: FloatGraph | QuantizedGraph) -> Iterator[tuple[str, FloatGraph | QuantizedGraph]]:
    """Graphs in which one operation differs, with its name; scales are left out where values are concatenated."""
    for index, operation in enumerate(graph.operations):
        changes: list[dict[str, Any]] = []
        for name in ("weight", "bias", "values"):
            array = getattr(operation, name, None)
            if array is not None:
                changes.append({name: nudged(array.copy())})
        output = getattr(operation, "output", None)
        if output is not None and not isinstance(operation, Table):  # looking up values needs no scale
            changes.append({"output": replace(output, scale=output.scale * 2)})
        if isinstance(operation, MaxPool2d):
            changes.append({"window": replace(operation.window, dilation=(1, 1), kernel_size=(1, 1))})
        if isinstance(operation, Activation):
            changes.append({"function": "tanh" if operation.function != "tanh" else "sigmoid"})
        if isinstance(operation, Concatenate):
            changes.append({"sources": graph.sources(index)[::-1]})
        if isinstance(operation, Add) and output is None:
            changes.append({"bounds": UNBOUNDED if operation.bounds == RELU else RELU})
        for change in changes:
            changed = (*graph.operations[:index], replace(operation, **change), *graph.operations[index + 1 :])
            with contextlib.suppress(EdgeMnistError):  # the shapes or scales of other operations do not fit any more
                yield operation.name, replace(graph, operations=changed)


@pytest.mark.parametrize("kind", [pytest.param("torchscript", marks=pytest.mark.slow), "onnx", "tflite", "c"])
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_the_operation_in_which_a_graph_differs_is_named(
    kind: str, precision: str, branches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision not in FORMATS[kind].precisions:
        return
    graph, images = branches[precision == "int8"], branches[2]
    kinds = {operation.name: type(operation) for operation in graph.operations}
    trust = kind != "c"  # compiling takes seconds; without trust the constants are compared
    data = WRITERS[kind](graph)
    assert find_first_difference(data, graph, images, trust=trust) == (None, "")
    monkeypatch.setattr(localize, "WRITERS", {kind: lambda _: data})  # writing it each time takes long
    found = set()
    for name, changed in change_operations(graph):
        layer, difference = find_first_difference(WRITERS[kind](changed), graph, images, trust=trust)
        assert (layer, bool(difference)) == (name, True), (name, difference)
        found.add(kinds[name])
    assert found >= {Conv2d, Activation, Add} if precision == "float" else {QuantizedConv2d, Table, Add, Multiply}


@pytest.mark.slow
def test_the_operation_in_which_the_c_code_of_a_graph_differs_is_named(
    branches: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    _, graph, images = branches
    assert find_first_difference(WRITERS["c"](graph), graph, images, trust=True) == (None, "")
    for name, changed in change_operations(graph):
        layer, difference = find_first_difference(WRITERS["c"](changed), graph, images, trust=True)
        assert (layer, bool(difference)) == (name, True), (name, difference)


@needs_torch
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_a_byte_that_breaks_an_archives_checksum_names_its_layer(precision: str, reference: Reference) -> None:
    graph = reference.float_graph if precision == "float" else reference.quantized_graph
    assert graph is not None
    data = WRITERS["torchscript"](graph)
    for at, operation in enumerate(graph.convolutions):
        changed = bytearray(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = archive.read(f"archive/data/{at * (4 if precision == 'int8' else 2)}")
        changed[data.index(content) + len(content) // 2] ^= 1
        for trust in (True, False):
            found, difference = find_first_difference(bytes(changed), graph, reference.images[:8], trust=trust)
            assert (found, bool(difference)) == (operation.name, True), (trust, difference)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        ("tflite", "int8"),
        pytest.param("onnx", "float", marks=pytest.mark.slow),
        *(pytest.param(kind, "int8", marks=pytest.mark.slow) for kind in ("onnx", "torchscript")),
    ],
)
def test_verify_fails_and_names_the_layer(
    kind: str, precision: str, reference: Reference, tmp_path: Path, bundle_folder: Path
) -> None:
    folder = tmp_path / "artifacts"
    shutil.copytree(bundle_folder, folder)
    path = folder / FORMATS[kind].artifact_name(precision)
    graph = reference.float_graph if precision == "float" else reference.quantized_graph
    assert graph is not None
    path.write_bytes(mutate(kind, path.read_bytes(), "conv5", "weight", graph))
    report = verify(folder, load_test_images((1, 28, 28), None, 20))
    assert not report.passed
    failed = [variant for variant in report.variants if variant.status == "failed"]
    assert [variant.file for variant in failed] == [path.name]
    assert failed[0].layer == "conv5"
    assert "changed since the export" in failed[0].reason
