"""Mutated requests: the page answers or closes, writes no traceback, does not grow, and serves the next visitor."""

from __future__ import annotations

import random
import socket
import time
from contextlib import closing

import pytest

from tests.demo.test_connections import ask
from tests.support.demos import demo

SEED, COUNT, AT_ONCE = 17, 1500, 10
HEAD = "Host: localhost\r\nUser-Agent: x\r\nAccept: */*\r\nCookie: edge_mnist_8090=abc; a=b\r\n"
KEY = b'{"key": "0123456789abcdef", "label": "3"}'
SEEDS = [
    *(
        f"GET {path} HTTP/1.1\r\n{HEAD}\r\n".encode()
        for path in ("/", "/app.js", "/?token=abc", "/events", "/live.mjpg", "/health", "/openapi.json")
    ),
    *(
        f"POST {path} HTTP/1.1\r\n{HEAD}Origin: http://localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        for path, body in (
            ("/correct", KEY),
            ("/pad", b"\x89PNG\r\n\x1a\n"),
            ("/photo", b"\xff\xd8\xff"),
            ("/snapshot", b""),
        )
    ),
    f"POST /correct HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode() + b"29\r\n" + KEY + b"\r\n0\r\n\r\n",
    f"POST /pad HTTP/1.1\r\n{HEAD}Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n".encode() + b"\x1f\x8b\x08\0",
    f"POST /pad HTTP/1.1\r\n{HEAD}Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx".encode(),
    f"GET / HTTP/1.1\r\n{HEAD}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n".encode(),
]
PIECES = [
    *(
        b"\r\n",
        b"\n",
        b"\0",
        b"\xff",
        b" ",
        b":",
        b"%",
        b"%00",
        b"%ed%a0%80",
        b"[",
        b"{",
        b'"',
        b"..",
        b"//",
        b"\x1b[2J",
    ),
    *(b"-1", b"0", b"99999999999999999999", b"1e9", b"0x10", b"\xc3\x28", b"HTTP/9.9", b"HTTP/1.0", b"CONNECT", b"PRI"),
    *(
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Host: [::1\r\n",
        b"Host: \r\n",
    ),
    *(
        b'Cookie: \xff=\xfe; a="\r\n',
        b"Range: bytes=9-1\r\n",
        b"Authorization: Bearer \xff\xed\xa0\x80\r\n",
        b"Content-Type: multipart/form-data\r\n",
        b"http://x:y@[::",
    ),
    *(
        b"A" * 9000,
        b"X: y\r\n" * 200,
        b"[" * 4000,
        b"?" + b"a=b&" * 500,
        b"Origin: http://\xff\r\n",
        b"null",
        b"\xed\xa0\x80",
    ),
]


def mutate(request: bytes, choose: random.Random) -> bytes:
    """A request with one or two changes: bits, bytes, pieces, parts that are missing or doubled."""
    data = bytearray(request)
    for _ in range(choose.randint(1, 2)):
        line, body = data.find(b"\r\n"), data.find(b"\r\n\r\n") + 4
        first, last = choose.choice(((4, line), (line + 2, body), (body, len(data))))  # as often in each part
        place, length = choose.randint(min(first, last), max(first, last)), choose.choice((1, 1, 2, 8, 40))
        kind = choose.randrange(6)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << choose.randrange(8)
        elif kind == 1:
            data[place : place + length] = choose.randbytes(length)
        elif kind == 2:
            data[place:place] = choose.choice(PIECES)
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * choose.choice((1, 2, 20))
        else:
            line = request.find(b"\r\n", place) + 2  # what a head may hold is put where a line begins
            data[line:line] = choose.choice(PIECES)
    return bytes(data)


@pytest.mark.slow
def test_mutated_requests_leave_no_trace() -> None:
    choose = random.Random(SEED)
    answers: dict[str, int] = {}
    with demo("--camera", "sample", "--view", "web", "--port", 0, "--fps", 5) as running:
        port = int(running.wait_for_line(r"the demo is at http://[^/]*:(\d+)/")[1])
        requests = [mutate(choose.choice(SEEDS), choose) for _ in range(COUNT)]
        held: list[socket.socket] = []
        before = 0
        for number, request in enumerate(requests):
            held.append(socket.create_connection(("127.0.0.1", port), 10))
            held[-1].sendall(request)
            if len(held) == AT_ONCE:
                time.sleep(0.1)
                for connection in held:
                    status = answer(connection)
                    answers[status] = answers.get(status, 0) + 1
                held = []
                start = time.monotonic()
                assert ask(port)[0] == 200 and time.monotonic() - start < 5, request
            if number == COUNT // 3:
                before = running.memory()
        more = running.memory() - before
        running.process.terminate()
        assert running.wait() == 0
    said = "".join(running.errors)
    print(f"{COUNT} requests: {answers}, {more >> 10} KiB more over the last two thirds\n{said}")
    assert "Traceback" not in said and "failed" not in said and "500" not in answers
    assert len(running.errors) < 40 and more < 16 << 20
    assert {"200", "400", "403", "404"} <= answers.keys()


def answer(connection: socket.socket) -> str:
    """The status of what a connection has received, and its end."""
    with closing(connection):
        connection.setblocking(False)
        try:
            words = connection.recv(100).split()
            return words[1].decode() if len(words) > 1 else "closed"
        except BlockingIOError:
            return "waits"
        except ConnectionError:
            return "closed"
