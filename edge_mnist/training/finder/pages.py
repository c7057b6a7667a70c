"""Draws pictures of many kinds with digits on them, and says where each digit is.

A page is written by one of `KINDS`, laid on a table or seen flat, lit, and photographed. Everything is seeded by the
random state that is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.data import canvases
from edge_mnist.data.finder_map import BEYOND, BORDER, SMALLEST
from edge_mnist.training.finder import glyphs, surfaces
from edge_mnist.training.finder.glyphs import Character, Hand, Pen

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Random = np.random.RandomState

LEAST_SIZE = 12
"""The smallest digits that are written, in pixels."""
LEAST_SEEN = 8
"""A digit that is smaller in a frame, in pixels, may be missed without harm."""
LEAST_CONTRAST = 28.0
"""Ink that differs by less from the paper around it, in steps of 1/255, cannot be read."""
CLEAR = 2.0
"""Ink cannot be read either that differs by less than so many standard deviations of the paper around it."""
MAY_BE_FOUND = -3
"""The label of a digit that cannot be read, or of which a part is missing: it may be found, and need not."""
UPRIGHT = 50.0
"""A digit that is turned by more degrees is only to be found, not to be classified: a 6 would be a 9."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame, and the digits that are on it.

    Attributes:
        kind: how the page was laid out.
        frame: uint8 (H, W) grey.
        labels: int64 (N,), the digits; -1 where it is turned too far to say which, `MAY_BE_FOUND` where it cannot be
            read.
        boxes: float32 (N, 4), left, top, right, bottom of each digit's ink, in pixels.
        lines: int64 (N,), number of the line that each digit was written in.
    """

    kind: str
    frame: _Bytes
    labels: NDArray[np.int64]
    boxes: _Floats
    lines: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sources:
    """What pages are made from.

    Attributes:
        writers: hands that people write digits with; the first is chosen most often.
        scripts: hands that people write words with.
        presses: printed fonts.
        photographs: uint8 (H, W) each, without digits.
    """

    writers: list[Hand]
    scripts: list[Hand]
    presses: list[Hand]
    photographs: list[_Bytes]


@dataclass(eq=False)
class Page:
    """A sheet that is being written on: its ink, float32 (H, W), and each digit's label, outline and line."""

    ink: _Floats
    sources: Sources
    labels: list[int] = field(default_factory=list)
    outlines: list[_Floats] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    line: int = 0

    @property
    def height(self) -> int:
        """The height of the sheet, in pixels."""
        return int(self.ink.shape[0])

    @property
    def width(self) -> int:
        """The width of the sheet, in pixels."""
        return int(self.ink.shape[1])


@dataclass(frozen=True, eq=False)
class Writer:
    """A hand with a pen, and its habits: the ink's depth, the gap between characters as a part of their height."""

    hand: Hand
    pen: Pen
    depth: float
    gap: float


def writer(random: _Random, sources: Sources, kind: str = "digits") -> Writer:
    """Someone who writes "digits" or "words", or "print": a press."""
    if kind == "print":
        hand = sources.presses[random.randint(len(sources.presses))]
    elif kind == "words":
        hand = sources.scripts[random.randint(len(sources.scripts))]
    else:
        first = random.rand() < 0.4
        hand = sources.writers[0 if first else random.randint(len(sources.writers))]
    gap = random.uniform(0.03, 0.15) if hand.printed else float(random.choice([0.02, 0.1, 0.2, 0.4, 0.7]))
    if not hand.printed:
        gap += random.uniform(-0.06, 0.06)
    return Writer(hand, glyphs.pen(random, hand.printed), random.uniform(0.4, 0.97), gap)


def put(random: _Random, page: Page, text: str, x: float, baseline: float, size: float, by: Writer) -> float:
    """Write a text; returns where it ends. Digits that would not fit on the page wholly are left out."""
    zeros = random.uniform(0.55, 0.8) if not by.hand.printed and random.rand() < 0.1 else 1.0  # small ones, raised
    is_joined = not by.hand.printed and random.rand() < 0.08  # without lifting the pen
    for index, symbol in enumerate(text):
        if symbol == " ":
            x += size * random.uniform(0.4, 0.7)
            continue
        hand = by.hand
        if symbol not in hand.characters:
            others = page.sources.presses if hand.printed else page.sources.scripts
            known = [other for other in others if symbol in other.characters]
            if not known:
                continue
            hand = known[random.randint(len(known))]
        ways = hand.characters[symbol]
        small = zeros if index and symbol == "0" else 1.0
        raised = baseline - random.uniform(0, 1 - small) * size
        if is_joined and index and symbol in glyphs.DIGITS and text[index - 1] in glyphs.DIGITS:
            _join(random, page, x, raised, small * size, by)
        x = _put_one(random, page, symbol, ways[random.randint(len(ways))], x, raised, small * size, by)
    return x


