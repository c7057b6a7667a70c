"""The reference of a bundle: both graphs and the golden inputs with their logits, in one safetensors file.

Verification needs only this file and the artifacts: neither a checkpoint nor a data set nor torch. The structure of the
graphs is JSON in the file's metadata.
"""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from edge_mnist.bundle.manifest import MANIFEST, REFERENCE, read_manifest
from edge_mnist.data import strokes
from edge_mnist.graph.geometry import Window
from edge_mnist.graph.interpreter import run_float, run_quantized
from edge_mnist.graph.layers import LARGEST_SIZE, Shape, to_layer_shape
from edge_mnist.graph.operations import (
    RELU,
    UNBOUNDED,
    Activation,
    Add,
    Bounds,
    Concatenate,
    Conv2d,
    FloatGraph,
    FloatOperation,
    MaxPool2d,
    Multiply,
    Quantization,
    QuantizedConv2d,
    QuantizedGraph,
    QuantizedOperation,
    Table,
    Upsample,
)
from edge_mnist.graph.quantization import LayerReport
from edge_mnist.graph.tensor_file import decode_tensors
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.system.files import METADATA_KEY, read_bytes
from edge_mnist.system.hashes import sha256

LAYOUT_VERSION = 2
"""The version of the file's layout. A file of a higher version is refused. Version 1 holds chains of convolutions and
max pools over images of pixels, and such graphs are still written in it."""

GOLDEN_IMAGES = 64
"""The number of golden inputs in a bundle."""

GOLDEN_SEED = 20_261
"""The seed of the golden inputs. It is arbitrary; another one would change every bundle."""

_MOST_VALUES = 1 << 26
"""The most values that an operation of a reference may give for one input; more are damage."""

_FLOAT_KINDS = {kind.__name__: kind for kind in (Upsample, Concatenate, Add, Multiply, Activation)}
"""The operations of float graphs that version 1 does not have, by the "op" of their JSON objects."""

_INT8_KINDS = {kind.__name__: kind for kind in (Upsample, Concatenate, Add, Multiply, Table)}
"""The same of int8 graphs."""

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Reference:
    """That with which the artifacts of a bundle are compared.

    Attributes:
        float_graph: the folded float network.
        quantized_graph: the int8 network, or None if the bundle has no int8 artifacts.
        layers: how each convolution was quantized.
        images: uint8 (64, *input_shape), the golden images; float32 if the network's input is not pixels.
        float_logits: float32 (64, outputs), the logits of the golden images, as the oracle computed them on the machine
            that exported.
        int8_logits: int8 (64, outputs), the same of the int8 network, or None. They are equal on every machine.
        recorded_accuracy: the test accuracy that the checkpoint recorded, 0..1, or None.
    """

    float_graph: FloatGraph
    quantized_graph: QuantizedGraph | None
    layers: tuple[LayerReport, ...]
    images: NDArray[np.generic]
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
    images: NDArray[np.generic]
    if float_graph.is_pixels:
        images = draw_golden_images(float_graph.input_shape)
    else:
        images = draw_golden_features(float_graph.input_shape, getattr(quantized_graph, "features", None))
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


def draw_golden_images(input_shape: Shape) -> NDArray[np.uint8]:
    """Draw images of many kinds: digits, black, white, grey, ramps, and noise of every density.

    Args:
        input_shape: (channels, height, width), (channels, length) or (features,).

    Returns:
        uint8 (64, *input_shape), the same on every machine. There are digits only if the shape is that of MNIST,
        (1, 28, 28).
    """
    rng = np.random.Generator(np.random.PCG64(GOLDEN_SEED))
    channels, height, width = shape = _to_map_shape(input_shape)
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
    return np.concatenate(images).astype(np.uint8).reshape(GOLDEN_IMAGES, *input_shape)


def draw_golden_features(input_shape: Shape, features: Quantization | None) -> NDArray[np.float32]:
    """Draw inputs that are not pixels: zeros, both ends of the range, ramps, and noise that goes beyond the range.

    Args:
        input_shape: (channels, height, width), (channels, length) or (features,).
        features: the quantization of the inputs, whose range is drawn over; None for numbers from -1 to 1.

    Returns:
        float32 (64, *input_shape), the same on every machine.
    """
    rng = np.random.Generator(np.random.PCG64(GOLDEN_SEED))
    low, high = (-1.0, 1.0) if features is None else features.range
    ramp = np.linspace(low, high, math.prod(input_shape)).reshape(input_shape)
    fixed = [np.zeros(input_shape), *(np.full(input_shape, end) for end in (low, high, 2 * low, 2 * high))]
    fixed += [ramp, ramp[::-1], 1.5 * ramp]
    noise = GOLDEN_IMAGES - len(fixed)
    size = np.linspace(0.05, 1.3, noise).reshape(noise, *(1 for _ in input_shape))
    values = size * (low + (high - low) * rng.random((noise, *input_shape)))
    return np.concatenate([np.stack(fixed), values]).astype(np.float32)


def _to_map_shape(input_shape: Shape) -> tuple[int, int, int]:
    """The channels, height and width as which inputs are drawn; a vector is drawn as one row."""
    channels, *size = to_layer_shape(input_shape)
    height, width = size or (1, channels)
    return (channels if size else 1), height, width


