"""The network that reads, and a watch on its file: a better one put in its place is taken up without a restart."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_mnist import runtime
from edge_mnist.bundle.manifest import is_listed
from edge_mnist.demo.live import trial
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.runtime import Classifier
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import read_bytes

PERIOD = 1.0
"""Seconds between two looks at the file."""
_LARGEST = 128 << 20
"""Bytes of the largest model file that is opened; the shipped one has 24,000."""
_DRAWN = 64
"""Drawn digits that a network without a bundle is tried on."""
_LEAST_RIGHT = 0.8
"""Part of them that it must read; the shipped one reads 98 %."""

_Signature = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A network, opened.

    Attributes:
        path: its file.
        data: the file's content.
        sha256: of the content, hexadecimal.
        classifier: opened.
    """

    path: Path
    data: bytes
    sha256: str
    classifier: Classifier

    def open_again(self) -> Classifier:
        """Another classifier of the same network, for another thread."""
        return runtime.load_bytes(self.data, str(self.path))


def load(path: Path | None = None, *, trust: bool = False) -> OpenedModel:
    """Open a model file; the shipped one if none is named.

    Raises:
        EdgeMnistError: it is no artifact, cannot be opened, or does not tell ten digits of 28x28 pixels apart.
    """
    path = path or SHIPPED_INT8
    data = read_bytes(path, _LARGEST)
    runtime.check_origin(path, data, trust=trust)
    classifier = runtime.load_bytes(data, str(path))
    if classifier.contract.input_shape != (1, 28, 28):
        raise EdgeMnistError(f"{path}: takes images of {classifier.contract.input_shape}, expected (1, 28, 28)")
    classes = classifier.logits(np.zeros((1, 28, 28), np.uint8)).shape[1]
    if classes != 10:
        raise EdgeMnistError(f"{path}: tells {classes} classes apart, expected the 10 digits")
    return OpenedModel(path, data, hashlib.sha256(data).hexdigest(), classifier)


def load_safely(path: Path | None = None, *, trust: bool = False) -> OpenedModel:
    """Open a model file as `load` does; but first in a process of its own, unless its origin is known.

    That is the shipped one's, and that of one whose hash the manifest beside it holds. In others damage may crash the
    runtime, which here becomes an error.

    Raises:
        EdgeMnistError: as `load`, or the runtime crashed, or took too much memory or time.
    """
    if path is None or is_listed(path, read_bytes(path, _LARGEST)):
        return load(path, trust=trust)
    return _load_same(path, trial.try_model(path, trust=trust, golden=False), trust=trust)


def _load_same(path: Path, sha256: str, *, trust: bool) -> OpenedModel:
    """Open a model file that was tried, if it is still the same."""
    model = load(path, trust=trust)
    if model.sha256 != sha256:
        raise EdgeMnistError(f"{path}: changed while it was tried")
    return model


def check_golden_images(model: OpenedModel) -> None:
    """Run a network on its golden images: of the bundle that it lies in, else on drawn digits.

    Raises:
        EdgeMnistError: it does not give what it should.
    """
    from edge_mnist.bundle.manifest import MANIFEST, REFERENCE
    from edge_mnist.bundle.reference import deserialize

    classifier, path = model.classifier, model.path
    beside = path.parent / REFERENCE
    if (path.parent / MANIFEST).exists() and beside.exists():
        reference = deserialize(read_bytes(beside), str(beside))
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

    drawn = strokes.draw(_DRAWN, seed=9)
    right = float((classifier.predict(drawn.images) == drawn.labels).mean())
    if right < _LEAST_RIGHT:
        raise EdgeMnistError(f"{path}: reads {right:.0%} of {_DRAWN} drawn digits, expected {_LEAST_RIGHT:.0%} or more")


class ModelWatcher:
    """Looks at a model's file every second, in a thread of its own; a new one is first tried in another process.

    Attributes:
        refused: why the file's present model was not taken up; empty if it was.
    """

    def __init__(self, model: OpenedModel, tell: Callable[[str], None], *, trust: bool = False, period: float = PERIOD):
        """Begin to watch; `tell` is called with a line when a file is refused."""
        self.refused = ""
        self._path, self._sha256 = model.path, model.sha256
        self._tell, self._trust, self._period = tell, trust, period
        self._fresh: OpenedModel | None = None
        self._stopping = threading.Event()
        self._seen = _signature(model.path)
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def fresh(self) -> OpenedModel | None:
        """A new network since the last call, tried and good."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def close(self) -> None:
        """Stop watching."""
        self._stopping.set()
        self._thread.join(2.0)

    def _run(self) -> None:
        last = self._seen
        while not self._stopping.wait(self._period):
            now = _signature(self._path)
            # A file that still grows is left alone until two looks agree.
            if now is not None and now == last and now != self._seen:
                self._seen = now
                try:
                    self._try()
                except Exception as error:  # whatever a file does, the next one shall be looked at
                    self._refuse(error)
            last = now

    def _try(self) -> None:
        """Take a new model up if it is good."""
        tried = trial.try_model(self._path, trust=self._trust, golden=True, stop=self._stopping)
        if tried != self._sha256:
            self._fresh, self._sha256 = _load_same(self._path, tried, trust=self._trust), tried
        self.refused = ""

    def _refuse(self, error: Exception) -> None:
        """Say why a model is not taken up."""
        if self._stopping.is_set():
            return
        self.refused = str(error) if isinstance(error, EdgeMnistError) else f"{self._path}: {error!r}"
        with contextlib.suppress(OSError, ValueError):  # stderr is closed
            self._tell(f"the new model is not taken up, the old one goes on: {self.refused}")


def _signature(path: Path) -> _Signature | None:
    """What changes when a file is replaced: its inode, size and time."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
