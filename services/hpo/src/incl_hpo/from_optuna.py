"""Optuna's samplers in a sweep: `algorithm: optuna.TPESampler`. Needs the extra `optuna` (5.x).

The study is built anew for every question, from the trials that are stored, and the sampler with a seed of its own: of
the sweep's seed and of how many trials there are. What a sampler notes in Optuna's storage (CMA-ES its distribution,
NSGA-II its generations, QMC its place in the sequence) goes into the *memo* of the trial that was asked for; memos are
stored with their trials and come back with the next question. So an answer follows from its question alone.

Choices are told to Optuna by their numbers, so that 1, 1.0 and true stay three values.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from incl_hpo.search import (
    Categorical,
    Float,
    Integer,
    Parameter,
    SamplerUnknownError,
    SamplerUnusableError,
    Space,
    Value,
)
from incl_hpo.search.designs import any_new, generator
from incl_hpo.search.space import rows_known

Memo = Mapping[str, Mapping[str, Any]]
"""What the sampler noted: `trial` and `study`, by Optuna's own keys."""
_TRIES = 4
_MADE_UP = 12
_STUDY = "sweep"
_PARENTS = ":parent:"
"""A key of the study with the ids of trials; in memos they are the numbers of the sweep's own trials."""
_SEEDS = 2**63
_INSTEAD = {"GridSampler": "grid", "PartialFixedSampler": "a parameter with one choice"}
_FAULTS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
_ONE_OBJECTIVE = frozenset({"CmaEsSampler"})
_NO_CONSTRAINTS = frozenset({"CmaEsSampler"})
_OURS = frozenset({"seed", "constraints_func"})
_PLAIN = {"bool": bool, "int": int, "float": (int, float), "str": str, "None": type(None)}
_PACKAGES = {"torch": "torch", "cmaes": "cmaes"}


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial as Optuna is told of it. values: so that less is better. steps: the last step of a pruned one."""

    point: Mapping[str, Value]
    state: str = "running"
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()
    steps: int = 0
    memo: Memo | None = None

    @classmethod
    def read(cls, one: Mapping[str, Any]) -> Tried:
        """From a question."""
        values, constraints = tuple(one.get("values", ())), tuple(one.get("constraints", ()))
        return cls(one["point"], one["state"], values, constraints, one.get("steps", 0), one.get("memo"))


@dataclass(frozen=True)
class OptunaSampler:
    """One of Optuna's samplers, by the name of its class.

    Raises:
        SamplerUnknownError: there is none of this name.
        SamplerUnusableError: an option is wrong, or it cannot do what the sweep asks for.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    objectives: int = 1
    constraints: int = 0

    def __post_init__(self) -> None:
        if self.objectives > 1 and self.name in _ONE_OBJECTIVE:
            raise SamplerUnusableError(f"optuna.{self.name} has one objective only", "optuna.NSGAIISampler has several")
        if self.constraints and self.name in _NO_CONSTRAINTS:
            raise SamplerUnusableError(
                f"optuna.{self.name} knows no constraints", "optuna.TPESampler does, as the platform's own tpe"
            )
        self.make([0])

    def make(self, seed: Sequence[int]) -> BaseSampler:
        """A new one. seed: of the sweep, and what tells this question from others."""
        kind = _kind(self.name)
        known = inspect.signature(kind.__init__).parameters
        for option, value in self.options.items():
            _check_option(self.name, option, value, known)
        own = int(np.random.SeedSequence([one % _SEEDS for one in seed]).generate_state(1)[0])
        given = dict(self.options)
        if self.name == "QMCSampler":  # one sequence for the whole sweep
            given |= {"seed": seed[0] % 2**32, "independent_sampler": RandomSampler(seed=own)}
        elif "seed" in known:
            given["seed"] = own
        with _quiet(), _faults(self.name, "cannot be made"):
            made = kind(**given)
        assert isinstance(made, BaseSampler)
        return made

    def asks(
        self, space: Space, earlier: Sequence[Tried], trials: Sequence[Tried], seed: int
    ) -> Iterator[tuple[dict[str, Value], Memo | None]]:
        """One point after the other, each with its memo; those before it count as running.

        earlier: trials of other sweeps; those that are none of the space are left out. trials: all of this one, by
        number.

        Raises:
            SpaceExhaustedError: every point of a finite space was tried.
            SamplerUnusableError: Optuna refuses.
        """
        asking = _Asking(self, space, [one for one in earlier if self._fits(space, one)], list(trials), seed)
        while True:
            yield asking.next()

    def _fits(self, space: Space, one: Tried) -> bool:
        counts = one.state != "complete" or len(one.constraints) == self.constraints
        return counts and not np.isnan(space.encode([one.point])[0]).all()


