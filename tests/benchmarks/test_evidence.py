"""The figures and pictures of the documents say which networks they were made with: the shipped ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import evidence
from edge_mnist import pretrained

ROOT = evidence.ROOT

SHIPPED = sorted(path.name for path in pretrained.SHIPPED.parent.glob("*.*") if path.suffix != ".py")

STALE: dict[tuple[str, str], str] = {}
"""What shows networks that are no longer shipped, by document and by command, table or picture, with the reason why it
is not renewed yet. It should be empty in a release."""

SETTINGS = {
    "docs/bit-exactness.md": ("what may differ", "mode", "tool", "what"),
    "docs/c-export.md": ("kernels",),
    "docs/comparison.md": ("network",),
    "docs/demo.md": ("what",),
    "docs/model-cards.md": ("reads",),
    "docs/raspberry-pi.md": ("what you see",),
    "docs/reading.md": ("format",),
    "docs/training.md": ("name", "option", "file", "augmentation"),
}
"""Tables that hold settings, versions and limits rather than measured figures, by document and the first cell of their
header."""

WRITTEN = {"docs/experiments.md"}
"""Documents that a command writes as a whole, from networks that it trains itself."""

DOCUMENT = """# Title

```console
$ printf 'a table  \\n\\nof two lines\\n\\n'
what stood here before
```

```python
$ echo not a console
```

```console
$ echo more
```

*Made with edge-mnist 0.0.1 and digitnet_int8.tflite 000000000000.*

The end.
"""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "COMMANDS", {"printf ": (), "echo ": evidence.DIGITNET, "exit ": ()})


@pytest.mark.usefixtures("commands")
def test_what_commands_print_is_put_in_its_place_with_a_stamp(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT)
    evidence.fill(path)
    none, digitnet = evidence.make_stamp(()), evidence.make_stamp(evidence.DIGITNET)
    expected = DOCUMENT.replace("what stood here before\n```\n", f"a table\n\nof two lines\n```\n\n{none}\n")
    expected = expected.replace("$ echo more\n", "$ echo more\nmore\n")
    expected = expected.replace("*Made with edge-mnist 0.0.1 and digitnet_int8.tflite 000000000000.*", digitnet)
    assert path.read_text() == expected
    evidence.fill(path)
    assert path.read_text() == expected


@pytest.mark.usefixtures("commands")
def test_a_command_that_fails_leaves_the_document_alone(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT.replace("echo more", "exit 3"))
    with pytest.raises(SystemExit, match="exit 3: ended with status 3; nothing was written"):
        evidence.fill(path)
    assert "what stood here before" in path.read_text()
    path.write_text("nothing\n")
    with pytest.raises(SystemExit, match="holds no code block of the language console"):
        evidence.fill(path)


def test_a_picture_keeps_its_stamp(tmp_path: Path) -> None:
    for name, options in {"demo.png": {}, "reading.jpg": {}, "demo.webp": {"save_all": True}}.items():
        evidence.save_picture(Image.new("RGB", (8, 8)), tmp_path / name, **options)
        assert evidence.read_stamp(tmp_path / name) == evidence.make_stamp(evidence.READER)
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    assert evidence.read_stamp(tmp_path / "other.png") == ""


def test_what_is_renewed_by_hand_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    old = "*Made with edge-mnist 0.0.1 and digitnet_int8.tflite 000000000000.*"
    path.write_text(
        f"{evidence.make_stamp(evidence.DIGITNET)}\n{old}\n{evidence.make_stamp(())}\n{old.replace('Made', 'M')}"
    )
    assert evidence.list_old_stamps(path) == [old]


def test_a_document_or_picture_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_MNIST_DATA", "anywhere")
    with pytest.raises(SystemExit, match="docs/nothing.md: neither a document nor one of the pictures"):
        evidence.main("docs/nothing.md")


def list_evidence() -> Iterator[tuple[str, str, str, tuple[str, ...] | None]]:
    """What the documents show: the document, a command, picture or table, its stamp, and the networks that it uses.

    The networks are None where no command makes it.
    """
    for path in evidence.list_documents():
        document, text = path.relative_to(ROOT).as_posix(), path.read_text("utf-8")
        if document in WRITTEN:
            assert "This command writes this document" in text
            continue
        for block in evidence.BLOCK.finditer(text):
            yield document, block["command"], block["stamp"] or "", evidence.find_networks(block["command"])
        for picture in evidence.PICTURE.finditer(text):
            name = (path.parent / picture["target"]).resolve().relative_to(ROOT).as_posix()
            yield document, name, picture["stamp"] or "", evidence.PICTURES.get(name, ("", None))[1]
        for table in re.finditer(r"^(?P<rows>(?:\|.*\|\n)+)(?:\n(?P<stamp>\*M.+\*)\n)?", text, re.MULTILINE):
            rows = table["rows"].splitlines()
            title = rows[0].strip("| ").split(" | ")[0].strip() or rows[2].strip("| ").split(" | ")[0]
            cells = re.sub(r"`[^`]*`|\([^)]*\)", "", "\n".join(rows[2:]))  # without code and links
            if re.search(r"\d\.\d|\d,\d{3}|\d ?%", cells) and title not in SETTINGS.get(document, ()):
                yield document, title, table["stamp"] or "", None


EVIDENCE = [SimpleNamespace(document=d, what=w, stamp=s, networks=n) for d, w, s, n in list_evidence()]


def test_everything_that_is_measured_has_a_stamp() -> None:
    assert [f"{item.document}: {item.what}" for item in EVIDENCE if not evidence.STAMP.fullmatch(item.stamp)] == []


def test_a_stamp_is_below_the_whole_of_a_table() -> None:
    for path in evidence.list_documents():
        assert not re.search(r"^\*M.+\*\n+(\||\*M|```$)", path.read_text("utf-8"), re.MULTILINE), path.name


def is_current(item: SimpleNamespace) -> bool:
    """Whether something was made with the networks that are shipped, or is the record of what was measured once."""
    found = evidence.STAMP.fullmatch(item.stamp)
    if found is None:
        return False
    if item.networks is not None:
        return found["kind"] == "Made" and found["networks"] == evidence.describe_networks(item.networks)
    if found["kind"] != "Made":
        return True
    return set(evidence.list_networks(found)) <= {f"{name} {evidence.hash_network(name)}" for name in SHIPPED}


def test_nothing_shows_a_network_that_is_no_longer_shipped() -> None:
    stale = {(item.document, item.what) for item in EVIDENCE if not is_current(item)}
    assert sorted(stale - set(STALE)) == [], "renew it: make evidence ONLY=docs/NAME"
    assert sorted(set(STALE) - stale) == [], "it is renewed: take it off the list"


def test_a_picture_says_the_same_as_its_document() -> None:
    for item in EVIDENCE:
        if item.what in evidence.PICTURES:
            assert evidence.read_stamp(ROOT / item.what) == item.stamp, f"{item.document}: {item.what}"
