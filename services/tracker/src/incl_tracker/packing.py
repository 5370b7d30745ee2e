"""Packs hot experiments into columns: those that ended at once, others when they have been quiet for a while."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from incl_tracker import store_packing as store
from incl_tracker.domain.columns import BLOCK
from incl_tracker.store_packing import Hot, Overtaken

if TYPE_CHECKING:
    from incl_shared.db import Database, Transaction

T = TypeVar("T")
_ADOPTED = 1024
"""Experiments of one transaction that are looked at for whether they have a place."""
PATIENCE = 20
"""How often an experiment is packed late: after so many quiet times, though it goes on changing."""


class Packer:
    """Does a little at a time. What a crash cuts short is done again; two of them hinder one another, no more."""

    def __init__(self, database: Database, quiet_s: float) -> None:
        self._database = database
        self._quiet_s = quiet_s
        self._begin = ""
        self._seen: dict[str, tuple[int, float, float]] = {}

    async def step(self) -> bool:
        """Look at the next hot experiments, and pack those that are due. True: there may be more."""
        page = await self._database.read(lambda connection: store.hot(connection, self._begin, BLOCK))
        more = len(page) == BLOCK
        await self.pack([one for one in page if self._is_due(one)])
        if not more:
            alive = {one.experiment for one in page}
            self._seen = {k: v for k, v in self._seen.items() if k in alive or k <= self._begin}
        self._begin = page[-1].experiment if more else ""
        return more

    def _is_due(self, one: Hot) -> bool:
        if one.ended or not one.known:
            return True
        now = self._database.clock.now()
        stamp, since, first = self._seen.get(one.experiment, (one.stamp, now, now))
        if stamp != one.stamp:
            since = now
        self._seen[one.experiment] = (one.stamp, since, first)
        due = now - since >= self._quiet_s or now - first >= self._quiet_s * PATIENCE
        if due:
            del self._seen[one.experiment]
        return due

    async def pack(self, due: Sequence[Hot]) -> None:
        """Pack these. Those that somebody else packs at the same time stay hot."""
        try:
            await self._pack(due)
        except Overtaken:
            return

    async def _pack(self, due: Sequence[Hot]) -> None:
        unknown = [one for one in due if not one.known and one.block is None]
        if unknown:
            await self._database.write(lambda tx: store.cool(tx.connection, unknown))
        placed = [one for one in due if one.block is not None]
        for project in sorted({one.project for one in due if one.known and one.block is None}):
            placed += await self._place(
                project, [one for one in due if one.known and one.block is None and one.project == project]
            )
        placed.sort(key=_block)
        for (project, block), some in groupby(placed, _block):
            await self._pack_block(project, block, list(some))

    async def _place(self, project: str, new: Sequence[Hot]) -> list[Hot]:
        placed: list[Hot] = []
        while new:
            got = await self._database.write(_on(store.place, project, new))
            if not got:
                break
            placed += got
            have = {one.experiment for one in got}
            new = [one for one in new if one.experiment not in have]
        return placed

    async def _pack_block(self, project: str, block: int, some: Sequence[Hot]) -> None:
        work = await self._database.read(lambda connection: store.prepare(connection, project, block, some))
        done = 0
        while done < len(work.changes):
            done = await self._database.write(_on(store.write, work, done))
        done = 0
        while done < len(work.done):
            done = await self._database.write(_on(store.finish, work, done))


def _on(function: Callable[..., T], *rest: Any) -> Callable[[Transaction], T]:
    """A function of a connection as one of a transaction."""
    return lambda tx: function(tx.connection, *rest)


def _block(one: Hot) -> tuple[str, int]:
    return one.packed_in or "", one.block or 0


async def pack_all(database: Database, project: str) -> None:
    """Pack all experiments of a project, also those that were put into the tables by other means than the tracker."""
    packer = Packer(database, 0.0)
    begin: str | None = ""
    while begin is not None:
        for _ in range(BLOCK // _ADOPTED):
            if begin is not None:
                begin = await database.write(_on(store.adopt, project, begin, _ADOPTED))
        while await packer.step():
            pass
