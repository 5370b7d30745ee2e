"""What a search is asked for: the sweep file, validated.

This model is the file format and the payload of SweepSubmitted at once. Reading a file with line numbers is
`incl_shared.sweepfile`; whether parameters make a space together is `incl_shared.sweep_space`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, JsonValue, StringConstraints, model_validator

from incl_shared.ids import Token
from incl_shared.spec import ExperimentSpec, Goal, Label, MetricName, Strict

Scalar = bool | int | float | Annotated[str, StringConstraints(max_length=4096)]
"""A value of a parameter: what YAML has without a list or a mapping. 1, 1.0 and true are three values."""
Point = dict[str, Scalar]
"""Values of the parameters that are active."""
MOST_TRIALS = 10_000
MOST_PARALLEL = 1_000
MOST_MONEY = 1e9
_ALGORITHM = re.compile(r"^(tpe|random|grid|sobol|optuna\.[A-Za-z][A-Za-z0-9_]{0,60})$")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
_TAKEN = frozenset({"PATH", "HOME", "SHELL", "USER", "LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME"})
"""What a job could not even begin without, or with another value."""


class ParameterKind(StrEnum):
    """How the values of a parameter lie."""

    UNIFORM = "uniform"
    LOGUNIFORM = "loguniform"
    INT = "int"
    QUANTISED = "quantised"
    CATEGORICAL = "categorical"


def _many(value: object) -> object:
    return [value] if isinstance(value, bool | int | float | str) else value


def _choices(value: object) -> object:
    return {"type": "categorical", "choices": value} if isinstance(value, list | tuple) else value


def _listed(value: object) -> object:
    return [value] if isinstance(value, dict) else value


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class SweepParameter(Strict):
    """One parameter: uniform, loguniform, int (log or in steps), quantised (in steps), categorical."""

    type: ParameterKind
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = Field(None, description="Of int and quantised: counted from low.")
    log: bool = Field(False, description="Of int: each factor as likely as any other.")
    choices: tuple[Scalar, ...] = Field((), max_length=1000, description="Of categorical.")
    when: dict[str, Annotated[tuple[Scalar, ...], Field(min_length=1), BeforeValidator(_many)]] = Field(
        default_factory=dict, description="It exists only when other parameters have one of these values."
    )


class ObjectiveValue(StrEnum):
    """Which of the logged values is the trial's."""

    LAST = "last"
    BEST = "best"


class Objective(Strict):
    """A metric that the script logs, and which way it is better."""

    metric: MetricName
    goal: Goal
    value: ObjectiveValue = Field(ObjectiveValue.LAST, description="The last value that was logged, or the best.")


class Budget(Strict):
    """When no further trial begins; the first limit counts. Those that run then come to their end."""

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    hours: Annotated[float, Field(gt=0, le=8784)] | None = Field(None, description="Since the sweep was submitted.")
    money: Annotated[float, Field(gt=0, le=MOST_MONEY)] | None = Field(
        None, description="What the machines of all trials may cost, in the currency of the list of prices."
    )


def _algorithm(value: object) -> object:
    if isinstance(value, str) and not _ALGORITHM.fullmatch(value):
        raise ValueError(f"{value[:80]!r} is none: tpe, random, grid, sobol, or one of Optuna's: optuna.TPESampler …")
    return value


class Algorithm(Strict):
    """What says which point is tried next."""

    name: Annotated[str, StringConstraints(pattern=_ALGORITHM.pattern), BeforeValidator(_algorithm)] = Field(
        "tpe",
        description="tpe (the platform's own), random, grid, sobol; or a sampler of Optuna by its class: "
        "optuna.TPESampler, optuna.CmaEsSampler …",
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, max_length=50, description="Of a sampler of Optuna: the arguments of its class."
    )

    @model_validator(mode="after")
    def _has_options(self) -> Algorithm:
        if self.options and not self.of_optuna:
            raise ValueError(f"options: {self.name} has none; only the samplers of Optuna have")
        return self

    @property
    def of_optuna(self) -> bool:
        """Whether it is one of Optuna's samplers."""
        return self.name.startswith("optuna.")


class Stopper(StrEnum):
    """What ends trials early."""

    ASHA = "asha"
    MEDIAN = "median"
    NONE = "none"


class EarlyStopping(Strict):
    """When trials that are behind are ended early. Steps are those of `incl.log`."""

    name: Stopper = Field(
        Stopper.ASHA, description="asha: only the best of each rung go on; median: the better half; none: all."
    )
    min: Annotated[int, Field(ge=1)] | None = Field(
        None, description="The step of the first rung; none: a ninth of what the first complete trial logged."
    )
    eta: Annotated[int, Field(ge=2, le=100)] = Field(
        3, description="Each rung is so many times further, and (asha) one of so many goes on."
    )


