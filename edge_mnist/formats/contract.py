"""The contract of an artifact: a small JSON text inside it that describes its input and its output."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.arithmetic import quantize
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.layers import Shape
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    arrange_inputs,
)
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import parse_json
from edge_mnist.system.hashes import sha256

Precision = Literal["float", "int8"]
IntegerType = Literal["uint8", "int8"]
Layout = Literal["NCHW", "NHWC"]

_TYPES = ("uint8", "int8", "float32")
"""The types that an input or an output may have."""
_LARGEST_SHAPE = 1 << 26
"""The largest number of values in an input or an output that a contract may state; a larger one is damage."""
_ENDINGS = ("softmax", "log_softmax")
"""What may have followed the output in the network and is left out of the artifact."""


@dataclass(frozen=True)
class Contract:
    """The input and output of an artifact.

    Attributes:
        input_shape: the shape of one input: (channels, height, width), (channels, length) or (features,).
        input_type: "uint8" (pixels), "int8" (pixels - 128) or "float32" (pixels 0..255); see `input_scale` for inputs
            that are not pixels.
        layout: "NCHW" or "NHWC", the order of the dimensions of an input, and of an output that is maps. A sequence is
            (N, channels, length) or (N, length, channels), a vector (N, features) in both.
        output_type: "uint8", "int8" or "float32".
        output_scale: a logit is `output_scale * (output - output_zero_point)`.
        output_zero_point: see `output_scale`.
        model: the first 16 hexadecimal digits of the graph's SHA-256, see `hash_graph`.
        input_scale: None if the input is pixels. Otherwise an integer input `q` stands for the number
            `input_scale * (q - input_zero_point)`, and a float32 input is the number itself (then the scale is 1).
        input_zero_point: see `input_scale`; None if the input is pixels.
        ending: "softmax" or "log_softmax" if the network ended in one, which the artifact leaves out: the class with
            the largest output is the same. Otherwise "".
        output_shape: (channels, height, width) if the output is maps; None if it is one value for each class.
    """

    input_shape: Shape
    input_type: str
    layout: str
    output_type: str
    output_scale: float
    output_zero_point: int
    model: str
    input_scale: float | None = None
    input_zero_point: int | None = None
    ending: str = ""
    output_shape: MapShape | None = None

    @property
    def precision(self) -> Precision:
        """The precision in which the artifact computes."""
        return "float" if self.input_type == "float32" else "int8"

    @property
    def is_pixels(self) -> bool:
        """Whether the input is pixels, 0..255, rather than other numbers."""
        return self.input_scale is None

    def to_fields(self) -> dict[str, Any]:
        """The attributes by name, in order; the last four only where they say more than pixels and classes."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return {name: value for name, value in vars(self).items() if value != defaults[name]}

    def to_json(self) -> str:
        """The contract as one line of JSON, with its keys in the order of the attributes, as in `to_fields`."""
        return json.dumps(self.to_fields(), separators=(",", ":"))

    def convert_images(self, images: NDArray[np.generic]) -> NDArray[Any]:
        """Convert images, or inputs that are not pixels, to the input of the artifact.

        Args:
            images: uint8 pixels, or float32 numbers if the input is not pixels: (N, *input_shape), or
                (N, height, width) if there is one channel. Numbers outside the int8 range are clamped to it.

        Returns:
            An array of `input_type`, (N, *input_shape), or, in the layout NHWC, with the channels last.

        Raises:
            EdgeMnistError: the images are of another type or shape, or a number is infinite or not a number.
        """
        values: NDArray[Any] = arrange_inputs(images, self.input_shape, is_pixels=self.is_pixels)
        if self.layout == "NHWC" and len(self.input_shape) > 1:
            values = np.moveaxis(values, 1, -1)
        if self.input_scale is None or self.input_zero_point is None:
            signed: NDArray[Any] = (values ^ 0x80).view(np.int8)
        else:
            if not np.isfinite(values).all():
                raise EdgeMnistError(f"inputs: {(~np.isfinite(values)).sum()} values are infinite or not a number")
            if self.input_type == "float32":
                return np.ascontiguousarray(values)
            zero_point = self.input_zero_point - (128 if self.input_type == "uint8" else 0)
            signed = quantize(values.astype(np.float64), self.input_scale, zero_point).astype(np.int8)
        if self.input_type == "int8":
            return np.ascontiguousarray(signed)
        pixels = signed.view(np.uint8) ^ 0x80
        return np.ascontiguousarray(pixels.astype(np.float32) if self.input_type == "float32" else pixels)

    def flatten_outputs(self, outputs: NDArray[Any], count: int) -> NDArray[Any]:
        """Bring outputs into the form that is the same for all formats.

        Args:
            outputs: what the artifact gives.
            count: for how many inputs it gives them, N.

        Returns:
            The outputs as (N, classes), or (N, channels * height * width) of maps; int8 where the artifact gives uint8.

        Raises:
            ValueError: the outputs are not of the type and shape that the contract promises, which the text states.
        """
        if self.output_shape is None:
            fits, sizes = outputs.ndim == 2, "classes"
        else:
            channels, height, width = self.output_shape
            shape = (height, width, channels) if self.layout == "NHWC" else self.output_shape
            fits, sizes = outputs.shape[1:] == shape, ", ".join(map(str, shape))
        if not fits or len(outputs) != count or outputs.dtype != self.output_type:
            raise ValueError(f"{self.output_type} ({count}, {sizes})")
        maps = outputs.transpose(0, 3, 1, 2) if outputs.ndim == 4 and self.layout == "NHWC" else outputs
        return self.to_signed(maps.reshape(len(maps), math.prod(maps.shape[1:])))

    @staticmethod
    def to_signed(outputs: NDArray[Any]) -> NDArray[Any]:
        """Convert unsigned outputs to the int8 values that they represent, by subtracting 128.

        Args:
            outputs: of any shape; if they are not uint8, they are returned as they are.
        """
        return (outputs ^ 0x80).view(np.int8) if outputs.dtype == np.uint8 else outputs

    @staticmethod
    def from_json(text: str) -> Contract:
        """Read `to_json` back; unknown keys, which a newer version may write, are ignored.

        Raises:
            ValueError: it is not such a text, or states a type, a layout or a number that is not possible.
        """
        record = parse_json(text)
        if not isinstance(record, dict):
            raise ValueError("not a contract")
        fields = {field.name: record.get(field.name, field.default) for field in dataclasses.fields(Contract)}
        allowed = {"input_type": _TYPES, "output_type": _TYPES, "layout": ("NCHW", "NHWC"), "ending": ("", *_ENDINGS)}
        features = (fields["input_scale"], fields["input_zero_point"])
        if not (
            _is_shape(fields["input_shape"], (1, 2, 3))
            and (fields["output_shape"] is None or _is_shape(fields["output_shape"], (3,)))
            and all(isinstance(fields[key], str) and fields[key] in values for key, values in allowed.items())
            and _is_quantization(fields["output_scale"], fields["output_zero_point"])
            and (features == (None, None) or _is_quantization(*features))
            and isinstance(fields["model"], str)
        ):
            raise ValueError("not a contract")
        shapes = {key: fields[key] and tuple(fields[key]) for key in ("input_shape", "output_shape")}
        return Contract(**{**fields, **shapes})


