"""A sweep as a study of Optuna, and read again by Optuna."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as Theirs

from incl_cli.testing import FakePlatform, Run
from incl_cli.testing_sweeps import FakeSweeps
from incl_shared.errors import NotFoundError
from incl_shared.events.sweeps import TrialState
from incl_shared.queries.tracker import GetPoints, Points
from incl_shared.sweep import SweepSpec

PARAMETERS = {
    "LR": {"type": "loguniform", "low": 1e-5, "high": 0.1},
    "OPT": ["sgd", "adam"],
    "MOMENTUM": {"type": "quantised", "low": 0, "high": 0.95, "step": 0.1, "when": {"OPT": "sgd"}},
    "LAYERS": {"type": "int", "low": 1, "high": 8, "step": 3},
    "MIXED": [1, True, 1.0, "1"],
}


def spec(**changes: Any) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "digits", "experiment": {"command": "true"}, "parameters": PARAMETERS, "budget": {"trials": 9},
            "objective": {"metric": "acc", "goal": "max"}, "constraints": ["size"], **changes,
        }
    )  # fmt: skip


@pytest.fixture
def sweeps(fake: FakePlatform) -> FakeSweeps:
    made = FakeSweeps(fake)
    fake.more[GetPoints] = lambda query: _points(made, query)
    return made


CURVES: dict[int, list[float | str]] = {0: [0.5, "NaN", 0.9], 3: [0.4]}


def _points(sweeps: FakeSweeps, query: GetPoints) -> Points:
    """Two points a page."""
    known = {one.experiment: one.trial for trials in sweeps.trials.values() for one in trials}
    if (number := known[query.experiment]) not in CURVES or query.metric != "acc":
        raise NotFoundError("no such metric")
    start, values = int(query.cursor or 0), CURVES[number]
    some = values[start : start + 2]
    return Points(
        experiment=query.experiment, metric="acc", rank=0, steps=tuple(range(start + 1, start + 1 + len(some))),
        times=(0.0,) * len(some), values=tuple(some), cursor=str(start + 2) if start + 2 < len(values) else None,
    )  # fmt: skip


def point(**changes: Any) -> dict[str, Any]:
    return {"LR": 0.001, "OPT": "adam", "LAYERS": 7, "MIXED": True, **changes}


def full(sweeps: FakeSweeps) -> str:
    sweep = sweeps.add(spec(), algorithm="tpe")
    sweeps.tried(sweep, point(OPT="sgd", MOMENTUM=0.3 + 5e-17, MIXED="1"), 0.9, constraints=(-1.0,), steps=3)
    sweeps.tried(sweep, point(), state=TrialState.FAILED, message="exit code 1")
    sweeps.tried(sweep, point(MIXED=1), state=TrialState.METRIC_MISSING)
    sweeps.tried(sweep, point(MIXED=1.0), 0.4, state=TrialState.PRUNED, steps=1)
    sweeps.tried(sweep, point(LR=0.1, OPT="sgd", MOMENTUM=0.9), 0.7, constraints=(2.0,))
    sweeps.tried(sweep, point(), state=TrialState.STOPPED)
    sweeps.tried(sweep, point(), state=TrialState.RUNNING, ended=None)
    return sweep


@pytest.mark.parametrize("storage", ["sqlite:///study.db", "study.journal", "journal://other.journal"])
def test_a_study_has_all_that_the_sweep_has(cli: Run, sweeps: FakeSweeps, storage: str) -> None:
    sweep = full(sweeps)
    done = cli("sweep", "export", "digits", "--optuna", storage)
    assert done.code == 0, done.err
    assert "6 trials in study 'digits'" in done.err
    assert "left out, as not over yet: 1 trial" in done.err
    study = optuna.load_study(study_name="digits", storage=opened(storage))
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert (study.user_attrs["incl.id"], study.metric_names) == (sweep, ["acc"])
    trials = study.get_trials()
    states = [Theirs.COMPLETE, Theirs.FAIL, Theirs.FAIL, Theirs.PRUNED, Theirs.COMPLETE, Theirs.FAIL]
    assert [trial.state for trial in trials] == states
    assert [trial.value for trial in trials] == [0.9, None, None, 0.4, 0.7, None]
    first = trials[0]
    assert first.intermediate_values.keys() == {1, 2, 3}
    assert (first.intermediate_values[1], first.intermediate_values[3]) == (0.5, 0.9)
    assert math.isnan(first.intermediate_values[2])
    assert first.constraints == {"size": -1.0}
    assert study.best_trial.number == 0, "the other one breaks a constraint"
    check_parameters(trials, sweeps.trials[sweep])


def check_parameters(trials: list[Any], ours: list[Any]) -> None:
    for trial, own in zip(trials, ours, strict=False):
        assert trial.user_attrs["experiment"] == own.experiment
        assert (trial.user_attrs["trial"], trial.user_attrs["state"]) == (own.trial, own.state.value)
        assert trial.params.keys() == own.parameters.keys()
        assert (trial.params["LR"], trial.params["OPT"], trial.params["LAYERS"]) == (
            own.parameters["LR"], own.parameters["OPT"], 7,
        )  # fmt: skip
        assert trial.params["MIXED"] == repr(own.parameters["MIXED"]), "four values that Optuna takes for two"
    assert trials[0].params["MOMENTUM"] == pytest.approx(0.3)
    assert trials[0].distributions["LR"] == optuna.distributions.FloatDistribution(1e-5, 0.1, log=True)
    assert trials[0].distributions["LAYERS"] == optuna.distributions.IntDistribution(1, 7, step=3)
    assert trials[0].distributions["OPT"] == optuna.distributions.CategoricalDistribution(("sgd", "adam"))
    assert trials[0].datetime_start.timestamp() == pytest.approx(ours[0].asked, abs=1e-3)


def opened(storage: str) -> Any:
    if storage.startswith("sqlite"):
        return storage
    backend = optuna.storages.journal.JournalFileBackend(storage.removeprefix("journal://"))
    return optuna.storages.JournalStorage(backend)


def test_optuna_goes_on_with_it(cli: Run, sweeps: FakeSweeps) -> None:
    full(sweeps)
    assert cli("sweep", "export", "--optuna", "study.journal", "--study", "mine", "--json").json == {
        "study": "mine", "trials": 6,
    }  # fmt: skip
    study = optuna.load_study(study_name="mine", storage=opened("study.journal"), sampler=optuna.samplers.TPESampler())
    trial = study.ask(dict(study.get_trials()[0].distributions))
    study.tell(trial, 0.5)
    assert len(study.get_trials()) == 7


def test_several_objectives(cli: Run, sweeps: FakeSweeps) -> None:
    objectives = [{"metric": "acc", "goal": "max"}, {"metric": "cost", "goal": "min"}]
    sweep = sweeps.add(spec(objective=objectives, constraints=[]))
    sweeps.tried(sweep, point(), 0.9, 3.0)
    sweeps.tried(sweep, point(), 0.8, 4.0)
    assert cli("sweep", "export", "--optuna", "sqlite:///study.db").code == 0
    study = optuna.load_study(study_name="digits", storage="sqlite:///study.db")
    assert [trial.number for trial in study.best_trials] == [0]
    assert study.get_trials()[1].values == [0.8, 4.0]


def test_what_cannot_be_exported(
    cli: Run, sweeps: FakeSweeps, monkeypatch: pytest.MonkeyPatch, fake: FakePlatform
) -> None:
    sweeps.add(spec(), name="empty")
    nothing = cli("sweep", "export", "empty", "--optuna", "sqlite:///study.db")
    assert (nothing.code, Path("study.db").exists()) == (4, False)
    full(sweeps)
    assert cli("sweep", "export", "digits", "--optuna", "sqlite:///study.db").code == 0
    twice = cli("sweep", "export", "digits", "--optuna", "sqlite:///study.db")
    assert (twice.code, "already a study 'digits'" in twice.err, "--study" in twice.err) == (5, True, True)
    for storage in ("sqlite:///no/such/folder/study.db", "no/such/folder/x.journal", "nosuch://me:secret@host/x"):
        refused = cli("sweep", "export", "digits", "--optuna", storage)
        assert refused.code == 5, refused.err
        assert "cannot write a study to" in refused.err
        assert "secret" not in refused.err
    assert cli("sweep", "export", "digits", "--study", "x").code == 2
    monkeypatch.setitem(sys.modules, "optuna", None)
    missing = cli("sweep", "export", "digits", "--optuna", "sqlite:///other.db")
    assert (missing.code, "-m pip install 'optuna>=5,<6'" in missing.err) == (2, True)
