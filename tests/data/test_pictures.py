"""Picture files as inputs of a network: as torchvision prepares them, within limits, and the bad ones by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist.data import pictures
from edge_mnist.system.errors import EdgeMnistError, UsageError

pytest.importorskip("PIL")
from PIL import Image


def save(path: Path, height: int, width: int, mode: str = "RGB", **options: Any) -> Path:
    """Save a picture of smooth noise, which a JPEG keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(height * width)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path, **options)
    return path


@pytest.mark.parametrize("resize", [40, 33, (40, 37), (36, 36)])
@pytest.mark.parametrize("size", [(97, 64), (64, 97), (50, 50), (31, 45)])
def test_pictures_are_prepared_as_torchvision_prepares_them(size: tuple[int, int], resize: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from edge_mnist.training.torchvision_shim import import_torchvision

    transforms = import_torchvision().transforms
    path = save(tmp_path / "a.png", *size)
    found, kept = pictures.read_pictures([path], (3, 32, 30), resize=resize)
    usual = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop((32, 30)), transforms.PILToTensor()])
    assert kept.tolist() == [0] and np.array_equal(found[0], usual(Image.open(path)).numpy())


@pytest.mark.parametrize("size", [(97, 64), (64, 97), (20, 300), (33, 31)])
def test_without_a_size_pictures_just_cover_the_input(size: tuple[int, int], tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", *size)
    found, _ = pictures.read_pictures([path], (3, 32, 30))
    height, width = size
    factor = max(32 / height, 30 / width)
    picture = Image.open(path).resize((max(30, round(factor * width)), max(32, round(factor * height))), 2)
    top, left = round((picture.height - 32) / 2), round((picture.width - 30) / 2)
    assert np.array_equal(found[0].transpose(1, 2, 0), np.asarray(picture)[top : top + 32, left : left + 30])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "LA"])
def test_every_mode_becomes_grey_or_rgb(mode: str, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", 16, 16, mode)
    for channels, expected in ((1, "L"), (3, "RGB")):
        found, _ = pictures.read_pictures([path], (channels, 16, 16))
        usual = np.atleast_3d(np.asarray(Image.open(path).convert(expected)))
        assert np.array_equal(found[0].transpose(1, 2, 0), usual)


def test_of_16_bits_the_upper_8_are_taken(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    Image.fromarray(values).save(tmp_path / "a.png")
    found, _ = pictures.read_pictures([tmp_path / "a.png"], (1, 16, 16))
    assert np.array_equal(found[0, 0], np.arange(256).reshape(16, 16))


def test_a_cameras_picture_is_reduced_while_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    usual = pictures._decode

    def decode(picture: Any, *others: Any) -> Any:
        decoded.append(picture.size)
        return usual(picture, *others)

    monkeypatch.setattr(pictures, "_decode", decode)
    path = save(tmp_path / "a.jpg", 3888, 5184)
    found, _ = pictures.read_pictures([path], (3, 224, 224), resize=256)
    assert decoded == [(1296, 972)] or decoded == [(648, 486)]
    whole = Image.open(path).resize((341, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[16:240, 58:282].transpose(2, 0, 1)
    assert np.abs(found[0].astype(int) - expected).mean() < 2


def test_a_picture_larger_than_memory_allows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 3_000)).save(path)
    with pytest.raises(EdgeMnistError, match=r"a\.png: has 20000x3000 pixels, more than 40,000,000: reduce it"):
        pictures.read_pictures([path], (1, 28, 28))


def bad_files(folder: Path) -> list[Path]:
    """A text, an empty file, half a picture, a folder, and no file, all named as pictures."""
    save(folder / "whole.jpg", 64, 64)
    data = (folder / "whole.jpg").read_bytes()
    (folder / "text.png").write_text("words")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "half.jpg").write_bytes(data[: len(data) // 2])
    (folder / "folder.png").mkdir()
    return [folder / name for name in ("text.png", "empty.jpg", "half.jpg", "folder.png", "missing.png")]


def test_a_picture_that_would_become_larger_than_memory_allows_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "line.png", 2, 20000)
    with pytest.raises(EdgeMnistError, match=r"20000x2 pixels would be resized to 960000x96, more than 40,000,000"):
        pictures.read_pictures([path], (3, 96, 96))


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in bad_files(tmp_path):
        with pytest.raises(EdgeMnistError, match=rf"{path.name}: is not a picture that can be read: .+--skip-bad"):
            pictures.read_pictures([tmp_path / "whole.jpg", path], (3, 32, 32))


def test_pictures_that_cannot_be_read_are_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = bad_files(tmp_path)
    more = [tmp_path / f"missing{number}.png" for number in range(3)]
    good = tmp_path / "whole.jpg"
    found, kept = pictures.read_pictures([bad[0], good, *bad[1:], good, *more], (3, 32, 32), skip_bad=True)
    assert kept.tolist() == [1, 6] and found.shape == (2, 3, 32, 32)
    notes = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(notes) == 1 and notes[0].startswith("note: skipped 8 of 10 pictures: ")
    assert all(path.name in notes[0] for path in bad) and notes[0].endswith("; and 3 more")
    with pytest.raises(EdgeMnistError, match="none of 5 pictures can be read"):
        pictures.read_pictures(bad, (3, 32, 32), skip_bad=True)


def test_sizes_that_do_not_fit_the_network_are_refused_even_if_bad_pictures_are_skipped(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", 64, 64)
    with pytest.raises(UsageError, match="resized to 20x20 pixels, but the network takes 30x32: name a larger"):
        pictures.read_pictures([path], (3, 32, 30), resize=20, skip_bad=True)
    with pytest.raises(UsageError, match="the network takes 4 channels, and pictures have 1 or 3"):
        pictures.read_pictures([path], (4, 32, 30))


def test_pictures_are_listed_at_any_depth(tmp_path: Path) -> None:
    expected = [tmp_path / name for name in ("a/b/c.JPG", "a/d.png", "e.webp")]
    hidden = [tmp_path / name for name in ("._e.webp", "a/.thumbnails/d.png", "notes.txt")]
    for path in (*expected, *hidden):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert pictures.list_pictures(tmp_path) == expected


def test_the_common_size_of_pictures(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{number}.png", 30, 40) for number in range(3)]
    (tmp_path / "bad.png").write_text("words")
    assert pictures.find_common_size([*paths, tmp_path / "bad.png"]) == (30, 40)
    other = save(tmp_path / "other.png", 31, 40)
    with pytest.raises(UsageError, match=r"0\.png has 40x30 pixels, .*other\.png has 40x31 pixels: name the network's"):
        pictures.find_common_size([*paths, other])
    with pytest.raises(EdgeMnistError, match=r"bad\.png: is not a picture"):
        pictures.find_common_size([tmp_path / "bad.png"])
