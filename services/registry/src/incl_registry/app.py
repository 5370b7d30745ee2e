"""The composition root of the registry: the artifact store, and the models."""

from __future__ import annotations

import asyncio
import logging
import time

from incl_registry.blobs import BlobStore
from incl_registry.folder import FolderBlobs
from incl_registry.grants import load_key
from incl_registry.handlers import Handlers
from incl_registry.http import BlobDoor, DoorLimits
from incl_registry.metrics import RegistryMetrics
from incl_registry.models.aliases import Aliases
from incl_registry.models.changes import Changes
from incl_registry.models.handlers import Models
from incl_registry.models.inspecting import Inspection
from incl_registry.purge import purge
from incl_registry.settings import RegistrySettings
from incl_registry.sweep import sweep
from incl_registry.threads import Threads
from incl_shared.bus.findings import serve_stuck
from incl_shared.bus.runtime import Bus
from incl_shared.bus.topology import REGISTRY_EVENTS
from incl_shared.clock import Clock, SystemClock
from incl_shared.db import Database, migrate
from incl_shared.disk import disk
from incl_shared.http_server import HttpServer
from incl_shared.ops import OpsServer, serving
from incl_shared.queries.stuck import Finding, RegistryStuck
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.registry")
_BUCKET_THREADS = 32
_AWAY_S = 30.0


