"""Describes a file: the layers of a checkpoint, the contract of an artifact, the manifest of a bundle.

Nothing is run, neither a network nor the code inside a TorchScript archive, so that no format's package is needed.
`describe` collects the facts, `print_facts` prints them.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from edge_mnist.bundle.manifest import read_manifest
from edge_mnist.formats.contract import Contract, hash_graph
from edge_mnist.formats.table import Format, detect_format, read_contract
from edge_mnist.graph.checkpoint import Checkpoint, decode
from edge_mnist.graph.folding import fold
from edge_mnist.graph.geometry import Pair, Window
from edge_mnist.graph.layers import (
    INPUT,
    ActivationLayer,
    AffineLayer,
    BatchNorm2dLayer,
    ClampLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    PoolLayer,
    ReluLayer,
    Shape,
    UpsampleLayer,
    ZeroPad2dLayer,
    count_parameters,
    output_shapes,
    resolve_sources,
    to_layer_shape,
)
from edge_mnist.graph.operations import (
    ACCUMULATOR_LIMIT,
    Concatenate,
    Conv2d,
    FloatGraph,
    MaxPool2d,
    Upsample,
)
from edge_mnist.graph.tensor_file import is_safetensors
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import read_bytes
from edge_mnist.system.hashes import sha256
from edge_mnist.system.tables import make_console, make_table, print_table

Facts = dict[str, Any]
"""A JSON object. "kind" is "checkpoint", "artifact" or "bundle"; "file" is the path as it was given."""

_LABEL_WIDTH = 18
"""The number of columns that a label takes: the longest one, "padding_pixel", and some space."""

_SHORT_NAMES = {
    "conv2d": "conv",
    "conv1d": "conv",
    "max_pool2d_ceil": "max pool, ceil",
    "batch_norm2d": "bn",
    "max_pool2d": "max pool",
    "avg_pool2d": "mean pool",
    "adaptive_avg_pool2d": "global mean",
}


_FOLLOWERS = (BatchNorm2dLayer, ReluLayer, FlattenLayer, ClampLayer, ActivationLayer, AffineLayer)
"""The layers that are summarized with the layer before them, if nothing else takes its output."""


@dataclass(frozen=True)
class LayerSummary:
    """A layer, such as a convolution or a pool, with the layers of `_FOLLOWERS` that follow it.

    Attributes:
        name: the name of the first layer.
        operation: what the layers do, such as "conv 3x3, bn, relu".
        sources: what it takes, if that is not only the row before: names of rows, "input" for the network's input.
        output_shape: (channels, height, width) of maps, (features,) after a flatten layer.
        parameters: the number of trained parameters, those of BatchNorm included.
        receptive_field: the height and width in pixels of the area on which one output position depends; the part of
            it that lies outside the image counts too.
        jump: the distance in pixels, down and right, between the receptive fields of neighbouring positions.
        multiply_accumulates: the number of products that convolutions and fully connected layers add up for one input.
    """

    name: str
    operation: str
    sources: tuple[str, ...]
    output_shape: tuple[int, ...]
    parameters: int
    receptive_field: tuple[int, int]
    jump: tuple[int, int]
    multiply_accumulates: int


def summarize_layers(architecture: Iterable[Layer], input_shape: Shape) -> tuple[LayerSummary, ...]:
    """Summarize the layers of a network, in order.

    Receptive fields are computed after Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural
    Networks", Distill 2019: a window over e positions that moves by s widens the field by (e - 1) * jump and
    multiplies the jump by s. Of several inputs, the widest field and the largest jump count.

    Args:
        architecture: the layers.
        input_shape: (channels, height, width), (channels, length) or (features,).

    Raises:
        EdgeMnistError: the layers do not fit each other.
    """
    architecture = tuple(architecture)
    shapes, sources = output_shapes(architecture, input_shape), resolve_sources(architecture)
    uses = Counter(source for names in sources for source in names)
    found: list[LayerSummary] = []
    last = INPUT  # the name of the last layer
    rows = {INPUT: "input"}  # the row that holds each layer, by the layer's name
    spans = {INPUT: _Span((1, 1), (1, 1), _map_size(to_layer_shape(input_shape), (1, 1)))}
    for layer, shape, names in zip(architecture, shapes, sources, strict=True):
        span = spans[layer.name] = _advance(layer, shape, [spans[name] for name in names])
        parameters, sums = count_parameters([layer]), _multiply_accumulates(layer, shape)
        if isinstance(layer, _FOLLOWERS) and found and names == (last,) and uses[last] == 1:
            row = found[-1]
            operation = row.operation
            operation += "" if isinstance(layer, FlattenLayer) else f", {_name_operation(layer)}"
            parameters += row.parameters
            found[-1] = dataclasses.replace(row, operation=operation, output_shape=shape, parameters=parameters)
        else:
            taken = () if names == (last,) else tuple(rows[name] for name in names)
            found.append(
                LayerSummary(layer.name, _name_operation(layer), taken, shape, parameters, span.field, span.jump, sums)
            )
        rows[layer.name], last = found[-1].name, layer.name
    return tuple(found)


@dataclass(frozen=True)
class _Span:
    """What one position of a layer's output depends on: receptive field, jump, and the size of the layer's maps."""

    field: Pair
    jump: Pair
    size: Pair


def _advance(layer: Layer, shape: Shape, spans: list[_Span]) -> _Span:
    """The span of a layer's output of `shape`, from those of its inputs."""
    window = layer.window_over(spans[0].size)
    fields, jumps = zip(*(span.field for span in spans), strict=True), zip(*(span.jump for span in spans), strict=True)
    (field_down, field_right), (jump_down, jump_right) = (max(items) for items in fields), (max(j) for j in jumps)
    field = (
        field_down + (window.extent[0] - 1) * jump_down,
        field_right + (window.extent[1] - 1) * jump_right,
    )
    jump = (jump_down * window.stride[0], jump_right * window.stride[1])
    if isinstance(layer, UpsampleLayer):  # neighbours may share a pixel then: the jump is at least 1
        jump = (max(jump_down // layer.factor[0], 1), max(jump_right // layer.factor[1], 1))
    size = (1, 1) if isinstance(layer, LinearLayer) else _map_size(shape, spans[0].size)
    return _Span(field, jump, size)


def _map_size(shape: Shape, size: Pair) -> Pair:
    """The height and width of maps; of a vector those of the maps that were flattened: a linear layer sees them all."""
    return (shape[1], shape[2]) if len(shape) == 3 else size


def describe(file: str | os.PathLike[str] | None = None) -> Facts:
    """Describe a checkpoint, an artifact of any format or a bundle's folder, recognised by its content.

    Args:
        file: the path; None for the shipped checkpoint.

    Returns:
        What `edge-mnist info --json` prints.

    Raises:
        UsageError: there is no such file or folder.
        EdgeMnistError: it is none of these, or damaged.

    Examples:
        >>> import edge_mnist
        >>> facts = edge_mnist.describe()
        >>> facts["kind"], facts["parameters"], facts["receptive_field"]
        ('checkpoint', 18662, (34, 34))
    """
    path = SHIPPED if file is None else Path(file)
    if path.is_dir():
        return _describe_bundle(path)
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder")
    data = read_bytes(path)
    facts = {"file": str(path), "bytes": len(data), "sha256": sha256(data)}
    if is_safetensors(data):  # before the formats, as its first byte may be that of an ONNX model
        return facts | _describe_checkpoint(decode(data, path))
    kind = detect_format(data)
    if kind is None:
        raise EdgeMnistError(
            f"{path}: expected a checkpoint (.safetensors), an artifact (.pt, .onnx, .tflite, .c, .wasm) or a bundle's "
            f"folder, found {f'{len(data)} other bytes' if data else 'an empty file'}"
        )
    return facts | _describe_artifact(data, kind, str(path))


def _describe_checkpoint(checkpoint: Checkpoint) -> Facts:
    layers = summarize_layers(checkpoint.architecture, checkpoint.input_shape)
    facts: Facts = {
        "kind": "checkpoint",
        "is_pixels": checkpoint.is_pixels,
        "ending": checkpoint.ending,
        "input_shape": checkpoint.input_shape,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "layers": [
            {key: value for key, value in dataclasses.asdict(layer).items() if key != "sources" or value}
            for layer in layers
        ],
        "parameters": sum(layer.parameters for layer in layers),
        "multiply_accumulates": sum(layer.multiply_accumulates for layer in layers),
        "receptive_field": layers[-1].receptive_field,
        "calibrated": bool(checkpoint.statistics),
        "recorded": dict(checkpoint.metadata),
    }
    for key, usual in (("is_pixels", True), ("ending", "")):
        if facts[key] == usual:  # what came later is listed only where it says something
            del facts[key]
    try:
        graph = fold(checkpoint)
    except EdgeMnistError as error:
        return facts | {"graph_sha256": None, "padding_pixel": None, "not_exportable": str(error)}
    padding, name = None, _find_padding_of_pixels(graph)
    if name:
        deviations = [
            (graph.zero_pixel / 255 - mean) / std for mean, std in zip(checkpoint.means, checkpoint.stds, strict=True)
        ]
        padding = {"layer": name, "pixel": graph.zero_pixel, "deviation": max(deviations, key=abs)}
    return facts | {"graph_sha256": hash_graph(graph), "padding_pixel": padding}


def _find_padding_of_pixels(graph: FloatGraph) -> str:
    """The name of the first convolution that pads pixels; "" if none does, or the input is not pixels."""
    pixels = {0} if graph.is_pixels else set()
    for index, operation in enumerate(graph.operations):
        if pixels.issuperset(graph.sources(index)):
            if isinstance(operation, Conv2d) and operation.window.is_padded:
                return operation.name
            if isinstance(operation, MaxPool2d | Upsample | Concatenate):
                pixels.add(index + 1)
    return ""


def _describe_artifact(data: bytes, kind: Format, name: str) -> Facts:
    contract = read_contract(data, name)
    taken, given = _explain_contract(contract)
    return {
        "kind": "artifact",
        "format": kind.name,
        "precision": contract.precision,
        "contract": contract.to_fields(),
        "input": taken,
        "output": given,
    }


def _explain_contract(contract: Contract) -> tuple[str, str]:
    """Say what an artifact takes as its input, and how to read its output."""
    values = {
        "uint8": "pixels 0..255 as they are",
        "int8": "pixels minus 128, that is image ^ 0x80 on the bytes",
        "float32": "pixels 0..255, not divided, not normalized",
    }[contract.input_type]
    if contract.input_scale is not None:
        values = "numbers as they are"
        if contract.input_type != "float32":
            values = f"numbers x as round(x / {contract.input_scale:g}){_format_shift(contract.input_zero_point)}"
    taken = f"{contract.input_type} (N, {_list_sizes(contract.input_shape, contract.layout)}): {values}"
    outputs, reading = "classes", "the class is the position of the largest"
    if contract.output_shape is not None:
        outputs, reading = _list_sizes(contract.output_shape, contract.layout), "of each position of the maps"
    given = f"{contract.output_type} (N, {outputs}): the logits"
    if contract.output_type != "float32":
        shifted = f"(output - {contract.output_zero_point})" if contract.output_zero_point else "output"
        given += f", as {contract.output_scale:g} * {shifted}"
    ending = f"; the {contract.ending} at the network's end is left out" if contract.ending else ""
    return taken, f"{given}; {reading}{ending}"


def _list_sizes(shape: Shape, layout: str) -> str:
    """The sizes of a shape with the channels first or last, as the layout says."""
    return ", ".join(map(str, (*shape[1:], shape[0]) if layout == "NHWC" else shape))


def _format_shift(zero_point: int | None) -> str:
    return f" {'-' if zero_point < 0 else '+'} {abs(zero_point)}" if zero_point else ""


def _describe_bundle(folder: Path) -> Facts:
    manifest = read_manifest(folder)
    files = [
        {
            "name": name,
            "format": entry.get("format"),
            "precision": entry.get("precision"),
            "bytes": entry["bytes"],
            "sha256": entry["sha256"],
            "state": _compare(folder / name, entry["sha256"]),
        }
        for name, entry in manifest["files"].items()
    ]
    # Layers without weights have no accumulator, so theirs is as far from the limit as the limit itself.
    others = sum(
        isinstance(layer, dict) and layer.get("headroom") == ACCUMULATOR_LIMIT for layer in manifest["quantization"]
    )
    golden = {"golden_images": manifest["golden"]["images"], "quantized": len(manifest["quantization"]) - others}
    golden |= {"quantized_without_weights": others} if others else {}
    elsewhere = {"tool", "format", "files", "golden", "quantization"}
    recorded = {key: value for key, value in manifest.items() if key not in elsewhere}
    return {"kind": "bundle", "file": str(folder), "files": files, **golden, "recorded": recorded}


def _compare(path: Path, expected: str) -> str:
    """Compare a file of a bundle with its hash at the export: "unchanged", "changed" or "missing"."""
    if not path.is_file():
        return "missing"
    return "unchanged" if sha256(read_bytes(path)) == expected else "changed"


def _multiply_accumulates(layer: Layer, shape: Shape) -> int:
    """The number of products that a convolution or a fully connected layer adds up for one input."""
    weight = layer.weight_shapes().get("weight", ())
    return math.prod(weight) * math.prod(shape[1:]) if isinstance(layer, Conv2dLayer | LinearLayer) else 0


def _name_operation(layer: Layer) -> str:
    """The name of a layer's operation, and those settings of its window that differ from the usual ones."""
    words = _SHORT_NAMES.get(layer.op, layer.op)
    if isinstance(layer, ActivationLayer):
        return f"{layer.function} {layer.parameter:g}" if layer.parameter else layer.function
    if isinstance(layer, ClampLayer):
        return f"clamp {layer.low:g}..{layer.high:g}"
    if isinstance(layer, AffineLayer):
        if isinstance(layer.factor, tuple) or isinstance(layer.offset, tuple):
            return "* and + constants of each channel"
        return f"* {layer.factor:g} + {layer.offset:g}"
    if isinstance(layer, UpsampleLayer):
        return f"upsample {_join(layer.factor)}"
    if isinstance(layer, ZeroPad2dLayer):
        return f"pad {_join(layer.before)} before, {_join(layer.after)} after"
    if not isinstance(layer, Conv2dLayer | PoolLayer):
        return words
    window = layer.window_over(layer.kernel_size)
    words += " {}x{}".format(*window.kernel_size)
    usual = Window(window.kernel_size, window.kernel_size if isinstance(layer, PoolLayer) else (1, 1))
    for field in ("stride", "padding", "dilation"):
        down, right = getattr(window, field)
        if (down, right) != getattr(usual, field):
            words += f" {field} {down}" if down == right else f" {field} {down}x{right}"
    return words + (f" groups {layer.groups}" if isinstance(layer, Conv2dLayer) and layer.groups != 1 else "")


def print_facts(facts: Facts) -> None:
    """Print the facts about a checkpoint, an artifact or a bundle to stdout."""
    console = make_console(markup=False, highlight=False, emoji=False)  # a name in a file may look like markup
    kinds = {"checkpoint": _print_checkpoint, "artifact": _print_artifact, "bundle": _print_bundle}
    kinds[facts["kind"]](facts, console)


def _print_checkpoint(facts: Facts, console: Console) -> None:
    has_branches = any("sources" in layer for layer in facts["layers"])
    names = ("layer", *(("takes",) if has_branches else ()), "operation", "output")
    numbers = ("parameters", "receptive\nfield", "jump", "MACs")
    table = make_table("", names, numbers, wraps=("operation", "takes"))
    for layer in facts["layers"]:
        table.add_row(
            _escape(layer["name"]),
            *([_escape(", ".join(layer.get("sources", ())))] if has_branches else []),
            layer["operation"],
            _join(layer["output_shape"]),
            f"{layer['parameters']:,}",
            _format_pair(layer["receptive_field"]),
            _format_pair(layer["jump"]),
            f"{layer['multiply_accumulates']:,}",
        )
    table.add_section()
    table.add_row(
        "in all", *[""] * (len(names) - 1), f"{facts['parameters']:,}", "", "", f"{facts['multiply_accumulates']:,}"
    )
    print_table(table, console)
    console.print()
    recorded = facts["recorded"]
    _print_lines(
        console,
        [
            ("input", _describe_input(facts)),
            ("ending", f"{facts['ending']}, which an export leaves out" if "ending" in facts else ""),
            ("padding", _describe_padding(facts["padding_pixel"]) if facts.get("is_pixels", True) else ""),
            *((_escape(key), _format(value, share=key == "accuracies")) for key, value in sorted(recorded.items())),
            ("statistics", "for int8, in the file" if facts["calibrated"] else "none: --int8 takes them from --data"),
            ("folded graph", f"SHA-256 {facts['graph_sha256']}" if facts["graph_sha256"] else ""),
            ("not exportable", _escape(facts.get("not_exportable", ""))),
            *_list_file(facts),
        ],
    )


def _print_artifact(facts: Facts, console: Console) -> None:
    kind = f"{facts['format']}, {facts['precision']}"
    contract = ((key, _format(value)) for key, value in facts["contract"].items())
    _print_lines(
        console,
        [
            ("artifact", kind),
            ("feed", facts["input"]),
            ("read", _escape(facts["output"])),
            *contract,
            *_list_file(facts),
        ],
    )


def _print_bundle(facts: Facts, console: Console) -> None:
    table = make_table("", ("file", "format", "precision"), ("bytes",))
    table.add_column("since export", no_wrap=True)
    for entry in facts["files"]:
        table.add_row(
            _escape(entry["name"]), _format(entry["format"] or ""), _format(entry["precision"] or ""),
            f"{entry['bytes']:,}", entry["state"],
        )  # fmt: skip
    print_table(table, console)
    console.print()
    quantized = f"{facts['quantized']} convolutions" if facts["quantized"] else "none, float only"
    if "quantized_without_weights" in facts:
        layers = facts["quantized"] + facts["quantized_without_weights"]
        quantized = f"{layers} layers, {facts['quantized']} of them convolutions"
    recorded = ((_escape(key), _format(value)) for key, value in facts["recorded"].items())
    golden = f"{facts['golden_images']} images"
    _print_lines(console, [("bundle", _escape(facts["file"])), ("quantized", quantized), ("golden", golden), *recorded])


def _list_file(facts: Facts) -> list[tuple[str, str]]:
    return [("file", f"{_escape(facts['file'])}, {facts['bytes']:,} bytes"), ("SHA-256", facts["sha256"])]


def _print_lines(console: Console, pairs: Iterable[tuple[str, str]]) -> None:
    """Print a line for each label and value; an empty value is left out."""
    for label, value in pairs:
        if value:
            console.print(f"{label.replace('_', ' '):<{_LABEL_WIDTH}}{value}", soft_wrap=True)  # a hash is copied whole


def _describe_input(facts: Facts) -> str:
    shape = _join(facts["input_shape"])
    if not facts.get("is_pixels", True):
        return f"{shape} numbers, as they are"
    mean, std = (
        f"[{', '.join(f'{item:g}' for item in value)}]" if isinstance(value, list | tuple) else f"{value:g}"
        for value in (facts["mean"], facts["std"])
    )
    return f"{shape} pixels, (pixel / 255 - {mean}) / {std}"


def _describe_padding(pixel: Mapping[str, Any] | None) -> str:
    if pixel is None:
        return "the first convolution does not pad: normalization folds exactly"
    return (
        f"{_escape(pixel['layer'])} pads with the pixel {pixel['pixel']}, the nearest to the mean: "
        f"{pixel['deviation']:+.4f} in normalized units where the network saw 0"
    )


def _format(value: object, *, share: bool = False) -> str:
    """Format a JSON value as one line; with `share`, numbers 0 to 1 become percentages."""
    if isinstance(value, Mapping):
        return ", ".join(f"{_escape(key)} {_format(item, share=share)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_format(item, share=share) for item in value)
    if value is None:
        return "not known"
    if isinstance(value, float):
        return f"{value:.2%}" if share else f"{value:g}"
    return _escape(value)


def _escape(value: object) -> str:
    """Text from a file, with ? for each control character that would move the cursor of the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _join(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _format_pair(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else _join(values)
