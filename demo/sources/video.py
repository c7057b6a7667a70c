"""Frames of video files and of network streams, decoded by the FFmpeg in OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge_mnist.demo.sources.cameras import DEFAULT_FPS, Image, SourceLost, VideoIncomplete
from edge_mnist.system.errors import EdgeMnistError

_ALLOWED_SECONDS, _ALLOWED_SHARE = 2.0, 0.1
"""How much earlier than the container states the pictures of a complete video may end, in seconds and as a share of the
stated length: the sound may be longer by that much."""
_PLAUSIBLE_FPS = (1, 240)
"""The frames per second that are believed; damaged and raw files declare others."""
_TIMEOUT = 5_000
"""Milliseconds that a stream may take to answer."""


def read_frame_rate(path: str) -> float:
    """Read the frames per second that a video file declares; `cameras.DEFAULT_FPS` if it declares none."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0.0
    capture.release()
    return rate if _PLAUSIBLE_FPS[0] <= rate <= _PLAUSIBLE_FPS[1] else DEFAULT_FPS


def read_video(path: Path) -> Iterator[Image]:
    """Give the frames of a video file, uint8 (H, W, 3) BGR.

    Raises:
        EdgeMnistError: it contains no video.
        VideoIncomplete: after the last frame, if it contains fewer than it declares.
    """
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        is_good, image = capture.read()
        if not is_good:
            raise EdgeMnistError(f"{path}: contains no video that can be read")
        declared, rate, count = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS), 0
        while is_good:
            count += 1
            yield np.asarray(image, np.uint8)
            end = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            is_good, image = capture.read()
    finally:
        capture.release()
    is_mp4, is_truncated, seconds = _read_boxes(path)
    if is_truncated and count < declared:
        raise VideoIncomplete(f"{path}: breaks off: {count} of its {declared:.0f} frames can be read")
    if rate > 0:
        # The sound of an MP4 may be longer than its picture, and its count includes frames that an edit list omits.
        seconds = min(seconds, declared / rate) if is_mp4 else declared / rate
    if seconds - end > max(_ALLOWED_SECONDS, _ALLOWED_SHARE * seconds):
        raise VideoIncomplete(
            f"{path}: breaks off or is damaged: its picture ends after {end:.1f} s of {seconds:.1f} s"
        )


def _read_boxes(path: Path) -> tuple[bool, bool, float]:
    """Walk through the boxes of an MP4 (ISO/IEC 14496-12, 4.2), as OpenCV does not say what is wrong with a video.

    Returns:
        Whether it is an MP4 or MOV, whether it ends within a box, and how many seconds it declares; 0 if it declares
        none.
    """
    seconds, position = 0.0, 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while position < size:
            file.seek(position)
            head = file.read(256)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if position == 0 and kind not in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
                return False, False, 0.0
            if length == 1:  # a length of 8 bytes follows
                length = int.from_bytes(head[8:16], "big")
            if length == 0:  # the box extends to the end of the file
                break
            start = head.find(b"mvhd") + 4
            if kind == b"moov" and 4 < start < 64:  # 8.2.2: times have 4 bytes each, in version 1 they have 8
                width = 8 if head[start] == 1 else 4
                scale, duration = start + 4 + 2 * width, start + 8 + 2 * width
                ticks = int.from_bytes(head[duration : duration + width], "big")
                seconds = ticks / max(1, int.from_bytes(head[scale : scale + 4], "big"))
                if ticks == (1 << 8 * width) - 1:  # all bits are set where the duration is not known
                    seconds = 0.0
            position += max(length, 8)
    return True, position > size, seconds


def read_stream(address: str, name: str) -> Iterator[Image]:
    """Give the frames of a network stream, uint8 (H, W, 3) BGR, until the generator is closed.

    Args:
        address: its address, which may contain a password.
        name: its name in error messages.

    Raises:
        SourceLost: it does not answer, or has ended.
    """
    # RTSP is read over TCP, as packets that are lost with UDP smear the picture.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
    try:
        if not capture.isOpened():
            raise SourceLost(f"{name}: no stream answers")
        is_good, image = capture.read()
        while is_good:
            yield np.asarray(image, np.uint8)
            is_good, image = capture.read()
        raise SourceLost(f"{name}: the stream ended")
    finally:
        capture.release()
