"""The SQL of purging: whose files go, which blobs they leave behind, and which of these are needed still."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from incl_registry.access import Claim
from incl_registry.store import forget_blobs, put_claim, referred
from incl_registry.tables import claims, doomed, entries, purges, uses
from incl_shared.db import insert_ignore

BATCH = 500


def purge_claim(connection: sa.Connection, experiment: str, project: str, now: float) -> bool:
    """Close an experiment for ever, and remember to delete what there is of it; False: another project has the id."""
    put_claim(connection, experiment, Claim(project, None), now)
    mine = (claims.c.experiment == experiment) & (claims.c.project == project)
    if connection.execute(sa.select(sa.literal(1)).where(mine)).first() is None:
        return False
    closed = connection.execute(sa.update(claims).where(mine & claims.c.purged.is_(None)).values(purged=now))
    if closed.rowcount:
        connection.execute(insert_ignore(connection, purges), {"experiment": experiment, "since": now})
    return True


def purging(connection: sa.Connection) -> list[str]:
    """Purged experiments that have rows still, the one that waits longest first."""
    return list(connection.execute(sa.select(purges.c.experiment).order_by(purges.c.since)).scalars())


def drop_some(connection: sa.Connection, experiment: str, now: float) -> bool:
    """Delete a batch of a purged experiment's rows, and doom their blobs; whether there may be more."""
    mine = sa.select(entries.c.id, entries.c.sha256, entries.c.thumbnail).where(entries.c.experiment == experiment)
    listed = connection.execute(mine.limit(BATCH)).all()
    if listed:
        doom(connection, {row.sha256 for row in listed} | {row.thumbnail for row in listed if row.thumbnail}, now)
        connection.execute(sa.delete(entries).where(entries.c.id.in_([row.id for row in listed])))
        return True
    used = connection.execute(sa.select(uses.c.sha256).where(uses.c.experiment == experiment).limit(BATCH))
    names = set(used.scalars())
    if names:
        doom(connection, names, now)
        connection.execute(sa.delete(uses).where((uses.c.experiment == experiment) & uses.c.sha256.in_(names)))
        return True
    connection.execute(sa.delete(purges).where(purges.c.experiment == experiment))
    return False


def doom(connection: sa.Connection, names: Collection[str], now: float) -> None:
    """Look at these blobs in the next round of the purge."""
    rows = [{"sha256": name, "due": now} for name in names]
    connection.execute(insert_ignore(connection, doomed), rows)


def due(connection: sa.Connection, now: float) -> list[str]:
    """A batch of doomed blobs to look at."""
    wanted = sa.select(doomed.c.sha256).where(doomed.c.due <= now).order_by(doomed.c.due).limit(BATCH)
    return list(connection.execute(wanted).scalars())


@dataclass(frozen=True, slots=True)
class Condemned:
    """Blobs whose files may go now: no experiment and no model needs them, no experiment used them lately, no project
    has them any more."""

    names: tuple[str, ...]


def condemn(connection: sa.Connection, names: Collection[str], now: float, used_after: float) -> Condemned:
    """Spare what another experiment lists, or a version of a model needs; put off what another has used lately, as it
    may be about to list it.

    The rows of the rest stay until their files are gone (`buried`): after a crash this is simply done again.
    """
    listed = referred(connection, names, float("inf"))
    _spare(connection, listed)
    kept = set(listed)
    for name in referred(connection, names, used_after) - listed:
        last = connection.execute(sa.select(sa.func.max(uses.c.used)).where(uses.c.sha256 == name)).scalar_one()
        put_off(connection, [name], last + (now - used_after) + 1.0)
        kept.add(name)
    gone = tuple(sorted(set(names) - kept))
    forget_blobs(connection, gone)
    return Condemned(gone)


def put_off(connection: sa.Connection, names: Collection[str], until: float) -> None:
    """Look at them later."""
    connection.execute(sa.update(doomed).where(doomed.c.sha256.in_(list(names))).values(due=until))


def buried(connection: sa.Connection, names: Collection[str]) -> None:
    """Their files are gone."""
    _spare(connection, names)


def _spare(connection: sa.Connection, names: Collection[str]) -> None:
    connection.execute(sa.delete(doomed).where(doomed.c.sha256.in_(list(names))))