def serialize(reference: Reference) -> bytes:
    """The content of the file of a reference."""
    arrays: Arrays = {"golden/images": reference.images, "golden/float_logits": reference.float_logits}
    structure: dict[str, Any] = {
        "format": 1 if _fits_version_1(reference.float_graph) else LAYOUT_VERSION,
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
        name: its name in error messages.

    Raises:
        EdgeMnistError: it is damaged, of a newer version, or not a reference.
    """
    try:
        arrays, structure = decode_tensors(data, name)
    except EdgeMnistError as error:
        raise EdgeMnistError(f"{error}: export again") from error
    layout = structure.get("format")
    if type(layout) is int and layout > LAYOUT_VERSION:
        raise EdgeMnistError(f"{name}: written by a newer edge-mnist (layout {layout}): upgrade to read it")
    try:
        reference = Reference(
            _unpack_float(structure["float"], arrays),
            _unpack_quantized(structure["int8"], arrays) if "int8" in structure else None,
            tuple(LayerReport(**layer) for layer in structure["layers"]),
            arrays["golden/images"],
            arrays["golden/float_logits"],
            arrays.get("golden/int8_logits"),
            structure["recorded_accuracy"],
        )
        _check_reference(reference)
        return reference
    except (EdgeMnistError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise EdgeMnistError(f"{name}: not a reference of edge-mnist, or damaged ({error}): export again") from error


def _check_reference(reference: Reference) -> None:
    """Check what a verification relies on.

    Raises:
        ValueError: the graphs, the golden inputs or their logits do not fit together, or a value is of another type.
    """
    real, integers = reference.float_graph, reference.quantized_graph
    for graph in (real, integers) if integers is not None else (real,):
        if not graph.operations:
            raise ValueError("a network without operations")
        if any(math.prod(shape) > _MOST_VALUES for shape in (graph.input_shape, *graph.shapes())):
            raise ValueError(f"an operation gives more than {_MOST_VALUES:,} values")
    if integers is not None and (
        integers.input_shape != real.input_shape
        or integers.is_pixels != real.is_pixels
        or integers.shapes() != real.shapes()
        or [operation.name for operation in integers.operations] != [operation.name for operation in real.operations]
    ):
        raise ValueError("the int8 network has other operations than the float network")
    outputs = math.prod(real.shapes()[-1])
    golden: list[tuple[str, NDArray[Any] | None, type[np.generic], Shape]] = [
        ("golden inputs", reference.images, np.uint8 if real.is_pixels else np.float32, real.input_shape),
        ("golden float logits", reference.float_logits, np.float32, (outputs,)),
    ]
    if integers is not None:
        golden.append(("golden int8 logits", reference.int8_logits, np.int8, (outputs,)))
    for what, array, dtype, shape in golden:
        if array is None or array.dtype != dtype or array.shape != (GOLDEN_IMAGES, *shape):
            raise ValueError(f"expected {what} {np.dtype(dtype)} {(GOLDEN_IMAGES, *shape)}")
        if not np.isfinite(array).all():
            raise ValueError(f"{what}: a value is infinite or not a number")
    names = {operation.name for operation in real.operations}
    for layer in reference.layers:
        numbers = (layer.scale, layer.zero_point, layer.clipped, layer.shift_before, layer.shift_after, layer.headroom)
        if layer.name not in names or not all(_is_number(number) for number in numbers):
            raise ValueError("what the quantization did to a layer is not stated in numbers")
    if reference.recorded_accuracy is not None and not _is_number(reference.recorded_accuracy):
        raise ValueError("the recorded accuracy is not a number")


def _is_number(value: object) -> bool:
    """Whether a value from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
    reference = deserialize(data, str(path))
    stated, golden = manifest["golden"], describe_golden_inputs(reference)
    if different := [name for name in golden if stated.get(name, golden[name]) != golden[name]]:
        raise EdgeMnistError(f"{path}: its golden inputs are not the manifest's ({different[0]} differs): export again")
    return manifest, reference


def describe_golden_inputs(reference: Reference) -> dict[str, Any]:
    """Describe the golden inputs and their int8 logits, as in the manifest's entry "golden"."""
    golden: dict[str, Any] = {"images": len(reference.images), "images_sha256": sha256(reference.images.tobytes())}
    if reference.int8_logits is not None:
        golden["int8_logits_sha256"] = sha256(reference.int8_logits.tobytes())
    return golden


def _fits_version_1(graph: FloatGraph) -> bool:
    """Whether a graph can be written in version 1 of the layout."""
    return (
        graph.is_pixels
        and len(graph.input_shape) == 3
        and not graph.ending
        and graph.is_chain
        and graph.shapes()[-1][1:] == (1, 1)
        and all(
            isinstance(operation, Conv2d | MaxPool2d)
            and operation.window.padding_after is None
            and (isinstance(operation, MaxPool2d) or operation.bounds in (RELU, UNBOUNDED))
            for operation in graph.operations
        )
    )


def _pack(prefix: str, graph: FloatGraph | QuantizedGraph, arrays: Arrays) -> dict[str, Any]:
    """The structure of a graph, as a JSON object; its arrays are added to `arrays`, their names after `prefix`."""
    structure = {
        "input_shape": graph.input_shape,
        "zero_pixel": graph.zero_pixel,
        "operations": [_pack_operation(prefix, operation, arrays) for operation in graph.operations],
    }
    if not graph.is_pixels:
        features = graph.features if isinstance(graph, QuantizedGraph) else None
        structure["features"] = features and asdict(features)
    return structure | ({"ending": graph.ending} if graph.ending else {})


def _pack_operation(prefix: str, operation: FloatOperation | QuantizedOperation, arrays: Arrays) -> dict[str, Any]:
    """The JSON object of an operation, in which everything that version 1 does not have is left out if possible."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(operation):
        value = getattr(operation, field.name)
        if isinstance(value, np.ndarray):
            arrays[f"{prefix}/{operation.name}/{field.name}"] = value
        elif isinstance(value, Window):
            fields["window"] = {key: pair for key, pair in asdict(value).items() if pair is not None}
        elif isinstance(value, Quantization):
            fields[field.name] = asdict(value)
        elif field.name == "bounds" and value in (RELU, UNBOUNDED):
            fields["relu"] = value == RELU
        elif field.name == "bounds":
            fields["bounds"] = [bound if math.isfinite(bound) else None for bound in value]
        elif value is not None and (field.name != "sources" or value):
            fields[field.name] = value
    first = ("name", "window", "groups", "relu", "bounds")  # in the order of version 1
    fields = {key: fields[key] for key in (*first, *fields) if key in fields}
    if not isinstance(operation, Conv2d | QuantizedConv2d | MaxPool2d):
        fields["op"] = type(operation).__name__
    return fields


def _unpack_float(structure: Mapping[str, Any], arrays: Mapping[str, Any]) -> FloatGraph:
    """The float graph that `_pack` described."""
    operations = []
    for record in structure["operations"]:
        fields = _unpack_fields("float", record, arrays)
        kind = _FLOAT_KINDS[record["op"]] if "op" in record else Conv2d if "weight" in fields else MaxPool2d
        operations.append(kind(**fields))
    return FloatGraph(
        tuple(structure["input_shape"]),
        structure["zero_pixel"],
        tuple(operations),
        is_pixels="features" not in structure,
        ending=structure.get("ending", ""),
    )


def _unpack_quantized(structure: Mapping[str, Any], arrays: Mapping[str, Any]) -> QuantizedGraph:
    """The int8 graph that `_pack` described."""
    operations = []
    for record in structure["operations"]:
        fields = _unpack_fields("int8", record, arrays)
        kind = _INT8_KINDS[record["op"]] if "op" in record else QuantizedConv2d if "weight" in fields else MaxPool2d
        operations.append(kind(**fields))
    return QuantizedGraph(
        tuple(structure["input_shape"]),
        structure["zero_pixel"],
        tuple(operations),
        features=Quantization(**structure["features"]) if "features" in structure else None,
        ending=structure.get("ending", ""),
    )


def _unpack_fields(prefix: str, record: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an operation, those included that are arrays."""
    if not isinstance(record["name"], str):
        raise ValueError("an operation without a name")
    fields = {key: value for key, value in record.items() if key not in ("op", "relu")}
    if ("output" in record) != (prefix == "int8") and record.get("op") in ("Add", "Multiply"):
        raise ValueError(f"{record['name']}: only an int8 sum or product has a quantization")
    if "window" in fields:
        pairs = {key: _unpack_integers(pair, int("padding" not in key)) for key, pair in fields["window"].items()}
        fields["window"] = Window(**pairs)
    if "relu" in record:
        fields["bounds"] = RELU if record["relu"] else UNBOUNDED
    elif "bounds" in record:
        fields["bounds"] = _unpack_bounds(record["bounds"])
    if "output" in fields:
        fields["output"] = Quantization(**fields["output"])
    if "factor" in fields:
        fields["factor"] = _unpack_integers(fields["factor"], 1)
    if "sources" in fields:
        fields["sources"] = _unpack_integers(fields["sources"], 0, None)
    keys = ["values"] if record.get("op") == "Table" else []
    if "groups" in record:  # a convolution
        keys = ["weight", "bias", *(["weight_scale"] if "output" in record else [])]
    return fields | {key: arrays[f"{prefix}/{record['name']}/{key}"] for key in keys}


def _unpack_integers(values: list[int], least: int, count: int | None = 2) -> tuple[Any, ...]:
    """Integers of at least `least`, as many as `count`, or any number of them."""
    if not (all(type(value) is int and least <= value <= LARGEST_SIZE for value in values)):
        raise ValueError(f"expected integers of at least {least}, found {reprlib.repr(values)}")
    if count is not None and len(values) != count:
        raise ValueError(f"expected {count} integers, found {reprlib.repr(values)}")
    return tuple(values)


def _unpack_bounds(bounds: list[float | None]) -> Bounds:
    """The bounds of an operation, where None is infinite."""
    low, high = bounds
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)
