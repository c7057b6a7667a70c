"""A network as a chain of layers in plain JSON: what each layer may say, the shapes it makes, the weights it wants.

A layer is a dict with "op", "name" and the fields that `_FIELDS` lists for its operation. `tracing.describe` makes such
a chain out of a PyTorch module; a checkpoint carries it. NumPy and PyTorch are not needed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edge_mnist.system.errors import EdgeMnistError

Layer = Mapping[str, Any]
Shape = tuple[int, ...]
"""Without the batch: (channels, height, width) for maps, (features,) once flattened."""

_LARGEST = 2**20  # of any size: what is larger is damage, and would make the next product huge

# "count": an integer >= 1; "counts": [height, width] of these; "margins": the same from 0; "flag": true or false
_WINDOW = {"kernel_size": "counts", "stride": "counts", "padding": "margins"}
_FIELDS: dict[str, dict[str, str]] = {
    "conv2d": {
        "in_channels": "count",
        "out_channels": "count",
        **_WINDOW,
        "dilation": "counts",
        "groups": "count",
        "bias": "flag",
    },
    "batch_norm2d": {"num_features": "count", "eps": "positive", "affine": "flag"},
    "relu": {},
    "max_pool2d": _WINDOW,
    "avg_pool2d": _WINDOW,
    "adaptive_avg_pool2d": {},
    "flatten": {},
    "linear": {"in_features": "count", "out_features": "count", "bias": "flag"},
}


def output_shapes(architecture: Iterable[Layer], input_shape: Shape) -> tuple[Shape, ...]:
    """The shape after each layer, for inputs (channels, height, width); checks the whole chain on the way.

    Raises:
        EdgeMnistError: a field is missing, foreign or out of range, two layers have one name, or a layer does not fit
            what comes before it; the text names the layer.
    """
    check_input_shape(input_shape)
    shapes: list[Shape] = []
    names: set[str] = set()
    shape, before = tuple(input_shape), "the input"
    for layer in architecture:
        check_layer(layer)
        if layer["name"] in names:
            raise EdgeMnistError(f"{layer['name']}: two layers have this name")
        names.add(layer["name"])
        shape = output_shape(layer, shape, before)
        shapes.append(shape)
        before = layer["name"]
    if not shapes:
        raise EdgeMnistError("the network has no layers")
    return tuple(shapes)


def check_input_shape(shape: object) -> None:
    """Check the shape of a network's images.

    Raises:
        EdgeMnistError: it is not three sizes of at least 1.
    """
    if not (isinstance(shape, (tuple, list)) and len(shape) == 3 and all(_is_count(size) for size in shape)):
        found = list(shape) if isinstance(shape, tuple) else shape
        raise EdgeMnistError(
            f"input shape {_short(found)}: expected three sizes of at least 1, [channels, height, width]"
        )


def check_layer(layer: object) -> None:
    """Check the fields of one layer by themselves.

    Raises:
        EdgeMnistError: not a dict, an unknown operation, or a field that is missing, foreign or out of range.
    """
    if not isinstance(layer, Mapping) or not isinstance(layer.get("name"), str) or not layer["name"]:
        raise EdgeMnistError(f"a layer is described by {_short(layer)}, expected a dict with op and name")
    name, operation = layer["name"], layer.get("op")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise EdgeMnistError(f"the layer {_short(name)} has half a character in its name: give it another")
    fields = _FIELDS.get(operation) if isinstance(operation, str) else None
    if fields is None:
        raise EdgeMnistError(
            f"{name}: the operation {_short(operation)} is unknown, expected one of {', '.join(_FIELDS)}"
        )
    foreign = layer.keys() ^ {"op", "name", *fields}
    if foreign:
        raise EdgeMnistError(f"{name}: {operation} has the fields {', '.join(['op', 'name', *fields])}; "
                             f"missing or foreign: {', '.join(sorted(map(str, foreign)))}")  # fmt: skip
    for field, kind in fields.items():
        if not _KINDS[kind](layer[field]):
            raise EdgeMnistError(f"{name}: {field} is {_short(layer[field])}, expected {_EXPECTED[kind]}")
    if operation == "conv2d" and (layer["in_channels"] % layer["groups"] or layer["out_channels"] % layer["groups"]):
        raise EdgeMnistError(f"{name}: {layer['in_channels']} -> {layer['out_channels']} channels cannot be split into "
                             f"{layer['groups']} groups")  # fmt: skip


def output_shape(layer: Layer, shape: Shape, before: str) -> Shape:
    """The shape after one layer whose fields are in order.

    Args:
        layer: passed `check_layer`.
        shape: what comes in.
        before: the name of what made it, for the text of an error.

    Raises:
        EdgeMnistError: the layer does not fit what comes in, or nothing would be left.
    """
    name, operation = layer["name"], layer["op"]
    if operation == "relu":
        return shape
    if operation == "flatten":
        return (math.prod(shape),)
    if operation == "linear":
        return _after_linear(layer, shape, before)
    if len(shape) != 3:
        raise EdgeMnistError(f"{name}: {operation} wants maps (channels, height, width), but {before} gives {shape}")
    if operation == "adaptive_avg_pool2d":
        return (shape[0], 1, 1)
    if operation == "batch_norm2d":
        if layer["num_features"] != shape[0]:
            raise EdgeMnistError(f"{name}: weight has shape ({layer['num_features']},), expected ({shape[0]},) "
                                 f"after {before} ({shape[0]} channels)")  # fmt: skip
        return shape
    channels = shape[0]
    if operation == "conv2d":
        channels = layer["out_channels"]
        if layer["in_channels"] != shape[0]:
            found = weight_shapes([layer])[f"{name}.weight"]
            wanted = (found[0], shape[0] // layer["groups"], *found[2:])
            raise EdgeMnistError(
                f"{name}: weight has shape {found}, expected {wanted} after {before} ({shape[0]} channels)"
            )
    elif any(2 * margin > size for margin, size in zip(layer["padding"], layer["kernel_size"], strict=True)):
        raise EdgeMnistError(f"{name}: padding is {layer['padding']}, expected at most half of kernel_size "
                             f"{layer['kernel_size']}")  # fmt: skip
    return (channels, *_window_sizes(layer, shape, before))


def weight_shapes(architecture: Iterable[Layer]) -> dict[str, Shape]:
    """The shape of each array that the layers hold, named as in PyTorch's state_dict, in the layers' order."""
    shapes: dict[str, Shape] = {}
    for layer in architecture:
        name = layer["name"]
        match layer["op"]:
            case "conv2d":
                out = layer["out_channels"]
                shapes[f"{name}.weight"] = (out, layer["in_channels"] // layer["groups"], *layer["kernel_size"])
            case "linear":
                out = layer["out_features"]
                shapes[f"{name}.weight"] = (out, layer["in_features"])
            case "batch_norm2d":
                out = layer["num_features"]
                keys = ("weight", "bias") if layer["affine"] else ()
                shapes |= {f"{name}.{key}": (out,) for key in (*keys, "running_mean", "running_var")}
                continue
            case _:
                continue
        if layer["bias"]:
            shapes[f"{name}.bias"] = (out,)
    return shapes


def parameter_count(architecture: Iterable[Layer]) -> int:
    """How many numbers training moved: all weights and biases, without the running statistics of BatchNorm."""
    shapes = weight_shapes(architecture).items()
    return sum(math.prod(shape) for name, shape in shapes if not name.endswith((".running_mean", ".running_var")))


def _after_linear(layer: Layer, shape: Shape, before: str) -> Shape:
    """The shape after a Linear, which takes flattened features only."""
    name, found = layer["name"], (layer["out_features"], layer["in_features"])
    if len(shape) != 1:
        raise EdgeMnistError(f"{name}: linear wants features, but {before} gives maps {shape}: flatten them first")
    if found[1] != shape[0]:
        raise EdgeMnistError(f"{name}: weight has shape {found}, expected {(found[0], shape[0])} after {before} "
                             f"({shape[0]} features)")  # fmt: skip
    return (found[0],)


def _window_sizes(layer: Layer, shape: Shape, before: str) -> Shape:
    """Height and width after a window has passed: floor((size + 2 padding - extent) / stride) + 1."""
    sizes = []
    for axis, size in enumerate(shape[1:]):
        extent = layer.get("dilation", (1, 1))[axis] * (layer["kernel_size"][axis] - 1) + 1
        room = size + 2 * layer["padding"][axis] - extent
        if room < 0:
            raise EdgeMnistError(f"{layer['name']}: a window of {extent} does not fit into {size} + 2 x "
                                 f"{layer['padding'][axis]} pixels after {before}: nothing would be left")  # fmt: skip
        sizes.append(room // layer["stride"][axis] + 1)
    return tuple(sizes)


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _is_pair(value: object, least: int) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_count(item, least) for item in value)


_KINDS: dict[str, Callable[[object], bool]] = {
    "count": _is_count,
    "counts": lambda value: _is_pair(value, 1),
    "margins": lambda value: _is_pair(value, 0),
    "flag": lambda value: isinstance(value, bool),
    "positive": lambda value: isinstance(value, float) and 0 < value < math.inf,
}
_EXPECTED = {
    "count": "an integer of at least 1",
    "counts": "[height, width] of at least 1",
    "margins": "[height, width] of at least 0",
    "flag": "true or false",
    "positive": "a positive number",
}


def _short(value: object) -> str:
    """A value as it may stand in an error's one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
