"""The jobs of this node: what is wanted against what is there."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from incl_agent.draining import Limits, Waiting, to_drop
from incl_agent.jobfiles import JobFiles
from incl_agent.life import JobLife
from incl_agent.node import Node
from incl_shared.control import JobWanted, NodeWanted, Wanted
from incl_shared.events.experiments import RankTimes
from incl_shared.ids import parse_job_id
from incl_shared.reports import JobEnded, NodeHeartbeat, NodeVitals
from incl_shared.states import EndReason
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.agent")
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_MOST_BREAKS = 5
_CLEANING_UP_S = 5.0
_WAY_S = 5.0
"""An earlier attempt that is not wanted any more may take so long to end, once the next one is ready to begin."""
_JOB = re.compile(r"^[0-9a-z]{26}-\d+-\d+$")


@dataclass
class _Held:
    life: JobLife
    task: asyncio.Task[None]
    unwanted: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether nothing but its telemetry is left."""
        return self.life.said.is_set() and not self.task.done()


class JobManager:
    """Starts a task for each job, tells it of newer wishes, and clears away what is not wanted any more."""

    def __init__(self, node: Node, life: str = "") -> None:
        """life: names this process to the provisioner; see `apply`."""
        self._node = node
        node.clear_way = self.clear_way
        self.life = life
        self._held: dict[str, _Held] = {}
        self.generation: Callable[[], int] = lambda: 0
        self.failures = 0
        self.restarts = 0
        """Times that the task of a job broke and was begun again."""
        self.draining_bytes = 0
        """Bytes of telemetry of jobs that are not wanted any more, when last looked at."""
        self.dropped = 0
        """Jobs whose telemetry had to be dropped."""

    @property
    def jobs(self) -> tuple[str, ...]:
        """Ids of the jobs that this node holds, ended ones included until they are cleared away."""
        return tuple(sorted(self._held))

    @property
    def running(self) -> int:
        """Jobs whose task is at work, those left out that have ended and wait to be stored."""
        return sum(1 for held in self._held.values() if not held.task.done() and not held.draining)

    @property
    def draining(self) -> int:
        """Jobs that have ended and whose telemetry is not stored yet."""
        return sum(1 for held in self._held.values() if held.draining)

    async def keep_limits(self) -> None:
        """For ever: drop the oldest of what waits to be stored, where there is too much of it."""
        settings = self._node.settings
        limits = Limits(settings.drain_bytes, settings.drain_age_s, settings.drain_free_bytes)
        while True:
            await asyncio.sleep(settings.drain_check_s)
            try:
                await self._keep_limits(limits)
            except Exception:  # noqa: BLE001 - the edge of the loop
                self.failures += 1
                _log.exception("what waits to be stored could not be looked at")

    async def _keep_limits(self, limits: Limits) -> None:
        held = {name: one for name, one in self._held.items() if one.draining and one.unwanted is not None}
        waiting, free = await asyncio.to_thread(_measure, self._node.settings.data_dir, held)
        self.draining_bytes = sum(one.size for one in waiting)
        for one, reason in to_drop(waiting, limits, now=time.time(), free=free):
            self.dropped += 1
            _log.error(
                "the telemetry of job %s (%d bytes) is lost, it is not stored and must go: %s",
                one.job,
                one.size,
                reason,
            )
            await end_all((held[one.job].task,), _CLEANING_UP_S)

    def heartbeat(self) -> NodeHeartbeat:
        """What the node says of itself every few seconds."""
        self._node.reap()
        return NodeHeartbeat(jobs=self.jobs, generation=max(0, self.generation()), vitals=self._vitals())

    def _vitals(self) -> NodeVitals:
        disk = shutil.disk_usage(self._node.settings.data_dir)
        ended = [held.life.state.ended for held in self._held.values() if held.draining]
        return NodeVitals(
            disk_free=disk.free,
            disk_total=disk.total,
            draining=len(ended),
            draining_bytes=self.draining_bytes,
            draining_s=max((time.time() - moment for moment in ended if moment), default=0.0),
            unsent=self._node.reporter.unsent,
        )

    async def recover(self) -> None:
        """Take up what an earlier agent of this folder had."""
        found = await asyncio.to_thread(self._find)
        for files, wanted in found:
            self._hold(files, wanted, begun=await self._node.reporter.said(f"{wanted.job}:started"))
        if found:
            _log.info("took up %d jobs", len(found))

    def _find(self) -> list[tuple[JobFiles, JobWanted]]:
        root, found = self._node.settings.jobs_dir, []
        root.mkdir(parents=True, exist_ok=True)
        for path in sorted(root.iterdir()):
            files = JobFiles(path)
            wanted = files.load_wanted() if _is_job(path.name) else None
            if wanted is not None:
                found.append((files, wanted))
            elif _is_job(path.name):
                files.remove()
        return found

    async def apply(self, wanted: NodeWanted) -> None:
        """Bring the jobs to a newer wanted state. The list is complete.

        A list that does not know of this process' hello begins nothing: it may name a job that was begun here by an
        earlier one, of which nothing is left.
        """
        listed = {job.job for job in wanted.jobs}
        known = wanted.life in ("", self.life)
        for job in wanted.jobs:
            held = self._held.get(job.job)
            if held is not None:
                held.life.want(job)
            elif job.wanted is Wanted.STOP:
                self._never_started(job)
            elif known:
                held = self._hold(JobFiles(self._node.settings.jobs_dir / job.job), job)
            if held is not None and known:
                held.life.asked.set()
        for name, held in self._held.items():
            if name not in listed and held.unwanted is None:
                held.unwanted = asyncio.create_task(self._clear(name, held))

    def doubt(self) -> None:
        """What has not started waits for a list that knows of the hello that is said now."""
        for held in self._held.values():
            held.life.asked.clear()

    def fence(self, why: str) -> None:
        """This node is cut off: its jobs end before others are given their work."""
        for held in self._held.values():
            held.life.fence(why)

    def take(self, why: str) -> None:
        """This machine is being taken away: its jobs end with their grace."""
        for held in self._held.values():
            held.life.take(why)

    @property
    def unended(self) -> int:
        """Jobs whose end is not said yet."""
        return sum(1 for held in self._held.values() if not held.life.said.is_set() and not held.task.done())

    def kill(self) -> None:
        """What still runs of the fenced is killed."""
        for held in self._held.values():
            if held.life.state.fenced:
                held.life.kill()

    async def clear_way(self, job: JobWanted) -> None:
        """Until no process of an earlier attempt of this experiment runs here; what lingers, unwanted, is killed."""
        while earlier := self._earlier(job):
            await _either(earlier, earlier.life.over, _WAY_S)
            if earlier.unwanted is not None and not earlier.life.over.is_set():
                _log.warning("job %s waits for the end of %s, which is killed", job.job, earlier.life.job)
                earlier.life.kill()

    def _earlier(self, job: JobWanted) -> _Held | None:
        for held in self._held.values():
            other = held.life.wanted
            mine = other.experiment == job.experiment and other.attempt < job.attempt
            if mine and not held.life.over.is_set() and not held.task.done():
                return held
        return None

    async def renew(self) -> None:
        """Open the jobs' connections anew: packets got lost, and theirs may hang."""
        for held in list(self._held.values()):
            await held.life.link.renew()

    async def stop(self) -> None:
        """Let go of all jobs. Their shims go on; the next agent finds them."""
        tasks = [task for held in self._held.values() for task in (held.task, held.unwanted) if task is not None]
        await end_all(tasks, _CLEANING_UP_S)

    def _hold(self, files: JobFiles, wanted: JobWanted, *, begun: bool = False) -> _Held:
        life = JobLife(self._node, files, wanted, asyncio.Event(), begun=begun)
        held = self._held[wanted.job] = _Held(life, self._task(life))
        return held

    def _begin(self, held: _Held, life: JobLife) -> None:
        held.life, held.task = life, self._task(life)

    def _task(self, life: JobLife) -> asyncio.Task[None]:
        return asyncio.create_task(self._keep_alive(life), name=f"job {life.job}")

    async def _keep_alive(self, life: JobLife) -> None:
        """Run a job's life; should it break on a fault of ours, take it up again, later each time.

        One that breaks again and again after its command has ended is left as it is, so that its place gets free.
        """
        delay, breaks = _FIRST_RETRY_S, 0
        while True:
            try:
                await life.run()
            except Exception as error:  # noqa: BLE001 - the edge of the loop
                self.failures += 1
                self.restarts += 1
                if self._no_room(life, error):
                    delay = _FIRST_RETRY_S
                else:
                    _log.exception("job %s: its task broke and is begun again", life.job)
                    breaks += 1
                if breaks >= _MOST_BREAKS and life.over.is_set():
                    life.leave(f"the agent could not count or store what it made: {type(error).__name__}")
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LAST_RETRY_S)
            fresh = JobLife(self._node, life.files, life.wanted, life.asked)
            if life.stop_wanted:
                fresh.stop()
            held = self._held.get(life.job)
            if held is not None:
                held.life = fresh
            life = fresh

    def _no_room(self, life: JobLife, error: Exception) -> bool:
        """Whether the disk of this machine is full: then the job waits for room, however long."""
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            self._node.no_room(life.job)
            if not life.lives:
                self._node.reserve.give_up()
        return full

    def _never_started(self, job: JobWanted) -> None:
        """A stop for a job that was never here: say so, as somebody waits for its end."""
        self._node.reporter.say(
            f"{job.job}:ended",
            JobEnded(
                experiment=job.experiment,
                attempt=job.attempt,
                rank=job.rank,
                times=RankTimes(rank=job.rank),
                reason=EndReason.STOPPED,
                message="stopped before it started",
            ),
        )

    async def _clear(self, name: str, held: _Held) -> None:
        """Not wanted any more: end it, ship its telemetry for as long as it takes, and remove its folder."""
        held.life.stop()
        await _either(held, held.life.over)
        await _either(held, held.life.said, self._node.settings.leave_s)
        if not held.task.done() and not held.life.said.is_set():
            _log.warning("job %s is not wanted, and what it made cannot be stored: it is left out", name)
            await end_all((held.task,), _CLEANING_UP_S)
            held.life.leave()
            self._begin(held, JobLife(self._node, held.life.files, held.life.wanted, held.life.asked))
            await _either(held, held.life.said)
        await asyncio.to_thread(held.life.files.trim)
        await asyncio.wait({held.task})
        try:
            await asyncio.to_thread(held.life.files.remove)
            self._node.reporter.forget(name)
        except OSError as error:
            self.failures += 1
            _log.warning("job %s cannot be removed: %s", name, error)
        self._held.pop(name, None)


async def _either(held: _Held, event: asyncio.Event, seconds: float | None = None) -> None:
    """Until the event is set, the job's task is done, or the time is over."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({held.task, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all((waiting,))


def _measure(folder: Path, held: Mapping[str, _Held]) -> tuple[list[Waiting], int]:
    waiting = [Waiting(name, one.life.state.ended or 0.0, one.life.files.size()) for name, one in held.items()]
    return waiting, shutil.disk_usage(folder).free


def _is_job(name: str) -> bool:
    if _JOB.fullmatch(name) is None:
        return False
    try:
        parse_job_id(name)
    except ValueError:
        return False
    return True
