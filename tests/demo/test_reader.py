"""The reader: what is written is read wherever, however large, tilted and lit it is; what is not written is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

from benchmarks.reading import Case, distance, errors  # noqa: E402
from benchmarks.reading_pictures import desk  # noqa: E402
from edge_mnist.data import mnist, strokes  # noqa: E402
from edge_mnist.demo.reading import layout  # noqa: E402
from edge_mnist.demo.reading.reader import THRESHOLD, Digit, Reader, Reading, _turn  # noqa: E402
from edge_mnist.demo.sources import scenes, surroundings  # noqa: E402
from edge_mnist.runtime import softmax  # noqa: E402
from edge_mnist.system.errors import UsageError  # noqa: E402
from tests.support.demos import draw_doubtful_number  # noqa: E402

READER = Reader()
DRAWN = strokes.draw(3000, 11)
CHANCES = softmax(READER.classifier.logits(DRAWN.images))[np.arange(len(DRAWN.labels)), DRAWN.labels]


def written(numbers: list[str], height: int, *, size: tuple[int, int], gap: float = 0.35) -> np.ndarray:
    """A grey sheet, uint8 (H, W), on which digits that DigitNet reads are written, in lines."""
    ink = np.zeros(size[::-1], np.float32)
    labels = np.where(CHANCES > 0.95, DRAWN.labels, -1)
    for row, number in enumerate(numbers):
        x, y = height // 2, round(height * (0.4 + 1.6 * row))
        for place, digit in enumerate(number):
            image = DRAWN.images[np.flatnonzero(labels == int(digit))[7 * row + place]]
            line = scenes._pen(image, height, 0.9)
            ink[y : y + line.shape[0], x : x + line.shape[1]] = line
            x += line.shape[1] + round(gap * height)
    return np.rint(225 - 180 * ink).astype(np.uint8)


NUMBERS = ["3141", "59265"]


@pytest.mark.parametrize("height", [14, 40, 120, 300])
def test_numbers_of_any_size_are_read(height: int) -> None:
    sheet = written(NUMBERS, height, size=(8 * height, 4 * height))
    assert READER.read(sheet).lines == tuple(NUMBERS)


@pytest.mark.parametrize(
    "change",
    [
        lambda sheet: cv2.cvtColor(sheet, cv2.COLOR_GRAY2BGR),
        lambda sheet: 255 - sheet,
        lambda sheet: (sheet * np.linspace(0.35, 1, sheet.shape[1])).astype(np.uint8),
        lambda sheet: cv2.GaussianBlur(sheet, (0, 0), 1.5),
        lambda sheet: (225 - 0.25 * (225 - sheet.astype(float))).astype(np.uint8),
        lambda sheet: cv2.copyMakeBorder(sheet, 60, 90, 70, 50, cv2.BORDER_CONSTANT, value=35),
        lambda sheet: _turn(sheet, 30)[0],
        lambda sheet: _turn(sheet, -35)[0],
    ],
    ids=["colour", "light on dark", "falling light", "blurred", "faint", "on a desk", "turned", "turned back"],
)
def test_light_pens_and_tilt_change_nothing(change: object) -> None:
    sheet = written(NUMBERS, 60, size=(560, 320))
    assert READER.read(change(sheet)).lines == tuple(NUMBERS)  # type: ignore[operator]


def test_ruled_paper_is_read_through() -> None:
    sheet = written(NUMBERS, 60, size=(560, 320))
    for y in range(20, 320, 45):
        sheet[y : y + 2] = np.minimum(sheet[y : y + 2], 120)
    assert READER.read(sheet).lines == tuple(NUMBERS)


def test_touching_digits_are_parted_and_a_comma_is_no_digit() -> None:
    sheet = written(["480"], 60, size=(300, 120), gap=-0.08)
    assert READER.read(sheet).lines == ("480",)
    sheet = written(["48"], 60, size=(300, 120), gap=0.6)
    cv2.line(sheet, (92, 80), (86, 95), 45, 6)
    assert READER.read(sheet).lines == ("48",)


def test_boxes_are_where_the_digits_are_in_the_frame() -> None:
    sheet = written(["27"], 60, size=(300, 140))
    upright = READER.read(sheet).digits
    large = READER.read(cv2.resize(sheet, None, fx=9, fy=9, interpolation=cv2.INTER_CUBIC)).digits
    for one, other in zip(upright, large, strict=True):
        assert np.abs(np.array(one.box) - np.array(other.box) / 9).max() <= 3
    assert all(digit.image.shape == (28, 28) and 0 <= digit.confidence <= 1 for digit in upright)


def test_a_digit_cut_to_its_28_pixels_is_read_in_either_polarity() -> None:
    images, labels = DRAWN.images[:60], DRAWN.labels[:60]
    for shown in (images, 255 - images):
        right = [READER.read(image).lines == (str(label),) for image, label in zip(shown, labels, strict=True)]
        assert np.mean(right) >= 0.9


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (480, 640), (63, 64), (20, 2500)])
def test_where_nothing_is_written_nothing_is_read(shape: tuple[int, int]) -> None:
    for level in (0, 90, 255):
        assert READER.read(np.full(shape, level, np.uint8)).lines == ()


def test_paper_desks_and_noise_hold_no_numbers() -> None:
    random = np.random.RandomState(3)
    found = []
    for _ in range(4):
        for ground in (surroundings.plain, surroundings.desk):
            picture, _ = surroundings.light(random, ground(random, 640, 480), np.zeros((0, 2), np.float32))
            found.append(READER.read(surroundings.sensor(random, picture)).lines)
        found.append(READER.read(random.randint(0, 256, (480, 640, 3), np.uint8)).lines)
    assert sum(map(len, found)) <= 1, found


def test_scenes_are_read() -> None:
    """Of each condition but the hardest some; the benchmark has the figures."""
    digits = mnist.Digits(DRAWN.images, DRAWN.labels, "strokes", "")
    wrong = total = 0
    for number, name in enumerate(("plain", "faint", "marker", "small", "ruled", "shadow", "webcam", "chalk")):
        scene = scenes.render(np.random.RandomState(number), digits, scenes.STYLES[name])
        found, expected = READER.read(scene.frame).lines, scene.lines
        total += sum(map(len, expected))
        wrong += sum(
            abs(len(a) - len(b)) + sum(x != y for x, y in zip(a, b, strict=False))
            for a, b in zip(found, expected, strict=False)
        )
        wrong += sum(map(len, expected[len(found) :]))
    assert total > 60 and wrong / total < 0.15


def test_reading_twice_gives_the_same() -> None:
    sheet = written(NUMBERS, 60, size=(560, 320))
    first, second = READER.read(sheet), Reader().read(sheet)
    assert [digit.box for digit in first.digits] == [digit.box for digit in second.digits]
    assert [digit.confidence for digit in first.digits] == [digit.confidence for digit in second.digits]
    assert first.milliseconds["total"] >= first.milliseconds["network"] > 0


@pytest.mark.parametrize("degrees", [-160, -90, -50, 25, 60, 90, 135])
def test_a_page_may_be_turned_by_any_angle_and_boxes_are_in_the_frame(degrees: int) -> None:
    sheet = written(["27453", "31698"], 60, size=(520, 320))
    turned, back = _turn(sheet, degrees)
    upright, found = READER.read(sheet), READER.read(turned)
    assert upright.lines == found.lines == ("27453", "31698")
    for one, other in zip(upright.digits, found.digits, strict=True):
        x, y, width, height = other.box
        middle = back @ (x + width / 2, y + height / 2, 1)
        left, top, across, down = one.box
        assert left <= middle[0] <= left + across and top <= middle[1] <= top + down


@pytest.mark.parametrize("degrees", [-60.0, 45.0, 90.0])
def test_a_tilt_that_the_boxes_only_seem_to_show_changes_nothing(
    degrees: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = written(["27453", "31698"], 60, size=(520, 320))
    monkeypatch.setattr(layout, "_vote", lambda *arguments: degrees)
    assert READER.read(sheet).lines == ("27453", "31698")


def predict(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "edge_mnist", "predict", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=Path(__file__).parents[2], timeout=60)


def test_lines_of_a_sheet_that_lies_askew_keep_their_order() -> None:
    left, right = (written([number], 50, size=(260, 100)) for number in ("314", "592"))
    sheet = np.full((420, 900), 225, np.uint8)
    sheet[100:200, 40:300] = left
    sheet[200:300, 600:860] = right
    for degrees in (-12, 0, 12):
        assert READER.read(_turn(sheet, degrees)[0]).lines == ("314", "592")


def test_predict_reads_files_folders_and_standard_input(tmp_path: Path) -> None:
    sheet = written(NUMBERS, 60, size=(560, 320))
    _, png = cv2.imencode(".png", sheet)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "page.png").write_bytes(png.tobytes())
    (tmp_path / "in" / "broken.jpg").write_bytes(png.tobytes()[:200])
    done = predict(tmp_path / "in" / "page.png")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"3141\n59265\n", b"")
    assert predict("-", stdin=png.tobytes()).stdout == b"3141\n59265\n"
    crops, marked = tmp_path / "crops", tmp_path / "marked"
    done = predict(tmp_path / "in", "--json", "--annotate", marked, "--save-digits", crops)
    assert done.returncode == 1
    assert (
        done.stderr.decode().count("\n") == 1 and "broken.jpg: is not an image that can be read" in done.stderr.decode()
    )
    (line,) = done.stdout.decode().splitlines()
    facts = json.loads(line)
    assert facts["lines"] == NUMBERS and [digit["line"] for digit in facts["digits"]] == [0] * 4 + [1] * 5
    assert set(facts["digits"][0]) == {"label", "confidence", "box", "line", "place"}
    assert (marked / "page.png").exists()
    saved = sorted(path.parent.name for path in crops.glob("*/*.png"))
    assert saved == sorted("".join(NUMBERS))
    assert cv2.imread(str(next(crops.glob("3/*.png"))), cv2.IMREAD_UNCHANGED).shape == (28, 28)


def test_a_doubtful_digit_is_a_question_mark_in_its_place() -> None:
    sheet = written(["31415"], 60, size=(560, 160))
    sure = READER.read(sheet)
    bounds = sorted(digit.confidence for digit in sure.digits)
    doubting = Reader(threshold=(bounds[0] + bounds[1]) / 2).read(sheet)
    (unsure,) = doubting.unsure
    place = next(place for place, digit in enumerate(sure.digits) if digit.confidence == bounds[0])
    before, label, after = "31415"[:place], "31415"[place], "31415"[place + 1 :]
    assert doubting.lines == (f"{before}?{after}",) and unsure.box == sure.digits[place].box and unsure.place == place
    assert doubting.doubtful() == {0: f"{before}({label}){after}"}
    assert sure.lines == ("31415",) and sure.doubtful() == {}


def test_numbers_of_a_line_have_a_space_between_them_where_a_person_reads_it() -> None:
    places = [("3", 0), ("1", 0), ("5", 1), ("8", 1), ("2", 1)]
    digits = [
        Digit(int(s), 0.9, (0, 0, 1, 1), 0, n, np.empty(0), number=number) for n, (s, number) in enumerate(places)
    ]
    reading = Reading((*digits[:3], digits[4]), (digits[3],), {})
    assert reading.doubtful() == {0: "31 5(8)2"} and reading.lines == ("315?2",)


def test_predict_hints_at_a_picture_that_may_be_upside_down(tmp_path: Path) -> None:
    path = tmp_path / "desk.png"
    cv2.imwrite(str(path), cv2.rotate(desk().frame, cv2.ROTATE_180))
    done = predict(path)
    assert " digits are doubtful; if the picture is turned, try --rotate 90, 180 or 270\n" in done.stderr.decode()
    done = predict(path, "--rotate", 180)
    assert done.stderr == b"" and done.stdout.decode().split() == list(desk().lines)


@pytest.mark.parametrize(
    ("sure", "unsure", "expected"), [(3, 1, False), (2, 2, True), (14, 2, True), (15, 2, False), (9, 0, False)]
)
def test_a_frame_may_be_turned_if_many_of_its_digits_are_doubtful(sure: int, unsure: int, expected: bool) -> None:
    digit = Digit(1, 0.9, (0, 0, 1, 1), 0, 0, np.empty(0))
    assert Reading((digit,) * sure, (digit,) * unsure, {}).may_be_turned is expected


def test_predict_prints_a_question_mark_for_a_doubtful_digit(tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    cv2.imwrite(str(path), draw_doubtful_number())
    done = predict(path)
    assert done.stdout == b"7?85\n" and done.returncode == 0
    facts = json.loads(predict(path, "--json", "--annotate", tmp_path / "marked").stdout)
    assert facts["lines"] == ["7?85"] and facts["complete"] == [False]
    assert [(digit["line"], digit["place"]) for digit in facts["unsure"]] == [(0, 1)]
    assert f"not sure: 7({facts['unsure'][0]['label']})85" in done.stderr.decode()
    assert [(digit["label"], digit["place"]) for digit in facts["digits"]] == [(7, 0), (8, 2), (5, 3)]


def test_the_desk_of_the_readme_is_read_as_it_is_written() -> None:
    root = Path(__file__).parents[2]
    scene = desk()
    picture = cv2.imread(str(root / "docs" / "desk.jpg"))
    assert picture.shape == scene.frame.shape
    assert np.abs(picture.astype(int) - scene.frame).mean() < 5  # it is the picture of that scene
    done = predict("docs/desk.jpg")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.decode().split() == list(scene.lines)
    assert (
        f"on which {', '.join(scene.lines[:-1])} and {scene.lines[-1]} are written" in (root / "README.md").read_text()
    )
    assert f"written on docs/desk.jpg: {' '.join(scene.lines)}'" in (root / "Makefile").read_text()


@pytest.mark.parametrize(
    ("found", "expected", "wrong"),
    [
        ("641937?6", "64193796", 0),
        ("641937?6", "6419376", 0),  # nothing is written there
        ("6419376", "64193796", 1),
        ("641?37?5", "64193796", 1),
        ("??", "1234", 2),
        ("", "12", 2),
        ("1?2", "", 2),
    ],
)
def test_a_doubtful_digit_is_not_counted_as_a_wrong_one(found: str, expected: str, wrong: int) -> None:
    assert distance(found, expected) == wrong
    digits = [Digit(int(sign), 0.9, (0, 0, 1, 1), 0, n, np.empty(0)) for n, sign in enumerate(found) if sign != "?"]
    unsure = [Digit(0, 0.4, (0, 0, 1, 1), 0, n, np.empty(0)) for n, sign in enumerate(found) if sign == "?"]
    case = Case("", "", np.empty(0), [expected], ordered=False)
    assert errors(Reading(tuple(digits), tuple(unsure), {}).lines, case) == wrong


def test_predict_turns_pictures_keeps_equal_names_apart_and_goes_on(tmp_path: Path) -> None:
    sheet = written(NUMBERS, 60, size=(560, 320))
    for folder in ("a", "b", "empty"):
        (tmp_path / folder).mkdir()
    for folder in ("a", "b"):
        cv2.imwrite(str(tmp_path / folder / "page.png"), np.rot90(sheet))
    places = [tmp_path / folder for folder in ("a", "empty", "b")]
    done = predict(*places, "--rotate", 90, "--annotate", tmp_path / "marked")
    assert done.returncode == 1 and b"empty: no images" in done.stderr
    assert done.stdout.decode().split() == [
        word for folder in ("a", "b") for number in NUMBERS for word in (f"{tmp_path / folder / 'page.png'}:", number)
    ]
    assert sorted(path.name for path in (tmp_path / "marked").iterdir()) == ["page-2.png", "page.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_predict_prints_a_name_that_is_not_utf8_as_it_is(tmp_path: Path) -> None:
    _, png = cv2.imencode(".png", written(["27"], 60, size=(300, 140)))
    for name in (b"\xff.png", b"a.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(png.tobytes())
    done = predict(tmp_path)
    folder = os.fsencode(tmp_path)
    assert (done.returncode, done.stdout) == (0, b"%b/a.png: 27\n%b/\xff.png: 27\n" % (folder, folder))


def test_a_reader_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UsageError, match="threshold 1.5: expected 0 to 1"):
        Reader(threshold=1.5)
    with pytest.raises(UsageError, match="invert True: expected auto, yes, no"):
        Reader(invert=True)  # type: ignore[arg-type]


def test_predict_never_writes_over_a_picture_that_it_is_given(tmp_path: Path) -> None:
    _, png = cv2.imencode(".png", written(["27"], 60, size=(300, 140)))
    path = tmp_path / "page.png"
    path.write_bytes(png.tobytes())
    done = predict(path, "--annotate", tmp_path)
    assert done.returncode == 2 and done.stderr.decode().count("\n") == 1
    assert f"would overwrite {path}: name another folder" in done.stderr.decode()
    assert path.read_bytes() == png.tobytes() and sorted(tmp_path.iterdir()) == [path]
    done = predict("")
    assert done.returncode == 2 and b"the name of a picture is empty" in done.stderr


def test_numbers_of_a_line_are_printed_with_a_space_between_them(tmp_path: Path) -> None:
    sheet = np.hstack([written([number], 60, size=(260, 140)) for number in ("27", "48")])
    _, png = cv2.imencode(".png", sheet)
    (tmp_path / "page.png").write_bytes(png.tobytes())
    assert predict(tmp_path / "page.png").stdout == b"27 48\n"
    assert json.loads(predict(tmp_path / "page.png", "--json").stdout)["lines"] == ["2748"]


def test_where_nothing_is_read_predict_says_that_the_picture_can_be_turned(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "page.png"), np.full((120, 160), 255, np.uint8))
    text = f"{tmp_path / 'page.png'}: no digits found with a confidence of {THRESHOLD} or more"
    done = predict(tmp_path / "page.png")
    assert done.stderr.decode() == f"{text}; if the picture is turned, try --rotate 90, 180 or 270\n"
    assert predict(tmp_path / "page.png", "--rotate", 90).stderr.decode() == f"{text}\n"


def test_what_predict_saves_is_what_train_extra_reads(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    from edge_mnist.data.user_digits import read_user_digits

    (tmp_path / "page.png").write_bytes(cv2.imencode(".png", written(["07"], 60, size=(300, 120)))[1].tobytes())
    assert predict(tmp_path / "page.png", "--save-digits", tmp_path / "own").returncode == 0
    assert sorted(read_user_digits(tmp_path / "own").labels) == [0, 7]


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ((), 2, "Missing argument"),
        (("nowhere.png",), 2, "nowhere.png: there is no such file or folder: expected a picture, "),
        (("--threshold", 2, "a.png"), 2, "2.0 is not in the range 0<=x<=1"),
        (("--model", "README.md", "a.png"), 1, "expected an artifact, TorchScript (.pt), ONNX"),
    ],
)
def test_a_wrong_option_is_reported_in_one_line(arguments: tuple[object, ...], status: int, expected: str) -> None:
    done = predict(*arguments)
    assert done.returncode == status and expected in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode() and done.stdout == b""


def test_digits_know_what_they_were_believed_for() -> None:
    (digit,) = READER.read(written(["8"], 60, size=(200, 160))).digits
    assert isinstance(digit, Digit) and len(digit.features) > 0
