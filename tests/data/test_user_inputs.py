"""Inputs that a user brings: which arrays are taken, what shape a network gets from them, and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mnist.data import user_inputs
from edge_mnist.data.images import load_test_images
from edge_mnist.data.inputs import InputOptions, are_features, arrange_user_inputs, choose_evenly
from edge_mnist.data.user_inputs import UserInputs, open_inputs
from edge_mnist.graph.layers import Shape
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.digits import put_digits

RNG = np.random.default_rng(3)


def pixels(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, shape, np.uint8)


def numbers(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape).astype(np.float32)


SHAPES: dict[str, tuple[Any, int | None, int | None, Shape]] = {
    # the array, the dimensions and the channels of the first layer's input, the shape that is found
    "grey images": (pixels(5, 28, 30), 3, 1, (1, 28, 30)),
    "grey images before a linear layer": (pixels(5, 28, 30), 1, None, (1, 28, 30)),
    "channels first": (pixels(5, 3, 20, 30), 3, 3, (3, 20, 30)),
    "channels last": (pixels(5, 20, 30, 3), 3, 3, (3, 20, 30)),
    "either": (pixels(5, 3, 20, 3), 3, 3, (3, 20, 3)),
    "channels last before a linear layer": (pixels(5, 20, 30, 3), 1, None, (3, 20, 30)),
    "channels first before a linear layer": (pixels(5, 3, 20, 30), 1, None, (3, 20, 30)),
    "features of sound": (numbers(5, 49, 10), 3, 1, (1, 49, 10)),
    "a map of features": (numbers(5, 2, 49, 10), 3, 2, (2, 49, 10)),
    "a sensor": (numbers(5, 6, 128), 2, 6, (6, 128)),
    "a sensor, channels last": (numbers(5, 128, 6), 2, 6, (6, 128)),
    "a sensor of one channel": (numbers(5, 128), 2, 1, (1, 128)),
    "vectors": (numbers(5, 40), 1, None, (40,)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_the_shape_of_a_networks_input_is_found_in_arrays(case: str) -> None:
    values, dimensions, channels, expected = SHAPES[case]
    inputs = UserInputs("x", values)
    shape = inputs.find_shape(InputOptions(), dimensions, channels)
    assert shape == expected
    found, _ = inputs.read(shape, 3, InputOptions(), is_pixels=values.dtype == np.uint8)
    assert found.shape == (3, *expected) and found.dtype == values.dtype
    assert np.array_equal(np.sort(found[1].ravel()), np.sort(values[1].ravel()))


def test_channels_are_moved_and_not_mixed() -> None:
    values = pixels(4, 20, 30, 3)
    assert np.array_equal(
        arrange_user_inputs(values, (3, 20, 30), is_pixels=True, name="x"), values.transpose(0, 3, 1, 2)
    )


def test_inputs_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_evenly(10, 4).tolist() == [0, 2, 5, 7] and choose_evenly(3, 10).tolist() == [0, 1, 2]
    values = pixels(10, 4, 4)
    found, _ = UserInputs("x", values).read((1, 4, 4), 4, InputOptions(), is_pixels=True)
    assert np.array_equal(found[:, 0], values[[0, 2, 5, 7]])
    monkeypatch.setattr(user_inputs, "_MOST_BYTES", 2 * 16 * 4)
    found, _ = UserInputs("x", values.astype(np.float32)).read((1, 4, 4), 9, InputOptions(), is_pixels=False)
    assert len(found) == 2


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (
            pixels(5, 20, 30),
            (1, 28, 28),
            r"x: holds uint8 of shape \(5, 20, 30\), but the network takes \(N, 1, 28",
        ),
        (numbers(5, 1, 28, 28), (1, 28, 28), "x: holds float32 .* expected pixels as uint8, 0 to 255"),
        (numbers(5, 39), (40,), r"but the network takes \(N, 40\): give inputs of that shape, or name another --input"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(values: Any, shape: Shape, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        arrange_user_inputs(values, shape, is_pixels=len(shape) == 3, name="x")


def test_features_that_are_not_finite_are_refused() -> None:
    values = numbers(5, 40)
    values[2, 3], values[1, 1] = np.nan, np.inf
    with pytest.raises(EdgeMnistError, match="x: holds 2 values that are NaN or infinite"):
        arrange_user_inputs(values, (40,), is_pixels=False, name="x")


@pytest.mark.parametrize("values", [pixels(9, 3, 8, 8) / 255, pixels(9, 3, 8, 8).astype(np.float32)])
def test_pixels_as_floating_point_are_not_taken_for_features(values: Any) -> None:
    with pytest.raises(UsageError, match="expected pixels as uint8, 0 to 255; if they are no pixels, say so with"):
        are_features(values, InputOptions(), "x")
    assert are_features(values, InputOptions(features=True), "x")
    assert are_features(numbers(9, 3, 8, 8), InputOptions(), "x")
    assert not are_features(pixels(9, 3, 8, 8), InputOptions(), "x")


FILES: dict[str, tuple[dict[str, Any], str, str | None]] = {
    # the arrays of a .npz; the names of the inputs to calibrate with and to test with
    "one array": ({"spectra": 0}, "spectra", "spectra"),
    "images and labels": ({"images": 0, "labels": 1}, "images", "images"),
    "with calibration": ({"labels": 1, "calibration": 2, "images": 0}, "calibration", "images"),
    "as of Keras": ({"x_test": 0, "x_train": 2, "y_train": 3, "y_test": 1}, "x_train", "x_test"),
    "x and y": ({"X": 0, "Y": 1}, "X", "X"),
    "another name and labels": ({"spectra": 0, "labels": 1}, "spectra", "spectra"),
}


@pytest.mark.parametrize("case", FILES)
def test_the_arrays_of_a_file(case: str, tmp_path: Path) -> None:
    kinds, to_calibrate, to_test = FILES[case]
    contents = [pixels(6, 8, 8), np.arange(6)[:, None], pixels(9, 8, 8), np.arange(9) % 3]
    arrays = {name: contents[kind] for name, kind in kinds.items()}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    calibration, test = open_inputs(tmp_path / "a.npz", "calibration"), open_inputs(str(tmp_path / "a.npz"), "test")
    assert calibration is not None and test is not None and to_test is not None
    assert calibration.values is not None and np.array_equal(calibration.values, arrays[to_calibrate])
    assert test.values is not None and np.array_equal(test.values, arrays[to_test])
    assert calibration.labels is None
    if 1 in kinds.values():
        assert test.labels is not None and test.labels.tolist() == list(range(6)) and test.labels.dtype == np.int64
    else:
        assert test.labels is None


class Malice:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Malice()], dtype=object)
    np.save("a.npy", objects)
    np.savez("b.npz", images=objects)
    Path("c.npy").write_bytes(pickle.dumps(Malice()))
    Path("d.npz").write_bytes(pickle.dumps(Malice()))
    for name in ("a.npy", "b.npz", "c.npy", "d.npz"):
        with pytest.raises(EdgeMnistError, match=rf"^{name}: is not an array file that can be read: [^\n]+$"):
            open_inputs(name, "calibration")
    assert not Path("ran").exists()
    with pytest.raises(EdgeMnistError, match="it holds Python objects, which may run code"):
        open_inputs("a.npy", "calibration")


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "several arrays": ({"a": pixels(5, 8, 8), "b": pixels(5, 8, 8)}, "holds a, b: expected one array of inputs"),
    "no array": ({}, "holds nothing: expected one array"),
    "a number": ({"images": np.uint8(3)}, r"holds an array of shape \(\), expected \(N, ...\)"),
    "no inputs": ({"images": pixels(0, 8, 8)}, r"holds an array of shape \(0, 8, 8\)"),
    "too few labels": ({"images": pixels(5, 8, 8), "labels": np.arange(4)}, "holds 5 inputs, but 4 labels"),
    "labels that are shares": ({"x": pixels(5, 8, 8), "y": np.eye(5)}, r"labels float64 \(5, 5\), expected whole num"),
}


@pytest.mark.parametrize("case", BAD)
def test_files_without_inputs_are_refused(case: str, tmp_path: Path) -> None:
    arrays, message = BAD[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        open_inputs(tmp_path / "a.npz", "test")


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", pixels(50, 8, 8))
    np.savez(tmp_path / "a.npz", images=pixels(50, 8, 8))
    for name in ("a.npy", "a.npz"):
        data = (tmp_path / name).read_bytes()
        for size in (0, 5, 60, 100, len(data) - 30):
            (tmp_path / name).write_bytes(data[:size])
            with pytest.raises(EdgeMnistError, match=rf"{name}: [^\n]+$"):
                open_inputs(tmp_path / name, "calibration")
        (tmp_path / name).unlink()
        with pytest.raises(UsageError, match=rf"{name}: cannot be read: No such file"):
            open_inputs(tmp_path / name, "calibration")


def test_an_array_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_inputs, "_LARGEST_ENTRY", 1000)
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((50, 8, 8), np.uint8))
    with pytest.raises(EdgeMnistError, match="images has 3,328 bytes, more than is read into memory: save it as .npy"):
        open_inputs(tmp_path / "a.npz", "calibration")


def test_class_folders_give_labels(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(["b/1.png", "a/x/2.png", "c/3.jpg", "c/4.jpg"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (9, 9), (60 * number,) * 3).save(tmp_path / name)
    found = load_test_images((3, 9, 9), tmp_path, 10, classes=3)
    assert found.name == tmp_path.name and found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 2] and np.abs(found.pixels[:, 0, 0, 0] - [60, 0, 120, 180.0]).max() <= 1
    calibration = open_inputs(tmp_path, "calibration")
    assert calibration is not None and calibration.labels is None and len(calibration) == 4
    (tmp_path / "a/x/2.png").write_text("words")
    with pytest.raises(EdgeMnistError, match=r"2\.png: is not a picture"):
        load_test_images((3, 9, 9), tmp_path, 10, classes=3)
    found = load_test_images((3, 9, 9), tmp_path, 10, classes=3, options=InputOptions(skip_bad=True))
    assert found.labels is not None and found.labels.tolist() == [1, 2, 2]


def test_labels_of_other_classes_are_left_out_and_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "a.npz", images=pixels(5, 8, 8), labels=np.arange(5))
    for classes in (4, None):
        assert load_test_images((1, 8, 8), tmp_path / "a.npz", 10, classes=classes).labels is None
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "note: a.npz: has labels from 0 to 4, but the network has 4 outputs: no accuracy is measured"
    assert "are left out" in second


def test_digits_are_labels_for_networks_of_ten_classes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_digits(tmp_path / "digits")
    monkeypatch.setenv("EDGE_MNIST_DATA", str(folder))
    shape = (1, 28, 28)
    for classes, source, is_labelled in (
        (10, None, True), (10, folder, True), (5, None, False), (5, folder, False), (26, None, False),
        (11, folder, True), (None, None, False), (None, folder, False),
    ):  # fmt: skip
        found = load_test_images(shape, source, 10, classes=classes)
        assert (found.labels is not None) == is_labelled and len(found.pixels) == 10, (classes, source)


def test_a_source_without_inputs_for_the_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    put_digits(tmp_path / "digits")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("words")
    cases = {
        "digits": "holds MNIST's images, 28x28 in grey, but the network takes",
        "empty": "holds no pictures",
        "text": "expected a folder of pictures, a .npy or a .npz",
        "nothing": "there is no such file or folder",
    }
    for name, message in cases.items():
        with pytest.raises(EdgeMnistError, match=message):
            load_test_images((3, 8, 8), tmp_path / name, 10)


def test_without_a_source_noise_is_drawn_for_other_shapes() -> None:
    images = load_test_images((3, 8, 9), None, 2000)
    assert images.pixels.shape == (1000, 3, 8, 9) and images.pixels.dtype == np.uint8 and images.labels is None
    features = load_test_images((40,), None, 20, features=(-2.0, 3.0))
    assert features.pixels.shape == (20, 40) and features.pixels.dtype == np.float32
    assert -2 <= features.pixels.min() < -1.9 and 2.9 < features.pixels.max() <= 3


NORMALISATIONS: dict[str, tuple[InputOptions, Any, Any]] = {
    "torchvision's": (InputOptions(mean=(0.5, 0.25, 0), std=(0.5, 2, 1)), (0.5, 0.25, 0), (0.5, 2, 1)),
    "an array": (InputOptions(mean=np.array([0.5, 0.25, 0])), (0.5, 0.25, 0), (1,) * 3),  # type: ignore[arg-type]
    "one for all": (InputOptions(mean=0.5, std=0.25), (0.5,) * 3, (0.25,) * 3),
    "equal ones": (InputOptions(mean=(0.5, 0.5, 0.5)), (0.5,) * 3, (1,) * 3),
    "pixels as they are": (InputOptions(scale=1), (0,) * 3, (1 / 255,) * 3),
    "of -1 to 1": (InputOptions(scale=1, mean=127.5, std=127.5), (0.5,) * 3, (0.5,) * 3),
    "of 0 to 16": (InputOptions(scale=1 / 16), (0,) * 3, (16 / 255,) * 3),
}


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_the_normalization_of_a_checkpoint_is_that_of_the_options(case: str) -> None:
    options, expected_mean, expected_std = NORMALISATIONS[case]
    mean, std = options.normalization(3)
    np.testing.assert_allclose(np.broadcast_to(mean, 3), expected_mean, rtol=1e-15)
    np.testing.assert_allclose(np.broadcast_to(std, 3), expected_std, rtol=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"std": 0.0}, r"std 0\.0: expected positive numbers"),
        ({"mean": float("nan")}, "mean nan: expected numbers"),
        ({"mean": ()}, r"mean \(\): expected numbers"),
        ({"mean": "0.5"}, r"mean 0\.5: expected numbers"),
        ({"std": [1, None]}, r"std \[1, None\]: expected positive numbers"),
        ({"scale": -1.0}, r"scale -1\.0: expected a positive number"),
        ({"scale": (1.0, 2.0)}, r"scale \(1\.0, 2\.0\): expected a positive number"),
        ({"resize": 0}, "resize 0: expected one or two sizes"),
        ({"resize": 0.5}, r"resize 0\.5: expected one or two sizes"),
        ({"resize": (1, 2, 3)}, "expected one or two sizes"),
        ({"resize": 100_000}, "up to 8192"),
        ({"features": True, "mean": 0.5}, "mean: is for pixels, but features are taken as they are"),
    ],
)
def test_wrong_options_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        InputOptions(**arguments)
    with pytest.raises(UsageError, match="mean: 2 numbers for an input of 3 channels: expected 1 or 3"):
        InputOptions(mean=(1, 2)).normalization(3)


def test_rows_of_another_size_are_refused_before_they_are_read(tmp_path: Path) -> None:
    header = np.lib.format.open_memmap(tmp_path / "wide.npy", "w+", np.uint8, (3000, 1_000_000))  # a file with holes
    del header
    inputs = open_inputs(tmp_path / "wide.npy", "calibration")
    assert inputs is not None
    tracemalloc.start()
    with pytest.raises(UsageError, match="wide.npy"):
        inputs.read((1, 8, 8), 3000, InputOptions(), is_pixels=True)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(UsageError, match="a.npy: is a device, a pipe or a socket, expected a file or a folder"):
        open_inputs(tmp_path / "a.npy", "test")
    os.mkfifo(tmp_path / "a.png")
    assert open_inputs(tmp_path, "calibration") is None


def test_a_file_of_another_kind_than_its_name_says_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", images=pixels(5, 8, 8))
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.npy")
    with pytest.raises(EdgeMnistError, match=r"arrays.npy: is an archive of arrays, expected one array: name it .npz"):
        open_inputs(tmp_path / "arrays.npy", "test")
    with zipfile.ZipFile(tmp_path / "texts.npz", "w") as archive:
        archive.writestr("images.txt", "no array")
    with pytest.raises(EdgeMnistError, match=r"texts.npz: images.txt is not an array"):
        open_inputs(tmp_path / "texts.npz", "test")
