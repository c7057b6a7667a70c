"""The training loop: steps, epochs, and a state on the disk from which a run goes on.

All that is random comes from (seed, epoch, image index) or (seed, step, ghost batch), so a run that was stopped and
resumed, with as many workers or with others, ends with the weights of one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_mnist import __version__
from edge_mnist.data.mnist import Digits
from edge_mnist.data.user_digits import Extra
from edge_mnist.graph import calibration, folding
from edge_mnist.graph import checkpoint as checkpoints
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import Layer, output_shapes, weight_shapes
from edge_mnist.graph.tensor_file import decode_tensors, encode_tensors
from edge_mnist.system import signals
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import locked, write_whole
from edge_mnist.training import curves, distillation, recipes, tracing, workers
from edge_mnist.training.augmentation import epoch_order
from edge_mnist.training.network import CLASSES, MEAN, STD, build, set_weights
from edge_mnist.training.progress import TrainingProgress
from edge_mnist.training.runs import (
    Run,
    Settings,
    pack_state,
    parse_settings,
    restore,
    save_state,
    to_arrays,
    unpack_state,
)
from edge_mnist.training.same_logits import check_same_logits
from edge_mnist.training.steps import Plan, Stepper, accuracy, make_optimizer, make_plan
from edge_mnist.training.workers import Team, WorkerLost

_LOG = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
CURVES = "curves.png"

Watch = Callable[[], AbstractContextManager[Sequence[int]]]
"""Makes a context whose value holds the numbers of the signals that have come, such as `signals.watch`."""

_INPUT = (1, 28, 28)


@dataclass(frozen=True)
class _Lead:
    """What worker 0 has besides: the user's folder, and the user."""

    out: Path
    layers: tuple[Layer, ...]
    source: str
    """Of the training images, as is their hash."""
    sha256: str
    progress: TrainingProgress
    size: int
    """How many workers train."""


def train(
    settings: Settings,
    train_part: Digits,
    test_part: Digits,
    out: Path,
    *,
    init: Checkpoint | None = None,
    extra: Extra | None = None,
    teachers: Sequence[Checkpoint] = (),
    resume: bool = False,
    size: int | None = None,
    watch: Watch | None = None,
) -> Checkpoint:
    """Train a network and write checkpoint, metrics, curves and state into a folder.

    Args:
        settings: what to compute.
        train_part: images uint8 (N, 28, 28) and labels int64 (N,) to learn from and to validate on.
        test_part: the same, looked at once, at the end; after each epoch only where the settings say so.
        out: a folder that does not exist yet or is empty; with `resume`, that of a run of the same settings and data.
        init: the weights to begin with, else the network's own; a resumed run has them already.
        extra: images of the user's own, to learn from besides.
        teachers: trained networks, whose mean opinion is learned besides.
        resume: go on where the run in `out` stopped.
        size: how many workers share each batch, which changes no bit of the result; else one a physical core, as far
            as the batch can be shared evenly. Those that torchrun started are taken as they are.
        watch: collects the signals that stop the run between two steps; without it no signal is handled.

    Returns:
        What was written to checkpoint.safetensors.

    Raises:
        Stopped: `watch` has collected a signal; the state is saved.
        WorkerLost: a worker ended; the state is saved.
        EdgeMnistError: the loss is no number any more, the network cannot be exported, the folder is another run's.
    """
    network = _make_network(settings)
    layers = tracing.describe(network, _INPUT)
    _check_exportable(network, layers)
    if init is not None:
        set_weights(network, init.weights, "--init: its weights are of another network than --network builds")
    run = Run(network, make_optimizer(settings.recipe, network))
    data_hash = train_part.sha256 + (f"+{extra.sha256}" if extra else "")
    # From here on a signal ends the run at a step, with its state saved.
    with locked(out), watch() if watch is not None else nullcontext(()) as caught:
        if resume:
            restore(run, out, settings.network, data_hash)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: holds other files, perhaps another run: name another --out, or --resume that run")
        taught, factories = distillation.send(teachers)
        arrays = _arrays(train_part, test_part, extra) | taught
        plan = make_plan(settings, arrays, distillation.receive(arrays, factories, settings.device))
        size = workers.choose_size(plan.ghosts, size, settings.device)
        _LOG.info("starting to train in %s with %s worker%s", out, size, "s" if size > 1 else "")
        save_state(run, out, settings, data_hash)  # a folder that cannot be written shows now
        with TrainingProgress(settings.recipe.epochs) as progress:
            lead = _Lead(out, layers, train_part.source, data_hash, progress, size)
            if absent := np.setdiff1d(np.arange(CLASSES), plan.labels[plan.learn].cpu()).tolist():
                progress.note(f"note: no image of {', '.join(map(str, absent))} among those to learn from")
            with workers.join() if workers.launched() else workers.start(size) as team, _reproducible(settings):
                if size > 1:
                    header = {"settings": dataclasses.asdict(settings), "teachers": factories}
                    team.broadcast(encode_tensors(arrays, header))
                test_accuracy = _go(run, plan, team, lead, caught)
            _LOG.info("collecting the statistics of the activations")
            result = _checkpoint(run.network, layers, _metadata(run, plan, lead, test_accuracy))
            few = plan.learn[epoch_order(settings.seed, 0, len(plan.learn))[: calibration.IMAGES]]
            shown = plan.images[torch.from_numpy(few)].cpu().numpy()
            result = dataclasses.replace(result, statistics=calibration.collect(folding.fold(result), shown))
            checkpoints.save(out / CHECKPOINT, result)
            write_whole(out / CURVES, curves.draw(settings.recipe.name, run.history))
            progress.end(test_accuracy)
            _LOG.info("")
    return result


