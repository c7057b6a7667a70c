"""From what a user has (a checkpoint, a factory, a module) to a network that can be exported and quantized."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edge_mnist.data import mnist, strokes
from edge_mnist.data.images import is_folder_named, refuse_source
from edge_mnist.data.inputs import MNIST_SHAPE, InputOptions, are_features
from edge_mnist.data.user_inputs import UserInputs, open_inputs
from edge_mnist.formats.table import detect_format
from edge_mnist.graph import checkpoint
from edge_mnist.graph.calibration import IMAGES, collect
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import Shape, check_input_shape, weight_shapes
from edge_mnist.graph.operations import Conv2d, FloatGraph
from edge_mnist.graph.tensor_file import is_safetensors
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.archives import is_torch_save_file
from edge_mnist.system.errors import EdgeMnistError, UsageError, explain_missing_packages, first_line
from edge_mnist.system.files import read_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

_LOG = logging.getLogger(__name__)

_MOST_WORK = 4e11
"""The most multiply-accumulates that calibration or a comparison takes, unless the user names a number of inputs: 222
images of 3x224x224 pixels through ResNet-18. NumPy computes some 10^10 in a second on two cores."""
_FEW = 100
"""The least number of calibration inputs of which no note is logged."""

StrPath: TypeAlias = "str | os.PathLike[str]"
Model: TypeAlias = "StrPath | nn.Module | None"
"""What can be exported: a checkpoint's path, a PyTorch module, or None for the shipped network."""


