"""The gangs in the database, as the keeper and its planner see them. Writes only as the owner of the lease."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from incl_provisioner import store, store_cooldowns, store_data, store_gangs, store_trouble
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.cooldowns import CooldownBook, Cooling, CoolKey, Growth
from incl_provisioner.domain.cloud.gangs import LAST, Absent, Gang, Phase
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.store_gangs import GangRow, Key
from incl_provisioner.store_trouble import Trouble
from incl_provisioner.work import Change
from incl_shared import leases
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.events.experiments import ExperimentSubmitted, NodeDeleted
from incl_shared.leases import Lease
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import SYSTEM_PROJECT

_REMOVED = (Phase.CLEANING, Phase.ENDING)


@dataclass(frozen=True, slots=True)
class About:
    """Whose gang it is, and what its experiment has come to. attempt: the last one that was assigned."""

    spec: ExperimentSpec
    project: str
    user: str
    preemptions: tuple[float, ...]
    attempt: int
    live: bool


class GangRows:
    """See `keeper.Rows`. lease: gives the lease in whose name is written. told: called once a change is committed."""

    def __init__(
        self, database: Database, lease: Callable[[], Lease], told: Callable[[], None], metrics: ProvisionerMetrics,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._database, self._clock = database, clock
        self._metrics = metrics
        self._lease = lease
        self._told = told
        self._specs: dict[str, ExperimentSpec] = {}
        self._cooled: dict[CoolKey, Cooling] = {}
        self.about: dict[Key, About] = {}
        self.rows: dict[Key, GangRow] = {}
        self.refused: dict[str, str] = {}
        """Machines that get no work though they speak, and why."""

    async def gangs(self) -> dict[Key, Gang]:
        """All gangs that are not over; who they are for is in `about` from then on."""
        self.rows, self.about, self.refused = await self._database.read(self._load)
        self._specs = {key[0]: each.spec for key, each in self.about.items()}
        return {key: row.gang for key, row in self.rows.items()}

    async def any(self) -> bool:
        """Whether there is one that is not over."""
        return await self._database.read(store_gangs.any_live)

    async def save(self, before: Gang, after: Gang) -> Gang | None:
        """Replace a gang; what it is then. None when it is not `before` any more, and nothing is changed."""
        return await self._database.write(lambda tx: self._save(tx, before, after))

    async def tell(self, experiments: Iterable[str]) -> None:
        """The scheduler is to look at these."""
        ids = sorted(set(experiments))

        def touch(tx: Transaction) -> None:
            for each in ids:
                self._touch(tx, each)

        await self._database.write(touch)

    async def note_absent(self, gang: Gang, absent: Absent) -> None:
        """Keep what the provider shows no more of a gang; nothing is written where that is known."""
        row = self.rows.get(gang.key)
        if row is None or row.absent == absent:
            return

        def write(tx: Transaction) -> None:
            leases.check(tx, self._lease())
            store_gangs.note_absent(tx.connection, gang, absent)

        await self._database.write(write)

    async def note(self, provider: str, trouble: Trouble | None) -> None:
        """What keeps the cloud from being used, or that nothing does any more; all who wait are told."""

        def write(tx: Transaction) -> None:
            leases.check(tx, self._lease())
            store_trouble.save(tx.connection, provider, trouble, self._clock.now())
            for experiment in sorted({experiment for experiment, _ in store_gangs.live(tx.connection)}):
                self._touch(tx, experiment)

        await self._database.write(write)

    async def cool(self, book: CooldownBook) -> None:
        """Keep what is left alone: whoever goes on after this process knows it. Nothing is written for what is kept."""
        now = {each.key: each for each in book}
        changed = [each for key, each in now.items() if self._cooled.get(key) != each]
        gone = self._cooled.keys() - now.keys()
        if not changed and not gone:
            return

        def write(tx: Transaction) -> None:
            leases.check(tx, self._lease())
            store_cooldowns.save(tx.connection, changed, gone)

        await self._database.write(write)
        self._cooled = now

    async def cooled(self) -> CooldownBook:
        """What is left alone, as it was kept."""
        latest = self._clock.now() + Growth().longest_s
        found = await self._database.read(lambda connection: store_cooldowns.load(connection, latest))
        self._cooled = {each.key: each for each in found}
        return CooldownBook(known=found)

    def _load(self, connection: sa.Connection) -> tuple[dict[Key, GangRow], dict[Key, About], dict[str, str]]:
        with self._metrics.own_time("cloud"):
            rows, about = self._read(connection)
            return rows, about, store_gangs.refused(connection) if rows else {}

    def _read(self, connection: sa.Connection) -> tuple[dict[Key, GangRow], dict[Key, About]]:
        rows = store_gangs.live(connection)
        ids = {experiment for experiment, _ in rows}
        executions = store_gangs.owners(connection, ids)
        requests = store.requests(connection, [each for each in ids if each not in self._specs])
        fresh = {key: ExperimentSubmitted.model_validate_json(text).spec for key, text in requests.items() if text}
        specs = {**self._specs, **fresh}
        taken = store_gangs.preemptions(connection, ids)
        about = {}
        for key in rows:
            execution, spec = executions.get(key[0]), specs.get(key[0])
            if execution is not None and spec is not None:
                about[key] = About(
                    spec, execution.project, execution.user, tuple(taken.get(key[0], ())), execution.attempt,
                    bool(execution.live),
                )  # fmt: skip
        return rows, about

    def _save(self, tx: Transaction, before: Gang, after: Gang) -> Gang | None:
        with self._metrics.own_time("cloud"):
            return self._replace(tx, before, after)

    def _replace(self, tx: Transaction, before: Gang, after: Gang) -> Gang | None:
        leases.check(tx, self._lease())
        if before.phase is Phase.MADE and after.phase is Phase.CLEANING and self._begun(tx, before):
            return None
        if after.origins and before.phase not in _REMOVED and after.phase in _REMOVED:
            after = self._given_back(tx, after)
        asks = (before.phase, after.phase) == (Phase.PLANNED, Phase.ASKED)
        if asks and not store_data.hold(tx.connection, after.disks, self._clock.now()):
            return None
        if not store_gangs.save(tx.connection, before, after, self._clock.now()):
            return None
        if after.phase in LAST:
            self._gone(tx, after, after.owned)
        elif before.phase is Phase.CLEANING and before.origins and not after.origins:
            self._gone(tx, before, [before.names[rank] for rank in sorted(before.kept)])
        if _shown(before) != _shown(after):
            self._touch(tx, after.experiment)
        return after

    def _given_back(self, tx: Transaction, gang: Gang) -> Gang:
        """A gang whose attempt does not begin: what it took over is the last attempt's again, if that has any left."""
        row = store_gangs.load(tx.connection, gang.experiment, gang.attempt - 1)
        if row is None or not row.live or self._begun(tx, gang):
            return gang
        without, last = gangs.given_back(gang, row.gang)
        return without if store_gangs.save(tx.connection, row.gang, last, self._clock.now()) else gang

    @staticmethod
    def _begun(tx: Transaction, gang: Gang) -> bool:
        """Whether its attempt has begun since somebody looked: then its end decides, not how it booted."""
        execution = store.load(tx.connection, gang.experiment)
        return execution is not None and execution.attempt >= gang.attempt

    def _touch(self, tx: Transaction, experiment: str) -> None:
        store.changed(tx.connection, Change.GANG, experiment)
        tx.after_commit(self._told)

    @staticmethod
    def _gone(tx: Transaction, gang: Gang, names: list[str]) -> None:
        """The provider has said that nothing is left of these."""
        for node, version in store_gangs.drop_nodes(tx.connection, names).items():
            event = NodeDeleted(node=node, experiment=gang.experiment, attempt=gang.attempt, zone=gang.zone)
            tx.emit(event, project=SYSTEM_PROJECT, version=version + 1)
            store.changed(tx.connection, Change.NODE, node)


def _shown(gang: Gang) -> tuple[object, ...]:
    """What people are told of a gang."""
    return (gang.phase, gang.zone, gang.turn, gang.verdict.message if gang.verdict is not None else "")
