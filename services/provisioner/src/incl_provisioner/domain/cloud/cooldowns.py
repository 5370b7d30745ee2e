"""What is left alone until when, after errors: by place, machine type and kind of price.

A cooldown grows each time the same thing fails again, and time forgives: a level is forgotten for each quiet span.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from incl_provisioner.domain.cloud.errors import Scope, Verdict


@dataclass(frozen=True, slots=True, order=True)
class CoolKey:
    """What is cooled. `place`: a zone or a region, empty for everywhere; `machine`: empty for every type."""

    scope: Scope
    place: str
    machine: str
    spot: bool | None


@dataclass(frozen=True, slots=True)
class Cooling:
    """Until when (seconds since the epoch), how often in a row, and why."""

    key: CoolKey
    until: float
    level: int
    reason: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Target:
    """What was tried: one machine type in one zone, as spot or on demand."""

    zone: str
    machine: str
    spot: bool

    @property
    def region(self) -> str:
        """The zone's region: its name without the last part."""
        return self.zone.rpartition("-")[0] or self.zone


@dataclass(frozen=True, slots=True)
class Growth:
    """How cooldowns grow and fade: times `factor` a level, at most `longest_s`; one level less each `forgive_s`."""

    factor: float = 2.0
    longest_s: float = 3600.0
    forgive_s: float = 1800.0


class CooldownBook:
    """Notes failures and successes, and answers what is cooled. Times are given: it has no clock."""

    def __init__(self, growth: Growth | None = None, known: Iterable[Cooling] = ()) -> None:
        self._growth = growth or Growth()
        self._book: dict[CoolKey, Cooling] = {each.key: each for each in known}

    def __iter__(self) -> Iterator[Cooling]:
        """Every entry, for whoever keeps them."""
        return iter(sorted(self._book.values(), key=lambda each: each.key))

    def failed(self, target: Target, verdict: Verdict, now: float) -> Cooling | None:
        """Cool what the verdict reaches; none when it reaches nothing.

        A failure of a call that was made before the cooldown began (several calls in flight) does not make it longer.
        """
        key = _key(target, verdict)
        if key is None or verdict.ttl_s <= 0:
            return None
        before = self._book.get(key)
        if before is not None and before.until > now:
            return before
        level = 0 if before is None else self._level(before, now) + 1
        lasting = min(verdict.ttl_s * self._growth.factor ** min(level, 40), max(self._growth.longest_s, verdict.ttl_s))
        cooling = Cooling(key, now + lasting, level, verdict.reason, verdict.message, verdict.hint)
        self._book[key] = cooling
        return cooling

    def succeeded(self, target: Target) -> None:
        """It could be had: whatever was held against it is forgotten."""
        for key in _covering(target):
            self._book.pop(key, None)

    def forgive(self, reasons: Collection[str]) -> None:
        """What was held against places for these reasons is known to be over."""
        self._book = {key: each for key, each in self._book.items() if each.reason not in reasons}

    def cooled(self, target: Target, now: float) -> Cooling | None:
        """What keeps this from being tried now; of several the one that lasts the longest. None: nothing."""
        if not self._book:
            return None
        found = [self._book[key] for key in _covering(target) if key in self._book]
        lasting = [each for each in found if each.until > now]
        return max(lasting, key=lambda each: (each.until, each.key), default=None)

    def prune(self, now: float) -> None:
        """Forget what time has forgiven."""
        self._book = {
            key: each
            for key, each in self._book.items()
            if each.until > now or self._level(each, now) > 0 or now - each.until < self._growth.forgive_s
        }

    def _level(self, cooling: Cooling, now: float) -> int:
        """How often it failed in a row, less one for each quiet span since it ended; -1: all is forgiven."""
        return max(-1, cooling.level - int(max(0.0, now - cooling.until) // self._growth.forgive_s))


def _key(target: Target, verdict: Verdict) -> CoolKey | None:
    if verdict.scope is Scope.NONE:
        return None
    place = {Scope.ZONE: target.zone, Scope.REGION: target.region}.get(verdict.scope, "")
    if verdict.any_machine:
        return CoolKey(verdict.scope, place, "", None)
    return CoolKey(verdict.scope, place, target.machine, target.spot)


def _covering(target: Target) -> Iterator[CoolKey]:
    """Every key that could hold this target back."""
    for scope, place in ((Scope.ZONE, target.zone), (Scope.REGION, target.region), (Scope.EVERYWHERE, "")):
        yield CoolKey(scope, place, target.machine, target.spot)
        yield CoolKey(scope, place, "", None)
