"""The port to Compute Engine: what the backend asks for and what it is told, without the library's types."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from incl_provisioner.domain.cloud.data_disks import Snapshot
from incl_provisioner.domain.cloud.errors import CloudError, Verdict
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.domain.cloud.zones import Advice

T = TypeVar("T")
ENDED = frozenset({"TERMINATED", "STOPPED", "SUSPENDED"})
"""States of a VM in which nothing of it runs: it is there still, and costs."""


class CloudFailure(Exception):  # noqa: N818
    """A call that failed.

    Attributes:
        call: such as instances.insert.
        status: of HTTP, or none where there was no answer.
        unsure: one of its tries had no answer: it may still be received, and do what it asks for.
    """

    def __init__(self, call: str, verdict: Verdict, status: int | None = None) -> None:
        super().__init__(f"{call}: {verdict.message}" + (f" ({verdict.said})" if verdict.said else ""))
        self.call, self.verdict, self.status = call, verdict, status
        self.unsure = status is None


@dataclass(frozen=True, slots=True)
class Operation:
    """A long call. `scope`: zones/z or regions/r; `target`: the name of what it is about; `begun`: epoch seconds.

    `verdict`: what its errors mean; none while it runs, or when it went well. `group`: joins the parts of one gang.
    """

    name: str
    scope: str
    kind: str
    target: str
    target_id: int
    done: bool
    begun: float | None = None
    errors: tuple[CloudError, ...] = ()
    verdict: Verdict | None = None
    group: str = ""

    @property
    def failed(self) -> bool:
        """Whether it is over and went wrong."""
        return self.done and self.verdict is not None


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM as the provider shows it. Times: epoch seconds. `ends`: when the provider deletes it by itself.

    A preempted VM is shown RUNNING for about a minute: heartbeats say who lives, not this.
    """

    name: str
    zone: str
    id: int
    status: str
    labels: Mapping[str, str]
    address: str
    machine: str
    spot: bool
    created: float | None
    ends: float | None

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs any more."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class VmSeen:
    """A VM as a list of all shows it."""

    name: str
    zone: str
    id: int
    status: str


@dataclass(frozen=True, slots=True)
class DiskSeen:
    """A disk as the provider shows it. `users`: names of the VMs that have it."""

    name: str
    zone: str
    id: int
    labels: Mapping[str, str]
    users: tuple[str, ...]
    gib: int
    status: str = ""


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list of everything. `unreachable`: zones that did not answer: what they have is not known, not nothing."""

    items: tuple[T, ...]
    unreachable: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Order:
    """What one VM, or each of a gang, is made like.

    `guest`: (type, count) of GPUs that are attached; `disks[0]` boots from `image`; `scratch`: local SSDs.
    `terminates`: host maintenance ends it. `longest_s`: after so long the provider deletes it.
    `service_account`, `scopes`: whose tokens the metadata server gives, and what they are good for; "": none at all.
    `notice_s`: of a preemption, before the ACPI signal; 0: none. `data_disks`: names of disks that are read.
    """

    machine: str
    image: Image
    disks: Sequence[Disk]
    labels: Mapping[str, str]
    metadata: Mapping[str, str]
    spot: bool
    longest_s: int
    guest: tuple[str, int] | None = None
    scratch: int = 0
    terminates: bool = False
    network: str = "default"
    subnetwork: str = ""
    service_account: str = ""
    scopes: Sequence[str] = ()
    external_ip: bool = False
    notice_s: int = 0
    data_disks: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class DiskOrder:
    """A read-only disk of a snapshot. `shared`: its type must be told when it is made that many will read it."""

    name: str
    zone: str
    kind: str
    gib: int
    snapshot: str
    labels: Mapping[str, str]
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Serial:
    """A part of what a serial port said; `next`: the offset to ask from."""

    text: str
    next: int


class Compute(Protocol):
    """Compute Engine. Every method raises CloudFailure, after the retries that make sense; a VM, disk or operation that
    is not there is None, no failure.
    """

    async def insert(self, name: str, zone: str, order: Order, request_id: str) -> Operation:
        """Begin to make one VM; with the same request id again the same operation."""

    async def insert_gang(
        self, names: Sequence[str], region: str, zones: Collection[str], order: Order, request_id: str
    ) -> Operation:
        """Begin to make all of these in one of the zones, or none."""

    async def operation(self, scope: str, name: str) -> Operation | None:
        """An operation as it is now; None when the provider has forgotten it."""

    async def operations(self, scope: str, *, kind: str = "", group: str = "", request_id: str = "") -> list[Operation]:
        """Those of a scope that the provider still knows: of one kind, group or request.

        By its request id one learns whether a call that had no answer was received, without making it again.
        """

    async def vm(self, zone: str, name: str) -> Vm | None:
        """One VM."""

    async def vms(self, label_filter: str) -> Listing[VmSeen]:
        """All VMs with these labels, in all zones."""

    async def delete_vm(self, zone: str, name: str, request_id: str) -> Operation | None:
        """Begin to delete; None when there is no such VM."""

    async def disks(self, label_filter: str) -> Listing[DiskSeen]:
        """All disks with these labels, in all zones."""

    async def insert_disk(self, order: DiskOrder, request_id: str) -> Operation:
        """Begin to make a disk; with the same request id again the same operation."""

    async def snapshot(self, name: str) -> Snapshot | None:
        """One snapshot of the project."""

    async def snapshots(self) -> list[Snapshot]:
        """All snapshots of the project."""

    async def delete_disk(self, zone: str, name: str, request_id: str) -> Operation | None:
        """Begin to delete; None when there is no such disk."""

    async def serial(self, zone: str, name: str, start: int = 0) -> Serial | None:
        """What the serial port said from an offset on."""

    async def guest_attributes(self, zone: str, name: str, namespace: str) -> dict[str, str]:
        """What the guest wrote; empty when it wrote nothing, or is not there."""

    async def image(self, image: Image) -> str:
        """The newest image of a family: projects/p/global/images/i."""

    async def advice(
        self, region: str, machine: str, zones: Collection[str], size: int, *, spot: bool
    ) -> dict[str, Advice]:
        """What the provider says of each zone: whether so many can be had, and (spot) how often they are taken."""

    async def quotas(self, region: str) -> dict[str, tuple[float, float]]:
        """metric -> (limit, used)."""

    async def close(self) -> None:
        """No connection and no thread is left."""
