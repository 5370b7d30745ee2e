"""A machine without processes: a boot, a disk, shims and jobs as tasks in virtual time, and the real agent above them.

Modelled: the shim and the job (`Shim`, as far as files, signals and the lease go), uploads and telemetry (ports of a
job's life), a job's own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_agent.app import Agent
from incl_agent.blobs import BlobCache
from incl_agent.life import JobLife
from incl_agent.node import Node
from incl_agent.runtimes import Launch
from incl_agent.runtimes.host import HostRuntime
from incl_agent.shim import LEASE_LOOK_S, boottime, lease_end
from incl_shared.errors import UnavailableError
from incl_shared.events.experiments import WriterCount
from incl_shared.ids import parse_job_id
from incl_shared.settings import BusSettings
from incl_shared.testing.virtual import EPOCH, HOST, Host

if TYPE_CHECKING:
    from incl_shared.bus.client import BusClient
    from incl_shared.control import JobWanted
    from simulation.world import World

_BUS = BusSettings(urls=("nats://simulated:4222",))


@dataclass
class Ran:
    """A job's process, from beginning to end, in virtual seconds. wanted_end: whether the plan had it end so."""

    job: str
    node: str
    began: float
    ended: float | None = None
    code: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """Experiment, attempt, rank."""
        return parse_job_id(self.job)


@dataclass
class Script:
    """What a job does: seconds, exit code, whether it obeys SIGTERM, and when it writes checkpoints."""

    seconds: float
    code: int
    obeys: bool
    checkpoints: tuple[float, ...] = ()


class Shim:
    """A shim and its job. What it writes into the folder is what shim.py writes."""

    def __init__(self, machine: Machine, pid: int, folder: Path, launch: Launch) -> None:
        self.machine, self.pid, self.folder, self.launch = machine, pid, folder, launch
        self.job = folder.name
        self.word: asyncio.Future[str] = machine.world.loop.create_future()
        self.over = asyncio.Event()
        self.alive = True
        self.ran: Ran | None = None
        self.killed = asyncio.Event()
        """Set to kill the job alone."""
        self._stop, self._kill = asyncio.Event(), asyncio.Event()
        self.host = Host(f"{machine.name}-shim-{pid}")
        machine.world.watch(self.host.run(self._life(), machine.world.loop))

    def signal(self, number: int) -> None:
        """A signal to the shim."""
        if number == signal.SIGTERM:
            self._stop.set()
        elif number == signal.SIGUSR1:
            self._kill.set()

    async def _life(self) -> None:
        world = self.machine.world
        await asyncio.sleep(world.numbers.uniform(0.0, 0.3))
        if not self._claim():
            self._end("")
            return
        if self.machine.lease_over(self.launch):
            self._exit(
                {"error": "the lease of the machine is over", "errno": 0, "stage": "lease", "ended": world.wall()}
            )
            self._end("failed")
            return
        self._write("child.json", {"pid": self.pid + 1, "start": self.pid, "time": world.wall()})
        self.ran = Ran(self.job, self.machine.name, world.loop.time())
        world.ran.append(self.ran)
        world.note(f"{self.machine.name}: {self.job} runs")
        if not self.word.done():
            self.word.set_result("started")
        code, cause, killed = await self._run(world.script(self.job))
        self.stopped(code)
        self._exit(
            {
                "exit_code": code, "signal": None if code is not None else int(signal.SIGKILL), "cause": cause,
                "killed": int(killed), "started": EPOCH + self.ran.began, "ended": world.wall(),
            }
        )  # fmt: skip
        self._end("")

    async def _run(self, script: Script) -> tuple[int | None, str | None, bool]:
        """(exit code, cause, killed)."""
        writing = asyncio.create_task(self._checkpoints(script))
        leasing = asyncio.create_task(self.machine.until_lease_over(self.launch))
        stopping = asyncio.create_task(self._stop.wait())
        killing, ending = asyncio.create_task(self.killed.wait()), asyncio.create_task(self._kill.wait())
        ends = {leasing, killing, ending}
        try:
            await asyncio.wait({stopping, *ends}, timeout=script.seconds, return_when=asyncio.FIRST_COMPLETED)
            if leasing.done():
                return None, "lease", True
            if ending.done():
                return None, "stop", True
            if killing.done():
                return None, None, False
            if not stopping.done():
                return script.code, None, False
            grace = self.launch.grace_s
            seconds = min(grace, 1.0) if script.obeys else grace
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            early = any(task.done() for task in ends)
            return (143, "stop", False) if script.obeys and not early else (None, "stop", True)
        finally:
            for task in (writing, stopping, *ends):
                task.cancel()

    async def _checkpoints(self, script: Script) -> None:
        passed = 0.0
        for step, when in enumerate(script.checkpoints, 1):
            await asyncio.sleep(when - passed)
            passed = when
            self.machine.checkpoints.setdefault(self.job, []).append(step)

    def stopped(self, code: int | None) -> None:
        """The job's process is gone."""
        if self.ran is not None and self.ran.ended is None:
            self.ran.ended, self.ran.code = self.machine.world.loop.time(), code
            self.machine.world.note(f"{self.machine.name}: {self.job} ended with {code}")

    def kill(self) -> None:
        """SIGKILL to the shim: its job goes on."""
        self.alive = False
        self.host.kill()
        self.over.set()
        if not self.word.done():
            self.word.set_result("")

    def _end(self, word: str) -> None:
        self.alive = False
        if not self.word.done():
            self.word.set_result(word)
        self.over.set()

    def _claim(self) -> bool:
        name = self._write(f".shim.json.{self.pid}", {"pid": self.pid, "start": self.pid, "boot": self.machine.boot})
        try:
            os.link(name, self.folder / "shim.json")
        except FileExistsError:
            return False
        except FileNotFoundError:
            return False
        finally:
            name.unlink(missing_ok=True)
        return True

    def _write(self, name: str, values: dict[str, Any]) -> Path:
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            path.write_text(json.dumps(values))
        return path

    def _exit(self, values: dict[str, Any]) -> None:
        self._write("exit.json", {key: value for key, value in values.items() if value is not None})


