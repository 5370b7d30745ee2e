"""What the service of sweeps answers."""

from __future__ import annotations

import sqlalchemy as sa

from incl_hpo import views
from incl_hpo.domain.question import probe
from incl_hpo.pool import WorkerPool
from incl_shared.bus.runtime import Bus
from incl_shared.db import Database
from incl_shared.errors import UnsupportedError
from incl_shared.queries.hpo import (
    AlgorithmChecked,
    CheckAlgorithm,
    GetSweep,
    ListSweeps,
    ListTrials,
    SweepPage,
    SweepView,
    TrialPage,
)
from incl_shared.subjects import Asker


class Queries:
    """One method a question."""

    def __init__(self, database: Database, pool: WorkerPool) -> None:
        self._database, self._pool = database, pool

    def register(self, bus: Bus) -> None:
        """Serve them all."""
        bus.serve(ListSweeps, self.sweeps)
        bus.serve(GetSweep, self.sweep)
        bus.serve(ListTrials, self.trials)
        bus.serve(CheckAlgorithm, self.check_algorithm)

    async def sweeps(self, asker: Asker, query: ListSweeps) -> SweepPage:
        """A page of the project's sweeps."""
        return await self._database.read(lambda connection: views.listed(connection, asker.project, query))

    async def sweep(self, asker: Asker, query: GetSweep) -> SweepView:
        """All of a sweep but its trials."""

        def read(connection: sa.Connection) -> SweepView:
            return views.view_of(connection, views.resolve(connection, asker.project, asker.user, query.ref))

        return await self._database.read(read)

    async def trials(self, asker: Asker, query: ListTrials) -> TrialPage:
        """A page of a sweep's trials."""

        def read(connection: sa.Connection) -> TrialPage:
            sweep = views.in_project(connection, asker.project, query.sweep)
            return views.page_of(connection, sweep, query)

        return await self._database.read(read)

    async def check_algorithm(self, asker: Asker, query: CheckAlgorithm) -> AlgorithmChecked:
        """Nothing, where it can be used.

        Raises:
            UnsupportedError: it cannot; why, and what to do.
        """
        if query.algorithm.of_optuna:
            answer = await self._pool.ask(probe(query))
            if answer["refused"]:
                message = f"algorithm: {answer['refused']}"
                raise UnsupportedError(message, cause=answer["cause"], hint=answer["hint"])
        return AlgorithmChecked()
