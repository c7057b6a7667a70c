"""Cameras: lists them and reads their frames, through V4L2 or, on a Raspberry Pi, picamera2."""

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
"""A picture, uint8 (H, W, 3) with the colours blue, green and red, or (H, W) grey."""

DEFAULT_FPS = 30.0
"""Frames per second that a camera is asked for, and that a video is shown at, unless something else is known."""
CSI_DRIVERS = ("unicam", "rp1-cfe", "bcm2835-isp", "pispbe")
"""The kernel drivers of the Raspberry Pi's camera connector. Through V4L2 they give raw sensor data, or nothing."""
_BUFFERS = 2
"""Frames that V4L2 may keep in its queue: few, so that the frame that is read next is never old."""

_VIDIOC_QUERYCAP = 0x80685600
"""linux/videodev2.h: _IOR('V', 0, struct v4l2_capability); the structure has 104 bytes."""
_CAPTURE, _M2M, _M2M_MPLANE, _DEVICE_CAPS = 0x1, 0x8000, 0x4000, 0x80000000
"""linux/videodev2.h: the bits V4L2_CAP_VIDEO_CAPTURE, _VIDEO_M2M, _VIDEO_M2M_MPLANE and _DEVICE_CAPS."""


class SourceLost(EdgeMnistError):
    """A live source gives no frames, or no more; it may come back."""


class VideoIncomplete(EdgeMnistError):
    """A video ended before its declared end; its frames until there were given."""


@dataclass(frozen=True)
class CameraSettings:
    """What a camera is asked for; it may grant something else.

    Attributes:
        width, height: the size of frames in pixels.
        fps: frames per second; 0 asks for `DEFAULT_FPS`.
    """

    width: int = 640
    height: int = 480
    fps: float = DEFAULT_FPS


@dataclass(frozen=True)
class Device:
    """A video device.

    Attributes:
        path: such as /dev/video0.
        name: what the driver calls it.
        driver: such as uvcvideo.
    """

    path: Path
    name: str
    driver: str

    @property
    def is_csi(self) -> bool:
        """Whether it is a module on the Raspberry Pi's camera connector, which only picamera2 can read."""
        return self.driver in CSI_DRIVERS


def list_devices(folder: Path = Path("/dev")) -> list[Device]:
    """List the video devices in a folder that frames can be captured from, in the order of their numbers."""
    paths = [path for path in folder.glob("video*") if path.name[5:].isdigit()]
    devices = (_query(path) for path in sorted(paths, key=lambda path: int(path.name[5:])))
    return [device for device in devices if device is not None]


def parse_capability(path: Path, answer: bytes) -> Device | None:
    """Interpret the answer of a device to VIDIOC_QUERYCAP.

    Args:
        path: the device.
        answer: a struct v4l2_capability, 104 bytes.

    Returns:
        The device; None if no frames can be captured from it.
    """
    capabilities = int.from_bytes(answer[84:88], sys.byteorder)
    if capabilities & _DEVICE_CAPS:  # these are those of the whole device; those of this node follow
        capabilities = int.from_bytes(answer[88:92], sys.byteorder)
    if not capabilities & _CAPTURE or capabilities & (_M2M | _M2M_MPLANE):
        return None
    driver, name = (part.split(b"\0")[0].decode("utf-8", "replace") for part in (answer[:16], answer[16:48]))
    return Device(path, name, driver)


