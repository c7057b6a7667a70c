"""What students learn from better teachers, and in more epochs: `python -m benchmarks.distillation RUNS`.

Trains larger networks than DigitNet (`benchmarks/teachers.py`) in folders of RUNS, and draws augmented images of
MNIST's training images. Then DigitNets with random weights learn from these images: from the labels alone, from each
teacher, and from an ensemble of teachers, whose logits are averaged. Each of them does so in 1, 2 and 4 times the
epochs, by the recipe `best`, without outliers and with the same seed.

Prints the accuracy of each student on MNIST's images for validation and on its test images, and its errors on augmented
images for validation. They are ten times as many, so that chance moves their errors less. The same command goes on
where it was stopped; a training that is complete is not done again. RUNS/students holds the students' checkpoints.

    python -m benchmarks.distillation RUNS --student ensemble --epochs 64 --set temperature=1 --seeds 5

trains only students of one teacher, whose recipe may be changed, with several seeds; with --averaging, a moving average
of their weights is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks import run_command
from edge_mnist.data import mnist
from edge_mnist.data.keyed_random import draw_permutation
from edge_mnist.graph import calibration, checkpoint, folding
from edge_mnist.system.files import write_whole
from edge_mnist.system.tables import make_console
from edge_mnist.training.augmentation import augment
from edge_mnist.training.degradation import degrade
from edge_mnist.training.distillation import Teacher, compute_loss, pack_teachers, unpack_teacher
from edge_mnist.training.loop import CHECKPOINT, make_checkpoint
from edge_mnist.training.network import CLASSES, DIGITNET, DigitNet
from edge_mnist.training.recipes import RECIPES, Recipe, augmentation_at, change_recipe, parse_changes
from edge_mnist.training.steps import make_optimizer, measure_accuracy, normalize, set_rates
from edge_mnist.training.workers import WorkerGroup

RECIPE = replace(RECIPES["best"], outliers=0.0)
"""How the students learn, with other epochs."""
USUAL_CYCLES, COOLDOWN_CYCLES = 12, 4
"""The numbers of augmented copies of the training images: with the usual augmentation of the recipe, and with that of
its cooldown epochs. Students that learn for more epochs see the same copies again, because the teachers' logits are
computed only once for each copy."""
COPIES = 10
"""How many times each image for validation is augmented."""
BATCH = 500
"""Images that are augmented, or that a teacher looks at, at a time."""


@dataclass(frozen=True)
class Network:
    """A larger network that becomes a teacher."""

    factory: str
    epochs: int
    cooldown_epochs: int
    seed: int


NETWORKS = {
    "short": Network("benchmarks.teachers:residual", epochs=3, cooldown_epochs=1, seed=1),
    "residual": Network("benchmarks.teachers:residual", epochs=20, cooldown_epochs=4, seed=2),
    "plain": Network("benchmarks.teachers:plain", epochs=14, cooldown_epochs=4, seed=3),
    "wide": Network("edge_mnist.training.network:wide", epochs=8, cooldown_epochs=2, seed=4),
}
"""The larger networks, by name."""
TEACHERS: dict[str, tuple[str, ...]] = {
    "labels alone": (),
    "short": ("short",),
    "residual": ("residual",),
    "ensemble": ("residual", "plain", "wide"),
}
"""What the students learn from: the networks whose logits are averaged, by name."""


@dataclass(frozen=True)
class Student:
    """A DigitNet that is trained from random weights."""

    teacher: str
    """A name in `TEACHERS`."""
    epochs: int
    changes: tuple[str, ...] = ()
    """What differs from `RECIPE`, as NAME=VALUE."""
    seed: int = 0
    averaging: float = 0.0
    """How much of the moving average of weights and statistics each step keeps, 0 to 1; 0 measures the last weights."""

    @property
    def name(self) -> str:
        """What its files in the folder students are called."""
        others = [f"{name}={value}" for name in ("seed", "averaging") if (value := getattr(self, name))]
        return "-".join((self.teacher.replace(" ", "-"), str(self.epochs), *self.changes, *others))

    @property
    def recipe(self) -> Recipe:
        """How it learns."""
        recipe = replace(RECIPE, epochs=self.epochs, cooldown_epochs=max(1, self.epochs // 8))
        return change_recipe(recipe, parse_changes(self.changes))


class Images:
    """The images that students learn from, in a folder from which any number of processes read."""

    def __init__(self, runs: Path, data: Path | None) -> None:
        self.digits, self.test = mnist.load("train", data), mnist.load("test", data)
        self.learning, self.validation = mnist.split_for_validation(self.digits.labels)
        self._runs = runs

    def open(self) -> NDArray[np.uint8]:
        """Open the augmented training images, uint8 (cycles, N, 28, 28), drawing them where that was not done yet."""
        path = self._runs / "images.npy"
        if not path.exists():
            shape = (USUAL_CYCLES + COOLDOWN_CYCLES, len(self.learning), *self.digits.images.shape[1:])
            self._runs.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".unfinished")
            stored = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
            for cycle in range(len(stored)):
                stored[cycle] = self._augment(self.learning, cycle, is_cooldown=cycle >= USUAL_CYCLES)
            stored.flush()
            unfinished.rename(path)
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]

    def augment_validation(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Augment the images for validation: uint8 (COPIES x N, 28, 28), and their labels, int64 (COPIES x N,)."""
        copies = [self._augment(self.validation, cycle, is_cooldown=False) for cycle in range(COPIES)]
        return np.concatenate(copies), np.tile(self.digits.labels[self.validation], COPIES)

    def _augment(self, indices: NDArray[np.int64], cycle: int, *, is_cooldown: bool) -> NDArray[np.uint8]:
        """Augment images as the recipe does in one of its epochs: uint8 (N, 28, 28)."""
        recipe = replace(RECIPE, cooldown_epochs=RECIPE.epochs if is_cooldown else 0)
        limits = augmentation_at(recipe, 0)
        assert limits is not None
        parts = []
        for start in range(0, len(indices), BATCH):
            part = indices[start : start + BATCH]
            pixels = torch.from_numpy(self.digits.images[part]).unsqueeze(1).float()
            pixels = degrade(augment(pixels, part, limits, 0, cycle), part, limits, 0, cycle)
            parts.append(pixels.clamp(0, 255).round().to(torch.uint8).squeeze(1).numpy())
        return np.concatenate(parts)