def _is_shape(value: object, lengths: tuple[int, ...]) -> bool:
    """Whether a value from JSON is a list of one of these lengths, of sizes of at least 1 that are not too large."""
    return (
        isinstance(value, list)
        and len(value) in lengths
        and all(type(size) is int and size > 0 for size in value)
        and math.prod(value) <= _LARGEST_SHAPE
    )


def _is_quantization(scale: object, zero_point: object) -> bool:
    """Whether two values from JSON are a positive scale and a zero point of an int8 or uint8 value."""
    return (
        (type(scale) is int or type(scale) is float)
        and 0 < scale <= sys.float_info.max
        and type(zero_point) is int
        and -128 <= zero_point <= 255
    )


def make_contract(
    graph: FloatGraph | QuantizedGraph, input_type: IntegerType, output_type: IntegerType, layout: Layout
) -> Contract:
    """The contract of an artifact.

    Args:
        graph: the graph that the artifact computes.
        input_type: the type of the inputs if the graph is quantized.
        output_type: the type of the logits if the graph is quantized.
        layout: the order of the input's dimensions.
    """
    maps = graph.shapes()[-1]
    shape, model = graph.input_shape, hash_graph(graph)[:16]
    output_shape = None if maps[1:] == (1, 1) else maps
    if isinstance(graph, FloatGraph):
        scale, zero_point = (None, None) if graph.is_pixels else (1.0, 0)
        return Contract(
            shape, "float32", layout, "float32", 1.0, 0, model, scale, zero_point, graph.ending, output_shape
        )
    shifts = {"uint8": 128, "int8": 0}
    output, features = graph.quantizations()[-1], graph.features
    return Contract(
        shape,
        input_type,
        layout,
        output_type,
        output.scale,
        output.zero_point + shifts[output_type],
        model,
        None if features is None else features.scale,
        None if features is None else features.zero_point + shifts[input_type],
        graph.ending,
        output_shape,
    )


