"""The demo as a whole: a source, a model, and the views, from start to end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from edge_mnist.demo.live import events, loop, models
from edge_mnist.demo.live.loop import FrameResult
from edge_mnist.demo.options import DemoOptions, View
from edge_mnist.demo.sources import source as sources
from edge_mnist.demo.sources.cameras import Image
from edge_mnist.demo.sources.capture import Capture
from edge_mnist.demo.sources.source import Source
from edge_mnist.demo.views import snapshots
from edge_mnist.demo.views.drawing import draw_result, to_bgr
from edge_mnist.demo.views.recording import Recording
from edge_mnist.system import stderr
from edge_mnist.system.errors import EdgeMnistError, missing_package
from edge_mnist.system.files import check_folder
from edge_mnist.system.progress import is_quiet


def tell(text: str) -> None:
    """A line about what goes on, to stderr."""
    with stderr.LOCK:
        print(f"edge-mnist: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line that --quiet leaves out."""
    if not is_quiet():
        tell(text)


def run(options: DemoOptions, stop: Sequence[int] = ()) -> bool:
    """Show the demo until it ends, or is ended by a signal, the window or a limit.

    Args:
        options: what the user asked for.
        stop: signals that came; see `signals.watch`.

    Returns:
        Whether all could be read: False if images of a folder were left out, or a film ended too early.

    Raises:
        UsageError: the camera is named wrongly.
        EdgeMnistError: no camera, no window, a port in use, a damaged model.
    """
    source = sources.find(options.camera, options.settings)
    if options.snapshots is not None:
        check_folder(options.snapshots, "--snapshot-dir")
    if source.kind == "sample" and options.settings.fps > source.rate():
        note(f"--fps {options.settings.fps:g}: the sample is drawn {source.rate():g} times a second at most")
    view = _choose(options.view)
    shown = view != "none"
    with ExitStack() as stack:
        # Where nobody watches, a file is read frame by frame, as fast as it goes.
        paced = options.settings.fps > 0 and (shown or source.kind == "sample")
        repeat = shown and not source.is_live
        capture = stack.enter_context(closing(Capture(source, paced=paced, repeat=repeat, tell=tell)))
        model = models.load_tried(options.model, trust=options.trust)
        output = stack.enter_context(closing(_Output(options, source)))
        watch = stack.enter_context(closing(models.Watch(model, tell, trust=options.trust)))
        window = page = sender = None
        if view == "window":
            from edge_mnist.demo.views.window import KEYS, Window

            window = Window(mirror=options.mirror, snapshot=output.snapshot, record=output.switch)
            stack.callback(window.close)
            note(f"keys in the window: {KEYS}")
        if view == "web":
            try:
                from edge_mnist.demo.views.page.server import Page
            except ModuleNotFoundError as error:
                if error.name != "aiohttp":
                    raise
                raise missing_package("aiohttp", "demo") from error

            page = stack.enter_context(
                closing(Page(options.web, model, source.name, output.snapshot if options.snapshots else None, tell))
            )
        if options.mqtt is not None:
            from edge_mnist.demo.views.mqtt import Sender

            sender = stack.enter_context(closing(Sender(options.mqtt, model, source.name, tell)))
        flow = loop.read_live(
            capture,
            model,
            threshold=options.threshold,
            limits=options.limits,
            watch=watch,
            stop=stop,
            tell=tell,
        )
        for moment in flow:
            output.show(moment)
            if page is not None:
                page.show(moment)
            if sender is not None:
                sender.show(moment)
            if window is not None and not window.show(moment):
                break
        output.end()
        return not capture.skipped


def _choose(view: View) -> View:
    """The view that `auto` means here: a window where one can be shown, else the page."""
    if view != "auto":
        return view
    from edge_mnist.demo.views import window

    return "web" if window.explain_unavailable() else "window"


class _Output:
    """Lines on stdout, the recording, and snapshots."""

    def __init__(self, options: DemoOptions, source: Source) -> None:
        self._options, self._source = options, source
        self._recording = Recording(options.record) if options.record is not None else None
        self._start = time.monotonic() - _age()
        self._first: float | None = None
        self._read_since = self._start
        self._frames = 0
        self._last: FrameResult | None = None

    def show(self, moment: FrameResult) -> None:
        """Print the events, record the picture."""
        for event in moment.events:
            print(events.line(event, self._options.as_json), flush=True)
        if moment.is_new:
            self._frames += 1
            if self._first is None:
                self._read_since = time.monotonic()
                self._first = self._read_since - self._start
        self._last = moment
        if self._recording is not None and (moment.is_new or self._source.is_live):
            try:
                # A camera that is lost takes time too; a file has a time of its own.
                now = time.monotonic() if self._source.is_live else moment.frame.time
                plain = self._options.record_plain
                picture = to_bgr(moment.frame.image) if plain else draw_result(moment, mirror=self._options.mirror)
                self._recording.add(picture, now)
            except EdgeMnistError as error:
                tell(f"the recording ends here: {error}")
                with contextlib.suppress(EdgeMnistError):  # the disk is full, which was said
                    self._recording.close()
                self._recording = None

    def switch(self) -> None:
        """Begin a recording, or end it."""
        if self._recording is not None:
            self.close()
            return
        try:
            self._recording = Recording(self._options.record or Path(f"edge-mnist-{snapshots.stamp()}.mp4"))
            note(f"recording {self._recording.path}")
        except EdgeMnistError as error:
            tell(str(error))

    def snapshot(self, picture: Image, moment: FrameResult) -> None:
        """Save a moment's frame as it is, and the picture of it, with boxes."""
        folder = self._options.snapshots or Path("snapshots")
        stem, plain, read = snapshots.name(moment), snapshots.png(moment.frame.image), snapshots.png(picture)
        try:
            note(f"snapshot {snapshots.save(folder, stem, plain, read)}")
        except EdgeMnistError as error:
            tell(str(error))

    def close(self) -> None:
        """End the recording."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            if recording.close():
                note(f"recorded {recording.path}")
            else:
                tell(f"nothing was recorded in {recording.path}: no picture came, and no file is left")

    def end(self) -> None:
        """Say what the demo came to."""
        if self._last is None or self._first is None:
            return
        seconds, times = time.monotonic() - self._read_since, self._last.milliseconds
        if self._frames > 1:
            frames = f"{self._frames} frames in {seconds:.1f} s, {self._frames / max(seconds, 1e-9):.1f} a second"
        else:
            frames = "1 frame"  # whose time has no beginning
        note(
            f"{frames}; reading a frame {times['total']:.1f} ms, of it the network {times.get('network', 0.0):.1f} ms; "
            f"first answer after {self._first:.2f} s"
        )


def _age() -> float:
    """Seconds since this process began, where the system tells."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0
