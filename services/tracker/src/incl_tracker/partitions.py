"""The partitions of METRICS and LOGS that this tracker owns, and consumes.

A partition is one durable of each stream. They are consumed while the claim is held, and every batch is stored in a
transaction that only the holder can commit. Whoever takes a partition over from one that did not give it up makes
the durables anew, and so does its holder when the connection to the bus broke: what was fetched, or sent into the
void, and not acknowledged comes again at once, in its order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence

import nats.errors

from incl_shared.bus import topology
from incl_shared.bus.consumer import BatchHandler
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import NotMine
from incl_shared.bus.runtime import Bus, Consuming
from incl_shared.db import DatabaseUnavailable, Transaction
from incl_shared.leases import LeaseLost
from incl_shared.tasks import end_all
from incl_tracker import counters
from incl_tracker.ownership import Claim, Ownership

_log = logging.getLogger("incl.tracker")


class Partitions:
    """Keeps the consumers as the claims are. forget: called before a partition is consumed that was not just now."""

    def __init__(
        self,
        ownership: Ownership,
        bus: Bus,
        metrics: BatchHandler,
        logs: BatchHandler,
        *,
        forget: Callable[[], None],
    ) -> None:
        self._ownership = ownership
        self._bus = bus
        claims = ownership.shared([f"partition.{number}" for number in range(topology.PARTITIONS)])
        self._all = [
            _Partition(claim, ((durable, metrics), (lines, logs)), ownership, bus, forget)
            for claim, durable, lines in zip(claims, topology.TRACKER_METRICS, topology.TRACKER_LOGS, strict=True)
        ]
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopped = False
        ownership.on_change(self._changed)
        bus.client.on_reconnect(self._reconnected)

    @property
    def consumed(self) -> list[int]:
        """The partitions that are consumed now."""
        return [number for number, partition in enumerate(self._all) if partition.consumed]

    def waiting(self) -> Iterator[tuple[str, float, str]]:
        """(name, seconds, trouble) of those that this tracker owns and does not consume."""
        for partition in self._all:
            if partition.wrong_since is not None:
                yield partition.name, time.monotonic() - partition.wrong_since, partition.trouble

    async def stop(self) -> None:
        """Consume nothing any more; the claims stay until the ownership stops."""
        self._stopped = True
        await end_all(self._tasks.values())
        await asyncio.gather(*(partition.end() for partition in self._all))
        counters.PARTITIONS.set(0)

    def _changed(self) -> None:
        for number, partition in enumerate(self._all):
            partition.look()
            running = self._tasks.get(number)
            if self._stopped or partition.right or (running is not None and not running.done()):
                continue
            self._tasks[number] = asyncio.create_task(self._mend(partition), name=f"tracker-partition-{number}")

    def _reconnected(self) -> None:
        """What was sent before the connection broke would come again only after `ack_wait`, behind what is newer."""
        for partition in self._all:
            partition.begin_anew()
        self._changed()

    async def _mend(self, partition: _Partition) -> None:
        try:
            await partition.mend()
        except (nats.errors.Error, OSError, DatabaseUnavailable) as error:
            partition.trouble = str(error) or type(error).__name__
            _log.warning("%s: %s", partition.name, partition.trouble)
        partition.look()
        counters.PARTITIONS.set(len(self.consumed))


class _Partition:
    def __init__(
        self,
        claim: Claim,
        parts: Sequence[tuple[topology.Durable, BatchHandler]],
        ownership: Ownership,
        bus: Bus,
        forget: Callable[[], None],
    ) -> None:
        self.name = claim.name
        self._claim = claim
        self._parts = parts
        self._ownership = ownership
        self._bus = bus
        self._forget = forget
        self._consuming: list[Consuming] = []
        self._fence = 0
        self.wrong_since: float | None = None
        """Since when (monotonic) it is to be consumed and is not; none while all is as it should be."""
        self.trouble = ""

    @property
    def consumed(self) -> bool:
        """Whether it is consumed, wholly."""
        return len(self._consuming) == len(self._parts)

    @property
    def right(self) -> bool:
        """Whether it is consumed exactly if it is to be."""
        claim, lease = self._claim, self._claim.lease
        if claim.held and not claim.surplus:
            return self.consumed and lease is not None and lease.fence == self._fence
        return not self._consuming and not claim.surplus

    def look(self) -> None:
        """Note whether it is as it should be."""
        if not self._claim.held or self.right:
            self.wrong_since, self.trouble = None, ""
        elif self.wrong_since is None:
            self.wrong_since = time.monotonic()

    def begin_anew(self) -> None:
        """Make the durables anew, if they are consumed."""
        if self._consuming:
            self._claim.inherited, self._fence = True, 0

    async def mend(self) -> None:
        """Begin or end to consume; give up what is beyond the share."""
        await self.end()
        claim, lease = self._claim, self._claim.lease
        if claim.surplus:
            await self._ownership.give_up(claim)
        elif claim.held and lease is not None:
            await self._begin(lease.fence)

    async def end(self) -> None:
        """Consume no more; the batches at hand are stored or given back."""
        consuming, self._consuming = self._consuming, []
        await asyncio.gather(*(one.end() for one in consuming))

    async def _begin(self, fence: int) -> None:
        self._forget()
        if self._claim.inherited:
            for durable, _ in self._parts:
                await topology.recreate(self._bus.client.jetstream(), durable)
            self._claim.inherited = False
        self._fence = fence
        loop = asyncio.get_running_loop()
        for durable, handler in self._parts:
            guarded = _guarded(self._claim, fence, handler, lambda: loop.call_soon_threadsafe(self._ownership.look))
            self._consuming.append(await self._bus.begin_batch(durable, guarded))


def _guarded(claim: Claim, fence: int, handler: BatchHandler, lost: Callable[[], object]) -> BatchHandler:
    """The handler in transactions that only the holder of this very lease can commit."""

    def handle(tx: Transaction, deliveries: list[Delivery]) -> None:
        try:
            claim.guard(tx, fence)
        except LeaseLost as error:
            lost()
            raise NotMine(error.message) from error
        handler(tx, deliveries)

    return handle
