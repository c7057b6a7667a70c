"""The contract inside an artifact, and the reference with which it is compared: for chains as ever, for graphs too."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist.bundle.manifest import read_manifest
from edge_mnist.bundle.reference import (
    GOLDEN_IMAGES,
    deserialize,
    draw_golden_features,
    draw_golden_images,
    make_reference,
    serialize,
)
from edge_mnist.data.images import Images
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.export.proof.verification import verify
from edge_mnist.export.report.page import render_html
from edge_mnist.formats.contract import Contract, hash_graph
from edge_mnist.formats.table import FORMATS, choose_formats
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
)
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.runtime import Classifier
from edge_mnist.system.errors import EdgeMnistError
from tests.support.fuzz_artifacts import damage_safetensors
from tests.support.networks import make_graphs_of_every_operation, random_features, random_graph, random_images

PIXELS = Contract((3, 4, 5), "uint8", "NCHW", "uint8", 0.5, 128, "0123456789abcdef")
FEATURES = replace(PIXELS, input_scale=0.25, input_zero_point=120)


def make_chains() -> tuple[FloatGraph, QuantizedGraph]:
    """Chains by hand, of the kinds of operations that could always be exported."""
    weight, bias = np.arange(-9, 9, dtype=np.float32).reshape(2, 1, 3, 3), np.array([0.5, -1], np.float32)
    grouped, scale = np.arange(-4, 4, dtype=np.float32).reshape(2, 1, 2, 2), np.array([0.25, 0.5], np.float32)
    window, pool = Window((3, 3), (1, 2), (1, 0)), MaxPool2d("pool", Window((2, 2), (2, 2), (0, 1)))
    real = (Conv2d("größe 1", weight, bias, window, 1, RELU), pool, Conv2d("b", grouped, bias, Window((2, 2)), 2))
    weight, grouped, bias = weight.astype(np.int8), grouped.astype(np.int8), bias.astype(np.int32)
    int8 = (
        QuantizedConv2d("größe 1", weight, scale, bias, window, 1, RELU, Quantization(2.0, -128)),
        pool,
        QuantizedConv2d("b", grouped, scale, bias, Window((2, 2)), 2, UNBOUNDED, Quantization(4.0, 7)),
    )
    return FloatGraph((1, 6, 7), 33, real), QuantizedGraph((1, 6, 7), 33, int8)


def test_the_hashes_of_chains_are_those_of_the_first_versions() -> None:
    real, int8 = make_chains()
    assert hash_graph(real) == "39a0464f70e0db694b83f4939084fcfe29bcf62e00e22971fc5f441418989611"
    assert hash_graph(int8) == "fd6d1a7c2065ac2571eb1d4221d5630d18ad27cdabd8129c58cfee9e1dc07f98"


def test_everything_that_a_graph_computes_with_changes_its_hash() -> None:
    for graph in make_graphs_of_every_operation():
        found = {hash_graph(graph)}
        for changed in (replace(graph, ending=""), *vary(graph)):
            found.add(hash_graph(changed))
        assert len(found) > 25
        assert len(found) == 2 + sum(1 for _ in vary(graph))


def vary(graph: Any) -> Any:
    """The graph with one field of one operation, or of the input, changed."""
    if isinstance(graph, QuantizedGraph):
        yield replace(graph, features=Quantization(2.0**-5, -4))
    for index, operation in enumerate(graph.operations):
        changes: list[dict[str, Any]] = [{"name": f"{operation.name}2"}]
        for name in ("weight", "bias", "weight_scale", "values"):
            array = getattr(operation, name, None)
            if array is not None:
                array = array.copy()
                array.reshape(-1)[-1] = array.reshape(-1)[-1] - 1 if array.dtype.kind == "i" else array.flat[-1] * 2
                changes.append({name: array})
        if operation.name in ("padded", "side"):
            changes += [{"window": replace(operation.window, padding=(1, 1), padding_after=(0, 1))}]
        if operation.name == "padded":
            changes += [{"bounds": (0.0, 6.001)}]
        if operation.name == "up":
            changes += [{"factor": (2, 2)}]
        if operation.name == "gate":
            changes += [{"function": "tanh"}, {"parameter": 0.5}]
        if operation.name in ("sum", "product"):
            changes += [{"sources": (1, 1)}]
        if operation.name in ("sum", "gate", "last", "logits") and isinstance(graph, QuantizedGraph):
            changes += [{"output": replace(operation.output, scale=operation.output.scale * 2)}]
        for change in changes:
            changed = replace(operation, **change)
            with_change = (*graph.operations[:index], changed, *graph.operations[index + 1 :])
            try:
                yield replace(graph, operations=with_change)
            except EdgeMnistError as error:  # nothing takes the branch any more
                assert "nothing uses its output" in str(error)


def test_a_contract_says_only_what_is_not_usual() -> None:
    usual = ["input_shape", "input_type", "layout", "output_type", "output_scale", "output_zero_point", "model"]
    for record in FORMATS.values():
        for graph in make_chains():
            contract = record.make_contract(graph)
            assert [*json.loads(contract.to_json())][:7] == usual
        real, int8 = (json.loads(record.make_contract(graph).to_json()) for graph in make_graphs_of_every_operation())
        more = ["input_scale", "input_zero_point", "ending", "output_shape"]
        assert [*real] == [*int8] == usual + more
        assert (real["input_scale"], real["input_zero_point"], real["ending"]) == (1.0, 0, "log_softmax")
        shift = 128 if record.input_type == "uint8" else 0
        assert (int8["input_scale"], int8["input_zero_point"]) == (2.0**-5, -3 + shift)
        assert Contract.from_json(json.dumps(int8)) == record.make_contract(make_graphs_of_every_operation()[1])
    classes = replace(make_chains()[0], input_shape=(1, 4, 5))
    assert json.loads(FORMATS["onnx"].make_contract(classes).to_json()).keys() == {*usual}


@pytest.mark.parametrize(
    "changes",
    [
        {"input_shape": []},
        {"input_shape": [1, 2, 3, 4]},
        {"input_shape": [1, 0]},
        {"input_shape": [True, 2]},
        {"input_shape": [1 << 14, 1 << 14]},
        {"input_shape": None},
        {"output_shape": [1, 2]},
        {"output_shape": [1 << 10, 1 << 10, 1 << 10]},
        {"output_shape": "abc"},
        {"input_scale": None},
        {"input_scale": 0.0},
        {"input_scale": "1"},
        {"input_scale": float("inf")},
        {"input_zero_point": None},
        {"input_zero_point": 256},
        {"input_zero_point": 1.0},
        {"ending": "relu"},
        {"ending": None},
        {"ending": ["softmax"]},
        {"layout": "NCL"},
        {"output_scale": float("nan")},
        {"model": 3},
        {"model": ...},
        {"input_type": ...},
    ],
)
def test_a_damaged_contract_is_refused(changes: dict[str, Any]) -> None:
    fields = json.loads(replace(FEATURES, output_shape=(2, 3, 4), ending="softmax").to_json())
    assert Contract.from_json(json.dumps(fields)).output_shape == (2, 3, 4)
    changed = {key: value for key, value in (fields | changes).items() if value is not ...}
    with pytest.raises(ValueError, match="not a contract"):
        Contract.from_json(json.dumps(changed))


def test_pixels_are_converted_as_they_always_were() -> None:
    images = np.random.default_rng(1).integers(0, 256, (6, 3, 4, 5), np.uint8)
    np.testing.assert_array_equal(PIXELS.convert_images(images), images)
    signed = replace(PIXELS, input_type="int8", layout="NHWC").convert_images(images)
    np.testing.assert_array_equal(signed, images.transpose(0, 2, 3, 1).astype(int) - 128)
    real = replace(PIXELS, input_type="float32").convert_images(images)
    assert real.dtype == np.float32 and signed.dtype == np.int8 and signed.flags.c_contiguous
    np.testing.assert_array_equal(real, images)
    grey = replace(PIXELS, input_shape=(1, 4, 5))
    np.testing.assert_array_equal(grey.convert_images(images[:, 0]), images[:, :1])
    with pytest.raises(EdgeMnistError, match=r"expected uint8 \(N, 3, 4, 5\), found float32"):
        PIXELS.convert_images(images.astype(np.float32))


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 7), (9,)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_features_are_quantized_or_taken_as_they_are(shape: tuple[int, ...], layout: str) -> None:
    inputs = np.random.default_rng(1).normal(0, 20, (8, *shape)).astype(np.float32)
    inputs.flat[:4] = (0.125, 0.375, 1e30, -1e30)  # ties go to the even integer; large numbers are clamped
    arranged = np.moveaxis(inputs, 1, -1) if layout == "NHWC" and len(shape) > 1 else inputs
    terms = replace(FEATURES, input_shape=shape, layout=layout)
    expected = np.clip(np.rint(arranged.astype(np.float64) / 0.25) + 120, 0, 255)
    found = terms.convert_images(inputs)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    assert sorted(terms.convert_images(inputs[:1]).flat)[-1] == 255 and found.flat[0] == 120
    signed = replace(terms, input_type="int8", input_zero_point=-8).convert_images(inputs)
    np.testing.assert_array_equal(signed, expected - 128)
    real = replace(terms, input_type="float32", input_scale=1.0, input_zero_point=0).convert_images(inputs)
    np.testing.assert_array_equal(real, arranged)
    for bad in (np.nan, np.inf):
        inputs.flat[3] = bad
        with pytest.raises(EdgeMnistError, match="1 values are infinite or not a number"):
            terms.convert_images(inputs)


class Constant(Classifier):
    """A runtime that gives the same outputs for every input."""

    def __init__(self, contract: Contract, outputs: np.ndarray) -> None:
        self.name, self.contract, self.found = "an artifact", contract, outputs

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        return self.found


def test_maps_come_back_in_the_order_of_pytorch() -> None:
    maps = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 5), np.uint8)
    images, terms = np.zeros((2, 3, 4, 5), np.uint8), replace(PIXELS, output_shape=(3, 4, 5))
    expected = maps.reshape(2, 60).astype(int) - 128
    np.testing.assert_array_equal(Constant(terms, maps).outputs(images), expected)
    last = Constant(replace(terms, layout="NHWC"), maps.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(last.outputs(images), expected)
    np.testing.assert_array_equal(last.logits(images), expected / 2)
    with pytest.raises(EdgeMnistError, match="an artifact: gives maps of 3x4x5, not classes"):
        last.predict(images)
    for outputs in (maps[:, :2], maps[:1], maps.astype(np.int8), maps.reshape(2, 60)):
        with pytest.raises(EdgeMnistError, match=r"expected uint8 \(2, 3, 4, 5\): it is damaged, export it again"):
            Constant(terms, outputs).outputs(images)
    with pytest.raises(EdgeMnistError, match=r"expected uint8 \(2, classes\): it is damaged, export it again"):
        Constant(PIXELS, maps).outputs(images)


def test_a_reference_of_every_operation_is_read_back() -> None:
    real, int8 = make_graphs_of_every_operation()
    reference = make_reference(real, int8, (), 0.5)
    assert reference.images.dtype == np.float32 and reference.int8_logits is not None
    assert len(np.unique(reference.int8_logits)) > 15
    data = serialize(reference)
    found = deserialize(data, "x")
    assert serialize(found) == data and found.quantized_graph is not None
    assert (hash_graph(found.float_graph), hash_graph(found.quantized_graph)) == (hash_graph(real), hash_graph(int8))
    np.testing.assert_array_equal(run_quantized(found.quantized_graph, found.images), reference.int8_logits)
    np.testing.assert_array_equal(run_float(found.float_graph, found.images), reference.float_logits)
    assert b'\\"format\\": 2' in data


def test_a_damaged_reference_of_a_graph_is_refused_or_can_be_run() -> None:
    data = serialize(make_reference(*make_graphs_of_every_operation(), (), None))
    refused = 0
    for seed in range(400):
        try:
            found = deserialize(damage_safetensors(data, random.Random(seed)), "x")
            if found.quantized_graph is not None:
                run_quantized(found.quantized_graph, found.images)
        except EdgeMnistError:
            refused += 1
    assert 250 < refused < 390


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"kernel_size": [2, 2]', '{"kernel_size": [2.0, 2]'),
        ('"stride": [1, 1]', '"stride": [0, 1]'),
        ('"sources": [1, 2]', '"sources": [1, 2.0]'),
        ('"factor": [1, 2]', '"factor": [1, -2]'),
        ('"name": "sum", "relu": false, "sources": [1, 2], "output"', '"name": "sum", "sources": [1, 2], "other"'),
        ('"op": "Table"', '"op": "Activation"'),
        ('"ending": "log_softmax"', '"ending": "relu"'),
    ],
)
def test_an_operation_that_cannot_be_is_refused(old: str, new: str) -> None:
    data = serialize(make_reference(*make_graphs_of_every_operation(), (), None))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    (key,) = header["__metadata__"]
    text = header["__metadata__"][key]
    assert old in text
    header["__metadata__"][key] = text.replace(old, new)
    packed = json.dumps(header).encode()
    with pytest.raises(EdgeMnistError):
        deserialize(len(packed).to_bytes(8, "little") + packed + data[8 + size :], "x")


def test_a_reference_of_a_chain_to_classes_is_in_the_first_layout() -> None:
    real, int8 = (replace(graph, input_shape=(1, 4, 5)) for graph in make_chains())
    assert real.shapes()[-1] == (2, 1, 1)
    data = serialize(make_reference(real, int8, (), None))
    assert b'\\"format\\": 1' in data and b"padding_after" not in data and b"sources" not in data
    assert serialize(deserialize(data, "x")) == data


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 6, 7), (3, 32, 32), (4, 1, 1), (2, 9), (17,), (1,)])
def test_golden_inputs_have_the_networks_shape_and_differ(shape: tuple[int, ...]) -> None:
    images = draw_golden_images(shape)
    assert images.shape == (GOLDEN_IMAGES, *shape) and images.dtype == np.uint8
    assert images.min() == 0 and images.max() == 255
    features = Quantization(2.0**-6, 100)
    values = draw_golden_features(shape, features)
    assert values.shape == (GOLDEN_IMAGES, *shape) and values.dtype == np.float32
    low, high = features.range
    assert values.min() < low and values.max() > high  # beyond the range too
    assert ((values >= low) & (values <= high)).mean() > 0.6
    assert len({value.tobytes() for value in values}) > 50


def export_random(seed: int, folder: Path) -> np.ndarray:
    """Write a bundle of a random network as ONNX and TFLite; return inputs for it."""
    checkpoint = random_graph(seed)
    inputs = (random_images if checkpoint.is_pixels else random_features)(checkpoint, 80, seed)
    graph = fold(checkpoint)
    quantized, layers = quantize_graph(graph, calibration.collect(graph, inputs))
    reference = make_reference(graph, quantized, layers, None)
    write_bundle(folder, make_bundle(reference, choose_formats(["onnx", "tflite"]), {}))
    return inputs


def test_a_bundle_of_features_to_maps_is_proven(tmp_path: Path) -> None:
    inputs = export_random(2039, tmp_path / "bundle")
    report = verify(tmp_path / "bundle", Images("sensor", inputs, None))
    assert report.passed and (report.is_pixels, report.has_classes) == (False, False)
    assert [variant.logits_differing for variant in report.variants] == [0] * 4
    assert {(variant.accuracy, variant.agreement) for variant in report.variants} == {(None, None)}
    assert report.output_snr_db is not None and report.output_snr_db > 15 and report.changed == ()
    weighty = {layer.name for layer in report.layers if layer.bias_shift_before is not None}
    assert 0 < len(weighty) < len(report.layers) and all(layer.snr_db > 10 for layer in report.layers)
    assert "The outputs are not classes." in render_html(report, read_manifest(tmp_path / "bundle"))
    with pytest.raises(EdgeMnistError, match=r"sensor: has labels, but the network gives maps of .* without labels"):
        verify(tmp_path / "bundle", Images("sensor", inputs, np.zeros(80, np.int64)))
    with pytest.raises(EdgeMnistError, match=r"inputs: expected float32 .* found uint8"):
        verify(tmp_path / "bundle", Images("sensor", inputs.astype(np.uint8), None))


def test_labels_beyond_the_classes_are_refused(tmp_path: Path) -> None:
    images = export_random(2009, tmp_path / "bundle")
    with pytest.raises(EdgeMnistError, match=r"photos: has labels 0 to 3, but the network gives 3 values, for the cl"):
        verify(tmp_path / "bundle", Images("photos", images, np.arange(80) % 4))
    report = verify(tmp_path / "bundle", Images("photos", images, np.arange(80) % 3))
    assert report.float_accuracy is not None and {variant.agreement for variant in report.variants} == {1.0}
    assert all(image.pixels is not None and image.pixels.shape == (8, 11, 3) for image in report.changed)
