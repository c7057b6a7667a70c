"""Images of what is no digit: seeded, of kinds that stay apart, and none of them a digit."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mnist.data import outliers, strokes
from edge_mnist.data.strokes import LETTERS, SIGNS

DIGITS = strokes.draw(200, 4).images
KINDS = {**outliers.TRAINING, **outliers.UNSEEN}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_repeats_by_its_seed_and_shows_ink(kind: str) -> None:
    draw = {kind: KINDS[kind]}
    images, again, others = (outliers.draw(draw, 50, seed, DIGITS)[kind] for seed in (1, 1, 2))
    assert images.shape == (50, 28, 28) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, again)
    assert (images != others).any((1, 2)).mean() > 0.9
    # a narrow digit may leave a fragment without ink
    assert (images.max((1, 2)) > 100).mean() > 0.8
    assert len(np.unique(images.reshape(50, -1), axis=0)) > 40


def test_what_judges_is_not_what_trains() -> None:
    assert not outliers.TRAINING.keys() & outliers.UNSEEN.keys()
    assert not LETTERS.keys() & SIGNS.keys()
    # a letter that some writers make as they make a digit would teach the network to doubt that digit
    assert not LETTERS.keys() & set("OoIlZzSsBbGgq")


def test_a_fragment_is_half_a_digit_at_most() -> None:
    fragments = outliers.draw({"f": outliers.TRAINING["fragments"]}, 200, 3, DIGITS)["f"]
    margins = [fragments[:, :13], fragments[:, -13:], fragments[:, :, :13], fragments[:, :, -13:]]
    assert np.any([part.reshape(200, -1).max(1) == 0 for part in margins], axis=0).all()
