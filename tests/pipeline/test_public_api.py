"""The names of `import edge_mnist`: complete, imported when they are used, documented by examples that run."""

from __future__ import annotations

import ast
import doctest
import logging
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import edge_mnist
from edge_mnist.cli import commands
from edge_mnist.pretrained import SHIPPED_FINDER, SHIPPED_INT8
from tests.support.digits import put_digits

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "torch", "cv2", "rich", "click", "onnxruntime", "ai_edge_litert", "safetensors")


def run_python(code: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_to_import_the_package_imports_nothing_else_of_weight() -> None:
    found = run_python(f"import sys, edge_mnist; dir(edge_mnist); print([m for m in {HEAVY} if m in sys.modules])")
    assert found == "[]"
    ours = run_python("import sys, edge_mnist; print([m for m in sys.modules if m.startswith('edge_mnist.')])")
    assert ours == "[]"


@pytest.mark.parametrize(("name", "unneeded"), [("load", ("torch", "cv2", "rich")), ("export_model", ("torch", "cv2"))])
def test_a_name_imports_only_what_it_needs(name: str, unneeded: tuple[str, ...]) -> None:
    code = f"import sys, edge_mnist; edge_mnist.{name}; print([m for m in {unneeded} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(edge_mnist.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {
        (alias.name, statement.module)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    imported = {(name, f"edge_mnist.{source}") for source, names in edge_mnist._SOURCES.items() for name in names}
    assert seen == imported and len(imported) == len(edge_mnist.__all__)
    assert sorted(name for name, _ in imported) == edge_mnist.__all__
    assert set(edge_mnist.__all__) <= set(dir(edge_mnist))
    for name, source in imported:
        assert getattr(edge_mnist, name) is getattr(import_module(source), name) and getattr(edge_mnist, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edge_mnist' has no attribute 'export_modle'"):
        getattr(edge_mnist, "export_modle")  # noqa: B009


def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules.update(cv2=None, torch=None); import edge_mnist\n"
        "train, export = lambda: edge_mnist.train('quick'), lambda: edge_mnist.export_model(1)\n"
        "for use in (lambda: edge_mnist.Reader, train, export):\n"
        "    try: use()\n"
        "    except edge_mnist.NotInstalledError as error: print(error)"
    )
    lines = run_python(code).splitlines()
    assert [line.split(" is not installed: ")[0] for line in lines] == ["OpenCV", "torch", "torch"]
    assert all("pip install" in line for line in lines)


def test_every_command_has_a_function() -> None:
    functions = {
        "bench": "benchmark",
        "demo": "run_demo",
        "doctor": "examine",
        "evaluate": "evaluate",
        "experiments": "run_experiments",
        "export": "export_model",
        "info": "describe",
        "predict": "read_pictures",
        "train": "train",
        "verify": "verify",
    }
    assert functions.keys() == commands.commands.commands.keys()
    assert set(functions.values()) <= set(edge_mnist.__all__)


def test_the_examples_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("EDGE_MNIST_DATA", raising=False)
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    examples = 0
    for name in edge_mnist.__all__:
        for test in finder.find(getattr(edge_mnist, name), name, globs={"folder": tmp_path / name}):
            examples += bool(test.examples)
            text: list[str] = []
            assert runner.run(test, out=text.append).failed == 0, "".join(text)
    assert examples >= 5


def test_changes_of_a_recipe_reach_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = pytest.importorskip("edge_mnist.training.loop")
    found = []
    monkeypatch.setattr(loop, "train", lambda settings, *_, **__: found.append(settings.recipe))
    put_digits(tmp_path / "digits")
    changes = {"lr": 0.003, "epochs": 3, "batch_size": 256}
    edge_mnist.train(out=tmp_path / "a", data=tmp_path / "digits", changes=changes)
    edge_mnist.train(out=tmp_path / "b", data=tmp_path / "digits", changes=changes, lr=0.002)
    assert [(recipe.lr, recipe.epochs, recipe.batch_size) for recipe in found] == [(0.003, 3, 256), (0.002, 3, 256)]


def test_maps_are_not_evaluated_as_classes() -> None:
    with pytest.raises(edge_mnist.UsageError, match="gives maps, expected one value for each class"):
        edge_mnist.evaluate(SHIPPED_FINDER)


def test_lists_instead_of_arrays_and_paths() -> None:
    classifier = edge_mnist.load(SHIPPED_INT8)
    with pytest.raises(edge_mnist.EdgeMnistError, match="expected"):
        classifier.predict([[1]])  # type: ignore[arg-type]
    with pytest.raises(edge_mnist.UsageError, match=r"found a list: read_pictures\(\*paths\)"):
        edge_mnist.read_pictures(["docs/misread.jpg"])  # type: ignore[arg-type]


def test_nothing_is_printed_unless_logging_is_configured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import edge_mnist; edge_mnist.export_model(out={out!r}, formats=['onnx'], images=10)\n"
        "edge_mnist.export_model(out={out!r}, formats=['tflite'], verify=False)"
    ).format(out=str(tmp_path / "out"))
    command = [sys.executable, "-W", "error", "-c", code]
    subprocess.run(command, cwd=ROOT, check=True)
    assert capfd.readouterr() == ("", "")
    subprocess.run([*command[:-1], "import logging; logging.basicConfig(level='INFO'); " + code], cwd=ROOT, check=True)
    output, errors = capfd.readouterr()
    assert output == "" and "writing model_int8.onnx" in errors and "a bundle is one export" in errors
    assert [type(handler) for handler in logging.getLogger("edge_mnist").handlers] == [logging.NullHandler]


@pytest.mark.slow
def test_the_lines_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("## From Python")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert "export_model(" in code
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.startswith("True [(")


@pytest.mark.slow
def test_a_type_checker_knows_every_name_and_no_other(tmp_path: Path) -> None:
    lines = [f"edge_mnist.{name}" for name in edge_mnist.__all__]
    lines += ["edge_mnist.export_modle", "edge_mnist.export_model(calibrate=1)"]
    (tmp_path / "user.py").write_text("\n".join(["import edge_mnist", *lines]))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", tmp_path / "user.py"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert output.count(": error:") == 2, output
    assert 'has no attribute "export_modle"' in output and 'Unexpected keyword argument "calibrate"' in output
