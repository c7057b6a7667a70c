"""Ink on paper: how much darker a pixel is than the paper around it, under any light.

The paper's brightness is what a grey closing leaves: dark marks narrower than its window are filled by what surrounds
them, dark areas wider than it stay (black-hat transform; Serra, "Image Analysis and Mathematical Morphology", 1982).
The quotient of pixel and paper is the ink's reflectance, whatever the light. What counts as ink is then decided beside
the strongest ink nearby, so that a faint pencil is read where it is alone, and the print of a cheque is not where a pen
has written over it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mnist.demo.reading import levels, rules, view
from edge_mnist.demo.reading.pieces import Piece

SHRINK = 4
"""The paper's brightness is found at a quarter of the size."""
WINDOW = 0.11
"""Window of the closing, as a part of the frame's shorter side: a stroke that is wider is no stroke,"""
TIGHT_WINDOW = 0.22
"""but for a frame with a shorter side than"""
NARROW = 110
"""so many pixels, which its digits fill."""
LEAST = 20
"""The least strength, of 255, that may be ink."""
SHARE = 0.3
"""The part of the strongest strength nearby that a pixel needs at least, and"""
HALF = 0.5
"""at most: at half of it an edge stays where it was before blur."""
PEN = 0.5
"""A line that somebody has cut out was written with one pen: its ink is stronger than this part of the strongest."""
SPREAD = 0.6
"""Between the two decides the mean around it and so many standard deviations: print under a pen is no ink."""
LIGHT_PAPER = 115
"""On ground as light as this no ink is lighter."""
TIGHT = 200
"""A frame smaller than this shows a single number, with its ground around it."""
MARKED = 24
"""Marks that stand out by so many levels of grey show what is ink, if"""
LIGHTER = 1.6
"""the dark ones stand out so many times as much as the light ones, or the reverse; else both are read."""
DARK = 0.3
"""Paper darker than this part of the brightest counts as that bright."""
NOISE = 4.0
"""So many standard deviations of the paper's grain are no ink."""


