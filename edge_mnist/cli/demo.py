"""The command that shows the network at work: `demo`."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Literal

import click

from edge_mnist.cli import options as cli_options
from edge_mnist.cli.config import add_config
from edge_mnist.system import signals
from edge_mnist.system.errors import UsageError, explain_missing_packages
from edge_mnist.system.files import check_folder

_LOG = logging.getLogger(__name__)

STARTING = "edge-mnist: loading the networks, then opening the camera or the file"
"""The first line on stderr."""


def _parse_size(context: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """Read a width and a height in pixels."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT, such as 640x480")
    return int(match[1]), int(match[2])


@click.command()
@click.option(
    "--camera",
    default="0",
    show_default=True,
    help="Read from this camera or file: a number, /dev/video0, picamera, sample, rtsp://..., http://..., a video, "
    "an image or a folder of images.",
)
@click.option(
    "--view",
    type=click.Choice(["auto", "window", "web", "none"]),
    default="auto",
    show_default=True,
    help="Show the picture there; auto is a window where there is a display, else a page for the browser.",
)
@cli_options.reading_model
@cli_options.trust_model
@cli_options.threshold
@click.option(
    "--size",
    metavar="WIDTHxHEIGHT",
    callback=_parse_size,
    default="640x480",
    show_default=True,
    help="Ask the camera for frames of this size.",
)
@click.option(
    "--fps",
    type=cli_options.FloatRange(0),
    help="Read this many frames a second; 0 reads a file as fast as possible.  [default: 30]",
)
@click.option("--mirror/--no-mirror", help="Exchange left and right in the picture; text stays readable.")
@click.option("--json/--no-json", "as_json", help="Print events as JSON, one object on each line.")
@click.option("--duration", type=cli_options.FloatRange(0, min_open=True), help="End the demo after this many seconds.")
@click.option("--max-frames", type=click.IntRange(1), help="End the demo after this many frames.")
@click.option("--record", type=click.Path(path_type=Path), help="Record the picture in this MP4 file.")
@click.option("--record-plain/--no-record-plain", help="Record the picture as it comes from the camera, without boxes.")
@click.option(
    "--snapshot-dir", type=click.Path(path_type=Path), help="Save snapshots in this folder.  [default: snapshots]"
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Serve the page at this address; 0.0.0.0 requires a token."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8090, show_default=True, help="Serve the page at this port."
)
@click.option(
    "--corrections",
    type=click.Path(path_type=Path),
    help="Let the page save corrected digits in this folder, for train --user-digits.  [default: corrections]",
)
@click.option("--mqtt", help="Send the events to this broker too: mqtt://host:1883/topic, or mqtts://.")
@click.option(
    "--mqtt-discovery",
    metavar="[PREFIX]",
    is_flag=False,
    flag_value="homeassistant",
    help="Describe the camera to Home Assistant through the broker of --mqtt, below PREFIX, homeassistant if none is "
    "given.",
)
def demo(
    camera: str,
    view: Literal["auto", "window", "web", "none"],
    model: Path | None,
    trust: bool,
    threshold: float | None,
    size: tuple[int, int],
    fps: float | None,
    mirror: bool,
    as_json: bool,
    duration: float | None,
    max_frames: int | None,
    record: Path | None,
    record_plain: bool,
    snapshot_dir: Path | None,
    host: str,
    port: int,
    corrections: Path | None,
    mqtt: str | None,
    mqtt_discovery: str | None,
) -> None:
    """Read numbers live from a camera, in a window or in a browser.

    Events are printed as they happen: a number is read, changed, unsure or gone. `--camera sample` needs no camera. The
    exit status is 1 if an image of a folder cannot be opened or a video ends too early; the rest is still read.

    Keys in the window: q or Esc quits, s snapshot, r record, space pause, m mirror, h shows the keys.
    """
    stop = click.get_current_context().with_resource(signals.collect())  # here, as loading the libraries takes a while
    _LOG.warning(STARTING)
    with explain_missing_packages():
        from edge_mnist.demo import program
        from edge_mnist.demo.live.loop import Limits
        from edge_mnist.demo.options import DemoOptions, PageOptions
        from edge_mnist.demo.sources.cameras import CameraSettings
    if corrections is not None:
        check_folder(corrections, "--corrections")
    options = DemoOptions(
        camera=camera,
        settings=CameraSettings(*size, 30.0 if fps is None else fps),
        view=view,
        model=model,
        trust=trust,
        threshold=threshold,
        as_json=as_json,
        limits=Limits(duration, max_frames, fps),
        record=record,
        record_plain=record_plain,
        snapshots=snapshot_dir,
        mirror=mirror,
        page=PageOptions(host, port, corrections or Path("corrections"), threshold),
        mqtt=mqtt,
        mqtt_discovery=mqtt_discovery,
    )
    if not program.run_demo(options, stop):
        sys.exit(1)


add_config(demo)
