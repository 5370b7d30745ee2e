"""Users, projects, members, tokens, secrets, grants; outbox, inbox, leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from incl_shared.bus.tables import create_common_tables, drop_common_tables

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make all tables."""
    create_common_tables(op)  # type: ignore[arg-type]
    for name in ("users", "projects"):
        op.create_table(
            name, sa.Column("name", sa.String(63), primary_key=True), sa.Column("created", sa.Float, nullable=False)
        )
    op.create_table(
        "members",
        sa.Column("project", sa.String(63), sa.ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("user", sa.String(63), sa.ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("since", sa.Float, nullable=False),
    )
    _tokens()
    _secrets()


def _tokens() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(26), primary_key=True),
        sa.Column("user", sa.String(63), sa.ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
        sa.Column("label", sa.String(128), nullable=False),
        sa.Column("prefix", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("revoked", sa.Float),
        sa.Column("used", sa.Float),
    )
    op.create_index("ix_tokens_user", "tokens", ["user"])


def _secrets() -> None:
    op.create_table(
        "secrets",
        sa.Column("project", sa.String(63), sa.ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("box", sa.LargeBinary, nullable=False),
        sa.Column("user", sa.String(63), nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
    )
    op.create_table(
        "grants",
        sa.Column("job", sa.String(63), primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("secrets", sa.Text, nullable=False),
        sa.Column("expires", sa.Float, nullable=False),
    )
    op.create_index("ix_grants_expires", "grants", ["expires"])


def downgrade() -> None:
    """Drop all tables."""
    for table in ("grants", "secrets", "tokens", "members", "projects", "users"):
        op.drop_table(table)
    drop_common_tables(op)  # type: ignore[arg-type]
