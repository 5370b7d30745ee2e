"""Gangs: which of their machines the provider shows no more, or is deleting, though they are still wanted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Nobody has looked yet."""
    op.add_column("gangs", sa.Column("absent", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """As before."""
    op.drop_column("gangs", "absent")
