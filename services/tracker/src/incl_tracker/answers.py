"""The queries of the tracker. Who asks sees the project of its subject, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from incl_shared.auth.names import is_job, job_principal
from incl_shared.clock import Clock
from incl_shared.errors import DeniedError, NotFoundError
from incl_shared.queries.tracker import (
    ArtifactList,
    Chart,
    ExperimentPage,
    ExperimentView,
    GetChart,
    GetExperiment,
    GetLogs,
    GetPoints,
    GetWatermarks,
    GroupExperiments,
    GroupPage,
    ListArtifacts,
    ListExperiments,
    ListMediaKeys,
    ListMetrics,
    LogPage,
    MediaKeys,
    MetricPage,
    Points,
    Watermarks,
)
from incl_shared.subjects import Asker
from incl_tracker import (
    store_artifacts,
    store_charts,
    store_groups,
    store_logs,
    store_metrics,
    store_points,
    store_search,
    store_views,
)
from incl_tracker.domain.ranges import watermark
from incl_tracker.settling import keep_waiting
from incl_tracker.store_columns import Cache
from incl_tracker.store_settlement import stored_of, unsettled

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.bus.runtime import Bus
    from incl_shared.db import Database


@dataclass(frozen=True)
class Patience:
    """How long (seconds) records of an ended attempt are waited for: after the last word, and at most without any."""

    after_s: float = 60.0
    most_s: float = 3_600.0


PATIENCE = Patience()


class Answers:
    """One method a query. heard: told of each experiment whose own shipper asks, which is its sign of life.

    columns: of lists, which are kept in memory.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        list_limit_s: float,
        heard: Callable[[str], None] = lambda _: None,
        columns: Cache | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self._database = database
        self._clock = clock
        self._list_limit_s = list_limit_s
        self._heard = heard
        self._columns = columns or Cache()
        self._patience = patience

    def register(self, bus: Bus) -> None:
        """Serve them all."""
        bus.serve(GetExperiment, self.experiment)
        bus.serve(ListExperiments, self.experiments)
        bus.serve(GroupExperiments, self.groups)
        bus.serve(GetLogs, self.logs)
        bus.serve(GetChart, self.chart)
        bus.serve(GetPoints, self.points)
        bus.serve(ListMetrics, self.metrics)
        bus.serve(GetWatermarks, self.watermarks)
        bus.serve(ListArtifacts, self.artifacts)
        bus.serve(ListMediaKeys, self.media_keys)

    async def experiment(self, asker: Asker, query: GetExperiment) -> ExperimentView:
        """All of one experiment but its points and lines."""

        def read(connection: sa.Connection) -> ExperimentView:
            return store_views.view(connection, store_views.resolve(connection, asker, query.ref))

        return await self._database.read(read)

    async def experiments(self, asker: Asker, query: ListExperiments) -> ExperimentPage:
        """A page of a list."""
        now = self._clock.now()
        return await self._database.read(
            lambda connection: store_search.search(
                connection, asker.project, query, now, self._list_limit_s, self._columns
            )
        )

    async def groups(self, asker: Asker, query: GroupExperiments) -> GroupPage:
        """A page of groups."""
        now = self._clock.now()
        return await self._database.read(
            lambda connection: store_groups.group(
                connection, asker.project, query, now, self._list_limit_s, self._columns
            )
        )

    async def logs(self, asker: Asker, query: GetLogs) -> LogPage:
        """A page of lines."""
        return await self._database.read(lambda connection: store_logs.logs(connection, asker.project, query))

    async def chart(self, asker: Asker, query: GetChart) -> Chart:
        """Curves of a window."""
        return await self._database.read(lambda connection: store_charts.chart(connection, asker.project, query))

    async def points(self, asker: Asker, query: GetPoints) -> Points:
        """A page of raw points."""
        return await self._database.read(lambda connection: store_points.points(connection, asker.project, query))

    async def metrics(self, asker: Asker, query: ListMetrics) -> MetricPage:
        """A page of summaries."""

        def read(connection: sa.Connection) -> MetricPage:
            row = store_views.row_in(connection, asker.project, query.experiment)
            return store_metrics.listed(connection, row, query)

        return await self._database.read(read)

    async def artifacts(self, asker: Asker, query: ListArtifacts) -> ArtifactList:
        """A page of files."""

        def read(connection: sa.Connection) -> ArtifactList:
            store_views.row_in(connection, asker.project, query.experiment)
            return store_artifacts.artifacts(connection, query)

        return await self._database.read(read)

    async def media_keys(self, asker: Asker, query: ListMediaKeys) -> MediaKeys:
        """A page of the keys of images, tables and texts."""

        def read(connection: sa.Connection) -> MediaKeys:
            store_views.row_in(connection, asker.project, query.experiment)
            return store_artifacts.media_keys(connection, query)

        return await self._database.read(read)

    async def watermarks(self, asker: Asker, query: GetWatermarks) -> Watermarks:
        """For the shipper of this very rank, or the owner of the experiment."""
        job = job_principal(query.experiment, query.attempt, query.rank)
        if is_job(asker.user) and asker.user != job:
            raise DeniedError("a job may only ask for its own watermarks")
        if asker.user == job:
            self._heard(query.experiment)

        attempt, patience = (query.experiment, query.attempt), self._patience
        soon = self._clock.now() + patience.after_s / 2

        def read(connection: sa.Connection) -> tuple[Watermarks, bool]:
            row = store_views.shell_in(connection, asker.project, query.experiment)
            if row is None:
                return Watermarks(stored={}), False
            if row["purged"] is not None:
                raise NotFoundError(f"{query.experiment} was deleted")
            if asker.user != job and row["user"] != asker.user:
                raise DeniedError("only the owner of a run may ask for its watermarks")
            found = stored_of(connection, query.experiment, query.attempt).get(query.attempt, [])
            ended = unsettled(connection, *attempt)
            marks = {f"{s.stream}/{s.writer}": watermark(s.ranges) for s in found if s.rank == query.rank}
            return Watermarks(stored=marks), ended is not None and ended["settle_due"] < soon

        marks, due_soon = await self._database.read(read)
        if due_soon and asker.user == job:
            await self._database.write(lambda tx: keep_waiting(tx, *attempt, patience.after_s, patience.most_s))
        return marks
