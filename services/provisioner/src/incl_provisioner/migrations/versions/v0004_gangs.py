"""Machines in a cloud: gangs, enrolments, what the installation is known by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LIVE = sa.text("live = 1")


def upgrade() -> None:
    """Make the tables."""
    op.add_column("experiments", sa.Column("cloud", sa.SmallInteger, nullable=False, server_default="0"))
    op.create_table(
        "gangs",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("wanted", sa.SmallInteger, nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("machine", sa.String(128), nullable=False, server_default=""),
        sa.Column("zone", sa.String(63), nullable=False, server_default=""),
        sa.Column("spot", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("asked", sa.Float),
        sa.Column("made", sa.Float),
        sa.Column("preempted", sa.Float),
        sa.Column("ended", sa.Float),
    )
    op.create_index("gangs_live", "gangs", ["experiment"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_table(
        "enrolments",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("rank", sa.Integer, primary_key=True),
        sa.Column("turn", sa.Integer, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "installation",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for table in ("installation", "enrolments", "gangs"):
        op.drop_table(table)
    op.drop_column("experiments", "cloud")
