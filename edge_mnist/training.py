"""The training loop: one tensor of images, one step function, a state on the disk from which a stopped run goes on.

All that is random comes from (seed, epoch, image index) or (seed, step), so a run that was stopped and resumed ends with the
weights of one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
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
from edge_mnist.network import CLASSES, DIGITNET, MEAN, STD, build
from edge_mnist.recipes import RECIPES, Augmentation, Recipe
from edge_mnist.stopping import Stopped, watch
from edge_mnist.telling import Teller

CHECKPOINT = "checkpoint.safetensors"
STATE = "state.safetensors"
METRICS = "metrics.jsonl"
CURVES = "curves.png"

_EVALUATION_BATCH = 1000
_STATISTICS_IMAGES = 4096


@dataclass(frozen=True)
class Settings:
    """What a run computes, beside its data: two runs of equal settings on one machine end with the same bits."""

    recipe: Recipe
    seed: int = 0
    everything: bool = False
    """Learn from all training images, without a validation part."""
    network: str = DIGITNET
    """`package.module:factory`."""
    device: str = "cpu"
    threads: int = 1

    @staticmethod
    def from_json(record: dict[str, Any]) -> Settings:
        """The settings that `dataclasses.asdict` made into `record`."""
        recipe = dict(record["recipe"])
        if recipe["augmentation"] is not None:
            recipe["augmentation"] = Augmentation(**recipe["augmentation"])
        return Settings(**{**record, "recipe": Recipe(**recipe)})


@dataclass
class _Run:
    """What moves while a run goes on."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """One row an epoch that is over."""
    loss: float = 0.0
    """Sum over the images of this epoch so far, as are `correct` and `seen`."""
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0


def settings(
    *,
    recorded: Settings | None = None,
    recipe: Recipe | None = None,
    changes: Mapping[str, Any],
    device: str | None = None,
    **others: Any,
) -> Settings:
    """The settings that a user asks for; None stands for what they did not say.

    Args:
        recorded: those of the run to resume, which nothing may contradict.
        recipe: a named recipe.
        changes: other values for the recipe's fields.
        device: auto, cpu or cuda.
        others: other values for the fields of `Settings`.

    Raises:
        UsageError: CUDA is wanted and there is none, or the recorded run was started otherwise.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this machine, or this build of torch, has no CUDA: use cpu")
    if device == "auto" or (device is None and recorded is None):
        device = "cuda" if torch.cuda.is_available() else "cpu"
    base = recorded or Settings(RECIPES["adam-onecycle"], threads=torch.get_num_threads())
    wanted = dataclasses.replace(recipe or base.recipe, **_said(changes))
    result = dataclasses.replace(base, **_said({"recipe": wanted, "device": device, **others}))
    if recorded is not None and result != recorded:
        raise UsageError(f"--resume: the run was started with {_difference(recorded, result)}; leave the options out")
    return result


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _difference(recorded: Settings, wanted: Settings) -> str:
    """The fields that differ, as "lr 0.01 (now 0.02)"."""
    old, new = ({**dataclasses.asdict(item), **dataclasses.asdict(item.recipe)} for item in (recorded, wanted))
    return ", ".join(f"{name} {old[name]} (now {new[name]})" for name in old if name != "recipe" and old[name] != new[name])


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
    network, layers = _build_network(settings)
    run = _Run(network, _make_optimizer(settings.recipe, network))
    if resume:
        _restore(run, out / STATE, settings, train_part)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds other files, perhaps another run: name another --out, or --resume that run")
    learn, validate = _split(train_part, settings.everything)
    with _reproducible(settings), watch() as signals, Teller(settings.recipe.epochs) as teller:
        loop = _Loop(settings, train_part, learn, validate)
        while run.step < loop.steps:
            loop.advance(run)
            if run.step % loop.steps_per_epoch == 0:
                loop.end_epoch(run)
                _save(run, out, settings, train_part)
                teller.epoch(run.history[-1])
            else:
                teller.step(run.step / loop.steps_per_epoch, run.loss / run.seen, run.correct / run.seen, run.seen / run.seconds)
            if signals:
                _save(run, out, settings, train_part)
                raise Stopped(signals[0], f"after step {run.step} of {loop.steps}; go on with --resume --out {out}")
        test_accuracy = loop.accuracy(network, test_part)
        result = _finish(run, layers, settings, train_part, learn, test_accuracy)
        checkpoints.save(out / CHECKPOINT, result)
        write_whole(out / CURVES, curves.draw(settings.recipe.name, run.history))
        teller.end(test_accuracy)
    return result


