"""Health and metrics over HTTP: /healthz, /readyz, /metrics, /stuck. One server for one service or all of a process.

    ops = OpsServer(port=0)
    ops.add("tracker", registry=bus.metrics.registry, live=lambda: bus.health().live, ready=lambda: bus.health().ready)
    await ops.start(); ops.port; await ops.stop()

With several services /healthz and /readyz say each; they are 200 only when all are well. /metrics has all of them;
/<service>/healthz, /<service>/readyz and /<service>/metrics one. A small HTTP/1.1 of its own: nothing to import.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from incl_shared.errors import ConflictError

if TYPE_CHECKING:
    from incl_shared.bus.runtime import Bus
    from incl_shared.queries.stuck import Finding
    from incl_shared.service_settings import ServiceSettings

_log = logging.getLogger("incl.ops")
_REQUEST_S = 5.0
_REQUEST_BYTES = 8192

Check = Callable[[], bool]
Detail = Callable[[], Mapping[str, object]]
Stuck = Callable[[float | None], Iterable["Finding"]]


@dataclass(frozen=True)
class _Service:
    registry: CollectorRegistry
    live: Check
    ready: Check
    detail: Detail
    stuck: Stuck


@dataclass(frozen=True)
class _Response:
    status: HTTPStatus
    body: bytes
    kind: str = "application/json"


@dataclass
class OpsServer:
    """Serves health and metrics. port 0: a free one, told by `port` after `start`."""

    port: int
    host: str = "127.0.0.1"
    _services: dict[str, _Service] = field(default_factory=dict)
    _server: asyncio.Server | None = None

    def add(
        self,
        service: str,
        *,
        registry: CollectorRegistry,
        live: Check,
        ready: Check,
        detail: Detail = dict,
        stuck: Stuck = lambda _: (),
    ) -> None:
        """Serve one service. live: false asks for a restart. ready: it does its work now. detail: shown by /readyz.

        stuck: what stands still for longer than so many seconds (none: than is usual), shown by /stuck.
        """
        self._services[service] = _Service(registry, live, ready, detail, stuck)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: the port is taken.
        """
        try:
            self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=_REQUEST_BYTES)
        except OSError as error:
            raise ConflictError(
                f"port {self.port} for health and metrics is taken", cause=str(error), hint="choose another ops port"
            ) from error
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close it."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_S):
                line = await reader.readuntil(b"\r\n")
                while await reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                writer.write(_encode(self._answer(line)))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            _log.debug("a request was not answered: %s", error)
        except Exception:  # noqa: BLE001 - the edge: one request's fault
            _log.exception("a request failed")
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, line: bytes) -> _Response:
        method, _, rest = line.decode("latin-1").partition(" ")
        path, _, asked = rest.split(" ")[0].partition("?")
        parts = path.strip("/").split("/")
        if method not in ("GET", "HEAD"):
            return _said(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "GET only"})
        chosen = self._services
        if len(parts) == 2:
            chosen = {name: service for name, service in chosen.items() if name == parts[0]}
        match parts[-1]:
            case "metrics" if chosen:
                body = generate_latest(_Merged([service.registry for service in chosen.values()]))
                return _Response(HTTPStatus.OK, body, CONTENT_TYPE_LATEST)
            case "healthz" if chosen:
                return _checked({name: {"ok": service.live()} for name, service in chosen.items()})
            case "readyz" if chosen:
                found = {name: {"ok": service.ready(), **service.detail()} for name, service in chosen.items()}
                return _checked(found)
            case "stuck" if chosen:
                after = _seconds(asked)
                stuck = [one.model_dump() for service in chosen.values() for one in service.stuck(after)]
                return _said(HTTPStatus.OK, {"findings": stuck})
        return _said(HTTPStatus.NOT_FOUND, {"error": "see /healthz, /readyz, /metrics, /stuck"})


def stuck_of_bus(bus: Bus, after_s: float | None) -> Iterator[Finding]:
    """What a service's bus runtime holds up: told here too, for when the bus is away and no question reaches it."""
    from incl_shared.bus.findings import of_bus

    return of_bus(bus, lambda usual: usual if after_s is None else after_s)


async def serving(settings: ServiceSettings, service: str, bus: Bus, ready: Check | None = None) -> OpsServer | None:
    """The server that a service's settings ask for, started; none where they ask for none.

    Raises:
        ConflictError: the port is taken.
    """
    if settings.ops_port is None:
        return None
    server = OpsServer(port=settings.ops_port, host=settings.ops_host)
    ready = ready or (lambda: bus.health().ready)
    stuck = partial(stuck_of_bus, bus)
    server.add(service, registry=bus.metrics.registry, live=lambda: bus.health().live, ready=ready, stuck=stuck)
    await server.start()
    return server


def _seconds(asked: str) -> float | None:
    name, _, text = asked.partition("=")
    try:
        return float(text) if name == "after" else None
    except ValueError:
        return None


class _Merged(CollectorRegistry):
    """What several registries show, as one text may show it: all samples of a name together."""

    def __init__(self, registries: Sequence[CollectorRegistry]) -> None:
        super().__init__()
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """Each name once."""
        found: dict[str, Metric] = {}
        for registry in self._registries:
            for metric in registry.collect():
                merged = found.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                merged.samples += metric.samples
        return iter(found.values())


def _checked(found: Mapping[str, Mapping[str, object]]) -> _Response:
    well = all(service["ok"] for service in found.values())
    return _said(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, {"ok": well, "services": found})


def _said(status: HTTPStatus, body: Mapping[str, object]) -> _Response:
    return _Response(status, json.dumps(body).encode() + b"\n")


def _encode(response: _Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\nContent-Type: {response.kind}\r\n"
        f"Content-Length: {len(response.body)}\r\nConnection: close\r\nCache-Control: no-store\r\n\r\n"
    )
    return head.encode() + response.body