class Handle:
    """A ProcessHandle of a shim."""

    def __init__(self, shim: Shim) -> None:
        self.shim = shim
        self.identity = self

    @property
    def pid(self) -> int:
        """As Identity has it."""
        return self.shim.pid

    def alive(self) -> bool:
        """As Identity has it."""
        return self.shim.alive

    async def wait(self) -> None:
        """Until it has ended."""
        await self.shim.over.wait()

    def send(self, number: int) -> None:
        """A signal to it."""
        self.shim.signal(number)

    def close(self) -> None:
        """Let go."""


class Machine:
    """One machine: what is on its disk, what runs on it, and the agent that is started anew when it ends."""

    def __init__(self, world: World, name: str, cpu: float) -> None:
        self.world, self.name, self.cpu = world, name, cpu
        self.address = f"10.0.0.{1 + int(name[4:])}" if name[4:].isdigit() else ""
        self.boot = ""
        self.lives = 0
        self.shims: dict[int, Shim] = {}
        self.checkpoints: dict[str, list[int]] = {}
        self.agent: Agent | None = None
        self.host: Host | None = None
        self.on = False
        self.wall = 0.0
        self._pids = 100
        self._disk = 0
        self._starting: asyncio.TimerHandle | None = None

    @property
    def folder(self) -> Path:
        """Its disk."""
        return self.world.folder / f"{self.name}-{self._disk}"

    # --- what happens to it

    def power_on(self) -> None:
        """It boots, and starts its agent."""
        self.lives += 1
        self.boot = f"{self.name}-boot-{self.lives}"
        self.on = True
        self.start_agent()

    def power_off(self, *, keep_disk: bool = True, lose: float = 0.0) -> None:
        """All that runs is gone at once. lose: the part of the files without fsync that is lost with it."""
        self.on = False
        self.kill_agent(restart=None)
        for shim in self.shims.values():
            shim.kill()
            shim.stopped(None)
        self.shims.clear()
        self.checkpoints.clear()
        if not keep_disk:
            self._disk += 1
        elif lose:
            self._lose(lose)

    def _lose(self, part: float) -> None:
        numbers = self.world.numbers
        for folder in sorted((self.folder / "jobs").glob("*")):
            for name in ("job.json", "state.json", "shim.json", "child.json"):
                path = folder / name
                if path.exists() and numbers.random() < part:
                    path.write_bytes(b"") if numbers.random() < 0.5 else path.unlink()

    def start_agent(self) -> None:
        """The agent (re)starts."""
        self._starting = None
        if self.host is not None or not self.on:
            return
        self.host = Host(f"{self.name}")
        self.host.machine = self  # type: ignore[attr-defined]
        self.host.wall = self.wall
        self.world.watch(self.host.run(self._agent_life(), self.world.loop))

    async def _agent_life(self) -> None:
        while True:
            self.agent = agent = SimAgent(self)
            try:
                await agent.start()
            except UnavailableError as error:
                self.world.note(f"{self.name}: the agent cannot start: {error}")
                await asyncio.sleep(2.0)
                continue
            self.world.note(f"{self.name}: the agent is up")
            return

    def kill_agent(self, restart: float | None = 1.0) -> None:
        """SIGKILL; a supervisor starts it anew after so many seconds."""
        host, self.host, agent, self.agent = self.host, None, self.agent, None
        if host is not None:
            host.kill()
            self.world.drop(host)
        if agent is not None and agent._lock >= 0:
            os.close(agent._lock)
            agent._lock = -1
        if restart is not None:
            self._starting = self.world.later(restart, self.start_agent)

    # --- the agent's view

    def spawn(self, folder: Path, launch: Launch, shim: Path) -> tuple[int, int]:
        """As process.spawn_shim; the descriptor is the pid."""
        self._pids += 2
        self.shims[self._pids] = Shim(self, self._pids, folder, launch)
        return self._pids, self._pids

    def handle(self, identity: Any) -> Handle | None:
        """As ProcessHandle.open."""
        shim = self.shims.get(identity.pid)
        return Handle(shim) if shim is not None and shim.alive and identity.boot == self.boot else None

    def end_survivors(self, pid: int) -> int:
        """Kill what a dead shim left."""
        shim = self.shims.get(pid)
        if shim is None or shim.alive or shim.ran is None or shim.ran.ended is not None:
            return 0
        shim.stopped(None)
        return 1

    def lease_over(self, launch: Launch) -> bool:
        """Whether the machine's lease is over, as the shim sees it."""
        return launch.lease is not None and boottime() >= lease_end(str(launch.lease))

    async def until_lease_over(self, launch: Launch) -> None:
        """As the shim watches it."""
        if launch.lease is None:
            await asyncio.Event().wait()
        while not self.lease_over(launch):
            await asyncio.sleep(max(LEASE_LOOK_S, lease_end(str(launch.lease)) - boottime()))


