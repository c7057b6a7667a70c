"""The steps of the finder's training.

Pictures are drawn by worker processes, in chunks that are seeded by their number; the last chunks are kept in memory,
and each batch is chosen from them. Batches depend on the seed and the step alone: on any number of workers, and after
an interruption, they are the same.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edge_mnist.data import finder_map
from edge_mnist.graph import checkpoint, folding
from edge_mnist.graph.calibration import collect
from edge_mnist.graph.checkpoint import Checkpoint
from edge_mnist.graph.layers import weight_shapes
from edge_mnist.graph.tensor_file import encode_tensors, read_tensors
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import write_whole
from edge_mnist.training.finder import canvas_crops, network, pages, sources
from edge_mnist.training.finder.network import SIDE, FinderNetwork
from edge_mnist.training.finder.pages import Picture, Sources
from edge_mnist.training.runs import to_arrays
from edge_mnist.training.tracing import trace_layers

Chunk = list[Picture]

MOST_DIGITS = 96
"""Digits in a crop that are kept."""
SIZES = (6.5, 34.0)
"""The longer side that one of the digits in a crop has, in pixels: those to be found, and some that are not."""
JOINED = 0.2
"""The part of the crops beside those of `PLACED` that combine four pictures, as scales of a frame share a canvas. Where
a picture would fill less than half of a crop, the crop combines four as well."""
PLACED = 0.5
"""The part of the crops that show pictures on a canvas as the reader places them."""
AVERAGED = 0.999
"""The part of the averaged weights that a step leaves as it is, after the first thousands; see `update_average`."""
SAVED = 60
"""Seconds between two writings of the state."""
CALIBRATED = 24
"""Canvases from which the ranges of the activations are taken when the training is over."""
LAST_CHUNK = 1 << 30
"""The number of the chunk from which those canvases are cut; training never reaches so high a number."""
STATE = "state.safetensors"
"""Everything that training needs to go on, in the run's folder."""
CHECKPOINT = "finder.safetensors"
"""The network with its averaged weights, in the run's folder."""


@dataclass(frozen=True)
class Settings:
    """How the finder is trained.

    Attributes:
        steps: the number of steps of gradient descent.
        batch: the number of crops in a step.
        chunk: pictures that are drawn together.
        kept: chunks that batches are cut from.
        steps_per_chunk: steps after which the next chunk takes the place of the oldest.
        rate: the highest learning rate; it falls to nearly 0 along a cosine.
        seed: the seed of all random numbers.
        width: channels at an eighth of the resolution; the others follow.
        blocks: the number of residual blocks at an eighth and at a sixteenth of the resolution.
        without: the kind of pages, of `pages.KINDS`, that none is drawn of; "" for all kinds.
    """

    steps: int = 40_000
    batch: int = 16
    chunk: int = 64
    kept: int = 64
    steps_per_chunk: int = 40
    rate: float = 2e-3
    seed: int = 0
    width: int = 64
    blocks: int = 3
    without: str = ""


_SOURCES: Sources | None = None
"""What a worker process draws from."""


def _prepare(fonts: Path, folder: Path | None) -> None:
    global _SOURCES
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    _SOURCES = sources.load("train", fonts, folder)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: one that was killed does not end its workers."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _draw(settings: Settings, number: int) -> Chunk:
    if _SOURCES is None:
        raise RuntimeError("the worker was not prepared")
    return draw_chunk(_SOURCES, settings, number)


def update_average(averaged: Sequence[Tensor], present: Sequence[Tensor], count: Tensor | int) -> None:
    """Move averaged weights towards the present ones, by more in the first thousands of steps.

    The share that stays is (1 + count) / (10 + count), and at most `AVERAGED`, as in TensorFlow's
    ExponentialMovingAverage: otherwise a third of the random first weights would be left after 1000 steps.

    Args:
        averaged: the averages, which are changed.
        present: the weights after this step.
        count: how many steps have been averaged.
    """
    share = min(AVERAGED, (1 + int(count)) / (10 + int(count)))
    get_ema_multi_avg_fn(share)(averaged, present, count)  # type: ignore[no-untyped-call]


