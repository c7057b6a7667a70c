"""Paper, light, desks and cameras for `scenes.py`: what lies between a number that was written and a frame.

Pictures are float32 (H, W, 3), 0 to 1, BGR. Functions that change a picture also take points on it, float32 (K, 2), x
and y in pixels, and return both.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Random = np.random.RandomState


def plain(random: _Random, width: int, height: int) -> _Floats:
    """White or tinted paper with some grain."""
    tint = random.uniform((0.78, 0.8, 0.8), (0.97, 0.98, 0.98))
    paper = np.ones((height, width, 3), np.float32) * tint.astype(np.float32)
    grain = cv2.GaussianBlur(
        random.standard_normal((height, width)).astype(np.float32), (0, 0), random.uniform(0.6, 1.6)
    )
    paper += (grain * random.uniform(0.002, 0.02))[..., None]
    return paper


def ruled(random: _Random, width: int, height: int, upright: bool = False) -> _Floats:
    """Lines at equal distances, blue or grey, thin."""
    paper = plain(random, width, height)
    colour = np.array([(0.85, 0.65, 0.55), (0.6, 0.6, 0.6), (0.75, 0.55, 0.75)][random.randint(3)], np.float32)
    step, thick = random.uniform(22, 60), random.uniform(0.8, 1.8)
    depth = random.uniform(0.4, 0.95)
    for axis in (0, 1) if upright else (0,):
        places = np.arange((height, width)[axis], dtype=np.float32)
        away = np.abs((places - random.uniform(0, step) + step / 2) % step - step / 2)
        line = np.clip(thick / 2 + 0.5 - away, 0, 1) * depth
        line = line[:, None] if axis == 0 else line[None, :]
        paper = paper * (1 - line[..., None]) + colour * line[..., None]
    return paper.astype(np.float32)


def squared(random: _Random, width: int, height: int) -> _Floats:
    """Squared paper."""
    return ruled(random, width, height, upright=True)


def printed(random: _Random, width: int, height: int) -> _Floats:
    """A form's or a cheque's ground: fine waves, a frame's line."""
    paper = plain(random, width, height) * random.uniform(0.5, 0.95)
    down, across = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(random.randint(1, 3)):
        pitch, bend = random.uniform(4, 9), random.uniform(0, 3)
        angle = random.uniform(-0.6, 0.6) + (np.pi / 2) * random.randint(2)
        place = down * np.cos(angle) + across * np.sin(angle) + bend * np.sin(across / random.uniform(8, 30))
        paper *= (1 - random.uniform(0.08, 0.3) * np.clip(np.cos(2 * np.pi * place / pitch) * 2 - 1, 0, 1))[..., None]
    if random.random_sample() < 0.5:
        y = random.randint(int(0.85 * height), height)
        paper[y : y + 2] *= 0.4
    return paper.astype(np.float32)


def board(random: _Random, width: int, height: int) -> _Floats:
    """A blackboard, or a dark card."""
    return plain(random, width, height) * np.float32(random.uniform(0.1, 0.28))


def light(random: _Random, picture: _Floats, points: _Floats) -> tuple[_Floats, _Floats]:
    """Uneven light: brighter on one side, darker in the corners, sometimes a gloss."""
    height, width = picture.shape[:2]
    down, across = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    falling = 1 + random.uniform(0, 0.35) * (across * np.cos(angle) + down * np.sin(angle)) / 1.4
    falling *= 1 - random.uniform(0, 0.3) * (across**2 + down**2) / 2
    if random.random_sample() < 0.25:
        y, x, wide = random.uniform((-1, -1, 0.1), (1, 1, 0.4))
        falling += random.uniform(0.1, 0.6) * np.exp(-((across - x) ** 2 + (down - y) ** 2) / wide**2)
    return (picture * (falling * random.uniform(0.55, 1.0))[..., None]).astype(np.float32), points


def shadow(random: _Random, picture: _Floats, points: _Floats) -> tuple[_Floats, _Floats]:
    """A shadow with a soft or hard edge, of a hand or a head."""
    height, width = picture.shape[:2]
    mask = np.zeros((height, width), np.float32)
    around = random.uniform((0, 0), (width, height))
    spread = random.uniform(0.2, 0.7) * max(width, height)
    shape = np.rint(around + random.normal(0, spread, (random.randint(4, 9), 2))).astype(np.int32)
    cv2.fillPoly(mask, [cv2.convexHull(shape)], 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), random.uniform(0.004, 0.06) * width + 1)
    return picture * (1 - random.uniform(0.15, 0.55) * mask)[..., None], points


