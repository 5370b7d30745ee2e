"""Early stopping: the rules by themselves, and trials that are stopped at their rungs, once and for good."""

from __future__ import annotations

import math
from typing import Any

import pytest

from incl_hpo.domain.pruning import goes_on, next_rung, rungs_of
from incl_hpo.testing_runs import Ran, sweep_spec
from incl_hpo.watching import UNHEARD_S
from incl_shared.events import SweepState, TrialPruned, TrialState
from incl_shared.sweep import EarlyStopping, Stopper
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.wait import until

ASHA = EarlyStopping(min=1, eta=2)


def test_rungs_are_given_or_follow_from_the_first_complete_trial() -> None:
    assert rungs_of(EarlyStopping(min=2, eta=3), 0)[:4] == (2, 6, 18, 54)
    assert rungs_of(EarlyStopping(), 0) == ()
    assert rungs_of(EarlyStopping(), 90) == (10, 30)
    assert rungs_of(EarlyStopping(), 2) == (), "it logged too little to be judged by"
    assert (next_rung((2, 6), 0), next_rung((2, 6), 2), next_rung((2, 6), 6)) == (2, 6, None)


@pytest.mark.parametrize(
    ("name", "eta", "value", "others", "kept"),
    [
        (Stopper.ASHA, 3, 5.0, [], True),
        (Stopper.ASHA, 3, 5.0, [1.0], True),
        (Stopper.ASHA, 3, 5.0, [1.0, 2.0], False),
        (Stopper.ASHA, 3, 0.5, [1.0, 2.0], True),
        (Stopper.ASHA, 3, 1.5, [1.0, 2.0, 3.0, 4.0, 5.0], True),
        (Stopper.ASHA, 3, 2.5, [1.0, 2.0, 3.0, 4.0, 5.0], False),
        (Stopper.MEDIAN, 3, 2.0, [1.0, 3.0, 4.0], True),
        (Stopper.MEDIAN, 3, 3.5, [1.0, 3.0, 4.0], False),
        (Stopper.ASHA, 3, None, [], False),
        (Stopper.ASHA, 3, 5.0, [None, None], True),
    ],
)
def test_who_goes_on(name: Stopper, eta: int, value: float | None, others: list[float | None], kept: bool) -> None:
    assert goes_on(EarlyStopping(name=name, eta=eta), value, others) is kept


async def four(start: Any, url: str, clock: Any = None, **changes: Any) -> tuple[Any, str, list[str]]:
    """Four trials that run."""
    sweeps = await start(url, lambda _: None, clock=clock)
    spec = sweep_spec(budget={"trials": 4}, **{"early_stopping": ASHA, **changes})
    sweep = await sweeps.submit(spec)
    await until(lambda: len(sweeps.runs.running) == 4)
    return sweeps, sweep, [event.experiment for event in sweeps.runs.trials()]


async def test_trials_that_are_behind_are_stopped(start: Any, database_url: str) -> None:
    sweeps, sweep, experiments = await four(start, database_url)
    for number, value in ((0, 1.0), (1, 2.0), (2, 0.5), (3, 3.0)):
        await sweeps.runs.log(experiments[number], 1, value)
        await until(lambda: _rung(sweeps, sweep, number), what=f"trial {number} is judged")  # noqa: B023
    await until(lambda: sweeps.runs.stops == [experiments[1], experiments[3]], what="those behind are stopped")
    await sweeps.runs.log(experiments[0], 2, 1.0)
    await until(lambda: _rung(sweeps, sweep, 0, 2))
    for number in (0, 2):
        await sweeps.runs.log(experiments[number], 8, 0.1 * (number + 1))
        await sweeps.runs.end(experiments[number], Ran({"loss": 0.1 * (number + 1)}))
    view = await sweeps.finished(sweep)
    assert (view.row.state, view.row.counts) == (SweepState.FINISHED, {TrialState.COMPLETE: 2, TrialState.PRUNED: 2})
    assert view.row.best is not None
    assert view.row.best.trial == 0
    pruned = [event for event in sweeps.runs.events if isinstance(event, TrialPruned)]
    assert [(event.trial, event.rung, event.step, event.value) for event in pruned] == [(1, 1, 1, 2.0), (3, 1, 1, 3.0)]
    assert (view.row.steps, view.row.steps_saved) == (18, 14)
    trials = await sweeps.trials(sweep)
    assert [trial.values for trial in trials] == [(0.1,), (2.0,), (0.30000000000000004,), (3.0,)]


