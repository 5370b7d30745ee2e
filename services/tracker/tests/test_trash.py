"""Deleting: into the trash and back, for good, bit by bit, and what comes late."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import NotFoundError
from incl_shared.events import (
    ArtifactStored,
    ExperimentFinished,
    ExperimentPurged,
    ExperimentQueued,
    ExperimentRestored,
    ExperimentTrashed,
    RestoreRequested,
    RunStarted,
    TrashRequested,
)
from incl_shared.ids import new_id
from incl_shared.queries.tracker import (
    GetExperiment,
    GetLogs,
    GetPoints,
    ListArtifacts,
    ListExperiments,
    ListMetrics,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import store_restoring, store_retention, store_tails, trash
from incl_tracker import tables as t

DAY = 86_400.0


async def ended(bench: Any, make: Any, metrics: int = 3) -> str:
    """An experiment that has ended, with points, lines, an artifact, configuration and an alert."""
    experiment = new_id()
    spec = ExperimentSpec(command=["x"], tags=("a",), env={"KEY": "1"})
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=spec), 1)
    origin = Origin("default", experiment, 1, 0)
    values = {f"m{i}": 0.5 for i in range(metrics)}
    said = {"k": "p", "t": 1.0, "v": {"lr": 0.1}}, {"k": "a", "t": 1.0, "title": "hot", "text": "", "level": "warn"}
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, values), (2, 2.0, values), *said]))
    await bench.batch(origin, make.log_batch("log", 1, ["one", "two"]))
    stored = ArtifactStored(
        experiment=experiment, attempt=1, rank=0, kind="output", path="x", sha256="0" * 64, size=1
    )  # fmt: skip
    await bench.event(stored, 1)
    finished = ExperimentFinished(
        experiment=experiment, state=ExperimentState.FINISHED, reason=EndReason.COMPLETED, attempts=0
    )
    await bench.event(finished, 2)
    return experiment


async def rows_left(bench: Any, experiment: str) -> dict[str, int]:
    """Rows of the experiment in every table but its own."""

    def read(connection: sa.Connection) -> dict[str, int]:
        found = {}
        for table in t.metadata.sorted_tables:
            if table.name not in ("experiments", "hot", "places", "history_purges") and "experiment" in table.c:
                query = sa.select(sa.func.count()).select_from(table).where(table.c.experiment == experiment)
                found[table.name] = connection.execute(query).scalar_one()
        for table in (t.chunks, t.chunk_blobs):
            query = sa.select(sa.func.count()).select_from(table)
            found[table.name] = connection.execute(query).scalar_one()
        return {name: count for name, count in found.items() if count}

    return dict(await bench.read(read))


async def sweep_all(bench: Any) -> int:
    rounds = 0
    while await bench.database.write(trash.sweep):
        rounds += 1
    return rounds


async def test_into_the_trash_and_back(bench: Any, make: Any) -> None:
    experiment = await ended(bench, make)
    await bench.event(TrashRequested(experiment=experiment))
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.trashed == bench.clock.now()
    (said,) = await bench.emitted(ExperimentTrashed)
    assert (said.by, said.purge_at) == ("ann", bench.clock.now() + 30 * DAY)
    await bench.event(TrashRequested(experiment=experiment))
    await bench.event(RestoreRequested(experiment=experiment))
    await bench.event(RestoreRequested(experiment=experiment))
    assert (await bench.ask(GetExperiment(ref=experiment))).trashed is None
    assert (len(await bench.emitted(ExperimentTrashed)), len(await bench.emitted(ExperimentRestored))) == (1, 1)
    await bench.event(TrashRequested(experiment=experiment))
    assert len(await bench.emitted(ExperimentTrashed)) == 2
    assert len((await bench.ask(ListExperiments(filter="name = nobody"))).rows) == 0


async def test_what_lay_in_the_trash_for_its_time_is_purged(bench: Any, make: Any) -> None:
    experiment, other = await ended(bench, make), await ended(bench, make)
    before = await rows_left(bench, other)
    await bench.event(TrashRequested(experiment=experiment))
    bench.clock.advance(30 * DAY - 1)
    assert await bench.database.write(trash.purge_due) == []
    bench.clock.advance(2)
    assert await bench.database.write(trash.purge_due) == [("default", experiment)]
    assert [event.purged_by for event in await bench.emitted(ExperimentPurged)] == [""]
    for query in (
        GetExperiment(ref=experiment),
        GetLogs(experiment=experiment),
        GetPoints(experiment=experiment, metric="m0"),
        ListArtifacts(experiment=experiment),
        ListMetrics(experiment=experiment),
    ):
        with pytest.raises(NotFoundError):
            await bench.ask(query)
    await sweep_all(bench)
    assert not {name for name in await rows_left(bench, experiment) if name not in ("chunks", "chunk_blobs")}
    assert await rows_left(bench, other) == before


async def test_a_purge_goes_bit_by_bit_and_survives_a_crash(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trash, "ROWS", 7)
    experiment = await ended(bench, make, metrics=40)
    await bench.event(TrashRequested(experiment=experiment, purge=True))
    left = sum((await rows_left(bench, experiment)).values())
    while True:
        with pytest.raises(ZeroDivisionError):  # a crash in the middle of a round: it is as if it had not begun
            await bench.database.write(lambda tx: trash.sweep(tx) and 1 / 0)
        more = await bench.database.write(trash.sweep)
        now = sum((await rows_left(bench, experiment)).values())
        assert left - 3 * 7 <= now <= left
        left = now
        if left == 0:
            assert more
            break
    assert await sweep_all(bench) <= 1


async def test_what_comes_late_is_not_kept(bench: Any, make: Any) -> None:
    experiment = await ended(bench, make)
    await bench.event(TrashRequested(experiment=experiment, purge=True))
    await sweep_all(bench)
    origin = Origin("default", experiment, 1, 0)
    await bench.batch(origin, make.metric_batch("w", 5, [(3, 3.0, {"m0": 1.0})]))
    await bench.batch(origin, make.log_batch("log", 3, ["late"]))
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    await bench.event(
        ArtifactStored(experiment=experiment, attempt=1, rank=0, kind="output", path="y", sha256="1" * 64, size=1), 2
    )
    await bench.event(RunStarted(experiment=experiment, started=1.0))
    assert not await rows_left(bench, experiment)
    assert bench.told.marks[(origin, "metrics/w")] == 5
    assert bench.told.marks[(origin, "logs/log")] == 3
    await bench.event(RestoreRequested(experiment=experiment))
    await bench.event(TrashRequested(experiment=experiment, purge=True))
    assert len(await bench.emitted(ExperimentPurged)) == 1
    bench.clock.advance(200 * DAY)
    await bench.database.write(trash.purge_due)
    query = sa.select(sa.func.count()).select_from(t.experiments)
    assert await bench.read(lambda connection: connection.execute(query).scalar_one()) == 0


async def test_what_is_purged_while_it_comes_back_from_the_archive_stays_purged(bench: Any, make: Any) -> None:
    experiment = await ended(bench, make)
    await bench.database.write(lambda tx: store_tails.fold(tx.connection, experiment))
    frames = await bench.read(lambda connection: list(store_retention.chunk_frames(connection, experiment)))
    seen = await bench.read(lambda connection: store_retention.mark(connection, experiment))
    assert await bench.database.write(
        lambda tx: store_retention.let_go(tx.connection, experiment, seen, {"path": "x"}, tx.clock.now())
    )
    await bench.event(RestoreRequested(experiment=experiment))
    _, _, place = await bench.read(lambda connection: store_retention.asked_back(connection, bench.clock.now()))

    def back(tx: Any) -> bool:
        return store_restoring.put_back(tx.connection, experiment, place, frames[:3])

    assert await bench.database.write(back)
    await bench.event(TrashRequested(experiment=experiment, purge=True))
    assert not await bench.database.write(back)
    assert (
        await bench.database.write(lambda tx: store_restoring.count_anew(tx.connection, experiment, place, "")) is None
    )
    await bench.database.write(lambda tx: store_restoring.set_back(tx.connection, experiment, place, 9.0))
    await sweep_all(bench)
    assert not await rows_left(bench, experiment)
    assert await bench.read(lambda connection: store_retention.asked_back(connection, 1e18)) is None


async def test_only_its_owner_and_only_what_has_ended(bench: Any, make: Any) -> None:
    experiment = await ended(bench, make)
    for user, project in (("bob", "default"), ("ann", "other")):
        with pytest.raises(Poison):
            await bench.event(TrashRequested(experiment=experiment), user=user, project=project)
    running = new_id()
    with pytest.raises(Early):
        await bench.event(TrashRequested(experiment=running))
    await bench.event(ExperimentQueued(experiment=running, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    for purge in (True, False):
        with pytest.raises(Poison, match="not ended"):
            await bench.event(TrashRequested(experiment=running, purge=purge))
