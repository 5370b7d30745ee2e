"""Settlement and alerts: what the tracker itself tells the world, by the outbox of the same transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_shared.events import AlertRaised, AttemptSettled, RankEnd
from incl_shared.subjects import Origin
from incl_tracker import counters, store_compaction
from incl_tracker import store_experiments as experiments
from incl_tracker import store_settlement as store
from incl_tracker.domain.extras import Alert
from incl_tracker.domain.ranges import total
from incl_tracker.domain.settlement import Stored, Tally, Wrote, some_silent, tally, wrote
from incl_tracker.memory import Known, WriterKey

if TYPE_CHECKING:
    from incl_shared.db import Transaction


COMPACT_AFTER_S = 60.0
"""Seconds between a settlement and the compaction: what comes late has come by then."""
_SLACK = 0.25
"""An attempt's time to wait is written anew once so much of it is over, not with each batch."""


def begin_settlement(
    tx: Transaction, project: str, experiment: str, attempt: int, ranks: Sequence[RankEnd], due: float
) -> None:
    """An attempt ended: write down what it wrote, and settle at once when all of it is here.

    due: until when missing records are waited for (seconds since the epoch).
    """
    store.expect(tx.connection, experiment, attempt, wrote(ranks))
    values = {"settle_due": due, "wait_for_due": some_silent(ranks)}
    experiments.update_attempt(tx.connection, experiment, attempt, values)
    settle_if_complete(tx, project, experiment, attempt)


def wrote_more(tx: Transaction, experiment: str, attempt: int, ranks: Sequence[RankEnd]) -> bool:
    """Whether these writers wrote more than an end that came before said: a run that was gone on with."""
    known = {
        (w.rank, w.stream, w.writer): w.records for w in store.expected_of(tx.connection, experiment).get(attempt, ())
    }
    return any(w.records > known.get((w.rank, w.stream, w.writer), 0) for w in wrote(ranks))


def settle_if_complete(tx: Transaction, project: str, experiment: str, attempt: int, *, due: bool = False) -> bool:
    """Say AttemptSettled when every record is stored or known lost; or, once it is due, with what is missing.

    Returns:
        whether it was said now.
    """
    row = store.unsettled(tx.connection, experiment, attempt)
    if row is None or (row["wait_for_due"] and not due):
        return False
    stored, counted = _count(tx, experiment, attempt)
    if counted.missing and not due:
        return False
    _say_settled(tx, project, experiment, attempt, stored, counted)
    return True


def settle_or_wait(
    tx: Transaction, project: str, experiment: str, attempt: int, due: float, known: Known, patience_s: float
) -> bool:
    """More of an attempt that has ended was stored: settle it when that was all. Else its time to wait begins anew.

    All writers are counted only when the one that was known to lack records does so no more; which one that is, is
    drawn: with n writers they are counted about log n times while the rest of an attempt comes in.

    Returns:
        whether it was settled.
    """
    lacking = known.lacking.get(attempt)
    if lacking is None or _has(known, attempt, lacking):
        row = store.unsettled(tx.connection, experiment, attempt)
        if row is not None and not row["wait_for_due"]:
            stored, counted = _count(tx, experiment, attempt)
            if not counted.missing:
                known.lacking.pop(attempt, None)
                _say_settled(tx, project, experiment, attempt, stored, counted)
                return True
            if counted.waits_for:
                known.lacking[attempt] = secrets.choice(counted.waits_for)
    later = tx.clock.now() + patience_s
    if due < later - patience_s * _SLACK:
        experiments.update_attempt(tx.connection, experiment, attempt, {"settle_due": later})
    return False


def keep_waiting(tx: Transaction, experiment: str, attempt: int, patience_s: float, most_s: float) -> None:
    """Who ships the rest of an ended attempt gave word: it is waited for, but not for longer than most_s in all."""
    row = store.unsettled(tx.connection, experiment, attempt)
    if row is not None:
        later = min(tx.clock.now() + patience_s, (row["ended"] or 0.0) + most_s)
        if later > row["settle_due"]:
            experiments.update_attempt(tx.connection, experiment, attempt, {"settle_due": later})


def _has(known: Known, attempt: int, wish: Wrote) -> bool:
    streams = (wish.stream,) if wish.stream else ("metrics", "logs")
    keys = (WriterKey(attempt, wish.rank, stream, wish.writer) for stream in streams)
    return sum(total(known.writers[k].ranges, wish.records) for k in keys if k in known.writers) >= wish.records


def _count(tx: Transaction, experiment: str, attempt: int) -> tuple[list[Stored], Tally]:
    stored = store.stored_of(tx.connection, experiment, attempt).get(attempt, [])
    return stored, tally(store.expected_of(tx.connection, experiment).get(attempt, ()), stored)


def _say_settled(
    tx: Transaction, project: str, experiment: str, attempt: int, stored: Sequence[Stored], counted: Tally
) -> None:
    experiments.update_attempt(tx.connection, experiment, attempt, {"settled": True, "settle_due": None})
    settled = AttemptSettled(
        experiment=experiment,
        attempt=attempt,
        points=store.points_of(tx.connection, experiment).get(attempt, 0),
        lines=store.lines_of(stored),
        gaps=counted.gaps,
    )
    store_compaction.set_due(tx.connection, experiment, tx.clock.now() + COMPACT_AFTER_S)
    version = experiments.next_version(tx.connection, experiment, "settlements")
    tx.emit(settled, project=project, version=version, cause=(attempt, version))

    def count() -> None:
        counters.SETTLED.inc()
        counters.GAPS.inc(counted.gaps)

    tx.after_commit(count)


def settle_due(tx: Transaction) -> list[tuple[str, str]]:
    """Settle the attempts that were waited for long enough. Returns (project, experiment) of each."""
    done = []
    for experiment, attempt in store.due(tx.connection, tx.clock.now()):
        row = experiments.find(tx.connection, experiment)
        if row is not None and settle_if_complete(tx, row["project"], experiment, attempt, due=True):
            done.append((row["project"], experiment))
    return done


def raise_alerts(tx: Transaction, origin: Origin, writer: str, alerts: Sequence[Alert]) -> None:
    """Say AlertRaised for each alert, once: its id follows from the place of its record."""
    if not alerts:
        return
    last = experiments.next_version(tx.connection, origin.experiment, "alerts", len(alerts))
    for version, alert in enumerate(alerts, last - len(alerts) + 1):
        event = AlertRaised(
            experiment=origin.experiment,
            attempt=origin.attempt,
            rank=origin.rank,
            title=alert.title,
            text=alert.text,
            level=alert.level,
        )
        cause = (origin.attempt, origin.rank, writer, alert.sequence)
        tx.emit(event, project=origin.project, version=version, cause=cause)
