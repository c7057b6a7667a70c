"""The contract of an artifact: a small JSON text inside it that describes its input and its output."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.operations import FloatGraph, MaxPool2d, QuantizedGraph, to_image_batch
from edge_mnist.system.files import parse_json

Precision = Literal["float", "int8"]
IntegerType = Literal["uint8", "int8"]
Layout = Literal["NCHW", "NHWC"]

_TYPES = ("uint8", "int8", "float32")
"""The types that an input or an output may have."""
_LARGEST_INPUT = 1 << 26
"""The largest number of values in an image that a contract may state; a larger one is damage."""


@dataclass(frozen=True)
class Contract:
    """The input and output of an artifact.

    Attributes:
        input_shape: channels, height, width of an image.
        input_type: "uint8" (pixels), "int8" (pixels - 128) or "float32" (pixels 0..255).
        layout: "NCHW" or "NHWC", the order of the input's dimensions.
        output_type: "uint8", "int8" or "float32".
        output_scale: a logit is `output_scale * (output - output_zero_point)`.
        output_zero_point: see `output_scale`.
        model: the first 16 hexadecimal digits of the graph's SHA-256, see `hash_graph`.
    """

    input_shape: tuple[int, int, int]
    input_type: str
    layout: str
    output_type: str
    output_scale: float
    output_zero_point: int
    model: str

    @property
    def precision(self) -> Precision:
        """The precision in which the artifact computes."""
        return "float" if self.input_type == "float32" else "int8"

    def to_json(self) -> str:
        """The contract as one line of JSON, with its keys in the order of the attributes."""
        return json.dumps(self.__dict__, separators=(",", ":"))

    def convert_images(self, images: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert images to the input of the artifact.

        Args:
            images: uint8 (N, channels, height, width), or (N, height, width) if there is one channel.

        Returns:
            An array of `input_type`, (N, channels, height, width) or, in the layout NHWC, (N, height, width, channels).

        Raises:
            EdgeMnistError: the images are of another type or shape.
        """
        batch = to_image_batch(images, self.input_shape)
        values: NDArray[Any] = batch.transpose(0, 2, 3, 1) if self.layout == "NHWC" else batch
        if self.input_type == "int8":
            values = (values ^ 0x80).view(np.int8)
        return np.ascontiguousarray(values.astype(np.float32) if self.input_type == "float32" else values)

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
        if not isinstance(record, dict) or not record.keys() >= Contract.__dataclass_fields__.keys():
            raise ValueError("not a contract")
        fields = {key: record[key] for key in Contract.__dataclass_fields__}
        shape, scale, zero_point = (fields[key] for key in ("input_shape", "output_scale", "output_zero_point"))
        allowed = {"input_type": _TYPES, "output_type": _TYPES, "layout": ("NCHW", "NHWC")}
        if not (
            isinstance(shape, list)
            and len(shape) == 3
            and all(type(length) is int and length > 0 for length in shape)
            and math.prod(shape) <= _LARGEST_INPUT
            and all(fields[key] in values for key, values in allowed.items())
            and type(scale) in (int, float)
            and 0 < scale < math.inf
            and type(zero_point) is int
            and -128 <= zero_point <= 255
            and isinstance(fields["model"], str)
        ):
            raise ValueError("not a contract")
        return Contract(**{**fields, "input_shape": tuple(shape)})


def make_contract(
    graph: FloatGraph | QuantizedGraph, input_type: IntegerType, output_type: IntegerType, layout: Layout
) -> Contract:
    """The contract of an artifact.

    Args:
        graph: the graph that the artifact computes.
        input_type: the type of the pixels if the graph is quantized.
        output_type: the type of the logits if the graph is quantized.
        layout: the order of the input's dimensions.
    """
    shape, model = graph.input_shape, hash_graph(graph)[:16]
    if isinstance(graph, FloatGraph):
        return Contract(shape, "float32", layout, "float32", 1.0, 0, model)
    output = graph.quantizations()[-1]
    zero_point = output.zero_point + (128 if output_type == "uint8" else 0)
    return Contract(shape, input_type, layout, output_type, output.scale, zero_point, model)


def hash_graph(graph: FloatGraph | QuantizedGraph) -> str:
    """The SHA-256 of everything on which a graph's results depend, as hexadecimal digits."""
    # The text of the dataclasses is hashed: another name of a class or field would change every artifact. It is made by
    # ascii() because the characters that repr() escapes depend on the version of Python.
    digest = hashlib.sha256(ascii((graph.input_shape, graph.zero_pixel)).encode())
    for operation in graph.operations:
        if isinstance(operation, MaxPool2d):
            digest.update(ascii(operation).encode())
            continue
        digest.update(ascii((operation.name, operation.weight.shape, operation.window, operation.groups)).encode())
        digest.update(ascii((operation.relu, getattr(operation, "output", None))).encode())
        for array in (operation.weight, getattr(operation, "weight_scale", None), operation.bias):
            digest.update(b"" if array is None else array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
