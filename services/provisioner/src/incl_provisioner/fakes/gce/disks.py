"""disks.* and snapshots.*."""

from __future__ import annotations

import asyncio
from pathlib import Path

from incl_provisioner.fakes.gce.call import Call, Handler
from incl_provisioner.fakes.gce.capacity import Capacity
from incl_provisioner.fakes.gce.catalog import ZONES
from incl_provisioner.fakes.gce.faults import Faults
from incl_provisioner.fakes.gce.listing import aggregated, listed
from incl_provisioner.fakes.gce.model import State, fingerprint, same_fingerprint
from incl_provisioner.fakes.gce.operations import Operation, Operations
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.problems import (
    JSON,
    ApiError,
    OperationFailed,
    already_exists,
    not_found,
    quota_of_operation,
)
from incl_provisioner.fakes.gce.specs import check_labels, check_name, new_disk


class Disks:
    """Persistent disks and the snapshots that they are made of."""

    def __init__(self, state: State, operations: Operations, capacity: Capacity, faults: Faults, pace: Pace) -> None:
        self._state, self._operations, self._capacity = state, operations, capacity
        self._faults, self._pace = faults, pace

    def methods(self) -> dict[str, Handler]:
        """method -> what answers."""
        return {
            "disks.insert": self.insert, "disks.get": self.get, "disks.list": self.list, "disks.delete": self.delete,
            "disks.aggregatedList": self.aggregated, "disks.setLabels": self.set_labels,
            "disks.createSnapshot": self.create_snapshot,
            "snapshots.get": self.snapshot, "snapshots.list": self.snapshots,
        }  # fmt: skip

    def insert(self, call: Call) -> Operation:
        """Begin to make one."""
        zone = self._state.zone(call.place)
        disk = new_disk(self._state, zone, check_name(call.body.get("name")), call.body)
        if (zone, disk.name) in self._state.disks:
            raise already_exists(disk.resource)
        operation = self._operations.create("insert", f"zones/{zone}", disk.resource, target_id=disk.id)

        async def work(_: Operation) -> None:
            full = self._capacity.exceeded(ZONES[zone], [disk])
            if full is not None:
                raise OperationFailed(quota_of_operation(full.metric, full.limit, full.region))
            disk.body["status"] = "CREATING"
            self._state.disks[zone, disk.name] = disk
            self._capacity.take(disk)
            await asyncio.sleep(self._pace.create)
            disk.body["status"] = "READY"

        return self._operations.begin(operation, work, call.method)

    def get(self, call: Call) -> JSON:
        """One disk."""
        return self._state.disk(call.place, call.name).body

    def list(self, call: Call) -> JSON:
        """Those of a zone."""
        zone = self._state.zone(call.place)
        return listed("diskList", [disk.body for disk in self._state.disks.values() if disk.zone == zone], call.query)

    def aggregated(self, call: Call) -> JSON:
        """Those of all zones."""
        bodies = [disk.body for disk in self._state.disks.values()]
        return aggregated("disk", bodies, call.query, sorted(self._faults.unreachable), self._state)

    def delete(self, call: Call) -> Operation:
        """Begin to delete; refused while a VM has it."""
        disk = self._state.disk(call.place, call.name)
        if disk.users:
            user = disk.users[0].split("/v1/")[-1]
            message = f"The disk resource '{disk.resource}' is already being used by '{user}'"
            raise ApiError(400, "resourceInUseByAnotherResource", message)
        operation = self._operations.create("delete", f"zones/{disk.zone}", disk.resource, target_id=disk.id)

        async def work(_: Operation) -> None:
            disk.body["status"] = "DELETING"
            await asyncio.sleep(self._pace.delete)
            if self._state.disks.get((disk.zone, disk.name)) is disk:
                del self._state.disks[disk.zone, disk.name]
                self._capacity.give_back(disk)

        return self._operations.begin(operation, work, call.method)

    def set_labels(self, call: Call) -> Operation:
        """All labels anew, where the fingerprint is the newest."""
        disk = self._state.disk(call.place, call.name)
        same_fingerprint(call.body.get("labelFingerprint"), disk.body["labelFingerprint"], "Labels")
        labels = check_labels(call.body.get("labels"))
        disk.body.update(labels=labels, labelFingerprint=fingerprint(labels))
        operation = self._operations.create("setLabels", f"zones/{disk.zone}", disk.resource, target_id=disk.id)
        return self._operations.begin(operation, self._change, call.method)

    async def _change(self, _: Operation) -> None:
        await asyncio.sleep(self._pace.change)

    def add_snapshot(
        self, name: str, size_gb: int, labels: dict[str, str] | None = None, folder: Path | None = None
    ) -> JSON:
        """A snapshot that is there. folder: what is on it, for VMs with processes."""
        given = check_labels(labels or {})
        self._state.snapshots[name] = body = {
            "kind": "compute#snapshot", "id": str(self._state.new_id()), "name": name, "status": "READY",
            "diskSizeGb": str(size_gb), "storageBytes": str(size_gb * 2**29), "labels": given,
            "labelFingerprint": fingerprint(given), "creationTimestamp": self._state.now(),
            "selfLink": self._state.at(f"global/snapshots/{name}"), "storageLocations": ["us"],
        }  # fmt: skip
        if folder is not None:
            self._state.contents[str(body["id"])] = folder
        return body

    def create_snapshot(self, call: Call) -> Operation:
        """A snapshot of a disk."""
        disk = self._state.disk(call.place, call.name)
        name = check_name(call.body.get("name"))
        resource = f"projects/{self._state.project}/global/snapshots/{name}"
        if name in self._state.snapshots:
            raise already_exists(resource)
        source = self._state.contents.get(disk.body.get("sourceSnapshotId", ""))
        body = self.add_snapshot(name, int(disk.body["sizeGb"]), call.body.get("labels"), source)
        body["sourceDisk"] = disk.body["selfLink"]
        operation = self._operations.create("createSnapshot", f"zones/{disk.zone}", disk.resource, target_id=disk.id)
        return self._operations.begin(operation, self._change, call.method)

    def snapshot(self, call: Call) -> JSON:
        """One snapshot."""
        found = self._state.snapshots.get(call.name)
        if found is None:
            raise not_found(f"projects/{self._state.project}/global/snapshots/{call.name}")
        return found

    def snapshots(self, call: Call) -> JSON:
        """All of them."""
        return listed("snapshotList", list(self._state.snapshots.values()), call.query)
