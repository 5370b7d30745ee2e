"""The backend's port over the fake cloud in the same loop: no HTTP and no library, so that it runs in virtual time.

It passes the same suite as the port over google-cloud-compute. Calls have the same pace, retries, faults and verdicts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from incl_provisioner.backends.gce import bodies
from incl_provisioner.backends.gce.calls import Calls
from incl_provisioner.backends.gce.port import (
    CloudFailure,
    DiskOrder,
    DiskSeen,
    Listing,
    Operation,
    Order,
    Serial,
    Vm,
    VmSeen,
)
from incl_provisioner.backends.gce.reading import last, when
from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.data_disks import Snapshot
from incl_provisioner.domain.cloud.errors import CloudError, read_errors
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.zones import Advice
from incl_provisioner.fakes.gce.api import Outcome
from incl_provisioner.fakes.gce.call import Call
from incl_provisioner.fakes.gce.cloud import FakeCloud
from incl_provisioner.fakes.gce.problems import JSON

T = TypeVar("T")
_BROKEN = {"cut": "CONNECTION_ERROR", "partial": "CONNECTION_ERROR", "garbage": "BAD_GATEWAY", "hang": "TIMEOUT"}
_MAPS = ("labels", "per_instance_properties", "locations")
"""Fields whose keys are names, not fields."""


def camel(value: Any, *, names: bool = False) -> Any:
    """A body in the library's spelling, in the API's: machine_type is machineType, type_ is type."""
    if isinstance(value, dict):
        return {
            key if names else _camel(key): camel(one, names=key in _MAPS and not names) for key, one in value.items()
        }
    return [camel(one) for one in value] if isinstance(value, list) else value


def _camel(key: str) -> str:
    head, *rest = key.rstrip("_").split("_")
    return head + "".join(part.capitalize() for part in rest)


class DirectCompute:
    """See `backends.gce.port.Compute`."""

    def __init__(self, cloud: FakeCloud, calls: Calls, project: str | None = None) -> None:
        self._cloud = cloud
        self._project = project or cloud.settings.project
        self._finding_image = asyncio.Lock()
        self._images: dict[Image, str] = {}
        self._open: set[asyncio.Task[Outcome]] = set()
        self.calls = calls

    async def _call(
        self, method: str, place: str = "", name: str = "", query: dict[str, str] | None = None,
        body: JSON | None = None, *, write: bool = False, project: str = "",
    ) -> JSON:  # fmt: skip
        call = Call(method, project or self._project, place, name, query or {}, camel(body or {}))

        async def once(limit: float) -> JSON:
            # As over HTTP: what was received goes on, also when the caller has given up.
            task = asyncio.ensure_future(self._cloud.api.outcome(call))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
            done, _ = await asyncio.wait((task,), timeout=limit)
            if not done or task.result().kind == "hang":
                await asyncio.sleep(limit if done else 0)
                raise CloudFailure(method, classify([CloudError("TIMEOUT", "no answer")]))
            outcome = task.result()
            if outcome.kind != "answer":
                raise CloudFailure(method, classify([CloudError(_BROKEN[outcome.kind], outcome.kind)]))
            if outcome.status >= 400:
                # What the library's exception keeps of the envelope.
                said = {key: outcome.body["error"][key] for key in ("code", "message", "errors")}
                verdict = classify(read_errors(said, status=outcome.status))
                raise CloudFailure(method, verdict, outcome.status)
            return outcome.body

        return await self.calls.make(method, once, write=write)

    async def _or_none(self, call: Any, name: str) -> JSON | None:
        try:
            found: JSON = await call
        except CloudFailure as error:
            if error.status == 404 and f"/{name}'" in error.verdict.said:
                return None
            raise
        return found

    async def insert(self, name: str, zone: str, order: Order, request_id: str) -> Operation:
        """See `Compute.insert`."""
        body = bodies.instance(name, zone, order, await self.image(order.image))
        return _operation(await self._call("instances.insert", zone, "", {"requestId": request_id}, body, write=True))

    async def insert_gang(
        self, names: Sequence[str], region: str, zones: Collection[str], order: Order, request_id: str
    ) -> Operation:
        """See `Compute.insert_gang`."""
        body = bodies.gang(names, zones, order, await self.image(order.image))
        query = {"requestId": request_id}
        return _operation(await self._call("regionInstances.bulkInsert", region, "", query, body, write=True))

    async def insert_disk(self, order: DiskOrder, request_id: str) -> Operation:
        """See `Compute.insert_disk`."""
        body, query = bodies.disk(order, self._project), {"requestId": request_id}
        return _operation(await self._call("disks.insert", order.zone, "", query, body, write=True))

    async def snapshot(self, name: str) -> Snapshot | None:
        """See `Compute.snapshot`."""
        found = await self._or_none(self._call("snapshots.get", "", name), name)
        return None if found is None else _snapshot(found)

    async def snapshots(self) -> list[Snapshot]:
        """See `Compute.snapshots`."""
        pages = await self._pages("snapshots.list", "", "")
        return [_snapshot(one) for page in pages for one in page.get("items", ())]

    async def operation(self, scope: str, name: str) -> Operation | None:
        """See `Compute.operation`."""
        kind, _, place = scope.partition("/")
        found = await self._or_none(self._call(f"{kind[:-1]}Operations.get", place, name), name)
        return None if found is None else _operation(found)

    async def operations(self, scope: str, *, kind: str = "", group: str = "", request_id: str = "") -> list[Operation]:
        """See `Compute.operations`."""
        where, _, place = scope.partition("/")
        found = await self._pages(f"{where[:-1]}Operations.list", place, bodies.operations(kind, group, request_id))
        return [_operation(one) for page in found for one in page.get("items", ())]

    async def _pages(self, method: str, place: str, expression: str) -> list[JSON]:
        query = {"filter": expression, "maxResults": "500"}
        pages = [await self._call(method, place, "", query)]
        while token := pages[-1].get("nextPageToken"):
            pages.append(await self._call(method, place, "", {**query, "pageToken": token}))
        return pages

    async def vm(self, zone: str, name: str) -> Vm | None:
        """See `Compute.vm`."""
        found = await self._or_none(self._call("instances.get", zone, name), name)
        return None if found is None else _vm(found)

    async def vms(self, label_filter: str) -> Listing[VmSeen]:
        """See `Compute.vms`."""
        return await self._everywhere("instances", label_filter, _seen)

    async def disks(self, label_filter: str) -> Listing[DiskSeen]:
        """See `Compute.disks`."""
        return await self._everywhere("disks", label_filter, _disk)

    async def _everywhere(self, kind: str, label_filter: str, read: Callable[[JSON], T]) -> Listing[T]:
        pages = await self._pages(f"{kind}.aggregatedList", "", label_filter)
        found = [read(one) for page in pages for scoped in page["items"].values() for one in scoped.get(kind, ())]
        lost = {last(url) for page in pages for url in page.get("unreachables", ())}
        return Listing(tuple(found), frozenset(lost))

    async def serial(self, zone: str, name: str, start: int = 0) -> Serial | None:
        """See `Compute.serial`."""
        call = self._call("instances.getSerialPortOutput", zone, name, {"start": str(start)})
        found = await self._or_none(call, name)
        return None if found is None else Serial(found["contents"], int(found["next"]))

    async def guest_attributes(self, zone: str, name: str, namespace: str) -> dict[str, str]:
        """See `Compute.guest_attributes`."""
        try:
            found = await self._call("instances.getGuestAttributes", zone, name, {"queryPath": f"{namespace}/"})
        except CloudFailure as error:
            if error.status == 404:
                return {}
            raise
        return {one["key"]: one["value"] for one in found["queryValue"]["items"]}

    async def delete_vm(self, zone: str, name: str, request_id: str) -> Operation | None:
        """See `Compute.delete_vm`."""
        return await self._delete("instances.delete", zone, name, request_id)

    async def delete_disk(self, zone: str, name: str, request_id: str) -> Operation | None:
        """See `Compute.delete_disk`."""
        return await self._delete("disks.delete", zone, name, request_id)

    async def _delete(self, method: str, zone: str, name: str, request_id: str) -> Operation | None:
        found = await self._or_none(self._call(method, zone, name, {"requestId": request_id}, write=True), name)
        return None if found is None else _operation(found)

    async def image(self, image: Image) -> str:
        """See `Compute.image`. Kept for good."""
        async with self._finding_image:
            if image not in self._images:
                found = await self._call("images.getFromFamily", "", image.family, project=image.project)
                self._images[image] = f"projects/{image.project}/global/images/{found['name']}"
            return self._images[image]

    async def advice(
        self, region: str, machine: str, zones: Collection[str], size: int, *, spot: bool
    ) -> dict[str, Advice]:
        """See `Compute.advice`."""
        return {zone: await self._advice(region, machine, zone, size, spot=spot) for zone in sorted(zones)}

    async def _advice(self, region: str, machine: str, zone: str, size: int, *, spot: bool) -> Advice:
        body = {
            "size": size,
            "instance_properties": {"scheduling": {"provisioning_model": "SPOT" if spot else "STANDARD"}},
            "instance_flexibility_policy": {"instance_selections": {"wanted": {"machine_types": [machine]}}},
            "distribution_policy": {"zones": [{"zone": f"zones/{zone}"}]},
        }
        found = await self._call("advice.capacity", region, "", None, body)
        scores = found["recommendations"][0]["scores"]
        return Advice(scores["obtainability"], 3600.0 / float(scores["estimatedUptime"].rstrip("s")))

    async def quotas(self, region: str) -> dict[str, tuple[float, float]]:
        """See `Compute.quotas`."""
        found = await self._call("regions.get", "", region)
        return {one["metric"]: (one["limit"], one["usage"]) for one in found["quotas"]}

    async def close(self) -> None:
        """Wait for nothing that is still received."""
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _operation(body: JSON) -> Operation:
    place = body.get("zone") or body.get("region")
    scope = f"{'zones' if 'zone' in body else 'regions'}/{last(place)}" if place else "global"
    errors = read_errors(body) if "error" in body else ()
    return Operation(
        body["name"], scope, body["operationType"], last(body["targetLink"]), int(body["targetId"]),
        body["status"] == "DONE", when(body["insertTime"]), errors, classify(errors) if errors else None,
        body.get("operationGroupId", ""),
    )  # fmt: skip


def _vm(body: JSON) -> Vm:
    ends = body["resourceStatus"].get("scheduling", {}).get("terminationTimestamp", "")
    return Vm(
        body["name"], last(body["zone"]), int(body["id"]), body["status"], dict(body["labels"]),
        body["networkInterfaces"][0]["networkIP"], last(body["machineType"]), body["scheduling"]["preemptible"],
        when(body["creationTimestamp"]), when(ends),
    )  # fmt: skip


def _seen(body: JSON) -> VmSeen:
    return VmSeen(body["name"], last(body["zone"]), int(body["id"]), body["status"])


def _disk(body: JSON) -> DiskSeen:
    users = tuple(last(user) for user in body["users"])
    return DiskSeen(
        body["name"], last(body["zone"]), int(body["id"]), dict(body["labels"]), users, int(body["sizeGb"]),
        body["status"],
    )  # fmt: skip


def _snapshot(body: JSON) -> Snapshot:
    return Snapshot(
        body["name"], int(body["id"]), int(body["diskSizeGb"]), body["status"] == "READY", int(body["storageBytes"])
    )
