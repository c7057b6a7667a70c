"""The table of formats, and what is keyed by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mnist.bundle.reference import Reference
from edge_mnist.export import COMPANION_WRITERS, WRITERS
from edge_mnist.formats.table import FORMATS, choose_formats, detect_format, read_contract, require_format
from edge_mnist.runtime import RUNTIMES
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.c_programs import require_compiler


def test_every_format_has_a_writer_and_a_runtime_and_no_other_has() -> None:
    assert FORMATS.keys() == WRITERS.keys() == RUNTIMES.keys()
    assert {name for name, record in FORMATS.items() if record.companion_name} == COMPANION_WRITERS.keys()
    assert all(name == record.name for name, record in FORMATS.items())
    assert len({record.suffix for record in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_writer_writes_is_recognised_and_holds_the_tables_contract(name: str, reference: Reference) -> None:
    require_compiler(*({name} & {"wasm"}))  # model.c is only written
    record = FORMATS[name]
    for precision, graph in (("float", reference.float_graph), ("int8", reference.quantized_graph)):
        if precision not in record.precisions or graph is None:
            continue
        data = WRITERS[name](graph)
        assert detect_format(data) is record
        assert [other.name for other in FORMATS.values() if other.sniff(data)] == [name]
        assert read_contract(data, name) == record.make_contract(graph)
        assert list(record.read_constants(data)), "there must be something that a changed layer can be found by"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("onnx", b"\x08\x08"),  # without a graph
        ("onnx", b"\x08\x08\x3a\x02\x0a\x00"),  # with a node that has no output
        ("onnx", b"\x08\x08\x3a\x02\x2a\x00"),  # with a constant that has no name
        ("tflite", b"\x0c\x00\x00\x00TFL3\x04\x00\x04\x00\x04\x00\x00\x00"),  # without a subgraph
    ],
)
def test_the_constants_of_an_artifact_without_its_parts_are_a_value_error(name: str, data: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        list(FORMATS[name].read_constants(data))


def test_formats_are_chosen_by_name_and_in_the_tables_order() -> None:
    assert [record.name for record in choose_formats()] == ["torchscript", "onnx", "tflite"]
    assert choose_formats(["c", "onnx"]) == (FORMATS["onnx"], FORMATS["c"])
    with pytest.raises(UsageError, match="--format caffe: expected one of torchscript, onnx, tflite, c, wasm"):
        choose_formats(["caffe"])
    assert FORMATS["tflite"].artifact_name("int8") == "model_int8.tflite" and not FORMATS["tflite"].companion_name
    assert [FORMATS[name].companion_name for name in ("c", "wasm")] == ["model_int8.h", "model_int8.html"]


def test_other_content_is_refused_with_what_was_expected() -> None:
    with pytest.raises(EdgeMnistError, match=r"x: expected an artifact, TorchScript \(.pt\), .* found 3 other bytes"):
        require_format(b"abc", "x")
    with pytest.raises(EdgeMnistError, match="found an empty file"):
        require_format(b"", "x")


def test_the_example_in_contributing_is_what_the_files_hold() -> None:
    root = Path(__file__).parents[2]
    text = (root / "CONTRIBUTING.md").read_text("utf-8")
    diff = text.partition("```diff\n")[2].partition("```")[0]
    added: dict[str, list[str]] = {}
    for line in diff.splitlines():
        if line.startswith("+++ "):
            added[line[4:]] = lines = []
        elif line.startswith("+"):
            lines.append(line[1:])
    assert len(added) == 3
    for name, lines in added.items():
        source = [line.partition("  # ")[0] for line in (root / name).read_text("utf-8").splitlines()]
        starts = [start for start in range(len(source)) if source[start : start + len(lines)] == lines]
        assert len(starts) == 1, name
