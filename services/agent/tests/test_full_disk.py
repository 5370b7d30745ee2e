"""The disk of a machine is full, a real one: what is to be said is kept, jobs wait, all goes on when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_agent.app import create_app
from incl_agent.control import ControlWatcher
from incl_agent.fakes import FakePlatform
from incl_agent.journal import Journal
from incl_agent.settings import AgentSettings
from incl_shared.control import NodeWanted
from incl_shared.reports import NodeHeartbeat
from incl_shared.states import EndReason
from incl_shared.testing.disk import fill, small_disk
from incl_shared.testing.wait import until

BEAT = NodeHeartbeat(jobs=(), generation=0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "a small disk", 8 << 20) as made:
        yield made


async def test_a_report_waits_for_room_and_keeps_its_place(disk: Path) -> None:
    journal = Journal(disk / "journal.db", "n")
    await journal.open()
    await journal.append("a:first", BEAT)
    ballast = fill(disk)
    waiting = [journal.append(f"a:{number}", BEAT) for number in range(2000)]
    await until(lambda: journal.trouble, 10, what="the journal to say why it waits")
    assert not all(done.done() for done in waiting)
    ballast.unlink()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert journal.trouble == ""
    assert [entry.seq for entry in await journal.unsent(5000)] == list(range(1, 2002))
    await journal.close()


async def test_a_journal_on_a_full_disk_can_be_closed(disk: Path) -> None:
    journal = Journal(disk / "journal.db", "n")
    await journal.open()
    ballast = fill(disk)
    waiting = [journal.append(f"a:{number}", BEAT) for number in range(2000)]
    await until(lambda: journal.trouble, 10, what="the journal to say why it waits")
    await asyncio.wait_for(journal.close(), 10)
    assert all(done.done() for done in waiting)
    ballast.unlink()


async def test_a_job_waits_for_room_and_runs(disk: Path, agent_settings: AgentSettings, platform: FakePlatform) -> None:
    settings = agent_settings.model_copy(update={"data_dir": disk / "agent", "retry_limit_s": 30.0})
    agent = create_app(settings)
    await agent.start()
    try:
        code = platform.code({"train.sh": "echo ran", "weights": b"x" * (3 << 20)})
        ballast = fill(disk, leave=1 << 20)
        job = platform.job("sh", "train.sh", code=code)
        await platform.want(job)
        await until(lambda: agent.health()["disk_waits"], 15, what="the job to wait for room")
        ballast.unlink()
        assert (await platform.ended(job)).reason is EndReason.COMPLETED
    finally:
        await agent.stop()


async def test_a_wanted_state_that_could_not_be_applied_is_applied_again(tmp_path: Path) -> None:
    journal, tried = Journal(tmp_path / "journal.db", "n"), []
    await journal.open()

    async def apply(wanted: NodeWanted) -> None:
        tried.append(wanted.generation)
        if len(tried) == 1:
            raise OSError(28, "No space left on device")

    watcher = ControlWatcher(None, journal, "n", 1.0, apply)  # type: ignore[arg-type]
    payload = NodeWanted(node="n", generation=3).model_dump_json().encode()
    with pytest.raises(OSError, match="No space"):
        await watcher.offer(payload)
    await watcher.offer(payload)
    await watcher.offer(payload)
    assert (tried, watcher.generation) == ([3, 3], 3)
    await journal.close()


async def test_the_end_of_a_job_that_fills_the_disk_of_a_machine_of_a_cloud(
    disk: Path, agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    """Nobody makes room there: it ends, with the reason, and the machine with it."""
    settings = agent_settings.model_copy(update={"data_dir": disk / "agent", "reserve_bytes": 1 << 20})
    agent = create_app(settings)
    await agent.start()
    try:
        job = platform.job("sh", "-c", "cat /dev/zero > all; echo full")
        await platform.want(job)
        ended = await platform.ended(job)
        assert ended.reason is EndReason.INFRA
        assert "is full" in ended.message and "BOOT_GIB" in ended.hint
        assert not (disk / "agent" / "reserve").exists()
    finally:
        await agent.stop()
