"""The demo as a process: videos as cameras, signals, recordings, limits and wrong options."""

from __future__ import annotations

import http.server
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge_mnist.cli import commands
from edge_mnist.cli.demo import STARTING
from edge_mnist.demo import program
from edge_mnist.pretrained import SHIPPED_INT8
from tests.support.demos import Demo, count_frames, demo, draw_doubtful_number, draw_number, record_video, wait


def test_the_numbers_in_a_video_are_read_frame_by_frame_and_recorded(tmp_path: Path) -> None:
    path = record_video(tmp_path / "film.mp4", "402", "7185")
    with demo("--camera", path, "--view", "none", "--json", "--record", tmp_path / "seen.mp4") as running:
        assert running.wait() == 0
    events = running.events()
    assert next((event["event"], event["number"]) for event in events if event["event"] != "gone") == ("read", "402")
    assert {event["number"] for event in events} == {"402", "7185"}
    assert events[0]["seconds"] == pytest.approx(0.5, abs=0.1)
    running.wait_for_line(r"90 frames in .* first answer after")
    assert count_frames(tmp_path / "seen.mp4") == 90
    seen = cv2.VideoCapture(str(tmp_path / "seen.mp4"), cv2.CAP_FFMPEG)
    assert seen.get(cv2.CAP_PROP_FPS) == pytest.approx(30, abs=0.5)  # it plays at the speed of the video


def test_a_plain_recording_has_no_boxes_and_can_be_read_again(tmp_path: Path) -> None:
    path, plain = record_video(tmp_path / "film.mp4", "402", seconds=1.0), tmp_path / "plain.mp4"
    with demo("--camera", path, "--view", "none", "--record", plain, "--record-plain") as running:
        assert running.wait() == 0
    first, second = (cv2.VideoCapture(str(name), cv2.CAP_FFMPEG) for name in (path, plain))
    for _ in range(30):
        (_, original), (_, recorded) = first.read(), second.read()
        assert np.abs(original.astype(int) - recorded).mean() < 3
    with demo("--camera", plain, "--view", "none") as running:
        assert running.wait() == 0
    assert running.output[0].startswith("read     402 ")


def test_images_are_read_one_after_the_other(tmp_path: Path) -> None:
    for text in ("12", "345"):
        cv2.imwrite(str(tmp_path / f"{text}.png"), draw_number(text))
    (tmp_path / "13.jpg").write_bytes(b"no picture")
    with demo("--camera", tmp_path, "--view", "none", "--json") as running:
        assert running.wait() == 1  # as predict does if an image could not be opened
    found = [(event["event"], event["number"], Path(event["source"]).name) for event in running.events()]
    assert found == [(kind, text, f"{text}.png") for text in ("12", "345") for kind in ("read", "gone")]
    assert [event["id"] for event in running.events()] == [1, 1, 2, 2]
    assert len(running.errors) == 3 and "13.jpg: is not an image that can be read" in running.errors[1]


def test_a_number_with_a_doubtful_digit_is_shown_and_never_read(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "page.png"), draw_doubtful_number())
    with demo("--camera", tmp_path / "page.png", "--view", "none", "--json") as running:
        assert running.wait() == 0
    unsure, gone = running.events()
    assert (unsure["event"], unsure["number"], unsure["complete"], unsure["was"]) == ("unsure", "7?85", False, None)
    assert [digit["place"] for digit in unsure["unsure"]] == [1] and unsure["unsure"][0]["label"] in range(10)
    assert (gone["event"], gone["number"], gone["complete"]) == ("gone", "7?85", False)
    with demo("--camera", tmp_path / "page.png", "--view", "none") as running:
        assert running.wait() == 0
    assert [line.split()[:2] for line in running.output] == [["unsure", "7?85"], ["gone", "7?85"]]


def test_a_folder_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with demo("--camera", tmp_path, "--view", "none") as running:
        assert running.wait() == 1
    assert len(running.errors) == 4 and "none of its 2 images can be read" in running.errors[-1]


