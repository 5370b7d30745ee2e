"""VMs in PID, mount and network namespaces of their own: an address, a metadata server, a root to write into."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence

from starlette.types import ASGIApp

from incl_provisioner.fakes.gce.hosts.netns import METADATA, Network
from incl_provisioner.fakes.gce.hosts.port import Guest, Running
from incl_provisioner.fakes.gce.hosts.process import Process, prepare, python, stop_all
from incl_provisioner.fakes.gce.wire import Listeners
from incl_shared.errors import UnavailableError

TOOLS = ("ip", "nsenter", "unshare", "mount")
# The root of a VM is this machine's; what the VM writes is kept in memory beside it (overlayfs on a tmpfs).
ROOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size={size} none "$INCL_FAKE_DISK"
cd "$INCL_FAKE_DISK"
mkdir up work root
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
cd root
for device in "$INCL_VM_DISKS"/google-*; do
  if [ -L "$device" ]; then
    from=$(readlink "$device")
    rm ".$device"
    mkdir ".$device"
    mount --bind "$from" ".$device"
    mount -o remount,bind,ro ".$device"
  fi
done
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
printf '127.0.0.1 localhost\\n{metadata} metadata.google.internal metadata\\n' > etc/hosts
echo "$HOSTNAME" > etc/hostname
echo "$HOSTNAME" > proc/sys/kernel/hostname
exec unshare --root=. --wd="$HOME" -- "$@"
"""


def why_not() -> str:
    """Why this machine cannot do it; "" where it can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    with tempfile.TemporaryDirectory(prefix="incl-fake-") as folder:
        environment = {**os.environ, "INCL_FAKE_DISK": folder, "HOSTNAME": "trial", "HOME": "/"}
        command = ["unshare", "--net", *_unshare("1m"), "true"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr.strip()[:200] or "unshare failed" if done.returncode else ""


def _unshare(size: str) -> list[str]:
    script = ROOT.format(size=size, metadata=METADATA)
    return ["unshare", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--", "sh", "-c", script, "sh"]


class NamespaceHost:
    """Each VM has its own namespaces.

    Args:
        metadata: answers at 169.254.169.254; the address of the client says which VM asks.
        ports: of this machine's loopback, reached from every VM by the same address (127.0.0.1:port).
        disk: how much a VM can write, as tmpfs says it: 512m.
    """

    kind = "namespaces"

    def __init__(self, metadata: ASGIApp, ports: Sequence[int] = (), disk: str = "512m") -> None:
        self._listeners = Listeners(metadata)
        self._ports, self._disk = ports, disk
        self._network = Network()
        self._running: set[Process] = set()
        self._count = 0

    async def start(self) -> None:
        """Make the network.

        Raises:
            UnavailableError: this machine does not allow it.
        """
        reason = await asyncio.to_thread(why_not)
        if reason:
            hint = "run it as root, or let VMs be process groups (--vms groups)"
            raise UnavailableError("the fake cloud cannot make namespaces here", cause=reason, hint=hint)
        await self._network.open()
        await self._listeners.listen(await self._network.listen(METADATA, 80))

    async def boot(self, guest: Guest) -> Running:
        """Start a VM."""
        name, *script = prepare(guest)
        disk = guest.folder / "disk"
        disk.mkdir(exist_ok=True)
        sockets: list[socket.socket] = []
        if guest.network:
            namespace, sockets = await self._network.plug(guest.address, self._ports)
        else:
            namespace = await self._network.isolate()
        try:
            given = Guest(
                guest.name,
                guest.folder,
                guest.address,
                guest.script,
                {**guest.environment, "INCL_FAKE_DISK": str(disk)},
                disks=guest.disks,
            )
            command = [
                "nsenter",
                f"--net=/proc/self/fd/{namespace}",
                *_unshare(self._disk),
                *python(),
                "namespaces",
                name,
                *script,
            ]
            process = Process(command, given, (namespace,))
        finally:
            os.close(namespace)
        relays = [await _relay(sock) for sock in sockets]
        self._running.add(process)
        process.ended.add_done_callback(lambda _: self._ended(process, relays))
        return process

    def _ended(self, process: Process, relays: list[asyncio.Server]) -> None:
        self._running.discard(process)
        for relay in relays:
            relay.close()

    def new_address(self) -> str:
        """10.128.0.2, …"""
        self._count += 1
        return f"10.128.{(self._count + 1) // 250}.{(self._count + 1) % 250}"

    async def stop(self) -> None:
        """Cut the power of every VM, and pull all plugs."""
        await stop_all(list(self._running))
        await self._listeners.stop()
        self._network.close()


async def _relay(sock: socket.socket) -> asyncio.Server:
    """Carry what comes in there to the same port of this machine's loopback."""
    port = sock.getsockname()[1]

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    return await asyncio.start_server(carry, sock=sock)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
