"""Events that were sent are kept for a while."""

from __future__ import annotations

from alembic import op

from incl_shared.bus.tables import create_sent_table, drop_sent_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    create_sent_table(op)  # type: ignore[arg-type]


def downgrade() -> None:
    """Drop it."""
    drop_sent_table(op)  # type: ignore[arg-type]
