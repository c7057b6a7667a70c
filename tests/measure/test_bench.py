"""`bench` measures in turns, computes percentiles and memory, and reports what is missing or fails."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from edge_mnist import benchmark, runtime
from edge_mnist.bundle.reference import Reference
from edge_mnist.data import strokes
from edge_mnist.data.images import Images
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.formats.table import choose_formats
from edge_mnist.measure import bench
from edge_mnist.measure.timing_worker import TimedModel, time_calls
from edge_mnist.system.child_processes import JsonLinesProcess
from edge_mnist.system.errors import EdgeMnistError, UsageError
from tests.support.digits import put_digits

ROOT = Path(__file__).parents[2]

FAKE = """
import json, sys
print("INFO: a library's own words")
print(json.dumps({"runtime": sys.argv[1], "load_ms": 1.0}), flush=True)
for line in sys.stdin:
    with open(sys.argv[2], "a") as log:
        print(sys.argv[1], line.split()[0], file=log)
    print(json.dumps({"nanoseconds": [1000, 3000]}), flush=True)
"""


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_mnist", "bench", "--quiet", *map(str, arguments)]
    variables = {**os.environ, "EDGE_MNIST_DATA": "nothing", **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=variables)


@pytest.fixture(scope="module")
def small(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of TFLite and C."""
    folder = tmp_path_factory.mktemp("small") / "artifacts"
    write_bundle(folder, make_bundle(reference, choose_formats(["tflite", "c"]), {}))
    return folder


def test_models_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    commands = {name: [sys.executable, "-c", FAKE, name, str(log)] for name in ("a", "b")}
    parts: list[float] = []
    timed, missing = bench.time_in_turns(commands, lambda _, part: parts.append(part), 2.5 * bench.TURN)
    assert log.read_text().splitlines() == ["a 1", "b 1", "a 32", "b 32"] * 3
    assert not missing and timed["b"].runtime == "b" and timed["a"].latency[1]["runs"] == 6
    assert timed["a"].latency[32]["median_us"] == 2.0 and timed["a"].turn_medians[32] == [2.0] * 3
    assert timed["a"].latency[32]["images_per_second"] == 32 / 2e-6
    assert parts == sorted(parts) and parts[0] >= 0 and parts[-1] <= 1


def test_percentiles() -> None:
    found = bench.summarize_latency([1000 * value for value in range(101)], 2)
    assert found == {"runs": 101, "median_us": 50, "p5_us": 5, "p99_us": 99, "images_per_second": 2 / 50e-6}


def test_runs_are_of_whole_batches_and_the_warm_up_does_not_count() -> None:
    seen: list[np.ndarray] = []
    model = TimedModel("", lambda inputs: seen.append(inputs) or inputs, np.arange(7))  # type: ignore[func-returns-value]
    times = time_calls(model, 3, 0.0)
    assert [values.tolist() for values in seen] == [[0, 1, 2], [3, 4, 5]]
    assert len(times) == 1 and times[0] > 0


