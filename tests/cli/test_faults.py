"""What happens from outside: full disks, signals, kills, closed pipes, missing packages, changed artifacts."""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edge_mnist.bundle.reference import read_bundle
from edge_mnist.cli.demo import STARTING
from edge_mnist.formats.torchscript_reader import read_metadata
from edge_mnist.pretrained import SHIPPED
from edge_mnist.system.errors import format_install_command
from edge_mnist.system.files import METADATA_KEY
from tests.support.digits import put_digits

ROOT = Path(__file__).parents[2]

BLOCKER = """
import os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["BLOCKED"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a process of its own, with `blocked` packages that cannot be imported."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCKER)

    def begin(*arguments: object, blocked: str = "", **options: Any) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "EDGE_MNIST_DATA"}
        environment |= {"PYTHONPATH": f"{tmp_path / 'blocker'}{os.pathsep}{ROOT}", "BLOCKED": blocked}
        environment |= {"TMPDIR": str(tmp_path / "scratch"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "edge_mnist", *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(command, env=environment, text=True, cwd=tmp_path, **streams)

    return begin


@pytest.fixture
def run(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command to its end: exit status, stdout and stderr."""

    def finish(*arguments: object, **options: Any) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        output, errors = process.communicate(timeout=120)
        return process.returncode, output or "", errors

    return finish


