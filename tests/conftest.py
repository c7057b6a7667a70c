"""Settings of every test: the same examples each time, so that a failure is seen again."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import settings

from benchmarks.pi.emulator import SUITES, EmulationError, Pi, build_wheel, prepare
from edge_mnist.bundle.reference import Reference, make_reference
from edge_mnist.cli import commands
from edge_mnist.export.bundle_writer import make_bundle, write_bundle
from edge_mnist.exportable import load_network
from edge_mnist.formats.table import choose_formats
from edge_mnist.graph.folding import fold
from edge_mnist.graph.quantization import quantize_graph
from edge_mnist.system import progress

Call = Callable[..., tuple[int, str, str]]

HAS_TORCH = find_spec("torch") is not None
# Where torch is not installed, what needs it is left out; all else is tested, as on a Raspberry Pi.
collect_ignore = [
    str(path)
    for path in ([] if HAS_TORCH else Path(__file__).parent.rglob("test_*.py"))
    if re.search(r"^(import torch|from torch|import safetensors\.torch)\b", path.read_text("utf-8"), re.MULTILINE)
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests whose names say that they are about TorchScript where torch is not installed."""
    for item in items:
        if not HAS_TORCH and "torchscript" in item.name:
            item.add_marker(pytest.mark.skip(reason="torch is not installed"))


# No database and no deadline: a result must depend neither on the last run nor on how busy the machine is.
settings.register_profile("exact", derandomize=True, database=None, deadline=None)
settings.load_profile("exact")


# A shell that starts the tests in the background has them ignore Ctrl-C, which their child processes would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def default_verbosity() -> Iterator[None]:
    """Undo the -v or -q of a command that was run through click, which ends without restoring the log level."""
    yield
    logging.getLogger("edge_mnist").setLevel(logging.NOTSET)


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests measure out of the user's cache. Its other parts are linked: compiling C takes minutes."""
    used, cache = platformdirs.user_cache_path(), tmp_path_factory.mktemp("cache")
    (used / "edge-mnist" / "c").mkdir(parents=True, exist_ok=True)
    (cache / "edge-mnist").mkdir()
    for path in (*used.iterdir(), *(used / "edge-mnist").iterdir()):
        if path.name not in ("edge-mnist", "precision"):
            (cache / path.relative_to(used)).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The shipped checkpoint, quantized."""
    source = load_network(None)
    graph = fold(source)
    quantized, layers = quantize_graph(graph, source.statistics)
    return make_reference(graph, quantized, layers, source.metadata["accuracies"]["test"])


@pytest.fixture(scope="session")
def bundle_folder(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of it in every default format that can be written here, which no test may change."""
    folder = tmp_path_factory.mktemp("bundle") / "artifacts"
    kinds = [kind for kind in choose_formats() if kind.name != "torchscript" or HAS_TORCH]
    write_bundle(folder, make_bundle(reference, kinds, {}))
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Runs a command here: its exit status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["edge-mnist", *map(str, arguments)])
        status: Any = 0
        try:
            commands.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    monkeypatch.setattr(progress, "INTERVAL", 1e6)  # on a slow machine too, stderr holds nothing but what is tested
    usual = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, usual)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as users get it."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session", params=SUITES)
def pi(request: pytest.FixtureRequest, wheel: Path) -> Iterator[Pi]:
    """An emulated Pi on which the package has just been installed with [headless,onnx]."""
    try:
        with prepare(request.param) as found:
            found.install(wheel)
            yield found
    except EmulationError as error:
        pytest.skip(f"no Raspberry Pi can be emulated here: {error}")
