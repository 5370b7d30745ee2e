"""The composition root of the service of sweeps."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from incl_hpo.conductor import Conductor, Tracker
from incl_hpo.handlers import Handlers
from incl_hpo.metrics import HpoMetrics
from incl_hpo.pool import WorkerPool
from incl_hpo.queries import Queries
from incl_hpo.settings import HpoSettings
from incl_hpo.stuck import Stuck
from incl_shared.bus.client import BusClient
from incl_shared.bus.findings import serve_stuck
from incl_shared.bus.runtime import Bus
from incl_shared.bus.topology import HPO_EVENTS, HPO_REQUESTS
from incl_shared.clock import Clock, SystemClock
from incl_shared.db import Database, migrate
from incl_shared.ops import OpsServer, serving
from incl_shared.queries.provisioner import Costs, GetCosts
from incl_shared.queries.stuck import HpoStuck
from incl_shared.queries.tracker import GetPoints, ListMetrics, MetricPage, Points

PACKAGE = "incl_hpo"
_LIVE = "incl.live.*.*"


class BusTracker:
    """The tracker, over the bus."""

    def __init__(self, client: BusClient) -> None:
        self._client = client

    async def metrics(self, project: str, query: ListMetrics) -> MetricPage:
        """The tracker's answer."""
        return await self._client.ask(query, project=project, user="hpo")

    async def points(self, project: str, query: GetPoints) -> Points:
        """The tracker's answer."""
        return await self._client.ask(query, project=project, user="hpo")


class BusProvisioner:
    """The provisioner, over the bus."""

    def __init__(self, client: BusClient) -> None:
        self._client = client

    async def costs(self, project: str, query: GetCosts) -> Costs:
        """The provisioner's answer."""
        return await self._client.ask(query, project=project, user="hpo")


class App:
    """The running service. `start` once, `stop` once."""

    def __init__(self, settings: HpoSettings, clock: Clock, tracker: Tracker | None = None) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, clock=clock)
        self.bus = Bus(settings.bus, service="hpo", database=self.database, clock=clock)
        self.metrics = HpoMetrics(self.bus.metrics.registry)
        self.pool = WorkerPool(settings.workers, settings.propose_limit_s, settings.worker_idle_s)
        tracker = tracker or BusTracker(self.bus.client)
        provisioner = BusProvisioner(self.bus.client)
        self.conductor = Conductor(settings, self.database, tracker, provisioner, self.pool, clock, self.metrics)
        handlers = Handlers(self.conductor.wake)
        self.bus.consume(HPO_REQUESTS, handlers.requests)
        self.bus.consume(HPO_EVENTS, handlers.events)
        Queries(self.database, self.pool).register(self.bus)
        serve_stuck(self.bus, HpoStuck, Stuck(self.database, clock, self.conductor).find)
        self.ops: OpsServer | None = None
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Migrate, open, connect, go on with what is not over.

        Raises:
            InclError: the database or the bus cannot be used.
        """
        async with AsyncExitStack() as undo:
            await asyncio.to_thread(migrate, self.settings.database_url, PACKAGE)
            await self.database.start()
            undo.push_async_callback(self.database.stop)
            undo.push_async_callback(self.pool.close)
            await self.bus.start()
            undo.push_async_callback(self.bus.stop)
            await self.bus.subscribe(_LIVE, self.conductor.watch.heard)
            await self.conductor.start()
            undo.push_async_callback(self.conductor.stop)
            self.ops = await serving(self.settings, "hpo", self.bus)
            if self.ops is not None:
                undo.push_async_callback(self.ops.stop)
            self._running = undo.pop_all()

    async def stop(self) -> None:
        """End in the opposite order; trials go on."""
        await self._running.aclose()


def create_app(
    settings: HpoSettings | None = None, *, clock: Clock | None = None, tracker: Tracker | None = None
) -> App:
    """Build the service; nothing runs before `start`. Settings come from INCL_HPO_… unless given.

    tracker: who says what trials logged, in place of the tracker on the bus.
    """
    if settings is None:
        settings = HpoSettings()  # from the environment
    return App(settings, clock or SystemClock(), tracker)
