"""Clients that are slow or many, send garbage or guess tokens do not keep others from the page."""

from __future__ import annotations

import gc
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
from edge_mnist.demo.views.page.middleware import LIMITS, RequestLimit
from edge_mnist.demo.views.page.server import PageView
from tests.demo.test_page import MODEL, TOKEN, make_result
from tests.support.demos import Demo, wait

HALF_HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: "
HALF_BODY = b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx"
STREAM = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(port: int, data: bytes = b"", client: str = "127.0.0.1") -> socket.socket:
    """Connect from an address of this machine, and send something."""
    connection = socket.create_connection(("127.0.0.1", port), 10, (client, 0))
    connection.sendall(data)
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Check whether the other side has closed a connection; what it sent before is dropped."""
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
    """Send a request, and return the status and the content of the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5, source_address=(client, 0))
    with closing(connection):
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def serve(folder: Path, host: str = "127.0.0.1") -> Iterator[tuple[PageView, list[str]]]:
    """Run a page, and give it with the lines that it reports."""
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


def test_a_head_or_a_body_that_is_never_finished_is_cut_off(page: tuple[PageView, list[str]]) -> None:
    silent, half, idle = (
        connect(page[0].port, data) for data in (b"", HALF_HEAD, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    )
    body = connect(page[0].port, HALF_BODY)
    with closing(silent), closing(half), closing(idle), closing(body):
        while not (is_closed(silent) and is_closed(half) and is_closed(idle)):
            with suppress(ConnectionError):
                half.sendall(b"x")  # single bytes do not extend the deadline
            assert not is_closed(body)
            body.sendall(b"x")
            time.sleep(0.05)
        wait(lambda: is_closed(body), 5)
    assert ask(page[0].port)[0] == 200


def test_a_client_that_receives_nothing_is_disconnected_and_one_that_receives_slowly_is_not(
    page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mnist.demo.views.page.broadcast._encode", lambda _: bytes(4 << 20))
    request = b"GET /live.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with closing(connect(page[0].port, request)) as greedy, closing(connect(page[0].port, request)) as slow:
        wait(lambda: page[0]._broadcast.viewers == 2, 5)
        start = time.monotonic()
        while page[0]._broadcast.viewers == 2:
            assert time.monotonic() - start < 10
            page[0].show(make_result(2))
            slow.recv(1 << 20)
            time.sleep(0.05)
        assert is_closed(greedy) and not is_closed(slow)
    assert len(page[1]) == 1


@pytest.mark.parametrize("data", [b"", HALF_HEAD, HALF_BODY])
def test_many_idle_connections_are_closed_for_new_ones(page: tuple[PageView, list[str]], data: bytes) -> None:
    with ExitStack() as stack:
        crowd = [stack.enter_context(closing(connect(page[0].port, data))) for _ in range(12)]
        assert ask(page[0].port)[0] == 200
        assert ask(page[0].port, "/correct", b"{}")[0] == 400
        wait(lambda: sum(is_closed(connection) for connection in crowd) >= 8, 0.25)  # before their deadline
    assert len([line for line in page[1] if "too many connections, most from 127.0.0.1" in line]) == 1


def test_one_client_cannot_have_all_connections(page: tuple[PageView, list[str]]) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(closing(connect(page[0].port, STREAM))) for _ in range(7)]
        wait(lambda: sum(map(is_closed, streams)) == 3, 2)
        assert ask(page[0].port, client="127.0.0.2")[0] == 200
        with pytest.raises(OSError):
            ask(page[0].port)
        time.sleep(0.4)
        assert sum(map(is_closed, streams)) == 3  # a connection that is being answered has no deadline


def test_the_largest_body_is_dropped_if_all_together_are_too_large(
    page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_BODY_BYTES", 1 << 20)
    with closing(connect(page[0].port, HALF_BODY)) as large, closing(connect(page[0].port, HALF_BODY)) as small:
        large.sendall(bytes(900_000))
        time.sleep(0.1)
        small.sendall(bytes(400_000))
        wait(lambda: is_closed(large), 0.3)
        assert not is_closed(small)
    assert any("too many large bodies at once: that of 127.0.0.1" in line for line in page[1])


def test_a_body_that_is_longer_than_declared_or_allowed_is_refused(page: tuple[PageView, list[str]]) -> None:
    chunked = b"POST /correct HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body, status in ((b"2000\r\n" + bytes(8192) + b"\r\n", b"413"), (b"zz\r\n", b"400")):
        with closing(connect(page[0].port, chunked + body)) as connection:
            assert connection.recv(1 << 16).split()[1] == status
    assert len(page[1]) <= 2 and "Traceback" not in "".join(page[1])


@pytest.mark.parametrize(
    "body", [b"[" * 4000, b'{"a":' * 800, b"\xff\xfe\xfd", b"1" * 4095, b"null", b'"\\ud800"', b""]
)
def test_any_json_is_answered_without_a_server_error(page: tuple[PageView, list[str]], body: bytes) -> None:
    assert ask(page[0].port, "/correct", body)[0] == 400
    assert len(page[1]) == 1


def test_a_correction_of_any_type_is_refused(page: tuple[PageView, list[str]]) -> None:
    for key in (None, 1, [], {}, "\ud800", "../x", "\0"):
        for label in (None, 1, [], {}, "\ud800", "3", "none"):
            assert ask(page[0].port, "/correct", json.dumps({"key": key, "label": label}).encode())[0] in (422, 429)
    assert len(page[1]) == 1


def test_an_error_in_the_server_is_reported_in_one_line(
    page: tuple[PageView, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page[0]._corrections, "save", lambda *_: 1 / 0)
    for _ in range(3):
        assert ask(page[0].port, "/correct", b'{"key": "x", "label": "3"}')[0] == 500
    assert page[1][1:] == ["the page failed at /correct: ZeroDivisionError('division by zero')"]


def test_malformed_requests_are_reported_once_per_kind(page: tuple[PageView, list[str]]) -> None:
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


def test_suppressed_lines_are_counted_and_reported_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert {try_token("of-the-day-before") for _ in range(30)} == {401}  # a page that was left open
        assert try_token(TOKEN) == 200
        assert [try_token(f"guess-{n}") for n in range(12)] == [401] * 9 + [429] * 3
        assert try_token(TOKEN) == 429 and ask(page.port)[0] == 401
        assert try_token(TOKEN, "127.0.0.2") == 200
        for n in range(10, 30):
            [try_token(f"guess-{n}-{m}", f"127.0.1.{n}") for m in range(10)]
        assert try_token(TOKEN, "127.0.0.3") == 429  # it has not sent the right token before
        assert try_token(TOKEN, "127.0.0.9") == 200  # it has sent the right token before
        assert try_token("\xff\xfe") == 429
        assert len([line for line in lines if "too many wrong ones" in line]) == 1
        assert len(lines) == 2


def test_a_token_may_contain_any_bytes(tmp_path: Path) -> None:
    with serve(tmp_path, "0.0.0.0") as (page, lines):
        with closing(connect(page.port, b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: ")) as connection:
            connection.sendall(f"edge_mnist_{page.port}=".encode() + b"\xff\xfe\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401")
        assert ask(page.port, "/?token=%ff%ed%a0%80")[0] == 401
        assert ask(page.port, Authorization="Bearer \xff\xed")[0] == 401
        assert len(lines) == 1


def test_expect_100_continue_is_answered_and_other_expectations_are_ignored(
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


def test_refused_uploads_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "/photo", RequestLimit(16 << 20, 1e-6, 1))
    body = bytes(1 << 20)
    head = f"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serve(tmp_path) as (page, _), ExitStack() as stack:
        clients = [stack.enter_context(closing(connect(page.port, head + body))) for _ in range(4)]
        assert sorted(client.recv(12)[-3:] for client in clients) == [b"422", b"429", b"429", b"429"]
        held = [one for one in gc.get_objects() if type(one) is connections.Connection]
        assert len(held) >= 4 and not any(one.body for one in held)


@contextmanager
def limit_open_files(most: int) -> Iterator[None]:
    """Let processes that are started in this context open few files, as after `ulimit -n`."""
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)


ATTACKS = {
    "half-sent requests": HALF_HEAD,
    "slow bodies": HALF_BODY,
    "garbage": b"\x16\x03\x01\x02\0\x01\xfc\x03\x03\0\r\n\r\n",
    "pipelines": b"GET /style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200,
    "streams": STREAM,
}


@contextmanager
def hold_connections(port: int, data: bytes, count: int = 300) -> Iterator[list[int]]:
    """Hold as many connections as possible, and replace closed ones; gives a list with an item for each connection."""
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
def test_an_attack_keeps_nobody_out_even_if_few_files_can_be_open(attack: str, host: str) -> None:
    with limit_open_files(256):
        running = Demo(
            "--camera", "sample", "--view", "web", "--port", 0, "--host", host, **{access.TOKEN_VARIABLE: TOKEN}
        )
    with running.ended():
        port = int(running.wait_for_line(r"the demo is at http://[^/]*:(\d+)/")[1])
        cookie = {"Cookie": f"edge_mnist_{port}={TOKEN}"}
        assert ask(port, **cookie)[0] == 200
        before = running.memory()
        with hold_connections(port, ATTACKS[attack]) as made:
            wait(lambda: len(made) >= 300)
            for client in ("127.0.0.2", "127.0.0.1"):
                if client == "127.0.0.1" and attack == "streams" and host == client:
                    continue  # it has as many connections as one client may have, and all are in use
                for _ in range(4):
                    start = time.monotonic()
                    assert ask(port, client=client, **cookie)[0] == 200
                    assert ask(port, "/correct", b"{}", client, **cookie)[0] == 400
                    assert time.monotonic() - start < 3
                    time.sleep(0.2)
            more = running.memory() - before
        errors = "".join(running.errors)
        print(f"{attack}, {host}: {len(made)} connections, {more >> 20} MiB more, {len(running.errors)} lines")
        assert "Traceback" not in errors and len(running.errors) <= 5, errors
        assert more < 64 << 20
        running.process.terminate()
        assert running.wait() == 0
