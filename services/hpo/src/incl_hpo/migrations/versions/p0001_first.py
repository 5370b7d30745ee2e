"""Sweeps and their trials; outbox, inbox, leases, and the events that were sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from incl_shared.bus.tables import create_common_tables, create_sent_table, drop_common_tables, drop_sent_table

revision = "p0001"
down_revision = None
branch_labels = None
depends_on = None

_LIVE = sa.text("live = 1")


def upgrade() -> None:
    """Make all tables."""
    create_common_tables(op)  # type: ignore[arg-type]
    create_sent_table(op)  # type: ignore[arg-type]
    _sweeps()
    _trials()


def _sweeps() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("user", sa.String(63), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("closing", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("open", sa.Integer, nullable=False),
        sa.Column("good", sa.Integer, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
    )
    op.create_index("sweeps_live", "sweeps", ["id"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("sweeps_created", "sweeps", ["project", "created", "id"])
    op.create_index("sweeps_name", "sweeps", ["project", "name"])


def _trials() -> None:
    op.create_table(
        "trials",
        sa.Column("sweep", sa.String(26), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("experiment", sa.String(26), nullable=False, unique=True),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("finish", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("settled", sa.Integer, nullable=False),
        sa.Column("values", sa.Text, nullable=False),
        sa.Column("constraints", sa.Text, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("asked", sa.Float, nullable=False),
        sa.Column("over", sa.Float),
        sa.Column("ended", sa.Float),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_index("trials_live", "trials", ["sweep"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("trials_revision", "trials", ["sweep", "revision"])
    op.create_index("trials_score", "trials", ["sweep", "score"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("trials", "sweeps"):
        op.drop_table(table)
    drop_sent_table(op)  # type: ignore[arg-type]
    drop_common_tables(op)  # type: ignore[arg-type]
