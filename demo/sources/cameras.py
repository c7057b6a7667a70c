"""Cameras: which there are, and frames from one, through V4L2 or picamera2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.system.errors import EdgeMnistError

Image = NDArray[np.uint8]

CSI_DRIVERS = ("unicam", "rp1-cfe", "bcm2835-isp", "pispbe")
"""Kernel drivers of the Raspberry Pi's camera connector: through V4L2 they give raw sensor data or nothing at all."""

# linux/videodev2.h
_VIDIOC_QUERYCAP = 0x80685600  # _IOR('V', 0, struct v4l2_capability), which has 104 bytes
_CAPTURE, _M2M, _M2M_MPLANE, _DEVICE_CAPS = 0x1, 0x8000, 0x4000, 0x80000000


class SourceLost(EdgeMnistError):
    """A source that gave frames, or should, gives none now; it may come back."""


class VideoIncomplete(EdgeMnistError):
    """A film ended before its end; its frames until then were given."""


@dataclass(frozen=True)
class CameraSettings:
    """What a camera is asked for; it may grant something else.

    Attributes:
        width, height: of frames, in pixels.
        fps: frames a second; 0 asks for 30.
    """

    width: int = 640
    height: int = 480
    fps: float = 30.0


@dataclass(frozen=True)
class Device:
    """A video device.

    Attributes:
        path: such as /dev/video0.
        name: as the driver calls it.
        driver: such as uvcvideo.
    """

    path: Path
    name: str
    driver: str

    @property
    def is_csi(self) -> bool:
        """Whether it is a module on the Raspberry Pi's camera connector, which needs picamera2."""
        return self.driver in CSI_DRIVERS


def list_devices(folder: Path = Path("/dev")) -> list[Device]:
    """The video devices that frames can be captured from, in the order of their numbers."""
    paths = [path for path in folder.glob("video*") if path.name[5:].isdigit()]
    found = (_query(path) for path in sorted(paths, key=lambda path: int(path.name[5:])))
    return [device for device in found if device is not None]


def describe_capability(path: Path, answer: bytes) -> Device | None:
    """What a device's answer to VIDIOC_QUERYCAP, 104 bytes, says; None if nothing can be captured from it."""
    capabilities = int.from_bytes(answer[84:88], sys.byteorder)
    if capabilities & _DEVICE_CAPS:  # of the whole device; those of this node follow
        capabilities = int.from_bytes(answer[88:92], sys.byteorder)
    if not capabilities & _CAPTURE or capabilities & (_M2M | _M2M_MPLANE):
        return None
    driver, name = (part.split(b"\0")[0].decode("utf-8", "replace") for part in (answer[:16], answer[16:48]))
    return Device(path, name, driver)


def _query(path: Path) -> Device | None:
    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return Device(path, f"cannot be opened: {error.strerror}", "")
    import fcntl  # Windows has none

    try:
        return describe_capability(path, fcntl.ioctl(handle, _VIDIOC_QUERYCAP, bytes(104)))
    except OSError:
        return None
    finally:
        os.close(handle)


def has_picamera2() -> bool:
    """Whether picamera2 can be imported and sees a camera."""
    try:
        from picamera2 import Picamera2

        return bool(Picamera2.global_camera_info())
    except Exception:  # built for another NumPy it raises ValueError, without libcamera ImportError
        return False


def none_found(asked: str, folder: Path = Path("/dev")) -> EdgeMnistError:
    """The error that no camera answers: what was found, and what to try."""
    found = list_devices(folder)
    listed = ", ".join(f"{device.path} ({device.name})" for device in found) or "none"
    advice = "plug one in, or --camera sample shows the demo without one; `edge-mnist doctor` looks closer"
    if any(device.is_csi for device in found):
        advice = "the camera module needs picamera2: apt install python3-picamera2, and a venv --system-site-packages"
    elif any(device.name.endswith("Permission denied") for device in found):
        advice = "you may not open it: sudo usermod -aG video $USER, then log in again"
    elif found:
        advice = f"another program may hold it; or try --camera {found[0].path}"
    return EdgeMnistError(f"--camera {asked}: no picture; video devices found: {listed}: {advice}")


def v4l2(path: Path, settings: CameraSettings) -> Iterator[Image]:
    """Frames of a camera, uint8 (H, W, 3) BGR, until the generator is closed.

    Elsewhere than on Linux the path is the camera's number, and OpenCV chooses the interface.

    MJPG is asked for first: many a USB camera gives 30 frames a second at 640x480 only compressed. Where MJPG gives no
    frame, the camera's own format is taken.

    Raises:
        SourceLost: it cannot be opened, or gives no more frames.
    """
    for compressed in (True, False):
        capture = _opened(path)
        try:
            if not capture.isOpened():
                raise SourceLost(f"{path}: cannot be opened")
            if compressed:
                capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height)
            capture.set(cv2.CAP_PROP_FPS, settings.fps or 30.0)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)
            # A module on the camera connector opens and then gives nothing: only a frame proves a camera.
            good, image = capture.read()
            if not good and compressed:
                continue
            while good:
                yield np.asarray(image, np.uint8)
                good, image = capture.read()
            raise SourceLost(f"{path}: gives no more frames: unplugged?")
        finally:
            capture.release()


def _opened(path: Path) -> cv2.VideoCapture:
    if sys.platform == "linux":
        return cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    return cv2.VideoCapture(int(str(path)))


def granted(capture: cv2.VideoCapture) -> str:
    """What a camera granted, such as `640x480 MJPG at 30 frames/s`."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    name = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ")
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    return f"{width}x{height} {name} at {capture.get(cv2.CAP_PROP_FPS):g} frames/s"


def probe(device: Device, settings: CameraSettings, frames: int = 5) -> str:
    """Open a camera and say what it granted and how fast the frames came.

    Raises:
        SourceLost: it gives none.
    """
    capture = _opened(device.path)
    try:
        if not capture.isOpened():
            raise SourceLost(f"{device.path}: cannot be opened")
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height)
        start = time.monotonic()
        for _ in range(frames):
            if not capture.read()[0]:
                raise SourceLost(f"{device.path}: opens, but gives no frame")
        return f"{granted(capture)}, {frames} frames in {time.monotonic() - start:.1f} s"
    finally:
        capture.release()


def picamera(index: int, settings: CameraSettings) -> Iterator[Image]:
    """Frames of a module on the Raspberry Pi's camera connector, uint8 (H, W, 3) BGR, until the generator is closed.

    Raises:
        EdgeMnistError: picamera2 is not installed, or is built for another NumPy.
        SourceLost: there is no such camera, or it is in use.
    """
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise EdgeMnistError(
            "picamera2 is not installed here: apt install python3-picamera2, and python3 -m venv --system-site-packages"
        ) from error
    except ValueError as error:  # "numpy.dtype size changed": Debian's was built for NumPy 1
        raise EdgeMnistError(f"picamera2 does not load: {error}: pip install 'numpy<2'") from error
    camera: Any = None
    try:
        camera = Picamera2(index)
        # Named for the order of bytes in a word, "RGB888" is B, G, R in memory.
        main = {"size": (settings.width, settings.height), "format": "RGB888"}
        camera.configure(camera.create_video_configuration(main=main, controls={"FrameRate": settings.fps or 30.0}))
        camera.start()
        while True:
            yield np.asarray(camera.capture_array("main"), np.uint8)
    except (RuntimeError, IndexError, OSError) as error:
        raise SourceLost(f"camera module {index}: {error}") from error
    finally:
        if camera is not None:
            camera.close()
