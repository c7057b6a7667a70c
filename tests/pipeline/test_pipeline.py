"""The functions of the Python API: what a stranger's five lines come to, and what a wrong call raises."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_mnist
from edge_mnist.data import mnist, strokes
from edge_mnist.pretrained import SHIPPED, SHIPPED_INT8
from tests.support.digits import put_digits

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)


def make_network(height: int = 28) -> Any:
    """A small network of a user's own, with BatchNorm whose statistics are not those of its first moment."""
    torch.manual_seed(0)
    side = (height - 4) // 2
    network = (
        nn.Sequential(
            nn.Conv2d(1, 4, 5, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * (side + 1) ** 2, 10)
        )
        if height % 2
        else nn.Sequential(
            nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * side**2, 10)
        )
    )
    network(torch.randn(32, 1, height, height))
    return network


def test_a_strangers_five_lines_export_and_verify_the_shipped_network(tmp_path: Path) -> None:
    result = edge_mnist.export_model(out=tmp_path / "artifacts", images=50)
    assert result.parity is not None and result.parity.passed
    classifier = edge_mnist.load(next(a.path for a in result.artifacts if (a.format, a.precision) == ("onnx", "int8")))
    digits = strokes.draw(100, seed=1)
    assert (classifier.predict(digits.images) == digits.labels).mean() > 0.9

    assert len(result.artifacts) == 6 and (result.replaced, result.removed) == ((), ())
    for artifact in result.artifacts:
        data = artifact.path.read_bytes()
        assert (artifact.bytes, artifact.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert result.parity.page == tmp_path / "artifacts" / "report.html" and result.parity.page.is_file()
    assert edge_mnist.describe(result.folder)["kind"] == "bundle"


def test_a_strangers_five_lines_export_and_verify_a_network_of_their_own(tmp_path: Path) -> None:
    network = make_network().train()
    result = edge_mnist.export_model(network, tmp_path / "out", formats=["onnx", "tflite"], images=50)
    assert result.parity is not None and result.parity.passed and len(result.parity.variants) == 4
    assert edge_mnist.verify(tmp_path / "out", images=20).passed

    assert network.training  # it is as it was
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["checkpoint"] == {"module": "torch.nn.modules.container.Sequential"}
    images = strokes.draw(20, seed=4).images
    with torch.no_grad():
        inputs = (torch.from_numpy(images[:, None].astype(np.float32)) / 255 - 0.1307) / 0.3081
        expected = network.eval()(inputs).numpy()
    np.testing.assert_allclose(edge_mnist.load(tmp_path / "out/model_float.tflite").logits(images), expected, atol=1e-4)


def test_a_network_that_quantization_ruined_fails_on_few_images_too(tmp_path: Path) -> None:
    digits = strokes.draw(500, seed=3)
    chosen: dict[str, Any] = {"data": tmp_path / "digits.npz", "formats": ["tflite"], "images": 500}
    np.savez(tmp_path / "digits.npz", images=digits.images, labels=digits.labels)
    dark = np.random.default_rng(0).integers(0, 64, (128, 28, 28), np.uint8)  # its range clips what digits give
    ruined = edge_mnist.export_model(out=tmp_path / "out", calibration=dark, method="minmax", **chosen).parity
    assert ruined is not None and not ruined.passed and ruined.max_drop == 0.8
    assert ruined.accuracy_drop is not None and ruined.accuracy_drop > 5
    assert all(variant.status == "passed" for variant in ruined.variants)  # its files are equal all the same
    named = edge_mnist.verify(tmp_path / "out", data=tmp_path / "digits.npz", images=500, max_drop=20)
    assert named.passed and named.max_drop == 20


def test_a_network_of_another_shape_is_calibrated_with_the_users_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 13, 13), np.uint8)
    chosen: dict[str, Any] = {"formats": ["tflite"], "input_shape": (1, 13, 13), "images": 20}
    with pytest.raises(edge_mnist.EdgeMnistError, match="calibration=images"):
        edge_mnist.export_model(make_network(13), tmp_path / "out", **chosen)
    with pytest.raises(edge_mnist.UsageError, match="holds float64 from 0 to 1: expected pixels as uint8, 0 to 255"):
        edge_mnist.export_model(make_network(13), tmp_path / "out", calibration=images / 255, **chosen)
    assert not (tmp_path / "out").exists()
    result = edge_mnist.export_model(make_network(13), tmp_path / "out", calibration=images, **chosen)
    assert result.parity is not None and result.parity.passed and result.parity.dataset == "noise"


def test_calibration_images_are_used_even_if_the_checkpoint_has_statistics(tmp_path: Path) -> None:
    def export(name: str, **chosen: Any) -> bytes:
        out = tmp_path / name
        result = edge_mnist.export_model(SHIPPED, out, formats=["tflite"], verify=False, **chosen)
        assert result.parity is None
        return (out / "model_int8.tflite").read_bytes()

    data = put_digits(tmp_path / "digits")
    with_images = export("images", calibration=mnist.load("train", data).images)
    assert with_images == export("folder", calibration=str(data)) == export("data", data=data, recalibrate=True)
    assert with_images != export("shipped") == export("unused", data=data)


