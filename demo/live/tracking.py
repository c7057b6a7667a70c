"""Steady reading: digits followed over frames, their votes added up; a number counts when it has stood for a while.

A digit that is misread in a frame is outvoted; a number that only flickers up, or moves too fast to be read, is none.
A digit that was once believed may fade a little before it is dropped (hysteresis, as of a Schmitt trigger). Where most
digits of a number become others, it is another number: the old one is gone and a new one is read. A number with a
doubtful digit is followed and shown like any other, with `?` in its place, but it is never read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from edge_mnist.demo.reading.reader import DOUBTFUL, Digit, Reading, in_order, is_complete

Box = tuple[int, int, int, int]

HOLD = 0.5
"""Seconds that a number must stand before it is read."""
LINGER = 0.7
"""Seconds after which a number that is not seen is gone."""
GAP = 0.2
"""Seconds that a number may be out of sight while it stands."""
MEMORY = 0.4
"""Seconds in which a vote's weight falls to 37 %."""
FORGOTTEN = 0.01
"""A text of a number whose votes weigh less is forgotten."""
MAJORITY = 0.6
"""Part of the votes that a number needs, and part of the frames that it must be seen in."""
SURE = 0.7
"""Least mean confidence of a number's digits."""
HYSTERESIS = 0.15
"""A digit that was once believed stays until its confidence falls by this below the one that it needed."""
RENEWAL = 0.3
"""Seconds after which a number of which most digits are others is gone, and another one stands there."""
DISPLACED = 0.1
"""Part of a number's box, or of the other's, that another must cover to take the place of one that is not seen."""
SPEED = 4.0
"""A number that moves by more than so many of its heights a second does not stand."""