MISTAKES = {
    "no camera": (["--view", "none"], 1, "--camera 0: no picture; video devices found: "),
    "no such file": (
        ["--camera", "film.mp4"],
        2,
        "--camera film.mp4: there is no such file or folder: expected a picture, ",
    ),
    "no size": (["--size", "vga"], 2, "--size vga: expected WIDTHxHEIGHT"),
    "no model": (["--camera", "sample", "--view", "none", "--model", __file__], 1, "expected an artifact"),
    "no window": (["--camera", "sample", "--view", "window"], 1, "--view web shows the demo in a browser"),
    "no snapshots": (["--camera", "sample", "--view", "none", "--snapshot-dir", "/proc/q"], 2, "cannot be written"),
    "no corrections": (
        ["--camera", "sample", "--view", "none", "--corrections", f"{__file__}/q"],
        2,
        "cannot be written",
    ),
    "no MP4": (["--camera", "sample", "--view", "none", "--record", "x.avi"], 2, "x.avi: recordings are MP4 files"),
    "no film's folder": (["--camera", "sample", "--view", "none", "--record", "no/x.mp4"], 2, "there is no folder no"),
    "no folder": (["--camera", "sample", "--view", "none", "--record", f"{__file__}/x.mp4"], 2, "cannot be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_option_is_reported_in_one_line(
    mistake: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if mistake == "no camera" and Path("/dev/video0").exists():
        pytest.skip("there is a camera here")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    arguments, status, part = MISTAKES[mistake]
    monkeypatch.setattr("sys.argv", ["edge-mnist", "demo", *arguments])
    usual = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            commands.main()
    finally:
        signal.signal(signal.SIGTERM, usual)
    output, errors = capfd.readouterr()
    assert (end.value.code, output) == (status, "")
    (line,) = errors.removeprefix(f"{STARTING}\n").splitlines()
    assert part in line


def test_a_line_says_at_once_that_the_networks_are_loaded(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "run_demo", lambda options, stop: True)  # what is printed comes before it
    assert call("demo") == (0, "", "edge-mnist: loading the networks, then opening the camera or the file\n")
    assert call("demo", "--quiet") == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("view", ["none", "web"])
def test_a_signal_ends_the_demo_with_a_complete_recording(view: str, number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    arguments = ("--camera", "sample", "--view", view, "--port", 0, "--record", path)
    with demo(*arguments) as running:
        wait(lambda: path.exists() and path.stat().st_size > 200_000)
        running.process.send_signal(number)
        start = time.monotonic()
        assert running.wait(20) == 0 and time.monotonic() - start < 10
    match = running.wait_for_line(r"(\d+) frames in")
    assert count_frames(path) == int(match[1]) and "Traceback" not in "".join(running.errors)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_demo_while_it_starts_and_leaves_no_recording(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    with demo("--camera", "sample", "--view", "web", "--port", 0, "--record", path) as running:
        libraries = Path(f"/proc/{running.process.pid}/maps")
        if libraries.exists():
            wait(lambda: "cv2" in libraries.read_text())  # the command runs and loads its libraries
        else:
            running.wait_for_line("the demo is at")
        running.process.send_signal(number)
        assert running.wait(20) == 0
    assert "Traceback" not in "".join(running.errors) and not running.output
    running.wait_for_line(r"nothing was recorded in .*seen\.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_breaks_off_gives_status_1(tmp_path: Path) -> None:
    path = record_video(tmp_path / "film.mp4", "402", seconds=2.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with demo("--camera", path, "--view", "none", "--json") as running:
        assert running.wait() == 1
    assert [event["event"] for event in running.events()] == ["read", "gone"]
    running.wait_for_line(r"film\.mp4: breaks off: \d+ of its \d+ frames can be read\n")
    running.wait_for_line("frames in .* first answer after")


@pytest.mark.slow
def test_a_recording_can_be_played_after_the_demo_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "seen.mp4"
    with demo("--camera", "sample", "--view", "none", "--record", path) as running:
        wait(lambda: path.exists() and path.stat().st_size > 400_000)
        running.process.kill()
    assert count_frames(path) >= 10


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_and_not_the_demo(tmp_path: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", tmp_path]).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        path = tmp_path / "seen.mp4"
        with demo("--camera", "sample", "--view", "none", "--record", path, "--max-frames", 200, "--fps", 0) as running:
            assert running.wait() == 0
        running.wait_for_line(r"the recording ends here: .*No space left on device")
        running.wait_for_line(r"200 frames in")
        assert count_frames(path) >= 10
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.slow
def test_the_demo_ends_at_its_limits(tmp_path: Path) -> None:
    start = time.monotonic()
    with demo("--camera", "sample", "--view", "none", "--duration", 2, "--fps", 5) as running:
        assert running.wait() == 0
    assert 2 <= time.monotonic() - start < 20
    assert 2 <= int(running.wait_for_line(r"(\d+) frames in")[1]) <= 11


@pytest.mark.slow
def test_the_sample_is_read_with_any_frame_rate() -> None:
    with demo("--camera", "sample", "--view", "none", "--fps", 1000) as running:
        running.wait_for_line("--fps 1000: the sample is drawn 60 times a second at most")
        wait(lambda: running.output)


@pytest.mark.slow
def test_a_replaced_model_is_used(bundle_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    shutil.copy(SHIPPED_INT8, model)
    with demo("--camera", "sample", "--view", "web", "--port", 0, "--model", model) as running:
        before = running.status()["model"]["sha256"]
        model.write_bytes(b"TFL3 is not all")
        running.wait_for_line("the old one stays in use: .*model.tflite")
        wait(lambda: "model.tflite: expected an artifact" in running.status()["refused"])
        assert running.status()["model"]["sha256"] == before
        shutil.copy(bundle_folder / "model_float.tflite", model)
        running.wait_for_line("the new model is in use")
        wait(lambda: running.status()["model"]["sha256"] != before and not running.status()["refused"])


def processor_seconds(run: Callable[[], object]) -> float:
    """Measure the processor time of the processes that `run` starts and waits for, which other load hardly changes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.slow
def test_the_first_answer_comes_within_a_second() -> None:
    """A slow machine may take a few times as long as its Python takes to import the libraries."""

    def first_answer() -> None:
        with demo("--camera", "sample", "--view", "none", "--max-frames", 1) as running:
            assert running.wait() == 0

    def libraries() -> None:
        subprocess.run([sys.executable, "-c", "import numpy, cv2, ai_edge_litert.interpreter"], check=True)

    pairs = [(processor_seconds(first_answer), processor_seconds(libraries)) for _ in range(3)]
    assert any(answer <= max(1.0, 6 * bare) for answer, bare in pairs), pairs


@contextmanager
def stream(port: int, text: str) -> Iterator[None]:
    """Run a network camera that shows a number with the noise of a camera (MJPEG over HTTP)."""
    stopping = threading.Event()
    random = np.random.Generator(np.random.PCG64(1))
    paper = draw_number(text).astype(np.float32)

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            while not stopping.wait(0.05):
                noisy = np.clip(paper + random.normal(0, 3, paper.shape), 0, 255).astype(np.uint8)
                jpeg = cv2.imencode(".jpg", noisy)[1].tobytes()
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Camera)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_reported_and_opened_again() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    address = f"http://127.0.0.1:{port}/live"
    with ExitStack() as stack:
        with stream(port, "402"):
            arguments = ("--camera", address, "--view", "web", "--port", 0, "--json")
            running = stack.enter_context(demo(*arguments))
            wait(lambda: running.events())
            assert running.status()["state"] == "live" and running.status()["source"] == address
        running.wait_for_line(r"/live: (the stream ended|no picture for \d s); trying again")
        wait(lambda: running.status()["numbers"] == [])
        assert running.status()["state"] == "lost"
        wait(lambda: running.events()[-1]["event"] == "gone")
        with stream(port, "7185"):
            running.wait_for_line("the picture is back")
            wait(lambda: running.events()[-1]["number"] == "7185")
            assert running.status()["state"] == "live"


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """It runs for EDGE_MNIST_SOAK minutes, by default 2, at full speed."""
    minutes = float(os.environ.get("EDGE_MNIST_SOAK", "2"))
    path = record_video(tmp_path / "film.mp4", "402", "7185", "63", seconds=1.0)
    with demo("--camera", path, "--view", "web", "--port", 0, "--fps", 0) as running:
        time.sleep(30)
        first = measure_memory(running, 30)
        count = len(running.output)
        peak = measure_memory(running, 60 * (minutes - 1))
        running.process.terminate()
        assert running.wait() == 0
    match = running.wait_for_line(r"(\d+) frames in .*")
    print(f"{match[0]}: {first >> 10} KiB in the first minute, {(peak - first) >> 10} KiB more in {minutes:g}")
    assert len(running.output) > count and peak - first < 2 << 20


def measure_memory(running: Demo, seconds: float) -> int:
    """Measure the most memory, in bytes, that a demo uses in the next seconds."""
    end, found = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        found = max(found, running.memory())
        time.sleep(1)
    return found


def test_the_help_names_the_keys_and_the_threshold() -> None:
    from edge_mnist.demo.reading.reader import THRESHOLD
    from edge_mnist.demo.views.window import KEYS

    text = " ".join(CliRunner().invoke(commands.commands, ["demo", "--help"]).output.split())
    assert f"Keys in the window: {KEYS}." in text
    for command in ("demo", "predict"):
        text = " ".join(CliRunner().invoke(commands.commands, [command, "--help"]).output.split())
        assert f"[default: {THRESHOLD:g}]" in text
