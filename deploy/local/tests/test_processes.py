"""Identities of processes, and children that are started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from incl_local.processes import Identity, own
from incl_local.supervisor import Child, Supervisor
from incl_shared.errors import InternalError
from incl_shared.testing.wait import until

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_process_is_known_by_pid_and_start() -> None:
    child = subprocess.Popen(SLEEP)
    identity = Identity.of(child.pid)
    assert identity is not None
    assert identity.alive()
    assert not Identity(child.pid, identity.started - 100).alive()
    Identity(child.pid, identity.started - 100).send(signal.SIGKILL)
    assert child.poll() is None
    child.kill()
    child.wait()
    assert not identity.alive()
    assert Identity.of(child.pid) is None
    assert own().alive()


def test_who_does_not_listen_is_killed() -> None:
    stubborn = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    identity = Identity.of(child.pid)
    assert identity is not None
    assert identity.stop(patience=0.1) is False
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


async def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    changes: list[int] = []
    supervisor = Supervisor(Child("sleeper", SLEEP, tmp_path / "log"), lambda: changes.append(1))
    await supervisor.start()
    first = supervisor.identity
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: (now := supervisor.identity) is not None and now.pid != first.pid, timeout=10)
    assert supervisor.restarts == 1
    assert len(changes) == 2
    second = supervisor.identity
    await supervisor.stop()
    assert second is not None
    assert not second.alive()


async def test_a_child_writes_its_log(tmp_path: Path) -> None:
    child = Child(
        "talker",
        [sys.executable, "-c", "print('hello'); import time; time.sleep(60)"],
        tmp_path / "log",
        {"PYTHONUNBUFFERED": "1"},
    )
    supervisor = Supervisor(child, lambda: None)
    await supervisor.start()
    await until(lambda: "hello" in (tmp_path / "log").read_text(), timeout=10)
    await supervisor.stop()
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0


async def test_what_cannot_be_started_at_all_is_an_error(tmp_path: Path) -> None:
    supervisor = Supervisor(Child("nothing", [str(tmp_path / "nothing")], tmp_path / "log"), lambda: None)
    with pytest.raises(InternalError):
        await supervisor.start()
    await asyncio.sleep(0)
