"""Everything that a test or a person can do to the cloud while it runs: in Python, and the same over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incl_provisioner.fakes.gce.bulk import Bulk
from incl_provisioner.fakes.gce.capacity import Capacity
from incl_provisioner.fakes.gce.disks import Disks
from incl_provisioner.fakes.gce.faults import Fault, Faults
from incl_provisioner.fakes.gce.machines import Machines
from incl_provisioner.fakes.gce.model import State
from incl_provisioner.fakes.gce.operations import Operations
from incl_provisioner.fakes.gce.problems import JSON
from incl_provisioner.fakes.gce.reads import Advice, Reads


class Switches:
    """What goes wrong, and what the provider does by itself. Call it in the loop of the cloud."""

    def __init__(
        self, state: State, operations: Operations, machines: Machines, capacity: Capacity, faults: Faults,
        bulk: Bulk, disks: Disks, reads: Reads,
    ) -> None:  # fmt: skip
        self._state, self._operations, self._machines = state, operations, machines
        self._capacity, self._faults = capacity, faults
        self._bulk, self._disks, self._reads = bulk, disks, reads

    def commands(self) -> dict[str, Callable[..., Any]]:
        """name -> what does it."""
        return {
            "fault": self.fault, "clear": self.clear, "stockout": self.stockout, "capacity": self.capacity,
            "restock": self.restock, "stockout-form": self.stockout_form, "quota": self.quota, "deny": self.deny,
            "expire": self.expire, "unreachable": self.unreachable, "limit": self.limit, "preempt": self.preempt,
            "unsnapshot": self.unsnapshot,
            "host-error": self.host_error, "guest": self.guest, "snapshot": self.snapshot, "advice": self.advice,
            "prefer": self.prefer, "forget": self.forget, "bulk-limit": self.bulk_limit,
        }  # fmt: skip

    def fault(self, **rule: Any) -> Fault:
        """A rule for calls or operations; the arguments are those of `Fault`."""
        return self._faults.add(Fault(**rule))

    def clear(self) -> None:
        """Faults, stockouts, quotas and guests that do not boot: all are gone."""
        self._faults.clear()
        self._capacity.restock()
        self._capacity.quotas.clear()
        self._machines.without_network.clear()
        self._machines.never_boots.clear()

    def stockout(self, zone: str = "*", machine: str = "*", model: str = "*") -> None:
        """Nothing of that can be had: patterns of a zone, a machine type, a provisioning model."""
        self._capacity.stockout(zone, machine, model)

    def capacity(self, vms: int, zone: str = "*", machine: str = "*", model: str = "*") -> None:
        """Only so many VMs of that at once."""
        self._capacity.limit(vms, zone, machine, model)

    def restock(self) -> None:
        """All can be had again."""
        self._capacity.restock()

    def stockout_form(self, details: bool = True, bulk: str = "request") -> None:
        """How stockouts are told: with details or without; bulkInsert's in the `request` or in the `operation`."""
        if bulk not in ("request", "operation"):
            raise ValueError("bulk is request or operation")
        self._capacity.details, self._capacity.bulk = details, bulk

    def quota(self, metric: str, limit: float, region: str | None = None) -> None:
        """A quota of a region, of every region ("*"), or (None) of the project."""
        self._capacity.set_quota(metric, limit, region)

    def deny(self, permission: str) -> None:
        """403 for what needs it, such as compute.instances.create; a pattern."""
        self._faults.denied.add(permission)

    def expire(self, expired: bool = True) -> None:
        """401 for every call."""
        self._faults.expired = expired

    def unreachable(self, zone: str) -> None:
        """Lists of this zone fail."""
        self._faults.unreachable.add(self._state.zone(zone))

    def limit(self, method: str, calls: int, seconds: float = 1.0, status: int = 403) -> None:
        """rateLimitExceeded for more calls than that."""
        self._faults.limit(method, calls, seconds, status)

    def preempt(self, zone: str, name: str) -> None:
        """Take a Spot VM back."""
        vm = self._state.instance(zone, name)
        if not vm.spot:
            raise ValueError(f"{name} is no Spot VM")
        self._machines.preempt(vm)

    def host_error(self, zone: str, name: str) -> asyncio.Task[None]:
        """The machine under a VM breaks."""
        return self._operations.spawn(self._machines.host_error(self._state.instance(zone, name)))

    def guest(self, name: str, network: bool = True, boots: bool = True) -> None:
        """A VM of that name (or pattern) will boot without network, or hang before its startup script."""
        for wrong, names in ((not network, self._machines.without_network), (not boots, self._machines.never_boots)):
            if wrong:
                names.add(name)
            else:
                names.discard(name)

    def snapshot(
        self, name: str, size_gb: int = 100, labels: dict[str, str] | None = None, folder: str | None = None
    ) -> JSON:
        """A snapshot that is there; a later one replaces one of the same name. folder: what is on it."""
        if folder is not None and not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder}")
        return self._disks.add_snapshot(name, size_gb, labels, Path(folder) if folder is not None else None)

    def unsnapshot(self, name: str) -> None:
        """A snapshot is deleted; disks of it stay."""
        self._state.snapshots.pop(name, None)

    def advice(self, zone: str, machine: str = "*", **said: Any) -> None:
        """What advice.capacity and capacityHistory say; the arguments are those of `Advice`."""
        if "rates" in said:
            said["rates"] = tuple(said["rates"])
        self._reads.advice[self._state.zone(zone), machine] = Advice(**said)

    def prefer(self, *zones: str) -> None:
        """ANY_SINGLE_ZONE looks at these first."""
        self._bulk.preferred = list(zones)

    def bulk_limit(self, at_once: int | None = 10) -> None:
        """So many bulkInsert operations run at once; one more is refused (rateLimitExceeded)."""
        self._bulk.at_once = at_once

    def forget(self, scope: str, operation: str) -> None:
        """An operation is past its retention: 404."""
        self._operations.forget(scope, operation)

    def console(self, zone: str, name: str) -> str:
        """All that a VM's serial port said."""
        return self._machines.console(self._state.instance(zone, name)).decode(errors="replace")

    def summary(self) -> JSON:
        """What there is, in short."""
        return {
            "project": self._state.project,
            "instances": [
                {
                    "name": vm.name, "id": str(vm.id), "zone": vm.zone, "status": vm.status,
                    "machineType": vm.machine.name,
                    "model": vm.model,
                    "address": vm.address, "labels": vm.body["labels"], "folder": str(self._machines.folder(vm)),
                }
                for vm in self._state.instances.values()
            ],
            "disks": [
                {
                    "name": one.name, "zone": one.zone, "users": len(one.users), "labels": one.body["labels"],
                    "kind": one.kind, "status": one.body["status"],
                }
                for one in self._state.disks.values()
            ],
            "calls": dict(self._faults.calls), "refused": dict(self._faults.refused),
            "failures": self._operations.failures,
        }  # fmt: skip
