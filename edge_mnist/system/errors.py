"""The exceptions that are raised for users. The command line prints their text as one line, without a traceback."""

from __future__ import annotations

import os
import re
import shlex
import sys


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


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing_package(package: str, extra: str) -> NotInstalledError:
    """Make the error that a package is not installed, with the command that installs it and the rest of its extra."""
    return _explain_missing(package, package, extra)


def check_package(package: str, extra: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        NotInstalledError: it is not.
    """
    from importlib.util import find_spec

    try:
        found = find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise missing_package(package, extra)


def missing_picture_package(error: ModuleNotFoundError) -> ModuleNotFoundError | NotInstalledError:
    """Make the error that OpenCV or Pillow is not installed, if that is why an import failed; else return `error`."""
    package, extra = choose_opencv_build()
    if error.name == "cv2":
        return _explain_missing("OpenCV", package, extra)
    return missing_package("pillow", extra) if error.name == "PIL" else error


def _explain_missing(name: str, package: str, extra: str) -> NotInstalledError:
    command = format_install_command(package, extra)
    return NotInstalledError(f"{name} is not installed: {command}, or install '.[{extra}]' in a clone of edge-mnist")


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
        requirement for name, requirement in requirements.items() if name != package and not _is_installed(name)
    ]
    # uv makes environments without pip, and installs into them from outside.
    pip = [sys.executable, "-m", "pip", "install"]
    return shlex.join([*(pip if find_spec("pip") else ["uv", "pip", "install", "--python", sys.executable]), *missing])


def _is_installed(package: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
