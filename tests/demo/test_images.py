"""Image files of the kinds that cameras, phones and drawing programs write, and damaged files."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")

from edge_mnist.demo.sources import images  # noqa: E402
from edge_mnist.system.child_processes import make_environment  # noqa: E402
from edge_mnist.system.errors import EdgeMnistError  # noqa: E402

COLOURS = np.random.RandomState(0).randint(0, 256, (5, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)  # (40, 64, 3)


def encode(picture: object, kind: str, **options: object) -> bytes:
    """Encode a picture as a file of a kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[attr-defined]
    return file.getvalue()


def rotated_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees to see it upright
    return encode(Image.fromarray(np.rot90(COLOURS)), "JPEG", quality=95, exif=exif)


PICTURE = Image.fromarray(COLOURS)
GREY = np.asarray(PICTURE.convert("L"))
SAME = {
    "PNG": encode(PICTURE, "PNG"),
    "palette PNG": encode(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "PNG"),
    "animated PNG": encode(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    "JPEG": encode(PICTURE, "JPEG", quality=95),
    "CMYK JPEG": encode(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "JPEG turned by EXIF": rotated_by_exif(),
    "WebP": encode(PICTURE, "WEBP", lossless=True),
    "animated WebP": encode(PICTURE, "WEBP", lossless=True, save_all=True, append_images=[PICTURE.rotate(180)]),
    "BMP": encode(PICTURE, "BMP"),
    "TIFF": encode(PICTURE, "TIFF"),
    "progressive JPEG": encode(PICTURE, "JPEG", quality=95, progressive=True),
    "JPEG with a second picture": encode(PICTURE, "MPO", quality=95, save_all=True, append_images=[PICTURE]),
    "GIF": encode(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=256), "GIF"),
    "PNM": encode(PICTURE, "PPM"),
}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, depth: int, colour: int) -> bytes:
    """Make the beginning of a PNG; colour 2 is RGB, 6 is RGBA."""
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def _deep_png() -> bytes:
    """Make a complete PNG of 6300x6300 black pixels of 16-bit RGBA."""
    rows = bytes(6300 * (1 + 6300 * 8))
    return _png(6300, 6300, 16, 6) + _chunk(b"IDAT", zlib.compress(rows, 1)) + _chunk(b"IEND", b"")


def _gif(canvas: int, frame: int) -> bytes:
    start = b"GIF89a" + struct.pack("<HHBBB", canvas, canvas, 128, 0, 0) + b"\0\0\0\xff\xff\xff,"
    return start + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x44\x01\0;"


BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG whose data claims 4 GB": lambda: _png(100, 100, 8, 2) + b"\xff\xff\xff\xffIDAT" + bytes(16),
    "PNG whose text claims 4 GB": lambda: _png(100, 100, 8, 2) + b"\xff\xff\xff\xfftEXt" + bytes(16),
    "PNG whose profile claims 2 GB": lambda: _png(100, 100, 8, 2) + b"\x7f\xff\xff\xffiCCP" + bytes(16),
    "PNG of 16-bit RGBA": _deep_png,
    "GIF of a large canvas": lambda: _gif(30_000, 1),
    "GIF of a large frame": lambda: _gif(1, 30_000),
    "GIF of a canvas within Pillow's limit": lambda: _gif(12_000, 1),
    "PNM": lambda: b"P6 60000 60000 255\n",
    "PNM within Pillow's limit": lambda: b"P6 12000 12000 255\n",
    "BMP": lambda: b"BM" + bytes(16) + (2**31 - 1).to_bytes(4, "little") * 2,
    "TIFF": lambda: SAME["TIFF"].replace(struct.pack("<HHII", 257, 4, 1, 40), struct.pack("<HHII", 257, 4, 1, 2**31)),
    "BigTIFF": lambda: b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 2**63),
    "JPEG 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "AVIF": lambda: b"\0\0\0\x18ftypavif" + bytes(20),
}


def test_twelve_bits_in_sixteen_are_scaled() -> None:
    deep = np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16)
    _, png = cv2.imencode(".png", deep)
    assert np.array_equal(images.decode(png.tobytes(), "deep.png")[..., 0], (deep >> 4).astype(np.uint8))


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_file_shows_the_same_picture(kind: str) -> None:
    found = images.decode(SAME[kind], kind)
    assert found.dtype == np.uint8 and found.shape == (40, 64, 3)
    tolerance = 40 if "JPEG" in kind else 2
    assert np.abs(found[4::8, 4::8, ::-1].astype(int) - COLOURS[4::8, 4::8]).max() <= tolerance


