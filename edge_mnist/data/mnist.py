"""MNIST: where its files are looked for, how they are read and checked, and the split into learning and validation.

Any set in MNIST's format will do: four IDX files (LeCun, Cortes, Burges, "The MNIST database") of 28x28 grey levels and
labels 0 to 9, plain or gzip, in the folder itself or in `MNIST/raw` as torchvision keeps them. Needs NumPy only, as
small devices verify models too.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import SPLITMIX64_STEP, splitmix64
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import read_bytes, write_whole

_LOG = logging.getLogger(__name__)

Part = Literal["train", "test"]

_FILE_NAMES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
# SHA-256 of the uncompressed files: the .gz differ from mirror to mirror by their headers.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_TIMEOUT = 20  # seconds of silence until the next mirror is tried
_LARGEST_DOWNLOAD = 1 << 25  # bytes; the largest of the four files has 9.9 MB

# The first four bytes of an IDX file: two zeros, 8 for unsigned bytes, the number of dimensions.
_IMAGES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"


@dataclass(frozen=True)
class Digits:
    """Images of digits and what they show.

    Attributes:
        images: (N, 28, 28) uint8, grey levels 0 (paper) to 255 (ink).
        labels: (N,) int64, 0 to 9.
        source: "mnist" where the files are MNIST's to the last bit, "unknown" for other files, "strokes" where drawn.
        sha256: one hash of the content: of both uncompressed files, images first; of the images where drawn.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    source: str
    sha256: str

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.images)


def load(part: Part, folder: Path | None = None, *, download: bool = True) -> Digits:
    """Read the images and labels to train or to test with.

    They are looked for in `folder`, else in `$EDGE_MNIST_DATA`, else in the user's cache; only where neither of the
    first two is given, files that the cache lacks are downloaded. Other data than MNIST is read with a note on stderr.

    Args:
        part: "train" (60,000 images in MNIST) or "test" (10,000).
        folder: where to look instead of `$EDGE_MNIST_DATA` and the cache.
        download: whether files may be downloaded.

    Raises:
        UsageError: there is no such folder.
        EdgeMnistError: files are missing, damaged or of another kind, or cannot be downloaded.
    """
    place, named_by = _find_folder(folder)
    if named_by is not None and not place.is_dir():
        raise UsageError(f"{place}: no such folder ({named_by}): expected one that holds the four files of MNIST")
    paths = [
        _find_file(place, name) or _download_or_refuse(place, name, named_by, download) for name in _FILE_NAMES[part]
    ]
    files = [_decompress(path, read_bytes(path)) for path in paths]
    images, labels = _parse_images(paths[0], files[0]), _parse_labels(paths[1], files[1])
    if len(images) != len(labels):
        expected = f"expected {len(images):,}, one for each image in {paths[0].name}"
        raise EdgeMnistError(f"{paths[1]}: holds {len(labels):,} labels, {expected}: are they of the same set?")
    known = all(_hash(file) == _MNIST[name] for file, name in zip(files, _FILE_NAMES[part], strict=True))
    both = hashlib.sha256(files[0])
    both.update(files[1])
    if not known:
        note = f"not MNIST's own {part} files (unknown hash {both.hexdigest()[:12]}...)"
        _LOG.warning("note: %s, %s: %s", paths[0], paths[1].name, note)
    return Digits(images, labels, "mnist" if known else "unknown", both.hexdigest())


def is_available(folder: Path | None = None, part: Part = "test") -> bool:
    """Whether `load` finds both files of a part without a download; whether they are sound, only `load` tells."""
    place, _ = _find_folder(folder)
    return all(_find_file(place, name) is not None for name in _FILE_NAMES[part])


