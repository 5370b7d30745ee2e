"""Fixtures of the agent's tests. One nats-server serves a module; each test is a node of its own."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.jobfiles import JobFiles
from incl_agent.process import ProcessHandle
from incl_agent.settings import AgentSettings
from incl_shared.bus.client import BusClient
from incl_shared.testing.nats import NatsServer, apply_topology

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def module_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path_factory.mktemp("nats server"))
    server.start()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, apply_topology(server.settings("topology"))).result()
    yield server
    server.stop()


@pytest.fixture
def agent_settings(tmp_path: Path, module_nats: NatsServer) -> Iterator[AgentSettings]:
    settings = AgentSettings(
        node=f"node{next(_numbers)}",
        data_dir=tmp_path / "agent data",
        bus=module_nats.settings(),
        heartbeat_s=0.5,
        poll_s=0.2,
        sample_s=0.2,
        retry_limit_s=1.5,
        leave_s=3.0,
        container_tool="none-such",
    )
    yield settings
    for folder in settings.jobs_dir.glob("*"):  # jobs outlive their agent, but not their test
        shim = JobFiles(folder).shim()
        handle = None if shim is None else ProcessHandle.open(shim)
        if handle is not None:
            handle.send(signal.SIGTERM)
            handle.close()


@pytest.fixture
async def platform(module_nats: NatsServer, agent_settings: AgentSettings) -> AsyncIterator[FakePlatform]:
    async with await BusClient.connect(module_nats.settings(), patient=True, timeout=10) as client:
        platform = FakePlatform(client, agent_settings.node)
        await platform.start()
        yield platform
        await platform.stop()


@pytest.fixture
async def agent(agent_settings: AgentSettings, platform: FakePlatform) -> AsyncIterator[Agent]:
    agent = create_app(agent_settings)
    await agent.start()
    yield agent
    await agent.stop()
