"""The table of exit statuses: each mistake in each command that can meet it."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mnist.cli import commands as cli
from edge_mnist.data import strokes
from edge_mnist.pretrained import SHIPPED, SHIPPED_INT8
from edge_mnist.system.files import lock
from tests.support.digits import idx, put_digits
from tests.support.without_torch import skip_without_torch

DEMO = "demo --view none --max-frames 1"
DATA = ("train", "experiments", "evaluate", "export", "verify bundle", "bench bundle")
ARRAYS = ("export --calibrate", "export --data", "verify bundle --data", "evaluate --data", "bench bundle --data")
LONG = "x" * 300

COMMANDS: dict[str, tuple[str, ...]] = {
    # the mistake, as in docs/exit-statuses.md: command lines that make it
    "an option that does not exist": tuple(f"{name} --nothing" for name in cli.commands.commands),
    "`--verbose` with `--quiet`": tuple(f"{name} -v -q" for name in cli.commands.commands),
    "a number outside its range": (
        "train --epochs 0", "experiments --seeds 0", "export --weight-range 3", "verify bundle --images 0",
        "bench --seconds 0", "predict page.png --threshold 2", "demo --threshold 2",
        "bench --seconds nan", "verify bundle --max-drop nan", "predict page.png --threshold nan", "demo --fps inf",
    ),
    "a name that is not one of those listed": (
        "train --recipe slow", "train --device tpu", "experiments --device tpu", "evaluate --part nothing",
        "export --format coreml", "export --method nothing", "predict page.png --rotate 45", "demo --view nothing",
    ),
    "a file of options with an unknown key or a wrong value": (
        "demo --config unknown.toml", "demo --config wrong.toml",
    ),
    "a file or folder to read that does not exist": (
        "train --data digits --init nothing", "train --data digits --teacher nothing", "train --user-digits nothing",
        "train --resume --out nothing", "evaluate nothing", "evaluate nothing.safetensors", "export nothing",
        "export --calibrate nothing", "export --calibrate nothing.npz", "export --int8 --calibrate nothing",
        "verify nothing", "bench nothing", "predict nothing", "predict page.png --model nothing",
        f"{DEMO} --camera nothing", f"{DEMO} --camera sample --model nothing", "demo --config nothing", "info nothing",
    ),
    "a folder of data that does not exist": tuple(f"{command} --data nothing" for command in DATA),
    "a module or a factory that does not exist, as `--network`": (
        "train --data digits --network nothing:good", "export --network nothing:good",
        "train --data digits --network torch.nn:nothing", "export --network torch.nn:nothing",
    ),
    "a folder where a file is expected": (
        "train --data digits --init digits", "evaluate digits", "export digits", "export --zip digits",
        "predict page.png --model digits", f"{DEMO} --camera sample --model digits", "demo --config digits",
    ),
    "a file where a folder is expected": (
        *(f"{command} --data text" for command in DATA), "train --user-digits text", "train --data digits --out text",
        "export --calibrate text",
        "train --data digits --out text/run", "experiments --data digits --runs text", "export --out text",
        "export --out text/out", "export --zip text/out.zip", "verify text", "bench text",
        "predict page.png --annotate text", "predict page.png --save-digits text",
        f"{DEMO} --camera sample --record text/film.mp4",
        f"{DEMO} --camera sample --snapshot-dir text", f"{DEMO} --camera sample --corrections text",
    ),
    "a path that is too long": (
        f"train --data {LONG}", f"train --data digits --init {LONG}", f"evaluate {LONG}", f"export --out {LONG}",
        f"export {LONG}", f"verify {LONG}", f"bench {LONG}", f"predict {LONG}", f"predict page.png --model {LONG}",
        f"{DEMO} --camera {LONG}", f"demo --config {LONG}", f"info {LONG}",
    ),
    "a place for results that holds other files": (
        "train --data digits --out full", "experiments --data digits --runs full", "export --out full",
    ),
    "a place for results that another process writes to": (
        "train --data digits --out taken", "export --out taken", "export --zip taken", "verify taken",
    ),
    "a folder that holds nothing of what is expected": (
        *(f"{command} --data full" for command in DATA), "train --user-digits full", "verify full", "bench full",
        "export --int8 --calibrate full",
        "predict full", f"{DEMO} --camera full", "info full",
    ),
    "a file of another kind": (
        "train --data digits --init text", "evaluate text", "evaluate text.safetensors", "export text", "predict text",
        "predict page.png --model text", f"{DEMO} --camera text.png", f"{DEMO} --camera sample --model text",
        "demo --config text",
        "info text", *(f"{command} text.npz" for command in ARRAYS),
    ),
    "a file that is empty": (
        "train --data digits --init empty", "evaluate empty", "evaluate empty.safetensors", "export empty",
        "predict empty", "predict page.png --model empty", f"{DEMO} --camera empty.png",
        f"{DEMO} --camera sample --model empty", "info empty", *(f"{command} empty.npz" for command in ARRAYS),
    ),
    "a file that is cut short": (
        *(f"{command} --data cut" for command in ("train", "evaluate", "export", "verify bundle", "bench bundle")),
        "train --data digits --init cut.safetensors", "evaluate cut.safetensors", "export cut.safetensors",
        "predict cut.png", f"{DEMO} --camera cut.png", "info cut.safetensors", "info cut.tflite",
        *(f"{command} cut.npz" for command in ARRAYS), "export --int8 --calibrate cut.npy",
    ),
    "an export that lacks a file": ("verify lacking", "bench lacking", "bench artless"),
    "a network that cannot be exported": (
        "train --data digits --network torch.nn:Softmax", "export --network torch.nn:Softmax",
    ),
}  # fmt: skip


def documented() -> dict[str, tuple[int, list[str]]]:
    """The rows of the table: of each mistake the status, and the commands."""
    page = (Path(__file__).parents[2] / "docs" / "exit-statuses.md").read_text()
    rows = re.findall(r"^\| (.+) \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    return {mistake: (int(status), commands.split(", ")) for mistake, status, commands in rows}


@pytest.fixture(scope="module")
def here(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good and bad things."""
    here = tmp_path_factory.mktemp("statuses")
    put_digits(here / "digits")
    put_digits(here / "cut", images=idx(strokes.draw(256, seed=4).images)[:9000])
    (here / "full").mkdir()
    (here / "full" / "notes.txt").write_text("mine")
    np.savez(here / "cut.npz", images=np.zeros((50, 28, 28), np.uint8))
    np.save(here / "cut.npy", np.zeros((50, 28, 28), np.uint8))
    for path in (here / "cut.npz", here / "cut.npy"):
        path.write_bytes(path.read_bytes()[:9000])
    for name in ("text", "text.safetensors", "text.png", "text.npz"):
        (here / name).write_text("only words\n" * 20)
    for name in ("empty", "empty.safetensors", "empty.png", "empty.npz"):
        (here / name).write_bytes(b"")
    (here / "unknown.toml").write_text("prot = 8090\n")
    (here / "wrong.toml").write_text('port = "8090"\n')
    (here / "cut.safetensors").write_bytes(SHIPPED.read_bytes()[:100_000])
    (here / "cut.tflite").write_bytes(SHIPPED_INT8.read_bytes()[:10_000])
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imencode(".png", np.full((64, 64, 3), 255, np.uint8))[1].tobytes()
    (here / "page.png").write_bytes(picture)
    (here / "cut.png").write_bytes(picture[: len(picture) // 2])
    shutil.copytree(bundle_folder, here / "bundle")
    shutil.copytree(bundle_folder, here / "lacking")
    (here / "lacking" / "reference.safetensors").unlink()
    shutil.copytree(bundle_folder, here / "artless")
    (here / "artless" / "model_int8.tflite").unlink()
    return here


def test_the_table_names_every_mistake_and_command() -> None:
    made = {mistake: list(dict.fromkeys(line.split()[0] for line in lines)) for mistake, lines in COMMANDS.items()}
    assert {mistake: sorted(commands) for mistake, (_, commands) in documented().items()} == {
        mistake: sorted(commands) for mistake, commands in made.items()
    }


@pytest.mark.parametrize(
    ("mistake", "command"),
    [(mistake, command) for mistake, commands in COMMANDS.items() for command in commands],
    ids=lambda text: text.replace(LONG, "LONG"),
)
def test_a_mistake_has_its_status_in_every_command(
    mistake: str, command: str, here: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_torch(command)
    monkeypatch.chdir(here)
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    expected, _ = documented()[mistake]
    with lock(here / "taken"):
        status, output, errors = call(*shlex.split(command))
    assert status == expected, errors
    assert errors.splitlines()[-1].startswith(("edge-mnist: ", "Error: ")) or output
    assert "Traceback" not in errors
