"""Image files as frames: whatever a camera, a phone, a scanner or a drawing program has written.

OpenCV decodes; a Raspberry Pi has it anyway. Sizes are read from the headers before anything is decoded, so that no
file takes the memory that it claims to need.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.errors import EdgeMnistError, UsageError
from edge_mnist.files import read_bytes
from edge_mnist.quiet import quiet_stderr

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"))
"""Of the files that a folder is searched for, in lower case."""
MOST_PIXELS = 40_000_000
"""A larger picture is refused; a JPEG is reduced while it is decoded."""
MOST_JPEG_PIXELS = 64 * MOST_PIXELS
REDUCED = ((2, cv2.IMREAD_REDUCED_COLOR_2), (4, cv2.IMREAD_REDUCED_COLOR_4), (8, cv2.IMREAD_REDUCED_COLOR_8))
DEEP = 64
"""A picture of 16 bits whose brightest pixel is darker, as one of 8, does not use them all."""


def find(folder: Path) -> list[Path]:
    """The image files in a folder, by name.

    Raises:
        UsageError: it holds none.
        EdgeMnistError: it cannot be looked into.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise EdgeMnistError(f"{folder}: cannot be looked into: {error.strerror or error}") from error
    if not found:
        raise UsageError(f"{folder}: no images, expected files named {', '.join(sorted(SUFFIXES))}")
    return found


def load(path: Path) -> NDArray[np.uint8]:
    """Read an image file: uint8 (H, W, 3) BGR. Otherwise as `decode`."""
    return decode(read_bytes(path), str(path))


def decode(data: bytes, name: str) -> NDArray[np.uint8]:
    """An image in memory: JPEG, PNG, WebP, BMP, TIFF, or what else OpenCV knows.

    It is turned as its EXIF says, 16 bits become 8, what is transparent becomes white, of an animation the first
    picture counts.

    Args:
        data: the file.
        name: what errors call it.

    Returns:
        uint8 (H, W, 3), BGR.

    Raises:
        EdgeMnistError: it is empty, no image, damaged or too large.
    """
    if not data:
        raise EdgeMnistError(f"{name}: is empty, expected an image")
    width, height = size = _size(data)
    is_jpeg = data[:2] == b"\xff\xd8"
    if width * height > (MOST_JPEG_PIXELS if is_jpeg else MOST_PIXELS):
        raise EdgeMnistError(
            f"{name}: is {width}x{height} pixels, at most {MOST_PIXELS // 10**6} million are read: reduce it, to about "
            "2000 pixels across"
        )
    flag = cv2.IMREAD_COLOR
    for factor, reduced in REDUCED:
        if width * height // (factor // 2) ** 2 > MOST_PIXELS:
            flag = reduced
    picture = _decoded(data, flag)
    if picture is None:
        raise EdgeMnistError(f"{name}: is no image that can be read{_found(data, size)}")
    if is_jpeg or picture.ndim != 3:
        return picture
    if picture.max() < DEEP:
        picture = _stretched(data, picture)
    layered = _decoded(data, cv2.IMREAD_UNCHANGED)
    if layered is None or layered.ndim != 3 or layered.shape[2] != 4:
        return picture
    return _on_white(layered)


def turned(picture: NDArray[np.uint8], degrees: int) -> NDArray[np.uint8]:
    """A picture, uint8 (H, W, 3), turned clockwise by 0, 90, 180 or 270 degrees."""
    return np.ascontiguousarray(np.rot90(picture, -degrees // 90))


def _decoded(data: bytes, flag: int) -> NDArray[np.uint8] | None:
    try:
        with quiet_stderr():  # OpenCV, libpng and libjpeg would each tell what they think of it
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except (cv2.error, MemoryError):
        return None
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
    colours, opacity = layered[..., :3].astype(np.float32) / most, layered[..., 3:].astype(np.float32) / most
    mixed: NDArray[np.uint8] = np.rint(255 * (colours * opacity + 1 - opacity)).clip(0, 255).astype(np.uint8)
    return mixed


def _found(data: bytes, size: tuple[int, int]) -> str:
    """What the file seems to be instead, for an error."""
    if size != (0, 0):
        return f": it is damaged, or {size[0]}x{size[1]} pixels of a kind that OpenCV does not know"
    if data[4:8] == b"ftyp":
        return ": HEIC, AVIF or a film; expected JPEG, PNG, WebP, BMP or TIFF: export it as JPEG"
    try:
        data[:512].decode("ascii")
        return ": it holds text"
    except UnicodeDecodeError:
        return ": expected JPEG, PNG, WebP, BMP or TIFF"


def _size(data: bytes) -> tuple[int, int]:
    """Width and height that the header states; 0, 0 where it states none."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", data[16:24])  # PNG 3rd edition, 11.2.1
        elif data[:2] == b"BM":
            width, height = struct.unpack("<ii", data[18:26])  # BITMAPINFOHEADER
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            width, height = _webp_size(data)
        elif data[:2] == b"\xff\xd8":
            width, height = _jpeg_size(data)
        elif data[:4] in (b"II*\0", b"MM\0*"):
            width, height = _tiff_size(data)
        else:
            return 0, 0
    except (struct.error, IndexError):
        return 0, 0
    return abs(width), abs(height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """From the first frame header (ITU-T T.81, B.2.2)."""
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return 0, 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """From the first chunk (RFC 9649, 2.5 to 2.7)."""
    kind, content = data[12:16], data[20:]
    if kind == b"VP8X":
        return 1 + int.from_bytes(content[4:7], "little"), 1 + int.from_bytes(content[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", content[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    """From the first directory's ImageWidth (256) and ImageLength (257) (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    sides = {256: 0, 257: 0}
    for number in range(count):
        entry = data[start + 2 + 12 * number : start + 14 + 12 * number]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        if tag in sides:
            (sides[tag],) = struct.unpack(order + ("H" if kind == 3 else "I"), entry[8 : 10 if kind == 3 else 12])
    return sides[256], sides[257]
