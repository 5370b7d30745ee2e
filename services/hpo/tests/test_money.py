"""A budget of money: what trials cost is asked for, and no trial begins that it is not enough for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from incl_hpo.domain.spending import spending
from incl_hpo.domain.trial import Trial
from incl_hpo.testing_runs import Ran, quadratic, sweep_spec
from incl_shared.bus.runtime import Bus
from incl_shared.errors import UnavailableError
from incl_shared.events import SweepResumeRequested, SweepState, TrialState
from incl_shared.queries.provisioner import Costs, CostView, GetCosts
from incl_shared.settings import BusSettings
from incl_shared.subjects import Asker
from incl_shared.testing.wait import until

COSTS: dict[str, Any] = {"costs_every_s": 0.02, "tick_s": 0.05}


def trial(number: int, cost: float | None, *, over: bool) -> Trial:
    state = TrialState.COMPLETE if over else TrialState.RUNNING
    return Trial(number, f"e{number}", state, {"X": 0.0}, cost=cost)


def test_those_that_run_count_as_the_average_of_those_that_are_over() -> None:
    known = [trial(0, 2.0, over=True), trial(1, 4.0, over=True), trial(2, 0.5, over=False), trial(3, 9.0, over=False)]
    found = spending([*known, trial(4, None, over=False)])
    assert (found.spent, found.each) == (15.5, 3.0)
    assert found.committed == 6.0 + 3.0 + 9.0 + 3.0
    assert [found.room(money) for money in (20.0, 21.0, 23.9, 24.0, 30.0)] == [0, 0, 0, 1, 3]
    assert not found.exhausted(20.0), "something runs"


def test_before_a_trial_has_shown_what_it_costs_as_many_begin_as_are_wanted() -> None:
    assert spending([]).room(1.0) is None
    assert spending([trial(0, None, over=False)]).room(1.0) is None
    assert spending([trial(0, 1.0, over=False)]).room(1.0) == 0


def test_the_money_is_spent_when_nothing_runs_and_the_rest_is_less_than_a_trial() -> None:
    over = [trial(0, 2.0, over=True), trial(1, 2.0, over=True)]
    assert [spending(over).exhausted(money) for money in (4.0, 5.9, 6.0)] == [True, True, False]
    assert not spending([]).exhausted(1.0)


class Prices:
    """A provisioner that knows costs. each: what a trial that is over has cost; none: it cannot say."""

    def __init__(self, bus: Bus) -> None:
        self.each: float | None = 1.0
        self.priced = True
        self.runs: Any = None
        bus.serve(GetCosts, self.costs)

    async def costs(self, asker: Asker, query: GetCosts) -> Costs:
        if self.each is None:
            raise UnavailableError("not now")
        assert (asker.project, asker.user) == ("default", "hpo")
        views = [self._view(one, self.each) for one in query.experiments]
        return Costs(costs=tuple(views), currency="USD")

    def _view(self, experiment: str, each: float) -> CostView:
        live = experiment in self.runs.running
        return CostView(experiment=experiment, spent=each / 4 if live else each, live=live, priced=self.priced)


@pytest.fixture
async def prices(bus_settings: BusSettings) -> AsyncIterator[Prices]:
    bus = Bus(bus_settings, service="provisioner")
    made = Prices(bus)
    await bus.start()
    yield made
    await bus.stop()


def spec(money: float, **changes: Any) -> Any:
    experiment = {"command": ["true"], "instance": "n2", "env": {"EPOCHS": "3"}}
    return sweep_spec(experiment=experiment, budget={"money": money}, **changes)


async def begin(start: Any, url: str, prices: Prices, script: Any = quadratic) -> Any:
    """The service; its trials cost what they do once `prices` knows the runs."""
    sweeps = await start(url, script, **COSTS)
    prices.runs = sweeps.runs
    return sweeps


async def test_no_trial_begins_that_the_money_is_not_enough_for(start: Any, database_url: str, prices: Prices) -> None:
    sweeps = await begin(start, database_url, prices)
    view = await sweeps.finished(await sweeps.submit(spec(6.5, parallel=2)))
    row = view.row
    assert (row.state, row.trials, row.spent, row.money, row.currency) == (SweepState.FINISHED, 6, 6.0, 6.5, "USD")
    assert row.message.startswith("6.00 of 6.5 USD are spent, a trial costs 1.00: 6 trials")
    assert [one.cost for one in await sweeps.trials(row.id)] == [1.0] * 6
    sweeps.runs.events.clear()
    await sweeps.client.publish_event(SweepResumeRequested(sweep=row.id, money=8.0), project="default", user="ann")
    assert (await sweeps.finished(row.id)).row.trials == 8


async def test_while_nobody_knows_what_it_costs_no_more_begin(start: Any, sqlite_url: str, prices: Prices) -> None:
    sweeps = await begin(start, sqlite_url, prices, lambda _: None)
    sweep = await sweeps.submit(spec(100.0, parallel=2))
    await until(lambda: len(sweeps.runs.running) == 2)
    prices.each = None
    await until(lambda: sweep in sweeps.app.conductor.troubles, what="it is told")
    experiment = sweeps.runs.running[0]
    await sweeps.runs.end(experiment, Ran({"loss": 1.0}))
    await until(lambda: _complete(sweeps, sweep), what="it is learned all the same")
    assert len(sweeps.runs.submitted) == 2
    prices.each = 1.0
    await until(lambda: len(sweeps.runs.submitted) == 3, what="the next one")


async def _complete(sweeps: Any, sweep: str) -> bool:
    return bool((await sweeps.view(sweep)).row.counts.get(TrialState.COMPLETE))


async def test_what_has_no_price_ends_the_sweep_and_its_trials(start: Any, sqlite_url: str, prices: Prices) -> None:
    prices.priced = False
    sweeps = await begin(start, sqlite_url, prices, lambda _: None)
    view = await sweeps.finished(await sweeps.submit(spec(100.0, parallel=2)))
    assert (view.row.state, view.row.counts) == (SweepState.FAILED, {TrialState.STOPPED: 2})
    assert "is not known" in view.row.message
    assert "INCL_PROVISIONER_PRICES" in view.row.hint
