"""Read-only disks of snapshots: chosen for gangs, made, watched and removed by the loop of the cloud."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from incl_provisioner import store_data
from incl_provisioner.backends.gce.port import CloudFailure, Compute, DiskOrder
from incl_provisioner.cloud.rows import GangRows
from incl_provisioner.domain.cloud import data_disks, gangs
from incl_provisioner.domain.cloud.data_disks import DataDisk, Do, Limits, Phase, Snapshot, Stand
from incl_provisioner.domain.cloud.errors import Meaning, Verdict
from incl_provisioner.domain.cloud.gangs import Gang, View
from incl_provisioner.domain.cloud.machines import MachineTable
from incl_provisioner.domain.cloud.names import call_id
from incl_provisioner.domain.cloud.zones import Ranked
from incl_provisioner.store_gangs import Key
from incl_shared import leases
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.leases import Lease

_log = logging.getLogger("incl.provisioner")
_KNOWN_S = 60.0
_UNKNOWN_S = 15.0
_AGAIN_S = 3.0
"""How long what was looked up is known: a snapshot; that there is none; that nobody could say."""
_RECENT_S = 3600.0
_NEAR = 1.1
"""A zone that has the data, or soon will, is taken where a useful hour costs at most so much more than in the best."""
_AGAIN = frozenset({Meaning.TRANSIENT, Meaning.BACK_OFF, Meaning.CREDENTIALS, Meaning.ADOPT})


@dataclass(frozen=True, slots=True)
class Chosen:
    """A zone whose disks are ready, with their names in the order of the experiment's snapshots."""

    zone: Ranked
    disks: tuple[str, ...]


