"""The command line: each mistake is one line that helps, and nothing is lost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner

from edge_mnist.cli import commands as cli
from edge_mnist.data import strokes
from edge_mnist.graph import calibration
from edge_mnist.graph.checkpoint import load
from edge_mnist.graph.folding import fold
from edge_mnist.graph.tensor_file import encode_tensors, read_tensors
from edge_mnist.pretrained import SHIPPED
from tests.support.digits import idx, put_digits

Call = Callable[..., tuple[int, str, str]]

NETWORKS = '''
import torch
from torch import nn


def good():
    """Padding, stride, dilation and groups; average pooling; two Linear layers; names of its own."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, groups=4, dilation=2), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(12, 12, 3), nn.Flatten(), nn.Linear(108, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10),
    )


def grouped():
    return nn.Sequential(nn.Conv2d(1, 4, 5), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))


def soft():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmax(1), nn.Linear(10, 10))


def shaped():
    network = good()
    network.input_shape = "28x28"
    return network


def nan():
    network = good()
    nn.init.constant_(network[0].weight, float("nan"))
    return network


def fails():
    raise RuntimeError("out of luck\\nand more")


def number():
    return 42


def sized(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))


def ends():
    import sys

    sys.exit(3)


def meta():
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(1, 8, 5))


def hooked():
    network = good()
    network.register_forward_hook(lambda module, inputs, output: output + 0.1)
    return network


class Noisy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def __call__(self, x):
        return super().__call__(x) * torch.rand(1)


def patched():
    network = good()
    usual = network[3].forward
    network[3].forward = lambda x: usual(x) * 1.01
    return network
