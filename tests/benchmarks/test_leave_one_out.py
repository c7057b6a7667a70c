"""Finders that never saw one kind of pages: how they are judged, and that none is trained twice."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
import matplotlib
import torch

cv2 = pytest.importorskip("cv2")

from benchmarks import leave_one_out  # noqa: E402
from edge_mnist.data import finder_map  # noqa: E402
from edge_mnist.training.finder import glyphs, loop, network, pages  # noqa: E402
from edge_mnist.training.finder.pages import MAY_BE_FOUND, Picture, Sources  # noqa: E402


@pytest.fixture(scope="module")
def made_from() -> Sources:
    """One font in all roles."""
    font = glyphs.from_font(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", printed=False)
    assert font is not None
    return Sources([font], [font], [font], [])


def save_finder(run: Path, settings: loop.Settings, step: int) -> None:
    """Write a small finder with random weights, as training does."""
    torch.manual_seed(0)
    finder = network.FinderNetwork(loop.widths(settings.width), 1)
    description = {"settings": loop.asdict(settings), "step": step}
    run.mkdir(parents=True, exist_ok=True)
    loop.checkpoint.save(run / loop.CHECKPOINT, loop.to_checkpoint(finder.eval(), {"training": description}))


def test_what_may_be_missed_is_neither_found_nor_false() -> None:
    boxes = np.array([[10, 10, 30, 40], [50, 10, 70, 40], [90, 10, 94, 16]], np.float32)
    picture = Picture("lines", np.zeros((60, 120), np.uint8), np.array([3, MAY_BE_FOUND, 5]), boxes, np.zeros(3, int))
    found = np.array([[11, 11, 31, 40], [50, 10, 70, 40], [10, 10, 30, 40], [0, 50, 9, 59]], np.float32)
    assert leave_one_out.count(picture, found) == Counter(pages=1, digits=1, found=1, false=2)
    blank = Picture("empty", picture.frame, *pages._none())
    assert leave_one_out.count(blank, found[:1]) == Counter(pages=1, digits=0, false=1)


def test_pages_of_the_kind_that_is_left_out_are_never_drawn(
    made_from: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty_page(random: np.random.RandomState, page: pages.Page) -> float:
        return 30.0

    monkeypatch.setattr(pages, "KINDS", {"some": (0.9, empty_page), "others": (0.1, empty_page)})
    for without, expected in (("some", {"others"}), ("others", {"some"})):
        drawn = loop.draw_chunk(made_from, loop.Settings(chunk=12, without=without), 0)
        assert {picture.kind for picture in drawn} == expected


def test_a_finder_is_trained_only_until_it_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loop.Settings(steps=5, width=8, blocks=1, without="grid")
    calls = []

    def trained(run: Path, *_: object) -> Iterator[dict[str, int]]:
        calls.append(run)
        save_finder(run, settings, 5)
        canvas = np.zeros((1, finder_map.CANVAS_HEIGHT, finder_map.CANVAS_WIDTH), np.uint8)
        loop.calibrate(run / loop.CHECKPOINT, canvas)
        yield {"step": 5}

    monkeypatch.setattr(loop, "train", trained)
    run = tmp_path / "without-grid"
    save_finder(run, settings, 4)
    assert not loop.is_complete(run, settings), "it was stopped"
    for _ in range(2):
        leave_one_out.train(run, tmp_path, None, settings, 1)
    assert calls == [run]
    assert not loop.is_complete(run, loop.Settings(steps=5, width=8, blocks=1)), "another one was asked for"


def test_each_kind_is_shown_to_a_finder_that_saw_it_and_to_one_that_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box = np.array([[10, 10, 30, 40]], np.float32)
    page = Picture("grid", np.zeros((60, 120), np.uint8), np.array([3]), box, np.zeros(1, int))

    def open_finder(path: Path) -> SimpleNamespace:
        found = box if path.parent.name == "all-kinds" else box + 60
        return SimpleNamespace(find=lambda frame: SimpleNamespace(boxes=found))

    trained: list[tuple[str, str]] = []

    def train(run: Path, fonts: Path, folder: Path | None, settings: loop.Settings, workers: int) -> Path:
        trained.append((run.name, settings.without))
        return run / loop.CHECKPOINT

    monkeypatch.setattr(leave_one_out, "draw_pages", lambda *_: [page, page])
    monkeypatch.setattr(leave_one_out, "open_finder", open_finder)
    monkeypatch.setattr(leave_one_out, "train", train)
    monkeypatch.setattr(sys, "argv", ["leave_one_out", str(tmp_path), "--fonts", str(tmp_path), "--kinds", "grid"])
    leave_one_out.main()
    assert trained == [("all-kinds", ""), ("without-grid", "grid")]
    row = next(line for line in capsys.readouterr().out.splitlines() if "grid" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["grid", "2", "2", "100.0%", "0.0%", "0.00", "1.00"]
