"""DigitNet, a network of seven convolutions and 18,662 parameters for 28x28 pixels, and networks of users."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.training.torchvision_shim import import_torchvision

MEAN = 0.1307
"""The mean of MNIST's training pixels, scaled to [0, 1]."""
STD = 0.3081
"""The standard deviation of MNIST's training pixels, scaled to [0, 1]."""
CLASSES = 10
"""The number of classes: the digits 0 to 9."""
DIGITNET = "edge_mnist.training.network:DigitNet"
"""The factory of the default network, as `--network` takes it."""

_CHANNELS = (14, 14, 16, 18, 20, 22, 22)
"""The output channels of conv1 to conv7."""
_PADDING = {6: 1}
"""The padding in pixels of convolutions that have one, by number."""
_FORMER_MODULE = "edge_mnist.network:"
"""What the recorded factories of this module begin with in older checkpoints."""


class DigitNet(nn.Sequential):
    """Maps normalized float32 images (N, 1, 28, 28) to logits (N, 10).

    Every convolution is 3x3 with stride 1 and bias, followed by BatchNorm and ReLU; only conv6 pads, by 1. The shapes
    after the convolutions are (N, 14, 26, 26), (N, 14, 24, 24), (N, 16, 22, 22), (N, 18, 9, 9), (N, 20, 7, 7),
    (N, 22, 3, 3) and (N, 22, 1, 1); pooling halves the maps after conv3 and after conv5.
    """

    def __init__(self, width: int = 1) -> None:
        """Make the layers with PyTorch's default initial weights, drawn from its global generator.

        Args:
            width: the factor by which the channels of each convolution are multiplied, at least 1.
        """
        in_channels = 1
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, channels in enumerate((width * count for count in _CHANNELS), 1):
            layers[f"conv{index}"] = nn.Conv2d(in_channels, channels, 3, padding=_PADDING.get(index, 0))
            layers[f"bn{index}"] = nn.BatchNorm2d(channels)
            layers[f"relu{index}"] = nn.ReLU()
            if index == 3:
                layers["pool1"] = nn.MaxPool2d(2)
            if index == 5:
                layers["pool2"] = nn.MaxPool2d(2)
            in_channels = channels
        layers["pool3"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(in_channels, CLASSES)
        super().__init__(layers)


def wide() -> DigitNet:
    """Make a DigitNet with three times the channels and 163,534 parameters: a teacher for distillation."""
    return DigitNet(3)


def rename_former_factory(factory: str) -> str:
    """Replace the former name of this module in a recorded factory with its present name."""
    return factory.replace(_FORMER_MODULE, f"{__name__}:") if factory.startswith(_FORMER_MODULE) else factory


def build_network(factory: str) -> nn.Module:
    """Build the network that `package.module:factory` returns when it is called without arguments.

    Modules are also searched in the current folder, as with `python -m`.

    Raises:
        UsageError: there is no such module or factory, it fails, or it does not return an nn.Module with weights.
    """
    if not isinstance(factory, str):
        raise UsageError(f"network {factory!r:.80}: expected a text, package.module:factory, such as {DIGITNET}")
    factory = rename_former_factory(factory)
    module_name, colon, attribute = factory.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"--network {factory}: expected package.module:factory, such as {DIGITNET}")
    if module_name.endswith(".py"):
        name = module_name.removesuffix(".py").replace("/", ".")
        raise UsageError(f"--network {factory}: expected the name of a module, not of its file: {name}:{attribute}")
    current_folder = str(Path.cwd())
    sys.path.insert(0, current_folder)
    try:
        trouble = f"--network {factory}: {module_name} cannot be imported"
        try:
            module = _run_users_code(lambda: importlib.import_module(module_name), trouble)
        except UsageError as error:
            cause = error.__cause__
            if isinstance(cause, ModuleNotFoundError) and f"{module_name}.".startswith(f"{cause.name}."):
                text = f"{error}: expected a module in {current_folder}, where this runs, or of an installed package"
                raise UsageError(text) from cause
            raise
    finally:
        sys.path.remove(current_folder)
    function = getattr(module, attribute, None)
    if not hasattr(module, attribute):
        raise UsageError(f"--network {factory}: {module_name} has no factory named {attribute}")
    if not callable(function):
        kind = type(function).__name__
        raise UsageError(f"--network {factory}: expected a function or a class, found {attribute} of type {kind}")
    try:
        network = _run_users_code(function, f"--network {factory}: the factory failed")
    except UsageError as error:
        if isinstance(error.__cause__, TypeError) and _needs_arguments(function):
            text = f"{error}: a factory is called without arguments: name one that calls {attribute} with them"
            raise UsageError(text) from error.__cause__
        raise
    return check_module(network, f"--network {factory}")


def check_module(network: object, name: str) -> nn.Module:
    """Check that a network is a module whose weights have values, and return it.

    Args:
        network: what a user passes as a network.
        name: what the text of an error begins with.

    Raises:
        UsageError: the network is not a module, or one of its weights is on the device meta.
    """
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name}: expected a torch.nn.Module, found {type(network).__name__}")
    for tensor_name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name}: {tensor_name} is on the device meta, which holds no values: make the network on the CPU"
            )
    return network


def set_weights(network: nn.Module, weights: Mapping[str, NDArray[np.float32]], trouble: str) -> None:
    """Load a checkpoint's weights, named as in the network's state_dict, into a network.

    Raises:
        EdgeMnistError: the weights are those of another network; the text begins with `trouble`.
    """
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    try:
        missing, _ = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise EdgeMnistError(trouble) from error
    if unset := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise EdgeMnistError(f"{trouble}: {unset[0]} is missing")


def _run_users_code(code: Callable[[], Any], trouble: str) -> Any:
    """Call a user's code with an empty command line, because the arguments of edge-mnist are not meant for it.

    Raises:
        UsageError: the code fails or ends the program; the text begins with `trouble`.
    """
    arguments, sys.argv = sys.argv, sys.argv[:1]
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):  # argparse writes its usage before it ends the program
            try:
                result = code()
            except RuntimeError as error:
                if "torchvision::" not in str(error):
                    raise
                import_torchvision()
                result = code()
    except SystemExit as error:
        last_line = (stderr.getvalue().strip().splitlines() or [""])[-1]
        output = f", after {last_line!r}" if last_line else ""
        raise UsageError(
            f"{trouble}: it ends the program with sys.exit({error.code!r}){output}: "
            'put what only a script needs under if __name__ == "__main__":'
        ) from error
    except Exception as error:  # user code may fail in any way
        raise UsageError(f"{trouble}: {_describe_error(error)}") from error
    finally:
        sys.argv = arguments
    sys.stderr.write(stderr.getvalue())
    return result


def _needs_arguments(function: Callable[..., Any]) -> bool:
    """Whether a function cannot be called without arguments."""
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # the signature of some functions in C is not known
        pass
    return False


def _describe_error(error: Exception) -> str:
    """Describe an error in a user's code in one line, with the place where it happened."""
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    # A module that does not exist fails inside the import system, and a call with the wrong number of arguments fails
    # here. Neither location would help the user.
    return (
        text
        if place.filename.startswith("<") or place.filename == __file__
        else f"{text} ({Path(place.filename).name}, line {place.lineno})"
    )
