"""The state machine of an experiment: (state, fact) -> state. It only goes forward; a pair without a row is late.

'Forward' has one loop, which counts: an attempt that ended and is tried again queues the experiment with the next
attempt's number.
"""

from __future__ import annotations

from enum import StrEnum

from incl_shared.states import EndReason, ExperimentState


class ExperimentFact(StrEnum):
    """What can happen to an experiment."""

    REFUSED = "refused"
    """Nothing here can honour it."""
    ASSIGNED = "assigned"
    """Room was found for every rank."""
    STARTED = "started"
    """The first process of every rank runs."""
    STOP_ASKED = "stop_asked"
    """Somebody wants it to stop."""
    RETRIED = "retried"
    """The attempt ended and another follows."""
    COMPLETED = "completed"
    """The last attempt ended well."""
    HALTED = "halted"
    """The last attempt ended because it was told to."""
    FAILED = "failed"
    """The last attempt ended badly, by its own doing."""
    INTERRUPTED = "interrupted"
    """The last attempt ended because its machine was taken, lost or broken."""


_S = ExperimentState
_F = ExperimentFact

TRANSITIONS: dict[tuple[ExperimentState, ExperimentFact], ExperimentState] = {
    (_S.QUEUED, _F.REFUSED): _S.FAILED,
    (_S.QUEUED, _F.ASSIGNED): _S.STARTING,
    (_S.QUEUED, _F.STOP_ASKED): _S.STOPPED,
    (_S.STARTING, _F.STARTED): _S.RUNNING,
    (_S.STARTING, _F.STOP_ASKED): _S.STOPPING,
    (_S.STARTING, _F.RETRIED): _S.QUEUED,
    (_S.STARTING, _F.COMPLETED): _S.FINISHED,
    (_S.STARTING, _F.HALTED): _S.STOPPED,
    (_S.STARTING, _F.FAILED): _S.FAILED,
    (_S.STARTING, _F.INTERRUPTED): _S.FAILED,
    (_S.RUNNING, _F.STOP_ASKED): _S.STOPPING,
    (_S.RUNNING, _F.RETRIED): _S.QUEUED,
    (_S.RUNNING, _F.COMPLETED): _S.FINISHED,
    (_S.RUNNING, _F.HALTED): _S.STOPPED,
    (_S.RUNNING, _F.FAILED): _S.FAILED,
    (_S.RUNNING, _F.INTERRUPTED): _S.FAILED,
    (_S.STOPPING, _F.COMPLETED): _S.FINISHED,
    (_S.STOPPING, _F.HALTED): _S.STOPPED,
    (_S.STOPPING, _F.FAILED): _S.FAILED,
    (_S.STOPPING, _F.INTERRUPTED): _S.STOPPED,
}
"""Every pair that is not here is late, and changes nothing."""

_BY_REASON: dict[EndReason, ExperimentFact] = {
    EndReason.COMPLETED: _F.COMPLETED,
    EndReason.STOPPED: _F.HALTED,
    EndReason.ERROR: _F.FAILED,
    EndReason.MAX_DURATION: _F.FAILED,
    EndReason.IMAGE: _F.FAILED,
    EndReason.DATA: _F.FAILED,
    EndReason.COMMAND: _F.FAILED,
    EndReason.UNSUPPORTED: _F.FAILED,
    EndReason.PREEMPTED: _F.INTERRUPTED,
    EndReason.LOST: _F.INTERRUPTED,
    EndReason.INFRA: _F.INTERRUPTED,
}


def advance(state: ExperimentState, fact: ExperimentFact) -> ExperimentState | None:
    """The next state; None when the fact is late."""
    return TRANSITIONS.get((state, fact))


def conclusion(reason: EndReason, *, retry: bool) -> ExperimentFact:
    """What the end of an attempt means for its experiment."""
    return ExperimentFact.RETRIED if retry else _BY_REASON[reason]
