"""Drawings inside a page: PNG images as data URIs, and SVG with positions in percent, which stretches with the page."""

from __future__ import annotations

import base64
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray


def encode_png_uri(pixels: NDArray[np.uint8]) -> str:
    """Encode a grey or an RGB image as the data URI of a PNG.

    A PNG is a signature and chunks of length, type, content and checksum (W3C, "Portable Network Graphics", section 5).
    It is written here because the base install has no package that writes one.

    Args:
        pixels: uint8 (height, width), 0 is black, or (height, width, 3).
    """
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0  # RGB or grey
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0))).tobytes()  # after filter 0, none
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)  # 8 bits, not interlaced
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def choose_axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """Choose the range of an axis that shows `low..high` with a margin, and three to eight ticks at round numbers.

    The steps are 1, 2 or 5 times a power of ten (P. S. Heckbert, "Nice numbers for graph labels", Graphics Gems, 1990).

    Returns:
        The lower and the upper end of the range, and the ticks.
    """
    span = max(high - low, 1e-6)
    low, high = low - 0.15 * span, high + 0.15 * span
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(factor for factor in (1, 2, 5) if factor * step <= (high - low) / 3)
    first = math.ceil(low / step)
    return low, high, [round(tick * step, 9) for tick in range(first, math.floor(high / step) + 1)]


def draw_error_bar(low: float, middle: float, high: float, limits: tuple[float, float], ticks: list[float]) -> str:
    """Draw an interval with its middle as SVG, with grid lines at the ticks of the axis whose ends are `limits`."""

    def place(value: float) -> str:
        return f"{100 * (value - limits[0]) / (limits[1] - limits[0]):.2f}%"

    grid = "".join(f'<line class="grid" x1="{place(t)}" x2="{place(t)}" y1="0" y2="28"/>' for t in ticks)
    ends = "".join(f'<line class="bar" x1="{place(end)}" x2="{place(end)}" y1="8" y2="20"/>' for end in (low, high))
    return (
        f'<svg width="100%" height="28" aria-hidden="true">{grid}'
        f'<line class="bar" x1="{place(low)}" x2="{place(high)}" y1="14" y2="14"/>{ends}'
        f'<circle class="dot" cx="{place(middle)}" cy="14" r="5"/></svg>'
    )


def draw_tick_labels(limits: tuple[float, float], ticks: list[float]) -> str:
    """Draw the numbers of the ticks under the error bars as SVG."""
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    texts = "".join(
        f'<text x="{100 * (t - limits[0]) / (limits[1] - limits[0]):.2f}%" y="12">{t:.{decimals}f}</text>'
        for t in ticks
    )
    return f'<svg class="ticks" width="100%" height="16" aria-hidden="true">{texts}</svg>'


def draw_bar(share: float) -> str:
    """Draw a bar that fills a share 0..1 of its width as SVG."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="meter" width="100%" height="8" aria-hidden="true"><rect class="rest" width="100%" height="8"/>'
        f'<rect class="full" width="{width:.1f}%" height="8"/></svg>'
    )
