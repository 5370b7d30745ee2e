"""Sweeps that go on: after their budget, after a stop, for longer; and sweeps that begin with what others taught."""

from __future__ import annotations

from typing import Any

from incl_hpo.testing_runs import FAILED, Ran, quadratic, sweep_spec
from incl_shared.events import ExperimentSubmitted, SweepFinished, SweepResumed, SweepResumeRequested, SweepState
from incl_shared.queries.hpo import GetSweep
from incl_shared.testing.wait import until


async def ask_resume(sweeps: Any, sweep: str, project: str = "default", **changes: Any) -> None:
    event = SweepResumeRequested(sweep=sweep, **changes)
    await sweeps.client.publish_event(event, project=project, user="ann")


async def ended(sweeps: Any, sweep: str, times: int) -> Any:
    """Its view once it has come to an end so many times."""

    def over() -> bool:
        return sum(isinstance(one, SweepFinished) and one.sweep == sweep for one in sweeps.runs.events) == times

    await until(over, 30)
    return await sweeps.view(sweep)


async def test_a_sweep_that_is_over_goes_on_with_more_trials(start: Any, database_url: str) -> None:
    sweeps = await start(database_url)
    sweep = await sweeps.submit(sweep_spec(budget={"trials": 9}))
    await ended(sweeps, sweep, 1)
    before = {trial.trial: trial.parameters for trial in await sweeps.trials(sweep)}
    await ask_resume(sweeps, sweep, trials=14, parallel=2)
    view = await ended(sweeps, sweep, 2)
    assert (view.row.state, view.row.trials, view.row.budget, view.spec.parallel) == (SweepState.FINISHED, 14, 14, 2)
    after = {trial.trial: trial.parameters for trial in await sweeps.trials(sweep)}
    assert {number: after[number] for number in before} == before
    assert len({tuple(point.values()) for point in after.values()}) == 14, "nothing is tried again"
    (resumed,) = [event for event in sweeps.runs.events if isinstance(event, SweepResumed)]
    assert (resumed.budget.trials, resumed.parallel, resumed.user) == (14, 2, "ann")


async def test_a_stopped_sweep_goes_on_to_its_budget(start: Any, sqlite_url: str) -> None:
    hold = [True]
    sweeps = await start(sqlite_url, lambda event: None if hold[0] else quadratic(event))
    sweep = await sweeps.submit(sweep_spec(budget={"trials": 10}))
    await until(lambda: len(sweeps.runs.running) == 4)
    await sweeps.ask_stop(sweep)
    assert (await ended(sweeps, sweep, 1)).row.state is SweepState.STOPPED
    hold[0] = False
    await ask_resume(sweeps, sweep)
    view = await ended(sweeps, sweep, 2)
    assert (view.row.state, view.row.trials) == (SweepState.FINISHED, 10)
    assert view.row.message == "10 trials, 6 of them with a value"


async def test_a_running_sweep_gets_a_larger_budget(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: None)
    sweep = await sweeps.submit(sweep_spec(budget={"trials": 2}))
    await until(lambda: len(sweeps.runs.running) == 2)
    await ask_resume(sweeps, sweep, trials=5, parallel=5)
    await until(lambda: len(sweeps.runs.running) == 5)
    assert (await sweeps.view(sweep)).row.state is SweepState.RUNNING


async def test_nothing_left_to_try_ends_it_again_and_strangers_have_no_say(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    sweep = await sweeps.submit(sweep_spec(budget={"trials": 2}))
    await ended(sweeps, sweep, 1)
    await ask_resume(sweeps, sweep, project="other", trials=50)
    await ask_resume(sweeps, sweep)
    view = await ended(sweeps, sweep, 2)
    assert (view.row.trials, view.row.state) == (2, SweepState.FINISHED)


async def test_a_sweep_begins_with_what_an_earlier_one_taught(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    first = await sweeps.submit(sweep_spec(budget={"trials": 20}))
    best = (await ended(sweeps, first, 1)).row.best
    taught = {tuple(trial.parameters.values()) for trial in await sweeps.trials(first)}
    few = {"budget": {"trials": 4}, "parallel": 1}
    cold = await ended(sweeps, await sweeps.submit(sweep_spec(**few)), 1)
    warm = await ended(sweeps, await sweeps.submit(sweep_spec(**few, warm_start=[first])), 1)
    assert best is not None
    assert warm.row.best.values[0] < 0.2 < cold.row.best.values[0], "it need not begin with points from anywhere"
    tried = {tuple(trial.parameters.values()) for trial in await sweeps.trials(warm.row.id)}
    assert not tried & taught


async def test_other_projects_and_objectives_teach_nothing(start: Any, sqlite_url: str) -> None:
    def script(event: ExperimentSubmitted) -> Ran:
        return FAILED if event.provenance.trial == 99 else Ran({**quadratic(event).logged, "acc": 0.5})

    sweeps = await start(sqlite_url, script)
    foreign = await sweeps.submit(sweep_spec(project="other", budget={"trials": 12}), project="other")
    other = await sweeps.submit(sweep_spec(objective={"metric": "acc", "goal": "max"}))
    await until(lambda: len([e for e in sweeps.runs.events if isinstance(e, SweepFinished)]) == 2, 30)
    assert (await sweeps.ask(GetSweep(ref=foreign), project="other")).row.trials == 12
    cold = await ended(sweeps, await sweeps.submit(sweep_spec(budget={"trials": 1})), 1)
    spec = sweep_spec(budget={"trials": 1}, warm_start=[foreign, other])
    warm = await ended(sweeps, await sweeps.submit(spec), 1)
    assert warm.row.best.parameters == cold.row.best.parameters
