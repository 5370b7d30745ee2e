"""Telemetry into the database: as many batches as came together in one transaction, every record once.

Work is grouped: rows of experiments and of writers are read once for all batches, what one writer sent is stored
together, and every table is written once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.ids import is_id
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import MAX_NAMES
from incl_tracker import counters, saying, store_chunks, store_lines, store_settlement, store_summaries, store_tails
from incl_tracker import store_experiments as experiments
from incl_tracker import store_writers as writers
from incl_tracker import tables as t
from incl_tracker.domain import ranges
from incl_tracker.domain.batches import (
    BadBatch,
    Metrics,
    Table,
    cut_lines,
    cut_metrics,
    decode_logs,
    decode_metrics,
    stacked,
)
from incl_tracker.domain.extras import Said, read_extras
from incl_tracker.domain.tails import Rows
from incl_tracker.memory import Columns, Known, Memory, Writer, WriterKey
from incl_tracker.saying import MAX_METRICS, Word
from incl_tracker.settling import settle_or_wait
from incl_tracker.statements import Update
from incl_tracker.store_columns import touch

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction
    from incl_shared.telemetry.wire import Line, LogBatch
    from incl_tracker.audience import Audience

T = TypeVar("T")
_Sent = tuple[Origin, "LogBatch", "Delivery"]
MAX_RANGES = 10_000
"""Of a writer: one whose numbers have more holes is none of ours."""
PATIENCE = 8
"""Deliveries (about 6 seconds) for which lines wait for the ones before them: a shipper tries for up to 5 seconds."""
_SMALL_CHUNKS = 16
_COMPACT_AFTER_S = 30.0
_e = t.experiments.c
_ROWS = (
    sa.select(_e.id, _e.project, _e.points, _e.lines, _e.epoch, _e.stamp, _e.purged, _e.compact_at)
    .where(_e.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_e.id)
    .with_for_update()
)
_STORED = Update(t.experiments, '"points" = ?, "lines" = ?, "stamp" = ?, "compact_at" = ?', "id")


@dataclass(slots=True)
class _Place:
    """An experiment in a transaction. told: the newest (step, value) of each metric of rank 0."""

    id: str
    project: str
    points: int
    lines: int
    compact_at: float | None
    known: Known
    stamp: int
    purged: bool
    changed: bool = False
    view_changed: bool = False
    new_points: int = 0
    told: dict[str, tuple[int, float]] = field(default_factory=dict)
    said: list[tuple[int, int, Line]] = field(default_factory=list)
    row: store_lines.Row | None = None


@dataclass(slots=True)
class _Work:
    """What one writer sent, in a transaction."""

    place: _Place
    origin: Origin
    writer: Writer
    first: int = 0
    tables: list[Table] = field(default_factory=list)
    changed: bool = False
    repeated: int = 0
    refused: int = 0


class TooMany(Exception):  # noqa: N818
    """So much is new in some messages that others would wait for them: they are stored in parts."""


class Ingest:
    """The consume handlers of METRICS and LOGS; they run in the writer thread, one transaction at a time."""

    def __init__(
        self,
        audience: Audience,
        settle_after_s: float,
        limits: store_tails.Limits = store_tails.LIMITS,
        max_metrics: int = MAX_METRICS,
    ) -> None:
        self._audience = audience
        self._settle_after_s = settle_after_s
        self._limits = limits
        self._max_metrics = max_metrics
        self._memory = Memory()

    def forget(self) -> None:
        """Experiments were lost to, or won from, another process: forget what is remembered of them."""
        self._memory.forget()

    def metrics(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """METRICS: the records that are not stored yet are stored. Repeats show by their records' numbers.

        Raises:
            Poison: one of them can never be stored; nothing is done then.
            TooMany: too much for one transaction; nothing is done then.
        """
        batches = [(origin_of(d.subject), _decoded(decode_metrics, d.payload), d) for d in deliveries]
        places = self._places(tx, [(origin, d) for origin, _, d in batches])
        works = _works(tx, places, [(origin, "metrics", batch.writer) for origin, batch, _ in batches])
        said: list[Word] = []
        for (_, batch, delivery), work in zip(batches, works, strict=True):
            extras = _take(work, batch)
            if extras is not None:
                said.append(Word(work.origin, work.writer, extras, delivery.time))
        busy = [work for work in _each(works) if work.tables]
        if len(deliveries) > 1 and _new_names(busy) > MAX_NAMES:
            raise TooMany
        self._points(tx, busy)
        told = saying.tell(tx, said)
        told |= saying.tell_refused(tx, [(work.origin, work.refused) for work in busy if work.refused])
        for experiment in told:
            places[experiment].view_changed = True
        self._finish(tx, places, works)

    def logs(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """LOGS: the same for lines of output, in the order in which they were sent.

        Lines after a hole wait a moment for what is missing, so that a redelivery does not disorder a page; not for
        long, as what is missing may be lost.

        Raises:
            Poison: one of them can never be stored; nothing is done then.
            Early: one of them comes after a hole; nothing is done then.
        """
        sent = sorted(deliveries, key=lambda d: d.sequence)
        batches = [(origin_of(d.subject), _decoded(decode_logs, d.payload), d) for d in sent]
        places = self._places(tx, [(origin, d) for origin, _, d in batches])
        works = _works(tx, places, [(origin, "logs", batch.writer) for origin, batch, _ in batches])
        ordered = _in_order(zip(works, batches, strict=True))
        if any(hole and delivery.deliveries < PATIENCE and not w.place.purged for w, _, delivery, hole in ordered):
            raise Early
        rows: list[store_lines.Row] = []
        for work, batch, _, _ in ordered:
            rows += _lines(work, batch)
        store_lines.add(tx.connection, rows)
        self._finish(tx, places, works)

    def _places(self, tx: Transaction, wanted: Sequence[tuple[Origin, Delivery]]) -> dict[str, _Place]:
        """The rows of the experiments, locked; shells for those of which only this has come so far."""
        self._memory.begin()
        origins = {origin.experiment: (origin, delivery) for origin, delivery in wanted}
        ids = list(origins)
        rows = {row.id: row for row in tx.connection.execute(_ROWS, {"ids": ids})}
        for experiment in ids:
            if experiment not in rows:
                origin, delivery = origins[experiment]
                experiments.find_or_make(tx.connection, experiment, origin.project, delivery.time)
                rows[experiment] = tx.connection.execute(_ROWS, {"ids": [experiment]}).one()
        found = {}
        for experiment, row in rows.items():
            known = self._memory.of(experiment, row.stamp, row.epoch)
            known.stamp = secrets.randbits(62)
            found[experiment] = _Place(
                experiment, row.project, row.points, row.lines, row.compact_at, known, row.stamp,
                row.purged is not None,
            )  # fmt: skip
        for origin, _ in wanted:
            if found[origin.experiment].project != origin.project:
                raise Poison(f"{origin.experiment} is not of project {origin.project}")
        return found

    def _points(self, tx: Transaction, works: Sequence[_Work]) -> None:
        connection = tx.connection
        used = list({work.place.id: work.place.known for work in works}.items())
        store_summaries.load(connection, used)
        writers.load_attempts(connection, used)
        chunks = store_chunks.NewChunks(connection)
        tails = store_tails.NewTails(connection, chunks, self._limits)
        stale: list[tuple[str, int]] = []
        fresh: list[tuple[str, str]] = []
        for work in works:
            stale += _store(tx, work, tails, fresh, self._max_metrics)
        chunks.write()
        tails.write()
        known = dict(used)
        for experiment, where in dict.fromkeys(stale):
            summaries = known[experiment].summaries
            assert summaries is not None
            rank = summaries.rank_of(where)
            found = store_summaries.stored_extremes(connection, experiment, summaries.names[where], rank)
            summaries.set_extremes(where, *found)
        store_summaries.save(connection, [(e, k.summaries) for e, k in used if k.summaries is not None])
        store_summaries.know(connection, fresh)
        touch(connection, [experiment for experiment, _ in used])

    def _finish(self, tx: Transaction, places: dict[str, _Place], works: Sequence[_Work]) -> None:
        """Write down what is stored now, settle what is complete, and tell after the commit."""
        writers.save(tx.connection, [(w.place.id, w.writer) for w in _each(works) if w.changed])
        changed = [place for place in places.values() if place.changed]
        for place in places.values():
            if not place.changed:
                place.known.stamp = place.stamp
        _STORED.run(
            tx.connection,
            [(p.points + p.new_points, p.lines, p.known.stamp, p.compact_at, p.id) for p in changed],
        )
        grown = {(w.place.id, w.writer.key.attempt) for w in works if w.changed}
        waiting = store_settlement.unsettled_of(tx.connection, [place.id for place in changed])
        for experiment, attempt, due in waiting:
            if (experiment, attempt) not in grown:
                continue
            place = places[experiment]
            if settle_or_wait(tx, place.project, experiment, attempt, due, place.known, self._settle_after_s):
                place.view_changed = True
        self._memory.end(place.known for place in places.values())
        marks = [(w.origin, w.writer.key, _mark(w)) for w in _each(works)]
        repeated = sum(work.repeated for work in _each(works))
        tx.after_commit(lambda: self._tell(list(places.values()), marks, repeated))

    def _tell(self, places: Sequence[_Place], marks: Sequence[tuple[Origin, WriterKey, int]], repeated: int) -> None:
        counters.REPEATED.inc(repeated)
        for place in places:
            if place.new_points or place.told:
                counters.POINTS.inc(place.new_points)
                self._audience.points(place.project, place.id, place.told, place.new_points)
            if place.said:
                counters.LINES.inc(len(place.said))
                self._audience.lines(place.project, place.id, place.lines - len(place.said), place.said)
            if place.view_changed:
                self._audience.changed(place.project, place.id)
        for origin, key, mark in marks:
            self._audience.stored(origin, key.stream, key.writer, mark)


@lru_cache(4096)
def origin_of(subject: str) -> Origin:
    """Whose telemetry comes on a subject.

    Raises:
        Poison: it is no subject of telemetry.
    """
    try:
        origin = subjects.parse_telemetry(subject)
    except (InvalidInput, ValueError) as error:
        raise Poison(f"not a telemetry subject: {subject[:200]}") from error
    if not is_id(origin.experiment) or not 1 <= origin.attempt < 1 << 31 or not 0 <= origin.rank < 1 << 31:
        raise Poison(f"not a telemetry subject: {subject[:200]}")
    return origin


def _decoded(decode: Callable[[bytes], T], payload: bytes) -> T:
    try:
        return decode(payload)
    except BadBatch as error:
        raise Poison(str(error)) from error


def _works(tx: Transaction, places: dict[str, _Place], wanted: Sequence[tuple[Origin, str, str]]) -> list[_Work]:
    """The work of each batch; batches of one writer share theirs."""
    keys = [WriterKey(origin.attempt, origin.rank, stream, writer) for origin, stream, writer in wanted]
    of = [places[origin.experiment] for origin, _, _ in wanted]
    writers.load(tx.connection, [(place.id, place.known, key) for place, key in zip(of, keys, strict=True)])
    made: dict[tuple[str, WriterKey], _Work] = {}
    return [
        made.setdefault((place.id, key), _Work(place, origin, place.known.use(key)))
        for (origin, _, _), place, key in zip(wanted, of, keys, strict=True)
    ]


def _each(works: Iterable[_Work]) -> list[_Work]:
    return list({id(work): work for work in works}.values())


def _new_of(work: _Work, first: int, count: int) -> list[ranges.Range]:
    """Which of these records are not stored yet; from now on they are.

    Of a purged experiment nothing is stored, and its shippers may forget all.
    """
    last = first + count - 1
    wanted = ranges.missing(work.writer.ranges, first, last)
    if work.place.purged:
        work.writer.ranges = ranges.merged(work.writer.ranges, 1, last)
        return []
    work.repeated += count - ranges.total(wanted)
    if wanted:
        work.writer.ranges = ranges.merged(work.writer.ranges, first, last)
        if len(work.writer.ranges) > MAX_RANGES:
            raise Poison(f"the numbers of {work.writer.key.writer} have more than {MAX_RANGES} holes")
        work.changed = work.place.changed = True
    return wanted


def _take(work: _Work, batch: Metrics) -> Said | None:
    """Take what is new of a batch; what its extras say, if it has any that are new."""
    wanted = _new_of(work, batch.first, batch.count)
    if not wanted:
        return None
    try:
        new = cut_metrics(batch, wanted)
    except BadBatch as error:
        raise Poison(str(error)) from error
    work.first = min(work.first, wanted[0][0]) if work.tables else wanted[0][0]
    work.tables += new.tables
    if not new.extras:
        return None
    said = read_extras(new.extras)
    work.writer.dropped += said.dropped
    return said


def _store(
    tx: Transaction, work: _Work, tails: store_tails.NewTails, fresh: list[tuple[str, str]], most: int
) -> list[tuple[str, int]]:
    """Store the new points of a writer; (experiment, place) of summaries to be computed anew."""
    place, known, writer = work.place, work.place.known, work.writer
    assert known.attempts is not None
    known.attempts.add(writer.key.attempt)
    stale: list[tuple[str, int]] = []
    groups = []
    for whole in _joined(work.tables):
        table = _fitting(work, whole, most)
        if not table.names:
            continue
        columns = _columns(tx.connection, work, table.names, fresh)
        stale += _summarise(work, table, columns)
        groups.append(Rows(columns.series, table.steps, table.times, table.values))
        writer.points += len(table) * columns.counted
        place.new_points += len(table) * columns.counted
    known.small += tails.add(place.id, known, writer, work.first, groups)
    if known.small >= _SMALL_CHUNKS * max(1, len(writer.series)) and place.compact_at is None:
        place.compact_at, known.small = tx.clock.now() + _COMPACT_AFTER_S, 0
    return stale


def _joined(tables: Sequence[Table]) -> list[Table]:
    """Tables of the same metrics made one."""
    if len(tables) < 2:
        return list(tables)
    same: dict[tuple[str, ...], list[Table]] = {}
    for table in tables:
        same.setdefault(table.names, []).append(table)
    return [parts[0] if len(parts) == 1 else stacked(parts) for parts in same.values()]


def _new_names(works: Sequence[_Work]) -> int:
    """How many series have to be looked up, or made."""
    return sum(
        sum(name not in work.writer.series for name in names)
        for work in works
        for names in {table.names for table in work.tables}
        if names not in work.writer.columns
    )


def _fitting(work: _Work, table: Table, most: int) -> Table:
    """Without metrics that the experiment cannot have any more; its records are counted as dropped then."""
    summaries = work.place.known.summaries
    assert summaries is not None
    if table.names in work.writer.columns:
        return table
    kept = summaries.fitting(table.names, most)
    if kept is None:
        return table
    work.refused += len(table)
    work.writer.dropped += len(table)
    return replace(table, names=tuple(table.names[place] for place in kept), values=table.values[:, kept])


def _columns(connection: sa.Connection, work: _Work, names: tuple[str, ...], fresh: list[tuple[str, str]]) -> Columns:
    """What these names are to the writer; the metrics that are new to the experiment go to `fresh`."""
    known, writer = work.place.known, work.writer
    found = writer.columns.get(names)
    if found is None:
        assert known.summaries is not None
        summaries, before = known.summaries, len(known.summaries) + len(writer.series)
        metrics = len(summaries)
        store_chunks.ids(connection, work.place.id, writer, names)
        places = summaries.places(names)
        fresh += [(work.place.project, name) for name in summaries.names[metrics:]]
        known.size += len(summaries) + len(writer.series) - before + 1 + len(names) // 4
        counted = sum(not name.startswith(SYSTEM_PREFIX) for name in names)
        found = Columns(np.array([writer.series[name] for name in names], np.int64), places, counted)
        writer.remember(names, found)
    return found


def _summarise(work: _Work, table: Table, columns: Columns) -> list[tuple[str, int]]:
    """Add what is new to the summaries; (experiment, place) of those whose extremes must be computed anew."""
    place, key = work.place, work.writer.key
    assert place.known.summaries is not None
    fresh = place.known.summaries.add(columns.places, key.rank, key.attempt, table.steps, table.times, table.values)
    if key.rank == 0:
        told = place.told
        for name, step, value in zip(table.names, fresh.steps.tolist(), fresh.values.tolist(), strict=True):
            if name not in told or told[name][0] <= step:
                told[name] = (step, value)
    return [(place.id, where) for where in fresh.stale.tolist()]


def _in_order(sent: Iterable[tuple[_Work, _Sent]]) -> list[tuple[_Work, LogBatch, Delivery, bool]]:
    """Those of one writer in the order of their lines, at the places that they have; and whether a hole is before.

    A hole that was given up is none any more: what comes behind it does not wait.
    """
    every = list(sent)
    mine: dict[int, list[_Sent]] = {}
    for work, one in every:
        mine.setdefault(id(work), []).append(one)
    waiting = {key: iter(sorted(ones, key=lambda one: one[1].first)) for key, ones in mine.items()}
    stored = {id(work): work.writer.ranges for work, _ in every}
    result = []
    for work, _ in every:
        _, batch, delivery = next(waiting[id(work)])
        hole = batch.first > ranges.highest(stored[id(work)]) + 1
        stored[id(work)] = ranges.merged(stored[id(work)], batch.first, batch.first + len(batch.lines) - 1)
        result.append((work, batch, delivery, hole))
    return result


def _lines(work: _Work, batch: LogBatch) -> list[store_lines.Row]:
    """What is new of a batch, as rows; lines that follow the experiment's last row go there."""
    place, key = work.place, work.writer.key
    rows = []
    for first, lines in cut_lines(batch, _new_of(work, batch.first, len(batch.lines))):
        if place.row is None or not place.row.takes(key, first):
            place.row = store_lines.Row(place.id, place.lines, key, first, [])
            rows.append(place.row)
        place.row.add(lines)
        place.lines += len(lines)
        place.said += [(key.attempt, key.rank, line) for line in lines]
    return rows


def _mark(work: _Work) -> int:
    return ranges.watermark(work.writer.ranges)
