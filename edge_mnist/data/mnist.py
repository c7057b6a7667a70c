"""Finds, downloads, reads and checks the files of MNIST, and splits its training images for validation.

Any data set in the format of MNIST is accepted: four IDX files (LeCun, Cortes, Burges, "The MNIST database") of 28x28
grey levels and labels 0 to 9, plain or gzip, in the folder itself or in `MNIST/raw`, where torchvision keeps them. Only
NumPy is needed, because models are also verified on small devices.
"""

from __future__ import annotations

import gzip
import io
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
from edge_mnist.system.hashes import sha256

_LOG = logging.getLogger(__name__)

Part = Literal["train", "test"]
"""A part of the data set: the images to train with, or those to test with."""

_FILE_NAMES: dict[Part, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The names of the files with images and labels of each part."""
_HASHES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""The SHA-256 of the uncompressed files of MNIST: the compressed ones differ between mirrors in their headers."""
_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""The servers that are tried one after the other."""
_TIMEOUT = 20
"""Seconds without an answer after which the next mirror is tried."""
_LARGEST_DOWNLOAD = 1 << 25
"""The largest number of bytes that is accepted from a server; the largest of the four files has 9.9 MB."""

_IMAGES, _LABELS = b"\0\0\x08\x03", b"\0\0\x08\x01"
"""The first four bytes of an IDX file: two zeros, 8 for unsigned bytes, and the number of dimensions."""


_MOST_BYTES = 512 * 1024 * 1024
"""The most bytes of a file after its decompression; a file of MNIST has at most 47 million."""


@dataclass(frozen=True)
class Digits:
    """Images of digits with their labels.

    Attributes:
        images: uint8 (N, 28, 28), grey levels from 0 (paper) to 255 (ink).
        labels: int64 (N,), 0 to 9.
        source: "mnist" if the files are those of MNIST, bit for bit; "unknown" for other files; "strokes" for digits
            that were drawn.
        sha256: the hash of both uncompressed files, images first; for drawn digits, of the images.
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

    The files are searched in `folder`, else in `$EDGE_MNIST_DATA`, else in the user's cache. Missing files are only
    downloaded into the cache. Data other than MNIST is read too, and logged as a warning.

    Args:
        part: "train" (60,000 images in MNIST) or "test" (10,000).
        folder: the folder to search instead of `$EDGE_MNIST_DATA` and the cache.
        download: whether missing files may be downloaded.

    Raises:
        UsageError: there is no such folder.
        EdgeMnistError: files are missing, damaged or of another kind, or cannot be downloaded.
    """
    place, origin = _find_folder(folder)
    if origin is not None and not place.is_dir():
        raise UsageError(f"{place}: no such folder ({origin}): expected one that holds the four files of MNIST")
    paths = [
        _find_file(place, name) or _download_or_refuse(place, name, origin, download) for name in _FILE_NAMES[part]
    ]
    files = [_decompress(path, read_bytes(path)) for path in paths]
    images, labels = _parse_images(paths[0], files[0]), _parse_labels(paths[1], files[1])
    if len(images) != len(labels):
        expected = f"expected {len(images):,}, one for each image in {paths[0].name}"
        raise EdgeMnistError(f"{paths[1]}: holds {len(labels):,} labels, {expected}: are they of the same set?")
    is_mnist = all(sha256(file) == _HASHES[name] for file, name in zip(files, _FILE_NAMES[part], strict=True))
    both = sha256(*files)
    if not is_mnist:
        note = f"not MNIST's own {part} files (unknown hash {both[:12]}...)"
        _LOG.warning("note: %s, %s: %s", paths[0], paths[1].name, note)
    return Digits(images, labels, "mnist" if is_mnist else "unknown", both)


def is_available(folder: Path | None = None, part: Part = "test") -> bool:
    """Whether `load` finds both files of a part without a download; their content is not checked."""
    place, _ = _find_folder(folder)
    return all(_find_file(place, name) is not None for name in _FILE_NAMES[part])


def split_for_validation(labels: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split a training set into images to learn from and images to validate on: 55,000 and 5,000 of 60,000.

    A twelfth of each class is for validation, rounded by the method of largest remainders so that the sizes are exact.
    The split depends only on the labels: it is the same with every version of NumPy and on every machine.

    Args:
        labels: (N,), integers. If there are fewer than 12, none is for validation.

    Returns:
        The indices to learn from and the indices to validate on, both sorted; together they are 0 to N - 1.
    """
    classes, counts = np.unique(labels, return_counts=True)
    shares, remainders = counts // 12, counts % 12
    largest = np.argsort(-remainders, kind="stable")[: len(labels) // 12 - shares.sum()]
    shares[largest] += 1
    order = np.argsort(splitmix64(np.arange(len(labels), dtype=np.uint64) * SPLITMIX64_STEP))
    is_validation = np.zeros(len(labels), bool)
    for label, share in zip(classes, shares, strict=True):
        is_validation[order[labels[order] == label][:share]] = True
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)


def _find_folder(folder: Path | None) -> tuple[Path, str | None]:
    """Find the folder to search, and what named it: None for the cache, which nobody named."""
    if folder is not None:
        return folder, "given as the data folder"
    if named := os.environ.get("EDGE_MNIST_DATA"):
        return Path(named), "named by EDGE_MNIST_DATA"
    from platformdirs import user_cache_path

    return user_cache_path("edge-mnist") / "mnist", None


def _find_file(place: Path, name: str) -> Path | None:
    """Find one of the four files under any of its names; None if it is missing."""
    for folder in (place, place / "MNIST" / "raw"):
        for spelling in (name, name.replace("-idx", ".idx")):
            for path in (folder / spelling, folder / f"{spelling}.gz"):
                if os.path.isfile(path):  # unlike Path.is_file, it returns False for a folder that may not be read
                    return path
    return None


def _download_or_refuse(place: Path, name: str, origin: str | None, download: bool) -> Path:
    """Download a missing file if that is allowed, else say where it was searched."""
    if origin is None and download:
        return _download(place, name)
    here = f"{place}: no {name}, plain or .gz, here or in MNIST/raw"
    if origin is None:
        raise EdgeMnistError(f"{here} (the cache): name a folder that holds MNIST with --data or EDGE_MNIST_DATA")
    raise EdgeMnistError(f"{here} ({origin}): put the four files of MNIST there")


def _download(place: Path, name: str) -> Path:
    """Fetch one of the four files from the first mirror with the right content, and keep it as .gz."""
    failures = []
    for mirror in _MIRRORS:
        url = f"{mirror}{name}.gz"
        try:
            compressed = _fetch(url)
            found = sha256(_decompress(Path(f"{name}.gz"), compressed))
        except EdgeMnistError as error:
            failures.append(f"{mirror}: {error}")
            continue
        if found == _HASHES[name]:
            path = place / f"{name}.gz"
            write_whole(path, compressed)
            return path
        failures.append(f"{mirror}: SHA-256 {found[:12]}..., expected {_HASHES[name][:12]}...")
    remedy = "put the four files of MNIST into a folder and name it with --data or EDGE_MNIST_DATA"
    raise EdgeMnistError(f"{name}.gz: cannot be downloaded ({'; '.join(failures)}): {remedy}")


def _fetch(url: str) -> bytes:
    """Fetch the content of a URL, and log the progress."""
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
        error.close()  # it keeps the connection open
        raise EdgeMnistError(str(error)) from error
    except URLError as error:
        raise EdgeMnistError(str(error.reason)) from error
    except (OSError, HTTPException) as error:
        raise EdgeMnistError(str(error) or type(error).__name__) from error
    return bytes(received)


def _decompress(path: Path, content: bytes) -> bytes:
    """Decompress the content of a file if its first bytes are those of gzip, whatever its name is."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            found = file.read(_MOST_BYTES + 1)
    except EOFError as error:
        raise EdgeMnistError(f"{path}: cut short: gzip ends after {len(content):,} bytes: get it again") from error
    except (OSError, zlib.error) as error:
        raise EdgeMnistError(f"{path}: damaged: {error}: get it again") from error
    if len(found) > _MOST_BYTES:
        raise EdgeMnistError(f"{path}: holds more than {_MOST_BYTES:,} bytes when it is decompressed")
    return found


def _parse_images(path: Path, content: bytes) -> NDArray[np.uint8]:
    """Parse an IDX file of images, uint8 (N, 28, 28)."""
    images = _parse_idx(path, content, _IMAGES)
    if images.shape[1:] != (28, 28):
        found = "x".join(map(str, images.shape[1:]))
        raise EdgeMnistError(f"{path}: holds images of {found} pixels, expected 28x28: resize them as MNIST's are")
    return images


def _parse_labels(path: Path, content: bytes) -> NDArray[np.int64]:
    """Parse an IDX file of labels, int64 (N,)."""
    labels = _parse_idx(path, content, _LABELS).astype(np.int64)
    if labels.max() > 9:
        first = int(np.argmax(labels > 9))
        raise EdgeMnistError(f"{path}: label {first} is {labels[first]}, expected 0 to 9: use a set of ten classes")
    return labels


def _parse_idx(path: Path, content: bytes, magic: bytes) -> NDArray[np.uint8]:
    """Parse an IDX file: `magic`, then each dimension as a big-endian 32-bit number, then the bytes."""
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
    # A copy, because torch warns of read-only arrays.
    values: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
    return values
