"""Sends the live picture and the events to all viewers of the page.

A picture is encoded once for all viewers, and only while someone watches. A viewer gets the newest picture when it has
taken the last one, so that a slow viewer gets fewer of them and delays nobody.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from concurrent.futures import Executor
from typing import Any

import cv2
from aiohttp import web

from edge_mnist import __version__
from edge_mnist.demo.live.events import describe_event
from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.views.drawing import draw_result
from edge_mnist.demo.views.page.access import refuse
from edge_mnist.demo.views.page.corrections import Corrections

MAX_VIEWERS = 32
"""The most live pictures that are sent at once."""
_JPEG_QUALITY = 80
"""The quality of the live picture, 0 to 100."""
_HISTORY = 60
"""The number of events that a new viewer gets."""
_STATUS_SECONDS = 0.1
"""Seconds between two messages with the status."""
_STALLED_SECONDS, _STALLED_FRAMES = 10.0, 3
"""The demo has stalled if no frame was read for this many seconds, and for the usual time of this many frames."""


class Broadcast:
    """The newest result, and what viewers get of it. All methods run in the event loop of the page.

    Attributes:
        result: the newest result; None before the first frame.
        model: the network that reads.
        viewers: how many viewers the live picture is sent to.
    """

    def __init__(
        self,
        model: OpenedModel,
        source: str,
        corrections: Corrections,
        encoder: Executor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Begin without a frame.

        Args:
            model: the network that reads at first.
            source: the name of the camera.
            corrections: remembers the digits of numbers, so that viewers can correct them.
            encoder: the executor in which pictures are drawn and encoded.
            loop: the event loop of the page.
        """
        self.result: FrameResult | None = None
        self.model = model
        self.viewers = 0
        self._source, self._corrections, self._encoder = source, corrections, encoder
        self._history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        self._event_count = 0  # the last event's "count", which counts all events of this run
        self._run = secrets.token_hex(4)  # tells a page that was left open that the count began anew
        self._picture: tuple[int, bytes] = (0, b"")  # its number and its JPEG
        self._last_frame = time.monotonic()  # when the last frame was read; before the first one, when the page began
        self._has_result, self._has_picture = _Signal(loop), _Signal(loop)

    def take(self, result: FrameResult) -> None:
        """Take a new result."""
        self.result, self.model = result, result.model
        if result.is_new:
            self._last_frame = time.monotonic()
        for event in result.events:
            self._event_count += 1
            number = event.number
            digits = [] if event.kind == "gone" else self._corrections.describe_digits(number.digits, number.unsure)
            self._history.append({**describe_event(event), "digits": digits, "count": self._event_count})
        self._has_result.fire()

    async def encode_pictures(self) -> None:
        """Encode the newest picture again and again while someone watches."""
        number = 0
        while True:
            await self._has_result.wait()
            if self.result is None or self.viewers == 0:
                continue
            number += 1
            loop = asyncio.get_running_loop()
            self._picture = number, await loop.run_in_executor(self._encoder, _encode, self.result)
            self._has_picture.fire()

    async def send_picture(self, request: web.Request) -> web.StreamResponse:
        """Send the live picture: JPEGs, each of which replaces the last one (multipart/x-mixed-replace)."""
        if self.viewers >= MAX_VIEWERS:
            return refuse(503, f"{MAX_VIEWERS} are watching already")
        response = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=picture"})
        await response.prepare(request)
        self.viewers += 1
        try:
            await response.write(b"--picture\r\n")
            sent = self._picture[0]
            while True:
                while self._picture[0] == sent:
                    await self._has_picture.wait()
                sent, jpeg = self._picture
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n".encode()
                # A browser shows a picture only when it receives the boundary after it.
                await response.write(head + jpeg + b"\r\n--picture\r\n")
        finally:
            self.viewers -= 1

    async def send_events(self, request: web.Request) -> web.StreamResponse:
        """Send the status with the events since the last message, again and again (server-sent events)."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = 0
        while True:
            new_events = [event for event in self._history if event["count"] > sent]
            sent = self._event_count
            message = json.dumps({**self._describe_status(), "history": new_events})
            await response.write(f"data: {message}\n\n".encode())
            await asyncio.sleep(_STATUS_SECONDS)
            await self._has_result.wait()

    async def send_health(self, request: web.Request) -> web.Response:
        """Send whether frames are read at this moment, with status 200 if they are and 503 if not."""
        silence = time.monotonic() - self._last_frame
        rate = 0.0 if self.result is None else self.result.rate
        state, trouble = "opening", ""
        if self.result is not None:
            state, trouble = self.result.state.kind, self.result.state.text
            if state == "live" and silence > max(_STALLED_SECONDS, _STALLED_FRAMES / (rate or 1.0)):
                state, trouble = "stalled", f"no frame was read for {silence:.0f} s"
        is_ok = state == "live"
        health = {
            "ok": is_ok,
            "state": state,
            "trouble": trouble,
            "silence": round(silence, 3),
            "rate": round(rate, 1),
            "version": __version__,
        }
        return web.json_response(health, status=200 if is_ok else 503)

    def _describe_status(self) -> dict[str, Any]:
        """Describe what is read now, by which network, and how fast."""
        model = {"name": self.model.path.name, "sha256": self.model.sha256, "runtime": self.model.classifier.runtime}
        status = {"run": self._run, "source": self._source, "model": model, "corrections": self._corrections.saved}
        result = self.result
        if result is None:
            return {"state": "opening", "numbers": [], **status}
        numbers = [
            {"id": number.id, "text": number.text, "confidence": round(number.confidence, 4)}
            for number in result.numbers
        ]
        return {
            "state": result.state.kind,
            "trouble": result.state.text,
            "size": [result.frame.image.shape[1], result.frame.image.shape[0]],
            "refused": result.refused,
            "numbers": numbers,
            "rate": round(result.rate, 1),
            "milliseconds": {stage: round(value, 2) for stage, value in result.milliseconds.items()},
            "viewers": self.viewers,
            **status,
        }


class _Signal:
    """Wakes all tasks that wait for the next time that something happens."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._future = loop, loop.create_future()

    def fire(self) -> None:
        """Wake the tasks that wait now."""
        self._future.set_result(None)
        self._future = self._loop.create_future()

    async def wait(self) -> None:
        """Wait until the signal is fired the next time."""
        await asyncio.shield(self._future)  # the future is shared: a task that is cancelled must not cancel it


def _encode(result: FrameResult) -> bytes:
    """Draw a result and encode it as JPEG."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", draw_result(result, bar=False), quality)[1].tobytes()
