"""The composition root: builds the agent, starts and stops it. Also `python -m incl_agent`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import os
import shutil
import time
import uuid
from pathlib import Path

import psutil

from incl_agent import orphans
from incl_agent.blobs import BlobCache
from incl_agent.control import ControlWatcher
from incl_agent.environment import base_environment
from incl_agent.fencing import Fence, probe
from incl_agent.gpus import Gpus
from incl_agent.journal import Journal
from incl_agent.lease import LeaseFile
from incl_agent.manager import JobManager
from incl_agent.metrics import AgentMetrics
from incl_agent.node import Node
from incl_agent.process import compile_shim
from incl_agent.reporter import Reporter
from incl_agent.reserve import Reserve
from incl_agent.runtimes import Runtime
from incl_agent.runtimes.bubblewrap import BubblewrapRuntime
from incl_agent.runtimes.containers import ContainerRuntime
from incl_agent.runtimes.host import HostRuntime
from incl_agent.sampling import Sampler
from incl_agent.sdk import place_sdk
from incl_agent.settings import AgentSettings, usable_cores
from incl_agent.telemetry import Pace, ShippedTelemetry
from incl_shared.auth.names import Role, inbox_prefix
from incl_shared.bus.client import BusClient
from incl_shared.clock import SystemClock
from incl_shared.control import NodeWanted
from incl_shared.errors import ConflictError
from incl_shared.machine import machine_hash
from incl_shared.ops import OpsServer
from incl_shared.protocol import PROTOCOL
from incl_shared.reports import NodeHello, PreemptionNotice
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.agent")
_CONNECT_S = 30.0
_CONTAINER_TOOLS = ("podman", "docker")


class Agent:
    """One agent. `start` returns once it follows its wanted state; `stop` leaves the jobs running."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        self._tasks: list[asyncio.Task[None]] = []
        self._lock = -1
        self.metrics = AgentMetrics(self.health)
        self.ops: OpsServer | None = None
        self._back = asyncio.Event()
        self._client: BusClient | None = None
        self._journal: Journal | None = None
        self._reporter: Reporter | None = None
        self._control: ControlWatcher | None = None
        self._life = uuid.uuid4().hex
        self.word = time.monotonic()
        """When the bus took our last word (monotonic), or when this began."""
        self._outlived = False
        self.gpus = Gpus()
        self.sampler = Sampler(settings.sample_s, self.gpus)
        self.manager: JobManager | None = None
        self.node: Node | None = None
        self.lease = LeaseFile(settings.data_dir / "lease", guarded=settings.guarded)
        self.reserve = Reserve(settings.data_dir / "reserve", settings.reserve_bytes)
        self.fence = Fence(
            SystemClock(),
            lambda: probe(settings.bus.urls),
            stop=self._fence_jobs,
            kill=self._kill_fenced,
            renew=self._renew,
        )

    async def start(self) -> None:
        """Connect, take up the jobs of an earlier agent, say hello, follow the wanted state.

        Raises:
            ConflictError: another agent uses the same data folder.
            UnavailableError, DeniedError: the bus cannot be reached, or refuses the node's credential.
        """
        settings = self.settings
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock_folder(settings.data_dir)
        self.reserve.keep()
        watching = asyncio.create_task(orphans.end_until_cancelled(settings.jobs_dir), name="orphans")
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        finally:
            await end_all([watching])

    async def _start(self) -> None:
        settings = self.settings
        bus = settings.bus
        if bus.inbox_prefix == "_INBOX":
            bus = bus.model_copy(update={"inbox_prefix": inbox_prefix(Role.NODE, settings.node)})
        self._client = client = await BusClient.connect(bus, timeout=_CONNECT_S, patient=True)
        client.on_disconnect(self.metrics.interrupted)
        client.on_reconnect(self.metrics.reconnected)
        self._journal = journal = Journal(settings.data_dir / "journal.db", settings.node)
        await journal.open()
        self.fence.renewed = self._renewed
        self._reporter = reporter = Reporter(client, journal, settings.node)
        self.node = node = await self._make_node(client, reporter)
        self.manager = manager = JobManager(node, self._life)
        await manager.recover()
        self.metrics.adopted.set(len(manager.jobs))
        self._control = ControlWatcher(client, journal, settings.node, settings.poll_s, self._apply)
        manager.generation = lambda: self._control.generation if self._control is not None else 0
        await reporter.say_again()
        await self._hello()
        client.on_reconnect(self._back.set)
        self._run(reporter.send_all(), "reports")
        self._run(self._after_reconnects(), "reconnects")
        self._run(self._control.run(), "control")
        self._run(reporter.heartbeats(settings.heartbeat_s, manager.heartbeat, self._heard), "heartbeats")
        self._run(self.fence.run(), "fence")
        self._run(self.sampler.run(), "samples")
        self._run(manager.keep_limits(), "limits")
        self._run(self._probe_containers(), "containers")
        await self._serve_ops()

    def _heard(self, sent: float) -> None:
        self.word = max(self.word, sent)
        self.fence.heard(sent)

    @property
    def unsent(self) -> int:
        """Reports that the bus has not taken yet."""
        return 0 if self._reporter is None else self._reporter.unsent

    async def going(self, why: str, seconds_left: float) -> None:
        """This machine is being taken away: say so, and end its jobs with their grace."""
        if self._reporter is not None and self.manager is not None:
            self._reporter.say(f"node:preempted:{self._life}", PreemptionNotice(seconds_left=seconds_left))
            self.manager.take(why)

    async def _serve_ops(self) -> None:
        settings = self.settings
        if settings.ops_port is None:
            return
        self.ops = OpsServer(port=settings.ops_port, host=settings.ops_host)
        ready = lambda: bool(self.health()["connected"])  # noqa: E731
        self.ops.add("agent", registry=self.metrics.registry, live=lambda: True, ready=ready, detail=self.health)
        await self.ops.start()

    async def stop(self) -> None:
        """Let go of everything. The jobs go on under their shims."""
        ops, self.ops = self.ops, None
        if ops is not None:
            await ops.stop()
        tasks, self._tasks = self._tasks, []
        await end_all(tasks)
        if self.manager is not None:
            await self.manager.stop()
        if self._journal is not None:
            await self._journal.close()
        if self._client is not None:
            await self._client.close()
        self._client = self._journal = self.manager = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def health(self) -> dict[str, object]:
        """For the platform's status: whether it is connected, how many jobs it holds, what failed how often."""
        manager, client, control, journal = self.manager, self._client, self._control, self._journal
        reporter, folder = self._reporter, self.settings.data_dir
        return {
            "connected": client is not None and client.connected,
            "jobs": 0 if manager is None else manager.running,
            "draining_jobs": 0 if manager is None else manager.draining,
            "draining_bytes": 0 if manager is None else manager.draining_bytes,
            "dropped_jobs": 0 if manager is None else manager.dropped,
            "fenced": self.fence.fenced,
            "disk_waits": 0 if self.node is None else self.node.disk_waits,
            "trouble": "" if journal is None else journal.trouble,
            "job_restarts": 0 if manager is None else manager.restarts,
            "journal_unsent": 0 if journal is None else journal.waiting,
            "starts": 0 if journal is None else journal.starts,
            "report_failures": 0 if reporter is None else reporter.failures,
            "disk_free_bytes": shutil.disk_usage(folder).free if folder.exists() else 0,
            "generation": -1 if control is None else control.generation,
            "failures": sum(one.failures for one in (manager, control, self.fence, self.sampler) if one is not None),
            "runtimes": [] if self.node is None else sorted(self.node.runtimes),
        }

    async def _make_node(self, client: BusClient, reporter: Reporter) -> Node:
        settings, clock = self.settings, SystemClock()
        pace = Pace(clock)
        sandbox = BubblewrapRuntime()
        sdk, shim, gpus, sandboxed = await asyncio.gather(
            asyncio.to_thread(place_sdk, settings.data_dir),
            asyncio.to_thread(compile_shim, settings.data_dir),
            asyncio.to_thread(self.gpus.count),
            sandbox.available(),
        )
        runtimes: dict[str, Runtime] = {"host": HostRuntime()}
        if sandboxed:
            runtimes[sandbox.name] = sandbox
        creds = settings.bus.creds
        return Node(
            settings=settings,
            client=client,
            metrics=self.metrics,
            reporter=reporter,
            cache=BlobCache(settings.cache_dir, settings.cache_bytes),
            sampler=self.sampler,
            runtimes=runtimes,
            probed=asyncio.Event(),
            telemetry=lambda life: ShippedTelemetry(life, clock, pace),
            machine=machine_hash(),
            sdk=sdk,
            shim=shim,
            gpus=gpus,
            base_environment=base_environment(os.environ, settings.pass_env),
            lease=self.lease,
            reserve=self.reserve,
            hidden=tuple(dict.fromkeys((settings.data_dir, *settings.hidden, *([creds.parent] if creds else ())))),
        )

    async def _probe_containers(self) -> None:
        """Whether podman or docker works here: asked beside everything else, as it may take seconds."""
        node = self.node
        if node is None:
            return
        wanted = self.settings.container_tool
        try:
            for tool in (wanted,) if wanted else _CONTAINER_TOOLS:
                runtime = ContainerRuntime(tool, self.settings.data_dir)
                if await runtime.available():
                    node.runtimes[tool] = runtime
        finally:
            node.probed.set()
        if len(node.runtimes) > 1:
            await self._hello()

    async def _after_reconnects(self) -> None:
        """A bus that was away may have lost what it had: say again what is true of this node and its jobs."""
        while True:
            await self._back.wait()
            self._back.clear()
            if self._reporter is not None:
                await self._reporter.say_again()
                await self._hello()

    async def _hello(self) -> None:
        said = self._say_hello()
        if said is not None:
            await said

    def _say_hello(self) -> asyncio.Future[None] | None:
        node, settings, manager = self.node, self.settings, self.manager
        if node is None or self._reporter is None or manager is None:
            return None
        memory = settings.memory if settings.memory is not None else memory_limit()
        hello = NodeHello(
            cpu=settings.cpu if settings.cpu is not None else usable_cores(),
            memory=memory,
            gpus=node.gpus,
            gpu_name=self.gpus.name,
            address=settings.address,
            runtimes=tuple(sorted(node.runtimes)),
            machine=node.machine,
            protocol=PROTOCOL,
            agent_version=importlib.metadata.version("incl-agent"),
            life=self._life,
            jobs=manager.jobs,
        )
        return self._reporter.say(f"node:hello:{uuid.uuid4().hex}", hello)

    def _renewed(self, sent: float) -> None:
        """The bus took a word that was sent at this monotonic time."""
        self._begin_anew()
        self._outlived = False
        self.lease.heard(sent)

    def _begin_anew(self) -> None:
        """Once the lease was over, what an older list wants may be another's work: only one that knows of a new hello
        begins anything here, as after a restart."""
        if self._outlived or not self.lease.over or self.manager is None:
            return
        _log.warning("the lease of this node was over: it says hello anew before it begins anything")
        self._outlived = True
        self._life = self.manager.life = uuid.uuid4().hex
        self.manager.doubt()
        self._say_hello()

    async def _apply(self, wanted: NodeWanted) -> None:
        if wanted.refused:
            _log.error("the platform gives this agent no work: %s", wanted.refused)
        self._begin_anew()
        self.fence.lease_s = wanted.lease_s
        self.lease.agreed(wanted.lease_s)
        if self.manager is not None:
            await self.manager.apply(wanted)

    def _fence_jobs(self, why: str) -> None:
        if self.manager is not None:
            self.manager.fence(why)

    def _kill_fenced(self) -> None:
        if self.manager is not None:
            self.manager.kill()

    async def _renew(self) -> None:
        if self._client is not None and self.manager is not None:
            await self._client.renew()
            await self.manager.renew()

    def _run(self, work: object, name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"agent {name}"))  # type: ignore[arg-type]


def create_app(settings: AgentSettings | None = None) -> Agent:
    """An agent that is not started yet; settings from the environment unless given."""
    return Agent(settings or AgentSettings())


def lock_folder(folder: Path) -> int:
    """Hold a data folder for this process; the descriptor holds it until it is closed.

    Raises:
        ConflictError: another agent has it.
    """
    import fcntl

    descriptor = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConflictError(
            f"another agent uses {folder}", cause=error.strerror or "", hint="see: incl status"
        ) from error
    return descriptor


def memory_limit() -> int:
    """Bytes that jobs may use here: the machine's, bounded by the cgroup's limit."""
    limit = int(psutil.virtual_memory().total)
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = min(limit, int(Path(name).read_text(encoding="ascii")))
    return limit


async def serve(settings: AgentSettings | None = None) -> None:
    """Run an agent until the task is cancelled."""
    agent = create_app(settings)
    await agent.start()
    try:
        await asyncio.Event().wait()
    finally:
        await agent.stop()
