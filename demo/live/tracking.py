"""Follows digits and numbers from frame to frame, so that each number is reported once and misread frames are outvoted.

The labels of a digit are votes whose weight decays with time. A number counts once it has been steady for a while; one
that flickers, or moves too fast to be read, does not. A digit that reached the threshold once may fall a little below
it before it becomes doubtful (hysteresis, as of a Schmitt trigger). Where most digits of a number become others, it is
another number: the old one is gone and a new one is read. A number with a doubtful digit is followed and shown like any
other, with `?` in the place of that digit, but it is never reported as read.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edge_mnist.demo.live.events import Box, Event, Number
from edge_mnist.demo.reading.reader import DOUBTFUL, Digit, Reading, in_order, is_complete

# The values below were chosen by hand; tests/demo/test_tracking.py states what they have to achieve.
STEADY_SECONDS = 0.5
"""Seconds that a number must keep its text before it is reported."""
GONE_SECONDS = 0.7
"""Seconds without a sighting after which a number is gone."""
GAP_SECONDS = 0.2
"""Seconds that a number may be out of sight without having to become steady again."""
DECAY_SECONDS = 0.4
"""Seconds in which the weight of a vote falls to 1/e, 37 %."""
FORGOTTEN_WEIGHT = 0.01
"""The weight of its votes below which a text of a number is forgotten; a new vote weighs 1."""
MAJORITY = 0.6
"""The share of the votes that the text of a number needs, and of the frames that the number must be seen in."""
SURE = 0.7
"""The least mean confidence of the digits of a number that is reported."""
HYSTERESIS = 0.15
"""How far the confidence of a digit that is followed may fall below the threshold before the digit is doubtful."""
REPLACED_SECONDS = 0.3
"""Seconds after which a number most of whose digits are others has been replaced by another number."""
COVERED = 0.1
"""The share of the smaller of two boxes that must overlap for a number to take the place of one out of sight."""
MAX_SPEED = 4.0
"""The speed, in heights of a digit per second, above which half of its digits make a number not steady."""
TREMOR = 0.15
"""How far, in its heights, a digit may move from frame to frame without moving: boxes are not exact."""
_SAME_DISTANCE, _SAME_OVERLAP = 0.6, 0.3
"""Two boxes in consecutive frames belong to the same thing if their centres are closer than this many heights, or if
their intersection over union is at least this."""
_ROUNDING = 1e-6
"""Seconds by which sums of frame times may be wrong."""


@dataclass(eq=False)
class _DigitTrack:
    """A digit that is followed.

    Attributes:
        digit: the digit in the last frame that showed it.
        last_seen: the time of that frame, in seconds.
        votes: by label, the decayed sum of the confidences that the label had.
        weight: the decayed number of all votes.
        speed: of its middle, in its heights per second; infinite in its first frame.
    """

    digit: Digit
    last_seen: float
    votes: dict[int, float] = field(default_factory=dict)
    weight: float = 0.0
    speed: float = math.inf

    def vote(self, digit: Digit, now: float) -> None:
        """Take in what the digit is in a frame."""
        elapsed, height = now - self.last_seen, max(digit.box[3], 1)
        if elapsed > 0:
            self.speed = max(_distance(self.digit.box, digit.box) / height - TREMOR, 0.0) / elapsed
        decay = math.exp(-elapsed / DECAY_SECONDS)
        self.votes = {label: weight * decay for label, weight in self.votes.items()}
        self.votes[digit.label] = self.votes.get(digit.label, 0.0) + digit.confidence
        self.weight = self.weight * decay + 1.0
        self.digit, self.last_seen = digit, now

    def elect(self) -> tuple[int, float]:
        """Find the label with the most votes, and its mean confidence, 0 to 1."""
        label = max(self.votes, key=self.votes.__getitem__)
        return label, self.votes[label] / self.weight


@dataclass(eq=False)
class _NumberTrack:
    """A number that is followed; times are in seconds.

    Attributes:
        id: see `Number`.
        box: the box around its digits when it was last seen.
        first_seen, last_seen: the times of its first and its last frame.
        digits: its digits when it was last seen, without the doubtful ones.
        votes: the decayed number of frames that showed each text.
        digits_of_text: by text, all digits in the last frame that showed it.
        confidence: the mean confidence of `digits`.
        sightings: the number of frames that showed it.
        seen_weight, frame_weight: the decayed numbers of frames that showed it, and of all frames.
        leading_text: the text that had the most votes in the last frame.
        steady_since: since when that text has led without a gap or a fast movement.
        reported_text: the text that was reported last; None if none was.
        was_read: whether an event "read" was reported.
        differs_since: since when most digits are others than those of `reported_text`; None if they are not.
    """

    id: int
    box: Box
    first_seen: float
    last_seen: float
    steady_since: float
    digits: tuple[Digit, ...] = ()
    votes: dict[str, float] = field(default_factory=dict)
    digits_of_text: dict[str, tuple[Digit, ...]] = field(default_factory=dict)
    confidence: float = 0.0
    sightings: int = 0
    seen_weight: float = 0.0
    frame_weight: float = 1.0
    leading_text: str = ""
    reported_text: str | None = None
    was_read: bool = False
    differs_since: float | None = None

    def make_number(self) -> Number:
        """Describe the number by the text that was reported, or else by the leading one."""
        text = self.reported_text or self.leading_text
        digits_of_text = [replace(digit, place=place) for place, digit in enumerate(self.digits_of_text[text])]
        pairs = list(zip(digits_of_text, text, strict=True))
        digits = tuple(digit for digit, sign in pairs if sign != DOUBTFUL)
        unsure = tuple(digit for digit, sign in pairs if sign == DOUBTFUL)
        return Number(self.id, text, self.confidence, self.box, digits, unsure, self.first_seen)

    def decay(self, factor: float) -> None:
        """Reduce the weight of the votes so far by a factor, and count one more frame."""
        self.frame_weight, self.seen_weight = self.frame_weight * factor + 1.0, self.seen_weight * factor
        weights = {text: weight * factor for text, weight in self.votes.items()}
        self.votes = {text: weight for text, weight in weights.items() if weight > FORGOTTEN_WEIGHT}
        remembered = {*self.votes, self.reported_text}
        self.digits_of_text = {text: digits for text, digits in self.digits_of_text.items() if text in remembered}

    def add_sighting(
        self, digits: Sequence[Digit], followed: Mapping[Digit, _DigitTrack], box: Box, now: float
    ) -> None:
        """Take in a frame that shows the number.

        Args:
            digits: its digits from left to right, with the doubtful ones.
            followed: the track of each digit that is not doubtful.
            box: the box around the digits.
            now: the time of the frame.
        """
        self.digits = tuple(digit for digit in digits if digit in followed)
        elected = {digit: followed[digit].elect() for digit in self.digits}
        text = "".join(str(elected[digit][0]) if digit in elected else DOUBTFUL for digit in digits)
        # The box of a number also moves when a digit at its end is missed, its digits do not.
        if statistics.median(followed[digit].speed for digit in self.digits) > MAX_SPEED:
            self.steady_since = now
        self.votes[text] = self.votes.get(text, 0.0) + 1.0
        self.seen_weight += 1.0
        self.sightings += 1
        self.confidence = statistics.fmean(confidence for _, confidence in elected.values())
        self.box, self.last_seen = box, now
        self.digits_of_text[text] = tuple(digits)
        # The labels of this frame tell whether another number took its place: the votes are still the old ones.
        frame_text = "".join(str(digit.label) if digit in elected else DOUBTFUL for digit in digits)
        if self.reported_text is None or not _is_another(self.reported_text, frame_text):
            self.differs_since = None
        elif self.differs_since is None:
            self.differs_since = now

    def is_gone(self, now: float) -> bool:
        """Check whether the number is no longer there, or another one has taken its place."""
        is_replaced = self.differs_since is not None and now - self.differs_since >= REPLACED_SECONDS - _ROUNDING
        return now - self.last_seen > GONE_SECONDS or is_replaced

    def is_steady(self, now: float) -> bool:
        """Check whether the leading text may be reported."""
        return (
            now - self.steady_since >= STEADY_SECONDS - _ROUNDING
            and self.sightings >= 2
            and self.votes[self.leading_text] >= MAJORITY * sum(self.votes.values())
            and self.seen_weight >= MAJORITY * self.frame_weight
            and self.confidence >= SURE
        )


class Tracker:
    """Follows digits and numbers from frame to frame."""

    def __init__(self, threshold: float = 0.0) -> None:
        """Begin without numbers; `threshold` is the confidence, 0 to 1, that a digit must reach once."""
        self._threshold = threshold
        self._last_id = 0
        self._digits: list[_DigitTrack] = []
        self._tracks: list[_NumberTrack] = []
        self._now: float | None = None

    @property
    def numbers(self) -> tuple[Number, ...]:
        """The numbers that were reported and are still there, from top to bottom, also those with a doubtful digit."""
        numbers = [track.make_number() for track in self._tracks if track.reported_text is not None]
        return tuple(sorted(numbers, key=lambda number: (number.box[1], number.box[0])))

    def separate_doubtful(self, reading: Reading) -> Reading:
        """Make those digits of a frame doubtful that are below the threshold and were not followed so far.

        A line of which no digit is left is dropped, and the lines are numbered anew.

        Args:
            reading: what a reader with a threshold lower by `HYSTERESIS` found.
        """
        is_weak = [digit.confidence < self._threshold for digit in reading.digits]
        if not any(is_weak):
            return reading
        pairs = _match_boxes([track.digit.box for track in self._digits], [digit.box for digit in reading.digits])
        followed = set(pairs.values())
        sure: list[Digit] = []
        doubtful = [*reading.unsure]
        for index, digit in enumerate(reading.digits):
            is_kept = index in followed and digit.confidence >= self._threshold - HYSTERESIS
            (sure if not is_weak[index] or is_kept else doubtful).append(digit)
        lines = {line: number for number, line in enumerate(dict.fromkeys(digit.line for digit in sure))}
        digits, unsure = (
            tuple(replace(digit, line=lines[digit.line]) for digit in group if digit.line in lines)
            for group in (sure, doubtful)
        )
        return replace(reading, digits=digits, unsure=unsure)

    def update(self, reading: Reading, now: float) -> list[Event]:
        """Take in a frame.

        Args:
            reading: what was read in it, as `separate_doubtful` gives it.
            now: the time of the frame in seconds, later than that of the frame before.

        Returns:
            What has happened to numbers.
        """
        decay = math.exp(-(now - (now if self._now is None else self._now)) / DECAY_SECONDS)
        self._now = now
        for track in self._tracks:
            track.decay(decay)
        followed = dict(zip(reading.digits, self._follow(reading.digits, now), strict=True))
        groups: dict[tuple[int, int], list[Digit]] = {}
        for digit in in_order([*reading.digits, *reading.unsure]):
            groups.setdefault((digit.line, digit.number), []).append(digit)
        # Nothing is known of a number that has only doubtful digits.
        numbers = [digits for digits in groups.values() if any(digit in followed for digit in digits)]
        boxes = [_bounding_box([digit.box for digit in digits]) for digits in numbers]
        pairs = _match_boxes([track.box for track in self._tracks], boxes)
        track_of_number = {new: self._tracks[old] for old, new in pairs.items()}
        for index, (digits, box) in enumerate(zip(numbers, boxes, strict=True)):
            if index not in track_of_number:
                track_of_number[index] = _NumberTrack(self._new_id(), box, now, now, now)
                self._tracks.append(track_of_number[index])
            track_of_number[index].add_sighting(digits, followed, box, now)
        return self._remove_gone(now) + [event for track in self._tracks for event in self._report(track, now)]

    def clear(self, now: float) -> list[Event]:
        """Forget all digits and numbers.

        Args:
            now: the time in seconds.

        Returns:
            An event "gone" for each of `numbers`.
        """
        events = [Event("gone", number, None, now) for number in self.numbers]
        self._digits, self._tracks = [], []
        return events

    def _new_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _follow(self, digits: Sequence[Digit], now: float) -> list[_DigitTrack]:
        """Follow the digits of a frame, and give the track of each of them."""
        pairs = _match_boxes([track.digit.box for track in self._digits], [digit.box for digit in digits])
        old_of_new = {new: old for old, new in pairs.items()}
        tracks = []
        for index, digit in enumerate(digits):
            track = self._digits[old_of_new[index]] if index in old_of_new else _DigitTrack(digit, now)
            track.vote(digit, now)
            tracks.append(track)
        current = set(map(id, tracks))
        hidden = [t for t in self._digits if id(t) not in current and now - t.last_seen <= GONE_SECONDS]
        self._digits = hidden + tracks
        return tracks

    def _remove_gone(self, now: float) -> list[Event]:
        """Stop following the numbers that are gone, and report those that had been reported."""
        visible = [track.box for track in self._tracks if track.last_seen == now]
        for track in self._tracks:
            # Another number is where this one was before it went out of sight.
            if now - track.last_seen > GAP_SECONDS and any(_covered(track.box, box) >= COVERED for box in visible):
                track.differs_since = track.last_seen
        gone = [track for track in self._tracks if track.is_gone(now)]
        self._tracks = [track for track in self._tracks if track not in gone]
        for track in gone:
            if track.last_seen == now:  # another number is in its place, and begins without the votes of the old one
                old = {id(digit) for digit in track.digits}
                self._digits = [t for t in self._digits if t.last_seen == now and id(t.digit) not in old]
        return [Event("gone", track.make_number(), None, now) for track in gone if track.reported_text is not None]

    def _report(self, track: _NumberTrack, now: float) -> list[Event]:
        """Report a number whose text became steady, or another one than the text that was reported."""
        leading = max(track.votes, key=track.votes.__getitem__)
        if leading != track.leading_text or now - track.last_seen > GAP_SECONDS:
            track.leading_text, track.steady_since = leading, now
        if not track.is_steady(now) or leading == track.reported_text:
            return []
        previous, before, events = track.reported_text, track.make_number(), []
        track.reported_text, track.differs_since = leading, None
        if previous is not None and _is_another(previous, leading):
            events = [Event("gone", before, None, now)]
            track.id, track.first_seen, track.was_read, previous = self._new_id(), track.steady_since, False, None
        if not is_complete(leading):
            return [*events, Event("unsure", track.make_number(), previous, now)]
        if track.was_read:
            return [*events, Event("changed", track.make_number(), previous, now)]
        track.was_read = True
        return [*events, Event("read", track.make_number(), None, now)]


def _is_another(text: str, other: str) -> bool:
    """Check whether most digits of two texts differ: their edit distance exceeds half the length of the longer one.

    A doubtful digit equals any digit. The distance is computed as by Wagner and Fischer, "The String-to-String
    Correction Problem", Journal of the ACM 21, 1974.
    """
    if text == other:
        return False
    row = list(range(len(other) + 1))
    for i, a in enumerate(text, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b and DOUBTFUL not in (a, b)))
    return row[-1] > max(len(text), len(other)) / 2


def _bounding_box(boxes: Sequence[Box]) -> Box:
    """Find the smallest box that contains boxes."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top


