"""Folding changes the form of a network but not what it computes, which is compared with PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_mnist.data import strokes
from edge_mnist.graph import checkpoint as checkpoints
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.folding import fold
from edge_mnist.graph.interpreter import run_float
from edge_mnist.graph.layers import (
    AvgPool2dLayer,
    BatchNorm2dLayer,
    Conv2dLayer,
    FlattenLayer,
    GlobalAvgPool2dLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
)
from edge_mnist.graph.operations import FloatGraph
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError
from tests.support.networks import random_checkpoint, random_images

torch = pytest.importorskip("torch")
nn = torch.nn


def module(layer: Layer) -> Any:
    """One layer in PyTorch."""
    settings = {key: value for key, value in layer.to_json().items() if key not in ("op", "name")}
    match layer:
        case Conv2dLayer():
            return nn.Conv2d(**settings)
        case BatchNorm2dLayer():
            return nn.BatchNorm2d(**settings)
        case MaxPool2dLayer():
            return nn.MaxPool2d(**settings)
        case AvgPool2dLayer():
            return nn.AvgPool2d(**settings)
        case GlobalAvgPool2dLayer():
            return nn.AdaptiveAvgPool2d(1)
        case LinearLayer():
            return nn.Linear(**settings)
        case ReluLayer():
            return nn.ReLU()
    assert isinstance(layer, FlattenLayer)
    return nn.Flatten()


def network(source: Checkpoint, graph: FloatGraph) -> Any:
    """The checkpoint as a PyTorch module in float64; where it pads its input, it pads with the graph's pixel."""
    layers = OrderedDict((layer.name, module(layer)) for layer in source.architecture)
    result = nn.Sequential(layers)
    weights = {name: torch.from_numpy(array) for name, array in source.weights.items()}
    keys = result.load_state_dict(weights, strict=False)
    assert not keys.unexpected_keys and all(key.endswith("num_batches_tracked") for key in keys.missing_keys)
    first = graph.convolutions[0]
    down, right = first.window.padding
    if (down, right) != (0, 0):
        assert graph.zero_pixel == round(255 * source.mean)
        layers[first.name].padding = 0 if isinstance(layers[first.name], nn.AvgPool2d) else (0, 0)
        margin = nn.ConstantPad2d((right, right, down, down), (graph.zero_pixel / 255 - source.mean) / source.std)
        layers[first.name] = nn.Sequential(margin, layers[first.name])
        result = nn.Sequential(layers)
    return result.double().eval()


def torch_logits(source: Checkpoint, graph: FloatGraph, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        pixels = torch.from_numpy(images.astype(np.float64))
        logits: np.ndarray = network(source, graph)((pixels / 255 - source.mean) / source.std).numpy()
    return logits


def test_random_networks_compute_what_pytorch_computes() -> None:
    padding = 0
    for seed in range(150):
        source = replace(random_checkpoint(seed), mean=0.03 + seed % 10 / 10)
        graph, images = fold(source), random_images(source, 6, seed)
        expected = torch_logits(source, graph, images)
        limit = 1e-4 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(run_float(graph, images), expected, rtol=0, atol=limit, err_msg=f"seed {seed}")
        padding += graph.convolutions[0].window.padding != (0, 0)
    assert padding >= 10


def test_digitnet_changes_by_rounding_only() -> None:
    source = checkpoints.load(SHIPPED)
    graph, images = fold(source), strokes.draw(200, seed=5).images
    layers = "conv1 conv2 conv3 pool1 conv4 conv5 pool2 conv6 conv7 linear"
    assert " ".join(operation.name for operation in graph.operations) == layers  # the pool over 1x1 drops out
    assert graph.zero_pixel == 0
    difference = np.abs(run_float(graph, images) - torch_logits(source, graph, images[:, None]))
    assert difference.max() <= 1e-4


def test_relu_goes_through_a_max_pool_into_the_convolution() -> None:
    source = checkpoints.load(SHIPPED)
    by_name = {layer.name: layer for layer in source.architecture}
    end = GlobalAvgPool2dLayer("end")
    layers = [by_name["conv1"], by_name["bn1"], by_name["pool1"], by_name["relu1"], by_name["relu2"], end]
    graph = fold(replace(source, architecture=tuple(layers)))
    assert [operation.name for operation in graph.operations] == ["conv1", "pool1", "end"]
    assert [convolution.relu for convolution in graph.convolutions] == [True, False]


def test_folding_is_the_same_every_time() -> None:
    for seed in range(20):
        first, second = fold(random_checkpoint(seed)), fold(random_checkpoint(seed))
        for a, b in zip(first.convolutions, second.convolutions, strict=True):
            assert (a.weight.tobytes(), a.bias.tobytes()) == (b.weight.tobytes(), b.bias.tobytes())


def test_what_has_no_logits_or_no_weights_is_refused() -> None:
    source = checkpoints.load(SHIPPED)
    maps = replace(source, architecture=source.architecture[:3])
    with pytest.raises(EdgeMnistError, match="ends in maps of 26x26"):
        fold(maps)
    with pytest.raises(EdgeMnistError, match="no layer with weights"):
        fold(Checkpoint((FlattenLayer("flatten"),), (3, 1, 1), 0.1, 0.3, {}))
