"""Folds a trained network's layers and weights into a `FloatGraph`.

The computation is in float64 with exact sums, and is rounded to float32 once at the end. So every machine folds to the
same bits.

First, each layer becomes a step of the graph (`_Builder.add_layer`). Then the steps that are no operations of their own
are folded into those around them, in this order: batch normalization and clamping, zeros around maps, and the
normalization of the input. Where one cannot be folded, it becomes a depthwise convolution.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.geometry import MapShape, Pair, Window
from edge_mnist.graph.joining import MOVES, separate_bounds
from edge_mnist.graph.layers import (
    INPUT,
    ActivationLayer,
    AddLayer,
    AffineLayer,
    AvgPool2dLayer,
    BatchNorm2dLayer,
    ClampLayer,
    ConcatenateLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    MultiplyLayer,
    ReluLayer,
    UnsqueezeLayer,
    UpsampleLayer,
    ZeroPad2dLayer,
    output_shapes,
    resolve_sources,
    to_layer_shape,
)
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
    Upsample,
)
from edge_mnist.system.errors import EdgeMnistError

FloatArray = NDArray[np.float64]
_LARGEST_FLATTENING = 1 << 22
"""The largest number of weights of a convolution that flattens maps: one for each feature and position."""

_ACTIVATION_BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "hardsigmoid": (0.0, 1.0), "softplus": RELU}
"""The least and the largest value of the activations for which a clamp may have no effect."""

_INPUT_STATISTICS = "input"
"""The name that the statistics give to an input that is not pixels; no operation of such a graph has it."""

_FEW_CHANNELS = 4
"""The most channels of an input that a convolution of all channels normalizes; kernels multiply four taps at once."""

_POINT = Window((1, 1))
"""The window of a convolution that takes each position by itself."""


@dataclass
class _Convolution:
    """A convolution into which other steps may still be folded."""

    weight: NDArray[np.floating]  # (out, in / groups, kernel height, kernel width)
    bias: FloatArray  # (out,)
    window: Window
    groups: int = 1
    bounds: Bounds = UNBOUNDED


@dataclass(frozen=True)
class _Affine:
    """Multiplies each channel by its factor and adds its shift."""

    factor: FloatArray  # (channels,)
    shift: FloatArray  # (channels,)
    is_batch_norm: bool = False


@dataclass(frozen=True)
class _Clamp:
    bounds: Bounds


@dataclass(frozen=True)
class _ZeroPad:
    before: Pair
    after: Pair


_Step = _Convolution | _Affine | _Clamp | _ZeroPad | MaxPool2d | Upsample | Concatenate | Add | Multiply | Activation


@dataclass(eq=False)
class _Node:
    """A value of the graph under construction, and the step that computes it."""

    name: str
    step: _Step | None  # None computes the input
    sources: list[_Node]
    shape: MapShape


def fold(checkpoint: Checkpoint) -> FloatGraph:
    """Fold batch normalization, clamping, padding and the input's normalization into the operations around them.

    The input of the graph is pixels, 0..255; that of the network was `(pixel / 255 - mean) / std`. If a first
    convolution of the network pads, it pads with a normalized 0, which is the pixel `255 * mean`. The graph pads with
    the nearest whole pixel (`FloatGraph.zero_pixel`), both in float and in int8. Where the channels would need
    different pixels, or something else than a convolution reads the input, a convolution normalizes the input
    first. Everything else is exact up to one rounding to float32. An input that is not pixels is left as it is.

    Raises:
        EdgeMnistError: a layer cannot be expressed by operations, or no layer computes anything; the text names the
            layer.
    """
    builder = _Builder(checkpoint)
    if checkpoint.is_pixels:
        builder.fold_constants_of_input()
    for node in builder.nodes[1:]:
        match node.step:
            case _Affine():
                builder.fold_affine(node, node.step)
            case _Clamp():
                builder.fold_clamp(node, node.step.bounds)
    for node in builder.nodes[1:]:
        if isinstance(node.step, _ZeroPad):
            builder.fold_zero_pad(node, node.step)
    if len(builder.nodes) == 1:
        raise EdgeMnistError("the network has no layer that computes anything: there is nothing to export")
    zero_pixel = builder.fold_normalization() if checkpoint.is_pixels else 0
    graph = FloatGraph(
        tuple(checkpoint.input_shape),
        zero_pixel,
        builder.to_operations(),
        ending=checkpoint.ending,
        is_pixels=checkpoint.is_pixels,
    )
    return separate_bounds(graph)


class _Builder:
    """A graph under construction. The nodes are in an order in which each comes after those that it reads."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        channels, height, width = (*to_layer_shape(checkpoint.input_shape), 1, 1)[:3]
        self.nodes = [_Node(INPUT, None, [], (channels, height, width))]
        self._is_pixels = checkpoint.is_pixels
        self._means, self._stds = checkpoint.means, checkpoint.stds
        self._has_constants = False  # whether the means and stds hold constants of the network
        self._weights = checkpoint.weights
        self._layers = checkpoint.architecture
        self._sources = resolve_sources(self._layers)
        shapes = output_shapes(self._layers, checkpoint.input_shape)
        self._is_vector = dict(zip((layer.name for layer in self._layers), (len(s) == 1 for s in shapes), strict=True))
        self._is_vector[INPUT] = len(checkpoint.input_shape) == 1
        self._values = {INPUT: self.nodes[0]}  # by the name of the layer
        self._names = {INPUT, _INPUT_STATISTICS, *self._is_vector}
        self._flat: dict[_Node, _Node] = {}  # maps, and the node that flattens them
        self._feature_norms: dict[str, _Affine] = {}  # by the layer's name: what the Linear layers after it take over
        for layer, sources in zip(self._layers, self._sources, strict=True):
            self._values[layer.name] = self._add_layer(layer, sources)

    def _add_layer(self, layer: Layer, source_names: Sequence[str]) -> _Node:
        """Append the step of a layer, and return the node that holds the layer's output."""
        sources = [self._values[name] for name in source_names]
        source = sources[0]
        window = layer.window_over(source.shape[1:])
        match layer:
            case Conv2dLayer() | LinearLayer():
                return self._add(layer.name, self._read_convolution(layer, source_names[0], window), source)
            case BatchNorm2dLayer():
                return self._add_batch_norm(layer, source_names[0])
            case ReluLayer():
                return self._add_clamp(layer.name, RELU, source)
            case ClampLayer():
                return self._add_clamp(layer.name, (layer.low, layer.high), source)
            case AffineLayer() if (layer.factor, layer.offset) != (1.0, 0.0):
                return self._add_affine(layer, source_names[0])
            case UnsqueezeLayer() if source.shape[1:] != (1, 1):
                return self._flatten(layer, source)
            case ActivationLayer():
                return self._add(layer.name, Activation(layer.name, layer.function, layer.parameter), source)
            case AddLayer():
                return self._add(layer.name, Add(layer.name), *self._align(layer, source_names))
            case MultiplyLayer():
                return self._add(layer.name, Multiply(layer.name), *self._align(layer, source_names))
            case ConcatenateLayer():
                return self._add(layer.name, Concatenate(layer.name), *self._align(layer, source_names))
            case UpsampleLayer() if layer.factor != (1, 1):
                return self._add(layer.name, Upsample(layer.name, layer.factor), source)
            case ZeroPad2dLayer() if (layer.before, layer.after) != ((0, 0), (0, 0)):
                return self._add(layer.name, _ZeroPad(layer.before, layer.after), source)
            case MaxPool2dLayer() if window.kernel_size != (1, 1):
                return self._add(layer.name, MaxPool2d(layer.name, window), source)
            case MaxPool2dLayer() | AvgPool2dLayer() | GlobalAvgPool2dLayer() if window != _POINT:
                mean = _make_depthwise(source.shape[0], window, 1 / math.prod(window.kernel_size))
                return self._add(layer.name, mean, source)
            case MaxPool2dLayer() | AvgPool2dLayer() | GlobalAvgPool2dLayer() | FlattenLayer():
                return source
            case AffineLayer() | UnsqueezeLayer() | UpsampleLayer() | ZeroPad2dLayer():
                return source
        raise EdgeMnistError(f"{layer.name}: the operation {layer.op!r} cannot be folded")

    def _add(self, name: str, step: _Step, *sources: _Node) -> _Node:
        """Append a step."""
        node = _Node(name, step, list(sources), _output_shape(name, step, [source.shape for source in sources]))
        self.nodes.append(node)
        return node

    def _read_convolution(self, layer: Conv2dLayer | LinearLayer, source: str, window: Window) -> _Convolution:
        """The convolution of a layer's weights; a layer without a bias has one of zeros."""
        weight: NDArray[np.floating] = self._weights[f"{layer.name}.weight"]
        bias = self._weights.get(f"{layer.name}.bias")
        shift = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
        if isinstance(layer, Conv2dLayer):
            # A kernel of Conv1d has no height: (out, in / groups, kernel width).
            return _Convolution(weight.reshape(*weight.shape[:2], *window.kernel_size), shift, window, layer.groups)
        if norm := self._feature_norms.get(source):
            products = weight * norm.shift
            weight, shift = weight * norm.factor, shift + [math.fsum(row) for row in products]
        # PyTorch flattens in the order channel, row, column, which is that of a kernel.
        return _Convolution(weight.reshape(len(weight), *self._values[source].shape), shift, window)

    def _add_batch_norm(self, layer: BatchNorm2dLayer, source_name: str) -> _Node:
        """Append a batch normalization; one of the features of flattened maps goes into the Linear layers after it."""
        mean, variance = (self._read(layer, key) for key in ("running_mean", "running_var"))
        factor = 1 / np.sqrt(variance + layer.eps)
        shift = -mean * factor
        if layer.affine:
            gamma, beta = self._read(layer, "weight"), self._read(layer, "bias")
            factor, shift = factor * gamma, shift * gamma + beta
        return self._add_norm(layer, _Affine(factor, shift, is_batch_norm=True), source_name)

    def _add_affine(self, layer: AffineLayer, source_name: str) -> _Node:
        """Append a multiplication by constants and an addition of constants."""
        if isinstance(layer.factor, tuple) or isinstance(layer.offset, tuple):
            factor, shift = np.broadcast_arrays(np.asarray(layer.factor), np.asarray(layer.offset))
            return self._add_norm(layer, _Affine(factor, shift), source_name)
        source = self._values[source_name]
        factor, shift = (np.full(source.shape[0], value) for value in (layer.factor, layer.offset))
        return self._add(layer.name, _Affine(factor, shift), source)

    def _add_norm(self, layer: Layer, norm: _Affine, source_name: str) -> _Node:
        """Append constants of each channel; those of the features of flattened maps go into the Linear layers after."""
        source = self._values[source_name]
        if self._is_flattened(source_name):
            readers = [reader for reader, names in zip(self._layers, self._sources, strict=True) if layer.name in names]
            if readers and all(isinstance(reader, LinearLayer) for reader in readers):
                self._feature_norms[layer.name] = norm
                return source
            source = self._flatten(layer, source)
        return self._add(layer.name, norm, source)

    def _add_clamp(self, name: str, bounds: Bounds, source: _Node) -> _Node:
        """Append a clamp; one whose range does not include 0, which every int8 range does, is shifted to 0 and back."""
        low, high = bounds
        if shift := low if low > 0 else min(high, 0.0):
            ones, shifts = np.ones(source.shape[0]), np.full(source.shape[0], shift)
            shifted = self._add(self._choose_name(f"{name}, shifted"), _Affine(ones, -shifts), source)
            clamped = self._add(self._choose_name(f"{name}, clamped"), _Clamp((low - shift, high - shift)), shifted)
            return self._add(name, _Affine(ones, shifts), clamped)
        for reader in self.readers(source):  # as where F.relu(x) is written twice
            if isinstance(reader.step, _Clamp) and reader.step.bounds == bounds:
                return reader
        return self._add(name, _Clamp(bounds), source)

    def _read(self, layer: Layer, key: str) -> FloatArray:
        return self._weights[f"{layer.name}.{key}"].astype(np.float64)

    def _is_flattened(self, name: str) -> bool:
        """Whether the output of a layer is a vector for the network, but still maps in the graph."""
        return self._is_vector[name] and self._values[name].shape[1:] != (1, 1)

    def _align(self, layer: Layer, source_names: Sequence[str]) -> list[_Node]:
        """The inputs of a layer that joins several; vectors whose elements are in different places are flattened.

        Flattened maps of equal height and width may stay maps: their channels follow each other as their features do.
        """
        nodes = [self._values[name] for name in source_names]
        if not self._is_vector[source_names[0]] or len({node.shape[1:] for node in nodes}) == 1:
            return nodes
        return [
            self._flatten(layer, node) if self._is_flattened(name) else node
            for name, node in zip(source_names, nodes, strict=True)
        ]

    def _flatten(self, layer: Layer, source: _Node) -> _Node:
        """Make a vector of maps in PyTorch's order: a depthwise convolution over the whole map picks each element.

        Args:
            layer: the layer that needs the vector.
            source: the maps.
        """
        if source in self._flat:
            return self._flat[source]
        channels, *size = source.shape
        positions = math.prod(size)
        if channels * positions**2 > _LARGEST_FLATTENING:
            raise EdgeMnistError(
                f"{layer.name}: {layer.op} of flattened maps of {channels}x{size[0]}x{size[1]} would need a table of "
                f"{channels * positions**2:,} weights, more than {_LARGEST_FLATTENING:,}: make the maps smaller before "
                "they are flattened, with a pool or a convolution with a stride, or apply Linear to each of them first"
            )
        picks = np.tile(np.eye(positions).reshape(positions, 1, *size), (channels, 1, 1, 1))
        step = _Convolution(picks, np.zeros(len(picks)), Window((size[0], size[1])), groups=channels)
        self._flat[source] = self._add(self._choose_name(f"{layer.name}, flattened input"), step, source)
        return self._flat[source]

    def _choose_name(self, name: str) -> str:
        """A name that no layer has."""
        number = 1
        unique = name
        while unique in self._names:
            number += 1
            unique = f"{name} {number}"
        self._names.add(unique)
        return unique

    def readers(self, node: _Node) -> list[_Node]:
        """The nodes that read a node."""
        return [other for other in self.nodes if node in other.sources]

    def _remove(self, node: _Node) -> None:
        """Remove a node that computes nothing any more; those that read it read its source instead."""
        for reader in self.readers(node):
            reader.sources = [node.sources[0] if source is node else source for source in reader.sources]
        self.nodes.remove(node)

    def fold_affine(self, node: _Node, affine: _Affine) -> None:
        """Multiply an affine step into the convolution before it (Ioffe & Szegedy 2015, algorithm 2).

        Constants may also go into a convolution that clamps, whose bounds they change, or into those after it.
        """
        (source,) = node.sources
        step, readers = source.step, self.readers(node)
        bounds = _transform_bounds(step.bounds, affine) if isinstance(step, _Convolution) else None
        if isinstance(step, _Convolution) and bounds is not None and self.readers(source) == [node]:
            self._remove(node)
            step.bounds = bounds
        elif readers and all(_takes_affine(reader, affine) for reader in readers):
            for reader in readers:
                if isinstance(reader.step, _Convolution):
                    _scale_input(reader.step, affine.shift, 1 / affine.factor)
            self._remove(node)
            return
        else:
            node.step = step = _make_depthwise(node.shape[0])
        step.weight = step.weight * affine.factor[:, None, None, None]  # (out, in / groups, height, width)
        step.bias = step.bias * affine.factor + affine.shift

    def fold_clamp(self, node: _Node, bounds: Bounds) -> None:
        """Clamp the output of the convolutions and sums from which the clamped values come."""
        producers = self._find_producers(node.sources[0], bounds)
        if producers is None:
            node.step = dataclasses.replace(_make_depthwise(node.shape[0]), bounds=bounds)
            return
        for producer in producers:
            step = producer.step
            if isinstance(step, _Convolution | Add):
                low, high = max(step.bounds[0], bounds[0]), min(step.bounds[1], bounds[1])
                if not low < high:
                    raise EdgeMnistError(
                        f"{node.name}: clamps to {bounds[0]:g}..{bounds[1]:g} what is clamped to {step.bounds[0]:g}.."
                        f"{step.bounds[1]:g} before: all values would be equal"
                    )
                producer.step = dataclasses.replace(step, bounds=(low, high))
        self._remove(node)

    def _find_producers(self, node: _Node, bounds: Bounds) -> list[_Node] | None:
        """The convolutions and sums that must clamp their outputs to clamp the output of a node.

        Clamping is monotone and applies to each value, so that it commutes with max pools, upsampling, concatenation
        and, because all bounds include 0 (see `_add_clamp`), with zeros around maps.

        Returns:
            The producers; none where the values are within the bounds anyway. None if one of them cannot clamp, or if
            something else reads the values that would be clamped.
        """
        if _includes(bounds, self._find_bounds(node)):
            return []
        if len(self.readers(node)) > 1:
            return None
        match node.step:
            case Add() if math.inf not in bounds and -math.inf not in bounds:
                return None  # both bounds would leave few int8 scales, perhaps none without ties
            case _Convolution() | Add():
                return [node]
            case MaxPool2d() | Upsample() | Concatenate() | _ZeroPad():
                producers: list[_Node] = []
                for source in dict.fromkeys(node.sources):
                    found = self._find_producers(source, bounds)
                    if found is None:
                        return None
                    producers += found
                return producers
        return None

    def _find_bounds(self, node: _Node) -> Bounds:
        """The bounds within which the values of a node lie for every input, as far as they are known."""
        match node.step:
            case _Convolution(bounds=bounds) | Add(bounds=bounds):
                return bounds
            case Activation(function=function):
                return _ACTIVATION_BOUNDS.get(function, UNBOUNDED)
            case MaxPool2d() | Upsample() | Concatenate() | _ZeroPad() | Multiply():
                lows, highs = zip(*(self._find_bounds(source) for source in node.sources), strict=True)
                if isinstance(node.step, Multiply):
                    return RELU if min(lows) >= 0 else UNBOUNDED
                zero = (0.0,) if isinstance(node.step, _ZeroPad) else ()
                return min(*lows, *zero, math.inf), max(*highs, *zero, -math.inf)
        return UNBOUNDED

    def fold_zero_pad(self, node: _Node, pad: _ZeroPad) -> None:
        """Pad in the windows that read the padded maps, or, for other readers, in a depthwise convolution."""
        readers = self.readers(node)
        bounds = self._find_bounds(node)
        for reader in readers:
            match reader.step:
                case _Convolution():
                    reader.step.window = _pad_window(reader.step.window, pad)
                case _ZeroPad(before, after):
                    reader.step = _ZeroPad(_add_pairs(before, pad.before), _add_pairs(after, pad.after))
                case MaxPool2d(window=window) if bounds[0] >= 0:
                    padded = _pad_window(window, pad)
                    margins = zip(padded.padding, padded.after, window.kernel_size, strict=True)
                    if any(2 * max(before, after) > size for before, after, size in margins):
                        continue  # as for PyTorch's pools, each window has to lie within the maps for the most part
                    reader.step = dataclasses.replace(reader.step, window=padded)
                case _:
                    continue
            reader.sources = list(node.sources)
        if readers and not self.readers(node):
            self.nodes.remove(node)
        else:
            step = _make_depthwise(node.shape[0], _pad_window(_POINT, pad))
            # These bounds change nothing, but values that are joined have the same where that is possible.
            node.step = dataclasses.replace(step, bounds=bounds)

    def fold_constants_of_input(self) -> None:
        """Make constants by which the network scales its input a part of the normalization."""
        while True:
            match self.readers(self.nodes[0]):
                case [_Node(step=_Affine(factor, shift, is_batch_norm=False)) as node] if (factor > 0).all():
                    # (x - mean) / std * factor + shift = (x - (mean - shift * std / factor)) / (std / factor)
                    pairs = tuple(zip(self._means, self._stds, factor.tolist(), shift.tolist(), strict=True))
                    self._means = tuple(mean - offset * std / scale for mean, std, scale, offset in pairs)
                    self._stds = tuple(std / scale for _, std, scale, _ in pairs)
                    self._has_constants = True
                    self._remove(node)
                case _:
                    return

    def fold_normalization(self) -> int:
        """Fold `(pixel / 255 - mean) / std` into the first convolutions, or into one that is put before everything.

        Returns:
            The pixel with which first convolutions pad; 0 if none does.
        """
        source, means, stds = self.nodes[0], np.array(self._means), np.array(self._stds)
        # A mean that is the network's has to be exact; of what the user states, the nearest whole pixel will do.
        zero_pixels = {round(255 * mean, 6 if self._has_constants else None) for mean in self._means}
        convolutions = self._find_first_convolutions(source)
        is_padded = any(convolution.window.is_padded for convolution in convolutions or ())
        zero_pixel = int(min(zero_pixels)) if is_padded else 0
        spans = 255 * stds
        offsets = (zero_pixel / 255 - means) / stds  # the network's input where the graph's input is 0
        if convolutions is None:
            is_moved = any(isinstance(reader.step, MOVES) for reader in self.readers(source))
            if (spans == 1).all() and not means.any() and not is_moved:
                return 0  # the network's input is the pixels as they are; only their scale must not go elsewhere
            convolutions = [self._insert_normalization()]
        elif is_padded and (zero_pixels != {zero_pixel} or not 0 <= zero_pixel <= 255):
            # `pixel - 255 * mean` pads with 0. It is divided so that it fits into the 256 values of an int8.
            divisor = max(0.0, 1 - means.min()) - min(0.0, -means.max())
            _scale_input(self._insert_normalization(), -255 * means / divisor, np.full(len(means), divisor))
            offsets, spans, zero_pixel = np.zeros(len(means)), spans / divisor, 0
        for convolution in convolutions:
            _scale_input(convolution, offsets, spans)
        return zero_pixel

    def _insert_normalization(self) -> _Convolution:
        """Put a convolution of each channel by itself, to be scaled, between the input and all that reads it.

        For a few channels a convolution of all of them, most of whose weights are 0, is faster than a depthwise one.
        """
        source = self.nodes[0]
        channels = source.shape[0]
        step = _make_depthwise(channels)
        if channels <= _FEW_CHANNELS:
            step = _Convolution(np.eye(channels)[:, :, None, None], np.zeros(channels), _POINT)
        self._insert(self._choose_name("input normalization"), step, source, self.readers(source))
        return step

    def _find_first_convolutions(self, node: _Node) -> list[_Convolution] | None:
        """The convolutions that read the input; None if something else reads it, so that it has to be normalized.

        Max pools and upsampling before them commute with the normalization, which is monotone.
        """
        readers = self.readers(node)
        if not readers:
            return None
        convolutions: list[_Convolution] = []
        for reader in readers:
            match reader.step:
                case _Convolution():
                    convolutions.append(reader.step)
                case MaxPool2d() | Upsample():
                    found = self._find_first_convolutions(reader)
                    if found is None:
                        return None
                    convolutions += found
                case _:
                    return None
        return convolutions

    def _insert(self, name: str, step: _Convolution, source: _Node, readers: Sequence[_Node]) -> None:
        """Put a convolution that keeps the shape between a node and some of the nodes that read it."""
        node = _Node(name, step, [source], source.shape)
        for reader in readers:
            reader.sources = [node if item is source else item for item in reader.sources]
        self.nodes.insert(self.nodes.index(source) + 1, node)

    def to_operations(self) -> tuple[FloatOperation, ...]:
        """The operations as the graph has them, with their arrays in float32."""
        indices = {node: index for index, node in enumerate(self.nodes)}
        operations = []
        for index, node in enumerate(self.nodes[1:]):
            sources = tuple(indices[source] for source in node.sources)
            operation = _to_operation(node)
            if operation.name == _INPUT_STATISTICS and not self._is_pixels:
                operation = dataclasses.replace(operation, name=self._choose_name(_INPUT_STATISTICS))
            operations.append(operation if sources == (index,) else dataclasses.replace(operation, sources=sources))
        return tuple(operations)


