"""DigitNet: seven convolutions and 18,662 parameters that read a digit of 28x28 pixels."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.training.torchvision_shim import import_torchvision

MEAN = 0.1307
"""Mean of MNIST's training pixels, scaled to [0, 1]."""
STD = 0.3081
"""Standard deviation of MNIST's training pixels, scaled to [0, 1]."""
CLASSES = 10
DIGITNET = "edge_mnist.training.network:DigitNet"

_PADDING = {6: 1}
_CHANNELS = (14, 14, 16, 18, 20, 22, 22)


class DigitNet(nn.Sequential):
    """Normalised float32 images (N, 1, 28, 28) to logits (N, 10).

    Every convolution is 3x3 with stride 1 and bias, then BatchNorm and ReLU; conv6 alone pads, by 1. The shapes after
    each stage are (N, 14, 26, 26), (N, 14, 24, 24), (N, 16, 22, 22), pool 11, (N, 18, 9, 9), (N, 20, 7, 7), pool 3,
    (N, 22, 3, 3), (N, 22, 1, 1).
    """

    def __init__(self, width: int = 1) -> None:
        """Layers with PyTorch's default initial weights, drawn from its global generator.

        Args:
            width: how many times as many channels each convolution gives, >= 1.
        """
        before = 1
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, channels in enumerate((width * count for count in _CHANNELS), 1):
            layers[f"conv{index}"] = nn.Conv2d(before, channels, 3, padding=_PADDING.get(index, 0))
            layers[f"bn{index}"] = nn.BatchNorm2d(channels)
            layers[f"relu{index}"] = nn.ReLU()
            if index == 3:
                layers["pool1"] = nn.MaxPool2d(2)
            if index == 5:
                layers["pool2"] = nn.MaxPool2d(2)
            before = channels
        layers["pool3"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["linear"] = nn.Linear(before, CLASSES)
        super().__init__(layers)


def wide() -> DigitNet:
    """The same with three times the channels, 163,534 parameters: a teacher for distillation."""
    return DigitNet(3)


def build(factory: str) -> nn.Module:
    """The module that `package.module:factory` makes when it is called without arguments.

    The folder the command was started in is searched too, as `python -m` would.

    Raises:
        UsageError: there is no such module or factory, it fails, or it does not make an nn.Module with weights.
    """
    module_name, colon, attribute = factory.partition(":")
    if not (module_name and colon and attribute):
        raise UsageError(f"--network {factory}: expected package.module:factory, such as {DIGITNET}")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        trouble = f"--network {factory}: {module_name} cannot be imported"
        module = _run_users_code(lambda: importlib.import_module(module_name), trouble)
    finally:
        sys.path.remove(here)
    make = getattr(module, attribute, None)
    if not callable(make):
        raise UsageError(f"--network {factory}: {module_name} has no factory named {attribute}")
    network = _run_users_code(make, f"--network {factory}: the factory failed")
    return check_module(network, f"--network {factory}")


def check_module(network: object, name: str) -> nn.Module:
    """The network, if it is a module whose weights have values; `name` begins the text of an error.

    Raises:
        UsageError: it is something else, or a weight is on the device meta.
    """
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name}: expected a torch.nn.Module, found {type(network).__name__}")
    for tensor_name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_meta:
            raise UsageError(
                f"{name}: {tensor_name} is on the device meta, which holds no values: make the network on the CPU"
            )
    return network


def set_weights(network: nn.Module, weights: Mapping[str, npt.NDArray[np.float32]], trouble: str) -> None:
    """Give a network a checkpoint's weights, named as in its state_dict.

    Raises:
        EdgeMnistError: `trouble`; they are another network's.
    """
    tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
    try:
        missing, _ = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise EdgeMnistError(trouble) from error
    if unset := [name for name in missing if not name.endswith("num_batches_tracked")]:
        raise EdgeMnistError(f"{trouble}: {unset[0]} is missing")


def _run_users_code(code: Callable[[], Any], trouble: str) -> Any:
    """What a user's code gives; it sees a command line without arguments, which are not its own.

    Raises:
        UsageError: it fails, or ends the program; the text begins with `trouble`.
    """
    arguments, sys.argv = sys.argv, sys.argv[:1]
    written = io.StringIO()
    try:
        with contextlib.redirect_stderr(written):  # argparse writes its usage before it ends the program
            try:
                result = code()
            except RuntimeError as error:
                if "torchvision::" not in str(error):
                    raise
                import_torchvision()
                result = code()
    except SystemExit as error:
        last = (written.getvalue().strip().splitlines() or [""])[-1]
        raise UsageError(
            f"{trouble}: it ends the program with sys.exit({error.code!r}){f', after {last!r}' if last else ''}: "
            'put what only a script needs under if __name__ == "__main__":'
        ) from error
    except Exception as error:  # it may fail in any way
        raise UsageError(f"{trouble}: {_told(error)}") from error
    finally:
        sys.argv = arguments
    sys.stderr.write(written.getvalue())
    return result


def _told(error: Exception) -> str:
    """An error of a user's code in one line, with the place where it happened."""
    text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    # A module that does not exist fails in the importing machinery, which is no place of the user's.
    return text if place.filename.startswith("<") else f"{text} ({Path(place.filename).name}, line {place.lineno})"