def _match_boxes(old: Sequence[Box], new: Sequence[Box]) -> dict[int, int]:
    """Pair the indices of old and new boxes that are the same thing, the nearest first, each box once at most."""
    candidates = []
    for i, a in enumerate(old):
        for j, b in enumerate(new):
            distance = _distance(a, b)
            if distance <= _SAME_DISTANCE * max(a[3], b[3]) or _overlap(a, b) >= _SAME_OVERLAP:
                candidates.append((distance, i, j))
    pairs: dict[int, int] = {}
    taken: set[int] = set()
    for _, i, j in sorted(candidates):
        if i not in pairs and j not in taken:
            pairs[i] = j
            taken.add(j)
    return pairs


def _distance(a: Box, b: Box) -> float:
    """Compute the distance between the centres of two boxes, in pixels."""
    return math.hypot(a[0] + a[2] / 2 - b[0] - b[2] / 2, a[1] + a[3] / 2 - b[1] - b[3] / 2)


def _overlap(a: Box, b: Box) -> float:
    """Compute the intersection over union of two boxes, 0 to 1."""
    shared = _shared_area(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def _covered(a: Box, b: Box) -> float:
    """Compute the share, 0 to 1, of the smaller of two boxes that lies in the other."""
    return _shared_area(a, b) / min(a[2] * a[3], b[2] * b[3])


def _shared_area(a: Box, b: Box) -> int:
    """Compute the area that two boxes share, in pixels."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
