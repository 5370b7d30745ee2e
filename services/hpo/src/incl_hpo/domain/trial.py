"""One trial: its id, its submission, and what becomes of it when its experiment is over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from incl_shared.events import ExperimentSubmitted, SweepSubmitted, TrialState
from incl_shared.ids import derived_id, short
from incl_shared.queries.tracker import MetricSummary
from incl_shared.states import EndReason, ExperimentState
from incl_shared.sweep import Objective, ObjectiveValue, Point, SweepSpec, env_text

OVER = frozenset(TrialState) - {TrialState.RUNNING, TrialState.ENDED}
"""States that nothing leaves."""
Memo = Mapping[str, Mapping[str, Any]] | None
"""What a sampler of Optuna noted when it asked for a trial."""
_MACHINES = (EndReason.PREEMPTED, EndReason.LOST, EndReason.INFRA)


class Finish(BaseModel):
    """How the experiment of a trial ended."""

    model_config = ConfigDict(frozen=True)

    state: ExperimentState
    reason: EndReason
    message: str = ""

    @property
    def blameless(self) -> bool:
        """It was not the parameters: machines were lost more often than the experiment is tried again."""
        return self.state is ExperimentState.FAILED and self.reason in _MACHINES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to. values, constraints: as they were logged."""

    state: TrialState
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()
    message: str = ""
    steps: int = 0
    """The last step of the first objective."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial as the search sees it."""

    number: int
    experiment: str
    state: TrialState
    parameters: Point
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()
    finish: Finish | None = None
    over: float | None = None
    rung: int = 0
    pruned: bool = False
    steps: int = 0
    memo: Memo = None
    cost: float | None = None
    cost_final: bool = False


def experiment_id(sweep: str, number: int) -> str:
    """The id of a trial's experiment: the same each time, so that a repeated submission is the same one."""
    return derived_id("trial", sweep, number)


def submission(request: SweepSubmitted, name: str, number: int, point: Point) -> ExperimentSubmitted:
    """What is submitted for a trial: the sweep's experiment, with the parameters in its environment."""
    sweep, spec = request.spec, request.spec.experiment
    env = {**spec.env, **{key: env_text(value) for key, value in point.items()}}
    metrics = {**spec.metrics, **{one.metric: one.goal for one in sweep.objective}}
    changes = {"name": f"{name[:110]}-{number}", "env": env, "metrics": metrics}
    return ExperimentSubmitted(
        experiment=experiment_id(request.sweep, number),
        spec=spec.model_copy(update=changes),
        code=request.code,
        provenance=request.provenance.model_copy(update={"sweep": request.sweep, "trial": number}),
        submitter=request.submitter,
    )


def outcome(spec: SweepSpec, finish: Finish, metrics: Mapping[str, MetricSummary], *, pruned: bool = False) -> Outcome:
    """What a trial came to. metrics: what its experiment logged, by name. pruned: the sweep stopped it early."""
    first = metrics.get(spec.objective[0].metric)
    found = _outcome(spec, finish, metrics, pruned=pruned)
    return replace(found, steps=max(0, first.last_step) if first is not None else 0)


def _outcome(spec: SweepSpec, finish: Finish, metrics: Mapping[str, MetricSummary], *, pruned: bool) -> Outcome:
    wanted = [(one.metric, _value(one, metrics)) for one in spec.objective]
    kept = [(name, _last(name, metrics)) for name in spec.constraints]
    missing = [name for name, value in (*wanted, *kept) if value is None]
    values = tuple(value for _, value in wanted if value is not None)
    constraints = tuple(value for _, value in kept if value is not None)
    broken = [
        f"{name} is {value}" for name, value in (*wanted, *kept) if value is not None and not math.isfinite(value)
    ]
    if finish.state is ExperimentState.FAILED:
        return Outcome(TrialState.FAILED, message=finish.message or f"it ended with {finish.reason}")
    if finish.state is ExperimentState.STOPPED:
        some = (values, constraints) if not missing and not broken else ((), ())
        state = TrialState.PRUNED if pruned else TrialState.STOPPED
        return Outcome(state, *some, message="" if pruned else finish.message)
    if missing:
        return Outcome(TrialState.METRIC_MISSING, message=f"it never logged {missing[0]}")
    if broken:
        return Outcome(TrialState.FAILED, values, constraints, broken[0])
    return Outcome(TrialState.COMPLETE, values, constraints)


def _value(one: Objective, metrics: Mapping[str, MetricSummary]) -> float | None:
    found = metrics.get(one.metric)
    if found is None:
        return None
    return found.last if one.value is ObjectiveValue.LAST or found.best is None else found.best


def _last(name: str, metrics: Mapping[str, MetricSummary]) -> float | None:
    found = metrics.get(name)
    return None if found is None else found.last


def score(spec: SweepSpec, found: Outcome) -> float | None:
    """The first objective's value, less is better; none where there is none, or a constraint is broken."""
    if found.state is not TrialState.COMPLETE or any(value > 0 for value in found.constraints):
        return None
    return signed(spec, found.values)[0]


def signed(spec: SweepSpec, values: Sequence[float]) -> tuple[float, ...]:
    """Values so that less is better."""
    return tuple(-v if one.goal == "max" else v for one, v in zip(spec.objective, values, strict=True))


def hint_of(state: TrialState, experiment: str) -> str:
    """The next step where trials have no value."""
    logs = f"incl logs {short(experiment)}"
    if state is TrialState.METRIC_MISSING:
        return f"log the objective in the script: incl.log({{…}}, step=…); and see: {logs}"
    return f"see why: {logs}"
