"""The layers of a network as it was trained: their settings, the shapes that they make, the weights that they hold.

A network is a chain of layers, as a tuple. `training.tracing` makes it from a PyTorch module, a checkpoint stores it as
JSON, and `folding.fold` turns it into a graph. Neither NumPy nor PyTorch is needed here.

A layer checks its settings when it is made, so whatever holds one may rely on them. Whether layers fit each other is
checked by `output_shapes`.
"""

# ruff: noqa: D102 - what the subclasses override is described in Layer
from __future__ import annotations

import dataclasses
import functools
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from edge_mnist.graph.geometry import MapShape, Pair, Window, slide
from edge_mnist.system.errors import EdgeMnistError

Shape = tuple[int, ...]
"""The shape of one image's activations: (channels, height, width) for maps, (features,) once they are flattened."""

LARGEST_SIZE = 2**20
"""The largest number that a size may have. A larger one is damage, and would make the arrays of it impossibly large."""


@dataclass(frozen=True)
class Range:
    """The values that a field of a layer may have."""

    description: str
    """What an error says was expected."""
    includes: Callable[[object], bool]


def _is_size(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST_SIZE


def _is_pair(value: object, least: int) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(_is_size(item, least) for item in value)


Size = Annotated[int, Range("an integer of at least 1", _is_size)]
Sizes = Annotated[Pair, Range("[height, width] of at least 1", lambda value: _is_pair(value, 1))]
Margins = Annotated[Pair, Range("[height, width] of at least 0", lambda value: _is_pair(value, 0))]
Flag = Annotated[bool, Range("true or false", lambda value: isinstance(value, bool))]
Positive = Annotated[float, Range("a positive number", lambda value: isinstance(value, float) and 0 < value < math.inf)]


@dataclass(frozen=True)
class Layer(ABC):
    """One step of a network. The fields of the subclasses are named as in PyTorch.

    Attributes:
        op: the kind of layer, as JSON calls it.
        name: unique within the network; the weights are named after it.
    """

    op: ClassVar[str]
    name: str

    def __post_init__(self) -> None:
        """Check each field by itself.

        Raises:
            EdgeMnistError: a value is out of its range; the text names the layer and the field.
        """
        if any("\ud800" <= character <= "\udfff" for character in self.name):
            raise EdgeMnistError(
                f"the layer {_shorten(self.name)} has half a character in its name: give it another name"
            )
        for field, allowed in _ranges(type(self)).items():
            value = getattr(self, field)
            if not allowed.includes(value):
                found = list(value) if isinstance(value, tuple) else value
                raise EdgeMnistError(f"{self.name}: {field} is {_shorten(found)}, expected {allowed.description}")

    @abstractmethod
    def output_shape(self, shape: Shape, source: str) -> Shape:
        """The shape of the output for an input of `shape`.

        Args:
            shape: of the input.
            source: the name of the layer that gives the input, for the text of an error.

        Raises:
            EdgeMnistError: the layer does not fit its input, or its output would have no elements.
        """

    def weight_shapes(self) -> dict[str, Shape]:
        """The shape of each array that the layer holds, by its name in PyTorch's state_dict without the layer's."""
        return {}

    def window_over(self, size: Pair) -> Window:
        """The window through which the layer sees maps of `size`; 1x1 if it takes each position by itself."""
        return Window((1, 1))

    def to_json(self) -> dict[str, Any]:
        """The layer as a JSON object: "op", and each field by its name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"op": self.op} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()
        }

    @staticmethod
    def from_json(record: object) -> Layer:
        """The layer that `to_json` described.

        Raises:
            EdgeMnistError: it is not a JSON object, its operation is unknown, or a field is missing, unknown or out of
                range.
        """
        if not isinstance(record, Mapping) or not isinstance(record.get("name"), str) or not record["name"]:
            raise EdgeMnistError(f"a layer is described by {_shorten(record)}, expected a dict with op and name")
        name, op = record["name"], record.get("op")
        kind = LAYERS.get(op) if isinstance(op, str) else None
        if kind is None:
            raise EdgeMnistError(
                f"{name}: the operation {_shorten(op)} is unknown, expected one of {', '.join(LAYERS)}"
            )
        expected = ["op", *(field.name for field in dataclasses.fields(kind))]
        if differing := record.keys() ^ set(expected):
            raise EdgeMnistError(
                f"{name}: {op} has the fields {', '.join(expected)}; "
                f"missing or unknown: {', '.join(sorted(map(str, differing)))}"
            )
        fields: dict[str, Any] = {
            field: tuple(value) if isinstance(value, list) else value
            for field, value in record.items()
            if field != "op"
        }
        return kind(**fields)

    def _check_maps(self, shape: Shape, source: str) -> MapShape:
        """The shape of an input that must be maps.

        Raises:
            EdgeMnistError: the input is flattened.
        """
        if len(shape) != 3:
            raise EdgeMnistError(
                f"{self.name}: {self.op} takes maps (channels, height, width), but {source} gives {shape}"
            )
        return shape


@dataclass(frozen=True)
class Conv2dLayer(Layer):
    """torch.nn.Conv2d, padded with zeros."""

    op: ClassVar[str] = "conv2d"
    in_channels: Size
    out_channels: Size
    kernel_size: Sizes
    stride: Sizes
    padding: Margins
    dilation: Sizes
    groups: Size
    bias: Flag

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise EdgeMnistError(
                f"{self.name}: {self.in_channels} -> {self.out_channels} channels cannot be split into "
                f"{self.groups} groups"
            )

    def window_over(self, size: Pair) -> Window:
        return Window(self.kernel_size, self.stride, self.padding, self.dilation)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        maps = self._check_maps(shape, source)
        if self.in_channels != maps[0]:
            found = self.weight_shapes()["weight"]
            expected = (found[0], maps[0] // self.groups, *found[2:])
            raise EdgeMnistError(
                f"{self.name}: weight has shape {found}, expected {expected} after {source} ({maps[0]} channels)"
            )
        return slide(self.name, self.window_over(maps[1:]), maps, self.out_channels)

    def weight_shapes(self) -> dict[str, Shape]:
        weight = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return {"weight": weight} | ({"bias": (self.out_channels,)} if self.bias else {})


@dataclass(frozen=True)
class BatchNorm2dLayer(Layer):
    """torch.nn.BatchNorm2d in inference: it uses its running statistics."""

    op: ClassVar[str] = "batch_norm2d"
    num_features: Size
    eps: Positive
    affine: Flag

    def output_shape(self, shape: Shape, source: str) -> Shape:
        channels = self._check_maps(shape, source)[0]
        if self.num_features != channels:
            raise EdgeMnistError(
                f"{self.name}: weight has shape ({self.num_features},), expected ({channels},) "
                f"after {source} ({channels} channels)"
            )
        return shape

    def weight_shapes(self) -> dict[str, Shape]:
        keys = (*(("weight", "bias") if self.affine else ()), "running_mean", "running_var")
        return dict.fromkeys(keys, (self.num_features,))


@dataclass(frozen=True)
class ReluLayer(Layer):
    """torch.nn.ReLU."""

    op: ClassVar[str] = "relu"

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape


@dataclass(frozen=True)
class PoolLayer(Layer):
    """What both pools have in common: a window over each channel."""

    kernel_size: Sizes
    stride: Sizes
    padding: Margins

    def window_over(self, size: Pair) -> Window:
        return Window(self.kernel_size, self.stride, self.padding)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        maps = self._check_maps(shape, source)
        if any(2 * margin > size for margin, size in zip(self.padding, self.kernel_size, strict=True)):
            raise EdgeMnistError(
                f"{self.name}: padding is {list(self.padding)}, expected at most half of kernel_size "
                f"{list(self.kernel_size)}"
            )
        return slide(self.name, self.window_over(maps[1:]), maps, maps[0])


@dataclass(frozen=True)
class MaxPool2dLayer(PoolLayer):
    """torch.nn.MaxPool2d without dilation."""

    op: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True)
class AvgPool2dLayer(PoolLayer):
    """torch.nn.AvgPool2d; the zeros of the padding count."""

    op: ClassVar[str] = "avg_pool2d"


@dataclass(frozen=True)
class GlobalAvgPool2dLayer(Layer):
    """torch.nn.AdaptiveAvgPool2d(1): the mean of each channel."""

    op: ClassVar[str] = "adaptive_avg_pool2d"

    def window_over(self, size: Pair) -> Window:
        return Window(size)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return self._check_maps(shape, source)[0], 1, 1


@dataclass(frozen=True)
class FlattenLayer(Layer):
    """torch.nn.Flatten: the features are in the order channel, row, column."""

    op: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class LinearLayer(Layer):
    """torch.nn.Linear, on flattened features."""

    op: ClassVar[str] = "linear"
    in_features: Size
    out_features: Size
    bias: Flag

    def window_over(self, size: Pair) -> Window:
        return Window(size)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        if len(shape) != 1:
            raise EdgeMnistError(
                f"{self.name}: linear takes features, but {source} gives maps {shape}: flatten them first"
            )
        if self.in_features != shape[0]:
            found = self.weight_shapes()["weight"]
            raise EdgeMnistError(
                f"{self.name}: weight has shape {found}, expected {(self.out_features, shape[0])} after {source} "
                f"({shape[0]} features)"
            )
        return (self.out_features,)

    def weight_shapes(self) -> dict[str, Shape]:
        weight = (self.out_features, self.in_features)
        return {"weight": weight} | ({"bias": (self.out_features,)} if self.bias else {})


LAYERS: dict[str, type[Layer]] = {
    kind.op: kind
    for kind in (
        Conv2dLayer,
        BatchNorm2dLayer,
        ReluLayer,
        MaxPool2dLayer,
        AvgPool2dLayer,
        GlobalAvgPool2dLayer,
        FlattenLayer,
        LinearLayer,
    )
}
"""Every kind of layer, by the name of its operation in JSON."""


def output_shapes(layers: Iterable[Layer], input_shape: Shape) -> tuple[Shape, ...]:
    """The shape after each layer, for images of `input_shape`; the whole chain is checked on the way.

    Raises:
        EdgeMnistError: there are no layers, two layers have one name, or a layer does not fit its input; the text names
            the layer.
    """
    check_input_shape(input_shape)
    shapes: list[Shape] = []
    names: set[str] = set()
    shape, source = tuple(input_shape), "the input"
    for layer in layers:
        if layer.name in names:
            raise EdgeMnistError(f"{layer.name}: two layers have this name")
        names.add(layer.name)
        shape, source = layer.output_shape(shape, source), layer.name
        shapes.append(shape)
    if not shapes:
        raise EdgeMnistError("the network has no layers")
    return tuple(shapes)


def check_input_shape(shape: object) -> None:
    """Check the shape of a network's images.

    Raises:
        EdgeMnistError: it is not three sizes of at least 1.
    """
    if not (isinstance(shape, (tuple, list)) and len(shape) == 3 and all(_is_size(size) for size in shape)):
        found = list(shape) if isinstance(shape, tuple) else shape
        raise EdgeMnistError(
            f"input shape {_shorten(found)}: expected three sizes of at least 1, [channels, height, width]"
        )


def weight_shapes(layers: Iterable[Layer]) -> dict[str, Shape]:
    """The shape of each array that the layers hold, named as in PyTorch's state_dict, in the layers' order."""
    return {f"{layer.name}.{key}": shape for layer in layers for key, shape in layer.weight_shapes().items()}


def count_parameters(layers: Iterable[Layer]) -> int:
    """How many numbers training moved: all weights and biases, without the running statistics of BatchNorm."""
    shapes = weight_shapes(layers).items()
    return sum(math.prod(shape) for name, shape in shapes if not name.endswith((".running_mean", ".running_var")))


@functools.cache
def _ranges(kind: type[Layer]) -> dict[str, Range]:
    """The range of each field of a kind of layer, as its annotation states it."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if typing.get_origin(hint) is Annotated}


def _shorten(value: object) -> str:
    """The repr of a value, short enough for the one line of an error."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
