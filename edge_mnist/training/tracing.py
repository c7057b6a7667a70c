"""Traces a PyTorch module with torch.fx and describes it as a chain of layers.

In a chain, each operation takes only the output of the one before. What cannot be exported is refused by its name.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from edge_mnist.graph.layers import (
    AvgPool2dLayer,
    BatchNorm2dLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    PoolLayer,
    ReluLayer,
    Shape,
    output_shapes,
)
from edge_mnist.system.errors import EdgeMnistError, first_line

_SUPPORTED = "Conv2d, BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten, Linear and Dropout"
"""The modules that can be exported, for error texts."""
_REMOVED_MODULES = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
"""Modules that do nothing in inference and leave no layer."""

_HOOKS = "it has hooks, which would be lost: remove them"


class _Unsupported(Exception):
    """Says why an operation cannot be exported; `trace_layers` adds the name of the operation."""


def trace_layers(module: nn.Module, input_shape: tuple[int, int, int] = (1, 28, 28)) -> tuple[Layer, ...]:
    """Describe the layers of a module as they work in inference.

    Args:
        module: maps float32 (N, *input_shape) to float32.
        input_shape: channels, height and width.

    Returns:
        The layers in their order. A layer that is a module has the module's path as its name, such as "features.0"; a
        function has the name of its torch.fx node. Dropout and Identity leave no layer.

    Raises:
        EdgeMnistError: the module is not a chain of supported layers, or their shapes do not fit.
    """
    if _has_hooks(module):
        raise EdgeMnistError(f"{type(module).__name__}: {_HOOKS}")
    layers: list[Layer] = []
    source = "the input"
    chain = _Chain(module, input_shape)
    for node in chain.operations():
        name = _choose_name(node, {layer.name for layer in layers})
        shape = chain.shape
        try:
            if node.op == "call_module":
                layer = _describe_module(module.get_submodule(str(node.target)), name, shape)
                if layer is not None and layer.weight_shapes() and name != node.target:
                    name = str(node.target)
                    raise _Unsupported("it is used twice; a layer with weights can be used only once")
            else:
                layer = _describe_call(node, name, chain)
        except _Unsupported as reason:
            raise EdgeMnistError(f"{name}: {reason}") from None
        if layer is not None:
            shape = layer.output_shape(shape, source)
            source = name
            layers.append(layer)
        chain.append(node, shape)
    output_shapes(layers, input_shape)
    return tuple(layers)


class _Chain:
    """The operations between a module's input and output in their order, and the shapes of their outputs."""

    def __init__(self, module: nn.Module, input_shape: Shape) -> None:
        placeholder, *self._nodes = _trace(module).nodes
        self._last = placeholder
        self._shapes: dict[torch.fx.Node, Shape] = {placeholder: input_shape}
        self._sizes: dict[torch.fx.Node, tuple[Any, ...]] = {}  # by node that computes sizes: values for `_BATCH_SIZES`

    @property
    def shape(self) -> Shape:
        """The shape of the last operation's output, without the batch."""
        return self._shapes[self._last]

    def append(self, node: torch.fx.Node, shape: Shape) -> None:
        """Record the shape of an operation's output."""
        self._last = node
        self._shapes[node] = shape

    def operations(self) -> Iterator[torch.fx.Node]:
        """Iterate over the operations, after checking that each takes only the output before it, and sizes.

        Raises:
            EdgeMnistError: an operation takes something else; the text names it.
        """
        for node in self._nodes:
            if node.op == "placeholder":
                raise EdgeMnistError(f"{node.target}: a second input; only a network of one input can be exported")
            if node.op == "get_attr":
                raise EdgeMnistError(
                    f"{node.target}: a bare parameter, buffer or constant; only {_SUPPORTED} can be exported"
                )
            if _computes_sizes(node, self._shapes, self._sizes):
                self._sizes[node] = self._compute_sizes(node)
                continue
            self._check_inputs(node)
            if node.op != "output":
                yield node

    def resolve_settings(self, node: torch.fx.Node) -> tuple[list[Any], dict[str, Any]]:
        """Resolve an operation's arguments after its input, with numbers for computed sizes.

        Returns:
            Positional and keyword arguments; for a view, a single argument: those for each of `_BATCH_SIZES`.

        Raises:
            _Unsupported: they depend on the number of images.
        """
        views = []
        for index in range(len(_BATCH_SIZES)):
            arguments, kwargs = self._resolve_arguments(node, index)
            if not arguments:
                kwargs.pop("input", None)
            views.append((list(arguments[1:]), kwargs))
        if node.target in _VIEWS:
            return [views], {}
        if views[0] != views[-1]:
            raise _Unsupported("it depends on the number of images, which may be any")
        return views[0]

    def _resolve_arguments(self, node: torch.fx.Node, index: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Resolve a node's arguments for one of `_BATCH_SIZES`: numbers for sizes, meta tensors for tensors."""

        def resolve(item: torch.fx.Node) -> Any:
            if item in self._sizes:
                return self._sizes[item][index]
            return (
                torch.empty(_BATCH_SIZES[index], *self._shapes[item], device="meta") if item in self._shapes else item
            )

        arguments, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), resolve)
        return arguments, dict(kwargs)

    def _compute_sizes(self, node: torch.fx.Node) -> tuple[Any, ...]:
        """Compute the result of a node that computes sizes, for each of `_BATCH_SIZES`."""
        results = []
        for index in range(len(_BATCH_SIZES)):
            arguments, kwargs = self._resolve_arguments(node, index)
            try:
                function = node.target if callable(node.target) else getattr(arguments[0], str(node.target))
                results.append(function(*(arguments if callable(node.target) else arguments[1:]), **kwargs))
            except Exception as error:  # user code may fail in any way
                raise EdgeMnistError(f"{node.name}: cannot be computed: {first_line(error)}") from error
        return tuple(results)

    def _check_inputs(self, node: torch.fx.Node) -> None:
        """Refuse an operation that takes something else than the output of the one before."""
        inputs = [item for item in node.all_input_nodes if item not in self._sizes]
        first = node.args[0] if node.args else node.kwargs.get("input")
        name, last = (
            _choose_name(node, set()),
            _choose_name(self._last, set()) if len(self._shapes) > 1 else str(self._last),
        )
        if node.op == "output":
            if inputs == [self._last] and first is not self._last:
                found = type(first).__name__.removeprefix("immutable_")
                raise EdgeMnistError(f"{name}: expected the logits alone, found a {found} that holds them")
        elif not inputs or (inputs == [self._last] and first is not self._last):
            raise EdgeMnistError(f"{name}: {_explain_unsupported(node)}")
        if inputs == [self._last]:
            return
        if not self._last.users:
            raise EdgeMnistError(f"{last}: nothing uses its output: assign it, as in x = ..., or remove it")
        taken = ", ".join(str(item) for item in inputs) or "nothing"
        raise EdgeMnistError(
            f"{name}: takes {taken}, expected {self._last} alone: "
            "only a chain can be exported, without branches or skip connections"
        )


