"""Telemetry into the database: as many batches as came together in one transaction, every record once.

Work is grouped: rows of experiments and of writers are read once for all batches, what one writer sent is stored
together, and every table is written once.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.bus.errors import Early, Poison
from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import MAX_NAMES
from incl_tracker import counters, saying, store_chunks, store_lines, store_settlement, store_summaries, store_tails
from incl_tracker import store_experiments as experiments
from incl_tracker import store_writers as writers
from incl_tracker import tables as t
from incl_tracker.domain.batches import (
    decode_logs,
    decode_metrics,
)
from incl_tracker.ingest_lines import in_order, rows_of
from incl_tracker.ingest_points import new_names, store, take
from incl_tracker.ingest_work import Place, Work, decoded, each, origin_of, works_of
from incl_tracker.memory import Memory, WriterKey
from incl_tracker.saying import MAX_METRICS, Word
from incl_tracker.settling import settle_or_wait
from incl_tracker.statements import Update
from incl_tracker.store_columns import touch

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction
    from incl_tracker.audience import Audience

PATIENCE = 8
"""Deliveries (about 6 seconds) for which lines wait for the ones before them: a shipper tries for up to 5 seconds."""
_e = t.experiments.c
_ROWS = (
    sa.select(_e.id, _e.project, _e.points, _e.lines, _e.epoch, _e.stamp, _e.purged, _e.compact_at)
    .where(_e.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(_e.id)
    .with_for_update()
)
_STORED = Update(t.experiments, '"points" = ?, "lines" = ?, "stamp" = ?, "compact_at" = ?', "id")


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
        batches = [(origin_of(d.subject), decoded(decode_metrics, d.payload), d) for d in deliveries]
        places = self._places(tx, [(origin, d) for origin, _, d in batches])
        works = works_of(tx, places, [(origin, "metrics", batch.writer) for origin, batch, _ in batches])
        said: list[Word] = []
        for (_, batch, delivery), work in zip(batches, works, strict=True):
            extras = take(work, batch)
            if extras is not None:
                said.append(Word(work.origin, work.writer, extras, delivery.time))
        busy = [work for work in each(works) if work.tables]
        if len(deliveries) > 1 and new_names(busy) > MAX_NAMES:
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
        batches = [(origin_of(d.subject), decoded(decode_logs, d.payload), d) for d in sent]
        places = self._places(tx, [(origin, d) for origin, _, d in batches])
        works = works_of(tx, places, [(origin, "logs", batch.writer) for origin, batch, _ in batches])
        ordered = in_order(zip(works, batches, strict=True))
        if any(hole and delivery.deliveries < PATIENCE and not w.place.purged for w, _, delivery, hole in ordered):
            raise Early
        rows: list[store_lines.Row] = []
        for work, batch, _, _ in ordered:
            rows += rows_of(work, batch)
        store_lines.add(tx.connection, rows)
        self._finish(tx, places, works)

    def _places(self, tx: Transaction, wanted: Sequence[tuple[Origin, Delivery]]) -> dict[str, Place]:
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
            found[experiment] = Place(
                experiment, row.project, row.points, row.lines, row.compact_at, known, row.stamp,
                row.purged is not None,
            )  # fmt: skip
        for origin, _ in wanted:
            if found[origin.experiment].project != origin.project:
                raise Poison(f"{origin.experiment} is not of project {origin.project}")
        return found

    def _points(self, tx: Transaction, works: Sequence[Work]) -> None:
        connection = tx.connection
        used = list({work.place.id: work.place.known for work in works}.items())
        store_summaries.load(connection, used)
        writers.load_attempts(connection, used)
        chunks = store_chunks.NewChunks(connection)
        tails = store_tails.NewTails(connection, chunks, self._limits)
        stale: list[tuple[str, int]] = []
        fresh: list[tuple[str, str]] = []
        for work in works:
            stale += store(tx, work, tails, fresh, self._max_metrics)
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

    def _finish(self, tx: Transaction, places: dict[str, Place], works: Sequence[Work]) -> None:
        """Write down what is stored now, settle what is complete, and tell after the commit."""
        writers.save(tx.connection, [(w.place.id, w.writer) for w in each(works) if w.changed])
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
        marks = [(w.origin, w.writer.key, w.mark) for w in each(works)]
        repeated = sum(work.repeated for work in each(works))
        tx.after_commit(lambda: self._tell(list(places.values()), marks, repeated))

    def _tell(self, places: Sequence[Place], marks: Sequence[tuple[Origin, WriterKey, int]], repeated: int) -> None:
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
