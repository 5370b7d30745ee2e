"""Whatever history telemetry comes by, every point and line is stored once, bit for bit, as a plain list has it.

Also when points and lines went to the archive and came back, at any moment of it.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.db import Transaction
from incl_shared.ids import new_id
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_shared.subjects import Origin
from incl_tracker import store_compaction, store_pieces, store_restoring, store_retention, store_tails
from incl_tracker import tables as t
from incl_tracker.domain.chunking import levels
from incl_tracker.domain.loglines import unpack
from incl_tracker.handlers import Handlers
from incl_tracker.store_pieces import GREATEST, LEAST
from incl_tracker.store_summaries import Summary, summary_of
from incl_tracker.store_tails import Limits

SMALL = Limits(big=5, points=8, bytes=4_000, bytes_a_series=0, tiny=2, rows=3, row=1_000, wide=2)
"""So that histories of a few records pass through everything."""
METRICS = ("a", "b", f"{SYSTEM_PREFIX}c")
STEPS = st.one_of(st.integers(0, 8), st.sampled_from([LEAST, GREATEST, -1]))
TIMES = st.one_of(st.integers(0, 4).map(float), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e300]))
VALUES = st.one_of(st.integers(-5, 5).map(float), st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1]))
KINDS = ("fold", "compact", "restart", "archive", "back")
Point = tuple[str, int, int, str, int, bytes, bytes]
"""(metric, rank, attempt, writer, step, time and value as bytes)."""
SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@dataclass
class Log:
    """What one writer wrote: records of metrics, and lines."""

    attempt: int
    rank: int
    writer: str
    records: list[tuple[int, float, dict[str, float]]]
    lines: int


@dataclass
class Act:
    """deliver: several batches (index of the log, stream, first, count) at once; aborted: it is undone, comes again.

    archive: points and lines go there, unless they are there; back: a part of them comes back.
    """

    kind: str
    batches: list[tuple[int, str, int, int]] = field(default_factory=list)
    aborted: bool = False


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Log], list[Act]]:
    records = st.tuples(STEPS, TIMES, st.dictionaries(st.sampled_from(METRICS), VALUES, max_size=3))
    places = st.tuples(st.integers(1, 3), st.integers(0, 1), st.sampled_from(["u", "v"]))
    logs = [
        Log(*place, draw(st.lists(records, max_size=14)), draw(st.integers(0, 8)))
        for place in draw(st.lists(places, min_size=1, max_size=4, unique=True))
    ]
    cuts: list[tuple[int, str, int, int]] = []
    for index, log in enumerate(logs):
        for stream, count in (("metrics", len(log.records)), ("logs", log.lines)):
            for _ in range(draw(st.integers(1, 2))):
                position = 1
                while position <= count:
                    size = min(draw(st.integers(1, 9)), count - position + 1)
                    cuts.append((index, stream, position, size))
                    position += size
    cuts = list(draw(st.permutations(cuts)))
    cuts += draw(st.lists(st.sampled_from(cuts), max_size=4)) if cuts else []
    acts: list[Act] = []
    while cuts:
        size = draw(st.integers(1, 6))
        acts.append(Act("deliver", cuts[:size], draw(st.integers(0, 4)) == 0))
        cuts = cuts[size:]
        acts += [Act(kind) for kind in draw(st.lists(st.sampled_from(KINDS), max_size=1))]
    return logs, acts


@st.composite
def returns(draw: st.DrawFn) -> tuple[list[Log], list[Act]]:
    """Attempts that run the same steps again, while points lie in the archive, come back, and go there again."""
    records = st.tuples(st.integers(0, 5), TIMES, st.dictionaries(st.sampled_from(METRICS[:2]), VALUES, min_size=1))
    logs = [Log(n, 0, "u", draw(st.lists(records, min_size=2, max_size=8)), draw(st.integers(0, 3))) for n in (1, 2, 3)]
    cuts = [
        (index, stream, first, min(4, count - first + 1))
        for index, log in enumerate(logs)
        for stream, count in (("metrics", len(log.records)), ("logs", log.lines))
        for first in range(1, count + 1, 4)
    ]
    acts = []
    kinds = ("fold", "fold", "fold", "archive", "archive", "back", "back", "compact", "restart")
    for cut in draw(st.permutations(cuts)):
        acts += [Act("deliver", [cut]), *map(Act, draw(st.lists(st.sampled_from(kinds), max_size=3)))]
    return logs, acts


class Undone(Exception):
    """The transaction is given up."""


class Tracker:
    """Handlers with small limits on a database."""

    def __init__(self, bench: Any, experiment: str, logs: list[Log]) -> None:
        self.bench = bench
        self.experiment = experiment
        self.logs = logs
        self.sequence = 0
        self.place: dict[str, Any] | None = None
        self.frames: list[list[Any]] = []
        self.restart()

    def restart(self) -> None:
        self.handlers = Handlers(self.bench.told, settle_after_s=60.0, limits=SMALL)

    async def do(self, act: Act, make: Any) -> None:
        if act.kind == "fold":
            while await self.bench.database.write(lambda tx: store_tails.fold(tx.connection, self.experiment)):
                pass
        elif act.kind == "compact":
            await self.bench.database.write(lambda tx: compact(tx.connection, self.experiment))
        elif act.kind == "restart":
            self.restart()
        elif act.kind == "archive":
            await self.archive()
        elif act.kind == "back":
            await self.bring_back()
        else:
            await self.deliver(act, make)

    async def archive(self) -> None:
        database, experiment = self.bench.database, self.experiment
        seen = await self.bench.read(lambda c: store_retention.mark(c, experiment))
        if seen is not None:
            chunks = await self.bench.read(lambda c: list(store_retention.chunk_frames(c, experiment)))
            self.frames = chunks + await self.bench.read(lambda c: list(store_retention.line_frames(c, experiment)))
            assert await database.write(lambda tx: store_retention.let_go(tx.connection, experiment, seen, {}, 1.0))
            await database.write(lambda tx: store_retention.ask_back(tx.connection, experiment, 2.0))
            place = await self.bench.read(lambda c: store_retention.asked_back(c, 2.0))
            assert place is not None
            self.place = place[2]

    async def bring_back(self) -> bool:
        """Some frames; after the last ones the extremes. False: all is here."""
        database, experiment, place = self.bench.database, self.experiment, self.place
        if place is None:
            return False
        some, self.frames = self.frames[:3], self.frames[3:]
        assert await database.write(lambda tx: store_restoring.put_back(tx.connection, experiment, place, some))
        if not self.frames:
            after: str | None = ""
            while after is not None:
                after = await database.write(
                    lambda tx, a=after: store_restoring.count_anew(tx.connection, experiment, place, a, 1)
                )
            await database.write(lambda tx: store_restoring.set_back(tx.connection, experiment, place, 3.0))
            self.place = None
        return True

    async def deliver(self, act: Act, make: Any) -> None:
        for stream in ("metrics", "logs"):
            handler = self.handlers.metric_batches if stream == "metrics" else self.handlers.log_batches
            batches = [self.delivery(make, *batch) for batch in act.batches if batch[1] == stream]

            def work(tx: Transaction, aborted: bool, handler: Any = handler, batches: Any = batches) -> None:
                handler(tx, batches)
                if aborted:
                    raise Undone

            if act.aborted:
                with pytest.raises(Undone):
                    await self.bench.database.write(lambda tx, work=work: work(tx, True))
            await self.bench.database.write(lambda tx, work=work: work(tx, False))

    def delivery(self, make: Any, index: int, stream: str, first: int, count: int) -> Delivery:
        log = self.logs[index]
        self.sequence += 1
        if stream == "metrics":
            batch = make.metric_batch(log.writer, first, log.records[first - 1 : first - 1 + count])
            subject = subjects.metrics("default", self.experiment, log.attempt, log.rank)
        else:
            batch = make.log_batch(log.writer, first, [line(log, n) for n in range(first, first + count)])
            subject = subjects.logs("default", self.experiment, log.attempt, log.rank)
        payload, number = msgspec.msgpack.encode(batch), self.sequence
        return Delivery(subject, payload, {}, str(number), "", 0.0, 0, "TEST", number, 99, None)


def line(log: Log, number: int) -> str:
    return f"{log.attempt}/{log.rank}/{log.writer}/{number}"


def compact(connection: sa.Connection, experiment: str) -> None:
    ids = connection.execute(sa.select(t.series.c.id).where(t.series.c.experiment == experiment)).scalars().all()
    for series in ids:
        while store_compaction.merge_chunks(connection, series, ended=True):
            pass


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


def points_of(logs: list[Log]) -> list[Point]:
    return [
        (metric, log.rank, log.attempt, log.writer, step, bits(time), bits(value))
        for log in logs
        for step, time, values in log.records
        for metric, value in values.items()
    ]


def counting(points: list[Point]) -> list[Point]:
    """Those whose step no later attempt logged again."""
    newest: dict[tuple[str, int, int], int] = {}
    for metric, rank, attempt, _, step, _, _ in points:
        newest[(metric, rank, step)] = max(attempt, newest.get((metric, rank, step), 0))
    return [p for p in points if newest[(p[0], p[1], p[4])] == p[2]]


def stored(connection: sa.Connection, experiment: str, *, visible: bool) -> Counter[Point]:
    """All points, or those that count, as readers find them."""
    found: Counter[Point] = Counter()
    names = sa.select(t.series.c.metric, t.series.c.rank).where(t.series.c.experiment == experiment).distinct()
    for metric, rank in connection.execute(names).all():
        pieces = store_pieces.pieces(connection, experiment, metric, rank, LEAST, GREATEST)
        parts = [(tail.attempt, tail.writer, tail.samples) for tail in pieces.tails()] if visible else []
        if not visible:
            tails = store_tails.read(connection, experiment, metric, rank)
            parts = [(tail.attempt, tail.writer, tail.samples) for tail in tails]
        for head, samples, mask in store_pieces.raw(connection, pieces.heads):
            assert head.hidden == (0 if mask is None else int(mask.sum()))
            order = list(zip(samples.steps.tolist(), samples.times.tolist(), strict=True))
            assert all(a[0] <= b[0] for a, b in pairwise(order))
            assert (head.first_step, head.last_step) == (order[0][0], order[-1][0])
            stored_levels = [store_pieces.levels(connection, [head], coarse=coarse)[0][1] for coarse in (True, False)]
            assert tuple(stored_levels) == levels(samples, mask)
            parts.append((head.attempt, head.writer, pieces.visible(head, samples, mask) if visible else samples))
        for attempt, writer, samples in parts:
            for step, time, value in zip(samples.steps, samples.times, samples.values, strict=True):
                found[(metric, rank, attempt, writer, int(step), bits(time), bits(value))] += 1
    return found


def summary(points: list[Point], metric: str) -> Summary:
    """The summary of a metric as plain Python makes it."""
    rank = min(p[1] for p in points if p[0] == metric)
    mine = [(p[2], p[4], *struct.unpack("<dd", p[5] + p[6])) for p in points if p[:2] == (metric, rank)]
    last = max((a, s, t if math.isfinite(t) else 0.0, not math.isnan(v), v if v == v else 0.0) for a, s, t, v in mine)
    shown = [(p[4], p[2], struct.unpack("<d", p[6])[0]) for p in counting(points) if p[:2] == (metric, rank)]
    low = min(((v, s, a) for s, a, v in shown if v == v), default=None)
    high = min(((-v, s, a) for s, a, v in shown if v == v), default=None)
    return Summary(
        rank=rank,
        points=len(mine),
        last=last[4] if last[3] else math.nan,
        last_step=last[1],
        last_time=last[2],
        last_attempt=last[0],
        minimum=low,  # type: ignore[arg-type]
        maximum=None if high is None else (-high[0], *high[1:]),  # type: ignore[arg-type]
    )


async def check(bench: Any, experiment: str, logs: list[Log]) -> None:
    points = points_of(logs)
    assert await bench.read(lambda c: stored(c, experiment, visible=False)) == Counter(points)
    assert await bench.read(lambda c: stored(c, experiment, visible=True)) == Counter(counting(points))
    c = t.metrics.c
    rows = await bench.read(
        lambda connection: connection.execute(sa.select(t.metrics).where(c.experiment == experiment)).mappings().all()
    )
    assert {row["metric"] for row in rows} == {p[0] for p in points}
    for row in rows:
        assert plain(summary_of(row)) == plain(summary(points, row["metric"]))
    e = t.experiments.c
    row = await bench.read(
        lambda connection: connection.execute(sa.select(e.points, e.lines).where(e.id == experiment)).one_or_none()
    )
    assert row == (sum(not p[0].startswith(SYSTEM_PREFIX) for p in points), sum(log.lines for log in logs))
    await check_lines(bench, experiment, logs)


def plain(one: Summary) -> Any:
    """To be compared: 0 and -0 are alike, and NaN is itself."""
    low, high = one.minimum, one.maximum
    numbers = (one.rank, one.points, one.last_step, one.last_time, one.last_attempt)
    return numbers, repr(one.last + 0.0), low and tuple(low), high and tuple(high)


async def check_lines(bench: Any, experiment: str, logs: list[Log]) -> None:
    c = t.log_batches.c
    query = sa.select(t.log_batches).where(c.experiment == experiment).order_by(c.start)
    start, texts = 0, []
    for row in await bench.read(lambda connection: connection.execute(query).mappings().all()):
        lines = unpack(row["lines"])
        assert (row["start"], row["count"]) == (start, len(lines))
        start += len(lines)
        for place, one in enumerate(lines):
            assert one.text == f"{row['attempt']}/{row['rank']}/{row['writer']}/{row['first'] + place}"
            texts.append(one.text)
    assert sorted(texts) == sorted(line(log, n) for log in logs for n in range(1, log.lines + 1))


async def play(bench: Any, make: Any, history: tuple[list[Log], list[Act]]) -> None:
    logs, acts = history
    experiment = new_id()
    if not any(act.kind == "deliver" for act in acts):
        return
    tracker = Tracker(bench, experiment, logs)
    for act in acts:
        await tracker.do(act, make)
    while await tracker.bring_back():
        pass
    await check(bench, experiment, logs)
    tracker.restart()
    for act in acts:
        await tracker.do(act, make)
    while await tracker.bring_back():
        pass
    await asyncio.sleep(0)
    await check(bench, experiment, logs)
    for log in logs:
        marks = bench.told.marks
        for stream, count in (("metrics", len(log.records)), ("logs", log.lines)):
            if count:
                place = Origin("default", experiment, log.attempt, log.rank)
                assert marks[(place, f"{stream}/{log.writer}")] == count


@given(history=histories())
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
async def test_every_history_stores_each_record_once(lite: Any, make: Any, history: Any) -> None:
    await play(lite, make, history)


@given(history=returns())
@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
async def test_what_comes_back_from_the_archive_is_as_if_it_had_never_gone(lite: Any, make: Any, history: Any) -> None:
    await play(lite, make, history)


async def test_steps_run_again_while_earlier_points_lay_in_the_archive(bench: Any, make: Any) -> None:
    """Attempt 2 runs the steps of both extremes again, then goes on when attempt 1 is back: all in one process."""
    one = Log(1, 0, "u", [(step, 1.0, {"a": value}) for step, value in enumerate((0.0, -9.0, 1.0, 9.0))], 2)
    two = Log(2, 0, "u", [(1, 2.0, {"a": 0.5}), (3, 2.0, {"a": 0.25}), (9, 2.0, {"a": 0.75})], 1)
    first = Act("deliver", [(0, "metrics", 1, 4), (0, "logs", 1, 2)])
    gone_on = Act("deliver", [(1, "metrics", 3, 1), (1, "logs", 1, 1)])
    again = [Act("deliver", [(1, "metrics", number, 1)]) for number in (1, 2)]
    fold, archive, back = Act("fold"), Act("archive"), Act("back")
    await play(bench, make, ([one, two], [first, fold, archive, again[0], fold, again[1], back, gone_on]))


@given(history=st.one_of(histories(), returns()))
@settings(max_examples=16, deadline=None, suppress_health_check=SLOW)
@pytest.mark.postgres
async def test_postgres_holds_the_same(bench: Any, make: Any, history: Any) -> None:
    await play(bench, make, history)
