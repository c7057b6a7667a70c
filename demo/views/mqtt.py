"""Sends events to an MQTT broker, for many cameras in one place.

Below the topic of the address there are: `availability`, online or offline, which the broker itself sets to offline for
a camera that is cut off; `state`, that of the camera; `numbers`, those that are there now, with `?` for a doubtful
digit; `confidences`, theirs in the same order; and `events`, each event. All but the events are retained.
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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from edge_mnist.demo.live.events import describe_event
from edge_mnist.demo.live.models import OpenedModel
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.views import discovery
from edge_mnist.demo.views.notices import Notices
from edge_mnist.system.errors import EdgeMnistError, UsageError, explain_missing_packages

USER, PASSWORD, AUTHORITY = "EDGE_MNIST_MQTT_USER", "EDGE_MNIST_MQTT_PASSWORD", "EDGE_MNIST_MQTT_CA"
"""The environment variables with the credentials, and with a file of the certificates that are trusted."""
_PORT, _TLS_PORT = 1883, 8883
"""The ports that IANA has registered for MQTT, and for MQTT over TLS."""
_QUEUED_MESSAGES = 1000
"""Messages that are kept while the broker cannot be reached; older ones are dropped first."""
_CLOSING_SECONDS = 2.0
"""Seconds that the last message may take."""
_KEEPALIVE_SECONDS = 30
"""Seconds without a message after which the broker is asked whether it is still there."""
_RETRY_SECONDS = 1, 30
"""Seconds between the attempts to connect again, which grow from the first value to the second."""
_CONFIDENCE_SECONDS = 10.0
"""Seconds between two messages with the confidences of the same numbers, which change with each frame."""
_MAX_PACKET = 1024
"""Bytes of a packet from the broker. Nothing is subscribed to: only acknowledgements of a few bytes come."""


@dataclass(frozen=True)
class Broker:
    """Where events are sent.

    Attributes:
        host, port: the address of the broker.
        topic: the topic that all others are below, without a slash at its end.
        is_encrypted: whether TLS is used.
    """

    host: str
    port: int
    topic: str
    is_encrypted: bool


def parse_address(address: str) -> Broker:
    """Read an address such as mqtt://host:1883/topic, or mqtts:// for TLS.

    Raises:
        UsageError: it is not such an address, or contains a password.
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--mqtt {address}: {error}") from error
    topic = parts.path.strip("/")
    if parts.username or parts.password:
        raise UsageError(f"--mqtt: a password there shows in the list of processes: set {USER} and {PASSWORD}")
    is_topic = topic and not re.search(r"[+#\0]", address) and len(topic.encode()) <= discovery.MAX_TOPIC
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or not is_topic:
        raise UsageError(f"--mqtt {address}: expected mqtt://host:1883/topic, or mqtts:// for TLS")
    is_encrypted = parts.scheme == "mqtts"
    return Broker(parts.hostname, port or (_TLS_PORT if is_encrypted else _PORT), topic, is_encrypted)


