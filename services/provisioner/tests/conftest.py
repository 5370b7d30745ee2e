"""Fixtures of the provisioner's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from incl_provisioner.app import create_app
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.testing.cloud import QUICK_CLOUD, Vms
from incl_provisioner.testing.platform import QUICK, Platform, Start
from incl_provisioner.testing.site import Begin, Site
from incl_shared.bus.client import BusClient
from incl_shared.clock import Clock
from incl_shared.settings import BusSettings


@pytest.fixture
async def start(bus_settings: BusSettings, bus_client: BusClient) -> AsyncIterator[Start]:
    """Starts a provisioner: await start(database_url, **settings)."""
    made: list[Platform] = []

    async def make(url: str, clock: Clock | None = None, **options: Any) -> Platform:
        settings = ProvisionerSettings(database_url=url, bus=bus_settings, **{**QUICK, **options})
        platform = Platform(bus_client, settings, create_app(settings, clock=clock))
        await platform.listen()
        await platform.app.start()
        made.append(platform)
        return platform

    yield make
    for platform in made:
        await asyncio.gather(*(agent.stop() for agent in platform.agents))
        await platform.app.stop()


@pytest.fixture
async def platform(start: Start, sqlite_url: str) -> Platform:
    """A provisioner on SQLite."""
    return await start(sqlite_url)


@pytest.fixture
async def begin(bus_settings: BusSettings, bus_client: BusClient, sqlite_url: str) -> AsyncIterator[Begin]:
    """Starts a provisioner with a cloud; options are those of the cloud, `waits` of the provisioner."""
    made: list[Site] = []

    async def start(url: str = sqlite_url, waits: dict[str, float] | None = None, **options: Any) -> Site:
        cloud = FakeCloud(CloudSettings(vms="none"))
        settings = ProvisionerSettings(
            database_url=url,
            bus=bus_settings,
            cloud=QUICK_CLOUD.model_copy(update=options),
            **QUICK,
            **(waits or {}),
        )
        vms = Vms(bus_client, cloud)
        platform = Platform(bus_client, settings, create_app(settings, compute=vms.compute))
        await platform.listen()
        await platform.app.start()
        vms.start()
        made.append(Site(platform, vms))
        return made[-1]

    yield start
    for site in made:
        await site.platform.app.stop()
        await site.vms.stop()
