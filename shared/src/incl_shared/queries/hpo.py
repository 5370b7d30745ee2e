"""What the service of sweeps can be asked."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from incl_shared.events.sweeps import SweepState, TrialState
from incl_shared.ids import Id
from incl_shared.queries.base import Answer, Query
from incl_shared.sweep import Algorithm, Point, SweepParameter, SweepSpec


class TrialView(Answer):
    """One trial. Times in seconds since the epoch. values: of the objectives in their order; none: it has none."""

    trial: int
    experiment: Id
    state: TrialState
    parameters: Point
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()
    message: str = ""
    attempts: int = Field(0, description="Of its experiment, once it is over.")
    steps: int = Field(0, description="The last step of the objective, once it is over.")
    rung: int = Field(0, description="The last rung that it has passed, or was stopped at; 0: none.")
    asked: float
    ended: float | None = None
    cost: float | None = Field(None, description="Of its machines so far, where the sweep's money is counted.")


class SweepRow(Answer):
    """One line of a list. Times in seconds since the epoch."""

    id: Id
    name: str
    project: str
    user: str
    state: SweepState
    message: str = Field("", description="Why it tries no more.")
    hint: str = ""
    created: float
    ended: float | None = None
    budget: int = Field(description="How many trials there may be.")
    trials: int = Field(description="How many there are.")
    counts: dict[TrialState, int] = Field(default_factory=dict)
    algorithm: str
    metrics: tuple[str, ...] = Field(description="Of the objectives.")
    steps: int = Field(0, description="Of all trials that are over.")
    steps_saved: int = Field(0, description="What pruned trials had left of the longest complete one.")
    money: float | None = Field(None, description="What all trials may cost; none: no such limit.")
    spent: float | None = Field(None, description="What they have cost so far; none: it is not counted.")
    currency: str = Field("", description="Of both; empty: no machine was made yet.")
    best: TrialView | None = Field(None, description="By the first objective, of those that keep the constraints.")


class SweepPage(Answer):
    """A page of a list, the newest first; no cursor: the last one."""

    rows: tuple[SweepRow, ...]
    cursor: str | None = None


class ListSweeps(Query[SweepPage]):
    """The sweeps of the project."""

    service: ClassVar[str] = "hpo"
    name: ClassVar[str] = "sweeps"
    answer: ClassVar[type[Answer]] = SweepPage

    running: bool = Field(False, description="Only those that are not over.")
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, max_length=64)


class SweepView(Answer):
    """All of one sweep but its trials."""

    row: SweepRow
    version: int = Field(description="Grows with every change.")
    spec: SweepSpec
    best: tuple[TrialView, ...] = Field(
        (), description="The best trial; with several objectives those that no other one beats in all, 50 at most."
    )
    running: tuple[TrialView, ...] = Field((), description="Those that are not over, the newest first, 50 at most.")
    recent: tuple[TrialView, ...] = Field((), description="Those that ended last, 10 at most.")


class GetSweep(Query[SweepView]):
    """ref: a whole id, a unique end of one (4 characters at least), '@last', or a name."""

    service: ClassVar[str] = "hpo"
    name: ClassVar[str] = "sweep"
    answer: ClassVar[type[Answer]] = SweepView

    ref: str = Field(min_length=1, max_length=200)


class AlgorithmChecked(Answer):
    """It can be used."""


class CheckAlgorithm(Query[AlgorithmChecked]):
    """Whether the service has an algorithm, its options are right, and it can do what a sweep asks of it."""

    service: ClassVar[str] = "hpo"
    name: ClassVar[str] = "check_algorithm"
    answer: ClassVar[type[Answer]] = AlgorithmChecked

    algorithm: Algorithm
    parameters: dict[str, SweepParameter] = Field(max_length=200)
    objectives: int = Field(1, ge=1, le=4)
    constraints: int = Field(0, ge=0, le=20)


class TrialPage(Answer):
    """A page of trials; no cursor: the last one."""

    trials: tuple[TrialView, ...]
    cursor: int | None = None


class ListTrials(Query[TrialPage]):
    """The trials of a sweep, by number or the best first (those without a value last)."""

    service: ClassVar[str] = "hpo"
    name: ClassVar[str] = "trials"
    answer: ClassVar[type[Answer]] = TrialPage

    sweep: Id
    sort: Literal["number", "value"] = "number"
    state: TrialState | None = None
    limit: int = Field(200, ge=1, le=500)
    cursor: int = Field(0, ge=0)
