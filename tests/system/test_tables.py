"""Tables: no number and no name is cut, whatever the width."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge_mnist.system.tables import make_console, make_table, print_table

WORDS = st.text("abc0123456789,._-", min_size=1, max_size=30)
ROWS = st.lists(st.tuples(WORDS, st.lists(WORDS, max_size=4).map(" ".join), WORDS, WORDS), min_size=1, max_size=4)


@given(ROWS, st.integers(20, 140))
def test_each_value_is_printed_whole(rows: list[tuple[str, ...]], width: int) -> None:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    table = make_table("A title", ("file", "runtime"), ("bytes", "off by\nat most"), wraps=("runtime",))
    for row in rows:
        table.add_row(*row)
    print_table(table, console)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue().split()
    for file, runtime, *numbers in rows:
        for value in (file, *runtime.split(), *numbers):
            assert value in printed


def test_a_pipe_has_room_for_any_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = make_table("", ("file", "runtime"), ("bytes",), wraps=("runtime",))
    table.add_row("x" * 200, "a runtime of many words " * 10, "142,987")
    print_table(table, make_console())
    _heading, rule, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["x" * 200, *("a runtime of many words " * 10).split(), "142,987"] and len(rule) == len(row)


def test_what_to_install_is_printed_with_its_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    make_console().print("not run: torch is not installed: pip install '.[train]'")
    assert "pip install '.[train]'" in capsys.readouterr().out
