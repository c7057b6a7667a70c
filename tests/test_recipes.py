"""The schedules are PyTorch's, computed without its state."""

from __future__ import annotations

import pytest

from edge_mnist.errors import UsageError
from edge_mnist.recipes import RECIPES, learning_rate, momentum, named

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.schedule == "onecycle"])
@pytest.mark.parametrize("steps", [2, 7, 100, 1001])
def test_one_cycle_is_that_of_pytorch(name: str, steps: int) -> None:
    recipe = RECIPES[name]
    weight = torch.nn.Parameter(torch.zeros(1))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    optimizer = kind([weight], lr=0.1)  # SGD without momentum: the schedule gives it some
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps)
    for step in range(steps):
        group = optimizer.param_groups[0]
        expected = group["momentum"] if recipe.optimizer == "sgd" else group["betas"][0]
        assert learning_rate(recipe, step, steps) == pytest.approx(group["lr"], rel=1e-12)
        assert momentum(recipe, step, steps) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        if step < steps - 1:
            scheduler.step()


def test_a_fixed_rate_stays() -> None:
    recipe = RECIPES["sgd-fixed"]
    assert {(learning_rate(recipe, step, 9), momentum(recipe, step, 9)) for step in range(9)} == {(0.006, 0.0)}


def test_an_unknown_recipe_is_named_with_the_known_ones() -> None:
    assert named("quick").epochs == 4
    with pytest.raises(UsageError, match="--recipe fast: unknown, expected one of adam-onecycle, "):
        named("fast")
