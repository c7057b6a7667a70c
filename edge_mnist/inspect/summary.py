"""What a file is, in facts: the layers of a checkpoint, the contract of an artifact, the manifest of a bundle.

Nothing is run: neither a network nor the code inside a TorchScript archive, so that no format's package is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mnist.bundle.manifest import read_manifest
from edge_mnist.formats.contract import Contract, hash_graph
from edge_mnist.formats.table import Format, detect_format, read_contract
from edge_mnist.graph.checkpoint import Checkpoint, load
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.layers import (
    BatchNorm2dLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    PoolLayer,
    ReluLayer,
    Shape,
    count_parameters,
    output_shapes,
)
from edge_mnist.graph.tensor_file import is_safetensors
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import read_bytes

Facts = dict[str, Any]
"""A JSON object. "kind" is "checkpoint", "artifact" or "bundle"; "file" is the path as it was given."""

_SHORT_NAMES = {
    "conv2d": "conv",
    "batch_norm2d": "bn",
    "max_pool2d": "max pool",
    "avg_pool2d": "mean pool",
    "adaptive_avg_pool2d": "global mean",
}


@dataclass(frozen=True)
class Stage:
    """A layer that looks at a neighbourhood, with the batch normalisation, ReLU and flattening that follow it.

    Attributes:
        name: of its first layer.
        operation: in words, such as "conv 3x3, bn, relu".
        output_shape: (channels, height, width) of maps, (features,) once flattened.
        parameters: how many numbers training moved, batch normalisation's included.
        receptive_field: height and width, in pixels, of what one output position depends on; what lies outside the
            image counts too.
        jump: by how many pixels, down and right, the receptive fields of neighbouring positions differ.
        multiply_accumulates: for one image, of convolutions and fully connected layers.
    """

    name: str
    operation: str
    output_shape: tuple[int, ...]
    parameters: int
    receptive_field: tuple[int, int]
    jump: tuple[int, int]
    multiply_accumulates: int


def stages(architecture: Iterable[Layer], input_shape: MapShape) -> tuple[Stage, ...]:
    """The stages of a network, in order.

    Receptive fields after Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill
    2019: a window over e positions that moves by s widens the field by (e - 1) * jump and multiplies the jump by s.

    Args:
        architecture: the layers.
        input_shape: channels, height, width.

    Raises:
        EdgeMnistError: the layers do not fit each other.
    """
    architecture = tuple(architecture)
    found: list[Stage] = []
    field, jump, size = (1, 1), (1, 1), input_shape[1:]
    for layer, shape in zip(architecture, output_shapes(architecture, input_shape), strict=True):
        window = layer.window_over(size)
        field = (field[0] + (window.extent[0] - 1) * jump[0], field[1] + (window.extent[1] - 1) * jump[1])
        jump = (jump[0] * window.stride[0], jump[1] * window.stride[1])
        parameters = count_parameters([layer])
        sums = _multiply_accumulates(layer, shape)
        if isinstance(layer, BatchNorm2dLayer | ReluLayer | FlattenLayer) and found:
            last = found[-1]
            operation = last.operation if isinstance(layer, FlattenLayer) else f"{last.operation}, {_words(layer)}"
            parameters += last.parameters
            found[-1] = dataclasses.replace(last, operation=operation, output_shape=shape, parameters=parameters)
        else:
            found.append(Stage(layer.name, _words(layer), shape, parameters, field, jump, sums))
        if isinstance(layer, LinearLayer):
            size = (1, 1)
        elif len(shape) == 3:  # a linear layer after a flatten sees the whole map that was flattened
            size = shape[1:]
    return tuple(found)


def describe(path: Path) -> Facts:
    """The facts about a checkpoint, an artifact (.pt, .onnx, .tflite, .c) or a bundle's folder, told apart by content.

    Raises:
        UsageError: there is nothing at `path`.
        EdgeMnistError: it is none of these, or damaged.
    """
    if path.is_dir():
        return _describe_bundle(path)
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    data = read_bytes(path)
    facts = {"file": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if is_safetensors(data):  # before the formats, as its first byte may be that of an ONNX model
        return facts | _describe_checkpoint(load(path))
    kind = detect_format(data)
    if kind is None:
        raise EdgeMnistError(
            f"{path}: expected a checkpoint (.safetensors), an artifact (.pt, .onnx, .tflite, .c) or a bundle's "
            f"folder, found {len(data)} other bytes"
        )
    return facts | _describe_artifact(data, kind, str(path))


def _describe_checkpoint(checkpoint: Checkpoint) -> Facts:
    layers = stages(checkpoint.architecture, checkpoint.input_shape)
    facts: Facts = {
        "kind": "checkpoint",
        "input_shape": checkpoint.input_shape,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "layers": [dataclasses.asdict(stage) for stage in layers],
        "parameters": sum(stage.parameters for stage in layers),
        "multiply_accumulates": sum(stage.multiply_accumulates for stage in layers),
        "receptive_field": layers[-1].receptive_field,
        "calibrated": bool(checkpoint.statistics),
        "recorded": dict(checkpoint.metadata),
    }
    try:
        graph = fold(checkpoint)
    except EdgeMnistError as error:
        return facts | {"graph_sha256": None, "padding_pixel": None, "not_exportable": str(error)}
    padding = None
    if graph.convolutions[0].window.padding != (0, 0):
        deviation = (graph.zero_pixel / 255 - checkpoint.mean) / checkpoint.std
        padding = {"layer": graph.convolutions[0].name, "pixel": graph.zero_pixel, "deviation": deviation}
    return facts | {"graph_sha256": hash_graph(graph), "padding_pixel": padding}


def _describe_artifact(data: bytes, kind: Format, name: str) -> Facts:
    contract = read_contract(data, name)
    feeding, reading = _in_words(contract)
    return {
        "kind": "artifact",
        "format": kind.name,
        "precision": contract.precision,
        "contract": dataclasses.asdict(contract),
        "input": feeding,
        "output": reading,
    }


def _in_words(contract: Contract) -> tuple[str, str]:
    """What to feed an artifact, and how to read what it gives."""
    channels, height, width = contract.input_shape
    layout = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}[contract.layout]
    values = {
        "uint8": "pixels 0..255 as they are",
        "int8": "pixels minus 128, that is image ^ 0x80 on the bytes",
        "float32": "pixels 0..255, not divided, not normalised",
    }[contract.input_type]
    feeding = f"{contract.input_type} (N, {', '.join(map(str, layout))}): {values}"
    reading = f"{contract.output_type} (N, classes): the logits"
    if contract.output_type != "float32":
        shifted = f"(output - {contract.output_zero_point})" if contract.output_zero_point else "output"
        reading += f", as {contract.output_scale:g} * {shifted}"
    return feeding, f"{reading}; the class is the position of the largest"


def _describe_bundle(folder: Path) -> Facts:
    manifest = read_manifest(folder)
    files = [
        {
            "name": name,
            "format": entry.get("format"),
            "precision": entry.get("precision"),
            "bytes": entry["bytes"],
            "sha256": entry["sha256"],
            "state": _state(folder / name, entry["sha256"]),
        }
        for name, entry in manifest["files"].items()
    ]
    golden = {"golden_images": manifest["golden"]["images"], "quantized": len(manifest["quantization"])}
    elsewhere = {"tool", "format", "files", "golden", "quantization"}
    recorded = {key: value for key, value in manifest.items() if key not in elsewhere}
    return {"kind": "bundle", "file": str(folder), "files": files, **golden, "recorded": recorded}


def _state(path: Path, sha256: str) -> str:
    """Whether a file of a bundle is as it was written: "unchanged", "changed" or "missing"."""
    if not path.is_file():
        return "missing"
    return "unchanged" if hashlib.sha256(read_bytes(path)).hexdigest() == sha256 else "changed"


def _multiply_accumulates(layer: Layer, shape: Shape) -> int:
    """Products that a convolution or a fully connected layer adds up for one image."""
    weight = layer.weight_shapes().get("weight", ())
    return math.prod(weight) * math.prod(shape[1:]) if isinstance(layer, Conv2dLayer | LinearLayer) else 0


def _words(layer: Layer) -> str:
    """A layer's operation with what is not usual about its window."""
    words = _SHORT_NAMES.get(layer.op, layer.op)
    if not isinstance(layer, Conv2dLayer | PoolLayer):
        return words
    window = layer.window_over((1, 1))
    words += " {}x{}".format(*window.kernel_size)
    usual = Window(window.kernel_size, window.kernel_size if isinstance(layer, PoolLayer) else (1, 1))
    for field in ("stride", "padding", "dilation"):
        down, right = getattr(window, field)
        if (down, right) != getattr(usual, field):
            words += f" {field} {down}" if down == right else f" {field} {down}x{right}"
    return words + (f" groups {layer.groups}" if isinstance(layer, Conv2dLayer) and layer.groups != 1 else "")
