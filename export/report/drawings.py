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


def draw_histogram(integers: NDArray[np.int8]) -> str:
    """Draw how often int8 weights have each value, as bars of neighbouring values, with 0 in the middle, as SVG."""
    limit = max(int(np.abs(integers.astype(int)).max(initial=0)), 16)
    width = limit // 16  # values a bar, so that there are 33 to 37 bars
    places = np.rint(integers.astype(int) / width).astype(int)
    last = -(-limit // width)
    counts = np.bincount(places + last, minlength=2 * last + 1)
    share = 100 / len(counts)
    bars = "".join(
        f'<rect class="full" x="{share * place:.2f}%" width="{0.8 * share:.2f}%" y="{60 - height:.1f}" '
        f'height="{height:.1f}"/>'
        for place, height in enumerate(60 * counts / max(int(counts.max()), 1))
    )
    labels = "".join(
        f'<text x="{place}%" y="76" style="text-anchor:{anchor}">{text}</text>'
        for place, anchor, text in ((0, "start", f"−{limit}"), (50, "middle", "0"), (100, "end", str(limit)))
    )
    return f'<svg class="ticks" width="100%" height="80" aria-hidden="true">{bars}{labels}</svg>'


def draw_rounding(first: int, last: int, pairs: tuple[tuple[float, int], ...]) -> str:
    """Draw a number line of integer steps with real values above it, each with a line to its integer, as SVG."""

    def place(value: float) -> str:
        return f"{100 * (value - first + 0.5) / (last - first + 1):.2f}%"

    axis = '<line class="axis" x1="0" x2="100%" y1="70" y2="70"/>'
    ticks = "".join(
        f'<line class="axis" x1="{place(step)}" x2="{place(step)}" y1="65" y2="75"/>'
        + (f'<text x="{place(step)}" y="92">{str(step).replace("-", "−")}</text>' if (step - first) % 2 == 0 else "")
        for step in range(first, last + 1)
    )
    dots = "".join(
        f'<line class="bar" x1="{place(real)}" x2="{place(integer)}" y1="18" y2="70"/>'
        f'<circle class="dot" cx="{place(real)}" cy="18" r="4"/>'
        f'<circle class="stop" cx="{place(integer)}" cy="70" r="4"/>'
        for real, integer in pairs
    )
    return f'<svg class="ticks" width="100%" height="98" aria-hidden="true">{axis}{ticks}{dots}</svg>'


def draw_bar(share: float) -> str:
    """Draw a bar that fills a share 0..1 of its width as SVG."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="meter" width="100%" height="8" aria-hidden="true"><rect class="rest" width="100%" height="8"/>'
        f'<rect class="full" width="{width:.1f}%" height="8"/></svg>'
    )
