"""Corruptions repeat, grow with their strength, and do what their names say."""

from __future__ import annotations

import io

import numpy as np
import pytest

from edge_mnist.data import strokes
from edge_mnist.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt

DIGITS = strokes.draw(300, 6).images


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_repeats_and_grows(name: str) -> None:
    changed = [corrupt(DIGITS, name, strength) for strength in STRENGTHS]
    assert all(images.shape == DIGITS.shape and images.dtype == np.uint8 for images in changed)
    np.testing.assert_array_equal(changed[1], corrupt(DIGITS, name, 2))
    far = [np.abs(images.astype(float) - DIGITS).mean() for images in changed]
    assert 0.3 < far[0] < far[1] < far[2]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_jpeg_is_what_an_encoder_makes(strength: int) -> None:
    image = pytest.importorskip("PIL.Image")
    quality = CORRUPTIONS["jpeg"][1][strength - 1]
    ours = corrupt(DIGITS, "jpeg", strength)
    near = []
    for digit, expected in zip(DIGITS, ours, strict=True):
        content = io.BytesIO()
        # an encoder repeats the last row and column up to whole blocks; a multiple of 8 leaves that out
        image.fromarray(np.pad(digit, ((0, 4), (0, 4)), mode="edge")).save(content, "jpeg", quality=quality)
        decoded = np.asarray(image.open(content), int)[:28, :28]
        near.append(np.mean(np.abs(decoded - expected) <= 2))
    # libjpeg's integer transform may round a coefficient that lies between two to the other one, which moves a block
    assert np.mean(near) > 0.98 and np.median(near) == 1


def test_geometry_moves_the_ink_as_far_as_said() -> None:
    bar = np.zeros((200, 28, 28), np.uint8)
    bar[:, 4:24, 13:15] = 255
    down, across = np.mgrid[:28, :28] - 13.5
    for strength, pixels in zip(STRENGTHS, CORRUPTIONS["shift"][1], strict=True):
        moved = corrupt(bar, "shift", strength).astype(float)
        centres = [(moved * axis).sum((1, 2)) / moved.sum((1, 2)) for axis in (across, down)]
        np.testing.assert_allclose(np.hypot(*centres), pixels, atol=0.15)
    for strength, degrees in zip(STRENGTHS, CORRUPTIONS["rotation"][1], strict=True):
        turned = corrupt(bar, "rotation", strength).astype(float)
        xx, yy, xy = ((turned * values).sum((1, 2)) for values in (across**2, down**2, across * down))
        angles = np.degrees(np.arctan2(2 * xy, yy - xx) / 2)
        np.testing.assert_allclose(np.abs(angles), degrees, atol=1)
        assert 60 < (angles > 0).sum() < 140  # to both sides
