"""Points and lines go to the artifact store and come back: the tracker's archivist against the real registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from incl_registry.testing.running import Store, close_store, open_store
from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.db import Database, migrate
from incl_shared.errors import NotFoundError
from incl_shared.events import ExperimentFinished, ExperimentQueued, RestoreRequested
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, UploadGrant
from incl_shared.queries.tracker import GetChart, GetExperiment, GetLogs, GetPoints, ListMetrics
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Asker
from incl_shared.telemetry.batcher import encode
from incl_shared.telemetry.wire import BATCH_VERSION, Line, LogBatch
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.telemetry import batch_of
from incl_tracker import store_compaction, store_tails
from incl_tracker import tables as t
from incl_tracker.answers import Answers
from incl_tracker.archiving import Archivist
from incl_tracker.domain.retention import DAY_S, Rule
from incl_tracker.handlers import Handlers

RULES = (Rule(after_days=90),)
ANN = Asker("default", "ann")
POINTS = 9_000


class Nobody:
    """An audience that does not listen."""

    def changed(self, project: str, experiment: str) -> None: ...

    def lines(self, project: str, experiment: str, after: int, lines: Any) -> None: ...

    def points(self, project: str, experiment: str, newest: Any, count: int) -> None: ...

    def stored(self, origin: subjects.Origin, stream: str, writer: str, watermark: int) -> None: ...


@dataclass
class Both:
    """A tracker's database with its archivist, and a registry."""

    database: Database
    clock: FakeClock
    store: Store
    handlers: Handlers
    answers: Answers
    archivist: Archivist

    async def deliver(self, handler: Any, subject: str, payload: bytes, kind: str = "", version: int = 0) -> None:
        delivery = Delivery(subject, payload, {}, new_id(), kind, self.clock.now(), version, "TEST", 1, 99, None)
        await self.database.write(lambda tx: handler(tx, delivery))

    async def telemetry(self, experiment: str) -> None:
        place = ("default", experiment, 1, 0)
        for begin in range(0, POINTS, 1_000):
            records = [(s, float(s), {"loss": s * 0.5, "acc": 1.0}) for s in range(begin, begin + 1_000)]
            batch = encode(batch_of("w", begin + 1, records))
            await self.deliver(lambda tx, d: self.handlers.metric_batches(tx, [d]), subjects.metrics(*place), batch)
        lines = LogBatch(BATCH_VERSION, "log", 1, [Line(float(i), 0, f"line {i}") for i in range(500)])
        await self.deliver(lambda tx, d: self.handlers.log_batches(tx, [d]), subjects.logs(*place), encode(lines))

    async def seen(self, experiment: str) -> list[Any]:
        """What can be read of it."""
        return [
            await self.answers.points(ANN, GetPoints(experiment=experiment, metric="loss", from_step=4_000)),
            await self.answers.logs(ANN, GetLogs(experiment=experiment, tail=3)),
            await self.answers.chart(ANN, GetChart(experiments=(experiment,), metrics=("loss",), low=10, high=20)),
        ]


@pytest.fixture
async def both(tmp_path: Path, fake_clock: FakeClock) -> AsyncIterator[Both]:
    url = f"sqlite:///{tmp_path / 'tracker.db'}"
    migrate(url, "incl_tracker")
    database = Database(url, clock=fake_clock)
    await database.start()
    store = await open_store(f"sqlite:///{tmp_path / 'registry.db'}", tmp_path / "blobs")
    told = Nobody()

    async def ask(query: Any, *, project: str, user: str) -> Any:
        asker = Asker(project, user)
        match query:
            case UploadGrant():
                return await store.handlers.upload_grant(asker, query)
            case DownloadGrant():
                return await store.handlers.download_grant(asker, query)
            case CommitArtifacts():
                return await store.handlers.commit(asker, query)

    archivist = Archivist(database, ask, RULES, 30 * DAY_S, told.changed)
    answers = Answers(database, fake_clock, list_limit_s=5.0)
    yield Both(database, fake_clock, store, Handlers(told, 60.0), answers, archivist)
    await close_store(store)
    await database.stop()