def blur(random: _Random, picture: _Floats, points: _Floats) -> tuple[_Floats, _Floats]:
    """Blur the picture, as a lens that is out of focus or a moving camera does."""
    if random.random_sample() < 0.5:
        return cv2.GaussianBlur(picture, (0, 0), random.uniform(0.8, 2.6)), points
    length = random.randint(3, 10)
    kernel = np.zeros((length, length), np.float32)
    end = random.randint(0, length, 2).tolist()
    cv2.line(kernel, (end[0], end[1]), (length - 1 - end[0], length - 1 - end[1]), 1.0)
    return cv2.filter2D(picture, -1, kernel / kernel.sum()), points


def webcam(random: _Random, picture: _Floats, points: _Floats) -> tuple[_Floats, _Floats]:
    """A cheap lens: soft, with weak contrast."""
    soft = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.6, 1.4))
    return soft * np.float32(random.uniform(0.6, 0.9)) + np.float32(random.uniform(0.02, 0.1)), points


def desk(random: _Random, width: int, height: int) -> _Floats:
    """A table: dark, wood, cloth or grainy."""
    colour = random.uniform((0.04, 0.06, 0.08), (0.3, 0.42, 0.5)).astype(np.float32)
    kind = random.randint(4)
    noise = random.standard_normal((height, width)).astype(np.float32)
    if kind == 0:
        grain = cv2.GaussianBlur(noise, (0, 0), 0.8) * 0.25
    elif kind == 1:  # wood
        grain = cv2.GaussianBlur(noise, (0, 0), sigmaX=random.uniform(20, 60), sigmaY=random.uniform(0.8, 2)) * 2.5
    elif kind == 2:  # cloth
        down, across = np.mgrid[:height, :width].astype(np.float32)
        pitch = random.uniform(3, 9)
        grain = 0.2 * np.sin(2 * np.pi * down / pitch) * np.sin(2 * np.pi * across / pitch) + 0.1 * noise
    else:
        grain = cv2.GaussianBlur(noise, (0, 0), random.uniform(2, 6)) * random.uniform(0.6, 2)
    table: _Floats = np.clip(colour * (1 + random.uniform(0.3, 1) * grain[..., None]), 0, 1).astype(np.float32)
    return table


def on_desk(random: _Random, picture: _Floats, points: _Floats, tilt: float = 12.0) -> tuple[_Floats, _Floats]:
    """The sheet on a desk, in perspective, perhaps with a pen and a finger."""
    height, width = picture.shape[:2]
    size = np.array([random.uniform(1.3, 1.8) * width, random.uniform(1.4, 2.0) * height])
    wide, high = (int(side) for side in np.maximum(size, 320))
    angle = np.radians(random.uniform(-tilt, tilt))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    around = (flat - flat.mean(0)) @ turn.T
    fits = min(1.0, *(np.array([wide, high]) * 0.92 / (around.max(0) - around.min(0))))
    target = around * fits + np.array([wide, high]) / 2 + random.normal(0, 0.02 * width, (4, 2))
    homography = cv2.getPerspectiveTransform(flat, target.astype(np.float32))
    table = desk(random, wide, high)
    for _ in range(random.randint(0, 3)):  # pens, fingers
        start, end = random.uniform((0, 0), (wide, high), (2, 2)).astype(int).tolist()
        colour = random.uniform((0.1, 0.1, 0.1), (0.7, 0.7, 0.9)).tolist()
        cv2.line(table, start, end, colour, int(random.uniform(0.01, 0.06) * wide), cv2.LINE_AA)
    seen = cv2.warpPerspective(picture, homography, (wide, high), flags=cv2.INTER_AREA)
    covered = cv2.warpPerspective(np.ones((height, width), np.float32), homography, (wide, high))[..., None]
    moved = cv2.perspectiveTransform(points[None], homography)[0] if len(points) else points
    return (table * (1 - covered) + seen * covered).astype(np.float32), moved.astype(np.float32)


def on_desk_tilted(random: _Random, picture: _Floats, points: _Floats) -> tuple[_Floats, _Floats]:
    """The same, turned by up to 45 degrees."""
    return on_desk(random, picture, points, tilt=45.0)


def sensor(random: _Random, picture: _Floats) -> NDArray[np.uint8]:
    """The camera: noise, eight bits, JPEG."""
    noisy = picture + random.normal(0, random.uniform(0.002, 0.025), picture.shape).astype(np.float32)
    frame = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    _, packed = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, int(random.randint(55, 97))])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR))
