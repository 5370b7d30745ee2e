"""Runs outside the platform are LOST after a time without word, and back with it; our own outages do not count."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from incl_shared.events import RunEnded, RunStarted, WriterCount
from incl_shared.ids import new_id
from incl_shared.queries.tracker import ExperimentView, GetExperiment, GetWatermarks, ListExperiments
from incl_shared.states import ExperimentState
from incl_shared.subjects import Origin
from incl_tracker import tables as t
from incl_tracker.lapsing import HINT, Lapsing

GRACE = 900.0


class Watch:
    """The leases of a bench; its bus can be away."""

    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.healthy = True
        self.begin()

    def begin(self) -> None:
        """As a tracker that starts."""
        clock, database = self.bench.clock, self.bench.database
        self.lapsing = Lapsing(database, clock, grace_s=GRACE, every_s=5.0, healthy=lambda: self.healthy)

    async def spend(self, seconds: float) -> list[tuple[str, str]]:
        """Let time pass, a round every five seconds."""
        changed = []
        for _ in range(int(seconds // 5)):
            self.bench.clock.advance(5.0)
            changed += await self.lapsing.round()
        return changed


async def started(bench: Any) -> str:
    run = new_id()
    await bench.event(RunStarted(experiment=run, name="mine", started=bench.clock.now()))
    return run


async def seen(bench: Any, run: str) -> ExperimentView:
    view: ExperimentView = await bench.ask(GetExperiment(ref=run))
    return view


async def test_a_silent_run_is_lost_and_comes_back_with_a_word(bench: Any) -> None:
    run, watch = await started(bench), Watch(bench)
    assert await watch.spend(GRACE - 10) == []
    assert (await seen(bench, run)).row.state is ExperimentState.RUNNING
    assert await watch.spend(20) == [("default", run)]
    view = await seen(bench, run)
    assert (view.row.state, view.row.ended, view.settled) == (ExperimentState.LOST, None, False)
    assert "15 minutes" in view.message
    assert view.hint == HINT
    page = await bench.ask(ListExperiments(filter="status = lost"))
    assert [row.id for row in page.rows] == [run]
    assert await watch.spend(GRACE * 2) == []
    watch.lapsing.hear(run)
    assert await watch.spend(5) == [("default", run)]
    view = await seen(bench, run)
    assert (view.row.state, view.message, view.hint) == (ExperimentState.RUNNING, "", "")
    assert await watch.spend(GRACE - 10) == []
    assert await watch.spend(20) == [("default", run)]


async def test_a_run_that_gives_word_is_never_lost(lite: Any) -> None:
    run, watch = await started(lite), Watch(lite)
    for _ in range(20):
        watch.lapsing.hear(run)
        assert await watch.spend(GRACE / 2) == []
    assert (await seen(lite, run)).row.state is ExperimentState.RUNNING


async def test_only_the_runs_own_shipper_gives_word(lite: Any) -> None:
    run, heard = await started(lite), []
    lite.answers = type(lite.answers)(lite.database, lite.clock, 5.0, heard.append)
    query = GetWatermarks(experiment=run, attempt=1, rank=0)
    await lite.ask(query)
    assert heard == []
    await lite.ask(query, user=f"job_{run}-1-0")
    assert heard == [run]


async def test_our_own_outages_count_for_nobody(lite: Any) -> None:
    run, watch = await started(lite), Watch(lite)
    await watch.spend(GRACE - 20)
    watch.begin()
    assert await watch.spend(GRACE - 20) == []  # a tracker that just started waits for a whole grace
    watch.healthy = False
    assert await watch.spend(GRACE * 3) == []
    watch.healthy = True
    assert await watch.spend(GRACE - 20) == []
    lite.clock.advance(GRACE * 10)  # the machine slept
    assert await watch.spend(GRACE - 20) == []
    assert await watch.spend(30) == [("default", run)]


async def test_what_has_ended_is_not_waited_for(lite: Any) -> None:
    run, watch = await started(lite), Watch(lite)
    lost = await started(lite)
    await lite.event(RunEnded(experiment=run, state=ExperimentState.FINISHED, ended=lite.clock.now()))
    await watch.spend(GRACE + 10)
    assert (await seen(lite, run)).row.state is ExperimentState.FINISHED
    end = RunEnded(experiment=lost, state=ExperimentState.FAILED, message="killed", ended=lite.clock.now())
    await lite.event(end)
    view = await seen(lite, lost)
    assert (view.row.state, view.message, view.hint) == (ExperimentState.FAILED, "killed", "")
    watch.lapsing.hear(lost)
    watch.lapsing.hear(new_id())
    assert await watch.spend(10) == []
    assert await lite.read(lambda c: c.execute(sa.select(sa.func.count()).select_from(t.run_leases)).scalar()) == 0


async def test_a_run_that_is_gone_on_with_ends_again_with_all_its_records(bench: Any, make: Any) -> None:
    run = await started(bench)
    origin = Origin("default", run, 1, 0)

    async def ended(records: int, state: ExperimentState) -> None:
        writers = (WriterCount(writer="w", records=records, stream="metrics"),)
        await bench.event(RunEnded(experiment=run, state=state, ended=bench.clock.now(), writers=writers))

    await bench.batch(origin, make.metric_batch("w", 1, [(1, 1.0, {"x": 1.0}), (2, 2.0, {"x": 2.0})]))
    await ended(2, ExperimentState.FAILED)
    first = await seen(bench, run)
    assert (first.row.state, first.settled, first.points, first.gaps) == (ExperimentState.FAILED, True, 2, 0)
    await ended(2, ExperimentState.STOPPED)
    assert (await seen(bench, run)).row.state is ExperimentState.FAILED
    await ended(3, ExperimentState.FINISHED)
    assert not (await seen(bench, run)).settled
    await bench.batch(origin, make.metric_batch("w", 3, [(3, 3.0, {"x": 3.0})]))
    last = await seen(bench, run)
    assert (last.row.state, last.settled, last.points, last.gaps) == (ExperimentState.FINISHED, True, 3, 0)


async def test_a_clock_that_is_set_back_makes_no_grace_longer(bench: Any) -> None:
    run, watch = await started(bench), Watch(bench)
    assert await watch.spend(60) == []
    bench.clock.jump(-3600)
    assert await watch.spend(GRACE - 10) == []
    assert await watch.spend(30) == [("default", run)]
    watch.lapsing.hear(run)
    assert await watch.spend(5) == [("default", run)]
    bench.clock.jump(3600)
    assert await watch.spend(GRACE - 10) == [], "an hour that nobody lived counts against nobody"
    assert await watch.spend(30) == [("default", run)]