def _output_shape(name: str, step: _Step, shapes: list[MapShape]) -> MapShape:
    """The shape of a step's output for inputs of `shapes`."""
    shape = shapes[0]
    match step:
        case _Convolution():
            return (len(step.weight), *step.window.output_size(shape[1:]))
        case _ZeroPad():
            return (shape[0], *_pad_window(_POINT, step).output_size(shape[1:]))
        case _Affine() | _Clamp():
            return shape
    return step.output_shape(*shapes)


def _to_operation(node: _Node) -> FloatOperation:
    """The operation of a node."""
    step = node.step
    if isinstance(step, _Convolution):
        with np.errstate(over="ignore"):  # Conv2d refuses what overflows
            weight, bias = step.weight.astype(np.float32, copy=False), step.bias.astype(np.float32)
        return Conv2d(node.name, weight, bias, step.window, step.groups, step.bounds)
    if step is None or isinstance(step, _Affine | _Clamp | _ZeroPad):
        raise TypeError(f"{node.name}: {step} was not folded")
    return step


def _make_depthwise(channels: int, window: Window = _POINT, weight: float = 1.0) -> _Convolution:
    """A convolution of each channel by itself in which all weights are equal: an identity, or a mean."""
    taps = np.full((channels, 1, *window.kernel_size), weight)
    return _Convolution(taps, np.zeros(channels), window, groups=channels)