@dataclass(frozen=True, eq=False)
class Ink:
    """What is written in a frame.

    Attributes:
        strength: uint8 (H, W), 255 * (1 - pixel / paper): 0 is paper, 255 black ink.
        mask: uint8 (H, W), 255 where there is ink, else 0.
    """

    strength: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def find(grey: NDArray[np.uint8]) -> Ink:
    """The ink of a grey frame, uint8 (H, W), darker than its paper."""
    height, width = grey.shape
    small = cv2.resize(grey, (max(width // SHRINK, 1), max(height // SHRINK, 1)), interpolation=cv2.INTER_AREA)
    window = max(3, round((TIGHT_WINDOW if min(grey.shape) < NARROW else WINDOW) * min(small.shape)) | 1)
    closed = cv2.morphologyEx(
        small, cv2.MORPH_CLOSE, np.ones((window, window), np.uint8), borderType=cv2.BORDER_REPLICATE
    )
    # exact: OpenCV's other linear resize, and its division, round otherwise on ARM than on x86
    paper = cv2.resize(cv2.blur(closed, (5, 5)), (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    # beside the brightest paper, grain in the dark is weak
    dark = max(round(DARK * levels.quantile(closed, 0.98)), 1)
    quotient = np.divide(cv2.subtract(paper, grey), cv2.max(paper, dark), dtype=np.float32)
    quotient *= np.float32(255)
    strength = np.rint(quotient, out=quotient).astype(np.uint8)
    least = _least(strength)
    _, lines = rules.remove(cv2.compare(strength, least, cv2.CMP_GT))
    around = strength if lines is None else cv2.subtract(strength, cv2.dilate(lines, np.ones((3, 3), np.uint8)))
    mask = cv2.compare(strength, _bound(around, least), cv2.CMP_GT)
    if lines is not None:
        # beside strong ink a faint rule has gaps: what was found of it before counts, but where digits fill the frame
        mask, _ = rules.remove(mask if view.is_cut(mask.shape) else cv2.subtract(mask, lines))
    return Ink(strength, mask)


def _bound(strength: NDArray[np.uint8], least: int) -> NDArray[np.uint8]:
    """The strength from which a pixel is ink, uint8 (H, W), by what stands around it."""
    height, width = strength.shape
    peaks = cv2.dilate(strength, np.ones((SHRINK + 1, SHRINK + 1), np.uint8))[::SHRINK, ::SHRINK]
    reach = max(7, round(min(peaks.shape) / 8) | 1)
    peaks = cv2.blur(cv2.dilate(peaks, np.ones((reach, reach), np.uint8)), (3, 3)).astype(np.float32)
    small = cv2.resize(strength, peaks.shape[::-1], interpolation=cv2.INTER_NEAREST).astype(np.float32)
    around = (2 * reach + 1, 2 * reach + 1)
    mean = cv2.blur(small, around)
    deviation = np.sqrt(np.maximum(cv2.blur(small * small, around) - mean * mean, 0))
    bound = np.clip(mean + SPREAD * deviation, SHARE * peaks, HALF * peaks)
    bound = np.maximum(bound, np.clip(least, LEAST, np.maximum(HALF * peaks, LEAST)))
    if view.is_cut(strength.shape):
        bound = np.maximum(bound, PEN * levels.quantile(strength, 0.985))
    bound = bound.astype(np.uint8)
    return np.asarray(cv2.resize(bound, (width, height), interpolation=cv2.INTER_LINEAR_EXACT))


def _least(strength: NDArray[np.uint8]) -> int:
    """The least strength that stands out of the paper's grain."""
    middle, deviation = levels.spread(strength[::3, ::3])
    return int(min(max(LEAST, middle + NOISE * deviation), 128))


def sharpness(ink: Ink, piece: Piece) -> float:
    """How steeply a piece's strength falls along its outline: within 2 pixels, as a part of its own, about 0 to 1."""
    top, left = max(piece.y - 2, 0), max(piece.x - 2, 0)
    strength = ink.strength[top : piece.bottom + 2, left : piece.right + 2]
    own = np.zeros_like(strength)
    own[piece.y - top : piece.bottom - top, piece.x - left : piece.right - left] = piece.mask
    outline = cv2.subtract(own, cv2.erode(own, np.ones((3, 3), np.uint8), borderValue=0))
    falls = cv2.morphologyEx(strength, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))[outline > 0]
    return levels.median(falls) / max(levels.quantile(strength[own > 0], 0.9), 1)


def is_light(grey: NDArray[np.uint8]) -> bool | None:
    """Whether the ink of a grey frame, uint8 (H, W), is lighter than its ground: chalk, or MNIST's own images.

    None where dark and light marks stand out alike, but in a line that somebody has cut out, where print does.
    """
    height, width = grey.shape
    small = cv2.resize(grey, (max(width // SHRINK, 1), max(height // SHRINK, 1)), interpolation=cv2.INTER_AREA)
    if levels.median(small) > LIGHT_PAPER:
        return False
    if max(grey.shape) < TIGHT:  # a cut digit: its ground lies around it
        border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
        return bool(levels.median(border) < small.mean())
    # strokes are narrower than what they enclose: the narrowest window that sees marks sees strokes
    for window in (3, 5, 9, 17):
        kernel = np.ones((window, window), np.uint8)
        dark = cv2.morphologyEx(small, cv2.MORPH_BLACKHAT, kernel, borderType=cv2.BORDER_REPLICATE)
        light = cv2.morphologyEx(small, cv2.MORPH_TOPHAT, kernel, borderType=cv2.BORDER_REPLICATE)
        strong = [levels.quantile(marks, 0.997) for marks in (dark, light)]
        if max(strong) > MARKED:
            if max(strong) > LIGHTER * min(strong):
                return strong[1] > strong[0]
            return False if view.is_cut(grey.shape) else None
    return False
