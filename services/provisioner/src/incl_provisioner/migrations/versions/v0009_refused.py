"""Nodes: why one gets no work though it speaks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """None is refused so far."""
    op.add_column("nodes", sa.Column("refused", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    """As before."""
    op.drop_column("nodes", "refused")
