"""Where: zones in order of what a useful hour costs there, each with the parts of its score named.

One unit carries all: money for an hour of useful work. To the price are added the work that preemptions throw away,
the wait for a zone that seldom has such a machine, and the way to data that lies elsewhere. What is cooled comes last,
in the order of when it is free again.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Cooling, Target
from incl_provisioner.domain.cloud.error_table import NOT_OFFERED
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.history import Estimate, PreemptionHistory
from incl_provisioner.domain.cloud.machines import MachineTable, Shape, region_of
from incl_provisioner.domain.cloud.prices import Disk, Hour, PriceTable, money
from incl_shared.errors import InvalidInput

_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Advice:
    """What the provider says of a zone now. `obtainability`: 0 to 1; `rate`: preemptions an hour. None: not said."""

    obtainability: float | None = None
    rate: float | None = None


_UNSAID = Advice()


@dataclass(frozen=True, slots=True)
class Weights:
    """What things cost besides money. `lost_h`: hours that a preemption throws away; `wait_h`: hours that a zone costs
    which surely has none; `unsaid`: the obtainability where nobody has said; `far_h`: the same for data elsewhere.
    """

    lost_h: float = 0.25
    wait_h: float = 0.5
    unsaid: float = 0.7
    far_h: float = 0.1


@dataclass(frozen=True, slots=True)
class Pins:
    """Where it may run: lists of zones and regions, each empty for everywhere. `data`: regions where its data lies."""

    zones: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What is known now, of all that changes. `advice`: by what would be tried. `key`: breaks ties."""

    now: float
    cooldowns: CooldownBook = field(default_factory=CooldownBook)
    history: PreemptionHistory = field(default_factory=PreemptionHistory)
    advice: Mapping[Target, Advice] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a score: its name, money an hour, and why."""

    name: str
    amount: float
    why: str


@dataclass(frozen=True, slots=True)
class Ranked:
    """A machine in a zone, with its score: money for a useful hour of all nodes."""

    zone: str
    shape: Shape
    spot: bool
    hour: Hour
    parts: tuple[Part, ...]
    cooling: Cooling | None

    @property
    def region(self) -> str:
        """The zone's region."""
        return region_of(self.zone)

    @property
    def score(self) -> float:
        """The sum of the parts."""
        return sum(part.amount for part in self.parts)

    @property
    def target(self) -> Target:
        """What is tried there."""
        return Target(self.zone, self.shape.name, self.spot)

    def why(self) -> str:
        """What counts besides the price, in a few words: '+$0.02 for preemptions (2 in 10 h)'."""
        known = self.hour.total(spot=self.spot) is not None
        return "; ".join(part.why for part in self.parts if part.amount > 0 and not (known and part.name == "price"))


def allowed(table: MachineTable, pins: Pins) -> frozenset[str]:
    """The zones in which it may run.

    Raises:
        InvalidInput: a zone or region is not known, or nothing is left.
    """
    for kind, named, known in (("zone", pins.zones, table.zones), ("region", pins.regions, table.regions)):
        for name in named:
            if name not in known:
                close = difflib.get_close_matches(name, sorted(known), n=3)
                hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(sorted(table.regions))}"
                raise InvalidInput(f"there is no {kind} {name[:80]!r}", hint=hint)
    zones = frozenset(pins.zones) or table.zones
    left = frozenset(zone for zone in zones if not pins.regions or region_of(zone) in pins.regions)
    if not left:
        raise InvalidInput("no zone is in both lists", hint="zones must lie in the regions, or leave one of them out")
    return left


def rank(
    shapes: Sequence[Shape],
    zones: Collection[str],
    state: State,
    prices: PriceTable,
    *,
    spot: bool,
    nodes: int = 1,
    disks: Callable[[Shape], Iterable[Disk]] = lambda _: (),
    data: Collection[str] = (),
    weights: Weights | None = None,
) -> tuple[Ranked, ...]:
    """Every machine in every of these zones that has it, the best first, what is cooled at the end.

    disks: those of a node made of a machine. All nodes go to one zone. Ties are broken by `state.key`: always the same
    for one experiment, and different ones do not all begin in the same zone.

    Raises:
        InvalidInput: no zone has any of the machines.
    """
    weights = weights or Weights()
    pairs = [(zone, shape, shape.name) for shape in shapes for zone in sorted(shape.zones.intersection(zones))]
    if not pairs:
        raise InvalidInput(f"{shapes[0].name} is in no zone that is allowed", hint=_elsewhere(shapes))
    places = {(region_of(zone), name): shape for zone, shape, name in pairs}
    hours = {key: prices.hour(shape, key[0], disks(shape)) for key, shape in places.items()}
    dearest = max((total for hour in hours.values() if (total := hour.total(spot=spot)) is not None), default=1.0)
    found = []
    same: dict[tuple[str, str], tuple[Part, ...]] = {}
    for zone, shape, name in pairs:
        region, target = region_of(zone), Target(zone, name, spot)
        hour, advice = hours[region, name], state.advice.get(target, _UNSAID)
        # Of most zones of a region nothing is known but the price.
        alike = (region if advice is _UNSAID and not state.history.knows(zone, name) else zone, name)
        if alike not in same:
            seen = state.history.estimate(zone, name, state.now, advice.rate)
            same[alike] = _parts(zone, hour, dearest, advice, seen, weights, spot=spot, nodes=nodes, data=data)
        found.append(Ranked(zone, shape, spot, hour, same[alike], state.cooldowns.cooled(target, state.now)))
    return tuple(sorted(found, key=lambda each: _order(each, state.key)))


