"""WebAssembly: both modules of an artifact, what is refused, and what a damaged one cannot do."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist import runtime
from edge_mnist.bundle.manifest import read_manifest
from edge_mnist.bundle.reference import Reference
from edge_mnist.data import strokes
from edge_mnist.data.finder_map import CANVAS_HEIGHT, CANVAS_WIDTH, split_places
from edge_mnist.data.images import Images
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.export.proof.localize import find_first_difference
from edge_mnist.export.proof.verification import verify
from edge_mnist.export.wasm.finder import describe_finder, draw_golden_canvases, quantize_finder, write_finder
from edge_mnist.export.wasm.page import write_page
from edge_mnist.export.wasm.writer import write_wasm
from edge_mnist.formats.table import choose_formats
from edge_mnist.formats.wasm_reader import SIMD_SECTION, append_section, read_constants, read_metadata
from edge_mnist.graph.interpreter import run_quantized
from edge_mnist.graph.operations import QuantizedGraph
from edge_mnist.runtime import SCALAR, wasm
from edge_mnist.system.errors import EdgeMnistError, NotInstalledError
from edge_mnist.system.files import METADATA_KEY
from edge_mnist.system.hashes import sha256
from tests.conftest import Call
from tests.support.c_programs import COMPILERS
from tests.support.networks import make_graphs_of_every_operation

wasmtime = pytest.importorskip("wasmtime")
if not all(map(shutil.which, COMPILERS["wasm"])):
    pytest.skip("needs clang and lld", allow_module_level=True)

ROOT = Path(__file__).parents[2]
GOOD = '(func (export "{0}") (result i32) (i32.const {1}))'
"""The text of a function that a module exports: its name and what it returns."""


@pytest.fixture(scope="module")
def graph(reference: Reference) -> QuantizedGraph:
    """The shipped network."""
    assert reference.quantized_graph is not None
    return reference.quantized_graph


@pytest.fixture(scope="module")
def folder(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of it in WebAssembly."""
    found = tmp_path_factory.mktemp("wasm") / "artifacts"
    write_bundle(found, make_bundle(reference, choose_formats(["wasm"]), {}))
    return found


@pytest.fixture(scope="module")
def artifact(folder: Path) -> bytes:
    return (folder / "model_int8.wasm").read_bytes()


def make_module(text: str, contract: bytes) -> bytes:
    """An artifact whose module with SIMD128 has this text, with the contract of another one."""
    empty = bytes(wasmtime.wat2wasm("(module)"))
    return append_section(append_section(empty, METADATA_KEY, contract), SIMD_SECTION, bytes(wasmtime.wat2wasm(text)))


def make_text(**functions: str) -> str:
    """The text of a module that exports what it should, with other texts for some of its functions."""
    values = {"input": 0, "output": 1000, "input_size": 784, "output_size": 10, "run": 0}
    texts = {name: GOOD.format(name, value) for name, value in values.items()} | functions
    return f'(module (memory (export "memory") 1) {" ".join(texts.values())})'


@pytest.mark.parametrize("name", ["", SCALAR])
def test_the_shipped_network_gives_the_oracles_logits(name: str, artifact: bytes, graph: QuantizedGraph) -> None:
    images = strokes.draw(40, seed=8).images
    classifier = runtime.load_bytes(artifact, "model", runtime=name)
    np.testing.assert_array_equal(classifier.outputs(images), run_quantized(graph, images[:, None]))
    assert classifier.outputs(images[:0]).shape == (0, 10)
    assert classifier.runtime.startswith("Wasmtime") and classifier.runtime.endswith(name or "SIMD128")


def test_every_operation_and_maps_as_output() -> None:
    _, graph = make_graphs_of_every_operation()
    artifact = write_wasm(graph)
    inputs = np.random.default_rng(1).normal(0, 1, (20, *graph.input_shape)).astype(np.float32)
    expected = run_quantized(graph, inputs)
    assert len(np.unique(expected)) > 8
    for name in ("", SCALAR):
        classifier = runtime.load_bytes(artifact, "model", runtime=name)
        np.testing.assert_array_equal(classifier.outputs(inputs), expected)


def test_the_finder_gives_the_oracles_outputs(reference: Reference) -> None:
    canvases = draw_golden_canvases(reference.images[:, 0])
    assert canvases.shape == (4, CANVAS_HEIGHT, CANVAS_WIDTH) and len(np.unique(canvases.reshape(4, -1), axis=0)) == 4
    inputs = split_places(canvases)
    expected = run_quantized(quantize_finder(), inputs)
    assert len(np.unique(expected)) > 100
    for name in ("", SCALAR):
        classifier = runtime.load_bytes(write_finder(), "finder", runtime=name)
        np.testing.assert_array_equal(classifier.outputs(inputs), expected.reshape(len(expected), -1))
    golden = describe_finder(reference.images[:, 0])["golden"]
    assert golden["outputs_sha256"] == sha256(expected.tobytes())


