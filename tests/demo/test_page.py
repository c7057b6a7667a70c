"""The server of the page: who is admitted, what it accepts, and what it answers."""

from __future__ import annotations

import base64
import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mnist.data import strokes, user_digits
from edge_mnist.demo.live import models
from edge_mnist.demo.live.events import Event, Number
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.options import PageOptions
from edge_mnist.demo.reading.reader import Reader
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources.capture import Frame, SourceState
from edge_mnist.demo.views import drawing, snapshots
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.demo.views.page import access
from edge_mnist.demo.views.page.access import AccessRules
from edge_mnist.demo.views.page.corrections import Corrections
from edge_mnist.demo.views.page.rate_limits import TokenBucket
from edge_mnist.demo.views.page.server import PageView
from edge_mnist.demo.views.page.uploads import UploadReader
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.demos import draw_doubtful_number

MODEL = models.load()
TOKEN = "a-token-for-tests"


def make_result(frame_number: int) -> FrameResult:
    """Make a result with a digit 7, whose picture depends on the number of the frame."""
    drawing = np.zeros((96, 96), np.uint8)
    cv2.polylines(drawing, [np.array([[25, 20], [70, 20], [45, 78]], np.int32)], False, 255, 8, cv2.LINE_AA)
    image = cv2.cvtColor(255 - drawing, cv2.COLOR_GRAY2BGR)
    image[:4] = frame_number % 256
    reading = Reader(MODEL.classifier).read(image)
    number = Number(1, "7", 0.97, (20, 16, 55, 66), reading.digits, (), 0.0)
    events = (Event("read", number, None, 1.0),) if frame_number == 1 else ()
    times = {"network": 0.5, "total": 4.0}
    frame, state = Frame(frame_number, image, frame_number / 30), SourceState("live")
    return FrameResult(frame, reading, (number,), events, state, 30.0, times, MODEL, True)


