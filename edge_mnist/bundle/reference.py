"""The reference of a bundle: both graphs and the golden images with their logits, in one safetensors file.

Verification needs only this file and the artifacts: neither a checkpoint nor a data set nor torch. The structure of the
graphs is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import MANIFEST, REFERENCE, read_manifest, sha256
from edge_mnist.data import strokes
from edge_mnist.graph.geometry import MapShape, Window
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.graph.operations import Conv2d, FloatGraph, MaxPool2d, Quantization, QuantizedConv2d, QuantizedGraph
from edge_mnist.graph.quantization import LayerReport
from edge_mnist.graph.tensor_file import decode_tensors
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY, read_bytes

LAYOUT_VERSION = 1
"""The version of the file's layout. A file of a higher version is refused."""

GOLDEN_IMAGES = 64
"""The number of golden images in a bundle."""

GOLDEN_SEED = 20_261
"""The seed of the golden images. It is arbitrary; another one would change every bundle."""

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Reference:
    """That with which the artifacts of a bundle are compared.

    Attributes:
        float_graph: the folded float network.
        quantized_graph: the int8 network, or None if the bundle has no int8 artifacts.
        layers: how each convolution was quantized.
        images: uint8 (64, channels, height, width), the golden images.
        float_logits: float32 (64, classes), the logits of the golden images, as the oracle computed them on the machine
            that exported.
        int8_logits: int8 (64, classes), the same of the int8 network, or None. They are equal on every machine.
        recorded_accuracy: the test accuracy that the checkpoint recorded, 0..1, or None.
    """

    float_graph: FloatGraph
    quantized_graph: QuantizedGraph | None
    layers: tuple[LayerReport, ...]
    images: NDArray[np.uint8]
    float_logits: NDArray[np.float32]
    int8_logits: NDArray[np.int8] | None
    recorded_accuracy: float | None


def make_reference(
    float_graph: FloatGraph,
    quantized_graph: QuantizedGraph | None,
    layers: tuple[LayerReport, ...],
    recorded_accuracy: float | None,
) -> Reference:
    """Make the reference of a bundle: draw the golden images and run the oracle on them.

    Raises:
        EdgeMnistError: the float network's logits overflow.
    """
    images = draw_golden_images(float_graph.input_shape)
    with np.errstate(over="ignore", invalid="ignore"):
        float_logits = run_float(float_graph, images)
    if not np.isfinite(float_logits).all():
        raise EdgeMnistError(
            "the float network gives logits that are not finite: the checkpoint is damaged or diverged"
        )
    return Reference(
        float_graph,
        quantized_graph,
        layers,
        images,
        float_logits,
        None if quantized_graph is None else run_quantized(quantized_graph, images),
        recorded_accuracy,
    )


def draw_golden_images(shape: MapShape) -> NDArray[np.uint8]:
    """Draw images of many kinds: digits, black, white, grey, ramps, and noise of every density.

    Args:
        shape: channels, height, width.

    Returns:
        uint8 (64, channels, height, width), the same on every machine. There are digits only if the shape is that of
        MNIST, (1, 28, 28).
    """
    rng = np.random.Generator(np.random.PCG64(GOLDEN_SEED))
    channels, height, width = shape
    ramp = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width)
    flat = [np.broadcast_to(np.uint8(value), (height, width)) for value in (0, 255, 128)]
    fixed = np.stack([*flat, ramp, ramp[::-1], 255 - ramp[:, ::-1], ramp.T.reshape(height, width), 255 - ramp])
    images = [np.broadcast_to(fixed[:, None], (len(fixed), channels, height, width))]
    if shape == (1, 28, 28):
        images.append(strokes.draw(32, seed=GOLDEN_SEED).images[:, None])
    noise = GOLDEN_IMAGES - sum(len(part) for part in images)
    density = np.linspace(0.05, 1, noise)[:, None, None, None]
    values = rng.integers(0, 256, (noise, *shape))
    images.append(np.where(rng.random((noise, *shape)) < density, values, 0))
    return np.concatenate(images).astype(np.uint8)


def serialize(reference: Reference) -> bytes:
    """The content of the file of a reference."""
    arrays: Arrays = {"golden/images": reference.images, "golden/float_logits": reference.float_logits}
    structure: dict[str, Any] = {
        "format": LAYOUT_VERSION,
        "recorded_accuracy": reference.recorded_accuracy,
        "layers": [asdict(layer) for layer in reference.layers],
        "float": _pack("float", reference.float_graph, arrays),
    }
    if reference.quantized_graph is not None and reference.int8_logits is not None:
        structure["int8"] = _pack("int8", reference.quantized_graph, arrays)
        arrays["golden/int8_logits"] = reference.int8_logits
    contiguous = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata={METADATA_KEY: json.dumps(structure)})


