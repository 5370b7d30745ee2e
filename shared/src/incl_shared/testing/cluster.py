"""Three real nats-servers that are one cluster, with every stream three times."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from pathlib import Path

from nats.errors import Error as NatsError

from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.errors import InclError
from incl_shared.settings import BusSettings
from incl_shared.testing.nats import SMALL, NatsServer, free_port
from incl_shared.testing.wait import until

SIZE = 3
_LEADER_S = 30.0
_LAME_S = 60.0


class Cluster:
    """Start it, make the streams, and break one server or the other. Servers are numbers from 0."""

    def __init__(self, folder: Path) -> None:
        routes = [free_port() for _ in range(SIZE)]
        peers = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
        self.servers = [
            NatsServer(
                folder / f"n{number}",
                extra=f'server_name: n{number}\nlame_duck_grace_period: "1s"\nlame_duck_duration: "30s"\n'
                f'cluster {{ name: incl, listen: "127.0.0.1:{port}", routes: [{peers}] }}',
            )
            for number, port in enumerate(routes)
        ]

    def settings(self, name: str = "test") -> BusSettings:
        """A client's, who knows all of them."""
        return BusSettings(urls=tuple(server.url for server in self.servers), name=name)

    async def start(self) -> None:
        """All servers, and the platform's streams on all three."""
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in self.servers))
        async with await BusClient.connect(self.settings("topology"), patient=True, timeout=_LEADER_S) as client:

            async def applied() -> bool:
                try:
                    await topology.apply(client.jetstream(), replicas=SIZE, limits=SMALL)
                    await topology.ensure_all(client.jetstream(), topology.DURABLES)
                except (NatsError, InclError):
                    return False  # no leader yet
                return True

            await until(applied, _LEADER_S, every=0.2, what="a leader of the cluster")

    def stop(self) -> None:
        """All that run."""
        for server in self.servers:
            server.stop()

    async def leader(self, client: BusClient, stream: str) -> int:
        """Who leads a stream now."""

        async def found() -> str | None:
            try:
                info = await client.jetstream().stream_info(stream)
            except (NatsError, OSError):
                return None
            return None if info.cluster is None else info.cluster.leader

        name = await until(found, _LEADER_S, every=0.1, what=f"a leader of {stream}")
        return int(str(name).removeprefix("n"))

    async def whole(self, client: BusClient, streams: Iterable[str]) -> None:
        """Wait until every server has all of these streams again."""

        async def current(stream: str) -> bool:
            try:
                cluster = (await client.jetstream().stream_info(stream)).cluster
            except (NatsError, OSError):
                return False
            replicas = [] if cluster is None else cluster.replicas or []
            return len(replicas) == SIZE - 1 and all(each.current and not each.offline for each in replicas)

        for stream in streams:
            await until(lambda stream=stream: current(stream), 60, every=0.1, what=f"{stream} to be whole")  # type: ignore[misc]

    async def retire(self, number: int) -> None:
        """Lame duck: it hands over its leaderships and sends its clients away, then ends."""
        process = self.servers[number].process
        assert process is not None
        os.kill(process.pid, signal.SIGUSR2)
        await asyncio.to_thread(process.wait, _LAME_S)
        self.servers[number].stop()
