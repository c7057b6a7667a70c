"""Distillation: a small network learns from the outputs of larger ones for each augmented image, besides its label.

Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.training.network import DIGITNET, build_network, set_weights
from edge_mnist.training.recipes import Recipe

_PREFIX = "teacher"
"""What the names of a teacher's arrays begin with; its index follows."""


class Teacher:
    """Trained networks whose logits are averaged."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        """Take networks from (B, 1, 28, 28) to logits (B, 10), and freeze them."""
        self._networks = networks
        for network in networks:
            network.eval().requires_grad_(False)

    @torch.no_grad()
    def compute_logits(self, normalized: torch.Tensor) -> torch.Tensor:
        """Compute the mean logits, float32 (B, 10), of float32 (B, 1, 28, 28) from `steps.normalize`."""
        return torch.stack([network(normalized).float() for network in self._networks]).mean(0)


def pack_teachers(teachers: Sequence[Checkpoint]) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Pack teachers for `unpack_teacher`: their weights by name, and the factory of each."""
    arrays = {
        f"{_PREFIX}{index}/{name}": array
        for index, teacher in enumerate(teachers)
        for name, array in teacher.weights.items()
    }
    return arrays, [str(teacher.metadata.get("network", DIGITNET)) for teacher in teachers]


def unpack_teacher(arrays: Mapping[str, NDArray[Any]], factories: Sequence[str], device: str) -> Teacher | None:
    """Build the teacher from what `pack_teachers` returned.

    Args:
        arrays: the weights, perhaps among other arrays.
        factories: the factory of each network.
        device: cpu or cuda.

    Returns:
        The teacher; None if there is no factory.

    Raises:
        EdgeMnistError: a factory makes another network than it made for the checkpoint.
    """
    networks = []
    for index, factory in enumerate(factories):
        network, prefix = build_network(factory), f"{_PREFIX}{index}/"
        weights = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        set_weights(network, weights, f"--teacher: its weights are of another network than {factory} builds")
        networks.append(network.to(device=device, memory_format=torch.channels_last))  # type: ignore[call-overload]
    return Teacher(networks) if networks else None


def compute_loss(
    logits: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """Sum the cross entropies with the labels and, weighted by `recipe.distillation`, with a teacher's probabilities.

    The teacher's term divides both logits by the recipe's temperature T and is multiplied by T^2, so that the size of
    its gradient does not depend on T (Hinton et al., section 2).

    Args:
        logits: (B, 10), of the network that is trained.
        labels: int64 (B,).
        teacher_logits: (B, 10); None without a teacher.
        recipe: gives label smoothing, weight of the teacher, and temperature.
    """
    label_loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing, reduction="sum")
    if teacher_logits is None:
        return label_loss
    temperature = recipe.temperature
    teacher_loss = F.cross_entropy(logits / temperature, (teacher_logits / temperature).softmax(1), reduction="sum")
    return torch.lerp(label_loss, teacher_loss * temperature**2, recipe.distillation)
