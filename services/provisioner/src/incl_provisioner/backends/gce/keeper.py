"""Keeps the machines of gangs as they are wanted: looks at the cloud, decides, saves, acts; again and again.

Level-triggered: a round needs nothing from the one before but the rows. It may be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Protocol

from incl_provisioner.backends.gce.port import CloudFailure, Compute, DiskSeen, Order, VmSeen
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.errors import Verdict
from incl_provisioner.domain.cloud.gangs import Action, Do, Gang, Limits, Thing, View, Where
from incl_provisioner.domain.cloud.names import Place, label_filter, request_id
from incl_shared.clock import Clock

log = logging.getLogger(__name__)
_MOST_OF = 0.9


class Rows(Protocol):
    """Where gangs are kept."""

    async def gangs(self) -> Mapping[tuple[str, int], Gang]:
        """All gangs that are not over, and any that are."""

    async def save(self, before: Gang, after: Gang) -> Gang | None:
        """Replace a row; what it is then. None when it is not `before` any more, and nothing is changed."""


class Planner(Protocol):
    """What the keeper does not decide by itself."""

    async def where(self, gang: Gang, now: float) -> Where | None:
        """The next place for a gang; None: wait."""

    def again(self, gang: Gang, now: float) -> Where | None:
        """The place of machines that a gang took over, where the missing ones are asked for; None: keep none."""

    def order(self, gang: Gang) -> Order:
        """What its VMs are made like."""

    def failed(self, gang: Gang, verdict: Verdict, now: float) -> None:
        """A try failed: for cooldowns."""


class Keeper:
    """Args: platform: the id of this installation, as in the labels.

    Attributes:
        troubles: how often a call failed, by (what was done, reason).
        adopted: gangs whose times are of this process's clock.
    """

    def __init__(
        self, platform: str, compute: Compute, rows: Rows, planner: Planner, clock: Clock, limits: Limits | None = None
    ) -> None:
        self._platform, self._compute, self._rows = platform, compute, rows
        self._planner, self._clock, self._limits = planner, clock, limits or Limits()
        self._busy: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(self._limits.at_once)
        self._queued: set[tuple[str, int]] = set()
        """Gangs that wait for a slot."""
        self._took = 0.0
        """How long the last operation took (s): the next one is not looked at before most of that is over."""
        self._deleted: dict[tuple[str, str], float] = {}
        """(zone, name) -> when its delete was last asked for (monotonic)."""
        self.adopted: set[tuple[str, int]] = set()
        self.troubles: Counter[tuple[str, str]] = Counter()

    async def round(self) -> View:
        """Look once, and act on what was seen. The view is what was seen; empty and old where nothing could be."""
        view = await self._look()
        late = self._clock.monotonic() - self._limits.again_s
        self._deleted = {thing: at for thing, at in self._deleted.items() if at > late}
        # Read after the lists: whatever they show was asked for by a row that is there by now.
        known = await self._rows.gangs()
        self.adopted &= known.keys()
        for key, gang in known.items():
            if key in self._queued and not gang.wanted:
                self._busy.pop(key).cancel()
            if key not in self._busy:
                self._busy[key] = task = asyncio.ensure_future(self._step(gang, view))
                task.add_done_callback(functools.partial(self._stepped, key))
        sweeping = [self._delete(action) for action in gangs.orphans(view, known)]
        await asyncio.gather(*sweeping)
        if self._busy:
            # A call that hangs holds up its own gang, not the others.
            await asyncio.wait(self._busy.values(), timeout=self._limits.round_s)
        return view

    def _stepped(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        if self._busy.get(key) is task:
            del self._busy[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.troubles["step", type(error).__name__] += 1
            log.error("a gang could not be taken further", exc_info=error)

    async def stop(self) -> None:
        """Break off whatever is under way; the rows say how it goes on."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> View:
        at = self._clock.now()
        wanted = label_filter(self._platform)
        try:
            vms, disks = await asyncio.gather(self._compute.vms(wanted), self._compute.disks(wanted))
        except CloudFailure as error:
            self._trouble("look", error)
            return View(-1.0)
        things = [*map(_vm, vms.items), *map(_disk, disks.items)]
        return gangs.view_of(at, things, vms.unreachable | disks.unreachable)

    async def _step(self, gang: Gang, view: View) -> None:
        if gang.phase is not gangs.Phase.PLANNED or not gang.wanted:
            await self._once(gang, view)
            return
        self._queued.add(gang.key)
        try:
            await self._slots.acquire()
        finally:
            self._queued.discard(gang.key)
        try:
            await self._make(gang, view)
        finally:
            self._slots.release()

    async def _make(self, gang: Gang, view: View) -> None:
        """Ask for its machines, and follow the operation: its slot is free when that is over."""
        asked = await self._once(gang, view)
        began = self._clock.monotonic()
        pause = max(self._limits.poll_s, min(self._took * _MOST_OF, self._limits.hold_s / 2))
        while asked is not None and asked.phase is gangs.Phase.ASKED and asked.operation:
            if self._clock.monotonic() - began >= self._limits.hold_s:
                return
            await asyncio.sleep(pause)
            asked, pause = await self._once(asked, view), self._limits.poll_s
        self._took = self._clock.monotonic() - began

    async def _once(self, gang: Gang, view: View) -> Gang | None:
        """One step; what the row is after it, None when it is another one by now."""
        now = self._clock.now()
        if gang.key not in self.adopted:
            own = gangs.adopted(gang, now)
            saved = await self._rows.save(gang, own) if own != gang else own
            if saved is None:
                return None
            self.adopted.add(gang.key)
            gang = saved
        where = None
        if gang.phase is gangs.Phase.PLANNED and gang.wanted:
            where = self._planner.again(gang, now) if gang.origins else await self._planner.where(gang, now)
        after, actions = gangs.decide(gang, view, where, now, self._limits)
        row = await self._rows.save(gang, after) if after != gang else after
        for action in actions:
            if row is None:
                return None
            found = await self._do(row, action)
            if found != row:
                row = await self._rows.save(row, found)
        return row

    async def _do(self, gang: Gang, action: Action) -> Gang:
        if action.do is Do.ASK:
            return await self._ask(gang)
        if action.do in (Do.POLL, Do.FIND):
            return await self._poll(gang, action)
        await self._delete(action)
        return gang

    def _request(self, gang: Gang) -> str:
        place = Place(gang.experiment, gang.attempt, 0)
        return request_id(self._platform, place, "gang", gang.region, gang.turn)

    async def _ask(self, gang: Gang) -> Gang:
        order = self._planner.order(gang)
        try:
            operation = await self._compute.insert_gang(gang.asks, gang.region, gang.zones, order, self._request(gang))
        except CloudFailure as error:
            self._trouble("ask", error)
            now = self._clock.now()
            self._planner.failed(gang, error.verdict, now)
            return gangs.refused(gang, error.verdict, now, unsure=error.unsure)
        return gangs.answered(gang, operation.name)

    async def _poll(self, gang: Gang, action: Action) -> Gang:
        scope = f"regions/{gang.region}"
        try:
            if action.do is Do.FIND:
                found = await self._compute.operations(scope, request_id=self._request(gang))
                return gangs.answered(gang, found[0].name) if found else gang
            operation = await self._compute.operation(scope, gang.operation)
        except CloudFailure as error:
            self._trouble("poll", error)
            return gang
        now = self._clock.now()
        if operation is None:
            return gangs.forgotten(gang, now)
        if operation.verdict is not None and gang.phase is gangs.Phase.ASKED:
            self._planner.failed(gang, operation.verdict, now)
        return gangs.polled(gang, done=operation.done, verdict=operation.verdict, now=now)

    async def _delete(self, action: Action) -> None:
        now, thing = self._clock.monotonic(), (action.zone, action.name)
        if now - self._deleted.get(thing, now - self._limits.again_s) < self._limits.again_s:
            return
        # A new id each time: with an old one the provider would answer with an old delete of another VM of this name.
        same = str(uuid.uuid4())
        try:
            if action.do is Do.DELETE:
                await self._compute.delete_vm(action.zone, action.name, same)
            else:
                await self._compute.delete_disk(action.zone, action.name, same)
            self._deleted[thing] = now
        except CloudFailure as error:
            self._trouble("delete", error)

    def _trouble(self, what: str, error: CloudFailure) -> None:
        self.troubles[what, error.verdict.reason] += 1
        log.warning("the cloud: %s", error, extra={"call": error.call, "reason": error.verdict.reason})


def _vm(vm: VmSeen) -> Thing:
    return Thing(vm.name, vm.zone, vm.status)


def _disk(disk: DiskSeen) -> Thing:
    return Thing(disk.name, disk.zone, disk.status, disk=True, used=bool(disk.users))
