"""Bundles that were edited, and whose hashes were made anew: each edit is found, in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from edge_mnist.bundle.manifest import MANIFEST, REFERENCE
from edge_mnist.bundle.reference import Reference
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.export.proof.run_artifact import FLOAT_TOLERANCE, compute_tolerance
from edge_mnist.formats.table import FORMATS
from edge_mnist.system.files import METADATA_KEY
from edge_mnist.system.hashes import sha256
from tests.conftest import Call

pytest.importorskip("ai_edge_litert")

Arrays = dict[str, Any]
Structure = dict[str, Any]


@pytest.fixture
def bundle(reference: Reference, tmp_path: Path) -> Path:
    """A bundle that a test may edit: TFLite and C."""
    folder = tmp_path / "bundle"
    write_bundle(folder, make_bundle(reference, [FORMATS["tflite"], FORMATS["c"]], {}))
    return folder


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest of a bundle, an object that `edit` changes."""
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a bundle, and its hash and its size in the manifest."""
    (folder / name).write_bytes(content)
    entry = {"sha256": sha256(content), "bytes": len(content)}
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(entry))


def edit_reference(folder: Path, edit: Callable[[Arrays, Structure], object]) -> None:
    """Edit the arrays and the JSON object of a bundle's reference, which `edit` changes."""
    data = (folder / REFERENCE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    arrays, structure = safetensors.numpy.load(data), json.loads(header["__metadata__"][METADATA_KEY])
    edit(arrays, structure)
    edit_file(folder, REFERENCE, safetensors.numpy.save(arrays, {METADATA_KEY: json.dumps(structure)}))


def verify(call: Call, folder: Path, *options: object) -> tuple[int, str, str]:
    return call("verify", folder, "--images", 4, *options)


@pytest.mark.parametrize(
    ("former", "present", "expected"),
    [
        (b'"output_scale":0.125', b'"output_scale":9.125', "its contract states output_scale 9.125, expected 0.125"),
        (b'"output_zero_point":', b'"output_zero_pain_":', "it: holds no contract of edge-mnist"),
        (b'"layout":"NHWC"', b'"layout":"NCHW"', "its contract states layout 'NCHW', expected NHWC"),
    ],
)
def test_a_changed_contract_is_found(bundle: Path, call: Call, former: bytes, present: bytes, expected: str) -> None:
    data = (bundle / "model_int8.tflite").read_bytes()
    assert former in data
    edit_file(bundle, "model_int8.tflite", data.replace(former, present))
    status, output, _ = verify(call, bundle, "--json", "--quiet")
    found = {variant["file"]: variant for variant in json.loads(output)["variants"]}
    assert status == 1 and [name for name, v in found.items() if v["status"] == "failed"] == ["model_int8.tflite"]
    assert expected in found["model_int8.tflite"]["reason"]


def test_a_changed_header_is_found(bundle: Path, call: Call) -> None:
    assert verify(call, bundle)[0] == 0
    header = bundle / "model_int8.h"
    header.write_bytes(header.read_bytes() + b"\n#define EM_ZERO 1\n")
    status, output, _ = verify(call, bundle)
    assert status == 1 and "model_int8.h, which belongs to it, is missing or changed since the export" in output
    header.unlink()
    assert verify(call, bundle)[0] == 1


def test_a_pipe_in_the_place_of_an_artifact_is_not_waited_for(bundle: Path, call: Call) -> None:
    (bundle / "model_int8.tflite").unlink()
    os.mkfifo(bundle / "model_int8.tflite")
    status, output, _ = verify(call, bundle)
    assert status == 1 and "is a device, a pipe or a socket, expected a file" in output


def set_first(name: str, value: Any) -> Callable[[Arrays, Structure], object]:
    """An edit of the first layer's report."""
    return lambda arrays, structure: structure["layers"][0].update({name: value})


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda a, s: a.update({"golden/float_logits": a["golden/float_logits"] * 0 + 7}), "golden logits"),
        (lambda a, s: a.update({"float/linear/weight": -a["float/linear/weight"]}), "golden logits"),
        (lambda a, s: a.update({"golden/images": a["golden/images"].reshape(64, 28, 28)}), "expected golden inputs"),
        (lambda a, s: a.update({"golden/images": a["golden/images"][:0]}), "expected golden inputs"),
        (lambda a, s: a.update({"golden/images": a["golden/images"] ^ 1}), "golden inputs are not the manifest's"),
        (lambda a, s: a.update({"float/conv1/weight": a["float/conv1/weight"] * np.float32(1e38)}), "not finite"),
        (lambda a, s: s["int8"].update(operations=[]), "a network without operations"),
        (lambda a, s: s["int8"]["operations"][0].update(name=None), "an operation without a name"),
        (
            lambda a, s: s["float"]["operations"][0]["window"].update(padding=[20_000] * 2),
            "more than 67,108,864 values",
        ),
        (lambda a, s: s["float"].update(input_shape=[1, 20_000, 20_000]), "more than 67,108,864 values"),
        (lambda a, s: s.update(recorded_accuracy="99"), "recorded accuracy"),
        (set_first("scale", float("nan")), "not stated in numbers"),
        (set_first("clipped", None), "not stated in numbers"),
        (set_first("name", ["conv1"]), "not a reference"),
    ],
)
def test_a_changed_reference_is_refused(
    bundle: Path, call: Call, edit: Callable[[Arrays, Structure], object], expected: str
) -> None:
    edit_reference(bundle, edit)
    status, output, errors = verify(call, bundle)
    assert (status, output) == (1, "")
    assert len(errors.splitlines()) == 1 and expected in errors


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.update(format=True),
        lambda manifest: manifest.update(notes=json.loads("[" * 200 + "]" * 200)),
        lambda manifest: manifest["golden"].update(int8_logits_sha256="0" * 64),
    ],
)
def test_a_changed_manifest_is_refused(bundle: Path, call: Call, edit: Callable[[dict[str, Any]], object]) -> None:
    edit_manifest(bundle, edit)
    status, output, errors = verify(call, bundle)
    assert (status, output) == (1, "") and len(errors.splitlines()) == 1 and errors.endswith("export again\n")


