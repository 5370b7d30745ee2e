"""A second machine of a platform in a network namespace of its own, that can be cut off for real. For tests, as root.

In the namespace there is the loopback alone. Its addresses lead to the platform by relays whose listening sockets are
in the namespace and whose outgoing ones are not, so that the agent there needs no other address than any. Cutting it
off drops every packet between the two: nothing is refused, connections hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from incl_local.chaos.arena import Arena
from incl_local.layout import LOOPBACK
from incl_shared.auth.keys import PlatformKeys
from incl_shared.auth.mint import Minter

_NEW_NETWORK = 0x40000000
_PIECE = 1 << 16
_TOOLS = ("ip", "nft")


class NoNamespaces(Exception):  # noqa: N818
    """This machine lets nobody make a network namespace."""


class Network:
    """A namespace with its own loopback, of which some ports lead outside. `cut` and `heal` it."""

    def __init__(self, name: str, ports: Sequence[int]) -> None:
        self.name = name
        self._ports = ports
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"network {name}", daemon=True)
        self._pipes: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def made(self) -> Iterator[Network]:
        """It exists while the context lasts.

        Raises:
            NoNamespaces: with the reason.
        """
        if os.geteuid() != 0 or not all(shutil.which(tool) for tool in _TOOLS):
            raise NoNamespaces("it takes root, ip (iproute2) and nft (nftables)")
        added = subprocess.run(["ip", "netns", "add", self.name], capture_output=True, text=True, check=False)
        if added.returncode:
            raise NoNamespaces(added.stderr.strip())
        try:
            self._inside("ip", "link", "set", "lo", "up")
            self._inside("nft", "add", "table", "inet", "chaos")
            self._thread.start()
            for listener in self._listeners():
                asyncio.run_coroutine_threadsafe(self._listen(listener), self._loop).result(10)
            yield self
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(str(error)) from error
        finally:
            self._stop()
            subprocess.run(["ip", "netns", "del", self.name], check=True)

    def cut(self) -> None:
        """From now on every packet is dropped."""
        ports = "{" + ", ".join(map(str, self._ports)) + "}"
        self._inside("nft", "add", "chain", "inet", "chaos", "out", "{ type filter hook output priority 0; }")
        for side in ("dport", "sport"):
            self._inside("nft", "add", "rule", "inet", "chaos", "out", "tcp", side, ports, "drop")

    def heal(self) -> None:
        """Packets pass again."""
        self._inside("nft", "flush", "table", "inet", "chaos")

    def command(self, *words: str) -> list[str]:
        """What runs these words in it."""
        return ["ip", "netns", "exec", self.name, *words]

    def _inside(self, *words: str) -> None:
        subprocess.run(self.command(*words), check=True, capture_output=True)

    def _listeners(self) -> list[socket.socket]:
        """Made by a thread that enters the namespace for that alone."""
        made: list[socket.socket] = []

        def enter() -> None:
            with Path("/var/run/netns", self.name).open() as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _NEW_NETWORK) == 0:
                    made.extend(socket.create_server((LOOPBACK, port)) for port in self._ports)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if len(made) != len(self._ports):
            raise NoNamespaces("the namespace cannot be entered")
        return made

    async def _listen(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        await asyncio.start_server(lambda r, w: self._relay(r, w, port), sock=listener)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        try:
            answers, out = await asyncio.open_connection(LOOPBACK, port)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pipe(reader, out))
                both.create_task(_pipe(answers, writer))
        except* OSError:
            pass  # one side is gone: so is the other
        finally:
            self._pipes.discard(task)
            writer.close()

    def _stop(self) -> None:
        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
        self._loop.close()


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while piece := await source.read(_PIECE):
            target.write(piece)
            await target.drain()
    finally:
        target.close()


@contextlib.contextmanager
def far_node(arena: Arena, network: Network, folder: Path, *, name: str = "far", cpu: float = 4.0) -> Iterator[Path]:
    """An agent in the network, stopped in order at the end; gives its data folder."""
    layout, place = arena.chaos.layout, arena.chaos.place
    folder.mkdir(parents=True, exist_ok=True)
    creds = Minter(PlatformKeys.load(layout.nats / "keys").signers()).node(name).write(folder / "far.creds")
    environment = {
        **arena.chaos.home.environment,
        "INCL_AGENT_NODE": name,
        "INCL_AGENT_DATA_DIR": str(folder / "agent"),
        "INCL_AGENT_CPU": f"{cpu:g}",
        "INCL_AGENT_BUS__URLS": json.dumps([place.bus_url]),
        "INCL_AGENT_BUS__CREDS": str(creds),
    }
    with (folder / "agent.log").open("ab") as log:
        command = network.command(sys.executable, "-m", "incl_agent")
        agent = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield folder / "agent"
    finally:
        agent.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            agent.wait(20)
        if agent.poll() is None:
            agent.kill()
            agent.wait(10)
