"""Keeps the machines of gangs as they are wanted: looks at the cloud, decides, saves, acts; again and again.

Level-triggered: a round needs nothing from the one before but the rows. It may be cut off anywhere.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from incl_provisioner.backends.gce.patience import Patience
from incl_provisioner.backends.gce.port import CloudFailure, Compute, DiskSeen, Listing, Operation, Order, VmSeen
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import Action, Do, Gang, Limits, Thing, View, Where
from incl_provisioner.domain.cloud.names import Place, label_filter, request_id
from incl_shared.clock import Clock

log = logging.getLogger(__name__)
_MOST_OF = 0.9
_OF_ALL = frozenset({Meaning.TRANSIENT, Meaning.BACK_OFF, Meaning.CREDENTIALS, Meaning.PERMISSION})
"""What keeps nothing from being deleted but the provider, or the platform's account."""
Spot = tuple[str, str]
"""(zone, name) of a VM or a disk."""


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


class _Told:
    """A row, and what is told in it while a call for it has no answer."""

    def __init__(self, rows: Rows, row: Gang) -> None:
        self._rows, self.row = rows, row

    async def late(self, verdict: Verdict) -> None:
        after = gangs.waited(self.row, verdict)
        if after != self.row:
            self.row = await self._rows.save(self.row, after) or self.row


