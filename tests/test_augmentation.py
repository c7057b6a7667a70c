"""Random numbers by key, and images moved by them."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edge_mnist import strokes  # noqa: E402
from edge_mnist.augmentation import augment, epoch_order  # noqa: E402
from edge_mnist.recipes import Augmentation  # noqa: E402

STILL = Augmentation(rotation=0, scale=0, shear=0, shift=0)


def _digits(count: int) -> torch.Tensor:
    return torch.from_numpy(strokes.draw(count, 5).images).unsqueeze(1).float()


def test_order_is_a_permutation_of_its_key() -> None:
    orders = [epoch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(orders[0], epoch_order(0, 0, 1000))


def test_an_image_moves_alike_in_any_batch() -> None:
    images, indices = _digits(67), np.arange(67) * 7
    whole = augment(images, indices, Augmentation(), 3, 2)
    shuffled = np.random.default_rng(0).permutation(67)
    for part in np.array_split(shuffled, [1, 5, 40]):
        assert torch.equal(augment(images[part], indices[part], Augmentation(), 3, 2), whole[part])
    for seed, epoch in ((4, 2), (3, 3)):
        other = augment(images, indices, Augmentation(), seed, epoch)
        assert (other != whole).flatten(1).any(1).all()


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
