"""What a job says, from its files onto the bus: two shippers, with the job's own credential."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from incl_shared import subjects
from incl_shared.clock import Clock
from incl_shared.events.experiments import WriterCount
from incl_shared.tasks import end_all
from incl_shared.telemetry import ERR, OUT, LogSource, LogTailer, MetricSource, Shipper, spooled_file
from incl_shared.telemetry.wire import Extra

if TYPE_CHECKING:
    from incl_agent.life import JobLife

_log = logging.getLogger("incl.agent")
_BUSY_S = 0.04
_IDLE_S = 0.25
_SLOWER = 1.3
_SETTLES_S = 2.5
_FLUSH_S = 10.0
_STOP_S = 2.0


class JobTelemetry(Protocol):
    """The port; the real one is below."""

    def start(self) -> None:
        """Ship from now on."""
        ...

    async def finish(self, words: list[str]) -> tuple[WriterCount, ...]:
        """The job has ended: ship the rest and these words of ours; the final counts once the bus has all."""
        ...

    async def stop(self) -> None:
        """Leave the rest to the next agent."""
        ...


class ShippedTelemetry:
    """Numbered batches with positions in the job's folder: a restarted agent goes on where this one was."""

    def __init__(self, life: JobLife, clock: Clock) -> None:
        self._life = life
        self._clock = clock
        self._ending = asyncio.Event()
        self._tailer: LogTailer | None = None
        self._shippers: list[Shipper] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Open the files and ship in the background."""
        if self._tasks:
            return
        self._open()
        files = self._life.files
        looks = (lambda: _spool_sizes(files.spool), lambda: _sizes(files.stdout, files.stderr))
        self._tasks = [
            asyncio.create_task(self._ship(shipper, look)) for shipper, look in zip(self._shippers, looks, strict=True)
        ]

    async def finish(self, words: list[str]) -> tuple[WriterCount, ...]:
        """See JobTelemetry. It takes as long as the bus is away."""
        await self._end_tasks(None)
        if self._tailer is None:
            self._open()
        if self._tailer is not None:
            self._tailer.finish(self._clock.now())
            for text in words:
                self._tailer.say(text, self._clock.now())
        for shipper in self._shippers:
            while not await shipper.flush(_FLUSH_S):
                _log.info("job %s: its telemetry waits for the bus", self._life.job)
        return tuple(count for shipper in self._shippers for count in shipper.counts())

    async def stop(self) -> None:
        """See JobTelemetry."""
        await self._end_tasks(_STOP_S)
        if self._tailer is not None:
            self._tailer.close()
            self._tailer = None

    def _open(self) -> None:
        life, wanted = self._life, self._life.wanted
        place = (wanted.project, wanted.experiment, wanted.attempt, wanted.rank)
        root = life.files.root
        self._tailer = LogTailer({OUT: life.files.stdout, ERR: life.files.stderr}, root / "log.index")
        logs = LogSource(self._tailer, root / "logs.json", self._clock)
        metrics = MetricSource(life.files.spool, root / "metrics.json")
        self._shippers = [
            Shipper(metrics, self._publish, subject=subjects.metrics(*place), job=life.job, on_extras=self._extras),
            Shipper(logs, self._publish, subject=subjects.logs(*place), job=life.job),
        ]

    async def _ship(self, shipper: Shipper, sizes: Callable[[], object]) -> None:
        """Ship until the end; quicker while something comes. A step is never cut short: its files have one reader.

        While the files do not grow nothing is read, but for a moment after they did: a progress bar's last state.
        """
        wait, seen, until = _BUSY_S, None, 0.0
        while not self._ending.is_set():
            now, found = self._clock.monotonic(), sizes()
            if found != seen:
                seen, until = found, now + _SETTLES_S
            if found and now < until:
                wait = _BUSY_S if await shipper.step() else min(wait * _SLOWER, _IDLE_S)
            else:
                wait = min(wait * _SLOWER, _IDLE_S)
            try:
                await asyncio.wait_for(self._ending.wait(), wait)
            except TimeoutError:
                continue

    async def _end_tasks(self, patience_s: float | None) -> None:
        """Let the steps under way end; after patience_s they wait for the bus alone, and can be cut short."""
        self._ending.set()
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
    """Name and size of every writer's file."""
    try:
        with os.scandir(spool) as entries:
            return tuple(sorted((e.name, e.stat().st_size) for e in entries if e.name.endswith(".jsonl")))
    except OSError:
        return ()
