"""The page's connections: how long a client may keep one waiting, and how many there may be.

aiohttp has no limits of this kind. Each connection is an asyncio protocol that passes everything on to aiohttp's own
handler and watches the time. What waits for its client (for a request's head, for its body, for the next request) can
be closed without harm: where there are too many connections, the one that has waited longest makes room. So requests
that are never finished cannot keep anybody out, even if they come from the same address.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from aiohttp import web

from edge_mnist.demo.views.page.notices import Notices

HEAD_SECONDS = 10.0
"""Longest wait for the head of a request, and for the next request on a connection."""
BODY_SECONDS = 30.0
"""Longest time that the body of a request may take: a photograph of 8 MB at 2 Mbit/s."""
STALL_SECONDS = 20.0
"""A client that takes nothing of an answer for so long is let go."""
MOST = 128
"""Most connections in all. A page that is watched has two; 32 pages can be watched at once."""
MOST_BODY_BYTES = 48 << 20
"""Most bytes of unfinished bodies in all: three of the largest photographs."""
BACKLOG = 16
"""Connections that are accepted at once. asyncio holds a few times as many for a moment before a limit can act."""


class Connections:
    """All connections of a server.

    Attributes:
        most: connections in all.
        most_of_one: connections of one address, half of them all, so that one client never has all.
    """

    def __init__(self, notices: Notices) -> None:
        """Set the limits by the number of files that this process may still open."""
        self.most = max(8, min(MOST, _free_files() - 5 * BACKLOG))
        self.most_of_one = self.most // 2
        self._notices = notices
        self._open: dict[Connection, None] = {}  # in the order in which they came

    def admit(self, connection: Connection) -> bool:
        """Whether a new connection may stay; another one may have to go for it."""
        counts = Counter(other.client for other in self._open)
        if counts[connection.client] >= self.most_of_one:
            crowd = connection.client
        elif len(self._open) >= self.most:
            crowd = counts.most_common(1)[0][0]
        else:
            crowd = None
        if crowd is not None:
            self._notices(
                "connections", f"the page has too many connections, most from {crowd}: the idle ones are closed"
            )
            idle = next((other for other in self._open if other.client == crowd and other.is_waiting), None)
            if idle is None:
                return False
            idle.abort()
        self._open[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection, None)

    def limit_bodies(self) -> None:
        """Close the connection that holds the most bytes of an unfinished body, if all together hold too many."""
        if sum(connection.held for connection in self._open) > MOST_BODY_BYTES:
            largest = max(self._open, key=lambda connection: connection.held)
            self._notices(
                "bodies", f"the page receives too many large bodies at once: that of {largest.client} is dropped"
            )
            largest.abort()


class Connection(asyncio.Protocol):
    """A connection, which ends when its client lets it wait too long.

    Attributes:
        client: the address of the other side.
        body: of the request that is answered now.
        held: bytes of an unfinished body that have come so far.
        is_waiting: whether the client is to send something next.
    """

    def __init__(self, connections: Connections, create: Callable[[], asyncio.Protocol]) -> None:
        """Prepare a connection.

        Args:
            connections: all of them.
            create: makes the protocol that serves it, once it is admitted.
        """
        self.client, self.body, self.held, self.is_waiting = "", b"", 0, True
        self._connections, self._create = connections, create
        self._transport: asyncio.Transport | None = None
        self._handler: asyncio.Protocol | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, or close it at once if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        self.client = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._connections.admit(self):
            self._transport.abort()
            return
        self._handler = self._create()
        self._handler.connection_made(transport)
        self.wait(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Pass on what came."""
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that no more will come."""
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        """Pass on that the client takes less than it is sent, and watch that it takes something."""
        self._watch_stall(sys.maxsize)
        if self._handler is not None:
            self._handler.pause_writing()

    def _watch_stall(self, left: int) -> None:
        """Close the connection if not fewer than `left` bytes are still to be taken."""
        size = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if size >= left:
            self.abort()
        else:
            self._stall = asyncio.get_running_loop().call_later(STALL_SECONDS, self._watch_stall, size)

    def resume_writing(self) -> None:
        """Pass on that the client has taken what was there."""
        _cancel(self._stall)
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that it is closed."""
        self._connections.remove(self)
        _cancel(self._deadline)
        _cancel(self._stall)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def wait(self, seconds: float) -> None:
        """Let the client send something within some seconds, else close the connection."""
        _cancel(self._deadline)
        self.is_waiting = True
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A context in which the server is at work for the client, who need not send anything."""
        _cancel(self._deadline)
        self.is_waiting = False
        try:
            yield
        finally:
            self.body = b""
            self.wait(HEAD_SECONDS)

    async def read_body(self, request: web.Request, most: int) -> None:
        """Receive the body of a request.

        Args:
            request: of this connection.
            most: bytes.

        Raises:
            HTTPRequestEntityTooLarge: it has more.
            ConnectionError: it took too long, or all bodies together have too many bytes.
            RequestPayloadError: it is malformed.
        """
        chunks = []
        self.wait(BODY_SECONDS)
        if self._transport is not None and request.headers.get("Expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async for chunk in request.content.iter_any():
                chunks.append(chunk)
                self.held += len(chunk)
                if self.held > most:
                    raise web.HTTPRequestEntityTooLarge(most, self.held)
                self._connections.limit_bodies()
            self.body = b"".join(chunks)
        finally:
            self.held = 0

    def abort(self) -> None:
        """Close it without ado."""
        self._connections.remove(self)
        if self._transport is not None:
            self._transport.abort()


def of(request: web.Request) -> Connection:
    """The connection of a request.

    Raises:
        ConnectionResetError: it is closed already.
    """
    connection = request.transport.get_protocol() if request.transport is not None else None
    if not isinstance(connection, Connection):
        raise ConnectionResetError("the client is gone")
    return connection


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _free_files() -> int:
    """How many files and connections this process may still open."""
    if sys.platform == "win32":  # it has no such limit
        return 1 << 16
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:
        return limit - 64