class _Loop:
    """The images on their device and how to take one step over them."""

    def __init__(
        self, settings: Settings, digits: Digits, learn: npt.NDArray[np.int64], validate: npt.NDArray[np.int64]
    ) -> None:
        self.settings, self.recipe = settings, settings.recipe
        self.learn = learn
        self.images = torch.from_numpy(digits.images).to(settings.device)
        self.labels = torch.from_numpy(digits.labels).to(settings.device)
        self.validation = Digits(digits.images[validate], digits.labels[validate], digits.source, digits.sha256)
        # whole batches only: BatchNorm fails on a last batch of one image, and the order changes each epoch anyway
        self.batch_size = min(self.recipe.batch_size, len(learn))
        self.steps_per_epoch = len(learn) // self.batch_size
        self.steps = self.recipe.epochs * self.steps_per_epoch
        self.half_precision = settings.device == "cuda" or torch.cpu._is_avx512_bf16_supported()
        self.order: tuple[int, npt.NDArray[np.int64]] = (-1, learn)

    def advance(self, run: _Run) -> None:
        """One step of the optimiser, on the batch that belongs to `run.step`."""
        began = time.perf_counter()
        epoch, batch = divmod(run.step, self.steps_per_epoch)
        if self.order[0] != epoch:
            self.order = (epoch, self.learn[epoch_order(self.settings.seed, epoch, len(self.learn))])
        indices = self.order[1][batch * self.batch_size : (batch + 1) * self.batch_size]
        chosen = torch.from_numpy(indices).to(self.images.device)
        pixels = self.images[chosen].unsqueeze(1).float()  # (B, 1, 28, 28)
        if self.recipe.augmentation is not None:
            pixels = augment(pixels, indices, self.recipe.augmentation, self.settings.seed, epoch)
        labels = self.labels[chosen]

        _set_rates(run.optimizer, self.recipe, run.step, self.steps)
        torch.manual_seed((self.settings.seed << 32) + run.step)  # for a network with Dropout
        run.network.train()
        with torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.half_precision):
            logits = run.network(normalize(pixels))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()

        value = loss.item()
        if not math.isfinite(value):
            raise EdgeMnistError(f"epoch {epoch + 1}, step {run.step}: the loss is {value}: try a lower --lr")
        run.step += 1
        run.loss += value * len(indices)
        run.correct += int((logits.argmax(1) == labels).sum())
        run.seen += len(indices)
        run.seconds += time.perf_counter() - began

    def end_epoch(self, run: _Run) -> None:
        """Validate, and move the sums of the epoch into the history."""
        epoch = run.step // self.steps_per_epoch
        began = time.perf_counter()
        validation = self.accuracy(run.network, self.validation) if len(self.validation.labels) else None
        run.history.append(
            {
                "epoch": epoch,
                "lr": recipes.learning_rate(self.recipe, run.step - 1, self.steps),
                "loss": run.loss / run.seen,
                "train_accuracy": run.correct / run.seen,
                "validation_accuracy": validation,
                "images_per_second": round(run.seen / run.seconds, 1),
                "seconds": round(run.seconds + time.perf_counter() - began, 3),
            }
        )
        run.loss, run.correct, run.seen, run.seconds = 0.0, 0, 0, 0.0

    @torch.no_grad()
    def accuracy(self, network: nn.Module, digits: Digits) -> float:
        """The part of the images whose class is right, in float32."""
        network.eval()
        right = 0
        for start in range(0, len(digits.labels), _EVALUATION_BATCH):
            pixels = torch.from_numpy(digits.images[start : start + _EVALUATION_BATCH]).to(self.images.device)
            logits = network(normalize(pixels.unsqueeze(1).float()))
            labels = torch.from_numpy(digits.labels[start : start + _EVALUATION_BATCH]).to(self.images.device)
            right += int((logits.argmax(1) == labels).sum())
        return right / len(digits.labels)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..255 as float32 (N, 1, H, W) to what a network takes, with the channel innermost in memory."""
    return ((pixels / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _build_network(settings: Settings) -> tuple[nn.Module, tuple[architecture.Layer, ...]]:
    """The network with its first weights, and its layers; refused now rather than after the training."""
    torch.manual_seed(settings.seed)
    network = build(settings.network)
    layers = tracing.describe(network, (1, 28, 28))
    logits = architecture.output_shapes(layers, (1, 28, 28))[-1]
    if math.prod(logits) != CLASSES:
        raise EdgeMnistError(f"{layers[-1]['name']}: the network gives {logits}, expected {CLASSES} logits")
    return network.to(settings.device, memory_format=torch.channels_last), layers


def _make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    return kind(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps: int) -> None:
    """Learning rate and momentum of one step; Adam's momentum is its beta1."""
    momentum = recipes.momentum(recipe, step, steps)
    for group in optimizer.param_groups:
        group["lr"] = recipes.learning_rate(recipe, step, steps)
        if recipe.optimizer == "sgd":
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])


