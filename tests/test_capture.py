"""Sources that freeze, fail, change and return; cameras that are none; recordings that are cut off."""

from __future__ import annotations

import itertools
import struct
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from edge_mnist.demo import cameras, models, sources
from edge_mnist.demo.cameras import Image, Lost, Settings
from edge_mnist.demo.capture import Capture
from edge_mnist.demo.live import Limits, moments
from edge_mnist.demo.recording import Recording
from edge_mnist.demo.sources import Source
from edge_mnist.errors import EdgeMnistError, UsageError


@dataclass(frozen=True)
class Scripted(Source):
    """A source that a test plays."""

    script: Callable[[], Iterator[Image]] = lambda: iter(())

    def frames(self) -> Generator[Image, None, None]:
        yield from self.script()


def image(value: int, width: int = 32) -> Image:
    return np.full((24, width, 3), value % 256, np.uint8)


def wait(what: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def live(script: Callable[[], Iterator[Image]], freeze: float = 0.15, kind: sources.Kind = "stream") -> Capture:
    return Capture(Scripted(kind, "cam", "cam", script=script), freeze=freeze, pauses=(0.05, 0.1))


def test_a_slow_reader_gets_the_newest_frame() -> None:
    def script() -> Iterator[Image]:
        for i in range(1000):
            yield image(i)
            time.sleep(0.005)

    capture = live(script)
    numbers = []
    for _ in range(4):
        frame = capture.newest(1.0)
        assert frame is not None
        numbers.append(frame.number)
        time.sleep(0.1)
    capture.close()
    assert all(later - earlier > 5 for earlier, later in zip(numbers, numbers[1:], strict=False))


def test_a_camera_that_fails_or_freezes_or_hangs_is_lost_and_comes_back_in_another_size() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(time.monotonic())
        for i in range(5):  # it works, and then ...
            yield image(i + 10 * len(opened), width=32 if len(opened) < 3 else 64)
            time.sleep(0.01)
        if len(opened) == 1:
            raise Lost("cam: unplugged")
        while len(opened) == 2:  # frozen
            yield image(77)
            time.sleep(0.01)
        time.sleep(0.5)  # hangs

    capture = live(script)
    texts, widths = set(), set()
    end = time.monotonic() + 3
    while time.monotonic() < end and len(texts) < 3:
        frame = capture.newest(0.02)
        if frame is not None:
            widths.add(frame.image.shape[1])
        if capture.state.kind == "lost":
            texts.add(capture.state.text.split(":")[1][:12])
    capture.close()
    assert texts == {" unplugged", " the same pi", " no picture "} and widths == {32, 64}


def test_pauses_grow_while_nothing_comes() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(time.monotonic())
        if len(opened) == 1:
            yield image(1)
        raise Lost("cam: gone")

    capture = live(script)
    wait(lambda: len(opened) == 5)
    capture.close()
    gaps = np.diff(opened)
    assert gaps[0] < 0.09 and (gaps[1:] > 0.09).all()


def test_a_frozen_picture_is_not_shown_as_live_when_the_camera_is_opened_again() -> None:
    def script() -> Iterator[Image]:
        while True:
            yield image(5)
            time.sleep(0.01)

    capture = live(script, freeze=0.05)
    assert capture.newest(1.0) is not None
    wait(lambda: capture.state.kind == "lost")
    assert capture.newest(0.5) is None and capture.state.kind == "lost"
    capture.close()


@pytest.mark.parametrize("kind", ["v4l2", "stream"])
def test_a_camera_that_never_worked_is_an_error(kind: sources.Kind) -> None:
    def script() -> Iterator[Image]:
        raise Lost("cam: no stream answers")
        yield

    with pytest.raises(EdgeMnistError, match="no picture; video devices found|no stream answers"):
        live(script, kind=kind).newest(2.0)


def test_every_frame_of_a_file_is_read_when_nobody_watches() -> None:
    source = Scripted("image", "f", "f", script=lambda: map(image, range(50)))
    capture = Capture(source, paced=False)
    frames = []
    while (frame := capture.newest(1.0)) is not None:
        frames.append(frame)
        time.sleep(0.001)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(50))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / sources.STILL_FPS)


def test_a_source_is_named_in_many_ways(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "b.png"), image(9))
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"no film")
    for text, kind in (
        ("sample", "sample"),
        ("sample:7", "sample"),
        ("picamera1", "picamera"),
        ("rtsp://user:secret@host/stream", "stream"),
        (str(tmp_path), "folder"),
        (str(tmp_path / "b.png"), "image"),
        (str(tmp_path / "film.mp4"), "video"),
    ):
        source = sources.find(text, Settings())
        assert source.kind == kind and "secret" not in source.name
    for text in ("nothing.mp4", "ftp://host/x", str(tmp_path / "empty")):
        with pytest.raises(UsageError, match="--camera|no images"):
            sources.find(text, Settings())
    with pytest.raises(EdgeMnistError, match="holds no video"):
        Capture(sources.find(str(tmp_path / "film.mp4"), Settings())).newest(5.0)
    with pytest.raises(EdgeMnistError, match=r"--camera 99: no picture; video devices found: .*--camera sample"):
        sources.find("99", Settings())


