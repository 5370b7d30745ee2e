"""The life of one job on this node, as phases that a restarted agent can take up at any point.

preparing -> ready -> starting -> running -> uploading -> ended. After that its telemetry is shipped until the tracker
has stored all of it, beside the jobs that have its place by then. What cannot be seen otherwise is written into the
job's folder: a port that was told (ready), that a shim may have been started (starting), the end. The rest is there
already: the shim's own files say whether the command runs or has ended. What a phase says goes through the journal,
which takes each report once; the shim starts the command once, however often it is asked. So a phase may simply be
done again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from incl_agent import endings
from incl_agent.endings import End
from incl_agent.jobfiles import JobFiles, JobState, Phase
from incl_agent.link import JobLink
from incl_agent.node import Node
from incl_agent.preparing import Preparation
from incl_agent.process import ProcessHandle, boot_id, end_survivors, read_line, spawn_shim
from incl_agent.runtimes import RuntimeFailure
from incl_agent.runtimes.containers import ContainerRuntime
from incl_agent.uploading import Uploads
from incl_shared.control import JobWanted, Wanted
from incl_shared.errors import InclError
from incl_shared.reports import AnyReport, JobEnded, JobPreparing, JobReady, JobStarted, JobUploading
from incl_shared.states import EndReason
from incl_shared.tasks import end_all

T = TypeVar("T")
_log = logging.getLogger("incl.agent")
_ORDER = (Wanted.PREPARE, Wanted.RUN, Wanted.STOP)


class Stopped(Exception):  # noqa: N818
    """A stop was wanted before the command ran."""


class JobLife:
    """Drives one job. `run` returns when the job has ended; it can be cancelled, and begun again by another agent."""

    def __init__(
        self, node: Node, files: JobFiles, wanted: JobWanted, asked: asyncio.Event, *, begun: bool = False
    ) -> None:
        """begun: an earlier agent has said that the command runs.

        asked: set while a list that knows of this agent's hello has the job. What was only prepared starts no sooner:
        since it was listed, its work may have been given to another machine.
        """
        self.asked = asked
        self._begun = begun
        self.node = node
        self.files = files
        self.wanted = wanted
        self.state: JobState = files.load_state()
        self.link = JobLink(node.client, node.settings.bus, node.settings.node, wanted)
        self._run_wanted = asyncio.Event()
        self._stop_wanted = asyncio.Event()
        self.over = asyncio.Event()
        """Set once no process of the job runs, or ever will."""
        self.said = asyncio.Event()
        """Set once its end is said. What is left is telemetry alone."""
        self.telemetry = node.telemetry(self)
        self.uploads = Uploads(node, self)
        self._note_wanted()

    @property
    def stop_wanted(self) -> bool:
        """Whether it is to end."""
        return self._stop_wanted.is_set()

    @property
    def lives(self) -> bool:
        """Whether its shim runs."""
        shim = self.files.shim()
        handle = None if shim is None else ProcessHandle.open(shim)
        if handle is not None:
            handle.close()
        return handle is not None

    @property
    def job(self) -> str:
        """The job's id."""
        return self.wanted.job

    def want(self, wanted: JobWanted) -> None:
        """A newer wish; wishes only go forward."""
        if _ORDER.index(wanted.wanted) < _ORDER.index(self.wanted.wanted):
            return
        before, self.wanted = self.wanted, wanted
        if (wanted.wanted, wanted.rendezvous) != (before.wanted, before.rendezvous) and self.files.root.exists():
            self.files.save_wanted(wanted)
        self._note_wanted()

    def stop(self) -> None:
        """It is not wanted any more."""
        self._stop_wanted.set()

    def fence(self, why: str) -> None:
        """This node is cut off: end the job before its work is given to another one. What has ended stays so."""
        if self.state.phase in (Phase.UPLOADING, Phase.ENDED) or self.stop_wanted:
            return
        self.state.fenced = why
        self._stop_wanted.set()
        with contextlib.suppress(OSError):  # a full disk, or no folder yet: an agent that starts anew says "stopped"
            self.files.save_state(self.state)

    def take(self, why: str) -> None:
        """This machine is being taken away: end the job with its grace, and store what it made."""
        if self.state.phase in (Phase.UPLOADING, Phase.ENDED) or self.stop_wanted:
            return
        self.state.taken = why
        self._stop_wanted.set()
        with contextlib.suppress(OSError):
            self.files.save_state(self.state)

    def kill(self) -> None:
        """What still runs of it is killed, whatever its grace."""
        shim = None if self.over.is_set() else self.files.shim()
        handle = None if shim is None else ProcessHandle.open(shim)
        if handle is not None:
            handle.send(signal.SIGUSR1)
            handle.close()

    def _note_wanted(self) -> None:
        if self.wanted.wanted is Wanted.STOP:
            self._stop_wanted.set()
        elif self.wanted.wanted is Wanted.RUN:
            self._run_wanted.set()

    async def run(self) -> None:
        """Go through all phases that are left."""
        try:
            if self.state.phase is not Phase.ENDED:
                await self._phases()
            self.over.set()
            await self._say_ended()
            self.said.set()
            await self.uploads.stop()
            await self._drain()
        finally:
            await self.uploads.stop()
            await self.telemetry.stop()
            await self.link.close()

    async def _phases(self) -> None:
        if self.state.boot not in ("", boot_id()) and self.state.phase is not Phase.UPLOADING:
            await self._end(endings.rebooted())
            return
        if self._begun and self.files.shim() is None:  # the journal is synced to the disk, the folder is not
            await self._end(endings.rebooted())
            return
        if self.state.phase in (Phase.PREPARING, Phase.READY, Phase.STARTING):
            refused = await self._begin()
            if refused is not None:
                await self._end(refused)
                return
        self.telemetry.start()
        self.uploads.start()
        if self.state.phase is Phase.RUNNING:
            await self._follow()
        await self._finish()

    # --- before the command runs

    async def _begin(self) -> End | None:
        """Prepare, wait for the wish to run, start. Returns why it did not come to that."""
        try:
            if self.state.phase is not Phase.STARTING:
                launch = await self._unless_stopped(self._prepare())
            else:
                launch = None
            return await self._start(launch)
        except Stopped:
            return self._stopped(endings.stopped_before_start())
        except RuntimeFailure as failure:
            return End(failure.reason, failure.message, failure.hint)
        except InclError as error:
            return endings.from_error(error)

    async def _prepare(self) -> Preparation:
        preparation = Preparation(self.node, self)
        if self.state.phase is Phase.PREPARING:
            self.state.boot = boot_id()
            self.state.preparing = self.state.preparing or time.time()
            self.say("preparing", JobPreparing(**self.place(), times=self.times()))
            await preparation.fetch()
            self.state.prepared = _since(self.state.preparing)
            self.state.phase = Phase.READY
            if not self._run_wanted.is_set():
                self.files.save_state(self.state)
        self.say("ready", JobReady(**self.place(), times=self.times(), port=self.state.port or 1))
        await self._run_wanted.wait()
        return preparation

    async def _start(self, preparation: Preparation | None) -> End | None:
        """Start the command, once over all agents that ever try."""
        if self._stop_wanted.is_set() and self.files.bar_shims():
            return self._stopped(endings.stopped_before_start())
        if self.files.shim() is None:
            await self._until_asked()  # with the list comes how long the lease is, which the shim is to watch
            preparation = preparation or Preparation(self.node, self)
            launch = await self._unless_stopped(preparation.launch())
            if self.node.clear_way is not None:
                await self._unless_stopped(self.node.clear_way(self.wanted))
            await self._until_asked()
            self.state.phase = Phase.STARTING
            self.files.save_state(self.state)
            pid, pipe = spawn_shim(self.files.root, launch, self.node.shim)
            self.node.children.add(pid)
            word = await read_line(pipe)
            if not word:
                await self._settle_claim(pid)
        else:
            word = ""
        shim = self.files.shim()
        if shim is None:
            return endings.no_shim(self.files.shim_errors())
        exit_ = None if word == "started" else self.files.exit()
        if exit_ is not None and exit_.error is not None:
            await self._bury()
            return endings.not_started(exit_, self.wanted.spec.command[0])
        self.state.started = max(self.files.child_time() or time.time(), self.state.prepared or 0.0)
        self.state.phase = Phase.RUNNING
        self.say("started", JobStarted(**self.place(), times=self.times()))
        return None

    async def _until_asked(self) -> None:
        while not self.asked.is_set():
            await self._unless_stopped(self.asked.wait())

    async def _settle_claim(self, pid: int) -> None:
        """Our shim ended without a word: another one holds the job, or it could not even begin."""
        self.node.reap(pid)
        shim = self.files.shim()
        handle = None if shim is None else ProcessHandle.open(shim)
        if handle is None:
            return
        try:
            while self.files.child_time() is None and self.files.exit() is None and handle.identity.alive():  # noqa: ASYNC110 - a file of another process
                await asyncio.sleep(0.02)
        finally:
            handle.close()

    # --- while it runs, and after

    async def _follow(self) -> None:
        """Until the shim has ended; a wish to stop goes to the shim, which sees to grace and kill."""
        shim = self.files.shim()
        handle = None if shim is None else ProcessHandle.open(shim)
        if handle is not None:
            self.node.watch(self.job, handle.identity.pid, self.wanted.spec.gpus, self.files.spool)
            waiting = asyncio.create_task(handle.wait())
            stopping = asyncio.create_task(self._stop_wanted.wait())
            try:
                await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    handle.send(signal.SIGTERM)
                await waiting
            finally:
                await end_all((waiting, stopping))
                handle.close()
                self.node.unwatch(self.job)
        await self._bury()
        self._note_exit()

    async def _bury(self) -> None:
        shim = self.files.shim()
        if shim is None:
            return
        self.node.reap(shim.pid)
        if self.files.exit() is None and shim.boot == boot_id():
            count = await asyncio.to_thread(end_survivors, shim.pid, shim.start, f"INCL_JOB={self.job}")
            _log.error("the shim of job %s died; %d processes of it were killed", self.job, count)
            runtime = self.node.runtimes.get(self.state.runtime)
            if isinstance(runtime, ContainerRuntime):
                await runtime.remove(self.job)

    def _stopped(self, end: End) -> End:
        if self.state.taken:
            return endings.taken(end, self.state.taken)
        if self.state.fenced:
            return endings.fenced(end, self.state.fenced)
        return end if self._stop_wanted.is_set() else endings.from_outside(end)

    def _note_exit(self) -> None:
        """The exit, as the user's command made it, into the state."""
        exit_ = self.files.exit()
        runtime = self.node.runtimes.get(self.state.runtime)
        if exit_ is None and self.node.reserve.given:
            end = self._stopped(endings.no_room(self.node.settings.node))
        else:
            end = self._stopped(endings.of_exit(exit_, runtime, self.files, self.wanted.spec))
        self.state.ended = _since(self.state.started) if exit_ is None else max(exit_.ended, self.state.started or 0.0)
        self.state.exit_code, self.state.signal = end.exit_code, end.signal
        self.state.reason, self.state.message, self.state.hint = end.reason, end.message, end.hint
        self.state.phase = Phase.UPLOADING

    async def _finish(self) -> None:
        """The rest of the telemetry and all outputs, then the end."""
        state = self.state
        self.over.set()
        self.say(
            "uploading",
            JobUploading(**self.place(), times=self.times(), exit_code=state.exit_code, signal=state.signal),
        )
        end = End(state.reason or EndReason.INFRA, state.message, state.hint, state.exit_code, state.signal)
        words: list[str] = []
        try:
            words = await self.uploads.finish()
        except InclError as error:
            _log.warning("outputs of job %s could not be stored: %s", self.job, error)
            end = endings.not_stored(end, error)
            words = [end.message]
        state.writers = [count.model_dump() for count in await self.telemetry.finish(words)]
        await self._end(end)

    async def _end(self, end: End) -> None:
        state = self.state
        self.over.set()
        state.reason, state.message, state.hint = end.reason, end.message, end.hint
        state.exit_code, state.signal = end.exit_code, end.signal
        state.uploaded = _since(state.ended or state.started or state.preparing)
        state.ended = state.ended or state.uploaded
        state.phase = Phase.ENDED
        self.files.save_state(state)

    async def _say_ended(self) -> None:
        state = self.state
        await self.say(
            "ended",
            JobEnded(
                **self.place(),
                times=self.times(),
                reason=state.reason or EndReason.INFRA,
                exit_code=state.exit_code,
                signal=state.signal,
                message=state.message[:4000],
                hint=state.hint,
                writers=state.writer_counts(),
            ),
        )

    async def _drain(self) -> None:
        """Until the tracker has stored what the job said. Its folder is needed no longer then."""
        if self.state.drained or not self.files.root.exists():
            return
        await self.telemetry.drain()
        self.state.drained = True
        self.files.save_state(self.state)

    def leave(self, fault: str = "") -> None:
        """Its outputs could not be stored (in time, or for a fault of ours): end it as it is. Not while it runs."""
        if self.state.phase is not Phase.ENDED:
            self.state.reason = EndReason.INFRA if fault else self.state.reason or EndReason.INFRA
            self.state.message = fault or self.state.message
            self.state.phase = Phase.ENDED
            self.files.save_state(self.state)

    # --- parts

    def place(self) -> dict[str, Any]:
        """Experiment, attempt and rank, as every report has them."""
        return {"experiment": self.wanted.experiment, "attempt": self.wanted.attempt, "rank": self.wanted.rank}

    def times(self) -> Any:
        """What happened when, so far."""
        return self.state.times(self.wanted.rank)

    def say(self, what: str, report: AnyReport) -> asyncio.Future[None]:
        """Journal a report of this job; each kind once in its life."""
        return self.node.reporter.say(f"{self.job}:{what}", report)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result, or Stopped as soon as a stop is wanted."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop_wanted.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stopped
        finally:
            await end_all((task, stop))


def _since(moment: float | None) -> float:
    """Now, and never before that: the clock may have been set back."""
    return max(time.time(), moment or 0.0)
