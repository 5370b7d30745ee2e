"""The bus of a stopped platform, and nothing else: for work on its streams while no service runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from incl_local.bus import end_strays, server_binary, wait_until_ready
from incl_local.credentials import issue
from incl_local.layout import PORT_NAMES, Layout, free_port
from incl_local.place import Place
from incl_local.supervisor import Child, Supervisor
from incl_shared.auth.server_config import prepare


@contextlib.asynccontextmanager
async def bus_alone(layout: Layout) -> AsyncIterator[Place]:
    """The bus on a free port. The caller holds the platform's lock.

    Raises:
        UnavailableError: it does not start.
    """
    taken: set[int] = set()
    ports: dict[str, int] = {}
    for name in PORT_NAMES:
        ports[name] = free_port(taken)
        taken.add(ports[name])
    place = Place(layout, ports)
    paths = await asyncio.to_thread(prepare, layout.nats, ports["bus"], reserved=layout.limits().file_bytes)
    log = layout.logs / "nats.log"
    child = Child("nats", [str(server_binary()), "-c", str(paths.config)], log, dies_with_us=True)
    server = Supervisor(child, lambda: None)
    await asyncio.to_thread(end_strays, paths)
    await server.start()
    try:
        await wait_until_ready(paths.ports_dir, lambda: server.identity, log)
        issue(place, paths.minter)
        yield place
    finally:
        await server.stop()
