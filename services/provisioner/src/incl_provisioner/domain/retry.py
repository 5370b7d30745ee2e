"""Whether another attempt follows, and when."""

from __future__ import annotations

from incl_shared.spec import Retry, RetryReason
from incl_shared.states import EndReason

RETRY_REASONS: dict[EndReason, RetryReason | None] = {
    EndReason.COMPLETED: None,
    EndReason.ERROR: RetryReason.ERROR,
    EndReason.STOPPED: None,
    EndReason.MAX_DURATION: None,
    EndReason.PREEMPTED: RetryReason.PREEMPTED,
    EndReason.LOST: RetryReason.LOST,
    EndReason.INFRA: RetryReason.INFRA,
    EndReason.IMAGE: None,
    EndReason.DATA: None,
    EndReason.COMMAND: None,
    EndReason.UNSUPPORTED: None,
}
"""The name in the author's retry policy of each end; none: trying again would end the same."""

LONGEST_S = 60.0


def retries(reason: EndReason, attempts: int, policy: Retry, *, stopping: bool) -> bool:
    """Whether another attempt follows the one that ended; `attempts` counts those made, the ended one included."""
    named = RETRY_REASONS[reason]
    return not stopping and named is not None and named in policy.on and attempts < policy.attempts


def backoff_s(reason: EndReason, attempts: int, first_s: float) -> float:
    """Seconds to wait before the next attempt.

    Taken or lost machines say nothing about the job: always `first_s`. What may be the job's or the machine's own
    fault waits twice as long each time, at most a minute.
    """
    if reason in (EndReason.PREEMPTED, EndReason.LOST):
        return first_s
    return float(min(LONGEST_S, first_s * 2 ** (attempts - 1)))
