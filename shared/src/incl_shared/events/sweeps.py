"""Events of sweeps and their trials. The service hpo owns them, but for requests."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from incl_shared.events.base import Event
from incl_shared.events.experiments import CodeRef, Provenance, Submitter
from incl_shared.ids import Id, Token
from incl_shared.sweep import MOST_MONEY, MOST_PARALLEL, MOST_TRIALS, Budget, Point, SweepSpec


class SweepState(StrEnum):
    """Where a sweep is. It only goes forward."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Nothing more is tried; what runs was told to stop."""
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class TrialState(StrEnum):
    """Where a trial is. It only goes forward."""

    RUNNING = "running"
    """Its experiment was submitted, and has no end yet: it waits, runs, or is tried again after a preemption."""
    ENDED = "ended"
    """Its experiment is over; what it logged is being learned."""
    COMPLETE = "complete"
    FAILED = "failed"
    """It failed, or its value is NaN or infinite."""
    METRIC_MISSING = "metric_missing"
    """It came to its end, and never logged the objective (or a constraint)."""
    PRUNED = "pruned"
    """The sweep stopped it early: it was behind the others."""
    STOPPED = "stopped"
    """A person stopped it, or the sweep was stopped."""


class SweepSubmitted(Event):
    """Somebody wants a search. Published by the CLI itself; the id is the client's own."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    spec: SweepSpec
    code: CodeRef | None = None
    provenance: Provenance = Field(default_factory=Provenance)
    submitter: Submitter = Field(default_factory=Submitter)


class SweepStopRequested(Event):
    """Somebody wants a sweep to stop, and the trials that run with it."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "sweepstop"

    sweep: Id
    reason: str = Field("", max_length=1000)


class SweepResumeRequested(Event):
    """Somebody wants a sweep to go on, or to go on for longer: what is none stays as it is."""

    stream: ClassVar[str] = "REQUESTS"
    aggregate: ClassVar[str] = "sweepresume"

    sweep: Id
    trials: int | None = Field(None, ge=1, le=MOST_TRIALS, description="How many there may be in all.")
    hours: float | None = Field(None, gt=0, le=8784, description="How long trials may begin from now on.")
    money: float | None = Field(None, gt=0, le=MOST_MONEY, description="What all trials may cost.")
    parallel: int | None = Field(None, ge=1, le=MOST_PARALLEL)


class SweepResumed(Event):
    """A sweep goes on, with this budget (hours since its submit)."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    user: Token
    budget: Budget
    parallel: int


class SweepStarted(Event):
    """A sweep was taken: its first trials follow."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    user: Token
    spec: SweepSpec


class TrialSuggested(Event):
    """What a trial tries. Its experiment is submitted by the same step."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    trial: int = Field(ge=0)
    experiment: Id
    parameters: Point


class TrialPruned(Event):
    """A trial is behind the others at a rung: its experiment is told to stop. value: as it was logged, at that step."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    trial: int = Field(ge=0)
    experiment: Id
    rung: int = Field(ge=1, description="The step that was waited for.")
    step: int = Field(ge=0)
    value: float | None = Field(description="None: it is no number.")


class TrialEnded(Event):
    """What a trial came to. values: of the objectives, in their order, as they were logged; none: it has no value."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    trial: int = Field(ge=0)
    experiment: Id
    state: TrialState
    values: tuple[float, ...] = ()
    constraints: tuple[float, ...] = ()
    message: str = ""


class SweepFinished(Event):
    """Nothing more is tried, and no trial runs. best: the best trials; several, where there are several objectives."""

    aggregate: ClassVar[str] = "sweep"

    sweep: Id
    state: SweepState
    message: str = ""
    hint: str = ""
    trials: int = Field(ge=0)
    best: tuple[int, ...] = Field((), max_length=100)
