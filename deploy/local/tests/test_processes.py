"""Identities of processes, and children that are started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from incl_local.bus import end_strays, server_binary
from incl_local.processes import Identity, own
from incl_local.supervisor import Child, Supervisor
from incl_shared.auth.server_config import prepare
from incl_shared.errors import InternalError
from incl_shared.testing.wait import until, until_sync

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


STARTER = """
import asyncio, sys
from pathlib import Path
from incl_local.supervisor import Child, Supervisor
async def main():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    child = Child("sleeper", command, Path(sys.argv[1]), dies_with_us=True)
    supervisor = Supervisor(child, lambda: None)
    await supervisor.start()
    print(supervisor.identity.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel has nothing of the kind")
def test_a_child_can_die_with_who_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path / "log")], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    identity = Identity.of(int(starter.stdout.readline()))
    assert identity is not None and identity.alive()
    starter.kill()
    starter.communicate()
    until_sync(lambda: not identity.alive(), 5, what="the end of its child")


def test_a_bus_that_nobody_knows_of_is_ended_before_another_one_has_its_store(tmp_path: Path) -> None:
    paths = prepare(tmp_path / "nats", -1)
    stray = subprocess.Popen([str(server_binary()), "-c", str(paths.config)], stderr=subprocess.DEVNULL)
    bystander = subprocess.Popen(SLEEP)
    try:
        until_sync(lambda: list(paths.ports_dir.glob(f"*_{stray.pid}.ports")), 10, what="it listens")
        (paths.ports_dir / f"nats-server_{bystander.pid}.ports").write_text("{}")
        (paths.ports_dir / "nats-server_x.ports").write_text("{}")
        end_strays(paths)
        stray.wait(5)
        assert bystander.poll() is None
        assert not list(paths.ports_dir.iterdir())
    finally:
        for child in (stray, bystander):
            child.kill()
            child.wait()
