"""How sure the reader is of a digit, from what both networks say of it and of its neighbours."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("cv2")

from edge_mnist.demo.reading import confidence
from edge_mnist.demo.reading.finder import Found


def _found(boxes: list[tuple[float, float, float, float]], certain: list[float]) -> Found:
    logits = np.zeros((len(boxes), 10), np.float32)
    logits[:, 3] = 6
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(certain, np.float32), logits)


def _judge(found: Found) -> tuple[np.ndarray, np.ndarray]:
    chances = np.full((len(found), 10), 0.01)
    chances[:, 3] = 0.91
    labels = confidence.choose_labels(chances, found)
    assert labels.tolist() == [3] * len(found)
    rows = confidence.measure(found, chances, labels)
    return rows, confidence.estimate(rows)


def test_a_digit_without_neighbours_is_judged_alone() -> None:
    rows, chances = _judge(_found([(0, 0, 20, 30), (400, 0, 420, 30), (40, 0, 240, 300)], [0.9, 0.5, 0.7]))
    assert rows.shape == (3, len(confidence.FEATURES)) and rows[:, 3].tolist() == [0, 0, 0]
    assert chances[0] > chances[2] > chances[1]


@pytest.mark.parametrize(("neighbour", "helps"), [(0.97, True), (0.16, False)])
def test_a_digit_among_digits_is_surer_than_one_among_what_is_none(neighbour: float, helps: bool) -> None:
    boxes = [(0.0, 0.0, 20.0, 30.0), (25.0, 0.0, 45.0, 30.0), (50.0, 0.0, 70.0, 30.0)]
    _, (alone,) = _judge(_found(boxes[1:2], [0.6]))
    rows, chances = _judge(_found(boxes, [neighbour, 0.6, neighbour]))
    assert (rows[1, 3] > 0) == helps and (chances[1] > alone) == helps


def test_nothing_that_was_found_has_no_confidence() -> None:
    rows, chances = _judge(_found([], []))
    assert rows.shape == (0, len(confidence.FEATURES)) and chances.shape == (0,)
