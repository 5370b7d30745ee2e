"""From the spool to what the tracker has: every record once through crashes, lost tails of the bus, lost watermarks;
never more on the way than the window; and what becomes of a spool that its job deletes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.bus.errors import BackPressure
from incl_shared.errors import NotFoundError, UnavailableError
from incl_shared.telemetry import MetricSource, Shipper, Stored
from incl_shared.telemetry.batcher import decode_metrics
from incl_shared.telemetry.flow import Flow
from incl_shared.testing.telemetry import points_of
from incl_shared.testing.wait import until


class World:
    """A bus with deduplication, and a tracker behind it that goes by the records' numbers."""

    def __init__(self) -> None:
        self.queue: list[tuple[str, bytes]] = []
        self.ids: set[str] = set()
        self.records: dict[str, dict[int, float]] = {}
        self.heard: Callable[[Mapping[str, int]], None] = lambda _: None
        self.away = self.deaf = self.purged = self.full = False
        self.most = 0

    async def publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> None:
        await asyncio.sleep(0)
        if self.full:
            raise BackPressure("full")
        if message_id not in self.ids:
            self.ids.add(message_id)
            self.queue.append((message_id, payload))
        self.most = max(self.most, sum(len(payload) for _, payload in self.queue))

    def track(self, count: int) -> None:
        """The tracker takes some messages."""
        for _, payload in self.queue[:count]:
            batch = decode_metrics(payload)
            stored = self.records.setdefault(batch.writer, {})
            for offset, _, _, value in points_of(batch).get("a", []):
                known = stored.setdefault(batch.first + offset, value)
                assert known == value, "a number that is another record's"
        del self.queue[:count]
        if not self.deaf:
            self.heard(self.marks())

    def lose(self, count: int, *, forget: bool) -> None:
        """The newest messages are gone (forget: the bus does not know their ids any more either)."""
        for identifier, _ in self.queue[max(0, len(self.queue) - count) :]:
            if forget:
                self.ids.discard(identifier)
        del self.queue[max(0, len(self.queue) - count) :]

    def marks(self) -> dict[str, int]:
        found = {}
        for writer, stored in self.records.items():
            mark = 0
            while mark + 1 in stored:
                mark += 1
            found[f"metrics/{writer}"] = mark
        return found

    async def watermarks(self) -> Mapping[str, int]:
        await asyncio.sleep(0)
        if self.purged:
            raise NotFoundError("deleted")
        if self.away:
            raise UnavailableError("away")
        return self.marks()

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        self.heard = heard


class Node:
    """A spool, a journal, and the agent that comes and goes."""

    def __init__(self, folder: Path, world: World) -> None:
        self.spool, self.journal, self.world = folder / "spool", folder / "journal.json", world
        self.spool.mkdir()
        self.written: dict[str, int] = {}
        self.begin()

    def begin(self, *, resume: bool = False) -> None:
        self.source = MetricSource(self.spool, self.journal, max_records=4)
        if resume:
            self.source.resume(self.world.marks())
        self.stored = Stored(self.world, every_s=0.002)
        self.shipper = Shipper(
            self.source, self.world.publish, subject="s", job="j", stored=self.stored, poll_s=0.001, idle_s=0.002,
            lost_s=0.02,
        )  # fmt: skip
        self.stored.start()

    async def end(self) -> None:
        await self.stored.stop()
        self.source.close()

    def append(self, writer: str, count: int) -> None:
        at = self.written.get(writer, 0)
        with (self.spool / f"{writer}.jsonl").open("a") as file:
            for number in range(at + 1, at + count + 1):
                file.write(json.dumps({"k": "m", "t": 1.0, "s": number, "v": {"a": number / 2}}, separators=(",", ":")))
                file.write("\n")
        self.written[writer] = at + count


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(["a", "b"]), st.integers(1, 15)),
        st.tuples(st.just("track"), st.integers(1, 5)),
        st.tuples(st.just("lose"), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("step")),
        st.tuples(st.just("step")),
        st.tuples(st.sampled_from(["crash", "old journal", "lost journal", "keep journal", "deaf", "away", "full"])),
    ),
    max_size=20,
)


