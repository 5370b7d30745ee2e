"""Delete blobs that no experiment refers to any more, once no upload under way can want them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from incl_registry import store
from incl_registry.blobs import BlobInfo, BlobStore
from incl_registry.threads import Threads
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep deleted, or would delete."""

    blobs: int
    bytes: int
    partials: int


async def sweep(
    database: Database,
    blobs: BlobStore,
    clock: Clock,
    *,
    grace_s: float,
    dry_run: bool = True,
    threads: Threads | None = None,
) -> Swept:
    """Delete what is neither listed by an experiment nor younger than the grace.

    The claim goes first, in the writer's thread: a commit after that is refused and its uploader sends the bytes again;
    a commit before it keeps the blob.
    """
    threads = threads or Threads()
    before = clock.now() - grace_s
    count = size = 0
    found = blobs.blobs()
    while batch := await threads.run(lambda: list(itertools.islice(found, _BATCH))):
        old = [blob for blob in batch if blob.touched < before]
        gone = await _unwanted(database, old, before, dry_run)
        if not dry_run:
            done = await threads.each(lambda blob: blobs.delete(blob.sha256, before), gone)
            gone = [blob for blob, deleted in zip(gone, done, strict=True) if deleted]
        count, size = count + len(gone), size + sum(blob.size for blob in gone)
    partials = 0 if dry_run else await threads.run(blobs.sweep_partials, before)
    return Swept(count, size, partials)


async def _unwanted(database: Database, old: list[BlobInfo], before: float, dry_run: bool) -> list[BlobInfo]:
    names = [blob.sha256 for blob in old]
    if not names:
        return []
    if dry_run:
        wanted = await database.read(lambda connection: store.referred(connection, names, before))
        return [blob for blob in old if blob.sha256 not in wanted]

    def forget(tx: Transaction) -> set[str]:
        kept = store.referred(tx.connection, names, before)
        store.forget_blobs(tx.connection, [name for name in names if name not in kept])
        return kept

    wanted = await database.write(forget)
    return [blob for blob in old if blob.sha256 not in wanted]
