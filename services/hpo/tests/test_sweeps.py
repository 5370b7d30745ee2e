"""Sweeps on a real bus and a real database, with scripted runs: what is tried, learned and told, and how they end."""

from __future__ import annotations

import math
from typing import Any

import pytest

from incl_hpo.domain.trial import experiment_id
from incl_hpo.testing_runs import FAILED, LOST, Ran, quadratic, sweep_spec
from incl_shared.errors import NotFoundError, UnsupportedError
from incl_shared.events import (
    ExperimentSubmitted,
    SweepFinished,
    SweepStarted,
    SweepState,
    TrialEnded,
    TrialState,
    TrialSuggested,
)
from incl_shared.queries.hpo import CheckAlgorithm, GetSweep, ListSweeps, ListTrials
from incl_shared.sweep import Algorithm
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.wait import until


async def test_a_sweep_finds_a_good_point_by_experiments(start: Any, database_url: str) -> None:
    sweeps = await start(database_url)
    sweep = await sweeps.submit()
    view = await sweeps.finished(sweep)
    assert (view.row.state, view.row.trials, view.row.counts) == (SweepState.FINISHED, 12, {TrialState.COMPLETE: 12})
    trials = await sweeps.trials(sweep)
    assert [trial.trial for trial in trials] == list(range(12))
    assert [trial.experiment for trial in trials] == [experiment_id(sweep, number) for number in range(12)]
    best = min(trials, key=lambda trial: trial.values[0])
    assert view.row.best == best == view.best[0]
    assert best.values[0] < 0.5
    assert best.values[0] == pytest.approx(quadratic(sweeps.runs.submitted[best.experiment]).logged["loss"])
    points = {tuple(trial.parameters.values()) for trial in trials}
    assert len(points) == 12, "none is tried twice"
    check_submissions(sweeps, sweep)
    check_events(sweeps, sweep)


def check_submissions(sweeps: Any, sweep: str) -> None:
    """Each trial is an experiment of whoever asked for the sweep, with its parameters in the environment."""
    for number, event in enumerate(sweeps.runs.trials()):
        assert (event.provenance.sweep, event.provenance.trial) == (sweep, number)
        assert (event.spec.name, event.spec.env["EPOCHS"]) == (f"quadratic-{number}", "3")
        assert event.spec.metrics == {"loss": "min"}
        asker = sweeps.runs.askers[event.experiment]
        assert (asker.project, asker.user) == ("default", "ann")


def check_events(sweeps: Any, sweep: str) -> None:
    events = [event for event in sweeps.runs.events if event.key == sweep]
    kinds = [type(event) for event in events]
    assert (kinds[0], kinds[-1]) == (SweepStarted, SweepFinished)
    assert (kinds.count(TrialSuggested), kinds.count(TrialEnded)) == (12, 12)
    texts = {event.experiment: event.spec.env for event in sweeps.runs.submitted.values()}
    for event in events:
        if isinstance(event, TrialSuggested):
            assert {name: float(texts[event.experiment][name]) for name in event.parameters} == event.parameters


async def test_never_more_than_parallel_run_at_once(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: None)
    sweep = await sweeps.submit(sweep_spec(parallel=3, budget={"trials": 7}))
    for ended in range(7):
        wanted = min(3, 7 - ended)
        await until(lambda: len(sweeps.runs.running) == wanted, what=f"{wanted} run")  # noqa: B023
        assert len(sweeps.runs.submitted) <= ended + 3
        experiment = sweeps.runs.running[0]
        await sweeps.runs.end(experiment, quadratic(sweeps.runs.submitted[experiment]))
    assert (await sweeps.finished(sweep)).row.trials == 7


