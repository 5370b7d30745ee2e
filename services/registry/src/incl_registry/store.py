"""All SQL of the registry. Functions take a connection (or a transaction) and run in the database's threads."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from incl_registry.access import Claim
from incl_registry.retention import Kept
from incl_registry.tables import blobs, claims, entries, model_files, uses
from incl_shared.db import insert_ignore
from incl_shared.events import DroppedFile, Medium
from incl_shared.queries.registry import Entry

_NO_STEP = -1
_BATCH = 500


@dataclass(frozen=True, slots=True)
class Listed:
    """An entry with its place in the list."""

    id: int
    entry: Entry


def claim_of(connection: sa.Connection, experiment: str, *, hold: bool = False) -> Claim | None:
    """Whose the experiment is. hold: nobody changes that (a purge) before the end of this transaction."""
    wanted = sa.select(claims.c.project, claims.c.user, claims.c.purged).where(claims.c.experiment == experiment)
    row = connection.execute(wanted.with_for_update() if hold else wanted).first()
    return None if row is None else Claim(row.project, row.user, row.purged is not None)


def put_claim(connection: sa.Connection, experiment: str, claim: Claim, now: float) -> None:
    """Say whose it is, if nobody has; name its user, if only its jobs were heard of."""
    values = {"experiment": experiment, "project": claim.project, "user": claim.user, "created": now}
    connection.execute(insert_ignore(connection, claims), values)
    if claim.user is not None:
        mine = (claims.c.experiment == experiment) & (claims.c.project == claim.project) & claims.c.user.is_(None)
        connection.execute(sa.update(claims).where(mine).values(user=claim.user))


def next_versions(connection: sa.Connection, experiment: str, count: int) -> int:
    """Reserve `count` versions of the aggregate; the first of them."""
    mine = claims.c.experiment == experiment
    connection.execute(sa.update(claims).where(mine).values(version=claims.c.version + count))
    return int(connection.execute(sa.select(claims.c.version).where(mine)).scalar_one()) - count + 1


def size_of(connection: sa.Connection, project: str, sha256: str) -> int | None:
    """Bytes of a blob that the project has; None when it has not."""
    where = (blobs.c.project == project) & (blobs.c.sha256 == sha256)
    size = connection.execute(sa.select(blobs.c.size).where(where)).scalar()
    return None if size is None else int(size)


def sizes_of(connection: sa.Connection, project: str, wanted: Collection[str]) -> dict[str, int]:
    """Sizes of those of the wanted blobs that the project has."""
    found: dict[str, int] = {}
    for batch in batches(wanted):
        where = (blobs.c.project == project) & blobs.c.sha256.in_(batch)
        found |= {
            row.sha256: row.size for row in connection.execute(sa.select(blobs.c.sha256, blobs.c.size).where(where))
        }
    return found


def used_since(connection: sa.Connection, experiment: str, sha256: str, moment: float) -> bool:
    """Whether the experiment put or found this blob since then."""
    where = (uses.c.experiment == experiment) & (uses.c.sha256 == sha256) & (uses.c.used >= moment)
    return connection.execute(sa.select(sa.literal(1)).where(where)).first() is not None


def put_blob(connection: sa.Connection, project: str, experiment: str, sha256: str, size: int, now: float) -> None:
    """The project has this blob, and the experiment uses it."""
    values = {"project": project, "sha256": sha256, "size": size, "stored": now}
    connection.execute(insert_ignore(connection, blobs), values)
    connection.execute(insert_ignore(connection, uses), {"experiment": experiment, "sha256": sha256, "used": now})
    mine = (uses.c.experiment == experiment) & (uses.c.sha256 == sha256)
    connection.execute(sa.update(uses).where(mine).values(used=now))


def may_read(connection: sa.Connection, experiment: str, sha256: str) -> bool:
    """Whether the experiment lists this blob, also as a thumbnail, or put it itself; never once it is purged."""
    claim = claim_of(connection, experiment)
    if claim is not None and claim.purged:
        return False
    for column in (entries.c.sha256, entries.c.thumbnail):
        listed = sa.select(sa.literal(1)).where((entries.c.experiment == experiment) & (column == sha256))
        if connection.execute(listed.limit(1)).first() is not None:
            return True
    return used_since(connection, experiment, sha256, 0.0)


def entry_key(entry: Entry) -> str:
    """The name of an entry's place: a second file in the same place replaces the first."""
    step = _NO_STEP if entry.step is None else entry.step
    parts = (str(entry.attempt), str(entry.rank), entry.kind, str(step), entry.path)
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def known_entries(connection: sa.Connection, experiment: str, keys: Collection[str]) -> dict[str, str]:
    """key -> sha256 of those that are listed already."""
    found: dict[str, str] = {}
    for batch in batches(keys):
        where = (entries.c.experiment == experiment) & entries.c.key.in_(batch)
        found |= {
            row.key: row.sha256 for row in connection.execute(sa.select(entries.c.key, entries.c.sha256).where(where))
        }
    return found


def listed_codes(connection: sa.Connection, experiment: str) -> set[str]:
    """Checksums of everything that the experiment lists with attempt 0."""
    where = (entries.c.experiment == experiment) & (entries.c.attempt == 0)
    return set(connection.execute(sa.select(entries.c.sha256).where(where)).scalars())


