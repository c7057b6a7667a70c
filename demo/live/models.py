"""Opens the network that reads, and watches its file: a new network in its place is used without a restart."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edge_mnist import runtime
from edge_mnist.bundle.manifest import is_listed
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime import Classifier
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes
from edge_mnist.system.hashes import sha256

PERIOD = 1.0
"""The seconds between two checks of the file."""
_MAX_BYTES = 128 << 20
"""The size in bytes of the largest model file that is opened. The shipped one has 24,000 bytes."""
_DRAWN_DIGITS = 64
"""The number of drawn digits that a network without a bundle is tested on."""
_MIN_ACCURACY = 0.8
"""The part of the drawn digits that a network must read correctly. The shipped one reads 98 % of them."""

_FileState = tuple[int, int, int]
"""The inode, the size in bytes and the time of the last change of a file, in nanoseconds since 1970."""


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A network that was read from a file and opened.

    Attributes:
        path: the file.
        data: the content of the file.
        classifier: the network in its runtime.
    """

    path: Path
    data: bytes
    classifier: Classifier

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the content, hexadecimal."""
        return sha256(self.data)

    def open_again(self) -> Classifier:
        """Open another classifier of the same network, for another thread."""
        return runtime.load_bytes(self.data, str(self.path))


def load(path: Path | None = None, *, trust: bool = False) -> OpenedModel:
    """Open a model file.

    Args:
        path: the file; None for the shipped model.
        trust: as in `runtime.load`.

    Raises:
        EdgeMnistError: the file is not an artifact, it cannot be opened, or it does not classify images of 28x28 pixels
            into ten digits.
    """
    path = path or SHIPPED_INT8
    data = read_bytes(path, _MAX_BYTES)
    runtime.check_origin(path, data, trust=trust)
    classifier = runtime.load_bytes(data, str(path))
    if classifier.contract.input_shape != (1, 28, 28):
        raise EdgeMnistError(f"{path}: takes images of {classifier.contract.input_shape}, expected (1, 28, 28)")
    classes = classifier.logits(np.zeros((1, 28, 28), np.uint8)).shape[1]
    if classes != 10:
        raise EdgeMnistError(f"{path}: gives {classes} classes, expected the 10 digits")
    return OpenedModel(path, data, classifier)


def load_safely(path: Path | None = None, *, trust: bool = False) -> OpenedModel:
    """Open a model file as `load` does, after a trial in another process unless the origin of the file is known.

    The origin is known of the shipped model, and of a file whose hash is in the manifest beside it. Another file may be
    damaged so that its runtime crashes, which becomes an error here.

    Raises:
        EdgeMnistError: as in `load`, or the runtime crashed, or it took too much memory or time.
    """
    if path is None or is_listed(path, read_bytes(path, _MAX_BYTES)):
        return load(path, trust=trust)
    from edge_mnist.demo.live import trial  # it is not needed for the shipped network: processes take memory

    return _load_unchanged(path, trial.try_model(path, trust=trust, golden=False), trust=trust)


def _load_unchanged(path: Path, sha256: str, *, trust: bool) -> OpenedModel:
    """Open a model file after its trial; `sha256` is the hash of the content that was tried."""
    model = load(path, trust=trust)
    if model.sha256 != sha256:
        raise EdgeMnistError(f"{path}: changed while it was tried")
    return model


def check_golden_images(model: OpenedModel) -> None:
    """Run a network on the golden images of the bundle that its file is in, or on drawn digits if there is no bundle.

    Raises:
        EdgeMnistError: its logits differ from those of the bundle, or it reads too few digits correctly.
    """
    from edge_mnist.bundle.manifest import MANIFEST, REFERENCE
    from edge_mnist.bundle.reference import deserialize

    classifier, path = model.classifier, model.path
    reference_path = path.parent / REFERENCE
    if (path.parent / MANIFEST).exists() and reference_path.exists():
        reference = deserialize(read_bytes(reference_path), str(reference_path))
        found = classifier.outputs(reference.images)
        expected = reference.float_logits if found.dtype == np.float32 else reference.int8_logits
        if expected is not None and found.shape == expected.shape:
            exact = found.dtype == np.int8 and classifier.rounding == "float"
            allowed = 0.0 if exact else 1.0 if found.dtype == np.int8 else 1e-3
            worst = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
            if worst <= allowed:
                return
            raise EdgeMnistError(f"{path}: differs from its bundle's golden images by {worst:g}: verify the bundle")
    from edge_mnist.data import strokes

    drawn = strokes.draw(_DRAWN_DIGITS, seed=9)
    right = float((classifier.predict(drawn.images) == drawn.labels).mean())
    if right < _MIN_ACCURACY:
        raise EdgeMnistError(
            f"{path}: reads {right:.0%} of {_DRAWN_DIGITS} drawn digits, expected {_MIN_ACCURACY:.0%} or more"
        )


class ModelWatcher:
    """Checks the file of a model every second, in a thread. A new model is first tried in another process.

    Attributes:
        refused: why the model that is in the file now is not used; empty if it is used.
    """

    def __init__(
        self, model: OpenedModel, report: Callable[[str], None], *, trust: bool = False, period: float = PERIOD
    ) -> None:
        """Begin to watch.

        Args:
            model: the model that is in use.
            report: is called with a line when a new model is refused.
            trust: as in `runtime.load`.
            period: the seconds between two checks of the file.
        """
        self.refused = ""
        self._path, self._model = model.path, model
        self._report, self._trust, self._period = report, trust, period
        self._new_model: OpenedModel | None = None
        self._stopping = threading.Event()
        self._last_tried = _read_state(model.path)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def take_new_model(self) -> OpenedModel | None:
        """Return the model that passed its trial since the last call, or None if no model has."""
        model, self._new_model = self._new_model, None
        return model

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        last = self._last_tried
        while not self._stopping.wait(self._period):
            now = _read_state(self._path)
            # A file that is still being written is not tried before two checks find it in the same state.
            if now is not None and now == last and now != self._last_tried:
                self._last_tried = now
                try:
                    self._try()
                except Exception as error:  # whatever one file does, the next one must be tried
                    self._refuse(error)
            last = now

    def _try(self) -> None:
        """Try the model that is in the file now, and offer it to `take_new_model` if it is good."""
        from edge_mnist.demo.live import trial

        tried = trial.try_model(self._path, trust=self._trust, golden=True, stop=self._stopping)
        if tried != self._model.sha256:
            self._new_model = self._model = _load_unchanged(self._path, tried, trust=self._trust)
        self.refused = ""

    def _refuse(self, error: Exception) -> None:
        """Report why a new model is not used."""
        if self._stopping.is_set():
            return
        self.refused = str(error) if isinstance(error, EdgeMnistError) else f"{self._path}: {error!r}"
        with contextlib.suppress(OSError, ValueError):  # stderr is closed
            self._report(f"the new model is not used, the old one stays in use: {self.refused}")


def _read_state(path: Path) -> _FileState | None:
    """Read what changes when a file is replaced; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
