"""Queries and events come in, the rules are asked, rows and events go out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from incl_registry import store, store_purge
from incl_registry.access import ARCHIVIST, HIDDEN_KINDS, Claim, check, check_entries, job_of
from incl_registry.blobs import BlobStore
from incl_registry.grants import GrantScope, Verb, sign
from incl_registry.retention import superseded, unwanted
from incl_registry.threads import Threads
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.errors import DeniedError, InvalidInput, NotFoundError
from incl_shared.events import ArtifactsDropped, ArtifactStored, DroppedFile, ExperimentPurged, ExperimentQueued
from incl_shared.queries.registry import (
    ArtifactPage,
    CommitArtifacts,
    Committed,
    DownloadGrant,
    Entry,
    Grant,
    ListArtifacts,
    Shared,
    ShareFile,
    UploadGrant,
)
from incl_shared.spec import CheckpointPolicy
from incl_shared.subjects import Asker, parse_event

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.bus.runtime import Bus

_log = logging.getLogger("incl.registry")
_PAGE_BYTES = 180_000
_ROW_BYTES = 240
_MOST_DROPPED = 500


class Handlers:
    """What the registry answers.

    Args:
        url: gives the address of the HTTP door, which is known once it listens.
        key: signs the grants.
        ttl_s: how long a grant is good.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        clock: Clock,
        *,
        key: bytes,
        ttl_s: float,
        url: Callable[[], str],
        threads: Threads | None = None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._key = key
        self._ttl = ttl_s
        self._url = url
        self._threads = threads or Threads()

    def register(self, bus: Bus) -> None:
        """Serve every query."""
        bus.serve(UploadGrant, self.upload_grant)
        bus.serve(DownloadGrant, self.download_grant)
        bus.serve(CommitArtifacts, self.commit)
        bus.serve(ListArtifacts, self.files)
        bus.serve(ShareFile, self.share)

    async def upload_grant(self, asker: Asker, query: UploadGrant) -> Grant:
        """A door to put; the first one claims the experiment for the asker's project."""

        def work(tx: Transaction) -> None:
            self._allow(tx, asker, query.experiment)

        await self._database.write(work)
        return self._grant(asker, query.experiment, Verb.PUT)

    async def download_grant(self, asker: Asker, query: DownloadGrant) -> Grant:
        """A door to get."""
        await self._check_read(asker, query.experiment)
        return self._grant(asker, query.experiment, Verb.GET)

    async def share(self, asker: Asker, query: ShareFile) -> Shared:
        """A link to one file. It ends with its time, with the file's place in the list, and with the experiment."""
        if job_of(asker) is not None or asker.user == ARCHIVIST:
            raise DeniedError("only people share files", hint="incl share, from your own command line")
        await self._check_read(asker, query.experiment)
        if not await self._database.read(lambda at: store.is_listed(at, query.experiment, query.path, query.sha256)):
            raise NotFoundError(
                f"experiment {query.experiment} has no such file {query.path[:200]!r}", hint="incl download … --list"
            )
        expires, file = self._clock.now() + query.seconds, query.path.rpartition("/")[2]
        token = sign(self._key, GrantScope(asker.project, query.experiment, Verb.SHARE, expires, query.sha256, file))
        _log.info("%s shares %s of %s for %d s", asker.user, query.sha256[:12], query.experiment, query.seconds)
        return Shared(url=f"{self._url()}/shared/{token}/{quote(file, safe='')}", expires=expires)

    async def files(self, asker: Asker, query: ListArtifacts) -> ArtifactPage:
        """A page of the experiment's files; fewer than asked for when their names are long."""
        await self._check_read(asker, query.experiment)
        rows = await self._database.read(
            lambda connection: store.page(
                connection,
                query.experiment,
                kind=query.kind,
                attempt=query.attempt,
                after=query.cursor,
                limit=query.limit + 1,
            )
        )
        if rows is None:
            raise InvalidInput("the list has changed at this place", hint="read it again from its beginning")
        fitting = min(_fitting(rows), query.limit)
        cursor = rows[fitting - 1].id if fitting < len(rows) else None
        return ArtifactPage(entries=tuple(row.entry for row in rows[:fitting]), cursor=cursor)

    async def commit(self, asker: Asker, query: CommitArtifacts) -> Committed:
        """List files. All of them, or none."""
        check_entries(asker, query.entries)
        wanted = {sha256 for entry in query.entries for sha256, _ in _blobs_of(entry)}
        if missing := await self._threads.run(self._blobs.missing, wanted):
            raise _not_stored(min(missing))
        return Committed(new=await self._database.write(lambda tx: self._commit(tx, asker, query)))

    def event(self, tx: Transaction, delivery: Delivery) -> None:
        """EVENTS: experiments are admitted, and purged."""
        event, project = delivery.event(), parse_event(delivery.subject)[0]
        if isinstance(event, ExperimentQueued):
            self._queued(tx, event, project)
        elif isinstance(event, ExperimentPurged):
            self._purged(tx, event, project)

    def _purged(self, tx: Transaction, event: ExperimentPurged, project: str) -> None:
        """From now on nothing of it can be read or written; the rest is the sweep's (see purge)."""
        if not store_purge.purge_claim(tx.connection, event.experiment, project, self._clock.now()):
            _log.warning("experiment %s is claimed by another project: not purged", event.experiment)

    def _queued(self, tx: Transaction, event: ExperimentQueued, project: str) -> None:
        """An experiment was admitted: its code and provenance are its files, whoever uploaded them in its project."""
        store.put_claim(tx.connection, event.experiment, Claim(project, event.user), self._clock.now())
        claim = store.claim_of(tx.connection, event.experiment)
        if claim is None or claim.project != project:
            _log.warning("experiment %s is claimed by another project", event.experiment)
            return
        if claim.purged:
            return
        parts = _parts_of(event)
        listed = store.listed_codes(tx.connection, event.experiment)
        sizes = store.sizes_of(tx.connection, project, parts.keys())
        fresh = [
            Entry(kind=kind, path=path, sha256=sha256, size=sizes[sha256])
            for sha256, (kind, path) in parts.items()
            if sha256 in sizes and sha256 not in listed
        ]
        self._put(tx, event.experiment, project, tuple(fresh))

    def _commit(self, tx: Transaction, asker: Asker, query: CommitArtifacts) -> int:
        self._allow(tx, asker, query.experiment)
        blobs = [(entry, *blob) for entry in query.entries for blob in _blobs_of(entry)]
        sizes = store.sizes_of(tx.connection, asker.project, {sha256 for _, sha256, _ in blobs})
        for entry, sha256, size in blobs:
            if sha256 not in sizes:
                raise _not_stored(sha256)
            if sizes[sha256] != size:
                raise InvalidInput(f"{entry.path[:200]!r} has {sizes[sha256]} bytes, not {size}")
        new = self._put(tx, query.experiment, asker.project, query.entries)
        if query.keep in (CheckpointPolicy.LATEST, CheckpointPolicy.BEST):
            choose = superseded if query.keep is CheckpointPolicy.LATEST else unwanted
            ids = choose(store.checkpoints_of(tx.connection, query.experiment))
            dropped = store.drop_checkpoints(tx.connection, query.experiment, ids)
            self._tell_dropped(tx, query.experiment, asker.project, dropped)
        return new

    def _tell_dropped(self, tx: Transaction, experiment: str, project: str, dropped: list[DroppedFile]) -> None:
        for part in _parts(dropped):
            version = store.next_versions(tx.connection, experiment, 1)
            event = ArtifactsDropped(experiment=experiment, entries=part)
            tx.emit(event, project=project, version=version)

    def _put(self, tx: Transaction, experiment: str, project: str, listed: tuple[Entry, ...]) -> int:
        rows = {store.entry_key(entry): entry for entry in listed}
        known = store.known_entries(tx.connection, experiment, rows.keys())
        changed = {key: entry for key, entry in rows.items() if known.get(key) != entry.sha256}
        store.put_entries(tx.connection, experiment, changed, known.keys(), self._clock.now())
        told = {key: entry for key, entry in changed.items() if entry.kind not in HIDDEN_KINDS}
        if told:
            first = store.next_versions(tx.connection, experiment, len(told))
            for version, entry in enumerate(told.values(), first):
                event = ArtifactStored(experiment=experiment, **entry.model_dump(exclude={"mode", "score"}))
                tx.emit(event, project=project, version=version)
        return len(changed)

    def _allow(self, tx: Transaction, asker: Asker, experiment: str) -> None:
        check(asker, experiment, Verb.PUT, store.claim_of(tx.connection, experiment))
        user = None if job_of(asker) is not None or asker.user == ARCHIVIST else asker.user
        store.put_claim(tx.connection, experiment, Claim(asker.project, user), self._clock.now())

    async def _check_read(self, asker: Asker, experiment: str) -> None:
        claim = await self._database.read(lambda connection: store.claim_of(connection, experiment))
        check(asker, experiment, Verb.GET, claim)

    def _grant(self, asker: Asker, experiment: str, verb: Verb) -> Grant:
        expires = self._clock.now() + self._ttl
        scope = GrantScope(asker.project, experiment, verb, expires)
        return Grant(url=self._url(), token=sign(self._key, scope), expires=expires)


