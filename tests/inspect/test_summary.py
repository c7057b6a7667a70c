"""What `info` says is true of the network, and it says it without running anything."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edge_mnist.bundle.reference import make_reference
from edge_mnist.cli.commands import main
from edge_mnist.export import bundle_writer
from edge_mnist.export.onnx_writer import write_onnx
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.formats import onnx_reader
from edge_mnist.formats.table import FORMATS, choose_formats
from edge_mnist.graph import checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import float_activations
from edge_mnist.graph.layers import Conv2dLayer, FlattenLayer, Layer, weight_shapes
from edge_mnist.graph.operations import Conv2d, FloatGraph
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.inspect import summary
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.files import METADATA_KEY
from tests.support.networks import make_graphs_of_every_operation, random_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = [kind.name for kind in choose_formats()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the shipped checkpoint, in all formats that can be written here."""
    source = checkpoint.load(SHIPPED)
    graph = fold(source)
    quantized, layers = quantize_graph(graph, source.statistics)
    kinds = [kind for kind in choose_formats() if kind.name != "torchscript" or find_spec("torch")]
    path: Path = tmp_path_factory.mktemp("info") / "artifacts"
    files = bundle_writer.make_bundle(
        make_reference(graph, quantized, layers, 0.99), kinds, {"checkpoint": {"epochs": 20}}
    )
    bundle_writer.write_bundle(path, files)
    return path


