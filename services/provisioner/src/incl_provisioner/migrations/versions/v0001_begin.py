"""Experiments, ranks, nodes, changes, timers; outbox, inbox, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.operations import Operations

from incl_shared.bus.tables import BigId, create_common_tables, drop_common_tables

revision = "0001"
down_revision = None

_LIVE = sa.text("live = 1")


def upgrade() -> None:
    """Make all tables."""
    create_common_tables(Operations(op.get_context()))
    _experiments()
    _ranks()
    _nodes()
    _work()


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("user", sa.String(63), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("cpu", sa.Integer, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("runtime", sa.String(16), nullable=False),
        sa.Column("wire", sa.Integer, nullable=False),
        sa.Column("retry", sa.Text, nullable=False),
        sa.Column("grace", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("not_before", sa.Float, nullable=False, server_default="0"),
        sa.Column("waiting", sa.Text, nullable=False, server_default=""),
        sa.Column("blocked_since", sa.Float),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt_state", sa.String(16)),
        sa.Column("attempt_stopping", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("attempt_checkpoint", sa.Text),
        sa.Column("port", sa.Integer),
        sa.Column("checkpoint", sa.Text),
        sa.Column("reason", sa.String(16)),
        sa.Column("ended", sa.Float),
    )
    op.create_index(
        "experiments_live",
        "experiments",
        ["state", "priority", "created"],
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )


def _ranks() -> None:
    op.create_table(
        "ranks",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("rank", sa.Integer, primary_key=True),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("gpus", sa.String(4096), nullable=False),
        sa.Column("cpu", sa.Integer, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("times", sa.Text, nullable=False),
        sa.Column("finish", sa.Text),
    )
    op.create_index("ranks_live", "ranks", ["node"], sqlite_where=_LIVE, postgresql_where=_LIVE)


def _nodes() -> None:
    op.create_table(
        "nodes",
        sa.Column("node", sa.String(63), primary_key=True),
        sa.Column("alive", sa.SmallInteger, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("cpu", sa.Integer, nullable=False),
        sa.Column("memory", sa.BigInteger, nullable=False),
        sa.Column("gpus", sa.Integer, nullable=False),
        sa.Column("runtimes", sa.String(256), nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"),
    )


def _work() -> None:
    op.create_table(
        "changes",
        sa.Column("id", BigId, sa.Identity(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key", sa.String(63), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "timers",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("due", sa.Float, nullable=False),
    )
    op.create_index("timers_due", "timers", ["due"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("timers", "changes", "nodes", "ranks", "experiments"):
        op.drop_table(table)
    drop_common_tables(Operations(op.get_context()))
