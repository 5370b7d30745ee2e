"""Nodes: whose hello is known, and of which disk. Ranks: the number of the last report."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Nothing is known of those that said hello before."""
    for name in ("life", "journal"):
        op.add_column("nodes", sa.Column(name, sa.String(64), nullable=False, server_default=""))
    op.add_column("ranks", sa.Column("said", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """As before."""
    op.drop_column("ranks", "said")
    for name in ("journal", "life"):
        op.drop_column("nodes", name)
