"""Image files as frames: whatever a camera, a phone, a scanner or a drawing program has written.

Pillow reads a file's header, OpenCV decodes it. What decoding will take is computed from the header first, and on Linux
the memory of the process is limited to about that while OpenCV decodes, whatever the file does then.
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

from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import path_error
from edge_mnist.system.stderr import quiet_stderr

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
"""Of the files that a folder is searched for, in lower case."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The formats that are opened, by Pillow's names."""
EXPECTED = "expected JPEG, PNG, WebP, BMP, TIFF, GIF or PNM"
MOST_BYTES = 120_000_000
"""What a decoded picture may take: 40 million pixels of 8-bit colour. A JPEG is reduced while it is decoded."""
MOST_FILE = 160_000_000
"""Bytes of a file: somewhat more than a picture that is stored without compression may take."""
_SPARE = 64_000_000
"""Bytes that decoders may take beside two copies of the decoded picture (one is turned as EXIF says)."""
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_DEEP = 64
"""A picture of 16 bits whose brightest pixel is darker, as one of 8, does not use them all."""
_FOREIGN = {
    b"%PDF": "a PDF",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop document",
    b"PK\x03\x04": "a ZIP archive",
}
"""What else people take for an image, by its first bytes."""
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF"}
"""ISO/IEC 14496-12 files that hold pictures, by their major brand; the others are films."""


@dataclass(frozen=True)
class _Header:
    """What a file says of itself.

    Attributes:
        format: one of `FORMATS`, or MPO, which is a JPEG with further pictures behind it.
        width, height: in pixels, before it is turned.
        depth: bytes of a channel of a pixel.
        transparent: whether pixels may have an opacity.
        coefficients: bytes that the decoder keeps beside the picture, of a progressive JPEG.
    """

    format: str
    width: int
    height: int
    depth: int
    transparent: bool
    coefficients: int

    def bytes(self, factor: int) -> int:
        """What it takes, decoded with its sides reduced by a factor."""
        channels = 4 if self.transparent else 3
        return self.width * self.height * channels * self.depth // factor**2


def list_images(folder: Path) -> list[Path]:
    """The image files in a folder, by name.

    Raises:
        EdgeMnistError: it holds none, or cannot be looked into.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise EdgeMnistError(f"{folder}: cannot be looked into: {error.strerror or error}") from error
    if not found:
        raise EdgeMnistError(f"{folder}: no images, expected files named {', '.join(sorted(SUFFIXES))}")
    return found


def load(path: Path) -> NDArray[np.uint8]:
    """Read an image file: uint8 (H, W, 3) BGR. Otherwise as `decode`."""
    try:
        with path.open("rb") as file:
            return load_from(file, str(path))
    except OSError as error:
        raise path_error(path, "cannot be read", error) from error


def load_from(file: BinaryIO, name: str) -> NDArray[np.uint8]:
    """As `load`, of an open file, such as standard input; of one that never ends no more than `MOST_FILE` is read."""
    data = file.read(MOST_FILE + 1)
    if len(data) > MOST_FILE:
        raise EdgeMnistError(f"{name}: is larger than {_megabytes(MOST_FILE)}, expected an image")
    return decode(data, name)


def decode(
    data: bytes, name: str, *, most_bytes: int = MOST_BYTES, formats: tuple[str, ...] = FORMATS
) -> NDArray[np.uint8]:
    """An image in memory: JPEG, PNG, WebP, BMP, TIFF, GIF or PNM.

    It is turned as its EXIF says, 16 bits become 8, what is transparent becomes white, of an animation the first
    picture counts.

    Args:
        data: the file.
        name: what errors call it.
        most_bytes: what it may take when it is decoded. A larger JPEG is reduced.
        formats: those of `FORMATS` that are opened.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        EdgeMnistError: it is empty, no image, of another format, damaged or too large.
    """
    if not data:
        raise EdgeMnistError(f"{name}: is empty, expected an image")
    with quiet_stderr():  # Pillow, OpenCV, libpng and libjpeg would each tell what they think of it
        with _limited_memory(_SPARE + 4 * most_bytes):  # Pillow sets memory aside for two frames of a WebP
            header = _header(data, name, formats)
        factors = _REDUCED if header.format in ("JPEG", "MPO") else (1,)
        factor = next((factor for factor in factors if header.bytes(factor) <= most_bytes), None)
        if factor is None or header.coefficients > most_bytes:
            raise EdgeMnistError(
                f"{name}: is {header.width}x{header.height} pixels, which take "
                f"{_megabytes(max(header.bytes(1), header.coefficients))} to decode, at most {_megabytes(most_bytes)} "
                "are given: reduce it, to about 2000 pixels across"
            )
        with _limited_memory(_SPARE + 2 * header.bytes(factor) + header.coefficients):
            picture = _picture(data, header, _REDUCED[factor])
    if picture is None:
        raise EdgeMnistError(
            f"{name}: is no image that can be read: it is damaged, or {header.width}x{header.height} pixels of a kind "
            "that OpenCV does not know"
        )
    return picture


def rotate(picture: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W, 3), turned clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(picture, -degrees // 90))


def _header(data: bytes, name: str, formats: tuple[str, ...]) -> _Header:
    """Read a file's header; nothing is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are judged here, and of odd metadata
            with Image.open(io.BytesIO(data), formats=formats) as image:
                header = _Header(
                    str(image.format), *image.size, _depth(image), _is_transparent(image), _coefficients(image)
                )
                if header.format == "PNG":
                    image.verify()  # libpng believes the length that a chunk claims, of up to 4 GB
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise EdgeMnistError(f"{name}: has more than {most} million pixels: reduce it") from error
    except UnidentifiedImageError as error:
        raise EdgeMnistError(f"{name}: is no image that can be read: {_found(data)}") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise EdgeMnistError(f"{name}: is no image that can be read: it is damaged") from error
    return header


