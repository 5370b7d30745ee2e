"""Charts and pages of raw points over generated histories. The measure is a plain list of all points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.events import ExperimentQueued
from incl_shared.ids import new_id
from incl_shared.queries.tracker import Chart, Curve, GetChart, GetExperiment, GetPoints, ListMetrics
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import Origin
from incl_tracker import tables as t
from incl_tracker.domain.numbers import significant
from incl_tracker.domain.pyramid import buckets_of
from incl_tracker.domain.samples import Samples, joined
from incl_tracker.store_charts import chart
from incl_tracker.store_points import points, time_order
from incl_tracker.testing import put_chunk, put_experiment, put_series, put_tail

GREATEST = (1 << 63) - 1
ODD = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, math.pi)


@dataclass(frozen=True)
class Piece:
    """Points that came together. folded: they lie in a chunk, else in a tail."""

    attempt: int
    writer: str
    folded: bool
    samples: Samples


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    """Points in a run of steps, now and then out of order, with repeated steps, odd values and odd times."""
    chance = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = draw(st.sampled_from([1, 2, 7, 63, 64, 65, 300, 2500]))
    first, stride = draw(st.integers(-50, 3000)), draw(st.sampled_from([0, 1, 1, 3]))
    steps = first + stride * np.arange(count)
    if draw(st.booleans()):
        steps = chance.permutation(np.concatenate((steps[: count // 2], steps[: count - count // 2])))
    if draw(st.integers(0, 9)) == 0:
        steps[0], steps[-1] = -GREATEST - 1, GREATEST
    times = steps.astype(np.float64) / 8 if draw(st.booleans()) else chance.integers(0, 40, count).astype(np.float64)
    values = chance.normal(size=count)
    for _ in range(draw(st.integers(0, 5))):
        values[chance.integers(count)] = draw(st.sampled_from(ODD))
    if draw(st.integers(0, 9)) == 0:
        times[0] = draw(st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1e308]))
    return Piece(
        draw(st.integers(1, 3)), draw(st.sampled_from("ab")), draw(st.booleans()),
        Samples(steps.astype(np.int64), times, values),
    )  # fmt: skip


histories = st.lists(pieces(), min_size=1, max_size=6)


def stored(connection: sa.Connection, history: list[Piece]) -> str:
    """The history in the tables, as the ingest leaves it: chunks know what other chunks hide, tails nothing."""
    experiment = new_id()
    put_experiment(connection, experiment, "m")
    series: dict[tuple[int, str], int] = {}
    numbers: dict[int, int] = {}
    for piece in sorted(history, key=lambda piece: not piece.folded):
        key = (piece.attempt, piece.writer)
        if key not in series:
            series[key] = put_series(connection, experiment, "m", *key)
        identifier = series[key]
        if not piece.folded:
            put_tail(connection, experiment, *key, [(identifier, piece.samples)])
            continue
        later = [other.samples.steps for other in history if other.folded and other.attempt > piece.attempt]
        mask = np.isin(piece.samples.steps, np.concatenate(later)) if later else None
        number = numbers[identifier] = numbers.get(identifier, -1) + 1
        put_chunk(connection, identifier, number, piece.samples, mask)
    return experiment


def counting(history: list[Piece]) -> Samples:
    """The points that count, in the order of pages."""
    found, keys = [], []
    for piece in sorted(history, key=lambda piece: not piece.folded):
        later = [other.samples.steps for other in history if other.attempt > piece.attempt]
        hidden = np.isin(piece.samples.steps, np.concatenate(later)) if later else np.zeros(len(piece.samples), bool)
        found.append(piece.samples.take(~hidden))
        keys += [(piece.attempt, piece.writer)] * len(found[-1])
    return in_order(found, keys)


def in_order(found: list[Samples], keys: list[tuple[int, str]]) -> Samples:
    whole = joined(found)
    times = time_order(whole.times)
    return whole.take(
        np.array(sorted(range(len(whole)), key=lambda i: (whole.steps[i], times[i], keys[i])), dtype=np.int64)
    )


@pytest.fixture
def connection(lite_url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(lite_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def asked(connection: sa.Connection, query: GetChart) -> Chart:
    """The chart as a client reads it."""
    return Chart.model_validate_json(chart(connection, "default", query).model_dump_json())


def numbers(curve: Curve) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(value) for value in curve.values])


windows = st.one_of(
    st.just((None, None)),
    st.tuples(st.integers(-60, 3000), st.integers(0, 3000)).map(lambda w: (float(w[0]), float(w[0] + w[1]))),
    st.tuples(st.floats(-1e3, 1e4), st.none()),
    st.tuples(st.none(), st.floats(-1e3, 1e4)),
    st.just((-math.inf, 1e300)),
)


def test_a_chart_has_the_extremes_of_what_counts_and_nothing_else(connection: sa.Connection) -> None:
    @given(histories, windows, st.integers(2, 60), st.sampled_from(["step", "time"]))
    @settings(max_examples=150, deadline=None)
    def holds(history: list[Piece], window: tuple[float | None, float | None], pixels: int, axis: Any) -> None:
        experiment = stored(connection, history)
        query = GetChart(experiments=(experiment,), metrics=("m",), pixels=pixels, axis=axis)
        answer = asked(connection, query.model_copy(update={"low": window[0], "high": window[1]}))
        wanted, places = seen(counting(history), window, axis)
        assert len(answer.curves) == (1 if len(wanted) else 0)
        for curve in answer.curves:
            total = sum(len(piece.samples) for piece in history)
            low, high = (end if end is not None and math.isfinite(end) else None for end in window)
            check(curve, wanted, places, pixels, (low, high), exact=total <= 64 * (pixels // 2))

    holds()


def seen(whole: Samples, window: tuple[float | None, float | None], axis: str) -> tuple[Samples, Any]:
    """(the points in the window, where they lie on the axis)."""
    low = -math.inf if window[0] is None else window[0]
    high = math.inf if window[1] is None else window[1]
    places = [float(x) for x in whole.times] if axis == "time" else [int(x) for x in whole.steps]
    chosen = np.array([low <= x <= high and math.isfinite(x) for x in places], dtype=bool)
    inside = whole.take(chosen)
    return inside, (inside.times if axis == "time" else inside.steps.astype(np.float64))


def check(curve: Curve, wanted: Samples, places: Any, pixels: int, window: Any, *, exact: bool) -> None:
    values, nan = numbers(curve), np.isnan(significant(wanted.values))
    short_of = significant(wanted.values)
    true = {(int(s), repr(v)) for s, v in zip(wanted.steps, short_of.tolist(), strict=True)}
    assert {(s, repr(v)) for s, v in zip(curve.steps, values.tolist(), strict=True)} <= true
    assert len(values) <= pixels + int(nan.sum())
    if not nan.all():
        shown = values[~np.isnan(values)]
        assert (shown.min(), shown.max()) == (short_of[~nan].min(), short_of[~nan].max())
    assert bool(np.isnan(values).any()) == bool(nan.any())
    if exact:
        assert curve.points == len(wanted)
        low = float(places.min()) if window[0] is None else window[0]
        high = float(places.max()) if window[1] is None else window[1]
        bucket = buckets_of(places, low, high, pixels // 2)
        pairs = {(s, repr(v)) for s, v in zip(curve.steps, values.tolist(), strict=True)}
        for one in np.unique(bucket[~nan]):
            held = (bucket == one) & ~nan
            for extreme in (short_of[held].min(), short_of[held].max()):
                there = held & (short_of == extreme)
                found = zip(wanted.steps[there].tolist(), map(repr, short_of[there].tolist()), strict=True)
                assert not pairs.isdisjoint(found)


def test_pages_have_each_point_once_and_in_order(connection: sa.Connection) -> None:
    @given(histories, st.sampled_from([None, 1, 2]), st.sampled_from([1, 7, 100, 4000]), windows)
    @settings(max_examples=100, deadline=None)
    def holds(history: list[Piece], attempt: int | None, limit: int, window: Any) -> None:
        experiment = stored(connection, history)
        low, high = (None if end is None or abs(end) > 1e4 else int(end) for end in window)
        whole = counting(history) if attempt is None else of_attempt(history, attempt)
        chosen = (whole.steps >= (-GREATEST - 1 if low is None else low)) & (
            whole.steps <= (GREATEST if high is None else high)
        )
        whole = whole.take(chosen)
        if limit * 60 < len(whole):
            limit = len(whole) // 30
        query = GetPoints(experiment=experiment, metric="m", attempt=attempt, limit=limit, from_step=low, to_step=high)
        found = everything(connection, query)
        assert found.steps.tolist() == whole.steps.tolist()
        assert list(map(repr, found.times.tolist())) == list(map(repr, whole.times.tolist()))
        assert list(map(repr, found.values.tolist())) == list(map(repr, whole.values.tolist()))

    holds()


def of_attempt(history: list[Piece], attempt: int) -> Samples:
    mine = [p for p in sorted(history, key=lambda piece: not piece.folded) if p.attempt == attempt]
    keys = [(p.attempt, p.writer) for p in mine for _ in range(len(p.samples))]
    return in_order([p.samples for p in mine], keys)


def everything(connection: sa.Connection, query: GetPoints) -> Samples:
    """All pages after one another."""
    found = []
    while True:
        answer = points(connection, "default", query)
        text = answer.model_dump_json()
        assert len(text) < 256 * 1024
        read = type(answer).model_validate_json(text)
        values = np.array([float(value) for value in read.values], dtype=np.float64)
        steps, times = np.array(read.steps, dtype=np.int64), np.array(read.times, dtype=np.float64)
        found.append(Samples(steps, times, values))
        assert len(steps) <= query.limit
        if read.cursor is None:
            return joined(found)
        assert len(steps)
        query = query.model_copy(update={"cursor": read.cursor})


def test_points_that_come_behind_the_cursor_move_nothing(connection: sa.Connection) -> None:
    experiment = new_id()
    put_experiment(connection, experiment, "m")
    one, other = put_series(connection, experiment, "m", 1, "a"), put_series(connection, experiment, "m", 1, "b")
    steps = np.arange(0, 100, dtype=np.int64)
    put_chunk(connection, one, 0, Samples(steps, np.zeros(100), steps.astype(np.float64)))
    query = GetPoints(experiment=experiment, metric="m", limit=30)
    found: list[int] = []
    for turn in range(100):
        answer = points(connection, "default", query)
        found += answer.steps
        behind = np.array([turn, 29], dtype=np.int64)
        put_tail(connection, experiment, 1, "b", [(other, Samples(behind, np.full(2, -1.0), np.zeros(2)))])
        if answer.cursor is None:
            break
        query = query.model_copy(update={"cursor": answer.cursor})
    assert found == list(range(100))


def test_a_spike_of_one_point_stays_visible_at_every_level(connection: sa.Connection) -> None:
    experiment, count = new_id(), 300_000
    put_experiment(connection, experiment, "m")
    series = put_series(connection, experiment, "m")
    values = np.zeros(count)
    spikes = {12_345: 7.0, 98_765: -3.0, 250_001: 5.0}
    for step, value in spikes.items():
        values[step] = value
    for number, begin in enumerate(range(0, count, 4096)):
        steps = np.arange(begin, min(count, begin + 4096), dtype=np.int64)
        put_chunk(connection, series, number, Samples(steps, 1.7e9 + steps / 10, values[steps]))
    for pixels in (40, 400, 5000):
        for low, high in ((None, None), (5_000, 260_000), (12_340, 260_000), (12_345, 250_001)):
            query = GetChart(experiments=(experiment,), pixels=pixels, low=low, high=high)
            curve = asked(connection, query).curves[0]
            pairs = dict(zip(curve.steps, curve.values, strict=True))
            assert {step: pairs.get(step) for step in spikes} == spikes
            assert len(pairs) <= pixels
            assert curve.points == (count if low is None else high - low + 1)


def test_a_chart_of_many_pairs_comes_in_pages(connection: sa.Connection) -> None:
    experiments = [new_id() for _ in range(4)]
    steps = np.arange(3000, dtype=np.int64)
    for experiment in experiments:
        for place in range(10):
            put_experiment(connection, experiment, f"m{place}")
            series = put_series(connection, experiment, f"m{place}")
            values = np.random.default_rng(place).normal(size=3000)
            put_chunk(connection, series, 0, Samples(steps, 1.7e9 + steps / 7, values))
    query = GetChart(experiments=(*experiments, experiments[0]), metrics=("m3", *(f"m{n}" for n in range(9))))
    found: list[tuple[str, str]] = []
    pages, cursor = 0, 0
    while cursor is not None:
        answer = chart(connection, "default", query.model_copy(update={"cursor": cursor, "pixels": 2000}))
        assert len(answer.model_dump_json()) < 256 * 1024
        assert answer.curves
        found += [(curve.experiment, curve.metric) for curve in answer.curves]
        pages, cursor = pages + 1, answer.cursor
    names = ["m3", "m0", "m1", "m2", *(f"m{n}" for n in range(4, 9))]
    assert found == [(experiment, name) for experiment in experiments for name in names]
    assert 8 <= pages <= 20
    every = asked(connection, GetChart(experiments=(experiments[0],), pixels=50))
    assert [curve.metric for curve in every.curves] == [f"m{place}" for place in range(10)]


def test_the_widest_numbers_fit_a_message(connection: sa.Connection) -> None:
    experiment = new_id()
    put_experiment(connection, experiment, "m")
    series = put_series(connection, experiment, "m")
    steps = -GREATEST + np.arange(20_000, dtype=np.int64) * 123_456_789_012_345
    values = -1.2345678901234567e-300 * (1 + np.arange(20_000) / 7)
    values[::3] = np.nan
    put_chunk(connection, series, 0, Samples(steps, -1.2345678901234e100 * (1 + np.arange(20_000) / 7), values))
    answer = chart(connection, "default", GetChart(experiments=(experiment,), pixels=5000))
    assert 150_000 < len(answer.model_dump_json()) < 256 * 1024
    assert significant(values[~np.isnan(values)]).min() in answer.curves[0].values
    assert len(everything(connection, GetPoints(experiment=experiment, metric="m"))) == 20_000


def test_ranks_and_names(connection: sa.Connection) -> None:
    experiment = new_id()
    put_experiment(connection, experiment, "m", rank=2)
    one = Samples(np.array([GREATEST]), np.array([4.0]), np.array([math.nan]))
    put_chunk(connection, put_series(connection, experiment, "m", rank=2), 0, one)
    query = GetChart(experiments=(experiment,), metrics=("m",))
    curve = asked(connection, query).curves[0]
    assert (curve.rank, curve.steps, curve.start, curve.times, curve.values) == (2, (GREATEST,), 4.0, (0.0,), ("NaN",))
    assert asked(connection, query.model_copy(update={"rank": 0})).curves == ()
    assert asked(connection, query.model_copy(update={"high": 7.0})).curves == ()
    with pytest.raises(InvalidInput, match="no metric 'n'"):
        asked(connection, query.model_copy(update={"metrics": ("n",)}))
    with pytest.raises(NotFoundError):
        chart(connection, "other", query)
    with pytest.raises(InvalidInput, match="low is above high"):
        asked(connection, query.model_copy(update={"low": 3.0, "high": 2.0}))
    with pytest.raises(InvalidInput, match="no metric 'n'"):
        points(connection, "default", GetPoints(experiment=experiment, metric="n"))
    for cursor in ("x", "1.2.3", "1.2.0.-1.w", f"{1 << 64}.0.1.1.w"):
        with pytest.raises(InvalidInput, match="no cursor"):
            points(connection, "default", GetPoints(experiment=experiment, metric="m", cursor=cursor))


def test_what_is_archived_is_drawn_but_not_listed(connection: sa.Connection) -> None:
    experiment = new_id()
    put_experiment(connection, experiment, "m")
    steps = np.arange(1000, dtype=np.int64)
    put_chunk(connection, put_series(connection, experiment, "m"), 0, Samples(steps, steps / 1, np.sin(steps)))
    connection.execute(sa.update(t.chunk_blobs).values(data=None))
    curve = asked(connection, GetChart(experiments=(experiment,), pixels=1000)).curves[0]
    assert max(numbers(curve)) == significant(np.sin(steps)).max()
    with pytest.raises(NotFoundError, match="archive"):
        points(connection, "default", GetPoints(experiment=experiment, metric="m"))


@given(st.floats(allow_nan=True, width=64))
@settings(max_examples=300)
def test_seven_digits(value: float) -> None:
    short = float(significant(np.array([value]))[0])
    if not math.isfinite(value):
        assert repr(short) == repr(value)
        return
    assert short == pytest.approx(value, rel=6e-7, abs=5e-324) or math.isinf(short)
    digits = repr(short).partition("e")[0].replace(".", "").replace("-", "").strip("0")
    assert len(digits) <= 7 or abs(short) < 1e-300


async def fill(bench: Any, make: Any, origin: Origin, values: list[float], size: int, first: int = 1) -> None:
    for begin in range(0, len(values), size):
        records = [(begin + n, float(begin + n), {"a": v}) for n, v in enumerate(values[begin : begin + size])]
        await bench.batch(origin, make.metric_batch("w", first + begin, records))


async def test_what_was_just_logged_is_in_every_answer(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    wanted = [math.sin(n) for n in range(6000)]
    for first in range(0, 6000, 1500):
        values = wanted[first : first + 1500]
        records = [(first + n, 1.7e9 + first + n, {"a": v}) for n, v in enumerate(values)]
        await bench.batch(origin, make.metric_batch("w", first + 1, records))
        count = first + 1500
        chart_ = await bench.ask(GetChart(experiments=(origin.experiment,), pixels=5000))
        assert (chart_.curves[0].points, chart_.curves[0].steps[-1]) == (count, count - 1)
        assert max(numbers(chart_.curves[0])) == max(significant(np.array(wanted[:count])))
        page = await bench.ask(GetPoints(experiment=origin.experiment, metric="a", from_step=count - 3))
        assert page.values == tuple(wanted[count - 3 : count])
    await bench.batch(Origin("default", origin.experiment, 2, 0), make.metric_batch("w", 1, [(5990, 1.0, {"a": 7.0})]))
    await bench.batch(origin, make.metric_batch("w", 6001, [(5990, 2e9, {"a": 8.0}), (6000, 2e9, {"a": 9.0})]))
    by_time = await bench.ask(GetChart(experiments=(origin.experiment,), axis="time", low=1.8e9))
    assert by_time.curves[0].values == (9.0,)
    page = await bench.ask(GetPoints(experiment=origin.experiment, metric="a", from_step=5989))
    assert page.values == (wanted[5989], 7.0, *wanted[5991:], 9.0)
    first_attempt = await bench.ask(GetPoints(experiment=origin.experiment, metric="a", from_step=5989, attempt=1))
    assert first_attempt.values == (wanted[5989], wanted[5990], 8.0, *wanted[5991:], 9.0)


async def test_values_that_are_no_numbers_are_kept(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    await fill(bench, make, origin, [1.0, math.inf, -math.inf, math.nan], 2)
    curve = (await bench.ask(GetChart(experiments=(origin.experiment,)))).curves[0]
    assert curve.values == (1.0, "Infinity", "-Infinity", "NaN")
    page = await bench.ask(GetPoints(experiment=origin.experiment, metric="a"))
    assert page.values == curve.values
    summary = (await bench.ask(ListMetrics(experiment=origin.experiment))).metrics[0]
    assert math.isnan(summary.last)
    assert (summary.minimum, summary.maximum, summary.points) == (-math.inf, math.inf, 4)


async def test_attempts_and_ranks(bench: Any, make: Any) -> None:
    experiment = new_id()
    first, again, other = (Origin("default", experiment, a, r) for a, r in ((1, 0), (2, 0), (1, 1)))
    await fill(bench, make, other, [9.0, 9.0], 2)
    await fill(bench, make, first, [1.0, 5.0, 2.0], 3)
    await bench.batch(again, make.metric_batch("w", 1, [(1, 9.0, {"a": 0.5}), (2, 9.1, {"a": 0.25})]))
    query = GetChart(experiments=(experiment,), metrics=("a",))
    curve = (await bench.ask(query)).curves[0]
    assert (curve.rank, curve.steps, curve.values) == (0, (0, 1, 2), (1.0, 0.5, 0.25))
    ranked = (await bench.ask(query.model_copy(update={"rank": 1}))).curves[0]
    assert ranked.values == (9.0, 9.0)
    summary = (await bench.ask(ListMetrics(experiment=experiment))).metrics[0]
    assert (summary.last, summary.minimum, summary.maximum, summary.points) == (0.25, 0.25, 1.0, 5)
    assert (await bench.ask(query.model_copy(update={"rank": 7}))).curves == ()


async def test_names_that_no_database_likes(bench: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    names = ["nul\x00", "é" * 3000, "é" * 3001, "", "a'b\"c"]
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {n: float(i) for i, n in enumerate(names)})]))
    curves = (await bench.ask(GetChart(experiments=(origin.experiment,)))).curves
    assert len({curve.metric for curve in curves}) == len(names)
    assert all(len(curve.metric) <= 250 for curve in curves)


async def test_pages_of_very_many_metrics(bench: Any, make: Any) -> None:
    experiment = new_id()
    declared = {"metrics": {"zz/best": "max"}}
    await bench.event(
        ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"], **declared)), 1
    )
    names = [f"loss/{place:05}" for place in range(2300)] + ["zz/best"]
    for begin in range(0, len(names), 1000):
        row = {name: float(begin) for name in names[begin : begin + 1000]}
        origin = Origin("default", experiment, 1, 0)
        await bench.batch(origin, make.metric_batch("w", 1 + begin // 1000, [(begin, 1.0, row)]))
    query, found = ListMetrics(experiment=experiment, limit=1000), []
    while True:
        page = await bench.ask(query)
        found += [metric.name for metric in page.metrics]
        if page.cursor is None:
            break
        query = query.model_copy(update={"cursor": page.cursor})
    assert found == names
    some = await bench.ask(ListMetrics(experiment=experiment, contains="LOSS/0229"))
    assert [metric.name for metric in some.metrics] == [f"loss/0229{digit}" for digit in range(10)]
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.metric_count, len(view.metrics)) == (2301, 500)
    assert (view.metrics[0].name, view.metrics[0].best, view.metrics[1].name) == ("zz/best", 2000.0, "loss/00000")


def test_an_extreme_that_a_tail_hides_makes_room_for_the_next_one(connection: sa.Connection) -> None:
    experiment, steps = new_id(), np.arange(2500, dtype=np.int64)
    put_experiment(connection, experiment, "m")
    first, second = (put_series(connection, experiment, "m", attempt) for attempt in (1, 2))
    values = np.zeros(2500)
    values[100], values[101] = 9.0, 8.0
    put_chunk(connection, first, 0, Samples(steps, steps / 1, values))
    query = GetChart(experiments=(experiment,), pixels=4)
    assert 9.0 in asked(connection, query).curves[0].values
    put_tail(connection, experiment, 2, "w", [(second, Samples(steps[100:101], np.ones(1), np.zeros(1)))])
    shown = asked(connection, query).curves[0].values
    assert 8.0 in shown
    assert 9.0 not in shown


def test_many_writers_are_read_with_few_statements(connection: sa.Connection) -> None:
    experiment = new_id()
    put_experiment(connection, experiment, "loss")
    for n in range(600):
        series = put_series(connection, experiment, "loss", attempt=1 + n % 2, writer=f"w{n}")
        steps = np.arange(n, n + 3)
        put_chunk(connection, series, 0, Samples(steps, steps * 1.0, steps * 2.0))
    said: list[str] = []
    note = lambda *args: said.append(args[2])  # noqa: E731
    sa.event.listen(connection, "before_cursor_execute", note)
    found, cursor = 0, None
    while True:
        query = GetPoints(experiment=experiment, metric="loss", limit=1000, cursor=cursor)
        page = points(connection, "default", query)
        found, cursor = found + len(page.steps), page.cursor
        if cursor is None:
            break
    sa.event.remove(connection, "before_cursor_execute", note)
    assert found == 1800
    assert len(said) < 60
