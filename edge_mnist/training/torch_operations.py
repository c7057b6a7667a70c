"""What PyTorch's operations are as layers: one function for each kind, and two tables that name the kinds.

`FUNCTIONS` lists functions and methods of tensors by their names, `MODULES` lists modules by their classes. Each entry
takes a `Call`, the arguments of the call, and returns the value that the call gives. Operations that cannot be exported
have hints in `HINTS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import nn

from edge_mnist.graph.layers import (
    ActivationLayer,
    AddLayer,
    AffineLayer,
    AvgPool2dLayer,
    BatchNorm2dLayer,
    CeilMaxPool2dLayer,
    ClampLayer,
    ConcatenateLayer,
    Conv1dLayer,
    Conv2dLayer,
    GlobalAvgPool2dLayer,
    LinearLayer,
    MaxPool2dLayer,
    MultiplyLayer,
    PoolLayer,
    ReluLayer,
    Shape,
    UpsampleLayer,
    ZeroPad2dLayer,
    describe_layer,
)
from edge_mnist.system.errors import first_line
from edge_mnist.training.layer_builder import LayerBuilder, Unsupported, Value

SUPPORTED = (
    "convolutions, Linear, BatchNorm, activations of one number, maximum and average pools, sums, products, torch.cat, "
    "nearest up-sampling, zero padding and flattening"
)
"""What can be exported, for the text of an error."""


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer of the network, by its name in the state_dict."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True)
class Constant:
    """A tensor that the forward makes without the input, by the name of the function that makes it."""

    name: str
    tensor: torch.Tensor


@dataclass(frozen=True)
class Call:
    """A call of a function, of a tensor's method or of a module.

    Attributes:
        name: of the layer that the call may become.
        builder: the layers so far.
        images: the number of images in each tensor.
        repeat: makes the call again, with another tensor for its first one.
    """

    name: str
    builder: LayerBuilder
    images: int
    repeat: Callable[[torch.Tensor], Any]

    def helper_name(self, suffix: str) -> str:
        """The name of a layer that helps this one."""
        return self.builder.choose_name(f"{self.name}_{suffix}")


def _value(argument: object) -> Value:
    """An argument that must be a value of the network."""
    if isinstance(argument, Value):
        return argument
    if isinstance(argument, Parameter):
        raise Unsupported(
            f"it takes {argument.name}; outside of layers only one constant for each channel can be exported"
        )
    if isinstance(argument, Constant):
        raise Unsupported(f"it takes a tensor that {argument.name} makes in forward; {_CONSTANTS}")
    raise Unsupported(f"it takes a {type(argument).__name__} where a tensor is expected")


# Convolutions and other layers with weights.


def _convolution(
    call: Call,
    value: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    dimensions: int,
) -> Value:
    """Describe a convolution over maps (2 dimensions) or sequences (1 dimension)."""
    name, (tensor, *_) = _owner(call, weight=weight, bias=bias)
    source = _sized(value, dimensions)
    out_channels, group_channels, *_ = tensor.shape
    kernel = _pair(tuple(tensor.shape[2:]), dimensions, 1)
    steps, spread = _pair(stride, dimensions, 1), _pair(dilation, dimensions, 1)
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(spread, kernel, strict=True)]
        before, after = _halves(total)
    else:
        before = after = _pair(0 if padding == "valid" else padding, dimensions, 0)
    if before != after:
        pad = ZeroPad2dLayer(call.builder.choose_name(f"{name}_pad"), before=before, after=after)
        source, before = call.builder.append(pad, source), (0, 0)
    kind = Conv2dLayer if dimensions == 2 else Conv1dLayer
    layer = kind(
        name,
        group_channels * groups,
        out_channels,
        kernel_size=kernel,
        stride=steps,
        padding=before,
        dilation=spread,
        groups=groups,
        bias=bias is not None,
    )
    return call.builder.append(layer, source)


def _linear(call: Call, value: Any, weight: Any, bias: Any = None) -> Value:
    name, (tensor, *_) = _owner(call, weight=weight, bias=bias)
    out_features, in_features = tensor.shape
    return call.builder.append(LinearLayer(name, in_features, out_features, bias=bias is not None), _value(value))


def _batch_norm(
    call: Call,
    value: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: Any = 0.1,
    eps: float = 1e-5,
) -> Value:
    if running_mean is None or running_var is None:
        raise Unsupported("BatchNorm without running statistics depends on the batch; use track_running_stats=True")
    if training:
        raise Unsupported("it works as in training; let the network's eval() reach it")
    if (weight is None) != (bias is None):
        raise Unsupported("BatchNorm has only one of weight and bias; expected both or neither")
    name, (tensor, *_) = _owner(call, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    layer = BatchNorm2dLayer(name, len(tensor), float(eps), affine=weight is not None)
    return call.builder.append(layer, _value(value))


def _owner(call: Call, **arguments: Any) -> tuple[str, list[torch.Tensor]]:
    """The name of the module that has some weights under the usual names, and those that are not None."""
    tensors: list[torch.Tensor] = []
    owners = set()
    for key, argument in arguments.items():
        if argument is None:
            continue
        if not isinstance(argument, Parameter):
            raise Unsupported(f"its {key} is computed in forward; only parameters of the network can be exported")
        owner, _, own_key = argument.name.rpartition(".")
        if own_key != key or not owner:
            raise Unsupported(
                f"its {key} is the network's {argument.name}; put it into a layer of torch.nn, which names it {key}"
            )
        owners.add(owner)
        tensors.append(argument.tensor)
    if len(owners) != 1:
        raise Unsupported(f"it takes weights of several modules: {', '.join(sorted(owners))}")
    (owner,) = owners
    if owner in call.builder.layers:
        label = "it" if owner == call.name else describe_layer(owner)
        raise Unsupported(f"{label} is used twice; a layer with weights can be used only once")
    return owner, tensors


# Functions of one number.


def _relu(call: Call, value: Any, inplace: bool = False) -> Value:
    return call.builder.append_elementwise(ReluLayer(call.name), _value(value))


def _clamp(call: Call, value: Any, min: Any = None, max: Any = None) -> Value:
    if not all(bound is None or isinstance(bound, Real) for bound in (min, max)):
        raise Unsupported("it clamps to tensors; only numbers can be exported")
    low = -math.inf if min is None else float(min)
    high = math.inf if max is None else float(max)
    layer = ReluLayer(call.name) if (low, high) == (0, math.inf) else ClampLayer(call.name, low, high)
    return call.builder.append_elementwise(layer, _value(value))


def _hardtanh(call: Call, value: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    return _clamp(call, value, min_val, max_val)


def _relu6(call: Call, value: Any, inplace: bool = False) -> Value:
    return _clamp(call, value, 0.0, 6.0)


def _clamp_max(call: Call, value: Any, max: Any) -> Value:
    return _clamp(call, value, None, max)


def _activate(call: Call, function: str, value: Any, parameter: float = 0.0) -> Value:
    return call.builder.append_elementwise(ActivationLayer(call.name, function, float(parameter)), _value(value))


def _activation(function: str) -> Callable[..., Value]:
    """The description of a function without a parameter."""

    def describe(call: Call, value: Any, inplace: bool = False) -> Value:
        return _activate(call, function, value)

    return describe


def _leaky_relu(call: Call, value: Any, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return _activate(call, "leaky_relu", value, negative_slope)


def _elu(call: Call, value: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0, **_: Any) -> Value:
    if (scale, input_scale) != (1, 1):
        raise Unsupported("it scales besides alpha; use nn.ELU")
    return _activate(call, "elu", value, alpha)


def _gelu(call: Call, value: Any, approximate: str = "none") -> Value:
    if approximate != "none":
        raise Unsupported(f"approximate is {approximate!r}; only the exact GELU, approximate='none', can be exported")
    return _activate(call, "gelu", value)


def _softplus(call: Call, value: Any, beta: float = 1, threshold: float = 20) -> Value:
    if beta != 1 or threshold < 20:
        raise Unsupported(f"beta is {beta} and threshold {threshold}; only beta 1 and threshold 20 can be exported")
    return _activate(call, "softplus", value)


def _prelu(call: Call, value: Any, weight: Any) -> Value:
    if not isinstance(weight, Parameter) or weight.tensor.numel() != 1:
        raise Unsupported(
            "PReLU with a slope for each channel cannot be exported; use nn.PReLU() with one, or LeakyReLU"
        )
    return _activate(call, "leaky_relu", value, float(weight.tensor))


Numbers = float | tuple[float, ...]
"""One number, or one for each channel."""


def _affine(call: Call, value: Value, factor: Numbers, offset: Numbers) -> Value:
    """Describe a multiplication by constants and an addition of constants."""
    if (factor, offset) == (1, 0):
        return value
    if 0 in (factor if isinstance(factor, tuple) else (factor,)):
        raise Unsupported("it multiplies by 0, which leaves nothing of its input")
    if isinstance(factor, tuple) or isinstance(offset, tuple):
        return call.builder.append(AffineLayer(call.name, factor, offset), value)
    return call.builder.append_elementwise(AffineLayer(call.name, factor, offset), value)


def _find_numbers(item: object, value: object) -> Numbers | None:
    """An argument as constants that are combined with a value; None if it is something else.

    A tensor that does not depend on the input is constant: one number, or one for each channel.
    """
    if isinstance(item, Real):
        return float(item)
    if not isinstance(item, (Parameter, Constant)) or not isinstance(value, Value):
        return None
    shape, dimensions = tuple(item.tensor.shape), len(value.shape) + 1  # with the batch
    if len(shape) > dimensions or item.tensor.is_complex():
        return None
    numbers = item.tensor.detach().double().flatten().tolist()
    if len(numbers) == 1:
        return float(numbers[0])
    shape = (*(1 for _ in range(dimensions - len(shape))), *shape)
    return tuple(numbers) if shape == (1, value.shape[0], *(1 for _ in value.shape[1:])) else None


def _map(function: Callable[[float], float], numbers: Numbers) -> Numbers:
    """Apply a function to each of some numbers."""
    return tuple(map(function, numbers)) if isinstance(numbers, tuple) else function(numbers)


# Sums, products, concatenation.


def _add(call: Call, left: Any, right: Any, alpha: float = 1) -> Value:
    if (numbers := _find_numbers(right, left)) is not None:
        return _affine(call, _value(left), 1.0, _map(lambda number: alpha * number, numbers))
    if (numbers := _find_numbers(left, right)) is not None:
        return _affine(call, _value(right), float(alpha), numbers)
    first, second = _value(left), _value(right)
    if alpha != 1:
        second = _affine(replace(call, name=call.helper_name("scaled")), second, float(alpha), 0.0)
    if first.shape != second.shape:
        raise Unsupported(f"it adds {second.shape} to {first.shape}; only equal shapes can be exported")
    return call.builder.append(AddLayer(call.name), first, second)


def _sub(call: Call, left: Any, right: Any, alpha: float = 1) -> Value:
    return _add(call, left, right, -alpha)


def _rsub(call: Call, value: Any, other: Any, alpha: float = 1) -> Value:
    return _add(call, other, value, -alpha)


def _multiply(call: Call, left: Any, right: Any) -> Value:
    for value, factor in ((left, right), (right, left)):
        if (numbers := _find_numbers(factor, value)) is not None:
            return _affine(call, _value(value), numbers, 0.0)
    first, second = _value(left), _value(right)
    if len(first.shape) == len(second.shape) and _is_gate(first, second):
        first, second = second, first
    if _is_gate(second, first):  # a gate may have been expanded to the shape of the maps
        second = Value(second.layer, second.maps, second.maps, second.ending)
    elif first.shape != second.shape:
        raise Unsupported(
            f"it multiplies {first.shape} by {second.shape}; only equal shapes, and one value for each channel, can be "
            "exported"
        )
    return call.builder.append(MultiplyLayer(call.name), first, second)


def _is_gate(gate: Value, maps: Value) -> bool:
    """Whether a value gives one number for each channel of maps that are larger."""
    return (
        len(gate.maps) == 3
        and gate.maps == (maps.maps[0], 1, 1)
        and maps.maps != gate.maps
        and gate.shape in (maps.shape, (maps.shape[0], *(1 for _ in maps.shape[1:])))
    )


def _divide(call: Call, value: Any, divisor: Any, rounding_mode: str | None = None) -> Value:
    numbers = _find_numbers(divisor, value)
    if numbers is None or rounding_mode is not None:
        raise Unsupported("only a division by numbers, without rounding, can be exported")
    if 0 in (numbers if isinstance(numbers, tuple) else (numbers,)):
        raise Unsupported("it divides by 0")
    return _affine(call, _value(value), _map(lambda number: 1 / number, numbers), 0.0)


def _negate(call: Call, value: Any) -> Value:
    return _affine(call, _value(value), -1.0, 0.0)


def _concatenate(call: Call, tensors: Any = (), dim: int = 0, axis: int | None = None) -> Value:
    values = [_value(item) for item in tensors]
    dimensions = len(values[0].shape) + 1  # with the batch
    if (dim if axis is None else axis) % dimensions != 1:
        raise Unsupported(f"it joins dimension {dim}; only channels or features, dimension 1, can be joined")
    if len(values) == 1:
        return values[0]
    return call.builder.append(ConcatenateLayer(call.name), *values)


# Windows: pools, padding, up-sampling.


def _max_pool(
    call: Call,
    value: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    dimensions: int,
) -> Value:
    if _pair(dilation, dimensions, 1) != (1, 1):
        raise Unsupported(f"a maximum pool with dilation {dilation} cannot be exported; use dilation 1")
    if return_indices:
        raise Unsupported("return_indices=True gives two outputs; only one can be exported")
    source = _sized(value, dimensions)
    kind = CeilMaxPool2dLayer if ceil_mode else MaxPool2dLayer
    layer = _pool(kind, call.name, kernel_size, stride, padding, dimensions)
    if ceil_mode:
        size = _size(source)
        plain = MaxPool2dLayer(call.name, layer.kernel_size, layer.stride, layer.padding)
        if layer.window_over(size).output_size(size) == plain.window_over(size).output_size(size):
            layer = plain
    return call.builder.append(layer, source)


def _avg_pool(
    call: Call,
    value: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    dimensions: int,
) -> Value:
    source = _sized(value, dimensions)
    layer = _pool(AvgPool2dLayer, call.name, kernel_size, stride, padding, dimensions)
    if ceil_mode:
        settings = zip(source.maps[1:], layer.kernel_size, layer.stride, layer.padding, strict=True)
        for size, extent, step, margin in settings:
            if (size + 2 * margin - extent) % step:
                raise Unsupported(
                    f"ceil_mode=True adds an incomplete window at the border of {size} values; use ceil_mode=False"
                )
    if not count_include_pad and layer.padding != (0, 0):
        raise Unsupported(
            "count_include_pad=False with padding divides unequally at the border; use count_include_pad=True"
        )
    if divisor_override is not None:
        raise Unsupported("divisor_override cannot be exported; multiply by a number after the pool")
    return call.builder.append(layer, source)


def _pool(kind: type[PoolLayer], name: str, kernel_size: Any, stride: Any, padding: Any, dimensions: int) -> PoolLayer:
    steps = kernel_size if stride is None or stride in ([], ()) else stride
    return kind(
        name,
        kernel_size=_pair(kernel_size, dimensions, 1),
        stride=_pair(steps, dimensions, 1),
        padding=_pair(padding, dimensions, 0),
    )


def _adaptive_pool(
    call: Call, value: Any, output_size: Any, return_indices: bool = False, *, dimensions: int, kind: type[PoolLayer]
) -> Value:
    """Describe an adaptive pool all of whose windows have one size: its output divides its input, or the reverse."""
    if return_indices:
        raise Unsupported("return_indices=True gives two outputs; only one can be exported")
    found = _value(value)
    asked = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * dimensions
    if len(found.shape) == dimensions + 1 and set(asked) == {1} and len(found.maps) == 3 and not found.ending:
        return _pool_all(call, found, (found.shape[0], *asked), kind)
    source = _sized(found, dimensions)
    size = _size(source)
    target = (1, *asked) if dimensions == 1 else tuple(asked)
    height, width = (n if t is None else int(t) for n, t in zip(size, target, strict=True))
    if (height, width) == size:
        return source  # every window is one value, as in VGG and AlexNet for images of 224x224
    if size[0] % height == 0 and size[1] % width == 0:
        window = (size[0] // height, size[1] // width)
        return call.builder.append(kind(call.name, kernel_size=window, stride=window, padding=(0, 0)), source)
    if height % size[0] == 0 and width % size[1] == 0:
        return call.builder.append(UpsampleLayer(call.name, (height // size[0], width // size[1])), source)
    raise Unsupported(
        f"from {_format(source.shape[1:])} to {_format(output_size)} its windows differ in size; use 1, a divisor of "
        "the input's size, or a pool with a fixed window"
    )


def _pool_all(call: Call, value: Value, shape: Shape, kind: type[PoolLayer]) -> Value:
    """Pool each channel of a value to one number, whatever the shape of its maps is in PyTorch."""
    source = Value(value.layer, value.maps, value.maps)
    if value.shape[0] != value.maps[0]:
        source = call.builder.settle(value)
    size = _size(source)
    whole = MaxPool2dLayer(call.name, size, size, (0, 0))
    pooled = call.builder.append(GlobalAvgPool2dLayer(call.name) if kind is AvgPool2dLayer else whole, source)
    if len(shape) > 1:
        return Value(pooled.layer, pooled.maps, shape)
    return call.builder.reshape(call.helper_name("flatten"), pooled, shape)


def _reduce(call: Call, value: Any, dim: Any = None, keepdim: bool = False, *, kind: type[PoolLayer]) -> Value:
    """Describe a mean or a maximum over dimensions as a pool."""
    found = _value(value)
    if dim is None or found.ending or found.is_expanded:
        found = call.builder.settle(found)
    count = len(found.shape) + 1  # with the batch
    dims = {d % count for d in (dim if isinstance(dim, (tuple, list)) else (range(count) if dim is None else (dim,)))}
    if len(found.maps) == 3 and dims == set(range(2, count)) and found.shape[0] == found.maps[0]:
        shape = (found.shape[0], *(1 for _ in found.shape[1:] if keepdim))
        return _pool_all(call, found, shape, kind)
    if len(found.shape) == 3 and keepdim and dims in ({2}, {3}):
        source = call.builder.settle(found)
        window = (source.maps[1], 1) if dims == {2} else (1, source.maps[2])
        return call.builder.append(kind(call.name, kernel_size=window, stride=window, padding=(0, 0)), source)
    raise Unsupported(
        f"over the dimensions {sorted(dims)} it cannot be exported; use all of height and width, as in x.mean((2, 3))"
    )


def _pad(call: Call, tensor: Any, /, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    """Describe torch.nn.functional.pad: (left, right, top, bottom, front, back)."""
    if mode != "constant" or value not in (None, 0):
        found = f"mode {mode!r}" if mode != "constant" else f"the value {value}"
        raise Unsupported(f"it pads with {found}; only zeros can be exported")
    source = _value(tensor)
    margins = [int(margin) for margin in pad]
    if not any(margins):
        return source
    source = call.builder.settle(source)
    spatial = 2 * (len(source.shape) - 1)
    if any(margins[spatial:]) or len(source.maps) != 3:
        raise Unsupported("it pads channels or features; only height and width can be padded")
    if min(margins) < 0:
        raise Unsupported("it cuts off a border; only a padding of at least 0 can be exported")
    left, right, top, bottom = [*margins[:spatial], 0, 0, 0, 0][:4]
    return call.builder.append(ZeroPad2dLayer(call.name, before=(top, left), after=(bottom, right)), source)


def _interpolate(
    call: Call,
    value: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: Any = None,
    recompute_scale_factor: Any = None,
    antialias: bool = False,
) -> Value:
    if mode not in ("nearest", "nearest-exact"):
        raise Unsupported(f"the mode {mode!r} cannot be exported; use mode='nearest' with whole factors")
    source = call.builder.settle(_value(value))
    dimensions = len(source.shape) - 1
    if len(source.maps) != 3:
        raise Unsupported("it enlarges features; only maps and sequences can be enlarged")
    if size is not None:
        target = _pair(size, dimensions, 1)
        factors = [t / n for t, n in zip(target, source.maps[1:], strict=True)]
    else:
        factors = [float(f) for f in _spread(scale_factor, dimensions, 1)]
    if any(not factor.is_integer() or factor < 1 for factor in factors):
        raise Unsupported(f"the factors {_format(factors)} are not whole; only whole factors can be exported")
    if factors == [1, 1]:
        return source
    return call.builder.append(UpsampleLayer(call.name, (int(factors[0]), int(factors[1]))), source)


# What changes nothing, and what changes only the shape.


def _keep(call: Call, value: Any, *args: Any, **kwargs: Any) -> Value:
    return _value(value)


def _dropout(call: Call, value: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training:
        raise Unsupported("it also drops in inference; pass training=self.training, or use nn.Dropout")
    return _value(value)


def _rearrange(call: Call, value: Any, *args: Any, **kwargs: Any) -> Value:
    """Describe an operation that keeps the order of all numbers of each image; find that out by making the call."""
    source = _value(value)
    if source.is_expanded:
        source = call.builder.settle(source)
    shape = (call.images, *source.shape)
    numbers = torch.arange(math.prod(shape)).reshape(shape)
    try:
        result = call.repeat(numbers)
    except (RuntimeError, IndexError) as error:
        raise Unsupported(f"it does not fit {shape}: {first_line(error)}") from error
    if not isinstance(result, torch.Tensor):
        raise Unsupported("it gives several outputs; only one can be exported")
    if result.shape[:1] != (call.images,) or not torch.equal(result.reshape(-1), numbers.reshape(-1)):
        if math.prod(result.shape) == math.prod(shape) and call.images not in result.shape[:1]:
            raise Unsupported(f"it makes {tuple(result.shape)} of {shape}; {_ONLY_FLATTEN}")
        raise Unsupported(f"it selects or reorders values, which cannot be exported; {_ONLY_FLATTEN}")
    return call.builder.reshape(call.name, source, tuple(result.shape[1:]))


def _expand(call: Call, value: Any, *sizes: Any, **kwargs: Any) -> Value:
    source = _value(value)
    result = call.repeat(torch.zeros(call.images, *source.shape))
    return call.builder.expand(call.name, source, tuple(result.shape[1:]))


def _softmax(call: Call, value: Any, dim: int | None = None, *args: Any, ending: str, **kwargs: Any) -> Value:
    """Leave out a softmax over the channels or features; the last operation may be one."""
    source = _value(value)
    count = len(source.shape) + 1  # with the batch
    if dim is None:
        dim = 0 if count == 3 else 1  # PyTorch's deprecated rule
    if dim % count != 1:
        raise Unsupported(
            f"over dimension {dim} it cannot be exported; only over the channels or features, dimension 1"
        )
    if source.ending:
        call.builder.settle(source)
    return Value(source.layer, source.maps, source.shape, ending, source.change)


def _sized(value: Any, dimensions: int) -> Value:
    """A value that must be maps (2 dimensions) or sequences (1 dimension)."""
    source = _value(value)
    if len(source.shape) != dimensions + 1:
        expected = "maps (channels, height, width)" if dimensions == 2 else "sequences (channels, length)"
        raise Unsupported(f"takes {expected}, but {source.layer or 'the input'} gives {source.shape}")
    return source


def _size(value: Value) -> tuple[int, int]:
    """The height and width of maps."""
    _, height, width = value.maps
    return height, width


def _spread(value: Any, dimensions: int, neutral: Any) -> tuple[Any, Any]:
    """PyTorch's number, or one for each dimension, as (vertical, horizontal)."""
    items = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    items = items * dimensions if len(items) == 1 else items
    if dimensions == 1:
        items = (neutral, *items)
    if len(items) != 2:
        raise Unsupported(f"it has the setting {value}, expected {dimensions} numbers")
    return items[0], items[1]