def _arrays(train_part: Digits, test_part: Digits, extra: Extra | None) -> dict[str, np.ndarray[Any, Any]]:
    """All images that a worker needs, as `steps.make_plan` takes them."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"images": train_part.images, "labels": train_part.labels}
    arrays |= {"test_images": test_part.images, "test_labels": test_part.labels}
    if extra is not None:
        arrays |= {"extra_images": extra.images, "extra_labels": extra.labels, "extra_none": extra.none}
    return arrays


def follow(team: Team, watch: Watch | None = None) -> None:
    """Train along with worker 0, which sends settings, images and state; `watch` is as of `train`.

    Raises:
        WorkerLost: another worker ended.
        EdgeMnistError: the network cannot be built here, or the loss is no number any more.
    """
    arrays, header = decode_tensors(team.broadcast(), "worker 0")
    settings = parse_settings(header["settings"])
    plan = make_plan(settings, arrays, distillation.receive(arrays, header["teachers"], settings.device))
    network = _make_network(settings)
    with _reproducible(settings), watch() if watch is not None else nullcontext(()) as caught:
        _go(Run(network, make_optimizer(settings.recipe, network)), plan, team, None, caught)


def _go(run: Run, plan: Plan, team: Team, lead: _Lead | None, caught: Sequence[int]) -> float:
    """Run the epochs that are left, the same in each worker, and return the accuracy on the test images."""
    stepper = Stepper(run, plan, team)
    _LOG.info("")  # from here on the progress of the run is shown
    try:
        while len(run.history) < plan.settings.recipe.epochs:
            _align(run, plan, team)
            stopped = _run_epoch(run, plan, stepper, caught, lead)
            if not stopped:
                _end_epoch(run, plan, team)
            if lead is not None:
                _keep(run, plan, lead)
            if stopped:
                where = f"after step {run.step} of {plan.steps}"
                raise signals.Stopped(stopped, where + (f"; go on with --resume --out {lead.out}" if lead else ""))
        _LOG.info("reading the test images")
        return accuracy(run.network, plan.test_images, plan.test_labels, team)
    except WorkerLost as error:
        if lead is None:
            raise
        save_state(run, lead.out, plan.settings, lead.sha256)
        kept = f"the run is saved after step {run.step} of {plan.steps}; go on with --resume --out {lead.out}"
        raise WorkerLost(f"{error}: {kept}") from error


def _align(run: Run, plan: Plan, team: Team) -> None:
    """Give all workers the state of worker 0: at the start, and where processors of other kinds round otherwise."""
    if team.size > 1:
        state = team.broadcast(pack_state(run, {}) if team.rank == 0 else b"")
        if team.rank:
            unpack_state(run, state, "worker 0", plan.settings.network)


def _run_epoch(run: Run, plan: Plan, stepper: Stepper, caught: Sequence[int], lead: _Lead | None) -> int:
    """Take the steps that the present epoch lacks; return a signal that ends them early, or 0."""
    epoch = len(run.history)
    order = plan.learn[epoch_order(plan.settings.seed, epoch, len(plan.learn))]
    for batch in range(run.step - epoch * plan.steps_per_epoch, plan.steps_per_epoch):
        indices = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        stopped = stepper.step(epoch, indices, caught[0] if caught else 0)
        if lead is not None:
            lead.progress.step(run.step / plan.steps_per_epoch, run)
        if stopped:
            return stopped
    return 0


def _end_epoch(run: Run, plan: Plan, team: Team) -> None:
    """Validate, and move the sums of the epoch into the history."""
    began = time.perf_counter()
    part = torch.from_numpy(plan.validate)
    validation = test = None
    if len(part):
        validation = accuracy(run.network, plan.images[part], plan.labels[part], team)
    if plan.settings.watch_test:
        test = accuracy(run.network, plan.test_images, plan.test_labels, team)
    run.history.append(
        {
            "epoch": len(run.history) + 1,
            "lr": recipes.learning_rate(plan.settings.recipe, run.step - 1, plan.steps),
            "loss": run.loss / run.seen,
            "train_accuracy": run.correct / run.seen,
            "validation_accuracy": validation,
            "test_accuracy": test,
            "images_per_second": round(run.seen / run.seconds, 1),
            "seconds": round(run.seconds + time.perf_counter() - began, 3),
        }
    )
    run.loss, run.correct, run.seen, run.seconds = 0.0, 0, 0, 0.0


def _keep(run: Run, plan: Plan, lead: _Lead) -> None:
    """Write what the run has come to; after a whole epoch also a checkpoint that can be exported."""
    save_state(run, lead.out, plan.settings, lead.sha256)
    if run.history and not run.seen:
        lead.progress.epoch(run.history[-1])
        metadata = _metadata(run, plan, lead, None)
        checkpoints.save(lead.out / CHECKPOINT, _checkpoint(run.network, lead.layers, metadata))


def _make_network(settings: Settings) -> nn.Module:
    """The network with the first weights of its seed, channels side by side in memory: convolutions are faster so."""
    torch.manual_seed(settings.seed)
    network = build(settings.network)
    network.to(settings.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
    return network


def _check_exportable(network: nn.Module, layers: tuple[Layer, ...]) -> None:
    """Refuse now what would be refused once the training is over."""
    logits = output_shapes(layers, _INPUT)[-1]
    if math.prod(logits) != CLASSES:
        raise EdgeMnistError(f"{layers[-1].name}: the network gives {logits}, expected {CLASSES} logits")
    check_same_logits(network, _checkpoint(network, layers, {}))


def _checkpoint(network: nn.Module, layers: tuple[Layer, ...], metadata: dict[str, Any]) -> Checkpoint:
    """A network's present weights; without the statistics of its activations."""
    weights = to_arrays(network.state_dict())
    chosen = {name: weights[name] for name in weight_shapes(layers)}
    return Checkpoint(layers, _INPUT, MEAN, STD, chosen, metadata=metadata)


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
    """On a CPU one thread, as sums are cut by threads, and only operations that repeat their bits."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # 6 % of the time, for memory that is written anyway
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # its stub lacks it
    torch.set_num_threads(1)
    # CUDA has no such form of some backward passes: there, equal bits are not promised
    torch.use_deterministic_algorithms(settings.device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _metadata(run: Run, plan: Plan, lead: _Lead, test_accuracy: float | None) -> dict[str, Any]:
    """Where a network comes from, as JSON."""
    last = run.history[-1]
    return dataclasses.asdict(plan.settings) | {
        "epochs": len(run.history),
        "learned_from": len(plan.learn),
        "workers": lead.size,
        "data": {"source": lead.source, "sha256": lead.sha256},
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