def test_the_same_clang_gives_the_same_bytes(graph: QuantizedGraph, artifact: bytes) -> None:
    assert write_wasm(graph) == artifact


def test_the_module_without_simd_has_none_and_is_complete(artifact: bytes) -> None:
    simd = read_metadata(artifact, SIMD_SECTION)
    assert simd is not None
    config = wasmtime.Config()
    config.wasm_relaxed_simd = False
    config.wasm_simd = False
    engine = wasmtime.Engine(config)
    wasmtime.Module.validate(engine, artifact)
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module.validate(engine, simd)
    for module in (artifact, simd):
        assert not wasmtime.Module(wasmtime.Engine(), module).imports


def test_verify_runs_both_modules(folder: Path, call: Call) -> None:
    images = Images("drawn digits", strokes.draw(20, seed=4).images[:, None], None)
    report = verify(folder, images)
    names = [(variant.name, variant.status, variant.logits_differing) for variant in report.variants]
    assert names == [("wasm int8", "passed", 0), ("wasm int8 (scalar)", "passed", 0)]
    assert all(variant.logits_compared == 84 * 10 for variant in report.variants)
    status, output, _ = call("info", folder / "model_int8.wasm", "--json")
    assert status == 0 and json.loads(output)["format"] == "wasm"


@pytest.mark.slow
def test_bench_measures_it(folder: Path) -> None:
    command = [sys.executable, "-m", "edge_mnist", "bench", "--quiet", str(folder), "--seconds", "0.01", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    (row,) = json.loads(result.stdout)["artifacts"]
    assert row["runtime"].endswith("SIMD128") and row["memory"]["rss_mb"] > 0
    assert [(found["threads"], found["batch"]) for found in row["latency"]] == [(1, 1), (1, 32)]


def test_a_changed_constant_names_its_layer(
    graph: QuantizedGraph, artifact: bytes, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mnist.export.proof.localize.WRITERS", {"wasm": lambda _: artifact})
    assert find_first_difference(artifact, graph, reference.images[:4], trust=True) == (None, "")
    parts = list(read_constants(artifact))
    names = {identifier: name for name, identifier in graph.identifiers().items()}
    seen = set()
    for layer, what, content in parts:
        if what.startswith("weight"):
            assert artifact.count(content) == 1
            changed = bytearray(artifact)
            changed[artifact.index(content) + len(content) // 2] ^= 1
            found = find_first_difference(bytes(changed), graph, reference.images[:4], trust=True)
            assert found[0] == names[layer] and found[1]
            seen.add((names[layer], what))
    convolutions = {operation.name for operation in graph.convolutions}
    assert seen == {(name, f"weight{module}") for name in convolutions for module in ("", " with SIMD128")}
    code = {what for layer, what, _ in parts if not layer}
    assert {"its code", "its code with SIMD128"} <= code


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:9000], "holds no contract of edge-mnist: it is damaged"),
        (lambda data: data[:-1000], f"the runtime cannot open it, it is damaged .*: it has no section {SIMD_SECTION}"),
        (lambda data: data[:8], "holds no contract of edge-mnist: it is damaged, or another program wrote it"),
        (lambda data: data.replace(b"[1,28,28]", b"[1,28,27]"), "its code takes 784 values"),
        (lambda data: data.replace(b"\0asm\1\0\0\0", b"\0asm\7\0\0\0", 2)[:8] + data[8:], "expected an artifact"),
    ],
    ids=["cut short", "without its last section", "empty", "another contract", "another version"],
)
def test_a_damaged_module_is_refused_on_one_line(
    damage: Callable[[bytes], bytes], message: str, artifact: bytes
) -> None:
    with pytest.raises(EdgeMnistError, match=message) as error:
        runtime.load_bytes(damage(artifact), "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(module)", "it does not export memory, input"),
        ('(module (import "wasi" "fd_write" (func)))', "expected 1 import"),
        ('(module (memory (export "memory") 40000))', "exceeds memory limits"),
        (make_text(output_size=GOOD.format("output_size", 1 << 30)), "its code takes 784 values and gives 1073741824"),
        (make_text(input='(func (export "input") (result i32) unreachable)'), "its function input ends with a trap"),
    ],
)
def test_a_module_of_another_kind_is_refused_on_one_line(text: str, message: str, artifact: bytes) -> None:
    contract = read_metadata(artifact, METADATA_KEY)
    assert contract is not None
    with pytest.raises(EdgeMnistError, match=message) as error:
        runtime.load_bytes(make_module(text, contract), "model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (make_text(run='(func (export "run") (result i32) (loop br 0) (i32.const 0))'), "takes more than 1 s"),
        (make_text(run='(func $f (export "run") (result i32) (call $f))'), "a trap: call stack exhausted"),
        (make_text(run='(func (export "run") (result i32) (i32.load (i32.const -4)))'), "out of bounds memory access"),
        (make_text(input=GOOD.format("input", 65000)), "index out of range"),
        (make_text(output=GOOD.format("output", 65530)), "could not broadcast"),
    ],
    ids=["endless", "recursive", "out of bounds", "input out of bounds", "output out of bounds"],
)
def test_what_a_module_does_is_limited(
    text: str, message: str, artifact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = read_metadata(artifact, METADATA_KEY)
    assert contract is not None
    monkeypatch.setattr(wasm, "_MOST_SECONDS", 1)
    classifier = runtime.load_bytes(make_module(text, contract), "model")
    with pytest.raises(EdgeMnistError, match=message) as error:
        classifier.outputs(np.zeros((1, 28, 28), np.uint8))
    assert "\n" not in str(error.value)


def test_what_is_missing_is_named(
    graph: QuantizedGraph, reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EdgeMnistError, match="the quantized network only"):
        write_wasm(reference.float_graph)
    with pytest.raises(EdgeMnistError, match="--int8"):
        write_page(replace(reference, int8_logits=None), b"")
    monkeypatch.setenv("CLANG", "no-such-clang")
    with pytest.raises(NotInstalledError, match="CLANG=no-such-clang is not there: apt install clang lld"):
        write_wasm(graph)
    compiler = tmp_path / "clang"
    compiler.write_text("#!/bin/sh\n[ $1 = -print-prog-name=wasm-ld ] && echo nowhere/wasm-ld")
    compiler.chmod(0o755)
    monkeypatch.setenv("CLANG", str(compiler))
    with pytest.raises(NotInstalledError, match=r"wasm-ld, the linker of .*/clang, is not installed: apt install lld"):
        write_wasm(graph)
    compiler.write_text(
        f"#!/bin/sh\n[ $1 = -print-prog-name=wasm-ld ] && echo {sys.executable} && exit\n"
        "echo 'error: unable to create target: wasm32' >&2; exit 1"
    )
    with pytest.raises(EdgeMnistError, match=r"clang cannot compile it: error: unable to create target: wasm32"):
        write_wasm(graph)
    monkeypatch.delenv("CLANG")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NotInstalledError, match=r"model_int8\.wasm: clang is not installed: apt install clang lld"):
        write_wasm(graph)


