"""The world of one schedule: a bus, one or two provisioners on one database, machines, a user, a registry."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from incl_agent.fencing import PROBE_S, Reach
from incl_agent.settings import AgentSettings
from incl_provisioner.app import App, create_app
from incl_provisioner.settings import ProvisionerSettings
from incl_shared.bus.client import BusClient
from incl_shared.control import JobWanted
from incl_shared.errors import InclError, UnavailableError
from incl_shared.events.base import consequence_id
from incl_shared.events.experiments import ArtifactStored, ExperimentSubmitted, StopRequested
from incl_shared.ids import derived_id, parse_job_id
from incl_shared.queries.provisioner import GetExecution
from incl_shared.settings import BusSettings
from incl_shared.spec import ExperimentSpec
from incl_shared.testing.fake_nats import FakeServer, Wire
from incl_shared.testing.virtual import EPOCH, HOST, Host, VirtualLoop
from simulation.cloud import OPTIONS, Clouds
from simulation.lite import Lite
from simulation.machine import Machine, Ran, Script, machine_now
from simulation.plan import Asked, Plan

BUS = BusSettings(urls=("nats://simulated:4222",))
PROJECT, USER = "default", "ann"
NODE_LEASE_S = 10.0
SETTINGS: dict[str, Any] = {
    "bus": BUS, "node_lease_s": NODE_LEASE_S, "tick_s": 2.0, "lease_ttl_s": 6.0, "stop_margin_s": 45.0,
    "retry_pause_s": 0.5, "patience_s": 20.0, "machine_wait_s": 150.0,
}  # fmt: skip


@functools.cache
def _provisioner_settings() -> ProvisionerSettings:
    """Made once: to make them reads the environment."""
    return ProvisionerSettings(**SETTINGS, database_url="sqlite://")


@functools.cache
def _cloud_settings() -> ProvisionerSettings:
    return ProvisionerSettings(**SETTINGS, database_url="sqlite://", cloud=OPTIONS)


@functools.cache
def _agent_settings() -> AgentSettings:
    return AgentSettings(
        bus=BUS, memory=8 << 30, heartbeat_s=3.0, poll_s=4.0, sample_s=1e6, drain_check_s=1e6, retry_limit_s=40.0,
        leave_s=20.0,
    )  # fmt: skip


class Provisioner:
    """A process of the provisioner, started anew whenever it ends."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.host: Host | None = None
        self.app: App | None = None

    def start(self) -> None:
        """It (re)starts."""
        if self.host is not None:
            return
        self.host = Host(self.name)
        self.host.wall = self.world.server_wall
        self.host.disk_s = self.world.disk_s
        self.world.watch(self.host.run(self._life(), self.world.loop))

    async def _life(self) -> None:
        while True:
            clouds = self.world.clouds
            if clouds is None:
                self.app = create_app(_provisioner_settings())
            else:
                self.app = create_app(_cloud_settings(), compute=clouds.opened)
            try:
                await self.app.start()
            except UnavailableError as error:
                self.world.note(f"{self.name} cannot start: {error}")
                await asyncio.sleep(1.0)
                continue
            self.world.note(f"{self.name} is up")
            return

    def kill(self, restart: float | None = 1.0) -> None:
        """SIGKILL; a supervisor starts it anew after so many seconds."""
        host, self.host, self.app = self.host, None, None
        if host is not None:
            host.kill()
            self.world.drop(host)
        if restart is not None:
            self.world.later(restart, self.start)

    async def restart(self) -> None:
        """As an operator does it: asked to stop, then started."""
        app, host = self.app, self.host
        if app is None or host is None or host.paused:
            return
        with contextlib.suppress(InclError, TimeoutError):
            await asyncio.wait_for(asyncio.shield(host.run(app.stop(), self.world.loop)), 15.0)
        if self.host is host:
            self.kill(0.5)


