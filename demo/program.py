"""Runs the demo: opens the source, the model and the views, and shows each result until the end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from edge_mnist.demo.live import loop, models
from edge_mnist.demo.live.events import format_event
from edge_mnist.demo.live.recognition import FrameResult
from edge_mnist.demo.options import DemoOptions, ViewKind
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.sources.capture import Capture
from edge_mnist.demo.sources.source import Source, parse_source
from edge_mnist.demo.views import snapshots
from edge_mnist.demo.views.drawing import draw_result, to_bgr
from edge_mnist.demo.views.recording import Recording
from edge_mnist.system import stderr
from edge_mnist.system.errors import EdgeMnistError, UsageError, explain_missing_packages
from edge_mnist.system.files import check_folder
from edge_mnist.system.progress import is_quiet


def report(text: str) -> None:
    """Print a line to stderr."""
    with stderr.LOCK:
        print(f"edge-mnist: {text}", file=sys.stderr, flush=True)


def report_unless_quiet(text: str) -> None:
    """Print a line to stderr that --quiet leaves out."""
    if not is_quiet():
        report(text)


def run_demo(options: DemoOptions, stop: Sequence[int] = ()) -> bool:
    """Run the demo until its source, a limit, a signal or the user in the window ends it.

    Args:
        options: the options of the demo.
        stop: the signals that have been received, see `signals.collect`.

    Returns:
        Whether everything could be read: False if images of a folder were skipped, or a video ended too early.

    Raises:
        UsageError: an option has a wrong value.
        EdgeMnistError: there is no camera or no window, the port is in use, or the model is damaged.
    """
    if options.mqtt_discovery is not None and options.mqtt is None:
        raise UsageError("--mqtt-discovery: needs a broker: add --mqtt mqtt://host:1883/topic")
    source = parse_source(options.camera, options.settings)
    if options.snapshots is not None:
        check_folder(options.snapshots, "--snapshot-dir")
    if source.kind == "sample" and options.settings.fps > source.find_rate():
        rate = source.find_rate()
        report_unless_quiet(f"--fps {options.settings.fps:g}: the sample is drawn {rate:g} times a second at most")
    view = _choose_view(options.view)
    is_watched = view != "none"
    with ExitStack() as stack:
        # Where nobody watches, a file is read frame by frame as fast as possible.
        paced = options.settings.fps > 0 and (is_watched or source.kind == "sample")
        repeat = is_watched and not source.is_live
        capture = stack.enter_context(closing(Capture(source, paced=paced, repeat=repeat, report=report)))
        model = models.load_safely(options.model, trust=options.trust)
        output = stack.enter_context(closing(_Output(options, source)))
        watch = stack.enter_context(closing(models.ModelWatcher(model, report, trust=options.trust)))
        window = page = mqtt = None
        if view == "window":
            from edge_mnist.demo.views.window import KEYS, WindowView

            window = WindowView(mirror=options.mirror, snapshot=output.save_snapshot, record=output.toggle_recording)
            stack.callback(window.close)
            report_unless_quiet(f"keys in the window: {KEYS}")
        if view == "web":
            with explain_missing_packages():
                from edge_mnist.demo.views.page.server import PageView

            save_snapshot = output.save_snapshot if options.snapshots else None
            page = stack.enter_context(closing(PageView(options.page, model, source.name, save_snapshot, report)))
        if options.mqtt is not None:
            from edge_mnist.demo.views.mqtt import MqttView

            mqtt = MqttView(options.mqtt, model, source.name, report, options.mqtt_discovery)
            stack.callback(mqtt.close)
        results = loop.read_live(
            capture,
            model,
            threshold=options.threshold,
            limits=options.limits,
            watch=watch,
            stop=stop,
            report=report,
        )
        for result in results:
            output.show(result)
            if page is not None:
                page.show(result)
            if mqtt is not None:
                mqtt.show(result)
            if window is not None and not window.show(result):
                break
        output.summarize()
        return not capture.skipped


def _choose_view(view: ViewKind) -> ViewKind:
    """Replace `auto` by a window where one can be opened, and by the page elsewhere."""
    if view != "auto":
        return view
    from edge_mnist.demo.views import window

    return "web" if window.explain_unavailable() else "window"


class _Output:
    """What every view has: events on stdout, the recording, snapshots, and the summary at the end."""

    def __init__(self, options: DemoOptions, source: Source) -> None:
        self._options, self._source = options, source
        self._recording = Recording(options.record) if options.record is not None else None
        self._start = time.monotonic() - _measure_process_age()
        self._first_result: float | None = None  # the time of the first result
        self._frames = 0
        self._last: FrameResult | None = None

    def show(self, result: FrameResult) -> None:
        """Print the events of a result, and record its picture."""
        for event in result.events:
            print(format_event(event, self._options.as_json), flush=True)
        if result.is_new:
            self._frames += 1
            if self._first_result is None:
                self._first_result = time.monotonic()
        self._last = result
        if self._recording is not None and (result.is_new or self._source.is_live):
            try:
                # A recording of a camera goes on while the camera is lost; a file has a clock of its own.
                seconds = time.monotonic() if self._source.is_live else result.frame.time
                plain = self._options.record_plain
                picture = to_bgr(result.frame.image) if plain else draw_result(result, mirror=self._options.mirror)
                self._recording.add(picture, seconds)
            except EdgeMnistError as error:
                report(f"the recording ends here: {error}")
                with contextlib.suppress(EdgeMnistError):  # the disk is full, which has just been reported
                    self._recording.close()
                self._recording = None

    def toggle_recording(self) -> None:
        """Begin a recording, or end the present one."""
        try:
            if self._recording is not None:
                self.close()
                return
            self._recording = Recording(self._options.record or Path(f"edge-mnist-{snapshots.format_time()}.mp4"))
            report_unless_quiet(f"recording {self._recording.path}")
        except EdgeMnistError as error:
            report(str(error))

    def save_snapshot(self, picture: Image, result: FrameResult) -> None:
        """Save the frame of a result as it is, and the picture of it with boxes."""
        folder = self._options.snapshots or Path("snapshots")
        plain, drawn = snapshots.encode_png(result.frame.image), snapshots.encode_png(picture)
        try:
            report_unless_quiet(f"snapshot {snapshots.save(folder, snapshots.make_name(result), plain, drawn)}")
        except EdgeMnistError as error:
            report(str(error))

    def close(self) -> None:
        """End the recording."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            if recording.close():
                report_unless_quiet(f"recorded {recording.path}")
            else:
                report(f"nothing was recorded in {recording.path}: no picture came, and the file was deleted")

    def summarize(self) -> None:
        """Report how many frames were read and how fast."""
        if self._last is None or self._first_result is None:
            return
        frames, times = "1 frame", self._last.milliseconds
        if self._frames > 1:  # one frame alone has no rate
            seconds = time.monotonic() - self._first_result
            frames = f"{self._frames} frames in {seconds:.1f} s, {self._frames / max(seconds, 1e-9):.1f} a second"
        report_unless_quiet(
            f"{frames}; reading a frame {times['total']:.1f} ms, of it the network {times.get('network', 0.0):.1f} ms; "
            f"first answer after {self._first_result - self._start:.2f} s"
        )


def _measure_process_age() -> float:
    """Measure the seconds since this process began, where the system tells, else 0."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
