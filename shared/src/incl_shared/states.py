"""The states of an experiment and of an attempt, as tables that only go forward.

A transition is a row: (state, fact) -> state. A fact that has no row for a state is late, and is ignored.
"""

from __future__ import annotations

from enum import StrEnum


class ExperimentState(StrEnum):
    """Where an experiment is."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"
    """A run outside the platform of which nobody has heard for a while; it comes back when there is word of it."""
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"


class AttemptState(StrEnum):
    """Where one attempt is, over all of its ranks."""

    ASSIGNED = "assigned"
    PREPARING = "preparing"
    RUNNING = "running"
    UPLOADING = "uploading"
    ENDED = "ended"


class EndReason(StrEnum):
    """Why an attempt ended; each maps to a retry event or to none."""

    COMPLETED = "completed"
    ERROR = "error"
    STOPPED = "stopped"
    MAX_DURATION = "max_duration"
    PREEMPTED = "preempted"
    LOST = "lost"
    INFRA = "infra"
    IMAGE = "image"
    DATA = "data"
    COMMAND = "command"
    UNSUPPORTED = "unsupported"


FINAL_STATES = frozenset({ExperimentState.FINISHED, ExperimentState.FAILED, ExperimentState.STOPPED})
"""States that nothing leaves."""
