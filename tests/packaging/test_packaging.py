"""What is installed, what imports what, and what the two symlinks are for."""

from __future__ import annotations

import ast
import graphlib
import os
import shutil
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"edge_mnist": ROOT / "edge_mnist", "edge_mnist.export": ROOT / "export", "edge_mnist.demo": ROOT / "demo"}
USE_TORCH = {
    "edge_mnist.training.network",
    "edge_mnist.training.tracing",
    "edge_mnist.training.augmentation",
    "edge_mnist.training.distillation",
    "edge_mnist.training.steps",
    "edge_mnist.training.loop",
    "edge_mnist.training.runs",
    "edge_mnist.training.workers",
    "edge_mnist.training.torchvision_shim",
    "edge_mnist.training.degradation",
    "edge_mnist.export.torchscript_writer",
}
NEED_TRAIN = USE_TORCH | {
    f"edge_mnist.{name}" for name in ("curves", "progress", "follower", "experiments", "experiments_report")
}
EXTRAS = ("torch", "torchvision", "matplotlib", "onnx", "onnxruntime", "cv2", "PIL", "aiohttp", "paho")


def modules() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its installed name; a package goes by its own."""
    return {
        package if path.stem == "__init__" else f"{package}.{path.stem}": ast.parse(path.read_text("utf-8"))
        for package, folder in FOLDERS.items()
        for path in sorted(folder.glob("*.py"))
    }


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The names imported anywhere in a tree: of ours the module, of others the whole dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            yield from (f"{source}.{a.name}" if f"{source}.{a.name}" in known else source for a in node.names)


def storey(module: str) -> int:
    """How high a module stands in the house; it may import from its own storey and from those below."""
    named = {
        "edge_mnist": 0,
        "edge_mnist.system.errors": 0,
        "edge_mnist.system.files": 0,
        "edge_mnist.graph.operations": 1,
        "edge_mnist.graph.arithmetic": 1,
        "edge_mnist.doctor": 5,
        "edge_mnist.__main__": 5,
    }
    if module.startswith("edge_mnist.cli.commands"):
        return 5
    package = ".".join(module.split(".")[:2])
    return named.get(module, {"edge_mnist.export": 3, "edge_mnist.demo": 4}.get(package, 2))


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


def test_imports_run_one_way() -> None:
    trees = modules()
    edges = {name: set(imported(tree, set(trees))) & set(trees) - {name} for name, tree in trees.items()}
    upward = [f"{name} imports {other}" for name in edges for other in edges[name] if storey(other) > storey(name)]
    assert not upward
    # A cycle within a storey is one too; raises CycleError with the modules of it.
    graphlib.TopologicalSorter(edges).prepare()


def test_torch_is_imported_only_where_it_is_the_subject() -> None:
    for name, tree in modules().items():
        # What stands at module level, in a try or an if too, is imported by all who import the module.
        for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]:
            function.body = [ast.Pass()]
        roots = {other.partition(".")[0] for other in imported(tree, set())}
        assert name in USE_TORCH or not roots & {"torch", "torchvision"}, name


def test_without_the_extras_everything_else_can_be_imported() -> None:
    names = [name for name in modules() if name not in NEED_TRAIN and storey(name) != 4 and "__main__" not in name]
    hide = f"import sys, importlib; sys.modules.update(dict.fromkeys({EXTRAS}))"
    succeed(python("-c", f"{hide}; [importlib.import_module(name) for name in {names}]"))


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
        ('case "$2" in *version_info*) exit 1;; esac; echo Python 3.9.2', "is Python 3.9.2, 3.10 to 3.13"),
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
