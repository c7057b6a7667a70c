"""One step of training, shared by workers so that its bits do not depend on the number of workers.

A batch is cut into ghost batches. One worker runs each of them through the network on one thread, which results in a
row of numbers: the gradients, the BatchNorm statistics and the loss. All workers gather all rows, add them in the same
order and take the same step of the optimiser, each on its own copy of the network.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_mnist.data import mnist, outliers
from edge_mnist.data.keyed_random import draw_permutation, draw_uniform
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training import distillation, recipes
from edge_mnist.training.augmentation import augment
from edge_mnist.training.degradation import degrade
from edge_mnist.training.network import MEAN, STD
from edge_mnist.training.recipes import Recipe
from edge_mnist.training.runs import TrainingSettings, TrainingState
from edge_mnist.training.workers import WorkerGroup

_EVALUATION_BATCH = 1000
"""Images per pass when an accuracy is measured: few enough for a small machine's memory."""
_OUTLIERS_PER_KIND = 3000
"""How many outliers of each kind are drawn; the outliers of all batches are chosen among them."""
_USER_DIGITS_SHARE = 0.15
"""The least number of the user's own digits in an epoch, relative to the other images, where the recipe gives none."""
_MOST_REPEATS = 50
"""How often one of the user's own images is repeated in an epoch at most, however few there are."""
_OUTLIER_PURPOSE = 7
"""The purpose of the random numbers that choose outliers, see `keyed_random`."""
_USER_DIGIT_PURPOSE = 8
"""The purpose of the random numbers that choose among the user's own digits."""


