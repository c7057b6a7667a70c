"""The options of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_mnist.demo.live.loop import Limits
from edge_mnist.demo.sources.cameras import CameraSettings

ViewKind = Literal["auto", "window", "web", "none"]


@dataclass(frozen=True)
class PageOptions:
    """Where the page listens, and what its visitors may do.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        corrections: the folder in which corrected digits are saved for `train --user-digits`.
        threshold: the confidence, 0 to 1, that a digit in a drawing or photograph needs; None takes the default of the
            reader.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    corrections: Path = Path("corrections")
    threshold: float | None = None


@dataclass(frozen=True)
class DemoOptions:
    """The options of the demo.

    Attributes:
        camera: the source of frames, see `source.parse_source`.
        settings: what a camera is asked for; with an `fps` of 0 a file is read as fast as possible.
        view: where the demo is shown; "auto" takes a window where one can be opened, and the page elsewhere.
        model: a model file; None takes the shipped one.
        trust: open a TorchScript archive or a model.c although no manifest lists its hash.
        threshold: the confidence, 0 to 1, that a digit needs; None takes the default of the reader.
        as_json: print events as JSON, one object per line.
        limits: when the demo ends.
        record: an MP4 file to record in; None does not record.
        record_plain: record the frames without boxes.
        snapshots: a folder for snapshots; None saves those of the window in `snapshots`, and none of the page.
        mirror: exchange left and right in the window and in recordings.
        page: the options of the page.
        mqtt: the address and topic of a broker that events are sent to; None sends none.
        mqtt_discovery: the prefix under which the camera is described to Home Assistant through that broker; None if it
            is not.
    """

    camera: str = "0"
    settings: CameraSettings = field(default_factory=CameraSettings)
    view: ViewKind = "auto"
    model: Path | None = None
    trust: bool = False
    threshold: float | None = None
    as_json: bool = False
    limits: Limits = field(default_factory=Limits)
    record: Path | None = None
    record_plain: bool = False
    snapshots: Path | None = None
    mirror: bool = False
    page: PageOptions = field(default_factory=PageOptions)
    mqtt: str | None = None
    mqtt_discovery: str | None = None
