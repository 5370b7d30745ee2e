"""The network of VMs in namespaces: machines that come and go do not cut the others off."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from incl_provisioner.fakes.gce.hosts.namespaces import why_not
from incl_provisioner.fakes.gce.hosts.netns import GATEWAY, METADATA, Network, hardware
from incl_shared.testing.wait import until

WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"no namespaces here: {WHY_NOT}")
DIAL = f"import socket; socket.create_connection(('{METADATA}', 80), 5).close()"


class Site:
    """A network whose metadata server takes connections. `machines`: a namespace of each, by its address."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.machines: dict[str, int] = {}

    async def plug(self, count: int) -> None:
        """More machines."""
        for _ in range(count):
            address = f"10.128.1.{len(self.machines) + 1}"
            self.machines[address], _none = await self.network.plug(address, ())

    async def unplug(self, address: str) -> None:
        """A machine goes, and its cable with it."""
        before = await self.links()
        os.close(self.machines.pop(address))
        await until(lambda: self._fewer(before))

    async def _fewer(self, before: str) -> bool:
        return (await self.links()).count("\n") < before.count("\n")

    async def links(self) -> str:
        """The switch and its ports."""
        return await self.network.on_switch(_links)

    async def reached(self) -> list[str]:
        """Machines that the metadata server takes a connection of."""
        return [each for each, namespace in self.machines.items() if await asyncio.to_thread(_dial, namespace)]


def _links() -> str:
    return subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True, check=True).stdout


def _dial(namespace: int) -> bool:
    command = ["nsenter", f"--net=/proc/self/fd/{namespace}", sys.executable, "-I", "-S", "-c", DIAL]
    return subprocess.run(command, pass_fds=(namespace,), capture_output=True).returncode == 0


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    network = Network()
    await network.open()
    listener = await network.listen(METADATA, 80)
    listener.listen(socket.SOMAXCONN)
    made = Site(network)
    yield made
    for namespace in made.machines.values():
        os.close(namespace)
    listener.close()
    network.close()


async def test_machines_that_come_and_go_cut_no_other_one_off(site: Site) -> None:
    """Where the switch takes the lowest MAC of its ports, the others find no gateway for up to a minute."""
    await site.plug(3)
    assert await site.reached() == list(site.machines)
    await site.plug(5)
    assert f"link/ether {hardware(GATEWAY)}" in next(
        line for line in (await site.links()).splitlines() if " br0:" in line
    )
    assert await site.reached() == list(site.machines)
    for address in list(site.machines)[:6]:
        await site.unplug(address)
        assert await site.reached() == list(site.machines)


def test_the_mac_of_an_interface_says_its_address() -> None:
    assert hardware("10.128.0.7") == "42:01:0a:80:00:07"