def _blobs_of(entry: Entry) -> list[tuple[str, int]]:
    """(sha256, size) of the file, and of its thumbnail."""
    thumbnail = entry.medium.thumbnail if entry.medium is not None else None
    return [(entry.sha256, entry.size)] + ([(thumbnail.sha256, thumbnail.size)] if thumbnail is not None else [])


def _parts_of(event: ExperimentQueued) -> dict[str, tuple[str, str]]:
    """sha256 -> (kind, path) of what the submission refers to."""
    parts: dict[str, tuple[str, str]] = {}
    if event.provenance.diff_sha256 is not None:
        parts[event.provenance.diff_sha256] = ("provenance", "uncommitted.diff")
    if event.provenance.packages_sha256 is not None:
        parts[event.provenance.packages_sha256] = ("provenance", "packages.txt")
    if event.code is not None:
        parts[event.code.sha256] = ("code", "code.tar.zst")
    return parts


def _fitting(rows: list[store.Listed]) -> int:
    """How many of the rows fit into one answer; at least one where there is one."""
    size = 0
    for count, row in enumerate(rows):
        medium = row.entry.medium
        size += _ROW_BYTES + 6 * len(row.entry.path) + (len(medium.model_dump_json()) if medium else 0)
        if size > _PAGE_BYTES and count:
            return count
    return len(rows)


def _parts(dropped: list[DroppedFile]) -> Iterator[tuple[DroppedFile, ...]]:
    """As many in each as fit into one event."""
    part: list[DroppedFile] = []
    size = 0
    for file in dropped:
        cost = _ROW_BYTES + 6 * len(file.path)
        if part and (len(part) == _MOST_DROPPED or size + cost > _PAGE_BYTES):
            yield tuple(part)
            part, size = [], 0
        part.append(file)
        size += cost
    if part:
        yield tuple(part)


def _not_stored(sha256: str) -> NotFoundError:
    return NotFoundError(f"blob {sha256[:12]} is not stored", hint="upload it, then list it again")
