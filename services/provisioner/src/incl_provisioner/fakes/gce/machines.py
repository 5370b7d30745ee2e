"""The life of a VM: made, booted, stopped, preempted, expired, deleted."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from incl_provisioner.fakes.gce.attaching import contents, unattachable
from incl_provisioner.fakes.gce.capacity import GONE, Capacity
from incl_provisioner.fakes.gce.hosts.port import Guest, Host, Running
from incl_provisioner.fakes.gce.model import Disk, Instance, State, last, stamp
from incl_provisioner.fakes.gce.operations import Operation, Operations
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.problems import JSON, OperationFailed


def among(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name is one of these: names, or patterns of them."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class Attach(Protocol):
    """Gives a VM its metadata server; the environment that says where it is."""

    async def __call__(self, vm: Instance) -> dict[str, str]:
        """Before each boot."""


def seconds(duration: JSON | None) -> float | None:
    """A Duration of the API: {"seconds": "3600", "nanos": 0}."""
    if not duration:
        return None
    return int(duration.get("seconds", 0)) + int(duration.get("nanos", 0)) / 1e9


def _still_booting(vm: Instance) -> bool:
    """Not stopped or deleted meanwhile."""
    return vm.ending is None and vm.status == "STAGING"


async def _nothing(vm: Instance) -> dict[str, str]:
    """VMs without a metadata server."""
    return {}


class Machines:
    """All VMs, and what they run on.

    Args:
        folder: each VM gets one in it.
        attach, detach: the metadata server's part.
    """

    def __init__(
        self, state: State, operations: Operations, capacity: Capacity, host: Host, pace: Pace, folder: Path
    ) -> None:
        self._state, self._operations, self._capacity = state, operations, capacity
        self._host, self._pace, self._folder = host, pace, folder
        self.attach: Attach = _nothing
        self.detach: Callable[[Instance], None] = lambda vm: None
        self.without_network: set[str] = set()
        self.never_boots: set[str] = set()

    def folder(self, vm: Instance) -> Path:
        """Its folder on this machine; the console is `console` in it."""
        return self._folder / f"{vm.zone}-{vm.name}-{vm.id}"

    def console(self, vm: Instance) -> bytes:
        """All that the serial port has said."""
        file = self.folder(vm) / "console"
        return file.read_bytes() if file.exists() else b""

    def enter(self, vm: Instance, disks: list[Disk]) -> None:
        """The VM and its disks are there from now on.

        Raises:
            OperationFailed: a disk is attached to another VM already.
        """
        for shown in vm.body["disks"]:
            self._check_free(shown, vm, disks)
        self._state.instances[vm.zone, vm.name] = vm
        self._capacity.take(vm)
        for disk in disks:
            self._state.disks[disk.zone, disk.name] = disk
            self._capacity.take(disk)
        for shown in vm.body["disks"]:
            if "source" in shown:
                self._state.disks[vm.zone, last(shown["source"])].users.append(vm.body["selfLink"])

    def _check_free(self, shown: JSON, vm: Instance, made: list[Disk]) -> None:
        if "source" not in shown or any(disk.name == last(shown["source"]) for disk in made):
            return
        error = unattachable(self._state.disk(vm.zone, last(shown["source"])), shown, vm)
        if error is not None:
            raise OperationFailed(error)

    async def boot(self, vm: Instance) -> None:
        """From PROVISIONING to RUNNING."""
        vm.body["status"] = "STAGING"
        await asyncio.sleep(self._pace.staging)
        if not _still_booting(vm):
            return
        folder = self.folder(vm)
        folder.mkdir(parents=True, exist_ok=True)
        vm.preempted, vm.maintenance = False, "NONE"
        vm.boots += 1
        script = None if among(vm.name, self.never_boots) else vm.metadata().get("startup-script")
        environment = await self.attach(vm)
        network = not among(vm.name, self.without_network)
        guest = Guest(vm.name, folder, vm.address, script, environment, network, contents(self._state, vm))
        running = await self._host.boot(guest)
        if not _still_booting(vm):
            running.cut_power()
            await running.ended
            return
        vm.running = running
        running.ended.add_done_callback(lambda _: self._operations.spawn(self._powered_off(vm, running)))
        self._up(vm)

    def _up(self, vm: Instance) -> None:
        vm.body.update(status="RUNNING", lastStartTimestamp=self._state.now(), cpuPlatform="Intel Cascade Lake")
        limit = seconds(vm.body["scheduling"].get("maxRunDuration"))
        if limit is not None:
            at = self._state.clock() + limit / self._pace.speed
            vm.body["resourceStatus"]["scheduling"] = {"terminationTimestamp": stamp(at)}
            loop = asyncio.get_running_loop()
            vm.timers.append(loop.call_later(limit / self._pace.speed, self._expire, vm))
        vm.watch.touch()

    async def _powered_off(self, vm: Instance, running: Running) -> None:
        """The guest switched itself off: the VM is TERMINATED, and its disks stay."""
        if vm.ending is not None or vm.running is not running:
            return
        self._event(vm, "compute.instances.guestTerminate", "Instance terminated by guest OS shutdown.")
        await self._down(vm, None)

    def _event(self, vm: Instance, kind: str, message: str) -> Operation:
        return self._operations.event(kind, f"zones/{vm.zone}", vm.resource, vm.id, message)

    def _expire(self, vm: Instance) -> None:
        if vm.ending is None and vm.status not in GONE:
            remove = vm.body["scheduling"].get("instanceTerminationAction") == "DELETE"
            self.end(vm, remove=remove)

    def end(self, vm: Instance, *, remove: bool) -> asyncio.Task[None]:
        """Stop it, or delete it; what is asked for second waits for the first.

        Returns:
            the task, done when the VM is TERMINATED or gone.
        """
        before = vm.ending
        vm.ending = self._operations.spawn(self._end(vm, before, remove=remove))
        return vm.ending

    async def _end(self, vm: Instance, before: asyncio.Task[None] | None, *, remove: bool) -> None:
        if before is not None:
            await asyncio.wait((before,))
        if self._state.instances.get((vm.zone, vm.name)) is not vm:
            return
        grace = self._pace.spot_grace if vm.spot else self._pace.standard_grace
        await self._down(vm, grace)
        if remove:
            await asyncio.sleep(self._pace.delete)
            self.remove(vm)
        else:
            vm.ending = None

    async def _down(self, vm: Instance, grace: float | None) -> None:
        """No process is left, and the status is TERMINATED."""
        for timer in vm.timers:
            timer.cancel()
        vm.timers.clear()
        if vm.status not in GONE:
            vm.body["status"] = "STOPPING"
        await self._quiet(vm, grace)
        self.detach(vm)
        self._capacity.give_back(vm)
        vm.body.update(status="TERMINATED", lastStopTimestamp=self._state.now())
        vm.watch.touch()

    async def _quiet(self, vm: Instance, grace: float | None) -> None:
        running, vm.running = vm.running, None
        if running is None:
            return
        if grace is not None:
            running.shut_down()
            await asyncio.wait((running.ended,), timeout=grace)
        if not running.ended.done():
            running.cut_power()
            await running.ended

    def remove(self, vm: Instance) -> None:
        """Nothing of it is left but disks that are not deleted with it."""
        if self._state.instances.get((vm.zone, vm.name)) is not vm:
            return
        del self._state.instances[vm.zone, vm.name]
        self._capacity.give_back(vm)
        for shown in vm.body["disks"]:
            disk = self._state.disks.get((vm.zone, last(shown.get("source"))))
            if disk is None:
                continue
            if vm.body["selfLink"] in disk.users:
                disk.users.remove(vm.body["selfLink"])
            if shown["autoDelete"] and not disk.users:
                del self._state.disks[disk.zone, disk.name]
                self._capacity.give_back(disk)
        shutil.rmtree(self.folder(vm), ignore_errors=True)

    def preempt(self, vm: Instance) -> asyncio.Task[None]:
        """The provider takes a Spot VM back: notice, operation, ACPI signal, power cut."""
        vm.preempted = True
        vm.watch.touch()
        return self._operations.spawn(self._preempt(vm))

    async def _preempt(self, vm: Instance) -> None:
        asked = seconds(vm.body["scheduling"].get("preemptionNoticeDuration"))
        await asyncio.sleep(self._pace.notice if asked is None else asked / self._pace.speed)
        if vm.ending is not None or vm.status in GONE:
            return
        self._event(vm, "compute.instances.preempted", "Instance was preempted.")
        remove = vm.body["scheduling"].get("instanceTerminationAction") == "DELETE"

        async def taken() -> None:
            await self._quiet(vm, self._pace.spot_grace)
            await asyncio.sleep(self._pace.shown_running)
            await self._end(vm, None, remove=remove)

        vm.ending = self._operations.spawn(taken())

    async def host_error(self, vm: Instance) -> None:
        """The machine under the VM breaks: no notice, no signal; booted again where automaticRestart says so."""
        running, vm.running = vm.running, None
        if running is not None:
            running.cut_power()
            await running.ended
        self._event(vm, "compute.instances.hostError", "Instance terminated by Compute Engine.")
        await self._again_or_down(vm)

    async def maintain(self, vm: Instance) -> None:
        """Host maintenance of a VM that cannot migrate: said in the metadata, then down, then up again."""
        vm.maintenance = "TERMINATE_ON_HOST_MAINTENANCE"
        vm.watch.touch()
        await asyncio.sleep(self._pace.notice)
        self._event(vm, "compute.instances.terminateOnHostMaintenance", "Instance terminated during maintenance.")
        await self._quiet(vm, self._pace.standard_grace)
        await self._again_or_down(vm)

    async def _again_or_down(self, vm: Instance) -> None:
        await self._down(vm, None)
        if vm.body["scheduling"].get("automaticRestart") and vm.ending is None:
            self._event(vm, "compute.instances.automaticRestart", "Instance automatically restarted by Compute Engine.")
            self._capacity.take(vm)
            await self.boot(vm)

    async def start(self, vm: Instance) -> None:
        """Boot a VM that is TERMINATED."""
        vm.body["status"] = "PROVISIONING"
        self._capacity.take(vm)
        await self.boot(vm)
