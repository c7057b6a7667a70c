"""Opens inputs that a user brings: arrays, .npy and .npz files, folders of pictures, folders of MNIST's files.

Nothing is read before it is known which inputs are wanted: a .npy is mapped into memory and pictures are only listed.
Pickles are refused.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import mnist, pictures
from edge_mnist.data.inputs import InputOptions, arrange_user_inputs, choose_evenly, move_channels
from edge_mnist.graph.layers import Shape
from edge_mnist.system.errors import EdgeMnistError, UsageError, first_line

Purpose = Literal["calibration", "test"]

_MOST_BYTES = 600_000_000
"""The most bytes of inputs that are held in memory: 4,000 images of 3x224x224 pixels."""
_LARGEST_ENTRY = 1 << 31
"""The size in bytes of the largest array that is read from a .npz, which cannot be read in parts: 2 GiB."""
_ARRAYS: dict[Purpose, str] = {
    "calibration": "calibration x_train train_images train_x",
    "test": "x_test test_images test_x",
}
_INPUTS = "images x inputs features data"
_LABELS: dict[str, str] = {"x_test": "y_test", "test_images": "test_labels", "test_x": "test_y"}
"""The names of the labels of test inputs, by the name of the inputs."""
_ANY_LABELS = "labels y targets label target"


@dataclass(frozen=True, eq=False)
class UserInputs:
    """Inputs that a user brings, of which nothing is read yet.

    Attributes:
        name: what notes and errors call them.
        values: an array (N, ...), or None if they are pictures.
        paths: the files of pictures, sorted; empty if they are an array.
        labels: int64 (N,), or None.
    """

    name: str
    values: NDArray[np.generic] | None = None
    paths: tuple[Path, ...] = ()
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """The number of inputs, N."""
        return len(self.paths) if self.values is None else len(self.values)

    def find_shape(self, options: InputOptions, dimensions: int | None, channels: int | None) -> Shape:
        """Find the shape of a network's input from the inputs.

        Args:
            options: what the user says of the inputs.
            dimensions: of the input that the network's first layer takes: 3 for maps, 2 for sequences, 1 for vectors;
                None if that is not known.
            channels: of the input that it takes; None if it is no convolution.

        Raises:
            UsageError: the shape cannot be found.
        """
        if self.values is None:
            size = options.resize
            if size is None:
                size = pictures.find_common_size(self.paths)
            return (channels or 3, *(size if isinstance(size, tuple) else (size, size)))
        rows = self.values.shape[1:]
        is_image = self.values.dtype == np.uint8 and not options.features
        wanted = 3 if is_image else dimensions or len(rows)
        if len(rows) == wanted - 1 and wanted > 1:
            return (1, *rows)
        if len(rows) == 3 or (len(rows) == 2 and wanted == 2):
            is_last = rows[0] != channels == rows[-1] if channels else rows[0] > 4 >= rows[-1] and len(rows) == 3
            return (rows[-1], *rows[:-1]) if is_last else rows
        return rows

    def read(
        self, shape: Shape, count: int, options: InputOptions, *, is_pixels: bool
    ) -> tuple[NDArray[np.generic], NDArray[np.int64] | None]:
        """Read the inputs, evenly from the first to the last.

        Args:
            shape: of one input of the network.
            count: the largest number of inputs. No more are read than memory allows.
            options: how pictures are prepared.
            is_pixels: whether the network takes pixels.

        Returns:
            uint8 pixels or float32 features, (N, *shape), and their labels, int64 (N,), or None.

        Raises:
            UsageError: the inputs do not fit the network.
            EdgeMnistError: they cannot be read.
        """
        size = int(np.prod(shape)) * (1 if is_pixels else 4)
        chosen = choose_evenly(len(self), max(1, min(count, _MOST_BYTES // size)))
        if self.values is not None:
            values = move_channels(self.values, shape, self.name)  # their shape is checked before they are read
            inputs = arrange_user_inputs(
                values[chosen] if len(chosen) < len(self) else np.asarray(values),
                shape,
                is_pixels=is_pixels,
                name=self.name,
            )
        elif not is_pixels or len(shape) != 3:
            raise UsageError(f"{self.name}: holds pictures, but the network takes features of shape {shape}")
        else:
            paths = [self.paths[index] for index in chosen]
            inputs, kept = pictures.read_pictures(
                paths, (shape[0], shape[1], shape[2]), resize=options.resize, skip_bad=options.skip_bad
            )
            chosen = chosen[kept]
        return inputs, None if self.labels is None else self.labels[chosen]


def open_inputs(source: NDArray[np.generic] | str | os.PathLike[str], purpose: Purpose) -> UserInputs | None:
    """Open inputs that a user brings.

    Args:
        source: an array (N, ...); a .npy; a .npz, which may hold several arrays; or a folder of pictures, of which the
            folders within are classes if the purpose is a test.
        purpose: what the inputs are for, on which it depends which arrays of a .npz are taken.

    Returns:
        The inputs; None if the source is none of these, so that it must be a folder of MNIST's files.

    Raises:
        UsageError: the source holds no inputs or several.
        EdgeMnistError: the file is damaged.
    """
    if isinstance(source, np.ndarray):
        return _check(UserInputs(purpose, source))
    path = Path(source)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path}: is a device, a pipe or a socket, expected a file or a folder")
    if path.suffix.lower() == ".npy" and not path.is_dir():
        return _check(UserInputs(path.name, _load_npy(path)))
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return _check(_open_npz(path, purpose))
    if not path.is_dir() or mnist.is_available(path, "test") or mnist.is_available(path, "train"):
        return None
    if purpose == "test" and (inputs := _open_class_folders(path)):
        return inputs
    paths = pictures.list_pictures(path)
    return UserInputs(path.name or str(path), paths=tuple(paths)) if paths else None


def _open_class_folders(folder: Path) -> UserInputs | None:
    """Open the pictures of a folder of class folders; None if it has no such folders, or pictures beside them.

    A label is the place of a folder's name among the sorted names, as in torchvision's ImageFolder.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    classes = sorted((entry for entry in entries if entry.is_dir()), key=lambda place: place.name)
    if not classes or any(pictures.is_picture_name(entry.name) for entry in entries if not entry.is_dir()):
        return None
    found = [pictures.list_pictures(place) for place in classes]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(paths) for paths in found])
    paths = tuple(path for part in found for path in part)
    return UserInputs(folder.name or str(folder), paths=paths, labels=labels) if paths else None


