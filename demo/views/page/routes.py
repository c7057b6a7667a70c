"""The routes of the page: its files, the drawing pad, photographs, corrections and snapshots."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib import resources
from typing import Any

from aiohttp import web

from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.views import snapshots
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.demo.views.page.access import refuse, refuse_too_many
from edge_mnist.demo.views.page.broadcast import Broadcast
from edge_mnist.demo.views.page.connections import find_connection
from edge_mnist.demo.views.page.corrections import Corrections
from edge_mnist.demo.views.page.uploads import UploadReader

_TYPES = {
    "index.html": "text/html",
    "style.css": "text/css",
    "app.js": "text/javascript",
    "icon.svg": "image/svg+xml",
    "openapi.json": "application/json",
}
"""The content types of the files in demo/web."""
_MAX_WAITING = 4
"""Drawings, and photographs, that may wait at once; further ones are refused."""


class Routes:
    """Answers the requests that are not streams."""

    def __init__(
        self,
        broadcast: Broadcast,
        corrections: Corrections,
        uploads: UploadReader,
        encoder: Executor,
        save_snapshot: Callable[[Image, FrameResult], None] | None,
    ) -> None:
        """Load the files of the page.

        Args:
            broadcast: has the newest result.
            corrections: saves corrected digits.
            uploads: reads drawings and photographs.
            encoder: the executor in which pictures are drawn and encoded.
            save_snapshot: saves a snapshot on this machine; None if there is no folder for them.
        """
        self._broadcast, self._corrections, self._uploads = broadcast, corrections, uploads
        self._encoder, self._save_snapshot = encoder, save_snapshot
        self._worker = ThreadPoolExecutor(1, "page-worker")
        # There are two threads, so that others can be read while one photograph takes long.
        self._photographs = ThreadPoolExecutor(2, "photographs")
        self._waiting = {"/pad": 0, "/photo": 0}
        self._files = {name: resources.files("edge_mnist.demo").joinpath("web", name).read_bytes() for name in _TYPES}

    def add_to(self, app: web.Application) -> None:
        """Add all routes of the page, the streams of the broadcast too, to an application."""
        names = "|".join(map(re.escape, sorted(_TYPES)))
        for path, get in (
            ("/", self._send_file),
            (f"/{{name:{names}}}", self._send_file),
            ("/live.mjpg", self._broadcast.send_picture),
            ("/events", self._broadcast.send_events),
            ("/health", self._broadcast.send_health),
        ):
            app.router.add_get(path, get, expect_handler=_ignore_expect)
        for path, post in (
            ("/pad", self._read_drawing),
            ("/photo", self._read_photograph),
            ("/correct", self._correct),
            ("/snapshot", self._take_snapshot),
        ):
            app.router.add_post(path, post, expect_handler=_ignore_expect)

    def close(self) -> None:
        """Drop the work that has not begun."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        self._photographs.shutdown(wait=False, cancel_futures=True)

    async def _send_file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        return web.Response(body=self._files[name], content_type=_TYPES[name], charset="utf-8")

    async def _read_drawing(self, request: web.Request) -> web.Response:
        return await self._read(self._uploads.read_drawing, request, self._worker)

    async def _read_photograph(self, request: web.Request) -> web.Response:
        return await self._read(self._uploads.read_photograph, request, self._photographs)

    async def _read(
        self, read: Callable[[bytes, OpenedModel], dict[str, Any]], request: web.Request, executor: Executor
    ) -> web.Response:
        """Read the body of a request in a thread of an executor, unless too many wait for that."""
        if request.content_type.startswith("multipart/"):
            return refuse(415, "expected the image itself as the body, found a form: curl --data-binary @FILE sends it")
        if self._waiting[request.path] >= _MAX_WAITING:
            return refuse_too_many()
        self._waiting[request.path] += 1
        try:
            return web.json_response(await _run(executor, read, find_connection(request).body, self._broadcast.model))
        finally:
            self._waiting[request.path] -= 1

    async def _correct(self, request: web.Request) -> web.Response:
        """Save a digit under another label, or with a label of null undo that."""
        try:
            correction = json.loads(find_connection(request).body)
            key, label = correction["key"], correction["label"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return refuse(400, "expected a key and a label")
        if label is None:
            await _run(self._worker, self._corrections.undo, key)
            return web.json_response({"saved": None, "corrections": self._corrections.saved})
        path = await _run(self._worker, self._corrections.save, key, label)
        return web.json_response({"saved": str(path), "corrections": self._corrections.saved})

    async def _take_snapshot(self, request: web.Request) -> web.Response:
        """Send the newest frame as two PNG files, without and with boxes, and save both if there is a folder."""
        result = self._broadcast.result
        if result is None:
            return refuse(503, "there is no picture yet")
        drawn = await _run(self._encoder, draw_result, result)
        if self._save_snapshot is not None:
            await _run(self._worker, self._save_snapshot, drawn, result)
        pictures = {
            name: base64.b64encode(await _run(self._encoder, snapshots.encode_png, picture)).decode()
            for name, picture in (("plain", result.frame.image), ("read", drawn))
        }
        return web.json_response({"name": snapshots.make_name(result), **pictures})


async def _run(executor: Executor, function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a thread of an executor."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


async def _ignore_expect(request: web.Request) -> None:
    """Leave `Expect: 100-continue` to `Connection.read_body`; aiohttp's own way fails on values that are not UTF-8."""