def test_names_of_layers_reach_no_terminal_as_they_are(reference: Reference, tmp_path: Path, call: Call) -> None:
    name = "\x1b[31mred\x9b\u202e\n"
    first = reference.float_graph.operations[0].name

    def rename(graph: Any) -> Any:
        return replace(graph, operations=(replace(graph.operations[0], name=name), *graph.operations[1:]))

    assert reference.quantized_graph is not None
    changed = replace(
        reference,
        float_graph=rename(reference.float_graph),
        quantized_graph=rename(reference.quantized_graph),
        layers=tuple(replace(layer, name=name) if layer.name == first else layer for layer in reference.layers),
    )
    folder = tmp_path / "bundle"
    write_bundle(folder, make_bundle(changed, [FORMATS["tflite"]], {}))
    status, output, _ = verify(call, folder, "--layers")
    page = (folder / "report.html").read_text()
    parity = (folder / "parity.json").read_text()
    assert status == 0 and r"\x1b[31mred\x9b\u202e\n" in output
    assert not {"\x1b", "\x9b", "\u202e"} & {*output, *page, *parity}


def test_one_large_output_does_not_loosen_the_tolerance_of_the_others() -> None:
    outputs = np.full((64, 3), 2, np.float32)
    outputs[5] = 1e6
    tolerance = compute_tolerance(outputs)
    assert tolerance.shape == (64, 1) and tolerance[5] == FLOAT_TOLERANCE * 1e6
    assert np.delete(tolerance, 5) == pytest.approx(FLOAT_TOLERANCE * 2)
    assert not compute_tolerance(outputs.astype(np.int8)).any()


def test_the_working_folder_stays_where_it_is(reference: Reference, tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir(mode=0o750)
    monkeypatch.chdir(folder)
    for _ in range(2):
        write_bundle(Path(), make_bundle(reference, [FORMATS["tflite"]], {}))
        assert Path.cwd() == folder and (Path.cwd() / MANIFEST).is_file()
    monkeypatch.chdir(tmp_path)
    write_bundle(folder, make_bundle(reference, [FORMATS["tflite"]], {}))
    assert folder.stat().st_mode & 0o777 == 0o750
    assert sorted(os.listdir(tmp_path)) == ["bundle"]


def test_a_wrong_size_in_the_manifest_is_found(bundle: Path, call: Call) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"]["model_int8.tflite"].update(bytes=5))
    status, output, _ = verify(call, bundle)
    assert status == 1 and "the manifest states 5 bytes, found " in output
