"""What a cloud made for an attempt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "t0006"
down_revision = "t0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing is known of those that began before."""
    column = sa.Column("machines", sa.Text, nullable=True, comment="JSON: MachinesMade, where a cloud made them")
    op.add_column("attempts", column)


def downgrade() -> None:
    """As before."""
    op.drop_column("attempts", "machines")
