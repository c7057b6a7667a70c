"""The finder: pictures and their truth, what it learns from them, and its training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from edge_mnist.data import canvases, finder_map, mnist, strokes
from edge_mnist.data.finder_map import PLACE, VALUES
from edge_mnist.graph.checkpoint import load as load_checkpoint
from edge_mnist.graph.checkpoint import save as save_checkpoint
from edge_mnist.graph.tensor_file import encode_tensors, read_tensors
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.training.finder import __main__ as program
from edge_mnist.training.finder import canvas_crops, glyphs, loop, network, pages, sources
from edge_mnist.training.finder.pages import Picture, Sources
from tests.support.digits import put_digits

FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


@pytest.fixture(scope="module")
def made_from() -> Sources:
    """Drawn digits and one font, in both roles."""
    drawn = strokes.draw(60, seed=1)
    font = glyphs.from_font(FONT, printed=False)
    press = glyphs.from_font(FONT, printed=True)
    assert font is not None and press is not None
    photograph = np.random.RandomState(0).randint(0, 256, (90, 120), dtype=np.uint8)
    return Sources([glyphs.from_images("strokes", drawn.images, drawn.labels), font], [font], [press], [photograph])


@pytest.mark.parametrize("kind", pages.KINDS)
def test_a_picture_depends_on_its_seed_alone_and_its_boxes_lie_in_it(kind: str, made_from: Sources) -> None:
    first, again = (pages.draw(np.random.RandomState(3), made_from, kind) for _ in range(2))
    assert np.array_equal(first.frame, again.frame) and np.array_equal(first.boxes, again.boxes)
    other = pages.draw(np.random.RandomState(4), made_from, kind)
    assert other.frame.shape != first.frame.shape or not np.array_equal(first.frame, other.frame)
    height, width = first.frame.shape
    assert (first.boxes >= 0).all() and (first.boxes <= (width, height, width, height)).all()
    assert (first.boxes[:, 2:] > first.boxes[:, :2]).all()
    assert len(first.labels) == len(first.boxes) == len(first.lines)


def test_every_kind_that_should_have_digits_has_some_and_the_others_none(made_from: Sources) -> None:
    counts = {
        kind: sum(len(pages.draw(np.random.RandomState(seed), made_from, kind).labels) for seed in range(4))
        for kind in pages.KINDS
    }
    none = {"words", "empty", "photograph"}
    assert {kind for kind, count in counts.items() if not count} <= none | {"drawing"}
    assert not any(counts[kind] for kind in none)


def test_a_box_without_area_is_not_visible() -> None:
    boxes = np.array([(10, 10, 30, 20), (-10, 0, 10, 10), (5, 5, 5, 25)], np.float32)
    inside = np.clip(boxes, 0, 25)
    assert pages._measure_visible(boxes, inside).tolist() == [0.75, 0.5, 0.0]


def test_a_box_is_where_the_ink_is(made_from: Sources) -> None:
    page = pages.Page(np.zeros((200, 300), np.float32), made_from)
    by = pages.Writer(made_from.presses[0], glyphs.Pen(0, 0.0, 1.0, 0.0), 1.0, 0.3)
    pages.put(np.random.RandomState(0), page, "4a1", 20, 150, 80, by)
    assert page.labels == [4, 1], "letters are no digits"
    for outline in page.outlines:
        left, top, right, bottom = (*outline.min(0), *outline.max(0))
        inside = page.ink[int(top) : int(bottom) + 1, int(left) : int(right) + 1] > 0.5
        assert inside.any(0)[1:-1].all() and inside.any(1)[1:-1].all(), "the box is tight"
        assert bottom - top == pytest.approx(80, abs=6)


def test_a_crop_takes_its_boxes_along() -> None:
    frame = np.zeros((300, 400), np.uint8)
    frame[100:180, 200:240] = 255
    picture = Picture("lone", frame, np.array([7]), np.array([[200, 100, 240, 180]], np.float32), np.array([0]))
    seen = 0
    for seed in range(40):
        image, rows = pages.crop(np.random.RandomState(seed), picture, 160, (9.0, 38.0))
        if not len(rows):
            continue
        left, top, right, bottom = np.clip(rows[0, 1:], 0, 160)
        x, y, width, height = cv2.boundingRect((image > 200).astype(np.uint8))
        if right - left < 3 or bottom - top < 3:
            continue
        assert (left, top, right, bottom) == pytest.approx((x, y, x + width, y + height), abs=1.6)
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("shape", [(480, 640), (60, 200), (900, 700)])
def test_a_crop_of_a_canvas_takes_the_boxes_of_every_scale_along(shape: tuple[int, int]) -> None:
    size = max(shape) // 8
    frame = np.full(shape, 60, np.uint8)
    box = (20, 10, 20 + size // 2, 10 + size)
    frame[box[1] : box[3], box[0] : box[2]] = 255
    picture = Picture("lone", frame, np.array([7]), np.array([box], np.float32), np.array([0]))
    count = 0
    for seed in range(60):
        image, rows = canvas_crops.cut(np.random.RandomState(seed), picture, 160)
        assert image.shape == (160, 160) and image.dtype == np.uint8
        is_ink = np.zeros(image.shape, bool)
        for label, *corners in rows:
            left, top, right, bottom = np.rint(np.clip(corners, 0, 160)).astype(int)
            is_ink[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1] = True
            if label != pages.MAY_BE_FOUND and min(right - left, bottom - top) > 3:
                assert (image[top + 1 : bottom - 1, left + 1 : right - 1] > 160).all()
                count += 1
        tiny = int(4 * network.IGNORED[0] ** 2)  # what is too small to be asked for has no box
        assert ((image > 200) & ~is_ink).sum() <= tiny, seed
    assert count > 20


def test_a_digit_that_a_tile_cuts_may_be_missed() -> None:
    picture = Picture(
        "lone",
        np.zeros((60, 60), np.uint8),
        np.array([1, 2, 3]),
        np.array([[12, 12, 20, 20], [4, 12, 14, 20], [0, 0, 4, 4]], np.float32),
        np.array([0, 0, 0]),
    )
    tile = canvases.Picture(picture.frame[10:, 10:], (2.0, 2.0), (20, 20))
    rows = canvas_crops._place_boxes(picture, canvases.Placed(tile, 0, 100, 7))
    assert rows.tolist() == [[1, 104, 11, 120, 27], [pages.MAY_BE_FOUND, 100, 11, 108, 27]]


def _say(boxes: Tensor) -> Tensor:
    """The output, (N, VALUES, 40, 40), of a network that knows the boxes of crops."""
    wanted = network.targets(boxes, network.SIDE)
    count = network.SIDE // PLACE
    values = torch.full((len(boxes), VALUES, count, count), -9.0)
    for (crop, row, column), box, label in zip(wanted.index, wanted.box, wanted.label, strict=True):
        values[crop, 0, row, column] = 9.0
        values[crop, 1:5, row, column] = box
        values[crop, 5 + max(int(label), 0), row, column] = 9.0
    return values


def test_decoding_gives_back_the_boxes_that_the_targets_were_made_from() -> None:
    boxes = torch.tensor([[[3.0, 20, 30, 34, 52], [8.0, 60, 30, 75, 50], [1.0, 100, 100, 103, 112]]])
    values = _say(boxes).numpy()[0]
    down, across = np.nonzero(values[0] > 0)
    found = finder_map.decode(values[:, down, across], down, across)
    labels = values[5:, down, across].argmax(0)
    for label, *box in boxes[0].tolist():
        assert (labels == label).any()
        assert found[labels == label] == pytest.approx(np.tile(box, ((labels == label).sum(), 1)), abs=1e-3)


def test_every_place_in_the_core_of_a_digit_is_to_say_it_and_of_two_the_nearer() -> None:
    wanted = network.targets(torch.tensor([[[3.0, 20, 20, 40, 44], [4.0, 100, 100, 110, 120]]]), network.SIDE)
    places = [(row, column) for _, row, column in wanted.index[wanted.label == 3].tolist()]
    middles = [(4 * row + 2, 4 * column + 2) for row, column in places]
    assert len(places) > 2 and all(abs(y - 32) <= 4.8 and abs(x - 30) <= 4 for y, x in middles)
    assert bool((wanted.heat[0, [row for row, _ in places], [column for _, column in places]] == 1).all())
    assert 0 < float(wanted.heat[0, 8, 9]) < 1, "beside the core, silence is asked for less"
    touching = network.targets(torch.tensor([[[5.0, 20, 20, 28, 40], [6.0, 24, 20, 48, 40]]]), network.SIDE)
    for (_, _, column), label in zip(touching.index.tolist(), touching.label.tolist(), strict=True):
        assert label == (5 if abs(4 * column + 2 - 24) / 8 < abs(4 * column + 2 - 36) / 24 else 6)
    assert set(touching.label.tolist()) == {5, 6}


def test_the_network_is_given_the_pixels_of_each_place_as_training_gives_them() -> None:
    canvas = np.random.RandomState(0).randint(0, 256, (2, 32, 48), dtype=np.uint8)
    expected = nn.functional.pixel_unshuffle(torch.from_numpy(canvas.astype(np.float32))[:, None], PLACE).numpy()
    assert np.array_equal(finder_map.split_places(canvas), expected)


def test_the_loss_of_the_right_output_is_nearly_zero_and_of_any_other_is_not() -> None:
    boxes = torch.tensor([[[3.0, 20, 30, 34, 52], [8.0, 60, 30, 75, 50], [1.0, 100, 100, 103, 112]]])
    wanted = network.targets(boxes, network.SIDE)
    right, _ = network.loss(_say(boxes), wanted)
    assert float(right) < 0.05
    for changed in (boxes + torch.tensor([0.0, 9, 0, 9, 0]), boxes[:, :2], torch.full_like(boxes, -2)):
        wrong, _ = network.loss(_say(changed), wanted)
        assert float(wrong) > 1
    other, _ = network.loss(_say(boxes + torch.tensor([1.0, 0, 0, 0, 0])), wanted)
    assert float(other) > 1, "another digit"


def test_what_is_too_small_or_too_large_for_a_scale_may_be_found_there_but_need_not() -> None:
    wanted = network.targets(torch.tensor([[[3.0, 20, 20, 44, 56], [3.0, 100, 100, 140, 150]]]), network.SIDE)
    assert len(wanted.index) == 0 and float(wanted.heat.max()) == 0
    assert float(wanted.weight[0, 9, 8]) == 0, "36 pixels: a neighbouring scale has it, too"
    assert float(wanted.weight[0, 31, 30]) == 1, "50 pixels: never here"


def test_a_digit_of_which_a_part_is_missing_may_be_found_but_need_not() -> None:
    wanted = network.targets(torch.tensor([[[pages.MAY_BE_FOUND, 20, 20, 34, 40]]]).float(), network.SIDE)
    assert len(wanted.index) == 0 and float(wanted.heat.max()) == 0
    assert float(wanted.weight[0, 7, 6]) == 0


def test_four_pictures_share_a_crop_and_a_digit_that_is_cut_may_be_missed() -> None:
    half = network.SIDE // 2
    rows = np.array([[3, 10, 10, 30, 40], [4, half - 5, 10, half + 5, 30], [5, half + 3, 0, half + 9, 9]], np.float32)
    parts = [(np.full((half, half), shade, np.uint8), rows) for shade in (1, 2, 3, 4)]
    image, found = loop._joined(parts)
    assert [int(image[y, x]) for y in (0, -1) for x in (0, -1)] == [1, 2, 3, 4]
    for top in (0, half):
        for left in (0, half):
            assert [3, 10 + left, 10 + top, 30 + left, 40 + top] in found.tolist()
    assert sorted(found[:, 0].astype(int).tolist()) in ([-3, -3, -3, -3, 3, 3, 3, 3], [3, 3, 3, 3])


@pytest.fixture
def fonts(tmp_path: Path) -> Path:
    """A folder with a font for each role, under names that belong to the part "train"."""
    name = next(name for name in (f"font{number}" for number in range(99)) if glyphs.part_of(name) == "train")
    for kind in ("hand", "print"):
        (tmp_path / "fonts" / kind).mkdir(parents=True)
        (tmp_path / "fonts" / kind / f"{name}.ttf").write_bytes(FONT.read_bytes())
    return tmp_path / "fonts"


def test_fonts_are_kept_apart_by_name_and_a_folder_without_them_is_one_clear_line(fonts: Path) -> None:
    assert glyphs.part_of("Lato-Bold") == glyphs.part_of("Lato-Black") == glyphs.part_of("lato")
    assert len(glyphs.fonts(fonts, "train")) == 2
    assert glyphs.fonts(fonts, "judge") == []
    with pytest.raises(UsageError, match="has 0 handwritten and 0 printed fonts for the part 'judge'"):
        sources.load("judge", fonts)


@pytest.mark.parametrize("change", ["speed=3", "steps=many", "batch=0", "rate=nan", "without=grid"])
def test_a_setting_that_does_not_exist_is_refused(change: str, fonts: Path, tmp_path: Path) -> None:
    arguments = [str(tmp_path / "run"), "--fonts", str(fonts), "--set", change]
    result = CliRunner().invoke(program.main, arguments)
    assert isinstance(result.exception, UsageError) and change in str(result.exception)
    assert not (tmp_path / "run").exists()


class _Here(ThreadPoolExecutor):
    """Workers in this process."""

    def __init__(self) -> None:
        super().__init__(1)


def test_batches_and_weights_are_the_same_after_an_interruption(
    made_from: Sources, fonts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loop.Settings(steps=6, batch=3, chunk=4, kept=2, steps_per_chunk=2, width=8, blocks=1)

    def drawn(pool: object, ahead: int, used: loop.Settings, first: int) -> Iterator[loop.Chunk]:
        number = first
        while True:
            yield loop.draw_chunk(made_from, used, number)
            number += 1

    monkeypatch.setattr(loop, "chunks", drawn)
    monkeypatch.setattr(loop.sources, "load", lambda *_: made_from)
    monkeypatch.setattr(loop, "ProcessPoolExecutor", lambda *_: _Here())
    monkeypatch.setattr(loop, "_SOURCES", made_from)
    monkeypatch.setattr(loop, "CALIBRATED", 2)
    records = list(loop.train(tmp_path / "whole", fonts, None, settings, 1))
    assert [record["step"] for record in records] == [6]

    calls, loss = 0, network.loss

    def interrupted(output: Tensor, wanted: network.Targets) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return loss(output, wanted)

    monkeypatch.setattr(loop, "SAVED", -1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.network, "loss", interrupted)
        list(loop.train(tmp_path / "parts", fonts, None, settings, 1))
    list(loop.train(tmp_path / "parts", fonts, None, settings, 1))
    for name in (loop.STATE, loop.CHECKPOINT):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    assert load_checkpoint(tmp_path / "whole" / loop.CHECKPOINT).statistics
    finder = loop.load(tmp_path / "whole" / loop.CHECKPOINT)
    assert loop.to_checkpoint(finder, {}).weights.keys() == finder.state_dict().keys() - {
        name for name in finder.state_dict() if name.endswith("num_batches_tracked")
    }
    state = {name: array for name, array in read_tensors(tmp_path / "whole" / loop.STATE)[0].items()}
    for name, tensor in finder.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert np.array_equal(tensor.numpy(), state[f"average/module.{name}"])
    with pytest.raises(UsageError, match="began with"):
        list(loop.train(tmp_path / "parts", fonts, None, loop.Settings(steps=7), 1))

    # It may be stopped after its last step and before its calibration; and earlier runs have no setting `without`.
    path, whole = tmp_path / "parts" / loop.CHECKPOINT, load_checkpoint(tmp_path / "parts" / loop.CHECKPOINT)
    save_checkpoint(path, replace(whole, statistics={}))
    arrays, description = read_tensors(tmp_path / "parts" / loop.STATE)
    del description["settings"]["without"]
    (tmp_path / "parts" / loop.STATE).write_bytes(encode_tensors(arrays, description))
    list(loop.train(tmp_path / "parts", fonts, None, settings, 1))
    assert path.read_bytes() == (tmp_path / "whole" / loop.CHECKPOINT).read_bytes()


def test_the_checkpoint_of_another_network_is_refused() -> None:
    with pytest.raises(EdgeMnistError, match="is not a checkpoint of a finder"):
        loop.load(SHIPPED)


@pytest.mark.slow
@pytest.mark.skipif(not mnist.is_available(None, "train"), reason="MNIST is not on this machine")
def test_worker_processes_draw_the_chunks_in_order(fonts: Path) -> None:
    settings = loop.Settings(chunk=3)
    with ProcessPoolExecutor(2, get_context("spawn"), loop._prepare, (fonts, None)) as pool:
        coming = loop.chunks(pool, 4, settings, 5)
        drawn = [next(coming) for _ in range(3)]
        pool.shutdown(cancel_futures=True)
    made = sources.load("train", fonts)
    for number, chunk in enumerate(drawn, 5):
        expected = loop.draw_chunk(made, settings, number)
        assert all(np.array_equal(one.frame, other.frame) for one, other in zip(chunk, expected, strict=True))


def _become_a_parent_that_is_killed(fonts: Path, data: Path) -> None:
    pool = ProcessPoolExecutor(1, get_context("spawn"), loop._prepare, (fonts, data))
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_workers_of_a_training_that_was_killed_end_too(fonts: Path, tmp_path: Path) -> None:
    code = (
        "from tests.training import test_finder as t; t._become_a_parent_that_is_killed(*map(t.Path, t.sys.argv[1:3]))"
    )
    command = [
        sys.executable,
        "-c",
        f"if __name__ == '__main__': {code}",
        str(fonts),
        str(put_digits(tmp_path / "digits")),
    ]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)  # it ends when the worker does, too
    worker = int(run.stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.returncode == -signal.SIGKILL and not Path(f"/proc/{worker}").exists()


def test_the_average_forgets_the_first_weights_within_a_thousand_steps() -> None:
    averaged = [torch.ones(3)]
    for count in range(1, 1000):
        loop.update_average(averaged, [torch.zeros(3)], torch.tensor(count))
    assert (averaged[0] < 0.001).all()
    loop.update_average(averaged, [torch.ones(3)], torch.tensor(10**6))
    assert averaged[0].tolist() == pytest.approx([0.001] * 3, abs=1e-5)
