"""The layers of a network as it was trained: their settings, the shapes that they make, the weights that they hold.

A network is a tuple of layers, in an order in which each comes after the layers whose outputs it takes; its last layer
gives the output. `training.tracing` makes it from a PyTorch module, a checkpoint stores it as JSON, and `folding.fold`
turns it into a graph. Neither NumPy nor PyTorch is needed here.

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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from edge_mnist.graph.geometry import MapShape, Pair, Window, slide
from edge_mnist.system.errors import EdgeMnistError

Shape = tuple[int, ...]
"""The shape of one input's activations: (channels, height, width) for maps, (features,) for vectors.

A sequence (channels, length) is a map of height 1, see `to_layer_shape`.
"""

INPUT = ""
"""The name by which a layer takes the network's input. No layer has it."""

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


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


Size = Annotated[int, Range("an integer of at least 1", _is_size)]
Sizes = Annotated[Pair, Range("[height, width] of at least 1", lambda value: _is_pair(value, 1))]
Margins = Annotated[Pair, Range("[height, width] of at least 0", lambda value: _is_pair(value, 0))]
Flag = Annotated[bool, Range("true or false", lambda value: isinstance(value, bool))]
Positive = Annotated[float, Range("a positive number", lambda value: isinstance(value, float) and 0 < value < math.inf)]
Number = Annotated[float, Range("a number", lambda value: isinstance(value, float) and not math.isnan(value))]
Finite = Annotated[float, Range("a finite number", _is_finite)]
Constants = Annotated[
    float | tuple[float, ...],
    Range(
        "a finite number, or one for each channel",
        lambda value: _is_finite(value) or (isinstance(value, tuple) and all(map(_is_finite, value))),
    ),
]


@dataclass(frozen=True)
class Layer(ABC):
    """One step of a network. The fields of the subclasses are named as in PyTorch.

    Attributes:
        op: the kind of layer, as JSON calls it.
        arity: the least and the largest number of inputs of this kind of layer.
        name: unique within the network; the weights are named after it.
        sources: the names of the layers whose outputs it takes, `INPUT` for the network's input. Empty if it takes the
            output of the layer before it, or, if it is the first one, the input.
    """

    op: ClassVar[str]
    arity: ClassVar[tuple[int, int]] = (1, 1)
    name: str
    sources: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Check each field by itself.

        Raises:
            EdgeMnistError: a value is out of its range; the text names the layer and the field.
        """
        if any("\ud800" <= character <= "\udfff" for character in self.name):
            raise EdgeMnistError(
                f"the layer {_shorten(self.name)} has half a character in its name: give it another name"
            )
        for key, allowed in _ranges(type(self)).items():
            value = getattr(self, key)
            if not allowed.includes(value):
                found = list(value) if isinstance(value, tuple) else value
                raise EdgeMnistError(f"{self.place}: {key} is {_shorten(found)}, expected {allowed.description}")
        if not (isinstance(self.sources, tuple) and all(isinstance(source, str) for source in self.sources)):
            raise EdgeMnistError(f"{self.place}: sources is {_shorten(self.sources)}, expected names of layers")

    @property
    def place(self) -> str:
        """What a message calls this layer."""
        return describe_layer(self.name)

    @abstractmethod
    def output_shape(self, shape: Shape, source: str) -> Shape:
        """The shape of the output for an input of `shape`.

        Args:
            shape: of the input; of the first one if there are several.
            source: the name of the layer that gives the input, for the text of an error.

        Raises:
            EdgeMnistError: the layer does not fit its input, or its output would have no elements.
        """

    def join_shapes(self, shapes: Sequence[Shape], sources: Sequence[str]) -> Shape:
        """The shape of the output for inputs of `shapes`, which the layers `sources` give.

        Raises:
            EdgeMnistError: the layer does not fit its inputs, or takes another number of them.
        """
        least, most = self.arity
        if not least <= len(shapes) <= most:
            expected = str(least) if least == most else f"{least} or more"
            raise EdgeMnistError(f"{self.place}: {self.op} takes {expected} inputs, found {len(shapes)}")
        return self.output_shape(shapes[0], sources[0])

    def weight_shapes(self) -> dict[str, Shape]:
        """The shape of each array that the layer holds, by its name in PyTorch's state_dict without the layer's."""
        return {}

    def window_over(self, size: Pair) -> Window:
        """The window through which the layer sees maps of `size`; 1x1 if it takes each position by itself."""
        return Window((1, 1))

    def to_json(self) -> dict[str, Any]:
        """The layer as a JSON object: "op", and each field by its name; no "sources" if they are empty."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"op": self.op} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
            if name != "sources" or value
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
                f"{describe_layer(name)}: the operation {_shorten(op)} is unknown, expected one of {', '.join(LAYERS)}"
            )
        expected = ["op", *(field.name for field in dataclasses.fields(kind) if field.name != "sources")]
        if differing := (record.keys() - {"sources"}) ^ set(expected):
            raise EdgeMnistError(
                f"{describe_layer(name)}: {op} has the fields {', '.join(expected)}; "
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
                f"{self.place}: {self.op} takes maps (channels, height, width), but {source} gives {shape}"
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
                f"{self.place}: {self.in_channels} -> {self.out_channels} channels cannot be split into "
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
                f"{self.place}: weight has shape {found}, expected {expected} after {source} ({maps[0]} channels)"
            )
        return slide(self.place, self.window_over(maps[1:]), maps, self.out_channels)

    def weight_shapes(self) -> dict[str, Shape]:
        weight = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return {"weight": weight} | ({"bias": (self.out_channels,)} if self.bias else {})


