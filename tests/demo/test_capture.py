"""Sources that freeze, fail, change and come back; wrong names of cameras; recordings that are cut off."""

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

from edge_mnist.demo import program
from edge_mnist.demo.live import models
from edge_mnist.demo.live.loop import Limits, read_live
from edge_mnist.demo.options import DemoOptions
from edge_mnist.demo.sources import cameras
from edge_mnist.demo.sources.cameras import CameraSettings, Image, SourceLost
from edge_mnist.demo.sources.capture import Capture
from edge_mnist.demo.sources.source import STILL_FPS, Source, SourceKind, parse_source
from edge_mnist.demo.views.recording import Recording
from edge_mnist.system.errors import EdgeMnistError, UsageError


@dataclass(frozen=True)
class Scripted(Source):
    """A source whose frames a test scripts."""

    script: Callable[[], Iterator[Image]] = lambda: iter(())

    def open_frames(self) -> Generator[Image, None, None]:
        yield from self.script()


def make_image(value: int, width: int = 32) -> Image:
    return np.full((24, width, 3), value % 256, np.uint8)


def wait(what: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


def start_capture(script: Callable[[], Iterator[Image]], freeze: float = 0.15, kind: SourceKind = "stream") -> Capture:
    return Capture(Scripted(kind, "cam", "cam", script=script), freeze=freeze, pauses=(0.05, 0.1))


def test_a_slow_reader_gets_the_newest_frame() -> None:
    def script() -> Iterator[Image]:
        for i in range(1000):
            yield make_image(i)
            time.sleep(0.005)

    capture = start_capture(script)
    numbers = []
    for _ in range(4):
        frame = capture.take_newest(1.0)
        assert frame is not None
        numbers.append(frame.number)
        time.sleep(0.1)
    capture.close()
    assert all(later - earlier > 5 for earlier, later in itertools.pairwise(numbers))


def test_a_camera_that_fails_or_freezes_or_hangs_is_lost_and_comes_back_in_another_size() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(time.monotonic())
        for i in range(5):  # first it works
            yield make_image(i + 10 * len(opened), width=32 if len(opened) < 3 else 64)
            time.sleep(0.01)
        if len(opened) == 1:
            raise SourceLost("cam: unplugged")
        while len(opened) == 2:  # frozen
            yield make_image(77)
            time.sleep(0.01)
        time.sleep(0.5)  # hangs

    capture = start_capture(script)
    texts, widths = set(), set()
    end = time.monotonic() + 3
    while time.monotonic() < end and len(texts) < 3:
        frame = capture.take_newest(0.02)
        if frame is not None:
            widths.add(frame.image.shape[1])
        if capture.state.kind == "lost":
            texts.add(capture.state.text.split(":")[1][:12])
    capture.close()
    assert texts == {" unplugged", " the same pi", " no picture "} and widths == {32, 64}


def test_the_pauses_grow_while_a_camera_is_lost() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(time.monotonic())
        if len(opened) == 1:
            yield make_image(1)
        raise SourceLost("cam: gone")

    capture = start_capture(script)
    wait(lambda: len(opened) == 5)
    capture.close()
    gaps = np.diff(opened)
    assert gaps[0] < 0.09 and (gaps[1:] > 0.09).all()


def test_a_frozen_picture_is_not_shown_as_live_when_the_camera_is_opened_again() -> None:
    def script() -> Iterator[Image]:
        while True:
            yield make_image(5)
            time.sleep(0.01)

    capture = start_capture(script, freeze=0.05)
    assert capture.take_newest(1.0) is not None
    wait(lambda: capture.state.kind == "lost")
    assert capture.take_newest(0.5) is None and capture.state.kind == "lost"
    capture.close()


@pytest.mark.parametrize("kind", ["v4l2", "stream"])
def test_a_camera_that_never_worked_is_an_error(kind: SourceKind) -> None:
    def script() -> Iterator[Image]:
        raise SourceLost("cam: no stream answers")
        yield

    with pytest.raises(EdgeMnistError, match="no picture; video devices found|no stream answers"):
        start_capture(script, kind=kind).take_newest(2.0)


def test_every_frame_of_a_file_is_given_if_it_is_not_paced() -> None:
    source = Scripted("image", "f", "f", script=lambda: map(make_image, range(50)))
    capture = Capture(source, paced=False)
    frames = []
    while (frame := capture.take_newest(1.0)) is not None:
        frames.append(frame)
        time.sleep(0.001)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(50))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / STILL_FPS)


