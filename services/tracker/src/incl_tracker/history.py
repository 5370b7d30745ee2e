"""The history: every event, and every request that the tracker handled, for longer than the bus keeps them.

It is written with the inbox in one transaction, and goes into the artifact store in segments: files of frames that are
listed under an experiment of the platform's own (`PLACE`), so that they are where all other large bytes are, on one
machine and on many, and in every backup. A segment is stored and listed first; then its rows are deleted. A crash
between the two stores some events twice, which their ids tell.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from incl_shared.archive.frames import FrameWriter, read_frames
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.names import Role
from incl_shared.errors import NotFoundError
from incl_shared.ids import derived_id
from incl_shared.queries.base import AnswerT, Query
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, Entry, Grant, ListArtifacts, UploadGrant
from incl_shared.subjects import SYSTEM_PROJECT
from incl_tracker import tables as t
from incl_tracker.sql import insert_new

if TYPE_CHECKING:
    from typing import Protocol

    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Database, Transaction

    class Ask(Protocol):
        """`Bus.ask`, or what stands for it."""

        async def __call__(self, query: Query[AnswerT], *, project: str, user: str) -> AnswerT:
            """The answer, or an InclError."""
            ...


PLACE = derived_id("the history of events")
"""The experiment under which segments are listed; nobody submitted it."""
KIND, FORMAT = "archive", "incl-history"
USER = Role.TRACKER.value
ROWS, BYTES, AGE_S = 5_000, 4 << 20, 3600.0
"""A segment is written once there are so many events, or bytes, or the oldest has waited for so long."""
PURGES = 5_000
"""Purged experiments that are taken out of all segments at once."""
_h = t.history.c


@dataclass(frozen=True, slots=True)
class Said:
    """An event or a request, as it was on the bus."""

    id: str
    subject: str
    headers: dict[str, str]
    payload: bytes


def note(tx: Transaction, delivery: Delivery) -> None:
    """Keep what was delivered. The handler of the durable of all events, and a part of those of requests."""
    row = {
        "event": delivery.id,
        "subject": delivery.subject,
        "headers": json.dumps({k: v for k, v in delivery.headers.items() if k.startswith("ce-")}),
        "payload": delivery.payload,
        "at": tx.clock.now(),
    }
    insert_new(tx.connection, t.history, [row])


def forget(tx: Transaction, experiment: str) -> None:
    """It is purged: nothing of it stays in the history. What lies in segments goes with the next `Historian.purge`."""
    tx.connection.execute(sa.delete(t.history).where(_h.subject.endswith(f".{experiment}")))
    insert_new(tx.connection, t.history_purges, [{"experiment": experiment}])


class Historian:
    """Moves the history into the artifact store, a segment at a time."""

    def __init__(self, database: Database, ask: Ask, *, rows: int = ROWS, age_s: float = AGE_S) -> None:
        self._database = database
        self._ask = ask
        self._rows = rows
        self._age_s = age_s

    async def step(self) -> bool:
        """Write a segment, should one be due. True: there may be more."""
        before = self._database.clock.now() - self._age_s
        due = await self._database.read(lambda connection: _due(connection, self._rows, before))
        if due is None:
            return False
        first, last = due
        with tempfile.TemporaryDirectory(prefix="incl-history-") as folder:
            path = Path(folder) / "segment"
            count = await self._database.read(lambda connection: _write(connection, path, last))
            grant = await self._ask(UploadGrant(experiment=PLACE), project=SYSTEM_PROJECT, user=USER)
            blob = await asyncio.to_thread(_put, grant, path)
        entry = Entry(
            kind=KIND, path=f"history/{first:016d}-{blob.sha256[:12]}.incl", sha256=blob.sha256, size=blob.size
        )
        await self._ask(CommitArtifacts(experiment=PLACE, entries=(entry,)), project=SYSTEM_PROJECT, user=USER)
        await self._database.write(lambda tx: tx.connection.execute(sa.delete(t.history).where(_h.id <= last)).rowcount)
        return count >= self._rows

    async def purge(self) -> bool:
        """Write segments anew without what is purged: each takes the place of the old one in the list of files."""
        column = t.history_purges.c.experiment
        purged = set(await self._database.read(lambda c: c.execute(sa.select(column).limit(PURGES)).scalars().all()))
        if not purged:
            return False
        with tempfile.TemporaryDirectory(prefix="incl-history-") as folder:
            for entry in await segments(self._ask):
                await self._without(entry, purged, Path(folder))
        await self._database.write(
            lambda tx: tx.connection.execute(sa.delete(t.history_purges).where(column.in_(purged))).rowcount
        )
        return len(purged) == PURGES

    async def _without(self, entry: Entry, purged: set[str], folder: Path) -> None:
        old, new = folder / "old", folder / "new"
        await fetch(self._ask, entry, old)
        left = await asyncio.to_thread(_filter, old, new, purged)
        old.unlink()
        if left:
            return
        grant = await self._ask(UploadGrant(experiment=PLACE), project=SYSTEM_PROJECT, user=USER)
        blob = await asyncio.to_thread(_put, grant, new)
        changed = entry.model_copy(update={"sha256": blob.sha256, "size": blob.size})
        await self._ask(CommitArtifacts(experiment=PLACE, entries=(changed,)), project=SYSTEM_PROJECT, user=USER)


def _filter(old: Path, new: Path, purged: set[str]) -> bool:
    """Write a segment without these experiments. True: it had none of them."""
    with FrameWriter(new, [FORMAT, 1]) as file:
        count = 0
        for said in read_segment(old):
            count += 1
            if said.subject.rpartition(".")[2] not in purged:
                file.add([said.id, said.subject, said.headers, said.payload])
    return file.count == count


def _due(connection: sa.Connection, rows: int, before: float) -> tuple[int, int] | None:
    """(first, last) id of the next segment; none while there is little, and that is young."""
    found = connection.execute(
        sa.select(_h.id, _h.at, sa.func.length(_h.payload).label("size")).order_by(_h.id).limit(rows)
    ).all()
    if not found:
        return None
    size = 0
    for row in found:
        size += row.size
        if size >= BYTES:
            return found[0].id, row.id
    if len(found) == rows or found[0].at < before:
        return found[0].id, found[-1].id
    return None


def _write(connection: sa.Connection, path: Path, last: int) -> int:
    with FrameWriter(path, [FORMAT, 1]) as file:
        for said in rows_of(connection, last):
            file.add([said.id, said.subject, said.headers, said.payload])
    return file.count


def rows_of(connection: sa.Connection, last: int | None = None) -> Iterator[Said]:
    """The events that lie in no segment yet, in their order."""
    query = sa.select(_h.event, _h.subject, _h.headers, _h.payload).order_by(_h.id)
    if last is not None:
        query = query.where(_h.id <= last)
    for row in connection.execute(query):
        yield Said(row.event, row.subject, json.loads(row.headers), row.payload)


def _put(grant: Grant, path: Path) -> Any:
    with ArtifactClient(grant) as store:
        return store.put_file(path)


async def segments(ask: Ask) -> list[Entry]:
    """All segments, in the order in which they were written."""
    found: list[Entry] = []
    cursor = None
    while True:
        query = ListArtifacts(experiment=PLACE, kind=KIND, cursor=cursor)
        try:
            page = await ask(query, project=SYSTEM_PROJECT, user=USER)
        except NotFoundError:
            return []  # none was written yet
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return sorted(found, key=lambda entry: entry.path)


async def fetch(ask: Ask, entry: Entry, path: Path) -> None:
    """One segment into a file; its bytes are compared with its checksum."""
    grant = await ask(DownloadGrant(experiment=PLACE), project=SYSTEM_PROJECT, user=USER)

    def get() -> None:
        with ArtifactClient(grant) as store:
            store.get(entry.sha256, path)

    await asyncio.to_thread(get)


def read_segment(path: Path) -> Iterator[Said]:
    """The events of a segment.

    Raises:
        BadFrames: it is none, or not whole.
    """
    for number, frame in enumerate(read_frames(path, FORMAT)):
        if number:
            yield Said(*frame)