@dataclass(frozen=True)
class TrainingPlan:
    """What stays the same during a run: the images, on their device, and how they are divided into steps."""

    settings: TrainingSettings
    images: torch.Tensor
    """uint8 (N + O, 28, 28): the N labelled images, then the outliers."""
    labels: torch.Tensor
    """int64 (N,)."""
    learning_indices: NDArray[np.int64]
    """The indices of the images to learn from, the user's own left out."""
    user_indices: NDArray[np.int64]
    """The indices of the user's own digits; an index may occur several times."""
    user_digits_per_epoch: int
    """The number of the user's own digits in an epoch."""
    validation_indices: NDArray[np.int64]
    """The indices of the images to validate on."""
    test_images: torch.Tensor
    """uint8 (T, 28, 28)."""
    test_labels: torch.Tensor
    """int64 (T,)."""
    batch_size: int
    ghost_batches: int
    """The number of ghost batches in a batch."""
    outliers_per_batch: int
    """The number of outliers that join each ghost batch."""
    teacher: distillation.Teacher | None = None
    first_user_digit: int | None = None
    """The index of the first of the user's own images where there is a teacher too. The teacher does not know their
    handwriting, so that only their labels are learned."""

    def choose_outliers(self, step: int, ghost_batch: int) -> NDArray[np.int64]:
        """Choose the outliers that join a ghost batch: their indices, int64 (outliers_per_batch,)."""
        positions = np.arange(self.outliers_per_batch) + ghost_batch * self.outliers_per_batch
        numbers = draw_uniform(self.settings.seed, step, positions, _OUTLIER_PURPOSE)
        count = len(self.images) - len(self.labels)
        return len(self.labels) + (numbers * count).astype(np.int64)

    def choose_images(self, epoch: int) -> NDArray[np.int64]:
        """Choose the images of an epoch, in the order in which they are learned: their indices, int64 (N,)."""
        seed, count = self.settings.seed, len(self.user_indices)
        indices = np.concatenate([self.learning_indices, self.user_indices])
        if self.user_digits_per_epoch < count:
            # Each is taken once before any is taken again.
            places = np.arange(epoch * self.user_digits_per_epoch, (epoch + 1) * self.user_digits_per_epoch)
            rounds = [
                draw_permutation(seed, number, count, _USER_DIGIT_PURPOSE)[places[places // count == number] % count]
                for number in np.unique(places // count).tolist()
            ]
            indices = np.concatenate([self.learning_indices, self.user_indices[np.concatenate(rounds)]])
        return indices[draw_permutation(seed, epoch, len(indices))]

    @property
    def steps_per_epoch(self) -> int:
        """The number of whole batches: BatchNorm fails on a batch of one image, and each epoch omits other images."""
        return (len(self.learning_indices) + self.user_digits_per_epoch) // self.batch_size

    @property
    def steps(self) -> int:
        """The number of steps of the whole run."""
        return self.settings.recipe.epochs * self.steps_per_epoch


def make_plan(
    settings: TrainingSettings, arrays: Mapping[str, NDArray[Any]], teacher: distillation.Teacher | None = None
) -> TrainingPlan:
    """Divide images into steps, draw the outliers, and move all images to the device.

    Args:
        settings: the settings of the run.
        arrays: `images` uint8 (N, 28, 28) and `labels` int64 (N,); `test_images` and `test_labels`; and optionally
            `user_images`, `user_labels` and `user_outliers`, the user's own.
        teacher: the networks to learn from besides the labels.
    """
    image_parts, label_parts = [arrays["images"]], [arrays["labels"]]
    count = len(arrays["labels"])
    if settings.everything:
        learning, validation = np.arange(count), np.arange(0)
    else:
        learning, validation = mnist.split_for_validation(arrays["labels"])
    user_indices, user_digits = np.arange(0), 0
    if "user_images" in arrays:
        image_parts.append(arrays["user_images"])
        label_parts.append(arrays["user_labels"])
        user_indices = np.arange(count, count + len(arrays["user_labels"]))
        share = settings.recipe.user_digits
        wanted = (share or _USER_DIGITS_SHARE) * len(learning)
        repeats = min(_MOST_REPEATS, round(wanted / max(1, len(user_indices))))
        user_indices = np.repeat(user_indices, max(1, repeats))
        user_digits = min(round(wanted), len(user_indices)) if share else len(user_indices)
    batch_size = min(settings.recipe.batch_size, len(learning) + user_digits)
    ghost_batches = count_ghost_batches(settings, batch_size)
    outliers_per_batch = 0
    if settings.recipe.outliers:
        outliers_per_batch = max(1, round(settings.recipe.outliers * batch_size / ghost_batches))
        digits = arrays["images"][learning]
        image_parts += outliers.draw(outliers.TRAINING, _OUTLIERS_PER_KIND, settings.seed, digits).values()
        user_outliers = arrays.get("user_outliers")
        if user_outliers is not None and len(user_outliers):
            image_parts += [user_outliers] * min(_MOST_REPEATS, max(1, _OUTLIERS_PER_KIND // len(user_outliers)))
    images, labels, test_images, test_labels = (
        torch.from_numpy(array).to(settings.device)
        for array in (
            np.concatenate(image_parts),
            np.concatenate(label_parts),
            arrays["test_images"],
            arrays["test_labels"],
        )
    )
    return TrainingPlan(
        settings,
        images,
        labels,
        learning,
        user_indices,
        user_digits,
        validation,
        test_images,
        test_labels,
        batch_size,
        ghost_batches,
        outliers_per_batch,
        teacher,
        first_user_digit=count if teacher and "user_images" in arrays else None,
    )


def count_ghost_batches(settings: TrainingSettings, batch_size: int) -> int:
    """Count the ghost batches of a batch, so that their size is close to the recipe's."""
    if settings.device == "cuda":
        return 1  # small passes would leave a GPU idle; its BatchNorm sees the whole batch
    return max(1, round(batch_size / settings.recipe.ghost_batch))


class Stepper:
    """Takes the steps of a run together with the other workers."""

    def __init__(self, state: TrainingState, plan: TrainingPlan, group: WorkerGroup) -> None:
        """Copy the network for the ghost batches: the copy shares its weights, but not its BatchNorm statistics."""
        self._state, self._plan, self._group = state, plan, group
        self._parameters = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        shared: dict[int, object] = {id(parameter): parameter for parameter in state.network.parameters()}
        self._ghost_network = copy.deepcopy(state.network, shared)
        self._ghost_network.train()
        self._norms = _find_batch_norms(state.network)
        # a momentum of 1 makes the copy's BatchNorm keep the statistics of its last pass alone
        ghost_norms = _find_batch_norms(self._ghost_network)
        for norm in ghost_norms:
            norm.momentum = 1.0
        self._statistics = [buffer for norm in ghost_norms for buffer in _running_statistics(norm)]
        self._sizes = [tensor.numel() for tensor in (*self._parameters, *self._statistics)]

    def step(self, epoch: int, indices: NDArray[np.int64], signal: int = 0) -> int:
        """Take one step of the optimiser.

        Args:
            epoch: counted from 0.
            indices: int64 (B,), the images of the batch.
            signal: the signal that this worker has received, else 0.

        Returns:
            The highest signal that any of the workers has received, else 0.

        Raises:
            EdgeMnistError: the loss or a gradient is not finite; the weights are those before the step.
            WorkerLost: another worker ended; the weights are those before the step.
        """
        start = time.perf_counter()
        state, plan = self._state, self._plan
        parts = np.array_split(indices, plan.ghost_batches)
        share = plan.ghost_batches // self._group.size
        first = self._group.rank * share
        rows = torch.stack([self._run_ghost_batch(epoch, i, parts[i], signal) for i in range(first, first + share)])
        rows = self._group.gather(rows)  # (ghost batches, values)
        total = rows.sum(0)  # (values,)
        loss, correct = total[-3].item(), total[-2].item()
        if not torch.isfinite(total).all():
            trouble = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
            raise EdgeMnistError(f"epoch {epoch + 1}, step {state.step + 1}: {trouble}: try a lower --lr")
        self._apply(torch.split(total[:-3], self._sizes))
        state.step += 1
        state.loss += loss
        state.correct += int(correct)
        state.images += len(indices)
        state.seconds += time.perf_counter() - start
        return int(rows[:, -1].max())

    def _run_ghost_batch(self, epoch: int, number: int, indices: NDArray[np.int64], signal: int) -> torch.Tensor:
        """Compute the row of a ghost batch: its share of the gradients, its statistics, loss, correct images, signal.

        Args:
            epoch: counted from 0.
            number: the place of the ghost batch in its batch.
            indices: int64 (B,), its images.
            signal: the signal that this worker has received, else 0.

        Returns:
            float32 (values,).
        """
        settings, recipe, plan = self._plan.settings, self._plan.settings.recipe, self._plan
        count = len(indices)
        indices = np.concatenate([indices, plan.choose_outliers(self._state.step, number)])  # (B + O,)
        chosen = torch.from_numpy(indices).to(settings.device)
        pixels = plan.images[chosen].unsqueeze(1).float()  # (B + O, 1, 28, 28)
        limits = recipes.augmentation_at(recipe, epoch)
        if limits is not None:
            pixels = augment(pixels, indices, limits, settings.seed, epoch)
            if limits.stroke or limits.degradation:
                pixels = degrade(pixels, indices, limits, settings.seed, epoch)
        labels = plan.labels[chosen[:count]]  # (B,)
        # for a network with Dropout
        torch.manual_seed((settings.seed << 32) + self._state.step * plan.ghost_batches + number)
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bfloat16):
            normalized = normalize(pixels)
            outputs = self._ghost_network(normalized).float()
            teacher_logits = plan.teacher.compute_logits(normalized[:count]) if plan.teacher else None  # (B, 10)
        logits, outlier_logits = outputs.tensor_split((count,))  # (B, 10), (O, 10)
        if plan.first_user_digit is None:
            loss = distillation.compute_loss(logits, labels, teacher_logits, recipe)
        else:
            is_user = chosen[:count] >= plan.first_user_digit
            others = None if teacher_logits is None else teacher_logits[~is_user]
            loss = distillation.compute_loss(logits[is_user], labels[is_user], None, recipe)
            loss = loss + distillation.compute_loss(logits[~is_user], labels[~is_user], others, recipe)
        if plan.outliers_per_batch:
            loss = loss - outlier_logits.log_softmax(1).mean(1).sum()  # cross entropy with equal probabilities
        gradients = torch.autograd.grad(loss / plan.batch_size, self._parameters)
        correct = (logits.argmax(1) == labels).sum()
        last = torch.stack([loss.detach(), correct.float(), torch.tensor(float(signal), device=loss.device)])
        return torch.cat([*(gradient.flatten() for gradient in gradients), *self._statistics, last])

    def _apply(self, parts: tuple[torch.Tensor, ...]) -> None:
        """Update weights and running statistics with the sums over the ghost batches."""
        state, plan = self._state, self._plan
        for parameter, part in zip(self._parameters, parts, strict=False):
            # copied, because the optimiser needs the gradient laid out in memory as the weight is
            parameter.grad.copy_(part.view_as(parameter))  # type: ignore[union-attr]  # made in __init__
        set_rates(state.optimizer, plan.settings.recipe, state.step, plan.steps)
        state.optimizer.step()
        statistics = iter(parts[len(self._parameters) :])
        for norm in self._norms:
            batches = norm.get_buffer("num_batches_tracked").add_(1)
            weight = 1 / int(batches) if norm.momentum is None else norm.momentum
            for running in _running_statistics(norm):
                running.lerp_(next(statistics) / plan.ghost_batches, weight)


def _find_batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Find the BatchNorm layers that keep running statistics."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def _running_statistics(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """The running mean and variance, (C,) each."""
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Normalize pixels 0..255, float32 (N, 1, H, W), as a network takes them, in the channels-last memory format."""
    return ((pixels / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def measure_accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, group: WorkerGroup) -> float:
    """Measure the share of the images uint8 (N, 28, 28) that are classified correctly, 0 to 1, in float32."""
    network.eval()
    correct = torch.zeros(1, dtype=torch.int64)
    starts = range(0, len(labels), _EVALUATION_BATCH)
    for start in starts[group.rank :: group.size]:
        part = slice(start, start + _EVALUATION_BATCH)
        classes = network(normalize(images[part].unsqueeze(1).float())).argmax(1)
        correct += (classes == labels[part]).sum().cpu()
    return int(group.gather(correct).sum()) / len(labels)


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Make the recipe's optimiser, at its highest learning rate."""
    weights, decay = network.parameters(), recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, recipe.lr, recipe.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, recipe.lr, weight_decay=decay, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Set learning rate and momentum of one step; Adam's momentum is its beta1."""
    momentum = recipes.momentum(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = recipes.learning_rate(recipe, step, steps)
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])
