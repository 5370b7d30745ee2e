"""For every invariant a history that it holds for, and one that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.invariants import (
    Dead,
    Evidence,
    Fact,
    Leftover,
    Logged,
    Ran,
    Stored,
    Submitted,
    Told,
    assert_holds,
    point,
    violations,
)

X = "01hxaaaaaaaaaaaaaaaaaaaaaa"
SPEC = ExperimentSpec(command=["true"])


class Story:
    """Writes the history of one experiment, and the ledger that goes with it."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.ran: list[Ran] = []
        self.logged: list[Logged] = []
        self.attempt = 0
        self.time = 0.0
        self.newest = -1
        self.version = 0
        self.final: ExperimentState | None = None

    def say(self, event: Event) -> None:
        owner = not isinstance(event, AttemptSettled | ArtifactStored)
        self.version += owner
        number = len(self.facts) + 1
        self.facts.append(Fact(number, f"e{number}", self.version if owner else 1, event))

    def queue(self) -> Story:
        self.say(ExperimentQueued(experiment=X, user="ada", spec=SPEC))
        return self

    def assign(self, *, started: bool = True) -> Story:
        self.attempt += 1
        self.say(ExperimentWaiting(experiment=X, reason="it waits for a core"))
        self.say(AttemptAssigned(experiment=X, attempt=self.attempt, placements=()))
        if started:
            self.say(AttemptStarted(experiment=X, attempt=self.attempt, ranks=()))
            self.work(3)
        return self

    def work(self, steps: int) -> None:
        began, first = self.time, self.newest + 1
        for step in range(first, first + steps):
            self.logged.append(Logged(X, self.attempt, 0, "metrics", point("loss", step, step / 3), f"{step}"))
            self.logged.append(Logged(X, self.attempt, 0, "logs", f"step {step}"))
            self.time += 1.0
        self.ran.append(Ran(X, self.attempt, 0, began, self.time, self.newest))
        self.newest = first + steps - 1
        artifact = ArtifactStored(
            experiment=X, attempt=self.attempt, rank=0, kind="checkpoint", path="c", sha256="0" * 64, size=1,
            step=self.newest,
        )  # fmt: skip
        self.say(artifact)

    def stop(self) -> Story:
        self.say(ExperimentStopping(experiment=X, by="ada"))
        return self

    def end(self, reason: EndReason, *, retry: bool = False) -> Story:
        self.say(AttemptEnded(experiment=X, attempt=self.attempt, reason=reason, retry=retry, ranks=()))
        self.say(AttemptSettled(experiment=X, attempt=self.attempt, points=0, lines=0, gaps=0))
        return self

    def finish(self, state: ExperimentState, reason: EndReason) -> Story:
        self.final = state
        self.say(ExperimentFinished(experiment=X, state=state, reason=reason, attempts=self.attempt))
        return self

    def evidence(self) -> Evidence:
        stored = tuple(Stored(e.experiment, e.attempt, e.rank, e.stream, e.what) for e in self.logged)
        told = (Told(X, self.final, self.attempt, True, {}),) if self.final else ()
        return Evidence((Submitted(X),), tuple(self.facts), tuple(self.ran), tuple(self.logged), stored, told)


def well() -> Evidence:
    """Lost once, then finished."""
    story = Story().queue().assign().end(EndReason.LOST, retry=True)
    story.assign().end(EndReason.COMPLETED)
    return story.finish(ExperimentState.FINISHED, EndReason.COMPLETED).evidence()


def facts_without(evidence: Evidence, kind: type[Event], *, last: bool = False) -> Evidence:
    """Without the first (or last) event of a kind."""
    found = [fact for fact in evidence.facts if isinstance(fact.event, kind)]
    gone = found[-1 if last else 0]
    return replace(evidence, facts=tuple(fact for fact in evidence.facts if fact is not gone))


def with_fact(evidence: Evidence, event: Event, version: int = 1000) -> Evidence:
    """With one more at the end."""
    number = len(evidence.facts) + 1
    return replace(evidence, facts=(*evidence.facts, Fact(number, f"e{number}", version, event)))


def told(evidence: Evidence, **changes: object) -> Evidence:
    """The tracker says something else."""
    return replace(evidence, told=(replace(evidence.told[0], **changes),))  # type: ignore[arg-type]


def first_ran(evidence: Evidence, **changes: object) -> Evidence:
    """The first process was another way."""
    return replace(evidence, ran=(replace(evidence.ran[0], **changes), *evidence.ran[1:]))  # type: ignore[arg-type]


