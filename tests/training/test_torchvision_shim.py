"""MNIST as torchvision reads it is MNIST as this package reads it."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.data import mnist

pytest.importorskip("torch")


@pytest.mark.skipif(not mnist.is_available(), reason="MNIST is not on this machine")
def test_reads_what_torchvision_reads(tmp_path: Path) -> None:
    from edge_mnist.training.torchvision_shim import import_torchvision

    pytest.importorskip("PIL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own compiled part
        try:
            torchvision = import_torchvision()
            from torchvision import datasets
        except Exception as error:
            if "not installed" in str(error):
                pytest.skip(str(error))
            raise
    assert torchvision.datasets is datasets
    place, _ = mnist._find_folder(None)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "test"):
        for name in mnist._FILE_NAMES[part]:
            content = mnist._find_file(place, name).read_bytes()
            (raw / name).write_bytes(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    for part in ("train", "test"):
        theirs = datasets.MNIST(str(tmp_path), train=part == "train", download=False)
        ours = mnist.load(part)
        np.testing.assert_array_equal(theirs.data.numpy(), ours.images)
        np.testing.assert_array_equal(theirs.targets.numpy(), ours.labels)
