"""The whole tracker on a real bus: consume, answer, tell, be killed and come back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.auth.names import Role
from incl_shared.bus import envelope, topology
from incl_shared.bus.client import BusClient
from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.events import (
    AttemptAssigned,
    AttemptEnded,
    AttemptSettled,
    AttemptStarted,
    Event,
    ExperimentFinished,
    ExperimentQueued,
    Placement,
    RankEnd,
    RankTimes,
    RunEnded,
    RunStarted,
    WriterCount,
)
from incl_shared.ids import new_id
from incl_shared.queries.stuck import Finding, TrackerStuck
from incl_shared.queries.tracker import (
    GetChart,
    GetExperiment,
    GetLogs,
    GetPoints,
    GetWatermarks,
    GroupExperiments,
    ListExperiments,
    Live,
)
from incl_shared.settings import BusSettings
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import SYSTEM_PROJECT
from incl_shared.telemetry.wire import LogBatch, MetricBatch, message_id
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.wait import until
from incl_tracker.app import App, create_app
from incl_tracker.settings import TrackerSettings
from incl_tracker.tables import attempts, experiments
from incl_tracker.upkeep import Chore, Upkeep

Start = Callable[..., Awaitable[App]]


@pytest.fixture
async def start(bus_settings: BusSettings, lite_url: str) -> AsyncIterator[Start]:
    """Starts trackers on one database and one bus; stops them at the end."""
    apps: list[App] = []

    async def begin(settle_after_s: float = 60.0) -> App:
        settings = TrackerSettings(
            database_url=lite_url,
            bus=bus_settings,
            settle_after_s=settle_after_s,
            settle_check_s=0.05,
            live_interval_s=0.02,
            ops_port=0,
        )
        app = create_app(settings)
        await app.start()
        apps.append(app)
        return app

    yield begin
    for app in apps:
        await app.stop()


class Provisioner:
    """Tells the life of one experiment, as its owner would."""

    def __init__(self, client: BusClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment
        self.version = 0

    async def tell(self, event: Event) -> None:
        self.version += 1
        said = envelope.Envelope(
            id=new_id(), source="test", type=event.type_name(), subject=event.key, time=1000.0, version=self.version
        )
        payload, headers = envelope.encode(event, said)
        subject = envelope.subject_of(event, project="default")
        await self.client.publish_confirmed(subject, payload, message_id=said.id, headers=headers)

    async def begin(self) -> None:
        spec = ExperimentSpec(command=["x"], metrics={"acc": "max"})
        await self.tell(ExperimentQueued(experiment=self.experiment, user="ann", spec=spec))
        place = Placement(rank=0, node="n0", address="127.0.0.1")
        await self.tell(AttemptAssigned(experiment=self.experiment, attempt=1, placements=(place,)))
        times = RankTimes(rank=0, preparing=1000.0, prepared=1000.0, started=1000.0)
        await self.tell(AttemptStarted(experiment=self.experiment, attempt=1, ranks=(times,)))

    async def end(self, **records: int) -> None:
        counts = tuple(WriterCount(writer=w, records=n) for w, n in records.items())
        done = EndReason.COMPLETED
        rank = RankEnd(rank=0, node="n0", reason=done, writers=counts, times=RankTimes(rank=0, ended=1001.0))
        await self.tell(AttemptEnded(experiment=self.experiment, attempt=1, reason=done, retry=False, ranks=(rank,)))
        await self.tell(
            ExperimentFinished(experiment=self.experiment, state=ExperimentState.FINISHED, reason=done, attempts=1)
        )


async def ship(client: BusClient, experiment: str, batch: MetricBatch | LogBatch) -> None:
    kind, count = ("metrics", batch.count) if isinstance(batch, MetricBatch) else ("logs", len(batch.lines))
    build = subjects.metrics if kind == "metrics" else subjects.logs
    identifier = message_id(f"{experiment}-1-0", kind, batch.writer, batch.first, count)
    subject = build("default", experiment, 1, 0)
    await client.publish_confirmed(subject, msgspec.msgpack.encode(batch), message_id=identifier)


async def settled(client: BusClient, experiment: str) -> AttemptSettled:
    subject = subjects.event("default", "settlement", experiment)
    found = await until(lambda: client.last("EVENTS", subject))
    assert found is not None
    return AttemptSettled.model_validate_json(found[1])


async def test_from_the_queue_to_the_settlement(start: Start, bus_client: BusClient, make: Any) -> None:
    app = await start()
    experiment = new_id()
    provisioner = Provisioner(bus_client, experiment)
    marks: dict[str, int] = {}
    lives: list[Live] = []

    async def on_mark(subject: str, payload: bytes, headers: Any) -> None:
        marks.update(json.loads(payload))

    async def on_live(subject: str, payload: bytes, headers: Any) -> None:
        lives.append(Live.model_validate_json(payload))

    await bus_client.subscribe(subjects.stored("default", experiment, 1, 0), on_mark)
    await bus_client.subscribe(subjects.live("default", experiment), on_live)
    await provisioner.begin()
    await ship(bus_client, experiment, make.metric_batch("w", 1, [(n, 1.0, {"acc": n / 10}) for n in range(1, 6)]))
    await ship(bus_client, experiment, make.log_batch("tail", 1, ["one", "two"]))
    await until(lambda: marks == {"metrics/w": 5, "logs/tail": 2})
    await provisioner.end(w=6, tail=2)
    await ship(bus_client, experiment, make.metric_batch("w", 4, [(n, 1.0, {"acc": n / 10}) for n in range(4, 7)]))
    done = await settled(bus_client, experiment)
    assert (done.points, done.lines, done.gaps) == (6, 2, 0)
    await until(lambda: [m for m in lives if m.view and m.view.settled and m.view.row.ended])
    view = await bus_client.ask(GetExperiment(ref=experiment[-6:]), project="default", user="ann")
    assert view.settled
    assert view.metrics[0].best == 0.6
    page = await bus_client.ask(ListExperiments(filter="acc > 0.5"), project="default", user="ann")
    assert [row.id for row in page.rows] == [experiment]
    found = await bus_client.ask(GroupExperiments(by=("user",), metrics=("acc",)), project="default", user="ann")
    assert [(one.values, one.newest, one.metrics["acc"].mean) for one in found.groups] == [(("ann",), experiment, 0.6)]
    chart = await bus_client.ask(GetChart(experiments=(experiment,)), project="default", user="ann")
    assert chart.curves[0].steps == (1, 2, 3, 4, 5, 6)
    page = await bus_client.ask(GetPoints(experiment=experiment, metric="acc"), project="default", user="ann")
    assert page.steps == (1, 2, 3, 4, 5, 6)
    query = GetWatermarks(experiment=experiment, attempt=1, rank=0)
    stored = await bus_client.ask(query, project="default", user="ann")
    assert stored.stored == {"metrics/w": 6, "logs/tail": 2}
    with pytest.raises(InvalidInput, match="no metric 'accc'"):
        await bus_client.ask(ListExperiments(filter="accc > 0.5"), project="default", user="ann")
    with pytest.raises(NotFoundError):
        await bus_client.ask(GetExperiment(ref=experiment), project="other", user="ann")
    assert app.bus.health().ready
    assert app.ops is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", app.ops.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    shown = (await reader.read()).decode()
    writer.close()
    assert "incl_tracker_points_total" in shown
    assert "incl_bus_handled_total" in shown


async def test_missing_records_settle_when_their_time_is_over(start: Start, bus_client: BusClient, make: Any) -> None:
    await start(settle_after_s=0.5)
    experiment = new_id()
    provisioner = Provisioner(bus_client, experiment)
    await provisioner.begin()
    await ship(bus_client, experiment, make.log_batch("tail", 1, ["one"]))
    await provisioner.end(tail=4)
    done = await settled(bus_client, experiment)
    assert (done.lines, done.gaps) == (1, 3)


async def test_a_restart_loses_and_doubles_nothing(start: Start, bus_client: BusClient, make: Any) -> None:
    experiment = new_id()
    provisioner = Provisioner(bus_client, experiment)
    await provisioner.begin()
    app = await start()
    shipped = 0
    for life in range(3):
        for _ in range(5):
            texts = [f"line {n}" for n in range(shipped + 1, shipped + 4)]
            await ship(bus_client, experiment, make.log_batch("tail", shipped + 1, texts))
            shipped += 3
        await app.stop()
        again = [f"line {n}" for n in range(max(1, shipped - 6), shipped + 1)]
        await ship(bus_client, experiment, make.log_batch("tail", max(1, shipped - 6), again))
        if life == 1:
            await provisioner.end(tail=45)
        app = await start()
    done = await settled(bus_client, experiment)
    assert (done.lines, done.gaps) == (45, 0)
    page = await bus_client.ask(GetLogs(experiment=experiment), project="default", user="ann")
    assert [line.text for line in page.lines] == [f"line {n}" for n in range(1, 46)]


class Follower:
    """A client as `incl logs -f` is: a query, then live messages, then a query where something is missing."""

    def __init__(self, client: BusClient, experiment: str) -> None:
        self.client = client
        self.experiment = experiment
        self.cursor = 0
        self.texts: list[str] = []
        self.live: asyncio.Queue[Live] = asyncio.Queue()
        self.from_live = 0

    async def receive(self, subject: str, payload: bytes, headers: Any) -> None:
        self.live.put_nowait(Live.model_validate_json(payload))

    async def catch_up(self) -> None:
        more = True
        while more:
            query = GetLogs(experiment=self.experiment, after=self.cursor, limit=7)
            page = await self.client.ask(query, project="default", user="ann")
            self.texts += [line.text for line in page.lines]
            self.cursor, more = page.cursor, page.more

    async def run(self, upto: int) -> None:
        if not self.texts:
            await self.client.subscribe(subjects.live("default", self.experiment), self.receive)
            await self.catch_up()
        while self.cursor < upto:
            message = await asyncio.wait_for(self.live.get(), 10)
            if message.kind != "logs" or message.cursor <= self.cursor:
                continue
            if message.after == self.cursor:
                self.texts += [line.text for line in message.lines]
                self.cursor = message.cursor
                self.from_live += len(message.lines)
            else:
                await self.catch_up()


async def test_whoever_follows_sees_each_line_once(
    start: Start, bus_client: BusClient, nats_server: NatsServer, make: Any
) -> None:
    await start()
    experiment = new_id()
    await Provisioner(bus_client, experiment).begin()
    total, tasks, followers = 300, [], []

    async def speak() -> None:
        for first in range(1, total + 1, 5):
            texts = [f"line {n}" for n in range(first, first + 5)]
            await ship(bus_client, experiment, make.log_batch("tail", first, texts))

    async with await BusClient.connect(nats_server.settings("follower"), patient=True) as other:
        speaking = asyncio.create_task(speak())
        for begin in (0, 50, 150):
            await until(lambda: _said(bus_client, experiment, begin))  # noqa: B023
            followers.append(Follower(other, experiment))
            tasks.append(asyncio.create_task(followers[-1].run(total)))
        await asyncio.wait_for(asyncio.gather(speaking, *tasks), 30)
        before = [follower.from_live for follower in followers]
        await ship(bus_client, experiment, make.log_batch("tail", total + 1, ["the last one"]))
        await asyncio.wait_for(asyncio.gather(*(follower.run(total + 1) for follower in followers)), 30)
    for follower, live in zip(followers, before, strict=True):
        assert follower.texts == [*(f"line {n}" for n in range(1, total + 1)), "the last one"]
        assert follower.from_live == live + 1, "who is up to date needs no query"


async def _said(client: BusClient, experiment: str, lines: int) -> bool:
    try:
        page = await client.ask(GetLogs(experiment=experiment, tail=0), project="default", user="ann")
    except NotFoundError:
        return False
    return page.cursor >= lines


async def test_a_run_outside_the_platform(start: Start, bus_client: BusClient, make: Any) -> None:
    await start()
    run = new_id()
    await bus_client.publish_event(
        RunStarted(experiment=run, name="laptop", started=5.0), project="default", user="bob"
    )
    await ship(bus_client, run, make.metric_batch("w", 1, [(1, 1.0, {"loss": 0.5})]))
    ended = RunEnded(
        experiment=run, state=ExperimentState.FINISHED, ended=9.0, writers=(WriterCount(writer="w", records=1),)
    )
    await bus_client.publish_event(ended, project="default", user="bob")
    assert (await settled(bus_client, run)).points == 1
    view = await bus_client.ask(GetExperiment(ref="laptop"), project="default", user="bob")
    assert (view.outside, view.row.state, view.settled) == (True, ExperimentState.FINISHED, True)


async def test_its_own_credential_is_enough(secure_nats: Any, lite_url: str, make: Any) -> None:
    """With the least privilege that the platform gives it, nothing that it does is denied."""
    bus = secure_nats.settings_of(secure_nats.minter.service(Role.TRACKER))
    app = create_app(TrackerSettings(database_url=lite_url, bus=bus, live_interval_s=0.01))
    await app.start()
    try:
        async with await secure_nats.service(Role.ADMIN) as admin:
            experiment = new_id()
            provisioner = Provisioner(admin, experiment)
            await provisioner.begin()
            await ship(admin, experiment, make.log_batch("tail", 1, ["a"]))
            await provisioner.end(tail=1)
            await until(lambda: _is_settled(app, experiment))
            await until(lambda: app.bus.health().outbox_age == 0.0)
            await until(lambda: app.bus.health().ready)
    finally:
        await app.stop()
    assert "Permissions Violation" not in secure_nats.log


async def _is_settled(app: App, experiment: str) -> bool:
    view = await app._view(experiment)
    return view is not None and view.settled


async def test_lag_and_what_waits_for_its_last_records(start: Start, bus_client: BusClient, make: Any) -> None:
    app = await start()

    def value(name: str, **labels: str) -> float:
        return app.bus.metrics.registry.get_sample_value(f"incl_tracker_{name}", labels) or 0.0

    experiment = new_id()
    provisioner = Provisioner(bus_client, experiment)
    before, seconds = (value(f"telemetry_lag_seconds_{what}", stream="METRICS") for what in ("count", "sum"))
    await provisioner.begin()
    await ship(bus_client, experiment, make.metric_batch("w", 1, [(n, 1.0, {"acc": n / 10}) for n in range(1, 6)]))
    await until(lambda: value("telemetry_lag_seconds_count", stream="METRICS") > before)
    assert value("telemetry_lag_seconds_sum", stream="METRICS") - seconds < 60
    await provisioner.end(w=6)
    await until(lambda: value("unsettled") == 1)
    await ship(bus_client, experiment, make.metric_batch("w", 6, [(6, 1.0, {"acc": 0.6})]))
    await until(lambda: value("unsettled") == 0)


async def test_what_is_stuck(start: Start, bus_client: BusClient, make: Any) -> None:
    app = await start()

    async def found(kind: str, after_s: float | None = 0.0, text: str = "") -> Finding:
        async def look() -> Finding | None:
            answer = await bus_client.ask(TrackerStuck(after_s=after_s), project=SYSTEM_PROJECT, user="admin")
            return next((one for one in answer.findings if one.kind == kind and text in one.reason), None)

        one = await until(look, 20, what=kind)
        assert one is not None and one.reason and one.hint
        return one

    experiment = new_id()
    provisioner = Provisioner(bus_client, experiment)
    await provisioner.begin()
    await ship(bus_client, experiment, make.metric_batch("w", 2, [(n, 1.0, {"acc": n / 10}) for n in range(2, 5)]))
    await provisioner.end(w=6)
    one = await found("settlement.waiting", text="3 of 6 records of telemetry writer w of rank 0 (1…6)")
    assert one.subject == f"{experiment[-8:]} attempt 1"
    assert one.severity == "note"
    await app.upkeep.stop()
    other = Provisioner(bus_client, new_id())
    await other.begin()
    await other.end(w=1)
    await app.database.write(lambda tx: tx.connection.execute(sa.update(attempts).values(settle_due=1.0)))
    assert (await found("settlement.overdue")).severity == "error"
    app.upkeep._troubles["pack"].note("OSError: no room")
    assert (await found("upkeep.failing")).reason == "OSError: no room"
    app.upkeep._troubles["pack"].over()
    await app.database.write(lambda tx: tx.connection.execute(sa.update(experiments).values(compact_at=1.0)))
    assert (await found("upkeep.backlog", None)).subject == "tracker compact"


async def test_a_chore_that_fails_says_why(lite_url: str) -> None:
    broken = True

    async def work() -> bool:
        if broken:
            raise OSError("no room")
        return False

    upkeep = Upkeep([Chore("pack", work, 0.01)])
    upkeep.start()
    try:
        await until(lambda: list(upkeep.failing()))
        ((name, seconds, why),) = upkeep.failing()
        assert (name, why) == ("pack", "OSError: no room")
        await until(lambda: next(upkeep.failing())[1] > seconds, what="since the first failure")
        broken = False
        await until(lambda: not list(upkeep.failing()))
    finally:
        await upkeep.stop()


async def test_a_partition_that_is_owned_and_not_consumed(start: Start, bus_client: BusClient) -> None:
    app = await start()
    await until(lambda: len(app.partitions.consumed) == topology.PARTITIONS)
    assert list(app.partitions.waiting()) == []
    partition = app.partitions._all[3]
    await app.partitions.stop()
    await partition.end()
    partition.look()
    partition.trouble = "the durable cannot be made"
    answer = await bus_client.ask(TrackerStuck(after_s=0.0), project=SYSTEM_PROJECT, user="admin")
    (one,) = [one for one in answer.findings if one.kind == "partition.not-consumed"]
    assert one.subject == "tracker.partition.3"
    assert "cannot be made" in one.reason
