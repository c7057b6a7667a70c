"""From what a user has (a checkpoint, a factory, a module) to a network that can be exported and quantized."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import mnist, strokes
from edge_mnist.data.images import is_folder_named
from edge_mnist.graph import calibration, checkpoint
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import check_input_shape, weight_shapes
from edge_mnist.graph.operations import FloatGraph
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, UsageError, missing_package
from edge_mnist.system.files import read_bytes

if TYPE_CHECKING:
    from torch import nn

StrPath: TypeAlias = "str | os.PathLike[str]"
Model: TypeAlias = "StrPath | nn.Module | None"
"""What can be exported: a checkpoint's path, a PyTorch module, or None for the shipped network."""


def load_network(
    model: Model = None, network: str | None = None, input_shape: tuple[int, int, int] | None = None
) -> Checkpoint:
    """Load the network to export.

    Args:
        model: a checkpoint's path, a module, or None for the shipped network. With `network`, the path of a state_dict
            in a file of safetensors or torch.save, or None for the weights that the factory gives it.
        network: a factory, package.module:factory.
        input_shape: channels, height, width of a module or of a factory's network; else its attribute `input_shape`,
            else (1, 28, 28).

    Returns:
        The network; one that is not a checkpoint of edge-mnist comes without activation statistics.

    Raises:
        EdgeMnistError: the model is none of these, or cannot be exported; see `checkpoint.load`,
            `tracing.trace_layers` and `same_logits.check_same_logits`.
    """
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    if network is None and (model is None or path is not None):
        if input_shape is not None:
            raise UsageError("input_shape: a checkpoint states its own: leave it out")
        return checkpoint.load(path or SHIPPED)
    if network is not None and model is not None and path is None:
        raise UsageError(f"network {network}: the model is a module already: leave network out")
    try:
        from edge_mnist.training import network as networks
    except ImportError as error:
        raise missing_package("torch", "train") from error
    if network is not None:
        return _convert(networks.build_network(network), network, path, input_shape)
    return _convert(networks.check_module(model, "model"), type(model).__name__, None, input_shape)


def calibrate(
    source: Checkpoint,
    graph: FloatGraph,
    images: NDArray[np.uint8] | StrPath | None = None,
    *,
    data: StrPath | None = None,
    recalibrate: bool = False,
) -> Checkpoint:
    """The checkpoint with activation statistics: those it has, or new ones if it has none or new ones are asked for.

    Args:
        source: the network.
        graph: the same, folded.
        images: to collect new statistics of: uint8 (N, height, width) or (N, channels, height, width), or the folder
            of MNIST's files; None for the first 4,096 training images of MNIST, or drawn digits if MNIST is not here.
        data: the folder of MNIST's files.
        recalibrate: collect new statistics even if the checkpoint has some.

    Raises:
        EdgeMnistError: the images do not fit the network.
    """
    if source.statistics and not recalibrate and images is None:
        return source
    if isinstance(images, np.ndarray):
        channels, height, width = graph.input_shape
        fits = images.shape[1:] == graph.input_shape or (channels == 1 and images.shape[1:] == (height, width))
        if images.dtype != np.uint8 or not fits or not len(images):
            raise UsageError(
                f"calibration: expected images uint8 (N, {channels}, {height}, {width}), found {images.dtype} "
                f"{images.shape}"
            )
        return replace(source, statistics=calibration.collect(graph, images))
    if graph.input_shape != (1, 28, 28):
        raise EdgeMnistError(
            f"the network takes images of {graph.input_shape}, MNIST's are (1, 28, 28): calibrate it from Python, with "
            "edge_mnist.export_model(..., calibration=images)"
        )
    chosen = images if images is not None else data
    folder = None if chosen is None else Path(chosen)
    if is_folder_named(folder) or mnist.is_available(folder, "train"):
        digits = mnist.load("train", folder, download=False)
    else:
        digits = strokes.draw(calibration.IMAGES, seed=2)
    return replace(source, statistics=calibration.collect(graph, digits.images[: calibration.IMAGES]))


def describe_origin(model: Model, network: str | None, source: Checkpoint) -> dict[str, Any]:
    """What a manifest says of the checkpoint: its file's name and hash or its factory, and what training recorded."""
    recorded = dict(source.metadata)
    if network is not None:
        recorded = {"network": network, **recorded}
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        return {"file": path.name, "sha256": hashlib.sha256(read_bytes(path)).hexdigest(), **recorded}
    if model is not None:
        return {"module": f"{type(model).__module__}.{type(model).__qualname__}", **recorded}
    return recorded if network is not None else {"file": SHIPPED.name, **recorded}


def _convert(module: nn.Module, name: str, path: Path | None, input_shape: tuple[int, int, int] | None) -> Checkpoint:
    """A module as a checkpoint without statistics, with the weights of a file if there is one."""
    from edge_mnist.training import network as networks
    from edge_mnist.training import runs, tracing
    from edge_mnist.training.same_logits import check_same_logits
    from edge_mnist.training.state_dict import read_state_dict

    shape = getattr(module, "input_shape", (1, 28, 28)) if input_shape is None else input_shape
    check_input_shape(shape)
    shape = tuple(shape)
    layers = tracing.trace_layers(module, shape)
    state = module.state_dict()
    names = weight_shapes(layers)
    found = read_state_dict(path, names) if path else runs.to_arrays({key: state[key] for key in names})
    weights = {key: found[key] for key in names if key in found}
    converted = Checkpoint(layers, shape, networks.MEAN, networks.STD, weights)
    checkpoint.check_checkpoint(converted, str(path or name))
    if path:
        if surplus := sorted(found.keys() - state.keys()):
            more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
            raise EdgeMnistError(
                f"{path}: holds tensors that {name} has no place for: {', '.join(surplus[:5])}{more}: "
                "is it another network's? Otherwise remove them from the file"
            )
        networks.set_weights(module, found, f"{path}: its weights do not fit {name}")
    check_same_logits(module, converted)
    return converted