def _depth(image: ImageFile.ImageFile) -> int:
    """Bytes of a channel, by the mode that Pillow shows and, for colour of 16 bits, the one that the file has."""
    if image.mode in ("I", "F"):
        return 2 if image.format == "PNG" else 4  # a PNG's grey of 16 bits, by earlier versions of Pillow
    return 2 if ";16" in f"{image.mode} {image.tile}" else 1


def _is_transparent(image: ImageFile.ImageFile) -> bool:
    return image.mode in ("RGBA", "RGBa", "RGBX", "LA", "La", "PA") or "transparency" in image.info


def _coefficients(image: ImageFile.ImageFile) -> int:
    """Bytes of all coefficients of a progressive JPEG, 2 each; any other is decoded block by block."""
    if "progressive" not in image.info:
        return 0
    layers: list[tuple[int, int, int, int]] = image.layer  # type: ignore[attr-defined]  # a JPEG's sampling factors
    parts = sum(across * down for _, across, down, _ in layers)
    most = max(across for _, across, _, _ in layers) * max(down for _, _, down, _ in layers)
    return 2 * image.width * image.height * parts // most


def _found(data: bytes) -> str:
    """What the file, which is of no known format, seems to be instead."""
    foreign = next((kind for start, kind in _FOREIGN.items() if data.startswith(start)), None)
    if data[4:8] == b"ftyp":
        foreign = _BRANDS.get(data[8:12], "a film")
    if foreign:
        return f"it is {foreign}, {EXPECTED}: export it as JPEG"
    head = data[:512]
    if not any(head):
        return f"it begins with {len(head)} zero bytes, {EXPECTED}"
    return f"it holds text, {EXPECTED}" if head.isascii() and b"\0" not in head else EXPECTED


def _megabytes(count: int) -> str:
    return f"{-(-count // 10**6):,} MB"


@contextmanager
def _limited_memory(more: int) -> Iterator[None]:
    """A context in which the process may take so many bytes more than it has; of a process with threads, any number.

    Only on Linux, which tells how much it has.
    """
    if sys.platform != "linux" or threading.active_count() > 1:  # the others' memory would be limited too
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


def _picture(data: bytes, header: _Header, flag: int) -> NDArray[np.uint8] | None:
    """Decode a file: uint8 (H, W, 3) BGR; None where OpenCV or the memory fails."""
    try:
        if header.transparent:
            layered = _decoded(data, cv2.IMREAD_UNCHANGED)
            if layered is not None and layered.ndim == 3 and layered.shape[2] == 4:
                return _on_white(layered)
            del layered
        picture = _decoded(data, flag)
        if picture is not None and header.depth > 1 and picture.max() < _DEEP:
            return _stretched(data, picture)
        return picture
    except (cv2.error, MemoryError):
        return None


def _decoded(data: bytes, flag: int) -> NDArray[np.uint8] | None:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return None if picture is None or not picture.size else np.asarray(picture)


def _stretched(data: bytes, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture that is dark because its 16 bits hold 10 or 12, by the bits that it uses; any other as it is."""
    deep = _decoded(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if deep is None or deep.dtype != np.uint16:
        return picture
    return np.asarray(deep >> max(int(deep.max()).bit_length() - 8, 0), np.uint8)


def _on_white(layered: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours over white paper: (H, W, 4) BGR and opacity, uint8 or uint16, as uint8 (H, W, 3)."""
    most = np.iinfo(layered.dtype).max if layered.dtype.kind == "u" else 1
    mixed = np.empty((*layered.shape[:2], 3), np.uint8)
    for row, target in zip(layered, mixed, strict=True):  # all at once would take several times as much memory
        colours, opacity = row[:, :3].astype(np.float32) / most, row[:, 3:].astype(np.float32) / most
        target[:] = np.rint(255 * (colours * opacity + 1 - opacity)).clip(0, 255)
    return mixed
