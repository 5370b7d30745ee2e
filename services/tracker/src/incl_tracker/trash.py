"""Deleting in two steps: into the trash, from which it comes back, and then for good.

A purge first empties the experiment's row and says so, in one transaction; from then on it is in no answer. Its other
rows are deleted bit by bit by `sweep`, which looks for what is left and so survives every crash. The emptied row stays
for as long as messages of the experiment may come (`incl_shared.bus.topology.INBOX_KEPT_S`), and refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from incl_shared.bus.errors import Early, Poison
from incl_shared.bus.topology import INBOX_KEPT_S
from incl_shared.events import (
    ExperimentPurged,
    ExperimentRestored,
    ExperimentTrashed,
    RestoreRequested,
    TrashRequested,
)
from incl_tracker import counters, history, store_retention, store_trash
from incl_tracker import store_experiments as experiments

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.db import Transaction
    from incl_shared.subjects import Asker

KEPT_S = 30 * 86_400.0
"""Seconds in the trash, unless the settings say otherwise."""
ROWS = 2_000
"""Rows that are deleted in one transaction: few enough that nobody waits for it."""


def trash_requested(tx: Transaction, event: TrashRequested, asker: Asker, keep_s: float) -> bool:
    """Put an experiment into the trash for keep_s seconds, or purge it. True when anything changed.

    Raises:
        Early: nobody knows it yet.
        Poison: it is another's, or it has not ended.
    """
    row = _own(tx, event.experiment, asker)
    if row["purged"] is not None:
        return False
    if not store_trash.may_go(row):
        raise Poison(f"{event.experiment} has not ended; it cannot be deleted")
    if event.purge:
        purge(tx, row["project"], event.experiment, asker.user)
        return True
    if row["trashed"] is not None:
        return False
    now = tx.clock.now()
    version = store_trash.set_trash(tx.connection, event.experiment, now, now + keep_s)
    said = ExperimentTrashed(experiment=event.experiment, by=asker.user, purge_at=now + keep_s)
    tx.emit(said, project=row["project"], version=version)
    return True


def restore_requested(tx: Transaction, event: RestoreRequested, asker: Asker) -> bool:
    """Take it out of the trash, and have it fetched from the archive. True when there was anything to do.

    Raises:
        Early: nobody knows it yet.
        Poison: it is another's.
    """
    row = _own(tx, event.experiment, asker)
    if row["purged"] is not None:
        return False
    if row["trashed"] is None and row["archived"] is None:
        return False
    store_retention.ask_back(tx.connection, event.experiment, tx.clock.now())
    if row["trashed"] is None:
        return True
    version = store_trash.set_trash(tx.connection, event.experiment, None, None)
    said = ExperimentRestored(experiment=event.experiment, by=asker.user)
    tx.emit(said, project=row["project"], version=version)
    return True


def purge(tx: Transaction, project: str, experiment: str, by: str = "") -> None:
    """Keep nothing of it but that it was purged."""
    version = store_trash.set_purged(tx.connection, experiment, tx.clock.now())
    history.forget(tx, experiment)
    tx.emit(ExperimentPurged(experiment=experiment, purged_by=by), project=project, version=version)
    tx.after_commit(counters.PURGED.inc)


def purge_due(tx: Transaction) -> list[tuple[str, str]]:
    """Purge what has lain in the trash for its time. Returns (project, experiment) of each."""
    due = store_trash.due(tx.connection, tx.clock.now())
    for project, experiment in due:
        purge(tx, project, experiment)
    store_trash.forget(tx.connection, tx.clock.now() - INBOX_KEPT_S)
    return due


def sweep(tx: Transaction) -> bool:
    """Delete some of what is left of a purged experiment. True: there may be more."""
    experiment = store_trash.unswept(tx.connection)
    if experiment is None:
        return False
    if store_trash.sweep(tx.connection, experiment, ROWS) == 0:
        store_trash.set_swept(tx.connection, experiment)
    return True


def _own(tx: Transaction, experiment: str, asker: Asker) -> sa.RowMapping:
    row = experiments.find(tx.connection, experiment)
    if row is None or not (row["known"] or row["purged"]):
        raise Early(f"experiment {experiment} is not known yet")
    if row["project"] != asker.project:
        raise Poison(f"{experiment} is not of project {asker.project}")
    if row["user"] != asker.user:
        raise Poison(f"{experiment} is {row['user']}'s; {asker.user} may not delete or restore it")
    return row
