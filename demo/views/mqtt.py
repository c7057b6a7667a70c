"""Sends events to an MQTT broker, for many cameras in one place.

Below the topic of the address: `availability` is online or offline (retained; the broker says offline for a camera that
is cut off), `state` is the camera's (retained), `numbers` the numbers that stand (retained; `?` is a doubtful digit),
`events` each event.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_mnist.demo.live import events
from edge_mnist.demo.live.loop import FrameResult
from edge_mnist.demo.live.models import Model
from edge_mnist.demo.views.page.notices import Notices
from edge_mnist.system.errors import EdgeMnistError, UsageError, missing_package

USER, PASSWORD, AUTHORITY = "EDGE_MNIST_MQTT_USER", "EDGE_MNIST_MQTT_PASSWORD", "EDGE_MNIST_MQTT_CA"
"""Environment variables with the credentials, and with a file of the certificates that are trusted."""
_QUEUED = 1000
"""Messages that are kept while the broker is away; older ones are dropped first."""
_LAST_SECONDS = 2.0
_LARGEST_PACKET = 1024
"""Bytes of a packet from the broker. Nothing is subscribed to: only acknowledgements come, which have 2 bytes."""


@dataclass(frozen=True)
class Broker:
    """Where events go.

    Attributes:
        host, port: of the broker.
        topic: without a slash at its end.
        is_encrypted: whether by TLS.
    """

    host: str
    port: int
    topic: str
    is_encrypted: bool


def parse(address: str) -> Broker:
    """Read mqtt://host:1883/topic, or mqtts:// for TLS.

    Raises:
        UsageError: it is not such an address, or holds a password.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--mqtt {address}: {error}") from error
    topic = parts.path.strip("/")
    if parts.username or parts.password:
        raise UsageError(f"--mqtt: a password there shows in the list of processes: set {USER} and {PASSWORD}")
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not topic or re.search(r"[+#\0]", address):
        raise UsageError(f"--mqtt {address}: expected mqtt://host:1883/topic, or mqtts:// for TLS")
    encrypted = parts.scheme == "mqtts"
    return Broker(parts.hostname, port or (8883 if encrypted else 1883), topic, encrypted)


class Sender:
    """Publishes events; a broker that is away is tried again and again, and nothing waits for it."""

    def __init__(self, address: str, model: Model, source: str, tell: Callable[[str], None]) -> None:
        """Begin to connect.

        Args:
            address: see `parse`.
            model: that reads.
            source: the camera's name.
            tell: takes a line when the broker comes or goes.

        Raises:
            UsageError: the address is wrong.
            EdgeMnistError: paho-mqtt is not installed, or the certificates cannot be read.
        """
        self._broker = parse(address)
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise missing_package("paho-mqtt", "mqtt") from error
        self._notices, self._source = Notices(tell), source
        self._numbers: str | None = None
        self._state = ""
        self._trouble = ""
        # A name of its own for each camera: the broker cuts off the older of two clients of one name.
        name = f"edge-mnist-{socket.gethostname()}-{os.getpid()}"
        client = self._client = _client(name, functools.partial(self._complain, "packet"))
        client.will_set(f"{self._broker.topic}/availability", "offline", qos=1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.max_queued_messages_set(_QUEUED)
        if os.environ.get(USER):
            client.username_pw_set(os.environ[USER], os.environ.get(PASSWORD))
        if self._broker.is_encrypted:
            try:
                client.tls_set(ca_certs=os.environ.get(AUTHORITY) or None)
            except (OSError, ssl.SSLError) as error:
                raise EdgeMnistError(f"{AUTHORITY} {os.environ.get(AUTHORITY, '')}: {error}") from error
        client.on_connect = self._connected
        client.on_connect_fail = self._unreached
        client.on_disconnect = self._disconnected
        client.connect_async(self._broker.host, self._broker.port, keepalive=30)
        client.loop_start()

    def show(self, moment: FrameResult) -> None:
        """Publish what happened."""
        for event in moment.events:
            self._publish("events", json.dumps({**events.facts(event), "camera": self._source}), retain=False)
        numbers = json.dumps([number.text for number in moment.numbers])
        if numbers != self._numbers:
            self._numbers = numbers
            self._publish("numbers", numbers, retain=True)
        if moment.state.kind != self._state:
            self._state = moment.state.kind
            self._publish("state", self._state, retain=True)

    def close(self) -> None:
        """Say goodbye; what is not sent within 2 seconds is lost."""
        if self._client.is_connected():
            last = self._publish("availability", "offline", retain=True)
            with contextlib.suppress(RuntimeError, ValueError):
                last.wait_for_publish(_LAST_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, name: str, text: str, *, retain: bool) -> Any:
        return self._client.publish(f"{self._broker.topic}/{name}", text, qos=1, retain=retain)

    def _connected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._complain("refused", f"refuses: {reason} ({USER} and {PASSWORD} give the credentials)")
            return
        if self._trouble:
            self._notices("back", "--mqtt: the broker is back")
        self._trouble = ""
        self._publish("availability", "online", retain=True)

    def _unreached(self, client: Any, data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the error, which it does not hand over
        self._complain("unreached", f"cannot be reached: {error}" if error is not None else "cannot be reached")

    def _disconnected(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._complain("gone", f"is gone: {reason}")

    def _complain(self, kind: str, text: str) -> None:
        """Say once what is wrong with the broker."""
        if not self._trouble:
            self._notices(kind, f"--mqtt: the broker {self._broker.host}:{self._broker.port} {text}; trying again")
        self._trouble = text


def _client(name: str, complain: Callable[[str], None]) -> Any:
    """A client of paho's that ends a connection on which a large packet comes; paho itself has no limit."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    class Client(paho.Client):
        def _sock_recv(self, bufsize: int) -> bytes:
            # paho asks for all that is left of a packet at once, and memory for that is taken before it has come.
            if bufsize > _LARGEST_PACKET:
                complain(f"sent a packet of {bufsize:,} bytes, expected {_LARGEST_PACKET:,} at most")
                raise ConnectionError("the packet is too large")
            return super()._sock_recv(bufsize)

    return Client(CallbackAPIVersion.VERSION2, client_id=name)
