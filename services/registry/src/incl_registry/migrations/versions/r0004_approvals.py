"""Aliases that move only with the approval of another person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and the column."""
    op.add_column("model_aliases", sa.Column("protected", sa.Float))
    op.create_table(
        "model_requests",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("request", sa.Integer, primary_key=True),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("unprotect", sa.Boolean, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("asked_by", sa.String(63), nullable=False),
        sa.Column("asked", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("decided_by", sa.String(63), nullable=False, server_default=""),
        sa.Column("decided", sa.Float),
        sa.Column("answer", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("model_requests_state", "model_requests", ["project", "state"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("model_requests")
    op.drop_column("model_aliases", "protected")
