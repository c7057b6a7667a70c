"""From a checkpoint or a factory to a network that can be exported."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mnist.graph.operations import FloatGraph
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, missing_package
from edge_mnist.system.files import read_bytes

if TYPE_CHECKING:
    from edge_mnist.graph.checkpoint import Checkpoint


def trained(path: Path | None, network: str | None = None) -> Checkpoint:
    """The network to export.

    Args:
        path: a checkpoint; None is the shipped one. With a network: its state_dict in a file of safetensors or
            torch.save, or None for the weights that the factory gives it.
        network: a factory, package.module:factory.

    Raises:
        EdgeMnistError: the file is not that, or the network cannot be exported; see `checkpoint.load`,
            `tracing.describe`, `same_logits.check_same_logits`.
    """
    from edge_mnist.graph import checkpoint

    if network is not None:
        return _built(network, path)
    if path is not None:
        return checkpoint.load(path)
    return checkpoint.load(SHIPPED)


def calibrated(source: Checkpoint, graph: FloatGraph, folder: Path | None, recalibrate: bool) -> Checkpoint:
    """The checkpoint with activation statistics: its own, or new ones where it has none or that is asked for.

    New ones are of 4,096 training images of MNIST, or of drawn digits where MNIST is not to be had.
    """
    from edge_mnist.data import mnist, strokes
    from edge_mnist.data.images import is_named
    from edge_mnist.graph import calibration

    if source.statistics and not recalibrate:
        return source
    if graph.input_shape != (1, 28, 28):
        raise EdgeMnistError(
            f"the network takes images of {graph.input_shape}, MNIST's are (1, 28, 28): calibrate it through Python, "
            "edge_mnist.graph.calibration.collect, and keep the statistics in its checkpoint"
        )
    if is_named(folder) or mnist.available(folder, "train"):
        digits = mnist.load("train", folder, download=False)
    else:
        digits = strokes.draw(calibration.IMAGES, seed=2)
    return replace(source, statistics=calibration.collect(graph, digits.images[: calibration.IMAGES]))


def origin(path: Path | None, network: str | None, source: Checkpoint) -> dict[str, Any]:
    """What a manifest says of the checkpoint: its file's name and hash or its factory, and what training recorded."""
    said = dict(source.metadata)
    if network is not None:
        said = {"network": network, **said}
    if path is not None:
        return {"file": path.name, "sha256": hashlib.sha256(read_bytes(path)).hexdigest(), **said}
    return said if network is not None else {"file": SHIPPED.name, **said}


def _built(network: str, path: Path | None) -> Checkpoint:
    """A factory's network as a checkpoint without statistics."""
    from edge_mnist.graph import checkpoint
    from edge_mnist.graph.checkpoint import Checkpoint
    from edge_mnist.graph.layers import check_input_shape, weight_shapes

    try:
        from edge_mnist.training import network as networks
        from edge_mnist.training import runs, tracing
        from edge_mnist.training.same_logits import check_same_logits
        from edge_mnist.training.state_dict import read_state_dict
    except ImportError as error:
        raise missing_package("torch", "train") from error
    module = networks.build(network)
    shape = getattr(module, "input_shape", (1, 28, 28))
    check_input_shape(shape)
    shape = tuple(shape)
    layers = tracing.describe(module, shape)
    state = module.state_dict()
    names = weight_shapes(layers)
    found = read_state_dict(path, names) if path else runs.to_arrays({name: state[name] for name in names})
    weights = {name: found[name] for name in names if name in found}
    built = Checkpoint(layers, shape, networks.MEAN, networks.STD, weights)
    checkpoint.check_checkpoint(built, str(path or network))
    if path:
        if surplus := sorted(found.keys() - state.keys()):
            more = f" and {len(surplus) - 5} more" if len(surplus) > 5 else ""
            raise EdgeMnistError(
                f"{path}: holds tensors that {network} has no place for: {', '.join(surplus[:5])}{more}: "
                "is it another network's? Otherwise remove them from the file"
            )
        networks.set_weights(module, found, f"{path}: its weights do not fit {network}")
    check_same_logits(module, built)
    return built