class DataKeeper:
    """Args: platform: the id of this installation; lease: in whose name is written; troubles: counted by (what, why).

    wake: another round is to be begun at once.
    """

    def __init__(
        self, platform: str, compute: Compute, database: Database, machines: MachineTable, lease: Callable[[], Lease],
        clock: Clock, limits: Limits, *, round_s: float, troubles: Counter[tuple[str, str]], wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._platform, self._compute, self._database = platform, compute, database
        self._machines, self._lease, self._clock, self._limits = machines, lease, clock, limits
        self._round_s, self._troubles, self._wake = round_s, troubles, wake
        self._rows: dict[str, DataDisk] = {}
        self._gangs: Mapping[Key, Gang] = {}
        self._claims: dict[Key, Gang] = {}
        """Gangs that were told of their disks, and may not have said so in their row yet."""
        self._snapshots: dict[str, tuple[float, Snapshot | Verdict]] = {}
        self._asked: set[str] = set()
        self._wanted: set[tuple[str, str, str, int]] = set()
        """(snapshot, zone, type, machines) that somebody waits for."""
        self._doomed: dict[Key, Verdict] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._deleted: dict[str, float] = {}

    # -- for the planner --

    def choose(self, gang: Gang, snapshots: Sequence[str], free: Sequence[Ranked], now: float) -> Chosen | str:
        """Where a gang has all its data; else why it waits. free: the zones that could be had, the best first."""
        found: list[Snapshot] = []
        for name in snapshots:
            known = self._known(name)
            if known is None:
                self._asked.add(name)
                return f"the snapshot {name} is looked up"
            if isinstance(known, Verdict):
                return self._hopeless(gang, known)
            found.append(known)
        stands = [(each, self._stands(gang, found, each, now)) for each in free]
        open_to = [(each, stand) for each, stand in stands if all(one.cooling is None for one in stand)]
        if not open_to:
            return self._hopeless(gang, next(one.cooling for _, stand in stands for one in stand if one.cooling))
        limit = open_to[0][0].score * _NEAR
        near = [(each, stand) for each, stand in open_to if each.score <= limit]
        zone, stand = min(near, key=lambda pair: _effort(pair[1]))
        ready = [one.disk.name for one in stand if one.disk is not None]
        if len(ready) == len(found):
            self._claims[gang.key] = replace(gang, disks=tuple(ready))
            return Chosen(zone, tuple(ready))
        missing = [one for one, each in zip(found, stand, strict=True) if each.disk is None]
        kind = self._machines.data_kind(zone.shape.machine)
        self._wanted |= {(one.name, zone.zone, kind, gang.nodes) for one in missing}
        return f"preparing data in {zone.zone}: {', '.join(f'{one.name} ({one.gib} GiB)' for one in missing)}"

    def _stands(self, gang: Gang, snapshots: Sequence[Snapshot], zone: Ranked, now: float) -> list[Stand]:
        kind = self._machines.data_kind(zone.shape.machine)
        load = self._load(but=gang.key)
        return [
            Stand(cooling=too_many(one, kind, gang.nodes))
            if gang.nodes > data_disks.most_attached(kind, one.gib)
            else data_disks.stand(self._rows.values(), load, one, zone.zone, kind, gang.nodes, now)
            for one in snapshots
        ]

    def _load(self, but: Key | None = None) -> dict[str, int]:
        both = {**self._claims, **{key: gang for key, gang in self._gangs.items() if gang.disks}}
        return store_data.loads(gang for key, gang in both.items() if key != but)

    def _hopeless(self, gang: Gang, verdict: Verdict) -> str:
        if not verdict.waits and verdict.meaning is not Meaning.CREDENTIALS:
            self._doomed[gang.key] = verdict
        return f"{verdict.message} ({verdict.said})" if verdict.said else verdict.message

    def _known(self, name: str) -> Snapshot | Verdict | None:
        at, found = self._snapshots.get(name, (0.0, None))
        lasts = _KNOWN_S
        if isinstance(found, Verdict):
            lasts = _AGAIN_S if found.waits else _UNKNOWN_S
        return found if self._clock.monotonic() < at + lasts else None

    # -- a round --

    async def busy(self) -> bool:
        """Whether something is to be done about a disk soon."""
        return await self._database.read(store_data.any_open)

    async def refresh(self) -> None:
        """Read the rows: before gangs are told where, and after a view was taken."""
        since = self._clock.now() - _RECENT_S
        self._rows = await self._database.read(lambda connection: store_data.of_all(connection, since))

    async def round(self, view: View, known: Mapping[Key, Gang], rows: GangRows) -> None:
        """Act on what was seen. known: the gangs, read after the view was taken."""
        await self.refresh()
        self._gangs = known
        self._claims = {
            key: gang for key, gang in self._claims.items() if key in known and known[key].phase is gangs.Phase.PLANNED
        }
        doomed, self._doomed = self._doomed, {}
        for key, verdict in doomed.items():
            gang = known.get(key)
            if gang is not None and gang.wanted:
                await rows.save(gang, gangs.doomed(gang, verdict, self._clock.now()))
        await self._look_up()
        await self._want()
        live = [disk for disk in self._rows.values() if disk.live]
        held = store_data.by_disk(known)
        for disk in live:
            if disk.name not in self._busy:
                self._begin(disk.name, self._step(disk, view, disk.name in held))
        for zone, name in data_disks.orphans(view, live):
            if name not in self._busy:
                self._begin(name, self._delete(zone, name))
        if self._busy:
            # A call that hangs holds up its own disk, not the others.
            await asyncio.wait(self._busy.values(), timeout=self._round_s)

    async def stop(self) -> None:
        """Break off whatever is under way; the rows say how it goes on."""
        tasks = list(self._busy.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _begin(self, name: str, step: Coroutine[Any, Any, None]) -> None:
        self._busy[name] = task = asyncio.ensure_future(step)
        task.add_done_callback(functools.partial(self._stepped, name))

    def _stepped(self, name: str, task: asyncio.Task[None]) -> None:
        if self._busy.get(name) is task:
            del self._busy[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._troubles["data", type(error).__name__] += 1
            _log.error("a disk of data could not be taken further", exc_info=error)

    async def _look_up(self) -> None:
        names = {disk.snapshot for disk in self._rows.values() if disk.phase is Phase.PLANNED}
        wanted = sorted(name for name in self._asked | names if self._known(name) is None)
        self._asked.clear()
        await asyncio.gather(*map(self._look_up_one, wanted))
        if wanted:
            self._wake()

    async def _look_up_one(self, name: str) -> None:
        found: Snapshot | Verdict | None
        try:
            async with asyncio.timeout(self._round_s):
                found = await self._compute.snapshot(name)
        except CloudFailure as error:
            self._trouble("look", error)
            found = error.verdict
        except TimeoutError:
            return
        self._snapshots[name] = self._clock.monotonic(), data_disks.missing(name) if found is None else found

    async def _want(self) -> None:
        wanted, self._wanted = sorted(self._wanted), set()
        now, load = self._clock.now(), self._load()
        for name, zone, kind, nodes in wanted:
            known = self._known(name)
            if not isinstance(known, Snapshot):
                continue
            stand = data_disks.stand(self._rows.values(), load, known, zone, kind, nodes, now)
            if stand == Stand():
                disk = await self._database.write(
                    lambda tx, name=name, zone=zone, kind=kind: self._intend(tx, name, zone, kind)  # type: ignore[misc]
                )
                self._rows[disk.name] = disk

    def _intend(self, tx: Transaction, snapshot: str, zone: str, kind: str) -> DataDisk:
        leases.check(tx, self._lease())
        return store_data.want(tx.connection, self._platform, snapshot, zone, kind, self._clock.now())

    async def _step(self, disk: DataDisk, view: View, held: bool) -> None:
        known, now = self._known(disk.snapshot), self._clock.now()
        if disk.phase is Phase.PLANNED and isinstance(known, Verdict):
            await self._save(disk, replace(disk, phase=Phase.GONE, since=now, verdict=known))
            return
        snapshot = known if isinstance(known, Snapshot) else None
        after, do = data_disks.decide(disk, view, held, snapshot, now, self._limits)
        if after != disk and not await self._save(disk, after):
            return
        if do is Do.ASK:
            await self._ask(after)
        elif do is Do.POLL:
            await self._poll(after)
        elif do is Do.DELETE:
            await self._delete(disk.zone, disk.name)

    async def _save(self, before: DataDisk, after: DataDisk) -> bool:
        def save(tx: Transaction) -> bool:
            leases.check(tx, self._lease())
            return store_data.save(tx.connection, before, after, self._clock.now())

        saved = await self._database.write(save)
        if saved and before.phase is not after.phase:
            _log.info("disk %s of %s in %s is %s", after.name, after.snapshot, after.zone, after.phase)
            self._wake()
        return saved

    async def _ask(self, disk: DataDisk) -> None:
        order = DiskOrder(
            disk.name, disk.zone, disk.kind, disk.gib, disk.snapshot, data_disks.labels(self._platform, disk.snapshot),
            shared=data_disks.hyperdisk(disk.kind),
        )  # fmt: skip
        try:
            operation = await self._compute.insert_disk(order, call_id(self._platform, disk.name, disk.zone, "disk"))
        except CloudFailure as error:
            self._trouble("ask", error)
            verdict = error.verdict
            again = verdict.meaning in _AGAIN
            now = self._clock.now()
            await self._save(disk, replace(disk, verdict=verdict) if again else data_disks.failed(disk, verdict, now))
            return
        await self._save(disk, replace(disk, operation=operation.name, verdict=None))

    async def _poll(self, disk: DataDisk) -> None:
        try:
            operation = await self._compute.operation(f"zones/{disk.zone}", disk.operation)
        except CloudFailure as error:
            self._trouble("poll", error)
            return
        now = self._clock.now()
        if operation is None:
            await self._save(disk, replace(disk, operation="", asked=now))
        elif operation.verdict is not None:
            await self._save(disk, data_disks.failed(disk, operation.verdict, now))
        elif operation.done:
            await self._save(disk, data_disks.made(disk, now))

    async def _delete(self, zone: str, name: str) -> None:
        now = self._clock.monotonic()
        self._deleted = {each: at for each, at in self._deleted.items() if now - at < self._limits.again_s}
        if name in self._deleted:
            return
        self._deleted[name] = now
        try:
            await self._compute.delete_disk(zone, name, str(uuid.uuid4()))
        except CloudFailure as error:
            self._deleted.pop(name, None)
            self._trouble("delete", error)

    def _trouble(self, what: str, error: CloudFailure) -> None:
        self._troubles[what, error.verdict.reason] += 1
        _log.warning("the cloud: %s", error, extra={"call": error.call, "reason": error.verdict.reason})


def too_many(snapshot: Snapshot, kind: str, nodes: int) -> Verdict:
    """More machines than the provider lets read one disk."""
    most = data_disks.most_attached(kind, snapshot.gib)
    return replace(
        data_disks.missing(snapshot.name), reason="too_many_readers",
        message=f"{nodes} machines cannot read {snapshot.name}: a {kind} disk of {snapshot.gib} GiB is attached to at "
        f"most {most}",
        hint="ask for fewer nodes, or machines with Hyperdisk ML (c3, g2, a2, a3): docs/mechanisms/data-disks.md",
    )  # fmt: skip


def _effort(stands: Iterable[Stand]) -> int:
    """How far a zone is from having all of it: 0 ready, 1 being made, 2 to be made."""
    return max(0 if one.disk is not None else 1 if one.making else 2 for one in stands)
