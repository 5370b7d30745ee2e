"""An agent that runs nothing: it follows the wanted list of a node over a real bus and reports what its script says."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nats.aio.subscription import Subscription

from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import CONTROL
from incl_shared.control import JobWanted, NodeWanted, Wanted
from incl_shared.events.experiments import RankTimes, WriterCount
from incl_shared.ids import new_id
from incl_shared.protocol import PROTOCOL
from incl_shared.reports import (
    AnyReport,
    JobEnded,
    JobPreparing,
    JobReady,
    JobStarted,
    JobUploading,
    NodeHeartbeat,
    NodeHello,
    Report,
)
from incl_shared.states import EndReason
from incl_shared.tasks import end_all

_BASE_PORT = 40_000


@dataclass(frozen=True)
class Script:
    """What a job does. seconds: how long it runs; none: until it is told to stop. ready: whether it ever gets ready."""

    reason: EndReason = EndReason.COMPLETED
    exit_code: int | None = 0
    seconds: float | None = 0.0
    ready: bool = True
    stops: bool = True
    """Whether it obeys a stop."""
    message: str = ""
    image: str | None = None
    """The digest that its node finds for the image."""


@dataclass(slots=True)
class Held:
    """A job that the agent holds."""

    wanted: JobWanted
    script: Script
    ready: bool = False
    running: bool = False
    times: dict[str, float] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None


class FakeAgent:
    """One node. Give `script` to say what each job does."""

    def __init__(
        self,
        client: BusClient,
        node: str = "local",
        *,
        cpu: float = 2.0,
        memory: int = 8 << 30,
        gpus: int = 0,
        address: str = "127.0.0.1",
        runtimes: tuple[str, ...] = ("host",),
        script: Callable[[JobWanted], Script] = lambda _: Script(),
        beat_s: float | None = 0.2,
        look_s: float = 0.5,
        ahead_s: float = 0.0,
        protocol: int = PROTOCOL,
    ) -> None:
        """ahead_s: by which its machine's clock is off. protocol: what it says that it speaks."""
        self.client = client
        self.node = node
        self.cpu, self.memory, self.gpus, self.address, self.runtimes = cpu, memory, gpus, address, runtimes
        self.script = script
        self.held: dict[str, Held] = {}
        self.killed: list[str] = []
        """Jobs that were taken off the list while they ran."""
        self.lists: list[NodeWanted] = []
        self.started: list[str] = []
        self.generation = 0
        self.protocol = protocol
        self.repeats = 0
        self._subscription: Subscription | None = None
        self._journal = new_id()
        self._seq = 0
        self._beat_s = beat_s
        self._look_s = look_s
        self._ahead_s = ahead_s
        self._tasks: list[asyncio.Task[None]] = []
        self._done: set[str] = set()

    async def start(self, *, hello: bool = True) -> None:
        """Say hello, and follow the wanted list."""
        if hello:
            await self.hello()
        self._subscription = await self.client.subscribe(subjects.control(self.node), self._received)
        self._tasks.append(asyncio.create_task(self._look()))
        if self._beat_s is not None:
            self._tasks.append(asyncio.create_task(self._beat(self._beat_s)))

    async def stop(self) -> None:
        """Fall silent, and hear nothing any more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and self.client.connected:
            await subscription.unsubscribe()
        await end_all([*self._tasks, *(held.task for held in self.held.values())])
        self._tasks.clear()

    async def hello(self, jobs: tuple[str, ...] | None = None) -> None:
        """The agent (re)started, and holds these."""
        await self.say(
            NodeHello(
                cpu=self.cpu, memory=self.memory, gpus=self.gpus, address=self.address, runtimes=self.runtimes,
                jobs=tuple(self.held) if jobs is None else jobs, life=self._journal, protocol=self.protocol,
            )
        )  # fmt: skip

    async def say(self, body: AnyReport) -> None:
        """Report something, and `repeats` times more, as other messages of the same number."""
        beat = isinstance(body, NodeHeartbeat)
        if not beat:
            self._seq += 1
        report = Report(
            node=self.node, journal=self._journal, seq=0 if beat else self._seq, time=self._now(), body=body
        )  # fmt: skip
        message_id = new_id() if beat else f"{self.node}:{self._journal}:{self._seq}"
        payload = report.model_dump_json().encode()
        await self.client.publish_confirmed(subjects.report(self.node), payload, message_id=message_id)
        for number in range(self.repeats):
            await self.client.publish_confirmed(
                subjects.report(self.node), payload, message_id=f"{message_id}-{number}"
            )  # fmt: skip

    async def _beat(self, every: float) -> None:
        while True:
            await self.say(NodeHeartbeat(jobs=tuple(self.held), generation=self.generation))
            await asyncio.sleep(every)

    async def _look(self) -> None:
        """Read the wanted list again and again: what is pushed can be lost."""
        while True:
            with contextlib.suppress(Exception):
                stored = await self.client.last(CONTROL, subjects.control(self.node))
                if stored is not None:
                    await self._obey(NodeWanted.model_validate_json(stored.payload))
            await asyncio.sleep(self._look_s)

    async def _received(self, _: str, payload: bytes, __: Mapping[str, str]) -> None:
        await self._obey(NodeWanted.model_validate_json(payload))

    async def _obey(self, wanted: NodeWanted) -> None:
        if wanted.generation <= self.generation:
            return
        self.generation = wanted.generation
        self.lists.append(wanted)
        listed = {job.job: job for job in wanted.jobs}
        for gone in [job for job in self.held if job not in listed]:
            held = self.held.pop(gone)
            self.killed.append(gone)
            if held.task is not None:
                held.task.cancel()
        for name, job in listed.items():
            if name not in self._done:
                self._follow(name, job)

    def _follow(self, name: str, job: JobWanted) -> None:
        held = self.held.get(name)
        if held is None:
            held = self.held[name] = Held(job, self.script(job))
            held.task = asyncio.create_task(self._prepare(name, held))
        held.wanted = job
        if job.wanted is Wanted.STOP and held.script.stops:
            if held.task is not None:
                held.task.cancel()
            held.task = asyncio.create_task(self.end(name, EndReason.STOPPED, None))
        elif job.wanted is Wanted.RUN and held.ready and not held.running:
            held.running = True
            held.task = asyncio.create_task(self._run(name, held))

    async def _prepare(self, name: str, held: Held) -> None:
        held.times["preparing"] = self._now()
        job = held.wanted
        await self.say(JobPreparing(**self._key(job), times=self._times(held)))
        if not held.script.ready:
            return
        held.ready = True
        held.times["prepared"] = self._now()
        if job.spec.nodes > 1:
            await self.say(JobReady(**self._key(job), times=self._times(held), port=_BASE_PORT + job.rank))
        if held.wanted.wanted is Wanted.RUN and not held.running:
            held.running = True
            await self._run(name, held)

    async def _run(self, name: str, held: Held) -> None:
        held.times["started"] = self._now()
        self.started.append(name)
        await self.say(JobStarted(**self._key(held.wanted), times=self._times(held)))
        if held.script.seconds is None:
            return
        await asyncio.sleep(held.script.seconds)
        await self.end(name, held.script.reason, held.script.exit_code, held.script.message)

    async def end(self, name: str, reason: EndReason, exit_code: int | None, message: str = "") -> None:
        """The job's end, reported in full."""
        held = self.held[name]
        held.times["ended"] = self._now()
        if held.running:
            uploading = JobUploading(**self._key(held.wanted), times=self._times(held), exit_code=exit_code)
            await self.say(uploading)
        held.times["uploaded"] = self._now()
        self._done.add(name)
        self.held.pop(name, None)
        await self.say(
            JobEnded(
                **self._key(held.wanted), times=self._times(held), reason=reason, exit_code=exit_code,
                message=message, writers=(WriterCount(writer="w1", records=3),),
            )
        )  # fmt: skip

    def _now(self) -> float:
        return time.time() + self._ahead_s

    def _key(self, job: JobWanted) -> dict[str, str | int]:
        return {"experiment": job.experiment, "attempt": job.attempt, "rank": job.rank}

    def _times(self, held: Held) -> RankTimes:
        image = held.script.image if "prepared" in held.times else None
        return RankTimes(rank=held.wanted.rank, image=image, **held.times)
