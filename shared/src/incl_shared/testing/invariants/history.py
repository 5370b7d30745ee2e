"""What the events say: states only go forward, one attempt at a time, one right end, all of it settled once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from incl_shared.events.base import Event
from incl_shared.events.experiments import (
    ArtifactStored,
    AttemptAssigned,
    AttemptEnded,
    AttemptSettled,
    AttemptStarted,
    ExperimentFinished,
    ExperimentQueued,
    ExperimentStopping,
    ExperimentWaiting,
)
from incl_shared.states import FINAL_STATES, ExperimentState
from incl_shared.testing.invariants.evidence import Evidence, Fact, Ran, Violation

_S = ExperimentState
_ENDING = "ending"
"""The last attempt ended and none follows: the final state comes next."""

FORWARD: dict[tuple[str, str], str] = {
    ("", "ExperimentQueued"): _S.QUEUED,
    (_S.QUEUED, "ExperimentWaiting"): _S.QUEUED,
    (_S.QUEUED, "AttemptAssigned"): _S.STARTING,
    (_S.QUEUED, "ExperimentFinished"): "final",
    (_S.STARTING, "AttemptStarted"): _S.RUNNING,
    (_S.STARTING, "ExperimentStopping"): _S.STOPPING,
    (_S.STARTING, "retried"): _S.QUEUED,
    (_S.STARTING, "AttemptEnded"): _ENDING,
    (_S.RUNNING, "ExperimentStopping"): _S.STOPPING,
    (_S.RUNNING, "retried"): _S.QUEUED,
    (_S.RUNNING, "AttemptEnded"): _ENDING,
    (_S.STOPPING, "AttemptEnded"): _ENDING,
    (_ENDING, "ExperimentFinished"): "final",
}
"""(state, event) -> state, as the events of an experiment may follow each other; `retried` is an AttemptEnded after
which another attempt follows. A pair that is not here is a step back, or out of line."""


@dataclass
class History:
    """One experiment, as its events tell it."""

    experiment: str
    state: str = ""
    attempt: int = 0
    version: int = 0
    final: ExperimentFinished | None = None
    ended: dict[int, int] = field(default_factory=dict)
    """Attempts that ended, with the sequence of their AttemptEnded."""
    settled: dict[int, int] = field(default_factory=dict)
    """How often each attempt was settled."""
    checkpoints: list[tuple[int, int, int]] = field(default_factory=list)
    """(sequence, attempt, step) of each that was stored."""

    def take(self, fact: Fact) -> Iterator[Violation]:
        """The next event of the experiment."""
        event = fact.event
        match event:
            case AttemptSettled():
                self.settled[event.attempt] = self.settled.get(event.attempt, 0) + 1
            case ArtifactStored():
                if event.kind == "checkpoint" and event.step is not None:
                    self.checkpoints.append((fact.sequence, event.attempt, event.step))
            case _ if _moves(event):
                yield from self._step(fact, event)

    def _step(self, fact: Fact, event: Event) -> Iterator[Violation]:
        name = type(event).__name__
        if isinstance(event, AttemptEnded) and event.retry:
            name = "retried"
        if fact.version != self.version + 1:
            text = f"{name} has version {fact.version} after {self.version}: each comes once, without a hole"
            yield Violation("states go forward", self.experiment, text)
        self.version = max(self.version, fact.version)
        after = FORWARD.get((self.state, name))
        if after is None:
            text = f"{name} in {self.state or 'no state'} (attempt {self.attempt})"
            yield Violation("states go forward", self.experiment, text)
        self.state = after or self.state
        yield from self._attempt(fact, event)

    def _attempt(self, fact: Fact, event: Event) -> Iterator[Violation]:
        wanted = self.attempt
        if isinstance(event, AttemptAssigned):
            wanted, self.attempt = self.attempt + 1, event.attempt
        elif isinstance(event, ExperimentFinished):
            self.final = self.final or event
        if isinstance(event, AttemptAssigned | AttemptStarted | AttemptEnded) and event.attempt != wanted:
            text = f"{type(event).__name__} of attempt {event.attempt} where attempt {wanted} is"
            yield Violation("one attempt at a time", self.experiment, text)
        if isinstance(event, AttemptEnded):
            self.ended[event.attempt] = fact.sequence


def _moves(event: Event) -> bool:
    return isinstance(
        event,
        ExperimentQueued
        | ExperimentWaiting
        | ExperimentStopping
        | AttemptAssigned
        | AttemptStarted
        | AttemptEnded
        | ExperimentFinished,
    )


def read(evidence: Evidence) -> tuple[dict[str, History], list[Violation]]:
    """The history of every experiment, and what is wrong with the order of its events.

    An event that is there again under its own id is a repeat, which every consumer skips: so does this.
    """
    histories: dict[str, History] = {}
    wrong: list[Violation] = []
    seen: set[str] = set()
    for fact in sorted(evidence.facts, key=lambda each: each.sequence):
        experiment = getattr(fact.event, "experiment", None)
        if not isinstance(experiment, str) or fact.id in seen:
            continue
        seen.add(fact.id)
        history = histories.setdefault(experiment, History(experiment))
        wrong += history.take(fact)
    return histories, wrong


def finals(evidence: Evidence, histories: dict[str, History]) -> Iterator[Violation]:
    """Every submitted experiment ended once, rightly, with no more attempts than it may have."""
    for submitted in evidence.submitted:
        rule, experiment = "one right final state", submitted.experiment
        history = histories.get(experiment)
        if history is None:
            yield Violation(rule, experiment, "no event tells of it")
            continue
        if history.final is None:
            yield Violation(rule, experiment, f"it is {history.state} (attempt {history.attempt})")
            continue
        state = history.final.state
        if state not in FINAL_STATES or state not in submitted.right:
            right = ", ".join(sorted(submitted.right))
            text = f"it ended {state} ({history.final.reason}: {history.final.message}), right is {right}"
            yield Violation(rule, experiment, text)
        if history.final.attempts != history.attempt:
            text = f"its end speaks of {history.final.attempts} attempts, the events of {history.attempt}"
            yield Violation(rule, experiment, text)
        if submitted.attempts is not None and history.attempt > submitted.attempts:
            text = f"it took {history.attempt} attempts, at most {submitted.attempts} are right"
            yield Violation(rule, experiment, text)


def settlements(evidence: Evidence, histories: dict[str, History]) -> Iterator[Violation]:
    """Every attempt that ended is settled once; the tracker tells of the experiment what its events do."""
    told = {each.experiment: each for each in evidence.told}
    for submitted in evidence.submitted:
        experiment, history = submitted.experiment, histories.get(submitted.experiment)
        if history is None:
            continue
        for attempt in sorted({*history.ended, *history.settled}):
            count = history.settled.get(attempt, 0)
            if count != 1 or attempt not in history.ended:
                ended = "" if attempt in history.ended else ", and never ended"
                yield Violation("settled once", experiment, f"attempt {attempt} was settled {count} times{ended}")
        answer = told.get(experiment)
        if answer is None or history.final is None:
            continue
        if (answer.state, answer.attempts) != (history.final.state, history.attempt):
            text = f"the tracker says {answer.state} after {answer.attempts} attempts, the events "
            yield Violation("told as it was", experiment, f"{text}{history.final.state} after {history.attempt}")
        if history.attempt and not answer.settled:
            yield Violation("told as it was", experiment, "the tracker does not say that it is settled")


def resumptions(ran: tuple[Ran, ...], histories: dict[str, History]) -> Iterator[Violation]:
    """A later attempt begins from the newest checkpoint stored before the earlier one ended, or a newer one."""
    for process in ran:
        history = histories.get(process.experiment)
        if process.resumed is None or history is None or process.attempt == 1:
            continue
        before = history.ended.get(process.attempt - 1, 0)
        stored = [(attempt, step) for at, attempt, step in history.checkpoints if at < before]
        newest = max((each for each in stored if each[0] < process.attempt), default=None)
        if newest is not None and process.resumed < newest[1]:
            text = (
                f"attempt {process.attempt} began from step {process.resumed}, the newest checkpoint is of {newest[1]}"
            )
            yield Violation("resumed from the newest checkpoint", process.experiment, text)
