"""The documents: their links lead somewhere, on GitHub and on the site, and they name all that there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_mnist
from edge_mnist.cli.commands import commands
from edge_mnist.formats.table import FORMATS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
    if "build" not in path.parts
)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)|(?:src|href)=\"(?!https?://)([^\"#]+)()\"")


def strip_code(text: str) -> str:
    """The text without fenced, indented and inline code: what looks like a link there is not a link."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^ {4}.*$|`[^`\n]*`", lambda found: "" if found[0].startswith(" ") else "code", text, flags=re.M)


def list_anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    assert "<img" not in path.read_text("utf-8"), "the site checks and rewrites pictures of Markdown only"
    for link in LINK.finditer(strip_code(path.read_text("utf-8"))):
        target = path.parent / (link[1] or link[3] or path.name)
        assert target.exists(), f"{link[0]}: there is no {target}"
        if link[2] and not link[2].startswith("edge_mnist."):  # the anchors that mkdocstrings makes
            assert link[2] in list_anchors(target), f"{link[0]}: no heading of that name"


def test_the_readme_is_short_and_begins_with_what_it_is_for() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert not re.search(r"://[A-Z]", text), "a command with a word in place of an address fails as it is printed"
    parts = [
        "# edge-mnist",
        "**For people who ",
        "](docs/badges/python.svg)",
        "](docs/demo.webp)",
        "- **The same integers",
    ]
    parts += [
        "## Install",
        "```python",
        "## Two commands",
        "## Your own network",
        "## What to install",
        "## How it compares",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_the_badges_say_what_the_project_says() -> None:
    badges = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "badges").glob("*.svg"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    pythons = re.findall(r"Python :: (3\.\d+)", project)
    assert f">{pythons[0]} – {pythons[-1]}<" in badges
    assert 'license = "Apache-2.0"' in project and ">Apache-2.0<" in badges
    assert f">{' · '.join(record.title for record in FORMATS.values())}<" in badges
    assert "[tool.mypy]\nstrict = true" in project and ">mypy --strict<" in badges


def test_every_name_and_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert sorted(re.findall(r"^::: edge_mnist\.(\w+)$", page, re.MULTILINE)) == sorted(edge_mnist.__all__)
    table = (ROOT / "docs" / "commands.md").read_text("utf-8")
    assert {name.split()[0] for name in re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)} == set(commands.commands)


def test_every_command_line_has_options_that_exist() -> None:
    found = 0
    for path in [*DOCUMENTS, ROOT / "Makefile"]:
        text = path.read_text("utf-8").replace("\\\n", " ")
        assert not re.search(r"edge-mnist --(?!help|version)", text), f"{path.name}: options follow the command"
        for line in re.finditer(r"edge-mnist (?P<name>[a-z]+)(?P<rest>[^\n`#|;>]*)", text):
            command = commands.commands.get(line["name"])
            if command is None:  # the name occurs in a sentence, not in a command
                assert " --" not in line["rest"], f"{path.name}: {line[0]}"
                continue
            known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
            used = set(re.findall(r"(?<= )--[a-z][a-z0-9-]*", line["rest"].partition("--run-with")[0]))
            assert used <= known, f"{path.name}: {line[0]}: no {', '.join(used - known)}"
            found += 1
    assert found > 60


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    for path in (ROOT / "docs").glob("*.md"):
        assert f": {path.name}\n" in site, f"enter {path.name} under nav in mkdocs.yml"


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_site_fetches_nothing_and_a_broken_link_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    for name in (
        "mkdocs.yml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
        "docs",
        "examples",
    ):
        source, target = ROOT / name, tmp_path / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for name in ("edge_mnist", "export", "demo"):
        (tmp_path / name).symlink_to(ROOT / name)
    page = tmp_path / "build" / "wasm" / "model_int8.html"  # as `make docs` exports it
    page.parent.mkdir(parents=True)
    page.write_text("<p>a network</p>")
    result = build(tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "build" / "site" / page.name).read_text() == page.read_text()
    assert f'<iframe src="{page.name}"' in (tmp_path / "build" / "site" / "try-it.html").read_text("utf-8")
    pages = sorted((tmp_path / "build" / "site").rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]+src=\"?(https?:[^\s\">]+)", text)
        fetched += re.findall(
            r"<link[^>]+rel=\"?(?:stylesheet|preconnect|preload)[^>]+href=\"?(https?:[^\s\">]+)", text
        )
        fetched += re.findall(r"@import|url\(https?:", text)
        assert fetched == [], page.name
    assert "uint8" in (tmp_path / "build" / "site" / "api.html").read_text("utf-8")  # the docstrings are there

    for link in ("[a page](nothing.md)", "[a heading](reading.md#nothing)"):
        (tmp_path / "docs" / "try-it.md").write_text(f"# Try it\n\n{link}\n")
        result = build(tmp_path)
        assert result.returncode == 1 and "nothing" in result.stderr + result.stdout, link