def _trace(module: nn.Module) -> torch.fx.Graph:
    """Record the operations of a module in inference with torch.fx; its parts keep their training modes."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        return torch.fx.Tracer().trace(module)
    except (Exception, SystemExit) as error:  # user code runs on the proxies of torch.fx and may fail in any way
        raise EdgeMnistError(f"{type(module).__name__}: cannot be traced by torch.fx: {first_line(error)}") from error
    finally:
        for part, training in modes.items():
            part.training = training


def _computes_sizes(
    node: torch.fx.Node, shapes: Mapping[torch.fx.Node, Shape], sizes: Mapping[torch.fx.Node, object]
) -> bool:
    """Whether a node asks for the sizes of a tensor, or calculates with sizes."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[0] in shapes and node.args[1] in ("shape", "ndim")
    if node.op == "call_method":
        return node.args[0] in shapes and node.target in ("size", "dim", "ndimension", "numel", "nelement")
    inputs = node.all_input_nodes
    return (
        node.op == "call_function"
        and node.target in _ARITHMETIC
        and bool(inputs)
        and all(item in sizes for item in inputs)
    )


def _choose_name(node: torch.fx.Node, taken: set[str]) -> str:
    """Choose the name of a layer: a module's path; for a function or a module's second use, the name of its node."""
    if node.op == "output":
        return "the output"
    name = str(node.target) if node.op == "call_module" else node.name
    while name in taken:
        name = node.name if name != node.name else f"{name}_"
    return name


def _describe_module(module: nn.Module, name: str, shape: Shape) -> Layer | None:
    """Describe a module as a layer; None if it does nothing in inference."""
    # the exact type, because a subclass may compute something else
    kind = type(module)
    if kind not in _REMOVED_MODULES and kind not in _MODULES:
        hint = _HINTS.get(kind.__name__, f"only {_SUPPORTED} can be exported")
        raise _Unsupported(f"{kind.__name__} is not supported: {hint}")
    for key, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise _Unsupported(f"{key} is on the device meta, which holds no values: build the network on the CPU")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise _Unsupported(f"{key} is {tensor.dtype}, expected torch.float32: call .float()")
    if _has_hooks(module):
        raise _Unsupported(_HOOKS)
    return None if kind in _REMOVED_MODULES else _MODULES[kind](module, name, shape)


