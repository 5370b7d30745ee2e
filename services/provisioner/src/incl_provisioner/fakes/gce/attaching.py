"""Disks that are there already, and the VMs that want them."""

from __future__ import annotations

from pathlib import Path

from incl_provisioner.fakes.gce.model import Disk, Instance, State, last
from incl_provisioner.fakes.gce.problems import JSON, OperationError
from incl_provisioner.fakes.gce.specs import HYPERDISK_ML

READERS = 10
"""So many VMs read one persistent disk at most."""
ML_READERS = ((256, 2500), (1024, 1500), (2048, 600), (16_384, 128))
"""(GB, VMs): a Hyperdisk ML of at most that size."""


def unattachable(disk: Disk, shown: JSON, vm: Instance) -> OperationError | None:
    """Why a VM cannot have a disk. shown: as it would be attached."""
    reads = shown["mode"] == "READ_ONLY"
    if disk.body["status"] != "READY":
        return OperationError("RESOURCE_NOT_READY", f"The resource '{disk.resource}' is not ready", 400)
    if disk.kind == "hyperdisk-ml" and vm.machine.family not in HYPERDISK_ML:
        what = f"[{vm.machine.name}, {disk.kind}] features are not compatible for creating instance."
        return OperationError("UNSUPPORTED_OPERATION", what, 400)
    many = disk.body["accessMode"] == "READ_ONLY_MANY"
    if many and not reads:
        message = f"The disk resource '{disk.resource}' is in READ_ONLY_MANY access mode: attach it in READ_ONLY mode."
        return OperationError("UNSUPPORTED_OPERATION", message, 400)
    if disk.users and (not reads or (disk.kind.startswith("hyperdisk") and not many)):
        message = f"The disk resource '{disk.resource}' is already being used by '{disk.users[0].split('/v1/')[-1]}'"
        return OperationError("RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", message, 400)
    most = readers(disk)
    if len(disk.users) >= most:
        message = f"The disk resource '{disk.resource}' cannot be attached to more than {most} instances."
        return OperationError("LIMIT_EXCEEDED", message, 400)
    return None


def readers(disk: Disk) -> int:
    """How many VMs may read it at once."""
    if disk.kind != "hyperdisk-ml":
        return READERS
    return next((most for size, most in ML_READERS if int(disk.body["sizeGb"]) <= size), 30)


def contents(state: State, vm: Instance) -> dict[str, Path]:
    """What is on the VM's disks that were made of snapshots with a folder: name of the device -> folder."""
    found = {}
    for shown in vm.body["disks"]:
        disk = state.disks.get((vm.zone, last(shown.get("source"))))
        folder = state.contents.get(disk.body.get("sourceSnapshotId", "")) if disk is not None else None
        if folder is not None:
            found[str(shown["deviceName"])] = folder
    return found
