"""Options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from edge_mnist.system import progress
from edge_mnist.system.progress import Verbosity


class FloatRange(click.FloatRange):
    """A range of numbers. Unlike click's, it holds neither nan, which is in no range, nor infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a number."""
        try:
            number = float(super().convert(value, param, ctx))
        except OverflowError:  # a whole number of a configuration file
            number = math.inf
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def accept_former_names(names: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a command that accepts former names of its options, which its help does not show.

    Args:
        names: the present names by the former ones, without dashes at the beginning.
    """
    return {"token_normalize_func": lambda token: names.get(token, token)}


def add_verbosity(command: click.Command) -> None:
    """Give a command the options that choose how much it writes to stderr."""
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Print details too: steps with their times, files read and written, runtimes.",
    )(command)
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_choose_verbosity,
        help="Print results and errors only, neither progress nor notes.",
    )(command)


def _choose_verbosity(context: click.Context, option: click.Parameter, is_given: bool) -> None:
    chosen: Verbosity = "quiet" if option.name == "quiet" else "verbose"
    if not is_given:
        return
    is_from_file = context.get_parameter_source(str(option.name)) is click.core.ParameterSource.DEFAULT_MAP
    earlier, was_from_file = context.meta.setdefault(__name__, (chosen, is_from_file))
    if is_from_file and not was_from_file:  # what the command line names is looked at first, and beats a file
        return
    if earlier != chosen:
        raise click.UsageError("--verbose and --quiet exclude each other: leave one out")
    progress.choose_verbosity(chosen)


data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Read MNIST's files from this folder.  [default: EDGE_MNIST_DATA or the cache]",
)
"""The option of commands that read MNIST."""


def _parse_sizes(*counts: int) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """A callback that reads sizes, such as 3,224,224 or 3x224x224, as many as one of the counts."""

    def parse(context: click.Context, option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
        if text is None:
            return None
        try:
            sizes = tuple(int(part) for part in re.split("[,x]", text))
        except ValueError:
            sizes = ()
        if len(sizes) not in counts or min(sizes) < 1:
            example = ",".join(("3", "224", "224")[-max(counts) :])
            expected = f"{' or '.join(map(str, counts))} sizes, such as {example}"
            raise click.BadParameter(f"expected {expected}; found {text}", context, option)
        return sizes

    return parse


def _parse_resize(context: click.Context, option: click.Parameter, text: str | None) -> int | tuple[int, ...] | None:
    """Read one size or two."""
    sizes: tuple[int, ...] | None = _parse_sizes(1, 2)(context, option, text)
    return sizes[0] if sizes is not None and len(sizes) == 1 else sizes


def _parse_numbers(
    context: click.Context, option: click.Parameter, text: str | None
) -> float | tuple[float, ...] | None:
    """Read a number or several, such as 0.485,0.456,0.406 or 1/255."""
    if text is None:
        return None
    try:
        # A fraction such as 1e999999999 would be computed with all of its digits.
        numbers = tuple(float(Fraction(part.strip()) if "/" in part else part) for part in text.split(","))
        if not all(map(math.isfinite, numbers)):
            raise ValueError("not finite")
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise click.BadParameter(
            f"expected numbers, such as 0.485,0.456,0.406; found {text}", context, option
        ) from error
    return numbers[0] if len(numbers) == 1 else numbers


inputs_to_test = click.option(
    "--data",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Compare on these inputs: a folder of pictures in folders named after their classes, a .npz of images and "
    "labels, or a folder with MNIST's files.  [default: MNIST in EDGE_MNIST_DATA or the cache, else drawn digits; for "
    "inputs of another shape, noise]",
)
"""The option of commands that compare artifacts."""


def _make_resize_option(default: str) -> Callable[[Any], Any]:
    return click.option(
        "--resize",
        metavar="SIZE",
        callback=_parse_resize,
        help="Resize the shorter side of pictures to SIZE pixels, or pictures to HEIGHT,WIDTH, and cut the middle out."
        f"  [default: {default}]",
    )


resize = _make_resize_option("as for the export, or the smallest that covers the network's input")
"""An option of commands that give pictures to what an export wrote."""

skip_bad = click.option("--skip-bad", is_flag=True, help="Skip pictures that cannot be opened, and name them.")
"""An option of commands that read pictures as inputs."""


def add_input_options(command: Any) -> Any:
    """Give a command the options that describe the inputs of a network."""
    for option in reversed(
        (
            click.option(
                "--input-shape",
                metavar="SHAPE",
                callback=_parse_sizes(1, 2, 3),
                help="State the shape of the network's input: channels,height,width, or channels,length, or features."
                "  [default: that of --calibrate, else 1,28,28]",
            ),
            click.option(
                "--mean",
                metavar="NUMBERS",
                callback=_parse_numbers,
                help="Give the network (pixel * scale - mean) / std, with one mean or one for each channel.  "
                "[default: 0; 0.1307 for 1,28,28]",
            ),
            click.option(
                "--std",
                metavar="NUMBERS",
                callback=_parse_numbers,
                help="Divide by this, see --mean.  [default: 1; 0.3081 for 1,28,28]",
            ),
            click.option(
                "--scale",
                metavar="NUMBER",
                callback=_parse_numbers,
                help="Multiply pixels, 0 to 255, by this first, see --mean.  [default: 1/255]",
            ),
            click.option(
                "--features", is_flag=True, help="Take inputs as they are: they are numbers, such as of a sensor."
            ),
            click.option(
                "--calibrate",
                "calibration",
                metavar="PATH",
                type=click.Path(path_type=Path),
                help="Choose int8 scales on these inputs: a folder of pictures, a .npy, or a .npz.  "
                "[default: the checkpoint's statistics, or MNIST]",
            ),
            _make_resize_option("the smallest that covers the network's input"),
            skip_bad,
        )
    ):
        command = option(command)
    return command


device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Compute on this device.  [default: auto]"
)
"""An option of commands that train."""

workers = click.option(
    "--workers", type=click.IntRange(1), help="Share each batch among this many processes.  [default: physical cores]"
)
"""An option of commands that train."""

images = click.option(
    "--images",
    type=click.IntRange(1, 1_000_000),
    help="Compare on this many inputs.  [default: 10000, or fewer if the network is large]",
)
"""The option of commands that compare artifacts."""

max_drop = click.option(
    "--max-drop",
    type=FloatRange(0, 100),
    help="Allow an accuracy drop of this many percentage points.  [default: 0.1, or 4 images where that is more]",
)
"""The option of commands that compare artifacts."""

trust_changed = click.option(
    "--trust", is_flag=True, help="Run TorchScript archives and C that were changed since the export: they carry code."
)
"""The option of commands that run the artifacts in a folder."""

reading_model = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="Read with this artifact, float or int8, model.c included.  [default: the shipped int8 TFLite]",
)
"""An option of commands that read numbers."""

trust_model = click.option(
    "--trust/--no-trust",
    help="Open the model although no manifest beside it holds its hash: TorchScript archives and C carry code.",
)
"""An option of commands that read numbers."""

threshold = click.option(
    "--threshold",
    type=FloatRange(0, 1),
    # reader.THRESHOLD, without importing OpenCV
    help="Show digits with a lower confidence as ?, and leave out those below 0.2.  [default: 0.68]",
)
"""An option of commands that read numbers; None stands for the reader's threshold."""
