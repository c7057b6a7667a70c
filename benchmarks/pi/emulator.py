"""Runs commands in an emulated 64-bit Raspberry Pi; emulate.sh describes the emulation and what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = Path(__file__).with_name("emulate.sh")

CPUS = {"cortex-a53": "Pi 3, Zero 2", "cortex-a72": "Pi 4", "cortex-a76": "Pi 5"}
SUITES = {"bookworm": "Python 3.11", "trixie": "Python 3.13"}

_CANNOT = 3
"""The exit status of emulate.sh if this machine cannot emulate a Pi."""


class EmulationError(Exception):
    """This machine cannot emulate a Pi; the text says why."""


@dataclass(frozen=True)
class Pi:
    """A root file system of one suite.

    Attributes:
        suite: bookworm or trixie.
        folder: the folder of the root file systems, by suite, and of what pip has downloaded.
    """

    suite: str
    folder: Path

    @property
    def root(self) -> Path:
        """The root file system."""
        return self.folder / self.suite

    def start(
        self,
        *command: object,
        cwd: Path,
        cpu: str = "cortex-a72",
        count: bool = False,
        variables: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command.

        Args:
            command: a program in the Pi and its arguments.
            cwd: the folder of this machine that is /mnt in the Pi, and in which the command starts.
            cpu: one of `CPUS`.
            count: whether to count instructions; the program must then be a binary, such as /usr/bin/python3.
            variables: environment variables in the Pi.
        """
        environment = {**os.environ, "PI_SUITE": self.suite, "PI_CPU": cpu, "PI_COUNT": "1" if count else ""}
        environment["PI_CACHE"] = str(self.folder / "pip")
        assignments = [f"{name}={value}" for name, value in (variables or {}).items()]
        return subprocess.Popen(
            [str(SCRIPT), str(self.root), *assignments, *map(str, command)],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *command: object,
        cwd: Path,
        cpu: str = "cortex-a72",
        count: bool = False,
        variables: dict[str, str] | None = None,
        timeout: float = 1200,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; the arguments are those of `start`.

        Raises:
            EmulationError: this machine cannot emulate a Pi.
            subprocess.TimeoutExpired: it took longer than `timeout` seconds.
        """
        process = self.start(*command, cwd=cwd, cpu=cpu, count=count, variables=variables)
        try:
            output, errors = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode == _CANNOT and errors.startswith("emulate.sh: "):
            raise EmulationError(errors.strip().removeprefix("emulate.sh: "))
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def check(
        self, *command: object, cwd: Path, cpu: str = "cortex-a72", variables: dict[str, str] | None = None
    ) -> str:
        """Run a command that must succeed, and return what it writes to stdout.

        Raises:
            RuntimeError: the command fails; the text holds its output.
        """
        result = self.run(*command, cwd=cwd, cpu=cpu, variables=variables)
        if result.returncode:
            words = " ".join(map(str, command))
            raise RuntimeError(f"{words}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
        return result.stdout

    def uninstall_all(self) -> None:
        """Remove everything that pip has installed, which leaves only the Debian packages."""
        for folder in self.root.glob("usr/local/lib/python3*/dist-packages"):
            shutil.rmtree(folder)
        for script in self.root.glob("usr/local/bin/*"):
            script.unlink()

    def install(self, wheel: Path, extras: str = "headless,onnx", *more: str) -> None:
        """Install a wheel with its dependencies from the package index, as a user would."""
        requirement = f"/mnt/{wheel.name}[{extras}]" if extras else f"/mnt/{wheel.name}"
        self.check("python3", "-m", "pip", "install", "--quiet", requirement, *more, cwd=wheel.parent)


@contextmanager
def prepare(suite: str, folder: Path | None = None) -> Iterator[Pi]:
    """Prepare a Pi without other Python packages than Debian's, for this process alone.

    Args:
        suite: bookworm or trixie.
        folder: the folder of the root file systems; else EDGE_MNIST_PI, or .pi in the checkout.

    Raises:
        EmulationError: this machine cannot emulate one, or another process uses this one.
    """
    import fcntl

    folder = (folder or Path(os.environ.get("EDGE_MNIST_PI") or ROOT / ".pi")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    pi = Pi(suite, folder)
    with open(folder / f"{suite}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmulationError(f"{pi.root} is in use by another process: wait, or set EDGE_MNIST_PI") from error
        pi.run("true", cwd=folder)
        pi.uninstall_all()
        yield pi


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into a folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:  # because setuptools leaves its build folder in the tree
        tree = Path(scratch, "tree")
        ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "artifacts", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignored)
        command = ("-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation")
        subprocess.run([sys.executable, *command, "--wheel-dir", str(folder), str(tree)], check=True)
    (wheel,) = folder.glob("edge_mnist-*.whl")
    return wheel
