"""Models, their versions, aliases and audit trails."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _models()
    _versions()
    op.create_table(
        "model_aliases",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("alias", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("mover", sa.String(63), nullable=False),
        sa.Column("moved", sa.Float, nullable=False),
    )
    op.create_table(
        "model_trail",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("creator", sa.String(63), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
        sa.Column("numbers", sa.Integer, nullable=False, server_default="0"),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
        sa.Column("metadata", sa.Text, nullable=False, server_default="{}"),
        sa.Column("trail_length", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("trail_head", sa.String(64), nullable=False, server_default=""),
        sa.Column("trashed", sa.Float),
    )


def _versions() -> None:
    op.create_table(
        "model_versions",
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("registration", sa.String(26), nullable=False),
        sa.Column("experiment", sa.String(26), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("creator", sa.String(63), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("manifest", sa.String(64), nullable=False),
        sa.Column("files", sa.Integer, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("lineage", sa.Text, nullable=False),
        sa.Column("trashed", sa.Float),
        sa.Column("purged", sa.Float),
        sa.UniqueConstraint("project", "registration", name="model_versions_registration"),
    )
    op.create_index("model_versions_experiment", "model_versions", ["experiment"])
    op.create_table(
        "model_files",
        sa.Column("registration", sa.String(26), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("project", sa.String(63), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("mode", sa.Integer, nullable=False),
    )
    op.create_index("model_files_sha256", "model_files", ["sha256"])


def downgrade() -> None:
    """Drop them."""
    for table in ("model_trail", "model_aliases", "model_files", "model_versions", "models"):
        op.drop_table(table)
