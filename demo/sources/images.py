"""Reads image files of cameras, phones, scanners and drawing programs, within limits on the memory.

Pillow reads the header of a file and OpenCV decodes it. The memory that decoding takes is computed from the header
first, and on Linux the memory of the process is limited to about that while OpenCV decodes.
"""

from __future__ import annotations

import io
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from edge_mnist.data.pictures import SUFFIXES, is_picture_name
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import path_error
from edge_mnist.system.stderr import quiet_stderr

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The formats that are opened, by the names that Pillow has for them."""
EXPECTED = "expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM"
MAX_BYTES = 120_000_000
"""The most bytes of a decoded picture: 40 million pixels of 8-bit colour. A larger JPEG is reduced in decoding."""
MAX_FILE_BYTES = 160_000_000
"""The most bytes of a file: somewhat more than `MAX_BYTES`, for pictures that are stored without compression."""
_SPARE = 64_000_000
"""Bytes that decoders may use besides two copies of the decoded picture, one of them rotated as EXIF says."""
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""The flag with which OpenCV decodes a JPEG with its sides divided by a number."""
_BRIGHT = 64
"""A picture of 16 bits whose brightest pixel, as one of 8 bits, is below this does not use all of its bits."""
_FOREIGN = {
    b"%PDF": "a PDF",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop document",
    b"PK\x03\x04": "a ZIP archive",
}
"""Files of other kinds that people try to open as images, by their first bytes."""
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
"""The major brands of ISO/IEC 14496-12 files that contain pictures; files of other brands are videos."""


@dataclass(frozen=True)
class _Header:
    """What the header of an image file declares.

    Attributes:
        format: one of `FORMATS`, or MPO, which is a JPEG with further pictures behind it.
        width, height: the size in pixels, before it is rotated as EXIF says.
        depth: bytes of one channel of a pixel.
        transparent: whether pixels have an opacity.
        coefficients: bytes that the decoder keeps besides the picture; 0 except for a progressive JPEG.
    """

    format: str
    width: int
    height: int
    depth: int
    transparent: bool
    coefficients: int

    def count_bytes(self, factor: int) -> int:
        """Count the bytes of the decoded picture with its sides divided by a factor."""
        channels = 4 if self.transparent else 3
        return self.width * self.height * channels * self.depth // factor**2