def deserialize(data: bytes, name: str) -> Reference:
    """Read `serialize` back.

    Args:
        data: the file's content.
        name: what errors call it.

    Raises:
        EdgeMnistError: it is damaged, of a newer version, or not a reference.
    """
    try:
        arrays, structure = decode_tensors(data, name)
    except EdgeMnistError as error:
        raise EdgeMnistError(f"{error}: export again") from error
    try:
        if structure["format"] > LAYOUT_VERSION:
            raise EdgeMnistError(
                f"{name}: written by a newer edge-mnist (layout {structure['format']}): upgrade to read it"
            )
        return Reference(
            _unpack_float(structure["float"], arrays),
            _unpack_quantized(structure["int8"], arrays) if "int8" in structure else None,
            tuple(LayerReport(**layer) for layer in structure["layers"]),
            arrays["golden/images"],
            arrays["golden/float_logits"],
            arrays.get("golden/int8_logits"),
            structure["recorded_accuracy"],
        )
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EdgeMnistError(f"{name}: not a reference of edge-mnist, or damaged ({error}): export again") from error


def read_bundle(folder: Path) -> tuple[dict[str, Any], Reference]:
    """The manifest and the reference of a bundle.

    Raises:
        UsageError: there is no such folder, or it is a file.
        EdgeMnistError: the folder is not a bundle, is of a newer version, or its reference was changed.
    """
    manifest, path = read_manifest(folder), folder / REFERENCE
    if not path.is_file():
        raise EdgeMnistError(f"{path}: is missing, though {MANIFEST} names it: export again")
    data = read_bytes(path)
    if sha256(data) != manifest["files"][REFERENCE]["sha256"]:
        raise EdgeMnistError(f"{path}: changed since the export: its SHA-256 is not the manifest's; export again")
    return manifest, deserialize(data, str(path))


def _pack(prefix: str, graph: FloatGraph | QuantizedGraph, arrays: Arrays) -> dict[str, Any]:
    """The structure of a graph, as a JSON object; its arrays are added to `arrays`, their names after `prefix`."""
    operations = []
    for operation in graph.operations:
        fields: dict[str, Any] = {"name": operation.name, "window": asdict(operation.window)}
        if not isinstance(operation, MaxPool2d):
            fields |= {"groups": operation.groups, "relu": operation.relu}
            arrays[f"{prefix}/{operation.name}/weight"] = operation.weight
            arrays[f"{prefix}/{operation.name}/bias"] = operation.bias
        if isinstance(operation, QuantizedConv2d):
            fields["output"] = asdict(operation.output)
            arrays[f"{prefix}/{operation.name}/weight_scale"] = operation.weight_scale
        operations.append(fields)
    return {"input_shape": graph.input_shape, "zero_pixel": graph.zero_pixel, "operations": operations}


def _unpack_float(structure: Mapping[str, Any], arrays: Mapping[str, Any]) -> FloatGraph:
    """The float graph that `_pack` described."""
    operations = [_unpack_fields("float", fields, arrays) for fields in structure["operations"]]
    return FloatGraph(
        _unpack_shape(structure["input_shape"]),
        structure["zero_pixel"],
        tuple(Conv2d(**fields) if "weight" in fields else MaxPool2d(**fields) for fields in operations),
    )


def _unpack_quantized(structure: Mapping[str, Any], arrays: Mapping[str, Any]) -> QuantizedGraph:
    """The int8 graph that `_pack` described."""
    operations = [_unpack_fields("int8", fields, arrays) for fields in structure["operations"]]
    return QuantizedGraph(
        _unpack_shape(structure["input_shape"]),
        structure["zero_pixel"],
        tuple(
            QuantizedConv2d(
                **{**fields, "output": Quantization(**fields["output"])},
                weight_scale=arrays[f"int8/{fields['name']}/weight_scale"],
            )
            if "weight" in fields
            else MaxPool2d(**fields)
            for fields in operations
        ),
    )


def _unpack_fields(prefix: str, fields: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an operation, those included that are arrays; only a convolution has "weight" and "bias"."""
    pairs = {key: (vertical, horizontal) for key, (vertical, horizontal) in fields["window"].items()}
    keys = ("weight", "bias") if "groups" in fields else ()
    return {**fields, "window": Window(**pairs)} | {key: arrays[f"{prefix}/{fields['name']}/{key}"] for key in keys}


def _unpack_shape(values: list[int]) -> MapShape:
    channels, height, width = values
    return channels, height, width
