"""The history of events, until it lies in the artifact store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "t0004"
down_revision = "t0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("event", sa.String(128), nullable=False, unique=True, comment="its id"),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("headers", sa.Text, nullable=False, comment="JSON"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.Double, nullable=False, comment="when it was handled"),
        sqlite_autoincrement=True,
        comment="events, and requests that the tracker handled, until they lie in the artifact store",
    )
    op.create_table(
        "history_purges",
        sa.Column("experiment", sa.String(26), primary_key=True),
        comment="purged experiments whose events may still lie in segments of the history",
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("history_purges")
    op.drop_table("history")
