"""Events of an experiment -> what changes in its row and in the row of an attempt.

The provisioner owns the states and numbers its facts without holes, so each event here simply says what is now.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from incl_shared.events import (
    AttemptAssigned,
    AttemptEnded,
    AttemptStarted,
    Event,
    ExperimentFinished,
    ExperimentQueued,
    ExperimentStopping,
    ExperimentWaiting,
    RankEnd,
    RankTimes,
    RunEnded,
    RunStarted,
)
from incl_shared.ids import short
from incl_shared.states import FINAL_STATES, AttemptState, EndReason, ExperimentState
from incl_tracker.domain.settlement import some_silent
from incl_tracker.domain.text import clean

MAX_REASON = 2000
MAX_WAITS = 20
OUTSIDE_ATTEMPT = 1


class Row(Protocol):
    """The columns of an experiment by their names."""

    def __getitem__(self, name: str, /) -> Any: ...


@dataclass(slots=True)
class Change:
    """Column values. `new_attempt` is a whole row, `ended` what the ranks said at the end of an attempt."""

    experiment: dict[str, Any] = field(default_factory=dict)
    attempt: int = 0
    attempt_values: dict[str, Any] = field(default_factory=dict)
    new_attempt: bool = False
    ended: tuple[RankEnd, ...] | None = None


def project(row: Row, event: Event, time: float) -> Change | None:
    """What an event changes, given the experiment's row; None when it is no event of a known experiment.

    time: when the event happened (seconds since the epoch).
    """
    match event:
        case ExperimentWaiting():
            return _waiting(row, event, time)
        case AttemptAssigned():
            return _assigned(row, event, time)
        case AttemptStarted():
            return _started(row, event, time)
        case AttemptEnded():
            return _ended(row, event, time)
        case ExperimentStopping():
            return _stopping(event)
        case ExperimentFinished():
            return _finished(row, event, time)
        case _:
            return None


def admitted(event: ExperimentQueued, project_name: str, time: float) -> dict[str, Any]:
    """The columns of an experiment that was just queued."""
    spec = event.spec
    return {
        "known": True,
        "outside": False,
        "project": project_name,
        "user": event.user,
        "name": spec.name or short(event.experiment),
        "state": ExperimentState.QUEUED.value,
        "waiting": "",
        "waits": "[]",
        "queued_at": time,
        "nodes": spec.nodes,
        "gpus": spec.nodes * spec.resources.gpu,
        "tags": json.dumps(list(spec.tags)),
        "sweep": event.provenance.sweep,
        "trial": event.provenance.trial,
        "declared": json.dumps({name: goal.value for name, goal in spec.metrics.items()}),
        "created": time,
        "spec": spec.model_dump_json(),
        "code": event.code.model_dump_json() if event.code else None,
        "provenance": event.provenance.model_dump_json(),
        "times": event.times.model_dump_json() if event.times else None,
    }


def outside_run(event: RunStarted, project_name: str, user: str) -> dict[str, Any]:
    """The columns of a run outside the platform."""
    return {
        "known": True,
        "outside": True,
        "project": project_name,
        "user": user,
        "name": clean(event.name, 128) if event.name else short(event.experiment),
        "state": ExperimentState.RUNNING.value,
        "queued_at": event.started,
        "attempts": OUTSIDE_ATTEMPT,
        "tags": json.dumps([clean(tag, 128) for tag in event.tags]),
        "created": event.started,
        "started": event.started,
        "provenance": event.provenance.model_dump_json(),
    }


def outside_attempt(event: RunStarted) -> dict[str, Any]:
    """The only attempt of a run outside the platform."""
    return attempt_row(AttemptState.RUNNING, queued=event.started, assigned=event.started) | {"started": event.started}


def outside_end(event: RunEnded) -> Change:
    """What the end of a run outside the platform changes."""
    reason = {
        ExperimentState.FINISHED: EndReason.COMPLETED,
        ExperimentState.STOPPED: EndReason.STOPPED,
    }.get(event.state, EndReason.ERROR)
    state = event.state if event.state in FINAL_STATES else ExperimentState.FAILED
    message = clean(event.message, MAX_REASON)
    return Change(
        {"state": state.value, "reason": reason.value, "message": message, "hint": "", "ended": event.ended},
        OUTSIDE_ATTEMPT,
        {
            "state": AttemptState.ENDED.value,
            "reason": reason.value,
            "message": message,
            "ended": event.ended,
            "settled": False,
        },
    )


def outside_ranks(event: RunEnded) -> tuple[RankEnd, ...]:
    """The end of its only rank, for the settlement. A crashed run may know less of its writers than was stored."""
    times = RankTimes(rank=0, ended=event.ended)
    return (RankEnd(rank=0, node="outside", reason=EndReason.COMPLETED, writers=event.writers, times=times),)


def attempt_row(state: AttemptState, *, queued: float, assigned: float) -> dict[str, Any]:
    """A new attempt."""
    return {
        "state": state.value,
        "message": "",
        "placements": "[]",
        "starts": "[]",
        "ends": "[]",
        "waits": "[]",
        "queued": queued,
        "assigned": assigned,
        "wait_for_due": False,
        "settled": False,
    }


def _waiting(row: Row, event: ExperimentWaiting, time: float) -> Change:
    reason = clean(event.reason, MAX_REASON)
    waits = [*json.loads(row["waits"]), [time, reason]][-MAX_WAITS:]
    return Change({"waiting": reason, "waits": json.dumps(waits)})


def _assigned(row: Row, event: AttemptAssigned, time: float) -> Change:
    attempt = attempt_row(AttemptState.ASSIGNED, queued=row["queued_at"], assigned=time) | {
        "placements": _array(event.placements),
        "waits": row["waits"],
        "machines": event.machines.model_dump_json() if event.machines is not None else None,
    }
    state = row["state"] if row["state"] == ExperimentState.STOPPING else ExperimentState.STARTING.value
    changes = {"state": state, "attempts": event.attempt, "waiting": "", "waits": "[]"}
    return Change(changes, event.attempt, attempt, new_attempt=True)


def _started(row: Row, event: AttemptStarted, time: float) -> Change:
    started = min((rank.started for rank in event.ranks if rank.started is not None), default=time)
    state = row["state"] if row["state"] == ExperimentState.STOPPING else ExperimentState.RUNNING.value
    change: dict[str, Any] = {"state": state}
    if row["started"] is None:
        change["started"] = max(started, row["created"])  # by another clock, which may have been set
    values = {"state": AttemptState.RUNNING.value, "starts": _array(event.ranks), "started": started}
    return Change(change, event.attempt, values)


def _stopping(event: ExperimentStopping) -> Change:
    why = f": {event.reason}" if event.reason else ""
    message = clean(f"stopped by {event.by}{why}", MAX_REASON)
    return Change({"state": ExperimentState.STOPPING.value, "message": message})


def _ended(row: Row, event: AttemptEnded, time: float) -> Change:
    values = {
        "state": AttemptState.ENDED.value,
        "reason": event.reason.value,
        "message": clean(event.message, MAX_REASON),
        "ends": _array(event.ranks),
        "ended": time,
        "wait_for_due": some_silent(event.ranks),
    }
    asked = row["state"] == ExperimentState.STOPPING and event.reason is EndReason.STOPPED
    change: dict[str, Any] = {} if asked and not event.message else {"message": values["message"]}
    if event.retry:
        change |= {"state": ExperimentState.QUEUED.value, "queued_at": time, "waiting": "", "waits": "[]"}
    return Change(change, event.attempt, values, ended=event.ranks)


def _finished(row: Row, event: ExperimentFinished, time: float) -> Change:
    return Change(
        {
            "state": event.state.value,
            "reason": event.reason.value,
            "message": clean(event.message, MAX_REASON) or row["message"],
            "hint": clean(event.hint, MAX_REASON),
            "attempts": event.attempts,
            "waiting": "",
            "ended": max(time, row["started"] or row["created"]),
        }
    )


def _array(parts: tuple[Any, ...]) -> str:
    return "[" + ",".join(part.model_dump_json() for part in parts) + "]"
