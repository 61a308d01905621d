"""What is settled: a time at or before which every row is, and the settled ids after it (pure).

Ids of the outbox are consecutive while a server runs (UUID_SHORT), so a set of them is a handful of intervals. They
are kept by the minute in which their rows were recorded, because that is how they can be forgotten: when every row of
a minute is settled, ``until`` moves past it.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

EPOCH = datetime(1970, 1, 1)
_MINUTE = timedelta(minutes=1)

#: More minutes than this are kept in coarser spans: ten minutes are usual, a backlog of days isn't.
MAX_BUCKETS = 240


class IntervalSet:
    """A set of whole numbers as sorted, disjoint, non-adjacent closed intervals."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, intervals: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in intervals:
            self.add(start, end)

    def add(self, start: int, end: int | None = None) -> None:
        """Adds one number, or all from ``start`` to ``end``, both included."""
        if end is None:
            end = start
        if end < start:
            raise ValueError(f"an interval can't end ({end}) before it starts ({start})")
        starts, ends = self._starts, self._ends
        if not starts or start > ends[-1]:  # the common case: ids grow
            if starts and start == ends[-1] + 1:
                ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
            return
        # [low, high) are the intervals that the new one touches or adjoins.
        low = bisect_left(ends, start - 1)
        high = bisect_right(starts, end + 1)
        if low < high:
            start = min(start, starts[low])
            end = max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]

    def remove(self, start: int, end: int | None = None) -> None:
        """Takes out one number, or all from ``start`` to ``end``; absent ones don't matter."""
        if end is None:
            end = start
        starts, ends = self._starts, self._ends
        low = bisect_left(ends, start)
        high = bisect_right(starts, end)
        if low >= high:
            return
        keep = []
        if starts[low] < start:
            keep.append((starts[low], start - 1))
        if ends[high - 1] > end:
            keep.append((end + 1, ends[high - 1]))
        starts[low:high] = [first for first, _ in keep]
        ends[low:high] = [last for _, last in keep]

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self._starts, number) - 1
        return place >= 0 and number <= self._ends[place]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The intervals, in order."""
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many intervals, not how many numbers."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IntervalSet({list(self)})"

    def largest(self, count: int) -> list[tuple[int, int]]:
        """The widest intervals, at most ``count``."""
        return sorted(self, key=lambda pair: pair[0] - pair[1])[:count]

    def render(self) -> str:
        """As JSON: ``[first, in, out, in, ...]``, the first number, then by turns how many belong to it and how many don't.

        Two sessions draw their ids in turn: while one's transaction is settled and the other's isn't, each of its ids is
        an interval of its own.
        """
        runs = []
        after = None
        for start, end in self:
            runs.append(start if after is None else start - after)
            after = end + 1
            runs.append(after - start)
        return f"[{','.join(map(str, runs))}]"

    @classmethod
    def parse(cls, document: Sequence[Any]) -> IntervalSet:
        """The set that ``render`` wrote, or one of ``[[start, end], ...]``; ValueError or TypeError when it is neither."""
        if not document or not isinstance(document[0], int):
            return cls(document)
        parsed = cls()
        at = 0
        for outside, inside in zip(document[::2], document[1::2], strict=True):
            start = at + outside
            at = start + inside
            parsed.add(start, at - 1)
        return parsed


def minute_of(moment: datetime) -> datetime:
    """The start of the minute that ``moment`` lies in."""
    return moment.replace(second=0, microsecond=0)


class _Bucket:
    """The settled ids of the rows recorded in one span of time, usually a minute."""

    __slots__ = ("changed", "end", "ids", "name", "rendered", "start")

    def __init__(self, start: datetime, end: datetime, ids: IntervalSet, *, changed: bool = True) -> None:
        self.start = start
        self.end = end
        self.ids = ids
        name = start.isoformat(timespec="minutes")
        self.name = name if end - start == _MINUTE else f"{name}/{end.isoformat(timespec='minutes')}"
        self.rendered: str | None = None
        #: Since ``render_changed`` rendered it.
        self.changed = changed

    @classmethod
    def load(cls, name: str, ids: IntervalSet) -> _Bucket:
        """The one that has this name; ValueError when none has."""
        first, _, last = name.partition("/")
        start = datetime.fromisoformat(first)
        return cls(start, datetime.fromisoformat(last) if last else start + _MINUTE, ids, changed=False)


class Settled:
    """The rows of the outbox that are delivered or parked.

    Every row recorded at or before ``until`` (naive UTC) is settled; of the later ones, those whose id is in here.
    A row may be older than ``until`` and still be new: clocks go back. So ``in`` asks for the id only, and it is
    the audit that asks for the time.
    """

    def __init__(self, until: datetime = EPOCH) -> None:
        self.until = until
        self._ids = IntervalSet()
        self._starts: list[datetime] = []
        self._buckets: list[_Bucket] = []
        #: The bucket of the row settled last, if it still is one.
        self._latest: _Bucket | None = None
        #: The names of those that are gone since ``render_changed``.
        self._gone: list[str] = []

    def add(self, row_id: int, recorded_at: datetime) -> None:
        """Settles one row."""
        bucket = self._latest
        # Nearly always the one of the row before. Naive moments compare as fast as numbers.
        if bucket is None or not bucket.start <= recorded_at < bucket.end:
            bucket = self._latest = self._bucket(minute_of(recorded_at))
        bucket.ids.add(row_id)
        bucket.rendered = None
        bucket.changed = True
        self._ids.add(row_id)

    def _bucket(self, minute: datetime) -> _Bucket:
        place = bisect_right(self._starts, minute)
        if place:
            bucket = self._buckets[place - 1]
            if minute < bucket.end:
                return bucket
        bucket = _Bucket(minute, minute + _MINUTE, IntervalSet())
        self._starts.insert(place, minute)
        self._buckets.insert(place, bucket)
        if len(self._buckets) > MAX_BUCKETS:
            self._merge_oldest()
            return self._bucket(minute)
        return bucket

    def _merge_oldest(self) -> None:
        """Makes one bucket of every two, but for the newest quarter: a backlog of weeks mustn't grow the file."""
        old = len(self._buckets) * 3 // 4 // 2 * 2
        merged = []
        for first, second in zip(self._buckets[:old:2], self._buckets[1:old:2], strict=True):
            for start, end in second.ids:
                first.ids.add(start, end)
            self._gone += first.name, second.name
            merged.append(_Bucket(first.start, second.end, first.ids))
        self._buckets[:old] = merged
        self._latest = None
        self._starts = [bucket.start for bucket in self._buckets]

    def __contains__(self, row_id: int) -> bool:
        return row_id in self._ids

    def __len__(self) -> int:
        """How many intervals are kept: what memory and checkpoint grow with."""
        return sum(len(bucket.ids) for bucket in self._buckets)

    def largest(self, count: int) -> list[tuple[int, int]]:
        """The widest intervals of settled ids, at most ``count``: what a query can leave out at little cost."""
        return self._ids.largest(count)

    def advance(self, until: datetime) -> None:
        """Moves ``until`` and forgets the ids of the minutes that end at or before it.

        The caller knows that no unsettled row was recorded at or before it, and that the binlog won't bring
        the forgotten ids again.
        """
        if until <= self.until:
            return
        self.until = until
        gone = 0
        while gone < len(self._buckets) and self._buckets[gone].end <= until:
            for start, end in self._buckets[gone].ids:
                self._ids.remove(start, end)
            self._gone.append(self._buckets[gone].name)
            gone += 1
        if gone:
            self._latest = None
        del self._buckets[:gone]
        del self._starts[:gone]

    def retreat(self, until: datetime) -> None:
        """Takes ``until`` back after the server's clock went back: rows recorded after it count as unsettled again."""
        self.until = min(self.until, until)

    def render(self) -> str:
        """As JSON, one line for each minute; only those that changed are made anew."""
        lines = []
        for bucket in self._buckets:
            if bucket.rendered is None:
                bucket.rendered = f'"{bucket.name}": {bucket.ids.render()}'
            lines.append(bucket.rendered)
        inner = ",\n      ".join(lines)
        minutes = f"{{\n      {inner}\n    }}" if lines else "{}"
        return f'{{\n    "until": "{self.until.isoformat()}",\n    "minutes": {minutes}\n  }}'

    def render_changed(self) -> dict[str, str | None]:
        """What changed since the last call, by the name of a span of time: its ids as JSON; None: they are forgotten.

        ``until`` isn't in it.
        """
        changed: dict[str, str | None] = dict.fromkeys(self._gone)
        self._gone.clear()
        for bucket in self._buckets:
            if bucket.changed:
                changed[bucket.name] = bucket.ids.render()
                bucket.changed = False
        return changed

    @classmethod
    def load(cls, until: datetime, buckets: Mapping[str, str]) -> Settled:
        """The set of which ``render_changed`` told all; ValueError or TypeError when that can't be."""
        settled = cls(until)
        settled._take(_Bucket.load(name, IntervalSet.parse(json.loads(ids))) for name, ids in buckets.items())
        return settled

    def _take(self, buckets: Iterable[_Bucket]) -> None:
        self._buckets = sorted(buckets, key=lambda bucket: bucket.start)
        self._starts = [bucket.start for bucket in self._buckets]
        for bucket in self._buckets:
            for start, end in bucket.ids:
                self._ids.add(start, end)

    @classmethod
    def parse(cls, document: object) -> Settled:
        """The set that ``render`` wrote; ValueError, TypeError or KeyError when it isn't one."""
        if not isinstance(document, dict):
            raise TypeError("settled is not an object")
        settled = cls(datetime.fromisoformat(document["until"]))
        minutes = document["minutes"].items()
        settled._take(_Bucket.load(name, IntervalSet.parse(intervals)) for name, intervals in minutes)
        return settled
