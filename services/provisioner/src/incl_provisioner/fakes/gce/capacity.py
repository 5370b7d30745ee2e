"""What can be had: capacity per zone and machine type, and quotas per region and of the project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from incl_provisioner.fakes.gce.catalog import PROJECT_QUOTAS, QUOTA_METRICS, REGION_QUOTAS, ZONES, offered
from incl_provisioner.fakes.gce.model import Disk, Instance, State, last

GONE = ("TERMINATED", "STOPPED", "SUSPENDED")


@dataclass(frozen=True)
class Limit:
    """So many VMs of this shape run in this zone, not one more."""

    zone: str
    machine: str
    model: str
    vms: int

    def covers(self, zone: str, machine: str, model: str) -> bool:
        """Whether it is about such a VM."""
        return fnmatchcase(zone, self.zone) and fnmatchcase(machine, self.machine) and fnmatchcase(model, self.model)


@dataclass(frozen=True)
class Exceeded:
    """A quota that is full; region None: of the whole project."""

    metric: str
    limit: float
    region: str | None


class Capacity:
    """Stockouts and quotas.

    Attributes:
        details: whether a stockout comes _WITH_DETAILS.
        bulk: where bulkInsert says a stockout: in a 503 of the `request`, or as an error of the `operation` after VMs
            were made and rolled back.
        quota_in_request: instances.insert says a full quota in a 403 of the request, not in the operation.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self.limits: list[Limit] = []
        self._used: dict[str | None, Counter[str]] = {}
        self._taken: dict[Instance | Disk, Counter[str]] = {}
        self.quotas: dict[tuple[str | None, str], float] = {}
        self.details = True
        self.bulk = "request"
        self.quota_in_request = False

    def limit(self, vms: int, zone: str = "*", machine: str = "*", model: str = "*") -> None:
        """At most so many VMs of such a shape at once; a later rule goes before an earlier one."""
        self.limits.insert(0, Limit(zone, machine, model, vms))

    def stockout(self, zone: str = "*", machine: str = "*", model: str = "*") -> None:
        """Nothing of that can be had."""
        self.limit(0, zone, machine, model)

    def restock(self) -> None:
        """All can be had again."""
        self.limits.clear()

    def set_quota(self, metric: str, limit: float, region: str | None = None) -> None:
        """A quota of one region, of every region ("*"), or (None) of the project."""
        self.quotas[region, metric] = limit

    def free(self, zone: str, machine: str, model: str) -> int:
        """How many more VMs of that shape the zone would give now."""
        if not offered(machine, zone):
            return 0
        rule = next((one for one in self.limits if one.covers(zone, machine, model)), None)
        if rule is None:
            return 1_000_000
        used = sum(
            1
            for one in self._state.instances.values()
            if one.status not in GONE and rule.covers(one.zone, one.machine.name, one.model)
        )
        return max(0, rule.vms - used)

    def others(self, zone: str, machine: str, model: str) -> list[str]:
        """Zones of the same region that would give one."""
        region = ZONES[zone]
        return [one for one, of in ZONES.items() if of == region and one != zone and self.free(one, machine, model) > 0]

    def quota(self, metric: str, region: str | None) -> float:
        """The limit of a quota."""
        if region is None:
            return self.quotas.get((None, metric), PROJECT_QUOTAS.get(metric, 0.0))
        default = self.quotas.get(("*", metric), REGION_QUOTAS.get(metric, 1e9))
        return self.quotas.get((region, metric), default)

    def metrics(self, region: str | None) -> list[str]:
        """All quotas of a region, or of the project."""
        known = PROJECT_QUOTAS if region is None else REGION_QUOTAS
        return sorted(
            {*known, *(metric for where, metric in self.quotas if where in (region, "*" if region else None))}
        )

    def used(self, region: str | None) -> Counter[str]:
        """What all VMs and disks take of each quota."""
        return self._used.setdefault(region, Counter())

    def take(self, thing: Instance | Disk) -> None:
        """It counts from now on; once, however often that is said."""
        if thing not in self._taken:
            self._taken[thing] = needs = self.needs(thing)
            for where in (ZONES[thing.zone], None):
                self.used(where).update(needs)

    def give_back(self, thing: Instance | Disk) -> None:
        """It counts no more."""
        needs = self._taken.pop(thing, None)
        if needs is not None:
            for where in (ZONES[thing.zone], None):
                self.used(where).subtract(needs)

    def needs(self, vm: Instance | Disk) -> Counter[str]:
        """What one takes of the quotas of its region and of the project."""
        if isinstance(vm, Disk):
            return Counter({disk_metric(last(vm.body["type"])): int(vm.body["sizeGb"])})
        region = ZONES[vm.zone]
        family = {"n2": "N2_CPUS", "c3": "C3_CPUS", "a2": "A2_CPUS"}.get(vm.machine.family, "CPUS")
        if vm.spot and self.quota("PREEMPTIBLE_CPUS", region) > 0:
            family = "PREEMPTIBLE_CPUS"
        needs = Counter({family: vm.machine.cpus, "INSTANCES": 1, "CPUS_ALL_REGIONS": vm.machine.cpus})
        if vm.gpus:
            metric = QUOTA_METRICS[vm.gpu]
            needs[f"PREEMPTIBLE_{metric}" if vm.spot else metric] = vm.gpus
            needs["GPUS_ALL_REGIONS"] = vm.gpus
        return needs

    def exceeded(self, region: str, things: Iterable[Instance | Disk]) -> Exceeded | None:
        """The first quota that these new VMs and disks do not fit into."""
        wanted: Counter[str] = Counter()
        for thing in things:
            wanted.update(self.needs(thing))
        for where in (region, None):
            used = self.used(where)
            for metric, amount in wanted.items():
                if (metric in PROJECT_QUOTAS) != (where is None):
                    continue
                limit = self.quota(metric, where)
                if used[metric] + amount > limit:
                    return Exceeded(metric, limit, where)
        return None


def disk_metric(kind: str) -> str:
    """The quota that a disk type counts against."""
    if kind.startswith("hyperdisk"):
        return "HDB_TOTAL_GB"
    return "DISKS_TOTAL_GB" if kind == "pd-standard" else "SSD_TOTAL_GB"