def _load_npy(path: Path) -> NDArray[np.generic]:
    """Map an array file into memory."""
    array = _read(path, lambda: np.load(path, mmap_mode="r", allow_pickle=False))
    if not isinstance(array, np.ndarray):
        array.close()
        raise EdgeMnistError(f"{path}: is an archive of arrays, expected one array: name it .npz")
    return array


def _open_npz(path: Path, purpose: Purpose) -> UserInputs:
    """Choose the inputs, and for a test the labels, among the arrays of a file."""
    with _read(path, lambda: zipfile.ZipFile(path)) as archive:
        sizes = {item.filename.removesuffix(".npy"): item.file_size for item in archive.infolist()}
    names = {name.lower(): name for name in sizes}
    inputs = _find(names, f"{_ARRAYS[purpose]} {_INPUTS} {' '.join(_ARRAYS.values())}")
    label_names = {*_ANY_LABELS.split(), *_LABELS.values()}
    others = [name for name in names if name not in label_names]
    if inputs is None and len(others) == 1:
        inputs = others[0]
    if inputs is None:
        raise UsageError(
            f"{path}: holds {', '.join(sizes) or 'nothing'}: expected one array of inputs, or one named images or x"
        )
    labels = _find(names, f"{_LABELS.get(inputs, '')} {_ANY_LABELS}") if purpose == "test" else None
    wanted = [names[name] for name in (inputs, labels) if name is not None]
    if large := [name for name in wanted if sizes[name] > _LARGEST_ENTRY]:
        raise EdgeMnistError(
            f"{path}: {large[0]} has {sizes[large[0]]:,} bytes, more than is read into memory: save it as .npy"
        )
    arrays = _read(path, lambda: _load_arrays(path, wanted))
    if others := [name for name in wanted if not isinstance(arrays[name], np.ndarray)]:
        raise EdgeMnistError(f"{path}: {others[0]} is not an array")
    found = arrays.get(names[labels]) if labels is not None else None
    return UserInputs(path.name, arrays[names[inputs]], labels=None if found is None else _check_labels(path, found))


def _load_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names}


def _find(names: Mapping[str, str], wanted: str) -> str | None:
    return next((name for name in wanted.split() if name in names), None)


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """Read an array file.

    Raises:
        UsageError: there is no such file.
        EdgeMnistError: it is damaged, or holds Python objects.
    """
    try:
        return read()
    except OSError as error:
        kind = UsageError if isinstance(error, FileNotFoundError) else EdgeMnistError
        raise kind(f"{path}: cannot be read: {error.strerror or first_line(error)}") from error
    except Exception as error:  # NumPy's and zipfile's readers raise nearly any exception on damaged files
        holds_objects = "pickle" in str(error) or "Python objects" in str(error)
        reason = "it holds Python objects, which may run code: save numbers" if holds_objects else first_line(error)
        raise EdgeMnistError(f"{path}: is not an array file that can be read: {reason}") from error


def _check(inputs: UserInputs) -> UserInputs:
    """Check that an array has inputs, and a label for each if there are labels."""
    values, labels = inputs.values, inputs.labels
    if values is None or values.ndim < 2 or not values.size:
        found = None if values is None else values.shape
        raise UsageError(f"{inputs.name}: holds an array of shape {found}, expected (N, ...), at least one input")
    if labels is not None and len(labels) != len(values):
        raise UsageError(f"{inputs.name}: holds {len(values):,} inputs, but {len(labels):,} labels")
    return inputs


def _check_labels(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Check labels: int64 (N,)."""
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        raise UsageError(f"{path}: holds labels {labels.dtype} {labels.shape}, expected whole numbers (N,)")
    return flat.astype(np.int64)
