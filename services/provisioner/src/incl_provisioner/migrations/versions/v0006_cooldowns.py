"""What of a cloud is left alone until when: a restart does not forget it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """One table."""
    op.create_table(
        "cooldowns",
        sa.Column("scope", sa.String(16), primary_key=True),
        sa.Column("place", sa.String(63), primary_key=True),
        sa.Column("machine", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("until", sa.Float, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("reason", sa.String(128), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """As before."""
    op.drop_table("cooldowns")
