"""The composition root of the tracker."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from incl_shared.bus import topology
from incl_shared.bus.findings import serve_stuck
from incl_shared.bus.runtime import Bus
from incl_shared.clock import Clock, SystemClock
from incl_shared.db import Database, DatabaseUnavailable, migrate
from incl_shared.ops import OpsServer, serving
from incl_shared.queries.stuck import TrackerStuck
from incl_shared.queries.tracker import ExperimentView
from incl_tracker import counters, history, store_views
from incl_tracker.answers import Answers, Patience
from incl_tracker.behind import Older
from incl_tracker.chores import chores
from incl_tracker.handlers import Handlers
from incl_tracker.lapsing import Lapsing
from incl_tracker.live import LiveHub
from incl_tracker.ownership import Ownership
from incl_tracker.partitions import Partitions
from incl_tracker.settings import TrackerSettings
from incl_tracker.store_columns import Cache
from incl_tracker.stuck import Stuck
from incl_tracker.upkeep import Chore, Upkeep
from incl_tracker.warming import Warmer

if TYPE_CHECKING:
    import sqlalchemy as sa

_log = logging.getLogger("incl.tracker")


class App:
    """The tracker: `start` it, `stop` it. Several of them on one database share the partitions of the telemetry."""

    def __init__(self, settings: TrackerSettings, database: Database, bus: Bus, clock: Clock) -> None:
        self.settings = settings
        self.database = database
        self.bus = bus
        self._clock = clock
        self.live = LiveHub(bus.publish_live, self._view, clock, settings.live_interval_s)
        handlers = Handlers(self.live, settings.settle_after_s, settings.trash_kept_s)
        bus.consume(topology.TRACKER_EVENTS, handlers.event)
        bus.consume(topology.TRACKER_REQUESTS, handlers.request)
        bus.consume(topology.TRACKER_HISTORY, history.note)
        self.ownership = Ownership(database, ttl=settings.lease_s, recovery=bus.metrics.recovery)
        self.partitions = Partitions(
            self.ownership, bus, handlers.metric_batches, handlers.log_batches, forget=handlers.forget
        )
        sole = self.ownership.sole("upkeep")

        def healthy() -> bool:
            return bus.health().live

        self._lapsing = Lapsing(
            database,
            clock,
            grace_s=settings.run_grace_s,
            every_s=settings.run_check_s,
            healthy=healthy,
        )
        columns = Cache(settings.list_cache_mb << 20)
        patience = Patience(settings.settle_after_s, settings.settle_most_s)
        Answers(database, clock, settings.list_limit_s, self._lapsing.hear, columns, patience).register(bus)
        counters.register(bus.metrics.registry)
        lapse = Chore("lapse", self._lapse, settings.run_check_s)
        alone = [chore.by(sole) for chore in chores(sole.database, settings, self.live.changed, bus.ask, healthy)]
        warm = Chore("warm", Warmer(database, columns).step, settings.warm_check_s)
        self.upkeep = Upkeep([*alone, lapse, warm])
        serve_stuck(bus, TrackerStuck, Stuck(database, clock, self.partitions, self.upkeep, Older(database, bus)).find)
        self.ops: OpsServer | None = None

    async def start(self) -> None:
        """Migrate, open, connect, consume."""
        await asyncio.to_thread(migrate, self.settings.database_url, "incl_tracker")
        await self.database.start()
        self.live.start()
        await self.bus.start()
        await self.ownership.start()
        self.upkeep.start()
        self.ops = await serving(self.settings, "tracker", self.bus)

    async def stop(self) -> None:
        """End in the opposite order; what is stored has been told."""
        if self.ops is not None:
            await self.ops.stop()
            self.ops = None
        await self.upkeep.stop()
        await self.partitions.stop()
        await self.ownership.stop()
        await self.live.stop()
        await self.bus.stop()
        await self.database.stop()

    async def _lapse(self) -> bool:
        for place in await self._lapsing.round():
            self.live.changed(*place)
        return False

    async def _view(self, experiment: str) -> ExperimentView | None:
        def read(connection: sa.Connection) -> ExperimentView | None:
            row = store_views.known(connection, experiment)
            return None if row is None else store_views.view(connection, row)

        try:
            return await self.database.read(read)
        except DatabaseUnavailable as error:
            _log.info("no view for a live message: %s", error.message)
            return None


def create_app(settings: TrackerSettings, *, clock: Clock | None = None) -> App:
    """Build the tracker; nothing runs yet."""
    clock = clock or SystemClock()
    database = Database(settings.database_url, clock=clock)
    bus = Bus(settings.bus, service="tracker", database=database, clock=clock, noting=True)
    return App(settings, database, bus, clock)
