"""Batches from the bus: decoded, checked, and cut to the records that are not stored yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from incl_shared.ids import TOKEN_PATTERN
from incl_shared.telemetry.wire import BATCH_VERSION, MAX_NAMES, Extra, Group, Line, LogBatch, MetricBatch
from incl_tracker.domain.ranges import Range
from incl_tracker.domain.samples import Floats, Places, Steps
from incl_tracker.domain.text import clean_name

MAX_RECORDS = 10_000_000
MAX_SEQUENCE = 1 << 53
_TOKEN = re.compile(TOKEN_PATTERN)
_metrics = msgspec.msgpack.Decoder(MetricBatch)
_logs = msgspec.msgpack.Decoder(LogBatch)
_clean = lru_cache(1 << 16)(clean_name)


class BadBatch(ValueError):  # noqa: N818
    """A batch that can never be stored; says why."""


@dataclass(frozen=True, slots=True)
class Table:
    """The n records of a batch that have these k metrics, each named once.

    names: k. steps, times: n. values: (n, k). offsets: n, which record each is (record - first of the batch), rising;
    none: they do not say it, as they are all of the batch or were made by a writer that left it out.
    """

    names: tuple[str, ...]
    steps: Steps
    times: Floats
    values: Floats
    offsets: Places | None

    def __len__(self) -> int:
        return len(self.steps)

    def take(self, chosen: Places) -> Table:
        """The records at these places."""
        offsets = None if self.offsets is None else self.offsets[chosen]
        return Table(self.names, self.steps[chosen], self.times[chosen], self.values[chosen], offsets)


@dataclass(frozen=True, slots=True)
class Metrics:
    """A checked batch of METRICS."""

    writer: str
    first: int
    count: int
    tables: list[Table]
    extras: list[Extra]


@dataclass(frozen=True, slots=True)
class NewRecords:
    """What a batch brings that is not stored yet."""

    tables: list[Table]
    extras: list[Extra]


def decode_metrics(payload: bytes) -> Metrics:
    """A batch of METRICS.

    Raises:
        BadBatch: when it is none that this version knows, or a group of it is malformed.
    """
    try:
        batch = _metrics.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadBatch(f"no metric batch: {error}") from error
    _check(batch.version, batch.writer, batch.first, batch.count)
    names = sum(len(group.names) for group in batch.groups)
    if names > MAX_NAMES:
        raise BadBatch(f"it names {names} metrics, {MAX_NAMES} are allowed")
    places = [extra.sequence - batch.first for extra in batch.extras]
    if any(b <= a for a, b in pairwise([-1, *places, batch.count])):
        raise BadBatch("records that are no scalars do not rise, or are none of the batch")
    tables = [table for group in batch.groups for table in _tables(group, batch.count)]
    return Metrics(batch.writer, batch.first, batch.count, tables, batch.extras)


def decode_logs(payload: bytes) -> LogBatch:
    """A batch of LOGS.

    Raises:
        BadBatch: when it is none that this version knows.
    """
    try:
        batch = _logs.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadBatch(f"no log batch: {error}") from error
    _check(batch.version, batch.writer, batch.first, len(batch.lines))
    return batch


def cut_metrics(batch: Metrics, wanted: Sequence[Range]) -> NewRecords:
    """The records of a batch that lie in `wanted` (ranges of sequences, all inside the batch).

    Raises:
        BadBatch: when a group cannot be cut as it does not say which records it has.
    """
    if list(wanted) == [(batch.first, batch.first + batch.count - 1)]:
        return NewRecords(batch.tables, batch.extras)
    tables = [cut for table in batch.tables if len(cut := _cut(table, batch, wanted))]
    return NewRecords(tables, [e for e in batch.extras if any(a <= e.sequence <= b for a, b in wanted)])


def cut_lines(batch: LogBatch, wanted: Sequence[Range]) -> list[tuple[int, list[Line]]]:
    """(first sequence, lines) of each wanted range."""
    return [(first, batch.lines[first - batch.first : last - batch.first + 1]) for first, last in wanted]


def stacked(tables: Sequence[Table]) -> Table:
    """Tables of the same names made one; which records they were is not kept."""
    return Table(
        tables[0].names,
        np.concatenate([table.steps for table in tables]),
        np.concatenate([table.times for table in tables]),
        np.concatenate([table.values for table in tables]),
        None,
    )


def _check(version: int, writer: str, first: int, count: int) -> None:
    if version != BATCH_VERSION:
        raise BadBatch(f"batch version {version} is not known")
    if _TOKEN.fullmatch(writer) is None:
        raise BadBatch(f"{writer[:80]!r} is no writer")
    if not 1 <= first <= MAX_SEQUENCE or not 1 <= count <= MAX_RECORDS:
        raise BadBatch(f"{count} records from {first} are out of bounds")


def _tables(group: Group, count: int) -> list[Table]:
    """A group as tables: one, or several where names become alike when they are made fit to be stored."""
    what, width = f"group {group.names[:1]!r:.80}", len(group.names)
    try:
        steps, times = _numbers(group.steps, "<i8"), _numbers(group.times, "<f8")
        values = _numbers(group.values, "<f8")
        offsets = _numbers(group.offsets, "<u4").astype(np.int64) if group.offsets else None
    except ValueError as error:
        raise BadBatch(f"{what}: {error}") from error
    rows = len(steps)
    if len(times) != rows or len(values) != rows * width or len(set(group.names)) != width:
        raise BadBatch(f"{what}: names, steps and values differ in length")
    if rows > count or (offsets is not None and not _are_places(offsets, rows, count)):
        raise BadBatch(f"{what}: offsets do not rise, or there are more points than records")
    if not rows or not width:
        return []
    whole = Table(tuple(map(_clean, group.names)), steps, times, values.reshape(rows, width), offsets)
    return [whole] if len(set(whole.names)) == width else _distinct(whole)


def _numbers(blob: bytes, kind: str) -> Any:
    return np.frombuffer(blob, kind).astype(kind.replace("<", "="), copy=False)


def _are_places(offsets: Places, rows: int, count: int) -> bool:
    if len(offsets) != rows:
        return False
    return not rows or bool(offsets[-1] < count and (offsets[1:] > offsets[:-1]).all())


def _distinct(table: Table) -> list[Table]:
    """Tables in each of which every name stands once."""
    rounds: list[dict[str, int]] = []
    times: dict[str, int] = {}
    for place, name in enumerate(table.names):
        before = times[name] = times.get(name, -1) + 1
        if before == len(rounds):
            rounds.append({})
        rounds[before][name] = place
    return [Table(tuple(r), table.steps, table.times, table.values[:, list(r.values())], table.offsets) for r in rounds]


def _cut(table: Table, batch: Metrics, wanted: Sequence[Range]) -> Table:
    offsets = table.offsets
    if offsets is None:
        if len(table) != batch.count:
            raise BadBatch(f"group {table.names[:1]!r:.80} overlaps what is stored and has no offsets")
        offsets = np.arange(batch.count)
    inside = np.zeros(len(table), np.bool_)
    for first, last in wanted:
        low, high = np.searchsorted(offsets, (first - batch.first, last - batch.first + 1))
        inside[low:high] = True
    return table.take(np.flatnonzero(inside))
