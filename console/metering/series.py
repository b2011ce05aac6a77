"""The samples of the last two hours, in memory.

A series stores a value only when the value changes: 12 bytes for each change. Most series of an idle system never
change. All series of a target share the times of its scrapes.
What must stay true: the number of series and of bytes is bounded. A series that its target does not send any more ends
at that scrape. Times of a target only grow.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from console.metering import exposition, promql, ranges
from console.metering.language import BadExpression
from console.metering.promql import Line, Sample
from console.metering.ranges import Growth

WINDOW_SECONDS = 7200.0
MAX_SERIES = 20_000
MAX_BYTES = 64_000_000
_MAX_LABEL_BYTES = 2_000
_SERIES_BYTES = 1_500
"""The memory of a series without its samples: its labels, the texts of the labels, and its place in the index."""
_CHANGE_BYTES = 12
_TRIM_EVERY = 32
_ENDED = math.nan
_MAX_STEPS = 2_000


class Track:
    """One series: the scrapes at which its value changed, and the values. NaN marks the end of a series."""

    __slots__ = ("at_scrape", "clock", "labels", "last", "scrapes", "values")

    def __init__(self, labels: Mapping[str, str], clock: "Clock") -> None:
        self.labels, self.clock, self.last, self.at_scrape = labels, clock, "", 0
        self.scrapes, self.values = array("I"), array("d")

    def change(self, scrape: int, value: float) -> None:
        self.scrapes.append(scrape)
        self.values.append(value)

    def before(self, at: float, lookback: float) -> float | None:
        """The newest value in the `lookback` seconds up to `at`, or None."""
        scrape = self.clock.last_until(at)
        if scrape is None or self.clock.time_of(scrape) <= at - lookback:
            return None
        index = bisect_right(self.scrapes, scrape) - 1
        return None if index < 0 or math.isnan(self.values[index]) else self.values[index]

    def between(self, after: float, until: float) -> list[tuple[float, float]]:
        """All samples later than `after` and not later than `until`, as pairs of time and value."""
        first, last = self.clock.first_after(after), self.clock.last_until(until)
        if last is None or not self.scrapes:
            return []
        index = max(0, bisect_right(self.scrapes, first) - 1)
        found = []
        for scrape in range(max(first, self.scrapes[0]), last + 1):
            while index + 1 < len(self.scrapes) and self.scrapes[index + 1] <= scrape:
                index += 1
            value = self.values[index]
            if not math.isnan(value):
                found.append((self.clock.time_of(scrape), value))
        return found

    def growth(self, after: float, until: float) -> Growth | None:
        """How the counter grew in the samples of `between`. Costs as much as there are changes, not samples."""
        clock, scrapes = self.clock, self.scrapes
        first, last = clock.first_after(after), clock.last_until(until)
        if last is None or not scrapes or last <= first:
            return None
        start = 0
        if first > scrapes[0]:
            start = bisect_right(scrapes, first) - 1
        else:
            first = scrapes[0]
        values = self.values[start : bisect_right(scrapes, last, start)]
        if last <= first or any(map(math.isnan, values)):
            return ranges.growth(self.between(after, until))
        grown = values[-1] - values[0] + ranges.resets(values) if len(values) > 1 else 0.0
        return Growth(clock.time_of(first), clock.time_of(last), last - first + 1, values[0], grown)

    def forget(self, before_scrape: int) -> int:
        """Drop the changes that no scrape since `before_scrape` needs. Returns how many."""
        surplus = bisect_right(self.scrapes, before_scrape) - 1
        if surplus > 0:
            del self.scrapes[:surplus], self.values[:surplus]
        return max(0, surplus)

    def has_ended(self, before_scrape: int) -> bool:
        """True if the series ended before that scrape."""
        return bool(self.scrapes) and self.scrapes[-1] < before_scrape and math.isnan(self.values[-1])


class Clock:
    """The times of a target's scrapes. Scrapes are numbered; the number stays when old ones are dropped."""

    __slots__ = ("first", "times")

    def __init__(self) -> None:
        self.first, self.times = 0, array("d")

    def tick(self, at: float) -> int:
        """Note a scrape. Returns its number. If the machine's clock was set back, the time is a little later."""
        self.times.append(max(at, self.times[-1] + 0.001) if self.times else at)
        return self.first + len(self.times) - 1

    def time_of(self, scrape: int) -> float:
        return self.times[scrape - self.first]

    def first_after(self, at: float) -> int:
        return self.first + bisect_right(self.times, at)

    def last_until(self, at: float) -> int | None:
        index = bisect_right(self.times, at) - 1
        return None if index < 0 else self.first + index

    def forget(self, before: float) -> None:
        """Drop the scrapes earlier than `before`."""
        surplus = bisect_left(self.times, before)
        del self.times[:surplus]
        self.first += surplus


