"""Small chunks become one: nothing is lost or doubled, each point is written few times, levels stay true."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.events import ExperimentFinished, ExperimentQueued
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetChart, GetLogs, GetPoints
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import store_compaction, store_tails
from incl_tracker import tables as t
from incl_tracker.domain import compaction
from incl_tracker.domain.chunking import chunk
from incl_tracker.domain.compaction import BIG, Batch, Piece, merged, once_ended, runs, while_running
from incl_tracker.domain.loglines import decompressed
from incl_tracker.domain.samples import Samples, decode, from_records

points = st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(0, 2e9), st.floats())
piece = st.lists(st.tuples(points, st.booleans()), min_size=1, max_size=30)


def piece_of(rows: list[tuple[tuple[int, float, float], bool]]) -> Piece:
    steps = np.array([p[0] for p, _ in rows], np.int64)
    samples = Samples(steps, np.array([p[1] for p, _ in rows]), np.array([p[2] for p, _ in rows]))
    return Piece(samples, np.array([hidden for _, hidden in rows]))


def bag(found: Piece) -> list[tuple[int, bytes, bytes, bool]]:
    s = found.samples
    mask = np.zeros(len(s), np.bool_) if found.mask is None else found.mask
    rows = zip(s.steps, s.times, s.values, mask, strict=True)
    return sorted((int(step), time.tobytes(), value.tobytes(), bool(hidden)) for step, time, value, hidden in rows)


@given(st.lists(piece, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_merge_keeps_every_point_bit_for_bit_and_what_is_hidden(
    made: list[list[tuple[tuple[int, float, float], bool]]],
) -> None:
    pieces = [piece_of(rows) for rows in made]
    whole = merged(pieces)
    assert bag(whole) == sorted(row for one in pieces for row in bag(one))
    assert bool((whole.samples.steps[1:] >= whole.samples.steps[:-1]).all())
    made_of = chunk(whole.samples, whole.mask)
    again = decode(made_of.data)
    mask = None if made_of.mask is None else np.unpackbits(np.frombuffer(made_of.mask, np.uint8), count=len(again))
    assert bag(Piece(again, None if mask is None else mask.astype(np.bool_))) == bag(whole)
    visible = again.values if mask is None else again.values[mask == 0]
    real = visible[~np.isnan(visible)]
    for level in (made_of.coarse, made_of.fine):
        values = from_records(level).values
        shown = values[~np.isnan(values)]
        assert (len(shown) > 0) == (len(real) > 0)
        if len(real):
            assert (shown.min(), shown.max()) == (real.min(), real.max())


@given(st.lists(st.integers(1, 9000), max_size=60))
@settings(max_examples=100, deadline=None)
def test_a_plan_merges_whole_neighbours_that_fit_and_comes_to_an_end(counts: list[int]) -> None:
    sizes = dict(enumerate(counts))
    rounds = 0
    while chosen := once_ended(sizes.items()):
        assert len(chosen) > 1
        between = [n for n in sizes if chosen[0] <= n <= chosen[-1]]
        assert sorted(between) == chosen
        assert sum(sizes[n] for n in chosen) <= BIG
        sizes[chosen[0]] = sum(sizes.pop(n) for n in chosen)
        rounds += 1
        assert rounds <= len(counts)
    assert sum(sizes.values()) == sum(counts)
    ordered = [sizes[n] for n in sorted(sizes)]
    assert all(a + b > BIG for a, b in pairwise(ordered))


def test_a_running_series_rewrites_each_point_only_a_few_times() -> None:
    sizes: dict[int, int] = {}
    written = 0
    for number in range(2_000):
        sizes[number] = 50
        if chosen := while_running(sizes.items()):
            total = sum(sizes.pop(n) for n in chosen)
            sizes[chosen[0]] = total
            written += total
    assert len(sizes) < 2_000 * 50 / compaction.SMALL + 2 * compaction.PATIENCE
    assert written < 5 * 2_000 * 50
    assert sum(sizes.values()) == 2_000 * 50


def test_lines_of_one_writer_that_follow_one_another_become_one_batch() -> None:
    mine, other = (1, 0, "log"), (1, 1, "log")
    batches = [
        Batch(0, 10, mine, 1, 100),
        Batch(10, 5, mine, 11, 100),
        Batch(15, 5, other, 1, 100),
        Batch(20, 5, mine, 16, 100),
        Batch(25, 5, mine, 22, 100),  # one of its lines is missing before
        Batch(30, 3990, mine, 27, 100),
        Batch(4020, 20, mine, 4017, 100),
        Batch(4040, 20, mine, 4037, 100),
        Batch(4060, 20, mine, 4057, compaction.LINE_BYTES),
    ]
    assert [[b.start for b in run] for run in runs(batches)] == [[0, 10], [25, 30], [4020, 4040]]


async def test_an_experiment_that_has_ended_becomes_few_chunks_and_answers_the_same(bench: Any, make: Any) -> None:
    experiment = new_id()
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    first, second = Origin("default", experiment, 1, 0), Origin("default", experiment, 2, 0)
    for origin, steps in ((first, range(6_000)), (second, range(5_000, 9_000))):
        for begin in range(steps.start, steps.stop, 1_000):
            records = [(step, float(step), {"loss": step * 0.5, "acc": 1.0}) for step in range(begin, begin + 1_000)]
            await bench.batch(origin, make.metric_batch("w", begin - steps.start + 1, records))
    for number in range(40):
        await bench.batch(first, make.log_batch("log", number * 5 + 1, [f"line {number * 5 + i}" for i in range(5)]))
    finished = ExperimentFinished(
        experiment=experiment, state=ExperimentState.FINISHED, reason=EndReason.COMPLETED, attempts=2
    )
    await bench.event(finished, 2)

    async def answers() -> list[Any]:
        points = [
            await bench.ask(GetPoints(experiment=experiment, metric="loss", from_step=s)) for s in (0, 4_000, 8_000)
        ]
        window = GetChart(experiments=(experiment,), metrics=("loss",), pixels=10_000 // 2, low=4_900, high=5_100)
        return [*points, await bench.ask(window), await bench.ask(GetLogs(experiment=experiment, after=17, limit=150))]

    async def rows() -> tuple[int, ...]:
        query = [sa.select(sa.func.count()).select_from(table) for table in (t.tails, t.chunks, t.log_batches)]
        return tuple(await bench.read(lambda connection: [connection.execute(q).scalar_one() for q in query]))

    before = await answers()
    await bench.database.write(lambda tx: store_compaction.set_due(tx.connection, experiment, 0.0))
    work = await bench.database.write(lambda tx: store_compaction.begin(tx.connection, tx.clock.now()))
    rounds = 0
    while work is not None:
        work = await bench.database.write(lambda tx, work=work: store_compaction.step(tx.connection, work))
        rounds += 1
        assert rounds < 100
    assert await rows() == (0, 4, 1)
    assert await answers() == before
    assert await bench.database.write(lambda tx: store_compaction.begin(tx.connection, tx.clock.now())) is None


async def test_lines_that_weigh_much_do_not_become_one_row(bench: Any, make: Any) -> None:
    """However well they are compressed: who reads one line unpacks all of its row."""
    experiment = new_id()
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    origin = Origin("default", experiment, 1, 0)
    for number in range(100):
        await bench.batch(origin, make.log_batch("log", number * 4 + 1, ["x" * 60_000] * 4))
    finished = ExperimentFinished(
        experiment=experiment, state=ExperimentState.FINISHED, reason=EndReason.COMPLETED, attempts=1
    )
    await bench.event(finished, 2)
    work = store_compaction.Work(experiment, ended=True, started=0.0)
    while work is not None:
        work = await bench.database.write(lambda tx, one=work: store_compaction.step(tx.connection, one))
    blobs = await bench.read(lambda c: c.execute(sa.select(t.log_batches.c.lines)).scalars().all())
    sizes = [len(decompressed(blob)) for blob in blobs]
    assert sum(sizes) > 24_000_000
    assert max(sizes) <= compaction.LINE_BYTES
    assert len(blobs) < 40


async def test_tails_of_many_writers_are_folded_a_few_at_a_time(bench: Any, make: Any) -> None:
    experiment = new_id()
    for n in range(500):
        await bench.batch(Origin("default", experiment, 1, 0), make.metric_batch(f"w{n}", 1, [(n, 1.0, {"a": 1.0})]))
    rows = []
    while done := await bench.database.write(lambda tx: store_tails.fold(tx.connection, experiment)):
        rows.append(done)
    assert len(rows) > 2
    assert sum(rows) == 500
    found = await bench.ask(GetPoints(experiment=experiment, metric="a", limit=1000))
    assert list(found.steps) == list(range(500))
