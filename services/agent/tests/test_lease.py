"""Never two live attempts: a node that is cut off ends its jobs, and an attempt waits for the one before it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.jobfiles import JobFiles
from incl_agent.journal import Journal
from incl_agent.lease import KILL_AT, LeaseFile, boottime
from incl_agent.process import ProcessHandle, read_line, spawn_shim
from incl_agent.runtimes import Launch
from incl_agent.settings import AgentSettings
from incl_shared.reports import JobStarted
from incl_shared.states import EndReason
from incl_shared.testing.wait import until

STUBBORN = "trap '' TERM; echo up > up; while :; do sleep 0.05; done"


def launch(folder: Path, lease: Path, *argv: str) -> Launch:
    return Launch(argv, {"PATH": os.environ["PATH"]}, folder, 30.0, None, lease=lease)


def grant(lease: Path, seconds: float) -> None:
    temporary = lease.with_suffix(".tmp")
    temporary.write_text(f"{boottime() + seconds}\n")
    temporary.replace(lease)


async def test_without_a_lease_nothing_begins(tmp_path: Path) -> None:
    for lease, seconds in ((tmp_path / "over", -1.0), (tmp_path / "none", None)):
        folder = tmp_path / f"job-{lease.name}"
        folder.mkdir()
        if seconds is not None:
            grant(lease, seconds)
        _, pipe = spawn_shim(folder, launch(folder, lease, "sh", "-c", "echo ran > ran"))
        assert await read_line(pipe) == "failed"
        exit_ = JobFiles(folder).exit()
        assert exit_ is not None
        assert (exit_.stage, (folder / "ran").exists()) == ("lease", False)


async def test_a_job_ends_with_its_lease_and_goes_on_as_long_as_it_is_renewed(tmp_path: Path) -> None:
    lease, files = tmp_path / "lease", JobFiles(tmp_path)
    grant(lease, 1.0)
    _, pipe = spawn_shim(tmp_path, launch(tmp_path, lease, "sh", "-c", STUBBORN))
    assert await read_line(pipe) == "started"
    await until(lambda: (tmp_path / "up").exists())
    began = boottime()
    grant(lease, 2.0)
    identity = files.shim()
    assert identity is not None
    handle = ProcessHandle.open(identity)
    assert handle is not None
    await asyncio.wait_for(handle.wait(), 20)
    handle.close()
    exit_ = files.exit()
    assert exit_ is not None
    assert (exit_.cause, exit_.signal, exit_.killed) == ("lease", signal.SIGKILL, True)
    assert 1.8 < boottime() - began < 10, "renewed once, and not given its grace"


def test_the_file_says_when_by_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    lease = LeaseFile(path, guarded=True)
    assert lease.path is None, "nobody has said how long it is"
    lease.agreed(30.0)
    assert lease.path == path
    heard = time.monotonic() + 7.0
    for word in (heard, heard - 3.0):
        lease.heard(word)
        assert float(path.read_text()) - boottime() == pytest.approx(7.0 + 30.0 * KILL_AT, abs=0.5)
    alone = LeaseFile(tmp_path / "other", guarded=False)
    alone.agreed(30.0)
    alone.heard(heard)
    assert (alone.path, (tmp_path / "other").exists()) == (None, False)


async def test_a_job_ends_though_its_agent_hangs(agent_settings: AgentSettings, platform: FakePlatform) -> None:
    """Nobody but the shim is there to end it."""
    platform.lease_s = 3.0
    agent = create_app(agent_settings)
    await agent.start()
    job = platform.job("sh", "-c", STUBBORN)
    await platform.want(job)
    await platform.said(job, JobStarted)
    await agent.stop()
    await until(lambda: JobFiles(agent_settings.jobs_dir / job.job).exit(), 20)
    again = create_app(agent_settings)
    await again.start()
    try:
        end = await platform.ended(job, 30)
    finally:
        await again.stop()
    assert end.reason is EndReason.LOST
    assert "no word of the bus" in end.message


async def test_an_attempt_begins_once_the_one_before_it_is_over(
    agent: Agent, platform: FakePlatform, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = f"trap 'sleep 0.5; echo one >> {log}; exit' TERM; echo up >> {log}; while :; do sleep 0.02; done"
    first = platform.job("sh", "-c", script)
    await platform.want(first)
    await until(lambda: log.exists())
    second = platform.job("sh", "-c", f"echo two >> {log}", attempt=2, experiment=first.experiment)
    platform.forget(first)
    await platform.want(second)
    assert (await platform.ended(second)).reason is EndReason.COMPLETED
    assert log.read_text().split() == ["up", "one", "two"]


async def test_a_list_that_does_not_know_of_this_hello_begins_nothing(agent: Agent, platform: FakePlatform) -> None:
    platform.life = "an earlier one"
    job = platform.job("true")
    await platform.want(job)
    await until(lambda: agent.health()["generation"] == platform.generation)
    assert not (agent.settings.jobs_dir / job.job).exists()
    platform.life = agent._life
    await platform.write()
    assert (await platform.ended(job)).reason is EndReason.COMPLETED


async def test_what_was_said_of_jobs_that_are_here_is_said_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    report = JobStarted(experiment="0" * 26, attempt=1, rank=0, times={"rank": 0})
    for key in ("a:started", "b:started", "node:hello:1"):
        await journal.append(key, report)
    entries = await journal.unsent()
    await journal.confirm([entry.seq for entry in entries[:2]])
    journal.forget("b")
    journal.forget("node:hello:1")
    await journal.append("c:started", report)
    assert [entry.seq for entry in await journal.unsent()] == [3, 4]
    await journal.say_again()
    assert [entry.seq for entry in await journal.unsent()] == [1, 3, 4], "b is forgotten"
    assert await journal.has("a:started")
    assert not await journal.has("b:started")
    await journal.close()


async def test_what_is_forgotten_before_it_is_sent_goes_once_it_is(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    await journal.append("a:started", JobStarted(experiment="0" * 26, attempt=1, rank=0, times={"rank": 0}))
    journal.forget("a")
    await journal.confirm([])
    assert [entry.seq for entry in await journal.unsent()] == [1]
    await journal.confirm([1])
    assert not await journal.has("a:started")
    await journal.close()
