"""Every optimiser behind one face, each by its own package: `ask() -> (ticket, point)`, `tell(ticket, value)`."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np

from incl_hpo.search import Categorical, Integer, Observation, Recipe, Sampler, Space, Tpe, sampler

Point = Mapping[str, Any]
BAD = 1e12
"""What an optimiser that knows no failures is told instead."""


class Side(Protocol):
    """One optimiser on one problem with one seed."""

    def ask(self) -> tuple[Any, Point]:
        """A ticket and the point to try."""

    def tell(self, ticket: Any, value: float | None) -> None:
        """How it went; None: it failed."""


class Ours:
    """A sampler of incl_hpo.search."""

    def __init__(self, space: Space, seed: int, one: Sampler) -> None:
        self._space, self._seed, self._sampler = space, seed, one
        self._history: list[Observation] = []
        self._pending: dict[int, Point] = {}
        self._asked = 0

    def ask(self) -> tuple[int, Point]:
        point = self._sampler.ask(self._space, self._history, list(self._pending.values()), self._seed)
        self._pending[self._asked] = point
        self._asked += 1
        return self._asked - 1, point

    def tell(self, ticket: int, value: float | None) -> None:
        self._history.append(Observation(self._pending.pop(ticket), () if value is None else (value,)))


class Optuna:
    """A sampler of Optuna; failures are told as failed trials."""

    def __init__(self, space: Space, seed: int, make: Callable[[Any, int], Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self._space = optuna, space
        self._study = optuna.create_study(sampler=make(optuna.samplers, seed))

    def ask(self) -> tuple[Any, Point]:
        trial = self._study.ask()
        point: dict[str, Any] = {}
        for one in self._space.parameters:
            if all(point.get(name, BAD) in list(values) for name, values in one.when.items()):
                point[one.name] = _suggest(trial, one)
        return trial, point

    def tell(self, ticket: Any, value: float | None) -> None:
        state = self._optuna.trial.TrialState
        if value is None:
            self._study.tell(ticket, state=state.FAIL)
        else:
            self._study.tell(ticket, value)


def _suggest(trial: Any, one: Any) -> Any:
    if isinstance(one, Categorical):
        return trial.suggest_categorical(one.name, one.choices)
    if isinstance(one, Integer):
        return trial.suggest_int(one.name, one.low, one.high, log=one.log, step=one.step)
    return trial.suggest_float(one.name, one.low, one.high, log=one.log, step=one.step)


class Hyperopt:
    """hyperopt's TPE, asked trial by trial; conditional parameters hang below their choice."""

    def __init__(self, space: Space, seed: int) -> None:
        import hyperopt

        logging.getLogger("hyperopt").setLevel(logging.ERROR)
        self._hyperopt, self._space = hyperopt, space
        tree = {one.name: self._node(one, "") for one in space.parameters if not one.when}
        self._domain = hyperopt.base.Domain(lambda point: 0.0, tree)
        self._trials = hyperopt.Trials()
        self._rng = np.random.default_rng(seed)

    def _node(self, one: Any, path: str) -> Any:
        hp, label = self._hyperopt.hp, f"{path}{one.name}"
        if isinstance(one, Categorical):
            below = [self._below(one, choice, label) for choice in one.choices]
            return hp.choice(label, below)
        if one.levels:
            return hp.randint(label, one.levels)
        if one.log:
            return hp.loguniform(label, math.log(one.low), math.log(one.high))
        return hp.uniform(label, one.low, one.high)

    def _below(self, parent: Any, choice: Any, label: str) -> dict[str, Any]:
        children = [c for c in self._space.parameters if parent.name in c.when and choice in list(c.when[parent.name])]
        number = parent.choices.index(choice)
        return {"choice": number, **{c.name: self._node(c, f"{label}.{number}.") for c in children}}

    def ask(self) -> tuple[Any, Point]:
        hyperopt, trials = self._hyperopt, self._trials
        ids = trials.new_trial_ids(1)
        seed = int(self._rng.integers(2**31 - 1))
        (document,) = hyperopt.tpe.suggest(ids, self._domain, trials, seed)
        document["state"] = hyperopt.JOB_STATE_RUNNING
        trials.insert_trial_docs([document])
        trials.refresh()
        given = {name: values[0] for name, values in document["misc"]["vals"].items() if values}
        return ids[0], self._values(hyperopt.space_eval(self._domain.expr, given))

    def _values(self, told: Mapping[str, Any]) -> Point:
        flat: dict[str, Any] = {}

        def walk(part: Mapping[str, Any]) -> None:
            for name, value in part.items():
                if name == "choice":
                    continue
                flat[name] = value["choice"] if isinstance(value, Mapping) else value
                if isinstance(value, Mapping):
                    walk(value)

        walk(told)
        point = {}
        for one in self._space.parameters:
            if one.name in flat:
                value = flat[one.name]
                if isinstance(one, Categorical):
                    point[one.name] = one.choices[int(value)]
                else:
                    point[one.name] = one.value((int(value) + 0.5) / one.levels) if one.levels else float(value)
        return point

    def tell(self, ticket: Any, value: float | None) -> None:
        hyperopt = self._hyperopt
        for document in self._trials._dynamic_trials:  # noqa: SLF001 - the public list leaves running trials out
            if document["tid"] == ticket:
                document["state"] = hyperopt.JOB_STATE_DONE
                status = hyperopt.STATUS_FAIL if value is None else hyperopt.STATUS_OK
                document["result"] = {"status": status, **({} if value is None else {"loss": value})}
        self._trials.refresh()


