"""What was met where: hours that spot machines lived and how often they were taken, fading with time.

A rate is a mean of what is believed of a zone that nobody has tried and of what was seen, the newer the heavier. So one
bad hour does not condemn a zone, and what was seen long ago is forgotten: every zone comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one machine type in one zone, as of `at` (seconds since the epoch)."""

    zone: str
    machine: str
    hours: float
    preemptions: float
    at: float


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of a zone that was not tried. `rate`: preemptions an hour; `hours`: how firmly.

    `half_life_s`: after so long a sight counts half.
    """

    rate: float = 0.05
    hours: float = 12.0
    half_life_s: float = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Estimate:
    """Preemptions an hour, and what it rests on: hours and preemptions seen, faded."""

    rate: float
    hours: float
    preemptions: float


class PreemptionHistory:
    """Counts by zone and machine type. Times are given: it has no clock."""

    def __init__(self, belief: Belief | None = None, known: Iterable[Seen] = ()) -> None:
        self._belief = belief or Belief()
        self._seen: dict[tuple[str, str], Seen] = {(each.zone, each.machine): each for each in known}

    def __iter__(self) -> Iterator[Seen]:
        """Every count, for whoever keeps them."""
        return iter(sorted(self._seen.values(), key=lambda each: (each.zone, each.machine)))

    def lived(self, zone: str, machine: str, hours: float, now: float, *, preempted: bool = False) -> None:
        """A spot machine has lived so many hours more, and was taken or was not."""
        before = self._faded(zone, machine, now)
        self._seen[zone, machine] = Seen(
            zone, machine, before.hours + max(0.0, hours), before.preemptions + preempted, max(now, before.at)
        )

    def knows(self, zone: str, machine: str) -> bool:
        """Whether anything was seen there."""
        return (zone, machine) in self._seen

    def estimate(self, zone: str, machine: str, now: float, expected: float | None = None) -> Estimate:
        """The rate to reckon with; expected: the provider's own word on a zone's rate, in place of the usual belief."""
        seen = self._faded(zone, machine, now)
        believed = self._belief.rate if expected is None else expected
        weight = self._belief.hours
        rate = (seen.preemptions + believed * weight) / (seen.hours + weight)
        return Estimate(rate, seen.hours, seen.preemptions)

    def prune(self, now: float) -> None:
        """Forget what counts for nothing any more."""
        faded = {key: self._faded(*key, now) for key in self._seen}
        self._seen = {key: self._seen[key] for key, each in faded.items() if each.hours + each.preemptions > 0.01}

    def _faded(self, zone: str, machine: str, now: float) -> Seen:
        seen = self._seen.get((zone, machine))
        if seen is None:
            return Seen(zone, machine, 0.0, 0.0, now)
        left = 0.5 ** (max(0.0, now - seen.at) / self._belief.half_life_s)
        return Seen(zone, machine, seen.hours * left, seen.preemptions * left, max(now, seen.at))
