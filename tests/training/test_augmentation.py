"""Random numbers by key, and images moved by them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_mnist.data import strokes  # noqa: E402
from edge_mnist.data.keyed_random import draw_permutation  # noqa: E402
from edge_mnist.training.augmentation import augment  # noqa: E402
from edge_mnist.training.degradation import degrade  # noqa: E402
from edge_mnist.training.recipes import Augmentation  # noqa: E402

STILL = Augmentation(rotation=0, scale=0, shear=0, shift=0)


def _digits(count: int) -> torch.Tensor:
    return torch.from_numpy(strokes.draw(count, 5).images).unsqueeze(1).float()


def test_order_is_a_permutation_of_its_key() -> None:
    orders = [draw_permutation(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], draw_permutation(0, 0, 1000))


FULL = Augmentation(elastic=1.5, stroke=0.6, degradation=0.4)


def _change(images: torch.Tensor, indices: np.ndarray, amount: Augmentation, seed: int, epoch: int) -> torch.Tensor:
    return degrade(augment(images, indices, amount, seed, epoch), indices, amount, seed, epoch)


@pytest.mark.parametrize("amount", [Augmentation(), FULL])
def test_an_image_changes_alike_in_any_batch(amount: Augmentation) -> None:
    images, indices = _digits(67), np.arange(67) * 7
    whole = _change(images, indices, amount, 3, 2)
    assert whole.min() >= 0 and whole.max() <= 255.001
    shuffled = np.random.default_rng(0).permutation(67)
    for part in np.array_split(shuffled, [1, 5, 40]):
        assert torch.equal(_change(images[part], indices[part], amount, 3, 2), whole[part])
    for seed, epoch in ((4, 2), (3, 3)):
        other = _change(images, indices, amount, seed, epoch)
        assert (other != whole).flatten(1).any(1).all()


def test_degradation_meets_a_part_of_the_images_and_strokes_change_both_ways() -> None:
    images, indices = _digits(400), np.arange(400)
    degraded = degrade(images, indices, Augmentation(degradation=0.2), 0, 0)
    untouched = (degraded == images).flatten(1).all(1).float().mean()
    assert 0.8**5 - 0.08 < untouched < 0.8**5 + 0.08  # five effects, drawn apart
    ink = degrade(images, indices, Augmentation(stroke=0.5), 0, 0).sum((1, 2, 3)) / images.sum((1, 2, 3))
    assert 0.3 < (ink > 1).float().mean() < 0.7 and ink.min() > 0.5 and ink.max() < 2.5


def test_elastic_bends_without_moving_far() -> None:
    grid = torch.zeros(100, 1, 28, 28)
    grid[:, :, 14, 4:24] = 255.0
    bent = augment(grid, np.arange(100), Augmentation(0, 0, 0, 0, elastic=1.5), 0, 0)[:, 0]
    rows = torch.arange(28.0)[:, None]
    heights = (bent * rows).sum(1) / bent.sum(1).clamp(min=1)  # (N, 28): where the line is in each column
    heights = heights[:, 6:22]
    assert (heights - 14).abs().max() < 2.5
    assert (heights.amax(1) - heights.amin(1)).mean() > 0.5  # not shifted as a whole


def test_nothing_moves_without_amounts() -> None:
    images = _digits(10)
    torch.testing.assert_close(augment(images, np.arange(10), STILL, 0, 0), images, rtol=0, atol=1e-2)


def _moments(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre (x, y) and direction of the long axis of each image, in pixels and degrees."""
    pixels = images[:, 0].double()
    mass = pixels.sum((1, 2))
    axis = torch.arange(28, dtype=torch.double) - 13.5
    x, y = (pixels.sum(1) * axis).sum(1) / mass, (pixels.sum(2) * axis).sum(1) / mass
    across, down = axis[None, None, :] - x[:, None, None], axis[None, :, None] - y[:, None, None]
    xx, yy, xy = ((pixels * values).sum((1, 2)) for values in (across**2, down**2, across * down))
    return x, y, torch.rad2deg(torch.atan2(2 * xy, xx - yy) / 2)


def test_amounts_are_the_limits_and_are_reached() -> None:
    bar = torch.zeros(2000, 1, 28, 28)
    bar[:, :, 12:16, 8:20] = 255.0
    x, y, _ = _moments(augment(bar, np.arange(2000), Augmentation(0, 0, 0, shift=1.5), 0, 0))
    for moved in (x, y):
        assert 1.45 < moved.abs().max() <= 1.5001 and abs(moved.mean()) < 0.1
    _, _, angle = _moments(augment(bar, np.arange(2000), Augmentation(9, 0, 0, 0), 0, 0))
    assert 8.5 < angle.abs().max() < 9.5 and abs(angle.mean()) < 0.5
    mass = (
        augment(bar, np.arange(2000), Augmentation(0, scale=0.1, shear=0, shift=0), 0, 0).sum((1, 2, 3)) / bar[0].sum()
    )
    assert 0.8 < mass.min() < 0.84 and 1.17 < mass.max() < 1.24


def test_outside_is_black() -> None:
    white = torch.full((50, 1, 28, 28), 255.0)
    moved = augment(white, np.arange(50), Augmentation(), 0, 0)
    assert moved.min() < 1 and moved.max() <= 255.01
