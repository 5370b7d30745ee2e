"""Points: chunks, summaries, charts. The measure is a plain list of all points."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.errors import InvalidInput
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment, GetSeries
from incl_shared.subjects import Origin
from incl_tracker import tables as t
from incl_tracker.domain.points import Points
from incl_tracker.domain.summaries import Summary, add, again, effective
from incl_tracker.domain.thinning import one_series, thinned

values = st.one_of(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(-5, 5).map(float))
batches = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 3), st.lists(st.tuples(st.integers(0, 12), values), min_size=1)),
    min_size=1,
    max_size=10,
)
"""(rank, attempt, [(step, value)]) in the order of arrival."""


def points_of(pairs: list[tuple[int, float]], time: float = 0.0) -> Points:
    points = Points()
    for step, value in pairs:
        points.steps.append(step)
        points.times.append(time)
        points.values.append(value)
    return points


def kept_up(arrived: list[tuple[int, int, list[tuple[int, float]]]]) -> Summary:
    summary: Summary | None = None
    there: dict[int, dict[int, Points]] = {}
    for rank, attempt, pairs in arrived:
        points = points_of(pairs)
        there.setdefault(rank, {}).setdefault(attempt, Points()).extend(points)
        summary, stale = add(summary, rank, attempt, points)
        if stale:
            summary = again(summary, there[summary.rank])
    assert summary is not None
    return summary


@given(batches, st.randoms())
@settings(max_examples=200, deadline=None)
def test_a_summary_is_that_of_all_points_in_whatever_order_they_come(arrived: Any, chance: Any) -> None:
    summary = kept_up(arrived)
    shuffled = list(arrived)
    chance.shuffle(shuffled)
    assert repr(kept_up(shuffled)) == repr(summary)
    rank = min(r for r, _, _ in arrived)
    mine = [(a, s, v) for r, a, pairs in arrived if r == rank for s, v in pairs]
    newest = {step: max(a for a, s, _ in mine if s == step) for _, step, _ in mine}
    count = [(v, s, a) for a, s, v in mine if a == newest[s] and not math.isnan(v)]
    assert (summary.rank, summary.points) == (rank, len(mine))
    last = max((a, s, not math.isnan(v), v if not math.isnan(v) else 0.0) for a, s, v in mine)
    assert (summary.last_attempt, summary.last_step) == last[:2]
    assert (not math.isnan(summary.last), 0.0 if math.isnan(summary.last) else summary.last) == last[2:]
    low = min(count, default=None)
    high = min(((-v, s, a) for v, s, a in count), default=None)
    assert (summary.minimum and (summary.minimum.value, summary.minimum.step, summary.minimum.attempt)) == low
    assert (summary.maximum and (-summary.maximum.value, summary.maximum.step, summary.maximum.attempt)) == high


@given(st.lists(st.tuples(st.integers(0, 3000), values), min_size=1, max_size=400), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_a_thinned_series_keeps_every_spike(pairs: list[tuple[int, float]], buckets: int) -> None:
    points = one_series({1: points_of(pairs)})
    few = thinned(points, buckets)
    assert len(few) <= max(5 * buckets, 4 * buckets)
    assert list(few.steps) == sorted(few.steps)
    assert (few.steps[0], few.steps[-1]) == (points.steps[0], points.steps[-1])
    assert few.extremes() == points.extremes()
    assert any(map(math.isnan, few.values)) == any(map(math.isnan, points.values))
    everything = {(s, repr(v)) for s, v in zip(points.steps, points.values, strict=True)}
    assert {(s, repr(v)) for s, v in zip(few.steps, few.values, strict=True)} <= everything


def test_a_spike_of_one_point_in_a_million_stays_visible() -> None:
    points = points_of([(n, 0.0) for n in range(100_000)])
    points.values[54_321] = 7.0
    few = thinned(points, 100)
    assert len(few) <= 400
    assert (54_321, 7.0) in zip(few.steps, few.values, strict=True)


def test_a_later_attempt_supersedes_the_steps_that_it_runs_again() -> None:
    first = points_of([(1, 1.0), (2, 2.0), (3, 3.0)])
    second = points_of([(2, 20.0), (2, 21.0)])
    assert list(one_series({1: first, 2: second}).values) == [1.0, 20.0, 21.0, 3.0]
    assert [list(p.values) for _, p in sorted(effective({1: first, 2: second}).items())] == [[1.0, 3.0], [20.0, 21.0]]
    assert list(one_series({1: first, 2: second}, 2, 2).steps) == [2, 2]


async def fill(bench: Any, make: Any, origin: Origin, values: list[float], size: int, first: int = 1) -> None:
    for begin in range(0, len(values), size):
        records = [(begin + n, float(begin + n), {"a": v}) for n, v in enumerate(values[begin : begin + size])]
        await bench.batch(origin, make.metric_batch("w", first + begin, records))


async def test_small_batches_become_few_sealed_chunks(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    wanted = [math.sin(n) for n in range(5_000)]
    await fill(bench, make, origin, wanted, 50)

    def chunks(connection: sa.Connection) -> list[tuple[bool, int]]:
        rows = connection.execute(sa.select(t.old_chunks.c.sealed, t.old_chunks.c.count).order_by(t.old_chunks.c.id))
        return [(row.sealed, row.count) for row in rows]

    rows = await bench.read(chunks)
    assert sum(count for _, count in rows) == len(wanted)
    assert len(rows) < 34
    assert [sealed for sealed, _ in rows].count(True) == 1
    series = await bench.ask(GetSeries(experiments=(origin.experiment,), pixels=5000, from_step=4000, to_step=4200))
    assert series.series[0].values == tuple(wanted[4000:4201])


async def test_values_that_are_no_numbers_are_kept(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    await fill(bench, make, origin, [1.0, math.inf, -math.inf, math.nan], 2)
    await bench.event(_queued(origin.experiment), 1)
    series = (await bench.ask(GetSeries(experiments=(origin.experiment,)))).series[0]
    assert series.values == (1.0, "Infinity", "-Infinity", "NaN")
    summary = (await bench.ask(GetExperiment(ref=origin.experiment))).metrics[0]
    assert math.isnan(summary.last)
    assert (summary.minimum, summary.maximum, summary.points) == (-math.inf, math.inf, 4)


def _queued(experiment: str) -> Any:
    from incl_shared.events import ExperimentQueued
    from incl_shared.spec import ExperimentSpec

    return ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"]))


async def test_attempts_ranks_and_unknown_metrics(bench: Any, make: Any) -> None:
    experiment = new_id()
    first, again_, other = (Origin("default", experiment, a, r) for a, r in ((1, 0), (2, 0), (1, 1)))
    await fill(bench, make, other, [9.0, 9.0], 2)
    await fill(bench, make, first, [1.0, 5.0, 2.0], 3)
    await bench.batch(again_, make.metric_batch("w", 1, [(1, 9.0, {"a": 0.5}), (2, 9.1, {"a": 0.25})]))
    query = GetSeries(experiments=(experiment,), metrics=("a",))
    series = (await bench.ask(query)).series[0]
    assert (series.rank, series.steps, series.values) == (0, (0, 1, 2), (1.0, 0.5, 0.25))
    ranked = (await bench.ask(query.model_copy(update={"rank": 1}))).series[0]
    assert ranked.values == (9.0, 9.0)
    await bench.event(_queued(experiment), 1)
    summary = (await bench.ask(GetExperiment(ref=experiment))).metrics[0]
    assert (summary.last, summary.minimum, summary.maximum, summary.points) == (0.25, 0.25, 1.0, 5)
    with pytest.raises(InvalidInput, match="no metric 'b'") as caught:
        await bench.ask(query.model_copy(update={"metrics": ("b",)}))
    assert "known metrics, nearest first: a" in caught.value.cause
    assert (await bench.ask(query.model_copy(update={"rank": 7}))).series == ()


async def test_names_that_no_database_likes(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    names = ["nul\x00", "é" * 3000, "é" * 3001, "", "a'b\"c"]
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {n: float(i) for i, n in enumerate(names)})]))
    series = (await bench.ask(GetSeries(experiments=(origin.experiment,)))).series
    assert len({s.metric for s in series}) == len(names)
    assert all(len(s.metric) <= 250 for s in series)
