"""Reads picture files as inputs of a network: resized, their middle cut out, in grey or colour.

A picture is prepared as torchvision's `Resize` and `CenterCrop` prepare it, and, as in torchvision's `ImageFolder`, it
is not rotated as its EXIF says. Pillow reads the files.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.geometry import MapShape, Pair
from edge_mnist.system.errors import EdgeMnistError, UsageError, explain_missing_packages

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_LOG = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"))
"""The suffixes, in lower case, of the files that count as pictures in a folder."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
"""The formats that are opened, by Pillow's names."""
_REDUCED_PIXELS = 4_000_000
"""A JPEG with more pixels is decoded at a half, a quarter or an eighth of its size if that is still twice as large as
needed, as Pillow's `thumbnail` does: a camera's 20 million pixels would take most of a second."""
_MOST_PIXELS = 40_000_000
"""The most pixels that are decoded, 120 MB of colour; a larger picture is refused."""
_NAMED = 5
"""How many of the skipped pictures a note names."""


def list_pictures(folder: Path) -> list[Path]:
    """List the picture files in a folder and in the folders within, sorted; hidden ones do not count."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place, name) for name in names if is_picture_name(name) and os.path.isfile(f"{place}/{name}")]
    return sorted(found)


def is_picture_name(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def find_common_size(paths: Sequence[Path]) -> Pair:
    """Height and width of pictures that are all of one size; those that cannot be opened do not count.

    Raises:
        UsageError: there are several sizes.
        EdgeMnistError: none can be opened.
    """
    sizes: dict[Pair, Path] = {}
    error: EdgeMnistError | None = None
    for path in paths:
        try:
            with _open(path) as picture:
                sizes.setdefault((picture.height, picture.width), path)
        except EdgeMnistError as caught:
            error = error or caught
        if len(sizes) > 1:
            one, other = (f"{path} has {width}x{height} pixels" for (height, width), path in sizes.items())
            raise UsageError(f"{one}, {other}: name the network's --input-shape, or one size for all with --resize")
    if not sizes:
        raise error or EdgeMnistError("no pictures")
    return next(iter(sizes))


def read_pictures(
    paths: Sequence[Path], shape: MapShape, *, resize: int | Pair | None = None, skip_bad: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Read picture files as inputs of a network.

    Args:
        paths: the files, at least one.
        shape: channels (1 for grey, 3 for RGB), height, width of the network's input.
        resize: to how many pixels the shorter side is resized, or to which height and width; None for the smallest size
            that covers the input. Then the middle is cut out.
        skip_bad: skip files that cannot be opened, and log a note that names them.

    Returns:
        uint8 (N, channels, height, width), and the indices of the files (N,), which are all unless some are skipped.

    Raises:
        UsageError: the network's input has neither 1 nor 3 channels, or is larger than the resized pictures.
        EdgeMnistError: a file cannot be opened, or, with `skip_bad`, none can.
    """
    if shape[0] not in (1, 3):
        raise UsageError(
            f"the network takes {shape[0]} channels, and pictures have 1 or 3: give its inputs as .npy or .npz"
        )
    inputs = np.empty((len(paths), *shape), np.uint8)
    kept: list[int] = []
    skipped: list[EdgeMnistError] = []
    for index, path in enumerate(paths):
        if index % 100 == 0:
            _LOG.info("reading pictures: %s of %s", f"{index:,}", f"{len(paths):,}")
        try:
            inputs[len(kept)] = _read_picture(path, shape, resize)
        except UsageError:
            raise
        except EdgeMnistError as error:
            if not skip_bad:
                raise EdgeMnistError(f"{error}; --skip-bad skips such pictures") from error
            skipped.append(error)
        else:
            kept.append(index)
    if skipped:
        others = f"; and {len(skipped) - _NAMED:,} more" if len(skipped) > _NAMED else ""
        named = "; ".join(map(str, skipped[:_NAMED]))
        if not kept:
            raise EdgeMnistError(f"none of {len(paths):,} pictures can be read: {named}{others}")
        _LOG.warning("note: skipped %s of %s pictures: %s%s", len(skipped), len(paths), named, others)
    return inputs[: len(kept)], np.array(kept, np.intp)


def read_grey(path: Path, size: Pair) -> NDArray[np.uint8]:
    """Read a picture of a given height and width as grey levels: uint8 (height, width).

    Raises:
        EdgeMnistError: it cannot be read, or has another size.
    """
    with _open(path) as opened:
        if (opened.height, opened.width) != size:
            found = f"{opened.width}x{opened.height} pixels"
            raise EdgeMnistError(f"{path}: has {found}, expected a digit cut to {size[1]}x{size[0]}")
        return np.asarray(_decode(opened, path, "L"))


def _read_picture(path: Path, shape: MapShape, resize: int | Pair | None) -> NDArray[np.uint8]:
    """Read a picture: uint8 (channels, height, width)."""
    from PIL import Image

    channels, height, width = shape
    with _open(path) as opened:
        size = _resized_size((opened.height, opened.width), resize, (height, width))
        if min(size[0] - height, size[1] - width) < 0:
            raise UsageError(
                f"{path}: is resized to {size[1]}x{size[0]} pixels, but the network takes {width}x{height}: name a "
                "larger --resize"
            )
        if size[0] * size[1] > _MOST_PIXELS:  # of one line of pixels, for example
            raise EdgeMnistError(
                f"{path}: its {opened.width}x{opened.height} pixels would be resized to {size[1]}x{size[0]}, more than "
                f"{_MOST_PIXELS:,}: cut it"
            )
        if opened.width * opened.height > _REDUCED_PIXELS:
            opened.draft(None, (2 * size[1], 2 * size[0]))  # does nothing but for a JPEG
        if opened.width * opened.height > _MOST_PIXELS:
            raise EdgeMnistError(
                f"{path}: has {opened.width}x{opened.height} pixels, more than {_MOST_PIXELS:,}: reduce it"
            )
        picture = _decode(opened, path, "L" if channels == 1 else "RGB")
    if (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    pixels = np.asarray(picture)[top : top + height, left : left + width]  # (height, width) or (height, width, 3)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _open(path: Path) -> Picture:
    """Open a picture without decoding it."""
    with explain_missing_packages():
        from PIL import Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise EdgeMnistError(f"{path}: has more than {_MOST_PIXELS:,} pixels: reduce it") from error
    except Exception as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or of another kind"
        )
        raise EdgeMnistError(f"{path}: is not a picture that can be read: {reason}") from error


def _resized_size(size: Pair, resize: int | Pair | None, target: Pair) -> Pair:
    """Height and width to which a picture of `size` is resized, see `read_pictures`."""
    if isinstance(resize, tuple):
        return resize
    if resize is None:
        factor = max(target[0] / size[0], target[1] / size[1])
        return max(target[0], round(factor * size[0])), max(target[1], round(factor * size[1]))
    short, long = min(size), max(size)
    other = int(resize * long / short)  # torchvision's rounding
    return (resize, other) if size[0] <= size[1] else (other, resize)


def _decode(opened: Picture, path: Path, mode: str) -> Picture:
    """Decode a picture as grey or RGB; Pillow clips 16 bits where their upper 8 are wanted."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            if opened.mode.startswith("I"):
                opened = Image.fromarray((np.asarray(opened).clip(0, 65535) // 256).astype(np.uint8))
            return opened.convert(mode)
    except MemoryError:
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise nearly any exception
        raise EdgeMnistError(f"{path}: is not a picture that can be read: {error}") from error
