"""What keeps a cloud from being used: whoever is asked knows it, not only who looks after the machines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """One table."""
    op.create_table(
        "cloud_trouble",
        sa.Column("provider", sa.String(63), primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
        sa.Column("reason", sa.String(128), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """As before."""
    op.drop_table("cloud_trouble")