async def old(both: Both) -> str:
    """An experiment that ended long ago, and is compact."""
    experiment = new_id()
    await both.store.upload(experiment)
    event = subjects.event("default", "experiment", experiment)
    queued = ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"]))
    await both.deliver(both.handlers.event, event, queued.model_dump_json().encode(), "ExperimentQueued.v1", 1)
    await both.telemetry(experiment)
    done = ExperimentFinished(
        experiment=experiment, state=ExperimentState.FINISHED, reason=EndReason.COMPLETED, attempts=0
    )
    await both.deliver(both.handlers.event, event, done.model_dump_json().encode(), "ExperimentFinished.v1", 2)
    await both.database.write(lambda tx: store_compaction.set_due(tx.connection, experiment, 0.0))
    work = await both.database.write(lambda tx: store_compaction.begin(tx.connection, tx.clock.now()))
    while work is not None:
        work = await both.database.write(lambda tx, work=work: store_compaction.step(tx.connection, work))
    both.clock.advance(91 * DAY_S)
    return experiment


async def blobs_kept(both: Both) -> int:
    def read(connection: sa.Connection) -> int:
        chunks = sa.select(sa.func.count()).where(t.chunk_blobs.c.data.is_not(None))
        lines = sa.select(sa.func.count()).where(t.log_batches.c.lines.is_not(None))
        return int(connection.execute(chunks).scalar_one()) + int(connection.execute(lines).scalar_one())

    return await both.database.read(read)


async def test_to_the_archive_and_back(both: Both) -> None:
    experiment = await old(both)
    before = await both.seen(experiment)
    whole = await both.answers.chart(ANN, GetChart(experiments=(experiment,), metrics=("loss",), pixels=100))
    while await both.archivist.look():
        pass
    view = await both.answers.experiment(ANN, GetExperiment(ref=experiment))
    assert view.archived == both.clock.now()
    assert (view.points, view.lines, await blobs_kept(both)) == (2 * POINTS, 500, 0)
    for query in (GetPoints(experiment=experiment, metric="loss"), GetLogs(experiment=experiment, tail=1)):
        ask = both.answers.points if isinstance(query, GetPoints) else both.answers.logs
        with pytest.raises(NotFoundError, match="archive") as caught:
            await ask(ANN, query)  # type: ignore[operator]
        assert "incl restore" in caught.value.hint
    assert await both.answers.chart(ANN, GetChart(experiments=(experiment,), metrics=("loss",), pixels=100)) == whole
    (rough,) = (
        await both.answers.chart(ANN, GetChart(experiments=(experiment,), metrics=("loss",), low=0, high=500))
    ).curves
    assert 2 < len(rough.steps) < 100
    while await both.archivist.look():
        pass
    assert not await both.archivist.fetch()
    request = subjects.request("default", "ann", "restore", experiment)
    asked = RestoreRequested(experiment=experiment).model_dump_json().encode()
    await both.deliver(both.handlers.request, request, asked, "RestoreRequested.v1")
    assert await both.archivist.fetch()
    assert await both.seen(experiment) == before
    assert (await both.answers.experiment(ANN, GetExperiment(ref=experiment))).archived is None
    assert not await both.archivist.fetch()
    both.clock.advance(89 * DAY_S)
    while await both.archivist.look():
        pass
    assert (await both.answers.experiment(ANN, GetExperiment(ref=experiment))).archived is None
    both.clock.advance(2 * DAY_S)
    while await both.archivist.look():
        pass
    assert (await both.answers.experiment(ANN, GetExperiment(ref=experiment))).archived is not None
    assert not await both.archivist.fetch(), "asked back once, not for ever"


async def test_steps_that_were_run_again_meanwhile_are_hidden_when_it_comes_back(both: Both) -> None:
    experiment, never = await old(both), await old(both)
    assert await both.archivist.archive("default", experiment)
    for one in (experiment, never):
        place = subjects.metrics("default", one, 2, 0)
        records = [(s, s + 0.5, {"loss": 7.0, "acc": 0.0}) for s in range(4_000, POINTS)]
        batch = encode(batch_of("w", 1, records))
        await both.deliver(lambda tx, d: both.handlers.metric_batches(tx, [d]), place, batch)
    request = subjects.request("default", "ann", "restore", experiment)
    asked = RestoreRequested(experiment=experiment).model_dump_json().encode()
    await both.deliver(both.handlers.request, request, asked, "RestoreRequested.v1")
    assert await both.archivist.fetch()

    async def answers(of: str) -> list[Any]:
        charts = [GetChart(experiments=(of,), pixels=pixels) for pixels in (100, 2_000)]
        said = [*await both.seen(of), *[await both.answers.chart(ANN, chart) for chart in charts]]
        said.append(await both.answers.metrics(ANN, ListMetrics(experiment=of)))
        return [one.model_dump_json().replace(of, "") for one in said]

    assert await answers(experiment) == await answers(never)
    assert await both.archivist.archive("default", experiment)
    await both.deliver(both.handlers.request, request, asked, "RestoreRequested.v1")
    assert await both.archivist.fetch()
    assert await answers(experiment) == await answers(never)


