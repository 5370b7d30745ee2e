"""Events that are on the bus already, kept until everybody has handled them: what a lost bus is filled from again.

The bus tells a service where it stored each of its events. When the newest of these is not there any more (the stream
was lost, or is an older copy), everything that is kept goes back into the outbox, in its old order, and is sent again;
who has handled it has its id in the inbox.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nats.errors
import sqlalchemy as sa
from nats.js.errors import NotFoundError

from incl_shared.bus import envelope as wire
from incl_shared.bus.tables import outbox, sent
from incl_shared.bus.topology import DURABLES, EVENTS, EVENTS_KEPT_S
from incl_shared.db import insert_ignore
from incl_shared.errors import UnavailableError

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from incl_shared.bus.client import Ack, BusClient
    from incl_shared.db import Transaction

_log = logging.getLogger("incl.bus")
KEPT_S = 86_400.0
"""Seconds that an event is kept after it was sent, even when everybody has handled it."""
SWEEP_ROWS = 5000
NOBODY = 1 << 62
"""Beyond every sequence: nobody waits for anything."""
_DONE = sa.delete(outbox).where(outbox.c.sequence.in_(sa.bindparam("sequences", expanding=True)))
_NEWEST = sa.select(sent.c.at, sent.c.event_id).where(sent.c.stream == EVENTS).order_by(sent.c.at.desc()).limit(1)
_ANY = sa.select(sent.c.sequence).limit(1)


@dataclass(frozen=True, slots=True)
class Sent:
    """An event of the outbox that the bus has stored."""

    sequence: int
    """Of the outbox."""
    event_id: str
    subject: str
    payload: bytes
    headers: str
    created: float
    ack: Ack


def keep(tx: Transaction, events: Sequence[Sent]) -> None:
    """They are on the bus: out of the outbox, and kept."""
    now = tx.clock.now()
    rows = [
        {
            "sequence": event.sequence,
            "event_id": event.event_id,
            "subject": event.subject,
            "payload": event.payload,
            "headers": event.headers,
            "created": event.created,
            "stream": event.ack.stream,
            "at": event.ack.sequence,
            "sent": now,
        }
        for event in events
    ]
    if rows:
        tx.connection.execute(insert_ignore(tx.connection, sent), rows)
        tx.connection.execute(_DONE, {"sequences": [row["sequence"] for row in rows]})


def newest(connection: sa.Connection) -> tuple[int, str] | None:
    """(sequence, id) of the event that lies farthest behind in EVENTS, of those that are kept."""
    row = connection.execute(_NEWEST).one_or_none()
    return None if row is None else (row.at, row.event_id)


async def is_there(client: BusClient, place: tuple[int, str]) -> bool:
    """Whether the bus still has an event where it said that it had stored it.

    Raises:
        UnavailableError: it does not say.
    """
    sequence, event_id = place
    found = await client.at(EVENTS, sequence)
    return found is not None and found.headers.get(wire.MESSAGE_ID) == event_id


def send_again(tx: Transaction) -> int:
    """Put all that is kept back into the outbox. Returns how many events."""
    columns = [column.name for column in outbox.columns]
    query = sa.select(*(sent.c[name] for name in columns))
    there = sa.select(outbox.c.event_id)
    statement = sa.insert(outbox).from_select(columns, query.where(sent.c.event_id.not_in(there)))
    tx.connection.execute(statement)
    return tx.connection.execute(sa.delete(sent)).rowcount


async def handled(js: JetStreamContext) -> int:
    """The sequence in EVENTS up to which every declared consumer has handled all that is for it.

    Raises:
        UnavailableError: the bus does not say.
    """
    floors = []
    for durable in DURABLES:
        if durable.stream != EVENTS:
            continue
        try:
            info = await js.consumer_info(EVENTS, durable.name)
        except NotFoundError:
            return 0
        except (nats.errors.Error, TimeoutError) as error:
            raise UnavailableError("the bus does not say what was handled", cause=str(error)) from error
        floors.append(_floor(info))
    return min(floors, default=0)


def _floor(info: Any) -> int:
    if not info.num_ack_pending and not info.num_pending:
        return NOBODY
    place = info.ack_floor if info.num_ack_pending else info.delivered
    return int(place.stream_seq) if place is not None else 0


def sweep(tx: Transaction, floor: int, kept_s: float = KEPT_S) -> int:
    """Drop some of what is old and handled, and what no stream would keep any longer. Returns how many."""
    now = tx.clock.now()
    old = sa.or_(
        sa.and_(sent.c.sent < now - kept_s, sa.or_(sent.c.at <= floor, sent.c.stream != EVENTS)),
        sent.c.sent < now - EVENTS_KEPT_S,
    )
    some = sa.select(sent.c.sequence).where(old).order_by(sent.c.sequence).limit(SWEEP_ROWS)
    ids = list(tx.connection.execute(some).scalars())
    return tx.connection.execute(sa.delete(sent).where(sent.c.sequence.in_(ids))).rowcount if ids else 0


def any_kept(connection: sa.Connection) -> bool:
    """Whether anything is kept."""
    return connection.execute(_ANY).one_or_none() is not None
