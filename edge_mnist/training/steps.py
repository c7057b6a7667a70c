"""One step of training, shared by workers so that its bits do not depend on how many there are.

A batch is cut into ghost batches. Each is one pass through the network by one worker on one thread, and ends as a row:
its gradients, its BatchNorm statistics, its loss. All workers gather all rows, add them in the same order and take the
same step of the optimiser, each on its own copy of the network.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edge_mnist.data import mnist, outliers
from edge_mnist.system.errors import EdgeMnistError
from edge_mnist.training import distillation, recipes
from edge_mnist.training.augmentation import augment, uniform
from edge_mnist.training.degradation import wear
from edge_mnist.training.network import MEAN, STD
from edge_mnist.training.recipes import Recipe
from edge_mnist.training.runs import Run, Settings
from edge_mnist.training.workers import Team

_EVALUATION_BATCH = 1000
_OUTLIERS = 3000  # of each kind
_EXTRA_PART = 0.15  # of an epoch are a user's own images ...
_EXTRA_TIMES = 50  # ... but none is shown more often
_PICK = 7  # the purpose of the random numbers that pick them


@dataclass(frozen=True)
class Plan:
    """What stays the same through a run: the images, on their device, and how they are cut into steps."""

    settings: Settings
    images: torch.Tensor
    """uint8 (N + O, 28, 28): those of the data, then outliers."""
    labels: torch.Tensor
    """int64 (N,)."""
    learn: npt.NDArray[np.int64]
    """Indices of the images to learn from."""
    validate: npt.NDArray[np.int64]
    test_images: torch.Tensor
    """uint8 (T, 28, 28)."""
    test_labels: torch.Tensor
    """int64 (T,)."""
    batch_size: int
    ghosts: int
    """Into how many ghost batches a batch is cut."""
    strangers: int
    """How many outliers join each ghost batch."""
    teacher: distillation.Teacher | None = None
    own: int | None = None
    """From this image on they are a user's own: no teacher has seen that hand, their labels alone are learned."""

    def pick(self, step: int, ghost: int) -> npt.NDArray[np.int64]:
        """Indices of the outliers that join a ghost batch, (strangers,) int64."""
        numbers = uniform(self.settings.seed, step, np.arange(self.strangers) + ghost * self.strangers, _PICK)
        count = len(self.images) - len(self.labels)
        return len(self.labels) + (numbers * count).astype(np.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches only: BatchNorm fails on a last batch of one image, and each epoch leaves out others."""
        return len(self.learn) // self.batch_size

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.settings.recipe.epochs * self.steps_per_epoch


def make_plan(
    settings: Settings, arrays: Mapping[str, npt.NDArray[Any]], teacher: distillation.Teacher | None = None
) -> Plan:
    """How images become steps.

    Args:
        settings: of the run.
        arrays: `images` uint8 (N, 28, 28) and `labels` int64 (N,); `test_images` and `test_labels`; and perhaps
            `extra_images`, `extra_labels` and `extra_none`, of the user's own.
        teacher: whose opinion of the images is learned besides.
    """
    shown, labels = [arrays["images"]], [arrays["labels"]]
    count = len(labels[0])
    learn, validate = (np.arange(count), np.arange(0)) if settings.everything else mnist.learn_validate(labels[0])
    if "extra_images" in arrays:
        shown.append(arrays["extra_images"])
        labels.append(arrays["extra_labels"])
        own = np.arange(count, count + len(labels[1]))
        times = min(_EXTRA_TIMES, round(_EXTRA_PART * len(learn) / max(1, len(own))))
        learn = np.concatenate([learn, np.repeat(own, max(1, times))])
    batch_size = min(settings.recipe.batch_size, len(learn))
    ghosts = count_ghosts(settings, batch_size)
    strangers = 0
    if settings.recipe.outliers:
        strangers = max(1, round(settings.recipe.outliers * batch_size / ghosts))
        drawn = outliers.draw(outliers.TRAINING, _OUTLIERS, settings.seed, arrays["images"][learn[learn < count]])
        shown += drawn.values()
        own_none = arrays.get("extra_none")
        if own_none is not None and len(own_none):
            shown += [own_none] * min(_EXTRA_TIMES, max(1, _OUTLIERS // len(own_none)))
    images, classes, test_images, test_labels = (
        torch.from_numpy(array).to(settings.device)
        for array in (np.concatenate(shown), np.concatenate(labels), arrays["test_images"], arrays["test_labels"])
    )
    parts = learn, validate, test_images, test_labels
    own_from = count if teacher and "extra_images" in arrays else None
    return Plan(settings, images, classes, *parts, batch_size, ghosts, strangers, teacher, own_from)


def count_ghosts(settings: Settings, batch_size: int) -> int:
    """Into how many ghost batches a batch is cut: none of them much smaller than the recipe's."""
    if settings.device == "cuda":
        return 1  # small passes would leave a GPU idle; its BatchNorm sees the whole batch
    return max(1, round(batch_size / settings.recipe.ghost_batch))


class Stepper:
    """Takes a run through its steps, together with the other workers."""

    def __init__(self, run: Run, plan: Plan, team: Team) -> None:
        """Share the weights of the run's network, but not its BatchNorm statistics: only whole steps move them."""
        self._run, self._plan, self._team = run, plan, team
        self._parameters = [parameter for parameter in run.network.parameters() if parameter.requires_grad]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        shared: dict[int, object] = {id(parameter): parameter for parameter in run.network.parameters()}
        self._twin = copy.deepcopy(run.network, shared)
        self._twin.train()
        self._norms = _norms(run.network)
        # the twin's BatchNorm keeps the statistics of its last pass alone
        ghosts = _norms(self._twin)
        for norm in ghosts:
            norm.momentum = 1.0
        self._statistics = [buffer for norm in ghosts for buffer in _running(norm)]
        self._sizes = [tensor.numel() for tensor in (*self._parameters, *self._statistics)]

    def step(self, epoch: int, indices: npt.NDArray[np.int64], signal: int = 0) -> int:
        """Take one step of the optimiser.

        Args:
            epoch: counted from 0.
            indices: (B,) int64, the images of the batch.
            signal: one that this worker caught, else 0.

        Returns:
            A signal that any of the workers caught, else 0.

        Raises:
            EdgeMnistError: loss or gradient are no numbers any more; the weights are those before the step.
            WorkerLost: another worker ended; the weights are those before the step.
        """
        began = time.perf_counter()
        run, plan = self._run, self._plan
        parts = np.array_split(indices, plan.ghosts)
        share = plan.ghosts // self._team.size
        first = self._team.rank * share
        rows = torch.stack([self._pass(epoch, ghost, parts[ghost], signal) for ghost in range(first, first + share)])
        rows = self._team.gather(rows)  # (ghosts, values)
        total = rows.sum(0)
        loss, correct = total[-3].item(), total[-2].item()
        if not torch.isfinite(total).all():
            trouble = "the gradient is not finite" if math.isfinite(loss) else f"the loss is {loss}"
            raise EdgeMnistError(f"epoch {epoch + 1}, step {run.step + 1}: {trouble}: try a lower --lr")
        self._apply(torch.split(total[:-3], self._sizes))
        run.step += 1
        run.loss += loss
        run.correct += int(correct)
        run.seen += len(indices)
        run.seconds += time.perf_counter() - began
        return int(rows[:, -1].max())

    def _pass(self, epoch: int, ghost: int, indices: npt.NDArray[np.int64], signal: int) -> torch.Tensor:
        """One ghost batch: its share of the gradients, its statistics, and at the end loss, correct images, signal."""
        settings, recipe, plan = self._plan.settings, self._plan.settings.recipe, self._plan
        count = len(indices)
        indices = np.concatenate([indices, plan.pick(self._run.step, ghost)])  # (B + O,)
        chosen = torch.from_numpy(indices).to(settings.device)
        pixels = plan.images[chosen].unsqueeze(1).float()  # (B + O, 1, 28, 28)
        amount = recipes.augmentation(recipe, epoch)
        if amount is not None:
            pixels = augment(pixels, indices, amount, settings.seed, epoch)
            if amount.stroke or amount.wear:
                pixels = wear(pixels, indices, amount, settings.seed, epoch)
        labels = plan.labels[chosen[:count]]  # (B,)
        # for a network with Dropout
        torch.manual_seed((settings.seed << 32) + self._run.step * plan.ghosts + ghost)
        with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bfloat16):
            normalized = normalize(pixels)
            logits, unknown = self._twin(normalized).float().tensor_split((count,))  # (B, 10), (O, 10)
            taught = plan.teacher.logits(normalized[:count]) if plan.teacher else None
        if plan.own is None:
            loss = distillation.loss(logits, labels, taught, recipe)
        else:
            own = chosen[:count] >= plan.own
            loss = distillation.loss(logits[own], labels[own], None, recipe)
            loss = loss + distillation.loss(
                logits[~own], labels[~own], None if taught is None else taught[~own], recipe
            )
        if plan.strangers:
            loss = loss - unknown.log_softmax(1).mean(1).sum()  # cross entropy with equal probabilities
        gradients = torch.autograd.grad(loss / plan.batch_size, self._parameters)
        correct = (logits.argmax(1) == labels).sum()
        last = torch.stack([loss.detach(), correct.float(), torch.tensor(float(signal), device=loss.device)])
        return torch.cat([*(gradient.flatten() for gradient in gradients), *self._statistics, last])

    def _apply(self, parts: tuple[torch.Tensor, ...]) -> None:
        """Move weights and running statistics by the sums over the ghost batches."""
        run, plan = self._run, self._plan
        for parameter, part in zip(self._parameters, parts, strict=False):
            # copied: the optimiser wants the gradient laid out in memory as the weight is
            parameter.grad.copy_(part.view_as(parameter))  # type: ignore[union-attr]  # made in __init__
        set_rates(run.optimizer, plan.settings.recipe, run.step, plan.steps)
        run.optimizer.step()
        statistics = iter(parts[len(self._parameters) :])
        for norm in self._norms:
            batches = norm.get_buffer("num_batches_tracked").add_(1)
            weight = 1 / int(batches) if norm.momentum is None else norm.momentum
            for running in _running(norm):
                running.lerp_(next(statistics) / plan.ghosts, weight)


