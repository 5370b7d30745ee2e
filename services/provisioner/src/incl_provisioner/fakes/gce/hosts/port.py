"""The port between the cloud and what its VMs run on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Guest:
    """What boots.

    Attributes:
        name: of the VM.
        folder: its own; the console is written to `folder/console`.
        address: its internal address.
        script: the startup script, or None.
        environment: added to the script's.
        network: False: the VM boots without one.
        disks: of data: name of the device -> a folder with what is on it. A guest finds them in INCL_VM_DISKS, and its
            `mount` knows how to mount them read-only.
    """

    name: str
    folder: Path
    address: str
    script: str | None
    environment: Mapping[str, str] = field(default_factory=dict)
    network: bool = True
    disks: Mapping[str, Path] = field(default_factory=dict)


class Running(Protocol):
    """The processes of one VM that is up."""

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when no process of it is left."""

    def shut_down(self) -> None:
        """Press the power button: its init sends SIGTERM to everything inside."""

    def cut_power(self) -> None:
        """Take the power away: everything inside is gone at once."""


class Host(Protocol):
    """Boots VMs.

    Attributes:
        kind: namespaces, groups or none.
    """

    kind: str

    async def start(self) -> None:
        """Be ready.

        Raises:
            UnavailableError: this machine does not allow it.
        """

    async def boot(self, guest: Guest) -> Running:
        """Start a VM; it is up when this comes back."""

    def new_address(self) -> str:
        """The next internal address."""

    async def stop(self) -> None:
        """Everything that it started is gone."""


class NoProcesses:
    """VMs that are rows only: a test plays what happens inside them."""

    kind = "none"

    def __init__(self) -> None:
        self._count = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def boot(self, guest: Guest) -> Running:
        """Up at once, and never down by itself."""
        (guest.folder / "console").touch()
        return _Empty()

    def new_address(self) -> str:
        """10.128.0.2, …"""
        self._count += 1
        return f"10.128.{(self._count + 1) // 250}.{(self._count + 1) % 250}"

    async def stop(self) -> None:
        """Nothing to do."""


class _Empty:
    def __init__(self) -> None:
        self._ended = asyncio.get_running_loop().create_future()

    @property
    def ended(self) -> asyncio.Future[None]:
        return self._ended

    def shut_down(self) -> None:
        self.cut_power()

    def cut_power(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
