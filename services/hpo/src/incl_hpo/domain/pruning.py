"""Which trials are ended early: asynchronous successive halving (Li et al. 2020), in the form that stops.

Rungs are steps, each `eta` times further than the one before. A trial that comes to a rung is compared with all that
came there before it, and goes on where it is among the best of eta (asha) or in the better half (median, after the rule
of Golovin et al. 2017, at rungs only). Nobody waits for anybody; what was decided once stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from incl_shared.sweep import EarlyStopping, Stopper

_PARTS = 2
"""Rungs below the length of the first complete trial, where none is given."""
_MOST = 40


def rungs_of(stopping: EarlyStopping, longest: int) -> tuple[int, ...]:
    """The rungs, in order. longest: the last step of the first complete trial; 0: there is none yet.

    Without `min` the first one is at longest / eta^2, so that nothing need be known of a script's steps; there are none
    before a trial has shown them, and none where it logged fewer than eta steps.
    """
    eta = stopping.eta
    if stopping.min is not None:
        return tuple(stopping.min * eta**power for power in range(_MOST) if stopping.min * eta**power < 2**53)
    found = {longest // eta**power for power in range(1, _PARTS + 1)}
    return tuple(sorted(rung for rung in found if rung >= 1))


def next_rung(rungs: Sequence[int], passed: int) -> int | None:
    """The rung after one that was passed (0: none was)."""
    return next((rung for rung in rungs if rung > passed), None)


def goes_on(stopping: EarlyStopping, value: float | None, others: Sequence[float | None]) -> bool:
    """Whether a trial with this value (less is better; none: no number) goes on from a rung that others came to."""
    if value is None or not math.isfinite(value):
        return False
    share = stopping.eta if stopping.name is Stopper.ASHA else 2
    known = [one for one in others if one is not None]
    if len(others) + 1 < share:
        return True
    kept = max(1, (len(others) + 1) // share)
    return sum(one < value for one in known) < kept