async def test_the_same_seed_asks_the_same_first_points(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    first, second, other = [
        await sweeps.finished(await sweeps.submit(sweep_spec(seed=seed, parallel=1))) for seed in (3, 3, 4)
    ]
    tried = [[t.parameters for t in await sweeps.trials(view.row.id)] for view in (first, second, other)]
    assert tried[0] == tried[1] != tried[2]


async def test_initial_points_come_first(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    points = ({"X": 0.25, "Y": -1.0}, {"X": 2.0, "Y": 2.0})
    view = await sweeps.finished(await sweeps.submit(sweep_spec(initial=points, budget={"trials": 5})))
    assert [trial.parameters for trial in (await sweeps.trials(view.row.id))[:2]] == list(points)
    assert view.row.best is not None
    assert view.row.best.trial == 0


async def test_an_end_counts_only_once_its_records_are_stored(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: None)
    sweep = await sweeps.submit(sweep_spec(parallel=1, budget={"trials": 1}))
    (experiment,) = await until(lambda: sweeps.runs.running)
    await sweeps.runs.settle(experiment, 1)
    await sweeps.runs.end(experiment, Ran({"loss": 1.5}, attempts=2), settle=False)
    await until(lambda: _over(sweeps, sweep), what="the end is known")
    assert (await sweeps.trials(sweep))[0].state is TrialState.RUNNING, "attempt 2 is not settled"
    await sweeps.runs.settle(experiment, 2)
    view = await sweeps.finished(sweep)
    assert view.row.best is not None
    assert view.row.best.values == (1.5,)


async def _over(sweeps: Any, sweep: str) -> bool:
    return (await sweeps.trials(sweep))[0].attempts == 2


async def test_records_that_never_come_are_not_waited_for_without_end(
    start: Any, sqlite_url: str, fake_clock: FakeClock
) -> None:
    sweeps = await start(sqlite_url, lambda _: None, clock=fake_clock)
    sweep = await sweeps.submit(sweep_spec(parallel=1, budget={"trials": 1}))
    (experiment,) = await until(lambda: sweeps.runs.running)
    await sweeps.runs.end(experiment, Ran({"loss": 1.5}), settle=False)
    await until(lambda: _attempts(sweeps, sweep), what="the end is known")
    fake_clock.advance(sweeps.settings.records_wait_s + 1)
    assert (await sweeps.finished(sweep)).row.counts == {TrialState.COMPLETE: 1}


async def _attempts(sweeps: Any, sweep: str) -> int:
    return int((await sweeps.trials(sweep))[0].attempts)


def some_fail(event: ExperimentSubmitted) -> Ran:
    kind = (event.provenance.trial or 0) % 5
    if kind == 1:
        return FAILED
    if kind == 2:
        return Ran({"loss": math.nan})
    if kind == 3:
        return Ran({"other": 1.0})
    return quadratic(event)


async def test_failures_and_missing_values_are_learned_as_failures(start: Any, database_url: str) -> None:
    sweeps = await start(database_url, some_fail)
    view = await sweeps.finished(await sweeps.submit(sweep_spec(budget={"trials": 10})))
    assert view.row.state is SweepState.FINISHED
    assert view.row.counts == {TrialState.COMPLETE: 4, TrialState.FAILED: 4, TrialState.METRIC_MISSING: 2}
    said = {trial.trial: (trial.state, trial.message) for trial in await sweeps.trials(view.row.id)}
    assert said[1] == (TrialState.FAILED, "exit code 1")
    assert said[2] == (TrialState.FAILED, "loss is nan")
    assert said[3] == (TrialState.METRIC_MISSING, "it never logged loss")
    assert "10 trials, 4 of them with a value" in view.row.message


@pytest.mark.parametrize(
    ("ran", "why", "hint"),
    [(FAILED, "exit code 1", "incl logs"), (Ran({"val_loss": 1.0}), "it never logged loss", "incl.log(")],
)
async def test_a_sweep_whose_trials_all_fail_ends_with_the_reason(
    start: Any, sqlite_url: str, ran: Ran, why: str, hint: str
) -> None:
    running: list[str] = []

    def script(event: ExperimentSubmitted) -> Ran | None:
        if event.provenance.trial == 1:
            running.append(event.experiment)
            return None
        return ran

    sweeps = await start(sqlite_url, script)
    view = await sweeps.finished(await sweeps.submit(sweep_spec(give_up_after=3, budget={"trials": 50})))
    assert view.row.state is SweepState.FAILED
    assert view.row.message == f"none of the first 3 trials has a value; the last one: {why}"
    assert hint in view.row.hint
    assert view.row.trials < 10
    assert sweeps.runs.stops[:1] == running, "what ran was stopped"


async def test_lost_machines_are_no_fault_of_the_parameters(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda event: LOST if event.provenance.trial == 0 else quadratic(event))
    view = await sweeps.finished(await sweeps.submit())
    first = (await sweeps.trials(view.row.id))[0]
    assert (first.state, first.message, first.attempts) == (TrialState.FAILED, "preempted 3 times", 3)


async def test_the_best_logged_value_may_be_meant(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: Ran({"acc": 0.5}, best={"acc": 0.9}))
    spec = {"objective": {"metric": "acc", "goal": "max", "value": "best"}, "budget": {"trials": 2}}
    view = await sweeps.finished(await sweeps.submit(sweep_spec(**spec)))
    assert view.row.best is not None
    assert view.row.best.values == (0.9,)


async def test_higher_may_be_better(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda event: Ran({"acc": -quadratic(event).logged["loss"]}))
    view = await sweeps.finished(await sweeps.submit(sweep_spec(objective={"metric": "acc", "goal": "max"})))
    trials = await sweeps.trials(view.row.id)
    assert view.row.best == max(trials, key=lambda trial: trial.values[0])
    assert view.row.best.values[0] > -0.5
    order = [trial.values[0] for trial in await sweeps.trials(view.row.id, sort="value")]
    assert order == sorted(order, reverse=True)


def two(event: ExperimentSubmitted) -> Ran:
    x = float(event.spec.env["X"])
    return Ran({"loss": (x - 1) ** 2, "cost": (x + 1) ** 2, "over": x - 0.5})


async def test_several_objectives_have_a_front_and_constraints_are_kept(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, two)
    goals = [{"metric": "loss", "goal": "min"}, {"metric": "cost", "goal": "min"}]
    spec = sweep_spec(objective=goals, constraints=["over"], budget={"trials": 20})
    view = await sweeps.finished(await sweeps.submit(spec))
    assert view.row.state is SweepState.FINISHED
    assert len(view.best) > 1
    trials = {trial.trial: trial for trial in await sweeps.trials(view.row.id)}
    for one in view.best:
        assert one.constraints[0] <= 0
        for other in trials.values():
            beaten = other.constraints[0] <= 0 and all(a < b for a, b in zip(other.values, one.values, strict=True))
            assert not beaten


async def test_conditions_give_only_the_variables_that_exist(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: Ran({"loss": 1.0}))
    parameters = {
        "OPT": ["sgd", "adam"],
        "MOMENTUM": {"type": "quantised", "low": 0, "high": 0.9, "step": 0.1, "when": {"OPT": "sgd"}},
        "LAYERS": {"type": "int", "low": 1, "high": 4},
        "FLAG": [True, False],
    }
    await sweeps.finished(await sweeps.submit(sweep_spec(parameters=parameters)))
    for event in sweeps.runs.submitted.values():
        assert ("MOMENTUM" in event.spec.env) is (event.spec.env["OPT"] == "sgd")
        assert event.spec.env["LAYERS"] in ("1", "2", "3", "4")
        assert event.spec.env["FLAG"] in ("true", "false")


async def test_a_space_that_is_used_up_ends_the_sweep(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda event: Ran({"loss": float(event.spec.env["K"])}))
    spec = sweep_spec(parameters={"K": {"type": "int", "low": 1, "high": 5}}, budget={"trials": 50})
    view = await sweeps.finished(await sweeps.submit(spec))
    assert (view.row.state, view.row.trials) == (SweepState.FINISHED, 5)
    assert view.row.message.startswith("every point of the space was tried")


@pytest.mark.parametrize("algorithm", ["random", "grid", "sobol"])
async def test_other_algorithms(start: Any, sqlite_url: str, algorithm: str) -> None:
    sweeps = await start(sqlite_url)
    view = await sweeps.finished(await sweeps.submit(sweep_spec(algorithm=algorithm, budget={"trials": 10})))
    assert (view.row.trials, view.row.algorithm) == (10, algorithm)


async def test_a_sweep_is_stopped_and_its_trials_with_it(start: Any, database_url: str) -> None:
    sweeps = await start(database_url, lambda _: None)
    sweep = await sweeps.submit()
    running = await until(lambda: len(sweeps.runs.running) == 4 and list(sweeps.runs.running))
    await sweeps.ask_stop(sweep, reason="good enough")
    view = await sweeps.finished(sweep)
    assert (view.row.state, view.row.message) == (SweepState.STOPPED, "stopped by ann: good enough")
    assert sorted(sweeps.runs.stops) == sorted(running)
    assert view.row.counts == {TrialState.STOPPED: 4}
    assert len(sweeps.runs.submitted) == 4


async def test_another_projects_people_cannot_stop_or_see_it(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url, lambda _: None)
    sweep = await sweeps.submit()
    await until(lambda: len(sweeps.runs.running) == 4)
    await sweeps.ask_stop(sweep, project="other")
    marker = await sweeps.submit(sweep_spec(project="other", budget={"trials": 1}), project="other")
    await until(lambda: any(e.provenance.sweep == marker for e in sweeps.runs.submitted.values()))
    assert sweeps.runs.stops == []
    assert (await sweeps.view(sweep)).row.state is SweepState.RUNNING
    for query in (GetSweep(ref=sweep), ListTrials(sweep=sweep)):
        with pytest.raises(NotFoundError):
            await sweeps.ask(query, project="other")
    assert [row.id for row in (await sweeps.ask(ListSweeps(), project="other")).rows] == [marker]


async def test_a_sweep_for_another_project_is_refused(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    view = await sweeps.finished(await sweeps.submit(sweep_spec(project="other")))
    assert view.row.state is SweepState.FAILED
    assert "submitted to 'default'" in view.row.message
    assert sweeps.runs.submitted == {}


async def test_hours_end_a_sweep_and_what_runs_comes_to_its_end(
    start: Any, sqlite_url: str, fake_clock: FakeClock
) -> None:
    sweeps = await start(sqlite_url, lambda _: None, clock=fake_clock)
    sweep = await sweeps.submit(sweep_spec(budget={"hours": 2}))
    await until(lambda: len(sweeps.runs.running) == 4)
    fake_clock.advance(2 * 3600 + 1)
    for experiment in list(sweeps.runs.running):
        await sweeps.runs.end(experiment, quadratic(sweeps.runs.submitted[experiment]))
    view = await sweeps.finished(sweep)
    assert (view.row.state, view.row.trials) == (SweepState.FINISHED, 4)
    assert view.row.message.startswith("its 2 hours are over")
    assert sweeps.runs.stops == []


async def test_lists_page_and_names_are_found(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    made = [await sweeps.submit(sweep_spec(name=f"s{n}", budget={"trials": 1})) for n in range(3)]
    for sweep in made:
        await sweeps.finished(sweep)
    first = await sweeps.ask(ListSweeps(limit=2))
    rest = await sweeps.ask(ListSweeps(limit=2, cursor=first.cursor))
    assert {row.id for row in (*first.rows, *rest.rows)} == set(made)
    assert rest.cursor is None
    assert (await sweeps.view("s1")).row.id == made[1]
    assert (await sweeps.view(made[2][-8:])).row.id == made[2]
    assert (await sweeps.view("@last")).row.name in ("s0", "s1", "s2")
    with pytest.raises(NotFoundError):
        await sweeps.view("nope")


async def test_a_sampler_of_optuna(start: Any, database_url: str) -> None:
    """Those that fail, are missing and run are told, and a restart changes nothing of what is asked next."""

    def script(event: ExperimentSubmitted) -> Ran:
        number = event.provenance.trial or 0
        return (
            (FAILED if number == 2 else Ran({}) if number == 3 else LOST) if number in (2, 3, 4) else quadratic(event)
        )

    algorithm = {"name": "optuna.CmaEsSampler", "options": {"popsize": 5}}
    sweeps = await start(database_url, script)
    spec = sweep_spec(algorithm=algorithm, budget={"trials": 30}, parallel=2, early_stopping="none")
    view = await sweeps.finished(await sweeps.submit(spec))
    assert view.row.counts == {TrialState.COMPLETE: 27, TrialState.FAILED: 2, TrialState.METRIC_MISSING: 1}
    assert view.row.algorithm == "optuna.CmaEsSampler"
    trials = await sweeps.trials(view.row.id)
    assert len({tuple(trial.parameters.values()) for trial in trials}) == 30
    values = [trial.values[0] for trial in trials if trial.values]
    assert sum(values[-10:]) < sum(values[:10]) / 2, "it learns"


async def test_an_algorithm_is_checked_before_a_sweep_is_sent(start: Any, sqlite_url: str) -> None:
    sweeps = await start(sqlite_url)
    parameters = sweep_spec().parameters
    for name in ("tpe", "optuna.TPESampler"):
        await sweeps.ask(CheckAlgorithm(algorithm=Algorithm(name=name), parameters=parameters))
    wrong = Algorithm(name="optuna.TPESampler", options={"n_startup_trials": "ten"})
    with pytest.raises(UnsupportedError, match="n_startup_trials is int, not 'ten'"):
        await sweeps.ask(CheckAlgorithm(algorithm=wrong, parameters=parameters))
    view = await sweeps.finished(await sweeps.submit(sweep_spec(algorithm=wrong.model_dump())))
    assert (view.row.state, view.row.trials) == (SweepState.FAILED, 0), "who does not ask is told all the same"
    assert "n_startup_trials is int" in view.row.message


@pytest.mark.parametrize(("ran", "why"), [(Ran({}), "it never logged loss"), (FAILED, "exit code 1")])
async def test_a_small_sweep_without_any_value_says_why(start: Any, sqlite_url: str, ran: Ran, why: str) -> None:
    """Its trials are all asked for before so many have ended that it gives up."""
    sweeps = await start(sqlite_url, lambda _: ran)
    view = await sweeps.finished(await sweeps.submit(sweep_spec(budget={"trials": 3}, parallel=3)))
    assert (view.row.state, view.row.message) == (
        SweepState.FAILED, f"3 trials, 0 of them with a value; the last one: {why}",
    )  # fmt: skip
    assert "incl logs" in view.row.hint
    assert ("incl.log(" in view.row.hint) == (ran is not FAILED)
