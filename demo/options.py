"""What the demo may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_mnist.demo.live.loop import Limits
from edge_mnist.demo.sources.cameras import CameraSettings

View = Literal["auto", "window", "web", "none"]


@dataclass(frozen=True)
class PageOptions:
    """Where the page listens, and what it may do.

    Attributes:
        host: address to listen on.
        port: to listen on; 0 takes a free one.
        corrections: folder that corrected digits are saved in, for `train --extra`.
        threshold: least confidence of a digit in what visitors bring; None is the reader's own.
    """

    host: str = "127.0.0.1"
    port: int = 8090
    corrections: Path = Path("corrections")
    threshold: float | None = None


@dataclass(frozen=True)
class DemoOptions:
    """What a user asked for.

    Attributes:
        camera: see `sources.find`.
        settings: what a camera is asked for; an `fps` of 0 asks for 30, and reads a file as fast as it can.
        view: where the demo is shown.
        model: a model file; None is the shipped one.
        trust: open a TorchScript archive whose hash is in no manifest.
        threshold: least confidence of a digit; None is the reader's own.
        as_json: events as JSON, one object a line.
        limits: when the demo ends.
        record: a video file.
        record_plain: record frames as they are, without boxes.
        snapshots: folder of snapshots.
        mirror: show left and right exchanged.
        web: of the page.
        mqtt: a broker's address and topic.
    """

    camera: str = "0"
    settings: CameraSettings = field(default_factory=CameraSettings)
    view: View = "auto"
    model: Path | None = None
    trust: bool = False
    threshold: float | None = None
    as_json: bool = False
    limits: Limits = field(default_factory=Limits)
    record: Path | None = None
    record_plain: bool = False
    snapshots: Path | None = None
    mirror: bool = False
    web: PageOptions = field(default_factory=PageOptions)
    mqtt: str | None = None
