"""What sweeps wait for, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from incl_hpo import store
from incl_hpo.conductor import Conductor
from incl_shared.clock import Clock
from incl_shared.db import Database
from incl_shared.events import TrialState
from incl_shared.ids import short
from incl_shared.queries.stuck import Finding, HpoStuck

STEP_S = 30.0
VALUE_S = 300.0


class Stuck:
    """Looks at all of it when it is asked."""

    def __init__(self, database: Database, clock: Clock, conductor: Conductor) -> None:
        self._database, self._clock, self._conductor = database, clock, conductor

    async def find(self, query: HpoStuck) -> Sequence[Finding]:
        """Everything that has not moved for longer than is usual."""
        now = self._clock.now()
        late = await self._database.read(lambda connection: store.waiting(connection, now - query.patience(VALUE_S)))
        return [*self._steps(query), *(_late(row, now) for row in late)]

    def _steps(self, query: HpoStuck) -> Iterator[Finding]:
        for sweep, (since, why) in self._conductor.troubles.items():
            passed = self._clock.monotonic() - since
            if passed > query.patience(STEP_S):
                yield Finding(
                    kind="sweep.stalled", severity="error", subject=f"sweep {short(sweep)}", since_s=passed,
                    reason=why, hint="it is tried again by itself; see the log of the hpo service",
                )  # fmt: skip


def _late(row: Any, now: float) -> Finding:
    waits = "its records are not all stored" if row["state"] == TrialState.RUNNING else "the tracker was not asked yet"
    return Finding(
        kind="trial.value", severity="warning", subject=f"sweep {short(row['sweep'])} trial {row['number']}",
        since_s=now - row["over"], reason=f"its experiment is over, but {waits}",
        hint=f"is the tracker up? incl show {short(row['experiment'])}",
    )  # fmt: skip