def _put_one(
    random: _Random, page: Page, symbol: str, way: Character, x: float, baseline: float, size: float, by: Writer
) -> float:
    if x > page.width or baseline > 1.2 * page.height:
        return x + 0.6 * size
    unrest = by.pen.unrest
    own = size * float(np.exp(random.normal(0, 0.08) * unrest))
    image = glyphs.write(random, way, own, by.pen)
    rows, columns = image.shape
    top = round(baseline + way.drop * own - rows + random.normal(0, 0.03) * size * unrest)
    left = round(x)
    if min(rows, columns) < 2:
        return x
    if left < 0 or top < 0 or left + columns > page.width or top + rows > page.height:
        return float(x + columns + by.gap * size)
    digit = symbol in glyphs.DIGITS and len(symbol) == 1
    part = page.ink[top : top + rows, left : left + columns]
    np.maximum(part, image * by.depth, out=part)
    if digit:
        page.labels.append(int(symbol))
        page.outlines.append(_outline(image) + np.array((left, top), np.float32))
        page.lines.append(page.line)
    return float(left + columns) + by.gap * size * float(np.exp(random.normal(0, 0.25) * unrest))


def _join(random: _Random, page: Page, x: float, baseline: float, size: float, by: Writer) -> None:
    """The stroke that leads from a digit to the next one, which begins at `x`."""
    start, end = x - (by.gap + random.uniform(0.05, 0.3)) * size, x + random.uniform(0.05, 0.35) * size
    top, bottom = baseline - random.uniform(0.5, 0.95, 2) * size
    _stroke(page, start, top, end, bottom, size, by.depth * random.uniform(0.7, 1))


_DIRECTIONS = np.array(
    [(np.cos(angle), np.sin(angle)) for angle in np.linspace(0, 2 * np.pi, 16, endpoint=False)], np.float32
)


