"""The four experiments through the real command, on a few drawn digits: the report shows what was measured."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from edge_mnist.cli.commands import main
from edge_mnist.training.published_study import EXPERIMENTS, INTERPRETATIONS
from edge_mnist.training.recipes import RECIPES
from tests.support.digits import idx, put_digits


def row(report: str, *starts: str) -> list[str]:
    """Return the cells that follow `starts` in the first row of a table that begins with them."""
    start = "| " + " | ".join(starts) + " |"
    line = next(line for line in report.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line[len(start) :].strip(" |").split("|")]


@pytest.mark.slow
def test_experiments_run_resume_and_report_what_they_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = put_digits(tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def run(*options: str, status: int = 0) -> str:
        command = ["experiments", "--epochs", "2", "--workers", "1", "--device", "cpu", "--data", str(data), *options]
        monkeypatch.setattr(sys, "argv", ["edge-mnist", *command])
        if status:
            with pytest.raises(SystemExit) as caught:
                main()
            assert caught.value.code == status
        else:
            main()
        return capsys.readouterr().err

    run("--seeds", "1", "--no-readings")
    runs = Path("runs/experiments")
    assert sorted(folder.name for folder in runs.iterdir()) == sorted(item.folder_name(0) for item in EXPERIMENTS)
    first = (runs / "sgd-fixed-seed-0" / "state.safetensors").stat().st_mtime_ns
    assert "How the study is interpreted" in Path("docs/experiments.md").read_text()
    assert "holds runs, or other files: go on with them with --resume" in run("--seeds", "2", status=2)

    errors = run("--seeds", "2", "--resume")
    assert "run 1 of 13: sgd-onecycle-seed-0, done\n" in errors and "run 13 of 13: adamw-onecycle-seed-1\n" in errors
    assert (runs / "sgd-fixed-seed-0" / "state.safetensors").stat().st_mtime_ns == first
    assert sum(1 for _ in runs.iterdir()) == 2 * len(EXPERIMENTS) + len(INTERPRETATIONS)

    report = Path("docs/experiments.md").read_text()
    assert Path("docs/experiments.png").read_bytes().startswith(b"\x89PNG")
    assert "    edge-mnist experiments --seeds 2 --epochs 2\n" in report and "256 training images" in report
    for item in EXPERIMENTS:
        lines = [(runs / item.folder_name(seed) / "metrics.jsonl").read_text().splitlines() for seed in (0, 1)]
        tests = [[100 * json.loads(line)["test_accuracy"] for line in seed] for seed in lines]
        cells = row(report, f"`{item.recipe}`")
        last, best = [test[-1] for test in tests], [max(test) for test in tests]
        assert cells[0] == f"**{statistics.mean(last):.2f} ± {statistics.stdev(last):.2f}**"
        assert cells[1] == f"{last[0]:.2f}, {last[1]:.2f}"
        assert cells[2] == f"{statistics.mean(best):.2f} ± {statistics.stdev(best):.2f}"
        assert cells[3] == f"{item.best:.2f}" and cells[5] == str(item.epochs_to_99)
    for item in INTERPRETATIONS:
        first_epoch = json.loads((runs / item.folder_name / "metrics.jsonl").read_text().splitlines()[0])
        pair = f"{100 * first_epoch['train_accuracy']:.2f} / {100 * first_epoch['test_accuracy']:.2f}"
        assert row(report, f"`{item.recipe}`", item.title)[0] == pair

    other = put_digits(tmp_path / "other", labels=idx(np.zeros(256, np.uint8)))
    assert "was trained with other images" in run("--seeds", "1", "--resume", "--data", str(other), status=2)
    monkeypatch.setitem(RECIPES, "adam-onecycle", RECIPES["quick"])
    assert "was started with other settings" in run("--seeds", "1", "--resume", status=2)
