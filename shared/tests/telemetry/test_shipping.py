"""From the files of a job to the bus: every record once and in order, through crashes, outages and lost journals."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.errors import UnavailableError
from incl_shared.ids import job_id, new_id
from incl_shared.telemetry import OUT, LogSource, LogTailer, MetricSource, Outgoing, Shipper, spooled_files
from incl_shared.telemetry.batcher import decode_logs, decode_metrics, unpack
from incl_shared.telemetry.wire import Extra
from incl_shared.testing.nats import NatsServer
from incl_shared.testing.telemetry import points_of
from incl_shared.testing.wait import until


class Store:
    """What a bus with deduplication, and a tracker behind it that goes by sequence, keep of batches."""

    def __init__(self) -> None:
        self.messages: set[tuple[str, int, int]] = set()
        self.records: dict[str, dict[int, dict[str, float]]] = {}

    def take(self, outgoing: Outgoing) -> None:
        key = (outgoing.writer, outgoing.first, outgoing.count)
        if key in self.messages:
            return
        self.messages.add(key)
        batch = decode_metrics(outgoing.payload)
        assert (batch.writer, batch.first, batch.count) == key
        stored = self.records.setdefault(batch.writer, {})
        new = {batch.first + i for i in range(batch.count)} - stored.keys()
        for sequence in new:
            stored[sequence] = {}
        for name, points in points_of(batch).items():
            for offset, _, _, value in points:
                if batch.first + offset in new:
                    stored[batch.first + offset][name] = value

    def watermarks(self) -> dict[str, int]:
        found = {}
        for writer, stored in self.records.items():
            mark = 0
            while mark + 1 in stored:
                mark += 1
            found[f"metrics/{writer}"] = mark
        return found


def append(spool: Path, writer: str, values: list[dict[str, float]]) -> None:
    lines = [json.dumps({"k": "m", "t": 1.0, "s": 1, "v": value}, separators=(",", ":")) for value in values]
    with (spool / f"{writer}.jsonl").open("a") as file:
        file.writelines(line + "\n" for line in lines)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(["a", "b"]), st.integers(1, 12)),
        st.tuples(st.sampled_from(["ship", "ship no confirm", "poll only", "crash", "lost journal", "rewind"])),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=120, deadline=None)
def test_records_are_stored_once_and_in_order_through_every_history(history: list[tuple[str, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        spool, journal = Path(folder) / "spool", Path(folder) / "journal.json"
        spool.mkdir()
        source, store = MetricSource(spool, journal, max_records=5), Store()
        written: dict[str, list[dict[str, float]]] = {"a": [], "b": []}
        for kind, *rest in history:
            if kind == "append":
                writer, count = str(rest[0]), int(rest[1])
                at = len(written[writer])
                new = [{"xy"[n % 2]: float(n), **({"z": 1.0} if n % 3 == 0 else {})} for n in range(at, at + count)]
                written[writer] += new
                append(spool, writer, new)
            elif kind == "crash":
                source = MetricSource(spool, journal, max_records=7)
            elif kind == "lost journal":
                journal.unlink(missing_ok=True)
                source = MetricSource(spool, journal, max_records=7)
                source.resume(store.watermarks())
            elif kind == "rewind":
                source.rewind(store.watermarks())
            else:
                for outgoing in source.poll():
                    if kind != "poll only":
                        store.take(outgoing)
                    if kind == "ship":
                        source.confirm(outgoing)
        source.seal()
        while ready := source.poll():
            for outgoing in ready:
                store.take(outgoing)
                source.confirm(outgoing)
        for writer, values in written.items():
            assert [store.records.get(writer, {}).get(n + 1) for n in range(len(values))] == values
            assert len(store.records.get(writer, {})) == len(values)
        assert {count.writer: count.records for count in source.counts()} == {
            w: len(v) for w, v in written.items() if v
        }


def test_a_batch_in_flight_is_cut_the_same_after_a_crash(tmp_path: Path) -> None:
    spool, journal = tmp_path / "spool", tmp_path / "journal.json"
    spool.mkdir()
    append(spool, "w", [{"a": 1.0}] * 3)
    (first,) = MetricSource(spool, journal).poll()
    append(spool, "w", [{"a": 2.0}] * 3)
    again, later = MetricSource(spool, journal).poll()
    assert (again.first, again.count, again.payload) == (1, 3, first.payload)
    assert (later.first, later.count) == (4, 3)
    repeated = MetricSource(spool, journal).poll()
    assert [batch.payload for batch in repeated] == [again.payload, later.payload]


def test_a_damaged_journal_sends_all_again(tmp_path: Path) -> None:
    spool, journal = tmp_path / "spool", tmp_path / "journal.json"
    spool.mkdir()
    append(spool, "w", [{"a": 1.0}] * 3)
    for damage in (b"{", b"[]", b'{"w":[1]}', b"\xff"):
        journal.write_bytes(damage)
        (outgoing,) = MetricSource(spool, journal).poll()
        assert (outgoing.first, outgoing.count) == (1, 3)


def test_a_torn_end_counts_as_dropped(tmp_path: Path) -> None:
    append(tmp_path, "w", [{"a": 1.0}])
    with (tmp_path / "w.jsonl").open("a") as file:
        file.write('{"k":"d","t":1.0,"n":2}\n{"k":"m","t":1')
    (tmp_path / "torn.jsonl").write_text('{"k"')
    source = MetricSource(tmp_path, tmp_path / "journal.json")
    source.seal()
    for outgoing in source.poll():
        source.confirm(outgoing)
    assert [(count.writer, count.records, count.dropped) for count in source.counts()] == [("torn", 0, 1), ("w", 2, 3)]


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class Bus:
    """A publish port that fails when told to."""

    def __init__(self) -> None:
        self.down = False
        self.sent: dict[str, bytes] = {}
        self.tries = 0

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> None:
        self.tries += 1
        await asyncio.sleep(0)
        if self.down:
            raise UnavailableError("the bus is away")
        self.sent.setdefault(message_id, payload)


async def test_an_outage_only_delays(tmp_path: Path) -> None:
    bus = Bus()
    shipper = Shipper(MetricSource(tmp_path, tmp_path / "j"), bus.publish, subject="s", job="job", poll_s=0.001)
    running = asyncio.create_task(shipper.run())
    append(tmp_path, "w", [{"a": 1.0}])
    await until(lambda: shipper.shipped.records == 1)
    bus.down = True
    append(tmp_path, "w", [{"a": 2.0}])
    await until(lambda: shipper.shipped.failures >= 2)
    assert "the bus is away" in shipper.shipped.last_error
    bus.down = False
    await until(lambda: shipper.shipped.records == 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await shipper.flush(5.0)
    assert list(bus.sent) == ["job:metrics:w:1:1", "job:metrics:w:2:1"]
    assert shipper.shipped.last_error == ""


async def test_a_flush_in_an_outage_gives_up_in_time_and_goes_on_later(tmp_path: Path) -> None:
    bus = Bus()
    bus.down = True
    shipper = Shipper(MetricSource(tmp_path, tmp_path / "j"), bus.publish, subject="s", job="job", poll_s=0.001)
    append(tmp_path, "w", [{"a": 1.0}])
    assert shipper.counts() == ()
    assert not await shipper.flush(0.05)
    assert [count.records for count in shipper.counts()] == [1], "nothing more is written: all of it is known"
    bus.down = False
    assert await shipper.flush(5.0)
    assert [(count.writer, count.records) for count in shipper.counts()] == [("w", 1)]


async def test_extras_are_told_before_they_count_as_shipped(tmp_path: Path) -> None:
    heard: list[tuple[str, int]] = []
    journal = tmp_path / "j"

    def note(writer: str, extras: tuple[Extra, ...]) -> None:
        positions = json.loads(journal.read_text())
        assert positions["w"][1] == 0
        heard.extend((writer, extra.sequence) for extra in extras)

    with (tmp_path / "w.jsonl").open("w") as file:
        file.write('{"k":"m","t":1.0,"s":1,"v":{"a":1}}\n{"k":"a","t":1.0,"title":"x"}\n')
    bus = Bus()
    shipper = Shipper(MetricSource(tmp_path, journal), bus.publish, subject="s", job="job", on_extras=note)
    assert await shipper.flush(5.0)
    assert heard == [("w", 2)]
    assert spooled_files(tmp_path) == []


async def test_log_lines_keep_their_numbers_when_the_agent_is_born_again(tmp_path: Path) -> None:
    output, index, journal, clock, bus = tmp_path / "out", tmp_path / "index", tmp_path / "j", Clock(), Bus()
    output.write_text("one\ntwo\n")
    bus.down = True

    def born() -> tuple[LogTailer, Shipper]:
        tailer = LogTailer({OUT: output}, index)
        return tailer, Shipper(LogSource(tailer, journal, clock), bus.publish, subject="s", job="job", poll_s=0.001)

    tailer, shipper = born()
    assert not await shipper.flush(0.05)
    tailer.close()
    clock.time = 200.0
    with output.open("a") as file:
        file.write("three\nfour")
    bus.down = False
    tailer, shipper = born()
    assert await shipper.flush(5.0)
    assert [(count.writer, count.records, count.stream) for count in shipper.counts()] == [("log", 4, "logs")]
    tailer.close()
    lines = [
        (batch.first + n, line.time, line.text)
        for batch in map(decode_logs, bus.sent.values())
        for n, line in enumerate(batch.lines)
    ]
    assert lines == [(1, 100.0, "one"), (2, 100.0, "two"), (3, 200.0, "three"), (4, 200.0, "four")]
    assert list(bus.sent) == ["job:logs:log:1:2", "job:logs:log:3:2"]


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[BusClient]:
    connected = await BusClient.connect(nats_server.settings("shipper"), patient=True, timeout=10)
    yield connected
    await connected.close()


async def test_over_a_real_bus_that_is_killed_in_the_middle(
    tmp_path: Path, nats_server: NatsServer, client: BusClient
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    experiment = new_id()
    subject, job = subjects.metrics("default", experiment, 1, 0), job_id(experiment, 1, 0)
    source = MetricSource(spool, tmp_path / "j", max_records=50)
    shipper = Shipper(source, client.publish_confirmed, subject=subject, job=job)
    running = asyncio.create_task(shipper.run())
    for part in range(6):
        append(spool, "w", [{"a": float(part * 100 + i)} for i in range(100)])
        if part == 2:
            await until(lambda: shipper.shipped.records >= 50)
            await asyncio.to_thread(nats_server.kill)
        if part == 4:
            await asyncio.to_thread(nats_server.start)
    await until(lambda: shipper.shipped.records == 600, timeout=30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await shipper.flush(10.0)
    subscription = await client.jetstream().pull_subscribe("incl.metrics.>", stream="METRICS")
    seen: list[float] = []
    expected = 1
    while len(seen) < 600:
        for message in await subscription.fetch(20, timeout=5):
            batch = decode_metrics(message.data)
            assert batch.first == expected
            expected += batch.count
            seen += unpack("d", batch.groups[0].values)
    assert seen == [float(i) for i in range(600)]


def test_a_spool_that_was_taken_away_counts_as_a_gap(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "w.jsonl").write_bytes(b'{"k":"m","t":1.0,"s":1,"v":{"a":1.0}}\n')
    source = MetricSource(spool, tmp_path / "journal")
    for outgoing in source.poll():
        source.confirm(outgoing)
    shutil.rmtree(spool)
    source.seal()
    assert [(count.writer, count.records, count.dropped) for count in source.counts()] == [("w", 1, 0), ("spool", 0, 1)]
    source.close()