def _scale_input(convolution: _Convolution, offsets: FloatArray, spans: FloatArray) -> None:
    """Multiply `input / span + offset` into a convolution; both are float64 (in_channels,)."""
    outputs, group_channels = convolution.weight.shape[:2]
    weight = convolution.weight.astype(np.float64)
    groups = np.arange(outputs) // (outputs // convolution.groups)
    channels = groups[:, None] * group_channels + np.arange(group_channels)  # of each weight: (out, in / groups)
    # The weights of equal offsets are added exactly before they are multiplied.
    for offset in dict.fromkeys(offsets.tolist()):
        taps = np.where((offsets[channels] == offset)[:, :, None, None], weight, 0.0)
        convolution.bias = convolution.bias + np.array([math.fsum(row.ravel()) for row in taps]) * offset
    convolution.weight = weight / spans[channels][:, :, None, None]


def _includes(outer: Bounds, inner: Bounds) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _takes_affine(reader: _Node, affine: _Affine) -> bool:
    """Whether a node is a convolution into which constants before it can be folded.

    Padding is zeros, which they would shift. A batch normalization stays where it was always folded.
    """
    step = reader.step
    if affine.is_batch_norm or not affine.factor.all() or not isinstance(step, _Convolution):
        return False
    return not (step.window.is_padded and affine.shift.any())


def _transform_bounds(bounds: Bounds, affine: _Affine) -> Bounds | None:
    """The bounds of clamped values after an affine step; None if they differ by channel or do not include 0."""
    if bounds == UNBOUNDED:
        return bounds
    if affine.is_batch_norm or not affine.factor[0] or np.ptp(affine.factor) or np.ptp(affine.shift):
        return None
    low, high = sorted(bound * float(affine.factor[0]) + float(affine.shift[0]) for bound in bounds)
    return (low, high) if low <= 0 <= high else None


def _pad_window(window: Window, pad: _ZeroPad) -> Window:
    """The window with more padding."""
    return dataclasses.replace(
        window, padding=_add_pairs(window.padding, pad.before), padding_after=_add_pairs(window.after, pad.after)
    )


def _add_pairs(first: Pair, second: Pair) -> Pair:
    return first[0] + second[0], first[1] + second[1]
