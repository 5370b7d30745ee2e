"""The composition root of the provisioner."""

from __future__ import annotations

import asyncio
import os
import socket

from incl_provisioner.backends import Backend
from incl_provisioner.backends.cloud import CloudBackend
from incl_provisioner.backends.gce.port import Compute
from incl_provisioner.backends.local import LocalBackend
from incl_provisioner.cloud.enrolment import Enrolment
from incl_provisioner.cloud.loop import CloudLoop, OpenCompute
from incl_provisioner.cloud.plans import Met
from incl_provisioner.costs import CostQueries
from incl_provisioner.data_queries import DataQueries
from incl_provisioner.domain.quotas import Quotas
from incl_provisioner.handlers import Handlers
from incl_provisioner.loop import Reconciler
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.planner import CatalogPlanner, create_planner
from incl_provisioner.queries import Queries
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.stuck import Stuck
from incl_provisioner.vitals import Vitals
from incl_shared.bus.findings import serve_stuck
from incl_shared.bus.pull import SILENCE_S
from incl_shared.bus.runtime import Bus
from incl_shared.bus.topology import PROVISIONER_EVENTS, PROVISIONER_REPORTS, PROVISIONER_REQUESTS
from incl_shared.clock import Clock, SteadyClock, SystemClock
from incl_shared.db import Database, migrate
from incl_shared.errors import UnsupportedError
from incl_shared.ids import new_id
from incl_shared.ops import OpsServer, serving
from incl_shared.queries.provisioner import (
    CheckFeasible,
    EnrollNode,
    GetCluster,
    GetCosts,
    GetData,
    GetExecution,
    GetMachines,
    PlanExperiment,
    PrepareData,
    RemoveData,
)
from incl_shared.queries.stuck import ProvisionerStuck

PACKAGE = "incl_provisioner"


class App:
    """The running service. `start` once, `stop` once."""

    def __init__(
        self,
        settings: ProvisionerSettings,
        *,
        clock: Clock,
        backend: Backend | None = None,
        quotas: Quotas | None = None,
        compute: OpenCompute | None = None,
    ) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, clock=clock)
        self.bus = Bus(settings.bus, service="provisioner", database=self.database, clock=clock)
        self.metrics = ProvisionerMetrics(self.bus.metrics.registry, self.bus.metrics.recovery, clock)
        self.ops: OpsServer | None = None
        steady = SteadyClock(clock)
        met = Met(steady)
        planner = create_planner(settings, clock, met.state)
        backend = backend or (CloudBackend(planner, settings.cloud) if planner and settings.cloud else LocalBackend())
        cloud = self._cloud(planner, met, steady, compute)
        self.reconciler = Reconciler(
            settings, self.database, self.bus.client, backend, self.metrics, clock=clock, healthy=self._hears,
            holder=settings.holder or f"{socket.gethostname()}-{os.getpid()}-{new_id()}", quotas=quotas, cloud=cloud,
        )  # fmt: skip
        self.bus.client.on_reconnect(self.reconciler.reconnected)
        vitals = Vitals(clock)
        handlers = Handlers(settings, backend, self.metrics, self.reconciler.wake, vitals)
        self.bus.consume(PROVISIONER_REQUESTS, handlers.requests)
        self.bus.consume(PROVISIONER_REPORTS, handlers.reports)
        self.bus.consume(PROVISIONER_EVENTS, handlers.events)
        queries = Queries(
            self.database, backend, clock, planner, cloud.advise if cloud is not None else None,
            settings.cloud.provider if cloud is not None and settings.cloud is not None else "",
        )  # fmt: skip
        self.bus.serve(GetCluster, queries.cluster)
        self.bus.serve(GetExecution, queries.execution)
        self.bus.serve(CheckFeasible, queries.feasible)
        self.bus.serve(PlanExperiment, queries.plan)
        self.bus.serve(GetMachines, queries.machines)
        self.bus.serve(GetCosts, CostQueries(self.database, clock, planner).costs)
        if cloud is not None:
            data = DataQueries(self.database, planner, cloud.compute, clock, cloud.wake)
        else:
            data = DataQueries(self.database, None, _no_cloud, clock, self.reconciler.wake)
        self.bus.serve(GetData, data.data)
        self.bus.serve(PrepareData, data.prepare)
        self.bus.serve(RemoveData, data.remove)
        enrolment = Enrolment(self.database, settings.cloud, planner, self.metrics, steady)
        self.bus.serve(EnrollNode, enrolment.enroll)
        serve_stuck(self.bus, ProvisionerStuck, Stuck(settings, self.database, clock, self.reconciler, vitals).find)

    def _cloud(
        self, planner: CatalogPlanner | None, met: Met, clock: Clock, compute: OpenCompute | None
    ) -> CloudLoop | None:
        options = self.settings.cloud
        if options is None or planner is None or not options.complete:
            return None

        async def opened() -> Compute:
            from incl_provisioner.backends.gce.client import open_compute

            return await open_compute(options.project, clock, endpoint=options.endpoint or None)

        return CloudLoop(
            options, self.database, planner, compute or opened, clock=clock, met=met, bus=self.settings.bus.urls,
            metrics=self.metrics,
        )  # fmt: skip

    async def start(self) -> None:
        """Migrate, open, connect, schedule.

        Raises:
            InclError: the database or the bus cannot be used.
        """
        await asyncio.to_thread(migrate, self.settings.database_url, PACKAGE)
        try:
            await self.database.start()
            await self.bus.start()
            await self.reconciler.start()
            self.ops = await serving(self.settings, "provisioner", self.bus)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Schedule no more, let what is at hand end, close. Jobs go on."""
        if self.ops is not None:
            await self.ops.stop()
        await self.reconciler.stop()
        await self.bus.stop()
        await self.database.stop()

    def _hears(self) -> bool:
        """Whether a machine that speaks is heard: its silence counts only then."""
        health = self.bus.health()
        return health.connected and all(consumer.ok and consumer.fetch_age < SILENCE_S for consumer in health.consumers)


async def _no_cloud() -> Compute:
    """Nothing asks for it."""
    raise UnsupportedError("no cloud is configured")


def create_app(
    settings: ProvisionerSettings | None = None,
    *,
    clock: Clock | None = None,
    backend: Backend | None = None,
    quotas: Quotas | None = None,
    compute: OpenCompute | None = None,
) -> App:
    """Build the service; nothing runs before `start`. Settings come from INCL_PROVISIONER_… unless given.

    compute: opens the cloud, in place of the provider's own library.
    """
    if settings is None:
        settings = ProvisionerSettings()  # from the environment
    return App(settings, clock=clock or SystemClock(), backend=backend, quotas=quotas, compute=compute)