def run_info(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the command."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["edge-mnist", "info", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    return status, out.getvalue(), err.getvalue()


def print_info(*arguments: object) -> str:
    """What the command prints."""
    status, out, err = run_info(*arguments)
    assert (status, err) == (0, "")
    return out


def read_facts(*arguments: object) -> summary.Facts:
    found: summary.Facts = json.loads(print_info(*arguments, "--json"))
    return found


def test_digitnet_in_numbers() -> None:
    source = checkpoint.load(SHIPPED)
    layers = summary.summarize_layers(source.architecture, source.input_shape)
    names = "conv1 conv2 conv3 pool1 conv4 conv5 pool2 conv6 conv7 pool3 linear"
    assert " ".join(layer.name for layer in layers) == names
    assert [layer.receptive_field[0] for layer in layers] == [3, 5, 7, 8, 12, 16, 18, 26, 34, 34, 34]
    assert [layer.jump for layer in layers] == [(j, j) for j in (1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 4)]
    assert [layer.parameters for layer in layers] == [168, 1806, 2064, 0, 2646, 3300, 0, 4026, 4422, 0, 230]
    assert sum(layer.parameters for layer in layers) == 18_662
    by_hand = [26**2 * 14 * 9, 24**2 * 14 * 14 * 9, 22**2 * 16 * 14 * 9, 0, 9**2 * 18 * 16 * 9, 7**2 * 20 * 18 * 9, 0,
               3**2 * 22 * 20 * 9, 22 * 22 * 9, 0, 22 * 10]  # fmt: skip
    assert [layer.multiply_accumulates for layer in layers] == by_hand
    assert sum(by_hand) == 2_485_912


def test_multiply_accumulates_are_those_of_the_folded_convolutions() -> None:
    compared = 0
    for seed in range(60):
        source = random_checkpoint(seed)
        layers = {layer.name: layer for layer in summary.summarize_layers(source.architecture, source.input_shape)}
        graph = fold(source)
        weighty = {layer.name for layer in source.architecture if layer.op in ("conv2d", "linear")}
        for operation, (_, height, width) in zip(graph.operations, graph.shapes()[1:], strict=True):
            if isinstance(operation, Conv2d) and operation.name in weighty:
                assert layers[operation.name].multiply_accumulates == height * width * operation.weight.size
                compared += 1
        assert sum(layer.multiply_accumulates > 0 for layer in layers.values()) == len(weighty)
        size = sum(array.size for name, array in source.weights.items() if ".running_" not in name)
        assert sum(layer.parameters for layer in layers.values()) == size
    assert compared > 100


def test_receptive_field_is_what_an_output_depends_on() -> None:
    windows = [
        Window((3, 2), (2, 1), dilation=(2, 3)),
        Window((2, 3), (2, 3)),
        Window((2, 2)),
    ]
    operations = []
    for index, window in enumerate(windows):
        weight = np.ones((1, 1, *window.kernel_size), dtype=np.float32)
        operations.append(Conv2d(f"conv{index}", weight, np.zeros(1, dtype=np.float32), window))
    graph = FloatGraph((1, 24, 24), 0, tuple(operations))
    layers = [
        Conv2dLayer(o.name, 1, 1, o.window.kernel_size, o.window.stride, (0, 0), o.window.dilation, 1, True)
        for o in operations
    ]
    impulses = np.eye(24 * 24, dtype=np.uint8).reshape(-1, 24, 24)
    _, *outputs = float_activations(graph, impulses)
    for layer, values in zip(summary.summarize_layers(layers, (1, 24, 24)), outputs, strict=True):
        seen = values.reshape(24, 24, *values.shape[1:3]) > 0  # (input row, column, output row, column)
        for axis in (0, 1):
            first, second = (np.flatnonzero(seen[..., a, b].any(axis=1 - axis)) for a, b in ((0, 0), (1, 1)))
            assert first[0] == 0 and first[-1] + 1 == layer.receptive_field[axis]
            assert second[0] == layer.jump[axis]


def test_checkpoint() -> None:
    found = read_facts()
    assert found == read_facts(SHIPPED)
    assert (found["kind"], found["parameters"], found["multiply_accumulates"]) == ("checkpoint", 18_662, 2_485_912)
    assert found["receptive_field"] == [34, 34] and found["padding_pixel"] is None and found["calibrated"]
    assert {"recipe", "seed", "epochs", "accuracies", "data", "versions"} <= found["recorded"].keys()
    text = print_info()
    for part in ("18,662", "2,485,912", found["sha256"], found["graph_sha256"], "accuracies", "conv 3x3, bn, relu"):
        assert part in text


def test_a_network_with_branches(tmp_path: Path) -> None:
    """What each row takes is listed where it is not the row before; a layer that others read has a row of its own."""
    records: list[dict[str, Any]] = [
        {"op": "conv2d", "name": "stem", "in_channels": 3, "out_channels": 4, "kernel_size": [3, 3], "stride": [2, 2],
         "padding": [1, 1], "dilation": [1, 1], "groups": 1, "bias": True},
        {"op": "clamp", "name": "clamp", "low": 0.0, "high": 6.0},
        {"op": "conv2d", "name": "branch", "in_channels": 4, "out_channels": 4, "kernel_size": [3, 3], "stride": [1, 1],
         "padding": [1, 1], "dilation": [1, 1], "groups": 2, "bias": False},
        {"op": "add", "name": "sum", "sources": ["branch", "clamp"]},
        {"op": "activation", "name": "silu", "function": "silu", "parameter": 0.0},
        {"op": "concatenate", "name": "join", "sources": ["silu", "branch"]},
        {"op": "upsample", "name": "up", "factor": [2, 2]},
        {"op": "zero_pad2d", "name": "pad", "before": [0, 0], "after": [1, 1]},
        {"op": "conv2d", "name": "maps", "in_channels": 8, "out_channels": 2, "kernel_size": [1, 1], "stride": [1, 1],
         "padding": [0, 0], "dilation": [1, 1], "groups": 1, "bias": True},
    ]  # fmt: skip
    layers = tuple(Layer.from_json(record) for record in records)
    rows = summary.summarize_layers(layers, (3, 8, 10))
    assert [(row.name, row.operation, row.sources) for row in rows] == [
        ("stem", "conv 3x3 stride 2 padding 1, clamp 0..6", ()),
        ("branch", "conv 3x3 padding 1 groups 2", ()),
        ("sum", "add, silu", ("branch", "stem")),
        ("join", "concatenate", ("sum", "branch")),
        ("up", "upsample 2x2", ()),
        ("pad", "pad 0x0 before, 1x1 after", ()),
        ("maps", "conv 1x1", ()),
    ]
    assert [row.output_shape for row in rows][-2:] == [(8, 9, 11), (2, 9, 11)]
    assert [(row.receptive_field[0], row.jump[0]) for row in rows] == [
        *((3, 2), (7, 2), (7, 2), (7, 2), (7, 1), (7, 1), (7, 1))
    ]
    assert [row.multiply_accumulates for row in rows] == [4 * 27 * 20, 4 * 18 * 20, 0, 0, 0, 0, 2 * 8 * 99]
    weights = {name: np.full(shape, 0.01, np.float32) for name, shape in weight_shapes(layers).items()}
    source = checkpoint.Checkpoint(layers, (3, 8, 10), (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), weights, ending="log_softmax")
    checkpoint.save(tmp_path / "branches.safetensors", source)
    found = read_facts(tmp_path / "branches.safetensors")
    assert "sources" not in found["layers"][0] and found["layers"][2]["sources"] == ["branch", "stem"]
    assert "is_pixels" not in found and found["ending"] == "log_softmax"
    text = print_info(tmp_path / "branches.safetensors")
    assert "takes" in text and "branch, stem" in text and "log_softmax, which an export leaves out" in text
    assert "3x8x10 pixels, (pixel / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.2]" in text
    checkpoint.save(tmp_path / "numbers.safetensors", dataclasses.replace(source, is_pixels=False, mean=0.0, std=1.0))
    text = print_info(tmp_path / "numbers.safetensors")
    assert "3x8x10 numbers, as they are" in text and "padding" not in text.partition("in all")[2]
    assert read_facts(tmp_path / "numbers.safetensors")["is_pixels"] is False


def test_artifacts_of_features_and_maps(tmp_path: Path) -> None:
    texts = {}
    for precision, graph in zip(("float", "int8"), make_graphs_of_every_operation(), strict=True):
        for kind, writer in (("onnx", write_onnx), ("tflite", write_tflite)):
            (tmp_path / "model").write_bytes(writer(graph))
            found = read_facts(tmp_path / "model")
            texts[kind, precision] = (found["input"], found["output"])
            assert found["contract"]["output_shape"] and found["contract"]["ending"] == "log_softmax"
    shape = make_graphs_of_every_operation()[0].shapes()[-1]
    assert shape == (2, 2, 6)
    maps = "the logits; of each position of the maps; the log_softmax at the network's end is left out"
    assert texts["onnx", "float"] == ("float32 (N, 2, 5, 7): numbers as they are", f"float32 (N, 2, 2, 6): {maps}")
    assert texts["tflite", "int8"][0] == "int8 (N, 5, 7, 2): numbers x as round(x / 0.03125) - 3"
    assert texts["onnx", "int8"][0] == "uint8 (N, 2, 5, 7): numbers x as round(x / 0.03125) + 125"
    assert texts["tflite", "int8"][1].startswith("int8 (N, 2, 6, 2): the logits, as 0.25 * output; of each position")


def test_padding_pixel_of_a_padding_network(tmp_path: Path) -> None:
    seeds = (seed for seed in range(100) if fold(random_checkpoint(seed)).zero_pixel)
    source = next(c for c in map(random_checkpoint, seeds) if c.mean == 0.1307)
    checkpoint.save(tmp_path / "padding.safetensors", source)
    found = read_facts(tmp_path / "padding.safetensors")
    assert found["padding_pixel"]["pixel"] == 33 and not found["calibrated"]
    assert found["padding_pixel"]["deviation"] == pytest.approx((33 - 255 * 0.1307) / 255 / 0.3081)
    assert "pads with the pixel 33, the nearest to the mean: -0.0042" in print_info(tmp_path / "padding.safetensors")


def test_a_network_that_cannot_be_exported_is_still_described(tmp_path: Path) -> None:
    source = random_checkpoint(0)
    layers = (FlattenLayer("flatten[/]\x1b[31m"),)
    checkpoint.save(tmp_path / "odd.safetensors", checkpoint.Checkpoint(layers, source.input_shape, 0.1, 0.3, {}))
    assert "no layer that computes anything" in read_facts(tmp_path / "odd.safetensors")["not_exportable"]
    text = print_info(tmp_path / "odd.safetensors")
    assert "flatten[/]" in text and "\x1b" not in text


@pytest.mark.parametrize("kind", DEFAULT)
@pytest.mark.parametrize("precision", ["float", "int8"])
def test_artifacts(kind: str, precision: str, folder: Path) -> None:
    path = folder / FORMATS[kind].artifact_name(precision)
    if not path.exists():
        pytest.skip("torch is not installed")
    found = read_facts(path)
    manifest = json.loads((folder / "manifest.json").read_text())["files"][path.name]
    assert found["contract"] == manifest["contract"]
    assert (found["format"], found["precision"], found["sha256"]) == (kind, precision, manifest["sha256"])
    integers = "int8 (N, 28, 28, 1): pixels minus 128" if kind == "tflite" else "uint8 (N, 1, 28, 28): pixels 0..255"
    assert found["input"].startswith(integers if precision == "int8" else "float32")
    text = print_info(path)
    assert found["input"] in text and found["output"] in text and found["sha256"] in text


def test_bundle(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model_int8.onnx").write_bytes((folder / "model_float.onnx").read_bytes())
    (copy / "model_int8.tflite").unlink()
    found = read_facts(copy)
    states = {entry["name"]: entry["state"] for entry in found["files"]}
    assert states.pop("model_int8.onnx") == "changed" and states.pop("model_int8.tflite") == "missing"
    assert set(states.values()) == {"unchanged"} and "reference.safetensors" in states
    assert (found["golden_images"], found["quantized"]) == (64, 8) and found["recorded"]["checkpoint"] == {"epochs": 20}
    text = print_info(copy)
    assert "changed" in text and "missing" in text and "epochs 20" in text


def test_bad_files_get_one_line(folder: Path, tmp_path: Path) -> None:
    bad = {"empty": b"", "text": b"hello " * 100, "pk": b"PK\x03\x04" + bytes(60), "onnx": b"\x08" * 99}
    bad["cut.safetensors"] = SHIPPED.read_bytes()[:100_000]
    bad["cut.onnx"] = (folder / "model_int8.onnx").read_bytes()[:10_000]
    bad["cut.tflite"] = (folder / "model_int8.tflite").read_bytes()[:10_000]
    if (folder / "model_int8.pt").exists():
        bad["cut.pt"] = (folder / "model_int8.pt").read_bytes()[:30_000]
    bad["foreign.safetensors"] = safetensors.numpy.save({"a": np.zeros(3)})
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "foreign.zip", "w") as archive:
        archive.writestr("archive/extra/edge_mnist", "{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text('{"files": {"a": 1}}')
    for path in [*sorted(tmp_path.iterdir()), tmp_path / "missing"]:
        status, out, err = run_info(path)
        assert status == (2 if path.name == "missing" else 1), path
        assert out == "" and err.count("\n") == 1 and err.startswith("edge-mnist: ") and path.name in err, (path, err)


def test_no_formats_package_is_needed(folder: Path) -> None:
    hidden = ("torch", "torchvision", "onnx", "onnxruntime", "ai_edge_litert", "tflite_runtime", "flatbuffers")
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden})); from edge_mnist.cli.commands import main; main()"
    paths = [SHIPPED, folder, *sorted(folder.glob("*int8*"))]
    for path, status in [*((path, 0) for path in paths), (folder / "manifest.json", 1), (folder / "missing", 2)]:
        command = [sys.executable, "-c", code, "info", str(path)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == status and result.stderr.count("\n") == bool(status), (path, result.stderr)
        assert result.stdout == (print_info(path) if status == 0 else ""), path


def test_a_checkpoint_that_begins_like_an_onnx_model_is_a_checkpoint(tmp_path: Path) -> None:
    # The first byte is the lowest of the header's length: 8 for one length in 32.
    for length in range(256):
        source = random_checkpoint(3)
        padded = checkpoint.Checkpoint(source.architecture, source.input_shape, source.mean, source.std, source.weights,
                                       {}, {"note": "x" * length})  # fmt: skip
        checkpoint.save(tmp_path / "c.safetensors", padded)
        if (tmp_path / "c.safetensors").read_bytes()[0] == 8:
            assert summary.describe(tmp_path / "c.safetensors")["kind"] == "checkpoint"
            return
    pytest.fail("no header of such a length")


def test_damage_anywhere_in_an_onnx_file_is_no_surprise(folder: Path) -> None:
    data = (folder / "model_int8.onnx").read_bytes()
    assert (
        onnx_reader.read_metadata(data, METADATA_KEY) is not None and onnx_reader.read_metadata(data, "other") is None
    )
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(data), 300):
        damaged = bytearray(data)
        damaged[position] ^= int(rng.integers(1, 256))
        onnx_reader.read_metadata(bytes(damaged), METADATA_KEY)
        onnx_reader.read_metadata(data[:position], METADATA_KEY)


def test_a_manifest_of_a_newer_version_or_with_foreign_names_is_refused(folder: Path, tmp_path: Path) -> None:
    good = json.loads((folder / "manifest.json").read_text())
    entry = good["files"]["model_float.onnx"]
    for change, text in (
        ({"format": good["format"] + 1}, "upgrade it, or export again"),
        ({"files": good["files"] | {"../model.onnx": entry}}, "not a manifest of edge-mnist, or damaged"),
        ({"files": good["files"] | {"model_int8.onnx": entry}}, "not a manifest of edge-mnist, or damaged"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(good | change))
        status, out, err = run_info(tmp_path)
        assert (status, out) == (1, "") and text in err and err.count("\n") == 1