def made_up(space: Space, objectives: int, constraints: int) -> list[Tried]:
    """Trials by which a sampler can show, before any has run, that it has all that it needs."""
    rows = space.scale(np.random.default_rng(0).random((_MADE_UP, len(space.parameters))))
    return [
        Tried(space.decode(row), "complete", (float(number),) * objectives, (-1.0,) * constraints)
        for number, row in enumerate(rows)
    ]


class _Asking:
    """One question."""

    def __init__(
        self, sampler: OptunaSampler, space: Space, earlier: list[Tried], trials: list[Tried], seed: int
    ) -> None:
        self._sampler, self._space, self._seed = sampler, space, seed
        self._earlier, self._trials = earlier, trials
        self._distributions = {one.name: _distribution(one) for one in space.parameters}
        self._seen = rows_known(space.encode([one.point for one in (*earlier, *trials)]))
        self._study: _Study | None = None

    def next(self) -> tuple[dict[str, Value], Memo | None]:
        """A point that was not tried; where the sampler has none, a random one."""
        asked = len(self._earlier) + len(self._trials)
        if self._space.size is not None and len(self._seen) >= self._space.size:
            any_new(self._space, self._seen, generator(self._seed, asked))  # says that there is none
        for attempt in range(_TRIES):
            if self._study is None:
                self._study = self._rebuilt()
            sampler = self._sampler.make([self._seed, asked, attempt])
            with _quiet(), _faults(self._sampler.name, "cannot say what to try"):
                point, memo = self._study.ask(sampler, self._space)
            row = self._space.encode([point])
            if not rows_known(row) & self._seen:
                return self._taken(point, memo)
            self._study = None  # it has a trial that there is not
        point = self._space.decode(any_new(self._space, self._seen, generator(self._seed, asked)))
        return self._taken(point, None)

    def _taken(self, point: dict[str, Value], memo: Memo | None) -> tuple[dict[str, Value], Memo | None]:
        self._seen |= rows_known(self._space.encode([point]))
        self._trials.append(Tried(point, memo=memo))
        return point, memo

    def _rebuilt(self) -> _Study:
        with _quiet():
            study = _Study(self._sampler.objectives, len(self._earlier), self._distributions)
            for one in (*self._earlier, *self._trials):
                study.add(one, self._space)
        return study


class _Study:
    """A study in memory. offset: how many of its trials are of other sweeps."""

    def __init__(self, objectives: int, offset: int, distributions: Mapping[str, BaseDistribution]) -> None:
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, study_name=_STUDY, directions=["minimize"] * objectives
        )
        self._id = self._storage.get_study_id_from_name(_STUDY)
        self._offset, self._distributions = offset, distributions

    def add(self, one: Tried, space: Space) -> None:
        """A trial that there is."""
        memo = one.memo or {}
        self._storage.create_new_trial(self._id, _frozen(one, space, self._distributions))
        for key, value in memo.get("study", {}).items():
            self._storage.set_study_system_attr(self._id, key, self._moved(key, value, self._offset))

    def ask(self, sampler: BaseSampler, space: Space) -> tuple[dict[str, Value], Memo | None]:
        """The sampler's next point, and what it noted."""
        before = dict(self._storage.get_study_system_attrs(self._id))
        self._study.sampler = sampler
        trial = self._study.ask()
        point: dict[str, Value] = {}
        for one in space.parameters:  # parents before children
            if space.exists(one, point):
                point[one.name] = _value(one, _suggest(trial, one))
        after = self._storage.get_study_system_attrs(self._id)
        changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
        noted = {
            "trial": dict(self._study.get_trials(deepcopy=False)[-1].system_attrs),
            "study": {key: self._moved(key, value, -self._offset) for key, value in changed.items()},
        }
        return point, {part: values for part, values in noted.items() if values} or None

    @staticmethod
    def _moved(key: str, value: Any, by: int) -> Any:
        return [number + by for number in value] if _PARENTS in key and isinstance(value, list) else value