def test_a_module_goes_through_the_checks_of_a_factory(tmp_path: Path) -> None:
    hooked = make_network()
    hooked.register_forward_hook(lambda module, inputs, output: output + 0.1)
    patched = make_network()
    usual = patched[3].forward
    patched[3].forward = lambda x: usual(x) * 1.01
    with torch.device("meta"):
        empty = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    cases = [
        (hooked, "has hooks, which would be lost"),
        (patched, "layer 3: gives values that differ"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.Softmin(1)), "layer 2: Softmin is not supported"),
        (empty, "model: 1.weight is on the device meta"),
        (42, "model: expected a torch.nn.Module, found int"),
    ]
    for module, message in cases:
        with pytest.raises(edge_mnist.EdgeMnistError, match=message):
            edge_mnist.export_model(module, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_says_what_it_replaced(tmp_path: Path) -> None:
    for formats in (["tflite", "onnx"], ["tflite"]):
        result = edge_mnist.export_model(out=tmp_path, formats=formats, int8=False, verify=False)
    assert (result.replaced, result.removed) == (("model_float.tflite",), ("model_float.onnx",))


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "a weight range": ("export_model", {"weight_range": 128}, "weight_range 128: expected 8 to 127"),
    "a method": ("export_model", {"method": "median"}, "method median: expected mse or minmax"),
    "a count": ("export_model", {"images": 0}, "images 0: expected a whole number of at least 1"),
    "a text as count": ("export_model", {"images": "5"}, "images 5: expected a whole number of at least 1"),
    "a drop": ("export_model", {"max_drop": float("nan")}, "max_drop nan: expected 0 to 100"),
    "seconds": ("benchmark", {"seconds": -1}, "seconds -1: expected 0.01 to 3600"),
    "a part": ("evaluate", {"part": "train"}, "part 'train': expected test or validation"),
    "a format": ("export_model", {"formats": ["coreml"]}, "coreml: expected one of"),
    "a checkpoint and a shape": ("export_model", {"input_shape": (1, 9, 9)}, "a checkpoint states its own"),
    "a runtime": ("verify", {"folder": ".", "runtime": "tensorrt"}, "expected tflite-micro"),
    "a command": ("verify", {"folder": ".", "run_with": '"qemu'}, "No closing quotation"),
    "a folder": ("verify", {"folder": "nothing"}, "there is no such folder"),
    "a file": ("describe", {"file": "nothing"}, "there is no such file"),
    "a recipe": ("train", {"recipe": "slow"}, "slow: unknown"),
    "a number of a recipe": ("train", {"recipe": "quick", "changes": {"stretch": 3}}, "expected NAME=VALUE"),
    "an angle": ("read_pictures", {"rotate": 45}, "rotate 45: expected 0, 90, 180 or 270"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_argument_is_a_usage_error_and_leaves_nothing(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function, arguments, message = WRONG[case]
    with pytest.raises(edge_mnist.UsageError, match=message):
        getattr(edge_mnist, function)(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_takes_paths_and_opened_artifacts(tmp_path: Path) -> None:
    data = put_digits(tmp_path / "data")
    shipped = edge_mnist.evaluate(data=str(data))
    opened = edge_mnist.evaluate(edge_mnist.load(SHIPPED_INT8), data=data)
    assert shipped.accuracy == opened.accuracy > 0.9 and shipped.corruptions is None
    assert json.loads(shipped.to_json()).keys() == json.loads(opened.to_json()).keys()
    assert edge_mnist.evaluate(SHIPPED, data=data, part="validation").model == SHIPPED.name


def test_train_returns_a_checkpoint_and_handles_no_signal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    data = put_digits(tmp_path / "data")
    path = edge_mnist.train("quick", tmp_path / "run", data=data, epochs=1, workers=1, device="cpu")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert path == tmp_path / "run" / "checkpoint.safetensors"
    assert edge_mnist.describe(path)["recorded"]["epochs"] == 1
    assert capfd.readouterr() == ("", "")


def test_a_picture_that_cannot_be_read_does_not_end_the_others(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    page = Path(__file__).parents[2] / "docs" / "misread.jpg"
    found = list(edge_mnist.read_pictures(tmp_path / "none.jpg", page, annotate=tmp_path / "boxes"))
    assert [result.error is None for result in found] == [False, True] and found[0].count == 2
    assert found[1].reading is not None and found[1].to_dict()["lines"] == list(found[1].reading.lines)
    with pytest.raises(edge_mnist.UsageError, match="none.jpg"):
        found[0].to_dict()
    assert (tmp_path / "boxes" / "misread.png").is_file()


def test_benchmark_returns_what_the_command_prints(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edge_mnist.export_model(out=tmp_path, formats="tflite", verify=False)
    facts = edge_mnist.benchmark(tmp_path, seconds=0.01)
    assert [row["file"] for row in facts["artifacts"]] == ["model_float.tflite", "model_int8.tflite"]
    assert facts["machine"] and facts["machine_after"] and capfd.readouterr() == ("", "")
