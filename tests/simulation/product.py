"""Where the product meets the simulation: the names that are exchanged, all in one place.

Everything else of the product runs as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import incl_agent.app
import incl_agent.life
import incl_agent.orphans
import incl_agent.preparing
import incl_agent.process
import incl_provisioner.app
import incl_shared.bus.client
import incl_shared.bus.runtime
import incl_shared.db
from incl_shared.bus.pull import PullLoop, PullState
from incl_shared.bus.topology import Durable
from incl_shared.db import DatabaseUnavailable
from incl_shared.errors import UnavailableError
from incl_shared.testing.virtual import HOST
from simulation import cloud, silence
from simulation.machine import Link, Uploads, machine_now

if TYPE_CHECKING:
    from incl_shared.bus.connection import Callbacks
    from incl_shared.settings import BusSettings
    from simulation.world import World

THREADS = ("incl_shared.db", "incl_agent.journal")
_MIGRATED: dict[str, bytes] = {}


def migrated(package: str, folder: Path) -> bytes:
    """A migrated, empty SQLite database of a service, made once a process."""
    if package not in _MIGRATED:
        path = folder / "template.db"
        incl_shared.db.migrate(f"sqlite:///{path}", package)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=DELETE")  # one in memory has no log beside it
        _MIGRATED[package] = connection.serialize()
        connection.close()
    return _MIGRATED[package]


class Pull:
    """Hands what a pull loop fetches to the consumer: all that is left of FastStream here."""

    def __init__(self, broker: Broker, durable: Durable, handler: Any, check_every: float, silence: float) -> None:
        self.state = PullState(durable)
        self._broker, self._handler = broker, handler
        self._options = {"check_every": check_every, "silence": silence}
        self._loop: PullLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch from now on."""
        connection: Any = self._broker.connection
        self._loop = PullLoop(connection, self.state.durable, self._handler, state=self.state, **self._options)
        self._task = asyncio.create_task(self._loop.run())

    def wake(self) -> None:
        """The connection came back."""
        if self._loop is not None:
            self._loop.wake()

    async def stop(self) -> None:
        """Fetch no more."""
        if self._loop is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loop.finish(), 10.0)
        if self._task is not None:
            self._task.cancel()


class Broker:
    """Stands in for HardenedBroker: the connection, the pull loops, the answers; without FastStream."""

    def __init__(
        self, settings: BusSettings, callbacks: Callbacks, *, connect_timeout: float, credentials: Any = None
    ) -> None:
        self._settings, self._callbacks, self._timeout = settings, callbacks, connect_timeout
        self._pulls: list[Pull] = []
        self._served: list[tuple[str, str, Callable[[Any], Awaitable[None]]]] = []
        self.connection: Any = None

    async def connect(self) -> Any:
        """Open the connection."""
        self.connection = await incl_shared.bus.client.open_connection(  # type: ignore[attr-defined]
            self._settings, self._callbacks, timeout=self._timeout, patient=True
        )
        return self.connection

    async def start(self) -> None:
        """Consume and answer."""
        for subject, queue, handler in self._served:
            await self.connection.subscribe(subject, queue, cb=handler)
        for pull in self._pulls:
            await pull.start()

    async def stop(self) -> None:
        """The end."""
        for pull in self._pulls:
            await pull.stop()
        if self.connection is not None:
            await self.connection.close()

    def pull(self, durable: Durable, handler: Any, *, check_every: float, silence: float) -> Pull:
        """Consume a durable."""
        pull = Pull(self, durable, handler, check_every, silence)
        self._pulls.append(pull)
        return pull

    def serve(self, subject: str, queue: str, handler: Callable[[Any], Awaitable[None]], *, workers: int) -> None:
        """Answer."""
        self._served.append((subject, queue, handler))


class Engine:
    """Stands in for an engine of SQLAlchemy: the world's database, which can be told to be away."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self) -> Any:
        """A transaction that writes."""
        self._check()
        return self._world.database.begin()

    def connect(self) -> Any:
        """A transaction that reads."""
        self._check()
        return self._world.database.connect()

    def dispose(self) -> None:
        """Close."""

    def _check(self) -> None:
        if self._world.database_away:
            raise DatabaseUnavailable("the database cannot be used now", cause="simulated")


@contextlib.contextmanager
def exchanged(world: World) -> Iterator[None]:
    """The product runs in this world."""

    async def open_connection(
        settings: BusSettings, callbacks: Callbacks, *, credentials: Any = None, timeout: float = 2.0,
        patient: bool = False,
    ) -> Any:  # fmt: skip
        host = HOST.get()
        assert host is not None
        try:
            return await world.server.open(callbacks, host.name, timeout)
        except TimeoutError:
            raise UnavailableError("the platform does not answer", cause="simulated") from None

    class Handles:
        open = staticmethod(lambda identity: machine_now().handle(identity))

    async def read_line(pid: int) -> str:
        return await asyncio.shield(machine_now().shims[pid].word)

    followers = (incl_agent.life, incl_agent.orphans)
    exchanges: list[tuple[Any, str, Any]] = [
        (incl_shared.db, "make_engine", lambda url, **options: Engine(world)),
        (incl_shared.bus.client, "open_connection", open_connection),
        (incl_shared.bus.runtime, "HardenedBroker", Broker),
        (incl_provisioner.app, "migrate", lambda url, package: None),
        (incl_agent.life, "spawn_shim", lambda *given: machine_now().spawn(*given)),
        (incl_agent.life, "read_line", read_line),
        *((module, "ProcessHandle", Handles) for module in followers),
        *((module, "boot_id", lambda: machine_now().boot) for module in followers),
        *(
            (module, "end_survivors", lambda pid, start, marker: machine_now().end_survivors(pid))
            for module in followers
        ),
        (incl_agent.life, "Uploads", Uploads),
        (incl_agent.life, "JobLink", Link),
        (incl_agent.preparing, "free_port", lambda address: 20_000),
        (incl_agent.app, "probe", lambda urls: world.probe()),
        (importlib.metadata, "version", lambda name: "0"),
        *silence.exchanges(),
    ]
    if world.clouds is not None:
        exchanges += cloud.exchanges(world)
    with contextlib.ExitStack() as stack:
        for target, name, stand_in in exchanges:
            stack.enter_context(mock.patch.object(target, name, stand_in))
        yield