def _query(path: Path) -> Device | None:
    """Ask a device for its capabilities; one that may not be opened is listed with the reason as its name."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        return Device(path, f"cannot be opened: {error.strerror}", "")
    import fcntl  # does not exist on Windows

    try:
        return parse_capability(path, fcntl.ioctl(handle, _VIDIOC_QUERYCAP, bytes(104)))
    except OSError:
        return None
    finally:
        os.close(handle)


def has_picamera2() -> bool:
    """Check whether picamera2 can be imported and finds a camera."""
    try:
        from picamera2 import Picamera2

        return bool(Picamera2.global_camera_info())
    except Exception:  # built for another NumPy it raises ValueError, without libcamera ImportError
        return False


def no_camera_error(name: str) -> EdgeMnistError:
    """Make the error that a camera gives no picture, with the devices that were found and what to try."""
    devices = list_devices()
    listed = ", ".join(f"{device.path} ({device.name})" for device in devices) or "none"
    advice = "plug one in, or --camera sample shows the demo without one; `edge-mnist doctor` looks closer"
    if any(device.is_csi for device in devices):
        advice = "the camera module needs picamera2: apt install python3-picamera2, and a venv --system-site-packages"
    elif any(device.name.endswith("Permission denied") for device in devices):
        advice = "you may not open it: sudo usermod -aG video $USER, then log in again"
    elif devices:
        advice = f"another program may be using it; or try --camera {devices[0].path}"
    return EdgeMnistError(f"--camera {name}: no picture; video devices found: {listed}: {advice}")


def read_v4l2(path: Path, settings: CameraSettings) -> Iterator[Image]:
    """Give the frames of a camera, uint8 (H, W, 3) BGR, until the generator is closed.

    MJPG is asked for first, as many USB cameras give 30 frames per second at 640x480 only when they compress them.
    Where MJPG gives no frame, the camera's own format is used.

    Args:
        path: the device; on other systems than Linux the number of the camera, for which OpenCV chooses the interface.
        settings: what the camera is asked for.

    Raises:
        SourceLost: it cannot be opened, or gives no more frames.
    """
    for is_compressed in (True, False):
        capture = _open(path)
        try:
            if not capture.isOpened():
                raise SourceLost(f"{path}: cannot be opened")
            if is_compressed:
                capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height)
            capture.set(cv2.CAP_PROP_FPS, settings.fps or DEFAULT_FPS)
            capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
            # A module on the camera connector can be opened and then gives nothing: only a frame proves a camera.
            is_good, image = capture.read()
            if not is_good and is_compressed:
                continue
            while is_good:
                yield np.asarray(image, np.uint8)
                is_good, image = capture.read()
            raise SourceLost(f"{path}: gives no more frames: unplugged?")
        finally:
            capture.release()


def _open(path: Path) -> cv2.VideoCapture:
    if sys.platform == "linux":
        return cv2.VideoCapture(str(path), cv2.CAP_V4L2)
    return cv2.VideoCapture(int(str(path)))


def _describe_format(capture: cv2.VideoCapture) -> str:
    """Describe what a camera granted, such as `640x480 MJPG at 30 frames/s`."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    name = "".join(chr(code >> shift & 255) for shift in (0, 8, 16, 24)).strip("\0 ")
    width, height = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    return f"{width}x{height} {name} at {capture.get(cv2.CAP_PROP_FPS):g} frames/s"


def probe(device: Device, settings: CameraSettings, frames: int = 5) -> str:
    """Open a camera, read some frames, and say what it granted and how long they took.

    Raises:
        SourceLost: it gives no frames.
    """
    capture = _open(device.path)
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
        return f"{_describe_format(capture)}, {frames} frames in {time.monotonic() - start:.1f} s"
    finally:
        capture.release()


def read_picamera(index: int, settings: CameraSettings) -> Iterator[Image]:
    """Give the frames of a module on the Raspberry Pi's camera connector until the generator is closed.

    Yields:
        Frames, uint8 (H, W, 3), BGR.

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
    except ValueError as error:  # "numpy.dtype size changed": Debian's package was built for NumPy 1
        raise EdgeMnistError(f"picamera2 does not load: {error}: pip install 'numpy<2'") from error
    camera: Any = None
    try:
        camera = Picamera2(index)
        # The format is named by the order of the bytes in a word: "RGB888" has B, G, R in memory.
        main = {"size": (settings.width, settings.height), "format": "RGB888"}
        controls = {"FrameRate": settings.fps or DEFAULT_FPS}
        camera.configure(camera.create_video_configuration(main=main, controls=controls))
        camera.start()
        while True:
            yield np.asarray(camera.capture_array("main"), np.uint8)
    except (RuntimeError, IndexError, OSError) as error:
        raise SourceLost(f"camera module {index}: {error}") from error
    finally:
        if camera is not None:
            camera.close()