def test_sixteen_bits_become_eight_and_transparent_pixels_white() -> None:
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    for kind in ("PNG", "TIFF"):
        assert np.abs(images.decode(encode(deep, kind), kind)[..., 0].astype(int) - GREY).max() <= 1
    opacity = np.zeros((40, 64, 1), np.uint8)
    opacity[:20] = 255
    layered = Image.fromarray(np.concatenate([np.zeros_like(COLOURS), opacity], 2))
    for kind in ("PNG", "WEBP"):
        shown = images.decode(encode(layered, kind, lossless=True), kind)
        assert shown[:20].max() == 0 and shown[20:].min() == 255


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is empty, expected an image"),
        (b"12, 34\n", "it contains text"),
        (bytes(range(256)), "expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM"),
        (bytes(600), "it begins with 512 zero bytes"),
        (
            b"\0\0\0\x18ftypheic" + bytes(20),
            "it is HEIC, expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM: export it as",
        ),
        (b"\0\0\0\x18ftypavif" + bytes(20), "it is AVIF"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "it is a video"),
        (encode(PICTURE, "JPEG2000"), "it is JPEG 2000"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (encode(PICTURE, "TGA"), "expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM"),
        (SAME["PNG"][:60], "it is damaged"),
        (SAME["BMP"][:60], "its header says BMP, 64x40 pixels, but it is damaged or of a rare kind"),
        (
            b"P6 7000 7000 255\n",
            "is 7000x7000 pixels, which take 147 MB to decode, at most 120 MB are given: reduce it",
        ),
        (b"P6 60000 60000 255\n", "has more than 178 million pixels"),
    ],
)
def test_a_file_that_is_not_an_image_is_reported_in_one_line(
    data: bytes, expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EdgeMnistError) as caught:
        images.decode(data, "page.png")
    assert str(caught.value).startswith("page.png: ") and expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(EdgeMnistError, match="/dev/zero: is larger than 1 MB, expected an image"):
        images.load(Path("/dev/zero"))
    with pytest.raises(EdgeMnistError, match="-: is larger than 1 MB"):
        images.load_from(io.BytesIO(bytes(1_000_001)), "-")
    with pytest.raises(EdgeMnistError, match="nowhere.png: there is no such file or folder: expected a picture, "):
        images.load(Path("nowhere.png"))


def test_a_folder_lists_its_images(tmp_path: Path) -> None:
    with pytest.raises(EdgeMnistError, match="no images, expected files named .bmp, .jpeg"):
        images.list_images(tmp_path)
    for name in ("b.PNG", "a.jpg", "c.pgm", "notes.txt", "._a.jpg"):  # macOS keeps what it knows of a.jpg in ._a.jpg
        (tmp_path / name).write_bytes(SAME["PNG"])
    assert [path.name for path in images.list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.pgm"]
    assert images.load(tmp_path / "b.PNG").shape == (40, 64, 3)


def test_the_limit_counts_channels_depth_and_the_memory_of_the_decoder() -> None:
    side, deep = 400, np.zeros((400, 400, 4), np.uint16)
    picture = Image.new("RGB", (side, side))
    progressive = encode(picture, "JPEG", progressive=True, subsampling=0)
    for data, needed in (
        (encode(picture, "PNG"), 3 * side**2),
        (encode(picture.convert("RGBA"), "PNG"), 4 * side**2),
        (cv2.imencode(".png", deep)[1].tobytes(), 8 * side**2),
        (cv2.imencode(".tiff", deep)[1].tobytes(), 8 * side**2),
        (cv2.imencode(".png", deep[..., :3])[1].tobytes(), 6 * side**2),
        (cv2.imencode(".png", deep[..., 0])[1].tobytes(), 6 * side**2),
        (encode(picture, "JPEG"), 3 * side**2 // 64),
        (progressive, 6 * side**2),  # coefficients of 2 bytes, whatever the picture is reduced to
    ):
        assert images.decode(data, "picture", max_bytes=needed).ndim == 3
        with pytest.raises(EdgeMnistError, match="is 400x400 pixels, which take 1 MB|2 MB"):
            images.decode(data, "picture", max_bytes=needed - 1)
    assert images.decode(encode(picture, "JPEG"), "picture", max_bytes=3 * side**2 - 1).shape == (200, 200, 3)


def test_decompression_bombs_are_refused_and_take_no_memory(tmp_path: Path) -> None:
    """They are opened in a process whose peak memory is read from /proc; importing OpenCV takes about 50 MB of it."""
    program = (
        "import pathlib, re, sys\n"
        "from edge_mnist.demo.sources import images\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(images.load(pathlib.Path(name)).shape)\n"
        "    except images.EdgeMnistError as error:\n"
        "        print(error)\n"
        "    print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])\n"
    )
    for name, make in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    command = [sys.executable, "-c", program, *BOMBS]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=make_environment(), timeout=20)
    assert not result.stderr
    lines = result.stdout.splitlines()
    for name, answer, peak in zip(BOMBS, lines[::2], lines[1::2], strict=True):
        assert answer.startswith(f"{name}: ") and int(peak) < 100_000, (answer, peak)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is limited on Linux only")
def test_memory_is_limited_while_a_picture_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder of this test takes a gigabyte for a small picture."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    monkeypatch.setattr(images.cv2, "imdecode", lambda data, flag: np.ones(1 << 30, np.uint8))
    with pytest.raises(EdgeMnistError, match="64x40 pixels, but it is damaged"):
        images.decode(SAME["PNG"], "picture")
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_a_jpeg_of_a_hundred_megapixels_is_reduced_while_it_is_decoded() -> None:
    large = encode(Image.new("L", (12_000, 9_000), 200), "JPEG")
    assert images.decode(large, "large.jpg").shape == (4_500, 6_000, 3)


def test_the_error_describes_the_file() -> None:
    """A BMP of OS/2 has a header of its own, with 16-bit sides; a file of zero bytes is neither text nor damaged."""
    width, height = 40, 32
    header = struct.pack("<IHHHH", 12, width, height, 1, 24)
    rows = bytes([200]) * (3 * width * height)
    bmp = b"BM" + struct.pack("<IHHI", 26 + len(rows), 0, 0, 26) + header + rows
    assert images.decode(bmp, "os2.bmp").shape == (height, width, 3)
    with pytest.raises(EdgeMnistError, match=f"{width}x{height} pixels, but it is damaged"):
        images.decode(bmp[:100], "os2.bmp")
    with pytest.raises(EdgeMnistError, match="begins with 512 zero bytes, expected JPEG") as caught:
        images.decode(bytes(3000), "zeros.png")
    assert "damaged" not in str(caught.value) and "text" not in str(caught.value)
