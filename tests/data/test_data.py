from __future__ import annotations

import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge_mnist.data import mnist, strokes
from edge_mnist.system.errors import EdgeMnistError, UsageError

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.tobytes()


DRAWN = strokes.draw(30, seed=5)
IMAGES_FILE, LABELS_FILE = idx(DRAWN.images), idx(DRAWN.labels.astype(np.uint8))


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache that knows no mirror; returns the cache's folder."""
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(mnist, "_MIRRORS", ())
    return tmp_path / "cache" / "edge-mnist" / "mnist"


def put(folder: Path, images: bytes = IMAGES_FILE, labels: bytes = LABELS_FILE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / IMAGES).write_bytes(images)
    (folder / LABELS).write_bytes(labels)
    return folder


@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
@pytest.mark.parametrize("spelling", ["{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_is_read(
    folder: str, spelling: str, packed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for kind, dimensions, content in (("images", 3, IMAGES_FILE), ("labels", 1, LABELS_FILE)):
        name = spelling.format("t10k", kind, dimensions)
        (tmp_path / folder / (f"{name}.gz" if packed else name)).write_bytes(
            gzip.compress(content) if packed else content
        )
    assert mnist.is_available(tmp_path) and not mnist.is_available(tmp_path, "train")
    digits = mnist.load("test", tmp_path)
    assert np.array_equal(digits.images, DRAWN.images) and digits.images.dtype == np.uint8
    assert np.array_equal(digits.labels, DRAWN.labels) and digits.labels.dtype == np.int64
    assert digits.images.flags.writeable and len(digits) == 30
    assert (digits.source, digits.sha256) == ("unknown", hashlib.sha256(IMAGES_FILE + LABELS_FILE).hexdigest())
    notes = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(notes) == 1 and "unknown hash" in notes[0]


def test_a_folder_is_looked_for_in_order(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first_label(folder: Path | None = None) -> int:
        return int(mnist.load("test", folder, download=False).labels[0])

    places = [
        put(place, labels=idx(np.full(30, label, np.uint8))) for label, place in enumerate((machine, tmp_path / "b"))
    ]
    assert first_label() == 0
    monkeypatch.setenv("EDGE_MNIST_DATA", str(places[1]))
    assert first_label() == 1
    assert first_label(places[0]) == 0
    monkeypatch.setenv("EDGE_MNIST_DATA", "")
    assert first_label() == 0


PACKED = gzip.compress(IMAGES_FILE)
FAULTS: dict[str, tuple[bytes, bytes, str, str]] = {
    "images cut short": (IMAGES_FILE[:-1], LABELS_FILE, IMAGES, "cut short"),
    "labels cut short": (IMAGES_FILE, LABELS_FILE[:-1], LABELS, "cut short"),
    "header cut short": (IMAGES_FILE[:9], LABELS_FILE, IMAGES, "cut short"),
    "gzip cut short": (PACKED[:-20], LABELS_FILE, IMAGES, "cut short"),
    "gzip damaged": (PACKED[:500] + bytes(40) + PACKED[540:], LABELS_FILE, IMAGES, "damaged"),
    "gzip of nothing": (b"\x1f\x8b", LABELS_FILE, IMAGES, "cut short"),
    "too long": (IMAGES_FILE + b"\0", LABELS_FILE, IMAGES, "by its header"),
    "forged size": (IMAGES_FILE[:4] + b"\xff" * 12 + IMAGES_FILE[16:], LABELS_FILE, IMAGES, "cut short"),
    "nothing in it": (b"", LABELS_FILE, IMAGES, "begins with nothing"),
    "a web page": (b"<!DOCTYPE html>", LABELS_FILE, IMAGES, "not an IDX file"),
    "floats": (b"\0\0\x0d\x03" + IMAGES_FILE[4:], LABELS_FILE, IMAGES, "not an IDX file"),
    "swapped": (LABELS_FILE, IMAGES_FILE, IMAGES, "holds labels, expected images: .* swapped"),
    "other pixels": (idx(np.zeros((30, 32, 30), np.uint8)), LABELS_FILE, IMAGES, "32x30 pixels, expected 28x28"),
    "no images": (idx(np.zeros((0, 28, 28), np.uint8)), LABELS_FILE, IMAGES, "no images"),
    "letters": (IMAGES_FILE, idx(np.arange(30, dtype=np.uint8)), LABELS, "label 10 is 10, expected 0 to 9"),
    "other count": (IMAGES_FILE, idx(np.zeros(29, np.uint8)), LABELS, "29 labels, expected 30"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(fault: str, tmp_path: Path) -> None:
    images, labels, name, message = FAULTS[fault]
    put(tmp_path, images, labels)
    with pytest.raises(EdgeMnistError, match=message) as raised:
        mnist.load("test", tmp_path)
    assert str(raised.value).startswith(str(tmp_path / name)) and "\n" not in str(raised.value)


def test_missing_places_say_where_was_looked(machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere, empty = tmp_path / "nowhere", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match=f"{nowhere}: no such folder .given"):
        mnist.load("test", nowhere)
    monkeypatch.setenv("EDGE_MNIST_DATA", str(nowhere))
    with pytest.raises(UsageError, match=f"{nowhere}: no such folder .named by EDGE_MNIST_DATA"):
        mnist.load("test")
    with pytest.raises(EdgeMnistError, match=f"{empty}: no {IMAGES}.*put the four files"):
        mnist.load("test", empty)
    put(empty)
    (empty / LABELS).unlink()
    with pytest.raises(EdgeMnistError, match=f"{empty}: no {LABELS}"):
        mnist.load("test", empty)
    monkeypatch.delenv("EDGE_MNIST_DATA")
    with pytest.raises(EdgeMnistError, match=f"{machine}: .*--data or EDGE_MNIST_DATA"):
        mnist.load("test", download=False)
    assert not mnist.is_available() and not mnist.is_available(nowhere) and not mnist.is_available(empty)


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Starts mirrors on this machine; each serves the files it is given."""
    servers = []

    def start(files: dict[str, bytes]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = files.get(self.path[1:])
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_download_is_kept_only_if_its_content_is_right(
    machine: Path, serve: Callable[[dict[str, bytes]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = {f"{IMAGES}.gz": gzip.compress(IMAGES_FILE), f"{LABELS}.gz": gzip.compress(LABELS_FILE, 1)}
    forged = {f"{IMAGES}.gz": gzip.compress(IMAGES_FILE[:-1] + b"\1"), f"{LABELS}.gz": right[f"{LABELS}.gz"][:-9]}
    sums = {IMAGES: hashlib.sha256(IMAGES_FILE).hexdigest(), LABELS: hashlib.sha256(LABELS_FILE).hexdigest()}
    monkeypatch.setattr(mnist, "_HASHES", sums)
    bad = ["http://127.0.0.1:1/", serve({}), serve(forged), serve({name: b"<html>busy" for name in right})]
    monkeypatch.setattr(mnist, "_MIRRORS", bad)
    with pytest.raises(EdgeMnistError, match=f"{IMAGES}.gz: .*refused.*404.*SHA-256.*SHA-256.*--data") as raised:
        mnist.load("test")
    assert "\n" not in str(raised.value)
    assert not machine.exists()

    monkeypatch.setattr(mnist, "_MIRRORS", [*bad, serve(right)])
    digits = mnist.load("test")
    assert digits.source == "mnist" and np.array_equal(digits.images, DRAWN.images)
    assert {path.name: path.read_bytes() for path in machine.iterdir()} == right

    monkeypatch.setattr(mnist, "_MIRRORS", ())
    assert mnist.is_available() and mnist.load("test").sha256 == digits.sha256


def test_the_split_of_sixty_thousand_is_fixed() -> None:
    labels = np.arange(60_000) * 7919 % 10
    learn, validate = mnist.split_for_validation(labels)
    assert (len(learn), len(validate)) == (55_000, 5_000)
    assert np.bincount(labels[validate]).tolist() == [500] * 10
    assert (
        hashlib.sha256(validate.astype("<i8").tobytes()).hexdigest()
        == "7ac8469acbf7a75563d70c1ef47ff73816170afc71041c669db5a4d56773df7f"
    )


@given(hnp.arrays(np.int64, st.integers(1, 300), elements=st.integers(0, 9)))
def test_a_split_is_complete_stratified_and_exact(labels: npt.NDArray[np.int64]) -> None:
    learn, validate = mnist.split_for_validation(labels)
    assert len(validate) == len(labels) // 12
    assert np.array_equal(np.sort(np.concatenate((learn, validate))), np.arange(len(labels)))
    assert np.all(np.diff(learn) > 0) and np.all(np.diff(validate) > 0)
    shares = np.bincount(labels[validate], minlength=10) - np.bincount(labels, minlength=10) / 12
    assert np.all(np.abs(shares) < 1)


def test_only_numpy_is_needed() -> None:
    others = "{'torch', 'platformdirs', 'urllib.request'}"
    code = f"import sys, edge_mnist.data.mnist, edge_mnist.data.strokes; print({others} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_what_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "_MOST_BYTES", 1000)
    path = tmp_path / "bomb.gz"
    assert mnist._decompress(path, gzip.compress(bytes(1000))) == bytes(1000)
    with pytest.raises(EdgeMnistError, match="bomb.gz: holds more than 1,000 bytes"):
        mnist._decompress(path, gzip.compress(bytes(1001)))
