"""Settlement and alerts: what the tracker itself tells the world, by the outbox of the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_shared.events import AlertRaised, AttemptSettled, RankEnd
from incl_shared.subjects import Origin
from incl_tracker import counters, store_compaction
from incl_tracker import store_experiments as experiments
from incl_tracker import store_settlement as store
from incl_tracker.domain.extras import Alert
from incl_tracker.domain.settlement import some_silent, tally, wrote

if TYPE_CHECKING:
    from incl_shared.db import Transaction


COMPACT_AFTER_S = 60.0
"""Seconds between a settlement and the compaction: what comes late has come by then."""


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
    stored = store.stored_of(tx.connection, experiment, attempt).get(attempt, [])
    counted = tally(store.expected_of(tx.connection, experiment).get(attempt, ()), stored)
    if counted.missing and not due:
        return False
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
    return True


def settle_due(tx: Transaction) -> list[tuple[str, str]]:
    """Settle the attempts that were waited for long enough. Returns (project, experiment) of each."""
    done = []
    for experiment, attempt in store.due(tx.connection, tx.clock.now()):
        row = experiments.find(tx.connection, experiment)
        if row is not None and settle_if_complete(tx, row["project"], experiment, attempt, due=True):
            done.append((row["project"], experiment))
    waiting = store.count_unsettled(tx.connection)
    tx.after_commit(lambda: counters.UNSETTLED.set(waiting))
    return done


def raise_alerts(tx: Transaction, origin: Origin, writer: str, alerts: Sequence[Alert]) -> None:
    """Say AlertRaised for each alert, once: its id follows from the place of its record."""
    for alert in alerts:
        version = experiments.next_version(tx.connection, origin.experiment, "alerts")
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
