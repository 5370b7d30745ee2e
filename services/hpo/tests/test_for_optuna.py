"""The adapter, in Optuna itself."""

from __future__ import annotations

import math
from collections.abc import Iterator

import optuna
import pytest

from incl_hpo.for_optuna import InclSampler
from incl_hpo.search import Categorical, Float, Integer, Recipe, Space, Tpe

SPACE = Space(
    (
        Categorical("model", ("net", "tree")),
        Float("lr", 1e-5, 1.0, log=True, when={"model": ["net"]}),
        Integer("depth", 1, 12, when={"model": ["tree"]}),
        Float("x", 0.0, 1.0, step=0.05),
    )
)
QUICK = Tpe(Recipe(start=5, candidates=96, steps=8, slope=1))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(optuna.logging.INFO)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0.0, 1.0, step=0.05)
    if trial.suggest_categorical("model", ["net", "tree"]) == "net":
        return abs(math.log10(trial.suggest_float("lr", 1e-5, 1.0, log=True)) + 2.5) + abs(x - 0.3)
    return 0.5 + abs(trial.suggest_int("depth", 1, 12) - 7) + abs(x - 0.3)


def test_a_conditional_space_is_searched_and_every_value_is_ours() -> None:
    study = optuna.create_study(sampler=InclSampler(SPACE, seed=1))
    study.optimize(objective, n_trials=40)
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    random.optimize(objective, n_trials=40)
    assert study.best_value < min(random.best_value, 0.2)
    for trial in study.trials:
        SPACE.check(trial.params)


def test_without_a_space_it_is_learned_from_the_trials() -> None:
    study = optuna.create_study(direction="maximize", sampler=InclSampler(seed=2, sampler=QUICK))
    study.optimize(
        lambda trial: -((trial.suggest_float("x", -5, 5) - 1.5) ** 2) - trial.suggest_int("k", 0, 9), n_trials=30
    )
    assert study.best_value > -0.5
    assert study.best_params["k"] == 0


def test_a_study_asked_the_same_says_the_same() -> None:
    seen = []
    for _ in range(2):
        study = optuna.create_study(sampler=InclSampler(SPACE, seed=3, sampler=QUICK))
        study.optimize(objective, n_trials=12)
        seen.append([trial.params for trial in study.trials])
    assert seen[0] == seen[1]


def test_running_trials_failures_and_pruned_ones_are_taken_for_what_they_are() -> None:
    study = optuna.create_study(sampler=InclSampler(SPACE, seed=4, sampler=QUICK))
    open_trials = []
    for _ in range(8):
        trial = study.ask()
        objective(trial)
        open_trials.append(trial)
    assert len({repr(sorted(trial.params.items())) for trial in open_trials}) == 8
    study.tell(open_trials[0], state=optuna.trial.TrialState.FAIL)
    open_trials[1].report(0.1, step=3)
    study.tell(open_trials[1], state=optuna.trial.TrialState.PRUNED)
    study.tell(open_trials[2], state=optuna.trial.TrialState.PRUNED)
    study.tell(open_trials[3], 1.0)
    study.optimize(objective, n_trials=4)
    assert len(study.trials) == 12


def test_two_objectives_and_a_constraint() -> None:
    def both(trial: optuna.Trial) -> tuple[float, float]:
        x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
        trial.set_constraint("sum", x + y - 1.2)
        return x * x + y, (x - 1) ** 2 + y

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=InclSampler(seed=5, sampler=QUICK))
    study.optimize(both, n_trials=40)
    late = study.trials[20:]
    assert sum(trial.params["y"] < 0.1 for trial in late) >= 10
    assert sum(trial.params["x"] + trial.params["y"] <= 1.2 for trial in late) >= 18


def test_a_space_used_up_goes_on_at_random() -> None:
    study = optuna.create_study(sampler=InclSampler(Space((Integer("k", 0, 2),)), seed=6))
    study.optimize(lambda trial: float(trial.suggest_int("k", 0, 2)), n_trials=5)
    assert {trial.params["k"] for trial in study.trials[:3]} == {0, 1, 2}


def test_what_the_space_does_not_name_is_drawn_at_random() -> None:
    study = optuna.create_study(sampler=InclSampler(Space((Float("x", 0.0, 1.0),)), seed=7, sampler=QUICK))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("other", 0, 1), n_trials=8)
    assert len({trial.params["other"] for trial in study.trials}) == 8