def _pair(value: Any, dimensions: int, neutral: int) -> tuple[int, int]:
    vertical, horizontal = _spread(value, dimensions, neutral)
    return int(vertical), int(horizontal)


def _halves(total: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How PyTorch divides the padding "same": the smaller half before, the larger after."""
    return (total[0] // 2, total[1] // 2), (total[0] - total[0] // 2, total[1] - total[1] // 2)


def _format(sizes: Any) -> str:
    """Sizes as in 3x5."""
    items = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
    return "x".join(f"{size:g}" if isinstance(size, float) else str(size) for size in items)


def _with(describe: Callable[..., Value], **settings: Any) -> Callable[..., Value]:
    """A description with some settings filled in."""
    return partial(describe, **settings)


_SOFTMAX, _LOG_SOFTMAX = _with(_softmax, ending="softmax"), _with(_softmax, ending="log_softmax")

FUNCTIONS: dict[str, Callable[..., Value]] = {
    "conv2d": _with(_convolution, dimensions=2),
    "conv1d": _with(_convolution, dimensions=1),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": _clamp_max,
    "hardtanh": _hardtanh,
    "relu6": _relu6,
    **{name: _activation(name) for name in ("sigmoid", "tanh", "hardsigmoid", "hardswish", "silu", "mish")},
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "softplus": _softplus,
    "prelu": _prelu,
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "rsub": _rsub,
    "mul": _multiply,
    "multiply": _multiply,
    "div": _divide,
    "divide": _divide,
    "true_divide": _divide,
    "neg": _negate,
    "negative": _negate,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    "max_pool2d": _with(_max_pool, dimensions=2),
    "max_pool1d": _with(_max_pool, dimensions=1),
    "max_pool2d_with_indices": _with(_max_pool, dimensions=2),
    "max_pool1d_with_indices": _with(_max_pool, dimensions=1),
    "avg_pool2d": _with(_avg_pool, dimensions=2),
    "avg_pool1d": _with(_avg_pool, dimensions=1),
    "adaptive_avg_pool2d": _with(_adaptive_pool, dimensions=2, kind=AvgPool2dLayer),
    "adaptive_avg_pool1d": _with(_adaptive_pool, dimensions=1, kind=AvgPool2dLayer),
    "adaptive_max_pool2d": _with(_adaptive_pool, dimensions=2, kind=MaxPool2dLayer),
    "adaptive_max_pool1d": _with(_adaptive_pool, dimensions=1, kind=MaxPool2dLayer),
    "mean": _with(_reduce, kind=AvgPool2dLayer),
    "amax": _with(_reduce, kind=MaxPool2dLayer),
    "pad": _pad,
    "interpolate": _interpolate,
    **dict.fromkeys(
        ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout", "feature_dropout"),
        _dropout,
    ),
    "softmax": _SOFTMAX,
    "log_softmax": _LOG_SOFTMAX,
    **dict.fromkeys(
        (
            "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "swapaxes",
            "swapdims", "movedim", "moveaxis", "ravel", "view_as", "reshape_as", "getitem", "T", "mT",
        ),
        _rearrange,
    ),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(
        ("contiguous", "clone", "detach", "data", "to", "float", "type", "type_as", "cpu", "cuda", "requires_grad"),
        _keep,
    ),
}  # fmt: skip
"""The description of each function or method by its name, without underscores around it."""


def _named(call: Call, module: nn.Module, key: str) -> Parameter | None:
    """A weight of the module that is called; None if the module has none of this name."""
    tensor = getattr(module, key)
    return None if tensor is None else Parameter(f"{call.name}.{key}", tensor)


def _describe_convolution(call: Call, value: Any, module: Any) -> Value:
    if module.padding_mode != "zeros":
        raise Unsupported(f"padding_mode is {module.padding_mode!r}; only 'zeros' can be exported")
    weight, bias = _named(call, module, "weight"), _named(call, module, "bias")
    settings = (module.stride, module.padding, module.dilation, module.groups)
    return _convolution(call, value, weight, bias, *settings, dimensions=len(module.kernel_size))


def _describe_linear(call: Call, value: Any, module: Any) -> Value:
    return _linear(call, value, _named(call, module, "weight"), _named(call, module, "bias"))


def _describe_batch_norm(call: Call, value: Any, module: Any) -> Value:
    keys = ("running_mean", "running_var", "weight", "bias")
    mean, variance, weight, bias = (_named(call, module, key) for key in keys)
    return _batch_norm(call, value, mean, variance, weight, bias, module.training, eps=module.eps)


def _calls(name: str, *attributes: str) -> Callable[..., Value]:
    """The description of a module that calls a function of `FUNCTIONS` with some of its attributes as arguments."""

    def describe(call: Call, value: Any, module: Any) -> Value:
        return FUNCTIONS[name](call, value, **{attribute: getattr(module, attribute) for attribute in attributes})

    return describe


_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

MODULES: dict[type[nn.Module], Callable[[Call, Any, Any], Value]] = {
    nn.Conv2d: _describe_convolution,
    nn.Conv1d: _describe_convolution,
    nn.Linear: _describe_linear,
    nn.BatchNorm2d: _describe_batch_norm,
    nn.BatchNorm1d: _describe_batch_norm,
    nn.ReLU: _calls("relu"),
    nn.ReLU6: _calls("relu6"),
    nn.Hardtanh: _calls("hardtanh", "min_val", "max_val"),
    nn.Sigmoid: _calls("sigmoid"),
    nn.Tanh: _calls("tanh"),
    nn.Hardsigmoid: _calls("hardsigmoid"),
    nn.Hardswish: _calls("hardswish"),
    nn.SiLU: _calls("silu"),
    nn.Mish: _calls("mish"),
    nn.LeakyReLU: _calls("leaky_relu", "negative_slope"),
    nn.ELU: _calls("elu", "alpha"),
    nn.GELU: _calls("gelu", "approximate"),
    nn.Softplus: _calls("softplus", "beta", "threshold"),
    nn.PReLU: lambda call, value, module: _prelu(call, value, _named(call, module, "weight")),
    nn.MaxPool2d: _calls("max_pool2d", *_MAX_POOL),
    nn.MaxPool1d: _calls("max_pool1d", *_MAX_POOL),
    nn.AvgPool2d: _calls("avg_pool2d", *_AVG_POOL, "divisor_override"),
    nn.AvgPool1d: _calls("avg_pool1d", *_AVG_POOL),
    nn.AdaptiveAvgPool2d: _calls("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveAvgPool1d: _calls("adaptive_avg_pool1d", "output_size"),
    nn.AdaptiveMaxPool2d: _calls("adaptive_max_pool2d", "output_size", "return_indices"),
    nn.AdaptiveMaxPool1d: _calls("adaptive_max_pool1d", "output_size", "return_indices"),
    **dict.fromkeys(
        (nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d),
        lambda call, value, module: _pad(call, value, module.padding, value=module.value),
    ),
    nn.Upsample: _calls("interpolate", "size", "scale_factor", "mode"),
    nn.UpsamplingNearest2d: _calls("interpolate", "size", "scale_factor", "mode"),
    nn.Flatten: _calls("flatten"),
    nn.Unflatten: _calls("unflatten"),
    nn.Softmax: _calls("softmax", "dim"),
    nn.LogSoftmax: _calls("log_softmax", "dim"),
    nn.Softmax2d: lambda call, value, module: _softmax(call, value, 1, ending="softmax"),
    nn.Identity: _calls("contiguous"),
    **dict.fromkeys(
        (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
        _calls("dropout", "training"),
    ),
}
"""The description of each module by its class; a subclass may compute something else, and is followed instead."""

_CONSTANTS = "outside of layers, a tensor of constants can only have one for each channel"
_ONLY_FLATTEN = "only flattening each image can be exported: use torch.flatten(x, 1) or nn.Flatten"

_BY_HINT: dict[str, tuple[str, ...]] = {
    "run the network once on an input, which makes it a plain layer": (
        "LazyConv1d", "LazyConv2d", "LazyBatchNorm1d", "LazyBatchNorm2d", "LazyLinear",
    ),
    "use BatchNorm, which is folded into the weights": (
        "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "LayerNorm", "RMSNorm", "LocalResponseNorm",
        "group_norm", "instance_norm", "layer_norm", "rms_norm", "local_response_norm", "normalize",
    ),
    "use nn.Upsample(mode='nearest') and a convolution": (
        "ConvTranspose1d", "ConvTranspose2d", "conv_transpose1d", "conv_transpose2d", "UpsamplingBilinear2d",
        "PixelShuffle", "pixel_shuffle",
    ),
    "pad with zeros, in F.pad, nn.ZeroPad2d or the convolution": (
        "ReflectionPad1d", "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "CircularPad1d", "CircularPad2d",
    ),
    "use convolutions over the sequence": (
        "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "MultiheadAttention", "Transformer",
        "TransformerEncoder", "TransformerEncoderLayer", "scaled_dot_product_attention", "matmul", "bmm", "einsum",
    ),
    "compute each part by a convolution of its own, and join them with torch.cat": (
        "chunk", "split", "split_with_sizes", "tensor_split", "unbind", "channel_shuffle", "ChannelShuffle", "glu",
        "GLU",
    ),
    "use ELU": ("CELU", "SELU", "celu", "selu"),
    "use LeakyReLU": ("RReLU", "rrelu"),
    "use Conv2d: an input has at most (channels, height, width)": ("Conv3d", "conv3d"),
    "use torch.cat along the channels, dimension 1": ("stack",),
    "multiply the value by itself": ("pow", "square"),
    "use x.mean((2, 3)) and multiply by a number": ("sum",),
}  # fmt: skip
"""Operations that are not supported, by what to do instead."""

HINTS: dict[str, str] = {name: hint for hint, names in _BY_HINT.items() for name in names}
"""What to do instead of an operation that is not supported, by the name of its class or function."""
