"""What a job says, from its files onto the bus: two shippers, with the job's own credential."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from incl_shared import subjects
from incl_shared.clock import Clock
from incl_shared.events.experiments import WriterCount
from incl_shared.queries.tracker import GetWatermarks
from incl_shared.tasks import end_all, gather
from incl_shared.telemetry import (
    ERR,
    OUT,
    LogSource,
    LogTailer,
    MetricSource,
    Shipper,
    Stored,
    read_marks,
    spooled_file,
)
from incl_shared.telemetry.spool import ENDING, MAX_WRITERS
from incl_shared.telemetry.wire import Extra

if TYPE_CHECKING:
    from incl_agent.life import JobLife

_log = logging.getLogger("incl.agent")
_BUSY_S = 0.05
_STEADY_S = 0.2
_IDLE_S = 0.25
_SLOWEST_S = 0.5
_SLOWER = 1.3
_SETTLES_S = 2.5
_FLUSH_S = 2.0
_STOP_S = 2.0
_FULL_DISK_S = 0.5
_FULL_DISK_TRIES = 60
_ASK_S = 5.0
_A_SECOND = 200
_MANY = 100
"""Files of a spool whose sizes are not looked at in the event loop."""
_Look = Callable[[], Sequence[object]]


class Pace:
    """How often the jobs of a node ship: one job every 50 ms at first, many of them less often."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: dict[int, float] = {}

    def sent(self, who: object) -> float:
        """Somebody sent something: how long it is to collect before it sends again, in seconds."""
        now = self._clock.monotonic()
        self._sent[id(who)] = now
        if len(self._sent) > _A_SECOND * _BUSY_S:
            self._sent = {key: time for key, time in self._sent.items() if now - time < 1.0}
        return min(_SLOWEST_S, max(_BUSY_S, len(self._sent) / _A_SECOND))


class JobTelemetry(Protocol):
    """The port; the real one is below."""

    def start(self) -> None:
        """Ship from now on."""
        ...

    async def finish(self, words: list[str]) -> tuple[WriterCount, ...]:
        """The job has ended: add these words of ours, ship a moment longer; how much there is in all."""
        ...

    async def drain(self) -> None:
        """After the end: ship what is left, until the tracker has stored all of it. As long as it takes."""
        ...

    async def stop(self) -> None:
        """Leave the rest to the next agent."""
        ...