def train_network(runs: Path, data: Path | None, name: str) -> Path:
    """Train a larger network, unless it has been trained, and return its checkpoint."""
    run, network = runs / name, NETWORKS[name]
    if not _is_complete(run / CHECKPOINT):
        command = [sys.executable, "-m", "edge_mnist", "train", "--recipe", "best", "--out", str(run)]
        command += ["--network", network.factory, "--epochs", str(network.epochs), "--seed", str(network.seed)]
        command += ["--set", f"cooldown_epochs={network.cooldown_epochs}", "--set", "elastic=1"]
        command += ["--set", "label_smoothing=0", "--set", "outliers=0", "--workers", "1", "--precision", "float32"]
        command += ["--data", str(data)] if data else []
        command += ["--resume"] if (run / "state.safetensors").exists() else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return run / CHECKPOINT


def _is_complete(path: Path) -> bool:
    """Whether a training has come to its end, which is when it reads the test images."""
    return path.exists() and checkpoint.load(path).metadata["accuracies"]["test"] is not None


def ask_network(runs: Path, data: Path | None, name: str) -> NDArray[np.float32]:
    """The logits of a larger network for the augmented training images, float32 (cycles, N, classes)."""
    path = runs / name / "logits.npy"
    if not path.exists():
        arrays, factories = pack_teachers([checkpoint.load(runs / name / CHECKPOINT)])
        teacher = unpack_teacher(arrays, factories, "cpu")
        assert teacher is not None
        images = Images(runs, data).open()
        logits = np.empty((*images.shape[:2], CLASSES), np.float32)
        for cycle, start in product(range(len(images)), range(0, images.shape[1], BATCH)):
            part = torch.from_numpy(images[cycle, start : start + BATCH].copy()).unsqueeze(1).float()
            logits[cycle, start : start + BATCH] = teacher.compute_logits(normalize(part)).numpy()
        with path.with_suffix(".unfinished").open("wb") as file:
            np.save(file, logits)
        path.with_suffix(".unfinished").rename(path)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def choose_cycle(epoch: int, recipe: Recipe) -> int:
    """Choose the augmented images of an epoch, counted from 0: the index of the cycle."""
    usual = recipe.epochs - recipe.cooldown_epochs
    return epoch % USUAL_CYCLES if epoch < usual else USUAL_CYCLES + (epoch - usual) % COOLDOWN_CYCLES


