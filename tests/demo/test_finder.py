"""Finding digits at all scales, with a network that finds white rectangles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mnist.data import canvases
from edge_mnist.data.finder_map import (
    BORDER,
    BOX_GAIN,
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    FOUND,
    PLACE,
    SIZE,
    SIZE_GAIN,
    VALUES,
)
from edge_mnist.demo.reading import finder
from edge_mnist.demo.reading.finder import Finder

ROWS, COLUMNS = CANVAS_HEIGHT // PLACE, CANVAS_WIDTH // PLACE


class Rectangles:
    """Finds white rectangles of the sizes that the network finds, wherever they lie on the canvas."""

    canvases = 0

    def outputs(self, places: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map of one canvas."""
        self.canvases += 1
        canvas = places.reshape(PLACE, PLACE, ROWS, COLUMNS).transpose(2, 0, 3, 1).reshape(CANVAS_HEIGHT, -1)
        values = np.full((VALUES, ROWS, COLUMNS), -9, np.float32)
        count, _, stats, _ = cv2.connectedComponentsWithStats((canvas > 127).astype(np.uint8))
        for x, y, width, height, _ in stats[1:count]:
            if not FOUND[0] <= max(width, height) <= FOUND[1]:
                continue
            middle = np.array([x + width / 2, y + height / 2]) / PLACE
            across, down = middle.astype(int)
            offset = (middle - (across, down) - 0.5) * BOX_GAIN
            size = np.log(np.array([width, height]) / SIZE) * SIZE_GAIN
            values[:5, down, across] = (9, *offset, *size)
            values[5 + 7, down, across] = 9
        return values.reshape(1, -1)

    def dequantize(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """A float network gives its logits."""
        return outputs


def draw(shape: tuple[int, int], *boxes: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    """A black frame with white rectangles: left, top, right, bottom."""
    frame = np.zeros(shape, np.uint8)
    for left, top, right, bottom in boxes:
        frame[round(top) : round(bottom), round(left) : round(right)] = 255
    return frame


def make(**changes: float) -> Finder:
    """A finder of white rectangles."""
    options = {"least": 0.2, "finest": 1600, "looks": 100, "step": 1.0, **changes}
    return Finder(Rectangles(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [12, 19, 28, 60, 140, 400])
@pytest.mark.parametrize("place", [(40, 30), (203, 55)])
@pytest.mark.parametrize("shape", [(480, 640), (640, 480)])
def test_a_digit_of_any_size_is_found_once_and_where_it_is(
    size: int, place: tuple[int, int], shape: tuple[int, int]
) -> None:
    box = (place[0], place[1], place[0] + 0.6 * size, place[1] + size)
    found = make().find(draw(shape, box))
    assert len(found) == 1
    assert found.boxes[0] == pytest.approx(box, abs=0.1 * size)
    assert int(found.logits[0].argmax()) == 7 and found.confidence[0] > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (28, 28), (60, 200), (481, 641), (2000, 30), (3000, 4000)])
def test_frames_of_any_shape_are_looked_at_wholly(shape: tuple[int, int]) -> None:
    assert len(make().find(np.zeros(shape, np.uint8))) == 0
    height, width = shape
    if min(shape) < 60:
        return
    size = max(10.0, max(shape) / 60)
    middles = [(x, y) for y in (0.8 * size, height / 2, height - 0.8 * size) for x in (size, width / 2, width - size)]
    boxes = [(x - 0.3 * size, y - size / 2, x + 0.3 * size, y + size / 2) for x, y in middles]
    found = make().find(draw(shape, *boxes))
    assert len(found) == len(boxes)
    order = np.lexsort(np.round(found.boxes[:, :2].T / size / 3))
    assert found.boxes[order] == pytest.approx(np.array(boxes), abs=0.2 * size)


def test_tiles_cover_a_scale_and_each_place_belongs_to_one_of_them() -> None:
    for shape in ((376, 312), (377, 313), (400, 900), (960, 1280), (100, 2000)):
        seen = np.zeros(shape, int)
        for tile in canvases.cut_tiles(np.zeros(shape, np.uint8), (1.0, 1.0)):
            height, width = tile.pixels.shape
            assert height <= canvases.TILE_HEIGHT and width <= canvases.TILE_WIDTH
            left, top, right, bottom = tile.edges
            x, y = tile.corner
            seen[y + top : y + height - bottom, x + left : x + width - right] += 1
        assert (seen >= 1).all()


@pytest.mark.parametrize("shape", [(480, 640), (481, 641), (60, 200), (37, 5), (1, 1)])
@pytest.mark.parametrize("ratio", [0.11, 0.25, 1 / 3, 0.45, 0.5, 0.7, 0.99, 1, 1.6])
def test_a_resized_picture_shows_the_same_at_its_scale(shape: tuple[int, int], ratio: float) -> None:
    def draw(rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(128 + 60 * np.sin(rows / 40) + 60 * np.cos(columns / 50))

    height, width = (max(1, round(side * ratio)) for side in shape)
    smooth = np.rint(draw(*np.indices(shape) + 0.5)).astype(np.uint8)
    resized, (across, down) = canvases.resize(smooth, width, height)
    assert resized.shape == (height, width)
    assert across * shape[1] == pytest.approx(width, abs=1) and down * shape[0] == pytest.approx(height, abs=1)
    rows, columns = np.indices(resized.shape) + 0.5
    wanted = draw(np.minimum(rows / down, shape[0]), np.minimum(columns / across, shape[1]))
    assert np.abs(resized - wanted).max() <= 1.5 + 0.75 / min(ratio, 1)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_picture_is_reduced_by_a_whole_number_to_the_rounded_means(step: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (11 * step, 7 * step), np.uint8)
    means = pixels.reshape(11, step, 7, step).mean((1, 3))
    assert np.abs(canvases.resize(pixels, 7, 11)[0] - means).max() <= 0.5


def find_most_covered(placed: list[canvases.Placed]) -> int:
    """How many pictures, with their borders, lie on one pixel of a canvas at most; each must lie on its canvas."""
    taken = np.zeros((max(one.canvas for one in placed) + 1, CANVAS_HEIGHT, CANVAS_WIDTH), int)
    for one in placed:
        height, width = one.picture.pixels.shape
        rows = slice(max(one.top - BORDER, 0), one.top + height + BORDER)
        columns = slice(max(one.left - BORDER, 0), one.left + width + BORDER)
        taken[one.canvas, rows, columns] += 1
        assert one.left >= 0 and one.top >= 0
        assert one.left + width <= CANVAS_WIDTH and one.top + height <= CANVAS_HEIGHT
    return int(taken.max())


def test_pictures_on_a_canvas_do_not_overlap() -> None:
    shapes = [(240, 310), (384, 320), (10, 312), (5, 5), (350, 310)]
    placed = canvases.pack([canvases.Picture(np.zeros(shape, np.uint8), (1.0, 1.0)) for shape in shapes])
    assert find_most_covered(placed) == 1
    assert max(one.canvas for one in placed) == 2


@pytest.mark.parametrize(("shape", "least"), [((480, 640), 8), ((640, 480), 9), ((60, 200), 10), ((28, 28), 3)])
def test_what_is_left_of_a_canvas_is_filled_with_scales_between(shape: tuple[int, int], least: int) -> None:
    coarse, _ = canvases.make_scales(np.zeros(shape, np.uint8), 1600, 1.0)
    placed = canvases.fill(coarse)
    assert find_most_covered(placed) == 1
    assert len(placed) >= least > len(coarse) and max(one.canvas for one in placed) == 0
    for one in placed:
        sides = np.array(shape) * one.picture.scale[::-1]
        assert sides == pytest.approx(np.array(one.picture.pixels.shape), abs=1)


@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (480, 480)])
def test_a_frame_of_a_camera_takes_one_canvas_and_the_closer_looks_that_are_allowed(shape: tuple[int, int]) -> None:
    for looks in (0, 1, 2):
        one = make(looks=looks)
        assert len(one.find(draw(shape, (20, 20, 40, 50), (400, 400, 412, 420)))) == 2
        assert one.network.canvases <= 1 + looks  # type: ignore[attr-defined]
    blank = make(looks=1)
    blank.find(np.zeros(shape, np.uint8))
    assert blank.network.canvases == 1, "there is nothing that is worth a closer look"  # type: ignore[attr-defined]


