"""Where frames come from: a camera, a file, a folder, a stream, or a drawn scene.

A source is a description; its `frames()` opens it anew each time.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import cv2
import numpy as np

from edge_mnist.demo.sources import cameras, images
from edge_mnist.demo.sources.cameras import CameraSettings, Image, SourceLost, VideoIncomplete
from edge_mnist.system.errors import EdgeMnistError, UsageError

Kind = Literal["v4l2", "picamera", "stream", "sample", "video", "folder", "image"]

STILL_SECONDS = 1.0
"""How long an image is shown, of a folder or alone: a number is read when it has stood for half a second."""
STILL_FPS = 10.0
SAMPLE_FPS = 60.0
"""Most frames a second of the sample: drawing one takes some milliseconds, and faster ones would only come late."""
_SHORTER = (2.0, 0.1)
"""Seconds and part by which a film may end before its container says so: sound may be that much longer."""
_TIMEOUT = 5_000
"""Milliseconds that a stream may take to answer."""


@dataclass(frozen=True)
class Source:
    """Something that gives frames.

    Attributes:
        kind: what it is.
        name: as the user wrote it, without a password.
        place: device, file or address.
        settings: what a camera is asked for.
    """

    kind: Kind
    name: str
    place: str
    settings: CameraSettings = field(default_factory=CameraSettings)

    @property
    def is_live(self) -> bool:
        """Whether frames come when they come, may stop, and may come back; else they are all to be had, in order."""
        return self.kind in ("v4l2", "picamera", "stream")

    def rate(self) -> float:
        """Frames a second that it is meant to be shown at."""
        if self.kind in ("folder", "image"):
            return STILL_FPS
        if self.kind == "video":
            capture = cv2.VideoCapture(self.place, cv2.CAP_FFMPEG)
            rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0.0
            capture.release()
            return rate if 1 <= rate <= 240 else 30.0
        rate = self.settings.fps or 30.0
        return min(rate, SAMPLE_FPS) if self.kind == "sample" else rate

    def parts(self) -> tuple[Source, ...]:
        """What is shown one after the other: the images of a folder, each a source of its own; else this source.

        Raises:
            EdgeMnistError: a folder holds no images any more, or cannot be looked into.
        """
        if self.kind != "folder":
            return (self,)
        return tuple(
            Source("image", str(path), str(path), self.settings) for path in images.list_images(Path(self.place))
        )

    def frames(self) -> Generator[Image, None, None]:
        """Frames, uint8 (H, W, 3) BGR; closing the generator closes the source. A folder's are those of its parts.

        Raises:
            SourceLost: there is none, or it is there no more.
            VideoIncomplete: after the last frame: a film holds fewer than it declares.
            EdgeMnistError: a file holds no pictures.
        """
        if self.kind == "v4l2":
            yield from cameras.v4l2(Path(self.place), self.settings)
        elif self.kind == "picamera":
            yield from cameras.picamera(int(self.place), self.settings)
        elif self.kind == "stream":
            yield from _stream(self.place, self.name)
        elif self.kind == "sample":
            from edge_mnist.demo.sources import scenes

            yield from scenes.sample_frames(int(self.place), self.rate())
        elif self.kind == "video":
            yield from _video(Path(self.place))
        else:
            for part in self.parts():
                yield from _still(Path(part.place))


def find(text: str, settings: CameraSettings) -> Source:
    """The source that a user names.

    Args:
        text: 0, /dev/video2, picamera, picamera1, sample, sample:7, rtsp://..., http://..., or a file or folder.
        settings: what a camera is asked for.

    Raises:
        UsageError: it is nothing of these, or a folder without images.
        EdgeMnistError: no camera of this number is there.
    """
    if re.fullmatch(r"\d+", text) or re.fullmatch(r"/dev/video\d+", text):
        return _camera(text, settings)
    if named := re.fullmatch(r"(picamera|sample):?(\d*)", text):
        kind: Kind = "picamera" if named[1] == "picamera" else "sample"
        return Source(kind, text, named[2] or "0", settings)
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme not in ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp"):
            raise UsageError(f"--camera {text}: expected rtsp:// or http://")
        return Source("stream", f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", text, settings)
    path = Path(text)
    if path.is_dir():
        images.list_images(path)
        return Source("folder", text, text, settings)
    if path.is_file():
        return Source("image" if path.suffix.lower() in images.SUFFIXES else "video", text, text, settings)
    raise UsageError(
        f"--camera {text}: no such file; expected a number, /dev/video0, picamera, sample, a video, an image, a folder "
        "of images, or rtsp:// or http://"
    )


def _camera(text: str, settings: CameraSettings) -> Source:
    """A camera by its number or device; a module on the camera connector through picamera2."""
    if sys.platform != "linux":
        return Source("v4l2", text, text, settings)
    path = Path(f"/dev/video{text}" if text.isdigit() else text)
    found = cameras.list_devices()
    here = next((device for device in found if device.path == path), None)
    if here is None or here.is_csi:
        if cameras.has_picamera2():
            return Source("picamera", text, text if text.isdigit() else "0", settings)
        raise cameras.none_found(text)
    return Source("v4l2", text, str(path), settings)


def _still(path: Path) -> Iterator[Image]:
    """An image as frames of `STILL_SECONDS`."""
    image = images.load(path)
    yield from itertools.repeat(image, round(STILL_SECONDS * STILL_FPS))


def _video(path: Path) -> Iterator[Image]:
    """The frames of a video file."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        good, image = capture.read()
        if not good:
            raise EdgeMnistError(f"{path}: holds no video that can be read")
        declared, rate, count = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS), 0
        while good:
            count += 1
            yield np.asarray(image, np.uint8)
            end = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            good, image = capture.read()
    finally:
        capture.release()
    is_mp4, is_cut, seconds = _read_boxes(path)
    if is_cut and count < declared:
        raise VideoIncomplete(f"{path}: breaks off: {count} of its {declared:.0f} frames can be read")
    if rate > 0:  # an MP4's sound may be longer, and frames that an edit list leaves out are counted
        seconds = min(seconds, declared / rate) if is_mp4 else declared / rate
    if seconds - end > max(_SHORTER[0], _SHORTER[1] * seconds):
        raise VideoIncomplete(
            f"{path}: breaks off or is damaged: its picture ends after {end:.1f} s of {seconds:.1f} s"
        )


