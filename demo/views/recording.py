"""Records pictures as an MP4 that can be played up to its last second whatever ends the program, even a power cut.

The VideoWriter of OpenCV needs a constant frame rate, writes the index of an MP4 only when it is closed, and does not
report a full disk. This module writes a fragmented MP4 (ISO/IEC 14496-12, 8.8) of JPEG pictures: each fragment of about
a second is complete in itself, and each picture is shown for the time until the next one came.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from edge_mnist.demo.sources.cameras import Image
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import path_error

_JPEG_QUALITY = 85
"""The quality of the JPEG pictures, 0 to 100: about 36 KB for 640x480 pixels."""
_TIMESCALE = 1000
"""Ticks per second of the times in the file."""
_FRAGMENT_SECONDS = 1.0
"""The least duration of a fragment: what is lost at most if the program is killed."""
_LAST_TICKS = 33
"""The duration of the last picture, whose end is not known: a frame at 30 frames per second."""
_JPEG = 0x6C
"""The ObjectTypeIndication of JPEG (ISO/IEC 10918-1), as registered at mp4ra.org."""


class Recording:
    """A video file that pictures are appended to."""

    def __init__(self, path: Path) -> None:
        """Create the file; if there is one of this name it is kept, and the new name gets a number.

        Raises:
            UsageError: the name does not end in .mp4, or its folder does not exist.
            EdgeMnistError: the file cannot be written.
        """
        if path.suffix.lower() != ".mp4":
            raise UsageError(f"--record {path}: recordings are MP4 files: name it {path.with_suffix('.mp4').name}")
        if not path.parent.exists():
            raise UsageError(f"--record {path}: there is no folder {path.parent}: create it first")
        self.path = _find_free_path(path)
        self._size: tuple[int, int] | None = None
        self._pending: list[tuple[bytes, float]] = []
        self._start = 0.0
        self._fragments = 0
        try:
            self._file: BinaryIO = self.path.open("xb", buffering=0)
        except OSError as error:
            raise _write_error(self.path, error) from error

    def add(self, image: Image, time: float) -> None:
        """Append a picture.

        Args:
            image: uint8 (H, W, 3), BGR; it is resized to the size of the first picture.
            time: when it is shown, in seconds; later than the picture before.

        Raises:
            EdgeMnistError: the disk is full. What was written can be played.
        """
        height, width = image.shape[:2]
        if self._size is None:
            self._size, self._start = (width, height), time
            self._write(_header(width, height))
        if (width, height) != self._size:
            image = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
        if self._pending and time - self._pending[0][1] >= _FRAGMENT_SECONDS:
            self._flush(time)
        self._pending.append((jpeg, time))

    def close(self) -> bool:
        """Complete the file, or delete it if it has no pictures.

        Returns:
            Whether there is a file.

        Raises:
            EdgeMnistError: the disk is full. What was written can be played.
        """
        try:
            if self._pending:
                self._flush(self._pending[-1][1] + _LAST_TICKS / _TIMESCALE)
        finally:
            self._file.close()
            if self._fragments == 0:
                self.path.unlink(missing_ok=True)
        return self._fragments > 0

    def _flush(self, end: float) -> None:
        """Write the pictures since the last fragment as one that lasts until `end`, in seconds."""
        ticks = [round((time - self._start) * _TIMESCALE) for _, time in self._pending]
        ticks.append(max(round((end - self._start) * _TIMESCALE), ticks[-1] + 1))
        pictures = [jpeg for jpeg, _ in self._pending]
        self._pending = []
        self._write(_fragment(self._fragments + 1, ticks, pictures))
        self._fragments += 1

    def _write(self, data: bytes) -> None:
        position = self._file.tell()
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            with suppress(OSError):  # the rest of a fragment is no harm to players
                self._file.truncate(position)
            raise _write_error(self.path, error) from error


def _find_free_path(path: Path) -> Path:
    """Return the path, or if there is such a file, one with a number in its name."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _write_error(path: Path, error: OSError) -> EdgeMnistError:
    return path_error(f"--record {path}", "cannot be written", error)


def _box(kind: bytes, *parts: bytes) -> bytes:
    """Build a box (ISO/IEC 14496-12, 4.2)."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """Build a FullBox, which begins with a version and flags (ISO/IEC 14496-12, 4.2)."""
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _header(width: int, height: int) -> bytes:
    """Build ftyp and moov: one video track, whose samples are all in the fragments."""
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    movie = _full_box(
        b"mvhd", 0, 0, struct.pack(">4IIH10x", 0, 0, _TIMESCALE, 0, 0x10000, 0x100), matrix, bytes(24), b"\0\0\0\2"
    )
    place = struct.pack(">5I8x4H", 0, 0, 1, 0, 0, 0, 0, 0, 0)
    track = _full_box(b"tkhd", 0, 3, place, matrix, struct.pack(">2I", width << 16, height << 16))
    media = _full_box(b"mdhd", 0, 0, struct.pack(">4I2H", 0, 0, _TIMESCALE, 0, 0x55C4, 0))  # language "und"
    handler = _full_box(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"edge-mnist\0")
    # ISO/IEC 14496-1, 7.2.6: ES_Descriptor (3) > DecoderConfigDescriptor (4), SLConfigDescriptor (6).
    decoder = struct.pack(">BBBB3x2I", 4, 13, _JPEG, 4 << 2 | 1, 0, 0)
    descriptor = struct.pack(">BBHB", 3, 3 + len(decoder) + 3, 1, 0) + decoder + b"\6\1\2"
    entry = _box(
        b"mp4v",
        struct.pack(">6xH16x2H2I4xH32xHh", 1, width, height, 0x480000, 0x480000, 1, 24, -1),
        _full_box(b"esds", 0, 0, descriptor),
    )
    tables = [_full_box(b"stsd", 0, 0, struct.pack(">I", 1), entry)]
    tables += [_full_box(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc")]
    tables += [_full_box(b"stsz", 0, 0, bytes(8)), _full_box(b"stco", 0, 0, bytes(4))]
    data = _box(b"dinf", _full_box(b"dref", 0, 0, struct.pack(">I", 1), _full_box(b"url ", 0, 1)))
    minf = _box(b"minf", _full_box(b"vmhd", 0, 1, bytes(8)), data, _box(b"stbl", *tables))
    trak = _box(b"trak", track, _box(b"mdia", media, handler, minf))
    extends = _box(b"mvex", _full_box(b"trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0)))
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41") + _box(b"moov", movie, trak, extends)


def _fragment(sequence: int, ticks: list[int], pictures: list[bytes]) -> bytes:
    """Build moof and mdat: each picture lasts from its entry in `ticks` to the next; the last entry is the end."""
    samples = b"".join(
        struct.pack(">2I", end - begin, len(picture))
        for begin, end, picture in zip(ticks, ticks[1:], pictures, strict=False)
    )
    base = _full_box(b"tfhd", 0, 0x20000, struct.pack(">I", 1)), _full_box(b"tfdt", 1, 0, struct.pack(">Q", ticks[0]))

    def moof(offset: int) -> bytes:
        # flags 0x301: the data offset, then the duration and the size of each sample
        run = _full_box(b"trun", 0, 0x301, struct.pack(">Ii", len(pictures), offset), samples)
        return _box(b"moof", _full_box(b"mfhd", 0, 0, struct.pack(">I", sequence)), _box(b"traf", *base, run))

    return moof(len(moof(0)) + 8) + _box(b"mdat", *pictures)