async def _rung(sweeps: Any, sweep: str, number: int, rung: int = 1) -> bool:
    return bool((await sweeps.trials(sweep))[number].rung >= rung)


async def test_what_was_judged_once_is_not_judged_again(start: Any, sqlite_url: str) -> None:
    sweeps, sweep, experiments = await four(start, sqlite_url)
    for number, value in ((0, 1.0), (1, 0.5)):
        await sweeps.runs.log(experiments[number], 1, value)
        await until(lambda: _rung(sweeps, sweep, number))  # noqa: B023
    await sweeps.restart()
    sweeps.runs.curves[experiments[0]] = [(1, 9.0)]
    await sweeps.runs.log(experiments[0], 1, 9.0)
    await sweeps.runs.log(experiments[2], 1, 0.1)
    await until(lambda: _rung(sweeps, sweep, 2))
    await sweeps.runs.log(experiments[3], 1, 4.0)
    await until(lambda: sweeps.runs.stops)
    assert sweeps.runs.stops == [experiments[3]], "a resumed trial that logs its first step again has passed that rung"


async def test_a_trial_whose_value_is_no_number_is_stopped(start: Any, sqlite_url: str) -> None:
    sweeps, _, experiments = await four(start, sqlite_url)
    await sweeps.runs.log(experiments[0], 1, math.nan)
    await until(lambda: sweeps.runs.stops == [experiments[0]])
    (event,) = await until(lambda: [one for one in sweeps.runs.events if isinstance(one, TrialPruned)])
    assert event.value is None


async def test_without_a_first_rung_nobody_is_stopped_before_a_trial_is_complete(start: Any, sqlite_url: str) -> None:
    sweeps, _, experiments = await four(start, sqlite_url, early_stopping={"name": "asha", "eta": 2})
    for number in range(4):
        await sweeps.runs.log(experiments[number], 2, float(number))
    await sweeps.runs.log(experiments[0], 8, 0.0)
    await sweeps.runs.end(experiments[0], Ran({"loss": 0.0}))
    await until(lambda: sweeps.runs.stops == experiments[2:], what="rungs at 2 and 4: the best of three goes on")
    pruned = [event for event in sweeps.runs.events if isinstance(event, TrialPruned)]
    assert [(event.trial, event.rung) for event in pruned] == [(2, 2), (3, 2)]


async def test_a_live_message_that_is_lost_only_delays(start: Any, sqlite_url: str, fake_clock: FakeClock) -> None:
    sweeps, sweep, experiments = await four(start, sqlite_url, fake_clock)
    await until(lambda: _asked(sweeps, experiments))
    await sweeps.runs.log(experiments[0], 1, 1.0, live=False)
    fake_clock.advance(UNHEARD_S + 1)
    await until(lambda: _rung(sweeps, sweep, 0))


def _asked(sweeps: Any, experiments: list[str]) -> bool:
    return set(experiments) <= set(sweeps.app.conductor.watch._looked)


async def test_none_stops_nobody(start: Any, sqlite_url: str) -> None:
    sweeps, sweep, experiments = await four(start, sqlite_url, early_stopping="none")
    for number, experiment in enumerate(experiments):
        await sweeps.runs.log(experiment, 1, float(number))
        await sweeps.runs.end(experiment, Ran({"loss": float(number)}))
    assert (await sweeps.finished(sweep)).row.counts == {TrialState.COMPLETE: 4}
    assert sweeps.runs.stops == []