class Client:
    """Sends one request after the other, each on its own connection."""

    def __init__(self, page: PageView) -> None:
        self.port = page.port

    def __call__(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found


@pytest.fixture
def page(tmp_path: Path) -> Iterator[PageView]:
    page = PageView(PageOptions(port=0, corrections=tmp_path / "corrections"), MODEL, "test", None, lambda line: None)
    yield page
    page.close()


def encode_png(image: Any) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def test_a_drawing_is_read_and_its_correction_can_be_used_for_training(page: PageView, tmp_path: Path) -> None:
    client = Client(page)
    digits = strokes.draw(20, seed=5)
    right = 0
    for image, label in zip(digits.images, digits.labels, strict=True):
        status, _, body = client("POST", "/pad", encode_png(cv2.resize(image, (112, 112))))
        content = json.loads(body)
        assert status == 200 and sum(content["probabilities"]) == pytest.approx(1, abs=1e-3)
        right += content["probabilities"].index(max(content["probabilities"])) == label
    assert right >= 18
    assert json.loads(client("POST", "/pad", encode_png(np.zeros((112, 112), np.uint8)))[2]) == {"probabilities": None}
    for label in ("3", "none", "8"):  # the last label counts
        status, _, body = client("POST", "/correct", json.dumps({"key": content["key"], "label": label}).encode())
        assert status == 200 and Path(json.loads(body)["saved"]).exists()
    found = user_digits.read_user_digits(tmp_path / "corrections")
    assert found.labels.tolist() == [8] and found.images.shape == (1, 28, 28) and len(found.outliers) == 0
    for wrong in ({"key": content["key"], "label": "../x"}, {"key": "0" * 16, "label": "1"}, {"key": [], "label": {}}):
        assert client("POST", "/correct", json.dumps(wrong).encode())[0] == 422
    assert client("POST", "/correct", b"no json")[0] == 400
    assert json.loads(client("POST", "/correct", json.dumps({"key": content["key"], "label": "8"}).encode())[2])[
        "corrections"
    ] == {"8": 1}
    undo = json.dumps({"key": content["key"], "label": None}).encode()
    assert json.loads(client("POST", "/correct", undo)[2]) == {"saved": None, "corrections": {}}
    assert list((tmp_path / "corrections").rglob("*.png")) == []
    assert client("POST", "/correct", json.dumps({"key": "0" * 16, "label": None}).encode())[0] == 422
    assert client("POST", "/pad", b"no image")[0] == 422


def test_a_photograph_is_read(page: PageView) -> None:
    status, _, body = Client(page)("POST", "/photo", encode_png(make_result(2).frame.image))
    content = json.loads(body)
    assert status == 200 and content["lines"] == ["7"] and content["digits"][0]["label"] == 7
    assert Client(page)("POST", "/photo", b"\xff\xd8 no photograph")[0] == 422


def test_a_doubtful_digit_is_shown_everywhere_and_can_be_corrected(page: PageView, tmp_path: Path) -> None:
    client, image = Client(page), draw_doubtful_number()
    content = json.loads(client("POST", "/photo", encode_png(image))[2])
    assert content["lines"] == ["7?85"] and [digit["unsure"] for digit in content["digits"]] == [
        False,
        True,
        False,
        False,
    ]
    correction = json.dumps({"key": content["digits"][1]["key"], "label": "3"}).encode()
    assert client("POST", "/correct", correction)[0] == 200
    assert len(list((tmp_path / "corrections" / "3").glob("*.png"))) == 1

    reading = Reader(MODEL.classifier).read(image)
    number = Number(1, "7?85", 0.97, (60, 190, 320, 84), reading.digits, reading.unsure, 0.0)
    result = replace(
        make_result(1), frame=Frame(1, image, 0.0), reading=reading, numbers=(number,),
        events=(Event("unsure", number, None, 1.0),),
    )  # fmt: skip
    page.show(result)
    status = next_status(page)
    assert [number["text"] for number in status["numbers"]] == ["7?85"]
    (event,) = status["history"]
    assert (event["event"], event["number"], event["complete"]) == ("unsure", "7?85", False)
    assert [digit["unsure"] for digit in event["digits"]] == [False, True, False, False]
    assert snapshots.make_name(result).endswith("-7x85")
    for mirror in (False, True):
        ((x, y, width, _),) = [digit.box for digit in reading.unsure]
        column = image.shape[1] - x - width if mirror else x
        assert (draw_result(result, mirror=mirror)[y + 5, column - 1] == drawing.ORANGE).all()


def test_uploads_are_read_with_the_threshold_of_the_demo(tmp_path: Path) -> None:
    drawing = encode_png(255 - cv2.cvtColor(make_result(2).frame.image, cv2.COLOR_BGR2GRAY)[4:])
    with (
        closing(UploadReader(Corrections(tmp_path), 0.2)) as low,
        closing(UploadReader(Corrections(tmp_path), 1.0)) as high,
    ):
        content = low.read_photograph(encode_png(draw_doubtful_number()), MODEL)
        (line,) = content["lines"]
        assert (line[0], line[2:]) == ("7", "85") and line[1].isdigit()
        assert not any(digit["unsure"] for digit in content["digits"])
        assert not low.read_drawing(drawing, MODEL)["unsure"] and high.read_drawing(drawing, MODEL)["unsure"]


def test_the_live_picture_is_encoded_only_while_someone_watches(
    page: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_mnist.demo.views.page import broadcast

    encoded: list[int] = []
    encode = broadcast._encode
    monkeypatch.setattr(broadcast, "_encode", lambda m: (encoded.append(m.frame.number), encode(m))[1])
    for number in range(1, 6):
        page.show(make_result(number))
        time.sleep(0.01)
    assert encoded == []
    stop = threading.Event()

    def play() -> None:
        number = 10
        while not stop.wait(0.02):
            number += 1
            page.show(make_result(number))

    player = threading.Thread(target=play)
    player.start()
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", "/live.mjpg")
    answer = connection.getresponse()
    pictures = []
    assert answer.readline() == b"--picture\r\n"
    for _ in range(5):
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        length = int(answer.readline().partition(b":")[2])
        answer.readline()
        pictures.append(answer.read(length))
        assert answer.readline() == b"\r\n" and answer.readline() == b"--picture\r\n"
    stop.set()
    player.join()
    answer.close()
    connection.close()
    assert len(set(pictures)) == 5 and len(encoded) == len(set(encoded))
    assert cv2.imdecode(np.frombuffer(pictures[0], np.uint8), cv2.IMREAD_COLOR) is not None


def test_a_snapshot_is_sent_and_saved_where_a_folder_is_named(page: PageView, tmp_path: Path) -> None:
    saved: list[str] = []
    saving_page = PageView(
        PageOptions(port=0), MODEL, "test", lambda _, m: saved.append(m.numbers[0].text), lambda line: None
    )
    try:
        for server in (page, saving_page):
            assert Client(server)("POST", "/snapshot")[0] == 503  # there is no picture yet
            server.show(make_result(2))
            status, _, body = Client(server)("POST", "/snapshot")
            content = json.loads(body)
            plain, read = (
                cv2.imdecode(np.frombuffer(base64.b64decode(content[name]), np.uint8), cv2.IMREAD_COLOR)
                for name in ("plain", "read")
            )
            assert status == 200 and content["name"].endswith("-7")
            assert (plain == make_result(2).frame.image).all() and read.shape == plain.shape and (read != plain).any()
        assert saved == ["7"] and not tmp_path.joinpath("corrections").exists()
    finally:
        saving_page.close()


def test_a_snapshot_can_be_read_again(tmp_path: Path) -> None:
    result = make_result(2)
    plain, read = result.frame.image, drawing.draw_digits(result.frame.image, result.reading.digits)
    path = snapshots.save(
        tmp_path, snapshots.make_name(result), snapshots.encode_png(plain), snapshots.encode_png(read)
    )
    assert images.list_images(tmp_path) == [path] and Reader(MODEL.classifier).read(images.load(path)).lines == ("7",)
    assert (images.load(path.parent / "read" / path.name) == read).all()


def next_status(page: PageView) -> dict[str, Any]:
    """Receive the first message with events that a visitor gets."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    content: dict[str, Any] = json.loads(answer.readline().removeprefix(b"data: "))
    answer.close()
    connection.close()
    return content


def test_events_describe_what_is_read(page: PageView) -> None:
    page.show(make_result(1))
    content = next_status(page)
    assert (
        content["state"] == "live"
        and content["numbers"][0]["text"] == "7"
        and content["model"]["sha256"] == MODEL.sha256
    )
    assert content["history"][0]["event"] == "read" and content["history"][0]["digits"][0]["label"] == 7


def test_other_names_and_sites_are_refused_and_each_response_has_the_security_headers(page: PageView) -> None:
    client = Client(page)
    for name in ("/", "/style.css", "/app.js", "/icon.svg"):
        status, headers, body = client("GET", name)
        assert status == 200 and body and b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert client("GET", "/", Host="evil.example")[0] == 403
    assert client("GET", "/", Host=f"evil.example:{page.port}")[0] == 403
    assert client("GET", "/", Host="[::1]:80")[0] == client("GET", "/", Host="localhost")[0] == 200
    assert client("POST", "/pad", b"x", Origin="https://evil.example")[0] == 403
    assert client("POST", "/pad", b"x", Origin=f"http://127.0.0.1:{page.port}")[0] == 422
    assert client("GET", "/nothing")[0] == 404 and client("GET", "/pad")[0] == 405


def test_uploads_are_limited_in_size_and_rate(page: PageView) -> None:
    client = Client(page)
    assert client("POST", "/pad", bytes((1 << 18) + 1))[0] == 413
    with ThreadPoolExecutor(8) as visitors:
        assert 429 in visitors.map(lambda _: Client(page)("POST", "/photo", b"x")[0], range(8))


def test_a_photograph_that_takes_long_delays_no_other(page: PageView) -> None:
    photograph = encode_png(make_result(2).frame.image)
    assert Client(page)("POST", "/photo", photograph)[0] == 200
    waiting = page._uploads._decoder._spare
    assert waiting is not None
    waiting.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(1) as visitor:
        stuck = visitor.submit(Client(page), "POST", "/photo", photograph)
        time.sleep(0.2)
        assert Client(page)("POST", "/photo", photograph)[0] == 200
        assert not stuck.done()
        waiting.kill()
        assert stuck.result()[0] == 422


def test_a_token_bucket_refills() -> None:
    bucket = TokenBucket(50.0, 2)
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    time.sleep(0.05)
    assert bucket.take()


def test_beyond_this_machine_a_token_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setenv(access.TOKEN_VARIABLE, TOKEN)
    page = PageView(PageOptions("0.0.0.0", 0, tmp_path), MODEL, "test", None, lines.append)
    client = Client(page)
    try:
        assert lines[0].endswith(f":{page.port}/?token={TOKEN}")
        for path in ("/", "/live.mjpg", "/events", "/?token=wrong", "/?token="):
            assert client("GET", path)[0] == 401
        assert client("POST", "/snapshot", b"")[0] == 401
        status, headers, _ = client("GET", f"/?token={TOKEN}")
        cookie = headers["Set-Cookie"]
        assert status == 303 and headers["Location"] == "/" and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert client("GET", "/", Cookie=cookie.partition(";")[0])[0] == 200
    finally:
        page.close()
    monkeypatch.setenv(access.TOKEN_VARIABLE, "short")
    with pytest.raises(UsageError, match="expected 12 or more"):
        access.make_rules("0.0.0.0")
    monkeypatch.delenv(access.TOKEN_VARIABLE)
    assert access.make_rules("127.0.0.2").token is None
    assert access.make_rules("0.0.0.0").token != access.make_rules("0.0.0.0").token
    assert not AccessRules(frozenset(), "x" * 12).allows_token(None)


def test_a_port_in_use_is_reported_in_one_line(page: PageView, tmp_path: Path) -> None:
    with pytest.raises(EdgeMnistError, match=f"--port {page.port}: is in use already"):
        PageView(PageOptions(port=page.port, corrections=tmp_path), MODEL, "test", None, lambda line: None)
