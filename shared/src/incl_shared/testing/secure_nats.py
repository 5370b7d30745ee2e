"""A real nats-server as `incl up` runs it: operator mode, least privilege, the platform's streams."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from incl_shared.auth.mint import Credential, Minter
from incl_shared.auth.names import Role
from incl_shared.auth.server_config import BusPaths, prepare
from incl_shared.bus.client import BusClient
from incl_shared.settings import BusSettings
from incl_shared.testing.nats import NatsServer, apply_topology, server_binary
from incl_shared.testing.wait import until_sync


class SecureNats(NatsServer):
    """A nats-server in operator mode. `folder` may have been another's before: its keys and its store are kept.

    reserved: bytes that it may store, whatever the disk has.
    """

    def __init__(self, folder: Path, *, port: int | None = None, reserved: int = 0) -> None:
        super().__init__(folder, port=port)
        self.paths: BusPaths = prepare(folder, self.port, reserved=reserved)

    @property
    def minter(self) -> Minter:
        """Mints credentials of any role."""
        return self.paths.minter

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self.process is None
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [server_binary(), "-c", str(self.paths.config)], stdout=log, stderr=log, start_new_session=True
            )
        until_sync(self._answers, 10, what=f"nats-server on port {self.port}: {self.log[-2000:]}")

    def make_streams(self) -> None:
        """Make the platform's streams; in a thread, as a loop may run in this one."""
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, apply_topology(self.settings_of(self.minter.service(Role.ADMIN)))).result()

    def settings_of(self, credential: Credential) -> BusSettings:
        """How a principal reaches this server."""
        return BusSettings.model_validate(
            {
                "urls": (self.url,),
                "jwt": credential.jwt,
                "seed": credential.seed,
                "name": credential.name,
                "inbox_prefix": credential.inbox,
            }
        )

    async def connect(self, credential: Credential) -> BusClient:
        """A connection of a principal."""
        return await BusClient.connect(self.settings_of(credential))

    async def service(self, role: Role) -> BusClient:
        """A connection of a service, or of the administrator."""
        return await self.connect(self.minter.service(role))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[SecureNats]:
    """A started server with the platform's streams, stopped at the end."""
    server = SecureNats(folder)
    try:
        server.start()
        server.make_streams()
        yield server
    finally:
        server.stop()


@pytest.fixture
def secure_nats(tmp_path: Path) -> Iterator[SecureNats]:
    """A real nats-server in operator mode with the platform's streams, for one test."""
    with running(tmp_path / "platform bus") as server:
        yield server


@pytest.fixture(scope="module")
def shared_secure_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureNats]:
    """The same for all tests of a module, where they do not disturb each other."""
    with running(tmp_path_factory.mktemp("platform bus")) as server:
        yield server