class SweepSpec(Strict):
    """A search as its author wrote it."""

    name: Label | None = Field(None, description="A name for people; need not be unique.")
    project: Token = Field("default", description="The project that it belongs to, and all of its trials.")
    experiment: ExperimentSpec = Field(description="What each trial runs: an experiment, or the path of its file.")
    parameters: dict[str, Annotated[SweepParameter, BeforeValidator(_choices)]] = Field(
        max_length=200, description="By the names of the environment variables that trials get them as."
    )
    objective: Annotated[tuple[Objective, ...], Field(min_length=1, max_length=4), BeforeValidator(_listed)]
    constraints: tuple[MetricName, ...] = Field(
        (), max_length=20, description="Metrics (the last value) that are kept where they are at most 0."
    )
    budget: Budget
    parallel: Annotated[int, Field(ge=1, le=MOST_PARALLEL)] = Field(4, description="Trials at once, at most.")
    algorithm: Annotated[Algorithm, BeforeValidator(_named)] = Field(default_factory=Algorithm)
    early_stopping: Annotated[EarlyStopping, BeforeValidator(_named)] = Field(
        default_factory=EarlyStopping, description="Of trials that log the objective as they go; one objective only."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="The same seed asks the same first points.")
    initial: tuple[Point, ...] = Field((), max_length=1000, description="Points that are tried first, in this order.")
    warm_start: tuple[Annotated[str, StringConstraints(min_length=1, max_length=200)], ...] = Field(
        (), max_length=20, description="Earlier sweeps of the project whose trials are learned from: ids or names."
    )
    give_up_after: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = Field(
        5, description="When so many trials have ended and none has a value, the sweep has failed."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_project(cls, values: Any) -> Any:
        """The trials' project is the sweep's."""
        experiment = values.get("experiment") if isinstance(values, dict) else None
        if isinstance(experiment, dict) and "project" in values and "project" not in experiment:
            values = {**values, "experiment": {**experiment, "project": values["project"]}}
        return values

    @model_validator(mode="after")
    def _fits_together(self) -> SweepSpec:
        from incl_shared.sweep_space import check_initial, check_space

        if self.budget.trials is None and self.budget.hours is None and self.budget.money is None:
            raise ValueError("budget: there is no limit; give trials, hours, money, or several of them")
        if self.budget.money is not None and self.experiment.instance is None:
            raise ValueError(
                "budget: money: the experiment names no instance, and machines of your own cost nothing here; "
                "give trials or hours, or an instance"
            )
        if self.experiment.project != self.project:
            raise ValueError(f"experiment: its project is {self.experiment.project}, the sweep's {self.project}")
        for name in self.parameters:
            self._check_name(name)
        metrics = [one.metric for one in self.objective]
        if doubled := {name for name in metrics if metrics.count(name) > 1} | (set(metrics) & set(self.constraints)):
            raise ValueError(f"objective: {min(doubled)} is there twice; an objective or a constraint, once")
        for one in self.objective:
            if self.experiment.metrics.get(one.metric, one.goal) is not one.goal:
                raise ValueError(f"objective: the experiment's metrics say {one.metric} is better the other way")
        check_space(self.parameters)
        check_initial(self.parameters, self.initial)
        return self

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"parameters: {name[:80]!r} is not a name of an environment variable: letters, digits and _"
            )
        if name in _TAKEN:
            raise ValueError(f"parameters: {name} is a variable that programs depend on; choose another name")
        if name.startswith("INCL_"):
            raise ValueError(f"parameters: {name} is set by the platform; choose a name without INCL_")
        if name in self.experiment.read_secrets:
            raise ValueError(f"parameters: {name} is a secret of the experiment too; leave it out of one of them")

    @property
    def stops_early(self) -> bool:
        """Whether trials may be ended early."""
        return self.early_stopping.name is not Stopper.NONE and len(self.objective) == 1

    @property
    def most(self) -> int:
        """How many trials there may be."""
        return self.budget.trials or MOST_TRIALS


def money_text(amount: float) -> str:
    """An amount of money: in hundredths, or with three digits where it is less than one."""
    return f"{amount:.3g}" if 0 < abs(amount) < 1 else f"{amount:.2f}"


def env_text(value: Scalar) -> str:
    """A value as the script finds it in its environment; `float()` of a number's text gives the same number."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
