"""The document that holds what commands print."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

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
"""


def fill(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "fill.py"), str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def test_what_commands_print_is_put_in_its_place_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT)
    assert fill(path).returncode == 0
    expected = DOCUMENT.replace("what stood here before\n", "a table\n\nof two lines\n")
    expected = expected.replace("$ echo more\n", "$ echo more\nmore\n")
    assert path.read_text() == expected
    assert fill(path).returncode == 0 and path.read_text() == expected


def test_a_command_that_fails_leaves_the_document_alone(tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT.replace("echo more", "exit 3"))
    result = fill(path)
    assert result.returncode == 1 and result.stderr.endswith("exit 3: ended with status 3; nothing was written\n")
    assert "what stood here before" in path.read_text()
    path.write_text("nothing\n")
    assert "holds no code block of the language console" in fill(path).stderr


def test_the_benchmarks_have_a_command_for_each_table() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    commands = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    assert [command.split()[:2] for command in commands] == [
        ["edge-mnist", "export"],
        ["edge-mnist", "bench"],
        ["make", "--silent"],
    ]
