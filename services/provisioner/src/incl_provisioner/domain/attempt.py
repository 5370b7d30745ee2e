"""The state machines of one rank and of a whole attempt, as tables that only go forward.

The facts of a rank are what its node reports; the state of the attempt follows from the states of its ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from incl_shared.states import AttemptState, EndReason


class RankState(StrEnum):
    """Where one rank of an attempt is."""

    ASSIGNED = "assigned"
    PREPARING = "preparing"
    READY = "ready"
    RUNNING = "running"
    UPLOADING = "uploading"
    ENDED = "ended"


class RankFact(StrEnum):
    """What a node can say of a rank, and what is concluded of its silence."""

    PREPARING = "preparing"
    READY = "ready"
    STARTED = "started"
    UPLOADING = "uploading"
    ENDED = "ended"
    GIVEN_UP = "given_up"


class AttemptFact(StrEnum):
    """What the ranks together amount to."""

    PREPARING = "preparing"
    STARTED = "started"
    UPLOADING = "uploading"
    ENDED = "ended"


_R = RankState
_RF = RankFact
_A = AttemptState
_AF = AttemptFact

RANK_TRANSITIONS: dict[tuple[RankState, RankFact], RankState] = {
    (_R.ASSIGNED, _RF.PREPARING): _R.PREPARING,
    (_R.ASSIGNED, _RF.READY): _R.READY,
    (_R.ASSIGNED, _RF.STARTED): _R.RUNNING,
    (_R.ASSIGNED, _RF.UPLOADING): _R.UPLOADING,
    (_R.ASSIGNED, _RF.ENDED): _R.ENDED,
    (_R.ASSIGNED, _RF.GIVEN_UP): _R.ENDED,
    (_R.PREPARING, _RF.READY): _R.READY,
    (_R.PREPARING, _RF.STARTED): _R.RUNNING,
    (_R.PREPARING, _RF.UPLOADING): _R.UPLOADING,
    (_R.PREPARING, _RF.ENDED): _R.ENDED,
    (_R.PREPARING, _RF.GIVEN_UP): _R.ENDED,
    (_R.READY, _RF.STARTED): _R.RUNNING,
    (_R.READY, _RF.UPLOADING): _R.UPLOADING,
    (_R.READY, _RF.ENDED): _R.ENDED,
    (_R.READY, _RF.GIVEN_UP): _R.ENDED,
    (_R.RUNNING, _RF.UPLOADING): _R.UPLOADING,
    (_R.RUNNING, _RF.ENDED): _R.ENDED,
    (_R.RUNNING, _RF.GIVEN_UP): _R.ENDED,
    (_R.UPLOADING, _RF.ENDED): _R.ENDED,
    (_R.UPLOADING, _RF.GIVEN_UP): _R.ENDED,
}

ATTEMPT_TRANSITIONS: dict[tuple[AttemptState, AttemptFact], AttemptState] = {
    (_A.ASSIGNED, _AF.PREPARING): _A.PREPARING,
    (_A.ASSIGNED, _AF.STARTED): _A.RUNNING,
    (_A.ASSIGNED, _AF.UPLOADING): _A.UPLOADING,
    (_A.ASSIGNED, _AF.ENDED): _A.ENDED,
    (_A.PREPARING, _AF.STARTED): _A.RUNNING,
    (_A.PREPARING, _AF.UPLOADING): _A.UPLOADING,
    (_A.PREPARING, _AF.ENDED): _A.ENDED,
    (_A.RUNNING, _AF.UPLOADING): _A.UPLOADING,
    (_A.RUNNING, _AF.ENDED): _A.ENDED,
    (_A.UPLOADING, _AF.ENDED): _A.ENDED,
}


def advance_rank(state: RankState, fact: RankFact) -> RankState | None:
    """The next state; None when the fact is late."""
    return RANK_TRANSITIONS.get((state, fact))


def advance_attempt(state: AttemptState, fact: AttemptFact) -> AttemptState | None:
    """The next state; None when the fact is late."""
    return ATTEMPT_TRANSITIONS.get((state, fact))


def summary(counts: Mapping[RankState, int]) -> AttemptFact | None:
    """What the ranks of an attempt amount to; None while nothing has happened.

    counts: how many ranks are in each state.
    """
    total = sum(counts.values())
    ended = counts.get(RankState.ENDED, 0)
    past_run = ended + counts.get(RankState.UPLOADING, 0)
    started = past_run + counts.get(RankState.RUNNING, 0)
    if ended == total:
        return AttemptFact.ENDED
    if past_run == total:
        return AttemptFact.UPLOADING
    if started == total:
        return AttemptFact.STARTED
    return AttemptFact.PREPARING if counts.get(RankState.ASSIGNED, 0) < total else None


def all_ready(states: Iterable[RankState]) -> bool:
    """Whether every rank is prepared, or further: the moment of the rendezvous."""
    return all(state not in (RankState.ASSIGNED, RankState.PREPARING) for state in states)


@dataclass(frozen=True)
class End:
    """How one rank ended. `at`: seconds since the epoch, the best estimate; `induced`: it was told to stop before."""

    rank: int
    reason: EndReason
    message: str
    hint: str
    at: float
    induced: bool


def is_failure(reason: EndReason) -> bool:
    """Whether the other ranks of the gang cannot go on after this end."""
    return reason is not EndReason.COMPLETED


CONSEQUENCES = frozenset({EndReason.ERROR, EndReason.INFRA, EndReason.LOST})
"""Ends that a machine which is taken back may cause, on it and on its peers."""
MOMENTS_S = 5.0
"""So much earlier than the notice may its consequences be dated: clocks differ, and a notice is read a moment late."""


def verdict(ends: Iterable[End], taken: float | None = None) -> End:
    """The end that speaks for the whole attempt: the first failure that was not itself caused by being told to stop.

    A peer of a dead machine fails moments after it; the dead machine's own end is dated by its last word, so it
    comes first. When all were told to stop, that is the reason; when none failed, the attempt is complete.

    When the provider takes a machine back, its job may go on in its grace while its peers fail already, and its own end
    may come before the notice is read: what fails from then on is preempted.

    Args:
        taken: when the provider first said that it takes a machine of this attempt back (epoch s).

    Raises:
        ValueError: without any end.
    """
    ordered = sorted(ends, key=lambda end: (end.at, end.rank))
    if not ordered:
        raise ValueError("an attempt without ranks has no end")
    own = [end for end in ordered if is_failure(end.reason) and not end.induced]
    told = [end for end in ordered if is_failure(end.reason)]
    first = (own or told or ordered)[0]
    if taken is None or first.reason not in CONSEQUENCES or first.at < taken - MOMENTS_S:
        return first
    said = next((end for end in ordered if end.reason is EndReason.PREEMPTED), None)
    return said or replace(first, reason=EndReason.PREEMPTED, message=_taken(first.message), hint="")


def _taken(message: str) -> str:
    text = "the provider takes a machine back (preemption)"
    return f"{text}; then: {message}" if message else text
