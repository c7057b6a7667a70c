"""Distillation: a small network learns the opinion of larger ones on each image as it was changed, not its label alone.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.training.network import DIGITNET, build, set_weights
from edge_mnist.training.recipes import Recipe

_PREFIX = "teacher"


class Teacher:
    """Trained networks, whose logits are averaged."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take networks from (B, 1, 28, 28) to logits (B, 10); they are not trained any further."""
        self._networks = networks
        for network in networks:
            network.eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, normalized: torch.Tensor) -> torch.Tensor:
        """float32 (B, 1, 28, 28), as `steps.normalize` makes them, to float32 (B, 10)."""
        return torch.stack([network(normalized).float() for network in self._networks]).mean(0)


def send(teachers: Sequence[Checkpoint]) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Teachers as arrays by name, and the factory of each, for `receive`."""
    arrays = {f"{_PREFIX}{i}/{name}": array for i, one in enumerate(teachers) for name, array in one.weights.items()}
    return arrays, [str(one.metadata.get("network", DIGITNET)) for one in teachers]


def receive(arrays: Mapping[str, npt.NDArray[Any]], factories: Sequence[str], device: str) -> Teacher | None:
    """What `send` sent, perhaps among other arrays; None where there is no teacher.

    Raises:
        EdgeMnistError: a factory makes another network than it made for the checkpoint.
    """
    networks = []
    for index, factory in enumerate(factories):
        network, prefix = build(factory), f"{_PREFIX}{index}/"
        weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        set_weights(network, weights, f"--teacher: its weights are of another network than {factory} builds")
        networks.append(network.to(device=device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    return Teacher(networks) if networks else None


def loss(logits: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, recipe: Recipe) -> torch.Tensor:
    """The sum of the cross entropies of logits (B, 10) with what is right, (B,) int64, and with what a teacher thinks.

    A share `recipe.distillation` of the second, both its sides at the recipe's temperature T and times T^2, so that
    the gradient keeps its size (Hinton et al., section 2).
    """
    hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="sum")
    if taught is None:
        return hard
    temperature = recipe.temperature
    soft = F.cross_entropy(logits / temperature, (taught / temperature).softmax(1), reduction="sum")
    return torch.lerp(hard, soft * temperature**2, recipe.distillation)