@dataclass(frozen=True)
class Conv1dLayer(Conv2dLayer):
    """torch.nn.Conv1d, padded with zeros, over maps of height 1; the vertical item of each pair is neutral."""

    op: ClassVar[str] = "conv1d"

    def weight_shapes(self) -> dict[str, Shape]:
        shapes = super().weight_shapes()
        return shapes | {"weight": (*shapes["weight"][:2], shapes["weight"][3])}


@dataclass(frozen=True)
class BatchNorm2dLayer(Layer):
    """torch.nn.BatchNorm2d or BatchNorm1d in inference: it uses its running statistics."""

    op: ClassVar[str] = "batch_norm2d"
    num_features: Size
    eps: Positive
    affine: Flag

    def output_shape(self, shape: Shape, source: str) -> Shape:
        channels = shape[0]
        if self.num_features != channels:
            raise EdgeMnistError(
                f"{self.place}: weight has shape ({self.num_features},), expected ({channels},) "
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
class ClampLayer(Layer):
    """torch.clamp, and the modules that clamp: ReLU6 (0 to 6) and Hardtanh. A bound may be infinite."""

    op: ClassVar[str] = "clamp"
    low: Number
    high: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.low < self.high:
            raise EdgeMnistError(f"{self.place}: clamps to {self.low:g}..{self.high:g}, expected a range")

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape


ACTIVATIONS = ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "leaky_relu", "elu", "gelu", "softplus", "mish")
"""The functions of `ActivationLayer`, named as in torch.nn.functional."""

Function = Annotated[str, Range(f"one of {', '.join(ACTIVATIONS)}", lambda value: value in ACTIVATIONS)]


@dataclass(frozen=True)
class ActivationLayer(Layer):
    """A function of one number that is applied to each value.

    Attributes:
        function: one of `ACTIVATIONS`; gelu is the exact one, and softplus that with beta 1.
        parameter: negative_slope of leaky_relu, alpha of elu; 0.0 for the others.
    """

    op: ClassVar[str] = "activation"
    function: Function
    parameter: Finite

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape


@dataclass(frozen=True)
class AffineLayer(Layer):
    """Each value times `factor`, plus `offset`: what a multiplication by or an addition of a constant computes.

    Both are one number, or one for each channel.
    """

    op: ClassVar[str] = "affine"
    factor: Constants
    offset: Constants

    def output_shape(self, shape: Shape, source: str) -> Shape:
        for numbers in (self.factor, self.offset):
            if isinstance(numbers, tuple) and len(numbers) != shape[0]:
                raise EdgeMnistError(
                    f"{self.place}: has constants for {len(numbers)} channels, but {source} gives {shape[0]}"
                )
        return shape


