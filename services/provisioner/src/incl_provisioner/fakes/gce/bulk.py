"""regionInstances.bulkInsert and instances.bulkInsert: all of a gang, or none."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections import Counter
from dataclasses import dataclass

from incl_provisioner.fakes.gce.call import Call, Handler
from incl_provisioner.fakes.gce.capacity import Capacity
from incl_provisioner.fakes.gce.catalog import REGIONS, ZONES, offered
from incl_provisioner.fakes.gce.instances import Instances
from incl_provisioner.fakes.gce.machines import Machines
from incl_provisioner.fakes.gce.model import Disk, Instance, State, last
from incl_provisioner.fakes.gce.operations import Operation, Operations
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.problems import (
    JSON,
    ApiError,
    OperationError,
    OperationFailed,
    insufficient_capacity,
    invalid,
    quota_of_request,
    rate_limited,
)  # fmt: skip
from incl_provisioner.fakes.gce.specs import check_name, new_instance


@dataclass
class Batch:
    """What one bulkInsert is to make.

    Attributes:
        zones: where it may, in the order in which it tries.
        shape: ANY, ANY_SINGLE_ZONE or BALANCED.
    """

    names: list[str]
    least: int
    zones: list[str]
    shape: str
    properties: JSON
    machine: str
    model: str


class Bulk:
    """The methods that make many VMs in one call."""

    def __init__(
        self,
        state: State,
        operations: Operations,
        machines: Machines,
        capacity: Capacity,
        instances: Instances,
        pace: Pace,
    ) -> None:
        self._state, self._operations, self._machines = state, operations, machines
        self._capacity, self._instances, self._pace = capacity, instances, pace
        self.preferred: list[str] = []
        """Zones that ANY_SINGLE_ZONE looks at first."""
        self.at_once: int | None = None
        """How many operations may run at once; the provider's limit is 10."""
        self._running: list[Operation] = []

    def methods(self) -> dict[str, Handler]:
        """method -> what answers."""
        return {"regionInstances.bulkInsert": self.insert, "instances.bulkInsert": self.insert}

    def insert(self, call: Call) -> Operation:
        """Begin to make them all."""
        self._running = [one for one in self._running if not one.done.is_set()]
        if self.at_once is not None and len(self._running) >= self.at_once:
            raise rate_limited("BulkInsert operations")
        regional = call.method.startswith("region")
        batch = self._batch(call, regional)
        planned = self._plan(batch)
        place = f"{'regions' if regional else 'zones'}/{call.place}"
        made = [new_instance(self._state, zone, {**batch.properties, "name": name}) for name, zone in planned]
        things: list[Instance | Disk] = [vm for vm, _ in made]
        things += [disk for _, disks in made for disk in disks]
        full = self._capacity.exceeded(ZONES[batch.zones[0]], things)
        if full is not None:
            raise quota_of_request(full.metric, full.limit, full.region)
        short = self._short(made)
        if len(made) - len(short) < batch.least and self._capacity.bulk == "request":
            raise insufficient_capacity(self._state.project, place)
        group = str(uuid.uuid5(uuid.NAMESPACE_OID, str(self._state.new_id())))
        operation = self._operations.create("bulkInsert", place, f"projects/{self._state.project}/{place}", group=group)

        async def work(operation: Operation) -> None:
            await self._make(operation, batch, made, group)

        self._running.append(operation)
        return self._operations.begin(operation, work, call.method)

    def _batch(self, call: Call, regional: bool) -> Batch:
        body = call.body
        properties = body.get("instanceProperties")
        count, least = int(body.get("count", 0)), int(body.get("minCount") or body.get("count") or 0)
        if not isinstance(properties, dict):
            raise invalid("resource.instanceProperties", "", "It must be set.")
        if count < 1 or count > 5000 or not 1 <= least <= count:
            raise invalid("resource.count", count, "Not a number of VMs that can be made, or minCount does not fit.")
        properties = {**properties, "machineType": last(properties.get("machineType"))}
        scheduling = properties.get("scheduling") or {}
        policy = body.get("locationPolicy") or {}
        zones = self._zones(call.place, policy, regional)
        names = self._names(body, count, zones)
        machine = str(properties["machineType"])
        having = [zone for zone in zones if offered(machine, zone)]
        if not having:
            raise invalid("resource.instanceProperties.machineType", machine, f"It does not exist in '{call.place}'.")
        model = str(scheduling.get("provisioningModel", "STANDARD"))
        shape = str(policy.get("targetShape", "ANY_SINGLE_ZONE" if regional else "ANY"))
        return Batch(names, least, having, shape, properties, machine, model)

    def _zones(self, place: str, policy: JSON, regional: bool) -> list[str]:
        if not regional:
            return [self._state.zone(place)]
        if place not in REGIONS:
            raise invalid("region", place, "Unknown region.")
        zones = [f"{place}-{letter}" for letter in REGIONS[place]]
        wishes = {last(zone): str(wish.get("preference")) for zone, wish in (policy.get("locations") or {}).items()}
        named = [last(one.get("zone")) for one in policy.get("zones") or []]
        for zone in [*wishes, *named]:
            if zone not in zones:
                raise invalid("resource.locationPolicy.locations", zone, f"It is not a zone of '{place}'.")
        allowed = [zone for zone, wish in wishes.items() if wish == "ALLOW"]
        zones = [zone for zone in zones if wishes.get(zone) != "DENY"]
        if allowed or named:
            zones = [zone for zone in zones if zone in allowed or zone in named]
        if not zones:
            raise invalid("resource.locationPolicy", policy, "No zone is left.")
        return sorted(zones, key=lambda zone: [*self.preferred, zone].index(zone))

    def _names(self, body: JSON, count: int, zones: list[str]) -> list[str]:
        given = body.get("perInstanceProperties") or {}
        if given:
            if len(given) != count:
                raise invalid("resource.perInstanceProperties", len(given), "As many as count are needed.")
            return [
                check_name(one.get("name") or name, "resource.perInstanceProperties") for name, one in given.items()
            ]
        pattern = str(body.get("namePattern", ""))
        parts = re.fullmatch(r"([^#]*)(#{1,18})([^#]*)", pattern)
        if parts is None:
            raise invalid("resource.namePattern", pattern, "It needs one run of # characters.")
        found = re.compile(rf"{re.escape(parts[1])}(\d{{{len(parts[2])}}}){re.escape(parts[3])}")
        taken = [int(m[1]) for zone, name in self._state.instances if zone in zones and (m := found.fullmatch(name))]
        begin = max(taken, default=0) + 1
        return [
            check_name(f"{parts[1]}{begin + i:0{len(parts[2])}d}{parts[3]}", "resource.namePattern")
            for i in range(count)
        ]

    def _plan(self, batch: Batch) -> list[tuple[str, str]]:
        """(name, zone) of every VM, as the capacity is now."""
        free = {zone: self._capacity.free(zone, batch.machine, batch.model) for zone in batch.zones}
        if batch.shape == "ANY_SINGLE_ZONE":
            fits = [zone for zone in batch.zones if free[zone] >= len(batch.names)]
            best = fits[0] if fits else max(batch.zones, key=lambda zone: free[zone])
            return [(name, best) for name in batch.names]
        planned: Counter[str] = Counter()
        for _ in batch.names:
            open_to = [zone for zone in batch.zones if planned[zone] < free[zone]] or batch.zones
            even = batch.shape == "BALANCED"
            planned[min(open_to, key=lambda zone: planned[zone]) if even else open_to[0]] += 1
        zones = [zone for zone in batch.zones for _ in range(planned[zone])]
        return list(zip(batch.names, zones, strict=True))

    def _short(self, made: list[tuple[Instance, list[Disk]]]) -> list[Instance]:
        """The VMs that there is no capacity for."""
        free: dict[str, int] = {}
        short = []
        for vm, _ in made:
            free.setdefault(vm.zone, self._capacity.free(vm.zone, vm.machine.name, vm.model))
            free[vm.zone] -= 1
            if free[vm.zone] < 0:
                short.append(vm)
        return short

    async def _make(
        self, operation: Operation, batch: Batch, made: list[tuple[Instance, list[Disk]]], group: str
    ) -> None:
        target = Counter(vm.zone for vm, _ in made)
        status: dict[str, JSON] = {
            f"zones/{zone}": {
                "status": "CREATING", "targetVmCount": n, "createdVmCount": 0, "failedToCreateVmCount": 0,
                "deletedVmCount": 0,
            }
            for zone, n in target.items()
        }  # fmt: skip
        operation.body["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": status}
        results = await asyncio.gather(*(self._one(vm, disks, status[f"zones/{vm.zone}"], group) for vm, disks in made))
        made_vms = [vm for vm, _ in made if vm.status == "RUNNING"]
        errors = [error for error in results if error is not None]
        if len(made_vms) >= batch.least:
            for one in status.values():
                one["status"] = "DONE"
            return
        for one in status.values():
            one["status"] = "ROLLING_BACK"
        tasks = [self._machines.end(vm, remove=True) for vm, _ in made if (vm.zone, vm.name) in self._state.instances]
        if tasks:
            await asyncio.wait(tasks)
        for one in status.values():
            one.update(status="DONE", deletedVmCount=one["createdVmCount"])
        capacity = [error for error in errors if error.code.startswith("ZONE_RESOURCE_POOL_EXHAUSTED")]
        summary = f"Requested minimum count of {batch.least} VMs could not be created."
        # The summary alone says nothing; why is in the insert operations of the same operationGroupId.
        code = errors[0] if errors and not capacity else OperationError("VM_MIN_COUNT_NOT_REACHED", summary, 503)
        raise OperationFailed(code)

    async def _one(self, vm: Instance, disks: list[Disk], status: JSON, group: str) -> OperationError | None:
        """One VM of the batch, with an operation of its own."""
        own = self._operations.create("insert", f"zones/{vm.zone}", vm.resource, group=group, target_id=vm.id)
        own.body.update(status="RUNNING", startTime=self._state.now())
        error: OperationError | None = None
        try:
            await self._instances.make(vm, disks)
            status["createdVmCount"] += 1
        except OperationFailed as failed:
            error = failed.error
        except ApiError as failed:
            error = OperationError("RESOURCE_IN_USE", failed.message, failed.status)
        if error is not None:
            status["failedToCreateVmCount"] += 1
        own.finish(self._state.now(), error)
        return error
