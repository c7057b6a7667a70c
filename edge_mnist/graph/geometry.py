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
        padding: how many elements are added to each of the two sides.
        dilation: the distance between the elements that the window reads.
    """

    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """Height and width of the input from which one output is computed: dilation * (kernel_size - 1) + 1."""
        vertical, horizontal = (d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        return vertical, horizontal

    def output_size(self, size: Pair) -> Pair:
        """Height and width of the output for an input of `size`; below 1 where the window does not fit.

        The formula is that of torch.nn.Conv2d: floor((size + 2 * padding - extent) / stride) + 1.
        """
        vertical, horizontal = (
            (n + 2 * p - e) // s + 1 for n, p, e, s in zip(size, self.padding, self.extent, self.stride, strict=True)
        )
        return vertical, horizontal

    def covers(self, size: Pair) -> bool:
        """Whether the window is the whole input, unpadded: a convolution is then a fully connected layer."""
        return self.kernel_size == size and self.padding == (0, 0)


def slide(name: str, window: Window, shape: MapShape, channels: int) -> MapShape:
    """The shape of the maps that a layer makes by sliding a window over its input.

    Args:
        name: the layer's name, with which the text of an error begins.
        window: what slides.
        shape: channels, height, width of the input.
        channels: of the output.

    Raises:
        EdgeMnistError: the window is larger than the padded input, so that the output would have no elements.
    """
    height, width = window.output_size(shape[1:])
    if min(height, width) < 1:
        raise EdgeMnistError(
            f"{name}: a window of {_format(window.extent)} does not fit into an input of {_format(shape[1:])}, padded "
            f"by {_format(window.padding)} on each side: nothing would be left of it"
        )
    return channels, height, width


def _format(pair: Pair) -> str:
    return f"{pair[0]}x{pair[1]}"
