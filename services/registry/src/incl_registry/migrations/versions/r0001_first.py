"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from incl_shared.bus.tables import BigId, create_common_tables, drop_common_tables

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    create_common_tables(op)  # type: ignore[arg-type]
    op.create_table(
        "claims",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("user", sa.String(63)),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("purged", sa.Float),
    )
    op.create_table(
        "blobs",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("stored", sa.Float, nullable=False),
    )
    op.create_index("blobs_sha256", "blobs", ["sha256"])
    op.create_table(
        "uses",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("used", sa.Float, nullable=False),
    )
    op.create_index("uses_sha256", "uses", ["sha256", "used"])
    _entries()
    _purges()


def _entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", BigId, sa.Identity(), primary_key=True, autoincrement=True),
        sa.Column("experiment", sa.String(26), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Integer, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("stored", sa.Float, nullable=False),
        sa.Column("medium", sa.Text),
        sa.Column("thumbnail", sa.String(64)),
        sa.UniqueConstraint("experiment", "key", name="entries_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("entries_order", "entries", ["experiment", "kind", "attempt"])
    op.create_index("entries_sha256", "entries", ["sha256"])
    op.create_index("entries_thumbnail", "entries", ["thumbnail"])


def _purges() -> None:
    op.create_table(
        "purges",
        sa.Column("experiment", sa.String(26), primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
    )
    op.create_table(
        "doomed",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("due", sa.Float, nullable=False),
    )
    op.create_index("doomed_due", "doomed", ["due"])


def downgrade() -> None:
    """Drop them."""
    for table in ("doomed", "purges", "entries", "uses", "blobs", "claims"):
        op.drop_table(table)
    drop_common_tables(op)  # type: ignore[arg-type]
