"""Batches become tails, and tails chunks; a batch that cannot be stored costs no other."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from incl_shared import subjects
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Poison
from incl_shared.events import (
    AlertRaised,
    AttemptAssigned,
    AttemptEnded,
    ExperimentQueued,
    Placement,
    RankEnd,
    RankTimes,
    WriterCount,
)
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import Origin
from incl_shared.telemetry.wire import BATCH_VERSION, MAX_NAMES, Extra, Group, Line, LogBatch, MetricBatch
from incl_shared.testing.telemetry import batch_of
from incl_tracker import ingest, ingest_work, saying, store_pieces
from incl_tracker import tables as t
from incl_tracker.domain.batches import BadBatch, decode_logs, decode_metrics
from incl_tracker.domain.extras import flatten
from incl_tracker.domain.samples import Samples, joined
from incl_tracker.memory import Memory
from incl_tracker.store_pieces import GREATEST, LEAST


def grid(first: int, count: int, names: list[str], values: Any) -> MetricBatch:
    """A batch of records that all have these names; the step of a record is its number. values: (count, names)."""
    steps = np.arange(first, first + count)
    group = Group(names, steps.tobytes(), (steps / 4).tobytes(), np.asarray(values, np.float64).tobytes())
    return MetricBatch(BATCH_VERSION, "w", first, count, [group], [])


def delivery(origin: Origin, payload: bytes, number: int = 1) -> Delivery:
    subject = subjects.metrics(origin.project, origin.experiment, origin.attempt, origin.rank)
    return Delivery(subject, payload, {}, str(number), "", 1.0, 0, "TEST", number, 1, None)


def points(connection: sa.Connection, experiment: str, metric: str) -> Samples:
    """All points of a metric."""
    pieces = store_pieces.pieces(connection, experiment, metric, 0, LEAST, GREATEST)
    parts = [samples for _, samples, _ in store_pieces.raw(connection, pieces.heads)]
    return joined([*parts, *(tail.samples for tail in pieces.tails())]).ordered()


def count(table: sa.Table) -> Any:
    return lambda connection: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()


async def test_small_batches_become_few_rows_and_then_chunks(bench: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    values = np.sin(np.arange(10_000)).reshape(-1, 1)
    for begin in range(0, len(values), 20):
        await bench.batch(origin, grid(begin + 1, 20, ["a"], values[begin : begin + 20]))
        if begin % 1000 == 0:
            assert await bench.read(count(t.tails)) < 130
    sizes = await bench.read(
        lambda c: c.execute(sa.select(t.chunks.c.count).order_by(t.chunks.c.number)).scalars().all()
    )
    assert len(sizes) == 2
    assert all(size >= 4096 for size in sizes)
    found = await bench.read(lambda c: points(c, origin.experiment, "a"))
    assert np.array_equal(found.values, values[:, 0])


async def test_a_big_batch_becomes_chunks_of_a_good_size(bench: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    values = np.random.default_rng(1).standard_normal((21_000, 2))
    await bench.batch(origin, grid(1, 21_000, ["a", "b"], values))
    sizes = await bench.read(lambda c: c.execute(sa.select(t.chunks.c.count)).scalars().all())
    assert (len(sizes), sum(sizes), await bench.read(count(t.tails))) == (10, 42_000, 0)
    assert min(sizes) >= 4096
    found = await bench.read(lambda c: points(c, origin.experiment, "b"))
    assert np.array_equal(found.values, values[:, 1])


async def test_ten_thousand_metrics_of_one_run(lite: Any) -> None:
    origin, chance = Origin("default", new_id(), 1, 0), np.random.default_rng(2)
    names = [[f"layer{part}/weight{place}" for place in range(1000)] for part in range(10)]
    values = chance.standard_normal((12, 10, 1000))
    sent = [
        delivery(origin, msgspec.msgpack.encode(grid(10 * step + part + 1, 1, names[part], values[step, part])))
        for step in range(12)
        for part in range(10)
    ]
    for begin in range(0, len(sent), 40):
        part = sent[begin : begin + 40]
        await lite.database.write(lambda tx, part=part: lite.handlers.metric_batches(tx, part))
    assert await lite.read(count(t.metrics)) == 10_000
    assert await lite.read(count(t.tails)) < 200
    found = await lite.read(lambda c: points(c, origin.experiment, "layer7/weight999"))
    assert np.array_equal(found.values, values[:, 7, 999])


async def test_one_bad_batch_is_refused_before_anything_is_stored(lite: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    good = delivery(origin, msgspec.msgpack.encode(grid(1, 2, ["a"], [[1.0], [2.0]])))
    foreign = delivery(Origin("other", origin.experiment, 1, 0), good.payload, 2)
    for bad, reason in ((delivery(origin, b"\xc1", 2), "no metric batch"), (foreign, "is not of project")):
        with pytest.raises(Poison, match=reason):
            await lite.database.write(lambda tx, bad=bad: lite.handlers.metric_batches(tx, [good, bad]))
        assert await lite.read(count(t.tails)) == 0
    await lite.database.write(lambda tx: lite.handlers.metric_batches(tx, [good, good]))
    assert await lite.read(count(t.tails)) == 1
    with pytest.raises(Poison, match="is not of project"):
        await lite.database.write(lambda tx: lite.handlers.metric_batches(tx, [foreign]))


@pytest.mark.parametrize("sequences", [[0], [4], [1 << 63], [2, 2], [3, 2]])
def test_a_batch_has_its_own_extras_only_and_each_once(sequences: list[int]) -> None:
    extras = [Extra(sequence, b'{"k":"d","n":1}') for sequence in sequences]
    with pytest.raises(BadBatch, match="none of the batch"):
        decode_metrics(msgspec.msgpack.encode(MetricBatch(BATCH_VERSION, "w", 1, 3, [], extras)))


def test_a_batch_nested_without_end_is_none() -> None:
    metrics = msgspec.msgpack.encode(MetricBatch(BATCH_VERSION, "w", 1, 1, [], []))
    lines = msgspec.msgpack.encode(LogBatch(BATCH_VERSION, "w", 1, [Line(1.0, 0, "x")]))
    for decode, whole in ((decode_metrics, metrics), (decode_logs, lines)):
        one_more = bytes([whole[0] + 1]) + whole[1:]
        decode(one_more + b"\x91\x01")  # a field of a later version
        with pytest.raises(BadBatch, match="recursion"):
            decode(one_more + b"\x91" * 100_000)


async def test_values_that_are_no_numbers_are_kept(bench: Any) -> None:
    experiment = new_id()
    origin, values = Origin("default", experiment, 1, 0), [[1.0], [math.inf], [-math.inf], [math.nan]]
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    await bench.batch(origin, grid(1, 4, ["a"], values))
    found = await bench.read(lambda c: points(c, experiment, "a"))
    assert np.array_equal(found.values, np.ravel(values), equal_nan=True)
    summary = (await bench.ask(GetExperiment(ref=experiment))).metrics[0]
    assert math.isnan(summary.last)
    assert (summary.minimum, summary.maximum, summary.points) == (-math.inf, math.inf, 4)


async def test_names_that_no_database_likes(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    names = ["nul\x00", "nul\x01", "é" * 3000, "é" * 3001, "", "a'b\"c", "50%", "what?"]
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {n: float(i) for i, n in enumerate(names)})]))
    stored = await bench.read(lambda c: c.execute(sa.select(t.metrics.c.metric, t.metrics.c.points)).all())
    assert sum(row.points for row in stored) == len(names)
    assert len(stored) == len(names) - 1, "two are alike once they are fit to be stored"
    assert all(len(row.metric) <= 250 for row in stored)
    alike = next(row.metric for row in stored if row.points == 2)
    found = await bench.read(lambda c: points(c, origin.experiment, alike))
    assert sorted(found.values.tolist()) == [0.0, 1.0]


def test_names_that_are_all_alike_take_no_time_to_tell_apart() -> None:
    names = [f"{chr(1 + n % 31)}{chr(1 + n // 31 % 31)}{chr(1 + n // 961)}" for n in range(10_000)]
    began = time.monotonic()
    tables = decode_metrics(msgspec.msgpack.encode(grid(1, 1, names, [range(10_000)]))).tables
    assert time.monotonic() - began < 8, "each name was compared with all before it"
    assert {table.names for table in tables} == {("\N{REPLACEMENT CHARACTER}" * 3,)}
    assert [table.values[0, 0] for table in tables] == [float(n) for n in range(10_000)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"k":"p","t":NaN,"v":{"a":1}}',
        b'{"k":"p","t":Infinity,"v":{"a":NaN}}',
        b'{"k":"p","t":' + b"9" * 4000 + b',"v":{"a":1}}',
        b'{"k":"p","t":1,"v":{"a":' + b"9" * 4000 + b"}}",
        b'{"k":"d","t":1,"n":Infinity}',
        b'{"k":"d","t":1,"n":1e300}',
        b'{"k":"d","t":1,"n":9223372036854775807}',
        b'{"k":"a","t":NaN,"title":{},"text":[],"level":{}}',
        b'{"k":{}}',
        b"[]",
        b"\xff",
    ],
)
async def test_a_record_that_makes_no_sense_costs_no_other(bench: Any, line: bytes) -> None:
    origin = Origin("default", new_id(), 1, 0)
    batch = grid(1, 3, ["a"], [[1.0], [2.0], [3.0]])
    for first in (1, 5):
        extras = [Extra(first + 3, line)]
        await bench.batch(origin, MetricBatch(BATCH_VERSION, "w", first, 4, _but_the_last(batch), extras))
    found = await bench.read(lambda c: points(c, origin.experiment, "a"))
    assert found.values.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def _but_the_last(batch: MetricBatch) -> list[Group]:
    """The groups of three records, as those of a batch of four."""
    return [msgspec.structs.replace(g, offsets=np.arange(3, dtype="<u4").tobytes()) for g in batch.groups]


async def test_many_parameters_at_once_and_the_later_word(bench: Any) -> None:
    experiment = new_id()
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    given = [(5.0, "old", range(1_200)), (9.0, "new", range(600, 1_300)), (7.0, "late", range(500, 700))]
    for number, (moment, word, names) in enumerate(given, 1):
        record = {"k": "p", "t": moment, "v": {f"p{n}": word for n in names}}
        extras = [Extra(number, msgspec.json.encode(record))]
        await bench.batch(Origin("default", experiment, 1, 0), MetricBatch(BATCH_VERSION, "w", number, 1, [], extras))
    c = t.params.c
    found = dict(await bench.read(lambda x: x.execute(sa.select(c.name, c.text)).all()))
    truth = {f"p{n}": "old" for n in range(500)} | {f"p{n}": "late" for n in range(500, 600)}
    assert found == truth | {f"p{n}": "new" for n in range(600, 1_300)}


def test_a_deep_configuration_costs_no_more_than_its_size() -> None:
    leaves = {f"k{number}": number for number in range(9_000)}
    for depth, name in ((3, "a"), (900, "a" * 100)):
        values: dict[str, Any] = leaves
        for _ in range(depth):
            values = {name: values}
        started = time.process_time()
        flat = flatten(values)
        assert time.process_time() - started < 5, "it took minutes"
        assert len(flat) == len(leaves)
    flat = flatten({"a": {"": {"b": 1}, "c": {}}, "d": [1, {"e": 2}]})
    assert flat == {"a..b": "1", "a.c": "{}", "d": '[1, {"e": 2}]'}
    deep = flatten({"x" * 300: {"a": 1}, "x" * 301: {"a": 1}})
    assert len(deep) == 2, "long names stay different ones"
    assert max(map(len, deep)) == 250


def test_what_is_remembered_is_bounded_and_void_under_another_stamp() -> None:
    memory = Memory(items=100)
    for number in range(50):
        memory.begin()
        known = memory.of(f"e{number}", 7, 0)
        known.size = 10
        memory.end([known])
    assert len(memory) == 10
    assert memory.of("e49", 7, 0).size == 10
    assert memory.of("e49", 8, 0).size == 1
    assert memory.of("e48", 7, 1).size == 1
    memory.forget()
    memory.begin()
    assert len(memory) == 0


async def test_an_experiment_has_no_endless_metrics_and_says_so_once(bench: Any, make: Any) -> None:
    small = ingest.Ingest(bench.told, 60.0, max_metrics=100)
    bench.handlers.metric_batches = small.metrics
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {f"m{n}": 1.0 for n in range(80)})]))
    await bench.batch(origin, make.metric_batch("w", 2, [(2, 2.0, {f"n{n}": 1.0 for n in range(50)})]))
    await bench.batch(origin, make.metric_batch("w", 3, [(3, 3.0, {"m1": 5.0}), (4, 4.0, {"o": 1.0})]))
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.metric_count == 100
    assert view.points == 101
    assert [alert.level for alert in view.alerts] == ["warn"]
    assert len(await bench.emitted(AlertRaised)) == 1
    places = (Placement(rank=0, node="n", address="127.0.0.1"),)
    await bench.event(AttemptAssigned(experiment=experiment, attempt=1, placements=places), 2)
    count = WriterCount(writer="w", records=4, stream="metrics")
    end = RankEnd(rank=0, node="n", reason="completed", writers=(count,), times=RankTimes(rank=0))
    await bench.event(AttemptEnded(experiment=experiment, attempt=1, reason="completed", retry=False, ranks=(end,)), 3)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.settled, view.gaps) == (True, 2), "two records could not be kept whole"


async def test_an_experiment_has_no_endless_alerts_and_says_so_once(
    bench: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saying, "MAX_ALERTS", 5)
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    for first in (1, 4, 7, 10):
        lines = [msgspec.json.encode({"k": "a", "t": 1.0, "title": f"t{n}"}) for n in range(first, first + 3)]
        await bench.batch(origin, batch_of("w", first, [*lines]))
    told = await bench.emitted(AlertRaised)
    assert [alert.title for alert in told] == ["t1", "t2", "t3", "t4", "t5", "more than 1000 alerts"]
    view = await bench.ask(GetExperiment(ref=experiment))
    assert len(view.alerts) == 6
    dropped = await bench.read(lambda c: c.execute(sa.select(t.writers.c.dropped)).scalar_one())
    assert dropped == 7, "each is a gap"


async def test_configurations_that_come_together_are_one(bench: Any) -> None:
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    said = [(5.0, {"a": 1, "b": 1}), (9.0, {"a": 2}), (7.0, {"a": 3, "c": 3})]
    lines = [msgspec.json.encode({"k": "p", "t": moment, "v": values}) for moment, values in said]
    sent = [delivery(origin, msgspec.msgpack.encode(batch_of("w", n, [line])), n) for n, line in enumerate(lines, 1)]
    await bench.database.write(lambda tx: bench.handlers.metric_batches(tx, sent))
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.config == {"a": "2", "b": "1", "c": "3"}


async def test_of_a_giant_experiment_no_more_is_remembered_than_may_be(lite: Any) -> None:
    small = ingest.Ingest(lite.told, 60.0)
    small._memory = Memory(items=300)
    lite.handlers.metric_batches = small.metrics
    origin, names = Origin("default", new_id(), 1, 0), [f"m{n}" for n in range(50)]
    for step in range(1, 6):
        for writer in range(12):
            batch = grid(step, 1, names, np.full((1, 50), writer + step / 10))
            await lite.batch(origin, msgspec.structs.replace(batch, writer=f"w{writer}"))
            (known,) = small._memory._known.values()
            assert known.size <= 300
            assert f"w{writer}" in {key.writer for key in known.writers}, "the one used last stays"
    found = await lite.read(lambda c: points(c, origin.experiment, "m7"))
    assert np.allclose(np.sort(found.values), sorted(w + s / 10 for w in range(12) for s in range(1, 6)))


def test_a_batch_of_too_many_names_is_none() -> None:
    names = {f"m{n}": 1.0 for n in range(MAX_NAMES + 1)}
    with pytest.raises(BadBatch, match="metrics"):
        decode_metrics(msgspec.msgpack.encode(batch_of("w", 1, [(1, 1.0, names)])))


async def test_new_names_of_many_messages_are_stored_in_parts(lite: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    deliveries = [
        delivery(origin, msgspec.msgpack.encode(batch_of("w", k, [(k, 1.0, {f"m{k}-{n}": 1.0 for n in range(6_000)})])))
        for k in (1, 2)
    ]
    with pytest.raises(ingest.TooMany):
        await lite.database.write(lambda tx: lite.handlers.metric_batches(tx, deliveries))
    for each in deliveries:
        await lite.database.write(lambda tx, one=each: lite.handlers.metric_batches(tx, [one]))
    await lite.database.write(lambda tx: lite.handlers.metric_batches(tx, deliveries))  # names that are known


async def test_numbers_with_endless_holes_are_refused(lite: Any, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest_work, "MAX_RANGES", 20)
    origin = Origin("default", new_id(), 1, 0)
    with pytest.raises(Poison, match="holes"):
        for n in range(1, 100, 2):
            await lite.batch(origin, make.metric_batch("w", n, [(n, 1.0, {"a": 1.0})]))
    assert n == 41
