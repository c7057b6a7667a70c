"""From a PyTorch module to the chain of layers that `architecture` describes, found by torch.fx.

Only a chain goes through: each operation takes what the one before gave. What cannot be exported is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from edge_mnist import architecture
from edge_mnist.architecture import Layer, Shape
from edge_mnist.errors import EdgeMnistError

Fields = dict[str, Any]

_SUPPORTED = "Conv2d, BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Linear and Dropout"
_VANISHING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


class _Refused(Exception):
    """Why an operation cannot be exported; `describe` adds its name."""


def describe(module: nn.Module, input_shape: tuple[int, int, int] = (1, 28, 28)) -> tuple[Layer, ...]:
    """The layers of a module as they work in inference.

    Args:
        module: maps float32 (N, *input_shape) to float32.
        input_shape: channels, height, width.

    Returns:
        One JSON-able dict a layer. A module keeps its path as name, "features.0"; a functional form gets the name of
        its fx node. Dropout and Identity vanish.

    Raises:
        EdgeMnistError: the module is not a chain of supported layers, or their shapes do not fit.
    """
    layers: list[Layer] = []
    shape: Shape = input_shape
    before = "the input"
    for node in _chain(module):
        name = _name(node, {layer["name"] for layer in layers})
        try:
            if node.op == "call_module":
                fields = _describe_module(module.get_submodule(str(node.target)), shape)
                if fields is not None and fields["op"] in _WITH_WEIGHTS and name != node.target:
                    name = str(node.target)
                    raise _Refused("it is used twice; a layer with weights can stand once in the chain")
            else:
                fields = _describe_call(node, shape)
        except _Refused as refusal:
            raise EdgeMnistError(f"{name}: {refusal}") from None
        if fields is None:
            continue
        layer = {"op": fields["op"], "name": name, **fields}
        architecture.check_layer(layer)
        shape = architecture.output_shape(layer, shape, before)
        before = name
        layers.append(layer)
    architecture.output_shapes(layers, input_shape)
    return tuple(layers)


def _chain(module: nn.Module) -> list[torch.fx.Node]:
    """The operations between input and output, in order, each known to take nothing but the one before."""
    training = module.training
    try:
        graph = torch.fx.Tracer().trace(module.eval())
    except Exception as error:  # the module's own code runs on fx's proxies and may fail in any way
        reason = str(error).strip().partition("\n")[0]
        raise EdgeMnistError(f"{type(module).__name__}: cannot be traced by torch.fx: {reason}") from error
    finally:
        module.train(training)
    nodes = list(graph.nodes)
    for node, previous in zip(nodes[1:], nodes, strict=False):
        if node.op == "placeholder":
            raise EdgeMnistError(f"{node.target}: a second input; only a network of one input can be exported")
        if node.op == "get_attr":
            raise EdgeMnistError(f"{node.target}: a bare parameter or buffer; only {_SUPPORTED} can be exported")
        if node.all_input_nodes != [previous] or list(node.args[:1]) != [previous]:
            inputs = ", ".join(str(item) for item in node.all_input_nodes) or "nothing"
            raise EdgeMnistError(
                f"{_name(node, set())}: takes {inputs}, expected {previous} alone: "
                "only a chain can be exported, without branches or skip connections"
            )
    return nodes[1:-1]


def _name(node: torch.fx.Node, taken: set[str]) -> str:
    """A module's path, or fx's name for a functional form and for a module's second use."""
    if node.op == "output":
        return "the output"
    name = str(node.target) if node.op == "call_module" else node.name
    while name in taken:
        name = node.name if name != node.name else f"{name}_"
    return name


