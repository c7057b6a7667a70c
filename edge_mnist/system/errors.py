"""The exceptions that are raised for users. The command line prints their text as one line, without a traceback."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class EdgeMnistError(Exception):
    """Something failed: a file is damaged, a package is missing, a network cannot be exported. Exit status 1.

    The text says where, what was expected, what was found and what to do, on one line.
    """

    exit_status = 1


class UsageError(EdgeMnistError):
    """A command or a function was called wrongly: with an unknown recipe, or a missing folder. Exit status 2."""

    exit_status = 2


class NotInstalledError(EdgeMnistError):
    """A package or a program is not installed that this needs. Other things may work without it. Exit status 1."""


def escape(text: str) -> str:
    """Escape characters that a terminal would obey, and ends of lines: names of files and layers may hold them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_PACKAGES = {
    "aiohttp": ("aiohttp", "demo"),
    "matplotlib": ("matplotlib", "train"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "paho": ("paho-mqtt", "mqtt"),
    "tflite_micro": ("tflite-micro", "micro"),
    "torch": ("torch", "train"),
    "torchvision": ("torchvision", "train"),
    "wasmtime": ("wasmtime", "wasm"),
}
"""The package and the extra that install a module, by the module's name. OpenCV and Pillow depend on the machine."""


@contextmanager
def explain_missing_packages() -> Iterator[None]:
    """Make a context of imports, in which a package that is not installed is named with the command that installs it.

    Raises:
        NotInstalledError: a package is not installed.
        ImportError: a package is installed and cannot be loaded, or is none of an extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in _PACKAGES and module not in ("cv2", "PIL"):
            raise
        raise missing_package(module) from error


def missing_package(module: str) -> NotInstalledError:
    """Make the error that the package of a module is not installed, with the command that installs its extra."""
    build, picture_extra = choose_opencv_build()
    packages = {"cv2": (build, picture_extra), "PIL": ("pillow", picture_extra), **_PACKAGES}
    package, extra = packages[module]
    command = format_install_command(package, extra)
    title = "OpenCV" if module == "cv2" else package
    return NotInstalledError(f"{title} is not installed: {command}, or install '.[{extra}]' in a clone of edge-mnist")


def check_package(module: str) -> None:
    """Check that the package of a module is installed, without importing it.

    Raises:
        NotInstalledError: it is not.
    """
    if not is_installed(module):
        raise missing_package(module)


def is_installed(module: str) -> bool:
    """Whether there is a module of this name, which is not imported."""
    from importlib.util import find_spec

    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: it was imported, and has no specification
        return False


def choose_opencv_build() -> tuple[str, str]:
    """Choose the package of OpenCV for this machine (with windows if it has a desktop) and the extra that holds it."""
    desktop = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ("opencv-python", "demo") if desktop else ("opencv-python-headless", "headless")


def format_install_command(package: str, extra: str) -> str:
    """Format the command that installs a package, and what else of its extra this Python lacks."""
    # Slow to import, and rarely needed by the commands that import this module.
    from importlib import metadata
    from importlib.util import find_spec

    requirements = {}
    try:
        lines = metadata.requires("edge-mnist") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        lines = []
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if re.search(rf"extra == ['\"]{extra}['\"]", marker):
            requirements[re.split(r"[^\w.-]", requirement)[0]] = requirement
    missing = [requirements.get(package, package)]
    missing += [
        requirement for name, requirement in requirements.items() if name != package and not _has_distribution(name)
    ]
    # uv makes environments without pip, and installs into them from outside.
    pip = [sys.executable, "-m", "pip", "install"]
    return shlex.join([*(pip if find_spec("pip") else ["uv", "pip", "install", "--python", sys.executable]), *missing])


def _has_distribution(package: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