@dataclass(frozen=True)
class AddLayer(Layer):
    """The sum of two inputs of one shape."""

    op: ClassVar[str] = "add"
    arity: ClassVar[tuple[int, int]] = (2, 2)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape

    def join_shapes(self, shapes: Sequence[Shape], sources: Sequence[str]) -> Shape:
        shape = super().join_shapes(shapes, sources)
        if shapes[1] != shape:
            raise EdgeMnistError(
                f"{self.place}: adds {sources[0]} of shape {shape} and {sources[1]} of shape {shapes[1]}, expected one "
                "shape"
            )
        return shape


@dataclass(frozen=True)
class MultiplyLayer(Layer):
    """The product of two inputs; the second may be one value for each channel, (channels, 1, 1): a gate."""

    op: ClassVar[str] = "multiply"
    arity: ClassVar[tuple[int, int]] = (2, 2)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape

    def join_shapes(self, shapes: Sequence[Shape], sources: Sequence[str]) -> Shape:
        shape = super().join_shapes(shapes, sources)
        if shapes[1] not in (shape, (shape[0], *(1 for _ in shape[1:]))):
            raise EdgeMnistError(
                f"{self.place}: multiplies {sources[0]} of shape {shape} by {sources[1]} of shape {shapes[1]}, "
                "expected the same shape, or one value for each channel"
            )
        return shape


@dataclass(frozen=True)
class ConcatenateLayer(Layer):
    """torch.cat along the channels, or along the features of vectors."""

    op: ClassVar[str] = "concatenate"
    arity: ClassVar[tuple[int, int]] = (2, LARGEST_SIZE)

    def output_shape(self, shape: Shape, source: str) -> Shape:
        return shape

    def join_shapes(self, shapes: Sequence[Shape], sources: Sequence[str]) -> Shape:
        first = super().join_shapes(shapes, sources)
        for shape, source in zip(shapes, sources, strict=True):
            if shape[1:] != first[1:]:
                raise EdgeMnistError(
                    f"{self.place}: joins {sources[0]} of shape {first} and {source} of shape {shape}, which differ in "
                    "more than the channels"
                )
        return sum(shape[0] for shape in shapes), *first[1:]


@dataclass(frozen=True)
class UpsampleLayer(Layer):
    """torch.nn.Upsample in the mode "nearest" by whole factors: each value becomes a block of equal values."""

    op: ClassVar[str] = "upsample"
    factor: Sizes

    def output_shape(self, shape: Shape, source: str) -> Shape:
        channels, height, width = self._check_maps(shape, source)
        return channels, height * self.factor[0], width * self.factor[1]


@dataclass(frozen=True)
class ZeroPad2dLayer(Layer):
    """torch.nn.ZeroPad2d: zeros above and to the left (`before`), and below and to the right (`after`)."""

    op: ClassVar[str] = "zero_pad2d"
    before: Margins
    after: Margins

    def output_shape(self, shape: Shape, source: str) -> Shape:
        channels, *size = self._check_maps(shape, source)
        height, width = (b + n + a for b, n, a in zip(self.before, size, self.after, strict=True))
        return channels, height, width


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
                f"{self.place}: padding is {list(self.padding)}, expected at most half of kernel_size "
                f"{list(self.kernel_size)}"
            )
        return slide(self.place, self.window_over(maps[1:]), maps, maps[0])


@dataclass(frozen=True)
class MaxPool2dLayer(PoolLayer):
    """torch.nn.MaxPool2d without dilation, with ceil_mode=False."""

    op: ClassVar[str] = "max_pool2d"


