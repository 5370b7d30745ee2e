"""instances.*: one VM at a time."""

from __future__ import annotations

import asyncio
from typing import Any

from incl_provisioner.fakes.gce.call import Call, Handler
from incl_provisioner.fakes.gce.capacity import GONE, Capacity
from incl_provisioner.fakes.gce.catalog import ZONES
from incl_provisioner.fakes.gce.faults import Faults
from incl_provisioner.fakes.gce.listing import aggregated, listed
from incl_provisioner.fakes.gce.machines import Machines
from incl_provisioner.fakes.gce.model import Disk, Instance, State, fingerprint, same_fingerprint
from incl_provisioner.fakes.gce.operations import Operation, Operations
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.problems import (
    JSON,
    ApiError,
    OperationError,
    OperationFailed,
    invalid,
    not_found,
    quota_of_operation,
    quota_of_request,
    stockout,
    stockout_plain,
)  # fmt: skip
from incl_provisioner.fakes.gce.specs import check_labels, incompatible, new_instance

SERIAL_KEPT = 1024 * 1024


class Instances:
    """The methods of instances but bulkInsert."""

    def __init__(
        self, state: State, operations: Operations, machines: Machines, capacity: Capacity, faults: Faults, pace: Pace
    ) -> None:
        self._state, self._operations, self._machines = state, operations, machines
        self._capacity, self._faults, self._pace = capacity, faults, pace

    def methods(self) -> dict[str, Handler]:
        """method -> what answers."""
        return {
            "instances.insert": self.insert, "instances.get": self.get, "instances.list": self.list,
            "instances.aggregatedList": self.aggregated, "instances.delete": self.delete, "instances.stop": self.stop,
            "instances.start": self.start, "instances.setLabels": self.set_labels,
            "instances.setMetadata": self.set_metadata,
            "instances.getSerialPortOutput": self.serial, "instances.getGuestAttributes": self.guest_attributes,
            "instances.simulateMaintenanceEvent": self.maintenance,
        }  # fmt: skip

    # -- making --

    def insert(self, call: Call) -> Operation:
        """Begin to make one VM."""
        zone = self._state.zone(call.place)
        vm, disks = new_instance(self._state, zone, call.body)
        full = self._capacity.exceeded(ZONES[zone], [vm, *disks])
        if full is not None and self._capacity.quota_in_request:
            raise quota_of_request(full.metric, full.limit, full.region)
        operation = self._operations.create("insert", f"zones/{zone}", vm.resource, target_id=vm.id)
        return self._operations.begin(operation, lambda _: self.make(vm, disks), call.method)

    async def make(self, vm: Instance, disks: list[Disk]) -> None:
        """The work of an insert.

        Raises:
            OperationFailed: nothing was made, or what was made is gone.
        """
        error = self.refusal(vm, disks)
        if error is not None:
            await asyncio.sleep(self._pace.create)
            raise OperationFailed(error)
        self._machines.enter(vm, disks)
        await asyncio.sleep(self._pace.create)
        if vm.ending is None:
            await self._machines.boot(vm)
        if self._state.instances.get((vm.zone, vm.name)) is not vm or vm.ending is not None:
            raise OperationFailed(OperationError("RESOURCE_NOT_FOUND", not_found(vm.resource).message, 404))

    def refusal(self, vm: Instance, disks: list[Disk]) -> OperationError | None:
        """Why the provider does not make this VM now."""
        if (vm.zone, vm.name) in self._state.instances:
            return OperationError("RESOURCE_ALREADY_EXISTS", f"The resource '{vm.resource}' already exists", 409)
        error = incompatible(vm, disks)
        if error is not None:
            return error
        full = self._capacity.exceeded(ZONES[vm.zone], [vm, *disks])
        if full is not None:
            return quota_of_operation(full.metric, full.limit, full.region)
        if self._capacity.free(vm.zone, vm.machine.name, vm.model) < 1:
            return self.no_capacity(vm)
        return None

    def no_capacity(self, vm: Instance) -> OperationError:
        """A stockout, in the form that is switched on."""
        if not self._capacity.details:
            return stockout_plain(vm.project, vm.zone)
        attachment = f"{vm.gpu}:{vm.gpus}" if vm.gpus and not vm.machine.gpus else ""
        others = self._capacity.others(vm.zone, vm.machine.name, vm.model)
        return stockout(vm.project, vm.zone, vm.machine.name, attachment, others)

    # -- looking --

    def get(self, call: Call) -> JSON:
        """One VM."""
        return self._state.instance(call.place, call.name).body

    def list(self, call: Call) -> JSON:
        """Those of a zone."""
        zone = self._state.zone(call.place)
        if zone in self._faults.unreachable:
            raise ApiError(503, "backendError", f"The zone '{zone}' is temporarily unavailable.")
        return listed(
            "instanceList", [one.body for one in self._state.instances.values() if one.zone == zone], call.query
        )

    def aggregated(self, call: Call) -> JSON:
        """Those of all zones; a zone that cannot be reached is said to be so, and is not empty."""
        bodies = [one.body for one in self._state.instances.values()]
        return aggregated("instance", bodies, call.query, sorted(self._faults.unreachable), self._state)

    def serial(self, call: Call) -> JSON:
        """What the serial port said, from `start` on; the provider keeps the last MiB."""
        vm = self._state.instance(call.place, call.name)
        if int(call.query.get("port", 1)) != 1:
            return {"kind": "compute#serialPortOutput", "contents": "", "start": "0", "next": "0"}
        said = self._machines.console(vm)
        oldest = max(0, len(said) - SERIAL_KEPT)
        begin = max(int(call.query.get("start", 0)), oldest)
        contents = said[begin:].decode(errors="replace")
        after = max(begin, len(said))
        return {
            "kind": "compute#serialPortOutput", "selfLink": f"{vm.body['selfLink']}/serialPort", "contents": contents,
            "start": str(begin), "next": str(after),
        }  # fmt: skip

    def guest_attributes(self, call: Call) -> JSON:
        """What the guest wrote into its metadata server."""
        vm = self._state.instance(call.place, call.name)
        path, key = call.query.get("queryPath", ""), call.query.get("variableKey", "")
        space, _, inner = (path or key).strip("/").partition("/")
        found = [
            {"namespace": n, "key": k, "value": v}
            for (n, k), v in sorted(vm.guest.items())
            if (not space or n == space) and (not inner or k == inner)
        ]
        if not found:
            raise ApiError(404, "notFound", f"The resource '{path or key}' of type 'Guest Attribute' was not found.")
        answer: JSON = {"kind": "compute#guestAttributes", "selfLink": f"{vm.body['selfLink']}/getGuestAttributes"}
        if key:
            return {**answer, "variableKey": key, "variableValue": found[0]["value"]}
        return {**answer, "queryPath": path, "queryValue": {"items": found}}

    # -- changing --

    def _begin(self, call: Call, kind: str, vm: Instance, work: Any) -> Operation:
        operation = self._operations.create(kind, f"zones/{vm.zone}", vm.resource, target_id=vm.id)
        return self._operations.begin(operation, work, call.method)

    def delete(self, call: Call) -> Operation:
        """Begin to delete; a second delete is another operation that ends with the first."""
        vm = self._state.instance(call.place, call.name)
        if vm.body["deletionProtection"]:
            message = f"Resource cannot be deleted if it's protected against deletion. '{vm.resource}'"
            raise ApiError(400, "resourceInUseByAnotherResource", message)

        async def work(_: Operation) -> None:
            await asyncio.wait((self._machines.end(vm, remove=True),))

        return self._begin(call, "delete", vm, work)

    def stop(self, call: Call) -> Operation:
        """Begin to stop."""
        vm = self._state.instance(call.place, call.name)

        async def work(_: Operation) -> None:
            await asyncio.wait((self._machines.end(vm, remove=False),))

        return self._begin(call, "stop", vm, work)

    def start(self, call: Call) -> Operation:
        """Begin to start one that is TERMINATED."""
        vm = self._state.instance(call.place, call.name)
        if vm.status not in GONE:
            raise ApiError(400, "resourceNotReady", f"The resource '{vm.resource}' is not ready")

        async def work(_: Operation) -> None:
            if self._capacity.free(vm.zone, vm.machine.name, vm.model) < 1:
                raise OperationFailed(self.no_capacity(vm))
            await self._machines.start(vm)

        return self._begin(call, "start", vm, work)

    def set_labels(self, call: Call) -> Operation:
        """All labels anew, where the fingerprint is the newest."""
        vm = self._state.instance(call.place, call.name)
        same_fingerprint(call.body.get("labelFingerprint"), vm.body["labelFingerprint"], "Labels")
        labels = check_labels(call.body.get("labels"))
        vm.body.update(labels=labels, labelFingerprint=fingerprint(labels))
        return self._begin(call, "setLabels", vm, self._change)

    def set_metadata(self, call: Call) -> Operation:
        """All metadata anew, where the fingerprint is the newest; the guest sees it at once."""
        vm = self._state.instance(call.place, call.name)
        same_fingerprint(call.body.get("fingerprint"), vm.body["metadata"]["fingerprint"], "Metadata")
        items = list(call.body.get("items") or [])
        vm.body["metadata"] = {"kind": "compute#metadata", "items": items, "fingerprint": fingerprint(items)}
        vm.watch.touch()
        return self._begin(call, "setMetadata", vm, self._change)

    async def _change(self, _: Operation) -> None:
        await asyncio.sleep(self._pace.change)

    def maintenance(self, call: Call) -> Operation:
        """The API's own way to try a preemption (Spot), or host maintenance (others)."""
        vm = self._state.instance(call.place, call.name)
        if vm.status != "RUNNING":
            raise invalid("instance", vm.name, "Only a running instance has maintenance events.")

        async def work(_: Operation) -> None:
            if vm.spot:
                self._machines.preempt(vm)
            elif vm.body["scheduling"]["onHostMaintenance"] == "TERMINATE":
                self._operations.spawn(self._machines.maintain(vm))

        return self._begin(call, "simulateMaintenanceEvent", vm, work)
