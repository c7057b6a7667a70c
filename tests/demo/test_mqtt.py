"""Events over MQTT, with a real Mosquitto and with brokers that misbehave."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mnist.cli.demo import STARTING
from edge_mnist.demo.live import models
from edge_mnist.demo.live.events import Number
from edge_mnist.demo.views import discovery, mqtt
from edge_mnist.demo.views.mqtt import AUTHORITY, PASSWORD, USER, Broker, MqttView, parse_address
from edge_mnist.system.errors import UsageError
from tests.demo.test_page import make_result

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


class HomeAssistant:
    """What Home Assistant shows, given the messages that a broker retains: the state of each entity, by its name."""

    # homeassistant/components/mqtt/discovery.py, without the prefix
    TOPIC = re.compile(r"(?P<component>\w+)/(?:(?P<node_id>[a-zA-Z0-9_-]+)/)?(?P<object_id>[a-zA-Z0-9_-]+)/config")

    def __init__(self, retained: dict[str, str], prefix: str = "homeassistant") -> None:
        jinja2 = pytest.importorskip("jinja2")
        self.retained, self.environment = retained, jinja2.Environment()
        configurations = {t: json.loads(text) for t, text in retained.items() if t.startswith(f"{prefix}/")}
        for topic, entity in configurations.items():
            match = self.TOPIC.fullmatch(topic.removeprefix(f"{prefix}/"))
            assert match is not None and match["component"] in ("sensor", "binary_sensor"), topic
            assert entity["device"]["identifiers"] and entity["origin"]["name"] == "edge-mnist"
        self.entities = {entity["name"]: entity for entity in configurations.values()}
        assert len({entity["unique_id"] for entity in configurations.values()}) == len(configurations)

    def render(self, described: dict[str, object], topic: str) -> str | None:
        text = self.retained.get(topic)
        if text is None or "value_template" not in described:
            return text
        with contextlib.suppress(ValueError):
            return str(
                self.environment.from_string(described["value_template"]).render(
                    value=text, value_json=json.loads(text)
                )
            )
        return str(self.environment.from_string(described["value_template"]).render(value=text))

    def find_state(self, name: str) -> str | None:
        """The state of an entity; None if it is not available, and the text "None" if it is not known."""
        entity = self.entities[name]
        sources = entity.get("availability", [])
        assert entity.get("availability_mode", "all") == "all"
        if any(self.render(source, source["topic"]) != "online" for source in sources):
            return None
        state = self.render(entity, entity["state_topic"])
        return {entity.get("payload_on"): "on", entity.get("payload_off"): "off"}.get(state, state)


def describe(topic: str = "hall/meter", **messages: str) -> HomeAssistant:
    """Home Assistant with a camera of which there are these messages."""
    found = {f"{topic}/{name}": text for name, text in messages.items()}
    return HomeAssistant(discovery.make_messages("homeassistant", topic, "model_int8.tflite") | found)


def test_home_assistant_shows_the_number_and_its_confidence_while_they_are_true() -> None:
    shown = describe(availability="online", state="live", numbers='["00869"]', confidences="[0.987]")
    assert [shown.find_state(name) for name in ("Number", "Confidence", "Connection")] == ["00869", "98.7", "on"]
    shown = describe(availability="online", state="live", numbers='["71?6", "42"]', confidences="[0.9, 0.812]")
    assert [shown.find_state(name) for name in ("Number", "Confidence")] == ["71?6 42", "81.2"]
    shown = describe(availability="online", state="live", numbers="[]", confidences="[]")
    assert [shown.find_state(name) for name in ("Number", "Confidence")] == ["None", "None"]
    for availability, state in (("online", "lost"), ("offline", "live"), ("online", "ended")):
        shown = describe(availability=availability, state=state, numbers='["42"]', confidences="[0.9]")
        assert shown.find_state("Number") is shown.find_state("Confidence") is None
        assert shown.find_state("Connection") == {"online": "on", "offline": "off"}[availability]
    assert describe(availability="online", numbers="[]").find_state("Number") is None  # before the first frame is read


def test_cameras_of_similar_topics_are_different_devices() -> None:
    topics = ("hall/meter", "hall_meter", "hall meter", "zähler", "x" * 900, "x" * 901)
    made = [discovery.make_messages("homeassistant", topic, "m") for topic in topics]
    assert len({topic for messages in made for topic in messages}) == 3 * len(topics)
    identities = {json.loads(text)["device"]["identifiers"][0] for messages in made for text in messages.values()}
    assert len(identities) == len(topics) and all(re.fullmatch(r"[\w-]{1,64}", found, re.ASCII) for found in identities)
    for topic in topics:
        assert describe(topic).entities.keys() == {"Number", "Confidence", "Connection"}


def test_a_wrong_prefix_and_a_missing_broker_are_one_line(call: Callable[..., tuple[int, str, str]]) -> None:
    assert discovery.parse_prefix("/home/assistant/") == "home/assistant"
    for wrong in ("", "/", "a/#", "a+b", "x" * 2000):
        with pytest.raises(UsageError, match="--mqtt-discovery .*such as homeassistant"):
            discovery.parse_prefix(wrong)
    with pytest.raises(UsageError, match="--mqtt"):
        parse_address("mqtt://host/" + "x" * 2000)
    demo = ("demo", "--camera", "sample", "--view", "none", "--max-frames", 1)
    status, _, errors = call(*demo, "--mqtt-discovery")
    assert status == 2 and errors.removeprefix(f"{STARTING}\n").splitlines() == [
        "edge-mnist: --mqtt-discovery: needs a broker: add --mqtt mqtt://host:1883/topic"
    ]
    status, _, errors = call(*demo, "--mqtt", "mqtt://127.0.0.1:9/here", "--mqtt-discovery", "a/#")
    assert status == 2 and errors.removeprefix(f"{STARTING}\n").startswith("edge-mnist: --mqtt-discovery a/#: expected")


def test_confidences_are_published_with_the_numbers_and_else_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now, sent = [100.0], list[tuple[str, str]]()
    monkeypatch.setattr(mqtt.time, "monotonic", lambda: now[0])
    view = MqttView("mqtt://127.0.0.1:9/here", models.load(), "cam", lambda line: None)
    monkeypatch.setattr(view, "_publish", lambda name, text, retain: sent.append((name, text)))
    try:
        for text, confidence in (("7", 0.9), ("7", 0.8), ("71", 0.8), ("71", 0.7)):
            number = Number(1, text, confidence, (0, 0, 1, 1), (), (), 0.0)
            view.show(replace(make_result(2), numbers=(number,)))
        now[0] += mqtt._CONFIDENCE_SECONDS
        view.show(replace(make_result(2), numbers=(number,)))
    finally:
        view.close()
    expected = [("numbers", '["7"]'), ("confidences", "[0.9]"), ("state", "live")]
    expected += [("numbers", '["71"]'), ("confidences", "[0.8]"), ("confidences", "[0.7]")]
    assert sent == expected


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
        self.client.on_connect = lambda client, *_: client.subscribe([("here/#", 1), ("homeassistant/#", 1)])
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

    def receive_retained(self) -> dict[str, str]:
        """Receive what a client that connects only now gets."""
        from paho.mqtt import client as paho

        found: dict[str, str] = {}
        done = threading.Event()

        def take(client: object, data: object, message: paho.MQTTMessage) -> None:
            if message.topic == "last":
                done.set()
            elif message.retain:
                found[message.topic] = message.payload.decode()

        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        client.username_pw_set("me", "secret")
        client.on_message = take
        client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        client.on_subscribe = lambda client, *_: client.publish("last", qos=1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        assert done.wait(10)
        client.disconnect()
        client.loop_stop()
        return found

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


def start(broker: Mosquitto, password: str = "secret", *arguments: str, **others: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_mnist", "demo", "--camera", "sample", "--view", "none"]
    environment = {**os.environ, USER: "me", PASSWORD: password, **others}
    address = f"mqtts://127.0.0.1:{broker.secure}/here" if others else f"mqtt://127.0.0.1:{broker.port}/here"
    return subprocess.Popen(
        [*command, "--mqtt", address, *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def read_until(demo: subprocess.Popen[str], text: str) -> str:
    """Read what a demo writes to stderr up to the line that contains a text."""
    lines = []
    timer = threading.Timer(60, demo.kill)
    timer.start()
    assert demo.stderr is not None
    for line in demo.stderr:
        lines.append(line)
        if text in line:
            break
    timer.cancel()
    return "".join(lines)


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
    errors = read_until(demo, "--mqtt:")
    time.sleep(3)  # it tries again after a second and after two more, and reports nothing more
    demo.terminate()
    errors += demo.communicate(timeout=20)[1]
    assert "refuses: Not authorized" in errors and errors.count("--mqtt:") == 1 and demo.returncode == 0


@pytest.mark.slow
def test_an_encrypted_broker_is_used_if_its_certificate_is_trusted(broker: Mosquitto, tmp_path: Path) -> None:
    demo = start(broker, **{AUTHORITY: str(tmp_path / "cert.pem")})
    broker.wait(lambda: broker.find_messages("events"))
    demo.terminate()
    assert "--mqtt" not in demo.communicate(timeout=20)[1] and demo.returncode == 0
    demo = start(broker, **{AUTHORITY: ""})  # no certificate of the system signs it
    errors = read_until(demo, "--mqtt:")
    time.sleep(3)  # it tries again after a second and after two more, and reports nothing more
    demo.terminate()
    errors += demo.communicate(timeout=20)[1]
    assert "CERTIFICATE_VERIFY_FAILED" in errors and errors.count("--mqtt:") == 1 and demo.returncode == 0


@pytest.mark.slow
def test_home_assistant_finds_a_camera_and_sees_that_it_is_gone(broker: Mosquitto) -> None:
    demo = start(broker, "secret", "--mqtt-discovery")
    try:
        broker.wait(lambda: any(json.loads(text) for text in broker.find_messages("numbers")), 90)
        shown = HomeAssistant(broker.receive_retained())
        number, confidence = shown.find_state("Number"), shown.find_state("Confidence")
        assert number is not None and re.fullmatch(r"[\d?]+( [\d?]+)*|None", number)
        assert confidence == "None" if number == "None" else 70 <= float(confidence or 0) <= 100
        assert shown.find_state("Connection") == "on"
        broker.kill()  # it keeps nothing on the disk
        broker.start()
        broker.wait(lambda: "here/state" in broker.receive_retained(), 60)
        shown = HomeAssistant(broker.receive_retained())
        assert shown.find_state("Connection") == "on" and shown.find_state("Number") is not None
        demo.kill()
        broker.wait(lambda: broker.find_messages("availability")[-1] == "offline", 60)
        shown = HomeAssistant(broker.receive_retained())
        assert shown.entities.keys() == {"Number", "Confidence", "Connection"}
        assert (shown.find_state("Connection"), shown.find_state("Number")) == ("off", None)
    finally:
        demo.kill()
        demo.communicate()
    # An empty message removes a description, as the docs say.
    for topic in [topic for topic in broker.receive_retained() if topic.startswith("homeassistant/")]:
        broker.client.publish(topic, "", qos=1, retain=True).wait_for_publish(10)
    assert not HomeAssistant(broker.receive_retained()).entities


@pytest.mark.slow
def test_the_prefix_of_the_discovery_can_be_chosen(broker: Mosquitto) -> None:
    demo = start(broker, "secret", "--mqtt-discovery", "other/prefix")
    try:
        broker.wait(lambda: "here/state" in broker.receive_retained())
        retained = broker.receive_retained()
        assert len(HomeAssistant(retained, "other/prefix").entities) == 3 and not HomeAssistant(retained).entities
    finally:
        demo.kill()
        demo.communicate()