def _outline(image: _Floats) -> _Floats:
    """The ink's outermost points in 16 directions, float32 (16, 2) x and y: its box can be had after any warp."""
    step = max(1, min(image.shape) // 40)
    points = np.argwhere(image[::step, ::step] > 0.35)[:, ::-1].astype(np.float32) * step + 0.5 * step
    if not len(points):
        height, width = image.shape
        points = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    return np.asarray(points[(points @ _DIRECTIONS.T).argmax(0)], np.float32)


def is_free(page: Page, left: float, top: float, right: float, bottom: float) -> bool:
    """Whether nothing is written there, and it lies on the page."""
    if left < 0 or top < 0 or right > page.width or bottom > page.height:
        return False
    return not page.ink[int(top) : int(bottom), int(left) : int(right)].any()


# What is written.


def number(random: _Random) -> str:
    """A number as people write it: digits, with points, commas, slashes, dashes, signs."""
    digits = "".join(str(random.randint(10)) for _ in range(int(random.choice([1, 2, 3, 4, 5, 6, 8, 10]))))
    style = random.randint(18)
    if style == 0 and len(digits) > 2:
        return digits[:-2] + "." + digits[-2:]
    if style == 1 and len(digits) > 3:
        return digits[:-3] + "," + digits[-3:]
    if style == 2:
        joint = str(random.choice(list("/.-")))
        return f"{random.randint(1, 32)}{joint}{random.randint(1, 13)}{joint}{random.randint(1900, 2040)}"
    if style == 3:
        joint = str(random.choice(list("- ")))
        return joint.join("".join(str(random.randint(10)) for _ in range(size)) for size in (3, 3, 4))
    if style == 4:
        return str(random.choice(list("$\u20ac\u00a3"))) + digits
    if style == 5:
        return digits + str(random.choice(list("%\u00b0!?*,.")))
    if style == 6:
        return f"{random.randint(24)}:{random.randint(10, 60)}"
    if style == 7:
        return f"({digits})"
    if style == 8:
        return str(random.choice(list("-+#"))) + digits
    if style in (9, 10):  # an amount: 12.300,-
        amount = f"{random.randint(1, 10 ** random.randint(2, 7)) * int(random.choice([1, 10, 100, 1000]))}"[:7]
        text = amount if style == 9 or len(amount) < 4 else f"{amount[:-3]}{random.choice(list('.,'))}{amount[-3:]}"
        return text + str(random.choice(["", ".-", ",-", "-", "=", ".", "/-"]))
    return digits


def word(random: _Random, hand: Hand) -> str:
    """Letters that make no sense; three at least, since a lone O or l may be a digit as well."""
    known = [letter for letter in glyphs.LETTERS if letter in hand.characters]
    length = random.randint(3, 10)
    lower = [letter for letter in known if letter.islower()] or known
    upper = [letter for letter in known if letter.isupper()] or known
    style = random.randint(4)
    pool = upper if style == 0 else lower
    text = "".join(pool[random.randint(len(pool))] for _ in range(length))
    return upper[random.randint(len(upper))] + text[1:] if style == 1 else text


def _size(random: _Random, least: float, most: float) -> float:
    return float(np.exp(random.uniform(np.log(max(least, LEAST_SIZE)), np.log(max(most, LEAST_SIZE + 1)))))


# How it is laid out. Each writes on a page, and returns the size of its digits in pixels.


def lines(random: _Random, page: Page) -> float:
    """Lines of numbers, one or several each."""
    size = _size(random, LEAST_SIZE, page.height * 0.4)
    by = writer(random, page.sources)
    top = random.uniform(0.2, 1.2) * size
    pitch = size * random.uniform(1.25, 2.6)
    slope = random.normal(0, 0.03)
    while top + 1.1 * size < page.height:
        x, first = random.uniform(0.02, 0.3) * page.width, None
        for _ in range(random.randint(1, 5)):
            first = x if first is None else first
            text = number(random) if random.rand() < 0.4 else f"{random.randint(0, 10**9)}"[: random.randint(1, 10)]
            for symbol in text:
                x = put(random, page, symbol, x, top + size + slope * (x - first), size, by)
            x += random.uniform(0.6, 3) * size
            if x > 0.9 * page.width:
                break
        page.line += 1
        top += pitch * random.uniform(0.9, 1.1)
        if random.rand() < 0.12:
            break
    return size


def touching(random: _Random, page: Page) -> float:
    """Numbers whose digits touch."""
    size = _size(random, LEAST_SIZE + 5, page.height * 0.3)
    by = writer(random, page.sources)
    by = Writer(by.hand, by.pen, by.depth, random.uniform(-0.12, 0.03))
    top = random.uniform(0.2, 1.2) * size
    while top + 1.1 * size < page.height:
        x = random.uniform(0.02, 0.4) * page.width
        put(random, page, f"{random.randint(10, 10**8)}", x, top + size, size, by)
        page.line += 1
        top += size * random.uniform(1.2, 2.6)
    return size


def lone(random: _Random, page: Page) -> float:
    """A few digits far apart; often one that fills the page."""
    size = _size(random, 18, page.height * 0.9)
    for _ in range(int(random.choice([1, 1, 1, 1, 2, 3, 6, 10]))):
        by = writer(random, page.sources)
        own = size * random.uniform(0.7, 1.2)
        x = random.uniform(0.02, 0.95) * max(page.width - 0.8 * own, 1)
        top = random.uniform(0.02, 0.98) * max(page.height - 1.1 * own, 1)
        if is_free(page, x - 0.2 * own, top - 0.1 * own, x + own, top + 1.2 * own):
            digit = 1 if random.rand() < 0.15 else random.randint(10)  # a lone one is most like a mere line
            put(random, page, str(digit), x, top + own, own, by)
            page.line += 1
    return size


def columns(random: _Random, page: Page) -> float:
    """Columns of numbers, as a person adds them up."""
    size = _size(random, LEAST_SIZE, page.height * 0.16)
    count = random.randint(2, 6)
    for column in range(count):
        by = writer(random, page.sources)
        x0, top = page.width * (column + random.uniform(0.05, 0.2)) / count, random.uniform(0.2, 2) * size
        while top + 1.2 * size < page.height and random.rand() < 0.93:
            text = f"{random.randint(0, 10 ** random.randint(1, 5))}"
            put(random, page, text, x0 + random.uniform(0, 0.3) * size, top + size, size, by)
            page.line += 1
            top += size * random.uniform(1.2, 1.7)
        if random.rand() < 0.3 and top + size < page.height:
            _stroke(page, x0, top, x0 + 3 * size, top, size, by.depth)
    return size


def grid(random: _Random, page: Page) -> float:
    """A table: ruled cells with numbers, words or nothing."""
    rows, across = random.randint(2, 10), random.randint(2, 8)
    height, width = page.height * random.uniform(0.6, 0.96) / rows, page.width * random.uniform(0.6, 0.96) / across
    size = max(LEAST_SIZE, min(height * random.uniform(0.4, 0.8), width * 0.7))
    left, top = random.uniform(0, page.width - width * across), random.uniform(0, page.height - height * rows)
    _grid(random, page, left, top, width, height, rows, across)
    hands = [writer(random, page.sources), writer(random, page.sources, "print")]
    by = hands[0 if random.rand() < 0.8 else 1]
    words = writer(random, page.sources, "print" if random.rand() < 0.6 else "words")
    full = random.uniform(0.2, 1)
    for row in range(rows):
        for column in range(across):
            x, baseline = left + (column + 0.1) * width, top + (row + 0.5) * height + 0.5 * size
            if random.rand() > full:
                continue
            if random.rand() < (0.6 if row == 0 or column == 0 else 0.05):
                put(random, page, word(random, words.hand)[: int(width / size) + 1], x, baseline, 0.7 * size, words)
            else:
                most = max(1, int(0.8 * width / (0.7 * size + max(by.gap, 0) * size)))
                put(random, page, str(random.randint(10**9))[: random.randint(1, most + 1)], x, baseline, size, by)
        page.line += 1
    return size


def sudoku(random: _Random, page: Page) -> float:
    """A square of cells with one digit each, printed or written, or none."""
    count = int(random.choice([3, 4, 6, 9, 9, 9]))
    side = min(page.height, page.width) * random.uniform(0.7, 0.97)
    cell = side / count
    size = max(LEAST_SIZE, cell * random.uniform(0.45, 0.8))
    left, top = random.uniform(0, page.width - side), random.uniform(0, page.height - side)
    _grid(random, page, left, top, cell, cell, count, count, 3 if count == 9 else 0)
    printed, written = writer(random, page.sources, "print"), writer(random, page.sources)
    share, full = random.choice([0, 0.5, 1.0]), random.uniform(0.1, 0.9)
    for row in range(count):
        for column in range(count):
            if random.rand() < full:
                by = printed if random.rand() < share else written
                x = left + column * cell + (cell - 0.6 * size) * random.uniform(0.35, 0.65)
                put(random, page, str(random.randint(10)), x, top + (row + 0.5) * cell + 0.5 * size, size, by)
        page.line += 1
    return size


def boxes(random: _Random, page: Page) -> float:
    """Rows of boxes with one digit each, as forms have them for identity numbers; some are empty."""
    size = _size(random, LEAST_SIZE, page.height * 0.2)
    cell = size * random.uniform(1.15, 1.9)
    height = size * random.uniform(1.2, 1.9)
    by, words = writer(random, page.sources), writer(random, page.sources, "print")
    top = random.uniform(0.2, 1) * size
    while top + height < page.height:
        x = random.uniform(0.02, 0.2) * page.width
        if random.rand() < 0.6:
            x = put(random, page, word(random, words.hand), x, top + size, 0.6 * size, words) + size
        count = random.randint(1, 13)
        gap = float(random.choice([0, 0, 0.15, 0.4])) * size
        full = random.uniform(0, 1.3)
        for _ in range(count):
            if x + cell > page.width:
                break
            _grid(random, page, x, top, cell, height, 1, 1)
            if random.rand() < full:
                put(
                    random, page, str(random.randint(10)), x + 0.5 * cell - 0.3 * size, top + 0.5 * (height + size),
                    size, by,
                )  # fmt: skip
            x += cell + gap
        page.line += 1
        top += height * random.uniform(1.1, 2)
    return size


def equations(random: _Random, page: Page) -> float:
    """Sums with signs between numbers, letters for unknowns, fractions."""
    size = _size(random, LEAST_SIZE + 2, page.height * 0.2)
    by = writer(random, page.sources, "words" if random.rand() < 0.6 else "digits")
    top = random.uniform(0.2, 1.2) * size
    while top + 1.3 * size < page.height:
        x = random.uniform(0.02, 0.2) * page.width
        for part in range(random.randint(2, 6)):
            if part:
                sign = str(random.choice(list("+-=\u00d7\u00f7/=+-")))
                x = put(random, page, sign, x + 0.15 * size, top + size, size, by) + 0.15 * size
            text = str(random.randint(0, 10 ** random.randint(1, 4)))
            if random.rand() < 0.15:
                text = f"({text})"
            if random.rand() < 0.12:
                text = text[:1] + str(random.choice(list("abcxyknm")))
            x = put(random, page, text, x, top + size, size, by)
        page.line += 1
        top += size * random.uniform(1.4, 2.6)
    return size


def form(random: _Random, page: Page) -> float:
    """Printed or written words with numbers beside and between them."""
    size = _size(random, LEAST_SIZE + 1, page.height * 0.14)
    words = writer(random, page.sources, "print" if random.rand() < 0.6 else "words")
    by = writer(random, page.sources, "print" if random.rand() < 0.15 else "digits")
    small = max(7.0, size * random.uniform(0.4, 1.1))
    top = random.uniform(0.2, 1.2) * size
    while top + 1.2 * max(size, small) < page.height:
        x = random.uniform(0.02, 0.1) * page.width
        while x < page.width * 0.85:
            if random.rand() < 0.62:
                text = word(random, words.hand) + str(random.choice(["", "", ":", ",", "."]))
                x = put(random, page, text, x, top + size, small, words)
            else:
                x = put(random, page, number(random), x + 0.2 * size, top + size, size, by)
            x += random.uniform(0.4, 1.2) * size
            if random.rand() < 0.15:
                length = random.uniform(2, 8) * size
                _stroke(page, x, top + 1.05 * size, x + length, top + 1.05 * size, 0.5 * size, 0.5)
                if random.rand() < 0.5:
                    put(random, page, number(random), x, top + size, size, by)
                x += length
        page.line += 1
        top += max(size, small) * random.uniform(1.3, 2.2)
    return size


def words(random: _Random, page: Page) -> float:
    """Text without a digit; sometimes a second one is written over it."""
    size = 0.0
    for _ in range(1 if random.rand() < 0.7 else 2):
        size = _size(random, 7, page.height * 0.3)
        by = writer(random, page.sources, "print" if random.rand() < 0.35 else "words")
        top = random.uniform(0, 1.2) * size
        while top + size < page.height:
            x = random.uniform(0.0, 0.2) * page.width
            while x < page.width * 0.9:
                x = put(random, page, word(random, by.hand), x, top + size, size, by) + 0.5 * size
            top += size * random.uniform(0.8, 2)
    return size


def drawing(random: _Random, page: Page) -> float:
    """Scribbles, arrows, circles, ticks, plots, signatures."""
    size = _size(random, 12, page.height * 0.4)
    for _ in range(random.randint(1, 24)):
        _doodle(random, page, size)
    if random.rand() < 0.5:
        by = writer(random, page.sources)
        for _ in range(random.randint(1, 5)):
            x, top = random.uniform(0, 0.9) * page.width, random.uniform(0, 0.9) * page.height
            if is_free(page, x, top, x + 1.5 * size, top + 1.1 * size):
                put(random, page, str(random.randint(100)), x, top + size, size, by)
                page.line += 1
    return size


def empty(random: _Random, page: Page) -> float:
    """Nothing, or the edges of cells."""
    size = _size(random, 12, page.height * 0.5)
    if random.rand() < 0.5:
        cell = size * random.uniform(1.1, 2.0)
        rows, across = int(page.height / cell) + 1, int(page.width / cell) + 1
        left, top = -random.uniform(0, 1, 2) * cell
        _grid(random, page, left, top, cell, cell * random.uniform(0.8, 1.2), rows, across, random.choice([0, 3]))
    for _ in range(random.randint(0, 3)):
        a, b = random.uniform(-0.1, 1.1, (2, 2)) * (page.width, page.height)
        b = (a[0] + random.normal(0, 4), b[1]) if random.rand() < 0.4 else (b[0], a[1] + random.normal(0, 4))
        _stroke(page, a[0], a[1], b[0], b[1], size, random.uniform(0.2, 0.9))
    return size


KINDS: dict[str, tuple[float, Callable[[_Random, Page], float]]] = {
    "lines": (0.12, lines),
    "touching": (0.10, touching),
    "lone": (0.16, lone),
    "columns": (0.05, columns),
    "grid": (0.07, grid),
    "sudoku": (0.07, sudoku),
    "boxes": (0.07, boxes),
    "equations": (0.05, equations),
    "form": (0.07, form),
    "words": (0.11, words),
    "drawing": (0.10, drawing),
    "empty": (0.05, empty),
    "photograph": (0.04, empty),
}
"""How often each kind is drawn, and what draws it."""


def _stroke(page: Page, x0: float, y0: float, x1: float, y1: float, size: float, depth: float) -> None:
    """A straight line of a pen."""
    thick = max(1, round(0.06 * size))
    cv2.line(page.ink, (round(x0), round(y0)), (round(x1), round(y1)), float(depth), thick, cv2.LINE_AA)


def _grid(
    random: _Random, page: Page, left: float, top: float, width: float, height: float, rows: int, across: int,
    strong: int = 0,
) -> None:  # fmt: skip
    """Ruled cells of a size, as many as are asked for."""
    depth = random.uniform(0.2, 0.95)
    thin = max(1, round(random.uniform(0.01, 0.06) * min(width, height)))
    for row in range(rows + 1):
        thick = thin * 2 if strong and row % strong == 0 else thin
        y = round(top + row * height)
        cv2.line(page.ink, (round(left), y), (round(left + across * width), y), depth, thick, cv2.LINE_AA)
    for column in range(across + 1):
        thick = thin * 2 if strong and column % strong == 0 else thin
        x = round(left + column * width)
        cv2.line(page.ink, (x, round(top)), (x, round(top + rows * height)), depth, thick, cv2.LINE_AA)


def _doodle(random: _Random, page: Page, size: float) -> None:
    """One thing that is no character, where nothing is written."""
    middle = random.uniform(0, 1, 2) * (page.width, page.height)
    half = size * random.uniform(0.5, 2)
    if not is_free(page, middle[0] - half, middle[1] - half, middle[0] + half, middle[1] + half):
        return
    depth, thick = random.uniform(0.2, 0.95), max(1, round(size * np.exp(random.uniform(np.log(0.02), np.log(0.25)))))
    kind = random.randint(8)
    if kind == 0:  # scribble
        points = middle + np.cumsum(random.normal(0, 0.25 * half, (random.randint(8, 40), 2)), 0)
        fine = cv2.resize(points.astype(np.float32), (2, len(points) * 6), interpolation=cv2.INTER_CUBIC)
        cv2.polylines(page.ink, [np.rint(fine).astype(np.int32)], False, depth, thick, cv2.LINE_AA)
    elif kind == 1:  # arrow
        end = middle + random.normal(0, half, 2)
        a, b = np.rint(middle).astype(int).tolist(), np.rint(end).astype(int).tolist()
        cv2.arrowedLine(page.ink, a, b, depth, thick, cv2.LINE_AA, 0, 0.25)
    elif kind == 2:  # signature: a wave with loops
        t = np.linspace(0, random.uniform(6, 30), 160)
        wave = np.stack([t * half / 8 + np.sin(2.1 * t) * half / 5, np.sin(1.7 * t + np.sin(t)) * half / 4], 1)
        cv2.polylines(page.ink, [np.rint(wave + middle).astype(np.int32)], False, depth, thick, cv2.LINE_AA)
    elif kind == 3:  # tick or cross
        s = half * 0.6
        tick, cross = [(-s, 0), (-s / 3, s), (s, -s)], [(-s, -s), (s, s), (0, 0), (s, -s), (-s, s)]
        points = middle + np.array(tick if random.rand() < 0.5 else cross)
        cv2.polylines(page.ink, [np.rint(points).astype(np.int32)], False, depth, thick, cv2.LINE_AA)
    elif kind == 4:  # polygon, or a filled blot
        shape = np.rint(middle + random.normal(0, half / 2, (random.randint(3, 7), 2))).astype(np.int32)
        if random.rand() < 0.3:
            cv2.fillPoly(page.ink, [shape], depth, cv2.LINE_AA)
        else:
            cv2.polylines(page.ink, [shape], True, depth, thick, cv2.LINE_AA)
    elif kind == 5:  # coils: a pen that goes round and round, along a line or about a place
        t = np.linspace(0, random.uniform(8, 80), 400)
        wide, high = random.uniform(0.2, 0.9, 2) * half
        drift = random.choice([0, 1]) * half / t[-1]
        way = np.stack([wide * np.cos(t) + drift * t, high * np.sin(t)], 1)
        way += np.cumsum(random.normal(0, 0.012 * half, way.shape), 0)
        cv2.polylines(page.ink, [np.rint(way + middle).astype(np.int32)], False, depth, thick, cv2.LINE_AA)
    elif kind == 6:  # a disc with a rim and a relief, such as a coin or a button
        radius = max(3, int(0.7 * half))
        down, across = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
        away = np.hypot(across, down) / radius
        relief = surfaces.noise(random, len(away), len(away), random.uniform(0.1, 0.5) * radius)
        shade = np.clip(random.uniform(0.1, 0.6) + random.uniform(0, 0.3) * relief, 0, 1)
        shade = np.where(away > random.uniform(0.75, 0.95), depth, shade) * (away < 1)
        left, top = np.rint(middle - radius).astype(int)
        part = page.ink[top : top + len(away), left : left + len(away)]
        np.maximum(part, shade[: part.shape[0], : part.shape[1]].astype(np.float32), out=part)
    else:  # axes and a curve
        a = np.rint(middle - half).astype(int)
        b = np.rint(middle + half).astype(int)
        cv2.polylines(page.ink, [np.array([a, (a[0], b[1]), b])], False, depth, thick, cv2.LINE_AA)
        xs = np.linspace(a[0], b[0], 60)
        ys = middle[1] + np.sin(xs / half * random.uniform(1, 6)) * half * random.uniform(0.1, 0.9)
        cv2.polylines(page.ink, [np.rint(np.stack([xs, ys], 1)).astype(np.int32)], False, depth, thick, cv2.LINE_AA)


def _decorate(random: _Random, page: Page, size: float) -> None:
    """What people add to a page: words, underlines, circles around digits, doodles where there is room."""
    if random.rand() < 0.15:
        for _ in range(random.randint(1, 4)):
            _doodle(random, page, size)
    if random.rand() < 0.2:
        by = writer(random, page.sources, "print" if random.rand() < 0.5 else "words")
        own = size * random.uniform(0.5, 1.1)
        for _ in range(random.randint(1, 6)):
            text = word(random, by.hand)
            x, top = random.uniform(0, 1, 2) * (page.width, page.height)
            if is_free(page, x, top - 0.3 * own, x + 0.75 * own * len(text), top + 1.4 * own):
                put(random, page, text, x, top + own, own, by)
    if page.outlines and random.rand() < 0.08:
        points = page.outlines[random.randint(len(page.outlines))]
        middle = np.rint(points.mean(0)).astype(int).tolist()
        around = [int(size * random.uniform(0.8, 1.3)), int(size * random.uniform(0.75, 1.1))]
        cv2.ellipse(page.ink, middle, around, random.uniform(-20, 20), 0, 360, 0.7, max(1, int(0.05 * size)), 16)


def draw(random: _Random, sources: Sources, kind: str | None = None, without: str = "") -> Picture:
    """One picture, of a kind, or of any but one."""
    names = list(KINDS)
    weights = np.array([KINDS[name][0] * (name != without) for name in names])
    kind = kind or names[random.choice(len(names), p=weights / weights.sum())]
    height, width = (480, 640) if random.rand() < 0.8 else (640, 480)
    if kind == "photograph" and sources.photographs:
        photograph = surfaces.photograph(random, height, width, sources.photographs)
        return Picture(kind, surfaces.camera(random, photograph), *_none())
    view = random.rand()
    sheets = 1 if view < 0.93 else 2
    flat = view < 0.5
    frame = (
        surfaces.paper(random, height, width) if flat else surfaces.table(random, height, width, sources.photographs)
    )
    labels, outlines, rows = [], [], []
    line = 0
    written = np.zeros((height, width), np.float32)  # the ink that can be seen, 0 to 1
    for number_of_sheet in range(sheets):
        page, ground, ink, shade, turned = _sheet(random, sources, kind, height, width)
        if flat:
            way = _turn(random, ink.shape, (height, width), turned, 1.0) if turned else np.eye(3)
            if turned:  # the paper goes on beyond the page; what is written on it does not
                ground = cv2.warpPerspective(ground, way, (width, height), borderMode=cv2.BORDER_REFLECT)
                ink = cv2.warpPerspective(ink, way, (width, height))
            frame, written = ground + ink * (shade - ground), ink
        else:
            sheet = ground + ink * (shade - ground)
            way = _turn(random, sheet.shape, (height, width), turned, random.uniform(0.55, 0.98) / sheets**0.5)
            if sheets == 2:
                shift = np.eye(3)
                shift[0, 2] = (number_of_sheet - 0.5) * 0.45 * width
                way = shift @ way
            covered = cv2.warpPerspective(np.ones_like(sheet), way, (width, height), flags=cv2.INTER_LINEAR)
            seen = cv2.warpPerspective(sheet, way, (width, height), flags=cv2.INTER_AREA)
            if random.rand() < 0.6:  # the sheet's shadow
                soft = cv2.GaussianBlur(covered, (0, 0), random.uniform(1, 8))
                moved = np.roll(soft, tuple(random.randint(-6, 7, 2)), (0, 1))
                frame = frame * (1 - random.uniform(0.1, 0.7) * moved)
            frame = frame * (1 - covered) + seen
            written = written * (1 - covered) + cv2.warpPerspective(ink, way, (width, height), flags=cv2.INTER_AREA)
        angle = abs(turned) > UPRIGHT
        for label, outline, row in zip(page.labels, page.outlines, page.lines, strict=True):
            labels.append(-1 if angle else label)
            outlines.append(cv2.perspectiveTransform(outline[None], way)[0])
            rows.append(line + row)
        line += page.line + 1
    frame = surfaces.light(random, frame.astype(np.float32))
    if not labels:
        taken = surfaces.camera(random, frame)
        if random.rand() < 0.3:  # a cell, or whatever else somebody has cut out
            wide, high = np.exp(random.uniform(np.log(24), np.log(240), 2)).astype(int)
            x, y = random.randint(0, width - wide), random.randint(0, height - high)
            taken = np.ascontiguousarray(taken[y : y + high, x : x + wide])
        return Picture(kind, taken, *_none())
    points = np.stack(outlines)  # (N, 16, 2)
    found = np.concatenate([points.min(1), points.max(1)], 1).astype(np.float32)
    inside = np.clip(found, 0, (width, height, width, height))
    visible = _measure_visible(found, inside)
    taken = surfaces.camera(random, frame)
    # What the frame's edge, another sheet, darkness or blur leave too little of can be read by nobody.
    readable = [part > 0.75 and _is_legible(taken, written, box) for part, box in zip(visible, inside, strict=True)]
    whole = visible > 0.1
    picture = Picture(
        kind,
        taken,
        np.where(readable, np.array(labels, np.int64), MAY_BE_FOUND)[whole],
        inside[whole],
        np.array(rows, np.int64)[whole],
    )
    return cut_out(random, picture) if random.rand() < 0.3 and whole.any() else picture


def _measure_visible(boxes: _Floats, inside: _Floats) -> _Floats:
    """The part, float32 (N,), of the area of boxes (N, 4) that lies in the frame; 0 of a box without area.

    Args:
        boxes: left, top, right, bottom, in pixels.
        inside: what the frame shows of them.
    """
    areas, shown = ((some[:, 2:] - some[:, :2]).prod(1) for some in (boxes, inside))
    visible: _Floats = np.divide(shown, areas, out=np.zeros_like(areas), where=areas > 0)
    return visible


def _is_legible(frame: _Bytes, written: _Floats, box: _Floats) -> bool:
    """Whether the ink in a box is clearly darker or lighter than the paper around it.

    Args:
        frame: uint8 (H, W).
        written: float32 (H, W), the ink that is there, 0 to 1.
        box: float32 (4,), left, top, right, bottom, in pixels.
    """
    room = 0.2 * float((box[2:] - box[:2]).max())
    left, top = np.maximum(np.floor(box[:2] - room), 0).astype(int)
    right, bottom = np.ceil(box[2:] + room).astype(int)
    step = max(1, int(room / 8))
    pixels = frame[top:bottom:step, left:right:step].astype(np.float32)
    ink = written[top:bottom:step, left:right:step]
    drawn, paper = pixels[ink > max(0.6 * float(ink.max(initial=0)), 0.1)], pixels[ink < 0.05]
    if len(drawn) < 6 or len(paper) < 6:
        return False
    contrast = abs(float(np.median(drawn)) - float(np.median(paper)))
    return contrast > LEAST_CONTRAST and contrast > CLEAR * float(paper.std())


def cut_out(random: _Random, picture: Picture) -> Picture:
    """A line, or a single digit, that somebody has cut out of a picture."""
    line = picture.lines[random.randint(len(picture.lines))]
    chosen = picture.boxes[picture.lines == line]
    if random.rand() < 0.3:
        chosen = chosen[random.randint(len(chosen))][None]
    size = (chosen[:, 3] - chosen[:, 1]).max()
    low = chosen[:, :2].min(0) - random.uniform(-0.02, 0.6, 2) * size
    high = chosen[:, 2:].max(0) + random.uniform(-0.02, 0.6, 2) * size
    height, width = picture.frame.shape
    left, top = np.maximum(np.rint(low).astype(int), 0)
    right, bottom = np.minimum(np.rint(high).astype(int), (width, height))
    if right - left < 12 or bottom - top < 12:
        return picture
    moved = picture.boxes - (left, top, left, top)
    shape = (right - left, bottom - top)
    inside = np.clip(moved, 0, (*shape, *shape)).astype(np.float32)
    visible = _measure_visible(moved, inside)
    labels, whole = np.where(visible > 0.75, picture.labels, MAY_BE_FOUND), visible > 0.1
    frame = np.ascontiguousarray(picture.frame[top:bottom, left:right])
    return Picture(picture.kind, frame, labels[whole], inside[whole], picture.lines[whole])


def _none() -> tuple[NDArray[np.int64], _Floats, NDArray[np.int64]]:
    return np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)


