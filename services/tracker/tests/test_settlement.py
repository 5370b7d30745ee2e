"""AttemptSettled: said once, with counts that were counted."""

from __future__ import annotations

from typing import Any

import pytest

from incl_shared.events import (
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
from incl_shared.queries.tracker import GetExperiment
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason
from incl_shared.subjects import Origin
from incl_tracker.domain.settlement import Stored, Tally, Wrote, tally

M, L = "metrics", "logs"


@pytest.mark.parametrize(
    ("said", "stored", "result"),
    [
        ([], [], Tally(0, 0)),
        ([Wrote(0, M, "w", 5, 0)], [], Tally(5, 0)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(0, M, "w", ((1, 5),), 0)], Tally(0, 0)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(0, M, "w", ((1, 2), (4, 4)), 0)], Tally(2, 0)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(0, L, "w", ((1, 5),), 0)], Tally(5, 0)),
        ([Wrote(0, "", "w", 5, 0)], [Stored(0, L, "w", ((1, 5),), 0)], Tally(0, 0)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(1, M, "w", ((1, 5),), 0)], Tally(5, 0)),
        ([Wrote(0, M, "w", 5, 3)], [Stored(0, M, "w", ((1, 5),), 3)], Tally(0, 3)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(0, M, "w", ((1, 5),), 4)], Tally(0, 4)),
        ([Wrote(0, M, "w", 5, 0)], [Stored(0, M, "w", ((1, 9),), 0)], Tally(0, 0)),
        ([], [Stored(0, M, "w", ((1, 2), (5, 6)), 1)], Tally(2, 1)),
        ([Wrote(0, "", "w", 0, 0)], [], Tally(0, 0)),
    ],
)
def test_counting(said: list[Wrote], stored: list[Stored], result: Tally) -> None:
    assert tally(said, stored) == result


async def run(bench: Any, ranks: tuple[RankEnd, ...], before: Any = None) -> str:
    """An experiment with one attempt that ended so."""
    experiment = new_id()
    spec = ExperimentSpec(command=["x"])
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=spec), 1)
    places = tuple(Placement(rank=r.rank, node=r.node, address="127.0.0.1") for r in ranks)
    await bench.event(AttemptAssigned(experiment=experiment, attempt=1, placements=places), 2)
    if before is not None:
        await before(experiment)
    end = AttemptEnded(experiment=experiment, attempt=1, reason=ranks[0].reason, retry=False, ranks=ranks)
    await bench.event(end, 3)
    return experiment


def rank(number: int, reason: EndReason = EndReason.COMPLETED, **writers: int) -> RankEnd:
    counts = tuple(WriterCount(writer=w, records=n) for w, n in writers.items())
    return RankEnd(rank=number, node=f"n{number}", reason=reason, writers=counts, times=RankTimes(rank=number))


async def test_missing_records_are_waited_for_and_then_counted(bench: Any, make: Any) -> None:
    experiment = await run(bench, (rank(0, w=10, tail=3),))
    origin = Origin("default", experiment, 1, 0)
    await bench.batch(origin, make.metric_batch("w", 1, [(n, float(n), {"a": 1.0}) for n in range(1, 8)]))
    bench.clock.advance(59.0)
    assert await bench.settle_due() == 0
    bench.clock.advance(2.0)
    assert await bench.settle_due() == 1
    assert await bench.settle_due() == 0
    [settled] = await bench.emitted(AttemptSettled)
    assert settled == AttemptSettled(experiment=experiment, attempt=1, points=7, lines=0, gaps=6)
    await bench.batch(origin, make.metric_batch("w", 6, [(n, float(n), {"a": 1.0}) for n in range(6, 11)]))
    await bench.batch(origin, make.log_batch("tail", 1, ["a", "b", "c"]))
    assert len(await bench.emitted(AttemptSettled)) == 1, "it is said once, whatever comes later"
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.points, view.lines, view.gaps, view.settled) == (10, 3, 0, True)


async def test_a_rank_that_wrote_nothing_settles_at_once(bench: Any) -> None:
    await run(bench, (rank(0, EndReason.IMAGE), rank(1, EndReason.STOPPED)))
    assert len(await bench.emitted(AttemptSettled)) == 1


async def test_a_lost_rank_is_waited_for_as_nobody_knows_what_it_wrote(bench: Any, make: Any) -> None:
    experiment = await run(bench, (rank(0, w=1), rank(1, EndReason.LOST)))
    await bench.batch(Origin("default", experiment, 1, 0), make.metric_batch("w", 1, [(1, 1.0, {"a": 1.0})]))
    lost = Origin("default", experiment, 1, 1)
    await bench.batch(lost, make.metric_batch("v", 1, [(1, 1.0, {"a": 1.0})]))
    assert await bench.emitted(AttemptSettled) == []
    await bench.batch(lost, make.metric_batch("v", 4, [(4, 1.0, {"a": 1.0})]))
    bench.clock.advance(61.0)
    assert await bench.settle_due() == 1
    [settled] = await bench.emitted(AttemptSettled)
    assert (settled.points, settled.gaps) == (3, 2), "records 2 and 3 show by their numbers"


async def test_dropped_records_are_gaps(bench: Any, make: Any) -> None:
    async def drop(experiment: str) -> None:
        records = [(1, 1.0, {"a": 1.0}), {"k": "d", "t": 2.0, "n": 40}, (3, 3.0, {"a": 1.0})]
        await bench.batch(Origin("default", experiment, 1, 0), make.metric_batch("w", 1, records))

    await run(bench, (rank(0, w=3),), drop)
    [settled] = await bench.emitted(AttemptSettled)
    assert (settled.points, settled.gaps) == (2, 40)


async def test_telemetry_may_come_before_everything_else(bench: Any, make: Any) -> None:
    experiment = new_id()
    origin = Origin("default", experiment, 1, 0)
    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {"a": 2.0})]))
    await bench.batch(origin, make.log_batch("tail", 1, ["early"]))
    spec = ExperimentSpec(command=["x"])
    await bench.event(ExperimentQueued(experiment=experiment, user="ann", spec=spec), 1)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert (view.points, view.lines, view.metrics[0].last) == (1, 1, 2.0)


async def test_samples_of_the_node_are_stored_but_are_no_points(bench: Any, make: Any) -> None:
    async def both(experiment: str) -> None:
        records = [(1, 1.0, {"a": 1.0, "system/memory": 5.0}), (2, 2.0, {"system/memory": 6.0})]
        await bench.batch(Origin("default", experiment, 1, 0), make.metric_batch("w", 1, records))

    experiment = await run(bench, (rank(0, w=2),), both)
    [settled] = await bench.emitted(AttemptSettled)
    assert (settled.points, settled.gaps) == (1, 0)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.points == 1
    assert {metric.name: metric.last for metric in view.metrics} == {"a": 1.0, "system/memory": 6.0}
