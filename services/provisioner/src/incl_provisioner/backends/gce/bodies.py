"""From an order to the bodies of requests: plain dictionaries, in the library's spelling."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from incl_provisioner.backends.gce.port import DiskOrder, Order
from incl_shared.mounts import device_name

Body = dict[str, Any]


def instance(name: str, zone: str, order: Order, image: str) -> Body:
    """The body of instances.insert. image: projects/p/global/images/i."""
    body = properties(order, image, names=(name,), place=f"zones/{zone}/")
    return {"name": name, **body, "machine_type": f"zones/{zone}/machineTypes/{order.machine}"}


def operations(kind: str, group: str, request_id: str) -> str:
    """The filter of a list of operations; empty parts do not narrow it."""
    parts = {"operationType": kind, "operationGroupId": group, "clientOperationId": request_id}
    return " AND ".join(f"{field}={value}" for field, value in parts.items() if value)


def gang(names: Sequence[str], zones: Collection[str], order: Order, image: str) -> Body:
    """The body of regionInstances.bulkInsert: all of them in one of the zones, or none."""
    return {
        "count": len(names),
        "min_count": len(names),
        "per_instance_properties": {name: {"name": name} for name in names},
        "location_policy": {
            "target_shape": "ANY_SINGLE_ZONE",
            "locations": {f"zones/{zone}": {"preference": "ALLOW"} for zone in sorted(zones)},
        },
        "instance_properties": properties(order, image, names=names, place=""),
    }


def properties(order: Order, image: str, *, names: Sequence[str], place: str) -> Body:
    """What insert and bulkInsert share. place: before the types of disks and GPUs; bulkInsert wants bare names."""
    body: Body = {
        "machine_type": order.machine,
        "labels": dict(order.labels),
        "metadata": {"items": [{"key": key, "value": value} for key, value in order.metadata.items()]},
        "disks": _disks(order, image, place),
        "network_interfaces": [_interface(order)],
        "scheduling": _scheduling(order),
    }
    if order.guest is not None:
        kind, count = order.guest
        accelerator = f"{place}acceleratorTypes/{kind}" if place else kind
        body["guest_accelerators"] = [{"accelerator_type": accelerator, "accelerator_count": count}]
    if order.service_account:
        body["service_accounts"] = [{"email": order.service_account, "scopes": list(order.scopes)}]
    return body


def _disks(order: Order, image: str, place: str) -> list[Body]:
    made = []
    for index, disk in enumerate(order.disks):
        kind = f"{place}diskTypes/{disk.kind}" if place else disk.kind
        params: Body = {"disk_type": kind, "disk_size_gb": disk.gib, "labels": dict(order.labels)}
        if index == 0:
            params["source_image"] = image
        made.append({"boot": index == 0, "auto_delete": True, "initialize_params": params})
    for _ in range(order.scratch):
        kind = f"{place}diskTypes/local-ssd" if place else "local-ssd"
        made.append(
            {"type_": "SCRATCH", "interface": "NVME", "auto_delete": True, "initialize_params": {"disk_type": kind}}
        )
    for index, name in enumerate(order.data_disks):
        source = f"{place}disks/{name}" if place else name
        made.append({"source": source, "device_name": device_name(index), "mode": "READ_ONLY", "auto_delete": False})
    return made


def disk(order: DiskOrder, project: str) -> Body:
    """The body of disks.insert."""
    body: Body = {
        "name": order.name, "type_": f"zones/{order.zone}/diskTypes/{order.kind}", "size_gb": order.gib,
        "source_snapshot": f"projects/{project}/global/snapshots/{order.snapshot}", "labels": dict(order.labels),
    }  # fmt: skip
    return {**body, "access_mode": "READ_ONLY_MANY"} if order.shared else body


def _interface(order: Order) -> Body:
    network = order.network if "/" in order.network else f"global/networks/{order.network}"
    body: Body = {"network": network}
    if order.subnetwork:
        body = {"subnetwork": order.subnetwork}
    if order.external_ip:
        body["access_configs"] = [{"type_": "ONE_TO_ONE_NAT", "name": "External NAT"}]
    return body


def _scheduling(order: Order) -> Body:
    body: Body = {
        "provisioning_model": "SPOT" if order.spot else "STANDARD",
        # STOP would leave the VM and its disks behind.
        "instance_termination_action": "DELETE",
        "max_run_duration": {"seconds": order.longest_s},
        "automatic_restart": False,
        "on_host_maintenance": "TERMINATE" if order.spot or order.terminates else "MIGRATE",
    }
    if order.spot and order.notice_s > 0:
        body["preemption_notice_duration"] = {"seconds": order.notice_s}
    return body