def test_each_way_to_name_a_source_is_understood(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "b.png"), make_image(9))
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
        source = parse_source(text, CameraSettings())
        assert source.kind == kind and "secret" not in source.name
    for text in ("nothing.mp4", "ftp://host/x"):
        with pytest.raises(UsageError, match="--camera"):
            parse_source(text, CameraSettings())
    with pytest.raises(EdgeMnistError, match="no images"):
        parse_source(str(tmp_path / "empty"), CameraSettings())
    with pytest.raises(EdgeMnistError, match="contains no video"):
        Capture(parse_source(str(tmp_path / "film.mp4"), CameraSettings())).take_newest(5.0)
    with pytest.raises(EdgeMnistError, match=r"--camera 99: no picture; video devices found: .*--camera sample"):
        parse_source("99", CameraSettings())


def test_devices_that_capture_are_distinguished_from_those_that_encode() -> None:
    def answer(driver: bytes, capabilities: int, node: int) -> bytes:
        words = struct.pack("=5I", 0x60000, capabilities, node, 0, 0)
        return driver.ljust(16, b"\0") + b"name".ljust(32, b"\0") + b"usb".ljust(32, b"\0") + words + bytes(4)

    path = Path("/dev/video0")
    webcam = cameras.parse_capability(path, answer(b"uvcvideo", 0x84A00001, 0x04200001))
    assert webcam is not None and webcam.name == "name" and not webcam.is_csi
    module = cameras.parse_capability(path, answer(b"unicam", 0x85200001, 0x05200001))
    assert module is not None and module.is_csi
    assert cameras.parse_capability(path, answer(b"uvcvideo", 0x84A00001, 0x04A00000)) is None  # the node for metadata
    assert cameras.parse_capability(path, answer(b"bcm2835-codec", 0x84204000, 0x04204000)) is None


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
            return make_image(3)

        def close(self) -> None:
            calls.append("close")

    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=Picamera2))
    with pytest.raises(SourceLost, match="timed out"):
        list(cameras.read_picamera(1, CameraSettings(320, 240, 15)))
    configuration = ({"size": (320, 240), "format": "RGB888"}, {"FrameRate": 15})
    assert calls == [1, configuration, "start", "main", "main", "close"]
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(EdgeMnistError, match="apt install python3-picamera2"):
        next(cameras.read_picamera(0, CameraSettings()))


def test_a_recording_keeps_the_times_of_its_pictures_and_can_be_played_if_it_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    recording = Recording(path)
    times = [5 + i * 0.04 + (0.7 if i > 40 else 0.0) for i in range(75)]  # the camera was lost for a while
    for i, seconds in enumerate(times):
        recording.add(make_image(3 * i, width=32 if i < 60 else 64), seconds)
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
        assert found == pytest.approx([seconds - 5 for seconds in times[: len(found)]], abs=0.002)
    another = Recording(path)
    assert another.path == path.with_name("film-2.mp4")
    another.add(make_image(1), 0.0)
    assert another.close()
    with pytest.raises(EdgeMnistError, match=r"--record .*cannot be written"):
        Recording(path / "film.mp4")
    with pytest.raises(EdgeMnistError, match=r"--record .*there is no folder .*new: create it first"):
        Recording(tmp_path / "new" / "film.mp4")
    with pytest.raises(UsageError, match=r"--record .*film.avi: recordings are MP4 files: name it film.mp4"):
        Recording(tmp_path / "film.avi")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["film-2.mp4", "film.mp4"]


def test_a_recording_without_a_picture_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(tmp_path / "film.mp4")
    assert not recording.close()
    full = Recording(tmp_path / "film.mp4")  # the disk is full before the first second is written
    full.add(make_image(1), 0.0)
    monkeypatch.setattr(full, "_write", lambda _: (_ for _ in ()).throw(EdgeMnistError("no space")))
    with pytest.raises(EdgeMnistError, match="no space"):
        full.close()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_is_ended_on_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = program._Output(DemoOptions(record=tmp_path / "film.mp4"), parse_source("sample", CameraSettings()))
    assert output._recording is not None
    output._recording.add(make_image(1), 0.0)
    monkeypatch.setattr(output._recording, "_write", lambda _: (_ for _ in ()).throw(EdgeMnistError("no space")))
    output.toggle_recording()
    assert capsys.readouterr().err == "edge-mnist: no space\n" and output._recording is None


