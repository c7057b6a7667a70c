"""The finder: a chain of depthwise separable convolutions whose output is a map, and what its numbers mean.

The network has a cell for every 8 by 8 pixels. Each cell answers for four places of 4 by 4 pixels, so that digits that
touch have places of their own; for each place it says how likely the middle of a digit is there, where its box lies,
and which digit it is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 160
"""Pixels along each side of the crops that it learns from."""
PLACE = 4
"""Pixels along each side of a place."""
VALUES = 15
"""Of each place: one for the middle, four for the box, ten for the digit."""
MEAN, STD = 0.5, 0.25
"""What is taken off a pixel, 0 to 1, and what it is then divided by."""
SIZE = 16.0
"""The size of a box, in pixels, that is given as 0."""
BOX_GAIN = 4.0
"""By which an offset, in places, is multiplied, so that int8 holds it finely enough."""
SIZE_GAIN = 2.0
"""The same for the logarithm of a size."""
FOUND = (10.0, 30.0)
"""The longer side of the digits that are to be found at one scale, in pixels."""
IGNORED = (7.5, 40.0)
"""Digits with a longer side between these that are not to be found may be found: another scale has them as well."""


class Finder(nn.Module):
    """Maps float32 (N, 1, H, W), standardised, to (N, 4 * VALUES, H / 8, W / 8)."""

    input_shape = (1, SIDE, SIDE)
    """Channels, height and width of the crops that it learns from; it takes any multiple of 8."""

    def __init__(self, first: int = 16, second: int = 32, width: int = 72, blocks: int = 6) -> None:
        """With random weights.

        Args:
            first: channels at half the resolution.
            second: channels at a quarter.
            width: channels at an eighth, in all blocks.
            blocks: pairs of a depthwise 3x3 and a 1x1 convolution at an eighth.
        """
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()

        def add(name: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
            layers[f"{name}_conv"] = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
            layers[f"{name}_norm"] = nn.BatchNorm2d(outputs)
            layers[f"{name}_relu"] = nn.ReLU()

        add("stem", 1, first, 3, 2)
        add("down1", first, first, 3, 2, first)
        add("mix1", first, second, 1)
        add("down2", second, second, 3, 2, second)
        add("mix2", second, width, 1)
        for block in range(blocks):
            add(f"look{block}", width, width, 3, 1, width)
            add(f"think{block}", width, width, 1)
        head = nn.Conv2d(width, 4 * VALUES, 1)
        with torch.no_grad():
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]
            head.bias[:4] = -4.6  # type: ignore[index]  # one place in a hundred, at the start
        layers["head"] = head
        self.layers = nn.Sequential(layers)

    def forward(self, images: Tensor) -> Tensor:
        """The map of values of images."""
        result: Tensor = self.layers(images)
        return result


def places(output: Tensor) -> Tensor:
    """A network's output (N, 4 * VALUES, h, w) as one vector a place: (N, VALUES, 2h, 2w)."""
    return F.pixel_shuffle(output, 2)


@dataclass(frozen=True, eq=False)
class Targets:
    """What a network should say of crops.

    Attributes:
        heat: (N, h, w), 1 in the middle of a digit, falling around it.
        weight: (N, h, w), 0 where a digit may be found and need not.
        index: int64 (K, 3), crop, row and column of each digit that is to be found.
        box: (K, 4), what is to be said of its box.
        label: int64 (K,), which digit; -1 where that cannot be told.
    """

    heat: Tensor
    weight: Tensor
    index: Tensor
    box: Tensor
    label: Tensor


def targets(boxes: Tensor, side: int) -> Targets:
    """The targets of square crops.

    Args:
        boxes: float32 (N, M, 5): label, left, top, right, bottom; a label of -2 where there is no digit.
        side: of the crops, in pixels.
    """
    count = side // PLACE
    label, corners = boxes[..., 0], boxes[..., 1:]
    middle = (corners[..., :2] + corners[..., 2:]) / 2  # (N, M, 2), x and y
    extent = (corners[..., 2:] - corners[..., :2]).clamp(min=1.0)
    longer = extent.amax(-1)
    there = label > -1.5
    wanted = there & (longer >= FOUND[0]) & (longer <= FOUND[1])
    spared = there & ~wanted & (longer >= IGNORED[0]) & (longer <= IGNORED[1])
    grid = (torch.arange(count, device=boxes.device) + 0.5) * PLACE
    centre = (middle / PLACE).floor() * PLACE + PLACE / 2
    sigma = (0.11 * extent / PLACE).clamp(0.45, 1.0) * PLACE  # (N, M, 2)
    down = torch.exp(-(((grid - centre[..., 1:]) / sigma[..., 1:]) ** 2) / 2)  # (N, M, h)
    across = torch.exp(-(((grid - centre[..., :1]) / sigma[..., :1]) ** 2) / 2)  # (N, M, w)
    bumps = down[..., :, None] * across[..., None, :] * wanted[..., None, None]
    heat = bumps.amax(1)
    inside = (
        ((grid - middle[..., 1:]).abs() < 0.3 * extent[..., 1:] + 2)[..., :, None]
        & ((grid - middle[..., :1]).abs() < 0.3 * extent[..., :1] + 2)[..., None, :]
        & spared[..., None, None]
    ).any(1)
    weight = (~inside | (heat > 0.99)).to(heat.dtype)
    cell = (middle / PLACE).floor().long()
    wanted &= ((cell >= 0) & (cell < count)).all(-1)
    crop, which = wanted.nonzero(as_tuple=True)
    cell = cell[crop, which]
    offset = (middle[crop, which] / PLACE - cell - 0.5) * BOX_GAIN
    size = torch.log(extent[crop, which] / SIZE) * SIZE_GAIN
    index = torch.stack([crop, cell[:, 1], cell[:, 0]], 1)
    return Targets(heat, weight, index, torch.cat([offset, size], 1), label[crop, which].long())


def loss(output: Tensor, wanted: Targets) -> tuple[Tensor, dict[str, Tensor]]:
    """How wrong an output is: CenterNet's focal loss of the middles (Zhou et al. 2019), and those of box and digit."""
    values = places(output.float())
    heat, target = values[:, 0], wanted.heat
    chance = torch.sigmoid(heat)
    middle = (target > 0.99).to(heat.dtype)
    found = -F.logsigmoid(heat) * (1 - chance) ** 2 * middle
    silent = -F.logsigmoid(-heat) * chance**2 * (1 - target) ** 4 * (1 - middle)
    count = middle.sum().clamp(min=1.0)
    focal = ((found + silent) * wanted.weight).sum() / count
    own = values[wanted.index[:, 0], :, wanted.index[:, 1], wanted.index[:, 2]]  # (K, VALUES)
    box = F.smooth_l1_loss(own[:, 1:5], wanted.box) if len(own) else values.sum() * 0
    known = wanted.label >= 0
    digit = F.cross_entropy(own[known, 5:], wanted.label[known]) if bool(known.any()) else values.sum() * 0
    return focal + box + 0.5 * digit, {"middle": focal.detach(), "box": box.detach(), "digit": digit.detach()}
