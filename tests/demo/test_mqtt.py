"""Events over MQTT, with a real Mosquitto and with brokers that misbehave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_mnist.demo.live import models
from edge_mnist.demo.views.mqtt import AUTHORITY, PASSWORD, USER, Broker, MqttView, parse_address
from edge_mnist.system.errors import UsageError

MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if Path("/usr/sbin/mosquitto").exists() else None)


def test_an_address_is_parsed_and_a_password_in_it_refused() -> None:
    assert parse_address("mqtt://host/a/b/") == Broker("host", 1883, "a/b", False)
    assert parse_address("mqtts://host:99/a") == Broker("host", 99, "a", True)
    for wrong in ("mqtt://host", "http://host/a", "mqtt:///a", "mqtt://host/a/#", "mqtt://host:x/a"):
        with pytest.raises(UsageError, match="--mqtt"):
            parse_address(wrong)
    with pytest.raises(UsageError, match=USER):
        parse_address("mqtt://me:secret@host/a")


@contextmanager
def bad_broker(answer: Callable[[int], bytes]) -> Iterator[int]:
    """Run a broker that sends what a test wants to each client that connects, by the number of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stopping, count = threading.Event(), itertools.count()

        def run() -> None:
            while not stopping.is_set():
                try:
                    connection = listening.accept()[0]
                except TimeoutError:
                    continue
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(2)
                    connection.recv(4096)  # the packet CONNECT
                    connection.sendall(answer(next(count)))
                    time.sleep(0.05)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            stopping.set()
            thread.join()


CONNACK = b"\x20\x02\0\0"


def length(value: int) -> bytes:
    """Encode a length (MQTT 3.1.1, 2.2.3)."""
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes((*written, value))


def test_a_large_packet_from_a_broker_takes_no_memory_and_is_reported_once() -> None:
    claimed, lines = 200_000_000, list[str]()
    publish = b"\x30" + length(claimed) + b"\0\1a"
    tracemalloc.start()
    try:
        with bad_broker(lambda _: CONNACK + publish + bytes(1 << 20)) as port:
            sender = MqttView(f"mqtt://127.0.0.1:{port}/here", models.load(), "cam", lines.append)
            Mosquitto.wait(lambda: len(lines) >= 2)  # the client has connected again
            sender.close()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lines[0].endswith(f"sent a packet of {claimed:,} bytes, expected 1,024 at most; trying again")
    assert lines[1:] == ["--mqtt: the broker is back"]
    assert most < 50 << 20


def test_malformed_packets_do_not_stop_the_view() -> None:
    choose, lines, sent = random.Random(1), list[str](), list[bytes]()

    def answer(number: int) -> bytes:
        kind = choose.choice((0x20, 0x30, 0x32, 0x34, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0))
        body = choose.randbytes(choose.randrange(12))
        sent.append(bytes((kind, len(body))) + body)
        return choose.choice((b"", CONNACK)) + sent[-1]

    with bad_broker(answer) as port:
        sender = MqttView(f"mqtt://127.0.0.1:{port}/here", models.load(), "cam", lines.append)
        sender._client.reconnect_delay_set(0.001, 0.001)
        Mosquitto.wait(lambda: len(sent) > 40)
        sender.close()
    assert len(lines) <= 4, lines  # one of each kind


