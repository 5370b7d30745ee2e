"""Faults for a platform of `incl up --processes`: who is who, kill, freeze, thaw, restart, and back again.

For tests and benchmarks. A victim is found by the platform's own run file and by the files of its jobs, never by a
name in the process table; a process is its pid and its start time.

Victims: the services, `nats`, `platform` (`incl up` with all its children), `postgres` (where one was given), and
`shim` and `job` of one job (`<experiment>-<attempt>-<rank>`).
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from incl_local.layout import Layout
from incl_local.place import SERVICE_NAMES, Place, is_ready
from incl_local.processes import Identity
from incl_local.running import Running, find
from incl_local.testing import Home, wait

if TYPE_CHECKING:
    from incl_shared.testing.db import PostgresServer

BACK_S = 60.0
"""The longest that a victim may take to be there again."""
PARTS = (*SERVICE_NAMES, "nats")


class Fault(StrEnum):
    """What is done to a victim."""

    KILL = "kill"
    """SIGKILL; whoever supervises it starts it again."""
    FREEZE = "freeze"
    """SIGSTOP, and SIGCONT after a while."""
    RESTART = "restart"
    """SIGTERM: it ends in order, and is started again."""


@dataclass(frozen=True)
class Job:
    """One job of the local node that has its folder still."""

    name: str
    folder: Path

    @property
    def experiment(self) -> str:
        """Whose it is."""
        return self.name.split("-", maxsplit=1)[0]

    def process(self, which: str) -> Identity | None:
        """Its `shim`, or the `job` itself; None where it does not live."""
        name = {"shim": "shim.json", "job": "child.json"}[which]
        try:
            said: dict[str, Any] = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None
        identity = Identity.of(int(said["pid"]))
        return identity if identity is not None and _ticks(identity.pid) == int(said["start"]) else None


class Chaos:
    """The victims of one platform."""

    def __init__(self, home: Home, postgres: PostgresServer | None = None) -> None:
        self.home = home
        self.postgres = postgres

    @property
    def layout(self) -> Layout:
        """Where it lies."""
        return Layout(self.home.data)

    @property
    def place(self) -> Place:
        """Its ports and credentials."""
        return self.running().place

    def running(self) -> Running:
        """The platform as it runs now.

        Raises:
            NotFoundError: it does not run.
        """
        return find(self.layout)

    def up(self) -> None:
        """Start it, a process for each service."""
        started = self.home.incl("up", "--detach", "--processes", timeout=120)
        assert started.code == 0, started.err

    def jobs(self) -> list[Job]:
        """Every job that has a folder, by name."""
        folders = sorted((self.layout.agent / "jobs").glob("*-*-*"))
        return [Job(folder.name, folder) for folder in folders]

    def job_of(self, experiment: str) -> Job | None:
        """The newest attempt's."""
        found = [job for job in self.jobs() if job.experiment == experiment]
        return max(found, key=lambda job: int(job.name.split("-")[1]), default=None)

    def find(self, victim: str, experiment: str = "") -> list[Identity]:
        """The processes of a victim; for `shim` and `job` those of an experiment's newest attempt.

        Raises:
            AssertionError: there is none.
        """
        found: list[Identity | None]
        if victim == "postgres":
            assert self.postgres is not None, "no PostgreSQL was given"
            found = _tree(self.postgres.pid)
        elif victim == "platform":
            running = self.running()
            found = [running.identity, *running.children.values()]
        elif victim in ("shim", "job"):
            job = self.job_of(experiment)
            found = [] if job is None else [job.process(victim)]
        else:
            found = [self.running().children.get(victim)]
        alive = [identity for identity in found if identity is not None and identity.alive()]
        assert alive, f"no process of {victim} {experiment}".rstrip()
        return alive

    def kill(self, victim: str, experiment: str = "") -> None:
        """SIGKILL, and wait until it is there again where somebody starts it."""
        before = self.find(victim, experiment)
        if victim == "postgres" and self.postgres is not None:
            self.postgres.crash()
        else:
            send(before, signal.SIGKILL)
        wait(lambda: not any(identity.alive() for identity in before), 10, f"the end of {victim}")
        self._revive(victim, before)

    def restart(self, victim: str) -> None:
        """SIGTERM, and wait until it is there again."""
        before = self.find(victim)
        if victim == "platform":
            stopped = self.home.incl("down", timeout=60)
            assert stopped.code == 0, stopped.err
        elif victim == "postgres" and self.postgres is not None:
            self.postgres.stop()
        else:
            send(before, signal.SIGTERM)
            wait(lambda: not before[0].alive(), 30, f"the end of {victim}")
        self._revive(victim, before)

    @contextlib.contextmanager
    def frozen(self, victim: str, experiment: str = "") -> Any:
        """SIGSTOP while the block runs; SIGCONT at its end, whatever happens."""
        before = self.find(victim, experiment)
        send(before, signal.SIGSTOP)
        try:
            wait(lambda: all(_stopped(identity) for identity in before), 10, f"{victim} to stand")
            yield before
        finally:
            send(before, signal.SIGCONT)

    def _revive(self, victim: str, before: Sequence[Identity]) -> None:
        if victim == "platform":
            self.up()
        elif victim == "postgres":
            assert self.postgres is not None
            self.postgres.start()
        elif victim in PARTS:
            wait(lambda: self._renewed(victim, before[0]), BACK_S, f"{victim} to be started again")

    def _renewed(self, part: str, before: Identity) -> bool:
        now = self.running().children.get(part)
        return now is not None and now.pid != before.pid

    def wait_ready(self, timeout: float = BACK_S) -> None:
        """Until every service says that it is well."""
        place = self.place
        for name in SERVICE_NAMES:
            wait(lambda name=name: is_ready(place.ops_url(name), name), timeout, f"{name} to be ready")  # type: ignore[misc]


def send(identities: Sequence[Identity], number: signal.Signals) -> None:
    """A signal to each that is still itself."""
    for identity in identities:
        identity.send(number)


def freeze_for(seconds: float) -> None:
    """Let time pass for everybody but the one who stands: the length of a fault, not a wait for an event."""
    time.sleep(seconds)


def _tree(pid: int) -> list[Identity | None]:
    parent = psutil.Process(pid)
    return [Identity.of(each.pid) for each in (parent, *parent.children(recursive=True))]


def _stopped(identity: Identity) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(identity.pid).status() == psutil.STATUS_STOPPED
    return True


def _ticks(pid: int) -> int:
    """When a process started, in clock ticks since the boot; 0: it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    return 0
