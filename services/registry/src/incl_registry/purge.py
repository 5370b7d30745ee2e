"""Delete what purged experiments leave: their rows, then every blob that nobody else needs.

Level-triggered: the tables `purges` and `doomed` say what is left to do, and each step may be repeated. A kill between
the database and a file leaves the blob's row in `doomed`, so the next round deletes the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from incl_registry import store_purge as store
from incl_registry.blobs import BlobStore
from incl_registry.threads import Threads
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction


@dataclass(frozen=True, slots=True)
class Purged:
    """What one round deleted."""

    blobs: int
    bytes: int


async def purge(
    database: Database,
    blobs: BlobStore,
    clock: Clock,
    *,
    grace_s: float,
    used_grace_s: float,
    threads: Threads | None = None,
) -> Purged:
    """One round.

    Args:
        grace_s: how old a blob's file must be: an upload of the same bytes writes its row moments after the file.
        used_grace_s: how long an experiment that has put or found a blob may take to list it.
    """
    for experiment in await database.read(store.purging):
        while await database.write(_dropping(experiment, clock.now())):
            pass
    threads = threads or Threads()
    count = size = 0
    now = clock.now()
    while names := await database.read(lambda connection: store.due(connection, now)):
        condemned = await database.write(_condemning(names, now, used_grace_s))
        gone: list[str] = []
        lengths = await threads.each(partial(_delete, blobs, now - grace_s), condemned.names)
        for name, length in zip(condemned.names, lengths, strict=True):
            if length is None:
                continue
            gone.append(name)
            if length:
                count, size = count + 1, size + length
        await database.write(_burying(gone, [name for name in condemned.names if name not in gone], now + grace_s + 1))
    return Purged(count, size)


def _delete(blobs: BlobStore, before: float, name: str) -> int | None:
    """Bytes that were deleted; 0 when there was no file; none when the file is too young, and stays."""
    length = blobs.size(name)
    if length is None:
        return 0
    if blobs.delete(name, before) or blobs.size(name) is None:
        return length
    return None


def _dropping(experiment: str, now: float) -> Callable[[Transaction], bool]:
    return lambda tx: store.drop_some(tx.connection, experiment, now)


def _condemning(names: list[str], now: float, used_grace_s: float) -> Callable[[Transaction], store.Condemned]:
    return lambda tx: store.condemn(tx.connection, names, now, now - used_grace_s)


def _burying(gone: list[str], young: list[str], until: float) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        store.buried(tx.connection, gone)
        store.put_off(tx.connection, young, until)

    return work
