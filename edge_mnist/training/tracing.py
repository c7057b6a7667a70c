"""Traces a PyTorch module and describes it as a graph of layers.

The module is run in inference on a few random inputs. On the way, each module of torch.nn, and each function and method
of tensors outside of such modules, is recorded with the values that it takes. So everything that a forward may do with
Python and with sizes is followed as PyTorch follows it. A forward that looks at the numbers themselves is refused, and
what cannot be exported is refused by its name.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from edge_mnist.graph.layers import Layer, Shape, check_input_shape, describe_layer, output_shapes
from edge_mnist.system.errors import EdgeMnistError, first_line
from edge_mnist.training.layer_builder import LayerBuilder, Unsupported, Value
from edge_mnist.training.torch_operations import FUNCTIONS, HINTS, MODULES, SUPPORTED, Call, Constant, Parameter

_LOG = logging.getLogger(__name__)

_BATCH_SIZES = (2, 3)
"""Numbers of images with which a module is run: what is recorded must be the same for both."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.DataParallel)
"""Modules of torch.nn whose parts are recorded instead of themselves."""

_QUERIES = frozenset(
    (
        "size", "dim", "ndimension", "numel", "nelement", "len", "stride", "is_contiguous", "is_floating_point",
        "is_complex", "get_device", "element_size", "hash", "repr", "format",
    )
)  # fmt: skip
"""Functions that tell something about a tensor, but not its numbers."""

_HOOKS = "it has hooks, which would be lost: remove them"


@dataclass(frozen=True)
class TracedNetwork:
    """What was found in a module.

    Attributes:
        layers: the layers, in an order in which each comes after those whose outputs it takes; the last one gives the
            output. A layer that is a module has the module's path as its name, such as "features.0".
        ending: the function after the last layer that is left out: "", "softmax" or "log_softmax".
    """

    layers: tuple[Layer, ...]
    ending: str = ""


@dataclass(frozen=True)
class _Refused:
    """A tensor that an operation gives which cannot be exported, and the text of the error if it is needed."""

    text: str


def trace_layers(module: nn.Module, input_shape: Shape = (1, 28, 28)) -> tuple[Layer, ...]:
    """The layers that `trace_network` finds."""
    return trace_network(module, input_shape).layers


def trace_network(module: nn.Module, input_shape: Shape) -> TracedNetwork:
    """Describe a module as it works in inference.

    Args:
        module: maps float32 (N, *input_shape) to float32. Its parts keep their training modes.
        input_shape: the shape of one input: (channels, height, width), (channels, length) or (features,).

    Raises:
        EdgeMnistError: the module cannot be run, an operation cannot be exported, or the shapes do not fit; the text
            begins with the name of the layer.
    """
    check_input_shape(input_shape)
    name = type(module).__name__
    if _has_hooks(module):
        raise EdgeMnistError(f"{name}: {_HOOKS}")
    _check_parts(module)
    module = to_float32(module)
    networks = [_trace(module, tuple(input_shape), images) for images in _BATCH_SIZES]
    first, second = networks
    if first != second:
        pairs = zip(first.layers, second.layers, strict=False)
        culprit = next((layer.name for layer, other in pairs if layer != other), name)
        raise EdgeMnistError(f"{culprit}: it depends on the number of images, which may be any")
    output_shapes(first.layers, input_shape)
    return first


def to_float32(module: nn.Module) -> nn.Module:
    """The module itself, or a copy in float32 if it has weights of half or double precision; that is logged."""
    found = {str(tensor.dtype) for tensor in module.state_dict().values() if tensor.is_floating_point()}
    if not found - {"torch.float32"}:
        return module
    _LOG.warning(
        "%s: its weights are %s; they are converted to float32", type(module).__name__, ", ".join(sorted(found))
    )
    return copy.deepcopy(module).float()


def _check_parts(module: nn.Module) -> None:
    """Refuse weights that have no values, and compiled parts."""
    for path, part in module.named_modules():
        kind = type(part).__name__
        place = describe_layer(path) or kind
        if isinstance(part, torch.jit.ScriptModule):
            raise EdgeMnistError(
                f"{place}: it is compiled by TorchScript and cannot be followed: use the Python module that it was "
                "made of"
            )
        for key, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if isinstance(tensor, (UninitializedBuffer, UninitializedParameter)):
                raise EdgeMnistError(f"{place}: {kind} is not supported: {HINTS['LazyLinear']}")
            if tensor.is_meta:
                raise EdgeMnistError(
                    f"{place}: {key} is on the device meta, which holds no values: build the network on the CPU"
                )


def _trace(module: nn.Module, input_shape: Shape, images: int) -> TracedNetwork:
    """Run a module on some images and record what it does."""
    device = next(module.parameters(), torch.empty(0)).device
    generator = torch.Generator().manual_seed(images)
    inputs = torch.randn(images, *input_shape, generator=generator).to(device)
    recorder = _Recorder(module, inputs, input_shape)
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad(), warnings.catch_warnings(), recorder:
            warnings.simplefilter("ignore")  # they are about the user's code, and come whenever it is run
            output = module(inputs)
    except EdgeMnistError:
        raise
    except (Exception, SystemExit) as error:  # user code may fail in any way
        where = recorder.current or type(module).__name__
        text = f"{where}: cannot be run on inputs of {(images, *input_shape)}: {first_line(error)}"
        raise EdgeMnistError(recorder.refusal or text) from error
    finally:
        recorder.remove_hooks()
        for part, training in modes.items():
            part.training = training
    return recorder.finish(output)