@pytest.fixture
def bundle(bundle_folder: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return shutil.copytree(bundle_folder, tmp_path / "bundle")


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def variants(output: str) -> dict[str, dict[str, Any]]:
    """The variants of `verify --json`, by file."""
    return {variant["file"]: variant for variant in json.loads(output)["variants"]}


def test_a_full_disk_leaves_the_old_bundle(run: Callable[..., Any], bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the reference has 155,000 bytes

    status, output, errors = run("export", "--no-verify", "--format", "onnx", "--out", bundle, preexec_fn=fill)
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert "reference.safetensors: cannot be written: File too large" in errors
    assert contents(bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocker", "bundle", "scratch"]


def test_a_folder_that_cannot_be_renamed_is_filled(run: Callable[..., Any], tmp_path: Path) -> None:
    """A mount point, and a disk that is really full: both need the right to mount."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        for kind in ("onnx", "tflite"):
            assert run("export", "--no-verify", "--format", kind, "--out", disk)[:2] == (0, "")
        before = contents(disk)
        assert before.keys() == {"manifest.json", "reference.safetensors", "model_float.tflite"}
        (tmp_path / "disk" / "manifest.json").touch()
        status, _, errors = run(
            "export", "--int8", "--no-verify", "--format", "onnx", "--format", "tflite", "--out", disk
        )
        assert status == 1 and errors.endswith("cannot be written: No space left on device\n")
        assert contents(disk) == before
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        status, output, errors = run("verify", disk, "--images", 1, "--json", "--quiet")
        assert status == 0 and json.loads(output)["passed"]
        assert errors.startswith("edge-mnist: the report is not kept: ") and "Read-only file system" in errors
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_report_that_cannot_be_kept_changes_no_verdict(run: Callable[..., Any], bundle: Path) -> None:
    (bundle / "report.html").mkdir()
    for name in ("model_float.onnx", "model_int8.onnx", "model_float.pt", "model_int8.pt"):
        _drop(bundle, name)
    status, output, errors = run("verify", bundle, "--images", 1, "--quiet")
    assert status == 0 and "PASSED" in output and output.endswith("report: not kept\n")
    assert errors.startswith("edge-mnist: the report is not kept: ") and len(errors.splitlines()) == 1
    (bundle / "model_int8.tflite").write_bytes(b"")
    assert run("verify", bundle, "--images", 1, "--quiet")[0] == 1


def _drop(bundle: Path, name: str) -> None:
    """Leave an artifact out of a bundle."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"][name]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / name).unlink()


def test_changed_artifacts_fail_in_words(run: Callable[..., Any], bundle: Path) -> None:
    onnx = (bundle / "model_int8.onnx").read_bytes()
    (bundle / "model_float.pt").unlink()
    (bundle / "model_int8.pt").write_bytes(onnx)
    (bundle / "model_float.onnx").write_bytes(b"")
    (bundle / "model_int8.onnx").write_bytes(onnx[:15_000])
    (bundle / "model_float.tflite").write_bytes(random.Random(1).randbytes(20_000))
    (bundle / "model_int8.tflite").write_bytes((bundle / "model_int8.tflite").read_bytes()[:15_000])
    status, output, errors = run("verify", bundle, "--images", 1, "--json", "--quiet")
    assert (status, errors) == (1, "")
    assert json.loads((bundle / "parity.json").read_text()) == json.loads(output)
    found = variants(output)
    assert [variant["status"] for variant in found.values()] == ["failed"] * 6
    changed = "changed since the export"
    for name, reason in {
        "model_float.pt": "there is no such file",
        "model_int8.pt": f"{changed}: it holds {len(onnx):,} bytes that are not torchscript",
        "model_float.onnx": f"{changed}: it holds 0 bytes that are not onnx",
        "model_int8.onnx": f"{changed}: it cannot be run",
        "model_float.tflite": f"{changed}: it holds 20,000 bytes that are not tflite",
        "model_int8.tflite": f"{changed}: it cannot be run",
    }.items():
        assert reason in found[name]["reason"] and found[name]["layer"] is None


class Trap(torch.nn.Module):
    """Writes a file when the archive that holds it is opened."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.path)


def test_code_in_a_changed_archive_runs_only_if_it_is_trusted(
    run: Callable[..., Any], bundle: Path, tmp_path: Path
) -> None:
    trace, archive = tmp_path / "trace", io.BytesIO()
    terms = read_metadata((bundle / "model_int8.pt").read_bytes(), METADATA_KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(Trap(str(trace))), archive, _extra_files={METADATA_KEY: terms})
    (bundle / "model_int8.pt").write_bytes(archive.getvalue())
    for name in ("model_float.onnx", "model_int8.onnx", "model_float.tflite", "model_int8.tflite", "model_float.pt"):
        _drop(bundle, name)
    status, output, _ = run("verify", bundle, "--images", 1, "--json", "--quiet")
    assert status == 1 and "changed since the export" in variants(output)["model_int8.pt"]["reason"]
    assert not trace.exists()
    assert run("verify", bundle, "--images", 1, "--json", "--quiet", "--trust")[0] == 1
    assert trace.exists()


def test_what_has_no_runtime_is_not_run(run: Callable[..., Any], bundle: Path) -> None:
    status, output, errors = run("verify", bundle, "--images", 1, "--json", "--quiet", blocked="torch onnx")
    found = variants(output)
    assert (status, errors) == (0, "")
    assert [variant["status"] for variant in found.values()] == [*["not run"] * 2, *["passed"] * 4]
    assert found["model_int8.pt"]["reason"].startswith(f"torch is not installed: {sys.executable} -m pip install ")

    everything = "torch onnx onnxruntime ai_edge_litert tflite_runtime"
    status, output, _ = run("verify", bundle, "--images", 1, "--json", "--quiet", blocked=everything)
    found = variants(output)
    assert status == 1 and not json.loads(output)["passed"]
    assert [variant["status"] for variant in found.values()] == ["not run"] * 6
    assert found["model_int8.onnx"]["reason"].startswith("onnxruntime is not installed: ")
    assert found["model_int8.tflite"]["reason"].endswith("pip install ai-edge-litert")


@pytest.mark.parametrize(
    ("command", "blocked", "message"),
    [
        (
            "export --int8 --format onnx",
            "onnxruntime",
            "nothing could be verified here: ONNX: onnxruntime is not installed: ",
        ),
        ("export --int8 --format wasm", "wasmtime", "nothing could be verified here: WebAssembly: wasmtime is not in"),
        ("export --format tflite", "ai_edge_litert tflite_runtime", "here: TFLite: no TFLite runtime: pip install ai-"),
        ("export --network a:b --format onnx", "torch", "torch is not installed: "),
        ("export", "torch", "or install '.[train]' in a clone of edge-mnist, or leave TorchScript out: --format onnx"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written_or_compared(
    command: str, blocked: str, message: str, run: Callable[..., Any], tmp_path: Path
) -> None:
    if "wasm" in command and not (shutil.which("clang") and shutil.which("wasm-ld")):
        pytest.skip("clang and lld are not installed: apt install clang lld")
    status, output, errors = run(*command.split(), "--out", "out", "-v", blocked=blocked)
    assert (status, output) == (1, "") and message in errors.splitlines()[-1]
    assert "writing model" not in errors and "running the oracle on" not in errors, errors
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_verified_is_said_first_and_written(run: Callable[..., Any], tmp_path: Path) -> None:
    command = "export --format onnx --format tflite --images 1 --out out"
    status, output, errors = run(*command.split(), blocked="onnxruntime")
    assert status == 0 and re.search(r"onnx float +not run|not run: onnx float", output)
    assert errors.startswith("note: ONNX is written, but cannot be verified here: onnxruntime is not installed: ")
    assert (tmp_path / "out" / "model_float.onnx").exists()
    assert run(*command.split(), "--no-verify", blocked="onnxruntime")[2] == ""


@pytest.mark.parametrize(
    ("command", "package"),
    [("export", "torch"), ("export --network a:b", "torch"), ("train", "torch"), ("train", "matplotlib")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    command: str, package: str, run: Callable[..., Any], tmp_path: Path
) -> None:
    status, output, errors = run(*command.split(), "--out", "out", "--quiet", blocked=package)
    assert (status, output, len(errors.splitlines())) == (1, "", 1)
    assert errors.startswith(f"edge-mnist: {package} is not installed: {sys.executable} -m pip install ")
    assert re.search(rf"install '?{package}\b", errors)
    assert not (tmp_path / "out").exists()


def test_an_environment_without_pip_is_installed_into_by_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    assert format_install_command("torch", "train").startswith(f"{sys.executable} -m pip install ")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert format_install_command("torch", "train").startswith(f"uv pip install --python {sys.executable} ")


def test_predict_and_demo_name_the_same_build_of_opencv(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for display, build in (("", "opencv-python-headless"), (":0", "opencv-python")):
        monkeypatch.setenv("DISPLAY", display)
        found = [run(*command.split(), blocked="cv2") for command in ("predict a.png", "demo --camera sample")]
        errors = [result[2].removeprefix(f"{STARTING}\n") for result in found]
        assert errors[0] == errors[1] and [result[:2] for result in found] == [(1, "")] * 2
        assert re.search(rf"OpenCV is not installed: .* -m pip install '?{build}\b(?!-)", errors[0])
    for command in ("predict a.png", f"demo --camera {ROOT / 'docs'}"):
        assert "pillow is not installed: " in run(*command.split(), blocked="PIL")[2]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["reads", "verifies"])
def test_a_signal_ends_an_export_cleanly(
    stage: str, number: signal.Signals, status: int, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    given, out, scratch = tmp_path / "given", tmp_path / "out", tmp_path / "scratch"
    put_digits(given)
    os.mkfifo(given / "pipe")
    pipes: list[int] = []
    checkpoint = given / "pipe" if stage == "reads" else SHIPPED

    def is_reached() -> bool:
        if stage == "verifies":
            return any(scratch.glob("*/*"))
        try:
            pipes.append(os.open(given / "pipe", os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody reads it yet
            return False
        return True

    process = start("export", checkpoint, "--int8", "--format", "onnx", "--out", out, "--data", given)
    while not is_reached():
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(8):  # Python sees a signal that comes between the opening and the reading of a pipe only after it
        process.send_signal(number)
        try:
            output, errors = process.communicate(timeout=4)
            break
        except subprocess.TimeoutExpired:
            continue
    for pipe in pipes:
        os.close(pipe)
    assert (process.returncode, output, errors.splitlines()[-1]) == (status, "", "edge-mnist: stopped")
    assert "Traceback" not in errors
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"blocker", "given", "scratch", *(["out"] if stage == "verifies" else [])}
    assert not list(scratch.iterdir())
    if out.exists():
        read_bundle(out)


def test_a_compiler_ends_with_the_command(start: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    given, cache = tmp_path / "given", tmp_path / "cache" / "edge-mnist" / "c"
    put_digits(given)
    abandoned = cache / "compiling-before"
    abandoned.mkdir(parents=True)
    os.utime(abandoned, (0, 0))
    process = start("export", SHIPPED, "--int8", "--format", "c", "--out", tmp_path / "out", "--data", given)

    def find_compilers() -> list[str]:
        lines = (read_command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
        return [line for line in lines if str(cache) in line]

    while not any(path.stat().st_size > 50_000 for path in cache.glob("*/model.c")) or not find_compilers():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.splitlines()[-1]) == (143, "edge-mnist: stopped")
    deadline = time.monotonic() + 0.5
    while (left := find_compilers()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left and not abandoned.exists()
    assert not list((tmp_path / "scratch").iterdir())


def read_command_line(path: Path) -> str:
    """Read /proc/PID/cmdline, whose arguments end with zero bytes; "" if the process has ended."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_kill_leaves_the_old_bundle_or_the_new(bundle_folder: Path, tmp_path: Path) -> None:
    out, old = tmp_path / "out", contents(bundle_folder)
    new = {name: data for name, data in old.items() if not name.endswith(".pt")}
    code = (
        "import sys; from pathlib import Path; from edge_mnist.export.bundle_writer import write_bundle\n"
        "bundle = {path.name: path.read_bytes() for path in Path(sys.argv[1]).iterdir()}\n"
        "part = {name: data for name, data in bundle.items() if not name.endswith('.pt')}\n"
        "print('ready', flush=True)\n"
        "while True: write_bundle(Path(sys.argv[2]), bundle); write_bundle(Path(sys.argv[2]), part)\n"
    )
    seeded = random.Random(1)
    for _ in range(10):
        command = [sys.executable, "-c", code, bundle_folder, out]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(seeded.uniform(0.01, 0.1))
            process.kill()
        if out.exists():  # between two renames there is none
            assert contents(out) in (old, new)


@pytest.mark.parametrize("command", ["--help", "info", "info --json", "verify bundle --images 1 --quiet"])
def test_a_reader_that_goes_away_is_no_error(
    command: str, start: Callable[..., subprocess.Popen[str]], bundle: Path
) -> None:
    for name in ("model_float.onnx", "model_int8.onnx", "model_float.pt", "model_int8.pt"):
        _drop(bundle, name)
    process = start(*command.split())
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 1

    with open("/dev/full", "w") as full:
        process = start(*command.split(), stdout=full)
        assert process.communicate(timeout=60)[1] == "edge-mnist: No space left on device\n"
        assert process.returncode == 1