@dataclass(frozen=True, eq=False)
class Number:
    """A number that stands before the camera.

    Attributes:
        id: from 1, kept while it is followed.
        text: its digits, with `?` in the place of a doubtful one.
        confidence: 0 to 1, on average, of its digits that are not doubtful.
        box: x, y, width, height in pixels of the frame.
        digits: those that are not doubtful, as they were in the last frame that showed this text.
        unsure: the doubtful ones of the same frame: their `place` is their index in the text.
        since: when it was first seen, in seconds.
    """

    id: int
    text: str
    confidence: float
    box: Box
    digits: tuple[Digit, ...]
    unsure: tuple[Digit, ...]
    since: float


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happened to a number.

    Attributes:
        kind: "read", it is new; "changed", it is another now; "unsure", it cannot be read, because it has a doubtful
            digit; "gone", it is not there any more.
        number: as it is now; if it is gone, as it was.
        was: its text before it changed or became unsure.
        time: in seconds, as the frames'.
        source: the image file that it stands in; empty if frames are of no image file.
    """

    kind: Literal["read", "changed", "unsure", "gone"]
    number: Number
    was: str | None
    time: float
    source: str = ""


@dataclass(eq=False)
class _DigitTrack:
    """A digit that is followed: what each label was given, decayed, and how much was given in all."""

    digit: Digit
    seen: float
    votes: dict[int, float] = field(default_factory=dict)
    weight: float = 0.0

    def vote(self, digit: Digit, now: float) -> None:
        fade = math.exp(-(now - self.seen) / MEMORY)
        self.votes = {label: weight * fade for label, weight in self.votes.items()}
        self.votes[digit.label] = self.votes.get(digit.label, 0.0) + digit.confidence
        self.weight = self.weight * fade + 1.0
        self.digit, self.seen = digit, now

    def winner(self) -> tuple[int, float]:
        """The label with the most votes, and its confidence on average."""
        label = max(self.votes, key=self.votes.__getitem__)
        return label, self.votes[label] / self.weight


@dataclass(eq=False)
class _Track:
    """A number that is followed."""

    id: int
    box: Box
    digits: tuple[Digit, ...]
    born: float
    seen: float
    votes: dict[str, float] = field(default_factory=dict)
    shown: dict[str, tuple[Digit, ...]] = field(default_factory=dict)
    confidence: float = 0.0
    sightings: int = 0
    present: float = 0.0
    frames: float = 0.0
    leading: str = ""
    stands: float = 0.0
    confirmed: str | None = None
    was_read: bool = False
    other_since: float | None = None

    def number(self) -> Number:
        text = self.confirmed or self.leading
        shown = list(zip(self.shown[text], text, strict=True))
        digits = tuple(digit for digit, sign in shown if sign != DOUBTFUL)
        unsure = tuple(digit for digit, sign in shown if sign == DOUBTFUL)
        return Number(self.id, text, self.confidence, self.box, digits, unsure, self.born)


class Tracker:
    """Follows digits and numbers from frame to frame."""

    def __init__(self, threshold: float = 0.0) -> None:
        """With the confidence, 0 to 1, that a digit needs once to be believed."""
        self._threshold = threshold
        self._digits: list[_DigitTrack] = []
        self._tracks: list[_Track] = []
        self._ids = 0
        self._now: float | None = None

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers that have been steady for long enough and are still there, from top to bottom.

        Those with a doubtful digit are among them.
        """
        standing = [track.number() for track in self._tracks if track.confirmed is not None]
        return tuple(sorted(standing, key=lambda number: (number.box[1], number.box[0])))

    def separate_doubtful(self, reading: Reading) -> Reading:
        """What a frame says, in which digits that are neither sure by themselves nor followed already are doubtful."""
        weak = [digit.confidence < self._threshold for digit in reading.digits]
        if not any(weak):
            return reading
        followed = set(_match([track.digit.box for track in self._digits], [d.box for d in reading.digits]).values())
        kept: list[Digit] = []
        doubted = [*reading.unsure]
        for index, digit in enumerate(reading.digits):
            stays = not weak[index] or (index in followed and digit.confidence >= self._threshold - HYSTERESIS)
            (kept if stays else doubted).append(digit)
        numbers = {line: number for number, line in enumerate(dict.fromkeys(digit.line for digit in kept))}
        digits, unsure = (
            tuple(replace(digit, line=numbers[digit.line]) for digit in found if digit.line in numbers)
            for found in (kept, doubted)
        )
        return replace(reading, digits=digits, unsure=unsure)

    def update(self, reading: Reading, now: float) -> list[Event]:
        """Take in what a frame says.

        Args:
            reading: of the frame, what is believed of it.
            now: the frame's time, in seconds, later than the one before.
        """
        fade = math.exp(-(now - (now if self._now is None else self._now)) / MEMORY)
        self._now = now
        voted = dict(zip(reading.digits, self._vote(reading.digits, now), strict=True))
        lines: dict[int, list[Digit]] = {}
        for digit in in_order([*reading.digits, *reading.unsure]):
            lines.setdefault(digit.line, []).append(digit)
        boxes = {line: _around([digit.box for digit in members]) for line, members in lines.items()}
        matched = _match([track.box for track in self._tracks], list(boxes.values()))
        of_track = {list(boxes)[new]: self._tracks[old] for old, new in matched.items()}
        for track in self._tracks:
            track.frames, track.present = track.frames * fade + 1.0, track.present * fade
            track.votes = {text: weight * fade for text, weight in track.votes.items() if weight * fade > FORGOTTEN}
            track.shown = {
                text: shown for text, shown in track.shown.items() if text in {*track.votes, track.confirmed}
            }
        for line, members in lines.items():
            found = of_track.get(line)
            if found is None:
                self._ids += 1
                found = _Track(self._ids, boxes[line], (), now, now, frames=1.0, stands=now)
                self._tracks.append(found)
            _see(found, members, voted, boxes[line], now)
        self._displace(now)
        gone = [track for track in self._tracks if _is_gone(track, now)]
        self._tracks = [track for track in self._tracks if track not in gone]
        events = [Event("gone", track.number(), None, now) for track in gone if track.confirmed is not None]
        for track in gone:
            if track.seen == now:  # another number stands there: it starts without the old one's votes
                old = {id(digit) for digit in track.digits}
                self._digits = [digit for digit in self._digits if digit.seen == now and id(digit.digit) not in old]
        for track in self._tracks:
            events += self._judge(track, now)
        return events

    def clear(self, now: float) -> list[Event]:
        """Forget everything: the camera is lost. What stood is gone."""
        events = [Event("gone", number, None, now) for number in self.numbers]
        self._digits, self._tracks = [], []
        return events

    def _displace(self, now: float) -> None:
        """Where a number stood that is out of sight, and another one does now, it is gone."""
        seen = [track.box for track in self._tracks if track.seen == now]
        for track in self._tracks:
            if now - track.seen > GAP and any(_cover(track.box, box) >= DISPLACED for box in seen):
                track.other_since = track.seen

    def _judge(self, track: _Track, now: float) -> list[Event]:
        """What has become of a number in this frame that is not gone."""
        leading = max(track.votes, key=track.votes.__getitem__)
        if leading != track.leading or now - track.seen > GAP:
            track.leading, track.stands = leading, now
        steady = (
            now - track.stands >= HOLD - 1e-6
            and track.sightings >= 2
            and track.votes[leading] >= MAJORITY * sum(track.votes.values())
            and track.present >= MAJORITY * track.frames
            and track.confidence >= SURE
        )
        if not steady or leading == track.confirmed:
            return []
        was, before, events = track.confirmed, track.number(), []
        track.confirmed, track.other_since = leading, None
        if was is not None and _is_another(was, leading):
            events = [Event("gone", before, None, now)]
            self._ids += 1
            track.id, track.born, track.was_read, was = self._ids, track.stands, False, None
        if not is_complete(leading):
            return [*events, Event("unsure", track.number(), was, now)]
        event = (
            Event("changed", track.number(), was, now) if track.was_read else Event("read", track.number(), None, now)
        )
        track.was_read = True
        return [*events, event]

    def _vote(self, digits: Sequence[Digit], now: float) -> list[tuple[int, float]]:
        """The label and confidence that each digit has by the votes of the frames that it was followed through."""
        matched = _match([track.digit.box for track in self._digits], [digit.box for digit in digits])
        old_of = {new: old for old, new in matched.items()}
        tracks = []
        for index, digit in enumerate(digits):
            track = self._digits[old_of[index]] if index in old_of else _DigitTrack(digit, now)
            track.vote(digit, now)
            tracks.append(track)
        current = set(map(id, tracks))
        kept = [track for track in self._digits if id(track) not in current and now - track.seen <= LINGER]
        self._digits = kept + tracks
        return [track.winner() for track in tracks]


