"""Faults put into the product on purpose: what the simulation must find."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import incl_agent.control
import incl_agent.fencing
import incl_provisioner.machines
import incl_provisioner.unread
import incl_shared.leases
from incl_agent.journal import Journal
from incl_agent.lease import LeaseFile
from incl_agent.manager import JobManager
from incl_provisioner.domain.liveness import Watch
from incl_shared.bus.client import Ack
from incl_shared.bus.consumer import DONE, Consumer
from incl_shared.bus.outbox import Relay
from incl_shared.db import DatabaseUnavailable
from incl_shared.errors import InclError
from simulation.cloud_mutations import CLOUD_MUTATIONS

Change = tuple[Any, str, Any]


def _ack_before_commit() -> list[Change]:
    handle = Consumer.handle

    async def early(self: Consumer, messages: list[Any]) -> None:
        for message in messages:
            await message.ack()
            message._ackd = False
        await handle(self, messages)

    return [(Consumer, "handle", early)]


def _an_outage_is_taken_for_done() -> list[Change]:
    """Messages are acknowledged though the database was away."""

    async def transaction(self: Consumer, deliveries: list[Any]) -> list[Any]:
        assert self._database is not None
        try:
            return await self._database.write(lambda tx: self._run(tx, deliveries))
        except DatabaseUnavailable:
            return [DONE] * len(deliveries)

    return [(Consumer, "_transaction", transaction)]


def _events_are_sent_once() -> list[Change]:
    """A failed publication is taken for done: the row goes."""
    send = Relay._send

    async def once(self: Relay, row: Any) -> Any:
        try:
            return await send(self, row)
        except InclError:
            return Ack("EVENTS", 0, False)

    return [(Relay, "_send", once)]


def _generation_ignored() -> list[Change]:
    offer = incl_agent.control.ControlWatcher.offer

    async def any_generation(self: Any, payload: bytes) -> None:
        self.generation = -1
        await offer(self, payload)

    return [(incl_agent.control.ControlWatcher, "offer", any_generation)]


def _no_fence() -> list[Change]:
    """A node that is cut off lets its jobs run."""
    return [(LeaseFile, "path", None), (incl_agent.fencing.Fence, "_act", lambda *_: None)]


def _no_guard() -> list[Change]:
    """A job whose agent is dead runs on."""
    return [(LeaseFile, "path", None)]


def _attempts_do_not_wait() -> list[Change]:
    """It is the second guard: it matters where a machine was called lost too early."""
    return [(JobManager, "_earlier", lambda *_: None), *_unread_is_not_asked_for()]


def _any_life() -> list[Change]:
    """A list begins jobs though it does not know of this agent's hello."""
    apply = JobManager.apply

    async def as_known(self: JobManager, wanted: Any) -> None:
        await apply(self, wanted.model_copy(update={"life": ""}))

    return [(JobManager, "apply", as_known)]


def _said_once() -> list[Change]:
    async def nothing(self: Journal) -> None:
        return

    return [(Journal, "say_again", nothing)]


def _lease_of_the_wall_clock() -> list[Change]:
    return [(incl_shared.leases, "cut", lambda *_: None)]


def _silence_counts_always() -> list[Change]:
    """A pause of the bus is taken for the machines' death, and nobody asks it."""
    return [(Watch, "tick", _tick), *_unread_is_not_asked_for()]


def _tick(self: Any, monotonic: float, *, healthy: bool) -> bool:
    self._clock = monotonic
    return False


def _unread_is_not_asked_for() -> list[Change]:
    """A machine whose words lie unread is called lost."""

    async def nobody(*_: Any) -> set[str]:
        return set()

    return [(incl_provisioner.unread, "spoke", nobody)]


def _lost_is_not_told() -> list[Change]:
    """A machine that is silent keeps its ranks."""
    return [(incl_provisioner.machines, "give_up", lambda *_: None)]


def _lease_not_checked() -> list[Change]:
    """Whoever had the scheduler's lease once writes on."""
    return [(incl_shared.leases, "check", lambda *_: None)]


def _outbox_of_another_life() -> list[Change]:
    """What an earlier process left in the outbox is not sent."""
    waiting, begin = Relay._waiting, Relay.__init__

    def init(self: Relay, database: Any, *given: Any, **more: Any) -> None:
        begin(self, database, *given, **more)
        self.since = database.clock.monotonic()  # type: ignore[attr-defined]

    def own(self: Relay, connection: Any) -> Any:
        rows, count = waiting(self, connection)
        ahead = self._database.clock.now() - self._database.clock.monotonic()
        return [row for row in rows if row.created - ahead >= self.since], count  # type: ignore[attr-defined]

    return [(Relay, "__init__", init), (Relay, "_waiting", own)]


MUTATIONS: dict[str, Callable[[], list[Change]]] = {
    "an outage is taken for done": _an_outage_is_taken_for_done,
    "events are sent once": _events_are_sent_once,
    "no fence": _no_fence,
    "unread is not asked for": _unread_is_not_asked_for,
    "no guard": _no_guard,
    "any life": _any_life,
    "lease of the wall clock": _lease_of_the_wall_clock,
    "lost is not told": _lost_is_not_told,
    "ack before commit": _ack_before_commit,
    "generation ignored": _generation_ignored,
    "attempts do not wait": _attempts_do_not_wait,
    "said once": _said_once,
    "silence counts always": _silence_counts_always,
    "lease not checked": _lease_not_checked,
    "outbox of another life": _outbox_of_another_life,
}
FOUND_BY = {
    "no fence": 7,
    "no guard": 7,
    "an outage is taken for done": 10,
    "outbox of another life": 13,
    "lost is not told": 26,
    "generation ignored": 30,
    "silence counts always": 51,
    "unread is not asked for": 705203,
    "lease not checked": 65,
    "any life": 158,
    "ack before commit": 351,
    "events are sent once": 387,
    "attempts do not wait": 450,
}
"""Mutation -> the first seed that shows it; of the others `shown.py` has a schedule."""


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The product with this fault; with none where the name is empty."""
    with contextlib.ExitStack() as stack:
        for target, attribute, stand_in in {**MUTATIONS, **CLOUD_MUTATIONS}[name]() if name else ():
            stack.enter_context(mock.patch.object(target, attribute, stand_in))
        yield
