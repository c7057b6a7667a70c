"""The option `--config`: a TOML file that holds the other options of a command by their long names."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edge_mnist.system.errors import EdgeMnistError, UsageError
from edge_mnist.system.files import read_bytes

_MAX_BYTES = 1 << 20
"""The most bytes of a file: a thousand times more than one with every option has."""
_MAX_SHOWN = 60
"""The most characters of a wrong value that an error shows."""


def add_config(command: click.Command) -> None:
    """Give a command the option `--config`. What the command line names beats the file."""
    click.option(
        "--config",
        metavar="FILE.toml",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_use_file,
        help="Read options from this file, by their long names, such as port = 8090; those given here beat it.",
    )(command)


def list_options(command: click.Command) -> dict[str, click.Option]:
    """List the options of a command that a file may hold, by their long names without dashes."""
    options = [option for option in command.params if isinstance(option, click.Option) and option.name != "config"]
    return {next(name for name in option.opts if name.startswith("--"))[2:]: option for option in options}


def _use_file(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Take the defaults of the other options from a file."""
    if path is None or context.resilient_parsing:
        return
    options = list_options(context.command)
    defaults: dict[str, Any] = {}
    for key, value in _parse(path).items():
        if key not in options:
            raise UsageError(f"{path}: {key}: {_explain_unknown(key, value, options)}")
        found = options[key]
        defaults[str(found.name)] = _check(found, value, context, f"{path}: {key}")
    context.default_map = defaults


def _parse(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        UsageError: there is no such file.
        EdgeMnistError: it cannot be read, or is not TOML.
    """
    if sys.version_info >= (3, 11):  # imported here, as on a Pi it takes memory that few need
        import tomllib
    else:
        import tomli as tomllib
    data = read_bytes(path, _MAX_BYTES)
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise EdgeMnistError(f"{path}: is not a TOML file: {reason}: expected lines such as port = 8090") from error


def _explain_unknown(key: str, value: object, options: Mapping[str, click.Option]) -> str:
    if isinstance(value, dict):
        return "is a table: expected options as lines such as port = 8090, without a heading"
    import difflib

    close = difflib.get_close_matches(key.replace("_", "-").lower(), options, n=1)
    return (
        f"is not an option: did you mean {close[0]}?" if close else f"is not an option: expected {', '.join(options)}"
    )


def _check(option: click.Option, value: Any, context: click.Context, where: str) -> Any:
    """Check the value of an option, and return it as a default of the option.

    Raises:
        UsageError: it has the wrong type, or is not one of the values that the option takes.
    """
    expected = _describe_values(option)
    if option.is_flag:
        is_right = isinstance(value, bool)
    elif isinstance(option.type, click.types.IntParamType):
        is_right = type(value) is int
    elif isinstance(option.type, click.types.FloatParamType):
        is_right = type(value) in (int, float)
    elif isinstance(value, bool) and _has_optional_value(option):
        return option.flag_value if value else None
    else:
        if option.name == "camera" and type(value) is int:  # the number of a camera
            value = str(value)
        is_right = isinstance(value, str)
    try:
        if is_right and not option.is_flag:
            option.process_value(context, value)
        if is_right:
            return value
    except click.BadParameter:
        pass
    except UsageError as error:  # of the option's own callback
        raise UsageError(f"{where}: {error}") from error
    is_json = isinstance(value, str | int | float | list | dict)
    shown = json.dumps(value, default=str, ensure_ascii=False) if is_json else str(value)
    shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
    raise UsageError(f"{where}: expected {expected}, found {shown}")


def _has_optional_value(option: click.Option) -> bool:
    """Check whether an option may be given without a value, as `--mqtt-discovery`."""
    return not option.is_flag and isinstance(option.flag_value, str)


def _describe_values(option: click.Option) -> str:
    """Describe the values that an option takes in a file."""
    if option.is_flag:
        return "true or false"
    kind = option.type
    if isinstance(kind, click.Choice):
        return "one of " + ", ".join(f'"{choice}"' for choice in kind.choices)
    if isinstance(kind, click.IntRange | click.FloatRange):
        number = "a whole number" if isinstance(kind, click.IntRange) else "a number"
        low = "" if kind.min is None else f" above {kind.min:g}" if kind.min_open else f" from {kind.min:g}"
        return f"{number}{low}" + ("" if kind.max is None else f" to {kind.max:g}")
    if _has_optional_value(option):
        return f'text, or true for "{option.flag_value}"'
    return "text in quotes"
