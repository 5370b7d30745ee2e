"""The whole service on a real bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from incl_registry.app import RegistryApp, create_app
from incl_registry.settings import RegistrySettings
from incl_registry.testing.running import entry, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.bus.client import BusClient
from incl_shared.errors import ConflictError, DeniedError, InvalidInput
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, ListArtifacts, UploadGrant
from incl_shared.settings import BusSettings
from incl_shared.subjects import event
from incl_shared.testing.wait import until


@pytest.fixture
def settings(bus_settings: BusSettings, sqlite_url: str, tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(database_url=sqlite_url, bus=bus_settings, data=tmp_path / "da ta", min_free=0)


@pytest.fixture
async def app(settings: RegistrySettings) -> AsyncIterator[RegistryApp]:
    made = create_app(settings)
    await made.start()
    yield made
    await made.stop()


async def test_from_the_grant_to_the_event(app: RegistryApp, bus_client: BusClient, experiment: str) -> None:
    who = {"project": "default", "user": "ann"}
    data = b"the outcome"
    grant = await bus_client.ask(UploadGrant(experiment=experiment), **who)
    assert grant.url == app.url
    with ArtifactClient(grant) as client:
        await asyncio.to_thread(client.put_bytes, data)
    query = CommitArtifacts(experiment=experiment, entries=(entry(data, "result.txt", attempt=1),))
    assert (await bus_client.ask(query, **who)).new == 1
    assert (await bus_client.ask(query, **who)).new == 0
    subject = event("default", "artifact", experiment)
    found = await until(lambda: bus_client.last("EVENTS", subject), what="ArtifactStored is on the bus")
    assert b'"path":"result.txt"' in found[1]
    page = await bus_client.ask(ListArtifacts(experiment=experiment), **who)
    assert [e.path for e in page.entries] == ["result.txt"]
    with ArtifactClient(await bus_client.ask(DownloadGrant(experiment=experiment), **who)) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(data)) == data
    with pytest.raises(DeniedError):
        await bus_client.ask(DownloadGrant(experiment=experiment), project="other", user="ann")
    assert app.bus.health().ready
    value = app.bus.metrics.registry.get_sample_value("incl_registry_uploaded_bytes_total")
    assert value == len(data)


async def test_grants_and_files_outlive_a_restart(
    settings: RegistrySettings, bus_client: BusClient, experiment: str
) -> None:
    who = {"project": "default", "user": "ann"}
    first = create_app(settings)
    await first.start()
    grant = await bus_client.ask(UploadGrant(experiment=experiment), **who)
    with ArtifactClient(grant) as client:
        await asyncio.to_thread(client.put_bytes, b"kept")
    await first.stop()
    second = create_app(settings)
    await second.start()
    try:
        with ArtifactClient(grant.model_copy(update={"url": second.url})) as client:
            await asyncio.to_thread(client.put_bytes, b"more")
        with ArtifactClient(await bus_client.ask(DownloadGrant(experiment=experiment), **who)) as client:
            assert await asyncio.to_thread(client.get_bytes, sha(b"kept")) == b"kept"
    finally:
        await second.stop()


async def test_it_stops_while_somebody_sends(app: RegistryApp) -> None:
    """A connection that hangs open does not hold the end up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(app.url.rsplit(":", 1)[1]))
    writer.write(b"PUT /blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nab")
    await reader.readline()
    await asyncio.wait_for(app.stop(), 8)
    writer.close()


async def test_a_taken_port(app: RegistryApp, settings: RegistrySettings, tmp_path: Path) -> None:
    port = int(app.url.rsplit(":", 1)[1])
    change = {"port": port, "database_url": f"sqlite:///{tmp_path / 'second.db'}", "data": tmp_path / "second"}
    second = create_app(settings.model_copy(update=change))
    with pytest.raises(ConflictError, match="cannot listen"):
        await second.start()


async def test_a_key_that_others_can_read(settings: RegistrySettings) -> None:
    settings.data.mkdir()
    (settings.data / "grants.key").write_bytes(b"x" * 32)
    (settings.data / "grants.key").chmod(0o644)
    with pytest.raises(InvalidInput, match="others can read"):
        await create_app(settings).start()


async def test_only_loopback(app: RegistryApp) -> None:
    assert app.url.startswith("http://127.0.0.1:")
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{app.url}/blobs/{'a' * 64}")).status_code == 401
