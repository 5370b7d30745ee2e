"""Machine types and GPUs of a cloud: the forms of the table, and how it is read.

Another provider's machines fit the same forms: a machine, what it brings, what may be attached, where it is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from incl_provisioner.domain.cloud.reading import Entry, read_table

GIB = 1 << 30
_NAME = r"[a-z][a-z0-9-]{0,62}"
_ALL = "all"
SHARED_DISKS = ("pd-balanced", "pd-ssd")
"""Persistent disks that several machines may read, best first."""
_MACHINE_KEYS = (
    "family", "cores", "memory_gib", "gpu", "gpus", "boot_disks", "zones", "spot", "local_ssd", "local_ssd_max",
    "live_migrates",
)  # fmt: skip
_FAMILY_KEYS = ("zones", "boot_disks", "shapes", "spot", "local_ssd_max", "live_migrates")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A model of GPU. `memory`: bytes each. `guest`: count -> (most cores, most memory) where it is attached.

    `cores_each`, `memory_each`: what a machine should have for each that is attached, when nobody says.
    """

    name: str
    names: tuple[str, ...]
    memory: int
    families: frozenset[str]
    guest: Mapping[int, tuple[int, int]]
    cores_each: int
    memory_each: int
    zones: frozenset[str]

    @property
    def attached(self) -> bool:
        """Whether it is attached to machines; else machines bring it."""
        return bool(self.guest)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine type. `memory`: bytes. `gpu`, `gpus`: what it brings. `boot_disks`: types that may boot, best first.

    `local_ssd`: scratch disks that it brings; `local_ssd_max`: how many may be asked for besides.
    """

    name: str
    family: str
    cores: int
    memory: int
    gpu: Gpu | None
    gpus: int
    boot_disks: tuple[str, ...]
    zones: frozenset[str]
    spot: bool = True
    local_ssd: int = 0
    local_ssd_max: int = 0
    live_migrates: bool = True


@dataclass(frozen=True, slots=True)
class Shape:
    """A machine with what is attached to it: what one node is made of."""

    machine: Machine
    gpu: Gpu | None = None
    gpus: int = 0

    @property
    def name(self) -> str:
        """How it is written: 'a2-highgpu-1g', 'n1-standard-8+t4:2'."""
        if self.gpu is None or not self.gpu.attached:
            return self.machine.name
        return f"{self.machine.name}+{self.gpu.names[0]}" + (f":{self.gpus}" if self.gpus > 1 else "")

    @property
    def guest(self) -> tuple[str, int] | None:
        """(type, count) of what must be asked for besides the machine; none where the machine brings its GPUs."""
        return (self.gpu.name, self.gpus) if self.gpu is not None and self.gpu.attached else None

    @property
    def zones(self) -> frozenset[str]:
        """Where it can be had."""
        return self.machine.zones & self.gpu.zones if self.gpu is not None else self.machine.zones

    @property
    def terminates(self) -> bool:
        """Whether maintenance of the host ends it: it has GPUs, or cannot be moved."""
        return self.gpus > 0 or not self.machine.live_migrates


@dataclass(frozen=True)
class MachineTable:
    """Every machine type and GPU, by name. `date`: the day it was written."""

    provider: str
    date: str
    zones: frozenset[str]
    gpus: Mapping[str, Gpu]
    machines: Mapping[str, Machine]
    by_alias: Mapping[str, Gpu] = field(default_factory=dict)
    data_disks: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Types of disks that many machines read at once -> families that can, where that is not all of them."""

    def data_kind(self, machine: Machine) -> str:
        """The type of a read-only disk that such machines share; empty: they can share none."""
        for kind, families in self.data_disks.items():
            if machine.family in families:
                return kind
        return next((kind for kind in SHARED_DISKS if kind in machine.boot_disks), "")

    @property
    def regions(self) -> frozenset[str]:
        """The regions of the zones."""
        return frozenset(region_of(zone) for zone in self.zones)


@functools.lru_cache(maxsize=1024)
def region_of(zone: str) -> str:
    """The region of a zone: its name without the last part."""
    return zone.rpartition("-")[0] or zone


def read_machines(text: str, source: str) -> MachineTable:
    """The table of a text.

    Raises:
        InvalidInput: what is wrong, with file and line.
    """
    table = read_table(text, source)
    needed = ("provider", "date", "zones", "machines")
    top = table.keys((*needed, "gpus", "families", "data_disks"), needed)
    zones = _zone_lists(top["zones"])
    gpus = {name: _gpu(name, entry, zones) for name, entry in (top["gpus"].items() if "gpus" in top else ())}
    aliases = _aliases(gpus, top.get("gpus", table))
    machines: dict[str, Machine] = {}
    for name, entry in top["families"].items() if "families" in top else ():
        machines.update((machine.name, machine) for machine in _family(name, entry, zones))
    for name, entry in top["machines"].items():
        if name in machines:
            entry.fail("is in a family already")
        machines[name] = _machine(name, entry, zones, gpus)
    for gpu in gpus.values():
        if not gpu.attached and all(machine.gpu is not gpu for machine in machines.values()):
            top["gpus"].fail(f"no machine brings {gpu.name}, and it is attached to none")
    provider = top["provider"].text(_NAME)
    shared = {
        kind: frozenset(each.text(_NAME) for each in families.entries())
        for kind, families in (top["data_disks"].items() if "data_disks" in top else ())
    }
    return MachineTable(provider, top["date"].date(), zones, gpus, machines, aliases, shared)