def split_for_validation(labels: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split a training set into images to learn from and images to validate with: 55,000 and 5,000 of 60,000.

    One in twelve validates, of each class alike, rounded by largest remainder so that the sizes are exact. The split
    depends on the labels only and is the same with every version of NumPy and on every machine.

    Args:
        labels: (N,) of integers, the classes. With fewer than 12 there are none to validate with.

    Returns:
        The indices to learn from and those to validate with, each sorted, without overlap, together 0 to N - 1.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares, remainders = counts // 12, counts % 12
    largest = np.argsort(-remainders, kind="stable")[: len(labels) // 12 - shares.sum()]
    shares[largest] += 1
    order = np.argsort(splitmix64(np.arange(len(labels), dtype=np.uint64) * SPLITMIX64_STEP))
    validates = np.zeros(len(labels), bool)
    for label, share in zip(classes, shares, strict=True):
        validates[order[labels[order] == label][:share]] = True
    return np.flatnonzero(~validates), np.flatnonzero(validates)


def _find_folder(folder: Path | None) -> tuple[Path, str | None]:
    """The folder to look in, and who named it; None for the cache, which nobody did."""
    if folder is not None:
        return folder, "given as the data folder"
    if named := os.environ.get("EDGE_MNIST_DATA"):
        return Path(named), "named by EDGE_MNIST_DATA"
    from platformdirs import user_cache_path

    return user_cache_path("edge-mnist") / "mnist", None


def _find_file(place: Path, name: str) -> Path | None:
    """One of the four files, in any of its spellings, or None."""
    for folder in (place, place / "MNIST" / "raw"):
        for spelling in (name, name.replace("-idx", ".idx")):
            for path in (folder / spelling, folder / f"{spelling}.gz"):
                if os.path.isfile(path):  # unlike Path.is_file, says no where a folder may not be read
                    return path
    return None


def _download_or_refuse(place: Path, name: str, named_by: str | None, download: bool) -> Path:
    """A file that was not found, downloaded where that is allowed."""
    if named_by is None and download:
        return _download(place, name)
    here = f"{place}: no {name}, plain or .gz, here or in MNIST/raw"
    if named_by is None:
        raise EdgeMnistError(f"{here} (the cache): name a folder that holds MNIST with --data or EDGE_MNIST_DATA")
    raise EdgeMnistError(f"{here} ({named_by}): put the four files of MNIST there")


def _download(place: Path, name: str) -> Path:
    """Fetch one of the four files from the first mirror that gives the right content, and keep it as .gz."""
    failures = []
    for mirror in _MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            packed = _fetch(url)
            found = _hash(_decompress(Path(f"{name}.gz"), packed))
        except EdgeMnistError as error:
            failures.append(f"{mirror}: {error}")
            continue
        if found == _MNIST[name]:
            path = place / f"{name}.gz"
            write_whole(path, packed)
            return path
        failures.append(f"{mirror}: SHA-256 {found[:12]}..., expected {_MNIST[name][:12]}...")
    remedy = "put the four files of MNIST into a folder and name it with --data or EDGE_MNIST_DATA"
    raise EdgeMnistError(f"{name}.gz: cannot be downloaded ({'; '.join(failures)}): {remedy}")


def _fetch(url: str) -> bytes:
    """What a server sends; how far the download has come is logged."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    received = bytearray()
    _LOG.info("downloading %s", url)
    try:
        with urlopen(url, timeout=_TIMEOUT) as response:
            while chunk := response.read(1 << 16):
                received += chunk
                _LOG.info("downloading %s: %.1f MB", url, len(received) / 1e6)
                if len(received) > _LARGEST_DOWNLOAD:
                    raise EdgeMnistError(f"sends more than {_LARGEST_DOWNLOAD:,} bytes")
    except HTTPError as error:
        error.close()  # it holds the connection
        raise EdgeMnistError(str(error)) from error
    except URLError as error:
        raise EdgeMnistError(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise EdgeMnistError(str(error) or type(error).__name__) from error
    return bytes(received)


def _hash(content: bytes) -> str:
    """The hash as it is written in lists of checksums."""
    return hashlib.sha256(content).hexdigest()


def _decompress(path: Path, content: bytes) -> bytes:
    """The content of a file, without gzip where it is compressed, which its first bytes tell and its name may not."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise EdgeMnistError(f"{path}: cut short: gzip ends after {len(content):,} bytes: get it again") from error
    except (OSError, zlib.error) as error:
        raise EdgeMnistError(f"{path}: damaged: {error}: get it again") from error


def _parse_images(path: Path, content: bytes) -> NDArray[np.uint8]:
    """The (N, 28, 28) images of an IDX file."""
    images = _parse_idx(path, content, _IMAGES)
    if images.shape[1:] != (28, 28):
        found = "x".join(map(str, images.shape[1:]))
        raise EdgeMnistError(f"{path}: holds images of {found} pixels, expected 28x28: resize them as MNIST's are")
    return images


def _parse_labels(path: Path, content: bytes) -> NDArray[np.int64]:
    """The (N,) labels of an IDX file."""
    labels = _parse_idx(path, content, _LABELS).astype(np.int64)
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise EdgeMnistError(f"{path}: label {first} is {labels[first]}, expected 0 to 9: use a set of ten classes")
    return labels


def _parse_idx(path: Path, content: bytes, magic: bytes) -> NDArray[np.uint8]:
    """The array of an IDX file: magic, then each dimension as a big-endian 32-bit number, then the bytes."""
    kinds = {_IMAGES: "images", _LABELS: "labels"}
    expected, found = kinds[magic], kinds.get(content[:4])
    if found is None:
        begins = content[:4].hex(" ") or "nothing"
        raise EdgeMnistError(f"{path}: begins with {begins}, expected {magic.hex(' ')}: not an IDX file of {expected}")
    if found != expected:
        raise EdgeMnistError(f"{path}: holds {found}, expected {expected}: are the files of images and labels swapped?")
    header = 4 + 4 * magic[3]
    shape = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4))
    size = header + math.prod(shape)
    if len(content) < size:
        raise EdgeMnistError(f"{path}: cut short: {len(content):,} bytes, expected {size:,}: get it again")
    if len(content) > size:
        raise EdgeMnistError(f"{path}: {len(content):,} bytes, expected {size:,} by its header: get it again")
    if 0 in shape:
        raise EdgeMnistError(f"{path}: holds no {expected}, expected at least one")
    # A copy, because torch warns of arrays that cannot be written to.
    values: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
    return values
