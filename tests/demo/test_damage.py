"""Damaged model files: one clear line, whatever a runtime does with them, within bounds of memory and time."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_mnist import runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.demo.live import models, trial
from edge_mnist.export.c.writer import write_c
from edge_mnist.formats.contract import Contract
from edge_mnist.inspect import summary
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.system import archives
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY, parse_json, read_bytes
from tests.support.without_torch import needs_torch

IMAGES = np.zeros((2, 28, 28), np.uint8)


def repacked(data: bytes, path: str, old: bytes, new: bytes) -> bytes:
    """An archive in which the files whose path ends so are changed, with the checksums that this gives."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(result, "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            assert old in content or not name.endswith(path)
            changed.writestr(name, content.replace(old, new) if name.endswith(path) else content)
    assert archives.check_archive(result.getvalue()) is None
    return result.getvalue()


@needs_torch
def test_an_archive_with_a_wrong_checksum_is_not_given_to_pytorch(bundle_folder: Path, tmp_path: Path) -> None:
    data = bytearray((bundle_folder / "model_int8.pt").read_bytes())
    # The length of a text in its pickle: PyTorch would take memory for 2 GB of text.
    at = data.index(b"X\x02\x00\x00\x0011", data.index(b"data.pkl"))
    data[at + 3 : at + 7] = b"\xff\xff\xff\x7f"
    (tmp_path / "hungry.pt").write_bytes(data)
    with pytest.raises(EdgeMnistError, match=r"hungry.pt: .* its part archive/data.pkl does not have the checksum"):
        runtime.load(tmp_path / "hungry.pt", trust=True)


@needs_torch
def test_any_exception_of_a_runtime_becomes_one_line(bundle_folder: Path) -> None:
    data = (bundle_folder / "model_int8.pt").read_bytes()
    for changed in (
        repacked(data, "torchscript_writer.py", b"return", b"retur\xff"),
        repacked(data, "data.pkl", b"training", b"train\xff\xfe1"),
    ):
        with pytest.raises(EdgeMnistError, match="damaged.pt: the runtime cannot open it") as caught:
            runtime.load_bytes(changed, "damaged.pt")
        assert len(str(caught.value).splitlines()) == 1
    classifier = runtime.load(SHIPPED_INT8)
    classifier._run = lambda inputs: np.zeros((len(inputs), 10, 1), np.int8)  # type: ignore[method-assign]
    with pytest.raises(EdgeMnistError, match=r"tflite: gives int8 \(2, 10, 1\) for 2 images, expected int8 \(2, cla"):
        classifier.predict(IMAGES)
    for error in (RuntimeError("a\nb"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), MemoryError()):

        def fail(_: object, error: Exception = error) -> np.ndarray:
            raise error

        classifier._run = fail  # type: ignore[method-assign]
        with pytest.raises(EdgeMnistError, match=r"cannot run it on int8 \(2, 28, 28, 1\): ") as caught:
            classifier.predict(IMAGES)
        assert len(str(caught.value).splitlines()) == 1


def test_an_archive_is_not_unpacked_beyond_its_size(tmp_path: Path) -> None:
    for count, method in ((1, zipfile.ZIP_DEFLATED), (1, zipfile.ZIP_BZIP2), (20_000, zipfile.ZIP_STORED)):
        path = tmp_path / f"{method}.pt"
        with zipfile.ZipFile(path, "w", method) as archive:
            for number in range(count):
                archive.writestr(f"archive/extra/{number or METADATA_KEY}", bytes(100_000_000 // count**2))
        assert path.stat().st_size < 3_000_000
        tracemalloc.start()
        with pytest.raises(EdgeMnistError, match="holds no contract of edge-mnist"):
            summary.describe(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
        tracemalloc.stop()
        with pytest.raises(ValueError, match="unpack to 100,000,0|more than 10,000 files"):
            archives.check_archive(path.read_bytes())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_shape", [1, 1, 28, 28]),
        ("input_shape", [1, 28, -28]),
        ("input_shape", [1, 28.0, 28]),
        ("input_shape", [1, 1 << 20, 1 << 20]),
        ("input_shape", "abc"),
        ("input_type", []),
        ("output_type", "float64"),
        ("layout", "CHWN"),
        ("output_scale", 0),
        ("output_scale", float("nan")),
        ("output_scale", "1"),
        ("output_scale", 10**400),
        ("output_zero_point", 0.5),
        ("output_zero_point", 1 << 40),
        ("model", None),
    ],
)
def test_a_contract_that_cannot_be_is_none(key: str, value: object) -> None:
    sound = json.loads(runtime.load(SHIPPED_INT8).contract.to_json())
    assert Contract.from_json(json.dumps(sound | {"newer": 1})).to_json() == json.dumps(sound, separators=(",", ":"))
    with pytest.raises(ValueError, match="not a contract"):
        Contract.from_json(json.dumps({**sound, key: value}))


def test_what_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(EdgeMnistError, match="/dev/zero: is larger than 3,000,000 bytes"):
        read_bytes(Path("/dev/zero"), 3_000_000)
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    assert read_bytes(tmp_path / "file", 3_000_000) == bytes(3_000_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@needs_torch
def test_an_archive_that_asks_for_memory_gets_none(bundle_folder: Path, tmp_path: Path) -> None:
    data = (bundle_folder / "model_int8.pt").read_bytes()
    changed = repacked(data, "data.pkl", b"X\x02\x00\x00\x0011", b"X\xff\xff\xff\x7f11")
    (tmp_path / "hungry.pt").write_bytes(changed)
    with pytest.raises(EdgeMnistError, match="hungry.pt: the runtime cannot open it") as caught:
        trial.try_model(tmp_path / "hungry.pt", trust=True, golden=False)
    assert len(str(caught.value).splitlines()) == 1


BREAKS = {
    "crashes": ("*(volatile int *)(size_t)(pixels == 0) = 1;", r"its process crashed \(SIGSEGV\)"),
    "aborts": ("__builtin_trap();", r"its process crashed \(SIG(ILL|TRAP)\)"),
    "never ends": ("for (;;) *(volatile char *)arena = 0;", r"takes more than 5 s"),
    "takes memory": ("volatile char *p = __builtin_malloc(1 << 30); if (!p) return -1; *p = 1;", r"cannot run it"),
}


@pytest.mark.parametrize("what", ["crashes", *(pytest.param(name, marks=pytest.mark.slow) for name in [*BREAKS][1:])])
def test_a_crash_is_seen_from_outside(what: str, reference: Reference, tmp_path: Path) -> None:
    """A C model is a runtime that can be made to fail in each way."""
    assert reference.quantized_graph is not None
    code, expected = BREAKS[what]
    source = write_c(reference.quantized_graph)
    begin = source.index(b"{", source.index(b"\nint edge_mnist_run(")) + 1
    path = tmp_path / "model.c"
    path.write_bytes(source[:begin] + b" " + code.encode() + source[begin:])
    with pytest.raises(EdgeMnistError, match=f"model.c: .*{expected}") as caught:
        trial.try_model(path, trust=True, golden=False, seconds=5 if what == "never ends" else 60)
    assert len(str(caught.value).splitlines()) == 1
    if what == "crashes":
        with pytest.raises(EdgeMnistError, match=expected):
            models.load_safely(path, trust=True)
        with pytest.raises(EdgeMnistError, match="carries code"):
            models.load_safely(path)
