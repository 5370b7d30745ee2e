"""VMs as process groups: no isolation, and no privilege needed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from incl_provisioner.fakes.gce.hosts.port import Guest, Running
from incl_provisioner.fakes.gce.hosts.process import Process, prepare, python, stop_all
from incl_shared.errors import UnavailableError


class GroupHost:
    """Each VM is an init of its own with everything that it started; its address is one of loopback.

    An init adopts what its children leave behind (a subreaper), so that a job that went into a session of its own is
    still found, and ended by its id, when the VM goes.
    """

    kind = "groups"

    def __init__(self) -> None:
        self._running: set[Process] = set()
        self._count = 0

    async def start(self) -> None:
        """Check that there is /proc.

        Raises:
            UnavailableError: not on Linux.
        """
        if not await asyncio.to_thread(Path("/proc/self/stat").exists):
            raise UnavailableError("the fake cloud cannot boot VMs here", cause="there is no /proc", hint="use Linux")

    async def boot(self, guest: Guest) -> Running:
        """Start a VM."""
        name, *script = prepare(guest)
        # These VMs share the files of this machine: what a startup script keeps under /var/lib goes into their folder.
        shared = replace(guest, environment={**guest.environment, "INCL_VM_ROOT": str(guest.folder / "root")})
        process = Process([*python(), "groups", name, *script], shared)
        self._running.add(process)
        process.ended.add_done_callback(lambda _: self._running.discard(process))
        return process

    def new_address(self) -> str:
        """127.10.0.2, …: all of 127/8 is this machine."""
        self._count += 1
        return f"127.10.{(self._count + 1) // 250}.{(self._count + 1) % 250}"

    async def stop(self) -> None:
        """Cut the power of every VM."""
        await stop_all(list(self._running))