class _Recorder(TorchFunctionMode):
    """Records the operations of a module while it runs.

    Attributes:
        current: the name of the operation that runs; the one that failed after an error.
        refusal: why this operation cannot be exported; empty if it can.
    """

    def __init__(self, module: nn.Module, inputs: torch.Tensor, input_shape: Shape) -> None:
        super().__init__()
        self.current = self.refusal = ""
        self._network = type(module).__name__
        self._images = len(inputs)
        self._known: dict[int, Value | _Refused | Parameter | Constant] = {}  # by the id of each tensor
        self._alive: list[torch.Tensor] = []  # so that no id is used twice
        self._depth = 0  # how many recorded modules are being run, one in the other
        self._pending: Value | _Refused = _Refused("")  # the output of the module that is being run
        self._hooks: list[RemovableHandle] = []
        self._hooked = {part for part in module.modules() if _has_hooks(part)}
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self._register(tensor, Parameter(name, tensor))
        weighted = set()
        for path, part in module.named_modules():
            if path and _is_recorded(part):
                if part.state_dict():
                    weighted.add(path)
                before = partial(self._enter, path)
                self._hooks.append(part.register_forward_pre_hook(before, with_kwargs=True))
                self._hooks.append(part.register_forward_hook(self._leave))
        self._builder = LayerBuilder(input_shape, weighted)
        self._register(inputs, self._builder.input)

    def remove_hooks(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    def finish(self, output: object) -> TracedNetwork:
        """The network that computes an output of the module.

        Raises:
            EdgeMnistError: the output is not one tensor, or it cannot be exported.
        """
        if not isinstance(output, torch.Tensor):
            tensors = list(_tensors(output))
            for item in map(self._find, tensors):
                if isinstance(item, _Refused):
                    raise EdgeMnistError(item.text)
            found = f"a {type(output).__name__}"
            if len(tensors) == 1:
                raise EdgeMnistError(f"the output: expected the logits alone, found {found} that holds them")
            raise EdgeMnistError(
                f"the output: expected one tensor, found {found} of {len(tensors)} tensors: return one of them"
            )
        value = self._find(output)
        if isinstance(value, _Refused):
            raise EdgeMnistError(value.text)
        if not isinstance(value, Value):
            raise EdgeMnistError(
                f"the output: {self._network} does not compute it from its input by operations of PyTorch that can be "
                "followed: pass a plain module, not one of TorchScript"
            )
        return TracedNetwork(self._builder.finish(value), value.ending)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Record one call of a function, or of a method or an attribute of a tensor, and make it."""
        kwargs = dict(kwargs or {})
        if self._depth:
            return function(*args, **kwargs)
        label, known = _label(function), [self._find(tensor) for tensor in _tensors((args, kwargs))]
        if label in _QUERIES or not any(isinstance(item, (Value, _Refused)) for item in known):
            result = self._run(label, partial(function, *args, **kwargs))
            for tensor in _tensors(result):
                if id(tensor) not in self._known:
                    self._register(tensor, Constant(label, tensor))
            return result
        if _is_attribute(function) and not isinstance(result := function(*args), torch.Tensor):
            return result
        if "input" in kwargs:
            args = (kwargs.pop("input"), *args)
        name = self._builder.choose_name(label)
        call = Call(name, self._builder, self._images, lambda tensor: function(tensor, *args[1:], **kwargs))
        value = self._describe(call, label, FUNCTIONS.get(label), args, kwargs)
        result = self._run(name, partial(function, *args, **kwargs), value)
        tensors = list(_tensors(result))
        if label == "setitem":
            raise EdgeMnistError(f"{name}: its forward writes into a part of a tensor: use torch.cat or F.pad")
        if not tensors:
            raise EdgeMnistError(
                f"{self._network}: its forward reads the numbers in a tensor ({label}), and what it computes must not "
                "depend on them: compute the same for every input"
            )
        for tensor in tensors:
            self._replace(name, tensor, self._check(name, tensor, value))
        return result

    def _enter(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record a call of a module, before it is run."""
        self._depth += 1
        if self._depth > 1:
            return
        known = [self._find(tensor) for tensor in _tensors((args, kwargs))]
        name = path
        if path in self._builder.layers and not module.state_dict():
            stem = path.replace(".", "_")
            name = self._builder.choose_name(stem, first=f"{stem}_1")
        kind = type(module)
        describe = MODULES.get(kind)
        call = Call(name, self._builder, self._images, lambda tensor: kind.forward(module, tensor))
        if not any(isinstance(item, (Value, _Refused)) for item in known):
            self._pending = _Refused(f"{describe_layer(name)}: it takes nothing that is computed from the input")
        elif module in self._hooked:
            self._pending = _Refused(f"{describe_layer(name)}: {_HOOKS}")
        else:
            settings = {"module": module} if describe else {}
            self._pending = self._describe(call, kind.__name__, describe, (*args, *kwargs.values()), settings)
        self._start(name, self._pending)

    def _leave(self, module: nn.Module, args: object, output: object) -> None:
        """Record the output of a module, after it was run."""
        if self._depth == 1:
            for tensor in _tensors(output):
                self._replace(self.current, tensor, self._check(self.current, tensor, self._pending))
            self._start("", None)
        self._depth -= 1

    def _describe(
        self,
        call: Call,
        label: str,
        describe: Callable[..., Value] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Value | _Refused:
        """The value that a call gives; what is refused in its inputs or in the call is refused in what it gives."""
        for tensor in _tensors((args, kwargs)):
            if isinstance(refused := self._find(tensor), _Refused):
                return refused
        try:
            if describe is None:
                raise Unsupported(f"{label} is not supported: {_hint(label)}")
            args, kwargs = _replace_tensors((args, kwargs), self._find)
            value = describe(call, *args, **kwargs)
            return value if isinstance(value, Value) else _Refused(f"{describe_layer(call.name)}: it gives no tensor")
        except Unsupported as reason:
            return _Refused(f"{describe_layer(call.name)}: {reason}")
        except TypeError as error:
            return _Refused(f"{describe_layer(call.name)}: its settings cannot be read: {first_line(error)}")

    def _check(self, name: str, tensor: torch.Tensor, value: Value | _Refused) -> Value | _Refused:
        """The value, if it is what PyTorch computes."""
        if isinstance(value, _Refused):
            return value
        if tensor.dtype != torch.float32:
            return _Refused(f"{describe_layer(name)}: it gives {tensor.dtype}; only torch.float32 can be exported")
        if tensor.shape != (self._images, *value.shape):
            found = f"{tuple(tensor.shape)}, expected {(self._images, *value.shape)}"
            return _Refused(
                f"{describe_layer(name)}: it gives the shape {found}: only a batch of images can be exported"
            )
        return value

    def _run(self, name: str, function: Callable[[], Any], value: Value | _Refused | None = None) -> Any:
        """Call a function; what is known about it stays in `current` and `refusal` if it fails."""
        self._start(name, value)
        result = function()
        self._start("", None)
        return result

    def _start(self, name: str, value: Value | _Refused | None) -> None:
        """Remember which operation runs, and why it cannot be exported if that is so."""
        self.current, self.refusal = name, value.text if isinstance(value, _Refused) else ""

    def _register(self, tensor: torch.Tensor, found: Value | _Refused | Parameter | Constant) -> None:
        """Remember what a tensor is."""
        self._alive.append(tensor)
        self._known[id(tensor)] = found

    def _replace(self, name: str, tensor: torch.Tensor, value: Value | _Refused) -> None:
        """Remember what an operation gives; other views of a tensor that it changed in place can be used no more."""
        if (former := self._known.get(id(tensor))) is not None and former != value:
            place = tensor.untyped_storage().data_ptr()
            for other in self._alive:
                if other is not tensor and other.untyped_storage().data_ptr() == place:
                    text = "it changes a tensor in place that is also used in another shape: use it without inplace"
                    self._known[id(other)] = _Refused(f"{describe_layer(name)}: {text}")
        self._register(tensor, value)

    def _find(self, tensor: torch.Tensor) -> Value | _Refused | Parameter | Constant:
        """What a tensor is."""
        return self._known.get(id(tensor)) or Constant("code that cannot be followed", tensor)


def _hint(label: str) -> str:
    """What to do instead of an operation that is not supported."""
    if label.startswith("Parametrized"):
        return "call torch.nn.utils.parametrize.remove_parametrizations on it, which makes it a plain layer"
    return HINTS.get(label, f"only {SUPPORTED} can be exported")


def _label(function: Any) -> str:
    """The name of a function, a method or an attribute, without underscores around it."""
    if _is_attribute(function):
        return str(function.__self__.__name__)
    return str(getattr(function, "__name__", function)).strip("_")


def _is_attribute(function: Any) -> bool:
    """Whether a call reads an attribute of a tensor, such as x.shape."""
    return getattr(function, "__name__", "") == "__get__"


def _tensors(item: object) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, Mapping):
        yield from _tensors(list(item.values()))


def _replace_tensors(item: Any, replace: Any) -> Any:
    """Nested tuples, lists and dicts with something else for each tensor."""
    if isinstance(item, torch.Tensor):
        return replace(item)
    if isinstance(item, (tuple, list)):
        return type(item)(_replace_tensors(part, replace) for part in item) if type(item) in (tuple, list) else item
    return {key: _replace_tensors(part, replace) for key, part in item.items()} if isinstance(item, dict) else item


def _is_recorded(module: nn.Module) -> bool:
    """Whether a module is recorded as one step; the parts of another are followed."""
    kind = type(module)
    return kind in MODULES or (kind.__module__.startswith("torch.") and kind not in _CONTAINERS)


def _has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which compute something besides its forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)