def _sheet(
    random: _Random, sources: Sources, kind: str, height: int, width: int
) -> tuple[Page, _Floats, _Floats, _Floats, float]:
    """A page: what is written, its paper and its ink, float32 (H, W), the ink's shade, and degrees of its turn."""
    page = Page(np.zeros((height, width), np.float32), sources)
    size = KINDS[kind][1](random, page)
    _decorate(random, page, size)
    ground = surfaces.paper(random, height, width)
    if random.rand() < (0.3 if kind not in ("grid", "sudoku", "boxes") else 0.05):
        surfaces.rules(random, ground, size)
    if random.rand() < 0.2:
        surfaces.patterns(random, ground)
    ink = page.ink
    if random.rand() < 0.2:  # pencil, chalk, a dry marker
        ink = ink * np.clip(1 + random.uniform(0.1, 0.5) * surfaces.noise(random, height, width, 1.5), 0, 1.3)
    if random.rand() < 0.25:
        ink = cv2.GaussianBlur(ink, (0, 0), random.uniform(0.3, 1.0))
    if random.rand() < 0.12:  # show-through: what is on the back, seen in a mirror
        back = cv2.GaussianBlur(np.roll(ink[:, ::-1], random.randint(5, 60), 0), (0, 0), 2.0)
        ground = ground * (1 - random.uniform(0.05, 0.2) * back)
    if random.rand() < 0.08:  # chalk, and screens
        ground = ground * np.float32(random.uniform(0.1, 0.35))
        shade = np.maximum(ground, np.float32(random.uniform(0.75, 1)))
    else:
        shade = ground * np.float32(random.uniform(0, 0.3))
    chance = random.rand()
    turned = 0.0 if chance < 0.25 else random.normal(0, 3) if chance < 0.7 else random.normal(0, 12)
    if chance > 0.9:
        turned = random.uniform(-180, 180)
    return page, ground, np.clip(ink, 0, 1), shade, turned