class RegistryApp:
    """The running service. `start` once, `stop` once."""

    def __init__(self, settings: RegistrySettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.database = Database(settings.database_url, clock=clock)
        self.bus = Bus(settings.bus, service="registry", database=self.database, clock=clock)
        self.metrics = RegistryMetrics(self.bus.metrics.registry)
        self._threads = Threads(_BUCKET_THREADS if settings.store else 0)
        self._blobs: BlobStore | None = None
        self._http: HttpServer | None = None
        self._sweepers: list[asyncio.Task[None]] = []
        self.ops: OpsServer | None = None
        self._troubles: dict[str, tuple[float, str]] = {}
        """Why the rounds of sweep and purge fail, and since when (monotonic)."""

    @property
    def url(self) -> str:
        """Where others reach the HTTP door."""
        if self.settings.public_url is not None:
            return self.settings.public_url.rstrip("/")
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self._http.port if self._http is not None else self.settings.port}"

    async def start(self) -> None:
        """Open the store and the database, listen, and join the bus.

        Raises:
            InclError: whatever is not there, with the next step.
        """
        blobs = self._blobs = await self._threads.run(_store, self.settings)
        key = await asyncio.to_thread(load_key, self.settings.data / "grants.key")
        await asyncio.to_thread(migrate, self.settings.database_url, "incl_registry")
        try:
            await self.database.start()
            await self._serve(blobs, key)
        except BaseException:
            await self.stop()
            raise

    async def _serve(self, blobs: BlobStore, key: bytes) -> None:
        handlers = Handlers(
            self.database,
            blobs,
            self.clock,
            key=key,
            ttl_s=self.settings.grant_ttl_s,
            url=lambda: self.url,
            threads=self._threads,
        )
        limits = DoorLimits(
            self.settings.min_free, self.settings.max_blob, self.settings.idle_s, self.settings.signed_ttl_s,
            self.settings.direct_from,
        )  # fmt: skip
        door = BlobDoor(
            self.database, blobs, self.clock, key=key, limits=limits, metrics=self.metrics, threads=self._threads
        )
        self._http = HttpServer(door.application(), self.settings.host, self.settings.port, "artifact store")
        await self._http.start()
        handlers.register(self.bus)
        Models(
            self.database, self.clock, self.bus.ask, key=key, ttl_s=self.settings.grant_ttl_s, url=lambda: self.url
        ).register(self.bus)
        Changes(self.database, self.clock).register(self.bus)
        Aliases(self.database, self.clock).register(self.bus)
        Inspection(self.database, blobs, self._threads).register(self.bus)
        self.bus.consume(REGISTRY_EVENTS, handlers.event)
        serve_stuck(self.bus, RegistryStuck, self._stuck)
        await self.bus.start()
        self._sweepers = [
            asyncio.create_task(self._sweep(blobs), name="registry-sweep"),
            asyncio.create_task(self._purge(blobs), name="registry-purge"),
        ]
        self.ops = await serving(self.settings, "registry", self.bus)

    async def stop(self) -> None:
        """Leave the bus, let requests end, close."""
        if self.ops is not None:
            await self.ops.stop()
        sweepers, self._sweepers = self._sweepers, []
        await end_all(sweepers)
        await self.bus.stop()
        if self._http is not None:
            await self._http.stop()
        await self.database.stop()
        if self._blobs is not None:
            self._blobs.close()
        self._threads.close()

    async def _stuck(self, query: RegistryStuck) -> list[Finding]:
        found = [*disk(str(self.settings.data))]
        trouble = self._blobs.trouble() if self._blobs is not None else None
        if trouble is not None and (seconds := time.monotonic() - trouble[0]) > query.patience(_AWAY_S):
            found.append(
                Finding(
                    kind="store.away", severity="error", subject="registry", since_s=seconds,
                    reason=trouble[1], hint="incl doctor tries it; transfers wait, and go on by themselves",
                )
            )  # fmt: skip
        for name, (since, text) in self._troubles.items():
            seconds = self.clock.monotonic() - since
            if seconds > query.patience(0.0):
                found.append(
                    Finding(
                        kind="upkeep.failing", severity="warning", subject=f"registry {name}", since_s=seconds,
                        reason=text, hint="it is tried again and again; see the log of the registry",
                    )
                )  # fmt: skip
        return found

    def _failed(self, name: str, error: Exception) -> None:
        since, _ = self._troubles.get(name, (self.clock.monotonic(), ""))
        self._troubles[name] = (since, f"{type(error).__name__}: {error}")

    async def _sweep(self, blobs: BlobStore) -> None:
        while True:
            await asyncio.sleep(self.settings.sweep_every_s)
            try:
                done = await sweep(
                    self.database, blobs, self.clock,
                    grace_s=self.settings.sweep_grace_s, dry_run=False, threads=self._threads,
                )  # fmt: skip
                self._troubles.pop("sweep", None)
                self.metrics.swept_blobs.inc(done.blobs)
                self.metrics.swept_bytes.inc(done.bytes)
                _log.info("swept %d blobs, %d bytes, %d partial uploads", done.blobs, done.bytes, done.partials)
            except Exception as error:  # noqa: BLE001 - the edge of the loop
                self._failed("sweep", error)
                self.metrics.sweep_failures.inc()
                _log.exception("the sweep failed; it is tried again later")

    async def _purge(self, blobs: BlobStore) -> None:
        grace, used = self.settings.purge_grace_s, self.settings.sweep_grace_s
        while True:
            try:
                done = await purge(
                    self.database, blobs, self.clock, grace_s=grace, used_grace_s=used, threads=self._threads
                )
                self._troubles.pop("purge", None)
                self.metrics.purged_blobs.inc(done.blobs)
                self.metrics.purged_bytes.inc(done.bytes)
                if done.blobs:
                    _log.info("purged %d blobs, %d bytes", done.blobs, done.bytes)
            except Exception as error:  # noqa: BLE001 - the edge of the loop
                self._failed("purge", error)
                self.metrics.purge_failures.inc()
                _log.exception("a purge failed; it is tried again later")
            await asyncio.sleep(self.settings.purge_every_s)


def _store(settings: RegistrySettings) -> BlobStore:
    if settings.store is None:
        return FolderBlobs(settings.data)
    from incl_registry.gcs.opening import open_store  # the provider's library, only where it is wanted

    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    return open_store(settings)


def create_app(settings: RegistrySettings, clock: Clock | None = None) -> RegistryApp:
    """Build the service; nothing happens before `start`."""
    return RegistryApp(settings, clock or SystemClock())
