"""TensorFlow Lite Micro as an additional runtime of `verify`. test_bit_exact.py runs random networks in it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edge_mnist import runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.cli import commands
from edge_mnist.data.images import load_test_images
from edge_mnist.export import WRITERS, bundle_writer
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.export.proof.verification import VerifyOptions, verify
from edge_mnist.export.report.page import render_html
from edge_mnist.formats.table import FORMATS
from edge_mnist.graph.interpreter import run_quantized
from edge_mnist.runtime.classifier import is_x86
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from tests.export.test_mutation import mutate

pytest.importorskip("tflite_micro")

IMAGES = load_test_images((1, 28, 28), None, 40)
TOO = VerifyOptions(runtime=runtime.MICRO)

needs_micro = pytest.mark.skipif(
    sys.platform != "linux" or not is_x86(), reason="tflite-micro has wheels for Linux on x86-64 only"
)


@pytest.fixture
def folder(reference: Reference, tmp_path: Path) -> Path:
    """A bundle of the shipped network in TFLite."""
    bundle_writer.write_bundle(tmp_path / "artifacts", bundle_writer.make_bundle(reference, [FORMATS["tflite"]], {}))
    return tmp_path / "artifacts"


@needs_micro
def test_the_golden_images_give_the_logits_of_its_rounding_mode(reference: Reference) -> None:
    graph = reference.quantized_graph
    assert graph is not None
    classifier = runtime.load_bytes(WRITERS["tflite"](graph), "model.tflite", runtime=runtime.MICRO)
    assert classifier.runtime.startswith("TensorFlow Lite Micro 0.")
    outputs = classifier.outputs(reference.images)
    np.testing.assert_array_equal(outputs, run_quantized(graph, reference.images, "fixed-point, reference kernels"))
    assert np.abs(outputs.astype(int) - reference.int8_logits).max() == 1
    assert classifier.outputs(reference.images[:0]).shape == (0, 10)


@needs_micro
def test_verify_runs_it_as_a_separate_variant(folder: Path) -> None:
    report = verify(folder, IMAGES, TOO)
    assert [(variant.name, variant.status, variant.logits_differing) for variant in report.variants] == [
        (f"tflite {precision}{runtime}", "passed", 0)
        for precision in ("float", "int8")
        for runtime in ("", " (tflite-micro)")
    ]
    usual, micro = report.variants[-2:]
    assert (usual.file, usual.sha256, usual.logits_compared) == (micro.file, micro.sha256, micro.logits_compared)
    assert "as the oracle's mode 'fixed-point, reference kernels'; from the others' logits" in micro.reason
    variants = json.loads(report.to_json())["variants"]
    assert len({variant["name"] for variant in variants}) == len(variants) == 4
    assert render_html(report, {}).count(micro.sha256) == 1  # a file is listed once, however many runtimes ran it


@needs_micro
def test_the_first_layer_that_differs_is_named(reference: Reference) -> None:
    graph = reference.quantized_graph
    assert graph is not None
    data, images = WRITERS["tflite"](graph), reference.images
    # The oracle must round as the runtime does, or the first layer that rounds differently would be named.
    assert find_first_difference(data, graph, images, trust=True, runtime=runtime.MICRO) == (None, "")
    changed = mutate("tflite", data, "conv5", "weight", graph)
    layer, difference = find_first_difference(changed, graph, images, trust=True, runtime=runtime.MICRO)
    assert layer == "conv5" and "values differ" in difference


@pytest.mark.slow
@needs_micro
def test_a_changed_file_fails_once_or_if_its_hash_is_listed_in_both_runtimes(
    folder: Path, reference: Reference
) -> None:
    path = folder / "model_int8.tflite"
    path.write_bytes(mutate("tflite", path.read_bytes(), "conv5", "weight", reference.float_graph))
    usual, micro = verify(folder, IMAGES, TOO).variants[-2:]
    assert (usual.status, usual.layer) == ("failed", "conv5")
    assert (micro.status, micro.reason) == ("not run", "changed since the export, see the other runtime")
    # With its hash in the manifest, the file looks as if the export had written it.
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for variant in verify(folder, IMAGES, TOO).variants[-2:]:
        assert (variant.status, variant.layer) == ("failed", "conv5")
        assert "logits differ" in variant.reason


@needs_micro
def test_what_it_cannot_run_is_an_error_of_one_line(folder: Path, reference: Reference) -> None:
    graph = reference.float_graph
    with pytest.raises(EdgeMnistError, match="expected a TFLite artifact for tflite-micro, found onnx"):
        runtime.load_bytes(WRITERS["onnx"](graph), "model.onnx", runtime=runtime.MICRO)
    with pytest.raises(EdgeMnistError, match="short.tflite: the runtime cannot open it, it is damaged"):
        runtime.load_bytes(WRITERS["tflite"](graph)[:-10], "short.tflite", runtime=runtime.MICRO)
    bundle_writer.write_bundle(folder, bundle_writer.make_bundle(reference, [FORMATS["onnx"]], {}))
    with pytest.raises(EdgeMnistError, match="holds no TFLite artifact, and tflite-micro runs no other format"):
        verify(folder, IMAGES, TOO)


def test_nothing_is_run_if_it_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    for machine, part in (("x86_64", "-m pip install '?tflite-micro"), ("aarch64", "no wheel for this machine")):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        arguments = ["verify", str(folder), "--images", "1", "--runtime", "tflite-micro"]
        result = CliRunner().invoke(commands.commands, arguments)
        assert isinstance(result.exception, NotInstalledError) and result.stdout == ""
        assert re.search(part, str(result.exception)) and not (folder / "parity.json").exists()
