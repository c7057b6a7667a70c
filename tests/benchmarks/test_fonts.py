"""The fonts for the training, from an npm that has but one of them."""

from __future__ import annotations

import io
import stat
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("rich")

from benchmarks import fonts
from edge_mnist.system.errors import EdgeMnistError

NPM = """#!/bin/sh
for package; do :; done
[ "$package" = @fontsource/caveat ] || exit 1
cp "{archive}" "$5" && echo '[{{"name": "caveat"}}]'
"""


def _make_archive(path: Path, name: str, content: bytes) -> None:
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def test_takes_what_can_be_had_and_names_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _make_archive(tmp_path / "caveat.tgz", "package/files/caveat-latin-400-normal.woff", b"a font")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(NPM.format(archive=tmp_path / "caveat.tgz"))
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=":")
    monkeypatch.setattr(fonts, "listed", lambda: [("hand", "caveat"), ("print", "roboto")])
    monkeypatch.setattr(fonts, "DEBIAN", tmp_path)
    (tmp_path / "breip").mkdir()
    (tmp_path / "breip" / "Breip.ttf").write_bytes(b"another")
    monkeypatch.setattr("sys.argv", ["fonts", str(tmp_path / "fonts")])
    fonts.main()
    assert capsys.readouterr().out == "@fontsource/roboto cannot be had\nhand: 2 fonts, print: 0 fonts\n"
    assert (tmp_path / "fonts" / "hand" / "caveat.woff").read_bytes() == b"a font"


def test_no_font_is_listed_twice() -> None:
    listed = fonts.listed()
    assert {kind for kind, _ in listed} == {"hand", "print"}
    assert len({name for _, name in listed}) == len(listed)


def test_says_that_npm_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["fonts", str(tmp_path / "fonts")])
    with pytest.raises(EdgeMnistError, match="npm"):
        fonts.main()
    assert not (tmp_path / "fonts").exists()
