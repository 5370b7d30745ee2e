"""How far each durable was handled."""

from __future__ import annotations

from alembic import op

from incl_shared.bus.positions import create_positions_table, drop_positions_table

revision = "t0005"
down_revision = "t0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    create_positions_table(op)  # type: ignore[arg-type]


def downgrade() -> None:
    """Drop it."""
    drop_positions_table(op)  # type: ignore[arg-type]