def train_student(runs: Path, data: Path | None, student: Student) -> dict[str, float]:
    """Train a student, unless it has been trained.

    Args:
        runs: the folder with the images and the logits of the larger networks.
        data: the folder with MNIST's files.
        student: what is trained.

    Returns:
        "validation" and "test", shares of the images that are read rightly, and "augmented", the share of the augmented
        images for validation that are read wrongly.
    """
    path = runs / "students" / f"{student.name}.json"
    if known := _read(path):
        return known
    network, images = _learn(runs, data, student), Images(runs, data)
    result = measure_network(network, images)
    metadata = {"network": DIGITNET, "recipe": asdict(student.recipe), "seed": student.seed, "teacher": student.teacher}
    made = make_checkpoint(network, metadata | {"accuracies": result})
    statistics = calibration.collect(folding.fold(made), images.open()[0, : calibration.IMAGES])
    path.parent.mkdir(exist_ok=True)
    checkpoint.save(path.with_suffix(".safetensors"), replace(made, statistics=statistics))
    return _write(path, result)


def _learn(runs: Path, data: Path | None, student: Student) -> torch.nn.Module:
    """Train a DigitNet with random weights, or go on where that was stopped, see `train_student`."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    images = Images(runs, data)
    augmented = images.open()
    labels = torch.from_numpy(images.digits.labels[images.learning])
    taught = [ask_network(runs, data, network) for network in TEACHERS[student.teacher]]
    recipe = student.recipe
    torch.manual_seed(student.seed)
    network: torch.nn.Module = DigitNet()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
    optimizer = make_optimizer(recipe, network)
    move = get_ema_multi_avg_fn(student.averaging)  # type: ignore[no-untyped-call]
    average = AveragedModel(network, multi_avg_fn=move, use_buffers=True)
    trained: tuple[Any, ...] = (network, optimizer, average)
    batches = len(labels) // recipe.batch_size
    state, first = runs / f"{student.name}.state", 0
    if state.exists():
        first, *parts = torch.load(state)
        for target, part in zip(trained, parts, strict=True):
            target.load_state_dict(part)
    for epoch in range(first, student.epochs):
        network.train()
        cycle = choose_cycle(epoch, recipe)
        order = draw_permutation(student.seed, epoch, len(labels))
        for batch in range(batches):
            part = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            pixels = torch.from_numpy(augmented[cycle, part]).unsqueeze(1).float()
            logits = [torch.from_numpy(one[cycle, part]) for one in taught]
            set_rates(optimizer, recipe, epoch * batches + batch, student.epochs * batches)
            teacher_logits = torch.stack(logits).mean(0) if logits else None
            loss = compute_loss(network(normalize(pixels)), labels[part], teacher_logits, recipe)
            optimizer.zero_grad()
            (loss / recipe.batch_size).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if student.averaging:
                average.update_parameters(network)
        torch.save((epoch + 1, *(one.state_dict() for one in trained)), state.with_suffix(".unfinished"))
        state.with_suffix(".unfinished").rename(state)
    state.unlink()
    return average.module if student.averaging else network


def _read(path: Path) -> dict[str, float]:
    """Read what was measured; nothing if it was not measured yet."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _write(path: Path, result: dict[str, float]) -> dict[str, float]:
    """Keep what was measured, and return it."""
    path.parent.mkdir(exist_ok=True)
    write_whole(path, json.dumps(result).encode())
    return result