def load_network(
    model: Model = None,
    network: str | None = None,
    options: InputOptions | None = None,
    calibration: UserInputs | None = None,
) -> Checkpoint:
    """Load the network to export.

    Args:
        model: a checkpoint's path, a module, or None for the shipped network. With `network`, the path of a state_dict
            in a file of safetensors or torch.save, or None for the weights that the factory gives it.
        network: a factory, package.module:factory.
        options: what the user says of the inputs of a module or of a factory's network.
        calibration: the user's calibration data, from which the shape of the input is found if neither the options nor
            the module's attribute `input_shape` state it.

    Returns:
        The network; one that is not a checkpoint of edge-mnist comes without activation statistics.

    Raises:
        EdgeMnistError: the model is none of these, or cannot be exported; see `checkpoint.load`,
            `tracing.trace_network` and `same_logits.check_same_logits`.
    """
    options = options or InputOptions()
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    if network is None and (model is None or path is not None):
        for name, is_named in (
            ("input_shape", options.shape is not None),
            ("mean, std and scale", options.normalizes),
            ("features", options.features),
        ):
            if is_named:
                raise UsageError(f"{name}: a checkpoint states its own: leave it out")
        return load_checkpoint(path or SHIPPED)
    if network is not None and model is not None and path is None:
        raise UsageError(f"network {network}: the model is a module already: leave network out")
    with explain_missing_packages():
        from edge_mnist.training import network as networks
    if network is not None:
        return _convert(networks.build_network(network), network, path, options, calibration)
    return _convert(networks.check_module(model, "model"), type(model).__name__, None, options, calibration)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint, and say so if the file is an exported artifact instead.

    Raises:
        EdgeMnistError: as `checkpoint.load`.
    """
    data = read_bytes(path)
    kind = None if is_safetensors(data) or is_torch_save_file(data) else detect_format(data)
    if kind is not None:
        raise EdgeMnistError(
            f"{path}: seems to be an artifact in {kind.title}, expected the checkpoint or the network of an export"
        )
    return checkpoint.decode(data, path)


def calibrate(
    source: Checkpoint,
    graph: FloatGraph,
    inputs: UserInputs | None = None,
    *,
    calibration: StrPath | None = None,
    data: StrPath | None = None,
    recalibrate: bool = False,
    options: InputOptions | None = None,
) -> tuple[Checkpoint, dict[str, Any]]:
    """Complete a checkpoint by activation statistics if it has none, or if new ones are asked for.

    Args:
        source: the network.
        graph: the same, folded.
        inputs: the user's calibration data, to collect new statistics of. None for the first 4,096 training images of
            MNIST, or for drawn digits if MNIST is not here, which serve only a network of MNIST's images.
        calibration: the folder of MNIST's files to collect new statistics of, if the user named one for that.
        data: what the user named to verify on, which may be another folder of MNIST's files.
        recalibrate: collect new statistics even if the checkpoint has some.
        options: how pictures are prepared; None for the defaults.

    Returns:
        The checkpoint with statistics, and what a manifest says of the inputs that they were collected on: `inputs`,
        their name, and `count`. It says nothing if the checkpoint had its statistics already.

    Raises:
        EdgeMnistError: the inputs do not fit the network, or there are none to calibrate with.
    """
    if inputs is not None:
        count = limit_inputs(graph, IMAGES)
        values, _ = inputs.read(graph.input_shape, count, options or InputOptions(), is_pixels=graph.is_pixels)
        _LOG.info("calibrating on %s inputs", f"{len(values):,}")
        if values.min() == values.max():
            raise EdgeMnistError(f"{inputs.name}: every value is {values.min()}: calibrate with inputs that differ")
        if len(values) < _FEW:
            text = "note: %s: calibrated with %s inputs only: %s or more show the range of each layer better"
            _LOG.warning(text, inputs.name, len(values), _FEW)
        return _collect(source, graph, values, inputs.name)
    if source.statistics and not recalibrate and calibration is None:
        return source, {}
    is_mnist = graph.input_shape == MNIST_SHAPE and graph.is_pixels
    if calibration is not None and not is_mnist:
        raise refuse_source(Path(calibration), graph.input_shape)
    chosen = calibration if calibration is not None else data
    folder = None if chosen is None else Path(chosen)
    if not is_mnist or (folder is not None and open_inputs(folder, "test") is not None):
        kind = "images" if graph.is_pixels else "inputs"
        raise EdgeMnistError(
            f"the network takes {kind} of {graph.input_shape} that are not MNIST's: give some of them to calibrate "
            "with: --calibrate with a folder of pictures, a .npy or a .npz, or "
            f"edge_mnist.export_model(..., calibration={kind})"
        )
    if is_folder_named(folder) or mnist.is_available(folder, "train"):
        digits = mnist.load("train", folder, download=False)
    else:
        text = "note: calibrated on drawn digits, because MNIST's images are not here: %s"
        _LOG.warning(text, "name some of the network's inputs with --calibrate, or MNIST's folder with --data")
        digits = strokes.draw(IMAGES, seed=2)
    return _collect(source, graph, digits.images[:IMAGES], digits.source)


def _collect(
    source: Checkpoint, graph: FloatGraph, values: NDArray[np.generic], name: str
) -> tuple[Checkpoint, dict[str, Any]]:
    """Collect statistics on inputs: what `calibrate` returns."""
    return replace(source, statistics=collect(graph, values)), {"inputs": name, "count": len(values)}


def limit_inputs(graph: FloatGraph, count: int) -> int:
    """How many of `count` inputs the float network is run on: fewer if it is large, so that it takes minutes."""
    sizes = (height * width for _, height, width in graph.shapes()[1:])
    steps = zip(graph.operations, sizes, strict=True)
    work = sum(operation.weight.size * size for operation, size in steps if isinstance(operation, Conv2d))
    return max(1, min(count, int(_MOST_WORK // max(work, 1))))


def describe_origin(model: Model, network: str | None, source: Checkpoint) -> dict[str, Any]:
    """What a manifest says of the checkpoint: its file's name and hash or its factory, and what training recorded."""
    recorded = dict(source.metadata)
    if network is not None:
        recorded = {"network": network, **recorded}
    if isinstance(model, str | os.PathLike):
        return {"file": Path(model).name, "sha256": source.sha256, **recorded}
    if model is not None:
        return {"module": f"{type(model).__module__}.{type(model).__qualname__}", **recorded}
    return recorded if network is not None else {"file": SHIPPED.name, **recorded}


