"""What the cloud holds."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from incl_provisioner.fakes.gce.catalog import ZONES, MachineType
from incl_provisioner.fakes.gce.hosts.port import Running
from incl_provisioner.fakes.gce.problems import JSON, ApiError, invalid, not_found

_PACIFIC = timezone(timedelta(hours=-8))
API = "https://www.googleapis.com/compute/v1"


def stamp(at: float) -> str:
    """Epoch seconds as the provider writes time: milliseconds, in the time of its home."""
    return datetime.fromtimestamp(at, _PACIFIC).isoformat(timespec="milliseconds")


def fingerprint(value: object) -> str:
    """Eight bytes in base64 that change with the value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.blake2b(text.encode(), digest_size=8).digest()).decode()


def last(url: object) -> str:
    """The last part of a full or partial URL."""
    return str(url or "").rstrip("/").rsplit("/", 1)[-1]


class Watch:
    """Something that changes, for those who wait for the next change."""

    def __init__(self) -> None:
        self.version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def touch(self) -> None:
        """It changed."""
        self.version += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def changed(self, timeout: float | None) -> bool:  # noqa: ASYNC109
        """Wait for the next change; False when the time is over."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True


@dataclass(eq=False)
class Instance:
    """One VM.

    Attributes:
        body: what the API shows.
        running: its processes, while it has any.
        guest: (namespace, key) -> value, written from inside.
        preempted: what `instance/preempted` says.
        maintenance: what `instance/maintenance-event` says.
        watch: touched when anything that the guest can see changes.
        ending: set while it is being stopped or deleted; done when that is over.
    """

    project: str
    zone: str
    name: str
    id: int
    machine: MachineType
    gpu: str
    gpus: int
    body: JSON
    running: Running | None = None
    guest: dict[tuple[str, str], str] = field(default_factory=dict)
    preempted: bool = False
    maintenance: str = "NONE"
    watch: Watch = field(default_factory=Watch)
    ending: asyncio.Task[None] | None = None
    boots: int = 0
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def resource(self) -> str:
        """projects/p/zones/z/instances/n."""
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.name}"

    @property
    def spot(self) -> bool:
        """Whether it can be preempted."""
        scheduling = self.body["scheduling"]
        return bool(scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible"))

    @property
    def model(self) -> str:
        """The provisioning model."""
        return "SPOT" if self.spot else str(self.body["scheduling"].get("provisioningModel", "STANDARD"))

    @property
    def status(self) -> str:
        """PROVISIONING, STAGING, RUNNING, STOPPING, TERMINATED."""
        return str(self.body["status"])

    @property
    def address(self) -> str:
        """The internal address."""
        return str(self.body["networkInterfaces"][0]["networkIP"])

    def metadata(self) -> dict[str, str]:
        """The keys that the user gave it."""
        return {item["key"]: item.get("value", "") for item in self.body["metadata"].get("items", ())}


@dataclass(eq=False)
class Disk:
    """One persistent disk."""

    project: str
    zone: str
    name: str
    id: int
    body: JSON

    @property
    def resource(self) -> str:
        """projects/p/zones/z/disks/n."""
        return f"projects/{self.project}/zones/{self.zone}/disks/{self.name}"

    @property
    def kind(self) -> str:
        """Its type: pd-balanced, hyperdisk-ml, …"""
        return last(self.body["type"])

    @property
    def users(self) -> list[str]:
        """URLs of the VMs that it is attached to."""
        users: list[str] = self.body["users"]
        return users


class State:
    """All resources of one project.

    Args:
        project: its id.
        clock: epoch seconds.
        address: gives each VM its internal address.
        seed: of the numeric ids.
    """

    def __init__(self, project: str, clock: Callable[[], float], address: Callable[[], str], seed: int = 0) -> None:
        self.project = project
        self.clock = clock
        self.new_address = address
        self.instances: dict[tuple[str, str], Instance] = {}
        self.disks: dict[tuple[str, str], Disk] = {}
        self.snapshots: dict[str, JSON] = {}
        self.contents: dict[str, Path] = {}
        """Number of a snapshot -> a folder with what is on it."""
        self._ids = itertools.count(random.Random(seed).randrange(10**17, 10**18) * 10, 7)  # noqa: S311

    def new_id(self) -> int:
        """A number of 19 digits: it only fits into a JSON string."""
        return next(self._ids)

    def now(self) -> str:
        """The time, as the API writes it."""
        return stamp(self.clock())

    def url(self, path: str) -> str:
        """The full URL of projects/…."""
        return f"{API}/{path}"

    def at(self, place: str) -> str:
        """The full URL of zones/z, regions/r or global/…."""
        return self.url(f"projects/{self.project}/{place}")

    def zone(self, zone: str) -> str:
        """A zone that there is.

        Raises:
            ApiError: there is none of that name.
        """
        if zone not in ZONES:
            raise invalid("zone", zone, "Unknown zone.")
        return zone

    def instance(self, zone: str, name: str) -> Instance:
        """A VM by name, or by its number.

        Raises:
            ApiError: 404.
        """
        self.zone(zone)
        found = self.instances.get((zone, name))
        if found is None and name.isdigit():
            found = next((one for one in self.instances.values() if one.zone == zone and str(one.id) == name), None)
        if found is None:
            raise not_found(f"projects/{self.project}/zones/{zone}/instances/{name}")
        return found

    def disk(self, zone: str, name: str) -> Disk:
        """A disk by name.

        Raises:
            ApiError: 404.
        """
        self.zone(zone)
        found = self.disks.get((zone, name))
        if found is None:
            raise not_found(f"projects/{self.project}/zones/{zone}/disks/{name}")
        return found


def same_fingerprint(given: str | None, current: str, what: str) -> None:
    """Optimistic locking of labels and metadata.

    Raises:
        ApiError: 412, another change came first.
    """
    if given != current:
        raise ApiError(
            412, "conditionNotMet", f"{what} fingerprint either invalid or resource {what.lower()} have changed"
        )
