"""The page beside a WebAssembly module, in a real browser and from the disk."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist.bundle.reference import Reference, make_reference
from edge_mnist.export.wasm.page import write_page
from edge_mnist.export.wasm.writer import write_wasm
from edge_mnist.graph import calibration
from edge_mnist.graph.folding import fold
from edge_mnist.graph.quantization import quantize_graph
from tests.support.c_programs import require_compiler
from tests.support.networks import make_graphs_of_every_operation, random_checkpoint, random_images

cv2 = pytest.importorskip("cv2")
from tests.demo.test_browser import draw, find_element, read_console, read_text  # noqa: E402
from tests.support.demos import browser, browser_missing, draw_doubtful_number, draw_number, draw_numbers, wait  # noqa: E402

pytestmark = pytest.mark.slow

DROP = """
const bytes = Uint8Array.from(atob(arguments[1]), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], arguments[0]));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""
"""Drops a file on the page: its name and its content in base64."""

FILM = """
const picture = new Image();
picture.src = `data:image/png;base64,${arguments[0]}`;
const canvas = document.createElement("canvas");
picture.onload = () => {
  Object.assign(canvas, { width: picture.width, height: picture.height });
  setInterval(() => canvas.getContext("2d").drawImage(picture, 0, 0), 50);
};
navigator.mediaDevices.getUserMedia = async () => canvas.captureStream(20);
"""
"""Gives the page a camera that films a picture, in base64."""