class MqttView:
    """Publishes results. A broker that cannot be reached is tried again and again, and nothing waits for it."""

    def __init__(
        self,
        address: str,
        model: OpenedModel,
        source: str,
        report: Callable[[str], None],
        discovery_prefix: str | None = None,
    ) -> None:
        """Begin to connect.

        Args:
            address: see `parse_address`.
            model: the network that reads.
            source: the name of the camera.
            report: is called with a line when the broker is lost or back.
            discovery_prefix: the prefix under which the camera is described to Home Assistant; None if it is not.

        Raises:
            UsageError: the address or the prefix is wrong.
            EdgeMnistError: paho-mqtt is not installed, or the certificates cannot be read.
        """
        self._broker = parse_address(address)
        self._descriptions: dict[str, str] = {}
        if discovery_prefix is not None:
            prefix = discovery.parse_prefix(discovery_prefix)
            self._descriptions = discovery.make_messages(prefix, self._broker.topic, model.path.name)
        with explain_missing_packages():
            import paho.mqtt.client  # noqa: F401
        self._notices, self._source = Notices(report), source
        self._retained: dict[str, str] = {}  # the last message of each topic that is retained
        self._lock = threading.Lock()  # is held while a retained message is changed and published
        self._next_confidences = 0.0  # when those of the same numbers may be published, on the monotonic clock
        self._was_connected = False
        self._problem = ""
        # Each camera has a name of its own: a broker cuts off the older of two clients of the same name.
        name = f"edge-mnist-{socket.gethostname()}-{os.getpid()}"
        client = self._client = _make_client(name, functools.partial(self._report_problem, "packet"))
        client.will_set(f"{self._broker.topic}/availability", "offline", qos=1, retain=True)
        client.reconnect_delay_set(*_RETRY_SECONDS)
        client.max_queued_messages_set(_QUEUED_MESSAGES)
        if os.environ.get(USER):
            client.username_pw_set(os.environ[USER], os.environ.get(PASSWORD))
        if self._broker.is_encrypted:
            try:
                client.tls_set(ca_certs=os.environ.get(AUTHORITY) or None)
            except (OSError, ssl.SSLError) as error:
                raise EdgeMnistError(f"{AUTHORITY} {os.environ.get(AUTHORITY, '')}: {error}") from error
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.connect_async(self._broker.host, self._broker.port, keepalive=_KEEPALIVE_SECONDS)
        client.loop_start()

    def show(self, result: FrameResult) -> None:
        """Publish the events of a result, and the numbers, their confidences and the state if they have changed."""
        for event in result.events:
            self._publish("events", json.dumps({**describe_event(event), "camera": self._source}), retain=False)
        has_changed = self._publish_retained("numbers", json.dumps([number.text for number in result.numbers]))
        now = time.monotonic()
        if has_changed or now >= self._next_confidences:
            confidences = [round(number.confidence, 3) for number in result.numbers]
            self._publish_retained("confidences", json.dumps(confidences))
            self._next_confidences = now + _CONFIDENCE_SECONDS
        self._publish_retained("state", result.state.kind)

    def close(self) -> None:
        """Publish that the camera is offline, and disconnect; what is not sent within 2 seconds is lost."""
        if self._client.is_connected():
            message = self._publish("availability", "offline", retain=True)
            with contextlib.suppress(RuntimeError, ValueError):
                message.wait_for_publish(_CLOSING_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, name: str, text: str, *, retain: bool) -> Any:
        return self._client.publish(f"{self._broker.topic}/{name}", text, qos=1, retain=retain)

    def _publish_retained(self, name: str, text: str) -> bool:
        """Publish a retained message unless it is the one that was published last; return whether it is another."""
        with self._lock:
            if self._retained.get(name) == text:
                return False
            self._retained[name] = text
            self._publish(name, text, retain=True)
            return True

    def _on_connect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._report_problem("refused", f"refuses: {reason} ({USER} and {PASSWORD} give the credentials)")
            return
        if self._problem:
            self._notices.add("back", "--mqtt: the broker is back")
        self._problem = ""
        for topic, text in self._descriptions.items():
            client.publish(topic, text, qos=1, retain=True)
        self._publish("availability", "online", retain=True)
        with self._lock:
            # A broker that was restarted may have forgotten what it retained. The first time, all is queued already.
            for name, text in self._retained.items() if self._was_connected else ():
                self._publish(name, text, retain=True)
        self._was_connected = True

    def _on_connect_fail(self, client: Any, data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles the error, but does not pass the error on
        self._report_problem("unreachable", f"cannot be reached: {error}" if error is not None else "cannot be reached")

    def _on_disconnect(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._report_problem("gone", f"is gone: {reason}")

    def _report_problem(self, kind: str, text: str) -> None:
        """Report once what is wrong with the broker."""
        if not self._problem:
            self._notices.add(kind, f"--mqtt: the broker {self._broker.host}:{self._broker.port} {text}; trying again")
        self._problem = text


def _make_client(name: str, report_problem: Callable[[str], None]) -> Any:
    """Make a client of paho's that disconnects when a large packet comes; paho itself has no limit."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    class Client(paho.Client):
        def _sock_recv(self, bufsize: int) -> bytes:
            # paho asks for the whole rest of a packet at once, and reserves memory for it before it has come.
            if bufsize > _MAX_PACKET:
                report_problem(f"sent a packet of {bufsize:,} bytes, expected {_MAX_PACKET:,} at most")
                raise ConnectionError("the packet is too large")
            return super()._sock_recv(bufsize)

    return Client(CallbackAPIVersion.VERSION2, client_id=name)
