"""AttemptSettled: said once, with counts that were counted."""

from __future__ import annotations

import time
from typing import Any

import pytest

from incl_shared.auth.names import job_principal
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
from incl_shared.queries.tracker import GetExperiment, GetWatermarks
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason
from incl_shared.subjects import Origin
from incl_tracker import settling
from incl_tracker.chores import Settler
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


async def test_what_still_comes_is_waited_for_however_long_it_takes(bench: Any, make: Any) -> None:
    experiment = await run(bench, (rank(0, w=10),))
    origin = Origin("default", experiment, 1, 0)
    for n in range(1, 10):
        await bench.batch(origin, make.metric_batch("w", n, [(n, float(n), {"a": 1.0})]))
        bench.clock.advance(50.0)
        assert await bench.settle_due() == 0, f"after {n * 50} s"
    await bench.batch(origin, make.metric_batch("w", 10, [(10, 10.0, {"a": 1.0})]))
    [settled] = await bench.emitted(AttemptSettled)
    assert (settled.points, settled.gaps) == (10, 0)


async def test_what_a_later_attempt_says_keeps_no_earlier_one_waiting(bench: Any, make: Any) -> None:
    experiment = await run(bench, (rank(0, w=10),))
    await bench.batch(Origin("default", experiment, 1, 0), make.metric_batch("w", 1, [(1, 1.0, {"a": 1.0})]))
    later = Origin("default", experiment, 2, 0)
    for n in range(1, 8):
        bench.clock.advance(9.0)
        await bench.batch(later, make.metric_batch("w", n, [(n, float(n), {"a": 2.0})]))
    assert await bench.settle_due() == 1
    [settled] = await bench.emitted(AttemptSettled)
    assert (settled.attempt, settled.gaps) == (1, 9)


async def test_a_shipper_that_asks_is_waited_for_but_not_for_ever(bench: Any) -> None:
    experiment = await run(bench, (rank(0, w=10),))
    ask = GetWatermarks(experiment=experiment, attempt=1, rank=0)
    for _ in range(100):
        bench.clock.advance(10.0)
        await bench.ask(ask, user=job_principal(experiment, 1, 0))
        assert await bench.settle_due() == 0
    for _ in range(300):
        bench.clock.advance(10.0)
        await bench.ask(ask, user=job_principal(experiment, 1, 0))
        await bench.settle_due()
    [settled] = await bench.emitted(AttemptSettled)
    assert settled.gaps == 10


async def test_time_in_which_nothing_could_come_counts_against_nobody(lite: Any) -> None:
    healthy, told = True, []
    settler = Settler(
        lite.database, lambda *place: told.append(place), lambda: healthy, patience_s=60.0, every_s=1.0
    )  # fmt: skip
    experiment = await run(lite, (rank(0, w=10),))

    async def rounds(seconds: int) -> None:
        for _ in range(seconds):
            lite.clock.advance(1.0)
            await settler.round()

    await rounds(50)
    healthy = False
    await rounds(500)
    healthy = True
    await rounds(50)
    lite.clock.advance(1_000.0)
    await rounds(50)
    assert told == []
    await rounds(20)
    assert told == [("default", experiment)]


async def test_the_rest_of_many_writers_is_not_counted_anew_with_each_batch(
    lite: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    true_tally = settling.tally
    monkeypatch.setattr(settling, "tally", lambda *said: counted.append(1) or true_tally(*said))
    experiment = await run(lite, (rank(0, **{f"w{n}": 1 for n in range(300)}),))
    for n in range(300):
        await lite.batch(Origin("default", experiment, 1, 0), make.metric_batch(f"w{n}", 1, [(n, 1.0, {"a": 1.0})]))
    [settled] = await lite.emitted(AttemptSettled)
    assert (settled.points, settled.gaps) == (300, 0)
    assert len(counted) < 60


def test_counting_many_writers_takes_no_time() -> None:
    said = [Wrote(0, M, f"w{n}", 1, 0) for n in range(50_000)]
    stored = [Stored(0, M, f"w{n}", ((1, 1),), 0) for n in range(50_000)]
    began = time.process_time()
    assert tally(said, stored) == Tally(0, 0)
    assert time.process_time() - began < 2.0


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


async def test_counts_that_no_database_holds_are_no_poison(bench: Any) -> None:
    many = tuple(WriterCount(writer=f"w{n}", records=2**70, stream="metrics", dropped=2**63) for n in range(3))
    end = RankEnd(rank=0, node="n", reason=EndReason.COMPLETED, writers=many, times=RankTimes(rank=0))
    experiment = await run(bench, (end,))
    bench.clock.advance(61)
    assert await bench.settle_due() == 1
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.settled
    assert view.gaps > 0


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
