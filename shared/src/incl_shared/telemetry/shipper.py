"""Ships the batches of a source in order, for ever patient: what cannot be sent now waits on the disk, not in memory.

A few batches are in flight at once, sent in the order of their records. With a `Stored` the shipper also follows what
the tracker has: it keeps no more than a window of the job between the bus and the tracker, and sends again what the
bus has lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from incl_shared.errors import InclError
from incl_shared.events.experiments import WriterCount
from incl_shared.tasks import within
from incl_shared.telemetry.flow import STALL_S, Flow
from incl_shared.telemetry.sources import ROUND_BYTES, Outgoing, Source
from incl_shared.telemetry.stored import Stored
from incl_shared.telemetry.wire import Extra, message_id

T = TypeVar("T")
_log = logging.getLogger("incl.telemetry")

POLL_S = 0.05
IDLE_S = 0.25
MAX_DELAY_S = 5.0
AT_ONCE = 8
LOST_S = 10.0
"""How long the tracker may answer without storing anything more of what the bus has confirmed, before that is lost."""
MOST_LOST_S = 600.0


class Publish(Protocol):
    """`BusClient.publish_confirmed`, or what stands for it: the message is stored when it returns."""

    async def __call__(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> object:
        """Store a message; raises an InclError when it is not known to be stored."""
        ...


class OnExtras(Protocol):
    """What hears of records that are no scalars (checkpoints, images, alerts …), before they count as shipped.

    After a crash it may hear of the same record again. It must return soon: uploads belong in a task of its own.
    """

    def __call__(self, writer: str, extras: tuple[Extra, ...]) -> None:
        """Take note of them."""
        ...


@dataclass(slots=True)
class Shipped:
    """What a shipper has done: for metrics and for people."""

    batches: int = 0
    records: int = 0
    payload_bytes: int = 0
    failures: int = 0
    resent: int = 0
    """Records sent again because the bus had lost what it had confirmed."""
    last_error: str = ""


class Shipper:
    """One source to one subject. Make it, then `await run()` in a task; `await flush(…)` at the end.

    job: the job's id, for the message ids. on_extras: see OnExtras. stored: what the tracker has of the job; none: it
    is not followed. lost_s: see LOST_S.
    """

    def __init__(
        self,
        source: Source,
        publish: Publish,
        *,
        subject: str,
        job: str,
        on_extras: OnExtras | None = None,
        stored: Stored | None = None,
        poll_s: float = POLL_S,
        idle_s: float = IDLE_S,
        lost_s: float = LOST_S,
    ) -> None:
        self.source = source
        self.shipped = Shipped()
        self.more = False
        """The last step left something that could have been sent, or waits for the tracker."""
        self.flow = Flow(time.monotonic()) if stored is not None else None
        self._publish = publish
        self._subject = subject
        self._job = job
        self._on_extras = on_extras
        self._stored = stored
        self._poll_s = poll_s
        self._idle_s = idle_s
        self._lost_s = lost_s
        self._patience_s = lost_s * random.uniform(1.0, 1.3)  # noqa: S311
        self._stall_s = min(STALL_S, lost_s / 2)
        self._answers = 0
        self._turn = asyncio.Lock()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._wake = asyncio.Event()
        if stored is not None and self.flow is not None:
            for writer, last in source.positions().items():
                if last:
                    self.flow.sent(writer, last, 0, time.monotonic())
            stored.listen(self._heard)

    async def run(self) -> None:
        """Ship for ever; cancel it to stop. No error but a cancellation leaves it."""
        wait = self._poll_s
        while True:
            sent = await self.step()
            wait = self._poll_s if sent else min(wait * 1.25, self._idle_s)
            if not (sent and self.more):
                await self.pause(wait)

    def wake(self) -> None:
        """Look at once for what there is."""
        self._wake.set()

    async def step(self) -> int:
        """Ship what there is by now: some batches. Returns how many were confirmed."""
        async with self._turn:
            if self._stored is not None and self._stored.gone:
                self.more = False
                return 0
            await self._tend()
            room = ROUND_BYTES if self.flow is None else min(ROUND_BYTES, self.flow.room(time.monotonic()))
            self.more = room == 0
            if room == 0:
                return 0
            try:
                ready = await self._in_thread(lambda: self.source.poll(room))
            except OSError as error:
                self._note(error)
                return 0
            self.more = sum(len(outgoing.payload) for outgoing in ready) >= min(room, ROUND_BYTES // 4)
            await asyncio.gather(*(self._ship(outgoing) for outgoing in ready))
            return len(ready)

    async def flush(self, deadline_s: float) -> bool:
        """Nothing more is written: ship all that is left, for at most deadline_s seconds.

        Returns:
            Whether everything is in the bus. If not, call it again later: nothing is lost.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self.seal()
                while True:
                    failures = self.shipped.failures
                    if not await self.step():
                        if self.shipped.failures == failures and not self.more:
                            self.source.save()
                            return True
                        await self.pause(self._poll_s)
        except TimeoutError:
            return False
        except OSError as error:
            self._note(error)
            return False

    async def drain(self) -> None:
        """Nothing more is written: ship all that is left, and wait until the tracker has stored it (or has no use for
        it: the experiment is purged)."""
        while not await self.flush(MAX_DELAY_S) or self.waiting:
            await self.pause(self._idle_s)

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until somebody says wake()."""
        with suppress(TimeoutError):
            await within(seconds, self._wake.wait())
        self._wake.clear()

    async def seal(self) -> None:
        """Nothing more is written.

        Raises:
            OSError: the end of it cannot be written down now.
        """
        async with self._turn:
            await self._in_thread(self.source.seal)

    async def final_counts(self) -> tuple[WriterCount, ...]:
        """How many records each writer has in all, whether or not they are shipped yet. Nothing more is written.

        Raises:
            OSError: the end of it cannot be written down now.
        """
        await self.seal()
        async with self._turn:
            return await self._in_thread(self.source.counts)

    def counts(self) -> tuple[WriterCount, ...]:
        """Records of each writer, final once flush() said yes."""
        return self.source.counts()

    @property
    def waiting(self) -> bool:
        """Whether the bus has something that the tracker has not."""
        gone = self._stored is not None and self._stored.gone
        return self.flow is not None and self.flow.open and not gone

    @property
    def progress(self) -> tuple[int, float]:
        """Another value than before: something was sent, or stored."""
        return self.shipped.records, 0.0 if self.flow is None else self.flow.stored_at

    @property
    def unstored(self) -> int:
        """Bytes that the bus has and the tracker has not, as far as is known."""
        return 0 if self.flow is None else self.flow.unstored

    # --- what the tracker says

    def _heard(self) -> None:
        if self.flow is None or self._stored is None:
            return
        now = time.monotonic()
        moved = self.flow.moved
        self.flow.stored(self._stored.of(self.source.stream), now)
        self.flow.away = self._stored.silent
        if self.more or self._stored.gone:
            self._wake.set()
        if self.flow.moved != moved:
            self._patience_s = self._lost_s * random.uniform(1.0, 1.3)  # noqa: S311
            self._answers = self._stored.answers

    async def _tend(self) -> None:
        """Ask when the tracker is quiet; send again what never came to it although it listens."""
        flow, stored = self.flow, self._stored
        if flow is None or stored is None or not flow.open:
            return
        now = time.monotonic()
        if now - flow.moved > self._stall_s or not stored.answers:
            stored.ask()
        if stored.silent:
            flow.moved = max(flow.moved, now - self._stall_s * 1.1)  # time counts only while it answers
            self._answers = stored.answers
        if now - flow.moved < self._patience_s or stored.answers < self._answers + 2:
            return
        marks = {f"{self.source.stream}/{writer}": mark for writer, mark in stored.of(self.source.stream).items()}
        again = await self._in_thread(lambda: self.source.rewind(marks))
        flow.clear(now)
        for writer, last in self.source.positions().items():
            if last > stored.of(self.source.stream).get(writer, 0):
                flow.sent(writer, last, 0, now)
        self._answers, self._patience_s = stored.answers, min(self._patience_s * 2, MOST_LOST_S)
        self.shipped.resent += again
        if again:
            _log.warning(
                "%d %s of %s never came to the tracker, they are sent again", again, self.source.stream, self._job
            )

    # --- parts

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """A cancellation waits for the thread: it uses the source until it is done."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def _ship(self, outgoing: Outgoing) -> None:
        identifier = message_id(
            self._job, self.source.stream, outgoing.writer, outgoing.first, outgoing.count, outgoing.resend
        )
        delay = 0.1
        async with self._gate:
            while True:
                try:
                    await self._publish(self._subject, outgoing.payload, message_id=identifier)
                    break
                except (InclError, OSError, TimeoutError) as error:
                    self._note(error)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311
                delay = min(delay * 2, MAX_DELAY_S)
        if outgoing.extras and self._on_extras is not None:
            self._on_extras(outgoing.writer, outgoing.extras)
        self.source.confirm(outgoing)
        if self.flow is not None:
            self.flow.sent(outgoing.writer, outgoing.last, len(outgoing.payload), time.monotonic())
        self.shipped.batches += 1
        self.shipped.records += outgoing.count
        self.shipped.payload_bytes += len(outgoing.payload)
        self.shipped.last_error = ""

    def _note(self, error: Exception) -> None:
        self.shipped.failures += 1
        said = f"{type(error).__name__}: {error}"
        if said != self.shipped.last_error:
            _log.warning(
                "%s of %s cannot be shipped now, they wait on the disk: %s", self.source.stream, self._job, said
            )
        self.shipped.last_error = said