def _describe_module(module: nn.Module, shape: Shape) -> Fields | None:
    """The fields of a module; None where it does nothing in inference."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise _Refused(f"{name} is {tensor.dtype}, expected torch.float32: call .float()")
    if module._forward_hooks or module._forward_pre_hooks:
        raise _Refused("it has hooks, which would be lost: remove them")
    # exact types: a subclass may compute something else
    kind = type(module)
    if kind in _VANISHING:
        return None
    if kind in _MODULES:
        return _MODULES[kind](module, shape)
    hint = _HINTS.get(kind.__name__, f"only {_SUPPORTED} can be exported")
    raise _Refused(f"{kind.__name__} is not supported: {hint}")


def _describe_call(node: torch.fx.Node, shape: Shape) -> Fields | None:
    """The fields of a function or a method of the tensor, called with the value before and plain settings."""
    known = _METHODS if node.op == "call_method" else _FUNCTIONS
    settings = known.get(node.target)
    if settings is None:
        label = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        hint = _HINTS.get(label, f"only {_SUPPORTED} can be exported, weights in modules of their own")
        raise _Refused(f"{label} is not supported: {hint}")
    return settings(shape, *node.args[1:], **node.kwargs)


def _conv2d(module: nn.Conv2d, shape: Shape) -> Fields:
    if module.padding_mode != "zeros":
        raise _Refused(f"padding_mode is {module.padding_mode!r}; only 'zeros' can be exported")
    padding = module.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        extra = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        if any(size % 2 for size in extra):
            raise _Refused(
                f"padding='same' with kernel_size {module.kernel_size} pads one side more; use an odd kernel"
            )
        padding = (extra[0] // 2, extra[1] // 2)
    return {
        "op": "conv2d",
        "in_channels": module.in_channels,
        "out_channels": module.out_channels,
        "kernel_size": _pair(module.kernel_size),
        "stride": _pair(module.stride),
        "padding": _pair(padding),
        "dilation": _pair(module.dilation),
        "groups": module.groups,
        "bias": module.bias is not None,
    }


def _batch_norm2d(module: nn.BatchNorm2d, shape: Shape) -> Fields:
    if module.running_mean is None or module.running_var is None:
        raise _Refused("BatchNorm2d without running statistics depends on the batch; use track_running_stats=True")
    if (module.weight is None) != (module.bias is None):
        raise _Refused("BatchNorm2d has only one of weight and bias; expected both or neither")
    return {
        "op": "batch_norm2d",
        "num_features": module.num_features,
        "eps": float(module.eps),
        "affine": module.weight is not None,
    }


def _linear(module: nn.Linear, shape: Shape) -> Fields:
    sizes = {"in_features": module.in_features, "out_features": module.out_features}
    return {"op": "linear", **sizes, "bias": module.bias is not None}


def _relu(shape: Shape, inplace: bool = False) -> Fields:
    return {"op": "relu"}


def _max_pool2d(
    shape: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Fields:
    if _pair(dilation) != [1, 1]:
        raise _Refused(f"MaxPool2d with dilation {dilation} cannot be exported; use dilation 1")
    if return_indices:
        raise _Refused("return_indices=True gives two outputs; only a chain can be exported")
    return _pool("max_pool2d", shape, kernel_size, stride, padding, ceil_mode)


def _avg_pool2d(
    shape: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Fields:
    fields = _pool("avg_pool2d", shape, kernel_size, stride, padding, ceil_mode)
    if not count_include_pad and fields["padding"] != [0, 0]:
        raise _Refused(
            "count_include_pad=False with padding divides unequally at the border; use count_include_pad=True"
        )
    if divisor_override is not None:
        raise _Refused("divisor_override cannot be exported; scale the weights of the next layer")
    return fields


def _pool(operation: str, shape: Shape, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool) -> Fields:
    """Fields of a pooling window; ceil_mode is let through where it changes nothing."""
    kernel, margins = _pair(kernel_size), _pair(padding)
    steps = _pair(kernel_size if stride is None or stride == [] else stride)
    if ceil_mode and len(shape) == 3:
        for size, extent, step, margin in zip(shape[1:], kernel, steps, margins, strict=True):
            if (size + 2 * margin - extent) % step:
                raise _Refused(
                    f"ceil_mode=True makes a part of a window at the border of {size} pixels; use ceil_mode=False"
                )
    return {"op": operation, "kernel_size": kernel, "stride": steps, "padding": margins}


def _adaptive_avg_pool2d(shape: Shape, output_size: Any) -> Fields:
    sizes = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size, output_size]
    if sizes != [1, 1]:
        raise _Refused(
            f"AdaptiveAvgPool2d to {output_size} cannot be exported; use 1, or AvgPool2d with a fixed window"
        )
    return {"op": "adaptive_avg_pool2d"}


def _flatten(shape: Shape, start_dim: int = 0, end_dim: int = -1) -> Fields:
    last = len(shape)  # with the batch, the shape has one more dimension
    if start_dim not in (1, 1 - last - 1) or end_dim not in (-1, last):
        raise _Refused(f"flatten from dimension {start_dim} to {end_dim}; only from 1 to the last can be exported")
    return {"op": "flatten"}


def _dropout(shape: Shape, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    if training:
        raise _Refused("it drops in inference too; pass training=self.training, or use nn.Dropout")


def _pair(value: Any) -> list[int]:
    """PyTorch's int or pair as [height, width]."""
    return [int(item) for item in value] if isinstance(value, (tuple, list)) else [int(value), int(value)]


_WITH_WEIGHTS = ("conv2d", "batch_norm2d", "linear")
_MODULES: dict[type[nn.Module], Callable[[Any, Shape], Fields]] = {
    nn.Conv2d: _conv2d,
    nn.BatchNorm2d: _batch_norm2d,
    nn.Linear: _linear,
    nn.ReLU: lambda module, shape: _relu(shape),
    nn.MaxPool2d: lambda module, shape: _max_pool2d(
        shape,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    ),
    nn.AvgPool2d: lambda module, shape: _avg_pool2d(
        shape,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda module, shape: _adaptive_avg_pool2d(shape, module.output_size),
    nn.Flatten: lambda module, shape: _flatten(shape, module.start_dim, module.end_dim),
}
_FUNCTIONS: dict[Any, Callable[..., Fields | None]] = {
    F.relu: _relu,
    F.relu_: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    F.max_pool2d: _max_pool2d,
    torch.max_pool2d: _max_pool2d,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    torch.flatten: _flatten,
    F.dropout: _dropout,
    F.dropout2d: _dropout,
}
_METHODS: dict[Any, Callable[..., Fields | None]] = {"relu": _relu, "relu_": _relu, "flatten": _flatten}

_LOGITS = "leave it out: the class is that of the largest logit"
_FLATTEN = "use torch.flatten(x, 1) or nn.Flatten"
_HINTS = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "softmax", "log_softmax"), _LOGITS),
    **dict.fromkeys(("view", "reshape", "squeeze", "size", "getattr"), _FLATTEN),
    "mean": "use nn.AdaptiveAvgPool2d(1)",
    "BatchNorm1d": "use BatchNorm2d before the maps are flattened",
}