def hash_graph(graph: FloatGraph | QuantizedGraph) -> str:
    """The SHA-256 of everything on which a graph's results depend, as hexadecimal digits."""
    return sha256(*_list_hashed(graph))


def _list_hashed(graph: FloatGraph | QuantizedGraph) -> Iterator[bytes]:
    """The parts of a graph that are hashed."""
    # Texts of fields are hashed. They are made by ascii(), because the characters that repr() escapes depend on the
    # version of Python. The texts of a chain of convolutions and max pools over pixels are those of all versions.
    yield ascii((graph.input_shape, graph.zero_pixel)).encode()
    if not graph.is_pixels:
        yield ascii(("features", getattr(graph, "features", None))).encode()
    if graph.ending:
        yield ascii(("ending", graph.ending)).encode()
    for index, operation in enumerate(graph.operations):
        if graph.sources(index) != (index,):
            yield ascii(("sources", graph.sources(index))).encode()
        yield from _hashed_parts(operation)


def _hashed_parts(operation: FloatOperation | QuantizedOperation) -> Iterator[bytes]:
    """What is hashed of an operation, without its sources."""
    if isinstance(operation, MaxPool2d):
        yield f"MaxPool2d(name={operation.name!a}, window={_format_window(operation.window)})".encode()
    elif isinstance(operation, Conv2d | QuantizedConv2d):
        window = _format_window(operation.window)
        yield f"({operation.name!a}, {operation.weight.shape}, {window}, {operation.groups})".encode()
        bounds = operation.relu if operation.bounds in (RELU, UNBOUNDED) else operation.bounds
        yield ascii((bounds, getattr(operation, "output", None))).encode()
        for array in (operation.weight, getattr(operation, "weight_scale", None), operation.bias):
            yield b"" if array is None else _to_little_endian(array)
    else:
        yield type(operation).__name__.encode()
        for field in dataclasses.fields(operation):
            value = getattr(operation, field.name)
            if isinstance(value, np.ndarray):
                yield _to_little_endian(value)
            elif field.name != "sources":
                yield ascii((field.name, value)).encode()


def _format_window(window: Window) -> str:
    """The text of a window that is hashed; without `padding_after` if the padding is the same on all sides."""
    fields = ("kernel_size", "stride", "padding", "dilation", *(("padding_after",) if window.padding_after else ()))
    return f"Window({', '.join(f'{name}={getattr(window, name)}' for name in fields)})"


def _to_little_endian(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<")).tobytes()