class Keeper:
    """Args: platform: the id of this installation, as in the labels. told: called when `trouble` may have changed.

    Attributes:
        troubles: how often a call failed, by (what was done, reason).
        adopted: gangs whose times are of this process's clock.
    """

    def __init__(
        self, platform: str, compute: Compute, rows: Rows, planner: Planner, clock: Clock,
        limits: Limits | None = None, told: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        self._platform, self._compute, self._rows = platform, compute, rows
        self._planner, self._clock, self._limits = planner, clock, limits or Limits()
        self._told = told
        self._patience = Patience(clock, self._limits.quiet_s)
        self._blind: Verdict | None = None
        """Why nobody could look."""
        self._stays: dict[Spot, Verdict] = {}
        """What could not be deleted, and why."""
        self._there: set[Spot] = set()
        """What was seen the last time."""
        self._busy: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._sweeping: dict[Spot, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(self._limits.at_once)
        self._queued: set[tuple[str, int]] = set()
        """Gangs that wait for a slot."""
        self._took = 0.0
        """How long the last operation took (s): the next one is not looked at before most of that is over."""
        self._deleted: dict[Spot, float] = {}
        """(zone, name) -> when its delete was last asked for (monotonic)."""
        self.adopted: set[tuple[str, int]] = set()
        self.troubles: Counter[tuple[str, str]] = Counter()

    @property
    def trouble(self) -> Verdict | None:
        """What keeps all gangs from being looked after, not a single one."""
        return self._blind or next(iter(self._stays.values()), None)

    async def round(self) -> View:
        """Look once, and act on what was seen. The view is what was seen; empty and old where nothing could be."""
        view = await self._look()
        late = self._clock.monotonic() - self._limits.again_s
        self._deleted = {thing: at for thing, at in self._deleted.items() if at > late}
        # Read after the lists: whatever they show was asked for by a row that is there by now.
        known = await self._rows.gangs()
        self.adopted &= known.keys()
        self._patience.forget(lambda about: about == "look" or about in known or about in self._there)
        for key, gang in known.items():
            if key in self._queued and not gang.wanted:
                self._busy.pop(key).cancel()
            if key not in self._busy:
                self._busy[key] = task = asyncio.ensure_future(self._step(gang, view))
                task.add_done_callback(functools.partial(self._stepped, key))
        for action in gangs.orphans(view, known):
            spot = action.zone, action.name
            if spot not in self._sweeping:
                self._sweeping[spot] = task = asyncio.ensure_future(self._delete(action))
                task.add_done_callback(functools.partial(self._swept, spot))
        under_way = [*self._busy.values(), *self._sweeping.values()]
        if under_way:
            # A call that hangs holds up its own gang, not the others.
            await asyncio.wait(under_way, timeout=self._limits.round_s)
        return view

    def _swept(self, spot: Spot, task: asyncio.Task[None]) -> None:
        del self._sweeping[spot]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.troubles["step", type(error).__name__] += 1
            log.error("what belongs to nobody could not be removed", exc_info=error)

    def _stepped(self, key: tuple[str, int], task: asyncio.Task[None]) -> None:
        if self._busy.get(key) is task:
            del self._busy[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.troubles["step", type(error).__name__] += 1
            log.error("a gang could not be taken further", exc_info=error)

    async def stop(self) -> None:
        """Break off whatever is under way; the rows say how it goes on."""
        tasks = [*self._busy.values(), *self._sweeping.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look(self) -> View:
        at = self._clock.now()
        wanted = label_filter(self._platform)
        try:
            vms, disks = await self._patience.answer("look", self._lists(wanted), self._unseen)
        except CloudFailure as error:
            self._trouble("look", error)
            await self._unseen(error.verdict)
            return View(-1.0)
        things = [*map(_vm, vms.items), *map(_disk, disks.items)]
        self._there = {(one.zone, one.name) for one in things}
        self._stays = {spot: why for spot, why in self._stays.items() if spot in self._there}
        await self._unseen(None)
        return gangs.view_of(at, things, vms.unreachable | disks.unreachable)

    async def _lists(self, wanted: str) -> tuple[Listing[VmSeen], Listing[DiskSeen]]:
        return await asyncio.gather(self._compute.vms(wanted), self._compute.disks(wanted))

    async def _unseen(self, verdict: Verdict | None) -> None:
        self._blind = verdict
        await self._tell()

    async def _tell(self) -> None:
        if self._told is not None:
            await self._told()

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
            told = _Told(self._rows, row)
            found = await self._do(told, action)
            row = await self._rows.save(told.row, found) if found != told.row else found
        return row

    async def _do(self, told: _Told, action: Action) -> Gang:
        if action.do is Do.ASK:
            return await self._ask(told)
        if action.do in (Do.POLL, Do.FIND):
            return await self._poll(told, action)
        await self._delete(action)
        return told.row

    def _request(self, gang: Gang) -> str:
        place = Place(gang.experiment, gang.attempt, 0)
        return request_id(self._platform, place, "gang", gang.region, gang.turn)

    async def _ask(self, told: _Told) -> Gang:
        gang, order = told.row, self._planner.order(told.row)
        call = self._compute.insert_gang(gang.asks, gang.region, gang.zones, order, self._request(gang))
        try:
            operation = await self._patience.answer(gang.key, call, told.late)
        except CloudFailure as error:
            self._trouble("ask", error)
            now = self._clock.now()
            self._planner.failed(gang, error.verdict, now)
            return gangs.refused(told.row, error.verdict, now, unsure=error.unsure)
        return gangs.answered(told.row, operation.name)

    async def _poll(self, told: _Told, action: Action) -> Gang:
        gang, scope = told.row, f"regions/{told.row.region}"
        try:
            if action.do is Do.FIND:
                finding = self._compute.operations(scope, request_id=self._request(gang))
                found = await self._patience.answer(gang.key, finding, told.late)
                return gangs.answered(told.row, found[0].name) if found else told.row
            operation = await self._patience.answer(gang.key, self._compute.operation(scope, gang.operation), told.late)
        except CloudFailure as error:
            self._trouble("poll", error)
            return gangs.unseen(told.row, error.verdict, self._clock.now())
        return self._polled(told.row, operation)

    def _polled(self, gang: Gang, operation: Operation | None) -> Gang:
        now = self._clock.now()
        if operation is None:
            return gangs.forgotten(gang, now)
        if operation.verdict is not None and gang.phase is gangs.Phase.ASKED:
            self._planner.failed(gang, operation.verdict, now)
        return gangs.polled(gang, done=operation.done, verdict=operation.verdict, now=now)

    async def _delete(self, action: Action) -> None:
        now, spot = self._clock.monotonic(), (action.zone, action.name)
        if now - self._deleted.get(spot, now - self._limits.again_s) < self._limits.again_s:
            return
        # A new id each time: with an old one the provider would answer with an old delete of another VM of this name.
        same = str(uuid.uuid4())
        make = self._compute.delete_vm if action.do is Do.DELETE else self._compute.delete_disk

        async def late(verdict: Verdict) -> None:
            self._stays[spot] = verdict
            await self._tell()

        try:
            await self._patience.answer(spot, make(action.zone, action.name, same), late)
        except CloudFailure as error:
            self._trouble("delete", error)
            if error.verdict.meaning in _OF_ALL and error.verdict.scope is not Scope.ZONE:
                self._stays[spot] = error.verdict
            return
        self._deleted[spot] = now
        self._stays.pop(spot, None)

    def _trouble(self, what: str, error: CloudFailure) -> None:
        self.troubles[what, error.verdict.reason] += 1
        log.warning("the cloud: %s", error, extra={"call": error.call, "reason": error.verdict.reason})


def _vm(vm: VmSeen) -> Thing:
    return Thing(vm.name, vm.zone, vm.status)


def _disk(disk: DiskSeen) -> Thing:
    return Thing(disk.name, disk.zone, disk.status, disk=True, used=bool(disk.users))
