"""Records pictures as MP4 that is playable up to its last second whatever ends the program, a power cut too.

OpenCV's VideoWriter needs an even rate, writes the index of an MP4 only when it is closed, and says nothing of a full
disk. This writes a fragmented MP4 (ISO/IEC 14496-12, 8.8) of JPEG pictures: each fragment, about a second, is complete
in itself, and each picture has the duration that it had.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from edge_mnist.demo.sources.cameras import Image
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import path_error

QUALITY = 85
_TIMESCALE = 1000
_FRAGMENT = 1.0
"""Seconds."""
_LAST = 33
"""Milliseconds of the last picture, whose end is not known."""
_JPEG = 0x6C
"""ObjectTypeIndication of ISO/IEC 10918-1, see mp4ra.org."""


class Recording:
    """A video file that grows."""

    def __init__(self, path: Path) -> None:
        """Begin a file; one that is there already is kept, and the new one gets a number.

        Raises:
            UsageError: it is not named as an MP4, or there is no such folder.
            EdgeMnistError: it cannot be written.
        """
        if path.suffix.lower() != ".mp4":
            raise UsageError(f"--record {path}: is recorded as MP4: name it {path.with_suffix('.mp4').name}")
        if not path.parent.exists():
            raise UsageError(f"--record {path}: there is no folder {path.parent}: make it first")
        self.path = _unused(path)
        self._size: tuple[int, int] | None = None
        self._pending: list[tuple[bytes, float]] = []
        self._start = 0.0
        self._sequence = 0  # of the last fragment
        try:
            self._file: BinaryIO = self.path.open("xb", buffering=0)
        except OSError as error:
            raise _failed(self.path, error) from error

    def add(self, image: Image, time: float) -> None:
        """Add a picture, uint8 (H, W, 3) BGR; all get the size of the first.

        Args:
            image: the picture.
            time: when it begins, in seconds; greater than that of the one before.

        Raises:
            EdgeMnistError: the disk is full. What was written is playable.
        """
        height, width = image.shape[:2]
        if self._size is None:
            self._size, self._start = (width, height), time
            self._write(_header(width, height))
        if (width, height) != self._size:
            image = np.asarray(cv2.resize(image, self._size, interpolation=cv2.INTER_AREA), np.uint8)
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        if self._pending and time - self._pending[0][1] >= _FRAGMENT:
            self._flush(time)
        self._pending.append((jpeg, time))

    def close(self) -> bool:
        """End the file; one without pictures is deleted.

        Returns:
            Whether there is a file.

        Raises:
            EdgeMnistError: the disk is full. What was written is playable.
        """
        try:
            if self._pending:
                self._flush(self._pending[-1][1] + _LAST / _TIMESCALE)
        finally:
            self._file.close()
            if self._sequence == 0:
                self.path.unlink(missing_ok=True)
        return self._sequence > 0

    def _flush(self, end: float) -> None:
        """Write what is pending as a fragment that lasts until `end`."""
        ticks = [round((time - self._start) * _TIMESCALE) for _, time in self._pending]
        ticks.append(max(round((end - self._start) * _TIMESCALE), ticks[-1] + 1))
        pictures = [jpeg for jpeg, _ in self._pending]
        self._pending = []
        self._write(_fragment(self._sequence + 1, ticks, pictures))
        self._sequence += 1

    def _write(self, data: bytes) -> None:
        position = self._file.tell()
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            self._file.truncate(position)
            raise _failed(self.path, error) from error


def _unused(path: Path) -> Path:
    """The path, or if there is such a file, one with a number in its name."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_stem(f"{path.stem}-{number}")
    return found


def _failed(path: Path, error: OSError) -> EdgeMnistError:
    return path_error(f"--record {path}", "cannot be written", error)


def _box(kind: bytes, *parts: bytes) -> bytes:
    """A box of ISO/IEC 14496-12, 4.2."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    """A box with a version and flags."""
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def _header(width: int, height: int) -> bytes:
    """Write ftyp and moov: one video track without samples of its own."""
    matrix = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    movie = _full(
        b"mvhd", 0, 0, struct.pack(">4IIH10x", 0, 0, _TIMESCALE, 0, 0x10000, 0x100), matrix, bytes(24), b"\0\0\0\2"
    )
    place = struct.pack(">5I8x4H", 0, 0, 1, 0, 0, 0, 0, 0, 0)
    track = _full(b"tkhd", 0, 3, place, matrix, struct.pack(">2I", width << 16, height << 16))
    media = _full(b"mdhd", 0, 0, struct.pack(">4I2H", 0, 0, _TIMESCALE, 0, 0x55C4, 0))  # language "und"
    handler = _full(b"hdlr", 0, 0, bytes(4), b"vide", bytes(12), b"edge-mnist\0")
    # ISO/IEC 14496-1, 7.2.6: ES_Descriptor (3) > DecoderConfigDescriptor (4), SLConfigDescriptor (6).
    decoder = struct.pack(">BBBB3x2I", 4, 13, _JPEG, 4 << 2 | 1, 0, 0)
    descriptor = struct.pack(">BBHB", 3, 3 + len(decoder) + 3, 1, 0) + decoder + b"\6\1\2"
    entry = _box(
        b"mp4v",
        struct.pack(">6xH16x2H2I4xH32xHh", 1, width, height, 0x480000, 0x480000, 1, 24, -1),
        _full(b"esds", 0, 0, descriptor),
    )
    tables = [_full(b"stsd", 0, 0, struct.pack(">I", 1), entry)]
    tables += [_full(kind, 0, 0, bytes(4)) for kind in (b"stts", b"stsc")]
    tables += [_full(b"stsz", 0, 0, bytes(8)), _full(b"stco", 0, 0, bytes(4))]
    data = _box(b"dinf", _full(b"dref", 0, 0, struct.pack(">I", 1), _full(b"url ", 0, 1)))
    minf = _box(b"minf", _full(b"vmhd", 0, 1, bytes(8)), data, _box(b"stbl", *tables))
    trak = _box(b"trak", track, _box(b"mdia", media, handler, minf))
    extends = _box(b"mvex", _full(b"trex", 0, 0, struct.pack(">5I", 1, 1, 0, 0, 0)))
    return _box(b"ftyp", b"iso5", struct.pack(">I", 512), b"iso5iso6mp41") + _box(b"moov", movie, trak, extends)


def _fragment(sequence: int, ticks: list[int], pictures: list[bytes]) -> bytes:
    """Write moof and mdat: pictures from ticks[0] on; ticks has one more, the end."""
    samples = b"".join(
        struct.pack(">2I", end - begin, len(picture))
        for begin, end, picture in zip(ticks, ticks[1:], pictures, strict=False)
    )
    base = _full(b"tfhd", 0, 0x20000, struct.pack(">I", 1)), _full(b"tfdt", 1, 0, struct.pack(">Q", ticks[0]))

    def moof(offset: int) -> bytes:
        # 0x301: data offset, then duration and size of each sample
        run = _full(b"trun", 0, 0x301, struct.pack(">Ii", len(pictures), offset), samples)
        return _box(b"moof", _full(b"mfhd", 0, 0, struct.pack(">I", sequence)), _box(b"traf", *base, run))

    return moof(len(moof(0)) + 8) + _box(b"mdat", *pictures)
