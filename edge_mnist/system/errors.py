"""The exceptions that a user may meet. The command line shows their text as one line, never a traceback."""

from __future__ import annotations

import os
import re
import shlex
import sys


class EdgeMnistError(Exception):
    """Something failed: a damaged file, a missing package, a network that cannot be exported.

    The text says where, what was expected, what was found and what to do, on one line. Exit status 1.
    """

    exit_status = 1


class UsageError(EdgeMnistError):
    """The command was called wrongly: an unknown recipe, a folder that does not exist. Exit status 2."""

    exit_status = 2


class NotInstalledError(EdgeMnistError):
    """A package or a program that this needs is not on this machine; other things may work without. Exit status 1."""


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, or the name of its class if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing_package(package: str, extra: str) -> NotInstalledError:
    """An error that names the package that is not installed, and the command that installs what its extra needs."""
    return NotInstalledError(f"{package} is not installed: {format_install_command(package, extra)}")


def missing_picture_package(error: ModuleNotFoundError) -> ModuleNotFoundError | NotInstalledError:
    """The error that OpenCV, in the build that this machine needs, or Pillow is not installed; any other as it is."""
    package, extra = choose_opencv_build()
    if error.name == "cv2":
        return NotInstalledError(f"OpenCV is not installed: {format_install_command(package, extra)}")
    return missing_package("pillow", extra) if error.name == "PIL" else error


def choose_opencv_build() -> tuple[str, str]:
    """The package of OpenCV for this machine, and the extra that brings it: with windows where there is a desktop."""
    desktop = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ("opencv-python", "demo") if desktop else ("opencv-python-headless", "headless")


def format_install_command(package: str, extra: str) -> str:
    """The command that installs a package, and what else its extra needs and this Python lacks."""
    from importlib import metadata  # here, as no error is the rule and every command imports this module

    needs = {}
    try:
        needed = metadata.requires("edge-mnist") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        needed = []
    for line in needed:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if re.search(rf"extra == ['\"]{extra}['\"]", marker):
            needs[re.split(r"[^\w.-]", requirement)[0]] = requirement
    wanted = [needs.get(package, package)]
    wanted += [requirement for name, requirement in needs.items() if name != package and not _is_installed(name)]
    return shlex.join([sys.executable, "-m", "pip", "install", *wanted])


def _is_installed(package: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