def _order(ranked: Ranked, key: str) -> tuple[bool, float, float, bytes, str, str]:
    tie = hashlib.sha256(f"{key}\x1f{ranked.zone}".encode()).digest() if key else b""
    free = ranked.cooling.until if ranked.cooling is not None else 0.0
    return (ranked.cooling is not None, free, round(ranked.score, 6), tie, ranked.zone, ranked.shape.name)


def _parts(
    zone: str, hour: Hour, dearest: float, advice: Advice, seen: Estimate, weights: Weights,
    *, spot: bool, nodes: int, data: Collection[str],
) -> tuple[Part, ...]:  # fmt: skip
    price = hour.total(spot=spot)
    each = dearest if price is None else price
    total = each * nodes
    shown = "price unknown" if price is None else f"{money(total, hour.currency)} an hour"
    parts = [Part("price", total, shown)]
    if spot:
        cost = total * seen.rate * nodes * weights.lost_h
        met = (
            f"{seen.preemptions:.1f} seen in {seen.hours:.0f} h" if seen.hours or seen.preemptions else "none seen yet"
        )
        parts.append(Part("preemptions", cost, f"+{money(cost, hour.currency)} for preemptions ({met})"))
    chance = weights.unsaid if advice.obtainability is None else min(1.0, max(0.0, advice.obtainability))
    cost = total * (1.0 - chance) * weights.wait_h
    said = "no advice" if advice.obtainability is None else f"obtainability {chance:.2f}"
    parts.append(Part("capacity", cost, f"+{money(cost, hour.currency)} for the wait ({said})"))
    if data and region_of(zone) not in data:
        cost = total * weights.far_h
        parts.append(Part("data", cost, f"+{money(cost, hour.currency)} for data in {', '.join(sorted(data))}"))
    return tuple(parts)


def _elsewhere(shapes: Sequence[Shape]) -> str:
    zones = sorted({zone for shape in shapes for zone in shape.zones})
    more = f" and {len(zones) - _SHOWN} more" if len(zones) > _SHOWN else ""
    return f"it is in {', '.join(zones[:_SHOWN])}{more}" if zones else "no zone of the table has it"


@dataclass(frozen=True, slots=True)
class RegionChoice:
    """A region with those of its zones that may be taken now, in order: what one call for a gang names."""

    region: str
    zones: tuple[str, ...]


def by_region(ranked: Sequence[Ranked]) -> tuple[RegionChoice, ...]:
    """The regions in order of their best zone, without what is cooled, for the machine that comes first."""
    free = [each for each in ranked if each.cooling is None]
    zones: dict[str, list[str]] = {}
    for each in free:
        if each.shape.name == free[0].shape.name:
            zones.setdefault(each.region, []).append(each.zone)
    return tuple(RegionChoice(region, tuple(names)) for region, names in zones.items())


def nowhere(ranked: Sequence[Ranked]) -> Verdict | None:
    """That no zone has such a machine at all, as the provider has said of each: time does not help. None: one may."""
    cooled = [each.cooling for each in ranked if each.cooling is not None and each.cooling.reason in NOT_OFFERED]
    if not ranked or len(cooled) < len(ranked):
        return None
    names, zones = sorted({each.shape.name for each in ranked}), sorted({each.zone for each in ranked})
    where = ", ".join(zones[:_SHOWN]) + (f" and {len(zones) - _SHOWN} more" if len(zones) > _SHOWN else "")
    return Verdict(
        Meaning.BAD_REQUEST, Scope.NONE, 0.0, "offered_nowhere", f"no zone has {' or '.join(names)} (asked: {where})",
        "name another machine, or other zones or regions; incl run --dry-run shows where it would be tried",
        cooled[0].message,
    )  # fmt: skip


def waiting(ranked: Sequence[Ranked]) -> str:
    """Why nothing can be tried now: '2 of 2 zones wait, the next until 12:49 UTC: us-east1-b: no such machine now'.

    Empty when something can. It names the minute, as each other reason is an event: one that counted down would be
    told anew every minute.
    """
    cooled = [each.cooling for each in ranked if each.cooling is not None]
    if not ranked or len(cooled) < len(ranked):
        return ""
    first = min(cooled, key=lambda cooling: cooling.until)
    place = first.key.place or "everywhere"
    zones = len({each.zone for each in ranked})
    until = datetime.fromtimestamp(math.ceil(first.until / 60) * 60, UTC)
    return f"{zones} of {zones} zones wait, the next until {until:%H:%M} UTC: {place}: {first.message}"
