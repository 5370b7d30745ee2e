"""What an hour costs: a dated table of list prices, which an operator's own file overrides.

A machine is priced whole, or by its parts (cores, memory), with the GPUs attached to it; disks by GiB and month.
Another provider's prices fit the same forms: all its machines are then priced whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date as day
from typing import TypeVar

from incl_provisioner.domain.cloud.machines import GIB, Shape, region_of
from incl_provisioner.domain.cloud.reading import Entry, read_table
from incl_shared.errors import InvalidInput

_T = TypeVar("_T")
HOURS_PER_MONTH = 730.0
LOCAL_SSD_GIB = 375
_ELSEWHERE = "elsewhere"
_NAME = r"[a-z][a-z0-9-]{0,62}"
_SECTIONS = ("families", "machines", "gpus", "disks", "local_ssd")
_MOST = 100_000.0


@dataclass(frozen=True, slots=True)
class Rate:
    """A price on demand, and as spot where there is one."""

    on_demand: float
    spot: float | None

    def of(self, *, spot: bool) -> float | None:
        """The one that is meant."""
        return self.spot if spot else self.on_demand

    def times(self, count: float) -> Rate:
        """So many of it."""
        return Rate(self.on_demand * count, None if self.spot is None else self.spot * count)

    def plus(self, other: Rate) -> Rate:
        """Both together; as spot only where both have such a price."""
        spot = None if self.spot is None or other.spot is None else self.spot + other.spot
        return Rate(self.on_demand + other.on_demand, spot)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a node: its type and size in GiB; 'local-ssd' is scratch in the machine."""

    kind: str
    gib: int


@dataclass(frozen=True, slots=True)
class Hour:
    """What an hour of one node costs. `parts`: (what, its rate); `missing`: what has no price in the table."""

    parts: tuple[tuple[str, Rate], ...]
    missing: tuple[str, ...]
    currency: str

    @property
    def known(self) -> bool:
        """Whether everything has a price."""
        return not self.missing

    def total(self, *, spot: bool) -> float | None:
        """The sum; none where a part has no such price."""
        rates = [rate.of(spot=spot) for _, rate in self.parts]
        known = [rate for rate in rates if rate is not None]
        return sum(known) if self.known and len(known) == len(rates) and known else None

    @property
    def saving(self) -> float | None:
        """The share that spot saves, from 0 to 1; none where one of the two is not known."""
        on_demand, spot = self.total(spot=False), self.total(spot=True)
        return 1.0 - spot / on_demand if on_demand and spot is not None else None


@dataclass(frozen=True)
class PriceTable:
    """Prices by name and region. `date`: the day of the list; `source`: the files it was read from."""

    provider: str
    date: str
    currency: str
    source: str
    families: Mapping[str, Mapping[str, tuple[Rate, Rate]]]
    machines: Mapping[str, Mapping[str, Rate]]
    gpus: Mapping[str, Mapping[str, Rate]]
    disks: Mapping[str, Mapping[str, float]]
    local_ssd: Mapping[str, Rate]

    def hour(self, shape: Shape, region: str, disks: Iterable[Disk] = ()) -> Hour:
        """What an hour of one node costs in a region."""
        found: list[tuple[str, Rate]] = []
        missing: list[str] = []
        for name, rate in (*self._machine(shape, region), *(self._disk(disk, region) for disk in disks)):
            if rate is None:
                missing.append(name)
            else:
                found.append((name, rate))
        return Hour(tuple(found), tuple(missing), self.currency)

    def _machine(self, shape: Shape, region: str) -> Iterable[tuple[str, Rate | None]]:
        machine = shape.machine
        whole = _in(self.machines.get(machine.name), region)
        if whole is None:
            whole = self._by_parts(shape, region)
        yield machine.name, whole
        if shape.guest is not None:
            name, count = shape.guest
            each = _in(self.gpus.get(name), region)
            yield f"{count} x {name}", each.times(count) if each is not None else None

    def _by_parts(self, shape: Shape, region: str) -> Rate | None:
        machine = shape.machine
        parts = _in(self.families.get(machine.family), region)
        if parts is None:
            return None
        core, memory = parts
        rate = core.times(machine.cores).plus(memory.times(machine.memory / GIB))
        if machine.gpu is not None:
            gpu = _in(self.gpus.get(machine.gpu.name), region)
            if gpu is None:
                return None
            rate = rate.plus(gpu.times(machine.gpus))
        ssd = _in(self.local_ssd, region)
        if machine.local_ssd:
            return (
                rate.plus(ssd.times(machine.local_ssd * LOCAL_SSD_GIB / HOURS_PER_MONTH)) if ssd is not None else None
            )
        return rate

    def _disk(self, disk: Disk, region: str) -> tuple[str, Rate | None]:
        name = f"{disk.kind} {disk.gib} GiB"
        if disk.kind == "local-ssd":
            rate = _in(self.local_ssd, region)
            return name, rate.times(disk.gib / HOURS_PER_MONTH) if rate is not None else None
        month = _in(self.disks.get(disk.kind), region)
        hour = month * disk.gib / HOURS_PER_MONTH if month is not None else None
        return name, Rate(hour, hour) if hour is not None else None

    def disk_month(self, kind: str, gib: int, region: str) -> float | None:
        """What a disk costs in a month; none where that is not known."""
        month = _in(self.disks.get(kind), region)
        return month * gib if month is not None else None

    def cheapest(self, shape: Shape, *, spot: bool, regions: Iterable[str] | None = None) -> float | None:
        """The least that an hour of it costs in any of its regions; none where that is not known."""
        where = {region_of(zone) for zone in shape.zones}
        wanted = where if regions is None else where.intersection(regions)
        prices = [self.hour(shape, region).total(spot=spot) for region in sorted(wanted)]
        return min((price for price in prices if price is not None), default=None)


