"""Options that several commands take, in the same words."""

from __future__ import annotations

from pathlib import Path

import click

trust_changed = click.option(
    "--trust", is_flag=True, help="Run TorchScript archives and C that were changed since the export: they carry code."
)
"""Of commands that open a bundle."""

reading_model = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="An artifact, float or int8, a model.c too.  [default: the shipped int8 TFLite]",
)
"""Of commands that read numbers: the network."""

trust_model = click.option(
    "--trust",
    is_flag=True,
    help="Open a TorchScript archive or a model.c that no manifest beside it knows as --model: they carry code.",
)
"""Of the same."""

threshold = click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="The least confidence that a digit needs.  [default: 0.65]",  # reader.THRESHOLD, without importing OpenCV
)
"""Of the same; None without it."""
