"""Called from Python, the package only logs: even on a terminal nothing is drawn and nothing is printed."""

from __future__ import annotations

import logging

import pytest

from edge_mnist.system import progress


def work() -> None:
    with progress.show_step("reading"), progress.show_fraction() as show:
        show("half of it", 0.5)
        logging.getLogger("edge_mnist.somewhere").warning("a note")
    with progress.repeat_steps():
        pass


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_drawn_outside_a_command(
    terminal: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_is_terminal", lambda: terminal)
    assert not progress.is_live()
    work()
    assert capfd.readouterr() == ("", "")
    with progress.report_to_stderr():
        assert progress.is_live() == terminal
        work()
    output, errors = capfd.readouterr()
    assert output == "" and "a note" in errors


def test_steps_can_be_followed_through_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edge_mnist"):
        work()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:3] == ["reading", "half of it, 50% of the time", "a note"]