def _convert(
    module: nn.Module, name: str, path: Path | None, options: InputOptions, calibration: UserInputs | None
) -> Checkpoint:
    """A module as a checkpoint without statistics, with the weights of a file if there is one."""
    from edge_mnist.training import runs, tracing
    from edge_mnist.training.same_logits import check_same_logits
    from edge_mnist.training.state_dict import load_weights

    with _explain_failure(module, "state_dict"):
        module = tracing.to_float32(module)
    digest = load_weights(module, path, name) if path else ""
    with _explain_failure(module, "input_shape"):
        shape, origin = _find_input_shape(module, options, calibration)
    check_input_shape(shape)
    shape = tuple(shape)
    module = tracing.to_float32(module)
    _check_one_input(module)
    try:
        traced = tracing.trace_network(module, shape)
    except EdgeMnistError as error:
        if _accepts(module, shape):
            raise
        raise EdgeMnistError(
            f"{error} (its input was taken as {shape}, {origin}: name another with --input-shape)"
        ) from error
    is_pixels = len(shape) == 3 and not options.features
    if is_pixels and calibration is not None and calibration.values is not None:
        is_pixels = not are_features(calibration.values, replace(options, shape=shape), calibration.name)
    mean, std = _choose_normalization(shape, options, is_pixels=is_pixels)
    state = module.state_dict()
    weights = runs.to_arrays({key: state[key] for key in weight_shapes(traced.layers)})
    converted = Checkpoint(
        traced.layers, shape, mean, std, weights, is_pixels=is_pixels, ending=traced.ending, sha256=digest
    )
    checkpoint.check_checkpoint(converted, str(path or name))
    check_same_logits(module, converted)
    return converted


@contextmanager
def _explain_failure(module: nn.Module, attribute: str) -> Iterator[None]:
    """Turn what a user's module raises where it is asked for an attribute into an error with the module's name."""
    try:
        yield
    except EdgeMnistError:
        raise
    except Exception as error:
        raise EdgeMnistError(
            f"{type(module).__name__}: its {attribute} cannot be used: {type(error).__name__}: {first_line(error)}"
        ) from error


def _find_input_shape(module: nn.Module, options: InputOptions, calibration: UserInputs | None) -> tuple[Any, str]:
    """The shape of a module's input, unchecked, and why it was chosen."""
    from torch import nn

    if options.shape is not None:
        return options.shape, "as --input-shape says"
    if (stated := getattr(module, "input_shape", None)) is not None:
        return stated, "as its attribute input_shape says"
    if calibration is None:
        return MNIST_SHAPE, "as MNIST's"
    kinds = {nn.Conv2d: 3, nn.Conv1d: 2, nn.Linear: 1}
    first = next((part for part in module.modules() if type(part) in kinds), None)
    dimensions = kinds[type(first)] if first is not None else None
    channels = getattr(first, "in_channels", None)
    return calibration.find_shape(options, dimensions, channels), f"as the inputs of {calibration.name} are"


def _check_one_input(module: nn.Module) -> None:
    """Refuse a module that cannot be called with one input.

    Raises:
        EdgeMnistError: its forward takes none, or needs several.
    """
    try:
        inspect.signature(module.forward).bind(None)
    except TypeError as error:
        raise EdgeMnistError(
            f"{type(module).__name__}: its forward cannot be called with one input ({first_line(error)}): expected a "
            "network of one input: export each branch alone, or give the others a default"
        ) from error
    except ValueError:  # the signature of some functions in C is not known
        pass


def _accepts(module: nn.Module, shape: Shape) -> bool:
    """Whether a module can be run on inputs of a shape."""
    import torch

    try:
        with torch.no_grad():
            copy.deepcopy(module).eval()(torch.zeros(2, *shape))
    except (Exception, SystemExit):  # user code may fail in any way
        return False
    return True


def _choose_normalization(shape: Shape, options: InputOptions, *, is_pixels: bool) -> tuple[Any, Any]:
    """The mean and std of a checkpoint, whose network takes (pixel / 255 - mean) / std; what is assumed is noted."""
    if not is_pixels:
        if options.normalizes:
            raise UsageError("mean, std and scale: are for pixels, but the network takes features: leave them out")
        return 0.0, 1.0
    if options.normalizes:
        return options.normalization(shape[0])
    if shape == MNIST_SHAPE:
        from edge_mnist.training import network as networks

        text = "note: the network is taken to expect images of %s, (pixel / 255 - %s) / %s, as for MNIST: say otherwise"
        _LOG.warning(f"{text} with --input-shape, --mean and --std", shape, networks.MEAN, networks.STD)
        return networks.MEAN, networks.STD
    _LOG.warning("note: the network is taken to expect pixel / 255: say otherwise with --mean, --std and --scale")
    return 0.0, 1.0
