"""Networks and data of users: what is found, what is assumed and noted, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_mnist
from edge_mnist import exportable, pipeline
from edge_mnist.data import strokes, user_inputs
from edge_mnist.graph.folding import fold
from edge_mnist.measure.memory_worker import open_model
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.digits import put_digits

torch = pytest.importorskip("torch")
nn = torch.nn
RNG = np.random.default_rng(5)
STD = torch.tensor([0.25, 0.5, 1])[:, None, None]
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)


def make_rgb_network(classes: int = 3) -> Any:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, classes),
    ).eval()


def make_vector_network() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 20))


def images(count: int = 120) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images (N, 16, 18, 3) of many brightnesses."""
    brightness = np.linspace(0, 1, count)[:, None, None, None]
    return (RNG.integers(0, 256, (count, 16, 18, 3)) * brightness).astype(np.uint8)


def make_pictures(folder: Path, count: int = 12) -> Path:
    """A folder of class folders of pictures of one size."""
    image = pytest.importorskip("PIL.Image")
    for number, values in enumerate(images(count)):
        path = folder / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values).save(path)
    return folder


def notes(caplog: pytest.LogCaptureFixture) -> str:
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    caplog.clear()
    assert all(note.startswith("note: ") and "\n" not in note for note in found)
    return "\n".join(found)


def test_pictures_give_the_shape_the_scales_and_the_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make_pictures(tmp_path / "pictures")
    network = make_rgb_network()
    chosen: dict[str, Any] = {"formats": ["tflite"], "max_drop": 100, **IMAGENET}
    result = edge_mnist.export_model(network, tmp_path / "out", calibration=folder, data=folder, **chosen)
    assert result.parity is not None and result.parity.passed and result.parity.dataset == "pictures"
    said = notes(caplog)
    assert "note: pictures: calibrated with 12 inputs only: 100 or more" in said
    assert "note: calibrated on pictures: " in said and "saturate" in said and "pixel / 255" not in said

    values = np.stack([np.asarray(pytest.importorskip("PIL.Image").open(p)) for p in sorted(folder.rglob("*.png"))])
    pixels = values.transpose(0, 3, 1, 2)
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        expected = network((torch.from_numpy(pixels.astype(np.float32)) / 255 - mean) / std).numpy()
    artifact = edge_mnist.load(tmp_path / "out" / "model_float.tflite")
    assert artifact.contract.input_shape == (3, 16, 18)
    np.testing.assert_allclose(artifact.logits(pixels), expected, atol=1e-4)
    labels = np.repeat(np.arange(3), 4)
    assert result.parity.float_accuracy == (expected.argmax(1) == labels).mean()
    again = edge_mnist.verify(tmp_path / "out", data=folder, max_drop=100)
    assert again.passed and again.float_accuracy == result.parity.float_accuracy


def test_pictures_are_resized_as_for_the_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, out = make_pictures(tmp_path / "pictures"), tmp_path / "out"
    seen: list[Any] = []
    usual = user_inputs.pictures.read_pictures

    def read(*arguments: Any, resize: Any, **others: Any) -> Any:
        seen.append(resize)
        return usual(*arguments, resize=resize, **others)

    monkeypatch.setattr(user_inputs.pictures, "read_pictures", read)
    # What is done with the pictures is of no interest here, and takes long.
    monkeypatch.setattr(pipeline, "_verify", lambda *_: None)
    monkeypatch.setattr("edge_mnist.measure.bench.measure_artifacts", lambda *_, **__: {})
    monkeypatch.setattr("edge_mnist.doctor.examine_machine", list)
    chosen: dict[str, Any] = {"formats": ["tflite"], "calibration": pictures, "input_shape": (3, 8, 8)}
    for exported, recorded in (((20, 14), {"resize": [20, 14]}), (14, {"resize": 14}), (None, None)):
        edge_mnist.export_model(make_rgb_network(), out, resize=exported, verify=False, **chosen)
        assert json.loads((out / "manifest.json").read_text()).get("pictures") == recorded
        seen.clear()
        caplog.clear()
        for call in (
            lambda resize: edge_mnist.verify(out, data=pictures, resize=resize),
            lambda resize: edge_mnist.evaluate(out / "model_int8.tflite", data=pictures, resize=resize),
            lambda resize: edge_mnist.benchmark(out, data=pictures, resize=resize),
        ):
            call(None)
            said = notes(caplog)
            assert (f"pictures are resized to {exported}, as for the export" in said) == (exported is not None)
            call(exported)
            assert "resized" not in notes(caplog)
            call(9)
            said = notes(caplog)
            assert (f"resized to 9, although the export resized them to {exported}" in said) == (exported is not None)
        assert seen == [exported, exported, 9] * 3
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "pictures": {"resize": "large"}}))
    with pytest.raises(edge_mnist.EdgeMnistError, match="manifest.json: not a manifest of edge-mnist, or damaged"):
        edge_mnist.verify(out)