def _turn(random: _Random, shape: tuple[int, ...], frame: tuple[int, int], degrees: float, scale: float) -> _Floats:
    """The homography that lays a sheet of a shape into a frame, turned, reduced and in perspective."""
    height, width = shape
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    around = (corners - (width / 2, height / 2)) @ turn.T
    extent = around.max(0) - around.min(0)
    fits = scale * max(0.6, min(1.0, frame[1] / extent[0], frame[0] / extent[1]))
    target = around * fits + (frame[1] / 2, frame[0] / 2)
    room = np.maximum(0, 0.5 * (np.array([frame[1], frame[0]]) - fits * extent))
    target += random.uniform(-1, 1, 2) * room
    target += random.normal(0, 0.015 * scale * width, (4, 2))
    matrix: _Floats = cv2.getPerspectiveTransform(corners.astype(np.float32), target.astype(np.float32))
    return matrix


def crop(random: _Random, picture: Picture, side: int, sizes: tuple[float, float]) -> tuple[_Bytes, _Floats]:
    """A square part of a picture at a scale at which one of its digits has a size between two, in pixels.

    Returns:
        uint8 (side, side), and float32 (N, 5): label, left, top, right, bottom of the digits that reach into it.
    """
    height, width = picture.frame.shape
    # any scale at which a frame is looked at: nothing may be found at one that was never seen
    scale = float(np.exp(random.uniform(np.log(SMALLEST / max(height, width)), np.log(1.2))))
    middle = random.uniform(0, 1, 2) * (width, height)
    seen = np.flatnonzero((picture.boxes[:, 2:] - picture.boxes[:, :2]).max(1, initial=0) >= LEAST_SEEN)
    if len(seen) and random.rand() < 0.65:
        box = picture.boxes[seen[random.randint(len(seen))]]
        size = max(box[2] - box[0], box[3] - box[1])
        scale = min(float(np.exp(random.uniform(*np.log(sizes)))) / max(size, 1.0), 1.7)
        middle = (box[:2] + box[2:]) / 2
    half = side / 2
    corner = middle * scale - half + random.uniform(-0.4, 0.4, 2) * side
    room = np.array([width, height]) * scale + BORDER - side
    if random.rand() < 0.85:  # little is to be learned from what lies beyond a picture
        corner = np.where(room > -BORDER, np.clip(corner, -BORDER, np.maximum(room, -BORDER)), corner)
    left, top = np.rint(corner).astype(int)
    # the part of the picture that is needed, whole pixels, and the crop from it
    first = np.floor(np.array([left, top]) / scale).astype(int) - 1
    last = np.ceil(np.array([left + side, top + side]) / scale).astype(int) + 1
    first, last = np.maximum(first, 0), np.minimum(last, (width, height))
    if (last - first < 2).any():
        return np.full((side, side), 128, np.uint8), np.zeros((0, 5), np.float32)
    shape = np.maximum(1, np.rint((last - first) * scale)).astype(int)
    small, own = canvases.resize(picture.frame[first[1] : last[1], first[0] : last[0]], int(shape[0]), int(shape[1]))
    corner = np.array([left, top]) - np.rint(first * scale).astype(int)
    before, after = np.maximum(-corner, 0), np.maximum(corner + side - shape, 0)
    near, far = np.minimum(before, BORDER), np.minimum(after, BORDER)
    bordered = cv2.copyMakeBorder(small, int(near[1]), int(far[1]), int(near[0]), int(far[0]), cv2.BORDER_REPLICATE)
    near, far = before - near, after - far
    padded = cv2.copyMakeBorder(
        bordered, int(near[1]), int(far[1]), int(near[0]), int(far[0]), cv2.BORDER_CONSTANT, value=BEYOND
    )
    x, y = corner + before
    cut = padded[y : y + side, x : x + side]
    moved = (picture.boxes.reshape(-1, 2, 2) - first) * own - corner
    rows = np.concatenate([picture.labels[:, None].astype(np.float32), moved.reshape(-1, 4)], 1).astype(np.float32)
    near = ((moved[:, 1] > -8) & (moved[:, 0] < side + 8)).all(1)
    return np.ascontiguousarray(cut), rows[near]
