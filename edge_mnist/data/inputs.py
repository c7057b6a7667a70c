"""What a user says of a network's inputs, and how arrays are arranged as the network takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.geometry import Pair
from edge_mnist.graph.layers import Shape
from edge_mnist.system.errors import EdgeMnistError, UsageError

MNIST_SHAPE = (1, 28, 28)
"""The shape of MNIST's images: channels, height, width."""


@dataclass(frozen=True)
class InputOptions:
    """What a user says of a network's inputs; None stands for what is found or assumed.

    Attributes:
        shape: of one input: (channels, height, width), (channels, length) or (features,).
        mean: what is subtracted from a scaled pixel: one number, or one for each channel.
        std: what it is divided by then.
        scale: what a pixel, 0 to 255, is multiplied by first; None for 1/255. The network takes
            (pixel * scale - mean) / std.
        features: whether the inputs are numbers that the network takes as they are, and not pixels.
        resize: to how many pixels the shorter side of a picture is resized, or to which height and width; None for the
            smallest size that covers the input. Then the middle is cut out.
        skip_bad: whether pictures that cannot be opened are skipped.
    """

    shape: Shape | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    scale: float | None = None
    features: bool = False
    resize: int | Pair | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Check what can be checked without the network.

        Raises:
            UsageError: a number is out of its range, or options exclude each other.
        """
        for name in ("mean", "std", "scale"):
            if getattr(self, name) is None:
                continue
            if self.features:
                raise UsageError(f"{name}: is for pixels, but features are taken as they are: leave it out")
            numbers = self._numbers(name)
            least = -math.inf if name == "mean" else 0.0
            expected = {"mean": "numbers", "std": "positive numbers", "scale": "a positive number"}[name]
            is_valid = all(math.isfinite(number) and number > least for number in numbers)
            if not numbers or not is_valid or (name == "scale" and len(numbers) > 1):
                raise UsageError(f"{name} {getattr(self, name)}: expected {expected}")
        if isinstance(self.resize, list):
            object.__setattr__(self, "resize", tuple(self.resize))
        sides = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        is_size = (side is None or (isinstance(side, int) and 0 < side <= _LARGEST_SIDE) for side in sides)
        if len(sides) != 2 or not all(is_size):
            raise UsageError(f"resize {self.resize}: expected one or two sizes in pixels, up to {_LARGEST_SIDE}")

    def _numbers(self, name: str) -> tuple[float, ...]:
        """The numbers that an option states, or nothing if its text is not a list of numbers."""
        value = getattr(self, name)
        try:
            return tuple(float(number) for number in (value if isinstance(value, Iterable) else (value,)))
        except (TypeError, ValueError):
            return ()

    @property
    def normalizes(self) -> bool:
        """Whether mean, std or scale is named."""
        return not self.mean is self.std is self.scale is None

    def normalization(self, channels: int) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
        """The mean and std of a checkpoint, whose network takes (pixel / 255 - mean) / std.

        Args:
            channels: of the network's input.

        Returns:
            Each a number, or a number for each channel.

        Raises:
            UsageError: there is neither one number nor one for each channel.
        """
        factor = 1.0 if self.scale is None else 1 / (255 * self.scale)
        result: list[float | tuple[float, ...]] = []
        for name, usual in (("mean", 0.0), ("std", 1.0)):
            given = (usual,) if getattr(self, name) is None else self._numbers(name)
            if len(given) not in (1, channels):
                raise UsageError(
                    f"{name}: {len(given)} numbers for an input of {channels} channels: expected 1 or {channels}"
                )
            numbers = tuple(number * factor for number in given)
            result.append(numbers if len(set(numbers)) > 1 else numbers[0])
        return result[0], result[1]


_LARGEST_SIDE = 8192
"""The largest side in pixels to which a picture is resized."""


def are_features(values: NDArray[np.generic], options: InputOptions, name: str) -> bool:
    """Whether an array holds features, which the network takes as they are, and not pixels.

    Args:
        values: the inputs.
        options: what the user says of them.
        name: what the text of an error calls the array.

    Raises:
        UsageError: the numbers seem to be pixels in another form than uint8, or they are no numbers.
    """
    if options.features or values.dtype == np.uint8:
        return options.features
    if values.dtype.kind not in "iuf":
        raise UsageError(f"{name}: holds {values.dtype}, expected uint8 for pixels, float32 for features")
    sample = np.asarray(sample_evenly(values, 64))
    if values.ndim == 4 or (options.shape is not None and len(options.shape) == 3):
        low, high = (float(sample.min()), float(sample.max())) if sample.size else (0.0, 0.0)
        if 0 <= low <= high <= 1 or (0 <= low <= high <= 255 and (sample == np.rint(sample)).all()):
            raise UsageError(
                f"{name}: holds {values.dtype} from {low:g} to {high:g}: expected pixels as uint8, 0 to 255; if they "
                "are no pixels, say so with --features (features=True)"
            )
    return True


def arrange_user_inputs(
    values: NDArray[np.generic], shape: Shape, *, is_pixels: bool, name: str
) -> NDArray[np.generic]:
    """Arrange inputs as a network takes them, and check them.

    Args:
        values: (N, *shape); with the channels last, (N, height, width, channels) or (N, length, channels); or without
            channels if there is one.
        shape: of one input of the network.
        is_pixels: whether the network takes pixels.
        name: what the text of an error calls the inputs.

    Returns:
        (N, *shape), uint8 pixels or float32 features.

    Raises:
        UsageError: the inputs are of another shape or type.
        EdgeMnistError: features are not finite.
    """
    values = move_channels(values, shape, name)
    if is_pixels:
        if values.dtype != np.uint8:
            raise UsageError(f"{name}: holds {_format(values)}, expected pixels as uint8, 0 to 255")
        return values
    numbers = values.astype(np.float32)
    if not np.isfinite(numbers).all():
        count = np.count_nonzero(~np.isfinite(numbers))
        raise EdgeMnistError(f"{name}: holds {count:,} values that are NaN or infinite: remove their inputs")
    return numbers


def move_channels(values: NDArray[np.generic], shape: Shape, name: str) -> NDArray[np.generic]:
    """Arrange inputs as (N, *shape), see `arrange_user_inputs`, without reading them.

    Raises:
        UsageError: the inputs are of another shape.
    """
    found = values.shape[1:]
    if found == shape:
        return values
    if len(shape) > 1 and found == (*shape[1:], shape[0]):
        return np.moveaxis(values, -1, 1)
    if len(shape) > 1 and shape[0] == 1 and found == shape[1:]:
        return values[:, None]
    raise UsageError(
        f"{name}: holds {_format(values)}, but the network takes {_format_shape(shape)}: give inputs of that shape, or "
        "name another --input-shape"
    )


def sample_evenly(values: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """At most `count` of the values (N, ...), evenly from the first to the last."""
    return values[choose_evenly(len(values), count)] if len(values) > count else values


def choose_evenly(length: int, count: int) -> NDArray[np.intp]:
    """At most `count` of the indices 0 to length - 1, evenly spread and sorted."""
    return np.arange(min(length, count), dtype=np.intp) * length // max(min(length, count), 1)


def _format(values: NDArray[np.generic]) -> str:
    return f"{values.dtype} of shape {values.shape}"


def _format_shape(shape: Shape) -> str:
    return f"(N, {', '.join(map(str, shape))})"
