"""Nodes: the number of the hello that is known, so that an older one that comes late changes nothing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Every hello is newer than those whose number is not known."""
    op.add_column("nodes", sa.Column("said", sa.BigInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """As before."""
    op.drop_column("nodes", "said")
