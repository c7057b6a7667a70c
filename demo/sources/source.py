"""What `--camera` names: a camera, a video, images, a stream, or the drawn sample; `parse_source` reads the option.

A `Source` only describes where frames come from; `open_frames` opens it, each time anew.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal
from urllib.parse import urlsplit

from edge_mnist.demo.sources import cameras, video
from edge_mnist.demo.sources.cameras import CameraSettings, Image
from edge_mnist.system.errors import UsageError, explain_missing_packages

SourceKind = Literal["v4l2", "picamera", "stream", "sample", "video", "folder", "image"]

STILL_SECONDS = 1.0
"""Seconds that an image is shown, long enough for a number to be reported, see `tracking.STEADY_SECONDS`."""
STILL_FPS = 10.0
"""Frames per second while an image is shown, of which all are the same: enough to count as steady."""
SAMPLE_FPS = 60.0
"""The most frames per second of the sample: to draw one takes some milliseconds, so that more would only come late."""
_STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp")


@dataclass(frozen=True)
class Source:
    """Something that gives frames.

    Attributes:
        kind: what it is.
        name: what the user wrote, without a password.
        place: the device, file, folder or address; the index of a camera module; the seed of the sample.
        settings: what a camera is asked for.
    """

    kind: SourceKind
    name: str
    place: str
    settings: CameraSettings = field(default_factory=CameraSettings)

    @property
    def is_live(self) -> bool:
        """Whether frames come at their own times, may stop, and may come back; otherwise each of them can be read."""
        return self.kind in ("v4l2", "picamera", "stream")

    def find_rate(self) -> float:
        """Find the frames per second that the source is meant to be shown at."""
        if self.kind in ("folder", "image"):
            return STILL_FPS
        if self.kind == "video":
            return video.read_frame_rate(self.place)
        rate = self.settings.fps or cameras.DEFAULT_FPS
        return min(rate, SAMPLE_FPS) if self.kind == "sample" else rate

    def list_parts(self) -> tuple[Source, ...]:
        """List what is shown one after the other: each image of a folder, otherwise the source itself.

        Raises:
            EdgeMnistError: a folder no longer contains images, or cannot be read.
        """
        if self.kind != "folder":
            return (self,)
        paths = _import_images().list_images(Path(self.place))
        return tuple(Source("image", str(path), str(path), self.settings) for path in paths)

    def open_frames(self) -> Generator[Image, None, None]:
        """Open the source and give its frames; closing the generator closes the source.

        Yields:
            Frames, uint8 (H, W, 3), BGR.

        Raises:
            SourceLost: the camera or stream does not answer, or no longer does.
            VideoIncomplete: after the last frame, if a video contains fewer than it declares.
            EdgeMnistError: a file contains no pictures.
        """
        if self.kind == "v4l2":
            yield from cameras.read_v4l2(Path(self.place), self.settings)
        elif self.kind == "picamera":
            yield from cameras.read_picamera(int(self.place), self.settings)
        elif self.kind == "stream":
            yield from video.read_stream(self.place, self.name)
        elif self.kind == "sample":
            from edge_mnist.demo.sources import scenes

            yield from scenes.sample_frames(int(self.place), self.find_rate())
        elif self.kind == "video":
            yield from video.read_video(Path(self.place))
        else:
            for part in self.list_parts():
                yield from _repeat_image(Path(part.place))


def parse_source(text: str, settings: CameraSettings) -> Source:
    """Find the source that a user names with `--camera`.

    Args:
        text: 0, /dev/video2, picamera, picamera1, sample, sample:7, rtsp://..., http://..., or a file or folder.
        settings: what a camera is asked for.

    Raises:
        UsageError: the text is none of these.
        EdgeMnistError: there is no such camera, or a folder contains no images.
    """
    if re.fullmatch(r"\d+", text) or re.fullmatch(r"/dev/video\d+", text):
        return _find_camera(text, settings)
    if match := re.fullmatch(r"(picamera|sample):?(\d*)", text):
        kind: SourceKind = "picamera" if match[1] == "picamera" else "sample"
        return Source(kind, text, match[2] or "0", settings)
    if "://" in text:
        scheme = text.partition("://")[0]  # an address may hold a password, so that errors do not repeat it
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise UsageError(f"--camera {scheme}://...: the address is damaged: {error}") from error
        if parts.scheme not in _STREAM_SCHEMES:
            raise UsageError(f"--camera {scheme}://...: expected rtsp:// or http://")
        return Source("stream", f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", text, settings)
    path = Path(text)
    if path.is_dir():
        _import_images().list_images(path)
        return Source("folder", text, text, settings)
    if path.is_file():
        return Source("image" if path.suffix.lower() in _import_images().SUFFIXES else "video", text, text, settings)
    raise UsageError(
        f"--camera {text}: there is no such file or folder: expected a picture, a folder of pictures, a video, a "
        "number, /dev/video0, picamera, sample, or rtsp:// or http://"
    )


def _find_camera(text: str, settings: CameraSettings) -> Source:
    """Find a camera by its number or device; one on the camera connector of a Raspberry Pi is read by picamera2."""
    if sys.platform != "linux":
        return Source("v4l2", text, text, settings)
    path = Path(f"/dev/video{text}" if text.isdigit() else text)
    device = next((device for device in cameras.list_devices() if device.path == path), None)
    if device is not None and not device.is_csi:
        return Source("v4l2", text, str(path), settings)
    if cameras.has_picamera2():
        return Source("picamera", text, text if text.isdigit() else "0", settings)
    raise cameras.no_camera_error(text)


def _repeat_image(path: Path) -> Iterator[Image]:
    """Give an image as the frames of `STILL_SECONDS`."""
    yield from itertools.repeat(_import_images().load(path), round(STILL_SECONDS * STILL_FPS))


def _import_images() -> ModuleType:
    """Import the module that opens image files; with Pillow it takes 4 MB, which a camera's demo can do without."""
    with explain_missing_packages():
        from edge_mnist.demo.sources import images
    return images
