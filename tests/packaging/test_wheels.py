"""Everything installs without a compiler, on each system and Python; and what is then downloaded.

uv asks the package index, as it answers for another machine's markers and in a second; pip itself installs in the
emulated Raspberry Pi (tests/pi/test_pi.py).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")

SYSTEMS = ("x86_64", "aarch64")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = ("", "onnx", "headless", "demo", "mqtt", "micro", "wasm", "train")
LIMIT = 120e6
"""Bytes that a Raspberry Pi downloads at most for the base and [headless]."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="needs uv: pip install uv"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="needs tomllib, of Python 3.11"),
]


def downloads(system: str, python: str, extra: str) -> dict[str, int]:
    """Bytes of the wheel of each package that an extra needs; of several that fit, of the largest."""
    platform = ("--python-platform", f"{system}-manylinux_2_28", "--python-version", python)
    choice = ("--only-binary", ":all:", "--no-python-downloads", *(("--extra", extra) if extra else ()))
    command = [str(UV), "pip", "compile", "--quiet", "--format", "pylock.toml", *platform, *choice, "pyproject.toml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode and "error sending request" in result.stderr:
        pytest.skip("no package index can be reached")
    assert result.returncode == 0, f"{system}, Python {python}, [{extra}]: {result.stderr}"
    packages = tomllib.loads(result.stdout)["packages"]
    assert all(package["wheels"] for package in packages)
    return {package["name"]: max(wheel["size"] for wheel in package["wheels"]) for package in packages}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_extra_installs_without_a_compiler(system: str) -> None:
    sizes = {(python, extra): downloads(system, python, extra) for python in PYTHONS for extra in EXTRAS}
    print(f"\nMB to download on {system} for Python {', '.join(PYTHONS)}")
    for extra in EXTRAS:
        print(f"  {extra or 'base':10}", *(f"{sum(sizes[python, extra].values()) / 1e6:7.1f}" for python in PYTHONS))
    if system == "aarch64":
        largest = max((sum(sizes[python, "headless"].values()), python) for python in PYTHONS)
        assert largest[0] <= LIMIT, json.dumps(sizes[largest[1], "headless"], indent=1)