def _in(table: Mapping[str, _T] | None, region: str) -> _T | None:
    return None if table is None else table.get(region, table.get(_ELSEWHERE))


def read_prices(text: str, source: str) -> PriceTable:
    """The table of a text.

    Raises:
        InvalidInput: what is wrong, with file and line.
    """
    return _read(text, source, ("provider", "date", "currency"))


def override(table: PriceTable, text: str, source: str) -> PriceTable:
    """The table with an operator's prices in place of its own, by name and region; the newer of the dates.

    Raises:
        InvalidInput: what is wrong, with file and line: also another currency or provider than the table's.
    """
    top = read_table(text, source).keys(("provider", "date", "currency", *_SECTIONS), ("date",))
    for name in ("provider", "currency"):
        if name in top and top[name].located.value != getattr(table, name):
            top[name].fail(f"must be {getattr(table, name)}, as in {table.source}")
    own = _read(text, source, ("date",), table)
    return replace(
        own, source=f"{table.source}, {source}",
        families=_merged(table.families, own.families), machines=_merged(table.machines, own.machines),
        gpus=_merged(table.gpus, own.gpus), disks=_merged(table.disks, own.disks),
        local_ssd={**table.local_ssd, **own.local_ssd},
    )  # fmt: skip


def _merged(table: Mapping[str, Mapping[str, _T]], own: Mapping[str, Mapping[str, _T]]) -> dict[str, dict[str, _T]]:
    return {name: {**table.get(name, {}), **own.get(name, {})} for name in {**table, **own}}


def _read(text: str, source: str, needed: tuple[str, ...], base: PriceTable | None = None) -> PriceTable:
    top = read_table(text, source).keys(("provider", "date", "currency", *_SECTIONS), needed)
    provider = top["provider"].text(_NAME) if "provider" in top else base.provider if base is not None else ""
    currency = top["currency"].text(r"[A-Z]{3}") if "currency" in top else base.currency if base is not None else ""
    named = {name: dict(top[name].items()) if name in top else {} for name in _SECTIONS}
    return PriceTable(
        provider, top["date"].date(), currency, source,
        {name: {region: _parts(each) for region, each in entry.items()} for name, entry in named["families"].items()},
        {name: _rates(entry) for name, entry in named["machines"].items()},
        {name: _rates(entry) for name, entry in named["gpus"].items()},
        {name: {region: each.number(above=True, most=_MOST) for region, each in entry.items()}
         for name, entry in named["disks"].items()},
        {region: _rate(each) for region, each in named["local_ssd"].items()},
    )  # fmt: skip


def _rates(entry: Entry) -> dict[str, Rate]:
    return {region: _rate(each) for region, each in entry.items()}


def _parts(entry: Entry) -> tuple[Rate, Rate]:
    both = entry.keys(("vcpu", "memory"), ("vcpu", "memory"))
    return _rate(both["vcpu"]), _rate(both["memory"])


def _rate(entry: Entry) -> Rate:
    parts = entry.keys(("on_demand", "spot"), ("on_demand",))
    on_demand = parts["on_demand"].number(above=True, most=_MOST)
    if "spot" not in parts:
        return Rate(on_demand, None)
    spot = parts["spot"].number(above=True, most=_MOST)
    if spot > on_demand:
        parts["spot"].fail(
            f"{spot:g} is more than on_demand, {on_demand:g}", "spot is never dearer; is one of them old?"
        )
    return Rate(on_demand, spot)


def money(amount: float, currency: str) -> str:
    """An amount for people: '$1.29', '0.08 EUR'; four digits where it is less than ten cents."""
    digits = 4 if 0 < abs(amount) < 0.1 else 2
    return f"${amount:.{digits}f}" if currency == "USD" else f"{amount:.{digits}f} {currency}"


def too_old(date: str, today: str, days: int = 365) -> bool:
    """Whether a list of a day is older than so many days. Both: 2026-11-28.

    Raises:
        InvalidInput: one is no day.
    """
    try:
        return (day.fromisoformat(today) - day.fromisoformat(date)).days > days
    except ValueError as error:
        raise InvalidInput(f"not a day: {date!r} or {today!r}", hint="write 2026-11-28") from error