def last_ran(evidence: Evidence, **changes: object) -> Evidence:
    """The last process was another way."""
    return replace(evidence, ran=(*evidence.ran[:-1], replace(evidence.ran[-1], **changes)))  # type: ignore[arg-type]


FINISHED = ExperimentFinished(experiment=X, state=ExperimentState.FAILED, reason=EndReason.ERROR, attempts=2)
BREAKS: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "no event of it": ("one right final state", lambda e: replace(e, facts=())),
    "never ended": ("one right final state", lambda e: facts_without(e, ExperimentFinished)),
    "a wrong end": (
        "one right final state",
        lambda e: replace(e, submitted=(Submitted(X, frozenset({ExperimentState.STOPPED})),)),
    ),
    "too many attempts": ("one right final state", lambda e: replace(e, submitted=(Submitted(X, attempts=1),))),
    "ended twice": ("states go forward", lambda e: with_fact(e, FINISHED)),
    "back to the queue": ("states go forward", lambda e: with_fact(e, ExperimentWaiting(experiment=X, reason="?"))),
    "an old version": (
        "states go forward",
        lambda e: replace(e, facts=tuple(replace(f, version=1) for f in e.facts)),
    ),
    "queued twice": (
        "states go forward",
        lambda e: with_fact(e, ExperimentQueued(experiment=X, user="ada", spec=SPEC)),
    ),
    "two attempts at once": ("one attempt at a time", lambda e: facts_without(e, AttemptAssigned)),
    "the first did not end": ("states go forward", lambda e: facts_without(e, AttemptEnded)),
    "never settled": ("settled once", lambda e: facts_without(e, AttemptSettled)),
    "settled twice": (
        "settled once",
        lambda e: with_fact(e, AttemptSettled(experiment=X, attempt=1, points=0, lines=0, gaps=0)),
    ),
    "settled without an end": (
        "settled once",
        lambda e: with_fact(e, AttemptSettled(experiment=X, attempt=9, points=0, lines=0, gaps=0)),
    ),
    "the tracker says another end": ("told as it was", lambda e: told(e, state=ExperimentState.FAILED)),
    "the tracker knows fewer attempts": ("told as it was", lambda e: told(e, attempts=1)),
    "the tracker waits": ("told as it was", lambda e: told(e, settled=False)),
    "an old checkpoint": ("resumed from the newest checkpoint", lambda e: last_ran(e, resumed=1)),
    "from nothing": ("resumed from the newest checkpoint", lambda e: last_ran(e, resumed=-1)),
    "both live": ("never two live attempts", lambda e: first_ran(e, ended=e.ran[1].began + 0.5)),
    "started twice": ("started once", lambda e: replace(e, ran=(*e.ran, replace(e.ran[1], began=90.0, ended=91.0)))),
    "a record is missing": ("stored once, or counted as lost", lambda e: replace(e, stored=e.stored[1:])),
    "a line is missing": ("stored once, or counted as lost", lambda e: replace(e, stored=(e.stored[0], *e.stored[2:]))),
    "more is missing than is counted": (
        "stored once, or counted as lost",
        lambda e: told(replace(e, stored=e.stored[2:]), lost={1: 1}),
    ),
    "counted in another attempt": (
        "stored once, or counted as lost",
        lambda e: told(replace(e, stored=e.stored[1:]), lost={2: 1}),
    ),
    "stored twice": ("stored once, or counted as lost", lambda e: replace(e, stored=(*e.stored, e.stored[0]))),
    "nobody logged it": (
        "stored once, or counted as lost",
        lambda e: replace(e, stored=(*e.stored, replace(e.stored[0], what="loss@99=1.0"))),
    ),
    "lost, which is not right here": (
        "nothing lost",
        lambda e: told(replace(e, submitted=(Submitted(X, lossless=True),)), lost={2: 1}),
    ),
    "a process": ("no process left", lambda e: replace(e, leftovers=(Leftover("process", "pid 7"),))),
    "a folder": ("no folder left", lambda e: replace(e, leftovers=(Leftover("folder", "jobs/x-1-0"),))),
    "a credential": ("no credential left", lambda e: replace(e, leftovers=(Leftover("credential", "x.creds"),))),
    "a lease": ("no lease left", lambda e: replace(e, leftovers=(Leftover("lease", "scheduler"),))),
    "an outbox": ("no outbox left", lambda e: replace(e, leftovers=(Leftover("outbox", "3 of the tracker"),))),
    "a dead letter": (
        "dead letters only of poison",
        lambda e: replace(e, dead=(Dead("EVENTS", "tracker", "e1", "?"),)),
    ),
    "poison that was eaten": ("dead letters only of poison", lambda e: replace(e, poisoned=frozenset({"p1"}))),
}