class Series:
    """All samples. `add` stores a scrape; `query` and `range` evaluate PromQL (see `promql.py`)."""

    def __init__(self, *, max_series: int = MAX_SERIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_series, self._max_bytes = max_series, max_bytes
        self._clocks: dict[str, Clock] = {}
        self._tracks: dict[str, dict[str, Track]] = {}
        self._by_name: dict[str, set[Track]] = {}
        self._changes = 0
        self._since_trim = 0
        self._window = WINDOW_SECONDS
        self.refused: Counter[str] = Counter()
        """Counts of data that was not stored: `series` over the limit, and `lines` that are not samples."""

    def add(
        self, target: str, at: float, lines: Iterable[tuple[str, str]], extra: Mapping[str, str] | None = None
    ) -> None:
        """Store one scrape of a target: pairs of series and value. Its other series end. All get the labels `extra`."""
        clock = self._clocks.setdefault(target, Clock())
        scrape = clock.tick(at)
        tracks = self._tracks.setdefault(target, {})
        for text, value in lines:
            track = tracks.get(text) or self._start(target, text, extra or {})
            if track is None:
                continue
            track.at_scrape = scrape
            if value != track.last:
                self._change(track, scrape, value)
        for track in tracks.values():
            if track.at_scrape != scrape and track.last:
                track.last = ""
                track.change(scrape, _ENDED)
                self._changes += 1
        self._since_trim += 1
        if self._since_trim >= _TRIM_EVERY or self.bytes > self._max_bytes:
            self._since_trim = 0
            self._trim(at)

    @property
    def count(self) -> int:
        """How many series there are."""
        return sum(map(len, self._tracks.values()))

    @property
    def bytes(self) -> int:
        """How much memory the samples and series use, about."""
        times = sum(len(clock.times) for clock in self._clocks.values())
        return self.count * _SERIES_BYTES + self._changes * _CHANGE_BYTES + times * 8

    @property
    def window_seconds(self) -> float:
        """How far back samples go: two hours, or less if they would need too much memory."""
        return self._window

    def query(self, expression: str, at: float) -> list[Sample]:
        """Evaluate at one time. A scalar is one sample without labels. Raises `BadExpression`."""
        return promql.instant(expression, self, at)

    def range(self, expression: str, start: float, end: float, step: float) -> list[Line]:
        """Evaluate at `start`, `start + step`, … up to `end`, in at most 2,000 steps. Raises `BadExpression`."""
        if step <= 0 or (end - start) / step > _MAX_STEPS:
            raise BadExpression(f"at most {_MAX_STEPS} steps: choose a larger step")
        return promql.stepped(expression, self, [start + n * step for n in range(int((end - start) / step) + 1)])

    def select(self, name: str) -> Iterator[Track]:
        """The series of this name."""
        yield from self._by_name.get(name, ())

    def _start(self, target: str, text: str, extra: Mapping[str, str]) -> Track | None:
        labels = exposition.labels(text) if len(text) <= _MAX_LABEL_BYTES else None
        if labels is None:
            self.refused["lines"] += 1
            return None
        if self.count >= self._max_series:
            self.refused["series"] += 1
            return None
        track = Track({**labels, **extra}, self._clocks[target])
        self._tracks[target][text] = track
        self._by_name.setdefault(labels["__name__"], set()).add(track)
        return track

    def _change(self, track: Track, scrape: int, text: str) -> None:
        value = exposition.number(text)
        if value is None:
            self.refused["lines"] += 1
            return
        track.last = text
        track.change(scrape, value)
        self._changes += 1

    def _trim(self, now: float) -> None:
        """Drop what is older than the window. If the rest is still too large, make the window shorter."""
        self._forget(now - self._window)
        while self.bytes > self._max_bytes and self._window > 60:
            self._window *= 0.8
            self._forget(now - self._window)
        if self.bytes < self._max_bytes / 2:
            self._window = min(WINDOW_SECONDS, self._window * 1.25)

    def _forget(self, before: float) -> None:
        for target, clock in list(self._clocks.items()):
            clock.forget(before)
            tracks = self._tracks[target]
            for text, track in list(tracks.items()):
                self._changes -= track.forget(clock.first)
                if track.has_ended(clock.first) or not clock.times:
                    self._remove(tracks.pop(text))
            if not clock.times:
                del self._clocks[target], self._tracks[target]

    def _remove(self, track: Track) -> None:
        self._changes -= len(track.scrapes)
        name = track.labels["__name__"]
        self._by_name[name].discard(track)
        if not self._by_name[name]:
            del self._by_name[name]