def _frozen(one: Tried, space: Space, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    states = {"complete": TrialState.COMPLETE, "failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
    state = states.get(one.state, TrialState.RUNNING)
    names = {parameter.name: parameter for parameter in space.parameters if parameter.name in one.point}
    pruned = state is TrialState.PRUNED and one.values
    return create_trial(
        state=state,
        values=list(one.values) if state is TrialState.COMPLETE else None,
        params={name: _told(parameter, distributions[name], one.point[name]) for name, parameter in names.items()},
        distributions={name: distributions[name] for name in names},
        intermediate_values={one.steps: one.values[0]} if pruned else None,
        system_attrs=dict((one.memo or {}).get("trial", {})),
        constraints={str(number): value for number, value in enumerate(one.constraints)} or None,
    )


def _distribution(one: Parameter) -> BaseDistribution:
    if isinstance(one, Categorical):
        return CategoricalDistribution(tuple(range(len(one.choices))))
    if isinstance(one, Integer):
        return IntDistribution(one.low, one.low + (one.levels - 1) * one.step, log=one.log, step=one.step)
    return FloatDistribution(one.low, _highest(one), log=one.log, step=one.step)


def _highest(one: Float) -> float:
    return min(one.high, one.low + (one.levels - 1) * one.step) if one.step is not None else one.high


def _suggest(trial: optuna.Trial, one: Parameter) -> Any:
    if isinstance(one, Categorical):
        return trial.suggest_categorical(one.name, tuple(range(len(one.choices))))
    if isinstance(one, Integer):
        high = one.low + (one.levels - 1) * one.step
        return trial.suggest_int(one.name, one.low, high, step=one.step, log=one.log)
    return trial.suggest_float(one.name, one.low, _highest(one), step=one.step, log=one.log)


def _value(one: Parameter, said: Any) -> Value:
    """What Optuna said as a value of the parameter: in steps exactly one that it can have."""
    if isinstance(one, Categorical):
        return one.choices[int(said)]
    if one.levels == 0:
        return min(max(float(said), one.low), one.high)
    return one.value(float(one.snap(one.to_units([said]))[0]))


def _told(one: Parameter, distribution: BaseDistribution, value: Value) -> Any:
    if isinstance(one, Categorical):
        return int(one.to_units([value])[0])
    if isinstance(distribution, FloatDistribution) and isinstance(value, int | float):
        return min(max(float(value), distribution.low), distribution.high)
    return value


def _kind(name: str) -> type[BaseSampler]:
    if name in _INSTEAD:
        raise SamplerUnusableError(f"optuna.{name} is not for sweeps", f"use {_INSTEAD[name]}")
    names = sorted(one for one in optuna.samplers.__all__ if _usable(getattr(optuna.samplers, one)))
    if name not in names:
        known = ", ".join(f"optuna.{one}" for one in names)
        raise SamplerUnknownError(f"Optuna {optuna.__version__} has no sampler {name}", f"one of {known}")
    kind: type[BaseSampler] = getattr(optuna.samplers, name)
    return kind


def _usable(kind: Any) -> bool:
    is_sampler = inspect.isclass(kind) and issubclass(kind, BaseSampler) and not inspect.isabstract(kind)
    return is_sampler and kind.__name__ not in _INSTEAD


def _check_option(name: str, option: str, value: Any, known: Mapping[str, inspect.Parameter]) -> None:
    takes = sorted(one for one in known if one != "self" and one not in _OURS and _kinds(known[one]) is not None)
    if option == "seed":
        raise SamplerUnusableError(f"optuna.{name}: seed is the sweep's", "give seed beside algorithm")
    if option in known and _kinds(known[option]) is None:
        raise SamplerUnusableError(
            f"optuna.{name}: {option} is an object of Python, which a file cannot give", "leave it out"
        )
    if option not in known or option in _OURS:
        raise SamplerUnusableError(f"optuna.{name} has no option {option}", f"it has {', '.join(takes) or 'none'}")
    kinds = _kinds(known[option]) or ()
    fits = not kinds or (isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds))
    if not fits:
        annotation = known[option].annotation
        raise SamplerUnusableError(f"optuna.{name}: {option} is {annotation}, not {value!r}", "mend its value")


def _kinds(parameter: inspect.Parameter) -> tuple[type, ...] | None:
    """The plain types that an argument takes; empty: lists, mappings and such; None: objects alone."""
    parts = [part.strip() for part in str(parameter.annotation).split("|")]
    if all(part in _PLAIN for part in parts):
        found: list[type] = []
        for part in parts:
            kinds = _PLAIN[part]
            found += kinds if isinstance(kinds, tuple) else [kinds]  # type: ignore[list-item]
        return tuple(found)
    objects = ("Callable", "Sampler", "Mutation", "Crossover", "FrozenTrial")
    return None if any(word in str(parameter.annotation) for word in objects) else ()


@contextmanager
def _faults(name: str, what: str) -> Iterator[None]:
    """What Optuna raises says that the sampler is not for this sweep: it would be raised again."""
    try:
        yield
    except ImportError as error:
        raise missing(name, error) from error
    except _FAULTS as error:
        said = f"{type(error).__name__}: {error}"[:1000]
        raise SamplerUnusableError(f"optuna.{name} {what}", "another sampler, or other options", said) from error


def missing(name: str, error: ImportError) -> SamplerUnusableError:
    """A package that the sampler needs is not there."""
    package = next((one for one in _PACKAGES if one in str(error)), error.name or "")
    return SamplerUnusableError.not_installed(f"optuna.{name}", package, str(error).splitlines()[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says much of what it does; here nobody reads it."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
