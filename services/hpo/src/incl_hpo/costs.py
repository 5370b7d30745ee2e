"""What the trials of sweeps with a budget of money have cost: asked of the provisioner, kept with the trials."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from incl_hpo import steps
from incl_hpo.domain.spending import spending
from incl_hpo.domain.trial import Trial
from incl_hpo.store import Sweep
from incl_shared.clock import Clock
from incl_shared.db import Database
from incl_shared.queries.provisioner import Costs, CostView, GetCosts

_PAGE = 500


class Provisioner(Protocol):
    """Who knows what machines cost."""

    async def costs(self, project: str, query: GetCosts) -> Costs:
        """What experiments have cost.

        Raises:
            InclError: it cannot say now.
        """
        ...


class Purse:
    """Keeps the costs of trials up to date, at most every `every_s` seconds a sweep."""

    def __init__(self, database: Database, provisioner: Provisioner, clock: Clock, every_s: float) -> None:
        self._database, self._provisioner, self._clock, self._every_s = database, provisioner, clock, every_s
        self._asked: dict[str, float] = {}

    async def look(self, sweep: Sweep, trials: Collection[Trial]) -> bool:
        """Ask, where it is time; whether something was written.

        Raises:
            InclError: the provisioner cannot say now. No trial begins before it can.
        """
        money, now = sweep.spec.budget.money, self._clock.monotonic()
        if money is None:
            return False
        found: list[CostView] = []
        currency = ""
        open_ones = {trial.experiment: trial for trial in trials if not trial.cost_final}
        if open_ones and now >= self._asked.get(sweep.id, 0.0) + self._every_s:
            ids = sorted(open_ones)
            for place in range(0, len(ids), _PAGE):
                query = GetCosts(experiments=tuple(ids[place : place + _PAGE]))
                page = await self._provisioner.costs(sweep.project, query)
                found += page.costs
                currency = page.currency or currency
            self._asked[sweep.id] = now
        changed = {open_ones[one.experiment].number: one for one in found}
        if not changed and (sweep.closing or not spending(trials).exhausted(money)):
            return False
        await self._database.write(lambda tx: steps.spend(tx, sweep.id, changed, currency))
        return True

    def forget(self, sweep: str) -> None:
        """It is over."""
        self._asked.pop(sweep, None)
