"""Groups of experiments that have the same values, by NumPy over numbers that stand for the values.

The values of a field are numbered in the order of their bytes, none last; so groups, which are numbered by those of
all fields, come in the order of their values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np

from incl_tracker.domain.columns import Array, Tags, Texts

DAY_S = 86_400.0
_ROOM = 1 << 16
_FEW = 8
"""A dictionary with fewer than one entry for so many experiments is numbered whole: some entries may have no user."""
_SHORT = 400
_DIGEST = 16
Mark = tuple[bytes, bytes] | None
"""A value as a cursor says it: itself, or the beginning of a long one with the digest of all of it."""


@dataclass(frozen=True, slots=True)
class Labels:
    """A field of some memberships. codes: places in `names` (ascending bytes, each once); len(names) is none."""

    codes: Array
    names: Sequence[bytes]

    def value(self, code: int) -> bytes | None:
        """What a code stands for."""
        return self.names[code] if code < len(self.names) else None

    def find(self, mark: Mark) -> tuple[int, bool]:
        """(the first code that is not before a value, whether it is that value)."""
        if mark is None:
            return len(self.names), True
        text, digest = mark
        place = bisect_left(self.names, text)
        if not digest:
            return place, place < len(self.names) and self.names[place] == text
        for code in range(place, len(self.names)):
            if not self.names[code].startswith(text):
                break
            if _digest(self.names[code]) == digest:
                return code, True
        return place, False


def mark_of(value: bytes | None) -> Mark:
    """A value for a cursor, of at most some hundred bytes."""
    if value is None:
        return None
    return (value, b"") if len(value) <= _SHORT else (value[:_SHORT], _digest(value))


def _digest(value: bytes) -> bytes:
    return sha256(value).digest()[:_DIGEST]


class TextLabels:
    """Texts of block after block, numbered over all of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._pieces: list[Array] = []

    def add(self, texts: Texts | None, places: Array) -> None:
        """Those of the next experiments, at these places of a block."""
        if texts is None:
            self._pieces.append(np.full(len(places), -1, np.int32))
        else:
            self.put(texts, texts.codes[places])

    def put(self, texts: Texts, codes: Array) -> None:
        """The next ones by their codes in a dictionary; -1 is none."""
        size = len(texts.offsets)
        if size * _FEW < len(codes):
            used = np.arange(size - 1)
        else:
            used = np.flatnonzero(np.bincount(codes.astype(np.intp) + 1, minlength=size + 1)[1:])
        entries = texts.entries() if len(used) * 2 > size else None
        numbers = np.full(size, -1, np.int32)
        known = self._known
        for code in used.tolist():
            entry = texts.entry(code) if entries is None else entries[code]
            numbers[code] = known.setdefault(entry, len(known))
        self._pieces.append(numbers[codes])

    def done(self) -> Labels:
        """All of them."""
        return _sorted(_joined(self._pieces, np.dtype(np.int32)), list(self._known))


class NumberLabels:
    """Numbers of block after block; days: seconds since the epoch, which count as their days (UTC)."""

    def __init__(self, *, days: bool = False) -> None:
        self._days = days
        self._pieces: list[Array] = []

    def add(self, values: Array | None, places: Array) -> None:
        """Those of the next experiments; NaN is none."""
        self._pieces.append(np.full(len(places), np.nan) if values is None else values[places])

    def done(self) -> Labels:
        """All of them."""
        values = _joined(self._pieces, np.dtype(np.float64)).astype(np.float64)
        given = ~np.isnan(values)
        some = np.floor(values[given] / DAY_S) if self._days else values[given]
        numbers, distinct = _distinct(some)
        codes = np.full(len(values), -1, np.int32)
        codes[given] = numbers
        text = _day if self._days else number_text
        return _sorted(codes, [text(value).encode() for value in distinct.tolist()])


class TagLabels:
    """Tags of block after block: one experiment may have several, and is then a member of several groups."""

    def __init__(self) -> None:
        self._texts = TextLabels()
        self._members: list[Array] = []
        self._count = 0

    def add(self, tags: Tags | None, places: Array) -> None:
        """Those of the next experiments."""
        rows = np.arange(self._count, self._count + len(places))
        self._count += len(places)
        if tags is None:
            self._members.append(rows)
            self._texts.add(None, places)
            return
        row_of = np.full(len(tags.starts) - 1, -1, np.int64)
        row_of[places] = rows
        slots = tags.slots()
        mine = np.flatnonzero(row_of[slots] >= 0)
        without = rows[np.diff(tags.starts.astype(np.int64))[places] == 0]
        self._members += [row_of[slots[mine]], without]
        self._texts.put(tags.texts, np.concatenate((tags.texts.codes[mine], np.full(len(without), -1, np.int16))))

    def done(self) -> tuple[Array, Labels]:
        """(the experiment of each membership, by its number; the tags)."""
        return _joined(self._members, np.dtype(np.int64)), self._texts.done()


