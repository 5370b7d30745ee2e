"""Spot or on demand: the port of a policy, and its first form. A learned one comes in the same place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Situation:
    """What a policy may look at, when an attempt is about to be placed. Times: seconds since the epoch.

    `asked`: what the author said of spot, or none. `exists`: whether the machine can be had as spot at all.
    `preemptions`: when attempts of this experiment were taken. `deadline`, `left_s`: where they are known.
    """

    now: float
    asked: bool | None = None
    exists: bool = True
    nodes: int = 1
    preemptions: Sequence[float] = ()
    deadline: float | None = None
    left_s: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What is taken, and why in a few words."""

    spot: bool
    why: str


class SpotPolicy(Protocol):
    """Decides for one attempt. Pure: the same situation gives the same decision."""

    def choose(self, situation: Situation) -> Decision:
        """Spot or on demand."""
        ...


@dataclass(frozen=True, slots=True)
class AfterPreemptions:
    """Spot where the author allows it, until it was taken `count` times within `window_s`: then on demand.

    `default`: what is meant by an author who said nothing. `count`: 0 never changes to on demand.
    """

    count: int = 3
    window_s: float = 6 * 3600.0
    default: bool = False

    def choose(self, situation: Situation) -> Decision:
        """See `SpotPolicy.choose`."""
        if not (self.default if situation.asked is None else situation.asked):
            return Decision(spot=False, why="spot was not asked for")
        if not situation.exists:
            return Decision(spot=False, why="the machine cannot be had as spot")
        recent = sum(1 for at in situation.preemptions if situation.now - at <= self.window_s)
        if self.count and recent >= self.count:
            hours = self.window_s / 3600.0
            return Decision(spot=False, why=f"taken {recent} times within {hours:g} h")
        return Decision(
            spot=True, why="spot is allowed" if not recent else f"spot; taken {recent} of {self.count} times"
        )
