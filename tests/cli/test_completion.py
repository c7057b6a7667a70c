"""The lines of docs/shell-completion.md, in the shells that are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINES = dict(
    (re.findall(r"=(\w+)_source", line)[0], line)
    for line in re.findall(
        r"^    (.*_source edge-mnist(?:\)\"| \| source))$",
        (ROOT / "docs" / "shell-completion.md").read_text(),
        re.MULTILINE,
    )
)
ASK = {
    # a shell: what asks for the completions of the words "edge-mnist", WORDS..., after the line of the docs
    "bash": 'COMPREPLY=(); COMP_WORDS=(edge-mnist {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); '
    '_edge_mnist_completion edge-mnist; printf "%s\\n" "${{COMPREPLY[@]}}"; complete -p edge-mnist >&2',
    "zsh": "compadd() {{ print -l -- ${{(P)@[-1]}} }}; _describe() {{ print -l -- ${{(P)3}} }}; "
    "words=(edge-mnist {words}); CURRENT=$#words; _edge_mnist_completion",
    "fish": "complete --do-complete 'edge-mnist {words}'",
}  # fmt: skip
EXPECTED = {
    # words: what they are completed to
    "de": {"demo"},
    "demo --mqtt": {"--mqtt", "--mqtt-discovery"},
    "demo --view w": {"window", "web"},
    "demo --conf": {"--config"},
}
BEFORE = {"zsh": "autoload -U compinit; compinit -u; "}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which this checkout is the command edge-mnist."""
    program = tmp_path / "edge-mnist"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m edge_mnist "$@"\n')
    program.chmod(0o755)
    paths = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **paths, "HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_a_script_for_each_shell(shell: str, environment: dict[str, str]) -> None:
    variables = {**environment, "_EDGE_MNIST_COMPLETE": f"{shell}_source"}
    script = subprocess.run(["edge-mnist"], env=variables, capture_output=True, text=True, check=True).stdout
    assert "_EDGE_MNIST_COMPLETE" in script and "edge-mnist" in script and f"{shell}_complete" in script
    assert LINES.keys() == {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_docs_completes_commands_options_and_values(shell: str, environment: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = BEFORE.get(shell, "") + LINES[shell]
    for words in EXPECTED:
        script += f"\necho NEXT; {ASK[shell].format(words=words)}"
    result = subprocess.run([shell, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    answers = result.stdout.split("NEXT\n")[1:]
    found = [{re.split(r"[\t:]", line)[0] for line in answer.split("\n") if line} for answer in answers]
    assert found == list(EXPECTED.values()), result.stderr