def test_images_of_any_layout_are_one_network(tmp_path: Path) -> None:
    values = images()
    np.save(tmp_path / "last.npy", values)
    np.savez(tmp_path / "first.npz", calibration=values.transpose(0, 3, 1, 2), labels=np.zeros(120, int))
    hashes = set()
    for calibration in (values, tmp_path / "last.npy", str(tmp_path / "first.npz")):
        chosen: dict[str, Any] = {"formats": ["onnx"], "verify": False, "scale": 1}
        result = edge_mnist.export_model(make_rgb_network(), tmp_path / "out", calibration=calibration, **chosen)
        hashes.add(tuple(artifact.sha256 for artifact in result.artifacts))
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("arguments", "function"),
    [
        ({}, lambda pixels: pixels / 255),
        ({"scale": 1.0}, lambda pixels: pixels),
        ({"scale": 1.0, "mean": 128, "std": 64}, lambda pixels: (pixels - 128) / 64),
        ({"mean": 0.2, "std": [0.25, 0.5, 1]}, lambda pixels: (pixels / 255 - 0.2) / STD),
    ],
)  # fmt: skip
def test_artifacts_take_pixels_whatever_the_network_takes(
    arguments: dict[str, Any], function: Callable[[Any], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = make_rgb_network()
    chosen: dict[str, Any] = {"formats": ["tflite"], "verify": False, "int8": False, "input_shape": (3, 16, 18)}
    edge_mnist.export_model(network, tmp_path / "out", **chosen, **arguments)
    assert ("expect pixel / 255: say otherwise with --mean, --std and --scale" in notes(caplog)) == (not arguments)
    pixels = images(20).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(function(torch.from_numpy(pixels.astype(np.float32)))).numpy()
    found = edge_mnist.load(tmp_path / "out" / "model_float.tflite").logits(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def read_calibration(folder: Path) -> dict[str, Any]:
    """What a manifest says of how the network was calibrated."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["calibration"]
    return found


def test_the_inputs_of_the_calibration_are_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, 10))
    chosen: dict[str, Any] = {"formats": ["tflite"], "verify": False, "force": True}
    edge_mnist.export_model(network, tmp_path / "out", **chosen)
    assert "note: calibrated on drawn digits, because MNIST's images are not here: name some" in notes(caplog)
    assert read_calibration(tmp_path / "out") == {"method": "mse", "weights": 64, "inputs": "strokes", "count": 4096}

    values = RNG.integers(0, 256, (150, 1, 28, 28), np.uint8)
    edge_mnist.export_model(network, tmp_path / "out", calibration=values, **chosen)
    assert "drawn" not in notes(caplog)
    said = {"method": "mse", "weights": 64, "inputs": "calibration", "count": 150}
    assert read_calibration(tmp_path / "out") == said

    edge_mnist.export_model(None, tmp_path / "out", **chosen)
    assert read_calibration(tmp_path / "out") == {"method": "mse", "weights": 64}


def test_features_are_taken_as_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = RNG.normal(2, 3, (200, 20)).astype(np.float32)
    network = make_vector_network()
    result = edge_mnist.export_model(network, tmp_path / "out", formats=["tflite", "onnx"], calibration=values)
    assert result.parity is not None and result.parity.passed and result.parity.dataset == "noise"
    assert "pixel" not in notes(caplog)
    np.save(tmp_path / "test.npy", values)
    report = edge_mnist.verify(tmp_path / "out", data=tmp_path / "test.npy", images=50)
    assert report.passed and report.dataset == "test.npy" and report.images == 50
    with torch.no_grad():
        expected = network(torch.from_numpy(values)).numpy()
    artifact = edge_mnist.load(tmp_path / "out" / "model_float.tflite")
    np.testing.assert_allclose(artifact.outputs(values), expected, atol=1e-4)
    for kind in ("tflite", "onnx"):  # what `bench` runs
        found: Any = open_model(str(tmp_path / "out" / f"model_float.{kind}"))(values[:1])
        np.testing.assert_allclose(np.asarray(found).reshape(1, 20), expected[:1], atol=1e-4)


def test_images_of_mnists_size_are_taken_for_mnists_unless_said_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    chosen: dict[str, Any] = {"formats": ["tflite"], "verify": False}
    edge_mnist.export_model(network, tmp_path / "a", **chosen)
    assert "expect images of (1, 28, 28), (pixel / 255 - 0.1307) / 0.3081, as for MNIST: say oth" in notes(caplog)
    edge_mnist.export_model(network, tmp_path / "b", mean=0.1307, std=0.3081, **chosen)
    assert "expect images" not in notes(caplog)
    contents = [(tmp_path / name / "model_int8.tflite").read_bytes() for name in "ab"]
    assert contents[0] == contents[1]


def test_the_shipped_network_is_proved_on_pictures_of_digits(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    digits = strokes.draw(60, seed=8)
    for number, (values, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        path = tmp_path / "digits" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(values).resize((56, 56), image.Resampling.NEAREST).save(path)
    result = edge_mnist.export_model(out=tmp_path / "out", data=tmp_path / "digits", formats=["tflite"], max_drop=5)
    assert result.parity is not None and result.parity.passed and result.parity.images == 60
    assert result.parity.float_accuracy is not None and result.parity.float_accuracy > 0.9
    evaluated = edge_mnist.evaluate(data=tmp_path / "digits")
    assert evaluated.data == "digits" and evaluated.accuracy == result.parity.int8_accuracy
    plain = edge_mnist.export_model(out=tmp_path / "plain", formats=["tflite"], verify=False)
    assert [artifact.sha256 for artifact in plain.artifacts] == [artifact.sha256 for artifact in result.artifacts]


def test_a_large_network_is_calibrated_and_compared_on_fewer_inputs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exportable.limit_inputs(fold(exportable.load_network()), 10_000) == 10_000
    np.save(tmp_path / "test.npy", images(40))
    work = 6 * 27 * 72 + 6 * 72 + 18  # products of one input: convolution, means, last layer
    monkeypatch.setattr(exportable, "_MOST_WORK", 30 * work)
    chosen: dict[str, Any] = {"formats": ["tflite"], "calibration": images(), "data": tmp_path / "test.npy"}
    result = edge_mnist.export_model(make_rgb_network(), tmp_path / "out", **chosen)
    assert result.parity is not None and result.parity.images == 30
    said = notes(caplog)
    assert "calibrated with 30 inputs only" in said and "at most 30 inputs are compared: name more with --imag" in said
    report = edge_mnist.verify(tmp_path / "out", data=tmp_path / "test.npy", images=35)
    assert report.images == 35 and notes(caplog) == ""


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "no calibration data": (
        make_rgb_network,
        {"input_shape": (3, 16, 18)},
        r"takes images of \(3, 16, 18\) that are not MNIST's: give some of them to calibrate with: --calibrate",
    ),
    "data of the user's own, and none to calibrate with": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
        {"data": "grey.npz"},
        "that are not MNIST's: give some of them to calibrate with",
    ),
    "no shape": (
        make_rgb_network,
        {},
        r"\(its input was taken as \(1, 28, 28\), as MNIST's: name another with --input-shape\)$",
    ),
    "a shape that does not fit the network": (make_rgb_network, {"input_shape": (1, 16, 18)}, "input-shape says: name"),
    "a shape of which the linear layer takes another": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 16, 3)),
        {"input_shape": (3, 16, 19)},
        r"its input was taken as \(3, 16, 19\), as --input-shape says: name another with --input-shape\)$",
    ),
    "inputs of another kind": (
        make_rgb_network,
        {"calibration": np.zeros((9, 20), np.float32)},
        r"\(its input was taken as \(20,\), as the inputs of calibration are: name another with --input-shape\)$",
    ),
    "a shape that is none": (make_rgb_network, {"input_shape": (1, 2, 3, 4)}, r"input shape \[1, 2, 3, 4\]: expected"),
    "images of another size": (
        make_rgb_network,
        {"input_shape": (3, 20, 20), "calibration": images()},
        r"calibration: holds uint8 of shape \(120, 16, 18, 3\), but the network takes \(N, 3, 20, 20\)",
    ),
    "test images of another size": (
        make_rgb_network,
        {"calibration": images(), "data": "grey.npz"},
        r"grey.npz: holds uint8 of shape \(5, 28, 28\), but the network takes \(N, 3, 16, 18\)",
    ),
    "one colour": (
        make_rgb_network,
        {"calibration": np.full((9, 16, 18, 3), 7, np.uint8)},
        "calibration: every value is 7: calibrate with inputs that differ",
    ),
    "pixels as floating point": (
        make_rgb_network,
        {"calibration": images() / np.float32(255)},
        "holds float32 from 0 to [\\d.]+: expected pixels as uint8",
    ),
    "features that are not finite": (
        make_vector_network,
        {"calibration": np.full((9, 20), np.inf, np.float32)},
        "calibration: holds 180 values that are NaN or infinite",
    ),
    "features of another number": (
        make_vector_network,
        {"input_shape": (20,), "calibration": np.zeros((9, 21), np.float32)},
        r"holds float32 of shape \(9, 21\), but the network takes \(N, 20\)",
    ),
    "a mean of features": (
        make_vector_network,
        {"input_shape": (20,), "mean": 0.5},
        "mean, std and scale: are for pixels, but the network takes features",
    ),
    "means of other channels": (
        make_rgb_network,
        {"calibration": images(), "mean": (0.5, 0.5)},
        "mean: 2 numbers for an input of 3 channels: expected 1 or 3",
    ),
    "MNIST for another network": (
        make_rgb_network,
        {"input_shape": (3, 16, 18), "calibration": "digits"},
        r"digits: holds MNIST's images, 28x28 in grey, but the network takes \(3, 16, 18\)",
    ),
    "an empty folder": (make_rgb_network, {"input_shape": (3, 16, 18), "calibration": "empty"}, "holds no pictures"),
    "a missing folder": (make_rgb_network, {"input_shape": (3, 16, 18), "calibration": "gone"}, "expected a folder of"),
    "pictures of many sizes": (make_rgb_network, {"calibration": "sizes"}, "name the network's --input-shape, or one"),
    "a bad picture": (
        make_rgb_network,
        {"input_shape": (3, 8, 8), "calibration": "sizes"},
        r"z\.png: is not a picture that can be read: .*; --skip-bad skips such pictures",
    ),
    "pictures for a network of features": (
        make_vector_network,
        {"calibration": "sizes", "input_shape": (20,)},
        r"holds pictures, but the network takes features of shape \(20,\)",
    ),
    "a checkpoint and a mean": (lambda: None, {"mean": 0.5}, "mean, std and scale: a checkpoint states its own"),
    "a checkpoint of features": (lambda: None, {"features": True}, "features: a checkpoint states its own"),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data."""
    image = pytest.importorskip("PIL.Image")
    world = tmp_path_factory.mktemp("world")
    np.savez(world / "grey.npz", images=np.zeros((5, 28, 28), np.uint8), labels=np.arange(5))
    put_digits(world / "digits")
    (world / "empty").mkdir()
    (world / "sizes").mkdir()
    for side in (8, 9):
        image.new("RGB", (side, side)).save(world / "sizes" / f"{side}.png")
    (world / "sizes" / "z.png").write_text("words")
    return world


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_one_line_and_leaves_nothing(
    case: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    make, arguments, message = REFUSED[case]
    with pytest.raises(edge_mnist.EdgeMnistError, match=message) as error:
        edge_mnist.export_model(make(), tmp_path / "out", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_the_command_takes_what_python_takes(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network_of_a_stranger.py").write_text(
        "import torch\n\ndef make():\n    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(),"
        " torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))\n"
    )
    torch.manual_seed(2)
    monkeypatch.syspath_prepend(str(tmp_path))
    network = __import__("network_of_a_stranger").make()
    torch.save({"state_dict": network.state_dict()}, "weights.pth")
    make_pictures(tmp_path / "pictures")
    (tmp_path / "pictures" / "class0" / "bad.jpg").write_text("words")
    status, output, errors = call(
        *"export weights.pth --network network_of_a_stranger:make --int8 --calibrate pictures --skip-bad".split(),
        *"--data pictures --input-shape 3x12x14 --resize 14 --mean 0.485,0.456,0.406 --std 0.229".split(),
        *"--scale 1/255 --format onnx --max-drop 100 --images 9".split(),
    )
    assert status == 0 and "PASSED" in output, errors
    assert errors.count("note: skipped 1 of") == 2 and "bad.jpg" in errors
    first = (tmp_path / "artifacts" / "model_int8.onnx").read_bytes()
    edge_mnist.export_model(
        network, "artifacts", formats=["onnx"], calibration="pictures", skip_bad=True, input_shape=(3, 12, 14),
        resize=14, mean=IMAGENET["mean"], std=0.229, verify=False,
    )  # fmt: skip
    assert json.loads((tmp_path / "artifacts" / "manifest.json").read_text())["files"]["model_int8.onnx"]["bytes"]
    assert (tmp_path / "artifacts" / "model_int8.onnx").read_bytes() == first
    verified = call("verify", "artifacts", "--data", "pictures", "--resize", "14,16", "--skip-bad", "--max-drop", "100")
    assert verified[0] == 0 and "PASSED" in verified[1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--input-shape 3,0,5", "expected 1 or 2 or 3 sizes, such as 3,224,224; found 3,0,5"),
        ("--input-shape 1,2,3,4", "expected 1 or 2 or 3 sizes"),
        ("--resize big", "expected 1 or 2 sizes, such as 224,224; found big"),
        ("--mean a,b", "expected numbers, such as 0.485,0.456,0.406; found a,b"),
        ("--scale 1/0", "expected numbers"),
    ],
)
def test_options_that_cannot_be_read_are_wrong_calls(
    option: str, message: str, call: Callable[..., tuple[int, str, str]]
) -> None:
    status, output, errors = call("export", "--network", "a:b", *option.split())
    assert (status, output) == (2, "") and message in " ".join(errors.split())


class Raising(nn.Module):
    """A network whose attribute of a name fails."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.failing = name

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.layer(values)

    @property
    def input_shape(self) -> tuple[int, ...]:
        if self.failing == "input_shape":
            raise RuntimeError("not known yet")
        return (4,)

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        if self.failing == "state_dict":
            raise RuntimeError("not known yet")
        return super().state_dict(*arguments, **options)


@pytest.mark.parametrize("name", ["input_shape", "state_dict"])
def test_what_a_module_raises_is_reported_with_its_name(name: str, tmp_path: Path) -> None:
    expected = f"^Raising: its {name} cannot be used: RuntimeError: not known yet"
    with pytest.raises(EdgeMnistError, match=expected):
        edge_mnist.export_model(Raising(name), out=tmp_path / "out", int8=False, formats=["onnx"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"formats": [5]}, "--format 5: expected one of "),
        ({"network": 5}, "network 5: expected a text, package.module:factory"),
        ({"images": True}, "images True: expected a whole number"),
        ({"model": "a\0b"}, r"^'a\\x00b': cannot be the name of a file"),
    ],
)
def test_arguments_of_other_types_are_refused(options: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=expected):
        edge_mnist.export_model(**options, out=tmp_path / "out")
    with pytest.raises(UsageError, match="--run-with 5: "):
        edge_mnist.verify(tmp_path, run_with=5)  # type: ignore[arg-type]
