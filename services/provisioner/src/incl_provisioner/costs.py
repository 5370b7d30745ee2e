"""What the machines of experiments have cost: the list price of each attempt's machines, for as long as they lived."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from incl_provisioner import store, store_gangs
from incl_provisioner.domain.cloud.plan import Plan
from incl_provisioner.planner import Planner
from incl_provisioner.store_gangs import GangRow
from incl_shared.clock import Clock
from incl_shared.db import Database
from incl_shared.errors import InvalidInput
from incl_shared.events.experiments import ExperimentSubmitted
from incl_shared.queries.provisioner import Costs, CostView, GetCosts
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import Asker

_HOUR_S = 3600.0


class CostQueries:
    """The handler of the question. planner: none, where no cloud is configured: nothing costs anything then."""

    def __init__(self, database: Database, clock: Clock, planner: Planner | None) -> None:
        self._database, self._clock, self._planner = database, clock, planner

    async def costs(self, asker: Asker, query: GetCosts) -> Costs:
        """Of those experiments of the asker's project that have had machines of a cloud."""

        def read(connection: sa.Connection) -> tuple[list[GangRow], dict[str, str]]:
            owned = store_gangs.owners(connection, query.experiments)
            mine = [one for one, row in owned.items() if row.project == asker.project]
            rows = [row for row in store_gangs.load_all(connection, mine).values() if row.made is not None]
            return rows, store.requests(connection, {row.gang.experiment for row in rows})

        rows, requests = await self._database.read(read)
        specs = {key: ExperimentSubmitted.model_validate_json(text).spec for key, text in requests.items()}
        return self._sum(rows, specs)

    def _sum(self, rows: list[GangRow], specs: Mapping[str, ExperimentSpec]) -> Costs:
        now, found, currency = self._clock.now(), dict[str, CostView](), ""
        plans: dict[str, Plan | None] = {}
        for row in rows:
            key, spec = row.gang.experiment, specs[row.gang.experiment]
            plan = self._plan(spec, plans)
            rate = None if plan is None else _rate(plan, row)
            currency = plan.hour.currency if plan is not None else currency
            hours = max(0.0, (now if row.live else row.ended or now) - (row.made or now)) / _HOUR_S
            before = found.get(key, CostView(experiment=key, spent=0.0))
            found[key] = CostView(
                experiment=key, spent=before.spent + (rate or 0.0) * hours, live=before.live or row.live,
                priced=before.priced and rate is not None, rate=before.rate + (rate or 0.0 if row.live else 0.0),
            )  # fmt: skip
        return Costs(costs=tuple(found.values()), currency=currency)

    def _plan(self, spec: ExperimentSpec, plans: dict[str, Plan | None]) -> Plan | None:
        """The plan of an experiment; trials of a sweep differ by name and environment only, and share one."""
        key = spec.model_dump_json(exclude={"name", "env", "metrics", "command"})
        if key not in plans:
            try:
                plans[key] = self._planner.plan(spec) if self._planner is not None else None
            except InvalidInput:
                plans[key] = None  # it can nowhere be had any more
        return plans[key]


def _rate(plan: Plan, row: GangRow) -> float | None:
    """What an hour of all nodes costs where they are; none where that is not known."""
    gang = row.gang
    same = [each for each in plan.zones if each.shape.name == gang.machine]
    there = next((each for each in same if each.zone == gang.zone), same[0] if same else None)
    total = None if there is None else there.hour.total(spot=gang.spot)
    return None if total is None else total * gang.nodes
