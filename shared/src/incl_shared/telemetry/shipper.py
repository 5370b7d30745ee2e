"""Ships the batches of a source in order, for ever patient: what cannot be sent now waits on the disk, not in memory.

At most one batch of a writer is in flight, so the bus has each writer's batches in order and without a hole.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from incl_shared.errors import InclError
from incl_shared.events.experiments import WriterCount
from incl_shared.telemetry.sources import Outgoing, Source
from incl_shared.telemetry.wire import Extra, message_id

_log = logging.getLogger("incl.telemetry")

POLL_S = 0.05
IDLE_S = 0.25
MAX_DELAY_S = 5.0
WRITERS_AT_ONCE = 8


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
    last_error: str = ""


class Shipper:
    """One source to one subject. Make it, then `await run()` in a task; `await flush(…)` at the end.

    job: the job's id, for the message ids. on_extras: see OnExtras.
    """

    def __init__(
        self,
        source: Source,
        publish: Publish,
        *,
        subject: str,
        job: str,
        on_extras: OnExtras | None = None,
        poll_s: float = POLL_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self.source = source
        self.shipped = Shipped()
        self._publish = publish
        self._subject = subject
        self._job = job
        self._on_extras = on_extras
        self._poll_s = poll_s
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._gate = asyncio.Semaphore(WRITERS_AT_ONCE)
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Ship for ever; cancel it to stop. No error but a cancellation leaves it."""
        wait = self._poll_s
        while True:
            sent = await self.step()
            wait = self._poll_s if sent else min(wait * 1.25, self._idle_s)
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue
            self._wake.clear()

    def wake(self) -> None:
        """Look at once for what there is."""
        self._wake.set()

    async def step(self) -> int:
        """Ship what there is by now: one batch of each writer. Returns how many batches were confirmed."""
        async with self._turn:
            try:
                ready = await self._poll()
            except OSError as error:
                self._note(error)
                return 0
            await asyncio.gather(*(self._ship(outgoing) for outgoing in ready))
            return len(ready)

    async def _poll(self) -> list[Outgoing]:
        polling = asyncio.ensure_future(asyncio.to_thread(self.source.poll))
        try:
            return await asyncio.shield(polling)
        except asyncio.CancelledError:
            await asyncio.wait({polling})  # the thread uses the source until it is done
            raise

    async def flush(self, deadline_s: float) -> bool:
        """Nothing more is written: ship all that is left, for at most deadline_s seconds.

        Returns:
            Whether everything is in the bus. If not, call it again later: nothing is lost.
        """
        try:
            async with asyncio.timeout(deadline_s):
                async with self._turn:
                    self.source.seal()
                while True:
                    failures = self.shipped.failures
                    if not await self.step():
                        if self.shipped.failures == failures:
                            return True
                        await asyncio.sleep(self._poll_s)
        except TimeoutError:
            return False

    def counts(self) -> tuple[WriterCount, ...]:
        """Records of each writer, final once flush() said yes."""
        return self.source.counts()

    async def _ship(self, outgoing: Outgoing) -> None:
        identifier = message_id(self._job, self.source.stream, outgoing.writer, outgoing.first, outgoing.count)
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
