"""The same bits on x86 processors without int8 dot products, whose `vpmaddubsw` saturates sums of two products."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_mnist.bundle.reference import Reference, make_reference
from edge_mnist.data.images import load_test_images
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.export.proof.verification import VerifyOptions, verify
from edge_mnist.exportable import load_network
from edge_mnist.formats.table import choose_formats
from edge_mnist.graph.folding import fold
from edge_mnist.graph.quantization import quantize_graph

HASWELL = VerifyOptions(run_with=("qemu-x86_64", "-cpu", "Haswell"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64: apt install qemu-user"),
]


def test_all_six_artifacts_pass_on_haswell(bundle_folder: Path, reference: Reference) -> None:
    report = verify(bundle_folder, load_test_images((1, 28, 28), None, 60), HASWELL)
    assert [(variant.name, variant.status, variant.logits_differing) for variant in report.variants] == [
        (f"{kind.name} {precision}", "passed", 0) for kind in choose_formats() for precision in ("float", "int8")
    ]


def test_artifacts_with_weights_up_to_127_fail_and_the_layer_is_named(tmp_path: Path) -> None:
    source = load_network(None)
    graph = fold(source)
    quantized, layers = quantize_graph(graph, source.statistics, weight_range=127)
    wide = make_reference(graph, quantized, layers, None)
    write_bundle(tmp_path / "wide", make_bundle(wide, choose_formats(["onnx"]), {}))
    report = verify(tmp_path / "wide", load_test_images((1, 28, 28), None, 60), HASWELL)
    int8 = next(variant for variant in report.variants if variant.precision == "int8")
    assert int8.status == "failed"
    assert int8.layer is not None
    assert int8.logits_differing > 0
