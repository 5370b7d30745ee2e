"""The platform's sampler inside Optuna: `optuna.create_study(sampler=InclSampler(space, seed=1))`.

Needs the extra `optuna` (5.x). `space` may have conditions; the objective function suggests what of it is active, as it
would without. Without a space the sampler learns it from what the trials so far have all suggested, and draws at random
what only some did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from incl_hpo.search import (
    Categorical,
    Float,
    Integer,
    Observation,
    Parameter,
    Point,
    Sampler,
    Space,
    SpaceExhaustedError,
    Tpe,
)


class InclSampler(BaseSampler):
    """A sampler of `incl_hpo.search` (by default the platform's own) as one of Optuna's.

    Failed trials are learned from as failures; a pruned one counts as its last intermediate value, but as no better
    than the middling finished trial (as a failure, if it has none or there are several objectives). Constraints are
    those of `trial.set_constraint`. Running trials are kept away from, also those of other processes.
    """

    def __init__(self, space: Space | None = None, seed: int | None = None, sampler: Sampler | None = None) -> None:
        self._space = space
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._sampler = sampler or Tpe()
        self._independent = RandomSampler(seed=self._seed)
        self._intersection = IntersectionSearchSpace()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What `sample_relative` gives values for."""
        if self._space is not None:
            return {one.name: _distribution(one) for one in self._space.parameters}
        return self._intersection.calculate(study)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The point for a trial; nothing (so all is random) before there is a space, or once it is used up."""
        if not search_space:
            return {}
        space = self._space or Space(tuple(_parameter(name, one) for name, one in sorted(search_space.items())))
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        done = [one for one in others if one.state.is_finished()]
        names = [one.name for one in space.parameters]
        running = [_part(one.params, names) for one in others if not one.state.is_finished()]
        try:
            return self._sampler.ask(space, _history(study, done, names), running, self._seed)
        except SpaceExhaustedError:
            return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Called in each process of `n_jobs`: what is random is drawn anew; the sampler itself goes by the trials."""
        self._independent.reseed_rng()


def _part(params: Mapping[str, Any], names: Sequence[str]) -> Point:
    return {name: params[name] for name in names if name in params}


def _history(study: Study, done: Sequence[FrozenTrial], names: Sequence[str]) -> list[Observation]:
    signs = [1.0 if one == StudyDirection.MINIMIZE else -1.0 for one in study.directions]
    finished = [one for one in done if one.state == TrialState.COMPLETE]
    middling = float(np.median([one.values[0] * signs[0] for one in finished])) if finished else -np.inf
    told = []
    for one in done:
        values: tuple[float, ...] = ()
        if one.state == TrialState.COMPLETE:
            values = tuple(sign * value for sign, value in zip(signs, one.values, strict=True))
        elif one.state == TrialState.PRUNED and one.intermediate_values and len(signs) == 1:
            values = (max(signs[0] * one.intermediate_values[max(one.intermediate_values)], middling),)
        told.append(Observation(_part(one.params, names), values, tuple(one.constraints.values())))
    return told


def _distribution(one: Parameter) -> BaseDistribution:
    if isinstance(one, Categorical):
        return CategoricalDistribution(one.choices)
    if isinstance(one, Integer):
        return IntDistribution(one.low, one.high, log=one.log, step=one.step)
    return FloatDistribution(one.low, one.high, log=one.log, step=one.step)


def _parameter(name: str, one: BaseDistribution) -> Parameter:
    if isinstance(one, FloatDistribution):
        return Float(name, one.low, one.high, log=one.log, step=one.step)
    if isinstance(one, IntDistribution):
        return Integer(name, one.low, one.high, log=one.log, step=one.step)
    if isinstance(one, CategoricalDistribution):
        return Categorical(name, tuple(one.choices))
    raise TypeError(f"{name}: {type(one).__name__} is none of Optuna's distributions")