def measure_network(network: torch.nn.Module, images: Images) -> dict[str, float]:
    """Measure what `train_student` returns."""
    held_out, labels = images.digits.images[images.validation], images.digits.labels[images.validation]

    def measure(pixels: NDArray[np.uint8], expected: NDArray[np.int64]) -> float:
        return measure_accuracy(network, torch.from_numpy(pixels), torch.from_numpy(expected), WorkerGroup())

    return {
        "validation": measure(held_out, labels),
        "augmented": 1 - measure(*images.augment_validation()),
        "test": measure(images.test.images, images.test.labels),
    }


def measure_teacher(runs: Path, data: Path | None, names: Sequence[str]) -> dict[str, float]:
    """Measure the mean logits of larger networks, unless they were measured, as `measure_network` does."""
    path = runs / "teachers" / f"{'-'.join(names)}.json"
    if known := _read(path):
        return known
    arrays, factories = pack_teachers([checkpoint.load(runs / name / CHECKPOINT) for name in names])
    teacher = unpack_teacher(arrays, factories, "cpu")
    assert teacher is not None
    return _write(path, measure_network(_Averaged(teacher), Images(runs, data)))


class _Averaged(torch.nn.Module):
    """A teacher, as a network."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self._teacher = teacher

    def forward(self, normalized: torch.Tensor) -> torch.Tensor:
        """The mean logits (B, 10) of float32 (B, 1, 28, 28)."""
        return self._teacher.compute_logits(normalized)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, metavar="RUNS", help="the folder of the trainings, of 1 GB")
    parser.add_argument("--data", type=Path, help="the folder with MNIST's files")
    parser.add_argument("--epochs", type=int, default=8, help="the epochs of the shortest trainings, or of --student")
    parser.add_argument("--student", choices=list(TEACHERS), help="train only students of this teacher")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe of --student"
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many students of --student are trained")
    parser.add_argument(
        "--averaging",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="measure a moving average of the weights, of which each step keeps this share, such as 0.999",
    )
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time, on a core each")
    options = parser.parse_args()
    if not options.student and (options.set or options.seeds != 1 or options.averaging):
        parser.error("--set, --seeds and --averaging need --student")
    if not 0 <= options.averaging < 1:
        parser.error("--averaging: expected 0 to 1")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started here
    runs, data = options.runs, options.data
    if options.student:
        chosen = [options.student]
        seeds, changes = range(options.seeds), tuple(options.set)
        students = [Student(options.student, options.epochs, changes, seed, options.averaging) for seed in seeds]
    else:
        chosen = list(TEACHERS)
        students = [Student(name, options.epochs * factor) for name in chosen for factor in (1, 2, 4)]
    names = [name for name in NETWORKS if any(name in TEACHERS[teacher] for teacher in chosen)]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        trained = pool.map(partial(train_network, runs, data), names)
        Images(runs, data).open()
        list(trained)
        list(pool.map(partial(_ask, runs, data), names))
        measured = pool.map(partial(measure_teacher, runs, data), (TEACHERS[name] for name in chosen if TEACHERS[name]))
        teachers = dict(zip((name for name in chosen if TEACHERS[name]), measured, strict=True))
        # The longest first, so that no core waits for the last one.
        order = sorted(students, key=lambda student: -student.epochs)
        results = dict(zip(order, pool.map(partial(train_student, runs, data), order), strict=True))
    columns = (
        "teacher",
        "its test",
        "its errors, augmented",
        "epochs",
        "seed",
        "validation",
        "errors, augmented",
        "test",
    )
    table = Table(*columns, title=", ".join(options.set) or None)
    for student in students:
        teacher, found = teachers.get(student.teacher), results[student]
        of_teacher = (f"{teacher['test']:.2%}", f"{teacher['augmented']:.2%}") if teacher else ("-", "-")
        of_student = (f"{found['validation']:.2%}", f"{found['augmented']:.2%}", f"{found['test']:.2%}")
        table.add_row(student.teacher, *of_teacher, str(student.epochs), str(student.seed), *of_student)
    make_console().print(table)


def _ask(runs: Path, data: Path | None, name: str) -> None:
    """Ask a larger network without sending its answers to another process."""
    ask_network(runs, data, name)


if __name__ == "__main__":
    run_command(main)
