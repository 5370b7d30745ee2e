"""When a sweep asks no more, and how it ends. Pure."""

from __future__ import annotations

from enum import StrEnum

from incl_shared.events import SweepState
from incl_shared.sweep import SweepSpec


class Closing(StrEnum):
    """Why nothing more is asked."""

    NOT = ""
    TRIALS = "trials"
    HOURS = "hours"
    MONEY = "money"
    EXHAUSTED = "exhausted"
    STOPPED = "stopped"
    FAILING = "failing"
    REFUSED = "refused"


ENDS_TRIALS = frozenset({Closing.STOPPED, Closing.FAILING})
"""Those after which the trials that run are stopped too."""


def closing_of(spec: SweepSpec, asked: int, over: int, good: int, age_s: float) -> Closing:
    """Why a sweep that asks asks no more. over: trials that ended without a value; age_s: seconds since the submit."""
    if not good and over >= spec.give_up_after:
        return Closing.FAILING
    if asked >= spec.most:
        return Closing.TRIALS
    if spec.budget.hours is not None and age_s >= spec.budget.hours * 3600:
        return Closing.HOURS
    return Closing.NOT


def final_state(closing: Closing, good: int) -> SweepState:
    """The state of a sweep that has come to its end."""
    if closing is Closing.STOPPED:
        return SweepState.STOPPED
    if closing in (Closing.FAILING, Closing.REFUSED) or not good:
        return SweepState.FAILED
    return SweepState.FINISHED


def final_message(spec: SweepSpec, closing: Closing, asked: int, good: int, said: str) -> str:
    """What is said of the end. said: what was noted when it closed."""
    if closing in (Closing.STOPPED, Closing.FAILING, Closing.REFUSED):
        return said
    text = {
        Closing.MONEY: said,
        Closing.HOURS: f"its {spec.budget.hours:g} hours are over" if spec.budget.hours else "",
        Closing.EXHAUSTED: "every point of the space was tried",
    }.get(closing, "")
    count = f"{asked} trial{'' if asked == 1 else 's'}"
    tried = f"{count}, {good} of them with a value"
    return f"{text}: {tried}" if text else tried
