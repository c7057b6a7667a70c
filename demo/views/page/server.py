"""The page as a view: starts and stops its server, and hands results over to it.

The server runs in a thread with an event loop of its own, so that the live loop never waits for it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.options import PageOptions
from edge_mnist.demo.reading.reader import THRESHOLD
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views.notices import Notices
from edge_mnist.demo.views.page import connections
from edge_mnist.demo.views.page.access import Gate, find_link_host, make_rules
from edge_mnist.demo.views.page.broadcast import Broadcast
from edge_mnist.demo.views.page.connections import Connection, Connections
from edge_mnist.demo.views.page.corrections import Corrections
from edge_mnist.demo.views.page.middleware import add_headers, make_middleware
from edge_mnist.demo.views.page.routes import Routes
from edge_mnist.demo.views.page.uploads import UploadReader
from edge_mnist.system.errors import EdgeMnistError

_LINGERING_SECONDS = 2.0
"""Seconds in which the rest of a body that was refused is received and dropped, so that its sender gets the reason."""
_SHUTDOWN_SECONDS = 0.2
"""Seconds that open connections may take to end when the demo ends."""
_CLOSING_SECONDS = 3.0
"""Seconds that `close` waits for the thread."""


class PageView:
    """The page, which browsers show.

    Attributes:
        port: the port that the server listens on.
    """

    def __init__(
        self,
        options: PageOptions,
        model: OpenedModel,
        source: str,
        save_snapshot: Callable[[Image, FrameResult], None] | None,
        report: Callable[[str], None],
    ) -> None:
        """Start the server, and wait until it listens.

        Args:
            options: the options of the page.
            model: the network that reads at first.
            source: the name of the camera.
            save_snapshot: saves a snapshot on this machine; None if there is no folder for them.
            report: is called with the line that says where the page is, and with lines about trouble.

        Raises:
            UsageError: the token in the environment is too short.
            EdgeMnistError: the port is in use, or may not be used.
        """
        self._options = options
        self.port = options.port
        self._notices = Notices(report)
        rules = make_rules(options.host)
        self._gate = Gate(rules, self._notices)
        self._loop = asyncio.new_event_loop()
        self._encoder = ThreadPoolExecutor(1, "jpeg")
        self._corrections = Corrections(options.corrections)
        threshold = THRESHOLD if options.threshold is None else options.threshold
        self._uploads = UploadReader(self._corrections, threshold)
        self._broadcast = Broadcast(model, source, self._corrections, self._encoder, self._loop)
        self._routes = Routes(self._broadcast, self._corrections, self._uploads, self._encoder, save_snapshot)
        self._error: OSError | None = None
        self._ended = self._loop.create_future()
        listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listening,), name="page", daemon=True)
        self._thread.start()
        listening.wait()
        if self._error is not None:
            self._thread.join()
            raise _explain_failure(options, self._error)
        query = "" if rules.token is None else f"?token={rules.token}"
        report(f"the demo is at http://{find_link_host(options.host)}:{self.port}/{query}")

    def show(self, result: FrameResult) -> None:
        """Hand a result over; called in the thread of the live loop."""
        self._loop.call_soon_threadsafe(self._broadcast.take, result)

    def close(self) -> None:
        """Disconnect the viewers and stop the server."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set_result, None)
            self._thread.join(_CLOSING_SECONDS)
        self._routes.close()
        self._uploads.close()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def _run(self, listening: threading.Event) -> None:
        """Run the event loop; the body of the thread."""
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._report_loop_error)
        try:
            self._loop.run_until_complete(self._serve(listening))
        finally:
            listening.set()
            # Tasks that still run must end before the loop is closed, or they would complain about that.
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, listening: threading.Event) -> None:
        """Listen until the view is closed."""
        app = web.Application(middlewares=[make_middleware(self._gate, self._notices, lambda: self.port)])
        app.on_response_prepare.append(add_headers)
        self._routes.add_to(app)
        logger = logging.Logger("edge_mnist.page")
        logger.addHandler(_NoticeHandler(self._notices))
        # A compressed body could be many times larger than it seems; browsers send none.
        options: dict[str, Any] = {"logger": logger, "lingering_time": _LINGERING_SECONDS, "auto_decompress": False}
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS, **options)
        await runner.setup()
        all_connections, make_handler = Connections(self._notices), cast(Callable[[], asyncio.Protocol], runner.server)
        try:
            server = await self._loop.create_server(
                lambda: Connection(all_connections, make_handler),
                self._options.host,
                self._options.port,
                backlog=connections.BACKLOG,
            )
            self.port = int(server.sockets[0].getsockname()[1])
        except OSError as error:
            self._error = error
            await runner.cleanup()
            return
        listening.set()
        encoding = self._loop.create_task(self._broadcast.encode_pictures())
        await self._ended
        encoding.cancel()
        server.close()
        await runner.cleanup()

    def _report_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report in one line what asyncio would print as a traceback, such as that no connection can be opened."""
        error = context.get("exception")
        self._notices.add(f"loop {type(error).__name__}", f"the page: {context['message']}: {error!r}")


class _NoticeHandler(logging.Handler):
    """Reports in one line what aiohttp logs about a malformed request with a traceback."""

    def __init__(self, notices: Notices) -> None:
        super().__init__()
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        """Report a record."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError):  # a client may disconnect at any time
            return
        text = f"the page: {record.getMessage()}: {error!r}"
        if isinstance(error, HttpProcessingError):
            client = record.args[0] if isinstance(record.args, tuple) and record.args else "a client"
            text = f"the page refused a malformed request of {client}: {' '.join(error.message.split())}"
        self._notices.add(f"request {type(error).__name__}", text)


def _explain_failure(options: PageOptions, error: OSError) -> EdgeMnistError:
    """Make the error that the server cannot listen."""
    port = f"--port {options.port}"
    if error.errno == errno.EADDRINUSE:
        return EdgeMnistError(
            f"{port}: is in use already, perhaps by another demo: choose another, or 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return EdgeMnistError(f"{port}: may not be used: choose one from 1024 on")
    return EdgeMnistError(f"--host {options.host} {port}: cannot listen there: {error.strerror or error}")
