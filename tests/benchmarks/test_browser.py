"""The comparison with onnxruntime-web: what it makes of what a page has measured."""

from __future__ import annotations

import pytest

from benchmarks.browser import SIDES, summarize


def test_times_are_compared_turn_by_turn_and_outputs_by_value() -> None:
    measured = {
        "outputs": [[-128, 0, 127], [0, 128, 254], [0.1, 0.2, 0.3]],
        "turns": [[0.1, 0.2, 0.4], [0.3, 0.4, 1.6], [0.1, 0.3, 0.4]],
    }
    rows = summarize(measured, [(100, 50), (6000, 2000), (7000, 3000)])
    assert tuple(rows) == SIDES
    ours, int8, real = rows.values()
    assert [row["median_us"] for row in rows.values()] == pytest.approx([200, 400, 300])
    assert [row["ratio"] for row in rows.values()] == pytest.approx([1, 3, 1])
    assert (ours["differing"], int8["differing"], real["differing"]) == (0, 1, None)
    assert (int8["bytes"], int8["gzip_bytes"]) == (6000, 2000)
