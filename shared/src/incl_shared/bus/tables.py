"""The tables that every service has: outbox, inbox, leases, and the events that were sent.

A service takes them into its own metadata with `common_tables(metadata)`, and makes them in its first migration with
`create_common_tables(op)`; `sent` came later, by `create_sent_table(op)` in a migration of its own. They never change
in place: a change is a new helper beside the old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from alembic.operations import Operations

BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

metadata = sa.MetaData()

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("sequence", BigId, sa.Identity(), primary_key=True, autoincrement=True),
    sa.Column("event_id", sa.String(64), nullable=False, unique=True),
    sa.Column("subject", sa.String(512), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
"""Events that are committed and not yet on the bus, in their order. The relay moves what is stored there to `sent`."""

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("durable", sa.String(64), primary_key=True),
    sa.Column("message_id", sa.String(128), primary_key=True),
    sa.Column("seen", sa.Float, nullable=False, index=True),
    sqlite_with_rowid=False,
)
"""Ids that a consumer has handled, with the time (epoch s). Swept once no stream keeps the message any more."""

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("fence", BigId, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)
"""Who holds what alone. The fence number grows with every change of the holder."""

sent_metadata = sa.MetaData()

sent = sa.Table(
    "sent",
    sent_metadata,
    sa.Column("sequence", BigId, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.String(64), nullable=False, unique=True),
    sa.Column("subject", sa.String(512), nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("stream", sa.String(16), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("sent", sa.Float, nullable=False),
    sa.Index("sent_at", "stream", "at"),
)
"""Rows of the outbox that the bus has stored, and where; see `incl_shared.bus.kept`."""

TABLES = (outbox, inbox, leases, sent)


def common_tables(target: sa.MetaData) -> None:
    """Add the common tables to a service's metadata, so that its migrations are compared with them too."""
    for table in TABLES:
        table.to_metadata(target)


def create_common_tables(op: Operations) -> None:
    """Create them, within a migration."""
    metadata.create_all(op.get_bind(), checkfirst=False)


def create_sent_table(op: Operations) -> None:
    """Create `sent`, within a migration."""
    sent_metadata.create_all(op.get_bind(), checkfirst=False)


def drop_sent_table(op: Operations) -> None:
    """Drop `sent`, within a migration."""
    sent_metadata.drop_all(op.get_bind(), checkfirst=False)


def drop_common_tables(op: Operations) -> None:
    """Drop them, within a migration."""
    metadata.drop_all(op.get_bind(), checkfirst=False)
