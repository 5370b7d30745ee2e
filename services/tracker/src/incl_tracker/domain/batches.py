"""Batches from the bus: decoded, checked, and cut to the records that are not stored yet."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from incl_shared.ids import TOKEN_PATTERN
from incl_shared.telemetry.wire import BATCH_VERSION, Extra, Group, Line, LogBatch, MetricBatch
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
        BadBatch: when a group is malformed, or cannot be cut as it does not say which records it has.
    """
    whole = list(wanted) == [(batch.first, batch.first + batch.count - 1)]
    placed: dict[str, list[tuple[int, Points]]] = {}
    for group in batch.groups:
        rows, offsets = _rows(group, batch.count)
        if not whole:
            rows, offsets = _cut(group, rows, offsets, batch, wanted)
        for name, points in rows.items():
            placed.setdefault(clean_name(name), []).append((offsets[0] if offsets else 0, points))
    columns: dict[str, Points] = {}
    for name, pieces in placed.items():
        for _, points in sorted(pieces, key=lambda piece: piece[0]):
            if len(points):
                columns.setdefault(name, Points()).extend(points)
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


def _rows(group: Group, count: int) -> tuple[dict[str, Points], Sequence[int]]:
    """(points by name, the offsets of the records or none where all of the batch are there)."""
    what = f"group {group.names[:1]!r:.80}"
    width = len(group.names)
    values = array("d")
    try:
        offsets = offsets_of(group.offsets)
        values.frombytes(group.values)
        found = {
            name: from_blobs(group.steps, group.times, values[place::width].tobytes())
            for place, name in enumerate(group.names)
        }
    except ValueError as error:
        raise BadBatch(f"{what}: {error}") from error
    rows = len(group.steps) // 8
    if len(values) != rows * width or len(set(group.names)) != width:
        raise BadBatch(f"{what}: names, steps and values differ in length")
    if rows > count or (offsets and len(offsets) != rows) or any(a >= b for a, b in pairwise(offsets)):
        raise BadBatch(f"{what}: offsets do not rise, or there are more points than records")
    return found, offsets


def _cut(
    group: Group, rows: dict[str, Points], offsets: Sequence[int], batch: MetricBatch, wanted: Sequence[Range]
) -> tuple[dict[str, Points], Sequence[int]]:
    count = len(group.steps) // 8
    if not offsets:
        if count != batch.count:
            raise BadBatch(f"group {group.names[:1]!r:.80} overlaps what is stored and has no offsets")
        offsets = range(batch.count)
    chosen: list[int] = []
    for a, b in wanted:
        chosen.extend(range(bisect_left(offsets, a - batch.first), bisect_left(offsets, b - batch.first + 1)))
    return {name: points.take(chosen) for name, points in rows.items()}, [offsets[i] for i in chosen]
