"""What is asked about disks of snapshots: which there are, one ahead of its readers, none any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import sqlalchemy as sa

from incl_provisioner import store, store_data, store_gangs
from incl_provisioner.backends.gce.port import CloudFailure, Compute
from incl_provisioner.domain.cloud import data_disks
from incl_provisioner.domain.cloud.data_disks import DataDisk, Phase, Snapshot
from incl_provisioner.domain.cloud.gangs import Gang
from incl_provisioner.domain.cloud.machines import region_of
from incl_provisioner.planner import CatalogPlanner
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError, UnavailableError, UnsupportedError
from incl_shared.ids import short
from incl_shared.queries.provisioner import (
    DataDisks,
    DataDiskView,
    GetData,
    PrepareData,
    RemoveData,
    SnapshotView,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import Asker

T = TypeVar("T")
_ANSWERS_S = 4.0
"""The provider is given so long for what somebody waits for."""
_RECENT_S = 3600.0
_SHOWN = 1000
_ENDING = (Phase.ENDING, Phase.GONE)


class DataQueries:
    """Args: planner: none: no cloud is configured. compute: the cloud, opened when it is first needed.

    wake: the loop is to look at once.
    """

    def __init__(
        self, database: Database, planner: CatalogPlanner | None, compute: Callable[[], Awaitable[Compute]],
        clock: Clock, wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._database, self._planner, self._clock, self._wake = database, planner, clock, wake
        self._compute = compute

    async def data(self, asker: Asker, _: GetData) -> DataDisks:
        """Snapshots and disks.

        Raises:
            UnsupportedError: no cloud is configured.
        """
        planner = self._cloud()
        trouble, snapshots = "", list[Snapshot]()
        try:
            snapshots = await self._asked(lambda compute: compute.snapshots())
        except UnavailableError as error:
            trouble = error.message
        since = self._clock.now() - _RECENT_S
        disks = await self._database.read(lambda connection: self._views(connection, planner, asker, since))
        shown = tuple(SnapshotView(name=one.name, gib=one.gib, ready=one.ready) for one in snapshots[:_SHOWN])
        return DataDisks(snapshots=shown, disks=disks, trouble=trouble)

    async def prepare(self, asker: Asker, query: PrepareData) -> DataDiskView:
        """Want a disk, unless there is one.

        Raises:
            UnsupportedError: no cloud is configured.
            InvalidInput: no such zone or instance, or its machines can share no disk.
            NotFoundError: there is no such snapshot.
            UnavailableError: the provider does not answer.
        """
        planner = self._cloud()
        zone, kind = _place(planner, asker, query)
        if await self._asked(lambda compute: compute.snapshot(query.snapshot)) is None:
            raise NotFoundError(
                f"there is no snapshot {query.snapshot!r}", hint="`incl data ls` lists those that there are"
            )

        def want(tx: Transaction) -> DataDiskView:
            now = self._clock.now()
            rows = store_data.of_all(tx.connection, now).values()
            mine = [each for each in rows if (each.snapshot, each.zone, each.kind) == (query.snapshot, zone, kind)]
            disk = next((each for each in mine if each.phase not in _ENDING), None)
            if disk is None:
                platform, _ = store_gangs.known_by(tx)
                disk = store_data.want(tx.connection, platform, query.snapshot, zone, kind, now)
            elif disk.phase is Phase.READY:
                store_data.hold(tx.connection, [disk.name], now)
            return self._view(disk, planner, (), asker, {})

        made = await self._database.write(want)
        self._wake()
        return made

    async def remove(self, asker: Asker, query: RemoveData) -> DataDisks:
        """End all disks of a snapshot, or one by its name.

        Raises:
            UnsupportedError: no cloud is configured.
            NotFoundError: there is no such disk.
            ConflictError: somebody has one; nothing is ended.
        """
        planner = self._cloud()

        def end(tx: Transaction) -> DataDisks:
            now = self._clock.now()
            rows = [each for each in store_data.of_all(tx.connection, now).values() if each.live]
            mine = [each for each in rows if query.snapshot in (each.snapshot, each.name)]
            mine = [each for each in mine if query.zone in (None, each.zone)]
            if not mine:
                raise NotFoundError(f"there is no disk of {query.snapshot}", hint="`incl data ls` lists them")
            views = self._shown(tx.connection, mine, planner, asker)
            used = [view for view in views if view.machines]
            if used:
                raise ConflictError(
                    _who(used[0]), hint="wait for it, or stop it: incl stop; an unused disk goes by itself"
                )
            for each in mine:
                store_data.save(tx.connection, each, data_disks.ended(each, now), now)
            return DataDisks(disks=self._shown(tx.connection, _now(tx.connection, mine), planner, asker))

        gone = await self._database.write(end)
        self._wake()
        return gone

    def _cloud(self) -> CatalogPlanner:
        if self._planner is None:
            raise UnsupportedError(
                "no cloud is configured, so there are no disks of snapshots",
                hint="incl up --cloud fake shows one; see docs/compute-engine.md",
            )
        return self._planner

    async def _asked(self, call: Callable[[Compute], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_ANSWERS_S):
                return await call(await self._compute())
        except TimeoutError as error:
            raise UnavailableError("the provider does not answer", hint="try it again in a while") from error
        except CloudFailure as error:
            said = f"{error.verdict.message} ({error.verdict.said})" if error.verdict.said else error.verdict.message
            raise UnavailableError(said, hint=error.verdict.hint) from error

    def _views(
        self, connection: sa.Connection, planner: CatalogPlanner, asker: Asker, since: float
    ) -> tuple[DataDiskView, ...]:
        rows = store_data.of_all(connection, since).values()
        newest = {(each.snapshot, each.zone, each.kind): each for each in sorted(rows, key=lambda each: each.created)}
        shown = [each for each in rows if each.live or (each.verdict is not None and each in newest.values())]
        return self._shown(connection, shown, planner, asker)

    def _shown(
        self, connection: sa.Connection, disks: Iterable[DataDisk], planner: CatalogPlanner, asker: Asker
    ) -> tuple[DataDiskView, ...]:
        held = store_data.holders(connection)
        ids = {gang.experiment for gangs in held.values() for gang in gangs}
        projects = {each.id: each.project for each in store.peek_many(connection, ids)} if ids else {}
        ordered = sorted(disks, key=lambda each: (each.snapshot, each.zone, each.name))
        return tuple(self._view(each, planner, held.get(each.name, ()), asker, projects) for each in ordered)

    @staticmethod
    def _view(
        disk: DataDisk, planner: CatalogPlanner, gangs: Iterable[Gang], asker: Asker, projects: dict[str, str]
    ) -> DataDiskView:
        held = list(gangs)
        ids = sorted({gang.experiment for gang in held})
        own = tuple(each for each in ids if projects.get(each) == asker.project)
        prices = planner.catalog.prices
        return DataDiskView(
            name=disk.name, snapshot=disk.snapshot, zone=disk.zone, kind=disk.kind, gib=disk.gib, phase=disk.phase,
            since=disk.since, used=disk.used, machines=sum(gang.nodes for gang in held), experiments=own,
            others=len(ids) - len(own), currency=prices.currency,
            month=prices.disk_month(disk.kind, disk.gib, region_of(disk.zone)) if disk.gib else None,
            trouble=disk.verdict.message if disk.verdict is not None else "",
            hint=disk.verdict.hint if disk.verdict is not None else "",
        )  # fmt: skip


def _place(planner: CatalogPlanner, asker: Asker, query: PrepareData) -> tuple[str, str]:
    """(zone, type of the disk).

    Raises:
        InvalidInput: no such zone or instance, or its machines can share no disk.
    """
    wanted = {"command": ["true"], "project": asker.project, "data": [{"snapshot": query.snapshot}]}
    zones = {"zones": [query.zone]} if query.zone else {}
    first = planner.plan(ExperimentSpec.model_validate({**wanted, **zones, "instance": query.instance})).first
    if query.zone not in (None, first.zone):
        raise InvalidInput(f"there is no {query.instance} in {query.zone}", hint="leave --zone or --instance out")
    return first.zone, planner.catalog.machines.data_kind(first.shape.machine)


def _who(view: DataDiskView) -> str:
    named = [short(each) for each in view.experiments]
    named += [f"{view.others} of other projects"] if view.others else []
    return f"the disk of {view.snapshot} in {view.zone} is used by {', '.join(named)}"


def _now(connection: sa.Connection, disks: Iterable[DataDisk]) -> list[DataDisk]:
    found = [store_data.load(connection, each.name) for each in disks]
    return [each for each in found if each is not None]
