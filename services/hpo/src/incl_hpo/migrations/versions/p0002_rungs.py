"""Trials that are ended early: the rungs, and what each trial had there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p0002"
down_revision = "p0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No trial has passed any."""
    op.add_column("sweeps", sa.Column("longest", sa.BigInteger, nullable=False, server_default="0"))
    for name in ("steps", "rung", "pruned"):
        op.add_column("trials", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "rungs",
        sa.Column("sweep", sa.String(26), primary_key=True),
        sa.Column("rung", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float),
    )


def downgrade() -> None:
    """As before."""
    op.drop_table("rungs")
    for name in ("pruned", "rung", "steps"):
        op.drop_column("trials", name)
    op.drop_column("sweeps", "longest")
