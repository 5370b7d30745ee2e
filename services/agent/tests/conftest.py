"""Fixtures of the agent's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.settings import AgentSettings
from incl_shared.bus.client import BusClient
from incl_shared.settings import BusSettings


@pytest.fixture
def agent_settings(tmp_path: Path, bus_settings: BusSettings) -> AgentSettings:
    return AgentSettings(
        node="node1",
        data_dir=tmp_path / "agent data",
        bus=bus_settings,
        heartbeat_s=0.5,
        poll_s=0.2,
        sample_s=0.2,
        retry_limit_s=1.5,
        leave_s=3.0,
        container_tool="none-such",
    )


@pytest.fixture
async def platform(bus_client: BusClient) -> AsyncIterator[FakePlatform]:
    platform = FakePlatform(bus_client)
    await platform.start()
    yield platform
    await platform.stop()


@pytest.fixture
async def agent(agent_settings: AgentSettings, platform: FakePlatform) -> AsyncIterator[Agent]:
    agent = create_app(agent_settings)
    await agent.start()
    yield agent
    await agent.stop()