'''


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and damaged things."""
    here = tmp_path_factory.mktemp("world")
    (here / "networks_of_a_user.py").write_text(NETWORKS)
    (here / "broken_of_a_user.py").write_text("def factory(:\n")
    (here / "lacking_of_a_user.py").write_text("import nothing\n")
    parser = "from argparse import ArgumentParser\nparser = ArgumentParser()\nparser.add_argument({!r}{})\n"
    (here / "script_of_a_user.py").write_text(parser.format("--data", ", required=True") + "parser.parse_args()\n")
    make = "parser.parse_args()\ndef make(): assert parser.parse_args().data is None\n"
    (here / "arguments_of_a_user.py").write_text(parser.format("--data", "") + make)

    images, labels = idx(strokes.draw(256, seed=4).images), idx(strokes.draw(256, seed=4).labels.astype(np.uint8))
    put_digits(here / "digits")
    put_digits(here / "cut", images=images[:9000])
    put_digits(here / "swapped", images=labels, labels=images)
    put_digits(here / "foreign", images=b"\x89PNG and more")
    put_digits(here / "black", images=idx(np.zeros((256, 28, 28), np.uint8)))

    tensors, header = read_tensors(SHIPPED)
    conv3, whole = tensors["weights/conv3.weight"], SHIPPED.read_bytes()
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("weights/")}
    black = calibration.collect(fold(load(SHIPPED)), np.zeros((8, 28, 28), np.uint8))

    def put(name: str, changes: dict[str, Any], **headers: Any) -> None:
        (here / name).write_bytes(encode_tensors({**tensors, **changes}, {**header, **headers}))

    put("shape.safetensors", {"weights/conv3.weight": conv3[:, :13]})
    put("nan.safetensors", {"weights/conv3.weight": conv3 * np.float32("nan")})
    put("huge.safetensors", {"weights/conv3.weight": np.full_like(conv3, 3e38)})
    put("means.safetensors", {"statistics/conv3.input_mean": tensors["statistics/conv3.input_mean"] * np.nan})
    put("empty.safetensors", {"statistics/conv3.histogram": np.zeros(calibration.BINS, np.int64)})
    put("accuracies.safetensors", {}, metadata={"accuracies": [1]})
    put("black.safetensors", {f"statistics/{name}": array for name, array in black.items()})
    (here / "bare.safetensors").write_bytes(encode_tensors(weights, header))
    (here / "cut.safetensors").write_bytes(whole[:100_000])
    (here / "text.safetensors").write_text("not a checkpoint\n" * 20)
    (here / "foreign.safetensors").write_bytes(safetensors.numpy.save({"conv1.weight": conv3}))
    torch.save({"conv3.weight": torch.from_numpy(conv3)}, here / "pickle.pt")
    torch.save({"conv3.weight": torch.zeros(1)}, here / "old.pth", _use_new_zipfile_serialization=False)
    (here / "loop").symlink_to("pool")
    (here / "pool").symlink_to("loop")
    return here


MISTAKES: dict[str, tuple[str, int, str]] = {
    # what: the command, its exit status, a part of what it says
    "no such recipe": ("train --recipe slow", 2, "--recipe slow: unknown, expected one of adam-onecycle"),
    "no such format": ("export --format coreml", 2, "--format coreml: expected one of torchscript, onnx, tflite, c"),
    "formats in one option": ("export --format c,onnx", 2, "tflite, c, wasm: name each with a --format of its own"),
    "nothing to resume": ("train --resume --out nothing", 2, "no run to resume here"),
    "train into other files": ("train --data digits --out .", 2, "holds other files"),
    "no such data": ("verify bundle --data nothing", 2, "nothing: no such folder"),
    "empty data": ("export --data full", 1, "full: no t10k-images-idx3-ubyte"),
    "cut data": ("export --data cut", 1, "cut short: 9,000 bytes, expected 200,720"),
    "cut data to verify": ("verify bundle --data cut", 1, "cut short: 9,000 bytes, expected 200,720"),
    "cut data to train": ("train --data cut --out nothing", 1, "cut short: 9,000 bytes, expected 200,720"),
    "cut data to calibrate": ("export --int8 --recalibrate --no-verify --data cut", 1, "cut short: 9,000 bytes"),
    "swapped data": ("export --data swapped", 1, "holds labels, expected images: are the files"),
    "foreign data": ("export --data foreign", 1, "begins with 89 50 4e 47, expected 00 00 08 03"),
    "no such checkpoint": ("export nothing", 2, "nothing: there is no such file"),
    "a folder as checkpoint": ("export full", 2, "full: is a folder, expected a file"),
    "another shape": ("export shape.safetensors", 1, "conv3.weight has shape (16, 13, 3, 3), expected (16, 14, 3, 3)"),
    "cut checkpoint": ("export cut.safetensors", 1, "is not a safetensors file, or cut short"),
    "text as checkpoint": ("export text.safetensors", 1, "is not a safetensors file, or cut short"),
    "an artifact as checkpoint": ("export bundle/model_int8.tflite", 1, "seems to be an artifact in TFLite, expected"),
    "a picture in no folder": (
        "evaluate --confusion text.safetensors/a.png",
        2,
        "--confusion text.safetensors: cannot",
    ),
    "a zip that is verified": ("export --zip new.zip --images 5", 2, "new.zip: is not verified: leave out --images"),
    "a zip and a folder": ("export --zip new.zip --out new", 2, "is written instead of a folder: leave out --out"),
    "a state_dict as checkpoint": (
        "export pickle.pt",
        1,
        "pickle.pt: is a file of torch.save, which holds weights with",
    ),
    "an old state_dict as checkpoint": ("export old.pth", 1, "old.pth: is a file of torch.save, which holds weights"),
    "a state_dict as artifact": ("info pickle.pt", 1, "name the factory of its network, edge-mnist export FILE --netw"),
    "a state_dict to evaluate": ("evaluate pickle.pt", 1, "pickle.pt: is a file of torch.save, which holds weights"),
    "a text as zip": (
        "export --zip text.safetensors",
        2,
        "text.safetensors: is not a zip, and is not",
    ),
    "foreign checkpoint": (
        "export foreign.safetensors",
        1,
        "if it holds weights, name the factory of its network, edge-mnist export FILE --network package.module:factory",
    ),
    "weights that are NaN": ("export nan.safetensors", 1, "conv3.weight holds 2016 values that are NaN or infinite"),
    "weights that overflow": ("export huge.safetensors", 1, "logits that are not finite"),
    "means that are NaN": (
        "export --int8 means.safetensors",
        1,
        "statistics/conv3.input_mean holds values that are no",
    ),
    "an empty histogram": ("export --int8 empty.safetensors", 1, "conv3: a histogram of 0 values"),
    "foreign accuracies": ("export accuracies.safetensors", 1, "accuracies are [1], expected numbers from 0 to 1"),
    "black statistics": ("export --int8 black.safetensors", 1, "every pixel of the calibration images is 0"),
    "black images": ("export --int8 --recalibrate --no-verify --data black", 1, "every pixel of the calibration"),
    "other files": ("export --out full", 2, "full: holds notes.txt, which no export wrote: choose another --out, or"),
    "a user's model": ("export --force --out mine", 2, "mine: holds model_float.onnx, which no export wrote and this"),
    "a file as folder": ("export --out cut.safetensors", 2, "cut.safetensors: is a file, expected a folder"),
    "a file on the way": (
        "export --no-verify --out cut.safetensors/x",
        2,
        "cut.safetensors: is a file, expected a folder",
    ),
    "a long name": (f"export --out {'x' * 300}", 2, "File name too long"),
    "a loop of links": ("export --no-verify --out loop", 2, "loop: Too many levels of symbolic links: choose another"),
    "a loop of links to train": ("train --data digits --out loop", 2, "cannot be written: File exists"),
    "a line's end in a name": ("export 'a\nb'", 2, "a\\nb: there is no such file"),
    "no such bundle": ("verify nothing", 2, "nothing: there is no such folder"),
    "no bundle": ("verify full", 1, "full: there is no manifest.json"),
    "an open quotation": ("verify bundle --run-with '\"qemu'", 2, "No closing quotation"),
    "a runner that runs nothing": ("verify bundle --images 1 --run-with true", 1, "--run-with expects a command that"),
    "no such runner": ("verify bundle --images 1 --run-with nothing", 1, "nothing cannot be started"),
    "nothing to tell of": ("info nothing", 2, "nothing: there is no such file or folder"),
    "no factory": ("export --network networks_of_a_user", 2, "expected package.module:factory"),
    "no such module": ("export --network nothing:good", 2, "nothing cannot be imported: ModuleNotFoundError"),
    "a module elsewhere": ("export --network no.thing:good", 2, "where this runs, or of an installed package"),
    "a module that lacks another": (
        "export --network lacking_of_a_user:good",
        2,
        "ModuleNotFoundError: No module named 'nothing' (lacking_of_a_user.py, line 1)",
    ),
    "a factory with arguments": (
        "export --network networks_of_a_user:sized",
        2,
        "'classes': a factory is called without arguments: name one that calls sized with them",
    ),
    "a broken module": ("export --network broken_of_a_user:x", 2, "cannot be imported: SyntaxError"),
    "a file as module": ("export --network networks_of_a_user.py:good", 2, "not of its file: networks_of_a_user:good"),
    "no factory but a module": ("export --network networks_of_a_user:nn", 2, "found nn of type module"),
    "no such factory": ("export --network networks_of_a_user:better", 2, "has no factory named better"),
    "a factory that fails": (
        "export --network networks_of_a_user:fails",
        2,
        "the factory failed: RuntimeError: out of luck (networks_of_a_user.py, line 37)",
    ),
    "a factory that ends the program": (
        "export --network networks_of_a_user:ends",
        2,
        "the factory failed: it ends the program with sys.exit(3): put what only a script needs under if __name__",
    ),
    "a module with a command line": (
        "export --network script_of_a_user:make",
        2,
        "script_of_a_user cannot be imported: it ends the program with sys.exit(2), after '",
    ),
    "a module that reads the command line": ("export --network arguments_of_a_user:make --int8", 2, "found NoneType"),
    "weights without values": (
        "export --network networks_of_a_user:meta",
        2,
        "0.weight is on the device meta, which holds no values: make the network on the CPU",
    ),
    "weights without values to train": ("train --data digits --network networks_of_a_user:meta", 2, "the device meta"),
    "a hook": ("export --network networks_of_a_user:hooked", 1, "Sequential: it has hooks, which would be lost"),
    "random numbers": ("export --network networks_of_a_user:Noisy", 1, "mul: it depends on the number of images"),
    "random numbers to train": ("train --data digits --network networks_of_a_user:Noisy", 1, "mul: it depends on"),
    "a layer's forward of its own": ("export --network networks_of_a_user:patched", 1, "3: gives values that differ"),
    "no network": ("export --network networks_of_a_user:number", 2, "expected a torch.nn.Module, found int"),
    "a layer that is not supported": (
        "export --network networks_of_a_user:grouped",
        1,
        "layer 1: GroupNorm is not supported: use BatchNorm, which is folded into the weights",
    ),
    "a softmax within": (
        "export --network networks_of_a_user:soft",
        1,
        "3: it takes the output of a softmax, which can",
    ),
    "no shape": ("export --network networks_of_a_user:shaped", 1, "input shape '28x28': expected sizes of at least 1"),
    "a factory's NaN": ("export --network networks_of_a_user:nan", 1, "0.weight holds 200 values that are NaN"),
    "another's weights": ("export --network networks_of_a_user:good foreign.safetensors", 1, "are missing"),
}


@pytest.fixture(scope="module")
def here(world: Path, bundle_folder: Path) -> Path:
    """The world with a bundle in it, and with folders of a user's."""
    (world / "bundle").symlink_to(bundle_folder)
    (world / "artifacts").mkdir()
    (world / "artifacts" / "manifest.json").write_text("the old bundle")
    (world / "full").mkdir()
    (world / "full" / "notes.txt").write_text("mine")
    (world / "mine").mkdir()
    (world / "mine" / "model_float.onnx").write_text("mine")
    return world


def contents(folder: Path) -> dict[Path, bytes | None]:
    """All that a folder holds."""
    found = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    return {path: data for path, data in found.items() if "__pycache__" not in path.parts}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_changes_nothing(
    mistake: str, here: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, status, part = MISTAKES[mistake]
    monkeypatch.chdir(here)
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    before = contents(here)
    found, output, errors = call(*shlex.split(command))
    *notes, line = errors.splitlines()
    assert (found, output) == (status, "")
    assert line.startswith("edge-mnist: ") and part in line
    assert all(note.startswith("note: ") for note in notes)
    assert contents(here) == before


def test_the_environment_names_the_data_as_well(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_MNIST_DATA", str(here / "cut"))
    for command in (["export", "--out", here / "out"], ["verify", here / "bundle"], ["train", "--out", here / "out"]):
        status, _, errors = call(*command)
        assert status == 1 and "cut short: 9,000 bytes" in errors
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nothing"],
        ["export", "--weight-range", "3"],
        ["verify"],
        ["nothing"],
        *(["export", "--mean", number] for number in ("1e999999999", "1e-999999999/3", "nan", "1/0")),
    ],
)
def test_a_wrong_call_has_status_2(arguments: list[str], call: Call) -> None:
    status, output, errors = call(*arguments)
    assert (status, output) == (2, "") and "Error: " in errors


@pytest.mark.parametrize("options", [["bare.safetensors"], ["black.safetensors", "--recalibrate"]])
def test_statistics_are_collected_anew(options: list[str], here: Path, tmp_path: Path, call: Call) -> None:
    arguments = [here / options[0], *options[1:], "--int8", "--format", "tflite", "--no-verify", "--out", tmp_path]
    status, output, errors = call("export", *arguments, "--data", here / "digits")
    assert (status, output) == (0, "") and errors.startswith("note: ") and len(errors.splitlines()) == 1
    assert (tmp_path / "model_int8.tflite").exists()


def test_a_users_chain_passes_its_own_verification(
    here: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    arguments = ["--network", "networks_of_a_user:good", "--int8", "--data", "digits", "--out", tmp_path]
    status, output, _ = call("export", *arguments)
    assert status == 0 and "PASSED" in output
    parity = json.loads((tmp_path / "parity.json").read_text())
    assert [variant["status"] for variant in parity["variants"]] == ["passed"] * 6
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["checkpoint"] == {"network": "networks_of_a_user:good"}


def test_force_leaves_what_is_not_of_a_bundle(tmp_path: Path, call: Call) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("mine too")
    for kind, others in (("onnx", "tflite"), ("tflite", "onnx")):
        status, output, errors = call("export", "--format", kind, "--no-verify", "--out", tmp_path, "--force")
        gone = f"{tmp_path}: the bundle that was here also held model_float.{others};" if kind == "tflite" else ""
        assert (status, output, errors[: len(gone)], bool(errors)) == (0, "", gone, bool(gone))
        assert (tmp_path / f"model_float.{kind}").exists() and not (tmp_path / f"model_float.{others}").exists()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "photos", "manifest.json", "reference.safetensors", "model_float.tflite"}
    assert (tmp_path / "photos" / "1.jpg").read_text() == "mine too"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, call: Call) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for _ in range(2):
        assert call("export", "--format", "onnx", "--no-verify", "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk" / "model_float.onnx").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]


def test_no_command_is_cut_short_in_the_list() -> None:
    text = CliRunner().invoke(cli.commands, ["--help"], terminal_width=80).output
    commands = text.partition("Commands:")[2].strip().splitlines()
    assert len(commands) == len(cli.commands.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in commands), commands
