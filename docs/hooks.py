"""Puts documents from outside docs/ on the site: README.md is its first page, and others follow.

In the repository a link leads from a document to a file: `docs/reading.md` in README.md, `../README.md` in docs/. On
the site the same documents are in other places, so that each link is rewritten to where its document is there.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE",
    "examples/README.md": "examples/index.md",
    **{
        path.relative_to(ROOT).as_posix(): f"examples/{path.parent.name}.md"
        for path in sorted(ROOT.glob("examples/*/README.md"))
    },
}
"""The page of the site that each document from outside docs/ becomes."""

BROWSER_PAGE = ROOT / "build" / "wasm" / "model_int8.html"
"""The network as WebAssembly in a page, which `make docs` exports where clang is installed."""

_FRAME = f'<iframe src="{BROWSER_PAGE.name}" title="The network" width="100%" height="760" style="border: 0"></iframe>'

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for path in sorted(ROOT.glob("examples/*/*")):  # what documents link to beside them
        if path.is_file() and path.suffix != ".md":
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    if BROWSER_PAGE.exists():
        files.append(File.generated(config, BROWSER_PAGE.name, abs_src_path=str(BROWSER_PAGE)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page from where files are in the repository to where they are on the site."""
    place = page.file.src_uri
    if BROWSER_PAGE.exists():
        markdown = markdown.replace("<!-- the page is shown here -->", _FRAME)
    source = {page: source for source, page in OUTSIDE.items()}.get(place, f"docs/{place}")

    def rewrite(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if link[2].startswith(("http://", "https://", "mailto:")):
            return link[0]
        if (ROOT / target).is_dir():
            target = f"{target}/README.md"
        found = OUTSIDE.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{posixpath.relpath(found, posixpath.dirname(place) or '.')}{link[3] or ''}"

    return _LINK.sub(rewrite, markdown)
