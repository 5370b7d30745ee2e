"""What a sampler of Optuna noted when it asked for a trial."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "p0003"
down_revision = "p0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """There is none yet."""
    op.add_column("trials", sa.Column("memo", sa.Text))


def downgrade() -> None:
    """As before."""
    op.drop_column("trials", "memo")
