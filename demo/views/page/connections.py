"""The connections of the page: how long a client may let one wait, and how many there may be.

aiohttp has no limits of this kind. Each connection is an asyncio protocol that passes everything on to the protocol of
aiohttp and watches the time. A connection that waits for its client (for the head of a request, for its body, or for
the next request) can be closed without harm: where there are too many, the one that has waited longest is closed.
Therefore requests that are never finished cannot keep anybody out, even if they come from the same address.
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

from edge_mnist.demo.views.notices import Notices

HEAD_SECONDS = 10.0
"""The longest wait for the head of a request, and for the next request on a connection."""
BODY_SECONDS = 30.0
"""The longest time that the body of a request may take: that of a photograph of 8 MB at 2 Mbit/s."""
STALL_SECONDS = 20.0
"""Seconds after which a client that receives nothing of a response is disconnected."""
MAX_CONNECTIONS = 128
"""The most connections in all. A page that is shown has two, and 32 pages can be shown at once."""
MAX_BODY_BYTES = 48 << 20
"""The most bytes of all unfinished bodies together: three of the largest photographs."""
BACKLOG = 16
"""Connections that are accepted at once. asyncio opens a few times as many for a moment before a limit can act."""
_MIN_CONNECTIONS = 8
"""The least number of connections, however few files the process may open."""
_ASSUMED_FILES = 64
"""The number of open files that is assumed where the system does not tell it."""


class Connections:
    """All connections of a server.

    Attributes:
        most: the most connections in all.
        most_per_client: the most connections of one address: half of all, so that no client can have them all.
    """

    def __init__(self, notices: Notices) -> None:
        """Set the limits by the number of files that this process may still open."""
        self.most = max(_MIN_CONNECTIONS, min(MAX_CONNECTIONS, _count_free_files() - 5 * BACKLOG))
        self.most_per_client = self.most // 2
        self._notices = notices
        self._open: dict[Connection, None] = {}  # in the order in which they were opened

    def admit(self, connection: Connection) -> bool:
        """Admit a new connection, and close another one for it if there are too many.

        Returns:
            Whether it is admitted: not if there are too many and all of them are in use.
        """
        counts = Counter(other.client for other in self._open)
        if counts[connection.client] >= self.most_per_client:
            client = connection.client
        elif len(self._open) >= self.most:
            client = counts.most_common(1)[0][0]
        else:
            client = None
        if client is not None:
            self._notices.add(
                "connections", f"the page has too many connections, most from {client}: the idle ones are closed"
            )
            idle = next((other for other in self._open if other.client == client and other.is_waiting), None)
            if idle is None:
                return False
            idle.abort()
        self._open[connection] = None
        return True

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._open.pop(connection, None)

    def limit_bodies(self) -> None:
        """Close the connection with the most bytes of an unfinished body, if all together have too many."""
        if sum(connection.received for connection in self._open) > MAX_BODY_BYTES:
            largest = max(self._open, key=lambda connection: connection.received)
            self._notices.add(
                "bodies", f"the page receives too many large bodies at once: that of {largest.client} is dropped"
            )
            largest.abort()


class Connection(asyncio.Protocol):
    """A connection that is closed when its client lets it wait too long.

    Attributes:
        client: the address of the client.
        body: the body of the request that is being answered.
        received: the bytes of an unfinished body that have been received.
        is_waiting: whether it is the client's turn to send something.
    """

    def __init__(self, connections: Connections, make_handler: Callable[[], asyncio.Protocol]) -> None:
        """Prepare a connection.

        Args:
            connections: all connections of the server.
            make_handler: makes the protocol of aiohttp that serves the connection once it is admitted.
        """
        self.client, self.body, self.received, self.is_waiting = "", b"", 0, True
        self._connections, self._make_handler = connections, make_handler
        self._transport: asyncio.Transport | None = None
        self._handler: asyncio.Protocol | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve the connection, or close it at once if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        self.client = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._connections.admit(self):
            self._transport.abort()
            return
        self._handler = self._make_handler()
        self._handler.connection_made(transport)
        self.wait_for_client(HEAD_SECONDS)

    def data_received(self, data: bytes) -> None:
        """Pass on what the client sent."""
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass on that the client will send no more."""
        return self._handler.eof_received() if self._handler is not None else None

    def pause_writing(self) -> None:
        """Pass on that the client receives less than it is sent, and watch that it receives something."""
        self._watch_stall(sys.maxsize)
        if self._handler is not None:
            self._handler.pause_writing()

    def _watch_stall(self, last_size: int) -> None:
        """Close the connection if no fewer bytes are to be sent than `last_size`; else look again later."""
        size = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if size >= last_size:
            self.abort()
        else:
            self._stall_timer = asyncio.get_running_loop().call_later(STALL_SECONDS, self._watch_stall, size)

    def resume_writing(self) -> None:
        """Pass on that the client has received what was sent."""
        _cancel(self._stall_timer)
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on that the connection is closed."""
        self._connections.remove(self)
        _cancel(self._deadline)
        _cancel(self._stall_timer)
        if self._handler is not None:
            self._handler.connection_lost(exc)

    def wait_for_client(self, seconds: float) -> None:
        """Give the client some seconds to send something, after which the connection is closed."""
        _cancel(self._deadline)
        self.is_waiting = True
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.abort)

    @contextmanager
    def answer(self) -> Iterator[None]:
        """Set no deadline within the context, in which the server works on its response."""
        _cancel(self._deadline)
        self.is_waiting = False
        try:
            yield
        finally:
            self.body = b""
            self.wait_for_client(HEAD_SECONDS)

    async def read_body(self, request: web.Request, max_bytes: int) -> None:
        """Receive the body of a request of this connection.

        Args:
            request: the request.
            max_bytes: the most bytes that the body may have.

        Raises:
            HTTPRequestEntityTooLarge: it has more.
            ConnectionError: it took too long, or all bodies together have too many bytes.
            RequestPayloadError: it is malformed.
        """
        chunks = []
        self.wait_for_client(BODY_SECONDS)
        if self._transport is not None and request.headers.get("Expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async for chunk in request.content.iter_any():
                chunks.append(chunk)
                self.received += len(chunk)
                if self.received > max_bytes:
                    raise web.HTTPRequestEntityTooLarge(max_bytes, self.received)
                self._connections.limit_bodies()
            self.body = b"".join(chunks)
        finally:
            self.received = 0

    def abort(self) -> None:
        """Close the connection at once."""
        self._connections.remove(self)
        if self._transport is not None:
            self._transport.abort()


def find_connection(request: web.Request) -> Connection:
    """Find the connection of a request.

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


def _count_free_files() -> int:
    """Count the files and connections that this process may still open."""
    if sys.platform == "win32":  # there is no such limit on Windows
        return 1 << 16
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        return limit - len(os.listdir("/dev/fd"))
    except OSError:
        return limit - _ASSUMED_FILES
