"""Which experiments are trials of a sweep."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "t0007"
down_revision = "t0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """There were no sweeps before."""
    op.add_column(
        "experiments", sa.Column("sweep", sa.String(26), nullable=True, comment="the sweep that it is a trial of")
    )
    op.add_column("experiments", sa.Column("trial", sa.Integer, nullable=True, comment="its number there"))


def downgrade() -> None:
    """As before."""
    for name in ("trial", "sweep"):
        op.drop_column("experiments", name)
