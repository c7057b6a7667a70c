"""Workers that share a batch: the same bits for any number of them, on one machine or two, and after any accident."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edge_mnist.cli.commands import main
from edge_mnist.data import strokes
from edge_mnist.graph import checkpoint
from edge_mnist.graph.tensor_file import read_tensors
from tests.support.digits import idx

ROOT = Path(__file__).parents[2]
OPTIONS = "--recipe adam-onecycle --epochs 3 --batch-size 256 --seed 5 --device cpu".split()
STEPS = 3 * (2200 // 256)

# Another network, whose random and cumulative parts must not depend on the workers either.
NETWORK = """
from torch import nn
def dropping():
    return nn.Sequential(nn.Conv2d(1, 4, 5, stride=3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(),
                         nn.Dropout(0.3), nn.Linear(256, 10))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn digits in MNIST's format: 2,400 to learn from and validate on, 300 to test on."""
    folder = tmp_path_factory.mktemp("digits")
    for name, digits in (("train", strokes.draw(2400, 1)), ("t10k", strokes.draw(300, 2))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(digits.images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(digits.labels.astype(np.uint8)))
    return folder


def start(
    *arguments: object, launcher: tuple[object, ...] = ("-m", "edge_mnist"), **environment: str
) -> subprocess.Popen[str]:
    """Start the real command in a session of its own."""
    command = [sys.executable, *map(str, launcher), "train", *map(str, arguments)]
    variables = {name: value for name, value in os.environ.items() if name != "EDGE_MNIST_DATA"}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=variables, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for a process that must end with this status, and return its stderr."""
    try:
        _, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"still there after 120 s: {process.communicate()[1]}")
    assert process.returncode == status, errors
    return errors


def read_bits(out: Path) -> dict[str, bytes]:
    """Read weights, statistics and moments of a run as bytes."""
    arrays, _ = read_tensors(out / "state.safetensors")
    return {name: array.tobytes() for name, array in arrays.items()}


def find_workers(process: subprocess.Popen[str]) -> list[int]:
    """Find the processes of the workers that a process has started."""
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(child) for child in children if b"worker_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def wait_for(out: Path, process: subprocess.Popen[str], epochs: int) -> None:
    """Wait until a run has completed some epochs."""
    until = time.monotonic() + 60
    metrics = out / "metrics.jsonl"
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and metrics.read_text().count("\n") >= epochs:
            return
        time.sleep(0.005)
    pytest.fail(f"the run did not reach epoch {epochs}: {process.communicate()[1]}")


def has_ended(worker: int) -> bool:
    """Whether a process ends within ten seconds."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            if "\nState:\tZ" in Path(f"/proc/{worker}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Train with one worker, and return its bits."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    finish(start(*OPTIONS, "--workers", 1, "--data", data, "--out", out))
    return read_bits(out)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_workers_comes_to_the_same_bits(
    alone: dict[str, bytes], data: Path, tmp_path: Path, size: int
) -> None:
    finish(start(*OPTIONS, "--workers", size, "--data", data, "--out", tmp_path / "run"))
    assert read_bits(tmp_path / "run") == alone
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").metadata["workers"] == size


@pytest.mark.slow
def test_dropout_outliers_and_cumulative_statistics_do_not_depend_on_the_workers(data: Path, tmp_path: Path) -> None:
    (tmp_path / "networks_of_a_test.py").write_text(NETWORK)
    results = []
    for size in (1, 2):
        out = tmp_path / str(size)
        options = (*OPTIONS[:-2], "--workers", size, "--network", "networks_of_a_test:dropping", "--data", data)
        changes = ("--set", "outliers=0.1", "--set", "elastic=1", "--set", "wear=0.3", "--set", "calm=1")
        finish(start(*options, *changes, "--out", out, PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}"))
        results.append(read_bits(out))
    assert results[0] == results[1]
    (key,) = (name for name in results[0] if name.endswith("num_batches_tracked"))
    assert np.frombuffer(results[0][key], np.int64) == STEPS


@pytest.mark.slow
def test_kills_at_any_moment_cost_an_epoch_at_most(alone: dict[str, bytes], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    moments = random.Random(3)
    arguments: tuple[object, ...] = (*OPTIONS, "--workers", 2)
    for epochs in (0, 1, 2):
        process = start(*arguments, "--data", data, "--out", out)
        wait_for(out, process, epochs)
        time.sleep(moments.uniform(0, 0.25))
        workers = find_workers(process)
        process.kill()
        process.communicate(timeout=60)
        assert all(has_ended(worker) for worker in workers)
        arguments = ("--resume",)
    errors = finish(start("--resume", "--data", data, "--out", out))
    assert read_bits(out) == alone
    assert "test " in errors


@pytest.mark.slow
def test_two_workers_end_a_run_whose_epochs_are_all_over(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(start(*OPTIONS, "--epochs", 1, "--workers", 2, "--data", data, "--out", out))
    bits = read_bits(out)
    assert "test " in finish(start("--resume", "--workers", 2, "--data", data, "--out", out))
    assert read_bits(out) == bits


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the workers are found in /proc")
def test_a_worker_that_dies_ends_the_run_which_goes_on(alone: dict[str, bytes], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*OPTIONS, "--workers", 4, "--data", data, "--out", out)
    wait_for(out, process, 1)
    os.kill(find_workers(process)[1], signal.SIGKILL)
    began = time.monotonic()
    line = finish(process, status=1).splitlines()[-1]
    assert time.monotonic() - began < 30
    assert line.startswith("edge-mnist: worker 2 of 4 was ended by SIGKILL: the run is saved after step "), line
    assert line.endswith(f"; go on with --resume --out {out}")
    step = int(line.split("after step ")[1].split()[0])
    assert 2200 // 256 <= step < STEPS and read_tensors(out / "state.safetensors")[1]["step"] == step
    assert checkpoint.load(out / "checkpoint.safetensors").metadata["epochs"] >= 1
    finish(start("--resume", "--workers", 1, "--data", data, "--out", out))
    assert read_bits(out) == alone


SHORT = "import datetime, sys; from edge_mnist.training import workers; "
SHORT += "workers._TIMEOUT = datetime.timedelta(seconds=4); "
SHORT += "sys.argv[0] = 'edge-mnist'; from edge_mnist.cli.commands import main; main()"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the workers are found in /proc")
def test_a_worker_that_hangs_does_not_hang_the_run(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*OPTIONS, "--workers", 2, "--data", data, "--out", out, launcher=("-c", SHORT))
    wait_for(out, process, 1)
    (worker,) = find_workers(process)
    os.kill(worker, signal.SIGSTOP)
    line = finish(process, status=1).splitlines()[-1]
    assert line.startswith("edge-mnist: a worker ended or does not answer: ") and "the run is saved after step " in line
    assert has_ended(worker)


def test_a_worker_that_cannot_start_is_reported(data: Path, tmp_path: Path) -> None:
    (tmp_path / "only_once.py").write_text(
        "import os\nfrom torch import nn\n"
        "if os.environ.get('SEEN'): raise ImportError('only once')\n"
        "os.environ['SEEN'] = '1'\n"
        "def flat(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n"
    )
    options = ("--recipe", "quick", "--workers", 2, "--network", "only_once:flat", "--data", data)
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    errors = finish(start(*options, "--out", tmp_path / "run", PYTHONPATH=path), status=1).splitlines()
    assert "edge-mnist: worker 1: --network only_once:flat: only_once cannot be imported" in errors[-2]
    assert errors[-1].startswith("edge-mnist: worker 1 of 2 ended with status 1: the run is saved after step 0 of ")


@pytest.mark.parametrize(
    ("options", "status", "expected"),
    [
        ("--workers 3", 2, "3 workers cannot share the 4 ghost batches of a batch evenly: possible are 1, 2, 4;"),
        ("--workers 300", 2, "--workers: 300 workers cannot share the 4 ghost batches"),
        ("--workers 0", 2, "0 is not in the range x>=1"),
        ("--batch-size 1", 2, "1 is not in the range x>=2"),
    ],
)  # fmt: skip
def test_what_cannot_be_shared_is_refused(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: str,
    status: int,
    expected: str,
) -> None:
    arguments = ["train", *OPTIONS, *options.split(), "--data", str(data), "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["edge-mnist", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == status and expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_machines_come_to_the_same_bits(alone: dict[str, bytes], data: Path, tmp_path: Path) -> None:
    """Two machines that are one, each with the variables that torchrun sets; they meet at an address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "GLOO_SOCKET_IFNAME": "lo"}
    # the second machine has neither the images nor the folder
    places = (("--data", data, "--out", tmp_path / "run"), ("--data", "/nowhere", "--out", "/nowhere"))
    machines = [start(*OPTIONS, *place, RANK=str(rank), WORLD_SIZE="2", **address) for rank, place in enumerate(places)]
    for machine in machines:
        finish(machine)
    assert read_bits(tmp_path / "run") == alone


@pytest.mark.slow
def test_torchrun_comes_to_the_same_bits(alone: dict[str, bytes], data: Path, tmp_path: Path) -> None:
    """Its two processes on one machine: agents of several may wait minutes for each other when all has ended well."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "edge_mnist")
    finish(start(*OPTIONS, "--data", data, "--out", tmp_path / "run", launcher=launcher, GLOO_SOCKET_IFNAME="lo"))
    assert read_bits(tmp_path / "run") == alone