def test_a_device_that_captures_is_told_from_one_that_encodes() -> None:
    def answer(driver: bytes, capabilities: int, node: int) -> bytes:
        words = struct.pack("=5I", 0x60000, capabilities, node, 0, 0)
        return driver.ljust(16, b"\0") + b"name".ljust(32, b"\0") + b"usb".ljust(32, b"\0") + words + bytes(4)

    path = Path("/dev/video0")
    webcam = cameras.describe_capability(path, answer(b"uvcvideo", 0x84A00001, 0x04200001))
    assert webcam is not None and webcam.name == "name" and not webcam.is_csi
    module = cameras.describe_capability(path, answer(b"unicam", 0x85200001, 0x05200001))
    assert module is not None and module.is_csi
    assert cameras.describe_capability(path, answer(b"uvcvideo", 0x84A00001, 0x04A00000)) is None  # its metadata
    assert cameras.describe_capability(path, answer(b"bcm2835-codec", 0x84204000, 0x04204000)) is None


def test_a_camera_module_is_read_through_picamera2(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    class Picamera2:
        def __init__(self, index: int) -> None:
            calls.append(index)

        def create_video_configuration(self, main: dict[str, object], controls: dict[str, object]) -> object:
            return main, controls

        def configure(self, configuration: object) -> None:
            calls.append(configuration)

        def start(self) -> None:
            calls.append("start")

        def capture_array(self, name: str) -> Image:
            if len(calls) > 4:
                raise RuntimeError("Camera frontend has timed out!")
            calls.append(name)
            return image(3)

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=Picamera2))
    with pytest.raises(Lost, match="timed out"):
        list(cameras.picamera(1, Settings(320, 240, 15)))
    configuration = ({"size": (320, 240), "format": "RGB888"}, {"FrameRate": 15})
    assert calls == [1, configuration, "start", "main", "main", "close"]
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(EdgeMnistError, match="apt install python3-picamera2"):
        next(cameras.picamera(0, Settings()))


def test_a_recording_has_each_picture_for_its_time_and_is_whole_when_it_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    recording = Recording(path)
    times = [5 + i * 0.04 + (0.7 if i > 40 else 0.0) for i in range(75)]  # the camera was lost for a while
    for i, moment in enumerate(times):
        recording.add(image(3 * i, width=32 if i < 60 else 64), moment)
    cut = path.read_bytes()  # as SIGKILL would leave it
    recording.close()
    for data, least in ((path.read_bytes(), 75), (cut, 50)):
        path.write_bytes(data)
        capture, values, found = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), [], []
        while (read := capture.read())[0]:
            values.append(read[1].mean())
            found.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        assert len(values) >= least and read[1] is None
        assert values == pytest.approx([3 * i for i in range(len(values))], abs=2)
        assert found == pytest.approx([moment - 5 for moment in times[: len(found)]], abs=0.002)
    another = Recording(path)
    another.close()
    assert another.path == path.with_name("film-2.mp4")
    with pytest.raises(EdgeMnistError, match=r"--record .*cannot be written"):
        Recording(path / "film.mp4")
    with pytest.raises(EdgeMnistError, match=r"--record .*there is no folder .*new: make it first"):
        Recording(tmp_path / "new" / "film.mp4")
    with pytest.raises(UsageError, match=r"--record .*film.avi: is recorded as MP4: name it film.mp4"):
        Recording(tmp_path / "film.avi")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["film-2.mp4", "film.mp4"]


def test_the_loop_says_once_that_a_camera_is_lost_and_that_it_is_back() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(1)
        for i in range(4):
            yield image(i + 9 * len(opened))
            time.sleep(0.02)
        raise Lost("cam: unplugged")

    told: list[str] = []
    capture = Capture(Scripted("stream", "cam", "cam", script=script), pauses=(0.6,))
    flow = moments(capture, models.load(), threshold=None, limits=Limits(seconds=2), tell=told.append)
    kinds = [kind for kind, _ in itertools.groupby(moment.state.kind for moment in flow)]
    capture.close()
    assert told[:3] == ["cam: unplugged; trying again", "the picture is back", "cam: unplugged; trying again"]
    assert kinds[:4] == ["live", "lost", "live", "lost"]