def list_images(folder: Path) -> list[Path]:
    """List the image files in a folder in the order of their names; hidden ones do not count.

    Raises:
        EdgeMnistError: it contains none, or cannot be read.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if is_picture_name(path.name) and path.is_file())
    except OSError as error:
        raise EdgeMnistError(f"{folder}: cannot be read: {error.strerror or error}") from error
    if not paths:
        raise EdgeMnistError(f"{folder}: no images, expected files named {', '.join(sorted(SUFFIXES))}")
    return paths


def load(path: Path) -> NDArray[np.uint8]:
    """Read an image file as `decode` does: uint8 (H, W, 3), BGR."""
    try:
        with path.open("rb") as file:
            return load_from(file, str(path))
    except FileNotFoundError as error:
        expected = "expected a picture, a folder of pictures, or - for standard input"
        raise UsageError(f"{path}: there is no such file or folder: {expected}") from error
    except OSError as error:
        raise path_error(path, "cannot be read", error) from error


def load_from(file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """Read an image from an open file, such as standard input, as `decode` does.

    No more than `MAX_FILE_BYTES` is read, as the file may never end.
    """
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise EdgeMnistError(f"{name}: is larger than {_format_megabytes(MAX_FILE_BYTES)}, expected an image")
    return decode(data, name)


def decode(
    data: bytes, name: str, *, max_bytes: int = MAX_BYTES, formats: tuple[str, ...] = FORMATS
) -> NDArray[np.uint8]:
    """Decode an image file: JPEG, PNG, WebP, BMP, TIFF, GIF or PNM.

    It is rotated as its EXIF says, 16 bits become 8, transparent pixels become white, and of an animation the first
    picture is decoded.

    Args:
        data: the content of the file.
        name: its name in error messages.
        max_bytes: the most bytes that the decoded picture may take. A larger JPEG is reduced.
        formats: those of `FORMATS` that are accepted.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        EdgeMnistError: it is empty, not an image, of another format, damaged or too large.
    """
    if not data:
        raise EdgeMnistError(f"{name}: is empty, expected an image")
    with quiet_stderr():  # Pillow, OpenCV, libpng and libjpeg print warnings of their own
        with _limited_memory(_SPARE + 4 * max_bytes):  # Pillow reserves memory for two frames of a WebP
            header = _header(data, name, formats)
        factors = _REDUCED if header.format in ("JPEG", "MPO") else (1,)
        factor = next((factor for factor in factors if header.count_bytes(factor) <= max_bytes), None)
        if factor is None or header.coefficients > max_bytes:
            raise EdgeMnistError(
                f"{name}: is {header.width}x{header.height} pixels, which take "
                f"{_format_megabytes(max(header.count_bytes(1), header.coefficients))} to decode, at most "
                f"{_format_megabytes(max_bytes)} are given: reduce it, to about 2000 pixels across"
            )
        with _limited_memory(_SPARE + 2 * header.count_bytes(factor) + header.coefficients):
            picture = _decode_pixels(data, header, _REDUCED[factor])
    if picture is None:
        raise EdgeMnistError(
            f"{name}: cannot be decoded: its header says {header.format}, {header.width}x{header.height} pixels, but "
            "it is damaged or of a rare kind: save it again as PNG or JPEG"
        )
    return picture


def rotate(picture: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """Rotate a picture, uint8 (H, W, 3), clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(picture, -degrees // 90))


def _header(data: bytes, name: str, formats: tuple[str, ...]) -> _Header:
    """Read the header of a file without decoding it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large pictures, whose size is checked here, and about odd metadata
            with Image.open(io.BytesIO(data), formats=formats) as image:
                header = _Header(
                    str(image.format), *image.size, _depth(image), _is_transparent(image), _coefficients(image)
                )
                if header.format == "PNG":
                    image.verify()  # libpng reserves the memory that a chunk claims, up to 4 GB
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise EdgeMnistError(f"{name}: has more than {most} million pixels: reduce it") from error
    except UnidentifiedImageError as error:
        raise EdgeMnistError(f"{name}: is not an image that can be read: {_describe_unknown(data)}") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly any exception
        raise EdgeMnistError(f"{name}: is not an image that can be read: it is damaged") from error
    return header


def _depth(image: ImageFile.ImageFile) -> int:
    """Find the bytes of one channel, by the mode of Pillow and, for colour of 16 bits, that of the file."""
    if image.mode in ("I", "F"):
        return 2 if image.format == "PNG" else 4  # earlier versions of Pillow open a grey PNG of 16 bits as "I"
    return 2 if ";16" in f"{image.mode} {image.tile}" else 1


def _is_transparent(image: ImageFile.ImageFile) -> bool:
    return image.mode in ("RGBA", "RGBa", "RGBX", "LA", "La", "PA") or "transparency" in image.info


def _coefficients(image: ImageFile.ImageFile) -> int:
    """Count the bytes of the coefficients of a progressive JPEG, 2 each; any other JPEG is decoded block by block."""
    if "progressive" not in image.info:
        return 0
    layers: list[tuple[int, int, int, int]] = image.layer  # type: ignore[attr-defined]  # a JPEG's sampling factors
    parts = sum(across * down for _, across, down, _ in layers)
    most = max(across for _, across, _, _ in layers) * max(down for _, _, down, _ in layers)
    return 2 * image.width * image.height * parts // most


def _describe_unknown(data: bytes) -> str:
    """Say what a file seems to be that is not an image of a known format."""
    foreign = next((kind for start, kind in _FOREIGN.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        foreign = _BRANDS.get(data[8:12], "a video")
    if foreign:
        return f"it is {foreign}, {EXPECTED}: export it as JPEG"
    head = data[:512]
    if not any(head):
        return f"it begins with {len(head)} zero bytes, {EXPECTED}"
    return f"it contains text, {EXPECTED}" if head.isascii() and b"\0" not in head else EXPECTED


def _format_megabytes(count: int) -> str:
    return f"{-(-count // 10**6):,} MB"


@contextmanager
def _limited_memory(more: int) -> Iterator[None]:
    """Limit the memory of the process to a number of bytes more than it has, where that can be done.

    That is on Linux, which tells how much it has, and in a process without further threads, as the limit would hold
    for what these do too.
    """
    if sys.platform != "linux" or threading.active_count() > 1:
        yield
        return
    import resource

    soft, hard = before = resource.getrlimit(resource.RLIMIT_AS)
    limits = (int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more, soft, hard)
    resource.setrlimit(resource.RLIMIT_AS, (min(limit for limit in limits if limit != resource.RLIM_INFINITY), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _decode_pixels(data: bytes, header: _Header, flag: int) -> NDArray[np.uint8] | None:
    """Decode a file: uint8 (H, W, 3), BGR; None where OpenCV fails or the memory does not suffice."""
    try:
        if header.transparent:
            layered = _decode_with(data, cv2.IMREAD_UNCHANGED)
            if layered is not None and layered.ndim == 3 and layered.shape[2] == 4:
                return _put_on_white(layered)
            del layered
        picture = _decode_with(data, flag)
        if picture is not None and header.depth > 1 and picture.max() < _BRIGHT:
            return _use_all_bits(data, picture)
        return picture
    except (cv2.error, MemoryError):
        return None


def _decode_with(data: bytes, flag: int) -> NDArray[np.uint8] | None:
    """Decode a file with a flag of OpenCV; None if it cannot."""
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return None if picture is None or not picture.size else np.asarray(picture)


def _use_all_bits(data: bytes, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale a picture that uses only 10 or 12 of its 16 bits by the bits that it uses; else return `picture`."""
    deep = _decode_with(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if deep is None or deep.dtype != np.uint16:
        return picture
    return np.asarray(deep >> max(int(deep.max()).bit_length() - 8, 0), np.uint8)


def _put_on_white(layered: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend (H, W, 4), BGR and opacity, uint8 or uint16, with white: uint8 (H, W, 3)."""
    top = np.iinfo(layered.dtype).max if layered.dtype.kind == "u" else 1
    mixed = np.empty((*layered.shape[:2], 3), np.uint8)
    # All rows at once would take several times as much memory.
    for row, target in zip(layered, mixed, strict=True):
        colours, opacity = row[:, :3].astype(np.float32) / top, row[:, 3:].astype(np.float32) / top
        target[:] = np.rint(255 * (colours * opacity + 1 - opacity)).clip(0, 255)
    return mixed
