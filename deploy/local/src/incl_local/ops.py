"""Health and metrics of the services that run in this process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from incl_local.services import App
from incl_shared.ops import OpsServer


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
        registry = _agent_registry(app)
        server.add(
            name,
            registry=registry,
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
    )


def _agent_registry(agent: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    for name, text in (
        ("jobs", "Jobs that this node holds."),
        ("generation", "The newest wanted state that was seen."),
        ("failures", "Faults at the edge of the agent's loops."),
        ("draining", "Jobs that have ended and whose telemetry the tracker has not stored yet."),
        ("draining_bytes", "Bytes of their telemetry on this node."),
        ("fenced", "How often jobs were ended because this node was cut off from the bus."),
        ("dropped", "Jobs whose telemetry was dropped before it was stored: the disk was full, or the limit reached."),
    ):
        Gauge(f"incl_agent_{name}", text, registry=registry).set_function(_reading(agent, name))
    Gauge("incl_agent_connected", "1: the bus is reached.", registry=registry).set_function(
        _reading(agent, "connected")
    )
    return registry


def _reading(agent: Any, name: str) -> Callable[[], float]:
    return lambda: float(agent.health()[name])
