"""The finder: a network with three resolutions whose output is the map that `finder_map` describes; its targets."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_mnist.data.finder_map import BOX_GAIN, CANVAS_HEIGHT, CANVAS_WIDTH, FOUND, PLACE, SIZE, SIZE_GAIN, VALUES
from edge_mnist.training.finder.pages import MAY_BE_FOUND

SIDE = 160
"""Pixels along each side of the crops that it learns from."""
IGNORED = (5.0, 40.0)
"""A digit with a longer side between these, but not between those of `FOUND`, may be found at this scale."""
CORE = 0.2
"""A place is in the core of a digit if their middles are no farther apart than this part of the digit's size."""
FALL = 2.0
"""The standard deviation, in pixels, of the Gaussian by which places beside the core of a digit count less."""
NOTHING = -2
"""The label of a row that holds no digit."""


def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True) -> nn.Sequential:
    """A convolution with batch normalization and, unless a sum follows, a ReLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU()) if relu else nn.Sequential(*layers)


class Block(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution, added to what they are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = _unit(width, width, 3, groups=width)
        self.pointwise = _unit(width, width, 1, relu=False)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the same shape."""
        return F.relu(features + self.pointwise(self.depthwise(features)))


def _reduce(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    """Half the resolution, more channels, and blocks."""
    halve = [_unit(inputs, inputs, 3, 2, inputs), _unit(inputs, outputs, 1)]
    return nn.Sequential(*halve, *(Block(outputs) for _ in range(blocks)))


class FinderNetwork(nn.Module):
    """Maps float32 (N, 16, H / 4, W / 4), standardised, to (N, VALUES, H / 4, W / 4); H and W are multiples of 16.

    Each place is given the 16 pixels that it consists of as channels, see `finder_map.split_places`.

    Features at a quarter, an eighth and a sixteenth of the resolution; the coarser ones are added to the finer (Lin
    et al., "Feature Pyramid Networks for Object Detection", 2017), so that a place knows what lies around it.
    """

    input_shape = (PLACE * PLACE, CANVAS_HEIGHT // PLACE, CANVAS_WIDTH // PLACE)
    """Channels, height and width of what the exported network takes."""

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 80), blocks: int = 3) -> None:
        """With random weights.

        Args:
            widths: channels at a quarter, an eighth and a sixteenth of the resolution.
            blocks: at an eighth and at a sixteenth, before the coarser features are added.
        """
        super().__init__()
        quarter, eighth, sixteenth = widths
        self.patches = _unit(PLACE * PLACE, quarter, 1)
        self.quarter = Block(quarter)
        self.eighth = _reduce(quarter, eighth, blocks)
        self.sixteenth = _reduce(eighth, sixteenth, blocks)
        self.to_eighth = _unit(sixteenth, eighth, 1, relu=False)
        self.around_eighth = nn.Sequential(Block(eighth), Block(eighth))
        self.to_quarter = _unit(eighth, quarter, 1, relu=False)
        self.around_quarter = Block(quarter)
        self.enlarge = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(quarter, VALUES, 1)
        with torch.no_grad():
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
            self.head.bias[0] = -4.6  # type: ignore[index]  # one place in a hundred, at the start

    def forward(self, pixels: Tensor) -> Tensor:
        """The map of values of canvases."""
        quarter = self.quarter(self.patches(pixels))
        eighth = self.eighth(quarter)
        sixteenth = self.sixteenth(eighth)
        eighth = self.around_eighth(F.relu(eighth + self.enlarge(self.to_eighth(sixteenth))))
        quarter = self.around_quarter(F.relu(quarter + self.enlarge(self.to_quarter(eighth))))
        result: Tensor = self.head(quarter)
        return result


@dataclass(frozen=True, eq=False)
class Targets:
    """What the network should give for a batch of N crops, on a map of h rows and w columns of places.

    Attributes:
        heat: (N, h, w), 1 in the core of a digit, falling around it.
        weight: (N, h, w), 0 where a digit may be found and need not.
        index: int64 (K, 3), crop, row and column of each place in the core of a digit that is to be found.
        box: (K, 4), the values for the digit's box at these places, as `finder_map.decode` reads them.
        label: int64 (K,), which digit; -1 where that cannot be told.
    """

    heat: Tensor
    weight: Tensor
    index: Tensor
    box: Tensor
    label: Tensor

    def to(self, device: torch.device) -> Targets:
        """Move the tensors to a device."""
        return Targets(*(getattr(self, one.name).to(device) for one in fields(self)))


