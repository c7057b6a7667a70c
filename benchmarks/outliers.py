"""Measures how well a network detects outliers that this project did not draw: printed letters and photographs.

    python benchmarks/outliers.py [MODEL]

prints the AUROC of MNIST's test images against each kind, by the largest softmax probability. It needs MNIST, and
`pip install scikit-image scikit-learn matplotlib pillow` for the photographs and fonts in these packages.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import run_command
from edge_mnist import runtime
from edge_mnist.data import mnist
from edge_mnist.measure import evaluation
from edge_mnist.pretrained import SHIPPED_INT8
from edge_mnist.system.tables import make_console

COUNT = 2000
"""The number of images of each kind."""
LETTERS = sorted(set(string.ascii_letters) - set("OoIlZzSsBbGgqQDijJ")) + list("&%#@?+=*<>")
"""The printed characters, without letters that look like a digit in some handwriting."""


def draw_printed(random: np.random.RandomState) -> NDArray[np.uint8]:
    """Draw letters and signs in matplotlib's fonts, placed as the reader places digits: uint8 (COUNT, 28, 28)."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    fonts = sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("DejaVu*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    images = np.zeros((COUNT, 28, 28), np.uint8)
    for image in images:
        font = ImageFont.truetype(str(fonts[random.randint(len(fonts))]), 64)
        canvas = Image.new("L", (128, 128))
        ImageDraw.Draw(canvas).text((64, 64), LETTERS[random.randint(len(LETTERS))], 255, font, anchor="mm")
        image[:] = fit(canvas.crop(canvas.getbbox()))
    return images


def fit(picture) -> NDArray[np.uint8]:  # type: ignore[no-untyped-def]  # Pillow is imported only where it is needed
    """Scale a picture to 20x20 pixels, and place it in 28x28 with its centre of mass in the middle."""
    scale = 20 / max(picture.size)
    small = picture.resize([max(1, round(side * scale)) for side in picture.size])
    ink = np.asarray(small, float)
    height, width = ink.shape
    top = np.clip(round(14 - (ink.sum(1) @ np.arange(height)) / ink.sum()), 0, 28 - height)
    left = np.clip(round(14 - (ink.sum(0) @ np.arange(width)) / ink.sum()), 0, 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = np.rint(ink * (255 / ink.max()))
    return image


def crop_photographs(pictures: list[NDArray[np.uint8]], random: np.random.RandomState) -> NDArray[np.uint8]:
    """Crop grey pictures and stretch their contrast; half of the crops have a black border as digits do."""
    from PIL import Image

    images = np.zeros((COUNT, 28, 28), np.uint8)
    for image in images:
        while image.max() == 0:
            picture = pictures[random.randint(len(pictures))]
            side = random.randint(20, min(picture.shape) // 2)
            top, left = (random.randint(length - side) for length in picture.shape)
            inner = random.choice([20, 28])
            crop = np.asarray(
                Image.fromarray(picture[top : top + side, left : left + side]).resize((inner, inner)), float
            )
            if np.ptp(crop) > 30:
                margin = (28 - inner) // 2
                levels = (crop - crop.min()) * (255 / np.ptp(crop))
                image[margin : margin + inner, margin : margin + inner] = np.rint(levels)
    return images


def load_skimage_pictures() -> list[NDArray[np.uint8]]:
    """Load pictures of scikit-image that show no text."""
    from skimage import data as pictures

    return [
        convert_to_grey(getattr(pictures, name)())
        for name in ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass")
    ]


def load_sklearn_pictures() -> list[NDArray[np.uint8]]:
    """Load the two photographs of scikit-learn."""
    from sklearn.datasets import load_sample_images

    return [convert_to_grey(picture) for picture in load_sample_images().images]


def convert_to_grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert a picture (H, W) or (H, W, 3) to (H, W)."""
    return picture if picture.ndim == 2 else picture.mean(2).astype(np.uint8)


@click.command()
@click.argument("model", type=click.Path(path_type=Path), default=SHIPPED_INT8)
def main(model: Path) -> None:
    """Print the AUROC of MODEL, by default the shipped network, for each kind of outliers."""
    classifier = runtime.load(model)
    test = mnist.load("test", download=False)
    digits = runtime.softmax(classifier.logits(test.images)).max(1)
    random = np.random.RandomState(0)
    kinds = {
        "printed letters and signs": draw_printed(random),
        "photographs of scikit-image": crop_photographs(load_skimage_pictures(), random),
        "photographs of scikit-learn": crop_photographs(load_sklearn_pictures(), random),
    }
    table = Table("outliers", "AUROC", "as confident as 95 % of the digits", title=str(model.name))
    threshold = np.quantile(digits, 0.05)
    for name, images in kinds.items():
        confidences = runtime.softmax(classifier.logits(images)).max(1)
        table.add_row(name, f"{evaluation.auroc(digits, confidences):.4f}", f"{(confidences >= threshold).mean():.2%}")
    make_console().print(table)


if __name__ == "__main__":
    run_command(main)