class Smac:
    """SMAC3's facade for hyper-parameters, by ask and tell; told a bad cost for what failed."""

    def __init__(self, space: Space, seed: int) -> None:
        import ConfigSpace
        import smac

        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        self._info = smac.runhistory.TrialValue, smac.runhistory.StatusType
        configs = ConfigSpace.ConfigurationSpace(seed=seed)
        for one in space.parameters:
            configs.add(_config(ConfigSpace, one))
        for one in space.parameters:
            waits = [
                ConfigSpace.InCondition(configs[one.name], configs[name], list(values))
                for name, values in one.when.items()
            ]
            if waits:
                configs.add(waits[0] if len(waits) == 1 else ConfigSpace.AndConjunction(*waits))
        scenario = smac.Scenario(
            configs, deterministic=True, n_trials=100_000, seed=seed, output_directory=_scratch(), n_workers=1
        )
        facade = smac.HyperparameterOptimizationFacade
        design = facade.get_initial_design(scenario, n_configs=10)
        self._space = space
        self._smac = facade(
            scenario, lambda config, seed: 0.0, initial_design=design, overwrite=True, logging_level=False
        )  # fmt: skip

    def ask(self) -> tuple[Any, Point]:
        info = self._smac.ask()
        told = dict(info.config)
        point = {}
        for one in self._space.parameters:
            if one.name in told:
                value = told[one.name]
                level = one.levels and not isinstance(one, Categorical) and not isinstance(one, Integer)
                stepped = isinstance(one, Integer) and one.step > 1
                if level or stepped:
                    value = one.value((int(value) + 0.5) / one.levels)
                point[one.name] = value.item() if isinstance(value, np.generic) else value
        return info, point

    def tell(self, ticket: Any, value: float | None) -> None:
        value_type, status = self._info
        state = status.CRASHED if value is None else status.SUCCESS
        self._smac.tell(ticket, value_type(cost=BAD if value is None else value, time=0.1, status=state))


def _config(kinds: Any, one: Any) -> Any:
    if isinstance(one, Categorical):
        return kinds.CategoricalHyperparameter(one.name, list(one.choices))
    if isinstance(one, Integer) and one.step == 1:
        return kinds.UniformIntegerHyperparameter(one.name, one.low, one.high, log=one.log)
    if one.levels:
        return kinds.UniformIntegerHyperparameter(one.name, 0, one.levels - 1)
    return kinds.UniformFloatHyperparameter(one.name, one.low, one.high, log=one.log)


def _scratch() -> Any:
    import tempfile
    from pathlib import Path

    return Path(tempfile.mkdtemp(prefix="incl-smac-"))


_OPTUNA: dict[str, Callable[[Any, int], Any]] = {
    "optuna-tpe": lambda samplers, seed: samplers.TPESampler(seed=seed),
    "optuna-tpe-multi": lambda samplers, seed: samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True
    ),
    "optuna-gp": lambda samplers, seed: samplers.GPSampler(seed=seed),
    "optuna-cmaes": lambda samplers, seed: samplers.CmaEsSampler(seed=seed),
}
_PACKAGES = {"optuna": "optuna", "hyperopt": "hyperopt", "smac": "smac"}
NAMES = ("incl", *_OPTUNA, "hyperopt", "smac", "random")


def make(name: str, space: Space, seed: int, recipe: Mapping[str, Any]) -> Side:
    """An optimiser; `recipe` changes parts of ours (for the ablation)."""
    warnings.simplefilter("ignore")
    if name == "incl":
        return Ours(space, seed, Tpe(Recipe(**recipe)))
    if name == "random":
        return Ours(space, seed, sampler("random"))
    if name == "hyperopt":
        return Hyperopt(space, seed)
    if name == "smac":
        return Smac(space, seed)
    return Optuna(space, seed, _OPTUNA[name])


def release(name: str) -> str:
    """The version of the package that an optimiser comes from."""
    package = _PACKAGES.get(name.partition("-")[0])
    return version(package) if package else ""
