"""A user's own images: read from folders, and learned without forgetting the others."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.cli.commands import commands, main
from edge_mnist.data import mnist, strokes, user_digits
from edge_mnist.data.corruptions import corrupt
from edge_mnist.data.outliers import UNSEEN, draw
from edge_mnist.export.tflite.writer import write_tflite
from edge_mnist.graph import checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.digits import idx

pytest.importorskip("torch")
image = pytest.importorskip("PIL.Image")


def _put(folder: Path, images: NDArray[np.uint8], names: list[str]) -> None:
    for number, (pixels, name) in enumerate(zip(images, names, strict=True)):
        folder.joinpath(name).mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_folders_name_the_classes(tmp_path: Path) -> None:
    digits = strokes.draw(30, 1)
    none = draw({"signs": UNSEEN["signs"]}, 4, 0, digits.images)["signs"]
    _put(tmp_path, digits.images, [str(label) for label in digits.labels])
    _put(tmp_path, none, ["none"] * 4)
    (tmp_path / "3" / "notes.txt").write_text("no image")
    (tmp_path / "3" / "._3.png").write_text("what macOS keeps beside a picture")
    found = user_digits.read_user_digits(tmp_path)
    assert found.labels.tolist() == sorted(digits.labels.tolist())
    assert {pixels.tobytes() for pixels in found.images} == {pixels.tobytes() for pixels in digits.images}
    assert {pixels.tobytes() for pixels in found.outliers} == {pixels.tobytes() for pixels in none}
    (tmp_path / "none" / "3.png").unlink()
    assert user_digits.read_user_digits(tmp_path).sha256 != found.sha256


def test_a_file_that_is_not_a_digit_of_28x28_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absent: no such folder"):
        user_digits.read_user_digits(tmp_path / "absent")
    (tmp_path / "7").mkdir()
    with pytest.raises(EdgeMnistError, match="no images, expected some in folders named 0 to 9 or none"):
        user_digits.read_user_digits(tmp_path)
    _put(tmp_path, np.zeros((1, 30, 28), np.uint8), ["7"])
    with pytest.raises(EdgeMnistError, match=r"7/0.png: has 28x30 pixels, expected a digit cut to 28x28"):
        user_digits.read_user_digits(tmp_path)
    (tmp_path / "7" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nrest is missing")
    with pytest.raises(EdgeMnistError, match=r"7/0.png: is not a picture that can be read"):
        user_digits.read_user_digits(tmp_path)


def test_16_bits_and_forged_sizes_are_read_as_other_pictures_are(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    deep = np.arange(784, dtype=np.uint16).reshape(28, 28) * 83
    image.fromarray(deep).save(tmp_path / "7" / "0.png")
    assert np.array_equal(user_digits.read_user_digits(tmp_path).images[0], deep >> 8)
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60000, 60000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "7" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(EdgeMnistError, match=r"7/0.png: "):
        user_digits.read_user_digits(tmp_path)


def _accuracy(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    model = runtime.load_bytes(write_tflite(fold(checkpoint.load(path))), str(path))
    return float((model.predict(images) == labels).mean())


def test_a_run_begins_with_the_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, digits in (("train", strokes.draw(1300, 1)), ("t10k", strokes.draw(200, 2))):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(digits.images))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(digits.labels.astype(np.uint8)))
    own = strokes.draw(20, 3)
    _put(tmp_path / "own", own.images, [str(label) for label in own.labels])
    base = ["train", "--data", str(tmp_path), "--workers", "1", "--set", "outliers=0", "--epochs", "1"]
    out = tmp_path / "tuned"
    asked = [*base, "--extra", str(tmp_path / "own"), "--lr", "1e-6", "--out", str(out)]
    result = CliRunner().invoke(commands, asked, catch_exceptions=False)  # by the option's former name
    assert result.exit_code == 0
    help_text = CliRunner().invoke(commands, ["train", "--help"]).output
    assert "--user-digits" in help_text and "--extra" not in help_text
    tuned, shipped = checkpoint.load(out / "checkpoint.safetensors"), checkpoint.load(SHIPPED)
    np.testing.assert_allclose(tuned.weights["conv3.weight"], shipped.weights["conv3.weight"], atol=1e-4)
    assert tuned.metadata["recipe"]["name"] == "tune" and len(tuned.metadata["init"]) == 64
    # the images are part of the run: it does not go on without them
    monkeypatch.setattr("sys.argv", ["edge-mnist", *base[:-2], "--resume", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


@pytest.mark.slow
def test_a_new_handwriting_is_learned_and_mnist_is_not_forgotten(tmp_path: Path) -> None:
    """Learn 100 digits of a handwriting that leans far back, in three epochs from the shipped checkpoint."""
    if not (mnist.is_available(None, "train") and mnist.is_available(None)):
        pytest.skip("needs MNIST")
    test = mnist.load("test", download=False)
    hand = corrupt(test.images, "shear", 3)
    hand = corrupt(hand, "rotation", 3)
    own, rest = slice(100), slice(2000, None)
    _put(tmp_path / "own", hand[own], [str(label) for label in test.labels[own]])
    folder = os.environ.get("EDGE_MNIST_DATA")
    asked = ["train", "--user-digits", str(tmp_path / "own"), "--out", str(tmp_path / "run")]
    asked += ["--data", folder] if folder else []
    assert CliRunner().invoke(commands, asked, catch_exceptions=False).exit_code == 0
    (before, after), (mnist_before, mnist_after) = (
        [
            _accuracy(path, images[rest], test.labels[rest])
            for path in (SHIPPED, tmp_path / "run/checkpoint.safetensors")
        ]
        for images in (hand, test.images)
    )
    assert 1 - after < 0.85 * (1 - before), (before, after)
    assert mnist_after > mnist_before - 0.0005, (mnist_before, mnist_after)