def make_video(path: Path, code: str) -> bytes:
    """Write a video of 6 seconds with 10 frames each, as OpenCV does."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 10.0, (64, 48))
    noise = np.random.Generator(np.random.PCG64(1))
    for _ in range(60):
        writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    return path.read_bytes()


def split_boxes(video: bytes) -> tuple[bytes, bytearray, bytes]:
    """Split an MP4 into its boxes ftyp, moov and the rest, an order in which it can be played while it arrives."""
    boxes, at = {}, 0
    while at < len(video):
        length = int.from_bytes(video[at : at + 4], "big")
        boxes[video[at + 4 : at + 8]] = video[at : at + length]
        at += length
    moov = bytearray(boxes[b"moov"])
    table = moov.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", moov, table)
    offsets = struct.unpack_from(f">{count}I", moov, table + 4)
    struct.pack_into(f">{count}I", moov, table + 4, *(offset + len(moov) for offset in offsets))
    return boxes[b"ftyp"], moov, boxes[b"free"] + boxes[b"mdat"]


def read_video(path: Path) -> tuple[int, str, bool]:
    """Read a video: how many frames it gives, what is reported, and whether it was read to its end."""
    lines: list[str] = []
    capture = Capture(parse_source(str(path), CameraSettings()), paced=False, report=lines.append)
    count = 0
    while capture.take_newest(5.0) is not None:
        count += 1
    capture.close()
    assert capture.state.kind == "ended"
    return count, "".join(lines), not capture.skipped


def test_a_video_that_breaks_off_is_read_up_to_there_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    ftyp, moov, rest = split_boxes(make_video(path, "mp4v"))
    whole = ftyp + bytes(moov) + rest
    for part, least, most in ((0.97, 50, 59), (0.7, 30, 50), (0.2, 2, 20)):
        path.write_bytes(whole[: int(len(whole) * part)])
        count, lines, is_whole = read_video(path)
        assert least <= count <= most and not is_whole
        assert lines == f"{path}: breaks off: {count} of its 60 frames can be read"
    path.write_bytes(whole)
    assert read_video(path) == (60, "", True)


def test_a_trimmed_video_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    ftyp, moov, rest = split_boxes(make_video(path, "mp4v"))
    for box, place, value in ((b"mvhd", 20, 3000), (b"elst", 12, 3000), (b"elst", 16, 3 * 10240)):
        struct.pack_into(">I", moov, moov.index(box) + place, value)  # it begins after 3 of 6 seconds
    path.write_bytes(ftyp + bytes(moov) + rest)
    assert read_video(path) == (30, "", True)


@pytest.mark.parametrize("name", ["film.avi", "film.mkv"])
def test_a_video_that_ends_too_early_is_reported(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    whole = make_video(path, "MJPG")
    assert read_video(path) == (60, "", True)
    path.write_bytes(whole[: len(whole) // 2])
    count, lines, is_whole = read_video(path)
    assert 15 < count < 40 and not is_whole
    assert lines.startswith(f"{path}: breaks off or is damaged: its picture ends after ")


def test_a_video_damaged_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    ftyp, moov, rest = split_boxes(make_video(path, "mp4v"))
    table = moov.index(b"stsz") + 12  # the sizes of the frames from the 20th on are wrong
    (count,) = struct.unpack_from(">I", moov, table)
    struct.pack_into(f">{count - 20}I", moov, table + 4 + 80, *[0x7FFFFFFF] * (count - 20))
    path.write_bytes(ftyp + bytes(moov) + rest)
    count, lines, is_whole = read_video(path)
    assert 10 <= count <= 21 and not is_whole and "its picture ends after" in lines


def test_the_loop_reports_once_that_a_camera_is_lost_and_that_it_is_back() -> None:
    opened = []

    def script() -> Iterator[Image]:
        opened.append(1)
        for i in range(4):
            yield make_image(i + 9 * len(opened))
            time.sleep(0.02)
        raise SourceLost("cam: unplugged")

    lines: list[str] = []
    capture = Capture(Scripted("stream", "cam", "cam", script=script), pauses=(0.6,))
    results = read_live(capture, models.load(), threshold=None, limits=Limits(seconds=2), report=lines.append)
    kinds = [kind for kind, _ in itertools.groupby(result.state.kind for result in results)]
    capture.close()
    assert lines[:3] == ["cam: unplugged; trying again", "the picture is back", "cam: unplugged; trying again"]
    assert kinds[:4] == ["live", "lost", "live", "lost"]


@pytest.mark.parametrize("address", ["rtsp://user:secret@[fe80::1/x", "ftps://user:secret@camera/"])
def test_a_wrong_address_is_one_line_without_its_password(address: str) -> None:
    with pytest.raises(UsageError, match=r"--camera \w+://\.\.\.: ") as caught:
        parse_source(address, CameraSettings())
    assert "secret" not in str(caught.value)
