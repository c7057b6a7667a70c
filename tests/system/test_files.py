"""Files are written whole, and nothing but files is replaced."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge_mnist.system.errors import UsageError
from edge_mnist.system.files import write_whole


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_not_replaced_and_a_link_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe: is a device, a pipe or a socket, which is not replaced: name a file"):
        write_whole(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").read_bytes() == b"new" and (tmp_path / "target").read_bytes() == b"old"
