"""Bus: consumers, outbox, queries, on a real server and both databases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from nats.js.errors import NotFoundError as ConsumerNotFound

from incl_shared.bus import kept
from incl_shared.bus.client import BusClient
from incl_shared.bus.deadletters import list_dead, replay
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early, Poison
from incl_shared.bus.retry import RetryPolicy
from incl_shared.bus.runtime import Bus, BusOptions
from incl_shared.bus.tables import outbox
from incl_shared.bus.topology import TRACKER_EVENTS, TRACKER_METRICS, Durable, partition_of
from incl_shared.db import Database, Transaction
from incl_shared.errors import ConflictError, ErrorEnvelope, InternalError, NotFoundError, UnavailableError
from incl_shared.events import ExperimentStopping, ExperimentWaiting
from incl_shared.ids import new_id
from incl_shared.queries import Answer, Query
from incl_shared.settings import BusSettings
from incl_shared.subjects import Asker
from incl_shared.testing.wait import until

FAST = RetryPolicy(attempts=3, base=0.01, cap=0.05, early_base=0.01, early_cap=0.02)
OPTIONS = BusOptions(retry=FAST)
effects_metadata = sa.MetaData()
effects = sa.Table(
    "effects", effects_metadata, sa.Column("n", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("text", sa.String(200)),
)  # fmt: skip

MakeBus = Callable[..., Awaitable[Bus]]


@pytest.fixture
async def make_bus(bus_settings: BusSettings, database: Database) -> AsyncIterator[MakeBus]:
    await database.write(lambda tx: effects_metadata.create_all(tx.connection))
    made: list[Bus] = []

    async def make(setup: Callable[[Bus], None], **more: Any) -> Bus:
        options: dict[str, Any] = {"service": "tracker", "database": database, "options": OPTIONS} | more
        bus = Bus(bus_settings, **options)
        setup(bus)
        await bus.start()
        made.append(bus)
        return bus

    yield make
    for bus in made:
        await bus.stop()


def record(tx: Transaction, text: str) -> None:
    tx.connection.execute(sa.insert(effects).values(text=text))


async def recorded(database: Database) -> list[str]:
    return await database.read(lambda c: list(c.execute(sa.select(effects.c.text).order_by(effects.c.n)).scalars()))


async def publish(client: BusClient, reason: str, experiment: str | None = None, event_id: str | None = None) -> None:
    event = ExperimentWaiting(experiment=experiment or new_id(), reason=reason)
    await client.publish_event(event, project="default", event_id=event_id)


def dead_of(bus: Bus) -> float:
    """Dead letters of every kind."""
    found = bus.metrics.registry.collect()
    return sum(one.value for metric in found for one in metric.samples if one.name == "incl_bus_dead_total")


def reason_of(delivery: Delivery) -> str:
    event = delivery.event()
    assert isinstance(event, ExperimentWaiting)
    return event.reason


async def pending(client: BusClient, durable: Durable) -> int:
    try:
        info = await client.jetstream().consumer_info(durable.stream, durable.name)
    except ConsumerNotFound:
        return -1
    if info.delivered is None or info.delivered.consumer_seq == 0:
        return -1  # it was made a moment ago, and has not looked yet
    return int(info.num_pending or 0) + int(info.num_ack_pending or 0)


async def test_events_are_handled_once_and_in_order(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    for number in range(30):
        await publish(bus_client, str(number), event_id=f"e{number}")
    await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, lambda tx, d: record(tx, reason_of(d))))
    expected = [str(number) for number in range(30)]

    async def all_recorded() -> bool:
        return len(await recorded(database)) >= len(expected)

    await until(all_recorded)
    await until(lambda: pending_is_zero(bus_client, TRACKER_EVENTS))
    assert await recorded(database) == expected


async def test_ids_that_are_longer_than_the_inbox_holds_are_still_themselves(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    long = "x" * 200
    for number, ending in enumerate("aab"):
        await publish(bus_client, str(number), event_id=f"{long}{ending}")
    await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, lambda tx, d: record(tx, reason_of(d))))

    async def two() -> bool:
        return len(await recorded(database)) >= 2

    await until(two)
    await until(lambda: pending_is_zero(bus_client, TRACKER_EVENTS))
    assert await recorded(database) == ["0", "2"]


async def is_zero(count: Awaitable[int]) -> bool:
    return await count == 0


async def pending_is_zero(client: BusClient, durable: Durable) -> bool:
    return await pending(client, durable) == 0


async def test_an_id_that_was_handled_is_skipped(make_bus: MakeBus, bus_client: BusClient, database: Database) -> None:
    bus = await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, lambda tx, d: record(tx, reason_of(d))))
    event = ExperimentWaiting(experiment=new_id(), reason="once")
    await bus_client.publish_event(event, project="default", event_id="same")
    await until(lambda: pending_is_zero(bus_client, TRACKER_EVENTS))
    # a repeat that the server does not recognise: another message id, the same event id
    stored = await bus_client.last("EVENTS", f"incl.event.default.experiment.{event.experiment}")
    assert stored is not None
    headers = {key: value for key, value in stored.headers.items() if not key.startswith("Nats-")}
    subject = f"incl.event.default.experiment.{event.experiment}"
    await bus_client.publish_confirmed(subject, stored.payload, message_id="another", headers=headers)
    duplicates = bus.metrics.duplicates.labels("EVENTS", "tracker")
    await until(lambda: duplicates._value.get() == 1)
    assert await recorded(database) == ["once"]


async def test_a_durable_that_is_made_again_repeats_nothing(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    def setup(bus: Bus) -> None:
        bus.consume(TRACKER_EVENTS, lambda tx, d: record(tx, reason_of(d)))

    bus = await make_bus(setup)
    for number in range(5):
        await publish(bus_client, str(number))
    await until(lambda: pending_is_zero(bus_client, TRACKER_EVENTS))
    await bus.stop()
    await bus_client.jetstream().delete_consumer("EVENTS", "tracker")
    await make_bus(setup)
    await publish(bus_client, "5")
    await until(lambda: recorded_is(database, [str(n) for n in range(6)]))


async def recorded_is(database: Database, wanted: list[str]) -> bool:
    return await recorded(database) == wanted


async def test_one_that_fails_is_retried_then_buried_and_hinders_nobody(
    make_bus: MakeBus, bus_client: BusClient, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []
    well = False

    def handler(tx: Transaction, delivery: Delivery) -> None:
        record(tx, reason_of(delivery))
        if reason_of(delivery) == "bad" and not well:
            tries.append(delivery.deliveries)
            raise KeyError("missing")

    bus = await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, handler))
    for reason in ("a", "bad", "b"):
        await publish(bus_client, reason, event_id=f"id-{reason}")
    with caplog.at_level(logging.WARNING):
        await until(lambda: dead_of(bus) == 1)
    assert len(tries) == 3
    assert sorted(await recorded(database)) == ["a", "b"]
    (letter,) = await list_dead(bus_client)
    assert (letter.stream, letter.durable, letter.type, letter.id) == (
        "EVENTS",
        "tracker",
        "ExperimentWaiting.v1",
        "id-bad",
    )
    assert "KeyError" in letter.reason
    assert await pending(bus_client, TRACKER_EVENTS) == 0
    # replayed, it is really handled
    well = True
    await replay(bus_client, letter.sequence)
    await until(lambda: recorded_has(database, "bad"))
    assert await list_dead(bus_client) == []
    with pytest.raises(NotFoundError):
        await replay(bus_client, letter.sequence)


async def recorded_has(database: Database, text: str) -> bool:
    return text in await recorded(database)


@pytest.mark.parametrize("kind", ["poison", "unknown", "invalid", "envelope"])
async def test_poison_is_buried_at_once(
    make_bus: MakeBus, bus_client: BusClient, database: Database, kind: str
) -> None:
    def handler(tx: Transaction, delivery: Delivery) -> None:
        if reason_of(delivery) == "poison":
            raise Poison("I do not like it")
        record(tx, reason_of(delivery))

    bus = await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, handler))
    experiment = new_id()
    subject = f"incl.event.default.experiment.{experiment}"
    if kind == "poison":
        await publish(bus_client, "poison", experiment)
    else:
        said = {"unknown": "NoSuchThing.v9", "invalid": "ExperimentWaiting.v1", "envelope": "ExperimentWaiting.v1"}
        headers = {"ce-id": "x", "ce-type": said[kind], "ce-time": "yesterday" if kind == "envelope" else ""}
        await bus_client.publish_confirmed(subject, b'{"reason": 7}', message_id="x", headers=headers)
    await publish(bus_client, "good")
    await until(lambda: dead_of(bus) == 1)
    await until(lambda: recorded_is(database, ["good"]))
    (letter,) = await list_dead(bus_client)
    assert letter.subject == subject


async def test_an_early_event_comes_again(make_bus: MakeBus, bus_client: BusClient, database: Database) -> None:
    def handler(tx: Transaction, delivery: Delivery) -> None:
        known = tx.connection.execute(sa.select(effects.c.text)).scalars().all()
        if reason_of(delivery) == "second" and "first" not in known:
            raise Early
        record(tx, reason_of(delivery))

    bus = await make_bus(lambda bus: bus.consume(TRACKER_EVENTS, handler))
    await publish(bus_client, "second")
    early = bus.metrics.early.labels("EVENTS", "tracker")
    await until(lambda: early._value.get() > FAST.attempts + 2, what="early is not counted as failure")
    await publish(bus_client, "first")
    await until(lambda: recorded_is(database, ["first", "second"]))
    assert dead_of(bus) == 0


async def test_the_outbox_goes_to_the_bus_in_order(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    experiments = [new_id() for _ in range(3)]

    def work(tx: Transaction, start: int) -> None:
        for number in range(start, start + 20):
            event = ExperimentWaiting(experiment=experiments[number % 3], reason=str(number))
            tx.emit(event, project="default", version=number)

    await database.write(lambda tx: work(tx, 0))  # before the relay runs
    await make_bus(lambda bus: None)
    await database.write(lambda tx: work(tx, 20))
    await until(lambda: outbox_empty(database))
    js = bus_client.jetstream()
    reasons: dict[str, list[int]] = {}
    for sequence in range(1, 41):
        message = await js.get_msg("EVENTS", seq=sequence)
        event = ExperimentWaiting.read(message.data or b"")
        assert isinstance(event, ExperimentWaiting)
        reasons.setdefault(event.experiment, []).append(int(event.reason))
        assert (message.headers or {})["ce-source"] == "/incl/tracker"
    assert reasons == {one: list(range(place, 40, 3)) for place, one in enumerate(experiments)}


async def test_a_thousand_events_of_one_aggregate_take_few_transactions(
    make_bus: MakeBus, bus_client: BusClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []

    def keep(tx: Transaction, events: Sequence[kept.Sent]) -> None:
        noted.append(len(events))
        keep_them(tx, events)

    keep_them = kept.keep
    monkeypatch.setattr(kept, "keep", keep)
    experiment = new_id()

    def work(tx: Transaction) -> None:
        for number in range(1000):
            tx.emit(ExperimentWaiting(experiment=experiment, reason=str(number)), project="default", version=number)

    await database.write(work)
    await make_bus(lambda bus: None)
    await until(lambda: outbox_empty(database), 60)
    assert sum(noted) == 1000
    assert len(noted) < 500, "it took one each"
    js = bus_client.jetstream()
    for sequence in (1, 500, 1000):
        message = await js.get_msg("EVENTS", seq=sequence)
        assert ExperimentWaiting.read(message.data or b"").reason == str(sequence - 1)  # type: ignore[attr-defined]


async def test_an_aggregate_with_many_events_holds_nobody_up(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    many, behind, later = (new_id() for _ in range(3))

    def flood(tx: Transaction) -> None:
        for number in range(600):
            tx.emit(ExperimentWaiting(experiment=many, reason=str(number)), project="default", version=number)
        tx.emit(ExperimentWaiting(experiment=behind, reason="behind"), project="default", version=1)

    async def place_of(experiment: str) -> int:
        found = await bus_client.last("EVENTS", f"incl.event.default.experiment.{experiment}")
        return found[0] if found is not None else 0

    await database.write(flood)
    await make_bus(lambda bus: None)
    await until(lambda: place_of(behind), what="the event that was behind 600 others")
    event = ExperimentWaiting(experiment=later, reason="later")
    await database.write(lambda tx: tx.emit(event, project="default", version=1))
    await until(lambda: outbox_empty(database), 60)
    assert await place_of(behind) < 50
    assert await place_of(later) < 602
    assert await place_of(many) == 602


async def outbox_empty(database: Database) -> bool:
    return await database.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(outbox)).scalar_one()) == 0


async def test_a_consequence_follows_within_a_moment(make_bus: MakeBus, bus_client: BusClient) -> None:
    def handler(tx: Transaction, delivery: Delivery) -> None:
        event = ExperimentStopping(experiment=delivery.event().key, by="ada")
        tx.emit(event, project="default", version=delivery.version + 1, cause=(delivery.id,))

    durable = Durable("EVENTS", "probe", ("incl.event.default.experiment.*",))
    heard: list[tuple[str, str | None]] = []

    def listen(tx: Transaction, delivery: Delivery) -> None:
        if delivery.type == "ExperimentWaiting.v1":
            handler(tx, delivery)
        else:
            heard.append((delivery.type, delivery.traceparent))

    await make_bus(lambda bus: bus.consume(durable, listen))
    loop = asyncio.get_running_loop()
    start = loop.time()
    await publish(bus_client, "go")
    await until(lambda: heard)
    assert loop.time() - start < 2
    stored = await bus_client.jetstream().get_msg("EVENTS", seq=1)
    trace = (stored.headers or {})["traceparent"].split("-")[1]
    assert heard[0][0] == "ExperimentStopping.v1"
    assert heard[0][1] is not None
    assert heard[0][1].split("-")[1] == trace, "cause and consequence share a trace"


async def test_a_batch_handler_isolates_the_one_at_fault(
    make_bus: MakeBus, bus_client: BusClient, database: Database
) -> None:
    sizes: list[int] = []

    def handler(tx: Transaction, deliveries: list[Delivery]) -> None:
        sizes.append(len(deliveries))
        for delivery in deliveries:
            if delivery.payload == b"13":
                raise Poison("thirteen")
            record(tx, delivery.payload.decode())

    durable = TRACKER_METRICS[partition_of("e1")]
    for number in range(20):
        await bus_client.publish_confirmed(
            f"incl.metrics.p.e1.{number}.0", str(number).encode(), message_id=str(number)
        )
    await make_bus(lambda bus: bus.consume_batch(durable, handler))
    await until(lambda: pending_is_zero(bus_client, durable))
    assert sorted(await recorded(database), key=int) == [str(n) for n in range(20) if n != 13]
    assert max(sizes) > 5
    (letter,) = await list_dead(bus_client)
    assert (letter.subject, letter.reason) == ("incl.metrics.p.e1.13.0", "thirteen")

    async def kept() -> int:
        return int((await bus_client.jetstream().stream_info("METRICS")).state.messages)

    await until(lambda: is_zero(kept()), what="a work queue keeps only what is not handled")


async def test_a_service_without_a_database(bus_settings: BusSettings, bus_client: BusClient) -> None:
    got: list[str] = []

    async def handler(delivery: Delivery) -> None:
        got.append(reason_of(delivery))

    bus = Bus(bus_settings, service="gateway", options=OPTIONS)
    with pytest.raises(ValueError, match="database"):
        bus.consume(TRACKER_EVENTS, lambda tx, d: None)
    bus.consume(TRACKER_EVENTS, handler, transactional=False)
    await bus.start()
    try:
        await publish(bus_client, "hello")
        await until(lambda: got == ["hello"])
        assert bus.health().ready
    finally:
        await bus.stop()
    assert not bus.health().live


class Big(Answer):
    text: str


class GetBig(Query[Big]):
    service: ClassVar[str] = "tracker"
    name: ClassVar[str] = "big"
    answer: ClassVar[type[Answer]] = Big

    size: int
    how: str = ""


async def _big(asker: Asker, query: GetBig) -> Big:
    match query.how:
        case "conflict":
            raise ConflictError("busy", hint="wait")
        case "bug":
            raise ZeroDivisionError
        case "slow":
            await asyncio.Event().wait()
    return Big(text=f"{asker.project}/{asker.user}:" + "é" * query.size)


async def test_questions(bus_settings: BusSettings, bus_client: BusClient) -> None:
    bus = Bus(bus_settings, service="tracker", options=BusOptions(query_limit=0.3))
    bus.serve(GetBig, _big)
    with pytest.raises(ValueError, match="already"):
        bus.serve(GetBig, _big)
    await bus.start()
    try:

        async def ask(**query: Any) -> Big:
            return await bus_client.ask(GetBig(**query), project="p1", user="ada")

        assert (await ask(size=1)).text == "p1/ada:é"
        assert len((await ask(size=1_000_000)).text) == 1_000_007, "an answer of two megabytes"
        with pytest.raises(ConflictError, match="busy"):
            await ask(size=1, how="conflict")
        with pytest.raises(InternalError) as caught:
            await ask(size=1, how="bug")
        assert caught.value.cause == "ZeroDivisionError"
        with pytest.raises(UnavailableError, match="longer"):
            await ask(size=1, how="slow")
        for name, body, code in (("big", b'{"size": "many"}', "invalid_input"), ("none", b"{}", "not_found")):
            reply = await bus_client.connection.request(f"incl.query.p1.ada.tracker.{name}", body, timeout=5)
            assert (reply.headers or {})["Incl-Error"] == "1"
            assert ErrorEnvelope.model_validate_json(reply.data).code == code
        answers = await asyncio.gather(*(ask(size=n) for n in range(100)))
        assert [len(answer.text) for answer in answers] == [n + 7 for n in range(100)]
        assert (await bus.ask(GetBig(size=2), project="p1", user="bob")).text == "p1/bob:éé"
    finally:
        await bus.stop()
    with pytest.raises(UnavailableError, match="tracker"):
        await bus_client.ask(GetBig(size=1), project="p1", user="ada")