class Uploads:
    """The port of a job's life: what it makes goes to the modelled registry."""

    def __init__(self, node: Node, life: JobLife) -> None:
        self._life = life
        self.store = self
        self.machine = machine_now()
        self._sent = 0
        self._draining = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Upload in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(3.0)
            with contextlib.suppress(UnavailableError):
                await self._drain()

    async def _drain(self) -> None:
        made = self.machine.checkpoints.get(self._life.job, [])
        async with self._draining:
            while self._sent < len(made):
                await self.machine.world.reach(self.machine.name)
                self.machine.world.commit(self._life.wanted, made[self._sent])
                self._sent += 1

    async def finish(self) -> list[str]:
        """The rest; the real one tries for retry_limit_s."""
        until = self.machine.world.loop.time() + self._life.node.settings.retry_limit_s
        while True:
            try:
                await self._drain()
                await self.machine.world.reach(self.machine.name)
                return []
            except UnavailableError:
                if self.machine.world.loop.time() > until:
                    raise
            await asyncio.sleep(1.0)

    async def download(self, sha256: str, path: Path) -> None:
        """A checkpoint."""
        await self.machine.world.reach(self.machine.name)
        path.write_bytes(sha256.encode())

    async def stop(self) -> None:
        """Leave the rest to the next agent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()


class Telemetry:
    """The port of a job's life: nothing is shipped; the tracker has it once the network is there."""

    def __init__(self, life: JobLife) -> None:
        self._life = life
        self._machine = machine_now()

    def start(self) -> None:
        """Nothing to do."""

    async def finish(self, words: list[str]) -> tuple[WriterCount, ...]:
        """One writer, with one record for each checkpoint."""
        return (WriterCount(writer="w1", records=len(self._machine.checkpoints.get(self._life.job, []))),)

    async def drain(self) -> None:
        """Until the tracker can be reached."""
        while True:
            try:
                await self._machine.world.reach(self._machine.name)
                return
            except UnavailableError:
                await asyncio.sleep(2.0)

    async def stop(self) -> None:
        """Nothing to do."""


class Link:
    """A job's own connection, which nothing here uses."""

    def __init__(self, node_client: BusClient, settings: BusSettings, node: str, job: JobWanted) -> None:
        self.user = job.job

    async def renew(self) -> None:
        """Nothing is open."""

    async def close(self) -> None:
        """Nothing is open."""


class SimNode(Node):
    """No real process is looked at."""

    def watch(self, job: str, shim: int, gpus: tuple[int, ...], spool: Path) -> None:
        """Nothing is measured."""

    def unwatch(self, job: str) -> None:
        """Nothing is measured."""

    def reap(self, pid: int | None = None) -> None:
        """Nothing to bury."""


class SimAgent(Agent):
    """The real agent, with a node that starts no process to find out what the machine has."""

    def __init__(self, machine: Machine) -> None:
        settings = machine.world.agent_settings(machine)
        super().__init__(settings)
        self.machine = machine

    async def _make_node(self, client: BusClient, reporter: Any) -> Node:
        probed = asyncio.Event()
        probed.set()
        return SimNode(
            settings=self.settings, client=client, reporter=reporter,
            cache=BlobCache(self.settings.cache_dir, self.settings.cache_bytes), sampler=self.sampler,
            runtimes={"host": HostRuntime()}, probed=probed, telemetry=Telemetry, machine="machine",
            sdk=self.settings.data_dir, shim=self.settings.data_dir, gpus=0, base_environment={"PATH": "/bin"},
            lease=self.lease, reserve=self.reserve, metrics=self.metrics,
        )  # fmt: skip

    async def _probe_containers(self) -> None:
        return


def machine_now() -> Machine:
    """The machine whose step this is."""
    host = HOST.get()
    assert host is not None
    machine: Machine = host.machine  # type: ignore[attr-defined]
    return machine
