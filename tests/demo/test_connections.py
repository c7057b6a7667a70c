"""Clients that let the page wait, come in crowds, send garbage or guess: the others see the page all the same."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest

from edge_mnist.demo.options import PageOptions
from edge_mnist.demo.views import notices
from edge_mnist.demo.views.notices import Notices
from edge_mnist.demo.views.page import access, connections
from edge_mnist.demo.views.page.server import PageView
from tests.demo.test_page import MODEL, TOKEN, moment
from tests.support.demos import Demo, wait

HALF = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: "
BODY = b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx"
ENDLESS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(port: int, data: bytes = b"", client: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine, on which something was sent."""
    connection = socket.create_connection(("127.0.0.1", port), 10, (client, 0))
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it sent before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def ask(
    port: int, path: str = "/", body: bytes | None = None, client: str = "127.0.0.1", **headers: str
) -> tuple[int, bytes]:
    """The status and the content of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(client, 0))
    with closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1") -> Iterator[tuple[PageView, list[str]]]:
    """A page, and the lines that it writes."""
    lines: list[str] = []
    page = PageView(PageOptions(host, 0, folder), MODEL, "test", None, lines.append)
    try:
        yield page, lines
    finally:
        page.close()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[PageView, list[str]]]:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(connections, "BODY_SECONDS", 2.0)
    monkeypatch.setattr(connections, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    with serve(tmp_path) as found:
        yield found


def test_a_head_or_a_body_that_does_not_end_is_cut_off(page: tuple[PageView, list[str]]) -> None:
    silent, half, idle = (
        connect(page[0].port, data) for data in (b"", HALF, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    )
    body = connect(page[0].port, BODY)
    with closing(silent), closing(half), closing(idle), closing(body):
        while not (is_closed(silent) and is_closed(half) and is_closed(idle)):
            with suppress(ConnectionError):
                half.sendall(b"x")  # one byte now and then gains no time
            assert not is_closed(body)
            body.sendall(b"x")
            time.sleep(0.05)
        wait(lambda: is_closed(body), 5)
    assert ask(page[0].port)[0] == 200


def test_who_takes_nothing_of_an_answer_is_let_go_and_who_takes_it_slowly_is_not(
    page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mnist.demo.views.page.broadcast._encode", lambda _: bytes(4 << 20))
    request = b"GET /live.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(connect(page[0].port, request)) as greedy, closing(connect(page[0].port, request)) as slow:
        wait(lambda: page[0]._broadcast.viewers == 2, 5)
        start = time.monotonic()
        while page[0]._broadcast.viewers == 2:
            assert time.monotonic() - start < 10
            page[0].show(moment(2))
            slow.recv(1 << 20)
            time.sleep(0.05)
        assert is_closed(greedy) and not is_closed(slow)
    assert len(page[1]) == 1


@pytest.mark.parametrize("data", [b"", HALF, BODY])
def test_a_crowd_that_lets_the_page_wait_makes_room(page: tuple[PageView, list[str]], data: bytes) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(closing(connect(page[0].port, data))) for _ in range(12)]
        assert ask(page[0].port)[0] == 200
        assert ask(page[0].port, "/correct", b"{}")[0] == 400
        wait(lambda: sum(is_closed(connection) for connection in crowd) >= 8, 0.25)  # before their time is over
    assert len([line for line in page[1] if "too many connections, most from 127.0.0.1" in line]) == 1


def test_one_client_cannot_have_all_connections(page: tuple[PageView, list[str]]) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(connect(page[0].port, ENDLESS))) for _ in range(7)]
        wait(lambda: sum(map(is_closed, streams)) == 3, 2)
        assert ask(page[0].port, client="127.0.0.2")[0] == 200
        with pytest.raises(OSError):
            ask(page[0].port)
        time.sleep(0.4)
        assert sum(map(is_closed, streams)) == 3  # who is answered may stay, however long it takes


def test_bodies_that_are_too_large_together_lose_the_largest(
    page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_BODY_BYTES", 1 << 20)
    with closing(connect(page[0].port, BODY)) as large, closing(connect(page[0].port, BODY)) as small:
        large.sendall(bytes(900_000))
        time.sleep(0.1)
        small.sendall(bytes(400_000))
        wait(lambda: is_closed(large), 0.3)
        assert not is_closed(small)
    assert any("too many large bodies at once: that of 127.0.0.1" in line for line in page[1])


def test_a_body_longer_than_is_declared_or_allowed_is_refused(page: tuple[PageView, list[str]]) -> None:
    chunked = b"POST /correct HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body, status in ((b"2000\r\n" + bytes(8192) + b"\r\n", b"413"), (b"zz\r\n", b"400")):
        with closing(connect(page[0].port, chunked + body)) as connection:
            assert connection.recv(1 << 16).split()[1] == status
    assert len(page[1]) <= 2 and "Traceback" not in "".join(page[1])


@pytest.mark.parametrize(
    "body", [b"[" * 4000, b'{"a":' * 800, b"\xff\xfe\xfd", b"1" * 4095, b"null", b'"\\ud800"', b""]
)
def test_json_of_any_kind_is_answered_and_not_a_failure(page: tuple[PageView, list[str]], body: bytes) -> None:
    assert ask(page[0].port, "/correct", body)[0] == 400
    assert len(page[1]) == 1


def test_a_correction_of_any_type_is_refused(page: tuple[PageView, list[str]]) -> None:
    for key in (None, 1, [], {}, "\ud800", "../x", "\0"):
        for label in (None, 1, [], {}, "\ud800", "3", "none"):
            assert ask(page[0].port, "/correct", json.dumps({"key": key, "label": label}).encode())[0] in (422, 429)
    assert len(page[1]) == 1


def test_a_failure_of_our_own_is_one_line(page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page[0]._corrections, "save", lambda *_: 1 // 0)
    for _ in range(3):
        assert ask(page[0].port, "/correct", b'{"key": "x", "label": "3"}')[0] == 500
    assert page[1][1:] == ["the page failed at /correct: ZeroDivisionError('integer division or modulo by zero')"]


def test_a_kind_of_malformed_request_is_one_line(page: tuple[PageView, list[str]]) -> None:
    for _ in range(20):
        for data in (
            b"\x16\x03\x01\x02\0\x01\xfc\x03\x03",
            b"GET / HTTP/1.1\r\nBad Header\x1b[2J: 1\r\n\r\n",
            b"GET  x\r\n\r\n",
        ):
            with closing(connect(page[0].port, data)) as connection:
                assert connection.recv(100).startswith(b"HTTP/1.0 400")
    assert 1 <= len(page[1][1:]) <= 3
    assert all(
        line.startswith("the page refused a malformed request of 127.0.0.1: ") and line.isprintable()
        for line in page[1][1:]
    )


def test_lines_are_counted_and_come_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr(notices.time, "monotonic", lambda: now[0])
    write = Notices(lines.append)
    for _ in range(5):
        write.add("a", "first\x1b[2J" + "x" * 500)
    write.add("b", "second")
    now[0] += 61
    write.add("a", "third")
    assert lines[1:] == ["second", "third (4 more like it since the last such line)"]
    assert lines[0].startswith("first [2Jxx") and len(lines[0]) == 200


def test_a_token_cannot_be_guessed_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.TOKEN_VARIABLE, TOKEN)
    with serve(tmp_path, "0.0.0.0") as (page, lines):

        def try_token(token: str, client: str = "127.0.0.1") -> int:
            return ask(page.port, client=client, Cookie=f"edge_mnist_{page.port}={token}")[0]

        assert try_token(TOKEN, "127.0.0.9") == 200
        assert {try_token("of-the-day-before") for _ in range(30)} == {403}  # a page that was left open
        assert try_token(TOKEN) == 200
        assert [try_token(f"guess-{n}") for n in range(12)] == [403] * 9 + [429] * 3
        assert try_token(TOKEN) == 429 and ask(page.port)[0] == 403
        assert try_token(TOKEN, "127.0.0.2") == 200
        for n in range(10, 30):
            [try_token(f"guess-{n}-{m}", f"127.0.1.{n}") for m in range(10)]
        assert try_token(TOKEN, "127.0.0.3") == 429  # nobody knows it yet
        assert try_token(TOKEN, "127.0.0.9") == 200  # it had the token before
        assert try_token("\xff\xfe") == 429
        assert len([line for line in lines if "too many wrong ones" in line]) == 1
        assert len(lines) == 2


def test_a_token_may_hold_any_bytes(tmp_path: Path) -> None:
    with serve(tmp_path, "0.0.0.0") as (page, lines):
        with closing(connect(page.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: ")) as connection:
            connection.sendall(f"edge_mnist_{page.port}=".encode() + b"\xff\xfe\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 403")
        assert ask(page.port, "/?token=%ff%ed%a0%80")[0] == 403
        assert len(lines) == 1


def test_a_client_that_asks_before_it_sends_is_told_to_and_other_expectations_are_ignored(
    page: tuple[PageView, list[str]],
) -> None:
    head = b"POST /correct HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: "
    with closing(connect(page[0].port, head + b"100-continue\r\n\r\n")) as connection:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    with closing(connect(page[0].port, head + b"\xff\r\n\r\n{}")) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert len(page[1]) == 1


@contextmanager
def few_files(most: int) -> Iterator[None]:
    """Processes that are started in this context may open few files, as after `ulimit -n`."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