def targets(boxes: Tensor, side: int) -> Targets:
    """The targets of square crops.

    Args:
        boxes: float32 (N, M, 5): label, left, top, right, bottom; a label of `NOTHING` where there is no digit.
        side: of the crops, in pixels.
    """
    count = side // PLACE
    label, corners = boxes[..., 0], boxes[..., 1:]
    middle = (corners[..., :2] + corners[..., 2:]) / 2  # (N, M, 2), x and y
    extent = (corners[..., 2:] - corners[..., :2]).clamp(min=1.0)
    longer = extent.amax(-1)
    there = label != NOTHING
    wanted = there & (label != MAY_BE_FOUND) & (longer >= FOUND[0]) & (longer <= FOUND[1])
    spared = there & ~wanted & (longer >= IGNORED[0]) & (longer <= IGNORED[1])
    grid = (torch.arange(count, device=boxes.device) + 0.5) * PLACE
    across = (grid - middle[..., :1]).abs()  # (N, M, w)
    down = (grid - middle[..., 1:]).abs()  # (N, M, h)
    core = (CORE * extent).clamp(min=PLACE / 2)  # the place that holds the middle always belongs to it
    beyond = ((across - core[..., :1]).clamp(min=0) ** 2)[..., None, :]
    beyond = beyond + ((down - core[..., 1:]).clamp(min=0) ** 2)[..., :, None]  # (N, M, h, w)
    bumps = torch.exp(-beyond / (2 * FALL**2)) * wanted[..., None, None]
    heat = bumps.amax(1)
    inside = (
        (down < 0.3 * extent[..., 1:] + 2)[..., :, None]
        & (across < 0.3 * extent[..., :1] + 2)[..., None, :]
        & spared[..., None, None]
    ).any(1)
    positive = heat == 1
    weight = (~inside | positive).to(heat.dtype)
    crop, row, column = positive.nonzero(as_tuple=True)
    # A place in the cores of two digits speaks of the one whose middle is nearer, in parts of its size.
    apart = (across / extent[..., :1])[..., None, :] ** 2 + (down / extent[..., 1:])[..., :, None] ** 2
    apart = torch.where(bumps == 1, apart, torch.inf)
    which = apart[crop, :, row, column].argmin(1)
    place = torch.stack([column, row], 1).to(middle.dtype)
    offset = (middle[crop, which] / PLACE - place - 0.5) * BOX_GAIN
    size = torch.log(extent[crop, which] / SIZE) * SIZE_GAIN
    index = torch.stack([crop, row, column], 1)
    return Targets(heat, weight, index, torch.cat([offset, size], 1), label[crop, which].long())


def loss(output: Tensor, wanted: Targets) -> tuple[Tensor, dict[str, Tensor]]:
    """How wrong an output is: the cross entropy of the middles, and the losses of box and digit.

    Places near the core of a digit count less, as in Zhou et al., "Objects as Points", 2019. Their focal loss is not
    used, because a confidence of 0.85 for the clearest digit satisfies it.
    """
    values = output.float()
    heat, target = values[:, 0], wanted.heat
    middle = (target == 1).to(heat.dtype)
    found = -F.logsigmoid(heat) * middle
    silent = -F.logsigmoid(-heat) * (1 - target) ** 4 * (1 - middle)
    count = middle.sum().clamp(min=1.0)
    heat_loss = ((found + silent) * wanted.weight).sum() / count
    own = values[wanted.index[:, 0], :, wanted.index[:, 1], wanted.index[:, 2]]  # (K, VALUES)
    box = F.smooth_l1_loss(own[:, 1:5], wanted.box) if len(own) else values.sum() * 0
    known = wanted.label >= 0
    digit = F.cross_entropy(own[known, 5:], wanted.label[known]) if bool(known.any()) else values.sum() * 0
    return heat_loss + box + 0.5 * digit, {"middle": heat_loss.detach(), "box": box.detach(), "digit": digit.detach()}