def _norms(network: nn.Module) -> list[_BatchNorm]:
    """Its BatchNorm layers that keep running statistics."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]


def _running(norm: _BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """Running mean and variance, (C,) each."""
    return norm.get_buffer("running_mean"), norm.get_buffer("running_var")


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..255 as float32 (N, 1, H, W) to what a network takes, the channels side by side in memory."""
    return ((pixels / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, team: Team) -> float:
    """The part of the images uint8 (N, 28, 28) whose class is right, 0 to 1, computed in float32."""
    network.eval()
    right = torch.zeros(1, dtype=torch.int64)
    starts = range(0, len(labels), _EVALUATION_BATCH)
    for start in starts[team.rank :: team.size]:
        part = slice(start, start + _EVALUATION_BATCH)
        classes = network(normalize(images[part].unsqueeze(1).float())).argmax(1)
        right += (classes == labels[part]).sum().cpu()
    return int(team.gather(right).sum()) / len(labels)


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser, at its highest rate."""
    weights, decay = network.parameters(), recipe.weight_decay
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(weights, recipe.lr, recipe.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(weights, recipe.lr, weight_decay=decay, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Learning rate and momentum of one step; Adam's momentum is its beta1."""
    momentum = recipes.momentum(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = recipes.learning_rate(recipe, step, steps)
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])
