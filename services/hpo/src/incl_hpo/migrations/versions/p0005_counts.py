"""Counts and the latest trials of a sweep are read from indexes: with 10,000 trials the rows took 0.2 s a question."""

from __future__ import annotations

from alembic import op

revision = "p0005"
down_revision = "p0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two indexes."""
    op.create_index("trials_counted", "trials", ["sweep", "state", "steps", "cost"])
    op.create_index("trials_ended", "trials", ["sweep", "ended", "number"])


def downgrade() -> None:
    """As before."""
    op.drop_index("trials_ended", "trials")
    op.drop_index("trials_counted", "trials")
