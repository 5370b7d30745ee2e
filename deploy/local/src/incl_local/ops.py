"""Health and metrics of the services that run in this process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from incl_local.services import App
from incl_shared.ops import OpsServer, stuck_of_bus


@contextlib.asynccontextmanager
async def serve(apps: Mapping[str, App], port: int) -> AsyncIterator[OpsServer]:
    """Serve /<service>/healthz, readyz and metrics for these on loopback, as long as the context lasts."""
    server = OpsServer(port)
    for name, app in apps.items():
        _add(server, name, app)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def _add(server: OpsServer, name: str, app: Any) -> None:
    if name == "agent":
        server.add(
            name,
            registry=app.metrics.registry,
            live=lambda: True,
            ready=lambda: bool(app.health()["connected"]),
            detail=app.health,
        )
        return
    server.add(
        name,
        registry=app.bus.metrics.registry,
        live=lambda: app.bus.health().live,
        ready=lambda: app.bus.health().ready,
        stuck=partial(stuck_of_bus, app.bus),
    )