def test_a_bundle_is_measured(small: Path, tmp_path: Path) -> None:
    digits = strokes.draw(40, seed=9)
    np.savez(tmp_path / "digits.npz", images=digits.images, labels=digits.labels)
    result = run(small, "--seconds", 0.05, "--json", "--data", tmp_path / "digits.npz", "--accuracy-seconds", 600)
    assert (result.returncode, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    rows = {row["file"]: row for row in facts["artifacts"]}
    assert list(rows) == ["model_float.tflite", "model_int8.tflite", "model_int8.c"] and not facts["not_run"]
    threads = sorted({1, bench.count_usable_cores()})
    for name, row in rows.items():
        settings = [(found["threads"], found["batch"]) for found in row["latency"]]
        assert settings == [(t, b) for t in ([1] if name.endswith(".c") else threads) for b in (1, 32)]
        assert row["bytes"] == (small / name).stat().st_size and row["load_ms"] > 0 < row["start_ms"]
        for found in row["latency"]:
            assert 0 < found["p5_us"] <= found["median_us"] <= found["p99_us"] and found["runs"] >= 1
        if Path("/proc/self/smaps_rollup").exists():
            assert 5 < row["python"]["private_mb"] <= row["memory"]["private_mb"] <= row["memory"]["rss_mb"]
    if Path("/proc/self/smaps_rollup").exists():  # C brings no runtime
        assert rows["model_int8.c"]["memory"]["rss_mb"] < rows["model_int8.tflite"]["memory"]["rss_mb"]
    assert {finding["name"] for finding in facts["machine"]} >= {"Processor", "Load"}
    assert facts["accuracy"]["images"] == 40 and all(row["accuracy"] > 0.8 for row in rows.values())
    shown = Console(file=StringIO(), width=200)
    bench.print_tables(facts, shown)
    printed = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "accuracy: on 40 images of digits.npz, in " in printed
    assert re.search(rf"model_int8.c .* {rows['model_int8.c']['accuracy']:.2%}\n", printed)
    text = run(small, "--seconds", 0.01).stdout
    assert "accuracy: not measured: no labelled images" in text and re.search(r"model_int8.c .* -\n", text)
    assert "1 image at a time, 1 thread" in text and "32 images at a time" in text and "private" in text
    assert text.count("model_int8.tflite") == 2 * len(threads) + 1


def test_an_artifact_that_was_changed_is_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(small, folder)
    monkeypatch.setattr(bench, "measure_artifacts", lambda paths, *_, **__: {"files": len(paths)})
    assert benchmark(folder)["files"] == 3 and not caplog.records
    with (folder / "model_int8.tflite").open("ab") as file:
        file.write(b"0")
    benchmark(folder)
    assert [record.getMessage() for record in caplog.records] == [
        f"note: {folder / 'model_int8.tflite'}: was changed after the export, and is measured as it is now"
    ]


def test_the_accuracy_is_that_of_the_same_images_and_takes_no_longer_than_is_allowed(
    small: Path, tmp_path: Path
) -> None:
    digits = strokes.draw(300, seed=9)
    labels = np.where(np.arange(300) % 10 == 0, (digits.labels + 1) % 10, digits.labels)  # some are wrong
    labelled = Images("digits", digits.images, labels)
    files = {path.name: path for path in (small / "model_int8.c", small / "model_int8.tflite")}
    found, facts = bench._measure_accuracy(files, labelled, tmp_path, lambda *_: None, 600)
    assert (facts["data"], facts["images"]) == ("digits", 300) and facts["seconds"] > 0
    right = runtime.load(small / "model_int8.tflite").predict(digits.images) == labels
    assert found == dict.fromkeys(files, right.mean()) and 0.5 < right.mean() < 0.95
    found, facts = bench._measure_accuracy(files, labelled, tmp_path, lambda *_: None, 1e-6)
    assert facts["images"] == bench._LEAST_BATCH and len(set(found.values())) == 1
    assert found["model_int8.c"] * bench._LEAST_BATCH % 1 == 0


def test_only_labels_that_fit_the_network_are_used(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Images | None] = []
    monkeypatch.setattr(bench, "measure_artifacts", lambda *_, labelled, **__: used.append(labelled) or {})
    monkeypatch.setenv("EDGE_MNIST_DATA", str(tmp_path / "nothing"))
    digits = strokes.draw(30, seed=9)
    for name, labels in (("digits", digits.labels), ("letters", np.arange(30))):
        np.savez(tmp_path / f"{name}.npz", images=digits.images, labels=labels)
    np.save(tmp_path / "unlabelled.npy", digits.images)
    benchmark(small)
    benchmark(small, data=tmp_path / "digits.npz", accuracy_seconds=0)
    assert used == [None, None]
    for name in ("digits.npz", "letters.npz", "unlabelled.npy"):
        benchmark(small, data=tmp_path / name, images=20)
    assert [found is not None and found.labels is not None for found in used[2:]] == [True, False, False]
    assert used[2] is not None and len(used[2].pixels) == 20
    monkeypatch.setenv("EDGE_MNIST_DATA", str(put_digits(tmp_path / "mnist")))
    benchmark(small)
    assert used[-1] is not None and used[-1].labels is not None
    with pytest.raises(UsageError, match="no such folder"):
        benchmark(small, data=tmp_path / "no such data")


def test_an_artifact_that_cannot_classify_is_one_line() -> None:
    command = [sys.executable, "-c", "import json; print(json.dumps({'error': 'a: cannot'}), flush=True); input()"]
    with JsonLinesProcess("a", command) as process, pytest.raises(EdgeMnistError, match="a: cannot"):
        bench._request(process)


def test_what_is_missing_is_reported_and_the_rest_measured(small: Path, tmp_path: Path) -> None:
    for package in ("ai_edge_litert", "tflite_runtime"):
        (tmp_path / f"{package}.py").write_text("raise ModuleNotFoundError")
    result = run(small, "--seconds", 0.01, "--json", PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stderr) == (0, "")
    facts = json.loads(result.stdout)
    assert [row["file"] for row in facts["artifacts"]] == ["model_int8.c"]
    assert facts["not_run"]["model_int8.tflite"] == "model_int8.tflite: no TFLite runtime: pip install ai-edge-litert"
    shown = Console(file=StringIO(), width=200)
    bench.print_tables(facts, shown)
    lines = [line for line in shown.file.getvalue().splitlines() if "not run" in line]  # type: ignore[attr-defined]
    assert lines == ["not run: model_float.tflite, model_int8.tflite: no TFLite runtime: pip install ai-edge-litert"]
    result = run(small, "--seconds", 0.01, PYTHONPATH=str(tmp_path), CC="no-such-compiler")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("edge-mnist: nothing can be run here: model_float.tflite: no TFLite runtime")
    assert "CC=no-such-compiler is not there" in result.stderr


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("model_int8.tflite", "edge-mnist: {name}: holds no contract of edge-mnist"),
        ("model_int8.c", "edge-mnist: {path}: C carries code, and"),
    ],
)
def test_a_damaged_artifact_is_one_line(
    name: str, line: str, reference: Reference, small: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    for path in small.iterdir():
        data = path.read_bytes()
        (folder / path.name).write_bytes(data[: len(data) // 2] if path.name == name else data)
    result = run(folder, "--seconds", 0.01)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert result.stderr.startswith(line.format(name=name, path=folder / name))


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"edge-mnist: {tmp_path / 'nowhere'}: there is no such folder: expected one that `edge-mnist export` wrote\n"
    )
