"""The loop that keeps the machines of a cloud as they are wanted. It runs where the scheduler does, under its lease."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

from incl_provisioner import store_gangs, store_trouble
from incl_provisioner.backends.gce.keeper import Keeper
from incl_provisioner.backends.gce.port import Compute
from incl_provisioner.cloud.advising import Advisor
from incl_provisioner.cloud.boots import Boots
from incl_provisioner.cloud.data import DataKeeper
from incl_provisioner.cloud.plans import CloudPlans, Met
from incl_provisioner.cloud.rows import GangRows
from incl_provisioner.domain.cloud import data_disks, gangs
from incl_provisioner.domain.cloud.error_table import UNACCEPTED
from incl_provisioner.domain.cloud.gangs import Limits
from incl_provisioner.domain.cloud.history import PreemptionHistory
from incl_provisioner.domain.cloud.plan import Plan
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.planner import CatalogPlanner
from incl_provisioner.settings import CloudOptions
from incl_provisioner.store_trouble import Trouble
from incl_provisioner.work import Work
from incl_shared.clock import Clock
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.leases import Lease, LeaseLost
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.provisioner")
_HOUR_S = 3600.0
_CALM_S = 2.0
"""From the begin of one look to that of the next, at least."""
_SEE_LOG = "see the log of the provisioner"
_HISTORY_S = 7 * 24 * _HOUR_S
OpenCompute = Callable[[], Awaitable[Compute]]
MakeWork = Callable[[Transaction], Work]
"""Gives a step of the provisioner in a transaction."""


class CloudLoop:
    """Looks, decides, acts; again and again. `start` with the scheduler's lease, `stop` when that is gone.

    wake: tells the scheduler. bus: addresses of the bus for machines, where the options name none.

    Attributes:
        trouble: what keeps the machines from being looked after; none once that is over.
        met: what was met so far; the planner reads it.
    """

    def __init__(
        self, options: CloudOptions, database: Database, planner: CatalogPlanner, open_compute: OpenCompute,
        *, clock: Clock, met: Met, bus: tuple[str, ...], metrics: ProvisionerMetrics,
    ) -> None:  # fmt: skip
        self._metrics = metrics
        self._counted: Counter[tuple[str, str]] = Counter()
        self._options, self._database, self._planner = options, database, planner
        self._open, self._clock, self._bus = open_compute, clock, bus
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._compute: Compute | None = None
        self._opening = asyncio.Lock()
        self._swept = 0.0
        self._advisor: Advisor | None = None
        self.met = met
        self.plans: CloudPlans | None = None
        self.data: DataKeeper | None = None
        self.keeper: Keeper | None = None
        self.trouble: Trouble | None = None
        self._noted = False

    def start(self, lease: Lease, work: MakeWork, told: Callable[[], None]) -> None:
        """Begin, as the owner of the lease. told: called once something for the scheduler is committed."""
        self._task = asyncio.create_task(self._run(lease, work, told), name="provisioner-cloud")

    async def stop(self) -> None:
        """Break off; the rows say how it goes on."""
        task, self._task = self._task, None
        await end_all([task])
        for keeper in (self.keeper, self.data):
            if keeper is not None:
                await keeper.stop()
        compute, self._compute, self._advisor = self._compute, None, None
        if compute is not None:
            await compute.close()

    async def compute(self) -> Compute:
        """The cloud, opened when it is first needed."""
        async with self._opening:
            if self._compute is None:
                self._compute = await self._open()
            return self._compute

    def wake(self) -> None:
        """Something is wanted, or is no more."""
        self._woken.set()

    def why(self, experiment: str) -> str:
        """Why nothing can be tried for an experiment now; empty: it can, or nobody has looked yet."""
        if self.trouble is not None:
            return f"the cloud cannot be used now: {self.trouble.message}"
        return self.plans.waits.get(experiment, "") if self.plans is not None else ""

    async def advise(self, plan: Plan) -> bool:
        """Have the provider's advice for a plan, where this one looks after the cloud. Whether there is news."""
        return self._advisor is not None and await self._advisor.ask(plan)

    async def _run(self, lease: Lease, work: MakeWork, told: Callable[[], None]) -> None:
        rows = GangRows(self._database, lambda: lease, told, self._metrics, self._clock)
        boots: Boots | None = None
        self._swept, self._noted = 0.0, False
        while True:
            began = self._clock.monotonic()
            self._woken.clear()
            live = False
            try:
                if boots is None:
                    boots = await self._begin(rows, work, lease)
                live = await self._round(rows, boots)
                await self._seen(rows)
                self._metrics.cloud_rounds.labels("done").inc()
            except LeaseLost:
                return
            except DatabaseUnavailable as error:
                self._metrics.cloud_rounds.labels("outage").inc()
                _log.warning("the cloud waits for the database: %s", error)
            except Exception as error:  # noqa: BLE001 - the edge of the loop
                self._metrics.cloud_rounds.labels("error").inc()
                _log.exception("a round of the cloud failed")
                with contextlib.suppress(DatabaseUnavailable, LeaseLost):
                    await self._note(rows, Trouble("error", f"{type(error).__name__}: {error}", _SEE_LOG))
                live = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), self._options.round_s if live else self._options.sweep_s)
            # Every commit of the scheduler may wake it; a look is a list of everything there is.
            await asyncio.sleep(began + min(_CALM_S, self._options.round_s) - self._clock.monotonic())

    async def _note(self, rows: GangRows, trouble: Trouble | None) -> None:
        """What keeps the cloud from being used, for those who wait and for the operator."""
        if trouble != self.trouble or not self._noted:
            self.trouble = trouble
            await rows.note(self._options.provider, trouble)
            self._noted = True

    async def _seen(self, rows: GangRows) -> None:
        """What the keeper knows of that, also in the middle of a round."""
        await self._note(rows, store_trouble.of(self.keeper.trouble if self.keeper is not None else None))

    async def _begin(self, rows: GangRows, work: MakeWork, lease: Lease) -> Boots:
        platform, key = await self._database.write(store_gangs.known_by)
        await self._remember(rows)
        compute = await self.compute()
        if self._options.advice:
            self._advisor = Advisor(compute, self.met.advice, self._metrics, self._clock)
        troubles: Counter[tuple[str, str]] = Counter()
        self.data = DataKeeper(
            platform, compute, self._database, self._planner.catalog.machines, lambda: lease, self._clock,
            data_disks.Limits(self._options.data_make_s, self._options.data_idle_s),
            round_s=min(5.0, self._options.round_s), troubles=troubles, wake=self._woken.set,
        )  # fmt: skip
        self.plans = CloudPlans(
            self._options, self._planner, self.met, rows, platform=platform, key=key, bus=self._bus,
            metrics=self._metrics, data=self.data, advisor=self._advisor,
        )  # fmt: skip
        self._counted = Counter()
        limits = Limits()
        quick = replace(
            limits, round_s=min(limits.round_s, self._options.round_s), quiet_s=self._options.quiet_s,
            poll_s=min(limits.poll_s, self._options.round_s),
        )  # fmt: skip
        self.keeper = Keeper(platform, compute, rows, self.plans, self._clock, quick, lambda: self._seen(rows))
        self.keeper.troubles = troubles
        return Boots(self._options, self._database, compute, rows, self.plans, work, self._clock)

    async def _remember(self, rows: GangRows) -> None:
        """What zones were seen to do, from the rows of the last days; what is left alone."""
        self.met.cooldowns = await rows.cooled()
        now = self._clock.now()
        self.met.history = PreemptionHistory()
        for zone, machine, made, ended, taken in await self._database.read(
            lambda connection: store_gangs.spot_lives(connection, now - _HISTORY_S)
        ):
            end = ended if ended is not None else now
            self.met.history.lived(zone, machine, (end - made) / _HOUR_S, end, preempted=taken)

    async def _round(self, rows: GangRows, boots: Boots) -> bool:
        """One look at all. Whether anything is live: else the cloud is looked at only now and then, for orphans."""
        assert self.keeper is not None
        assert self.plans is not None
        assert self.data is not None
        now = self._clock.monotonic()
        if self._swept and now - self._swept < self._options.sweep_s and not await self._anything(rows):
            return False
        self._swept = now
        await self.data.refresh()
        view = await self.keeper.round()
        if self.keeper.trouble is None:  # it looked with the credentials that were refused before
            self.met.cooldowns.forgive(UNACCEPTED)
        known = await rows.gangs()
        doomed, self.plans.doomed = self.plans.doomed, {}
        for key, verdict in doomed.items():
            if key in known and known[key].wanted:
                await rows.save(known[key], gangs.doomed(known[key], verdict, self._clock.now()))
        await self.data.round(view, known, rows)
        await boots.look(view, {key: gang for key, gang in known.items() if key in self.keeper.adopted})
        self.met.cooldowns.prune(self._clock.now())
        await rows.cool(self.met.cooldowns)
        for (what, why), count in (self.keeper.troubles - self._counted).items():
            self._metrics.cloud_troubles.labels(what, why).inc(count)
        self._counted = Counter(self.keeper.troubles)
        changed, self.plans.changed = self.plans.changed, set()
        if changed:
            await rows.tell(changed)
        return bool(known) or await self.data.busy()

    async def _anything(self, rows: GangRows) -> bool:
        assert self.data is not None
        return await rows.any() or await self.data.busy()
