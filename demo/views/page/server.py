"""The page: the live picture, what is read, a pad to draw on, a place for photographs.

It runs in a thread with an event loop of its own. The reading loop hands moments over and never waits; a picture is
encoded once, and only while someone watches; a viewer gets the newest picture when it has taken the last.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import logging
import re
import secrets
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, cast

import cv2
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from edge_mnist.demo.live import events
from edge_mnist.demo.live.loop import FrameResult
from edge_mnist.demo.live.models import Model
from edge_mnist.demo.options import PageOptions
from edge_mnist.demo.reading.reader import THRESHOLD
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views import snapshots
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.demo.views.page import connections, guard
from edge_mnist.demo.views.page.connections import Connection, Connections
from edge_mnist.demo.views.page.notices import Notices
from edge_mnist.demo.views.page.uploads import Desk
from edge_mnist.system.errors import EdgeMnistError

QUALITY = 80
VIEWERS = 32
"""Most live pictures at once."""
HISTORY = 60
_PERIOD = 0.1
"""Seconds between two messages on how it goes."""
_LARGEST = {"/photo": 16 << 20, "/pad": 1 << 18, "/correct": 1 << 12, "/snapshot": 1 << 10}
"""Bytes of a request."""
_RATES = {"/photo": (1.0, 4), "/pad": (25.0, 50), "/correct": (5.0, 20), "/snapshot": (2.0, 5)}
"""Requests of one client: a second, and at once."""
_LINGER = 2.0
"""Seconds in which the rest of a body that was refused is thrown away, so that its sender can see why."""
_TYPES = {"index.html": "text/html", "style.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Page:
    """The server of the page."""

    def __init__(
        self,
        options: PageOptions,
        model: Model,
        source: str,
        snapshot: Callable[[Image, FrameResult], None] | None,
        tell: Callable[[str], None],
    ) -> None:
        """Begin to listen.

        Args:
            options: where, and what it may do.
            model: that reads at first.
            source: the camera's name.
            snapshot: saves a snapshot on this machine as well; None if there is no folder for them.
            tell: takes the line that says where the page is.

        Raises:
            EdgeMnistError: the port is in use, or may not be used.
        """
        self._options, self._model, self._source, self._snapshot = options, model, source, snapshot
        self._access = guard.access(options.host)
        self._desk = Desk(options.corrections, THRESHOLD if options.threshold is None else options.threshold)
        self._worker = ThreadPoolExecutor(1, "desk")
        self._photographs = ThreadPoolExecutor(2, "photographs")  # one that takes long keeps no other waiting
        self._encoder = ThreadPoolExecutor(1, "jpeg")
        self._waiting = dict.fromkeys(("/pad", "/photo"), 0)
        self._notices = Notices(tell)
        self._guesses = guard.Guesses()
        self._buckets = {path: guard.Buckets(*rates) for path, rates in _RATES.items()}
        self._files = {name: resources.files("edge_mnist.demo").joinpath("web", name).read_bytes() for name in _TYPES}
        self._moment: FrameResult | None = None
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._count = 0  # of events, ever
        self._run_name = secrets.token_hex(4)  # tells a page that the count began anew
        self._viewers = 0
        self._picture: tuple[int, bytes] = (0, b"")
        self._error: OSError | None = None
        self.port = options.port
        self._loop = asyncio.new_event_loop()
        self._next: asyncio.Future[None] = self._loop.create_future()
        self._painted: asyncio.Future[None] = self._loop.create_future()
        listening = threading.Event()
        self._ended = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(listening,), name="page", daemon=True)
        self._thread.start()
        listening.wait()
        if self._error is not None:
            self._thread.join()
            raise _refused(options, self._error)
        link = f"http://{guard.reachable(options.host)}:{self.port}/"
        if self._access.token is not None:
            link += f"?token={self._access.token}"
        tell(f"the demo is at {link}")

    def show(self, moment: FrameResult) -> None:
        """Hand a moment over, from the thread that reads."""
        self._loop.call_soon_threadsafe(self._take, moment)

    def close(self) -> None:
        """Let the viewers go and stop to listen."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set_result, None)
            self._thread.join(3.0)
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._photographs.shutdown(wait=False, cancel_futures=True)
        self._desk.close()
        self._encoder.shutdown(wait=False, cancel_futures=True)

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._note_trouble)
        try:
            self._loop.run_until_complete(self._serve(listening))
        finally:
            listening.set()
            # What still runs is ended here: it would complain if it found the loop closed.
            running = asyncio.all_tasks(self._loop)
            for task in running:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*running, return_exceptions=True))
            self._loop.close()

    async def _serve(self, listening: threading.Event) -> None:
        app = web.Application(middlewares=[self._guarded])
        app.on_response_prepare.append(_add_headers)
        names = "|".join(map(re.escape, sorted(_TYPES)))
        for path, show in (("/", self._file), (f"/{{name:{names}}}", self._file), ("/live.mjpg", self._live)):
            app.router.add_get(path, show, expect_handler=_ignore)
        app.router.add_get("/events", self._events, expect_handler=_ignore)
        for path, do in (("/pad", self._pad), ("/photo", self._photo), ("/correct", self._correct)):
            app.router.add_post(path, do, expect_handler=_ignore)
        app.router.add_post("/snapshot", self._take_snapshot, expect_handler=_ignore)
        logger = logging.Logger("edge_mnist.page")
        logger.addHandler(_ToNotices(self._notices))
        # A body that is compressed could be many times larger than it seems; browsers send none.
        options: dict[str, Any] = {"logger": logger, "lingering_time": _LINGER, "auto_decompress": False}
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, **options)
        await runner.setup()
        all_connections, serve = Connections(self._notices), cast(Callable[[], asyncio.Protocol], runner.server)
        try:
            server = await self._loop.create_server(
                lambda: Connection(all_connections, serve),
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
        painter = self._loop.create_task(self._paint())
        await self._ended
        painter.cancel()
        server.close()
        await runner.cleanup()

    def _take(self, moment: FrameResult) -> None:
        """A moment arrives in the thread of the page."""
        self._moment, self._model = moment, moment.model
        for event in moment.events:
            self._count += 1
            number = event.number
            digits = self._desk.digits(number.digits, number.unsure) if event.kind != "gone" else []
            self._history.append({**events.facts(event), "digits": digits, "count": self._count})
        self._next.set_result(None)
        self._next = self._loop.create_future()

    async def _paint(self) -> None:
        """Encode the newest picture as long as someone watches."""
        number = 0
        while True:
            await asyncio.shield(self._next)
            moment = self._moment
            if moment is None or self._viewers == 0:
                continue
            number += 1
            self._picture = number, await self._loop.run_in_executor(self._encoder, _encode, moment)
            self._painted.set_result(None)
            self._painted = self._loop.create_future()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse who may not; receive the body; answer errors as JSON."""
        connection = connections.of(request)
        refusal = self._refusal(request, connection.client)
        if refusal is not None:
            return refusal
        try:
            if request.method == "POST":
                await connection.read_body(request, _LARGEST.get(request.path, 0))
                if request.path in self._buckets and not self._buckets[request.path].of(connection.client).take():
                    return _refuse(429, "too many requests: wait a second")
            with connection.answering():
                answer = await handler(request)
                await answer.prepare(request)
                await answer.write_eof()
                return answer
        except EdgeMnistError as error:
            return _refuse(422, str(error))
        except web.HTTPRequestEntityTooLarge:
            return _refuse(413, _too_large(request))
        except web.HTTPException as error:
            return _refuse(error.status, error.reason)
        except web.RequestPayloadError:
            return _refuse(400, "the body is malformed")
        except ConnectionError:
            raise
        except Exception as error:
            self._notices(
                f"failure {request.path} {type(error).__name__}", f"the page failed at {request.path}: {error!r}"
            )
            return _refuse(500, "this failed: the demo's stderr says why")

    def _refusal(self, request: web.Request, client: str) -> web.Response | None:
        """The answer to a request that may not be served; may set the cookie."""
        host = request.headers.get("Host", "")
        if not self._access.knows_host(host):
            return _refuse(403, "this machine is not known by that name: use its address, or localhost")
        cookie = f"edge_mnist_{self.port}"
        token = request.query.get("token") or request.cookies.get(cookie)
        if self._access.token is not None and token and self._guesses.are_used_up(client):
            self._notices(
                "guesses", f"the page refuses tokens for some time: too many wrong ones, the last from {client}"
            )
            return _refuse(429, "too many wrong tokens: wait a minute")
        if not self._access.knows_token(token):
            if token:
                self._guesses.add_wrong(client, token)
            return _refuse(403, "the link that the demo printed holds a token, which is missing here or wrong")
        self._guesses.add_right(client)
        if "token" in request.query and self._access.token is not None:
            answer = web.Response(status=303, headers={"Location": "/"})
            answer.set_cookie(cookie, self._access.token, httponly=True, samesite="Strict", max_age=30 * 86400)
            return answer
        if request.method == "POST":
            origin = request.headers.get("Origin")
            if origin is not None and origin.partition("://")[2] != host:
                return _refuse(403, "requests of other sites are refused")
            if (request.content_length or 0) > _LARGEST.get(request.path, 0):
                return _refuse(413, _too_large(request))
        return None

    def _note_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Write a line where asyncio would write a traceback, such as when no more connections can be opened."""
        error = context.get("exception")
        self._notices(f"loop {type(error).__name__}", f"the page: {context['message']}: {error!r}")

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        return web.Response(body=self._files[name], content_type=_TYPES[name], charset="utf-8")

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """The live picture: JPEGs, each in place of the last (multipart/x-mixed-replace)."""
        if self._viewers >= VIEWERS:
            return _refuse(503, f"{VIEWERS} are watching already")
        answer = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=picture"})
        await answer.prepare(request)
        self._viewers += 1
        try:
            await answer.write(b"--picture\r\n")
            sent = self._picture[0]
            while True:
                while self._picture[0] == sent:
                    await asyncio.shield(self._painted)
                sent, jpeg = self._picture
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                # A browser shows a picture when it sees the boundary after it.
                await answer.write(head + jpeg + b"\r\n--picture\r\n")
        finally:
            self._viewers -= 1

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """What is read, and how fast (server-sent events)."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        told = 0
        while True:
            fresh = [item for item in self._history if item["count"] > told]
            told = self._count
            message = json.dumps({**self._status(), "history": fresh})
            await answer.write(f"data: {message}\n\n".encode())
            await asyncio.sleep(_PERIOD)
            await asyncio.shield(self._next)

    def _status(self) -> dict[str, Any]:
        """How it goes, for the page."""
        model = {"name": self._model.path.name, "sha256": self._model.sha256, "runtime": self._model.classifier.runtime}
        moment = self._moment
        if moment is None:
            known = {"run": self._run_name, "source": self._source, "model": model, "corrections": self._desk.saved}
            return {"state": "opening", "numbers": [], **known}
        numbers = [
            {"id": number.id, "text": number.text, "confidence": round(number.confidence, 4)}
            for number in moment.numbers
        ]
        return {
            "state": moment.state.kind,
            "run": self._run_name,
            "trouble": moment.state.text,
            "source": self._source,
            "size": [moment.frame.image.shape[1], moment.frame.image.shape[0]],
            "model": model,
            "refused": moment.refused,
            "corrections": self._desk.saved,
            "numbers": numbers,
            "rate": round(moment.rate, 1),
            "milliseconds": {stage: round(value, 2) for stage, value in moment.milliseconds.items()},
            "viewers": self._viewers,
        }

    async def _pad(self, request: web.Request) -> web.Response:
        return await self._read(self._desk.drawing, request, self._worker)

    async def _photo(self, request: web.Request) -> web.Response:
        return await self._read(self._desk.photograph, request, self._photographs)

    async def _read(
        self, read: Callable[[bytes, Model], dict[str, Any]], request: web.Request, executor: ThreadPoolExecutor
    ) -> web.Response:
        """Let the desk read in a thread of an executor, a few at once in its queue."""
        if self._waiting[request.path] >= 4:
            return _refuse(429, "too many requests: wait a second")
        self._waiting[request.path] += 1
        try:
            body = connections.of(request).body
            return web.json_response(await self._loop.run_in_executor(executor, read, body, self._model))
        finally:
            self._waiting[request.path] -= 1

    async def _correct(self, request: web.Request) -> web.Response:
        try:
            said = json.loads(connections.of(request).body)
            key, label = said["key"], said["label"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return _refuse(400, "expected a key and a label")
        if label is None:
            await self._loop.run_in_executor(self._worker, self._desk.forget, key)
            return web.json_response({"saved": None, "corrections": self._desk.saved})
        path = await self._loop.run_in_executor(self._worker, self._desk.correct, key, label)
        return web.json_response({"saved": str(path), "corrections": self._desk.saved})

    async def _take_snapshot(self, request: web.Request) -> web.Response:
        moment = self._moment
        if moment is None:
            return _refuse(503, "there is no picture yet")
        image = await self._loop.run_in_executor(self._encoder, draw_result, moment)
        if self._snapshot is not None:
            await self._loop.run_in_executor(self._worker, self._snapshot, image, moment)
        pictures = {
            name: base64.b64encode(await self._loop.run_in_executor(self._encoder, snapshots.png, picture)).decode()
            for name, picture in (("plain", moment.frame.image), ("read", image))
        }
        return web.json_response({"name": snapshots.name(moment), **pictures})


class _ToNotices(logging.Handler):
    """Turns what aiohttp logs about a malformed request, with a traceback, into a line."""

    def __init__(self, notices: Notices) -> None:
        super().__init__()
        self._notices = notices

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ConnectionError):  # the client is gone, as it may
            return
        text = f"the page: {record.getMessage()}: {error!r}"
        if isinstance(error, HttpProcessingError):
            client = record.args[0] if isinstance(record.args, tuple) and record.args else "a client"
            text = f"the page refused a malformed request of {client}: {' '.join(error.message.split())}"
        self._notices(f"request {type(error).__name__}", text)


async def _add_headers(request: web.Request, answer: web.StreamResponse) -> None:
    answer.headers.update(guard.HEADERS)
    answer.headers["Server"] = "edge-mnist"


async def _ignore(request: web.Request) -> None:
    """Leave `Expect: 100-continue` to `read_body`; aiohttp's own way fails on other words that are no UTF-8."""


def _too_large(request: web.Request) -> str:
    return f"too large: at most {_LARGEST.get(request.path, 0) >> 10} KiB are taken"


def _refuse(status: int, reason: str) -> web.Response:
    return web.json_response({"error": reason}, status=status)


def _encode(moment: FrameResult) -> bytes:
    return cv2.imencode(".jpg", draw_result(moment, bar=False), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _refused(options: PageOptions, error: OSError) -> EdgeMnistError:
    where = f"--port {options.port}"
    if error.errno == errno.EADDRINUSE:
        return EdgeMnistError(
            f"{where}: is in use already, perhaps by another demo: choose another, or 0 for a free one"
        )
    if error.errno == errno.EACCES:
        return EdgeMnistError(f"{where}: may not be used: choose one from 1024 on")
    return EdgeMnistError(f"--host {options.host} {where}: cannot listen there: {error.strerror or error}")
