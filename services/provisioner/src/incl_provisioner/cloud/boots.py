"""Machines that were made: do they come to work, and are they there still? What does not is told with its reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, TypeVar

from incl_provisioner import protocols, store, store_gangs
from incl_provisioner.attempts import give_up
from incl_provisioner.backends.gce.port import CloudFailure, Compute
from incl_provisioner.cloud.plans import CloudPlans
from incl_provisioner.cloud.rows import GangRows
from incl_provisioner.domain.cloud import gangs, startup
from incl_provisioner.domain.cloud.errors import Meaning, Scope, Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Phase, View
from incl_provisioner.settings import CloudOptions
from incl_provisioner.store_gangs import Key
from incl_provisioner.work import Work
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.states import EndReason

T = TypeVar("T")
_log = logging.getLogger("incl.provisioner")
PREEMPTED = "compute.instances.preempted"
_COOL_S = 300.0
_TAIL_LINES = 12
_HINT = "do machines reach the gateway and the bus, and is their image the right one? see docs/compute-engine.md"


class Boots:
    """Looks at every gang that was made, once a round."""

    def __init__(
        self, options: CloudOptions, database: Database, compute: Compute, rows: GangRows, plans: CloudPlans,
        work: Callable[[Transaction], Work], clock: Clock,
    ) -> None:  # fmt: skip
        self._options, self._database, self._compute = options, database, compute
        self._rows, self._plans, self._work = rows, plans, work
        self._clock = clock
        self._came: dict[Key, tuple[Gang, float]] = {}
        self._taken_back: set[Key] = set()
        self._told: dict[Key, list[int]] = {}

    async def look(self, view: View, known: Mapping[Key, Gang]) -> None:
        """Act on what is missing."""
        for key in self._came.keys() - known.keys():
            self._plans.lived(*self._came.pop(key))
        self._taken_back &= known.keys()
        self._told = {key: ranks for key, ranks in self._told.items() if key in known}
        refused = self._rows.refused
        for key, gang in known.items():
            about, row = self._rows.about.get(key), self._rows.rows.get(key)
            if row is not None and row.preempted is not None and key not in self._taken_back:
                self._taken_back.add(key)
                self._plans.lived(*self._came.pop(key, (gang, row.made or gang.since)), taken=True)
            if gang.phase is not Phase.MADE or not gang.wanted or about is None or row is None:
                continue
            stand = gangs.absent(gang, view)
            if stand is not None:
                await self._rows.note_absent(gang, stand)
            begun = about.attempt >= gang.attempt
            missing = gangs.lost(gang, view, going=not begun)
            if not begun:
                late = self._clock.now() - gang.since > self._options.boot_s
                old = next((refused[name] for name in gang.names if name in refused), "")
                if missing or late or old or await self._mute(gang):
                    await self._broken(gang, missing, old)
                continue
            if key not in self._came and key not in self._taken_back:
                self._came[key] = (gang, row.made or gang.since)
                self._plans.came(gang)
            if missing and self._told.get(key) != missing:
                await self._lost(gang, missing)
                self._told[key] = missing

    async def _broken(self, gang: Gang, missing: list[int], old: str) -> None:
        """Its machines do not come to work: say why, and try the next place."""
        now = self._clock.now()
        counts = 0
        if missing and await self._taken(gang, missing):
            verdict = _verdict("preempted", "the provider took a machine back while it booted", "")
        elif old:
            verdict = _verdict("old_agent", old, protocols.remedy(gang.names[0]))
            counts = 1
        elif not missing and (mute := await self._mute(gang)):
            verdict = _verdict("silent", f"machine {mute[0]}, which was kept, is not heard any more", "")
        else:
            rank = missing[0] if missing else await self._silent(gang)
            said = await self._said(gang, rank)
            what = "ended before it was ready" if missing else f"said nothing for {self._options.boot_s:.0f} s"
            verdict = _verdict("boot", f"machine {gang.names[rank]} {what}", _HINT, said)
            counts = 1
        _log.warning("%s: %s", verdict.message, verdict.said or "it said nothing")
        self._plans.failed(gang, verdict, now)
        await self._rows.save(gang, gangs.broken(gang, verdict, now, counts=counts, most=self._options.boots))

    async def _mute(self, gang: Gang) -> list[str]:
        """Machines that were taken over and are silent since."""
        names = [gang.names[rank] for rank in sorted(gang.kept)]
        return sorted(await self._database.read(partial(store_gangs.silent, names=names))) if names else []

    async def _lost(self, gang: Gang, missing: list[int]) -> None:
        """Machines on which an attempt runs are gone: their ranks have ended."""
        taken = await self._taken(gang, missing)
        reason = EndReason.PREEMPTED if taken else EndReason.LOST
        what = "was taken back by the provider" if taken else "is gone, or was switched off"

        def end(tx: Transaction) -> None:
            work = self._work(tx)
            for row in store.load_ranks(tx.connection, gang.experiment, gang.attempt):
                if row.live and row.rank in missing:
                    seen = store.load_node(tx.connection, row.node)
                    give_up(work, row, reason, f"machine {row.node} {what}", seen.seen if seen else work.now)

        await self._database.write(end)

    async def _silent(self, gang: Gang) -> int:
        """The first rank that has not enrolled in this try, else the first that is not heard."""
        enrolled = await self._database.read(
            lambda connection: store_gangs.enrolled(connection, gang.experiment, gang.attempt)
        )
        came = gang.kept | {rank for rank, one in enrolled.items() if one.turn == gang.turn}
        return next((rank for rank in range(gang.nodes) if rank not in came), 0)

    async def _said(self, gang: Gang, rank: int) -> str:
        """The end of what its serial console said."""
        if not gang.zone:
            return ""
        serial = await self._asked(
            f"the console of {gang.names[rank]}", self._compute.serial(gang.zone, gang.names[rank])
        )
        return startup.tail(serial.text, _TAIL_LINES) if serial is not None else ""

    async def _asked(self, what: str, call: Coroutine[Any, Any, T]) -> T | None:
        """The answer of a call that only tells more of what is known; none where it is not soon: all gangs wait."""
        try:
            async with asyncio.timeout(self._options.quiet_s):
                return await call
        except (CloudFailure, TimeoutError) as error:
            _log.warning("%s cannot be read: %s", what, error or "no answer")
            return None

    async def _taken(self, gang: Gang, missing: list[int]) -> bool:
        """Whether the provider took one of these back; it is noted."""
        if not gang.spot or not gang.zone:
            return False
        names = {gang.names[rank] for rank in missing}
        taken = await self._asked(
            f"what was preempted in {gang.zone}", self._compute.operations(f"zones/{gang.zone}", kind=PREEMPTED)
        )
        if not any(each.target in names for each in taken or ()):
            return False
        await self._database.write(
            lambda tx: store_gangs.note_preempted(tx.connection, gang.experiment, gang.attempt, tx.clock.now())
        )
        return True


def _verdict(reason: str, message: str, hint: str, said: str = "") -> Verdict:
    return Verdict(Meaning.NEXT_ZONE, Scope.ZONE, _COOL_S, reason, message, hint, said)
