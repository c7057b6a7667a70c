"""Image files of every kind that cameras, phones and drawing programs write, and damaged ones."""

from __future__ import annotations

import io
import resource
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

from edge_mnist.demo import images, reader  # noqa: E402
from edge_mnist.errors import EdgeMnistError, UsageError  # noqa: E402

COLOURS = np.random.RandomState(0).randint(0, 256, (5, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)  # (40, 64, 3)


def written(picture: object, kind: str, **options: object) -> bytes:
    """A picture as a file of a kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[attr-defined]
    return file.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
    return written(Image.fromarray(np.rot90(COLOURS)), "JPEG", quality=95, exif=exif)


PICTURE = Image.fromarray(COLOURS)
GREY = np.asarray(PICTURE.convert("L"))
SAME = {
    "PNG": written(PICTURE, "PNG"),
    "palette PNG": written(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "PNG"),
    "animated PNG": written(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    "JPEG": written(PICTURE, "JPEG", quality=95),
    "CMYK JPEG": written(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "JPEG turned by EXIF": rotated_by_exif(),
    "WebP": written(PICTURE, "WEBP", lossless=True),
    "animated WebP": written(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[PICTURE.rotate(180)]),
    "BMP": written(PICTURE, "BMP"),
    "TIFF": written(PICTURE, "TIFF"),
}


def test_twelve_bits_in_sixteen_are_read_as_what_they_are() -> None:
    deep = np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16)
    _, png = cv2.imencode(".png", deep)
    assert np.array_equal(images.decode(png.tobytes(), "deep.png")[..., 0], (deep >> 4).astype(np.uint8))


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_file_shows_the_same_picture(kind: str) -> None:
    found = images.decode(SAME[kind], kind)
    assert found.dtype == np.uint8 and found.shape == (40, 64, 3)
    tolerance = 40 if "JPEG" in kind else 2
    assert np.abs(found[4::8, 4::8, ::-1].astype(int) - COLOURS[4::8, 4::8]).max() <= tolerance
    if "PNG" not in kind or kind == "PNG":
        assert images._size(SAME[kind]) in ((64, 40), (40, 64))


def test_sixteen_bits_become_eight_and_what_is_transparent_white() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        assert np.abs(images.decode(written(deep, kind), kind)[..., 0].astype(int) - GREY).max() <= 1
    opacity = np.zeros((40, 64, 1), np.uint8)
    opacity[:20] = 255
    layered = Image.fromarray(np.concatenate([np.zeros_like(COLOURS), opacity], 2))
    for kind in ("PNG", "WEBP"):
        shown = images.decode(written(layered, kind, lossless=True), kind)
        assert shown[:20].max() == 0 and shown[20:].min() == 255


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty, expected an image"),
        (b"12, 34\n", "it holds text"),
        (bytes(range(256)), "expected JPEG, PNG, WebP, BMP or TIFF"),
        (SAME["PNG"][:60], "it is damaged, or 64x40 pixels of a kind"),
        (SAME["PNG"][:16] + (60_000).to_bytes(4, "big") * 2, "is 60000x60000 pixels, at most 40 million are read"),
        (b"BM" + bytes(16) + (2**31 - 1).to_bytes(4, "little") * 2, "pixels, at most 40 million"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(data: bytes, expected: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EdgeMnistError) as caught:
        images.decode(data, "page.png")
    assert str(caught.value).startswith("page.png: ") and expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_folder_lists_its_images(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no images, expected files named .bmp, .jpeg"):
        images.find(tmp_path)
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(SAME["PNG"])
    assert [path.name for path in images.find(tmp_path)] == ["a.jpg", "b.PNG"]
    assert images.load(tmp_path / "b.PNG").shape == (40, 64, 3)


def test_a_jpeg_of_a_hundred_megapixels_is_reduced_while_it_is_decoded() -> None:
    large = written(Image.new("L", (12_000, 9_000), 200), "JPEG")
    assert images.decode(large, "large.jpg").shape == (4_500, 6_000, 3)


def mutate(random: np.random.RandomState, data: bytes) -> bytes:
    """A file with some bytes changed, cut or doubled."""
    changed = np.frombuffer(data, np.uint8).copy()
    for _ in range(random.randint(1, 12)):
        changed[random.randint(len(changed))] = random.randint(256)
    if random.random_sample() < 0.2:
        changed = changed[: random.randint(1, len(changed))]
    return changed.tobytes()


def read_mutants(count: int) -> None:
    """Decode and read so many damaged files: an image or an error of ours, nothing else."""
    random = np.random.RandomState(7)
    kinds = list(SAME.values())
    machine = reader.Reader()
    for number in range(count):
        try:
            frame = images.decode(mutate(random, kinds[number % len(kinds)]), "mutant")
            if frame.size < 100_000:  # a few claim to be large, and take seconds
                machine.read(frame)
        except EdgeMnistError:
            pass


def test_damaged_files_are_read_or_refused() -> None:
    read_mutants(300)


def resident() -> int:
    """The process's memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory is read in /proc")
def test_ten_thousand_damaged_files_do_not_crash_and_leave_no_memory_behind() -> None:
    read_mutants(2_000)
    before = resident()
    read_mutants(10_000)
    assert resident() - before < 40e6