class World:
    """Everything, and what is noted of it."""

    def __init__(self, loop: VirtualLoop, plan: Plan, folder: Path, template: bytes) -> None:
        self.loop, self.plan, self.folder = loop, plan, folder
        self.numbers = random.Random(f"{plan.seed}:world")
        self.wire = Wire(random.Random(f"{plan.seed}:wire"))
        self.server = FakeServer(loop, self.wire)
        self.tasks: list[asyncio.Task[Any]] = []
        self.database = Lite(template)
        self.database_away = False
        self.on_work: dict[Host | None, Callable[[], None]] = {}
        """Told of the next piece of work that a host gives to its database."""
        self.database_slow = 0.0
        self.server_wall = 0.0
        self.ran: list[Ran] = []
        self.notes: list[str] = []
        self.logged: list[str] = []
        """Errors that the edge of some loop of the product has caught and logged."""
        self.known: set[str] = set()
        """Experiments whose submission the bus has confirmed."""
        self.stopped: set[str] = set()
        """Experiments that somebody has asked to stop."""
        self.poisoned: set[str] = set()
        self.struck = self.striking = 0
        """Faults that came, and those of them that are not healed yet."""
        self.restored = False
        """Whether the bus has lost what it had confirmed."""
        self.committed: list[tuple[str, ArtifactStored]] = []
        self.provisioners = [Provisioner(self, f"prov{n}") for n in range(plan.provisioners)]
        self.machines = [Machine(self, f"node{n}", cpu) for n, cpu in enumerate(plan.machines)]
        self.people = Host("people")
        self.clouds = Clouds(self) if plan.cloud is not None else None
        """Where machines are made, in a world that has such a place."""
        self._scripts: dict[str, Script] = {}
        self._people: BusClient | None = None
        self._neutral = Host("world")

    # --- clocks and notes

    def wall(self) -> float:
        """The right time, epoch s."""
        return EPOCH + self.loop.time()

    def note(self, text: str) -> None:
        """For who reads what happened."""
        self.notes.append(f"{self.loop.time():9.3f} {text}")

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Do something, as nobody's step."""
        timer: asyncio.TimerHandle = self.loop.call_later(seconds, call, context=self._neutral.context)
        return timer

    def disk_s(self) -> float:
        """Seconds of the next piece of work of a database."""
        given = self.on_work.get(HOST.get())
        if given is not None:
            given()
        return (
            self.numbers.uniform(0.0, 0.002)
            if not self.database_slow
            else self.numbers.uniform(0.1, self.database_slow)
        )

    # --- processes

    def watch(self, task: asyncio.Task[Any]) -> None:
        """A task that must not break."""
        self.tasks.append(task)

    def start(self) -> None:
        """Everything starts."""
        for provisioner in self.provisioners:
            provisioner.start()
        for machine in self.machines:
            machine.power_on()
        self.people.run(self._ask_all(), self.loop)
        if self.clouds is not None:
            self.people.run(self.clouds.settle(), self.loop)

    def drop(self, host: Host) -> None:
        """A process is gone: its connections and files are closed by the kernel."""
        for connection in [each for each in self.server.connections if each.host is host]:
            connection.gone()

    def close(self) -> None:
        """The end of the world."""
        for machine in self.machines:
            machine.power_off()
        self.database.close()

    def agent_settings(self, machine: Machine) -> AgentSettings:
        """Of the agent of a machine."""
        own = {"node": machine.name, "data_dir": machine.folder, "address": machine.address, "cpu": machine.cpu}
        return _agent_settings().model_copy(update=own)

    # --- who is no part of the product here

    async def reach(self, place: str) -> None:
        """A call to the registry, or to the tracker.

        Raises:
            UnavailableError: the network or the server is away.
        """
        await asyncio.sleep(self.numbers.uniform(0.01, 0.3))
        if not self.server.reachable(place):
            raise UnavailableError("the store cannot be reached")

    async def probe(self) -> Reach:
        """What an address of the bus says to a new connection of the machine whose step this is."""
        await asyncio.sleep(0.01)
        if machine_now().name in self.server.cut_off:
            await asyncio.sleep(PROBE_S)
            return Reach.CUT
        return Reach.SPEAKS if self.server.up else Reach.DUMB

    def commit(self, job: JobWanted, step: int) -> None:
        """The registry has a checkpoint, and says so until the bus has it."""
        digest = f"{job.experiment}{job.attempt}{job.rank}{step}".encode().hex()[-64:].rjust(64, "0")
        event = ArtifactStored(
            experiment=job.experiment, attempt=job.attempt, rank=job.rank,
            kind="checkpoint", path=f"step-{step}.pt", sha256=digest, size=64, step=step,
        )  # fmt: skip
        self.committed.append((job.project, event))
        self.people.run(self._say(job.project, event), self.loop)

    async def _say(self, project: str, event: ArtifactStored) -> None:
        await self._until_done(
            lambda client: client.publish_event(event, project=project, event_id=consequence_id(event, event.step))
        )

    async def client(self) -> BusClient:
        """The connection of all who are no part of the product here.

        Raises:
            UnavailableError: the bus is away.
        """
        if self._people is None:
            self._people = await BusClient.connect(BUS, timeout=10.0)
        return self._people

    async def say(self, event: Any, event_id: str) -> None:
        """Publish an event for a service that is not here."""
        await self._until_done(
            lambda client: client.publish_event(event, project=PROJECT, event_id=event_id, version=1)
        )

    async def _until_done(self, work: Callable[[BusClient], Any]) -> Any:
        while True:
            try:
                return await work(await self.client())
            except UnavailableError:
                await asyncio.sleep(1.0)

    # --- people

    async def _ask_all(self) -> None:
        for asked in self.plan.experiments:
            asyncio.create_task(self._ask(asked))  # noqa: RUF006 - the loop keeps them
        for when in self.plan.poison:
            asyncio.create_task(self._poison(when))  # noqa: RUF006

    async def _ask(self, asked: Asked) -> None:
        await asyncio.sleep(asked.at)
        event = ExperimentSubmitted(experiment=asked.experiment, spec=ExperimentSpec.model_validate(asked.spec))
        await self._publish(event, asked.experiment)
        self.known.add(asked.experiment)
        self.note(f"submitted {asked.experiment}")
        if asked.stop_at is not None:
            await asyncio.sleep(max(0.0, asked.stop_at - self.loop.time()))
            self.stopped.add(asked.experiment)
            self.note(f"stop {asked.experiment}")
            await self._publish(StopRequested(experiment=asked.experiment), derived_id(asked.experiment, "stop"))

    async def _publish(self, event: Any, event_id: str) -> None:
        await self._until_done(
            lambda client: client.publish_event(event, project=PROJECT, user=USER, event_id=event_id)
        )

    async def _poison(self, when: float) -> None:
        await asyncio.sleep(when)
        what = self.numbers.choice(("report", "request"))
        subject = "incl.report.node0" if what == "report" else f"incl.request.{PROJECT}.{USER}.experiment.nonsense"
        name = f"poison-{when:.3f}"
        self.poisoned.add(name)
        await self._until_done(lambda client: client.publish_confirmed(subject, b"{nonsense", message_id=name))

    async def insist(self) -> None:
        """After the bus has lost something: people look whether what they asked for is known, and ask again."""
        for asked in self.plan.experiments:
            if asked.experiment not in self.known:
                continue
            query = GetExecution(experiment=asked.experiment)
            view = await self._until_done(functools.partial(_asked, query))
            if not view.known:
                self.note(f"submitted again {asked.experiment}")
                event = ExperimentSubmitted(experiment=asked.experiment, spec=ExperimentSpec.model_validate(asked.spec))
                await self._publish(event, asked.experiment)
            if asked.experiment in self.stopped:
                await self._publish(StopRequested(experiment=asked.experiment), derived_id(asked.experiment, "again"))

    def script(self, job: str) -> Script:
        """What a job does, by the plan."""
        if job not in self._scripts:
            experiment, attempt, rank = parse_job_id(job)
            asked = next(each for each in self.plan.experiments if each.experiment == experiment)
            self._scripts[job] = asked.script(attempt, rank)
        return self._scripts[job]

    # --- looking

    def rows(self, query: str) -> list[sqlite3.Row]:
        """What the provisioner's database has."""
        return self.database.rows(query)

    def buried(self) -> int:
        """How many dead letters there are."""
        return sum(stream == "DEAD" for stream, _ in self.server.jetstream.stored) if self.plan.poison else 0

    def settled(self) -> bool:
        """Whether nothing is left to do."""
        if len(self.known) < len(self.plan.experiments) or self.buried() < (
            0 if self.restored else len(self.plan.poison)
        ):
            return False
        live = self.rows("SELECT (SELECT count(*) FROM experiments WHERE live = 1) + (SELECT count(*) FROM outbox)")
        if live[0][0] or len(self.rows("SELECT id FROM experiments")) < len(self.known):
            return False
        if any(ran.ended is None for ran in self.ran):
            return False
        if self.clouds is not None and not self.clouds.settled():
            return False
        agents = [machine.agent for machine in self.machines if machine.on]
        return all(agent is not None and agent.manager is not None and not agent.manager.jobs for agent in agents)


async def _asked(query: GetExecution, client: BusClient) -> Any:
    return await client.ask(query, project=PROJECT, user=USER)
