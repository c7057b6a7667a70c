"""Describes a camera to Home Assistant, which then shows its number by itself (MQTT discovery).

The messages are those of https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery: one for each entity, which
the broker retains, under PREFIX/COMPONENT/ID/ENTITY/config. The ID is made from the topic of the camera, so that the
entities and their history stay the same when the demo, or the whole machine, is replaced.
"""

from __future__ import annotations

import json
import re
from typing import Any

from edge_mnist import __version__
from edge_mnist.system.errors import UsageError
from edge_mnist.system.hashes import sha256

PREFIX = "homeassistant"
"""The prefix that Home Assistant listens to unless its MQTT integration is configured otherwise."""
MAX_TOPIC = 1024
"""The most bytes of a prefix or a topic that a user names. MQTT allows 65,535 for a whole topic."""
_ID_LENGTH, _HASH_LENGTH = 40, 8
"""Characters of an ID that come from the topic, and from its hash, by which similar topics differ."""


def parse_prefix(prefix: str) -> str:
    """Check a discovery prefix, and return it without slashes at its ends.

    Raises:
        UsageError: it is not the beginning of a topic.
    """
    parsed = prefix.strip("/")
    if not parsed or re.search(r"[+#\0]", parsed) or len(parsed.encode()) > MAX_TOPIC:
        raise UsageError(f"--mqtt-discovery {prefix}: expected the beginning of a topic, such as {PREFIX}")
    return parsed


def make_messages(prefix: str, topic: str, model: str) -> dict[str, str]:
    """Make the messages that describe a camera.

    Args:
        prefix: the discovery prefix.
        topic: the topic of the camera, below which its messages are sent.
        model: the name of the network's file.

    Returns:
        The messages, JSON, by their topics.
    """
    identity = _make_identity(topic)
    common = {
        "qos": 1,
        "device": {
            "identifiers": [identity],
            "name": f"edge-mnist {topic}",
            "manufacturer": "edge-mnist",
            "model": model,
            "sw_version": __version__,
        },
        "origin": {"name": "edge-mnist", "sw_version": __version__},
    }
    # What was read last is no longer true while the demo is not running, nor while the camera is lost.
    available = {
        "availability": [
            {"topic": f"{topic}/availability"},
            {"topic": f"{topic}/state", "value_template": "{{ 'online' if value == 'live' else 'offline' }}"},
        ],
        "availability_mode": "all",
    }
    # Home Assistant takes the text None to mean that there is no value, and ignores an empty one.
    entities: dict[tuple[str, str], dict[str, Any]] = {
        ("sensor", "number"): {
            "name": "Number",
            "state_topic": f"{topic}/numbers",
            "value_template": "{{ value_json | join(' ') if value_json else 'None' }}",
            "icon": "mdi:counter",
            **available,
        },
        ("sensor", "confidence"): {
            "name": "Confidence",
            "state_topic": f"{topic}/confidences",
            "value_template": "{{ (100 * value_json | min) | round(1) if value_json else 'None' }}",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "icon": "mdi:check-decagram-outline",
            **available,
        },
        ("binary_sensor", "connection"): {
            "name": "Connection",
            "state_topic": f"{topic}/availability",
            "payload_on": "online",
            "payload_off": "offline",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
        },
    }
    return {
        f"{prefix}/{component}/{identity}/{name}/config": json.dumps(
            {**entity, "unique_id": f"{identity}_{name}", **common}
        )
        for (component, name), entity in entities.items()
    }


def _make_identity(topic: str) -> str:
    """Make an ID of a topic, of the characters that Home Assistant accepts: letters, digits, `_` and `-`."""
    readable = re.sub(r"[^a-zA-Z0-9_-]+", "_", topic)[:_ID_LENGTH]
    return f"edge_mnist_{readable}_{sha256(topic.encode())[:_HASH_LENGTH]}"
