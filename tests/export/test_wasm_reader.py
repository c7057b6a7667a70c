"""How the page reads: reader.js beside the reader in Python, on the same maps, boxes and digits."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from base64 import b64decode
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_mnist import runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.data import canvases, finder_map
from edge_mnist.export.wasm.finder import read_settings, write_finder
from edge_mnist.export.wasm.writer import write_wasm
from edge_mnist.pretrained import SHIPPED_FINDER

pytest.importorskip("cv2")
from edge_mnist.demo.reading import confidence, digit_images, finder, layout, reader
from tests.support.c_programs import require_compiler
from tests.support.demos import draw_number

if not shutil.which("node"):
    pytest.skip("needs node", allow_module_level=True)

CUT = 2.0
"""How much the pixels, 0 to 255, of a digit that the page cuts out may differ from the reader's, in the mean."""


def run_script(script: str, folder: Path, **values: Any) -> Any:
    """Run a script with the page's modules in Node.js.

    It may use the values, `reader`, `openNetworks`, and `toBytes` with the name of a file in the folder.
    """
    package = files("edge_mnist.export.wasm")
    text = "\n".join((package / name).read_text("utf-8") for name in ("network.js", "reader.js"))
    names = ", ".join(values)
    program = f"""{text}
const fs = require("fs");
const toBytes = (name) => new Uint8Array(fs.readFileSync(name));
const {{ settings, {names} }} = JSON.parse(fs.readFileSync("values.json"));
const reader = makeReader(settings);
(async () => {{ {script} }})().then((result) => console.log(JSON.stringify(result)));
"""
    (folder / "values.json").write_text(json.dumps({"settings": read_settings(), **values}))
    (folder / "program.js").write_text(program)
    result = subprocess.run(["node", "program.js"], cwd=folder, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def to_boxes(boxes: NDArray[np.floating[Any]]) -> list[dict[str, float]]:
    return [dict(zip(("left", "top", "right", "bottom"), map(float, box), strict=True)) for box in boxes]


def draw_page(*texts: str) -> NDArray[np.uint8]:
    """Draw numbers below each other: uint8 (H, 640)."""
    return np.concatenate([draw_number(text, 3 + index)[150:310, :, 0] for index, text in enumerate(texts)])


class Recorder:
    """The shipped finder, which keeps what it was given and what it gave."""

    def __init__(self) -> None:
        self.network = runtime.load(SHIPPED_FINDER)
        self.places: list[NDArray[np.uint8]] = []
        self.maps: list[NDArray[np.float32]] = []

    def outputs(self, places: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = np.asarray(self.network.logits(places), np.float32)
        self.places.append(places[0].transpose(1, 2, 0))  # as a module takes it
        self.maps.append(found)
        return found

    def dequantize(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        return outputs


PAGES = {
    "camera": draw_page("402", "91", "7385"),
    "small": draw_number("60")[190:280, 60:220, 0],
    "large": np.kron(draw_page("402", "18"), np.ones((3, 3), np.uint8))[:, :1408],
    "upright": np.ascontiguousarray(np.pad(draw_page("35"), ((300, 300), (0, 0)), constant_values=220)[:, :400]),
    "empty": np.full((300, 400), 200, np.uint8),
}


@pytest.mark.parametrize("name", PAGES)
def test_the_same_maps_give_the_same_boxes(name: str, tmp_path: Path) -> None:
    page, recorder, settings = PAGES[name], Recorder(), reader.ReaderParameters()
    expected = finder.Finder(
        recorder,  # type: ignore[arg-type]
        least=settings.least,
        finest=settings.finest,
        looks=settings.looks,
        step=settings.step,
    ).find(page)
    (tmp_path / "page").write_bytes(page.tobytes())
    (tmp_path / "maps").write_bytes(np.concatenate(recorder.maps).astype(np.float32).tobytes())
    found, places = run_script(
        """
        const grey = new Plane(shape[1], shape[0], Float32Array.from(toBytes("page")));
        const maps = new Float32Array(toBytes("maps").buffer), size = maps.length / count, places = [];
        const found = await reader.findDigits(grey, (values) => {
          places.push(Buffer.from(values).toString("base64"));
          return maps.subarray((places.length - 1) * size, places.length * size);
        });
        return [found.map(({ box, confidence, logits }) =>
          [box.left, box.top, box.right, box.bottom, confidence, ...logits]), places];
        """,
        tmp_path,
        shape=page.shape,
        count=len(recorder.maps),
    )
    assert len(places) == len(recorder.places)
    for text, given in zip(places, recorder.places, strict=True):
        values = np.frombuffer(b64decode(text), np.uint8).astype(int).reshape(given.shape)
        assert abs(values - given).max() <= 1  # OpenCV rounds the means of areas otherwise
    table = np.concatenate([expected.boxes, expected.confidence[:, None], expected.logits], 1)
    assert len(found) == len(table) and (len(found) == 0) == (name == "empty")
    if len(found):
        np.testing.assert_allclose(found, table, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("light", [False, True])
def test_digits_are_cut_out_much_as_the_reader_does(light: bool, tmp_path: Path) -> None:
    page = draw_page("402", "91", "7385")
    page = 255 - page if light else page
    shade = np.linspace(1, 0.6, page.shape[1])
    page = np.rint(page * shade).astype(np.uint8)
    settings = reader.ReaderParameters()
    network = runtime.load(SHIPPED_FINDER)
    options = {"finest": settings.finest, "looks": settings.looks, "step": settings.step}
    boxes = finder.Finder(network, least=0.5, **options).find(page).boxes  # type: ignore[arg-type]
    assert len(boxes) >= 8
    expected = digit_images.cut_digits(page, boxes)
    (tmp_path / "page").write_bytes(page.tobytes())
    found = run_script(
        """
        const grey = new Plane(shape[1], shape[0], Float32Array.from(toBytes("page")));
        return reader.cutDigits(grey, boxes).map(({ image, box }) => [[...image], Object.values(box)]);
        """,
        tmp_path,
        shape=page.shape,
        boxes=to_boxes(boxes),
    )
    # A digit's width, or its centre of mass, may lie between two pixels, and be rounded to either.
    differences = []
    for (image, _), one in zip(found, expected, strict=True):
        square = np.array(image).reshape(one.image.shape)
        moved = [np.roll(square, shift, axis) for axis in (0, 1) for shift in (0, 1, -1)]
        differences.append(min(abs(other - one.image.astype(int)).mean() for other in moved))
    differences.sort()
    assert differences[-2] < CUT and differences[-1] < 4 * CUT, differences
    assert np.array([box for _, box in found]) == pytest.approx(np.array([one.box for one in expected]), abs=2)


def draw_boxes(lines: list[str], seed: int) -> NDArray[np.float64]:
    """Boxes of digits in lines, a space between numbers, disturbed as a finder's are, in any order."""
    random = np.random.default_rng(seed)
    boxes = [
        (30 * place, 70 * row, 30 * place + 22, 70 * row + 40)
        for row, text in enumerate(lines)
        for place, character in enumerate(text)
        if character != " "
    ]
    return random.permutation(np.array(boxes, float) + random.normal(0, 1.2, (len(boxes), 4)))


@pytest.mark.parametrize(
    "lines",
    [["7"], ["402"], ["402", "91"], ["12  345", "6789"], ["1  2  3", "4  5  6"], ["31", "", "4159", "26535 89"]],
)
def test_level_lines_are_those_of_the_layout(lines: list[str], tmp_path: Path) -> None:
    pages = [draw_boxes(lines, seed) for seed in range(5)]
    found = run_script(
        "return pages.map((boxes) => reader.arrange(boxes));", tmp_path, pages=[to_boxes(boxes) for boxes in pages]
    )
    for boxes, page in zip(pages, found, strict=True):
        expected = layout.arrange(boxes)
        assert [tuple(chain.from_iterable(line)) for line in page] == list(expected.lines)
        assert [tuple(number) for line in page for number in line] == list(expected.numbers)
    assert run_script("return reader.arrange([]);", tmp_path) == []


def test_rows_that_do_not_line_up_are_not_joined_across_a_gap(tmp_path: Path) -> None:
    left = [(0, 0, 22, 40), (30, 0, 52, 40)]
    for shift, count in ((5, 1), (16, 2)):
        boxes = np.array([*left, *((x + 200, y + shift, z + 200, w + shift) for x, y, z, w in left)], float)
        found = run_script("return reader.arrange(boxes);", tmp_path, boxes=to_boxes(boxes))
        expected = layout.arrange(boxes)
        assert len(found) == len(expected.lines) == count
        assert [tuple(chain.from_iterable(line)) for line in found] == list(expected.lines)


def test_the_confidence_is_the_readers(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    count = 40
    corner, size = random.uniform(0, 300, (count, 2)), random.uniform(5, 60, (count, 2))
    found = finder.Found(
        np.concatenate([corner, corner + size], 1).astype(np.float32),
        random.uniform(0.15, 1, count).astype(np.float32),
        random.normal(0, 3, (count, 10)).astype(np.float32),
    )
    chances = random.dirichlet(np.full(10, 0.2), count)
    labels = confidence.choose_labels(chances, found)
    expected = confidence.estimate(confidence.measure(found, chances, labels))
    result = run_script(
        """
        const labels = logits.map((values, index) => reader.chooseLabel(chances[index], softmax(values)));
        const found = boxes.map((box, index) => (
          { box, confidence: confidence[index], opinions: softmax(logits[index]) }));
        return [labels, reader.estimate(found, chances, labels)];
        """,
        tmp_path,
        boxes=to_boxes(found.boxes),
        confidence=found.confidence.tolist(),
        logits=found.logits.tolist(),
        chances=chances.tolist(),
    )
    np.testing.assert_allclose(result, [labels, expected], rtol=1e-4)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_read_as_the_reader_reads_it(name: str, reference: Reference, tmp_path: Path) -> None:
    require_compiler("wasm")
    assert reference.quantized_graph is not None
    modules = {"digits": write_wasm(reference.quantized_graph), "finder": write_finder()}
    for key, module in modules.items():
        (tmp_path / key).write_bytes(module)
    page = PAGES[name]
    (tmp_path / "page").write_bytes(page.tobytes())
    script = """
        const [network] = await openNetworks(toBytes("digits")), [finder] = await openNetworks(toBytes("finder"));
        const { output_scale: scale, output_zero_point: zero } = finder.contract;
        const look = (places) => Float32Array.from(finder.run(places), (value) => scale * (value - zero));
        const grey = new Plane(shape[1], shape[0], Float32Array.from(toBytes("page")));
        const readWith = (threshold) => {
          const changed = { ...settings, reader: { ...settings.reader, THRESHOLD: threshold } };
          return makeReader(changed).read(grey, look, (image) => network.classify(image));
        };
        const { text, digits } = await readWith(settings.reader.THRESHOLD);
        const certainties = digits.map(({ certainty }) => certainty).sort((a, b) => a - b);
        const { text: doubtful } = await readWith((certainties[0] + certainties[1]) / 2 || 0.5);
        return [text, certainties, doubtful];
    """
    text, certainties, doubtful = run_script(script, tmp_path, shape=page.shape)
    opened = {key: runtime.load_bytes(module, key) for key, module in modules.items()}
    expected = reader.Reader(opened["digits"], finder=opened["finder"]).read(page)
    assert text.replace(" ", "") == "\n".join(expected.lines)
    assert bool(certainties) == (name != "empty")
    found = sorted(digit.confidence for digit in [*expected.digits, *expected.unsure])
    np.testing.assert_allclose(certainties, found, atol=0.15)
    assert doubtful.count("?") == bool(certainties)


def test_the_settings_are_those_of_the_reader() -> None:
    settings = read_settings()
    parameters = reader.ReaderParameters()
    for name, owner in (("layout", parameters.layout), ("digit_images", parameters.crops), ("reader", parameters)):
        values = dataclasses.asdict(owner)
        numbers = {key: value for key, value in values.items() if not isinstance(value, dict)}
        assert numbers.items() <= settings[name].items()
    for name in ("ALONE", "WEIGHTS"):
        np.testing.assert_array_equal(settings["confidence"][name], getattr(confidence, name))
    assert tuple(settings["confidence"]["FEATURES"]) == confidence.FEATURES
    for module in (canvases, finder, finder_map, reader, digit_images, layout):
        own = settings[module.__name__.rpartition(".")[2]]
        for name in (key for key in own if key.isupper()):
            assert own[name] == getattr(module, name) or tuple(own[name]) == getattr(module, name)
    names = {
        "canvases": ("SMALL", "SHARED", "BETWEEN"),
        "finder": ("OVERLAP", "INSIDE"),
        "finder_map": ("SMALLEST", "FOUND"),
        "layout": ("BAND", "NEIGHBOURS", "REACH"),
    }
    names |= {"reader": ("THRESHOLD", "UNSURE", "DOUBTFUL"), "digit_images": ("SIZE", "FIT")}
    names |= {"confidence": ("_LEAST_CHANCE", "_MOST_ODDS")}
    assert all(name in settings[module] for module, wanted in names.items() for name in wanted)