def _describe_call(node: torch.fx.Node, name: str, chain: _Chain) -> Layer | None:
    """Describe a call of a function or of a tensor's method as a layer; None if it does nothing in inference."""
    describe = (_METHODS if node.op == "call_method" else _FUNCTIONS).get(node.target)
    if describe is None:
        raise _Unsupported(_explain_unsupported(node))
    args, kwargs = chain.resolve_settings(node)
    try:
        return describe(name, chain.shape, *args, **kwargs)
    except TypeError as error:
        raise _Unsupported(f"its settings cannot be read: {first_line(error)}") from error


def _explain_unsupported(node: torch.fx.Node) -> str:
    """Explain why an unsupported operation cannot be exported, and what to use instead."""
    if node.op == "call_module":
        return f"it takes something other than one tensor; only {_SUPPORTED} can be exported"
    label = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    if label == "getattr":
        label = f".{node.args[1]}"
    hint = _HINTS.get(label, f"only {_SUPPORTED} can be exported, with weights in modules")
    return f"{label} is not supported: {hint}"


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which compute something besides its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _conv2d(module: nn.Conv2d, name: str, shape: Shape) -> Layer:
    if module.padding_mode != "zeros":
        raise _Unsupported(f"padding_mode is {module.padding_mode!r}; only 'zeros' can be exported")
    padding = module.padding
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        total = [step * (size - 1) for step, size in zip(module.dilation, module.kernel_size, strict=True)]
        if any(size % 2 for size in total):
            raise _Unsupported(
                f"padding='same' with kernel_size {module.kernel_size} pads both sides differently; use an odd kernel"
            )
        padding = (total[0] // 2, total[1] // 2)
    return Conv2dLayer(
        name,
        module.in_channels,
        module.out_channels,
        kernel_size=_pair(module.kernel_size),
        stride=_pair(module.stride),
        padding=_pair(padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
        bias=module.bias is not None,
    )


def _batch_norm2d(module: nn.BatchNorm2d, name: str, shape: Shape) -> Layer:
    if module.running_mean is None or module.running_var is None:
        raise _Unsupported("BatchNorm2d without running statistics depends on the batch; use track_running_stats=True")
    if (module.weight is None) != (module.bias is None):
        raise _Unsupported("BatchNorm2d has only one of weight and bias; expected both or neither")
    return BatchNorm2dLayer(name, module.num_features, float(module.eps), affine=module.weight is not None)


def _linear(module: nn.Linear, name: str, shape: Shape) -> Layer:
    return LinearLayer(name, module.in_features, module.out_features, bias=module.bias is not None)


def _relu(name: str, shape: Shape, inplace: bool = False) -> Layer:
    return ReluLayer(name)


def _max_pool2d(
    name: str,
    shape: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Layer:
    if _pair(dilation) != (1, 1):
        raise _Unsupported(f"MaxPool2d with dilation {dilation} cannot be exported; use dilation 1")
    if return_indices:
        raise _Unsupported("return_indices=True gives two outputs; only a chain can be exported")
    return _pool(MaxPool2dLayer, name, shape, kernel_size, stride, padding, ceil_mode)


def _avg_pool2d(
    name: str,
    shape: Shape,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Layer:
    layer = _pool(AvgPool2dLayer, name, shape, kernel_size, stride, padding, ceil_mode)
    if not count_include_pad and layer.padding != (0, 0):
        raise _Unsupported(
            "count_include_pad=False with padding divides unequally at the border; use count_include_pad=True"
        )
    if divisor_override is not None:
        raise _Unsupported("divisor_override cannot be exported; scale the weights of the next layer")
    return layer


def _pool(
    kind: type[PoolLayer], name: str, shape: Shape, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
) -> PoolLayer:
    """Describe a pooling layer; ceil_mode is accepted where it changes nothing."""
    kernel, margins = _pair(kernel_size), _pair(padding)
    steps = _pair(kernel_size if stride is None or stride == [] else stride)
    if ceil_mode and len(shape) == 3:
        for size, extent, step, margin in zip(shape[1:], kernel, steps, margins, strict=True):
            if (size + 2 * margin - extent) % step:
                raise _Unsupported(
                    f"ceil_mode=True adds an incomplete window at the border of {size} pixels; use ceil_mode=False"
                )
    return kind(name, kernel_size=kernel, stride=steps, padding=margins)


def _adaptive_avg_pool2d(name: str, shape: Shape, output_size: Any) -> Layer | None:
    sizes = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if sizes == (1, 1):
        return GlobalAvgPool2dLayer(name)
    if sizes == shape[1:]:
        return None  # every window is one pixel, as in VGG and AlexNet for images of 224x224
    raise _Unsupported(
        f"AdaptiveAvgPool2d to {output_size} cannot be exported; use 1, or AvgPool2d with a fixed window"
    )


def _flatten(name: str, shape: Shape, start_dim: int = 0, end_dim: int = -1) -> Layer:
    last = len(shape)  # with the batch, the shape has one more dimension
    if start_dim not in (1, 1 - last - 1) or end_dim not in (-1, last):
        raise _Unsupported(f"flatten from dimension {start_dim} to {end_dim}; only from 1 to the last can be exported")
    return FlattenLayer(name)


def _view(name: str, shape: Shape, views: list[tuple[list[Any], dict[str, Any]]]) -> Layer | None:
    """Describe a view or reshape that flattens each image; None if it changes nothing.

    Args:
        name: the name of the layer.
        shape: the shape of its input, without the batch.
        views: the arguments for each of `_BATCH_SIZES`.
    """
    results = []
    for batch, (args, kwargs) in zip(_BATCH_SIZES, views, strict=True):
        sizes = args or list(kwargs.values())
        try:
            whole = torch.empty(batch, *shape, device="meta").reshape(*sizes)
        except (TypeError, RuntimeError) as error:
            raise _Unsupported(f"to {_format_sizes(sizes)} does not fit {(batch, *shape)}: {_FLATTEN}") from error
        results.append(tuple(whole.shape))
    if results == [(batch, *shape) for batch in _BATCH_SIZES]:
        return None
    if results == [(batch, math.prod(shape)) for batch in _BATCH_SIZES]:
        return FlattenLayer(name)
    raise _Unsupported(
        f"it makes {results[0]} of {(_BATCH_SIZES[0], *shape)}; only flattening each image can be exported: {_FLATTEN}"
    )


def _format_sizes(sizes: list[Any]) -> str:
    """Format the sizes with which a view was called."""
    return str(tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else tuple(sizes))


def _dropout(name: str, shape: Shape, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
    if training:
        raise _Unsupported("it also drops in inference; pass training=self.training, or use nn.Dropout")


def _pair(value: Any) -> Any:
    """Convert PyTorch's int or pair to (height, width); the layer refuses another length."""
    return tuple(int(item) for item in value) if isinstance(value, (tuple, list)) else (int(value), int(value))


_MODULES: dict[type[nn.Module], Callable[[Any, str, Shape], Layer | None]] = {
    nn.Conv2d: _conv2d,
    nn.BatchNorm2d: _batch_norm2d,
    nn.Linear: _linear,
    nn.ReLU: lambda module, name, shape: _relu(name, shape),
    nn.MaxPool2d: lambda module, name, shape: _max_pool2d(
        name,
        shape,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    ),
    nn.AvgPool2d: lambda module, name, shape: _avg_pool2d(
        name,
        shape,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda module, name, shape: _adaptive_avg_pool2d(name, shape, module.output_size),
    nn.Flatten: lambda module, name, shape: _flatten(name, shape, module.start_dim, module.end_dim),
}
_FUNCTIONS: dict[Any, Callable[..., Layer | None]] = {
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
    torch.reshape: _view,
}
_METHODS: dict[Any, Callable[..., Layer | None]] = {
    "relu": _relu,
    "relu_": _relu,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
}
_VIEWS = ("view", "reshape", torch.reshape)
"""The targets of nodes that change shapes by sizes."""
_ARITHMETIC = (operator.getitem, operator.mul, operator.floordiv, operator.add, operator.sub, operator.neg)
"""The targets of nodes that calculate with sizes."""
_BATCH_SIZES = (2, 3)
"""Numbers of images for which sizes are computed: a result that is equal for both does not depend on the number."""

_LOGITS = "leave it out: the class is that of the largest logit"
_FLATTEN = "use torch.flatten(x, 1) or nn.Flatten"
_HINTS = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "softmax", "log_softmax"), _LOGITS),
    **dict.fromkeys(("unsqueeze", "squeeze", "permute", "transpose"), _FLATTEN),
    "mean": "use nn.AdaptiveAvgPool2d(1)",
    **dict.fromkeys(
        ("LazyConv2d", "LazyBatchNorm2d", "LazyLinear"),
        "run the network once on an image, which makes it a plain layer",
    ),
    "BatchNorm1d": "use BatchNorm2d before the maps are flattened",
}
"""What to do instead of an unsupported operation, by the name of its class or function."""
