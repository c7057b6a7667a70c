"""Uploaded images, decoded in processes of their own."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_mnist.demo.sources import decoder as decoders
from edge_mnist.demo.sources import images
from edge_mnist.demo.sources.decoder import Decoder
from edge_mnist.system.errors import EdgeMnistError
from tests.demo.test_images import SAME, Image, encode

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are stopped and limited as on Linux")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder("the photograph", seconds=5)
    yield made
    made.close()


def test_a_picture_is_decoded_as_in_this_process(decoder: Decoder) -> None:
    large = encode(Image.new("RGB", (2500, 1000), (90, 160, 30)), "JPEG")
    for data in (SAME["PNG"], SAME["JPEG turned by EXIF"], large):
        assert np.array_equal(decoder.decode(data), decoders._reduce(images.decode(data, "here")))
    assert decoder.decode(large).shape == (800, 2000)


def test_errors_are_those_of_this_process(decoder: Decoder) -> None:
    for data in (b"", b"text", SAME["PNG"][:60]):
        with pytest.raises(EdgeMnistError) as here:
            images.decode(data, "the photograph")
        with pytest.raises(EdgeMnistError) as there:
            decoder.decode(data)
        assert str(there.value) == str(here.value)
    with pytest.raises(EdgeMnistError, match="which take 60 MB to decode, at most 48 MB are given"):
        decoder.decode(b"P6 5000 4000 255\n")


def test_a_process_that_ends_or_was_killed_is_replaced(decoder: Decoder) -> None:
    decoder.decode(SAME["PNG"])
    decoder._spare.kill()  # type: ignore[union-attr]
    decoder._spare.wait()  # type: ignore[union-attr]
    assert decoder.decode(SAME["PNG"]).shape == (40, 64)
    decoder._spare.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as visitor:
        process = decoder._spare
        found = visitor.submit(decoder.decode, SAME["PNG"])
        time.sleep(0.1)
        process.kill()  # type: ignore[union-attr]
        with pytest.raises(EdgeMnistError, match="is damaged, or takes too much memory to open"):
            found.result()


def test_a_picture_that_takes_too_long_is_given_up_and_delays_no_other(decoder: Decoder) -> None:
    decoder.decode(SAME["PNG"])
    slow = decoder._spare
    slow.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
    with ThreadPoolExecutor(1) as visitor:
        stuck = visitor.submit(decoder.decode, SAME["PNG"])
        time.sleep(0.1)
        assert decoder.decode(SAME["PNG"]).shape == (40, 64)
        assert not stuck.done()
        with pytest.raises(EdgeMnistError, match="takes more than 5 seconds to open"):
            stuck.result()
    assert slow.poll() == -signal.SIGKILL  # type: ignore[union-attr]


def test_no_process_is_left_after_close(decoder: Decoder) -> None:
    decoder.decode(SAME["PNG"])
    spare = decoder._spare
    decoder.close()
    assert spare is not None and spare.poll() is not None
    decoder.decode(SAME["PNG"])
    assert decoder._spare is None
