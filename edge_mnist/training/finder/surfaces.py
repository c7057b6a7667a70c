"""What digits are written on, what lies around it, and what light and camera make of it.

Pictures are grey, float32 (H, W), 0 to 1.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Random = np.random.RandomState


def noise(random: _Random, height: int, width: int, wide: float, high: float | None = None) -> _Floats:
    """Smooth noise of standard deviation 1; `wide` and `high` are the pixels over which it changes."""
    high = wide if high is None else high
    rows, columns = max(2, int(height / max(high, 1)) + 2), max(2, int(width / max(wide, 1)) + 2)
    coarse = random.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def paper(random: _Random, height: int, width: int) -> _Floats:
    """Paper: from blank to grainy, creased, speckled, stained, written on its back."""
    sheet = np.full((height, width), random.uniform(0.7, 1.0), np.float32)
    if random.rand() < 0.5:
        sheet += noise(random, height, width, random.uniform(1, 4)) * random.uniform(0, 0.03)
    if random.rand() < 0.4:
        sheet += noise(random, height, width, random.uniform(20, 200)) * random.uniform(0, 0.05)
    if random.rand() < 0.25:
        for _ in range(random.randint(1, 8)):
            _crease(random, sheet)
    if random.rand() < 0.25:
        for _ in range(random.randint(1, 60)):
            centre = random.randint(0, width), random.randint(0, height)
            radius = max(1, int(random.exponential(1.5)))
            cv2.circle(sheet, centre, radius, float(random.uniform(0.2, 0.9)), -1, cv2.LINE_AA)
    return sheet


def _crease(random: _Random, sheet: _Floats) -> None:
    """A fold: light on one side, dark on the other."""
    height, width = sheet.shape
    angle, middle = random.uniform(0, np.pi), random.uniform(0, 1, 2) * (width, height)
    down, across = np.ogrid[:height, :width]
    away = ((across - middle[0]) * np.sin(angle) - (down - middle[1]) * np.cos(angle)).astype(np.float32)
    wide = random.uniform(1, 12)
    depth = random.uniform(-0.15, 0.15)
    sheet += depth * away / wide * np.exp(-((away / wide) ** 2))
    if random.rand() < 0.4:
        sheet -= random.uniform(0, 0.2) * np.exp(-((away / 1.2) ** 2))


def rules(random: _Random, sheet: _Floats, size: float) -> None:
    """Draw lines at equal distances, or squares, on a sheet; `size` is the height of the digits there."""
    width = sheet.shape[1]
    step = size * random.choice([0.4, 0.5, 1.0, 1.3, 1.6, 2.0]) * random.uniform(0.9, 1.1)
    step = max(step, 5.0)
    thick, depth = random.uniform(0.6, max(1.0, 0.06 * size)), random.uniform(0.08, 0.5)
    for axis in (0, 1) if random.rand() < 0.45 else (0,):
        places = np.arange(sheet.shape[axis], dtype=np.float32) - random.uniform(0, step)
        away = np.abs((places + step / 2) % step - step / 2)
        line = np.clip(thick / 2 + 0.5 - away, 0, 1) * depth
        sheet *= 1 - (line[:, None] if axis == 0 else line[None, :])
    if random.rand() < 0.2:
        x = int(random.uniform(0.05, 0.2) * width)
        sheet[:, x : x + max(1, int(thick))] *= 0.6


def patterns(random: _Random, sheet: _Floats) -> None:
    """Draw what a cheque or a ticket is printed with: fine waves, rosettes, or dots."""
    height, width = sheet.shape
    down, across = np.mgrid[:height, :width].astype(np.float32)
    depth = random.uniform(0.05, 0.3)
    for _ in range(random.randint(1, 4)):
        pitch, bend, angle = random.uniform(3, 14), random.uniform(0, 4), random.uniform(0, np.pi)
        place = down * np.cos(angle) + across * np.sin(angle) + bend * np.sin(across / random.uniform(6, 40))
        kind = random.randint(3)
        if kind == 0:
            shade = np.clip(np.cos(2 * np.pi * place / pitch) * 2 - 1, 0, 1)
        elif kind == 1:  # rings around a middle, with petals
            x, y = across - random.uniform(0, width), down - random.uniform(0, height)
            petals = 1 + random.uniform(0, 0.3) * np.sin(random.randint(3, 16) * np.arctan2(y, x))
            shade = np.clip(np.cos(2 * np.pi * np.hypot(x, y) * petals / pitch) * 2 - 1, 0, 1)
        else:
            other = across * np.cos(angle) - down * np.sin(angle)
            both = np.cos(2 * np.pi * place / pitch) * np.cos(2 * np.pi * other / pitch)
            shade = np.clip(2 * np.abs(both) - 1, 0, 1)
        sheet *= 1 - depth * random.uniform(0.4, 1) * shade


def table(random: _Random, height: int, width: int, photographs: list[NDArray[np.uint8]]) -> _Floats:
    """What a sheet lies on: wood, cloth, leather, grain, keys, a photograph."""
    base = random.uniform(0.05, 0.75)
    kind = random.randint(7)
    if kind == 0 and photographs:
        return photograph(random, height, width, photographs)
    if kind == 1:
        long = random.uniform(20, 120)
        grain = noise(random, height, width, *((long, 1.5) if random.rand() < 0.5 else (1.5, long)))
    elif kind == 2:
        down, across = np.ogrid[:height, :width]
        pitch = random.uniform(2.5, 12)
        grain = np.sin(2 * np.pi * down / pitch) * np.sin(2 * np.pi * across / pitch) + noise(random, height, width, 1)
    elif kind == 3:  # leather: cells with dark seams
        grain = -np.abs(noise(random, height, width, random.uniform(3, 14))) * 2 + noise(random, height, width, 1) * 0.3
    elif kind == 4:
        return _keys(random, height, width, base)
    else:
        grain = noise(random, height, width, random.uniform(1, 12))
    return np.asarray(np.clip(base * (1 + random.uniform(0.02, 0.4) * grain), 0, 1), np.float32)


def _keys(random: _Random, height: int, width: int, base: float) -> _Floats:
    """A keyboard, or tiles."""
    ground = np.full((height, width), base, np.float32)
    key, gap = random.uniform(14, 70), random.uniform(0.08, 0.3)
    shade = float(np.clip(base + random.uniform(-0.4, 0.4), 0, 1))
    for row in range(int(height / key) + 1):
        left = -random.uniform(0, key)
        while left < width:
            wide = key * random.choice([1, 1, 1, 1, 1.5, 2])
            first = int(left), int(row * key)
            last = int(left + wide - gap * key), int((row + 1 - gap) * key)
            cv2.rectangle(ground, first, last, shade, -1 if random.rand() < 0.97 else 1)
            left += wide
    return ground


def photograph(random: _Random, height: int, width: int, photographs: list[NDArray[np.uint8]]) -> _Floats:
    """A part of one of the photographs."""
    picture = photographs[random.randint(len(photographs))]
    rows, columns = picture.shape
    part = random.uniform(0.2, 1.0)
    high, wide = max(8, int(min(rows, columns * height / width) * part)), 0
    wide = max(8, min(columns, int(high * width / height)))
    y, x = random.randint(0, rows - high + 1), random.randint(0, columns - wide + 1)
    method = cv2.INTER_AREA if wide > width else cv2.INTER_CUBIC
    cut = cv2.resize(picture[y : y + high, x : x + wide], (width, height), interpolation=method)
    if random.rand() < 0.5:
        cut = cut[:, ::-1]
    return np.asarray(cut, np.float32) / np.float32(255)


def light(random: _Random, picture: _Floats) -> _Floats:
    """Uneven light, vignettes, gloss and shadows with hard or soft edges."""
    height, width = picture.shape
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    lit = np.full(
        (height, width), random.uniform(0.75, 1.08) if random.rand() < 0.85 else random.uniform(0.35, 0.75), np.float32
    )
    if random.rand() < 0.6:
        angle = random.uniform(0, 2 * np.pi)
        lit *= 1 + random.uniform(0, 0.4) * (across * np.cos(angle) + down * np.sin(angle)) / 1.4
    if random.rand() < 0.3:
        lit *= 1 - random.uniform(0, 0.7) * np.clip((across**2 + down**2) / 2, 0, 1) ** random.uniform(0.7, 2)
    if random.rand() < 0.12:
        y, x, wide = random.uniform((-1, -1, 0.1), (1, 1, 0.5))
        lit += random.uniform(0.1, 0.7) * np.exp(-((across - x) ** 2 + (down - y) ** 2) / wide**2)
    for _ in range(random.choice([0, 1, 2], p=[0.65, 0.25, 0.1])):
        small = np.zeros((height // 4 + 1, width // 4 + 1), np.float32)
        around = random.uniform(0, 1, 2) * (width / 4, height / 4)
        spread = random.uniform(0.1, 0.7) * max(width, height) / 4
        shape = np.rint(around + random.normal(0, spread, (random.randint(3, 9), 2))).astype(np.int32)
        cv2.fillPoly(small, [cv2.convexHull(shape)], 1.0)
        small = cv2.GaussianBlur(small, (0, 0), random.choice([0.4, 1, 4, 12]))
        lit *= 1 - random.uniform(0.1, 0.6) * cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return picture * lit


def camera(random: _Random, picture: _Floats) -> NDArray[np.uint8]:
    """Focus, motion, contrast, noise, JPEG: uint8 (H, W)."""
    chance = random.rand()
    if chance < 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.4, 1.0 if chance < 0.2 else 2.2))
    elif chance < 0.42:
        picture = _moved(random, picture)
    if random.rand() < 0.3:
        low = random.uniform(0, 0.25)
        picture = low + picture * random.uniform(0.4, 1 - low)
    if random.rand() < 0.3:
        picture = np.clip(picture, 0, 1) ** np.float32(random.uniform(0.6, 1.6))
    if random.rand() < 0.1:
        picture = 1 - picture
    if random.rand() < 0.75:
        grain = random.uniform(0.0, 0.018) if random.rand() < 0.9 else random.uniform(0.018, 0.06)
        field = random.standard_normal(picture.shape).astype(np.float32)
        if random.rand() < 0.5:
            field = cv2.GaussianBlur(field, (0, 0), 0.8) * 2
        picture = picture + grain * field
    frame = np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    if random.rand() < 0.7:
        _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(random.randint(25, 97))])
        frame = np.asarray(cv2.imdecode(packed, cv2.IMREAD_GRAYSCALE))
    return frame


def _moved(random: _Random, picture: _Floats) -> _Floats:
    """The blur of a hand that shakes."""
    length = random.randint(3, 9)
    kernel = np.zeros((length, length), np.float32)
    end = random.randint(0, length, 2).tolist()
    cv2.line(kernel, (end[0], end[1]), (length - 1 - end[0], length - 1 - end[1]), 1.0)
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()), np.float32)
