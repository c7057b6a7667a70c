"""What a release needs: one version everywhere, one list of Pythons, and a wheel that works where nothing else is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_mnist

ROOT = Path(__file__).resolve().parents[2]
FILES = (".ci/release.py", "edge_mnist/__init__.py", "CHANGELOG.md", "CITATION.cff")


def release(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / ".ci" / "release.py"), *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_version_is_the_same_everywhere(tree: Path) -> None:
    result = release(tree, "check")
    assert result.returncode == 0 and result.stdout.startswith(f"version {edge_mnist.__version__} of 20"), result.stderr
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(re.sub(r"(## \[Unreleased\]\n).*?(?=\n## \[)", r"\1", changelog.read_text(), flags=re.DOTALL))
    assert release(tree, "check", f"v{edge_mnist.__version__}").returncode == 0


@pytest.mark.parametrize(
    ("file", "pattern", "replacement", "error"),
    [
        ("edge_mnist/__init__.py", r'__version__ = ".*"', '__version__ = "9.9.9"', "the tag is v"),
        (
            "CHANGELOG.md",
            r"## \[Unreleased\]\n",
            "## [Unreleased]\n\n### Added\n",
            "[Unreleased] belongs to",
        ),
        ("CHANGELOG.md", r"## \[\d.*", "## [9.9.9] - 2026-01-01", "CHANGELOG.md: expected a line like"),
        ("CITATION.cff", r"\nversion: .*", "\nversion: 9.9.9", "CITATION.cff: version is 9.9.9, expected"),
        ("CITATION.cff", r"date-released: .*", "date-released: 1999-01-01", "date-released is 1999-01-01, expected 20"),
    ],
)
def test_a_tag_is_refused_if_the_version_differs_anywhere(
    tree: Path, file: str, pattern: str, replacement: str, error: str
) -> None:
    text, count = re.subn(pattern, replacement, (tree / file).read_text(), count=1)
    assert count == 1
    (tree / file).write_text(text)
    result = release(tree, "check", f"v{edge_mnist.__version__}")
    assert result.returncode == 1 and error in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    def read(name: str) -> str:
        return (ROOT / name).read_text()

    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    oldest, newest = pythons[0], pythons[-1]
    bounds = f"{oldest},<3.{int(newest[2:]) + 1}"
    assert f'requires-python = ">={bounds}"' in read("pyproject.toml")
    quoted = ", ".join(f'"{python}"' for python in pythons)
    assert f"python: [{quoted}]" in read(".github/workflows/ci.yml")
    assert f'python: ["{oldest}", "{newest}"]' in read(".github/workflows/release.yml")
    assert f"PYTHONS = ({quoted})" in read("tests/packaging/test_wheels.py")
    guard = f"({oldest.replace('.', ', ')}) <= sys.version_info < (3, {int(newest[2:]) + 1})"
    for name in ("edge_mnist/doctor.py", "Makefile"):
        assert guard in read(name) and f"{oldest} to {newest}" in read(name)
    assert re.search(rf"test-pythons {oldest} .*{newest}", read("Makefile"))
    for name in ("README.md", "CONTRIBUTING.md"):
        assert f"{oldest} to {newest}" in read(name)


def test_the_release_tries_the_wheel_on_every_system_before_it_publishes() -> None:
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    build, attempt, publish = re.split(r"\n  (?=[a-z]+:\n    name:)", workflow)[1:]
    assert "release.py check" in build and build.count("release.py build") == workflow.count("release.py build") == 1
    assert "needs: build" in attempt and "release.py try dist" in attempt
    for system in ("ubuntu-24.04,", "ubuntu-24.04-arm", "macos-", "windows-"):
        assert system in attempt
    assert "needs: try" in publish and "if: github.ref_type == 'tag'" in publish
    assert "id-token: write" in publish and workflow.count("id-token") == 1 and "secrets." not in workflow


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is(tmp_path: Path) -> None:
    for step in ("build", "try"):
        result = release(ROOT, step, str(tmp_path / "dist"))
        if "No matching distribution" in result.stderr or "Failed to establish" in result.stderr + result.stdout:
            pytest.skip("no package index can be reached")
        assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED" in result.stdout
