"""From what a request says to a VM with its disks, checked as the provider checks it."""

from __future__ import annotations

import copy
import re
from typing import Any

from incl_provisioner.fakes.gce.catalog import (
    ACCELERATORS,
    ATTACHED_TO_N1,
    IMAGES,
    MACHINE_TYPES,
    ZONES,
    MachineType,
    offered,
)
from incl_provisioner.fakes.gce.model import Disk, Instance, State, fingerprint, last
from incl_provisioner.fakes.gce.problems import JSON, ApiError, OperationError, already_exists, invalid, not_found

NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL = re.compile(r"[a-z][-_a-z0-9]{0,62}")
_LABEL_VALUE = re.compile(r"[-_a-z0-9]{0,63}")
_MODELS = ("STANDARD", "SPOT", "FLEX_START", "RESERVATION_BOUND")
HYPERDISK_ML = ("a2", "a3", "a4", "c3", "g2", "g4")
ACCESS_MODES = ("READ_WRITE_SINGLE", "READ_WRITE_MANY", "READ_ONLY_MANY")


def check_name(name: object, field: str = "resource.name") -> str:
    """A name by RFC 1035.

    Raises:
        ApiError: 400.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise invalid(field, name, f"Must be a match of regex '(?:{NAME.pattern})'")
    return name


def check_labels(labels: object) -> dict[str, str]:
    """Labels within the provider's rules.

    Raises:
        ApiError: 400.
    """
    given = dict(labels) if isinstance(labels, dict) else {}
    if len(given) > 64:
        raise invalid("resource.labels", len(given), "At most 64 labels.")
    for key, value in given.items():
        if not _LABEL.fullmatch(key):
            raise invalid("resource.labels", key, "Label keys must be lower case and begin with a letter.")
        if not _LABEL_VALUE.fullmatch(value):
            raise invalid("resource.labels", value, "Label values must be lower case letters, digits, - and _.")
    return given


def find_machine(state: State, zone: str, url: object) -> MachineType:
    """The machine type of a request.

    Raises:
        ApiError: 400 or 404, the zone has none of that name.
    """
    name = last(url)
    if name not in MACHINE_TYPES or not offered(name, zone):
        resource = f"projects/{state.project}/zones/{zone}/machineTypes/{name}"
        raise invalid(
            "resource.machineType", state.url(resource), f"The referenced resource does not exist in zone '{zone}'."
        )
    return MACHINE_TYPES[name]


def find_image(url: str) -> str:
    """The image behind the URL of an image or of a family: projects/p/global/images/[family/]f.

    Raises:
        ApiError: 404.
    """
    match = re.search(r"(?:projects/([^/]+)/)?global/images/(family/)?([^/]+)$", url)
    families = IMAGES.get(match[1] or "", {}) if match else {}
    if match and match[2]:
        name = families.get(match[3])
    else:
        name = match[3] if match and match[3] in families.values() else None
    if name is None or match is None:
        raise not_found(url.split("/v1/")[-1])
    return f"projects/{match[1]}/global/images/{name}"


def _scheduling(given: JSON, machine: MachineType, gpus: int) -> JSON:
    made: JSON = copy.deepcopy(given)
    spot = made.get("provisioningModel") == "SPOT" or bool(made.get("preemptible"))
    made.setdefault("provisioningModel", "SPOT" if spot else "STANDARD")
    if made["provisioningModel"] not in _MODELS:
        raise invalid("resource.scheduling.provisioningModel", made["provisioningModel"], "Unknown provisioning model.")
    if spot and made.get("automaticRestart"):
        raise invalid("resource.scheduling.automaticRestart", True, "It must be false for preemptible VMs.")
    if spot and made.get("onHostMaintenance") == "MIGRATE":
        raise invalid("resource.scheduling.onHostMaintenance", "MIGRATE", "Preemptible VMs cannot migrate.")
    if (machine.gpus or gpus) and made.get("onHostMaintenance", "TERMINATE" if spot else "MIGRATE") != "TERMINATE":
        raise ApiError(400, "badRequest", "Instances with guest accelerators do not support live migration.")
    if made.get("maxRunDuration") and not made.get("instanceTerminationAction"):
        raise invalid(
            "resource.scheduling.instanceTerminationAction",
            "",
            "It must be set when maxRunDuration or terminationTime is set.",
        )
    if made.get("preemptionNoticeDuration") and not spot:
        raise invalid("resource.scheduling.preemptionNoticeDuration", "", "It can only be set for Spot VMs.")
    made.setdefault("automaticRestart", not spot)
    made.setdefault("onHostMaintenance", "TERMINATE" if spot else "MIGRATE")
    made["preemptible"] = spot
    if spot:
        made.setdefault("instanceTerminationAction", "STOP")
    return made


def _accelerators(state: State, zone: str, machine: MachineType, given: list[JSON]) -> tuple[str, int]:
    if machine.gpus:
        if given and last(given[0].get("acceleratorType")) != machine.gpu:
            raise invalid("resource.guestAccelerators", given, f"{machine.name} comes with {machine.gpu}.")
        return machine.gpu, machine.gpus
    if not given:
        return "", 0
    kind, count = last(given[0].get("acceleratorType")), int(given[0].get("acceleratorCount", 0))
    if kind not in ACCELERATORS:
        raise not_found(f"projects/{state.project}/zones/{zone}/acceleratorTypes/{kind}")
    if machine.family != "n1" or kind not in ATTACHED_TO_N1:
        raise ApiError(
            400, "badRequest", f"[{machine.name}, {kind}] features are not compatible for creating instance."
        )
    if count not in (1, 2, 4, 8) or count > ACCELERATORS[kind][1]:
        raise invalid(
            "resource.guestAccelerators[0].acceleratorCount", count, "Not a number of cards that can be attached."
        )
    return kind, count


def new_disk(state: State, zone: str, name: str, params: JSON) -> Disk:
    """A disk by the body of disks.insert, or by initializeParams with their names changed to those.

    Raises:
        ApiError: 400 or 404.
    """
    check_name(name)
    number = state.new_id()
    kind = last(params.get("type") or "pd-standard")
    labels = check_labels(params.get("labels"))
    access = str(params.get("accessMode") or "READ_WRITE_SINGLE")
    if params.get("accessMode") and not kind.startswith("hyperdisk"):
        raise invalid("resource.accessMode", access, f"It cannot be set for disks of type {kind}.")
    if access not in ACCESS_MODES or (access == "READ_ONLY_MANY" and kind != "hyperdisk-ml"):
        raise invalid("resource.accessMode", access, f"It is not supported by {kind}.")
    size = int(params.get("sizeGb") or 0)
    body: JSON = {
        "kind": "compute#disk", "id": str(number), "name": name, "sizeGb": str(size or 10), "status": "READY",
        "zone": state.at(f"zones/{zone}"), "type": state.at(f"zones/{zone}/diskTypes/{kind}"), "users": [],
        "labels": labels, "labelFingerprint": fingerprint(labels), "creationTimestamp": state.now(),
        "selfLink": state.at(f"zones/{zone}/disks/{name}"), "accessMode": access,
    }  # fmt: skip
    if params.get("sourceImage"):
        body["sourceImage"] = state.url(find_image(str(params["sourceImage"])))
    if params.get("sourceSnapshot"):
        snapshot = state.snapshots.get(last(params["sourceSnapshot"]))
        if snapshot is None:
            raise not_found(f"projects/{state.project}/global/snapshots/{last(params['sourceSnapshot'])}")
        body.update(sourceSnapshot=snapshot["selfLink"], sourceSnapshotId=snapshot["id"])
        least = int(snapshot["diskSizeGb"])
        if size and size < least:
            why = f"Requested disk size cannot be smaller than the snapshot size ({least} GB)."
            raise invalid("resource.sizeGb", size, why)
        if snapshot["status"] != "READY":
            raise ApiError(400, "resourceNotReady", f"The resource '{snapshot['selfLink']}' is not ready")
        body["sizeGb"] = str(size or least)
    return Disk(state.project, zone, name, number, body)


def _disks(state: State, zone: str, vm: str, given: list[JSON]) -> tuple[list[JSON], list[Disk]]:
    """(attached, new): what the VM shows, and the disks to be made with it."""
    if not given or not given[0].get("boot", not given[0].get("source")):
        raise invalid("resource.disks", "", "A boot disk must be specified.")
    attached, made = [], []
    for index, one in enumerate(given):
        shown: JSON = {
            "kind": "compute#attachedDisk", "index": index, "type": one.get("type", "PERSISTENT"),
            "boot": bool(one.get("boot")),
            "autoDelete": bool(one.get("autoDelete")), "mode": one.get("mode", "READ_WRITE"),
            "deviceName": one.get("deviceName", f"persistent-disk-{index}"), "interface": one.get("interface", "SCSI"),
        }  # fmt: skip
        if shown["type"] == "SCRATCH":
            attached.append({**shown, "diskSizeGb": "375", "autoDelete": True})
            continue
        if one.get("source"):
            disk = state.disk(zone, last(one["source"]))
        else:
            params: dict[str, Any] = one.get("initializeParams") or {}
            name = params.get("diskName") or (vm if index == 0 else f"{vm}-{index}")
            if (zone, name) in state.disks:
                raise already_exists(f"projects/{state.project}/zones/{zone}/disks/{name}")
            wanted = {
                **params,
                "type": params.get("diskType"),
                "sizeGb": params.get("diskSizeGb") or one.get("diskSizeGb"),
            }
            if index == 0 and not (params.get("sourceImage") or params.get("sourceSnapshot")):
                raise invalid("resource.disks[0].initializeParams.sourceImage", "", "A boot disk needs an image.")
            disk = new_disk(state, zone, name, wanted)
            made.append(disk)
        attached.append({**shown, "source": disk.body["selfLink"], "diskSizeGb": disk.body["sizeGb"]})
    return attached, made


def new_instance(state: State, zone: str, request: JSON) -> tuple[Instance, list[Disk]]:
    """A VM by the body of instances.insert, and the disks to be made with it; nothing is entered yet.

    Raises:
        ApiError: 400, 404 or 409.
    """
    name = check_name(request.get("name"))
    machine = find_machine(state, zone, request.get("machineType"))
    if (zone, name) in state.instances:
        raise already_exists(f"projects/{state.project}/zones/{zone}/instances/{name}")
    if not request.get("networkInterfaces"):
        raise invalid("resource.networkInterfaces", "", "At least one network interface is required.")
    gpu, gpus = _accelerators(state, zone, machine, request.get("guestAccelerators") or [])
    scheduling = _scheduling(request.get("scheduling") or {}, machine, gpus)
    attached, disks = _disks(state, zone, name, request.get("disks") or [])
    labels = check_labels(request.get("labels"))
    items = list((request.get("metadata") or {}).get("items") or [])
    number = state.new_id()
    interface = {
        "kind": "compute#networkInterface", "name": "nic0", "network": state.at("global/networks/default"),
        "subnetwork": state.at(f"regions/{ZONES[zone]}/subnetworks/default"), **request["networkInterfaces"][0],
        "networkIP": state.new_address(),
    }  # fmt: skip
    body: JSON = {
        **{key: request[key] for key in ("tags", "description", "minCpuPlatform", "hostname") if key in request},
        "kind": "compute#instance", "id": str(number), "name": name, "status": "PROVISIONING",
        "creationTimestamp": state.now(), "zone": state.at(f"zones/{zone}"),
        "machineType": state.at(f"zones/{zone}/machineTypes/{machine.name}"), "cpuPlatform": "Unknown CPU Platform",
        "selfLink": state.at(f"zones/{zone}/instances/{name}"), "scheduling": scheduling, "disks": attached,
        "labels": labels, "labelFingerprint": fingerprint(labels), "fingerprint": fingerprint(number),
        "metadata": {"kind": "compute#metadata", "items": items, "fingerprint": fingerprint(items)},
        "networkInterfaces": [interface], "serviceAccounts": request.get("serviceAccounts") or [],
        "deletionProtection": bool(request.get("deletionProtection")), "resourceStatus": {},
    }  # fmt: skip
    if gpus:
        kind = state.at(f"zones/{zone}/acceleratorTypes/{gpu}")
        body["guestAccelerators"] = [{"acceleratorType": kind, "acceleratorCount": gpus}]
    return Instance(state.project, zone, name, number, machine, gpu, gpus, body), disks


def incompatible(vm: Instance, disks: list[Disk]) -> OperationError | None:
    """What the provider only finds while it creates."""
    boot = last(disks[0].body["type"]) if disks else "hyperdisk-balanced"
    if vm.machine.hyperdisk and not boot.startswith("hyperdisk"):
        return OperationError(
            "UNSUPPORTED_OPERATION", f"[{vm.machine.name}, {boot}] features are not compatible for creating instance."
        )
    return None
