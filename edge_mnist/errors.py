"""The exceptions that a user may meet. The command line shows their text as one line, never a traceback."""

from __future__ import annotations


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


def missing_package(package: str, extra: str) -> NotInstalledError:
    """An error that names the package that is not installed and the extra that brings it."""
    return NotInstalledError(f"{package} is not installed: pip install 'edge-mnist[{extra}]'")
