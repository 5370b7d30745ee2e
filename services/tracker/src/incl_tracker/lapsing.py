"""Runs outside the platform whose machine went silent: LOST after a while without word, and back when word comes.

A run's shipper asks for its watermarks about once a minute; that is its sign of life (`hear`). The leases are rows, so
that they outlive this process; the time that this process was away, or had no bus, counts against nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa

from incl_shared.states import ExperimentState
from incl_tracker import counters
from incl_tracker import store_experiments as experiments
from incl_tracker import tables as t
from incl_tracker.sql import upsert

if TYPE_CHECKING:
    from incl_shared.clock import Clock
    from incl_shared.db import Database, Transaction

HINT = "incl sync, on its machine and in its folder, ships what is left"
_PAUSE_FACTOR = 3.0
"""A round that comes later than this many intervals after the one before it: this machine was asleep."""
_ROWS = 500


class Lapsing:
    """The leases of runs outside the platform. grace_s: seconds without word; every_s: between two rounds.

    healthy: whether word could come at all now.
    """

    def __init__(
        self, database: Database, clock: Clock, *, grace_s: float, every_s: float, healthy: Callable[[], bool]
    ) -> None:
        self._database = database
        self._clock = clock
        self._grace_s = grace_s
        self._every_s = every_s
        self._healthy = healthy
        self._heard: dict[str, float] = {}
        self._deaf_until = clock.now()
        self._last_round = clock.now()

    def hear(self, experiment: str) -> None:
        """Its shipper lives. Called in the event loop; written down by the next round."""
        self._heard[experiment] = self._clock.now()

    async def round(self) -> list[tuple[str, str]]:
        """Write down who was heard, and mark who was silent for too long. Returns (project, experiment) of changes."""
        now = self._clock.now()
        if now < self._last_round:  # the clock was set back: what was heard later than now was heard now
            self._heard |= await self._database.read(lambda connection: _ahead(connection, now))
        if not self._healthy() or not 0 <= now - self._last_round <= self._every_s * _PAUSE_FACTOR + 1:
            self._deaf_until = now
        self._last_round = now
        heard, self._heard = self._heard, {}
        silent_since = now - self._grace_s
        try:
            return await self._database.write(lambda tx: self._write(tx, heard, silent_since))
        except BaseException:
            self._heard = heard | self._heard
            raise

    def _write(self, tx: Transaction, heard: dict[str, float], silent_since: float) -> list[tuple[str, str]]:
        changed = _revive(tx.connection, heard)
        if self._deaf_until <= silent_since:
            changed += _lapse(tx.connection, silent_since, self._grace_s)
        return changed


def begun(connection: sa.Connection, experiment: str, now: float) -> None:
    """A run outside the platform is to give word from now on."""
    upsert(connection, t.run_leases, [{"experiment": experiment, "heard": now}])


def ended(connection: sa.Connection, experiment: str) -> None:
    """Nobody waits for its word any more."""
    connection.execute(sa.delete(t.run_leases).where(t.run_leases.c.experiment == experiment))


def _ahead(connection: sa.Connection, now: float) -> dict[str, float]:
    leases = t.run_leases.c
    return dict.fromkeys(connection.execute(sa.select(leases.experiment).where(leases.heard > now)).scalars(), now)


def _revive(connection: sa.Connection, heard: dict[str, float]) -> list[tuple[str, str]]:
    """Note who was heard, and bring back those that were lost. Only runs that have a lease count."""
    changed: list[tuple[str, str]] = []
    names = sorted(heard)
    e, leases = t.experiments.c, t.run_leases.c
    for at in range(0, len(names), _ROWS):
        some = names[at : at + _ROWS]
        query = (
            sa.select(e.id, e.project, e.state)
            .join(t.run_leases, leases.experiment == e.id)
            .where(e.id.in_(some), e.ended.is_(None))
        )
        rows = connection.execute(query).all()
        upsert(connection, t.run_leases, [{"experiment": row.id, "heard": heard[row.id]} for row in rows])
        for row in rows:
            if row.state == ExperimentState.LOST:
                values = {"state": ExperimentState.RUNNING.value, "message": "", "hint": ""}
                experiments.update(connection, row.id, values)
                changed.append((row.project, row.id))
    return changed


def _lapse(connection: sa.Connection, silent_since: float, grace_s: float) -> list[tuple[str, str]]:
    e, leases = t.experiments.c, t.run_leases.c
    query = (
        sa.select(e.id, e.project, leases.heard)
        .join(t.run_leases, leases.experiment == e.id)
        .where(leases.heard <= silent_since, e.state == ExperimentState.RUNNING.value, e.ended.is_(None))
        .order_by(leases.heard)
        .limit(_ROWS)
    )
    rows = connection.execute(query).all()
    for row in rows:
        message = f"no word of it for {_span(grace_s)}: its machine or its way to the platform is gone"
        experiments.update(connection, row.id, {"state": ExperimentState.LOST.value, "message": message, "hint": HINT})
        counters.LAPSED.inc()
    return [(row.project, row.id) for row in rows]


def _span(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