@pytest.mark.slow
def test_a_missing_clang_leaves_nothing_behind(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLANG", "no-such-clang")
    status, output, errors = call("export", "--int8", "--format", "wasm", "--out", tmp_path / "out")
    assert (status, output, len(errors.splitlines())) == (1, "", 1) and "apt install clang lld" in errors
    assert not list(tmp_path.iterdir())
    status, _, errors = call("export", "--format", "wasm", "--out", tmp_path / "out")
    assert status == 2 and "--int8" in errors


def test_without_wasmtime_one_line_says_how_to_install_it(artifact: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    with pytest.raises(NotInstalledError, match="wasmtime is not installed: .*pip install"):
        runtime.load_bytes(artifact, "model")
    with pytest.raises(EdgeMnistError, match="expected a WebAssembly artifact for scalar, found c"):
        runtime.load_bytes(b"/* edge_mnist: {} */\n", "model", runtime=SCALAR)


def read_page(page: str) -> dict[str, Any]:
    """Read what the page's script gets."""
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_of_large_inputs_holds_fewer(
    reference: Reference, artifact: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reference.int8_logits is not None
    for limit, count in ((5 * 784 + 1, 5), (10, 1)):
        monkeypatch.setattr("edge_mnist.export.wasm.page._MOST_GOLDEN_BYTES", limit)
        golden = read_page(write_page(reference, artifact).decode())["golden"]
        assert (golden["count"], golden["of"]) == (count, 64)
        assert b64decode(golden["inputs"]) == reference.images[:count].tobytes()
        assert golden["outputs_sha256"] == sha256(reference.int8_logits[:count].tobytes())


def test_the_page_is_complete(folder: Path, artifact: bytes) -> None:
    page = (folder / "model_int8.html").read_text("utf-8")
    assert not re.search(r"(src|href)=|https?://|@import|\bfetch\(", page)
    data = read_page(page)
    golden, manifest = data["golden"], read_manifest(folder)
    assert b64decode(data["module"]) == artifact
    assert (golden["count"], golden["outputs_sha256"]) == (64, manifest["golden"]["int8_logits_sha256"])
    assert golden["inputs_sha256"] == manifest["golden"]["images_sha256"]
    assert "model_int8.html" in manifest["files"]