class Mosquitto:
    """A broker on a free port, and a client that receives everything."""

    def __init__(self, folder: Path) -> None:
        from paho.mqtt import client as paho

        self.folder, self.messages = folder, []  # type: tuple[Path, list[tuple[str, str]]]
        self.port, self.secure = _free_port(), _free_port()
        subject = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1".split()
        files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
        subprocess.run(["openssl", *subject, *files], check=True, capture_output=True)
        passwords = folder / "passwords"
        subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "me", "secret"], check=True, capture_output=True)
        passwords.chmod(0o644)
        (folder / "conf").write_text(
            f"per_listener_settings false\nallow_anonymous false\npassword_file {passwords}\nuser root\n"
            f"listener {self.port} 127.0.0.1\n"
            f"listener {self.secure} 127.0.0.1\ncertfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n"
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.username_pw_set("me", "secret")
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("here/#", qos=1)
        self.client.on_message = lambda _, __, message: self.messages.append((message.topic, message.payload.decode()))
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()

    def start(self) -> None:
        assert MOSQUITTO is not None
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.folder / "conf"], stderr=subprocess.DEVNULL)
        self.wait(lambda: _answers(self.port))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def find_messages(self, topic: str) -> list[str]:
        return [text for found, text in self.messages if found == f"here/{topic}"]

    @staticmethod
    def wait(what: Callable[[], object], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    if MOSQUITTO is None or shutil.which("mosquitto_passwd") is None or shutil.which("openssl") is None:
        pytest.skip("mosquitto is not installed: apt install mosquitto openssl")
    broker = Mosquitto(tmp_path)
    yield broker
    broker.client.disconnect()
    broker.client.loop_stop()
    broker.kill()


def start(broker: Mosquitto, password: str = "secret", **others: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_mnist", "demo", "--camera", "sample", "--view", "none"]
    environment = {**os.environ, USER: "me", PASSWORD: password, **others}
    address = f"mqtts://127.0.0.1:{broker.secure}/here" if others else f"mqtt://127.0.0.1:{broker.port}/here"
    return subprocess.Popen(
        [*command, "--mqtt", address], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )


@pytest.mark.slow
def test_events_reach_a_broker_that_is_restarted(broker: Mosquitto) -> None:
    demo = start(broker)
    try:
        broker.wait(lambda: broker.find_messages("events"))
        event = json.loads(broker.find_messages("events")[0])
        assert event["event"] == "read" and event["number"].isdigit() and event["camera"] == "sample"
        assert broker.find_messages("availability") == ["online"] and broker.find_messages("state") == ["live"]
        broker.wait(lambda: json.loads(broker.find_messages("numbers")[-1]))
        broker.kill()
        time.sleep(1)
        broker.start()
        broker.wait(lambda: broker.find_messages("availability")[-2:] == ["online", "online"])
        count = len(broker.find_messages("events"))
        broker.wait(lambda: len(broker.find_messages("events")) > count)
        demo.kill()  # the broker publishes the last will of the demo
        broker.wait(lambda: broker.find_messages("availability")[-1] == "offline", 60)
    finally:
        demo.kill()
        _, errors = demo.communicate()
    assert "the broker 127.0.0.1" in errors and "the broker is back" in errors


@pytest.mark.slow
def test_the_end_of_a_demo_is_published_and_a_wrong_password_is_reported(broker: Mosquitto) -> None:
    demo = start(broker)
    broker.wait(lambda: broker.find_messages("availability") == ["online"])
    demo.terminate()
    demo.communicate(timeout=20)
    assert demo.returncode == 0
    broker.wait(lambda: broker.find_messages("availability") == ["online", "offline"])
    demo = start(broker, "wrong")
    time.sleep(4)
    demo.terminate()
    _, errors = demo.communicate(timeout=20)
    assert "refuses: Not authorized" in errors and errors.count("--mqtt:") == 1 and demo.returncode == 0


@pytest.mark.slow
def test_an_encrypted_broker_is_used_if_its_certificate_is_trusted(broker: Mosquitto, tmp_path: Path) -> None:
    demo = start(broker, **{AUTHORITY: str(tmp_path / "cert.pem")})
    broker.wait(lambda: broker.find_messages("events"))
    demo.terminate()
    assert "--mqtt" not in demo.communicate(timeout=20)[1] and demo.returncode == 0
    demo = start(broker, **{AUTHORITY: ""})  # no certificate of the system signs it
    time.sleep(4)
    demo.terminate()
    _, errors = demo.communicate(timeout=20)
    assert "CERTIFICATE_VERIFY_FAILED" in errors and errors.count("--mqtt:") == 1 and demo.returncode == 0
