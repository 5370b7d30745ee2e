"""Rebuilding from the history gives equal answers, whatever happened to the experiments, on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from incl_shared.bus import envelope
from incl_shared.bus.delivery import Delivery
from incl_shared.db import Transaction
from incl_shared.errors import InclError
from incl_shared.events import (
    REGISTER,
    ArtifactsDropped,
    ArtifactStored,
    AttemptAssigned,
    AttemptEnded,
    AttemptStarted,
    DroppedFile,
    Event,
    ExperimentFinished,
    ExperimentQueued,
    ExperimentStopping,
    ExperimentWaiting,
    Medium,
    Placement,
    RankEnd,
    RankTimes,
    RestoreRequested,
    RunEnded,
    RunStarted,
    TrashRequested,
    WriterCount,
)
from incl_shared.ids import new_id
from incl_shared.queries.tracker import (
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
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import history, store_retention
from incl_tracker import tables as t
from incl_tracker.history import Said
from incl_tracker.lapsing import Lapsing
from incl_tracker.rebuild import Rebuilt, Spool, rebuild

SHA = "ab" * 32
LISTS = ("", "state = finished", "metric.loss < 0.9", "param.lr > 0", "tag = a", "env.LR = 0.1", "user = ann")


def _to_twelve_digits(page: GroupPage) -> GroupPage:
    """The last digits of a mean follow from the order of the rows, which a rebuild may change."""
    groups = []
    for group in page.groups:
        rounded = {
            name: one.model_copy(update={"mean": round(one.mean, 12), "deviation": round(one.deviation, 12)})
            for name, one in group.metrics.items()
        }
        groups.append(group.model_copy(update={"metrics": rounded}))
    return page.model_copy(update={"groups": tuple(groups)})


class World:
    """A bench that also writes the history down, as the bus has it."""

    def __init__(self, bench: Any, make: Any) -> None:
        self.bench = bench
        self.make = make
        self.said: list[Said] = []
        self.ids: dict[str, str] = {}

    def new(self, name: str) -> str:
        self.ids[name] = new_id()
        return self.ids[name]

    async def event(self, event: Event, version: int, time: float) -> None:
        self.note(event, version, time)
        await self.bench.event(event, version, time=time)

    def note(self, event: Event, version: int, time: float) -> None:
        identifier = f"{event.type_name()}:{event.key}:{version}:{len(self.said)}"
        said = envelope.Envelope(identifier, "", event.type_name(), event.key, time, version)
        subject = envelope.subject_of(event, project="default", user="ann")
        self.said.append(Said(identifier, subject, envelope.headers_of(said), event.model_dump_json().encode()))

    async def told(self) -> None:
        """What the tracker itself has said goes into the history too."""
        for event, version, time in await self.bench.read(_outbox):
            self.note(event, version, time)

    async def answers(self) -> dict[str, Any]:
        """Everything that anybody can ask."""
        found: dict[str, Any] = {}

        async def ask(name: str, query: Any) -> None:
            try:
                found[name] = await self.bench.ask(query)
            except InclError as error:
                found[name] = str(error)

        for name, identifier in self.ids.items():
            await ask(f"{name} view", GetExperiment(ref=identifier))
            await ask(f"{name} metrics", ListMetrics(experiment=identifier))
            await ask(f"{name} logs", GetLogs(experiment=identifier))
            await ask(f"{name} files", ListArtifacts(experiment=identifier))
            await ask(f"{name} paths", ListArtifacts(experiment=identifier, prefix="ch"))
            await ask(f"{name} keys", ListMediaKeys(experiment=identifier))
            await ask(f"{name} points", GetPoints(experiment=identifier, metric="loss"))
            for attempt in (1, 2):
                await ask(f"{name} {attempt}", GetPoints(experiment=identifier, metric="loss", attempt=attempt))
                await ask(f"{name} marks {attempt}", GetWatermarks(experiment=identifier, attempt=attempt, rank=0))
        await ask(
            "chart",
            GetChart(experiments=tuple(i for name, i in self.ids.items() if name != "purged"), metrics=("loss",)),
        )
        for text in LISTS:
            for binned in (False, True):
                await ask(f"list {text} {binned}", ListExperiments(filter=text, sort="created", trash=binned))
        await ask("groups", GroupExperiments(by=("state",), metrics=("loss",)))
        found["groups"] = _to_twelve_digits(found["groups"])
        await ask("tags", GroupExperiments(by=("tag",)))
        return found

    async def rebuilt(self, folder: Path, **options: Any) -> Rebuilt:
        folder.mkdir(exist_ok=True)
        spool = Spool(folder / f"{new_id()}.db")
        spool.add(self.said)
        spool.add(self.said)
        try:
            return await rebuild(self.bench.database, spool, **options)
        finally:
            spool.close()


def _outbox(connection: sa.Connection) -> list[tuple[Event, int, float]]:
    import json

    found = []
    for row in connection.execute(sa.select(t.metadata.tables["outbox"])).mappings():
        said = envelope.decode(json.loads(row["headers"]))
        assert said is not None
        found.append((REGISTER[said.type].read(row["payload"]), said.version, said.time))
    return found


def rank(begin: float, end: float, reason: EndReason, points: int) -> RankEnd:
    times = RankTimes(rank=0, preparing=begin, prepared=begin + 1, started=begin + 2, ended=end, uploaded=end + 1)
    counts = (WriterCount(writer="w", records=points, stream="metrics"),)
    return RankEnd(rank=0, node="n1", reason=reason, times=times, writers=counts)


async def managed(world: World, name: str, *, attempts: int = 1, ends: bool = True, alert: bool = False) -> str:
    """An experiment of the platform: waits, attempts of which all but the last are lost, files, media, telemetry."""
    identifier, clock = world.new(name), 1000.0
    spec = ExperimentSpec(name=name, command=["x"], tags=("a", name), env={"LR": "0.1"}, metrics={"loss": "min"})
    events: list[Event] = [
        ExperimentQueued(experiment=identifier, user="ann", spec=spec),
        ExperimentWaiting(experiment=identifier, reason="no room"),
    ]
    for attempt in range(1, attempts + 1):
        last = attempt == attempts
        place = (Placement(rank=0, node=f"n{attempt}", address="127.0.0.1"),)
        started = RankTimes(rank=0, preparing=clock, prepared=clock + 1, started=clock + 2)
        events.append(AttemptAssigned(experiment=identifier, attempt=attempt, placements=place))
        events.append(AttemptStarted(experiment=identifier, attempt=attempt, ranks=(started,)))
        origin = Origin("default", identifier, attempt, 0)
        said = [{"k": "p", "t": clock, "v": {"lr": 0.1 * attempt, "deep": {"er": "x"}}}]
        said += [{"k": "a", "t": clock, "title": "hot", "text": "so hot", "level": "warn"}] if alert else []
        points = [(step, clock + step, {"loss": 1 / (step + attempt), "acc": float(step)}) for step in range(5)]
        await world.bench.batch(origin, world.make.metric_batch("w", 1, [*points, *said]))
        await world.bench.batch(origin, world.make.log_batch("log", 1, ["one", f"two of {attempt}"]))
        if ends or not last:
            reason = EndReason.COMPLETED if last else EndReason.LOST
            ended = rank(clock, clock + 9, reason, 5 + len(said))
            events.append(
                AttemptEnded(experiment=identifier, attempt=attempt, reason=reason, retry=not last, ranks=(ended,))
            )
    if ends:
        done = {"state": ExperimentState.FINISHED, "reason": EndReason.COMPLETED, "message": "well done"}
        events.append(ExperimentFinished(experiment=identifier, attempts=attempts, **done))
    for version, event in enumerate(events, 1):
        clock += 10
        await world.event(event, version, clock)
    await files(world, identifier)
    return identifier


async def files(world: World, identifier: str) -> None:
    def stored(kind: str, path: str, step: int | None = None, medium: Medium | None = None) -> ArtifactStored:
        return ArtifactStored(
            experiment=identifier, attempt=1, rank=0, kind=kind, path=path, sha256=SHA, size=7, step=step, medium=medium
        )

    image = Medium(type="image", key="sample", caption="é")
    dropped = DroppedFile(attempt=1, rank=0, kind="checkpoint", path="ch-1")
    events = [
        stored("checkpoint", "ch-1", 1),
        stored("checkpoint", "ch-2", 2),
        stored("media", "sample-0.png", 0, image),
        stored("output", "out.bin"),
        ArtifactsDropped(experiment=identifier, entries=(dropped,)),
    ]
    for version, event in enumerate(events, 1):
        await world.event(event, version, 1500.0 + version)


async def outside(world: World, name: str, *, ends: bool) -> str:
    identifier = world.new(name)
    begun = RunStarted(experiment=identifier, name=name, config={"lr": "1e-3"}, tags=("a",), started=1000.0)
    await world.event(begun, 0, 1001.0)
    points = [(step, 1000.0 + step, {"loss": 1 / (step + 1)}) for step in range(4)]
    origin = Origin("default", identifier, 1, 0)
    await world.bench.batch(origin, world.make.metric_batch("w", 1, points))
    if ends:
        counts = (WriterCount(writer="w", records=4, stream="metrics"),)
        state = ExperimentState.FAILED
        ended = RunEnded(experiment=identifier, state=state, message="oom", ended=1020.0, writers=counts)
        await world.event(ended, 0, 1021.0)
    return identifier


@pytest.fixture
async def world(bench: Any, make: Any) -> AsyncIterator[World]:
    """All kinds of experiments."""
    world = World(bench, make)
    await managed(world, "plain")
    await managed(world, "retried", attempts=3, alert=True)
    await managed(world, "running", ends=False)
    stopping = await managed(world, "stopping", ends=False)
    await world.event(ExperimentStopping(experiment=stopping, by="ann", reason="enough"), 5, 2000.0)
    for name in ("trashed", "restored", "purged", "archived"):
        await managed(world, name, alert=True)
    for name in ("trashed", "restored"):
        await bench.event(TrashRequested(experiment=world.ids[name]))
    await bench.event(RestoreRequested(experiment=world.ids["restored"]))
    await bench.event(TrashRequested(experiment=world.ids["purged"], purge=True))
    await _archive(bench, world.ids["archived"])
    await outside(world, "outside", ends=True)
    await outside(world, "outside live", ends=False)
    lost = await outside(world, "outside lost", ends=False)
    bench.clock.advance(100.0)
    await bench.database.write(lambda tx: _others_are_young(tx, lost))
    lapsing = Lapsing(bench.database, bench.clock, grace_s=50.0, every_s=1e9, healthy=lambda: True)
    bench.clock.advance(60.0)
    await bench.database.write(lambda tx: _others_are_young(tx, lost))
    assert [identifier for _, identifier in await lapsing.round()] == [lost]
    shell = world.new("shell")
    await bench.batch(Origin("default", shell, 1, 0), make.metric_batch("w", 1, [(0, 1.0, {"loss": 0.1})]))
    await world.told()
    yield world


def _others_are_young(tx: Transaction, lost: str) -> None:
    young = sa.update(t.run_leases).where(t.run_leases.c.experiment != lost).values(heard=tx.clock.now())
    tx.connection.execute(young)


async def _archive(bench: Any, experiment: str) -> None:
    seen = await bench.read(lambda connection: store_retention.mark(connection, experiment))
    place = {"sha256": SHA, "size": 1, "path": "x"}
    done = await bench.database.write(
        lambda tx: store_retention.let_go(tx.connection, experiment, seen, place, tx.clock.now())
    )
    assert done


async def test_a_rebuild_of_what_is_right_changes_nothing(world: World, tmp_path: Path) -> None:
    before = await world.answers()
    rows = await world.bench.read(_everything)
    done = await world.rebuilt(tmp_path)
    assert (done.changed, done.made, done.kept) == ([], [], {})
    assert done.same == len(world.ids) - 2, "all but what is purged and what nobody submitted"
    assert await world.bench.read(_everything) == rows
    assert await world.answers() == before


def _everything(connection: sa.Connection) -> dict[str, list[Any]]:
    """All rows of all tables, but for what marks a change."""
    left_out = {"hot", "inbox", "outbox", "sent", "history", "column_blocks", "column_data"}
    return {
        table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
        for table in t.metadata.sorted_tables
        if table.name not in left_out
    }


def damages() -> Iterator[tuple[str, Callable[[sa.Connection], object]]]:
    yield "names", lambda c: c.execute(sa.update(t.experiments).values(name="x", state="queued", message="?"))
    times = sa.update(t.experiments).values(started=None, ended=None)
    yield "times", lambda c: c.execute(times)
    yield "version", lambda c: c.execute(times.where(t.experiments.c.outside.is_(False)).values(version=1))
    yield "dropped", lambda c: c.execute(sa.update(t.artifacts).values(version=1, size=9))
    for table in (t.attempts, t.tags, t.artifacts):
        yield table.name, lambda c, table=table: c.execute(sa.delete(table))  # type: ignore[misc]
    yield "env", lambda c: c.execute(sa.delete(t.params).where(t.params.c.kind == "env"))


@pytest.mark.parametrize(("what", "damage"), list(damages()))
async def test_what_events_tell_is_made_anew(
    world: World, tmp_path: Path, what: str, damage: Callable[[sa.Connection], object]
) -> None:
    before = await world.answers()
    lost = world.ids["outside lost"]
    row = await world.bench.read(lambda c: c.execute(sa.select(t.experiments).where(t.experiments.c.id == lost)).one())
    settled = await world.bench.read(lambda c: c.execute(sa.select(t.attempts)).all())

    def spoil(tx: Transaction) -> None:
        damage(tx.connection)
        purged = t.experiments.c.id == world.ids["purged"]
        tx.connection.execute(sa.update(t.experiments).where(purged).values(name=""))

    await world.bench.database.write(spoil)
    assert await world.answers() != before
    seen = await world.rebuilt(tmp_path, dry=True)
    assert seen.changed
    assert await world.answers() != before, "a dry run changes nothing"
    done = await world.rebuilt(tmp_path)
    assert done.changed == seen.changed
    assert done.kept == {}
    await world.bench.database.write(lambda tx: _mend(tx, lost, row, settled, what))
    after = await world.answers()
    assert _shown(after) == _shown(before)


def _mend(tx: Transaction, lost: str, row: Any, settled: Any, what: str) -> None:
    """What the tracker alone knew and the damage took: that a run is lost, that attempts are settled."""
    values = {"state": row.state, "message": row.message, "hint": row.hint}
    tx.connection.execute(sa.update(t.experiments).where(t.experiments.c.id == lost).values(values))
    shell = sa.update(t.experiments).where(t.experiments.c.known.is_(False))
    if what == "names":
        tx.connection.execute(shell.values(name="", message=""))
    if what == "attempts":
        for attempt in settled:
            where = (t.attempts.c.experiment == attempt.experiment, t.attempts.c.attempt == attempt.attempt)
            values = {"settled": attempt.settled, "settle_due": attempt.settle_due}
            tx.connection.execute(sa.update(t.attempts).where(*where).values(values))


def _shown(answers: dict[str, Any]) -> dict[str, Any]:
    """Without the version of views, which has grown."""
    return {
        name: answer.model_copy(update={"version": 0}) if hasattr(answer, "version") else answer
        for name, answer in answers.items()
    }


async def test_a_database_that_is_lost_has_its_experiments_again(world: World, tmp_path: Path) -> None:
    before = await world.answers()

    def empty(tx: Transaction) -> None:
        for table in reversed(t.metadata.sorted_tables):
            tx.connection.execute(sa.delete(table))

    await world.bench.database.write(empty)
    done = await world.rebuilt(tmp_path)
    assert sorted(done.made) == sorted(i for name, i in world.ids.items() if name != "shell")
    after = await world.answers()
    for name in world.ids:
        if name in ("purged", "shell", "outside lost"):
            continue
        was, now = before[f"{name} view"], after[f"{name} view"]
        same = ("row", "outside", "spec", "code", "provenance", "message", "hint", "stages", "artifacts", "trashed")
        for part in same:
            if part == "row":
                assert now.row.model_copy(update={"metrics": was.row.metrics}) == was.row
            else:
                assert getattr(now, part) == getattr(was, part), (name, part)
        assert [alert.title for alert in now.alerts] == [alert.title for alert in was.alerts]
        assert now.settled == was.settled
    assert isinstance(after["purged view"], str)


async def test_what_is_not_whole_is_left_as_it_is(world: World, tmp_path: Path) -> None:
    before = await world.answers()
    plain, retried, run = world.ids["plain"], world.ids["retried"], world.ids["outside"]
    missing = {
        plain: lambda said: "ExperimentQueued" in said.id,
        retried: lambda said: said.id.startswith("AttemptEnded.v1") and ":5:" in said.id,
        world.ids["archived"]: lambda said: said.id.startswith("ArtifactStored.v1") and ":2:" in said.id,
        world.ids["trashed"]: lambda said: said.id.startswith("ExperimentFinished"),
        run: lambda said: said.id.startswith("RunEnded"),
    }
    count = len(world.said)
    world.said = [s for s in world.said if not any(key in s.id and gone(s) for key, gone in missing.items())]
    assert len(world.said) == count - len(missing)
    world.said = [said for said in world.said if world.ids["restored"] not in said.id]
    done = await world.rebuilt(tmp_path)
    assert set(done.kept) == {*missing, world.ids["restored"]}
    assert done.changed == []
    assert await world.answers() == before


async def test_a_rebuild_that_was_cut_short_is_run_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await world.answers()
    spoil = sa.update(t.experiments).where(t.experiments.c.known).values(name="x", message="?", started=1.0)
    lost = sa.update(t.experiments).where(t.experiments.c.id == world.ids["outside lost"])
    said = before["outside lost view"].message
    await world.bench.database.write(lambda tx: tx.connection.execute(spoil).rowcount)
    await world.bench.database.write(lambda tx: tx.connection.execute(lost.values(message=said)).rowcount)
    count, whole = 0, Spool.of

    def cut(self: Spool, key: str) -> list[Said]:
        nonlocal count
        count += 1
        if count > 5:
            raise KeyboardInterrupt
        return whole(self, key)

    monkeypatch.setattr(Spool, "of", cut)
    with pytest.raises(KeyboardInterrupt):
        await world.rebuilt(tmp_path)
    monkeypatch.setattr(Spool, "of", whole)
    done = await world.rebuilt(tmp_path)
    assert done.same > 2
    assert len(done.changed) > 2
    assert _shown(await world.answers()) == _shown(before)


async def test_events_in_another_order_give_the_same(world: World, tmp_path: Path) -> None:
    before = await world.answers()
    world.said.reverse()
    done = await world.rebuilt(tmp_path)
    assert (done.changed, done.kept) == ([], {})
    assert await world.answers() == before


async def test_the_history_is_noted_once_and_goes_into_segments(bench: Any, tmp_path: Path) -> None:
    event = ExperimentWaiting(experiment=new_id(), reason="x")
    payload, headers = envelope.encode(event, envelope.Envelope("id-1", "", event.type_name(), event.key, 1.0, 3))
    subject = envelope.subject_of(event, project="default")
    delivery = Delivery(subject, payload, headers, "id-1", event.type_name(), 1.0, 3, "EVENTS", 1, 1, None)
    for _ in range(2):
        await bench.database.write(lambda tx: history.note(tx, delivery))
    kept = {key: value for key, value in headers.items() if key.startswith("ce-")}
    assert await bench.read(lambda c: list(history.rows_of(c))) == [Said("id-1", subject, kept, payload)]
    due = history._due
    assert await bench.read(lambda c: due(c, 5, bench.clock.now() - 10)) is None
    first, last = await bench.read(lambda c: due(c, 1, 0.0))
    assert await bench.read(lambda c: due(c, 5, bench.clock.now() + 1)) == (first, last)
    path = tmp_path / "segment"
    assert await bench.read(lambda c: history._write(c, path, last)) == 1
    assert list(history.read_segment(path)) == [Said("id-1", subject, kept, payload)]
