"""What is tested only where torch is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")


def skip_without_torch(command: str) -> None:
    """Skip a test of a command that needs torch where it is not installed."""
    if find_spec("torch") is None and (command.startswith(("train ", "experiments ")) or "--network" in command):
        pytest.skip("torch is not installed")
