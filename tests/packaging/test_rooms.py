"""Which package imports which: the order of the packages is declared here, and every import is held against it."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"edge_mnist": ROOT / "edge_mnist", "edge_mnist.export": ROOT / "export", "edge_mnist.demo": ROOT / "demo"}

ORDER = (
    {"edge_mnist"},
    {"system"},
    {"graph"},
    {"formats", "data", "pretrained"},
    {"bundle"},
    {"runtime", "training"},
    {"measure"},
    {"export"},
    {"inspect", "exportable"},
    {"demo"},
    {"doctor"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
)
"""The packages from the bottom to the top. Each imports from those below it and from itself; nothing imports upwards,
not even inside a function. The package itself, `edge_mnist`, imports its public names only when they are used."""

LAZY = {"edge_mnist"}
"""Modules whose imports inside functions, and for type checkers, may go upwards: `edge_mnist/__init__.py`."""

EXTRAS = ("torch", "torchvision", "matplotlib", "onnx", "onnxruntime", "cv2", "aiohttp", "paho")
"""What a base install lacks."""


def sources() -> dict[str, ast.Module]:
    """The syntax tree of every module by its installed name, sub-packages included."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text("utf-8"))
    return found


def imported(tree: ast.AST, known: set[str]) -> Iterator[str]:
    """The names imported anywhere in a tree: of this package the module, of others the whole dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            yield from (f"{source}.{a.name}" if f"{source}.{a.name}" in known else source for a in node.names)


def without_functions(tree: ast.Module) -> ast.Module:
    """The tree without functions and type checkers' imports: what is left is imported with the module."""
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]:
        function.body = [ast.Pass()]
    return tree


def level(module: str) -> int:
    """The place of a module's package in `ORDER`."""
    room = ([*module.split("."), "edge_mnist"])[1]
    return next(number for number, rooms in enumerate(ORDER) if room in rooms)


def test_every_package_is_in_the_order_and_imports_downwards_only() -> None:
    trees = sources()
    assert len(trees) > 100, "the modules of the sub-packages must be seen"
    edges = {
        name: set(imported(without_functions(tree) if name in LAZY else tree, set(trees))) & set(trees) - {name}
        for name, tree in trees.items()
    }
    upward = [f"{name} imports {other}" for name in edges for other in edges[name] if level(other) > level(name)]
    assert not upward, "\n".join(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    trees = sources()
    edges = {
        name: {
            other
            for other in imported(without_functions(tree) if name in LAZY else tree, set(trees))
            # a package's __init__ that offers its modules' names is no circle
            if other in trees and not name.startswith(other + ".") and other != name
        }
        for name, tree in trees.items()
    }
    graphlib.TopologicalSorter(edges).prepare()  # raises CycleError with the modules of a circle


def test_packages_on_one_level_are_independent() -> None:
    trees = sources()
    for name, tree in trees.items():
        for other in set(imported(tree, set(trees))) & set(trees):
            if level(other) == level(name) and name not in LAZY:
                assert name.split(".")[:2] == other.split(".")[:2], f"{name} imports {other}, which is beside it"


def test_torch_is_imported_only_where_it_is_the_subject() -> None:
    for name, tree in sources().items():
        roots = {other.partition(".")[0] for other in imported(without_functions(tree), set())}
        is_subject = name.startswith("edge_mnist.training") or name == "edge_mnist.export.torchscript_writer"
        assert is_subject or not roots & {"torch", "torchvision"}, name


def test_without_the_extras_everything_else_can_be_imported() -> None:
    needs_more = ("edge_mnist.training", "edge_mnist.demo", "edge_mnist.export.torchscript_writer")
    names = [name for name in sources() if not name.startswith(needs_more) and "__main__" not in name]
    code = f"import sys, importlib; sys.modules.update(dict.fromkeys({EXTRAS}))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", f"{code}; [importlib.import_module(name) for name in {names}]"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