def _see(
    track: _Track, digits: Sequence[Digit], voted: Mapping[Digit, tuple[int, float]], box: Box, now: float
) -> None:
    """A number was seen: its digits, the labels and confidences by vote of those that are not doubtful, its box."""
    text = "".join(str(voted[digit][0]) if digit in voted else DOUBTFUL for digit in digits)
    confidences = [voted[digit][1] for digit in digits if digit in voted]
    elapsed = now - track.seen
    if elapsed > 0 and _distance(track.box, box) > SPEED * max(box[3], 1) * elapsed + 0.15 * box[3]:
        track.stands = now  # it moves
    track.votes[text] = track.votes.get(text, 0.0) + 1.0
    track.present += 1.0
    track.sightings += 1
    track.confidence = sum(confidences) / len(confidences)
    track.box, track.seen = box, now
    track.digits, track.shown[text] = tuple(digit for digit in digits if digit in voted), tuple(digits)
    # The frame's own labels: the votes are still the old number's.
    seen = "".join(str(digit.label) if digit in voted else DOUBTFUL for digit in digits)
    if track.confirmed is None or not _is_another(track.confirmed, seen):
        track.other_since = None
    elif track.other_since is None:
        track.other_since = now


def _is_gone(track: _Track, now: float) -> bool:
    """Whether a number is not there any more, or another one is."""
    other = track.other_since is not None and now - track.other_since >= RENEWAL - 1e-6
    return now - track.seen > LINGER or other


def _is_another(text: str, other: str) -> bool:
    """Whether most digits of two numbers differ: their edit distance is more than half of the longer one's length.

    A doubtful digit may be any.
    """
    if text == other:
        return False
    row = list(range(len(other) + 1))  # Wagner, Fischer, "The String-to-String Correction Problem", 1974
    for i, a in enumerate(text, 1):
        corner, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (a != b and DOUBTFUL not in (a, b)))
    return row[-1] > max(len(text), len(other)) / 2


def _around(boxes: Sequence[Box]) -> Box:
    """The box that holds boxes."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _distance(a: Box, b: Box) -> float:
    """Between the centres of two boxes, in pixels."""
    return math.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2)


def _match(old: Sequence[Box], new: Sequence[Box]) -> dict[int, int]:
    """Pairs of an old and a new box that are the same thing, the nearest first; each box is in one pair at most."""
    near = []
    for i, a in enumerate(old):
        for j, b in enumerate(new):
            distance = _distance(a, b)
            if distance <= 0.6 * max(a[3], b[3]) or _overlap(a, b) >= 0.3:
                near.append((distance, i, j))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(near):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def _overlap(a: Box, b: Box) -> float:
    """Of two boxes, 0 to 1: what they share, over what either covers."""
    shared = _shared(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _cover(a: Box, b: Box) -> float:
    """Of two boxes, 0 to 1: what they share, over the smaller one."""
    return _shared(a, b) / min(a[2] * a[3], b[2] * b[3])


def _shared(a: Box, b: Box) -> int:
    """What two boxes share, in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