@dataclass(frozen=True)
class CeilMaxPool2dLayer(MaxPool2dLayer):
    """torch.nn.MaxPool2d with ceil_mode=True: the last windows may reach beyond the padded input."""

    op: ClassVar[str] = "max_pool2d_ceil"

    def window_over(self, size: Pair) -> Window:
        window = super().window_over(size)
        after = []
        for n, kernel, stride, padding in zip(size, self.kernel_size, self.stride, self.padding, strict=True):
            outputs = -(-(n + 2 * padding - kernel) // stride) + 1
            if (outputs - 1) * stride >= n + padding:  # PyTorch's rule: the last window must begin inside
                outputs -= 1
            after.append(max((outputs - 1) * stride + kernel - n - padding, 0))
        return dataclasses.replace(window, padding_after=(after[0], after[1]))


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
class UnsqueezeLayer(Layer):
    """A vector of features as maps of 1x1, one for each feature."""

    op: ClassVar[str] = "unsqueeze"

    def output_shape(self, shape: Shape, source: str) -> Shape:
        if len(shape) != 1:
            raise EdgeMnistError(f"{self.place}: unsqueeze takes features, but {source} gives maps {shape}")
        return shape[0], 1, 1


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
                f"{self.place}: linear takes features, but {source} gives maps {shape}: flatten them first"
            )
        if self.in_features != shape[0]:
            found = self.weight_shapes()["weight"]
            raise EdgeMnistError(
                f"{self.place}: weight has shape {found}, expected {(self.out_features, shape[0])} after {source} "
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
        Conv1dLayer,
        BatchNorm2dLayer,
        ReluLayer,
        ClampLayer,
        ActivationLayer,
        AffineLayer,
        AddLayer,
        MultiplyLayer,
        ConcatenateLayer,
        UpsampleLayer,
        ZeroPad2dLayer,
        MaxPool2dLayer,
        CeilMaxPool2dLayer,
        AvgPool2dLayer,
        GlobalAvgPool2dLayer,
        FlattenLayer,
        UnsqueezeLayer,
        LinearLayer,
    )
}
"""Every kind of layer, by the name of its operation in JSON."""


def resolve_sources(layers: Sequence[Layer]) -> tuple[tuple[str, ...], ...]:
    """The names of the layers whose outputs each layer takes, `INPUT` for the network's input.

    Raises:
        EdgeMnistError: there are no layers, two layers have one name, a layer takes the output of one that is not
            before it, or nothing takes the output of a layer before the last; the text names the layer.
    """
    if not layers:
        raise EdgeMnistError("the network has no layers")
    resolved: list[tuple[str, ...]] = []
    names, previous = {INPUT}, INPUT
    unused: set[str] = set()
    for layer in layers:
        sources = layer.sources or (previous,)
        for source in sources:
            if source not in names:
                raise EdgeMnistError(f"{layer.name}: takes the output of {_shorten(source)}, which is not before it")
        if layer.name in names:
            raise EdgeMnistError(f"{layer.name}: two layers have this name")
        names.add(layer.name)
        unused = (unused - set(sources)) | {layer.name}
        resolved.append(sources)
        previous = layer.name
    if surplus := sorted(unused - {previous}):
        raise EdgeMnistError(f"{surplus[0]}: nothing uses its output, and it is not the last layer")
    return tuple(resolved)


def output_shapes(layers: Iterable[Layer], input_shape: Shape) -> tuple[Shape, ...]:
    """The shape after each layer, for inputs of `input_shape`; the whole network is checked on the way.

    Raises:
        EdgeMnistError: as `resolve_sources`, or a layer does not fit its inputs; the text names the layer.
    """
    check_input_shape(input_shape)
    layers = tuple(layers)
    shapes: dict[str, Shape] = {INPUT: to_layer_shape(input_shape)}
    for layer, sources in zip(layers, resolve_sources(layers), strict=True):
        labels = [describe_layer(source) or "the input" for source in sources]
        shapes[layer.name] = layer.join_shapes([shapes[source] for source in sources], labels)
    return tuple(shapes[layer.name] for layer in layers)


def describe_layer(name: str) -> str:
    """What a message calls a layer: its name, which is only a number in a `torch.nn.Sequential`."""
    return f"layer {name}" if name.isdecimal() else name


def to_layer_shape(input_shape: Shape) -> Shape:
    """The shape in which layers see an input: a sequence (channels, length) is a map (channels, 1, length)."""
    return (input_shape[0], 1, input_shape[1]) if len(input_shape) == 2 else tuple(input_shape)


def check_input_shape(shape: object) -> None:
    """Check the shape of a network's inputs.

    Raises:
        EdgeMnistError: it is not one to three sizes of at least 1.
    """
    if not (isinstance(shape, (tuple, list)) and 1 <= len(shape) <= 3 and all(_is_size(size) for size in shape)):
        found = list(shape) if isinstance(shape, tuple) else shape
        raise EdgeMnistError(
            f"input shape {_shorten(found)}: expected sizes of at least 1: [channels, height, width], [channels, "
            "length] or [features]"
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