def draw_chunk(made_from: Sources, settings: Settings, number: int) -> Chunk:
    """One chunk of pictures."""
    random = np.random.RandomState([settings.seed, number])
    return [pages.draw(random, made_from, without=settings.without) for _ in range(settings.chunk)]


def cut_batch(
    random: np.random.RandomState, kept: list[Chunk], count: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Crops of pictures that are chosen at random.

    Returns:
        uint8 (count, SIDE, SIDE), and float32 (count, N, 5) with N up to `MOST_DIGITS`, see `network.targets`.
    """
    images = np.empty((count, SIDE, SIDE), np.uint8)
    boxes = np.full((count, MOST_DIGITS, 5), network.NOTHING, np.float32)

    for index in range(count):
        if random.rand() < PLACED:
            images[index], rows = canvas_crops.cut(random, _choose(random, kept), SIDE)
        else:
            images[index], rows = _cut_joined(random, kept)
        rows = rows[:MOST_DIGITS]
        boxes[index, : len(rows)] = rows
    most = int((boxes[..., 0] != network.NOTHING).sum(1).max(initial=1))
    return images, boxes[:, :most]


def _choose(random: np.random.RandomState, kept: list[Chunk]) -> Picture:
    """One of the pictures."""
    chunk = kept[random.randint(len(kept))]
    return chunk[random.randint(len(chunk))]


def _cut(random: np.random.RandomState, kept: list[Chunk], side: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A crop of one of the pictures."""
    return pages.crop(random, _choose(random, kept), side, SIZES)


def _cut_joined(random: np.random.RandomState, kept: list[Chunk]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A crop of one of the pictures, or of four."""
    image, rows = _cut(random, kept, SIDE)
    if random.rand() < JOINED or np.mean(image == finder_map.BEYOND) > 0.5:
        return _joined([_cut(random, kept, SIDE // 2) for _ in range(4)])
    return image, rows


def draw_canvases(pictures: Chunk, count: int) -> NDArray[np.uint8]:
    """Canvases that four crops share, uint8 (count, CANVAS_HEIGHT, CANVAS_WIDTH), to calibrate with."""
    random = np.random.RandomState(0)
    height, width = finder_map.CANVAS_HEIGHT, finder_map.CANVAS_WIDTH
    squares = [_joined([_cut(random, [pictures], height // 2) for _ in range(4)])[0] for _ in range(count)]
    return np.stack(squares)[:, :, :width]


def _joined(
    parts: list[tuple[NDArray[np.uint8], NDArray[np.float32]]],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Four crops as the quarters of one."""
    half = len(parts[0][0])
    image = np.empty((2 * half, 2 * half), np.uint8)
    found = []
    for number, (pixels, rows) in enumerate(parts):
        top, left = half * (number // 2), half * (number % 2)
        image[top : top + half, left : left + half] = pixels
        middle = (rows[:, 1:3] + rows[:, 3:]) / 2
        rows = rows[((middle > 0) & (middle < half)).all(1)]
        rows[np.logical_or((rows[:, 1:3] < 0).any(1), (rows[:, 3:] > half).any(1)), 0] = pages.MAY_BE_FOUND
        found.append(rows + np.array([0, left, top, left, top], np.float32))
    return image, np.concatenate(found).astype(np.float32)


def chunks(pool: ProcessPoolExecutor, ahead: int, settings: Settings, first: int) -> Iterator[Chunk]:
    """The chunks from a number on, in order, without end; so many are drawn ahead."""
    waiting: list[Future[Chunk]] = []
    number = first
    while True:
        while len(waiting) < ahead:
            waiting.append(pool.submit(_draw, settings, number))
            number += 1
        yield waiting.pop(0).result()


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops uint8 (N, side, side) as the network takes them, with other contrast, brightness, polarity and noise."""
    count = len(images)
    pixels = images[:, None].float() / 255

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1, 1), device=images.device, generator=generator)

    middle = pixels.mean((2, 3), keepdim=True)
    pixels = (pixels - middle) * torch.where(uniform(0, 1) < 0.5, 1.0, uniform(0.4, 1.5)) + middle
    pixels = pixels + torch.where(uniform(0, 1) < 0.5, 0.0, uniform(-0.15, 0.15))
    pixels = torch.where(uniform(0, 1) < 0.06, 1 - pixels, pixels)
    noise = torch.randn(pixels.shape, device=images.device, generator=generator)
    pixels = pixels + torch.where(uniform(0, 1) < 0.7, 0.0, uniform(0, 0.04)) * noise
    return (pixels.clamp(0, 1) - finder_map.MEAN) / finder_map.STD


def train(
    run: Path, fonts: Path, folder: Path | None, settings: Settings, workers: int, init: Path | None = None
) -> Iterator[dict[str, Any]]:
    """Train a finder, or go on with a run that was interrupted.

    Args:
        run: the folder that holds `STATE` and `CHECKPOINT`.
        fonts: see `sources.load`.
        folder: where MNIST is.
        settings: of the run; one that goes on must have those that it began with.
        workers: processes that draw pictures.
        init: the checkpoint whose weights a new run begins with; None for random ones.

    Yields:
        After every hundred steps and the last: the step, the mean losses since, and seconds.

    Raises:
        UsageError: the run began with other settings, or there are no fonts.
    """
    sources.load("train", fonts, folder)  # a mistake there is then said once, and not by every worker
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    net = FinderNetwork(widths(settings.width), settings.blocks).to(device)
    if init is not None:
        net.load_state_dict(load(init).state_dict())
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = AveragedModel(net, multi_avg_fn=update_average, use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), settings.rate, weight_decay=0.01)
    step = 0
    if (run / STATE).exists():
        step = _restore(run / STATE, settings, net, average, optimizer)
    run.mkdir(parents=True, exist_ok=True)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _prepare, (fonts, folder)) as pool,
        ThreadPoolExecutor(1) as ahead,  # cuts the next batch while the network learns from this one
    ):
        batches = _batches(pool, 3 * workers, settings, step)
        coming = ahead.submit(next, batches) if step < settings.steps else None
        while coming is not None:
            pixels, wanted = coming.result()
            pixels, wanted = pixels.to(device), wanted.to(device)
            coming = ahead.submit(next, batches) if step + 1 < settings.steps else None
            for group in optimizer.param_groups:
                group["lr"] = _rate(step, settings)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                output = net(pixels)
            value, parts = network.loss(output, wanted)
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            average.update_parameters(net)
            step += 1
            count += 1
            for name, part in parts.items():
                sums[name] = sums.get(name, 0.0) + float(part)
            last = step == settings.steps
            if last or time.monotonic() - saved > SAVED:
                _save(run, settings, step, net, average, optimizer)
                saved = time.monotonic()
            if last or step % 100 == 0:
                means = {name: total / count for name, total in sums.items()}
                yield {"step": step, **means, "seconds": time.monotonic() - began}
                sums, count = {}, 0
        if not checkpoint.load(run / CHECKPOINT).statistics:  # it may also have been stopped just here before
            pictures = pool.submit(_draw, settings, LAST_CHUNK).result()
            calibrate(run / CHECKPOINT, draw_canvases(pictures, CALIBRATED))
        pool.shutdown(cancel_futures=True)


def _batches(
    pool: ProcessPoolExecutor, ahead: int, settings: Settings, step: int
) -> Iterator[tuple[Tensor, network.Targets]]:
    """The batches from a step on: what the network is given, float32 (N, 16, 40, 40), and what it should say."""
    drawn = max(0, step // settings.steps_per_chunk + 1 - settings.kept)
    coming = chunks(pool, ahead, settings, drawn)
    kept: list[Chunk] = []
    while True:
        while drawn <= step // settings.steps_per_chunk:
            kept = [*kept, next(coming)][-settings.kept :]
            drawn += 1
        random = np.random.RandomState([settings.seed, 1, step])
        images, boxes = cut_batch(random, kept, settings.batch)
        generator = torch.Generator().manual_seed(int(random.randint(1 << 31)))
        pixels = F.pixel_unshuffle(augmented(torch.from_numpy(images), generator), finder_map.PLACE)
        yield pixels.contiguous(memory_format=torch.channels_last), network.targets(torch.from_numpy(boxes), SIDE)
        step += 1


def widths(width: int) -> tuple[int, int, int]:
    """The channels at each resolution, from those at an eighth."""
    return width // 2, width, width * 5 // 4


def _rate(step: int, settings: Settings) -> float:
    """The learning rate of a step: a short warming up, then half a cosine."""
    warm = min(1.0, (step + 1) / min(300, settings.steps))
    return settings.rate * warm * (0.5 * (1 + math.cos(math.pi * step / settings.steps)) + 0.003)


def _save(
    run: Path,
    settings: Settings,
    step: int,
    net: FinderNetwork,
    average: AveragedModel,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write what training needs to go on, and the network."""
    tensors = {f"network/{name}": tensor for name, tensor in net.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in values.items()}
    description = {"settings": asdict(settings), "step": step}
    # The state last: a run that is stopped between the two goes on with the state before, and writes both again.
    checkpoint.save(run / CHECKPOINT, to_checkpoint(average.module, {"training": description}))
    write_whole(run / STATE, encode_tensors(to_arrays(tensors), description))


def is_complete(run: Path, settings: Settings) -> bool:
    """Whether a run with these settings has come to its end, so that its checkpoint can be exported as int8."""
    if not (run / CHECKPOINT).exists():
        return False
    found = checkpoint.load(run / CHECKPOINT)
    expected = {"settings": asdict(settings), "step": settings.steps}
    return bool(found.statistics) and found.metadata.get("training") == expected


def _restore(
    path: Path, settings: Settings, net: FinderNetwork, average: AveragedModel, optimizer: torch.optim.Optimizer
) -> int:
    """Load what `_save` wrote; returns the step."""
    arrays, description = read_tensors(path)
    began_with = {"without": "", **description.get("settings", {})}  # earlier runs had pages of all kinds
    if began_with != asdict(settings):
        raise UsageError(f"{path}: began with {began_with}, expected {asdict(settings)}: use another folder")
    own: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, array in arrays.items():
        part, _, rest = name.partition("/")
        if part == "optimizer":
            index, _, rest = rest.partition("/")
            moments.setdefault(int(index), {})[rest] = torch.from_numpy(array)
        else:
            own[part][rest] = torch.from_numpy(array)
    net.load_state_dict(own["network"])
    average.load_state_dict(own["average"])
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(description["step"])


def to_checkpoint(finder: nn.Module, metadata: dict[str, Any]) -> Checkpoint:
    """A finder as the checkpoint that `edge_mnist` exports from, its input a crop."""
    layers = trace_layers(finder, FinderNetwork.input_shape)
    state = to_arrays(finder.state_dict())
    weights = {name: state[name] for name in weight_shapes(layers)}
    return Checkpoint(layers, FinderNetwork.input_shape, finder_map.MEAN, finder_map.STD, weights, metadata=metadata)


def calibrate(path: Path, canvases: NDArray[np.uint8]) -> None:
    """Add the statistics of the activations to a checkpoint, so that it can be exported as int8 without any pictures.

    Args:
        path: the checkpoint.
        canvases: uint8 (N, CANVAS_HEIGHT, CANVAS_WIDTH).
    """
    source = checkpoint.load(path)
    statistics = collect(folding.fold(source), finder_map.split_places(canvases))
    checkpoint.save(path, replace(source, statistics=statistics))


def load(path: Path) -> FinderNetwork:
    """The finder in a checkpoint, in evaluation mode.

    Raises:
        EdgeMnistError: it is no checkpoint of a finder.
    """
    weights = checkpoint.load(path).weights
    try:
        width = len(weights["eighth.1.0.weight"])
        blocks = sum(name.startswith("eighth.") and name.endswith("depthwise.0.weight") for name in weights)
        finder = FinderNetwork(widths(width), blocks)
        state = finder.state_dict()
        state |= {name: torch.from_numpy(array) for name, array in weights.items()}
        finder.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise EdgeMnistError(f"{path}: is not a checkpoint of a finder: {reason}") from error
    return finder.eval()