async def test_what_came_meanwhile_is_not_lost(both: Both) -> None:
    experiment = await old(both)
    store = both.store.handlers.commit

    async def late(asker: Asker, query: CommitArtifacts) -> Any:
        records = [(POINTS, 1.0, {"loss": -1.0})]
        place = subjects.metrics("default", experiment, 1, 0)
        batch = encode(batch_of("w", POINTS + 1, records))
        await both.deliver(lambda tx, d: both.handlers.metric_batches(tx, [d]), place, batch)
        return await store(asker, query)

    both.store.handlers.commit = late  # type: ignore[method-assign]
    assert not await both.archivist.archive("default", experiment)
    both.store.handlers.commit = store  # type: ignore[method-assign]
    assert (await both.answers.experiment(ANN, GetExperiment(ref=experiment))).archived is None
    assert await both.archivist.archive("default", experiment)
    newer = [(POINTS + 1, 1.0, {"loss": -2.0})]
    place = subjects.metrics("default", experiment, 1, 0)
    batch = encode(batch_of("w", POINTS + 2, newer))
    await both.deliver(lambda tx, d: both.handlers.metric_batches(tx, [d]), place, batch)
    (curve,) = (await both.answers.chart(ANN, GetChart(experiments=(experiment,), metrics=("loss",)))).curves
    assert min(curve.values) == -2.0


def fold_all(connection: sa.Connection, experiment: str) -> None:
    """Make chunks of all that is in tails."""
    while store_tails.fold(connection, experiment):
        pass


async def test_what_was_merged_meanwhile_is_archived_anew(both: Both) -> None:
    """The archive has the chunks as they were: another one of the same number has points that it has not."""
    experiment = await old(both)
    for number in range(3):
        place = subjects.metrics("default", experiment, 2 + number, 0)
        batch = encode(batch_of("w", 1, [(POINTS + number, 1.0, {"loss": -1.0})]))
        await both.deliver(lambda tx, d: both.handlers.metric_batches(tx, [d]), place, batch)
    before = await both.seen(experiment)
    store = both.store.handlers.commit

    async def merging(asker: Asker, query: CommitArtifacts) -> Any:
        await both.database.write(lambda tx: fold_all(tx.connection, experiment))
        return await store(asker, query)

    both.store.handlers.commit = merging  # type: ignore[method-assign]
    assert not await both.archivist.archive("default", experiment)
    assert await both.seen(experiment) == before
    both.store.handlers.commit = store  # type: ignore[method-assign]
    assert await both.archivist.archive("default", experiment)
    request = subjects.request("default", "ann", "restore", experiment)
    asked = RestoreRequested(experiment=experiment).model_dump_json().encode()
    await both.deliver(both.handlers.request, request, asked, "RestoreRequested.v1")
    assert await both.archivist.fetch()
    assert await both.seen(experiment) == before


async def test_a_damaged_archive_changes_nothing(both: Both) -> None:
    experiment = await old(both)
    assert await both.archivist.archive("default", experiment)
    for blob in both.store.folder.rglob("*"):
        if blob.is_file() and blob.stat().st_size > 1_000:
            blob.chmod(0o600)
            blob.write_bytes(blob.read_bytes()[:-100])
    request = subjects.request("default", "ann", "restore", experiment)
    asked = RestoreRequested(experiment=experiment).model_dump_json().encode()
    await both.deliver(both.handlers.request, request, asked, "RestoreRequested.v1")
    assert not await both.archivist.fetch()
    assert await blobs_kept(both) == 0
    assert (await both.answers.experiment(ANN, GetExperiment(ref=experiment))).archived is not None