def _read_boxes(path: Path) -> tuple[bool, bool, float]:
    """Look at the boxes that a film is made of (ISO/IEC 14496-12, 4.2), as OpenCV does not say what is wrong with it.

    Returns:
        Whether it is an MP4 or MOV, whether it ends within a box, and how many seconds it declares; 0 is not known.
    """
    seconds, at = 0.0, 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while at < size:
            file.seek(at)
            head = file.read(256)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if at == 0 and kind not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
                return False, False, 0.0
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length == 0:  # it reaches to the end
                break
            start = head.find(b"mvhd") + 4
            if kind == b"moov" and 4 < start < 64:  # 8.2.2, with times of 4 bytes each, or in version 1 of 8
                width = 8 if head[start] == 1 else 4
                scale, duration = start + 4 + 2 * width, start + 8 + 2 * width
                ticks = int.from_bytes(head[duration : duration + width], "big")
                seconds = ticks / max(1, int.from_bytes(head[scale : scale + 4], "big"))
                if ticks == (1 << 8 * width) - 1:  # not known
                    seconds = 0.0
            at += max(length, 8)
    return True, at > size, seconds


def _stream(address: str, name: str) -> Iterator[Image]:
    """The frames of a stream; RTSP over TCP, as lost packets smear the picture."""
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    try:
        if not capture.isOpened():
            raise SourceLost(f"{name}: no stream answers")
        good, image = capture.read()
        while good:
            yield np.asarray(image, np.uint8)
            good, image = capture.read()
        raise SourceLost(f"{name}: the stream ended")
    finally:
        capture.release()