@dataclass(frozen=True, slots=True)
class Groups:
    """of: the group of each membership. counts: members of each group. codes: the values of each group, by field."""

    of: Array
    counts: Array
    codes: Sequence[Array]

    @classmethod
    def by(cls, labels: Sequence[Labels]) -> Groups:
        """Of the memberships that these fields have."""
        of, size = _dense(labels[0].codes, len(labels[0].names) + 1)
        for other in labels[1:]:
            room = len(other.names) + 1
            of, size = _dense(of.astype(np.int64) * room + other.codes, size * room)
        one = np.empty(size, np.int64)
        one[of] = np.arange(len(of))
        return cls(of, np.bincount(of, minlength=size), [each.codes[one] for each in labels])

    def first(self, labels: Sequence[Labels], last: tuple[int, Sequence[Mark]] | None, limit: int) -> Array:
        """The first groups, the greatest first; last: those after a group of that size and those values."""
        some = np.arange(len(self.counts))
        if last is not None:
            some = some[self._after(labels, *last)]
        if len(some) > limit:
            counts = self.counts[some]
            some = some[counts >= np.partition(counts, len(counts) - limit)[len(counts) - limit]]
        return np.asarray(some[np.argsort(-self.counts[some], kind="stable")][:limit])

    def _after(self, labels: Sequence[Labels], count: int, marks: Sequence[Mark]) -> Array:
        ties = self.counts == count
        result = self.counts < count
        for codes, each, mark in zip(self.codes, labels, marks, strict=True):
            place, there = each.find(mark)
            result = result | (ties & (codes >= place + there))
            ties = ties & (codes == place) & there
        return np.asarray(result)


@dataclass(frozen=True, slots=True)
class Members:
    """The members of some groups. groups: the place of the group of each among them; rows: which experiment it is."""

    groups: Array
    rows: Array
    count: int

    @classmethod
    def of(cls, groups: Groups, some: Array, rows: Array | None) -> Members:
        """rows: the experiment of each membership; none: each experiment has one."""
        place = np.full(len(groups.counts), -1, np.int32)
        place[some] = np.arange(len(some))
        here = place[groups.of]
        kept = np.flatnonzero(here >= 0)
        return cls(here[kept], kept if rows is None else rows[kept], len(some))

    def tally(self, labels: Labels) -> list[dict[bytes, int]]:
        """How often each group has each text of a field of all experiments."""
        room = len(labels.names) + 1
        keys = self.groups.astype(np.int64) * room + labels.codes[self.rows]
        table = np.bincount(keys, minlength=self.count * room).reshape(self.count, room)[:, :-1]
        found: list[dict[bytes, int]] = [{} for _ in range(self.count)]
        for group, code in np.argwhere(table).tolist():
            found[group][labels.names[code]] = int(table[group, code])
        return found

    def greatest(self, values: Array) -> tuple[Array, Array]:
        """(group, experiment) of those with the greatest value in their group, in the order of groups."""
        mine = np.nan_to_num(values[self.rows].astype(np.float64), nan=-np.inf)
        best = np.full(self.count, -np.inf)
        np.maximum.at(best, self.groups, mine)
        hits = np.flatnonzero(mine == best[self.groups])
        hits = hits[np.argsort(self.groups[hits], kind="stable")]
        return self.groups[hits], self.rows[hits]

    def summed(self, values: Array) -> list[Summary | None]:
        """Of each group what its numbers are together; NaN is no number."""
        mine = values[self.rows].astype(np.float64)
        given = ~np.isnan(mine)
        groups, mine = self.groups[given], mine[given]
        counts = np.bincount(groups, minlength=self.count)
        low, high = np.full(self.count, np.inf), np.full(self.count, -np.inf)
        np.minimum.at(low, groups, mine)
        np.maximum.at(high, groups, mine)
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            mean = np.clip(np.bincount(groups, mine, self.count) / counts, low, high)
            away = mine - mean[groups]
            squares = np.bincount(groups, away * away, self.count)
            deviation = np.sqrt(squares / np.maximum(counts - 1, 1))
        columns = (counts.tolist(), mean.tolist(), low.tolist(), high.tolist(), deviation.tolist())
        return [Summary(*row) if row[0] else None for row in zip(*columns, strict=True)]


@dataclass(frozen=True, slots=True)
class Summary:
    """Numbers of a group. With an infinity among them the mean is one, or NaN, and the deviation is NaN."""

    count: int
    mean: float
    minimum: float
    maximum: float
    deviation: float


def number_text(value: float) -> str:
    """8, 0.001, 1e+20, inf."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


def _day(day: float) -> str:
    try:
        return datetime.fromtimestamp(day * DAY_S, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        return number_text(day * DAY_S)


def _sorted(codes: Array, names: list[bytes]) -> Labels:
    """names: by code, each once; codes: -1 is none."""
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names) + 1, np.int32)
    rank[order] = np.arange(len(names))
    rank[-1] = len(names)
    return Labels(rank[codes], [names[code] for code in order])


def _joined(pieces: Sequence[Array], dtype: np.dtype[np.generic]) -> Array:
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


def _dense(keys: Array, room: int) -> tuple[Array, int]:
    """Whole numbers from 0 to room made consecutive, in the same order; how many there are."""
    if room > 4 * len(keys) + _ROOM:
        distinct, numbers = np.unique(keys, return_inverse=True)
        return numbers, len(distinct)
    there = np.zeros(room, np.bool_)
    there[keys] = True
    place = np.cumsum(there) - 1
    return place[keys], int(np.count_nonzero(there))


def _distinct(values: Array) -> tuple[Array, Array]:
    """(the number of each value, the values in their order)."""
    if len(values) and np.isfinite(values).all() and (values == np.trunc(values)).all():
        low = values.min()
        room = values.max() - low + 1
        if room <= 4 * len(values) + _ROOM:
            keys = (values - low).astype(np.int64)
            numbers, _ = _dense(keys, int(room))
            return numbers, np.asarray(np.flatnonzero(np.bincount(keys)) + low)
    distinct, numbers = np.unique(values, return_inverse=True)
    return numbers, distinct
