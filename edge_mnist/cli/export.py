"""The command that writes artifacts: `export`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from edge_mnist.cli import options
from edge_mnist.cli.verify import show_parity
from edge_mnist.system.errors import UsageError

_LOG = logging.getLogger(__name__)


@click.command(context_settings=options.accept_former_names({"calibration": "method", "bundle": "zip"}))
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--int8", is_flag=True, help="Write the int8 artifacts too, quantized after training.")
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="Write this format: torchscript, onnx, tflite, or with --int8 c or wasm; may be repeated.  "
    "[default: all but c and wasm]",
)
@click.option(
    "--network",
    help="Export the network of a factory, package.module:factory, in a module of the current folder or of an "
    "installed package; CHECKPOINT is then the file of its state_dict.",
)
@options.add_input_options
@click.option(
    "--method",
    type=click.Choice(["mse", "minmax"]),
    default="mse",
    show_default=True,
    help="Choose the scales of activations by the least squared error, or by their range.",
)
@click.option(
    "--weight-range",
    type=click.IntRange(8, 127),
    default=64,
    show_default=True,
    help="Give int8 weights no larger absolute value than this.",
)
@click.option("--recalibrate", is_flag=True, help="Take the activation statistics from --data, not the checkpoint.")
@options.inputs_to_test
@options.images
@options.max_drop
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("artifacts"),
    show_default=True,
    help="Write the artifacts into this folder.",
)
@click.option(
    "--zip",
    "zip_file",
    type=click.Path(path_type=Path),
    metavar="FILE.zip",
    help="Write a single zip instead of a folder: the int8 TFLite, golden vectors, and a script that needs no "
    "edge-mnist.",
)
@click.option("--no-verify", is_flag=True, help="Write the artifacts without verifying them.")
@click.option("--force", is_flag=True, help="Write into a folder that holds other files too; they stay.")
def export(
    checkpoint: Path | None,
    int8: bool,
    formats: tuple[str, ...],
    out: Path,
    zip_file: Path | None,
    no_verify: bool,
    force: bool,
    images: int | None,
    max_drop: float | None,
    **others: Any,
) -> None:
    """Write a network as TorchScript, ONNX, TFLite, C, WebAssembly.

    CHECKPOINT is what `train` wrote. Without it, the shipped network is written; --network names a network of your own.
    TorchScript, ONNX and TFLite are written unless --format says otherwise. BatchNorm is folded into the convolutions;
    with --int8 the network is quantized after training. Then all artifacts are verified to be the same model.
    """
    from edge_mnist import pipeline
    from edge_mnist.bundle.reference import GOLDEN_IMAGES
    from edge_mnist.formats.table import choose_formats

    if zip_file is not None:
        choose_formats(formats)
        if set(formats) - {"tflite"}:
            raise UsageError(f"--zip {zip_file}: holds TFLite only: leave out --format")
        context = click.get_current_context()
        for name in ("out", "force", "no_verify", "images", "max_drop"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                what = "is written instead of a folder" if name in ("out", "force") else "is not verified"
                raise UsageError(f"--zip {zip_file}: {what}: leave out --{name.replace('_', '-')}")
        pipeline.export_zip(checkpoint, zip_file, **others)
        size = f"{zip_file.stat().st_size:,}"
        _LOG.warning("%s: %s bytes: model, %s golden images, classify.py", zip_file, size, GOLDEN_IMAGES)
        return
    result = pipeline.export_model(
        checkpoint,
        out,
        int8=int8,
        formats=formats,
        verify=not no_verify,
        force=force,
        images=images,
        max_drop=max_drop,
        **others,
    )
    if result.parity is not None:
        show_parity(result.parity)