def test_a_history_that_is_right_breaks_nothing() -> None:
    assert violations(well()) == []
    assert_holds(well())


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(name: str) -> None:
    rule, change = BREAKS[name]
    found = violations(change(well()))
    assert rule in {violation.rule for violation in found}
    with pytest.raises(AssertionError, match=rule):
        assert_holds(change(well()))


RIGHT: dict[str, Callable[[Evidence], Evidence]] = {
    "a lost record that is counted": lambda e: told(replace(e, stored=e.stored[1:]), lost={1: 1}),
    "a loss counted with nothing missing": lambda e: told(e, lost={1: 1}),
    "killed within the call, not stored": lambda e: replace(
        e, logged=(replace(e.logged[0], sure=False), *e.logged[1:]), stored=e.stored[1:]
    ),
    "killed within the call, stored": lambda e: replace(e, logged=(replace(e.logged[0], sure=False), *e.logged[1:])),
    "an event again under its own id": lambda e: replace(
        e, facts=(*e.facts, *(replace(fact, sequence=fact.sequence + 100) for fact in e.facts))
    ),
    "poison that is a dead letter": lambda e: replace(
        e, dead=(Dead("EVENTS", "tracker", "p1", "not JSON"),), poisoned=frozenset({"p1"})
    ),
    "a newer checkpoint than the events tell of": lambda e: last_ran(e, resumed=40),
    "a process that did not say what it began from": lambda e: last_ran(e, resumed=None),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_let_pass(name: str) -> None:
    assert violations(RIGHT[name](well())) == []


def test_points_of_one_record_are_lost_together() -> None:
    pair = tuple(Logged(X, 1, 0, "metrics", f"{name}@0=1.0", "0") for name in ("a", "b"))
    evidence = Evidence(logged=pair, told=(Told(X, ExperimentState.FINISHED, 1, True, {1: 1}),))
    assert violations(evidence) == []


def test_a_stop_before_and_after_the_start_is_right() -> None:
    queued = Story().queue().finish(ExperimentState.STOPPED, EndReason.STOPPED)
    running = Story().queue().assign().stop().end(EndReason.STOPPED)
    running.finish(ExperimentState.STOPPED, EndReason.STOPPED)
    assert violations(queued.evidence()) == []
    assert violations(running.evidence()) == []


@st.composite
def stories(draw: st.DrawFn) -> Evidence:
    """Any way that an experiment may take."""
    story = Story().queue()
    retried = (EndReason.LOST, EndReason.INFRA, EndReason.PREEMPTED)
    for reason in draw(st.lists(st.sampled_from(retried), max_size=3)):
        story.assign(started=draw(st.booleans())).end(reason, retry=True)
    ending = draw(st.sampled_from(("queued", "stopped", "finished")))
    if ending == "queued":
        return story.finish(ExperimentState.STOPPED, EndReason.STOPPED).evidence()
    story.assign(started=draw(st.booleans()))
    if ending == "stopped":
        story.stop().end(EndReason.STOPPED).finish(ExperimentState.STOPPED, EndReason.STOPPED)
    else:
        story.end(EndReason.COMPLETED).finish(ExperimentState.FINISHED, EndReason.COMPLETED)
    return story.evidence()


@given(stories())
def test_every_way_of_an_experiment_is_right(evidence: Evidence) -> None:
    assert violations(evidence) == []


@given(stories(), st.data())
def test_two_events_of_an_experiment_cannot_change_places_unnoticed(evidence: Evidence, data: st.DataObject) -> None:
    owned = [fact for fact in evidence.facts if not isinstance(fact.event, AttemptSettled | ArtifactStored)]
    index = data.draw(st.integers(0, len(owned) - 2))
    first, second = owned[index], owned[index + 1]
    places = {first.id: second.sequence, second.id: first.sequence}
    facts = tuple(replace(fact, sequence=places.get(fact.id, fact.sequence)) for fact in evidence.facts)
    assert violations(replace(evidence, facts=facts)) != []


@given(stories(), st.data())
def test_nothing_stored_can_vanish_or_double_unnoticed(evidence: Evidence, data: st.DataObject) -> None:
    if not evidence.stored:
        return
    one = data.draw(st.sampled_from(evidence.stored))
    assert violations(replace(evidence, stored=tuple(each for each in evidence.stored if each is not one))) != []
    assert violations(replace(evidence, stored=(*evidence.stored, one))) != []