def _zone_lists(entry: Entry, known: frozenset[str] | None = None) -> frozenset[str]:
    found: set[str] = set()
    for region, letters in entry.items():
        for letter in letters.entries():
            zone = f"{region}-{letter.text(r'[a-z0-9]{1,16}')}"
            if known is not None and zone not in known:
                letter.fail(f"{zone} is not among the zones", "add it under zones first")
            found.add(zone)
    return frozenset(found)


def _gpu(name: str, entry: Entry, zones: frozenset[str]) -> Gpu:
    parts = entry.keys(("names", "memory_gib", "guest", "zones"), ("names", "memory_gib", "zones"))
    names = tuple(each.text(_NAME) for each in parts["names"].entries())
    memory = int(parts["memory_gib"].number(above=True) * GIB)
    where = _zone_lists(parts["zones"], zones)
    if "guest" not in parts:
        return Gpu(name, names, memory, frozenset(), {}, 0, 0, where)
    needed = ("families", "cores_each", "gib_each", "counts")
    guest = parts["guest"].keys(needed, needed)
    counts: dict[int, tuple[int, int]] = {}
    for count, limits in guest["counts"].items():
        most = limits.keys(("cores", "memory_gib"), ("cores", "memory_gib"))
        if not count.isdigit() or not 1 <= int(count) <= 64:
            limits.fail(f"{count!r} is not a number of GPUs")
        counts[int(count)] = (most["cores"].whole(1), int(most["memory_gib"].number(above=True) * GIB))
    families = frozenset(each.text(_NAME) for each in guest["families"].entries())
    each = int(guest["gib_each"].number(above=True) * GIB)
    return Gpu(name, names, memory, families, counts, guest["cores_each"].whole(1, 1024), each, where)


def _aliases(gpus: Mapping[str, Gpu], entry: Entry) -> dict[str, Gpu]:
    aliases: dict[str, Gpu] = {}
    for gpu in gpus.values():
        for name in (gpu.name, *gpu.names):
            if name in aliases:
                entry.fail(f"the name {name!r} stands for {aliases[name].name} and for {gpu.name}")
            aliases[name] = gpu
    return aliases


def _where(parts: Mapping[str, Entry], zones: frozenset[str]) -> frozenset[str]:
    entry = parts["zones"]
    return zones if entry.located.value == _ALL else _zone_lists(entry, zones)


def _disks(parts: Mapping[str, Entry]) -> tuple[str, ...]:
    return tuple(each.text(_NAME) for each in parts["boot_disks"].entries())


def _flag(parts: Mapping[str, Entry], name: str) -> bool:
    return parts[name].flag() if name in parts else True


def _whole(parts: Mapping[str, Entry], name: str) -> int:
    return parts[name].whole(0, 64) if name in parts else 0


def _family(name: str, entry: Entry, zones: frozenset[str]) -> Iterable[Machine]:
    parts = entry.keys(_FAMILY_KEYS, ("zones", "boot_disks", "shapes"))
    for shape, inner in parts["shapes"].items():
        sizes = inner.keys(("gib_each", "cores"), ("gib_each", "cores"))
        each = sizes["gib_each"].number(above=True)
        for size in sizes["cores"].entries():
            cores = size.whole(1, 4096)
            yield Machine(
                f"{name}-{shape}-{cores}", name, cores, int(cores * each * GIB), None, 0, _disks(parts),
                _where(parts, zones), _flag(parts, "spot"), 0, _whole(parts, "local_ssd_max"),
                _flag(parts, "live_migrates"),
            )  # fmt: skip


def _machine(name: str, entry: Entry, zones: frozenset[str], gpus: Mapping[str, Gpu]) -> Machine:
    parts = entry.keys(_MACHINE_KEYS, ("family", "cores", "memory_gib", "boot_disks"))
    gpu = None
    if "gpu" in parts:
        gpu = gpus.get(parts["gpu"].text(_NAME)) or parts["gpu"].fail(
            "is not among the gpus", "add it under gpus first"
        )
    if (gpu is None) != ("gpus" not in parts):
        entry.fail("gpu and gpus belong together")
    if "zones" not in parts and gpu is None:
        entry.fail("'zones' is missing")
    where = _where(parts, zones) if "zones" in parts else gpu.zones if gpu is not None else zones
    return Machine(
        name, parts["family"].text(_NAME), parts["cores"].whole(1, 4096),
        int(parts["memory_gib"].number(above=True) * GIB), gpu, parts["gpus"].whole(1, 64) if gpu is not None else 0,
        _disks(parts), where, _flag(parts, "spot"), _whole(parts, "local_ssd"), _whole(parts, "local_ssd_max"),
        _flag(parts, "live_migrates"),
    )  # fmt: skip
