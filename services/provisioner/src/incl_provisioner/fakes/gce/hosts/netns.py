"""A network of VMs: a switch in an anonymous network namespace, and one such namespace for each VM.

Nothing has a name, so nothing is left behind: a namespace ends with its last process and file descriptor. The network
of this machine is not touched. Two threads live in other namespaces than the rest of the process: the switch's for
good, the cabler's in that of the VM that it is making.
"""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from incl_provisioner.fakes.gce.wire import bind

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
GATEWAY = "10.128.0.1"
METADATA = "169.254.169.254"


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _ip(*commands: str) -> None:
    """Run several `ip` commands in the namespace of this thread."""
    text = "".join(f"{command}\n" for command in commands)
    done = subprocess.run(["ip", "-batch", "-"], input=text, text=True, capture_output=True)
    if done.returncode != 0:
        raise OSError(done.returncode, f"ip: {done.stderr.strip()[:300]}")


def hardware(address: str) -> str:
    """The MAC of an interface, made of its address as the provider makes it.

    The switch must be given one: else it takes the lowest of its ports, and with each VM that comes or goes all others
    may keep an address that nobody has any more, for a minute.
    """
    return ":".join(f"{number:02x}" for number in (0x42, 0x01, *ipaddress.IPv4Address(address).packed))


class Network:
    """10.128.0.0/16 with a switch, a gateway and a metadata server."""

    def __init__(self) -> None:
        self._switch = ThreadPoolExecutor(1, "fake cloud switch")
        self._cabler = ThreadPoolExecutor(1, "fake cloud cabler")
        self._switch_id = 0
        self._ports = 0

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    async def open(self) -> None:
        """Make the switch.

        Raises:
            OSError: not allowed here.
        """
        await self._in(self._switch, self._make_switch)

    def _make_switch(self) -> None:
        _unshare()
        self._switch_id = threading.get_native_id()
        _ip(
            "link set lo up", f"addr add {METADATA}/32 dev lo",
            f"link add name br0 address {hardware(GATEWAY)} type bridge",
            f"addr add {GATEWAY}/16 dev br0", "link set br0 up",
        )  # fmt: skip

    async def on_switch(self, work: Callable[[], T]) -> T:
        """Look at something where the switch is."""
        return await self._in(self._switch, work)

    async def listen(self, address: str, port: int) -> socket.socket:
        """A socket on an address of the switch."""
        return await self._in(self._switch, lambda: bind(address, port))

    async def plug(self, address: str, ports: Sequence[int]) -> tuple[int, list[socket.socket]]:
        """A namespace for one VM, connected to the switch.

        Args:
            ports: of its loopback that are listened on.

        Returns:
            (a descriptor of the namespace, the sockets); whoever calls closes them.
        """
        self._ports += 1
        name = f"vm{self._ports}"
        made = await self._in(self._cabler, lambda: self._cable(name, address, ports))
        await self._in(self._switch, lambda: _ip(f"link set {name} master br0 up"))
        return made

    def _cable(self, name: str, address: str, ports: Sequence[int]) -> tuple[int, list[socket.socket]]:
        _unshare()
        _ip(
            "link set lo up",
            f"link add eth0 address {hardware(address)} type veth peer name {name} netns {self._switch_id}",
            f"addr add {address}/16 dev eth0", "link set eth0 up", f"route add default via {GATEWAY}",
        )  # fmt: skip
        sockets: list[socket.socket] = []
        try:
            sockets.extend(bind("127.0.0.1", port) for port in ports)
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), sockets
        except OSError:
            for one in sockets:
                one.close()
            raise

    async def isolate(self) -> int:
        """A descriptor of a namespace that is connected to nothing."""

        def make() -> int:
            _unshare()
            _ip("link set lo up")
            return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

        return await self._in(self._cabler, make)

    def close(self) -> None:
        """Pull all plugs: the threads end, and with them the namespaces."""
        for thread in (self._cabler, self._switch):
            thread.shutdown(wait=True, cancel_futures=True)
