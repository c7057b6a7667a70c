"""A network of layers under construction, and the values that its layers compute.

PyTorch's shapes and those of the layers differ: a sequence (channels, length) is a map of height 1 to a layer. A
`Value` holds both. Both list the same numbers in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from edge_mnist.graph.layers import (
    INPUT,
    FlattenLayer,
    Layer,
    Shape,
    UnsqueezeLayer,
    UpsampleLayer,
    describe_layer,
    to_layer_shape,
)


class Unsupported(Exception):
    """Says why an operation cannot be exported; whoever catches it adds the name of the operation."""


@dataclass(frozen=True)
class Value:
    """A tensor that the network computes from its input.

    Attributes:
        layer: the name of the layer that gives it, `INPUT` for the network's input.
        maps: its shape as the layers see it: (channels, height, width) or (features,).
        shape: its shape in PyTorch, without the batch.
        ending: "softmax" or "log_softmax" if this function was applied to it and left out.
        change: the name of the operation that gave it a shape that no layer sees.
    """

    layer: str
    maps: Shape
    shape: Shape
    ending: str = ""
    change: str = ""

    @property
    def is_expanded(self) -> bool:
        """Whether each value of 1x1 maps is repeated over a larger map."""
        return math.prod(self.maps) != math.prod(self.shape)


class LayerBuilder:
    """The layers so far.

    Attributes:
        input: the value of the network's input.
        layers: the layers by name, in order; each names its sources.
    """

    def __init__(self, input_shape: Shape, reserved: Collection[str] = ()) -> None:
        """Start with no layers.

        Args:
            input_shape: the shape of one input, as `layers.check_input_shape` accepts it.
            reserved: names that `choose_name` does not give to a layer without weights.
        """
        self.input = Value(INPUT, to_layer_shape(input_shape), input_shape)
        self.layers: dict[str, Layer] = {}
        self._reserved = frozenset(reserved)

    def choose_name(self, stem: str, first: str = "") -> str:
        """A name that no layer has: `first` or the stem, or the stem with a number."""
        name, number = first or stem, 0
        while name in self.layers or name in self._reserved:
            number += 1
            name = f"{stem}_{number}"
        return name

    def append(self, layer: Layer, *values: Value) -> Value:
        """Append a layer that takes some values, and return the value that it gives.

        Raises:
            Unsupported: a value has a shape that no layer sees, or a softmax was applied to it.
            EdgeMnistError: the layer does not fit the values.
        """
        values = tuple(self.settle(value) for value in values)
        labels = [describe_layer(value.layer) or "the input" for value in values]
        maps = layer.join_shapes([value.maps for value in values], labels)
        self.layers[layer.name] = replace(layer, sources=tuple(value.layer for value in values))
        is_sequence = len(values[0].shape) == 2 and len(maps) == 3
        return Value(layer.name, maps, (maps[0], maps[2]) if is_sequence else maps)

    def append_elementwise(self, layer: Layer, value: Value) -> Value:
        """Append a layer that computes each value by itself, whatever the shape is in PyTorch."""
        if value.ending:
            self.settle(value)
        return replace(value, layer=self.append(layer, Value(value.layer, value.maps, value.maps)).layer)

    def reshape(self, name: str, value: Value, shape: Shape) -> Value:
        """Give a value another shape in PyTorch, with its numbers in the same order.

        A shape that no layer sees is refused only where a layer takes the value.
        """
        value = self.settle(value) if value.is_expanded or value.ending else value
        canonical = Value(value.layer, value.maps, value.maps)
        if 1 <= len(shape) <= 3 and to_layer_shape(shape) == value.maps:
            return replace(canonical, shape=shape)
        if shape == (math.prod(value.maps),):
            return self.append(FlattenLayer(name), canonical)
        if len(value.maps) == 1 and 2 <= len(shape) <= 3 and to_layer_shape(shape) == (*value.maps, 1, 1):
            return replace(self.append(UnsqueezeLayer(name), canonical), shape=shape)
        return Value(value.layer, value.maps, shape, change=name)

    def expand(self, name: str, value: Value, shape: Shape) -> Value:
        """Repeat each value of 1x1 maps over a map of `shape`."""
        value = self.settle(value)
        if value.shape == shape:
            return value
        if (
            len(value.maps) != 3
            or value.maps[1:] != (1, 1)
            or len(shape) != len(value.shape)
            or shape[0] != value.maps[0]
        ):
            raise Unsupported(f"it repeats {value.shape} to {shape}; only one value for each channel can be repeated")
        return Value(value.layer, value.maps, shape, change=name)

    def settle(self, value: Value) -> Value:
        """The value with a shape that layers see.

        Raises:
            Unsupported: there is none, or a softmax was applied to the value.
        """
        if value.ending:
            raise Unsupported(f"it takes the output of a {value.ending}, which can only be the last operation")
        if 1 <= len(value.shape) <= 3 and to_layer_shape(value.shape) == value.maps:
            return value
        if value.is_expanded:
            _, height, width = to_layer_shape(value.shape)
            canonical = replace(value, shape=value.maps, change="")
            layer = UpsampleLayer(self.choose_name(value.change), factor=(height, width))
            return replace(self.append(layer, canonical), shape=value.shape)
        raise Unsupported(
            f"it takes {value.shape}, which {value.change} makes of {value.maps}; only flattening each image can be "
            "exported: use torch.flatten(x, 1) or nn.Flatten"
        )

    def finish(self, output: Value) -> tuple[Layer, ...]:
        """The layers on which an output depends, the layer that gives it last."""
        if output.is_expanded:
            output = self.settle(output)
        needed = {output.layer}
        for layer in reversed(self.layers.values()):
            if layer.name in needed:
                needed.update(layer.sources)
        layers: list[Layer] = []
        previous = INPUT
        for layer in self.layers.values():
            if layer.name in needed:
                layers.append(replace(layer, sources=()) if layer.sources == (previous,) else layer)
                previous = layer.name
        return tuple(layers)
