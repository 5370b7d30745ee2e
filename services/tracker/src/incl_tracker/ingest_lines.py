"""Lines in the order in which they were written, and the rows that they go to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from incl_shared.subjects import Origin
from incl_tracker import store_lines
from incl_tracker.domain import ranges
from incl_tracker.domain.batches import cut_lines
from incl_tracker.ingest_work import Work, new_of

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.telemetry.wire import LogBatch

Sent = tuple[Origin, "LogBatch", "Delivery"]


def in_order(sent: Iterable[tuple[Work, Sent]]) -> list[tuple[Work, LogBatch, Delivery, bool]]:
    """Those of one writer in the order of their lines, at the places that they have; and whether a hole is before.

    A hole that was given up is none any more: what comes behind it does not wait.
    """
    every = list(sent)
    mine: dict[int, list[Sent]] = {}
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


def rows_of(work: Work, batch: LogBatch) -> list[store_lines.Row]:
    """What is new of a batch, as rows; lines that follow the experiment's last row go there."""
    place, key = work.place, work.writer.key
    rows = []
    for first, lines in cut_lines(batch, new_of(work, batch.first, len(batch.lines))):
        if place.row is None or not place.row.takes(key, first):
            place.row = store_lines.Row(place.id, place.lines, key, first, [])
            rows.append(place.row)
        place.row.add(lines)
        place.lines += len(lines)
        place.said += [(key.attempt, key.rank, line) for line in lines]
    return rows