@given(steps)
@settings(max_examples=60, deadline=None)
def test_the_tracker_has_every_record_once_whatever_happens(history: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(asyncio.wait_for(_live(Path(folder), history), 20))


async def _live(folder: Path, history: list[tuple[object, ...]]) -> None:
    world = World()
    node, old = Node(folder, world), folder / "old.json"
    for kind, *rest in history:
        if kind == "append":
            node.append(str(rest[0]), int(str(rest[1])))
        elif kind == "track":
            world.track(int(str(rest[0])))
        elif kind == "lose":
            world.lose(int(str(rest[0])), forget=bool(rest[1]))
        elif kind == "step":
            step = asyncio.create_task(node.shipper.step())
            await asyncio.wait({step}, timeout=0.02)
            step.cancel()
            await asyncio.gather(step, return_exceptions=True)
        elif kind == "keep journal":
            if node.journal.exists():
                shutil.copy(node.journal, old)
        elif kind in ("deaf", "away", "full"):
            setattr(world, str(kind), not getattr(world, str(kind)))
        else:
            await node.end()
            if kind == "lost journal":
                node.journal.unlink(missing_ok=True)
            elif kind == "old journal" and old.exists():
                shutil.copy(old, node.journal)
            node.begin(resume=kind == "lost journal" and not world.away)
    world.deaf = world.away = world.full = False
    draining = asyncio.create_task(node.shipper.drain())
    while not draining.done():
        world.track(3)
        await asyncio.wait({draining}, timeout=0.002)
    assert {w: sorted(r) for w, r in world.records.items()} == {
        w: list(range(1, n + 1)) for w, n in node.written.items() if n
    }
    assert {count.writer: count.records for count in node.shipper.counts()} == {
        w: n for w, n in node.written.items() if n
    }
    await node.end()


async def test_no_more_than_the_window_is_between_the_bus_and_the_tracker(tmp_path: Path) -> None:
    world = World()
    node = Node(tmp_path, world)
    node.source = MetricSource(node.spool, node.journal, max_records=200)
    node.shipper = Shipper(node.source, world.publish, subject="s", job="j", stored=node.stored, poll_s=0.001)
    assert node.shipper.flow is not None
    node.shipper.flow.window = 40_000
    node.append("w", 20_000)
    running = asyncio.create_task(node.shipper.run())
    await until(lambda: node.shipper.more and node.shipper.unstored >= 40_000)
    shipped = node.shipper.shipped.batches
    assert 40_000 <= sum(len(payload) for _, payload in world.queue) < 60_000
    world.track(1)
    await until(lambda: node.shipper.shipped.batches > shipped)
    while node.shipper.shipped.records < 20_000:
        world.track(100)
        await asyncio.wait({running}, timeout=0.002)
    world.track(10_000)
    await until(lambda: node.shipper.unstored == 0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sorted(world.records["w"]) == list(range(1, 20_001))
    await node.end()


async def test_a_tracker_that_is_away_stops_nothing_for_good(tmp_path: Path) -> None:
    world = World()
    world.away = True
    node = Node(tmp_path, world)
    assert node.shipper.flow is not None
    node.shipper.flow.window = 100
    node.append("w", 60)
    running = asyncio.create_task(node.shipper.run())
    await until(lambda: node.shipper.shipped.batches >= 3, timeout=10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert node.shipper.shipped.resent == 0, "time counts only while the tracker answers"
    await node.end()


async def test_a_purged_experiment_needs_nothing_any_more(tmp_path: Path) -> None:
    world = World()
    world.purged = True
    node = Node(tmp_path, world)
    node.append("w", 10)
    await asyncio.wait_for(node.shipper.drain(), 5)
    assert node.stored.gone
    await node.end()


def test_the_window_follows_the_time_that_storing_takes() -> None:
    flow = Flow(0.0)
    before = flow.window
    flow.sent("w", 1, 1000, 0.0)
    flow.stored({"w": 1}, 0.1)
    assert flow.window > before and not flow.open
    now = 10.0
    for last in range(2, 12):
        flow.sent("w", last, 1000, now)
        now += 2
        flow.stored({"w": last}, now)
    assert flow.window == 500_000
    flow.sent("w", 12, 600_000, now)
    assert flow.room(now) == 0
    flow.away = True
    assert flow.room(now + 1.5) == 1 and flow.room(now + 1.6) == 0


def test_many_small_batches_that_wait_take_little_memory() -> None:
    flow = Flow(0.0)
    for number in range(1, 100_001):
        flow.sent("w", number, 300, number / 10)
    assert sum(map(len, flow._sent.values())) < 1000
    flow.stored({"w": 100_000}, 1e5)
    assert (flow.unstored, flow.open) == (0, False)


def test_a_deleted_spool_is_read_to_its_end(tmp_path: Path) -> None:
    source = MetricSource(tmp_path, tmp_path / "journal.json")
    path = tmp_path / "w.jsonl"
    line = b'{"k":"m","t":1.0,"s":1,"v":{"a":1}}\n'
    with path.open("ab", buffering=0) as file:
        file.write(line)
        assert [outgoing.count for outgoing in source.poll()] == [1]
        path.unlink()
        file.write(line * 2)
    sent = source.poll()
    assert [(outgoing.first, outgoing.count) for outgoing in sent] == [(1, 1), (2, 2)]
    for outgoing in sent:
        source.confirm(outgoing)
    source.seal()
    assert [(count.records, count.dropped) for count in source.counts()] == [(3, 0)]
    source.save()
    again = MetricSource(tmp_path, tmp_path / "journal.json")
    again.seal()
    assert [(count.records, count.dropped) for count in again.counts()] == [(3, 1)], "nobody knows what else it had"


def test_an_emptied_spool_counts_as_lost_and_is_never_rewound(tmp_path: Path) -> None:
    source = MetricSource(tmp_path, tmp_path / "journal.json")
    path = tmp_path / "w.jsonl"
    line = b'{"k":"m","t":1.0,"s":1,"v":{"a":1}}\n'
    path.write_bytes(line * 3)
    for outgoing in source.poll():
        source.confirm(outgoing)
    os.truncate(path, 0)
    with path.open("ab") as file:
        file.write(line.replace(b'"a"', b'"b"'))
    for outgoing in source.poll():
        assert (outgoing.first, outgoing.count) == (4, 1)
        source.confirm(outgoing)
    assert [(count.records, count.dropped) for count in source.counts()] == [(4, 1)]
    assert source.rewind({}) == 0, "its numbers cannot be counted any more"


def test_what_was_logged_is_there_when_its_writer_is_killed_the_next_instant(tmp_path: Path) -> None:
    script = (
        "import os, signal, incl\n"
        "for i in range(50): incl.log({'a': i / 2, 'b': 1.0}, step=i)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "INCL_SPOOL_DIR": str(tmp_path), "INCL_EXPERIMENT_ID": "x"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    source = MetricSource(tmp_path, tmp_path / "journal.json")
    (outgoing,) = source.poll()
    source.confirm(outgoing)
    found = points_of(decode_metrics(outgoing.payload))
    assert [(step, value) for _, step, _, value in found["a"]] == [(i, i / 2) for i in range(50)]
    source.seal()
    assert [(count.records, count.dropped) for count in source.counts()] == [(50, 0)]