def put_entries(
    connection: sa.Connection, experiment: str, rows: dict[str, Entry], known: Collection[str], now: float
) -> None:
    """List new entries, and replace those whose key is known."""
    fresh = [_row(experiment, key, entry, now) for key, entry in rows.items() if key not in known]
    if fresh:
        connection.execute(sa.insert(entries), fresh)
    for key, entry in rows.items():
        if key in known:
            where = (entries.c.experiment == experiment) & (entries.c.key == key)
            connection.execute(sa.update(entries).where(where).values(**_row(experiment, key, entry, now)))


def _row(experiment: str, key: str, entry: Entry, now: float) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "key": key,
        "attempt": entry.attempt,
        "rank": entry.rank,
        "kind": entry.kind,
        "path": entry.path,
        "step": _NO_STEP if entry.step is None else entry.step,
        "sha256": entry.sha256,
        "size": entry.size,
        "mode": entry.mode & 0o777,
        "score": entry.score,
        "stored": now,
        "medium": entry.medium.model_dump_json(exclude_defaults=True) if entry.medium else None,
        "thumbnail": entry.medium.thumbnail.sha256 if entry.medium and entry.medium.thumbnail else None,
    }


def checkpoints_of(connection: sa.Connection, experiment: str) -> list[Kept]:
    """Every listed file of a checkpoint."""
    where = (entries.c.experiment == experiment) & (entries.c.kind == "checkpoint")
    columns = (entries.c.id, entries.c.attempt, entries.c.rank, entries.c.step, entries.c.score)
    rows = connection.execute(sa.select(*columns).where(where))
    return [Kept(row.id, row.attempt, row.rank, row.step, row.score) for row in rows]


def drop_checkpoints(connection: sa.Connection, experiment: str, ids: Collection[int]) -> list[DroppedFile]:
    """Take checkpoints off the list; their blobs go with a later sweep.

    Returns:
        The places at which no file is left: the same path of another step is another entry at the same place.
    """
    columns = (entries.c.attempt, entries.c.rank, entries.c.kind, entries.c.path)
    gone: dict[tuple[Any, ...], None] = {}
    for batch in batches(ids):
        where = entries.c.id.in_(batch)
        gone |= {tuple(row): None for row in connection.execute(sa.select(*columns).where(where).order_by(*columns))}
        connection.execute(sa.delete(entries).where(where))
    if not gone:
        return []
    mine = (entries.c.experiment == experiment) & (entries.c.kind == "checkpoint")
    left = {tuple(row) for row in connection.execute(sa.select(*columns).where(mine))}
    return [
        DroppedFile(attempt=attempt, rank=rank, kind=kind, path=path)
        for attempt, rank, kind, path in gone
        if (attempt, rank, kind, path) not in left
    ]


def page(
    connection: sa.Connection, experiment: str, *, kind: str | None, attempt: int | None, after: int | None, limit: int
) -> list[Listed] | None:
    """Entries after the one with id `after`: newest attempt first, then newest step, then by path and rank.

    Returns:
        None when `after` is no longer listed.
    """
    columns = (-entries.c.attempt, -entries.c.step, entries.c.path, entries.c.rank, entries.c.id)
    where = [entries.c.experiment == experiment]
    if kind is not None:
        where.append(entries.c.kind == kind)
    if attempt is not None:
        where.append(entries.c.attempt == attempt)
    if after is not None:
        last = connection.execute(sa.select(*columns).where((entries.c.id == after) & where[0])).first()
        if last is None:
            return None
        where.append(sa.tuple_(*columns) > sa.tuple_(*(sa.literal(value) for value in last)))
    rows = connection.execute(sa.select(entries).where(*where).order_by(*columns).limit(limit))
    return [Listed(row.id, entry_of(row)) for row in rows]


def is_listed(connection: sa.Connection, experiment: str, path: str, sha256: str) -> bool:
    """Whether the experiment lists these bytes under this path; what the platform archived of it is no file of it."""
    where = (entries.c.experiment == experiment) & (entries.c.path == path) & (entries.c.sha256 == sha256)
    found = sa.select(sa.literal(1)).where(where & (entries.c.kind != "archive"))
    return connection.execute(found.limit(1)).first() is not None


def entry_of(row: Any) -> Entry:
    """A row of entries as it is shown."""
    return Entry(
        attempt=row.attempt,
        rank=row.rank,
        kind=row.kind,
        path=row.path,
        sha256=row.sha256,
        size=row.size,
        step=None if row.step == _NO_STEP else row.step,
        mode=row.mode,
        score=row.score,
        medium=Medium.model_validate_json(row.medium, extra="ignore") if row.medium else None,
    )


def referred(connection: sa.Connection, wanted: Collection[str], used_after: float) -> set[str]:
    """Those of the wanted blobs that an experiment lists, that a version of a model needs, or that were put or found
    since then."""
    found: set[str] = set()
    for batch in batches(wanted):
        for column in (entries.c.sha256, entries.c.thumbnail, model_files.c.sha256):
            found |= set(connection.execute(sa.select(column).where(column.in_(batch))).scalars())
        young = uses.c.sha256.in_(batch) & (uses.c.used >= used_after)
        found |= set(connection.execute(sa.select(uses.c.sha256).where(young)).scalars())
    return found


def forget_blobs(connection: sa.Connection, gone: Collection[str]) -> None:
    """No project has these any more."""
    for batch in batches(gone):
        connection.execute(sa.delete(blobs).where(blobs.c.sha256.in_(batch)))
        connection.execute(sa.delete(uses).where(uses.c.sha256.in_(batch)))


def batches(values: Iterable[Any]) -> Iterable[list[Any]]:
    """In parts that fit into one statement."""
    items = list(values)
    return (items[at : at + _BATCH] for at in range(0, len(items), _BATCH))