class ShippedTelemetry:
    """Numbered batches with positions in the job's folder: a restarted agent goes on where this one was."""

    def __init__(self, life: JobLife, clock: Clock, pace: Pace | None = None) -> None:
        self._life = life
        self._clock = clock
        self._pace = pace or Pace(clock)
        self._ending = asyncio.Event()
        self._tailer: LogTailer | None = None
        self._metrics: MetricSource | None = None
        self._stored = Stored(JobTracker(life))
        self._shippers: list[Shipper] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Open the files and ship in the background."""
        if self._tasks:
            return
        self._open()
        files = self._life.files
        looks: tuple[_Look, _Look] = (
            lambda: _spool_sizes(files.spool),
            lambda: _sizes(files.stdout, files.stderr),
        )
        self._tasks = [
            asyncio.create_task(self._ship(shipper, look)) for shipper, look in zip(self._shippers, looks, strict=True)
        ]

    async def finish(self, words: list[str]) -> tuple[WriterCount, ...]:
        """See JobTelemetry."""
        await self._end_tasks(_STOP_S)
        self._open()
        for _ in range(_FULL_DISK_TRIES):
            if self._said(words):
                break
            await asyncio.sleep(_FULL_DISK_S)
        await asyncio.gather(*(shipper.flush(_FLUSH_S) for shipper in self._shippers))
        counts: list[WriterCount] = []
        for shipper in self._shippers:
            try:
                counts += await shipper.final_counts()
            except OSError as error:
                _log.error("job %s: the end of its %s is not counted: %s", self._life.job, shipper.source.stream, error)
                counts += shipper.counts()
        for count in counts:
            self._life.node.metrics.spool_dropped.labels(count.stream).inc(count.dropped)
        return tuple(counts)

    def _said(self, words: list[str]) -> bool:
        """Take in the end of the output, and what we have to say. False: the disk is full."""
        if self._tailer is None:
            return True
        try:
            self._tailer.finish(self._clock.now())
            while words:
                self._tailer.say(words[0], self._clock.now())
                words.pop(0)
        except OSError as error:
            _log.warning("job %s: the end of its log waits for room: %s", self._life.job, error)
            return False
        return True

    async def drain(self) -> None:
        """See JobTelemetry."""
        files = self._life.files
        if self._tailer is None and not _spool_sizes(files.spool) and not _sizes(files.stdout, files.stderr):
            return
        self._open()
        await gather(*(shipper.drain() for shipper in self._shippers))

    async def stop(self) -> None:
        """See JobTelemetry."""
        await self._end_tasks(_STOP_S)
        await self._stored.stop()
        if self._tailer is not None:
            self._tailer.close()
            self._tailer = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None

    def _open(self) -> None:
        if self._tailer is not None:
            return
        life, wanted = self._life, self._life.wanted
        place = (wanted.project, wanted.experiment, wanted.attempt, wanted.rank)
        root = life.files.root
        self._tailer = LogTailer({OUT: life.files.stdout, ERR: life.files.stderr}, root / "log.index")
        logs = LogSource(self._tailer, root / "logs.json", self._clock)
        self._metrics = metrics = MetricSource(life.files.spool, root / "metrics.json")
        send, job, stored, lost_s = self._publish, life.job, self._stored, life.node.settings.lost_s
        extras, to_metrics, to_logs = self._extras, subjects.metrics(*place), subjects.logs(*place)
        self._shippers = [
            Shipper(metrics, send, subject=to_metrics, job=job, on_extras=extras, stored=stored, lost_s=lost_s),
            Shipper(logs, send, subject=to_logs, job=job, stored=stored, lost_s=lost_s),
        ]
        self._stored.start()

    async def _ship(self, shipper: Shipper, sizes: _Look) -> None:
        """Ship until the end; quicker while something comes. A step is never cut short: its files have one reader.

        While the files do not grow nothing is read, but for a moment after they did: a progress bar's last state.
        """
        wait, until = _BUSY_S, 0.0
        seen: Sequence[object] | None = None
        while not self._ending.is_set():
            now, many = self._clock.monotonic(), seen is not None and len(seen) > _MANY
            found = await asyncio.to_thread(sizes) if many else sizes()
            if found != seen:
                seen, until = found, now + _SETTLES_S
            sent = 0
            if (found and now < until) or shipper.more or shipper.waiting:
                sent = await shipper.step()
            if sent and shipper.more:
                continue
            if sent:
                wait = max(self._pace.sent(shipper), min(wait * _SLOWER, _STEADY_S))
                await shipper.pause(wait)
            else:
                wait = _BUSY_S  # the first one after a silence goes at once
                await shipper.pause(_BUSY_S if now < until else _IDLE_S)

    async def _end_tasks(self, patience_s: float) -> None:
        """Let the steps under way end; after patience_s they wait for the bus alone, and can be cut short."""
        self._ending.set()
        for shipper in self._shippers:
            shipper.wake()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        await end_all(self._tasks)
        self._tasks = []

    async def _publish(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> object:
        client = await self._life.link.client()
        return await client.publish_confirmed(subject, payload, message_id=message_id, headers=headers)

    def _extras(self, writer: str, extras: tuple[Extra, ...]) -> None:
        spool = self._life.files.spool.resolve()
        for extra in extras:
            file = spooled_file(spool, writer, extra.sequence, extra.line)
            if file is not None:
                self._life.uploads.offer(file)


class JobTracker:
    """The tracker as the job's own credential reaches it."""

    def __init__(self, life: JobLife) -> None:
        self._life = life

    async def watermarks(self) -> Mapping[str, int]:
        """See incl_shared.telemetry.Tracker."""
        wanted = self._life.wanted
        query = GetWatermarks(experiment=wanted.experiment, attempt=wanted.attempt, rank=wanted.rank)
        return (await self._life.link.ask(query, _ASK_S)).stored

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """See incl_shared.telemetry.Tracker."""
        wanted = self._life.wanted

        async def said(_subject: str, payload: bytes, _headers: Mapping[str, str]) -> None:
            heard(read_marks(payload))

        client = await self._life.link.client()
        place = (wanted.project, wanted.experiment, wanted.attempt, wanted.rank)
        await client.subscribe(subjects.stored(*place), said)


def _sizes(*paths: Path) -> tuple[int, ...]:
    """Sizes of the files that there are; empty when there is nothing in any."""
    found = []
    for path in paths:
        try:
            found.append(path.stat().st_size)
        except OSError:
            found.append(0)
    return tuple(found) if any(found) else ()


def _spool_sizes(spool: Path) -> tuple[tuple[str, int], ...]:
    """Name and size of every writer's file, of so many as are looked at."""
    try:
        with os.scandir(spool) as entries:
            files = itertools.islice((e for e in entries if e.name.endswith(ENDING)), MAX_WRITERS)
            return tuple(sorted((e.name, e.stat(follow_symlinks=False).st_size) for e in files))
    except OSError:
        return ()