def _split(digits: Digits, everything: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices to learn from and to validate on."""
    if everything:
        return np.arange(len(digits.labels)), np.arange(0)
    return data.learn_validate(digits.labels)


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
    """A fixed number of threads, which decides how sums are cut, and only operations that repeat their bits."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(settings.threads)
    # CUDA has no such form of some backward passes: there, equal bits are not promised
    torch.use_deterministic_algorithms(settings.device == "cpu")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _save(run: _Run, out: Path, settings: Settings, digits: Digits) -> None:
    """Write state.safetensors, and metrics.jsonl anew from the history, so that the two agree."""
    tensors = {f"network/{name}": tensor for name, tensor in run.network.state_dict().items()}
    for index, values in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
    header = {
        "settings": dataclasses.asdict(settings),
        "data": digits.sha256,
        **{name: getattr(run, name) for name in _SAVED},
    }
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    write_whole(out / STATE, checkpoints.pack(arrays, header))
    lines = "".join(json.dumps(row) + "\n" for row in run.history)
    write_whole(out / METRICS, lines.encode())


_SAVED = ("step", "history", "loss", "correct", "seen", "seconds")


def recorded_settings(out: Path) -> Settings:
    """The settings of the run in a folder.

    Raises:
        EdgeMnistError: there is no run, or its state is damaged.
    """
    if not (out / STATE).is_file():
        raise UsageError(f"{out}: no run to resume here: {STATE} is missing")
    try:
        return Settings.from_json(checkpoints.unpack(out / STATE)[1]["settings"])
    except (KeyError, TypeError) as error:
        raise EdgeMnistError(f"{out / STATE}: was written by another version of edge-mnist: start the run anew") from error


def _restore(run: _Run, path: Path, settings: Settings, digits: Digits) -> None:
    """Bring a run to where its state was saved."""
    tensors, header = checkpoints.unpack(path)
    if header["data"] != digits.sha256:
        raise UsageError(f"{path.parent}: was started with other images (SHA-256 {header['data']}); give the same --data")
    network: dict[str, torch.Tensor] = {}
    optimizer: dict[int, dict[str, torch.Tensor]] = {}
    for name, array in tensors.items():
        part, _, rest = name.partition("/")
        if part == "network":
            network[rest] = torch.from_numpy(array)
        else:
            index, _, key = rest.partition("/")
            optimizer.setdefault(int(index), {})[key] = torch.from_numpy(array)
    try:
        run.network.load_state_dict(network)
    except RuntimeError as error:
        raise EdgeMnistError(f"{path}: its weights do not fit {settings.network}, which was changed since") from error
    run.optimizer.load_state_dict({"state": optimizer, "param_groups": run.optimizer.state_dict()["param_groups"]})
    for name in _SAVED:
        setattr(run, name, header[name])


def _finish(
    run: _Run,
    layers: tuple[architecture.Layer, ...],
    settings: Settings,
    digits: Digits,
    learn: npt.NDArray[np.int64],
    test_accuracy: float,
) -> Checkpoint:
    """The trained network with the statistics of its activations and where it comes from."""
    names = architecture.weight_shapes(layers)
    state = run.network.state_dict()
    last = run.history[-1]
    bare = Checkpoint(
        architecture=layers,
        input_shape=(1, 28, 28),
        mean=MEAN,
        std=STD,
        weights={name: state[name].detach().cpu().contiguous().numpy() for name in names},
        metadata={
            "recipe": dataclasses.asdict(settings.recipe),
            "epochs": settings.recipe.epochs,
            "seed": settings.seed,
            "network": settings.network,
            "learned_from": len(learn),
            "device": settings.device,
            "threads": settings.threads,
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
        },
    )
    shown = digits.images[learn[epoch_order(settings.seed, 0, len(learn))[:_STATISTICS_IMAGES]]]
    return dataclasses.replace(bare, statistics=calibration.collect(folding.fold(bare), shown))
