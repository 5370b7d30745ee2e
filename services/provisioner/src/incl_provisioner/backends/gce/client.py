"""The port over google-cloud-compute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

from incl_provisioner.backends.gce import bodies, reading
from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.backends.gce.library import Library, Threads
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
from incl_provisioner.domain.cloud.data_disks import Snapshot
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.zones import Advice
from incl_shared.clock import Clock

T = TypeVar("T")
PAGE = 500
_log = logging.getLogger("incl.provisioner")
_SCOPES = "items/*/warning/code,nextPageToken,unreachables"
_MASKS = {
    "instances": f"items/*/instances(id,name,status,zone),{_SCOPES}",
    "disks": f"items/*/disks(id,labels,name,sizeGb,status,users,zone),{_SCOPES}",
}
"""Of a list of everything: a whole VM has a hundred fields, and all of them would be turned into messages."""
IMAGE_KEPT_S = 3600.0


class GoogleCompute:
    """See `port.Compute`. Make it by `open_compute`.

    Attributes:
        calls: how often each method was called, and how it failed.
    """

    def __init__(self, project: str, library: Library, threads: Threads, calls: Calls, clock: Clock) -> None:
        self._project, self._library, self._clock = project, library, clock
        self._threads = threads
        self.calls = calls
        self._done = int(library.types.Operation.Status.DONE)
        self._masks = True
        """Whether the provider takes masks of fields."""
        self._images: dict[Image, tuple[float, str]] = {}
        self._finding_image = asyncio.Lock()

    async def _call(self, name: str, request: object, *, write: bool = False) -> Any:
        """One call, without the library's own retries; the protocol buffer of the answer."""

        def call(limit: float) -> Any:
            answer = self._library.method(name)(request, timeout=limit, retry=None)
            return type(answer).pb(answer)

        return await self._make(name, call, write=write)

    async def _make(self, name: str, call: Callable[[float], Any], *, write: bool) -> Any:
        return await self.calls.make(name, lambda limit: self._threads.run(name, call, limit), write=write)

    async def _page(self, name: str, request: Any, mask: str = "") -> Any:
        """One page of a list. mask: the fields that are wanted; empty: all."""
        headers = (("x-goog-fieldmask", mask),) if mask else ()

        def call(limit: float) -> Any:
            page = next(iter(self._library.method(name)(request, timeout=limit, retry=None, metadata=headers).pages))
            return type(page).pb(page)

        return await self._make(name, call, write=False)

    async def _masked(self, name: str, request: Any, mask: str) -> Any:
        """One page with the fields that are wanted; whole, from then on, where the provider does not take the mask."""
        if self._masks:
            try:
                return await self._page(name, request, mask)
            except CloudFailure as error:
                if error.status != HTTPStatus.BAD_REQUEST:
                    raise
                _log.warning("the provider refuses to leave fields out of %s: %s", name, error)
        page = await self._page(name, request)
        self._masks = False
        return page

    def _operation(self, message: Any) -> Operation:
        return reading.operation_of(message, self._done)

    # -- making --

    async def insert(self, name: str, zone: str, order: Order, request_id: str) -> Operation:
        """See `Compute.insert`."""
        body = bodies.instance(name, zone, order, await self.image(order.image))
        request = self._library.types.InsertInstanceRequest(
            project=self._project, zone=zone, request_id=request_id, instance_resource=body
        )
        return self._operation(await self._call("instances.insert", request, write=True))

    async def insert_gang(
        self, names: Sequence[str], region: str, zones: Collection[str], order: Order, request_id: str
    ) -> Operation:
        """See `Compute.insert_gang`."""
        body = bodies.gang(names, zones, order, await self.image(order.image))
        request = self._library.types.BulkInsertRegionInstanceRequest(
            project=self._project, region=region, request_id=request_id, bulk_insert_instance_resource_resource=body
        )
        return self._operation(await self._call("regionInstances.bulkInsert", request, write=True))

    async def insert_disk(self, order: DiskOrder, request_id: str) -> Operation:
        """See `Compute.insert_disk`."""
        request = self._library.types.InsertDiskRequest(
            project=self._project, zone=order.zone, request_id=request_id,
            disk_resource=bodies.disk(order, self._project),
        )  # fmt: skip
        return self._operation(await self._call("disks.insert", request, write=True))

    # -- operations --

    def _scoped(self, scope: str) -> tuple[str, dict[str, str]]:
        """(the client, the place as it names it) of zones/z or regions/r."""
        where, _, place = scope.partition("/")
        kind = {"zones": "zone", "regions": "region"}[where]
        return f"{kind}Operations", {kind: place}

    async def operation(self, scope: str, name: str) -> Operation | None:
        """See `Compute.operation`."""
        client, place = self._scoped(scope)
        request = {"project": self._project, "operation": name, **place}
        found = await self._or_none(self._call(f"{client}.get", request), name)
        return None if found is None else self._operation(found)

    async def operations(self, scope: str, *, kind: str = "", group: str = "", request_id: str = "") -> list[Operation]:
        """See `Compute.operations`."""
        client, place = self._scoped(scope)
        wanted = bodies.operations(kind, group, request_id)
        request = {"project": self._project, "filter": wanted, "max_results": PAGE, **place}
        found: list[Operation] = []
        while True:
            page = await self._page(f"{client}.list", request)
            found += [self._operation(one) for one in page.items]
            if not page.next_page_token:
                return found
            request["page_token"] = page.next_page_token

    # -- looking --

    async def vm(self, zone: str, name: str) -> Vm | None:
        """See `Compute.vm`."""
        request = {"project": self._project, "zone": zone, "instance": name}
        found = await self._or_none(self._call("instances.get", request), name)
        return None if found is None else reading.vm_of(found)

    async def vms(self, label_filter: str) -> Listing[VmSeen]:
        """See `Compute.vms`."""
        return await self._everywhere("instances", label_filter, reading.seen_of)

    async def disks(self, label_filter: str) -> Listing[DiskSeen]:
        """See `Compute.disks`."""
        return await self._everywhere("disks", label_filter, reading.disk_of)

    async def _everywhere(self, kind: str, label_filter: str, read: Callable[[Any], T]) -> Listing[T]:
        request: dict[str, Any] = {
            "project": self._project, "filter": label_filter, "max_results": PAGE,
        }  # fmt: skip
        found: list[T] = []
        lost: set[str] = set()
        while True:
            page = await self._masked(f"{kind}.aggregatedList", request, _MASKS[kind])
            lost.update(reading.unreachable(page))
            found += [read(one) for scoped in page.items.values() for one in getattr(scoped, kind)]
            if not page.next_page_token:
                return Listing(tuple(found), frozenset(lost))
            request["page_token"] = page.next_page_token

    async def serial(self, zone: str, name: str, start: int = 0) -> Serial | None:
        """See `Compute.serial`."""
        request = {"project": self._project, "zone": zone, "instance": name, "start": start}
        found = await self._or_none(self._call("instances.getSerialPortOutput", request), name)
        return None if found is None else Serial(found.contents, found.next_)

    async def guest_attributes(self, zone: str, name: str, namespace: str) -> dict[str, str]:
        """See `Compute.guest_attributes`."""
        request = {"project": self._project, "zone": zone, "instance": name, "query_path": f"{namespace}/"}
        try:
            found = await self._call("instances.getGuestAttributes", request)
        except CloudFailure as error:
            if error.status == 404:
                return {}
            raise
        return {one.key: one.value for one in found.query_value.items}

    async def snapshot(self, name: str) -> Snapshot | None:
        """See `Compute.snapshot`."""
        found = await self._or_none(self._call("snapshots.get", {"project": self._project, "snapshot": name}), name)
        return None if found is None else reading.snapshot_of(found)

    async def snapshots(self) -> list[Snapshot]:
        """See `Compute.snapshots`."""
        request: dict[str, Any] = {"project": self._project, "max_results": PAGE}
        found: list[Snapshot] = []
        while True:
            page = await self._page("snapshots.list", request)
            found += [reading.snapshot_of(one) for one in page.items]
            if not page.next_page_token:
                return found
            request["page_token"] = page.next_page_token

    # -- removing --

    async def delete_vm(self, zone: str, name: str, request_id: str) -> Operation | None:
        """See `Compute.delete_vm`."""
        return await self._delete("instances", "instance", zone, name, request_id)

    async def delete_disk(self, zone: str, name: str, request_id: str) -> Operation | None:
        """See `Compute.delete_disk`."""
        return await self._delete("disks", "disk", zone, name, request_id)

    async def _delete(self, kind: str, field: str, zone: str, name: str, request_id: str) -> Operation | None:
        request = {"project": self._project, "zone": zone, field: name, "request_id": request_id}
        found = await self._or_none(self._call(f"{kind}.delete", request, write=True), name)
        return None if found is None else self._operation(found)

    @staticmethod
    async def _or_none(call: Any, name: str) -> Any:
        """The answer, or None when the provider says that this very thing is not there.

        A 404 about anything else (the project, the zone) stays a failure: nothing is known of the thing then.
        """
        try:
            return await call
        except CloudFailure as error:
            if error.status == 404 and f"/{name}'" in error.verdict.said:
                return None
            raise

    # -- what there is --

    async def image(self, image: Image) -> str:
        """See `Compute.image`. Kept for an hour; those who ask meanwhile wait for the one answer."""
        async with self._finding_image:
            return await self._image(image)

    async def _image(self, image: Image) -> str:
        known = self._images.get(image)
        if known is not None and self._clock.monotonic() < known[0]:
            return known[1]
        request = {"project": image.project, "family": image.family}
        found = await self._call("images.getFromFamily", request)
        resource = f"projects/{image.project}/global/images/{found.name}"
        self._images[image] = (self._clock.monotonic() + IMAGE_KEPT_S, resource)
        return resource

    async def advice(
        self, region: str, machine: str, zones: Collection[str], size: int, *, spot: bool
    ) -> dict[str, Advice]:
        """See `Compute.advice`. One call a zone: an answer for several names only the best."""
        ordered = sorted(zones)
        said = await asyncio.gather(*(self._advice(region, machine, zone, size, spot=spot) for zone in ordered))
        return dict(zip(ordered, said, strict=True))

    async def _advice(self, region: str, machine: str, zone: str, size: int, *, spot: bool) -> Advice:
        body = {
            "size": size,
            "instance_properties": {"scheduling": {"provisioning_model": "SPOT" if spot else "STANDARD"}},
            "instance_flexibility_policy": {"instance_selections": {"wanted": {"machine_types": [machine]}}},
            "distribution_policy": {"target_shape": "ANY_SINGLE_ZONE", "zones": [{"zone": f"zones/{zone}"}]},
        }
        request = {"project": self._project, "region": region, "capacity_advice_request_resource": body}
        return reading.advice_of(await self._call("advice.capacity", request))

    async def quotas(self, region: str) -> dict[str, tuple[float, float]]:
        """See `Compute.quotas`."""
        found = await self._call("regions.get", {"project": self._project, "region": region})
        return {one.metric: (one.limit, one.usage) for one in found.quotas}

    async def close(self) -> None:
        """See `Compute.close`."""
        await self._threads.close()
        await asyncio.to_thread(self._library.close)


async def open_compute(
    project: str,
    clock: Clock,
    *,
    endpoint: str | None = None,
    credentials: object | None = None,
    limits: Limits | None = None,
) -> GoogleCompute:
    """Import the library and open the cloud.

    Args:
        endpoint: of another API than the provider's, such as the fake cloud's.
        credentials: of google.auth; None: those of the environment, or none where an endpoint is given.
    """
    library = await asyncio.to_thread(Library, endpoint, credentials)
    given = limits or Limits()
    return GoogleCompute(project, library, Threads(given.threads), Calls(given, clock), clock)
