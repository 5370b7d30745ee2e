"""Retention: what ended long ago goes to the artifact store or into the trash, by the operator's rules; and back.

The archive is written and stored first; only then, in one transaction that sees that nothing came meanwhile, the
database lets go of what lies in it. A crash before that costs an upload, one after it nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from incl_shared.archive.frames import BadFrames
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.names import Role
from incl_shared.errors import InclError
from incl_shared.events import ExperimentTrashed
from incl_shared.queries.base import AnswerT, Query
from incl_shared.queries.registry import CommitArtifacts, DownloadGrant, Entry, Grant, UploadGrant
from incl_tracker import counters, store_restoring, store_retention, store_trash
from incl_tracker.domain import archive
from incl_tracker.domain.retention import Rule
from incl_tracker.store_retention import Aged

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.db import Database, Transaction

_log = logging.getLogger("incl.tracker")
KIND = "archive"
USER = Role.TRACKER.value
PAGE = 200
RETRY_S = 300.0
_FRAMES, _FRAMES_BYTES = 1_000, 4 << 20


class Ask(Protocol):
    """`Bus.ask`, or what stands for it."""

    async def __call__(self, query: Query[AnswerT], *, project: str, user: str) -> AnswerT:
        """The answer, or an InclError."""
        ...


class Archivist:
    """Does a little at a time: one experiment to the archive, one back, or a page of rows looked through."""

    def __init__(
        self, database: Database, ask: Ask, rules: Sequence[Rule], trash_kept_s: float, tell: Callable[[str, str], None]
    ) -> None:
        self._database = database
        self._ask = ask
        self._rules = rules
        self._trash_kept_s = trash_kept_s
        self._tell = tell
        self._after = ""

    async def fetch(self) -> bool:
        """Bring back one experiment that is asked for. False: none is."""
        now = self._database.clock.now()
        found = await self._database.read(lambda connection: store_retention.asked_back(connection, now))
        if found is None:
            return False
        experiment, project, place = found
        try:
            await self._bring_back(experiment, project, place)
        except (InclError, BadFrames) as error:
            _log.error("experiment %s cannot be brought back from the archive yet: %s", experiment, error)
            counters.UPKEEP_FAILED.labels("fetch").inc()
            await self._database.write(
                lambda tx: store_retention.put_off(tx.connection, experiment, tx.clock.now() + RETRY_S)
            )
            return False
        self._tell(project, experiment)
        return True

    async def look(self) -> bool:
        """Look through a page of experiments that ended long ago. False: that was the last page."""
        if not self._rules:
            return False
        now, after = self._database.clock.now(), self._after
        due, self._after = await self._database.read(
            lambda connection: store_retention.aged(connection, self._rules, now, after, PAGE)
        )
        for aged in due:
            if aged.action == "trash":
                await self._database.write(lambda tx, aged=aged: self._trash(tx, aged))  # type: ignore[misc]
            else:
                await self.archive(aged.project, aged.experiment)
            self._tell(aged.project, aged.experiment)
        return bool(self._after)

    async def archive(self, project: str, experiment: str) -> bool:
        """Move points and lines to the artifact store. False: there is nothing to move, or more came meanwhile."""
        seen = await self._database.read(lambda connection: store_retention.mark(connection, experiment))
        if seen is None or not seen.points + seen.lines:
            return False
        with tempfile.TemporaryDirectory(prefix="incl-archive-") as folder:
            path = Path(folder) / "archive"
            await self._database.read(lambda connection: _write(connection, path, experiment))
            grant = await self._ask(UploadGrant(experiment=experiment), project=project, user=USER)
            blob = await asyncio.to_thread(_put, grant, path)
        name = f"telemetry-{blob.sha256[:12]}.incl"
        entry = Entry(kind=KIND, path=name, sha256=blob.sha256, size=blob.size)
        await self._ask(CommitArtifacts(experiment=experiment, entries=(entry,)), project=project, user=USER)
        place = {"sha256": blob.sha256, "size": blob.size, "path": name}
        return await self._database.write(
            lambda tx: store_retention.let_go(tx.connection, experiment, seen, place, tx.clock.now())
        )

    def _trash(self, tx: Transaction, aged: Aged) -> None:
        now = tx.clock.now()
        version = store_trash.set_trash(tx.connection, aged.experiment, now, now + self._trash_kept_s)
        said = ExperimentTrashed(experiment=aged.experiment, by=USER, purge_at=now + self._trash_kept_s)
        tx.emit(said, project=aged.project, version=version)

    async def _bring_back(self, experiment: str, project: str, place: dict[str, Any]) -> None:
        grant = await self._ask(DownloadGrant(experiment=experiment), project=project, user=USER)
        with tempfile.TemporaryDirectory(prefix="incl-archive-") as folder:
            path = Path(folder) / "archive"
            await asyncio.to_thread(_get, grant, place["sha256"], path)
            for _ in archive.read(path, experiment):
                pass  # whole and sound, before anything is written
            for frames in _portions(archive.read(path, experiment)):
                if not await self._database.write(
                    lambda tx, frames=frames: store_restoring.put_back(tx.connection, experiment, place, frames)  # type: ignore[misc]
                ):
                    return
        after: str | None = ""
        while after is not None:
            after = await self._database.write(
                lambda tx, after=after: store_restoring.count_anew(tx.connection, experiment, place, after)  # type: ignore[misc]
            )
        await self._database.write(
            lambda tx: store_restoring.set_back(tx.connection, experiment, place, tx.clock.now())
        )


def _write(connection: sa.Connection, path: Path, experiment: str) -> None:
    frames = (store_retention.chunk_frames(connection, experiment), store_retention.line_frames(connection, experiment))
    archive.write(path, experiment, itertools.chain(*frames))


def _put(grant: Grant, path: Path) -> Any:
    with ArtifactClient(grant) as store:
        return store.put_file(path)


def _get(grant: Grant, sha256: str, path: Path) -> None:
    with ArtifactClient(grant) as store:
        store.get(sha256, path)


def _portions(frames: Iterator[list[Any]]) -> Iterator[list[list[Any]]]:
    """As many frames together as make about 4 MB, or 1,000: few enough that nobody waits long for them."""
    portion: list[list[Any]] = []
    size = 0
    for frame in frames:
        portion.append(frame)
        size += sum(len(part) for part in frame if isinstance(part, bytes))
        if size > _FRAMES_BYTES or len(portion) >= _FRAMES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
