"""For tests: the artifact store without the bus, its door on a real port, its handlers called directly."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from incl_registry.blobs import BlobStore
from incl_registry.folder import FolderBlobs
from incl_registry.grants import GrantScope, Verb, sign
from incl_registry.handlers import Handlers
from incl_registry.http import BlobDoor, DoorLimits
from incl_registry.metrics import RegistryMetrics
from incl_registry.tables import metadata
from incl_registry.threads import Threads
from incl_shared.clock import SystemClock
from incl_shared.db import Database
from incl_shared.http_server import HttpServer
from incl_shared.queries.registry import DownloadGrant, Entry, Grant, UploadGrant
from incl_shared.subjects import Asker
from incl_shared.testing.db import create_tables

KEY = b"k" * 32
ANN = Asker("default", "ann")


@dataclass
class Store:
    """Everything of the registry but the bus."""

    database: Database
    blobs: BlobStore
    handlers: Handlers
    server: HttpServer
    folder: Path
    metrics: CollectorRegistry
    threads: Threads

    @property
    def url(self) -> str:
        """Of the HTTP door."""
        return f"http://127.0.0.1:{self.server.port}"

    async def upload(self, experiment: str, asker: Asker = ANN) -> Grant:
        """A grant to put."""
        return await self.handlers.upload_grant(asker, UploadGrant(experiment=experiment))

    async def download(self, experiment: str, asker: Asker = ANN) -> Grant:
        """A grant to get."""
        return await self.handlers.download_grant(asker, DownloadGrant(experiment=experiment))

    def forged(self, experiment: str, verb: Verb, **change: object) -> str:
        """A token signed with the store's key, with whatever in it."""
        scope = GrantScope("default", experiment, verb, SystemClock().now() + 60)
        return sign(KEY, replace(scope, **change))  # type: ignore[arg-type]


async def open_store(
    url: str, folder: Path, limits: DoorLimits | None = None, port: int = 0, blobs: BlobStore | None = None
) -> Store:
    """Start one. blobs: those in the folder by default."""
    clock, metrics = SystemClock(), CollectorRegistry()
    create_tables(url, metadata)
    database = Database(url)
    await database.start()
    threads = Threads(8 if blobs is not None else 0)
    blobs = blobs or FolderBlobs(folder)
    holder: list[HttpServer] = []
    handlers = Handlers(
        database, blobs, clock, key=KEY, ttl_s=600, url=lambda: f"http://127.0.0.1:{holder[0].port}", threads=threads
    )
    limits = limits or DoorLimits(min_free=0, max_blob=1 << 40, idle_s=10)
    door = BlobDoor(database, blobs, clock, key=KEY, limits=limits, metrics=RegistryMetrics(metrics), threads=threads)
    server = HttpServer(door.application(), "127.0.0.1", port, "artifact store")
    holder.append(server)
    await server.start()
    return Store(database, blobs, handlers, server, folder, metrics, threads)


async def close_store(store: Store) -> None:
    """Stop it."""
    await store.server.stop()
    await store.database.stop()
    store.blobs.close()
    store.threads.close()


def sha(data: bytes) -> str:
    """Its checksum."""
    return hashlib.sha256(data).hexdigest()


def entry(data: bytes, path: str = "out.bin", kind: str = "output", **more: object) -> Entry:
    """An entry of these bytes."""
    return Entry.model_validate({"kind": kind, "path": path, "sha256": sha(data), "size": len(data), **more})


def upload_id() -> str:
    """A new upload's name."""
    return os.urandom(16).hex()