ATTACKS = {
    "half-sent requests": HALF,
    "slow bodies": BODY,
    "garbage": b"\x16\x03\x01\x02\0\x01\xfc\x03\x03\0\r\n\r\n",
    "pipelines": b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200,
    "streams": ENDLESS,
}


@contextmanager
def flood(port: int, data: bytes, count: int = 300) -> Iterator[list[int]]:
    """Hold as many connections as can be had, and replace those that are closed; gives a list with an item for each."""
    stopping, made = threading.Event(), list[int]()

    def run() -> None:
        held: list[socket.socket] = []
        while not stopping.is_set():
            for connection in [connection for connection in held if is_closed(connection)]:
                connection.close()
                held.remove(connection)
            while len(held) < count and not stopping.is_set():
                try:
                    held.append(connect(port, data))
                    made.append(1)
                except OSError:
                    break
            stopping.wait(0.05)
        for connection in held:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield made
    finally:
        stopping.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_keeps_nobody_out_where_few_files_can_be_open(attack: str, host: str) -> None:
    with few_files(256):
        running = Demo(
            "--camera", "sample", "--view", "web", "--port", 0, "--host", host, **{access.TOKEN_VARIABLE: TOKEN}
        )
    with running.ended():
        port = int(running.said(r"the demo is at http://[^/]*:(\d+)/")[1])
        cookie = {"Cookie": f"edge_mnist_{port}={TOKEN}"}
        assert ask(port, **cookie)[0] == 200
        before = running.memory()
        with flood(port, ATTACKS[attack]) as made:
            wait(lambda: len(made) >= 300)
            for client in ("127.0.0.2", "127.0.0.1"):
                if client == "127.0.0.1" and attack == "streams" and host == client:
                    continue  # it has as many connections as one client may have, all of them in use
                for _ in range(4):
                    start = time.monotonic()
                    assert ask(port, client=client, **cookie)[0] == 200
                    assert ask(port, "/correct", b"{}", client, **cookie)[0] == 400
                    assert time.monotonic() - start < 3
                    time.sleep(0.2)
            more = running.memory() - before
        said = "".join(running.errors)
        print(f"{attack}, {host}: {len(made)} connections, {more >> 20} MiB more, {len(running.errors)} lines")
        assert "Traceback" not in said and len(running.errors) <= 4, said
        assert more < 64 << 20
        running.process.terminate()
        assert running.wait() == 0
