"""Whatever way batches come (twice, late, overlapping, cut anew), every record is stored exactly once."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from incl_shared.bus.errors import Poison
from incl_shared.events import (
    AlertRaised,
    AttemptAssigned,
    AttemptEnded,
    AttemptSettled,
    ExperimentQueued,
    Placement,
    RankEnd,
    RankTimes,
    WriterCount,
)
from incl_shared.ids import new_id
from incl_shared.queries.tracker import GetExperiment, GetLogs, GetPoints, GetWatermarks, ListMetrics
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason
from incl_shared.subjects import Origin
from incl_tracker.domain import ranges
from incl_tracker.domain.batches import BadBatch, cut_metrics, decode_logs, decode_metrics

NAMES = ("loss", "acc", "val/acc")


@dataclass(frozen=True)
class Piece:
    """A batch of a history: which stream, where it was cut."""

    stream: str
    first: int
    count: int


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Any], int, list[Piece], int]:
    """(records of a writer, lines, pieces that cover both in some order, where the end is said)."""
    kinds = st.one_of(
        st.dictionaries(st.sampled_from(NAMES), st.floats(allow_nan=True, width=32), max_size=3),
        st.just("alert"),
        st.just("config"),
    )
    kind_list = draw(st.lists(kinds, min_size=1, max_size=30))
    records = [_record(number, kind) for number, kind in enumerate(kind_list, 1)]
    lines = draw(st.integers(0, 30))
    pieces: list[Piece] = []
    for stream, count in (("metrics", len(records)), ("logs", lines)):
        for _ in range(draw(st.integers(1, 3))):
            pieces += _cut(draw, stream, count)
    order = draw(st.permutations(pieces))
    return records, lines, list(order), draw(st.integers(0, len(order)))


def _record(number: int, kind: Any) -> Any:
    if kind == "alert":
        return {"k": "a", "t": float(number), "title": f"alert {number}"}
    if kind == "config":
        return {"k": "p", "t": float(number), "v": {"lr": number}}
    return (number, float(number), kind)


def _cut(draw: st.DrawFn, stream: str, count: int) -> list[Piece]:
    """One life of a shipper: it cuts all records anew, as it likes."""
    pieces, position = [], 1
    while position <= count:
        size = min(draw(st.integers(1, 12)), count - position + 1)
        pieces.append(Piece(stream, position, size))
        position += size
    return pieces


@given(history=histories())
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_record_is_stored_once(bench: Any, make: Any, history: Any) -> None:
    records, lines, pieces, end_at = history
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    placement = Placement(rank=0, node="n1", address="127.0.0.1")
    await bench.event(AttemptAssigned(experiment=experiment, attempt=1, placements=(placement,)), 2)
    have: dict[str, set[int]] = {"metrics": set(), "logs": set()}
    wanted = {"metrics": len(records), "logs": lines}
    await bench.relayed()
    for place, piece in enumerate([*pieces, None]):
        if place == end_at:
            await _end(bench, experiment, len(records), lines)
        if piece is not None:
            await _deliver(bench, make, origin, piece, records)
            have[piece.stream] |= set(range(piece.first, piece.first + piece.count))
            writer = "w" if piece.stream == "metrics" else "tail"
            assert bench.told.marks[(origin, f"{piece.stream}/{writer}")] == _contiguous(have[piece.stream])
        complete = all(len(have[stream]) == wanted[stream] for stream in have)
        settled = await bench.emitted(AttemptSettled)
        assert len(settled) == int(complete and place >= end_at)
    await _check(bench, origin, records, lines, settled[0])
    assert len(await bench.emitted(AlertRaised)) == sum(_is(r, "a") for r in records)


async def _deliver(bench: Any, make: Any, origin: Origin, piece: Piece, records: list[Any]) -> None:
    if piece.stream == "metrics":
        cut = records[piece.first - 1 : piece.first - 1 + piece.count]
        await bench.batch(origin, make.metric_batch("w", piece.first, cut))
    else:
        texts = [f"line {n}" for n in range(piece.first, piece.first + piece.count)]
        await bench.batch(origin, make.log_batch("tail", piece.first, texts))


async def _end(bench: Any, experiment: str, records: int, lines: int) -> None:
    counts = (WriterCount(writer="w", records=records), WriterCount(writer="tail", records=lines))
    rank = RankEnd(rank=0, node="n1", reason=EndReason.COMPLETED, writers=counts, times=RankTimes(rank=0))
    event = AttemptEnded(experiment=experiment, attempt=1, reason=EndReason.COMPLETED, retry=False, ranks=(rank,))
    await bench.event(event, 3)


async def _check(bench: Any, origin: Origin, records: list[Any], lines: int, settled: AttemptSettled) -> None:
    truth: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record[2].items() if isinstance(record, tuple) else ():
            truth.setdefault(name, []).append((record[0], value))
    found = {}
    for metric in (await bench.ask(ListMetrics(experiment=origin.experiment))).metrics:
        page = await bench.ask(GetPoints(experiment=origin.experiment, metric=metric.name))
        found[metric.name] = list(zip(page.steps, map(float, page.values), strict=True))
    assert repr(found) == repr(dict(sorted(truth.items())))
    logs = await bench.ask(GetLogs(experiment=origin.experiment))
    assert sorted(line.text for line in logs.lines) == sorted(f"line {n}" for n in range(1, lines + 1))
    points = sum(len(values) for values in truth.values())
    assert (settled.points, settled.lines, settled.gaps) == (points, lines, 0)
    view = await bench.ask(GetExperiment(ref=origin.experiment))
    assert (view.points, view.lines, view.gaps, view.settled) == (points, lines, 0, True)
    configs = [r for r in records if _is(r, "p")]
    assert view.config == ({"lr": str(configs[-1]["v"]["lr"])} if configs else {})
    marks = await bench.ask(GetWatermarks(experiment=origin.experiment, attempt=1, rank=0))
    assert marks.stored["metrics/w"] == len(records)


def _is(record: Any, kind: str) -> bool:
    return isinstance(record, dict) and record["k"] == kind


def _contiguous(have: set[int]) -> int:
    number = 0
    while number + 1 in have:
        number += 1
    return number


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 20)), max_size=25), st.integers(1, 60), st.integers(0, 30))
def test_ranges_are_sets(parts: list[tuple[int, int]], first: int, more: int) -> None:
    stored: list[ranges.Range] = []
    truth: set[int] = set()
    for begin, length in parts:
        stored = ranges.merged(stored, begin, begin + length)
        truth |= set(range(begin, begin + length + 1))
    assert {n for a, b in stored for n in range(a, b + 1)} == truth
    assert all(b + 1 < c for (_, b), (c, _) in pairwise(stored))
    holes = ranges.missing(stored, first, first + more)
    assert {n for a, b in holes for n in range(a, b + 1)} == set(range(first, first + more + 1)) - truth
    assert ranges.total(stored) == len(truth)
    assert ranges.total(stored, 30) == len({n for n in truth if n <= 30})
    assert ranges.watermark(stored) == _contiguous(truth)
    assert ranges.highest(stored) == max(truth, default=0)


async def test_a_sparse_column_that_cannot_be_cut_is_a_dead_letter(lite: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    records = [(n, float(n), {"a": 1.0} if n % 2 else {}) for n in range(1, 9)]
    await lite.batch(origin, make.metric_batch("w", 1, records[:4], offsets=False))
    with pytest.raises(Poison, match="no offsets"):
        await lite.batch(origin, make.metric_batch("w", 3, records[2:], offsets=False))
    await lite.batch(origin, make.metric_batch("w", 5, records[4:], offsets=False))
    page = await lite.ask(GetPoints(experiment=origin.experiment, metric="a"))
    assert page.steps == (1, 3, 5, 7)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x90",
        json.dumps({"version": 1}).encode(),
    ],
)
def test_what_is_no_batch_is_refused(payload: bytes) -> None:
    with pytest.raises(BadBatch):
        decode_metrics(payload)
    with pytest.raises(BadBatch):
        decode_logs(payload)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 9}, "version 9"),
        ({"first": 0}, "out of bounds"),
        ({"count": 0}, "out of bounds"),
        ({"writer": "a/b"}, "is no writer"),
    ],
)
async def test_a_wrong_batch_is_a_dead_letter(lite: Any, make: Any, change: dict[str, Any], reason: str) -> None:
    import msgspec

    batch = msgspec.structs.replace(make.metric_batch("w", 1, [(1, 1.0, {"a": 1.0})]), **change)
    with pytest.raises(Poison, match=reason):
        await lite.batch(Origin("default", new_id(), 1, 0), batch)


def test_columns_of_wrong_lengths_are_refused(make: Any) -> None:
    import msgspec

    def decoded(**changes: Any) -> Any:
        group = msgspec.structs.replace(batch.groups[0], **changes)
        return decode_metrics(msgspec.msgpack.encode(msgspec.structs.replace(batch, groups=[group])))

    batch = make.metric_batch("w", 1, [(1, 1.0, {"a": 1.0}), (2, 2.0, {})])
    for changes in ({"values": b""}, {"values": b"1"}, {"times": b""}, {"names": ["a", "b"]}, {"names": ["a", "a"]}):
        with pytest.raises(BadBatch):
            decoded(**changes)
    for offsets in (b"\x00" * 8, b"\x00" * 3, b"\x02\x00\x00\x00"):
        with pytest.raises(BadBatch):
            decoded(offsets=offsets)
    assert len(cut_metrics(decoded(), [(1, 1)]).tables) == 1
    assert cut_metrics(decoded(), [(2, 2)]).tables == []


async def test_a_record_that_cannot_be_read_costs_no_other(lite: Any, make: Any) -> None:
    origin = Origin("default", new_id(), 1, 0)
    bad: list[Any] = [{"k": "a"}, {"no": 1}, {"k": "p", "t": "soon", "v": {}}, {"k": "p", "t": 1.0, "v": [1]}]
    records = [*bad, {"k": "a", "title": "good"}, (1, 1.0, {"a": math.inf})]
    await lite.batch(origin, make.metric_batch("w", 1, records))
    alerts = await lite.emitted(AlertRaised)
    assert [(a.title, a.level) for a in alerts] == [("good", "info")]  # type: ignore[attr-defined]
    assert lite.told.marks[(origin, "metrics/w")] == len(records)


async def test_alerts_stand_in_the_view_once_newest_last(bench: Any, make: Any) -> None:
    experiment = new_id()
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    before = await bench.ask(GetExperiment(ref=experiment))
    bench.told.changes.clear()
    said: list[Any] = [
        {"k": "a", "t": 7.0, "title": "late", "text": "x\x00" * 2000, "level": "error"},
        {"k": "a", "t": 5.0, "title": "early"},
        {"k": "a", "t": math.inf, "title": "timeless", "level": "loud"},
    ]
    batch = make.metric_batch("w", 1, said)
    for _ in range(2):
        await bench.batch(Origin("default", experiment, 1, 1), batch)
    view = await bench.ask(GetExperiment(ref=experiment))
    shown = [(a.attempt, a.rank, a.time, a.title, a.level) for a in view.alerts]
    assert shown == [
        (1, 1, 5.0, "early", "info"),
        (1, 1, 7.0, "late", "error"),
        (1, 1, bench.clock.now(), "timeless", "info"),
    ]
    assert len(view.alerts[1].text) == 1000
    assert "\x00" not in view.alerts[1].text
    assert view.version > before.version
    assert experiment in bench.told.changes


async def test_a_view_has_the_newest_alerts(lite: Any, make: Any) -> None:
    experiment = new_id()
    await lite.event(ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["x"])), 1)
    said = [{"k": "a", "t": float(n), "title": f"{n}"} for n in range(60)]
    await lite.batch(Origin("default", experiment, 1, 0), make.metric_batch("w", 1, said))
    view = await lite.ask(GetExperiment(ref=experiment))
    assert [a.title for a in view.alerts] == [str(n) for n in range(10, 60)]
