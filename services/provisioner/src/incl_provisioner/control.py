"""Writing wanted states to the bus: each node's newest list, one message at a time, never over a newer one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pydantic import ValidationError

from incl_provisioner.metrics import ProvisionerMetrics
from incl_shared import subjects
from incl_shared.bus.client import Ack, Stored
from incl_shared.bus.errors import WrongSequence
from incl_shared.bus.topology import CONTROL
from incl_shared.control import NodeWanted
from incl_shared.errors import InclError
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.provisioner")
_AT_ONCE = 32
_PAUSE_S = 0.25


class ControlBus(Protocol):
    """What is needed of the bus; `BusClient` has it."""

    async def publish_confirmed(
        self, subject: str, payload: bytes, *, message_id: str, expected_sequence: int | None = None
    ) -> Ack:
        """Store a message, or raise an InclError."""
        ...

    async def last(self, stream: str, subject: str, *, timeout: float = 5.0) -> Stored | None:  # noqa: ASYNC109
        """The last message of a subject."""
        ...


@dataclass(frozen=True)
class Order:
    """The wanted state of a node, ready to be written."""

    node: str
    generation: int
    payload: bytes


class Publisher:
    """Writes the newest order of each node, in its own task, one at a time for a node, until it is stored.

    floors: nodes whose stream has a generation that ours was not above; the next one must be.
    """

    def __init__(self, bus: ControlBus, fence: int, metrics: ProvisionerMetrics, wake: Callable[[], None]) -> None:
        self.floors: dict[str, int] = {}
        self.failing = False
        """Whether the bus did not take the last order: then it takes no machine's word either."""
        self._bus = bus
        self._fence = fence
        self._metrics = metrics
        self._wake = wake
        self._pending: dict[str, Order] = {}
        self._sequences: dict[str, int] = {}
        self._ordered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="provisioner-control")

    async def stop(self) -> None:
        """Write no more."""
        await end_all([self._task])
        self._task = None

    @property
    def idle(self) -> bool:
        """Whether all that was ordered is stored."""
        return not self._pending

    def doubt(self, node: str | None = None) -> None:
        """The stream may be another than we know (restored, written by another one): read it before writing."""
        if node is None:
            self._sequences.clear()
        else:
            self._sequences.pop(node, None)

    def order(self, orders: list[Order]) -> None:
        """Have these written; an older one of the same node that still waits is worth nothing any more."""
        for order in orders:
            self._pending[order.node] = order
        if orders:
            self._ordered.set()

    async def _run(self) -> None:
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            while self._pending:
                batch = list(self._pending.values())[:_AT_ONCE]
                done = await asyncio.gather(*(self._one(order) for order in batch))
                if not any(done):
                    await asyncio.sleep(_PAUSE_S)

    async def _one(self, order: Order) -> bool:
        try:
            floor = await self._write(order)
        except InclError as error:
            self.doubt(order.node)
            self.failing = not isinstance(error, WrongSequence)
            self._metrics.control.labels("failed").inc()
            _log.warning("the wanted state of %s could not be written: %s", order.node, error)
            return False
        except Exception:  # noqa: BLE001 - the edge of the loop
            self.doubt(order.node)
            self._metrics.control.labels("error").inc()
            _log.exception("the wanted state of %s could not be written", order.node)
            return False
        self.failing = False
        if self._pending.get(order.node) is order:
            del self._pending[order.node]
        if floor is not None:
            self.floors[order.node] = floor
            self._wake()
        self._metrics.control.labels("written" if floor is None else "stale").inc()
        return True

    async def _write(self, order: Order) -> int | None:
        """None: it is on the stream. Otherwise the generation that is there, which ours must be above."""
        subject = subjects.control(order.node)
        sequence = self._sequences.get(order.node)
        if sequence is None:
            last = await self._bus.last(CONTROL, subject)
            if last is not None:
                generation = _generation(last.payload)
                if last.payload == order.payload:
                    self._sequences[order.node] = last.sequence
                    return None
                if generation >= order.generation:
                    return generation
            sequence = last.sequence if last is not None else 0
        try:
            ack = await self._bus.publish_confirmed(
                subject, order.payload, expected_sequence=sequence,
                message_id=f"control:{order.node}:{self._fence}:{order.generation}",
            )  # fmt: skip
        except WrongSequence:
            self.doubt(order.node)
            raise
        self._sequences[order.node] = ack.sequence
        return None


def _generation(payload: bytes) -> int:
    try:
        return NodeWanted.model_validate_json(payload).generation
    except ValidationError:
        return 0
