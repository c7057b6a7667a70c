"""What the figures of the reader are made of: how errors are counted, which pictures are shown, what is moved."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

cv2 = pytest.importorskip("cv2")

from benchmarks import finding, reading, reading_peers, reading_sensitivity  # noqa: E402
from benchmarks.reading import Case, Score, errors  # noqa: E402
from edge_mnist import runtime  # noqa: E402
from edge_mnist.data import strokes  # noqa: E402
from edge_mnist.demo.reading import finder  # noqa: E402
from edge_mnist.demo.reading.reader import ReaderParameters  # noqa: E402
from edge_mnist.pretrained import SHIPPED_INT8  # noqa: E402
from edge_mnist.training.finder.pages import Picture  # noqa: E402

BLANK = np.full((60, 80), 255, np.uint8)


def case(*lines: str, ordered: bool = True) -> Case:
    return Case("group", "name", BLANK, list(lines), ordered)


@pytest.fixture(scope="module")
def written() -> Picture:
    """A small page with the line 407, of drawn digits 30 pixels high."""
    drawn = strokes.draw(200, seed=1)
    frame = np.full((90, 160), 235, np.uint8)
    boxes = []
    for place, label in enumerate((4, 0, 7)):
        image = drawn.images[int(np.flatnonzero(drawn.labels == label)[0])]
        x, y, width, height = cv2.boundingRect((image > 40).astype(np.uint8))
        ink = cv2.resize(image[y : y + height, x : x + width], None, fx=1.5, fy=1.5)
        left = 30 + 35 * place
        part = frame[30 : 30 + len(ink), left : left + ink.shape[1]]
        part[:] = np.minimum(part, 255 - ink)
        boxes.append((left, 30, left + ink.shape[1], 30 + len(ink)))
    return Picture("lines", frame, np.array([4, 0, 7]), np.array(boxes, np.float32), np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("read", "lines", "ordered", "wrong", "with_doubtful"),
    [
        (["12", "3"], ["123"], True, 0, 0),
        (["1?3"], ["123"], True, 0, 1),
        (["123?"], ["123"], True, 0, 1),
        (["1?"], ["1234"], True, 2, 3),
        (["321"], ["123"], True, 2, 2),
        (["321"], ["123"], False, 0, 0),
        (["32?"], ["123"], False, 0, 1),
        (["3217?"], ["123"], False, 1, 2),
        (["8"], [], True, 1, 1),
        (["?"], [], False, 0, 1),
    ],
)
def test_a_doubtful_digit_is_no_error_or_one(
    read: list[str], lines: list[str], ordered: bool, wrong: int, with_doubtful: int
) -> None:
    assert errors(read, case(*lines, ordered=ordered)) == wrong
    assert errors(read, case(*lines, ordered=ordered), doubtful_is_wrong=True) == with_doubtful


def test_a_score_counts_what_is_invented_where_nothing_is_written() -> None:
    score = Score()
    for lines, truth in ((["12"], ["12"]), (["1?"], ["12"]), (["7", "41?"], []), ([], []), (["?"], [])):
        score.add(lines, case(*truth))
    assert score == Score(
        frames=5, digits=4, wrong=3, wrong_or_doubtful=6, doubtful=3, right=2, invented=3, disturbed=1
    )


def test_on_drawn_pages_each_digit_is_compared_with_the_one_at_its_place(written: Picture) -> None:
    counts = finding.compare(written, (), ())
    assert counts == Counter(digits=3, missed=3)


def test_all_photographs_of_a_folder_are_read_and_the_worst_are_shown(
    written: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [("pages/a.png", ["9999999"], "a sheet"), ("pages/b.png", ["407"], "on a desk"), ("blank/c.png", [], "")]
    for path, _, _ in entries:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), BLANK if "blank" in path else written.frame)
    truth = tmp_path / "truth.json"
    rows = [{"path": path, "lines": lines, "kind": kind, "order_defined": True} for path, lines, kind in entries]
    truth.write_text(json.dumps(rows))
    command = ["reading", str(truth), "--pictures", str(tmp_path / "pictures")]
    monkeypatch.setattr(sys, "argv", [*command, "--json"])
    reading.main()
    groups = json.loads(capsys.readouterr().out)["photographs"]
    assert {name: (row["frames"], row["digits"]) for name, row in groups.items()} == {
        "pages": (1, 7), "desks": (1, 3), "empty cells": (1, 0)
    }  # fmt: skip
    assert groups["pages"]["wrong"] >= 4
    assert (tmp_path / "pictures/pages.jpg").exists() and not (tmp_path / "pictures/empty-cells.jpg").exists()
    monkeypatch.setattr(sys, "argv", [*command, "--moved"])
    reading.main()
    printed = capsys.readouterr().out
    assert "empty cells" in printed and "desks" in printed and "median ms: finding" in printed
    moved = printed[printed.index("photographs, moved") :]
    assert "empty cells" not in moved and "mean with ?" in moved


def test_what_changes_where_frames_are_moved_is_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    scores = [Score(frames=1, digits=10, wrong=wrong, wrong_or_doubtful=wrong + 1) for wrong in (1, 2, 3, 7)]
    reading.print_moved("moved", {"pages": scores[0]}, [{"pages": score} for score in scores[1:]])
    row = next(line for line in capsys.readouterr().out.splitlines() if "pages" in line)
    cells = ["pages", "10", "1", "2", "4.0 (40.00%)", "7", "5.0 (50.00%)"]
    assert [cell.strip() for cell in row.strip("│").split("│")] == cells


def test_pictures_show_only_the_worst_frames(written: Picture, tmp_path: Path) -> None:
    worst = reading.Worst()
    read = reading.Reader().read(written.frame)
    for wrong in (0, 3, 1, *[2] * 10):
        worst.add("A group", wrong, written.frame, "407", read)
    assert [row[0] for row in worst._groups["A group"]] == [3, 2, 2, 2, 2, 2]
    worst.save(tmp_path)
    picture = cv2.imread(str(tmp_path / "a-group.jpg"))
    assert picture.shape[1] == 3 * reading.WIDTH


def test_a_picture_source_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (([], "expected TRUTH.json"), (["--pages", "judge"], "need --fonts")):
        monkeypatch.setattr(sys, "argv", ["reading", *arguments])
        with pytest.raises(SystemExit) as stopped:
            reading.main()
        assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_every_constant_of_the_reader_is_moved() -> None:
    constants = {one.name: one for one in reading_sensitivity.list_constants()}
    usual = ReaderParameters()
    for part in ("crops", "layout"):
        assert {f"{part}.{one.name}" for one in fields(getattr(usual, part))} <= set(constants)
    assert {"least", "looks", "reader.THRESHOLD", "finder.OVERLAP", "finder.INSIDE", "layout.AGREE"} <= set(constants)
    for one in constants.values():
        less, more = one.moved(0.8), one.moved(1.2)
        assert less < one.value < more and type(less) is type(more) is type(one.value)


def test_a_constant_is_moved_for_its_turn_only() -> None:
    network = runtime.load(SHIPPED_INT8)
    constants = {one.name: one for one in reading_sensitivity.list_constants()}
    before = finder.OVERLAP
    with reading_sensitivity.moved_reader(constants["finder.OVERLAP"], 1.2, network, network):
        assert pytest.approx(1.2 * before) == finder.OVERLAP
    assert before == finder.OVERLAP
    with reading_sensitivity.moved_reader(constants["crops.ink"], 0.8, network, network) as own:
        assert own.parameters.crops.ink == pytest.approx(0.8 * ReaderParameters().crops.ink)
    with reading_sensitivity.moved_reader(constants["reader.THRESHOLD"], 0.8, network, network) as own:
        assert own.threshold == pytest.approx(0.8 * reading.THRESHOLD)


class Counting:
    """Counts the images that a network is given."""

    count = 0

    def outputs(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.count += len(images)
        return images.reshape(len(images), -1)[:, :3]

    def dequantize(self, outputs: NDArray[np.uint8]) -> NDArray[np.float32]:
        return outputs.astype(np.float32)


def test_known_answers_cost_no_run_and_only_those_of_the_first_pass_are_kept() -> None:
    network = Counting()
    known = reading_sensitivity.KnownAnswers(network)  # type: ignore[arg-type]
    images = np.random.RandomState(0).randint(0, 256, (5, 4, 4), dtype=np.uint8)
    assert np.array_equal(known.logits(images[:3]), images.reshape(5, -1)[:3, :3])
    assert np.array_equal(known.logits(images[[4, 1]]), images.reshape(5, -1)[[4, 1], :3])
    assert network.count == 4
    known.keeps = False
    known.logits(images[3:4])
    known.logits(images[3:4])
    assert network.count == 6


def test_sensitivity_says_by_how_much_the_error_rate_changes(
    written: Picture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [one for one in reading_sensitivity.list_constants() if one.name in ("most", "reader.THRESHOLD")]
    monkeypatch.setattr(reading_sensitivity, "list_constants", lambda: chosen)
    monkeypatch.setattr(reading_sensitivity, "FACTORS", (0.001, 1.47))
    reading_sensitivity.print_table([written])
    printed = capsys.readouterr().out
    assert "1 pages, 3 digits" in printed
    usual, rows = reading_sensitivity.measure([written])
    by_name = {constant.name: row for constant, row in rows}
    assert by_name["most"][0] == (1.0, 1), "without any digit all are missed"
    assert by_name["most"][1] == (usual, 0)
    assert by_name["reader.THRESHOLD"][1] == (1.0, 1), "nothing is so certain"


def test_only_digits_of_other_tools_count_and_small_pictures_are_enlarged() -> None:
    assert reading_peers.keep_digits(["a 1,2-3", "abc", "", " 45 "]) == ["123", "45"]
    assert reading_peers.enlarge(np.zeros((28, 28), np.uint8)).shape == (376, 376)
    assert reading_peers.enlarge(np.zeros((480, 640, 3), np.uint8)).shape == (480, 640, 3)


def test_of_each_tool_the_best_way_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tools = {
        "edge-mnist": {"page": lambda frame: ["40?"]},
        "Other": {"page": lambda frame: ["4"], "line": lambda frame: ["40"]},
    }
    cases = [case("407"), case("40"), Case("empty", "", BLANK, [])]
    scores = reading_peers.measure(cases, tools, tmp_path / "answers.json")
    assert reading_peers.describe_errors(scores["group"]["Other"]) == "20.0% (line)"
    assert reading_peers.describe_errors(scores["group"]["edge-mnist"]) == "0.0%, with ? 40.0%"
    assert reading_peers.describe_errors(scores["empty"]["Other"]) == "1.00 a frame (page) to 2.00 a frame (line)"
    assert reading_peers.describe_right(scores["group"]["Other"]) == "50.0% (line)"
    assert reading_peers.describe_right(scores["group"]["edge-mnist"]) == "0.0%", "a doubtful digit is not right"
    reading_peers.print_groups("title", scores, reading_peers.describe_right)
    assert "50.0% (line)" in capsys.readouterr().out


def test_other_tools_are_asked_once_for_each_picture_and_ours_always(tmp_path: Path) -> None:
    asked: list[str] = []

    def open_tool(name: str) -> reading_peers.ReadLines:
        def read(frame: NDArray[np.uint8]) -> list[str]:
            asked.append(name)
            if name == "page" and frame.min() == 7:
                raise KeyboardInterrupt
            return [f"no. {frame.min()}"]

        return read

    def measure(*greys: int, tool: str = "Other 1.0") -> tuple[list[str], int]:
        """Who was asked about pictures on which 255 is written, and how many digits the tool read wrongly."""
        asked.clear()
        cases = [Case("group", "name", np.full((60, 80), grey, np.uint8), ["255"]) for grey in greys]
        tools = {reading_peers.OURS: {"page": open_tool("ours")}, tool: {"page": open_tool("page")}}
        tools[tool]["line"] = open_tool("line")
        scores = reading_peers.measure(cases, tools, tmp_path / "answers.json")["group"]
        assert scores[tool]["page"] == scores[tool]["line"]
        return asked.copy(), scores[tool]["page"].wrong

    assert measure(255) == (["ours", "page", "line"], 0)
    assert measure(255) == (["ours"], 0), "the answers are kept"
    assert measure(254) == (["ours", "page", "line"], 1), "the picture is another one"
    assert measure(254, 255) == (["ours", "ours"], 1)
    assert measure(255, tool="Other 1.1") == (["ours", "page", "line"], 0), "the tool is another one"
    with pytest.raises(KeyboardInterrupt):
        measure(8, 7, tool="Other 1.0")
    assert measure(8) == (["ours", "line"], 3), "a run that was interrupted goes on"
    turned = [Case("group", "name", BLANK.T, ["255"])]
    asked.clear()
    reading_peers.measure(turned, {"Other 1.0": {"page": open_tool("page")}}, tmp_path / "answers.json")
    assert asked == ["page"], "the same bytes in another shape are another picture"
