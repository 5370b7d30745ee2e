"""What trials have cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p0004"
down_revision = "p0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is known of those that are there."""
    op.add_column("sweeps", sa.Column("currency", sa.String(8), nullable=False, server_default=""))
    op.add_column("trials", sa.Column("cost", sa.Float))
    op.add_column("trials", sa.Column("cost_final", sa.SmallInteger, nullable=False, server_default="0"))


def downgrade() -> None:
    """As before."""
    op.drop_column("trials", "cost_final")
    op.drop_column("trials", "cost")
    op.drop_column("sweeps", "currency")
