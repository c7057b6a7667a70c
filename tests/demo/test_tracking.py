"""Numbers that are steady are read once; those that flicker or move fast are not."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mnist.demo.live.events import Event
from edge_mnist.demo.live.tracking import HYSTERESIS, Tracker, _is_another
from edge_mnist.demo.reading.reader import THRESHOLD, Digit, Reader, Reading
from edge_mnist.demo.sources import scenes

FPS = 30


def reading(text: str, x: float = 100, y: float = 100, confidence: float = 0.95) -> Reading:
    """Make a line of digits, 20 pixels wide and 30 high; `?` is a doubtful digit."""
    image = np.zeros((28, 28), np.uint8)
    digits = [
        Digit(int(label), confidence, (round(x + 25 * i), round(y), 20, 30), 0, i, image)
        for i, label in enumerate(text)
        if label != "?"
    ]
    unsure = [
        Digit(8, 0.4, (round(x + 25 * i), round(y), 20, 30), 0, i, image)
        for i, label in enumerate(text)
        if label == "?"
    ]
    return Reading(tuple(digits), tuple(unsure), {"total": 1.0})


def follow(readings: Sequence[Reading], tracker: Tracker | None = None) -> list[Event]:
    """Track frames, 30 per second, and return all events."""
    tracker = tracker or Tracker()
    return [event for i, found in enumerate(readings) for event in tracker.update(found, i / FPS)]


def list_events(events: Sequence[Event]) -> list[tuple[str, str, str | None]]:
    return [(event.kind, event.number.text, event.previous_text) for event in events]


def test_a_number_is_read_once_after_half_a_second_and_gone_when_it_is_removed() -> None:
    events = follow([reading("408")] * 60 + [reading("")] * 30)
    assert list_events(events) == [("read", "408", None), ("gone", "408", None)]
    assert 0.5 <= events[0].time <= 0.55 and 60 / FPS + 0.65 <= events[1].time <= 60 / FPS + 0.75
    assert len(events[0].number.digits) == 3 and events[0].number.confidence > 0.9


def test_a_number_that_changes_keeps_its_id() -> None:
    events = follow([reading("12")] * 30 + [reading("13")] * 60)
    assert list_events(events) == [("read", "12", None), ("changed", "13", "12")]
    assert events[0].number.id == events[1].number.id


@given(st.lists(st.integers(0, 9), min_size=60, max_size=60), st.integers(0, 2**20))
def test_a_digit_misread_in_every_fourth_frame_is_outvoted(wrong: list[int], seed: int) -> None:
    frames = [reading(f"1{wrong[i]}7" if (i + seed) % 4 == 0 else "127") for i in range(60)]
    assert list_events(follow(frames)) == [("read", "127", None)]


@given(st.integers(1, 7), st.integers(8, 20))
def test_a_number_that_flickers_is_not_read(shown: int, hidden: int) -> None:
    assert follow(([reading("5")] * shown + [reading("")] * hidden) * 8) == []


def test_single_dropped_frames_change_nothing() -> None:
    frames = [reading("" if i % 6 == 5 else "31") for i in range(120)]
    assert list_events(follow(frames)) == [("read", "31", None)]


def test_a_fast_number_is_read_when_it_comes_to_rest() -> None:
    moving = [reading("77", x=10 + 9 * i) for i in range(40)]  # 9 heights per second
    events = follow(moving + [reading("77", x=361)] * 30)
    assert list_events(events) == [("read", "77", None)] and events[0].time >= 39 / FPS + 0.5
    slow = [reading("77", x=10 + i) for i in range(40)]  # as a hand holds the paper
    assert list_events(follow(slow)) == [("read", "77", None)]


def test_a_number_of_low_confidence_is_not_read() -> None:
    assert follow([reading("9", confidence=0.65)] * 90) == []


def test_a_number_whose_first_digit_is_missed_now_and_then_is_read() -> None:
    whole, part = reading("64358"), reading("4358", x=125)
    assert list_events(follow([part if i % 4 == 3 else whole for i in range(60)])) == [("read", "64358", None)]


def test_numbers_beside_each_other_in_a_line_are_two_numbers() -> None:
    first, second = reading("64"), reading("5?8", x=300)
    place = len(first.digits)
    digits, unsure = (
        tuple(replace(digit, place=place + digit.place, number=1) for digit in group)
        for group in (second.digits, second.unsure)
    )
    tracker = Tracker()
    events = follow([Reading((*first.digits, *digits), unsure, {})] * 30, tracker)
    assert list_events(events) == [("read", "64", None), ("unsure", "5?8", None)]
    (doubtful,) = tracker.numbers[1].unsure
    assert doubtful.place == 1 and tracker.numbers[1].box[0] == 300


def test_a_number_of_doubtful_digits_only_is_not_followed() -> None:
    first, second = reading("64"), reading("??", x=300)
    unsure = tuple(replace(digit, place=2 + digit.place, number=1) for digit in second.unsure)
    assert list_events(follow([Reading(first.digits, unsure, {})] * 60)) == [("read", "64", None)]


def test_two_numbers_are_followed_and_listed_from_top_to_bottom() -> None:
    tracker = Tracker()
    below, above = reading("22", y=300), reading("11", y=40)
    lower = [replace(digit, line=1) for digit in below.digits]
    both = Reading((*above.digits, *lower), (), {})
    assert sorted(list_events(follow([both] * 30, tracker))) == [("read", "11", None), ("read", "22", None)]
    assert [number.text for number in tracker.numbers] == ["11", "22"]
    assert sorted(list_events(tracker.clear(2.0))) == [("gone", "11", None), ("gone", "22", None)]
    assert tracker.numbers == ()


def test_only_a_digit_that_reached_the_threshold_may_fall_below_it() -> None:
    def fading(confidence: float) -> Reading:
        first, second = reading("27").digits
        return Reading((first, replace(second, confidence=confidence)), (), {})

    def report(confidences: Sequence[float]) -> list[tuple[str, str, str | None]]:
        tracker = Tracker(0.65)
        frames = [fading(confidence) for confidence in confidences]
        return list_events(
            [e for i, f in enumerate(frames) for e in tracker.update(tracker.separate_doubtful(f), i / FPS)]
        )

    assert report([0.8] * 30 + [0.55, 0.6, 0.64, 0.52] * 15) == [("read", "27", None)]
    assert report([0.8] * 30 + [0.45] * 60) == [("read", "27", None), ("unsure", "2?", "27")]
    assert report([0.64] * 60) == [("unsure", "2?", None)]


def test_a_line_of_doubtful_digits_only_is_dropped() -> None:
    weak = reading("4", y=20, confidence=0.55).digits
    sure = [replace(digit, line=1) for digit in reading("19", y=200).digits]
    found = Tracker(0.65).separate_doubtful(Reading((*weak, *sure), (), {}))
    assert found.lines == ("19",) and [digit.line for digit in found.digits] == [0, 0] and found.unsure == ()
    doubted = Digit(7, 0.55, (200, 200, 20, 30), 1, 2, sure[0].image)
    beside = Tracker(0.65).separate_doubtful(Reading((*weak, *sure, doubted), (), {}))
    assert beside.lines == ("19?",) and beside.doubtful() == {0: "19(7)"}


def test_a_number_with_a_doubtful_digit_has_a_question_mark_and_is_never_read() -> None:
    tracker = Tracker()
    events = follow([reading("64?6")] * 60 + [reading("")] * 30, tracker)
    assert list_events(events) == [("unsure", "64?6", None), ("gone", "64?6", None)]
    assert [digit.place for digit in events[0].number.unsure] == [2] and len(events[0].number.digits) == 3
    assert follow([reading("64?6")] * 20, tracker := Tracker()) and [n.text for n in tracker.numbers] == ["64?6"]


def test_a_number_that_becomes_unsure_and_sure_again_keeps_its_id() -> None:
    frames = [reading("?08")] * 40 + [reading("408")] * 60 + [reading("4?8")] * 60 + [reading("4??")] * 60
    events = follow([*frames, *[reading("418")] * 60])
    assert list_events(events) == [
        ("unsure", "?08", None), ("read", "408", None), ("unsure", "4?8", "408"), ("unsure", "4??", "4?8"),
        ("changed", "418", "4??"),
    ]  # fmt: skip
    assert {event.number.id for event in events} == {1}


def test_a_number_with_other_digits_is_another_one_even_if_the_old_one_was_unsure() -> None:
    events = follow([reading("40?8")] * 40 + [reading("15?2")] * 60 + [reading("1532")] * 60)
    assert list_events(events) == [
        ("unsure", "40?8", None), ("gone", "40?8", None), ("unsure", "15?2", None), ("read", "1532", None),
    ]  # fmt: skip
    assert [event.number.id for event in events] == [1, 1, 2, 2]


@given(
    st.lists(st.text("0123456789?", min_size=1, max_size=6).filter(lambda text: text != "?" * len(text)), max_size=3)
)
def test_no_number_with_a_doubtful_digit_and_no_text_that_was_not_seen_is_read(texts: list[str]) -> None:
    events = follow([reading(text) for text in texts for _ in range(40)])
    assert all(("?" in event.number.text) == (event.kind == "unsure") for event in events if event.kind != "gone")
    assert {event.number.text for event in events} <= set(texts)
    for number in (event.number for event in events):
        assert [digit.place for digit in number.unsure] == [i for i, sign in enumerate(number.text) if sign == "?"]
        assert len(number.digits) + len(number.unsure) == len(number.text)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 12), st.integers(-15, 15))
def test_another_sheet_is_another_number_and_the_old_one_is_gone(a: int, b: int, blank: int, x: int) -> None:
    old, new = "888888"[:a], "531531"[:b]
    tracker = Tracker()
    start = 30 + blank
    events = follow([reading(old)] * 30 + [reading("")] * blank + [reading(new, x=100 + x)] * 60, tracker)
    assert list_events(events) == [("read", old, None), ("gone", old, None), ("read", new, None)]
    assert events[1].time <= start / FPS + 0.4 and events[2].time <= start / FPS + 1
    assert events[2].number.id > events[0].number.id and events[2].number.since >= start / FPS - 1e-6
    assert [number.text for number in tracker.numbers] == [new]


@given(st.text("0123456789?", max_size=6), st.text("0123456789?", max_size=6))
def test_whether_two_texts_are_the_same_number_does_not_depend_on_their_order(a: str, b: str) -> None:
    assert _is_another(a, b) == _is_another(b, a) and not _is_another(a, a)
    if a and b and not set(a) & set(b) and "?" not in a + b:
        assert _is_another(a, b)


@pytest.mark.slow
def test_every_number_of_the_sample_is_read_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    render = scenes.render

    def remember(*arguments: Any) -> scenes.Scene:
        scene = render(*arguments)
        written.append(scene.lines[0])
        return scene

    monkeypatch.setattr(scenes, "render", remember)
    tracker, reader = Tracker(THRESHOLD), Reader(threshold=THRESHOLD - HYSTERESIS)
    events = []
    for index, frame in enumerate(itertools.islice(scenes.sample_frames(0), round(12 * FPS))):
        events += tracker.update(tracker.separate_doubtful(reader.read(frame)), index / FPS)
    assert [event.number.text for event in events if event.kind == "read"] == written
    assert {event.kind for event in events} == {"read", "gone"}
