"""Batches from the bus: decoded, checked, and cut to the records that are not stored yet."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from incl_shared.ids import TOKEN_PATTERN
from incl_shared.telemetry.wire import BATCH_VERSION, Column, Extra, Line, LogBatch, MetricBatch
from incl_tracker.domain.points import Points, from_blobs, offsets_of
from incl_tracker.domain.ranges import Range
from incl_tracker.domain.text import clean_name

MAX_RECORDS = 10_000_000
MAX_SEQUENCE = 1 << 53
_TOKEN = re.compile(TOKEN_PATTERN)
_metrics = msgspec.msgpack.Decoder(MetricBatch)
_logs = msgspec.msgpack.Decoder(LogBatch)


class BadBatch(ValueError):  # noqa: N818
    """A batch that can never be stored; says why."""


@dataclass(frozen=True, slots=True)
class NewRecords:
    """What a batch brings that is not stored yet."""

    columns: dict[str, Points]
    extras: list[Extra]

    @property
    def points(self) -> int:
        """How many points they hold."""
        return sum(len(points) for points in self.columns.values())


def decode_metrics(payload: bytes) -> MetricBatch:
    """A batch of METRICS.

    Raises:
        BadBatch: when it is none that this version knows.
    """
    try:
        batch = _metrics.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadBatch(f"no metric batch: {error}") from error
    _check(batch.version, batch.writer, batch.first, batch.count)
    return batch


def decode_logs(payload: bytes) -> LogBatch:
    """A batch of LOGS.

    Raises:
        BadBatch: when it is none that this version knows.
    """
    try:
        batch = _logs.decode(payload)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadBatch(f"no log batch: {error}") from error
    _check(batch.version, batch.writer, batch.first, len(batch.lines))
    return batch


def cut_metrics(batch: MetricBatch, wanted: Sequence[Range]) -> NewRecords:
    """The records of a batch that lie in `wanted` (ranges of sequences, all inside the batch).

    Raises:
        BadBatch: when a column is malformed, or cannot be cut as it does not say which records its points are of.
    """
    whole = list(wanted) == [(batch.first, batch.first + batch.count - 1)]
    columns: dict[str, Points] = {}
    for column in batch.columns:
        points = _points(column, batch.count)
        if not whole:
            points = _cut(column, points, batch, wanted)
        if len(points):
            columns.setdefault(clean_name(column.name), Points()).extend(points)
    extras = [extra for extra in batch.extras if any(a <= extra.sequence <= b for a, b in wanted)]
    return NewRecords(columns, extras)


def cut_lines(batch: LogBatch, wanted: Sequence[Range]) -> list[tuple[int, list[Line]]]:
    """(first sequence, lines) of each wanted range."""
    return [(first, batch.lines[first - batch.first : last - batch.first + 1]) for first, last in wanted]


def _check(version: int, writer: str, first: int, count: int) -> None:
    if version != BATCH_VERSION:
        raise BadBatch(f"batch version {version} is not known")
    if _TOKEN.match(writer) is None:
        raise BadBatch(f"{writer[:80]!r} is no writer")
    if not 1 <= first <= MAX_SEQUENCE or not 1 <= count <= MAX_RECORDS:
        raise BadBatch(f"{count} records from {first} are out of bounds")


def _points(column: Column, count: int) -> Points:
    try:
        points = from_blobs(column.steps, column.times, column.values)
    except ValueError as error:
        raise BadBatch(f"column {column.name[:80]!r}: {error}") from error
    if len(points) > count:
        raise BadBatch(f"column {column.name[:80]!r} has more points than there are records")
    return points


def _cut(column: Column, points: Points, batch: MetricBatch, wanted: Sequence[Range]) -> Points:
    if not column.offsets:
        if len(points) != batch.count:
            raise BadBatch(f"column {column.name[:80]!r} overlaps what is stored and has no offsets")
        places = [i for a, b in wanted for i in range(a - batch.first, b - batch.first + 1)]
        return points.take(places)
    try:
        offsets = offsets_of(column.offsets)
    except ValueError as error:
        raise BadBatch(f"column {column.name[:80]!r}: broken offsets") from error
    if len(offsets) != len(points) or any(a >= b for a, b in pairwise(offsets)):
        raise BadBatch(f"column {column.name[:80]!r}: offsets do not rise, or are not one a point")
    chosen: list[int] = []
    for a, b in wanted:
        chosen.extend(range(bisect_left(offsets, a - batch.first), bisect_left(offsets, b - batch.first + 1)))
    return points.take(chosen)
