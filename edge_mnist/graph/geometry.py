"""The geometry of sliding windows: which part of its input a convolution or a pool sees, and how large its output is.

Layers, the operations of a graph and the summary of a network all use this one definition. Every pair is (vertical,
horizontal), in elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_mnist.system.errors import EdgeMnistError

Pair = tuple[int, int]
"""A vertical and a horizontal number."""

MapShape = tuple[int, int, int]
"""Channels, height, width of the feature maps of one image."""


@dataclass(frozen=True)
class Window:
    """The sliding window of a convolution or a pool.

    Attributes:
        kernel_size: how many elements the window reads.
        stride: how far the window moves between two neighbouring outputs.
        padding: how many elements are added above and to the left.
        dilation: the distance between the elements that the window reads.
        padding_after: how many elements are added below and to the right; None if as many as above and to the left.
    """

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    padding_after: Pair | None = None

    def __post_init__(self) -> None:
        if self.padding_after == self.padding:  # equal windows compare and print alike
            object.__setattr__(self, "padding_after", None)

    @property
    def after(self) -> Pair:
        """How many elements are added below and to the right."""
        return self.padding if self.padding_after is None else self.padding_after

    @property
    def is_padded(self) -> bool:
        """Whether elements are added on any side."""
        return self.padding != (0, 0) or self.after != (0, 0)

    def padded_size(self, size: Pair) -> Pair:
        """Height and width of an input of `size` with its padding."""
        vertical, horizontal = (n + b + a for n, b, a in zip(size, self.padding, self.after, strict=True))
        return vertical, horizontal

    @property
    def extent(self) -> Pair:
        """Height and width of the input from which one output is computed: dilation * (kernel_size - 1) + 1."""
        vertical, horizontal = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return vertical, horizontal

    def output_size(self, size: Pair) -> Pair:
        """Height and width of the output for an input of `size`; below 1 where the window does not fit.

        The formula is that of torch.nn.Conv2d: floor((padded size - extent) / stride) + 1.
        """
        vertical, horizontal = (
            (n - e) // s + 1 for n, e, s in zip(self.padded_size(size), self.extent, self.stride, strict=True)
        )
        return vertical, horizontal


def slide(name: str, window: Window, shape: MapShape, channels: int) -> MapShape:
    """The shape of the maps that a layer makes by sliding a window over its input.

    Args:
        name: what the text of an error begins with.
        window: what slides.
        shape: channels, height, width of the input.
        channels: of the output.

    Raises:
        EdgeMnistError: the window is larger than the padded input, so that the output would have no elements.
    """
    height, width = window.output_size(shape[1:])
    if min(height, width) < 1:
        margins = f"{_format(window.padding)} on each side"
        if window.padding_after is not None:
            margins = f"{_format(window.padding)} before and {_format(window.after)} after"
        raise EdgeMnistError(
            f"{name}: a window of {_format(window.extent)} does not fit into an input of {_format(shape[1:])}, padded "
            f"by {margins}: nothing would be left of it"
        )
    return channels, height, width


def _format(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"
