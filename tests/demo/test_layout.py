"""Lines, reading order and numbers follow from the boxes of digits alone."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_mnist.demo.reading.layout import Layout, LayoutParameters, arrange, estimate_tilt

Boxes = NDArray[np.float32]


def write(
    random: np.random.RandomState, text: str, x: float, y: float, size: float = 40.0, gap: float = 0.2
) -> list[tuple[float, float, float, float]]:
    """The boxes of a line of digits: a space leaves out the width of a digit, a 1 is thin, a 7 is long-tailed."""
    boxes = []
    for symbol in text:
        if symbol != " ":
            width = size * (0.2 if symbol == "1" else random.uniform(0.5, 0.75))
            top = y + size * random.normal(0, 0.04)
            bottom = y + size * (1.3 if symbol == "7" else 1 + random.normal(0, 0.04))
            boxes.append((x, top, x + width, bottom))
            x += width + gap * size
        else:
            x += 0.7 * size
    return boxes


def arranged(boxes: list[tuple[float, float, float, float]] | Boxes) -> Layout:
    return arrange(np.array(boxes, np.float32))


def page(*parts: list[tuple[float, float, float, float]]) -> tuple[Boxes, tuple[tuple[int, ...], ...]]:
    """All boxes, and the indices of each part."""
    ends = np.cumsum([len(part) for part in parts])
    indices = tuple(tuple(range(end - len(part), end)) for part, end in zip(parts, ends, strict=True))
    return np.array([box for part in parts for box in part], np.float32), indices


def random_page(seed: int) -> tuple[Boxes, tuple[tuple[int, ...], ...]]:
    """Lines of numbers of one size."""
    random = np.random.RandomState(seed)
    gap, pitch = random.uniform(0.05, 0.6), random.uniform(1.6, 2.6)
    texts = ["".join(random.choice(list("0123456789"), random.randint(4, 9))) for _ in range(random.randint(1, 6))]
    return page(*(write(random, text, 30, 40 + 40 * pitch * row, gap=gap) for row, text in enumerate(texts)))


def turn(boxes: Boxes, degrees: float, *, outlines: bool = False) -> Boxes:
    """Turn the centres of boxes clockwise; with `outlines`, the boxes then surround the turned boxes."""
    angle = np.radians(degrees)
    cosine, sine = np.cos(angle), np.sin(angle)
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    middle = centres.mean(0)
    centres = (centres - middle) @ np.array([[cosine, sine], [-sine, cosine]]) + middle
    if outlines:
        half = half @ np.abs(np.array([[cosine, sine], [sine, cosine]]))
    return np.concatenate([centres - half, centres + half], 1).astype(np.float32)


@given(
    st.integers(0, 10_000), st.floats(0.2, 8), st.tuples(st.floats(-2000, 2000), st.floats(-2000, 2000)), st.randoms()
)
@settings(max_examples=15, deadline=None)
def test_the_layout_depends_on_no_shift_no_scale_and_no_order_of_the_boxes(
    seed: int, scale: float, shift: tuple[float, float], shuffler: object
) -> None:
    boxes, _ = random_page(seed)
    expected = arranged(boxes)
    assert arranged(boxes * np.float32(scale) + np.float32((*shift, *shift))) == expected
    places = list(range(len(boxes)))
    shuffler.shuffle(places)  # type: ignore[attr-defined]
    shuffled = arranged(boxes[places])
    assert tuple(tuple(places[index] for index in line) for line in shuffled.lines) == expected.lines
    assert tuple(tuple(places[index] for index in number) for number in shuffled.numbers) == expected.numbers
    assert shuffled.number_lines == expected.number_lines


@given(st.integers(0, 10_000), st.floats(-15, 15))
@settings(max_examples=15, deadline=None)
def test_lines_stay_when_the_page_is_turned_a_little(seed: int, degrees: float) -> None:
    boxes, lines = random_page(seed)
    assert arranged(turn(boxes, degrees)).lines == lines
    assert arranged(turn(boxes, degrees, outlines=True)).lines == lines


@given(st.lists(st.tuples(*[st.floats(0, 500, width=32)] * 4), max_size=40))
@settings(max_examples=30, deadline=None)
def test_every_box_is_in_one_line_and_one_number(drawn: list[tuple[float, float, float, float]]) -> None:
    boxes = np.array(drawn, np.float32).reshape(-1, 2, 2)
    boxes = np.concatenate([boxes.min(1), boxes.max(1)], 1)  # boxes of any shape, empty ones too
    layout = arranged(boxes)
    assert sorted(index for line in layout.lines for index in line) == list(range(len(boxes)))
    assert sum(layout.numbers, ()) == sum(layout.lines, ())
    in_lines: list[tuple[int, ...]] = [() for _ in layout.lines]
    for number, line in zip(layout.numbers, layout.number_lines, strict=True):
        in_lines[line] += number
    assert tuple(in_lines) == layout.lines
    assert -90 < estimate_tilt(boxes) <= 90


def test_two_thousand_boxes_take_a_bounded_time() -> None:
    random = np.random.RandomState(3)
    corners = random.uniform(0, (4000, 3000), (2000, 2))
    boxes = np.concatenate([corners, corners + random.uniform(20, 60, (2000, 2))], 1).astype(np.float32)
    start = time.process_time()
    arranged(boxes)
    assert time.process_time() - start < 10  # a loop over triples would take hours


@pytest.mark.parametrize("degrees", [-89, -60, -40, -20, -5, 0, 5, 20, 40, 60, 90])
def test_the_tilt_of_a_page_is_found(degrees: int) -> None:
    random = np.random.RandomState(1)
    boxes, _ = page(*(write(random, "3141592653", 0, 70 * row) for row in range(5)))
    found = estimate_tilt(turn(boxes, degrees, outlines=True))
    assert abs((found - degrees + 90) % 180 - 90) < 3


@pytest.mark.parametrize("degrees", [-90, -15, 0, 15])
def test_the_tilt_of_columns_of_single_digits_is_not_that_of_the_columns(degrees: int) -> None:
    random = np.random.RandomState(2)
    boxes, _ = page(*(write(random, symbol, x, 56 * row) for x in (0, 300) for row, symbol in enumerate("2345609")))
    found = estimate_tilt(turn(boxes, degrees, outlines=True))
    assert abs((found - degrees + 90) % 180 - 90) < 4


def test_lone_digits_have_no_tilt() -> None:
    assert estimate_tilt(np.zeros((0, 4))) == 0
    assert estimate_tilt(np.array([(10, 10, 40, 60)])) == 0
    assert estimate_tilt(np.array([(10, 10, 40, 60), (50, 30, 80, 80)])) == 0
    far = [(0, 0, 30, 50), (400, 100, 430, 150), (100, 500, 130, 550), (700, 900, 730, 950)]
    assert estimate_tilt(np.array(far)) == 0


def test_a_page_in_perspective_is_read_line_by_line() -> None:
    random = np.random.RandomState(4)
    boxes, lines = page(*(write(random, "2718281828459", 0, 75 * row) for row in range(8)))
    centres, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    # The right side is farther away: the upper lines fall and the lower ones rise, by 17 degrees each.
    depth = 1 + centres[:, :1] / 900
    centres, half = (centres - (0, 300)) / depth, half / depth
    assert arranged(np.concatenate([centres - half, centres + half], 1)).lines == lines


def test_bowed_lines_are_read_line_by_line() -> None:
    random = np.random.RandomState(5)
    boxes, lines = page(*(write(random, "27182818284590", 0, 80 * row) for row in range(5)))
    boxes[:, [1, 3]] += 60 * ((boxes[:, :1] - 300) / 300) ** 2
    assert arranged(boxes).lines == lines


def test_a_table_is_read_row_by_row() -> None:
    random = np.random.RandomState(6)
    rows = [[write(random, text, x, 80 * row) for x, text in ((0, "12"), (300, "345"), (700, "6"))] for row in range(5)]
    boxes, lines = page(*([box for cell in row for box in cell] for row in rows))
    layout = arranged(boxes)
    assert layout.lines == lines
    assert [len(number) for number in layout.numbers] == [2, 3, 1] * 5


def test_columns_whose_rows_do_not_line_up_are_read_one_after_the_other() -> None:
    random = np.random.RandomState(7)
    left = [write(random, "4096", 0, 60 * row) for row in range(8)]
    right = [write(random, "8192", 300, 25 + 74 * row) for row in range(6)]
    boxes, lines = page(*left, *right)
    assert arranged(boxes).lines == lines


def test_a_title_and_a_sum_across_separate_columns_are_read_first_and_last() -> None:
    random = np.random.RandomState(8)
    title = write(random, "20262027", 0, -160, size=80)
    left = [write(random, "4096", 0, 60 * row) for row in range(5)]
    right = [write(random, "8192", 300, 30 + 74 * row) for row in range(4)]
    foot = write(random, "5550123555012", 0, 400)
    boxes, lines = page(title, *left, *right, foot)
    assert arranged(boxes).lines == lines


def test_indented_lines_are_read_from_the_top_down() -> None:
    random = np.random.RandomState(9)
    parts = [write(random, "42", x, 70 * row) for row, x in enumerate((400, 0, 600, 200))]
    boxes, lines = page(*parts)
    assert arranged(boxes).lines == lines


def test_a_grid_with_empty_cells_is_read_row_by_row() -> None:
    random = np.random.RandomState(10)
    full = random.rand(9, 9) < 0.5
    cells = [[write(random, "5", 75 * column, 75 * row) for column in np.flatnonzero(full[row])] for row in range(9)]
    boxes, lines = page(*([box for cell in row for box in cell] for row in cells))
    assert arranged(boxes).lines == lines


def test_small_raised_digits_and_long_tails_stay_in_their_line() -> None:
    random = np.random.RandomState(11)
    price = [*write(random, "479", 0, 0), *write(random, "00", 115, 0, size=20)]
    below = write(random, "17977", 0, 58)
    boxes, lines = page(price, below)
    assert arranged(boxes).lines == lines


def test_notes_of_another_size_are_not_in_the_line_beside_them() -> None:
    random = np.random.RandomState(12)
    large = write(random, "88", 0, 0, size=120)
    notes = [write(random, "2345", 230, y, size=30) for y in (0, 42, 84)]
    boxes, lines = page(large, *notes)
    assert arranged(boxes).lines == lines


def test_a_false_box_between_two_lines_leaves_them_whole() -> None:
    random = np.random.RandomState(13)
    boxes, lines = page(write(random, "3456789", 0, 0), write(random, "3456789", 0, 90), [(90, 55, 105, 75)])
    assert {*lines[:2]} <= {*arranged(boxes).lines}


@pytest.mark.parametrize(
    ("text", "gap", "lengths"),
    [
        ("23456 789", 0.1, [5, 3]),
        ("234 56 78 90 23", 0.1, [3, 2, 2, 2, 2]),
        ("23456789", 0.9, [8]),  # a wide hand
        ("24680246", 1.2, [8]),  # a box for each digit
        ("2345  6789", 0.7, [4, 4]),
        ("2  3  4  5", 0.1, [1, 1, 1, 1]),
    ],
)
def test_lines_are_split_into_numbers_at_wide_gaps(text: str, gap: float, lengths: list[int]) -> None:
    boxes, lines = page(write(np.random.RandomState(14), text, 0, 0, gap=gap))
    layout = arranged(boxes)
    assert layout.lines == lines
    assert [len(number) for number in layout.numbers] == lengths


def test_parameters_decide() -> None:
    boxes, _ = page(write(np.random.RandomState(15), "234 567", 0, 0))
    wide = replace(LayoutParameters(), space=2.0, widest=3.0)
    assert len(arrange(boxes).numbers) == 2
    assert len(arrange(boxes, wide).numbers) == 1
