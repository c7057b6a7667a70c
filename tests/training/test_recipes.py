"""The schedules equal those of PyTorch; recipes can be changed under their present and former names."""

from __future__ import annotations

import pytest

from edge_mnist.system.errors import UsageError
from edge_mnist.training.recipes import (
    RECIPES,
    Augmentation,
    augmentation_at,
    change_recipe,
    find_recipe,
    learning_rate,
    momentum,
    parse_changes,
)

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
    assert find_recipe("quick").epochs == 4
    with pytest.raises(UsageError, match="--recipe fast: unknown, expected one of adam-onecycle, "):
        find_recipe("fast")


def test_any_number_of_a_recipe_can_be_set() -> None:
    changes = parse_changes(["elastic=1.5", "cooldown_epochs=2", "lr=1e-3"])
    assert changes == {"elastic": 1.5, "cooldown_epochs": 2, "lr": 1e-3}
    assert parse_changes(["wear=0.2", "calm=3"]) == {"degradation": 0.2, "cooldown_epochs": 3}  # their former names
    recipe = change_recipe(RECIPES["quick"], changes)
    assert (recipe.lr, recipe.cooldown_epochs) == (1e-3, 2)
    # quick leaves the images as they are: only what is named begins
    assert recipe.augmentation == Augmentation(rotation=0, scale=0, shear=0, shift=0, elastic=1.5)
    for text, message in (
        ("elastic", "expected NAME=VALUE"),
        ("cooldown_epochs=1.5", "'1.5' is not of type int"),
        ("name=x", "expected NAME=VALUE, NAME one of lr, weight_decay, epochs, "),
    ):
        with pytest.raises(UsageError, match=f"--set {text}: .*{message}"):
            parse_changes([text])


def test_the_cooldown_epochs_change_images_half_as_much() -> None:
    recipe = change_recipe(
        RECIPES["adam-onecycle"], {"epochs": 10, "cooldown_epochs": 3, "degradation": 0.4, "elastic": 1.0}
    )
    amounts = [augmentation_at(recipe, epoch) for epoch in range(10)]
    assert amounts[:7] == [recipe.augmentation] * 7
    assert amounts[7:] == [Augmentation(4.5, 0.05, 0.05, 0.75, elastic=0.5, degradation=0.0)] * 3


@pytest.mark.parametrize(
    "text",
    [
        *("user_digits=-1", "outliers=nan", "elastic=inf", "lr=0", "epochs=0", "batch_size=1", "ghost_batch=1"),
        *("temperature=0", "distillation=5", "degradation=2", f"epochs={10**400}", "label_smoothing=1.5", "scale=1"),
    ],
)
def test_numbers_that_no_recipe_can_have_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected "):
        parse_changes([text])
