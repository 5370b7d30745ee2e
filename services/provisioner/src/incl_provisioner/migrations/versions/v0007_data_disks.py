"""Read-only disks of snapshots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_LIVE = sa.text("live = 1")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "data_disks",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("zone", sa.String(63), nullable=False),
        sa.Column("snapshot", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("live", sa.SmallInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
    )
    op.create_index("data_disks_live", "data_disks", ["zone"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index("data_disks_of", "data_disks", ["snapshot", "zone", "kind"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("data_disks")
