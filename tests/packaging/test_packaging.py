"""What is installed, what imports what, and what the two symlinks are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"edge_mnist": ROOT / "edge_mnist", "edge_mnist.export": ROOT / "export", "edge_mnist.demo": ROOT / "demo"}
EXTRAS = ("torch", "torchvision", "matplotlib", "onnx", "onnxruntime", "cv2", "PIL", "aiohttp", "paho")


def python(
    *arguments: str, cwd: Path = ROOT, executable: Path | str = sys.executable
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(executable), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def copy_tree(target: Path, links: bool = True) -> Path:
    """The files that a build reads, in a folder of their own."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target)
    for folder in ("edge_mnist", "export", "demo"):
        ignore = shutil.ignore_patterns("__pycache__", *(() if links else ("export", "demo")))
        shutil.copytree(ROOT / folder, target / folder, symlinks=True, ignore=ignore)
    return target


def sources() -> set[str]:
    """The installed path of every file of the package, each once: a symlink is not followed."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not any(p.is_symlink() for p in path.parents)
    }


def packaged(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if ".dist-info/" not in name]


def test_the_command_line_starts_at_once() -> None:
    loaded = succeed(python("-c", "import edge_mnist.cli.commands, sys; print(*sys.modules)")).split()
    assert not set(loaded) & {*EXTRAS, "ai_edge_litert", "numpy"}

    def seconds(*arguments: str) -> float:
        start = time.perf_counter()
        succeed(python(*arguments))
        return time.perf_counter() - start

    # on a slow or busy machine, no more than a few times what the one library takes that it needs
    pairs = [(seconds("-m", "edge_mnist", "--help"), seconds("-c", "import click")) for _ in range(5)]
    assert any(whole <= max(0.3, 4 * bare) for whole, bare in pairs), pairs


def test_without_the_symlinks_a_checkout_does_not_see_its_own_modules(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    # -S: an installed edge_mnist must not stand in for the checkout. It hides numpy too, so find only.
    code = "from importlib.util import find_spec as f; print(bool(f('edge_mnist.export')), bool(f('edge_mnist.demo')))"
    run = ("-S", "-c", code)
    check = ("-m", "mypy", "--no-site-packages", "--cache-dir", str(tmp_path / "cache"), "-p", "edge_mnist.demo")
    bare, linked = copy_tree(tmp_path / "bare", links=False), copy_tree(tmp_path / "linked")
    assert succeed(python(*run, cwd=bare)) == "False False\n"
    assert "Can't find package 'edge_mnist.demo'" in python(*check, cwd=bare).stderr
    assert succeed(python(*run, cwd=linked)) == "True True\n"
    assert "Can't find package" not in python(*check, cwd=linked).stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("script", "advice"),
    [
        ('case "$2" in *version_info*) exit 1;; esac; echo Python 3.9.2', "is Python 3.9.2, 3.10 to 3.14"),
        ("exit 127", "is no Python that runs"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "apt install python3-venv"),
        (None, "apt install python3 python3-venv"),
    ],
)
def test_make_says_what_is_missing(tmp_path: Path, script: str | None, advice: str) -> None:
    stand_in = tmp_path / "python"
    if script is not None:
        stand_in.write_text(f"#!/bin/sh\n{script}\n")
        stand_in.chmod(0o755)
    for name in ("pyproject.toml", "requirements.lock", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    result = subprocess.run(
        ["make", "test", f"PYTHON={stand_in}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0 and advice in result.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.slow
def test_the_wheel_holds_every_source_file_once_and_nothing_else(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    pip_wheel = ("-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    succeed(python(*pip_wheel, "--wheel-dir", str(tmp_path), str(tree)))
    (wheel,) = tmp_path.glob("edge_mnist-*.whl")
    assert sorted(packaged(wheel)) == sorted(sources())
    assert {"edge_mnist/py.typed", "edge_mnist/export/__init__.py", "edge_mnist/demo/__init__.py"} <= set(
        packaged(wheel)
    )

    succeed(python("-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), cwd=tree))
    (archive,) = tmp_path.glob("edge_mnist-*.tar.gz")
    succeed(python(*pip_wheel, "--wheel-dir", str(tmp_path / "again"), str(archive)))
    (again,) = (tmp_path / "again").glob("*.whl")
    assert packaged(again) == packaged(wheel)


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False])
def test_an_editable_install_works_anywhere(tmp_path: Path, links: bool) -> None:
    tree = copy_tree(tmp_path / "tree", links)
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    executable = tmp_path / "venv" / "bin" / "python"
    site = Path(
        succeed(python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable)).strip()
    )
    # setuptools and the dependencies are borrowed, this edge_mnist is not.
    lender = Path(succeed(python("-c", "import sysconfig; print(sysconfig.get_path('purelib'))")).strip())
    for path in lender.iterdir():
        if not path.name.startswith(("edge_mnist", "__editable__")) and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", "--editable", str(tree))
    succeed(python("-m", "pip", "--python", str(executable), "install", *options))

    command = subprocess.run(
        [executable.with_name("edge-mnist"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "Usage: edge-mnist" in succeed(command)
    code = "import edge_mnist.export as e, edge_mnist.demo as d; print(e.__file__, d.__file__)"
    files = succeed(python("-c", code, cwd=tmp_path, executable=executable)).split()
    assert [Path(file).resolve() for file in files] == [tree / "export" / "__init__.py", tree / "demo" / "__init__.py"]
    for name in ("export", "demo"):
        assert "No module named" in python("-c", f"import {name}", cwd=tmp_path, executable=executable).stderr
