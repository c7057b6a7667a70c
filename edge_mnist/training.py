"""The training loop: one tensor of images, one step after the other, a state on the disk from which a run goes on.

All that is random comes from (seed, epoch, image index) or (seed, step), so a run that was stopped and resumed ends
with the weights of one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from edge_mnist import __version__, architecture, calibration, curves, data, folding, recipes, tracing
from edge_mnist import checkpoint as checkpoints
from edge_mnist.augmentation import augment, epoch_order
from edge_mnist.checkpoint import Checkpoint
from edge_mnist.data import Digits
from edge_mnist.errors import EdgeMnistError, UsageError
from edge_mnist.files import write_whole
from edge_mnist.network import CLASSES, MEAN, STD, build
from edge_mnist.progress import TrainingProgress
from edge_mnist.recipes import Recipe
from edge_mnist.runs import Run, Settings, restore, save_state, to_arrays
from edge_mnist.signals import Stopped, watch

CHECKPOINT = "checkpoint.safetensors"
CURVES = "curves.png"

_INPUT = (1, 28, 28)
_EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class _Plan:
    """What stays the same through a run: the images, on their device, and how they are cut into steps."""

    settings: Settings
    images: torch.Tensor
    """uint8 (N, 28, 28)."""
    labels: torch.Tensor
    """int64 (N,)."""
    learn: npt.NDArray[np.int64]
    """Indices of the images to learn from."""
    validate: npt.NDArray[np.int64]
    batch_size: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.settings.recipe.epochs * self.steps_per_epoch


def train(settings: Settings, train_part: Digits, test_part: Digits, out: Path, *, resume: bool = False) -> Checkpoint:
    """Train a network and write checkpoint, metrics, curves and state into a folder.

    Args:
        settings: what to compute.
        train_part: images uint8 (N, 28, 28) and labels int64 (N,) to learn from and to validate on.
        test_part: the same, looked at once, at the end.
        out: a folder that does not exist yet or is empty; with `resume`, that of a run of the same settings and data.
        resume: go on where the run in `out` stopped.

    Returns:
        What was written to checkpoint.safetensors.

    Raises:
        Stopped: Ctrl-C or SIGTERM; the state is saved.
        EdgeMnistError: the loss is no number any more, the network cannot be exported, the folder is another run's.
    """
    network = _make_network(settings)
    layers = tracing.describe(network, _INPUT)
    _check_exportable(network, layers)
    run = Run(network, _make_optimizer(settings.recipe, network))
    if resume:
        restore(run, out, settings.network, train_part.sha256)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds other files, perhaps another run: name another --out, or --resume that run")
    plan = _make_plan(settings, train_part)
    with _reproducible(settings), watch() as signals, TrainingProgress(settings.recipe.epochs) as progress:
        save_state(run, out, settings, train_part.sha256)  # a folder that cannot be written shows now
        for epoch in range(run.step // plan.steps_per_epoch, settings.recipe.epochs):
            order = plan.learn[epoch_order(settings.seed, epoch, len(plan.learn))]
            for batch in range(run.step % plan.steps_per_epoch, plan.steps_per_epoch):
                _take_step(run, plan, epoch, order[batch * plan.batch_size : (batch + 1) * plan.batch_size])
                progress.step(run.step / plan.steps_per_epoch, run)
                if signals:
                    break
            if run.step == (epoch + 1) * plan.steps_per_epoch:
                _end_epoch(run, plan, epoch)
                progress.epoch(run.history[-1])
            save_state(run, out, settings, train_part.sha256)
            if signals:
                raise Stopped(signals[0], f"after step {run.step} of {plan.steps}; go on with --resume --out {out}")
        test_accuracy = _accuracy(network, plan, test_part.images, test_part.labels)
        result = _checkpoint(run.network, layers, _metadata(run, plan, train_part, test_accuracy))
        shown = train_part.images[plan.learn[epoch_order(settings.seed, 0, len(plan.learn))[: calibration.IMAGES]]]
        result = dataclasses.replace(result, statistics=calibration.collect(folding.fold(result), shown))
        checkpoints.save(out / CHECKPOINT, result)
        write_whole(out / CURVES, curves.draw(settings.recipe.name, run.history))
        progress.end(test_accuracy)
    return result


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..255 as float32 (N, 1, H, W) to what a network takes, the channels side by side in memory."""
    return ((pixels / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _take_step(run: Run, plan: _Plan, epoch: int, indices: npt.NDArray[np.int64]) -> None:
    """One step of the optimiser on the images with these indices."""
    began = time.perf_counter()
    settings, recipe = plan.settings, plan.settings.recipe
    chosen = torch.from_numpy(indices).to(settings.device)
    pixels = plan.images[chosen].unsqueeze(1).float()  # (B, 1, 28, 28)
    if recipe.augmentation is not None:
        pixels = augment(pixels, indices, recipe.augmentation, settings.seed, epoch)
    labels = plan.labels[chosen]  # (B,)

    _set_rates(run.optimizer, recipe, run.step, plan.steps)
    torch.manual_seed((settings.seed << 32) + run.step)  # for a network with Dropout
    run.network.train()
    with torch.autocast(settings.device, torch.bfloat16, enabled=settings.bfloat16):
        logits = run.network(normalize(pixels)).float()  # (B, 10)
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    run.optimizer.step()

    value = loss.item()
    if not math.isfinite(value):
        raise EdgeMnistError(f"epoch {epoch + 1}, step {run.step + 1}: the loss is {value}: try a lower --lr")
    run.step += 1
    run.loss += value * len(indices)
    run.correct += int((logits.argmax(1) == labels).sum())
    run.seen += len(indices)
    run.seconds += time.perf_counter() - began


def _end_epoch(run: Run, plan: _Plan, epoch: int) -> None:
    """Validate, and move the sums of the epoch into the history."""
    began = time.perf_counter()
    labels = plan.labels[plan.validate].cpu().numpy()
    images = plan.images[plan.validate].cpu().numpy()
    validation = _accuracy(run.network, plan, images, labels) if len(labels) else None
    run.history.append(
        {
            "epoch": epoch + 1,
            "lr": recipes.learning_rate(plan.settings.recipe, run.step - 1, plan.steps),
            "loss": run.loss / run.seen,
            "train_accuracy": run.correct / run.seen,
            "validation_accuracy": validation,
            "images_per_second": round(run.seen / run.seconds, 1),
            "seconds": round(run.seconds + time.perf_counter() - began, 3),
        }
    )
    run.loss, run.correct, run.seen, run.seconds = 0.0, 0, 0, 0.0


@torch.no_grad()
def _accuracy(network: nn.Module, plan: _Plan, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> float:
    """The part of the images whose class is right, 0 to 1, computed in float32."""
    network.eval()
    right = 0
    for start in range(0, len(labels), _EVALUATION_BATCH):
        part = slice(start, start + _EVALUATION_BATCH)
        pixels = torch.from_numpy(images[part]).to(plan.settings.device).unsqueeze(1).float()
        classes = network(normalize(pixels)).argmax(1).cpu().numpy()
        right += int((classes == labels[part]).sum())
    return right / len(labels)


def _make_network(settings: Settings) -> nn.Module:
    """The network with the first weights of its seed, channels side by side in memory: convolutions are faster so."""
    torch.manual_seed(settings.seed)
    network = build(settings.network)
    network.to(settings.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
    return network


def _check_exportable(network: nn.Module, layers: tuple[architecture.Layer, ...]) -> None:
    """Refuse now what would be refused once the training is over."""
    logits = architecture.output_shapes(layers, _INPUT)[-1]
    if math.prod(logits) != CLASSES:
        raise EdgeMnistError(f"{layers[-1]['name']}: the network gives {logits}, expected {CLASSES} logits")
    folding.fold(_checkpoint(network, layers, {}))


def _checkpoint(network: nn.Module, layers: tuple[architecture.Layer, ...], metadata: dict[str, Any]) -> Checkpoint:
    """A network's present weights; without the statistics of its activations."""
    weights = to_arrays(network.state_dict())
    chosen = {name: weights[name] for name in architecture.weight_shapes(layers)}
    return Checkpoint(layers, _INPUT, MEAN, STD, chosen, metadata=metadata)


def _make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.Adam(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Learning rate and momentum of one step; Adam's momentum is its beta1."""
    momentum = recipes.momentum(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = recipes.learning_rate(recipe, step, steps)
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])


def _make_plan(settings: Settings, digits: Digits) -> _Plan:
    count = len(digits.labels)
    parts = (np.arange(count), np.arange(0)) if settings.everything else data.learn_validate(digits.labels)
    # whole batches only: BatchNorm fails on a last batch of one image, and each epoch leaves out others
    batch_size = min(settings.recipe.batch_size, len(parts[0]))
    images, labels = (torch.from_numpy(array).to(settings.device) for array in (digits.images, digits.labels))
    return _Plan(settings, images, labels, *parts, batch_size, len(parts[0]) // batch_size)


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
    """The settings' number of threads, and on a CPU only operations that repeat their bits."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(settings.threads)
    # CUDA has no such form of some backward passes: there, equal bits are not promised
    torch.use_deterministic_algorithms(settings.device == "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _metadata(run: Run, plan: _Plan, digits: Digits, test_accuracy: float) -> dict[str, Any]:
    """Where a network comes from, as JSON."""
    last = run.history[-1]
    settings = dataclasses.asdict(plan.settings)
    return settings | {
        "epochs": plan.settings.recipe.epochs,
        "learned_from": len(plan.learn),
        "data": {"source": digits.source, "sha256": digits.sha256},
        "accuracies": {
            "train": last["train_accuracy"],
            "validation": last["validation_accuracy"],
            "test": test_accuracy,
        },
        "versions": {
            "edge_mnist": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
