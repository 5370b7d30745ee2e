"""The bus and the databases that the benchmarks of the tracker start, and the memory of a process."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import psutil
import sqlalchemy as sa

from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.db import make_engine
from incl_shared.testing.db import PostgresServer, postgres_binaries
from incl_shared.testing.nats import NatsServer
from support.environment import scratch

MIB = 1 << 20
LIMITS = topology.Limits(requests_bytes=64 * MIB, events_bytes=64 * MIB, logs_bytes=32 * MIB, live_bytes=32 * MIB)
"""METRICS keeps its default, 1 GiB; the others are small, so that the disk need not have room for all."""
DURABLE = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "512MB",
    "max_wal_size": "2GB",
    "max_connections": "60",
}
"""PostgreSQL as it comes (fsync, synchronous commits, full pages), with some memory and room for its log."""


@contextmanager
def running_bus(folder: Path) -> Iterator[NatsServer]:
    """A nats-server with the platform's streams: JetStream with sync_interval always, as `incl up` has it."""
    server = NatsServer(folder / "nats")
    server.start()
    try:
        asyncio.run(_streams(server))
        yield server
    finally:
        server.stop()


async def _streams(server: NatsServer) -> None:
    async with await BusClient.connect(server.settings("topology"), patient=True, timeout=10) as client:
        await topology.apply(client.jetstream(), limits=LIMITS)


@contextmanager
def running_postgres(folder: Path | None = None) -> Iterator[PostgresServer | None]:
    """A PostgreSQL that keeps what it has committed; None where there is none to start. folder: its data stays."""
    binaries = postgres_binaries()
    if binaries is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="incl-bench-pg-") as own:
        place = folder or Path(own)
        place.mkdir(parents=True, exist_ok=True)
        server = PostgresServer(place, binaries, options=DURABLE)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def database(kind: str) -> Iterator[str | None]:
    """The URL of an empty database, "sqlite" or "postgres"; None where there is no PostgreSQL."""
    if kind == "sqlite":
        with scratch("db-") as own:
            yield f"sqlite:///{own}/tracker.db"
        return
    with running_postgres() as server:
        if server is None:
            yield None
            return
        server.administer("CREATE DATABASE tracker")
        yield server.url("tracker")


def stored_bytes(url: str) -> int:
    """What a database takes on disk, its log written back. SQLite: the file, PostgreSQL: all its relations."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return Path(path).stat().st_size
    engine = make_engine(url, write=True, size=1)
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM"))
            return int(connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar_one())
    finally:
        engine.dispose()


class Memory:
    """Samples the proportional set size of a process and its children, in MB, while it is entered."""

    def __init__(self, pid: int, every_s: float = 0.5) -> None:
        self._process = psutil.Process(pid)
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.samples: list[tuple[float, float]] = []

    def _sample(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                processes = [self._process, *self._process.children(recursive=True)]
                size = sum(process.memory_full_info().pss for process in processes) / 1e6
            except psutil.Error:
                continue
            self.samples.append((time.monotonic(), size))

    def quarters(self, began: float, ended: float) -> list[float]:
        """The greatest of each quarter of the time between; 0 where there is no sample."""
        width = (ended - began) / 4 or 1.0
        found = [0.0] * 4
        for moment, size in self.samples:
            if began <= moment <= ended:
                place = min(3, int((moment - began) / width))
                found[place] = max(found[place], size)
        return [round(size, 1) for size in found]

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
