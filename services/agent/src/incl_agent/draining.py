"""Ended jobs whose telemetry is not stored yet: how many, how much, and what gives way when the disk is full. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """One of them. since: when it ended, in seconds since the epoch; size: bytes of its telemetry here."""

    job: str
    since: float
    size: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows: bytes in all, seconds of each, and bytes of the disk that must stay free."""

    size: int
    age_s: float
    free: int


def to_drop(waiting: Sequence[Waiting], limits: Limits, *, now: float, free: int) -> list[tuple[Waiting, str]]:
    """Those that must go, oldest first, each with the reason. free: bytes that the disk has left."""
    dropped: list[tuple[Waiting, str]] = []
    total = sum(one.size for one in waiting)
    for one in sorted(waiting, key=lambda w: (w.since, w.job)):
        if now - one.since > limits.age_s:
            reason = f"it waited for more than {limits.age_s / 86_400:.1f} days"
        elif total > limits.size:
            reason = f"{total} bytes of ended jobs wait here, {limits.size} are allowed"
        elif free < limits.free and one.size:
            reason = f"the disk has {free} bytes left"
        else:
            continue
        dropped.append((one, reason))
        total -= one.size
        free += one.size
    return dropped
