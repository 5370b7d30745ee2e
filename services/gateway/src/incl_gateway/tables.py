"""The gateway's tables. Times in seconds since the epoch."""

from __future__ import annotations

import sqlalchemy as sa

from incl_shared.bus.tables import common_tables

metadata = sa.MetaData()
common_tables(metadata)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
)

members = sa.Table(
    "members",
    metadata,
    sa.Column("project", sa.String(63), sa.ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("user", sa.String(63), sa.ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("user", sa.String(63), sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("label", sa.String(128), nullable=False),
    sa.Column("prefix", sa.String(16), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
    sa.Column("revoked", sa.Float),
    sa.Column("used", sa.Float),
)
"""`hash` is the sha256 of the token, which is 256 random bits and is stored nowhere."""

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("project", sa.String(63), sa.ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("box", sa.LargeBinary, nullable=False),
    sa.Column("user", sa.String(63), nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
)
"""`box` is the encrypted value (see `incl_gateway.vault`)."""

grants = sa.Table(
    "grants",
    metadata,
    sa.Column("job", sa.String(63), primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("node", sa.String(63), nullable=False),
    sa.Column("secrets", sa.Text, nullable=False),
    sa.Column("expires", sa.Float, nullable=False, index=True),
)
"""Jobs that the signer made a credential for, and the names of secrets (JSON) that their experiment asked for."""