@pytest.fixture(scope="module", params=[(800, 1000), (390, 800)], ids=["desk", "phone"])
def chromium(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require_compiler("wasm")
    if reason := browser_missing():
        pytest.skip(reason)
    width, height = request.param
    with browser(tmp_path_factory.mktemp("browser"), width, height, phone=width < 500) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(reference: Reference) -> bytes:
    """The page of the shipped network."""
    assert reference.quantized_graph is not None
    return write_page(reference, write_wasm(reference.quantized_graph))


def open_page(driver: Any, page: bytes, folder: Path) -> list[str]:
    """Open a page from the disk, and return what it says of its modules."""
    path = folder / "model_int8.html"
    path.write_bytes(page)
    driver.get(path.as_uri())
    wait(lambda: driver.execute_script("return document.body.dataset.ready") or read_text(driver, "trouble"), 120)
    width, inner = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner, "the page is wider than the screen"
    return [row.text for row in find_element(driver, "checks").find_elements("tag name", "tr")]


def encode(picture: np.ndarray) -> str:
    return b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode()


def test_a_visitor_draws_drops_a_picture_and_sees_the_proof(chromium: Any, page: bytes, tmp_path: Path) -> None:
    checks = open_page(chromium, page, tmp_path)
    assert [check.partition(" ✓ ")[0] for check in checks] == [
        *("with SIMD128", "without SIMD", "finder with SIMD128", "finder without SIMD"),
    ]
    assert all(" ✓ 64 of 64 the same " in check for check in checks[:2])
    assert all(" ✓ 4 of 4 the same " in check for check in checks[2:])
    assert all(check.endswith(("µs", "ms")) for check in checks)
    about = find_element(chromium, "about")
    assert [len(hash.text) for hash in about.find_elements("tag name", "code")] == [12, 12]
    hashes = chromium.execute_script(
        "return [...document.querySelectorAll('#hashes dd')].map((hash) => hash.textContent)"
    )
    assert len(hashes) == 4 and hashes[1] == find_element(chromium, "checks").find_element(
        "class name", "pass"
    ).get_attribute("data-hash")
    assert not re.search("[0-9a-f]{13}", chromium.find_element("tag name", "main").text)  # they are folded
    choose, camera = (chromium.find_element("css selector", name).rect for name in (".button", "#camera"))
    assert camera["x"] - choose["x"] - choose["width"] >= 8 or camera["y"] - choose["y"] - choose["height"] >= 8
    assert find_element(chromium, "hint").is_displayed()
    draw(chromium)
    wait(lambda: read_text(chromium, "digit") == "7")
    assert not find_element(chromium, "hint").is_displayed()
    assert "7" in find_element(chromium, "bars").find_element("class name", "best").text
    find_element(chromium, "clear").click()
    assert read_text(chromium, "digit") == "" and find_element(chromium, "hint").is_displayed()

    chromium.execute_script(DROP, "photo.png", encode(draw_number("7385")))
    wait(lambda: read_text(chromium, "number") == "7385")
    assert len(find_element(chromium, "crops").find_elements("tag name", "figure")) == 4
    filling = cv2.resize(draw_number("4")[190:274, 60:144], (400, 400), interpolation=cv2.INTER_CUBIC)
    chromium.execute_script(DROP, "photo.png", encode(filling))
    wait(lambda: read_text(chromium, "number") == "4")
    lines = draw_number("385")
    lines[300:384] = draw_number("91", 4)[190:274]
    chromium.execute_script(DROP, "photo.png", encode(lines))
    wait(lambda: read_text(chromium, "number") == "385\n91")
    chromium.execute_script(DROP, "photo.png", encode(draw_numbers("38", "59")))
    wait(lambda: read_text(chromium, "number") == "38 59")
    chromium.execute_script(DROP, "photo.png", encode(draw_doubtful_number()))
    wait(lambda: "?" in read_text(chromium, "number"))
    assert "? (" in read_text(chromium, "crops")
    light_on_dark = 255 - draw_number("71")
    chromium.execute_script(DROP, "photo.png", encode(light_on_dark))
    wait(lambda: read_text(chromium, "number") == "71")
    chromium.execute_script(DROP, "blank.png", encode(np.full((300, 400, 3), 200, np.uint8)))
    wait(lambda: read_text(chromium, "number") == "no number")
    chromium.execute_script(DROP, "note.txt", b64encode(b"no picture").decode())
    wait(lambda: read_text(chromium, "trouble") == "note.txt: is not a picture that this browser can read")
    (tmp_path / "chosen.png").write_bytes(cv2.imencode(".png", draw_number("38"))[1].tobytes())
    find_element(chromium, "file").send_keys(str(tmp_path / "chosen.png"))
    wait(lambda: read_text(chromium, "number") == "38" and not read_text(chromium, "trouble"))
    assert read_console(chromium) == []  # neither an error nor a request, which the page's policy would refuse


def test_the_camera_is_read_until_it_is_stopped(chromium: Any, page: bytes, tmp_path: Path) -> None:
    open_page(chromium, page, tmp_path)
    chromium.execute_script("navigator.mediaDevices.getUserMedia = async () => { throw new Error('no device'); }")
    find_element(chromium, "camera").click()
    wait(lambda: read_text(chromium, "trouble") == "The camera cannot be used: no device.")
    chromium.execute_script(FILM, encode(draw_number("59")))
    find_element(chromium, "camera").click()
    wait(lambda: read_text(chromium, "number") == "59")
    find_element(chromium, "camera").click()
    assert not find_element(chromium, "video").is_displayed()
    assert read_text(chromium, "camera") == "Use the camera"


def test_a_network_that_differs_from_its_export_is_shown(chromium: Any, page: bytes, tmp_path: Path) -> None:
    before, key, after = page.partition(b'"outputs_sha256": "')
    checks = open_page(chromium, before + key + b"0" * 64 + after[64:], tmp_path)
    assert len(checks) == 4 and all("✗ they differ" in check for check in checks[:2])
    before, key, after = page.partition(b'"module": "')
    open_page(chromium, before + key + b"AAAA" + after[4:], tmp_path)
    assert read_text(chromium, "trouble").startswith("The page cannot run here: ")


def test_other_networks_have_no_pad(chromium: Any, tmp_path: Path) -> None:
    checkpoint = next(found for found in map(random_checkpoint, range(1000, 1100)) if found.input_shape[0] == 3)
    graph = fold(checkpoint)
    quantized, layers = quantize_graph(graph, calibration.collect(graph, random_images(checkpoint, 24, 1)))
    reference = make_reference(graph, quantized, layers, None)
    checks = open_page(chromium, write_page(reference, write_wasm(quantized)), tmp_path)
    assert len(checks) == 2 and all(" ✓ 64 of 64 the same " in check for check in checks)
    assert not find_element(chromium, "drawing").is_displayed()
    chromium.execute_script(DROP, "photo.png", encode(draw_number("402")))
    wait(lambda: read_text(chromium, "number").startswith("class "))
    assert "%" in find_element(chromium, "classes").text
    shown = find_element(chromium, "picture").size
    assert 192 <= max(shown.values()) <= 256  # however small the input is

    real, quantized = make_graphs_of_every_operation()  # features in, maps out
    reference = make_reference(real, quantized, (), None)
    checks = open_page(chromium, write_page(reference, write_wasm(quantized)), tmp_path)
    assert len(checks) == 2 and all(" ✓ 64 of 64 the same " in check for check in checks)
    assert (
        not find_element(chromium, "drawing").is_displayed() and not find_element(chromium, "pictures").is_displayed()
    )
