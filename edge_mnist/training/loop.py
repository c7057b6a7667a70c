"""The training loop: steps, epochs, and the files from which a run resumes.

Everything random comes from (seed, epoch, image index) or (seed, step, ghost batch). So a run that is stopped and
resumed, with the same number of workers or another, ends with the same weights, bit for bit, as one that is not.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_mnist import __version__
from edge_mnist.data.mnist import Digits
from edge_mnist.data.user_digits import UserDigits
from edge_mnist.graph import calibration, folding
from edge_mnist.graph import checkpoint as checkpoints
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import output_shapes, weight_shapes
from edge_mnist.graph.tensor_file import decode_tensors, encode_tensors
from edge_mnist.system import signals
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import lock, write_whole
from edge_mnist.training import curves, distillation, recipes, tracing, workers
from edge_mnist.training.network import CLASSES, MEAN, STD, build_network, set_weights
from edge_mnist.training.precision import choose_bfloat16
from edge_mnist.training.progress import TrainingProgress
from edge_mnist.training.runs import (
    TrainingSettings,
    TrainingState,
    pack_state,
    parse_settings,
    restore,
    save_state,
    to_arrays,
    unpack_state,
)
from edge_mnist.training.same_logits import check_same_logits
from edge_mnist.training.steps import Stepper, TrainingPlan, make_optimizer, make_plan, measure_accuracy
from edge_mnist.training.workers import WorkerGroup, WorkerLost

_LOG = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
"""The file with the trained network."""
CURVES = "curves.png"
"""The file with loss and errors by epoch."""

SignalCollector = Callable[[], AbstractContextManager[Sequence[int]]]
"""Makes a context whose value holds the numbers of the signals that have come, such as `signals.collect`."""

_INPUT_SHAPE = (1, 28, 28)
"""Channels, height and width of the images."""


@dataclass(frozen=True)
class _Output:
    """What worker 0 needs to write files and to show progress; the other workers have none.

    Attributes:
        out: the folder of the run.
        source: where the training images come from.
        sha256: the hash of the training images.
        progress: shows how far the run is.
        workers: the number of workers.
    """

    out: Path
    source: str
    sha256: str
    progress: TrainingProgress
    workers: int


def train(
    settings: TrainingSettings,
    train_part: Digits,
    test_part: Digits,
    out: Path,
    *,
    init: Checkpoint | None = None,
    user_digits: UserDigits | None = None,
    teachers: Sequence[Checkpoint] = (),
    resume: bool = False,
    choose_precision: bool = False,
    worker_count: int | None = None,
    collect_signals: SignalCollector | None = None,
) -> Checkpoint:
    """Train a network and write checkpoint, metrics, curves and state into a folder.

    Args:
        settings: what to compute.
        train_part: the images uint8 (N, 28, 28) and labels int64 (N,) to learn from and to validate on.
        test_part: the images and labels to test on, once at the end; after each epoch only if the settings say so.
        out: a folder that does not exist or is empty; with `resume`, the folder of a run of equal settings and data.
        init: the weights to begin with, else the network's initial ones; a resumed run has its own.
        user_digits: the user's own images, to learn from as well.
        teachers: trained networks, whose mean output is learned as well.
        resume: continue the run in `out`.
        choose_precision: train in the precision that `precision.choose_bfloat16` chooses instead of the one in
            `settings`, unless a run is resumed, which keeps its own.
        worker_count: how many workers share each batch, which changes no bit of the result. If None, as many as there
            are physical cores and as can share a batch evenly. Under torchrun it is the number of processes.
        collect_signals: makes a context that collects the signals which stop the run between two steps; without it, no
            signal is handled.

    Returns:
        The checkpoint, as it was written to checkpoint.safetensors.

    Raises:
        Stopped: `collect_signals` has collected a signal; the state is saved.
        WorkerLost: a worker ended; the state is saved.
        UsageError: the folder holds other files, or another run.
        EdgeMnistError: the loss is not finite, or the network cannot be exported.
    """
    network = _make_network(settings)
    _check_exportable(network)
    if init is not None:
        set_weights(network, init.weights, "--init: its weights are of another network than --network builds")
    state = TrainingState(network, make_optimizer(settings.recipe, network))
    data_hash = train_part.sha256 + (f"+{user_digits.sha256}" if user_digits else "")
    with lock(out), ExitStack() as stack:
        if resume:
            restore(state, out, settings.network, data_hash)
        elif out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: holds other files, perhaps another run: name another --out, or --resume that run")
        teacher_arrays, factories = distillation.pack_teachers(teachers)
        arrays = _collect_images(train_part, test_part, user_digits) | teacher_arrays
        plan = make_plan(settings, arrays, distillation.unpack_teacher(arrays, factories, settings.device))
        count = workers.choose_size(plan.ghost_batches, worker_count, settings.device)
        if choose_precision and not resume:
            settings = dataclasses.replace(settings, bfloat16=choose_bfloat16(settings))
            plan = dataclasses.replace(plan, settings=settings)
        # From here on a signal ends the run at a step, with its state saved.
        caught = stack.enter_context(collect_signals()) if collect_signals is not None else ()
        _LOG.info("starting to train in %s with %s worker%s", out, count, "s" if count > 1 else "")
        save_state(state, out, settings, data_hash)  # so that a folder that cannot be written fails now
        with TrainingProgress(settings.recipe.epochs) as progress:
            output = _Output(out, train_part.source, data_hash, progress, count)
            present = plan.labels[np.concatenate([plan.learning_indices, plan.user_indices])].cpu()
            if absent := np.setdiff1d(np.arange(CLASSES), present).tolist():
                progress.note(f"note: no image of {', '.join(map(str, absent))} among those to learn from")
            joining = workers.join_torchrun() if workers.is_under_torchrun() else workers.start_workers(count)
            with joining as group, _reproducible(settings):
                if count > 1:
                    header = {"settings": dataclasses.asdict(settings), "teachers": factories}
                    group.broadcast(encode_tensors(arrays, header))
                test_accuracy = _train_epochs(state, plan, group, output, caught)
            _LOG.info("collecting the statistics of the activations")
            result = make_checkpoint(state.network, _make_metadata(state, plan, output, test_accuracy))
            images = plan.images[torch.from_numpy(plan.choose_images(0)[: calibration.IMAGES])].cpu().numpy()
            result = dataclasses.replace(result, statistics=calibration.collect(folding.fold(result), images))
            checkpoints.save(out / CHECKPOINT, result)
            write_whole(out / CURVES, curves.draw_run(settings.recipe.name, state.history))
            progress.end(test_accuracy)
            _LOG.info("")
    return result


def _collect_images(
    train_part: Digits, test_part: Digits, user_digits: UserDigits | None
) -> dict[str, np.ndarray[Any, Any]]:
    """Collect the arrays that every worker needs, as `steps.make_plan` takes them."""
    arrays: dict[str, np.ndarray[Any, Any]] = {"images": train_part.images, "labels": train_part.labels}
    arrays |= {"test_images": test_part.images, "test_labels": test_part.labels}
    if user_digits is not None:
        arrays |= {"user_images": user_digits.images, "user_labels": user_digits.labels}
        arrays |= {"user_outliers": user_digits.outliers}
    return arrays


def train_as_worker(group: WorkerGroup, collect_signals: SignalCollector | None = None) -> None:
    """Train together with worker 0, which sends settings, images and state.

    Args:
        group: the workers that train together.
        collect_signals: see `train`.

    Raises:
        WorkerLost: another worker ended.
        EdgeMnistError: the network cannot be built here, or the loss is not finite.
    """
    arrays, header = decode_tensors(group.broadcast(), "worker 0")
    settings = parse_settings(header["settings"])
    plan = make_plan(settings, arrays, distillation.unpack_teacher(arrays, header["teachers"], settings.device))
    network = _make_network(settings)
    state = TrainingState(network, make_optimizer(settings.recipe, network))
    with _reproducible(settings), collect_signals() if collect_signals is not None else nullcontext(()) as caught:
        _train_epochs(state, plan, group, None, caught)


def _train_epochs(
    state: TrainingState, plan: TrainingPlan, group: WorkerGroup, output: _Output | None, caught: Sequence[int]
) -> float:
    """Train the remaining epochs, the same in each worker, and return the accuracy on the test images."""
    stepper = Stepper(state, plan, group)
    _LOG.info("")  # from here on, TrainingProgress shows the progress
    try:
        # Before the first look at the history: a worker that joins a run whose epochs are all over learns that here.
        _synchronize(state, plan, group)
        while len(state.history) < plan.settings.recipe.epochs:
            stopped = _train_epoch(state, plan, stepper, caught, output)
            if not stopped:
                _end_epoch(state, plan, group)
            if output is not None:
                _save(state, plan, output)
            if stopped:
                where = f"after step {state.step} of {plan.steps}"
                raise signals.Stopped(stopped, where + (f"; go on with --resume --out {output.out}" if output else ""))
            _synchronize(state, plan, group)
        _LOG.info("reading the test images")
        return measure_accuracy(state.network, plan.test_images, plan.test_labels, group)
    except WorkerLost as error:
        if output is None:
            raise
        save_state(state, output.out, plan.settings, output.sha256)
        remedy = f"the run is saved after step {state.step} of {plan.steps}; go on with --resume --out {output.out}"
        raise WorkerLost(f"{error}: {remedy}") from error


def _synchronize(state: TrainingState, plan: TrainingPlan, group: WorkerGroup) -> None:
    """Give all workers the state of worker 0: at the start, and where another kind of processor rounds differently."""
    if group.size > 1:
        content = group.broadcast(pack_state(state, {}) if group.rank == 0 else b"")
        if group.rank:
            unpack_state(state, content, "worker 0", plan.settings.network)


def _train_epoch(
    state: TrainingState, plan: TrainingPlan, stepper: Stepper, caught: Sequence[int], output: _Output | None
) -> int:
    """Take the remaining steps of the present epoch; return the signal that ended them early, else 0."""
    epoch = len(state.history)
    order = plan.choose_images(epoch)
    for batch in range(state.step - epoch * plan.steps_per_epoch, plan.steps_per_epoch):
        indices = order[batch * plan.batch_size : (batch + 1) * plan.batch_size]
        stopped = stepper.step(epoch, indices, caught[0] if caught else 0)
        if output is not None:
            output.progress.step(state.step / plan.steps_per_epoch, state)
        if stopped:
            return stopped
    return 0


def _end_epoch(state: TrainingState, plan: TrainingPlan, group: WorkerGroup) -> None:
    """Validate, and move the sums of the epoch into the history."""
    start = time.perf_counter()
    part = torch.from_numpy(plan.validation_indices)
    validation = test = None
    if len(part):
        validation = measure_accuracy(state.network, plan.images[part], plan.labels[part], group)
    if plan.settings.watch_test:
        test = measure_accuracy(state.network, plan.test_images, plan.test_labels, group)
    state.history.append(
        {
            "epoch": len(state.history) + 1,
            "lr": recipes.learning_rate(plan.settings.recipe, state.step - 1, plan.steps),
            "loss": state.loss / state.images,
            "train_accuracy": state.correct / state.images,
            "validation_accuracy": validation,
            "test_accuracy": test,
            "images_per_second": round(state.images / state.seconds, 1),
            "seconds": round(state.seconds + time.perf_counter() - start, 3),
        }
    )
    state.loss, state.correct, state.images, state.seconds = 0.0, 0, 0, 0.0


def _save(state: TrainingState, plan: TrainingPlan, output: _Output) -> None:
    """Save the state; after a whole epoch, report it and also write a checkpoint that can be exported."""
    save_state(state, output.out, plan.settings, output.sha256)
    if state.history and not state.images:
        output.progress.epoch(state.history[-1])
        metadata = _make_metadata(state, plan, output, None)
        checkpoints.save(output.out / CHECKPOINT, make_checkpoint(state.network, metadata))


def _make_network(settings: TrainingSettings) -> nn.Module:
    """Build the network with the initial weights of its seed, in the channels-last format that convolutions prefer."""
    torch.manual_seed(settings.seed)
    network = build_network(settings.network)
    network.to(settings.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks this form
    return network


def _check_exportable(network: nn.Module) -> None:
    """Refuse before the training what the export would refuse after it."""
    checkpoint = make_checkpoint(network, {})
    logits = output_shapes(checkpoint.architecture, _INPUT_SHAPE)[-1]
    if math.prod(logits) != CLASSES:
        name = checkpoint.architecture[-1].name
        raise EdgeMnistError(f"{name}: the network gives {logits}, expected {CLASSES} logits")
    check_same_logits(network, checkpoint)


def make_checkpoint(network: nn.Module, metadata: dict[str, Any]) -> Checkpoint:
    """Make a checkpoint of a network's present weights, without the statistics of its activations.

    The network is traced each time, because training may move what becomes a setting of a layer, as the slope of PReLU.
    """
    traced = tracing.trace_network(network, _INPUT_SHAPE)
    weights = to_arrays(network.state_dict())
    chosen = {name: weights[name] for name in weight_shapes(traced.layers)}
    return Checkpoint(traced.layers, _INPUT_SHAPE, MEAN, STD, chosen, metadata=metadata, ending=traced.ending)


@contextmanager
def _reproducible(settings: TrainingSettings) -> Iterator[None]:
    """Use one thread, because threads split sums, on a CPU only operations that repeat their bits, and no denormals."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # filling new memory takes 6 % of the time, and everything is written before it is read
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]  # its stub lacks it
    torch.set_num_threads(1)
    # Weights of filters that nothing uses decay to denormal numbers, with which a processor computes many times slower.
    torch.set_flush_denormal(True)
    # CUDA has no deterministic form of some backward passes: there, equal bits are not promised
    torch.use_deterministic_algorithms(settings.device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(strict)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _make_metadata(
    state: TrainingState, plan: TrainingPlan, output: _Output, test_accuracy: float | None
) -> dict[str, Any]:
    """Describe where a network comes from, as a JSON object."""
    last_epoch = state.history[-1]
    return dataclasses.asdict(plan.settings) | {
        "epochs": len(state.history),
        "learned_from": len(plan.learning_indices) + len(plan.user_indices),
        "workers": output.workers,
        "data": {"source": output.source, "sha256": output.sha256},
        "accuracies": {
            "train": last_epoch["train_accuracy"],
            "validation": last_epoch["validation_accuracy"],
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
