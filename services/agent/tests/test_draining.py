"""What an ended job left is shipped until the tracker has stored it: beside other jobs, and by the next agent."""

from __future__ import annotations

from incl_agent.app import Agent, create_app
from incl_agent.draining import Limits, Waiting, to_drop
from incl_agent.fakes import FakePlatform
from incl_agent.settings import AgentSettings
from incl_shared.testing.wait import until

SCRIPT = "import incl\nfor i in range(100): incl.log({'a': i})\nprint('said')\n"


async def test_a_folder_stays_until_the_tracker_has_stored_all(
    agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    platform.tracks = False
    agent = create_app(agent_settings)
    await agent.start()
    try:
        job = platform.job("python3", "run.py", code=platform.code({"run.py": SCRIPT}))
        await platform.want(job)
        end = await platform.ended(job)
        counts = {f"{count.stream}/{count.writer}": count.records for count in end.writers}
        assert sorted(n for key, n in counts.items() if key != "metrics/sys") == [1, 100]
        folder = agent_settings.jobs_dir / job.job
        await platform.unwant(job)
        await until(lambda: not (folder / "work").exists())
        assert agent.health()["draining_jobs"] == 1 and agent.health()["jobs"] == 0
        assert (folder / "spool").exists()
        other = platform.job("true")
        await platform.want(other)
        await platform.ended(other)
    finally:
        await agent.stop()
    agent = create_app(agent_settings)
    await agent.start()
    try:
        await until(lambda: agent.health()["draining_jobs"] >= 1)
        assert folder.exists()
        platform.stored = counts
        await until(lambda: not folder.exists(), timeout=15)
        await until(lambda: agent.health()["draining_jobs"] == 0)
    finally:
        await agent.stop()


async def test_a_tracker_that_is_away_holds_up_no_end(agent: Agent, platform: FakePlatform) -> None:
    platform.stored = None
    job = platform.job("python3", "run.py", code=platform.code({"run.py": SCRIPT}))
    await platform.want(job)
    end = await platform.ended(job)
    assert sorted(count.records for count in end.writers if count.writer != "sys") == [1, 100]
    await until(lambda: agent.health()["draining_jobs"] == 1)
    platform.stored = {}
    await until(lambda: agent.health()["draining_jobs"] == 0, timeout=20)


async def test_what_the_bus_lost_is_sent_again_after_the_end(
    agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    platform.tracks = False
    agent = create_app(agent_settings.model_copy(update={"lost_s": 0.5}))
    await agent.start()
    try:
        await _lose(agent, platform)
    finally:
        await agent.stop()


async def _lose(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("python3", "run.py", code=platform.code({"run.py": SCRIPT}))
    await platform.want(job)
    end = await platform.ended(job)
    counts = {f"{count.stream}/{count.writer}": count.records for count in end.writers}
    writer = next(key for key in counts if key.startswith("metrics/")).removeprefix("metrics/")
    platform.stored = {**counts, f"metrics/{writer}": 40}

    async def sent_again() -> bool:
        batches = (await platform.records(job))[writer]
        return any(first == 41 for first, _ in batches) and max(first + n - 1 for first, n in batches) == 100

    await until(sent_again, timeout=25)
    platform.stored = counts
    await until(lambda: agent.health()["draining_jobs"] == 0, timeout=20)


async def test_the_oldest_is_dropped_when_the_limit_is_reached(
    agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    platform.tracks = False
    agent = create_app(agent_settings.model_copy(update={"drain_bytes": 10, "drain_check_s": 0.1}))
    await agent.start()
    try:
        job = platform.job("python3", "run.py", code=platform.code({"run.py": SCRIPT}))
        await platform.want(job)
        await platform.ended(job)
        await platform.unwant(job)
        await until(lambda: not (agent_settings.jobs_dir / job.job).exists())
        assert agent.health()["dropped_jobs"] == 1
    finally:
        await agent.stop()


def test_who_gives_way() -> None:
    jobs = [Waiting("new", 30.0, 100), Waiting("old", 10.0, 50), Waiting("mid", 20.0, 60)]
    none = Limits(size=1000, age_s=1000.0, free=10)
    assert to_drop(jobs, none, now=100.0, free=10) == []
    assert [w.job for w, _ in to_drop(jobs, Limits(120, 1000.0, 10), now=100.0, free=10)] == ["old", "mid"]
    assert [w.job for w, _ in to_drop(jobs, Limits(1000, 75.0, 10), now=100.0, free=10)] == ["old", "mid"]
    assert [w.job for w, _ in to_drop(jobs, Limits(1000, 1000.0, 60), now=100.0, free=20)] == ["old"]
