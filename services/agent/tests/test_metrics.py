"""The agent's figures, each made to move by what it stands for."""

from __future__ import annotations

import asyncio
import textwrap
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.life import JobLife
from incl_agent.settings import AgentSettings
from incl_shared.testing.nats import NatsServer, apply_topology
from incl_shared.testing.wait import until


def value(agent: Agent, name: str, **labels: str) -> float:
    """A figure of the agent; 0 where it is not shown yet."""
    return agent.metrics.registry.get_sample_value(f"incl_{name}", labels) or 0.0


async def test_the_bus_goes_and_comes_back(nats_server: NatsServer, tmp_path: Path) -> None:
    await apply_topology(nats_server.settings())
    settings = AgentSettings(node="alone", data_dir=tmp_path / "agent", bus=nats_server.settings(), heartbeat_s=0.2)
    agent = create_app(settings)
    await agent.start()
    try:
        assert value(agent, "agent_connected") == 1
        await until(lambda: value(agent, "agent_journal_unsent") == 0)
        nats_server.kill()
        await until(lambda: value(agent, "agent_connected") == 0)
        await agent._hello()
        assert value(agent, "agent_journal_unsent") == 1
        nats_server.start()
        await until(lambda: value(agent, "agent_reconnects_total") == 1, 20)
        assert value(agent, "recovery_seconds_count", service="agent", what="bus") == 1
        await until(lambda: value(agent, "agent_journal_unsent") == 0, 20)
        assert value(agent, "agent_disk_free_bytes") > 0
    finally:
        await agent.stop()


async def test_what_waits_to_be_stored_and_what_an_agent_takes_up(
    agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    platform.tracks = False
    settings = agent_settings.model_copy(update={"ops_port": 0, "drain_check_s": 0.1})
    agent = create_app(settings)
    await agent.start()
    try:
        job = platform.job("python3", "run.py", code=platform.code({"run.py": "print('said')\n"}))
        await platform.want(job)
        await platform.ended(job)
        await platform.unwant(job)
        await until(lambda: value(agent, "agent_draining_jobs") == 1)
        await until(lambda: value(agent, "agent_draining_bytes") > 0)
        assert value(agent, "agent_adopted_jobs") == 0 and value(agent, "agent_starts") == 1
        assert agent.ops is not None
        url = f"http://127.0.0.1:{agent.ops.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
        assert "incl_agent_draining_jobs 1.0" in text
    finally:
        await agent.stop()
    agent = create_app(settings.model_copy(update={"drain_bytes": 0}))
    await agent.start()
    try:
        assert value(agent, "agent_adopted_jobs") == 1 and value(agent, "agent_starts") == 2
        await platform.unwant(job)
        await until(lambda: value(agent, "agent_dropped_jobs_total") == 1)
    finally:
        await agent.stop()


@pytest.fixture
async def quick(agent_settings: AgentSettings, platform: FakePlatform) -> AsyncIterator[Agent]:
    agent = create_app(agent_settings)
    await agent.start()
    yield agent
    await agent.stop()


async def test_records_that_never_came_into_the_spool(quick: Agent, platform: FakePlatform) -> None:
    script = """
        import os, pathlib
        spool = pathlib.Path(os.environ["INCL_SPOOL_DIR"])
        with open(spool / "w.jsonl", "w") as file:
            file.write('{"k":"d","t":1.0,"n":7}\\n')
    """
    code = platform.code({"run.py": textwrap.dedent(script)})
    job = platform.job("python3", "run.py", code=code)
    await platform.want(job)
    await platform.ended(job)
    assert value(quick, "agent_spool_dropped_total", stream="metrics") == 7


async def test_a_task_that_breaks_is_begun_again(
    quick: Agent, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = JobLife.run, []

    async def run(self: JobLife) -> Any:
        if not broken:
            broken.append(self.job)
            raise RuntimeError("a fault of ours")
        return await real(self)

    monkeypatch.setattr(JobLife, "run", run)
    job = platform.job("true")
    await platform.want(job)
    await platform.ended(job)
    assert value(quick, "agent_job_restarts_total") == 1
    assert value(quick, "agent_failures_total") >= 1
