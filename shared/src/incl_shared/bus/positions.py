"""How far each durable was handled, noted in the database that its effects are in: so that one that is older than the
bus shows.

An acknowledgement comes after the commit. What the bus was told is handled is therefore in the database, unless that
was put back to an earlier state (a copy of it alone was restored, or it was lost): then the noted position lies before
what was acknowledged.

A stream that keeps its messages is read again from the beginning; the inbox skips what the database has. One that
keeps them until they are handled has them no more: all that can be done is to say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa
from nats.js.errors import NotFoundError

from incl_shared.bus.tables import inbox
from incl_shared.bus.topology import Durable, recreate

if TYPE_CHECKING:
    from alembic.operations import Operations

    from incl_shared.bus.client import BusClient
    from incl_shared.db import Database, Transaction

metadata = sa.MetaData()
positions = sa.Table(
    "positions",
    metadata,
    sa.Column("stream", sa.String(16), primary_key=True),
    sa.Column("durable", sa.String(64), primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
"""The last message of each durable that was handled, by its sequence in the stream. Of services that note it."""

_p = positions.c
_NOTE = sa.text(
    "INSERT INTO positions (stream, durable, sequence) VALUES (:stream, :durable, :sequence) "
    "ON CONFLICT (stream, durable) DO UPDATE SET sequence = excluded.sequence "
    "WHERE positions.sequence < excluded.sequence"
)


def create_positions_table(op: Operations) -> None:
    """Create it, within a migration."""
    metadata.create_all(op.get_bind(), checkfirst=False)


def drop_positions_table(op: Operations) -> None:
    """Drop it, within a migration."""
    metadata.drop_all(op.get_bind(), checkfirst=False)


@dataclass(frozen=True, slots=True)
class Behind:
    """A database lacks what a stream's durables were acknowledged for, somewhere in first…last (sequences).

    again: the bus still has it, and its durables begin anew; if not, it is gone from the bus.
    """

    stream: str
    first: int
    last: int
    again: bool


def note(tx: Transaction, durable: Durable, sequence: int) -> None:
    """A durable's message is handled in this transaction; earlier ones may be noted later."""
    tx.connection.execute(_NOTE, {"stream": durable.stream, "durable": durable.name, "sequence": sequence})


async def compare(
    client: BusClient, database: Database, kept: Sequence[Durable], queues: Sequence[Sequence[Durable]]
) -> list[Behind]:
    """Look whether the database lacks what was acknowledged; begin anew what the bus still has. Before anything is
    consumed by this process; others may consume meanwhile. What was found is told once.

    kept: durables of streams that keep what was handled. queues: of each work queue that is read by one service alone,
    all durables.

    Raises:
        nats.errors.Error, TimeoutError, InclError: the bus cannot be asked.
    """
    found = [await _kept(client, database, durable) for durable in kept]
    found += [await _queue(client, database, durables) for durables in queues]
    return [one for one in found if one is not None]


async def _kept(client: BusClient, database: Database, durable: Durable) -> Behind | None:
    """A message is lacking that lies behind the position, is for the durable, and was acknowledged."""
    js = client.jetstream()
    try:
        end = (await js.stream_info(durable.stream)).state.last_seq
        info = await js.consumer_info(durable.stream, durable.name)
    except NotFoundError:
        return None
    floor = info.ack_floor.stream_seq if info.ack_floor is not None else 0
    position = await database.read(lambda connection: _position(connection, (durable,)))
    if position is None or position > end:
        await _put(database, durable, floor)
        return None
    first = await _next(client, durable, position + 1) if position < floor else None
    if first is None or first > floor:
        return None
    await recreate(js, durable)
    await _put(database, durable, floor)
    return Behind(durable.stream, first, floor, again=True)


async def _next(client: BusClient, durable: Durable, sequence: int) -> int | None:
    """The first message for a durable from a sequence on."""
    found = [await client.following(durable.stream, sequence, subject) for subject in durable.filters]
    return min((one.sequence for one in found if one is not None), default=None)


async def _queue(client: BusClient, database: Database, durables: Sequence[Durable]) -> Behind | None:
    """The message behind the last one that was handled is not there any more: it was handled, and is not known."""
    stream, last = durables[0].stream, durables[-1]
    try:
        end = (await client.jetstream().stream_info(stream)).state.last_seq
    except NotFoundError:
        return None
    position = await database.read(lambda connection: _position(connection, durables))
    if position is None or position > end:
        await database.write(lambda tx: _forget(tx, durables))
        await _put(database, last, end)
        return None
    while position < end and await client.at(stream, position + 1) is None:
        now = await database.read(lambda connection: _position(connection, durables))
        if now is None or now <= position:
            await _put(database, last, end)
            return Behind(stream, position + 1, end, again=False)
        position = now
    return None


def _position(connection: sa.Connection, durables: Iterable[Durable]) -> int | None:
    """The last message of these durables that was handled; 0: of a new database. None: it was never noted."""
    durables = tuple(durables)
    names = [durable.name for durable in durables]
    where = (_p.stream == durables[0].stream, _p.durable.in_(names))
    noted: int | None = connection.execute(sa.select(sa.func.max(_p.sequence)).where(*where)).scalar()
    if noted is None and connection.execute(sa.select(inbox.c.durable).limit(1)).first() is None:
        return 0
    return noted


async def _put(database: Database, durable: Durable, sequence: int) -> None:
    def put(tx: Transaction) -> None:
        _forget(tx, (durable,))
        note(tx, durable, sequence)

    await database.write(put)


def _forget(tx: Transaction, durables: Iterable[Durable]) -> None:
    for durable in durables:
        tx.connection.execute(sa.delete(positions).where(_p.stream == durable.stream, _p.durable == durable.name))