def test_of_boxes_that_show_one_digit_the_most_confident_stays() -> None:
    rows = np.array([[0, 0, 10, 20, 0.5], [1, 1, 11, 21, 0.9], [2, 6, 8, 14, 0.4], [9, 0, 19, 20, 0.3]], np.float32)
    assert finder._suppress(rows) == [1, 3]


def test_in_a_film_each_frame_takes_one_canvas_and_small_digits_are_found_from_the_second_frame_on() -> None:
    following = make(looks=1)
    frame = draw((480, 640), (20, 20, 60, 90), (380, 380, 396, 406), (420, 400, 427, 412))
    assert [len(following.follow(frame)) for _ in range(4)] == [2, 3, 3, 3]
    assert following.network.canvases == 4  # type: ignore[attr-defined]
    # What is gone is forgotten after the next look at the same scales.
    blank = np.zeros((480, 640), np.uint8)
    assert [len(following.follow(blank)) for _ in range(3)][-1] == 0
    following.follow(frame)
    following.forget()
    assert len(following.follow(blank)) == 0
    # A frame of another size is of another film.
    following.follow(frame)
    assert len(following.follow(np.zeros((240, 320), np.uint8))) == 0


def test_a_box_of_which_more_confident_ones_share_a_part_is_less_confident() -> None:
    rows = np.zeros((3, 15), np.float32)
    rows[:, :5] = [(0, 0, 10, 20, 0.9), (30, 0, 40, 20, 0.8), (5, 0, 15, 20, 0.75)]
    doubted = finder._doubt_overlapping(rows)
    assert doubted[:, 4] == pytest.approx([0.9, 0.8, 0.75 * 2 / 3])
    rows[2, 4] = rows[1, 4]
    assert finder._doubt_overlapping(rows[[0, 2, 1]])[:, 0].tolist() == [0, 30, 5], "the most confident first"


def test_what_has_its_ink_in_the_box_of_a_more_confident_digit_is_a_part_of_it() -> None:
    boxes = np.array([(0, 0, 10, 20), (6, 0, 16, 40), (30, 0, 40, 20)], np.float32)
    found = finder.Found(boxes, np.array([0.9, 0.5, 0.4], np.float32), np.zeros((3, 10), np.float32))
    inks = np.array([(0, 0, 6, 20), (6, 1, 9.5, 18), (31, 2, 39, 19)], np.float32)
    assert finder.find_parts(found, inks).tolist() == [False, True, False]
    assert not finder.find_parts(found.take(slice(0, 0)), inks[:0]).any()
