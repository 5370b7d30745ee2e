"""The column index of lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "t0002"
down_revision = "t0001"
branch_labels = None
depends_on = None

ID = sa.String(26)
TOKEN = sa.String(63)
WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make it."""
    _columns()


def downgrade() -> None:
    """Drop it."""
    for name in ("column_blocks", "column_data", "free_places", "hot", "places"):
        op.drop_table(name)


def _columns() -> None:
    op.create_table(
        "hot",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("stamp", sa.BigInteger(), nullable=False, comment="drawn anew with each change"),
        sa.PrimaryKeyConstraint("experiment"),
        comment="experiments whose columns are not what their rows say",
    )
    op.create_index("ix_hot_project", "hot", ["project"], unique=False)
    op.create_table(
        "places",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("experiment"),
        comment="where in the columns experiments are",
    )
    op.create_table(
        "column_blocks",
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False, comment="slots that were given to experiments"),
        sa.Column(
            "version",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="drawn anew with each change of a column",
        ),
        sa.PrimaryKeyConstraint("project", "block"),
    )
    op.create_table(
        "free_places",
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("project", "block", "slot"),
        comment="slots whose experiments are gone; their columns are empty there",
    )
    op.create_table(
        "column_data",
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="column, metric, config, config#, env or env#"),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("low", sa.Double(), nullable=True, comment="the least number; NULL: there is none"),
        sa.Column("high", sa.Double(), nullable=True, comment="the greatest number"),
        sa.Column("data", sa.LargeBinary(), nullable=False, comment="see domain.columns"),
        sa.PrimaryKeyConstraint("project", "kind", "name", "block"),
    )
    op.create_index("ix_column_data_block", "column_data", ["project", "block"], unique=False)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE column_data ALTER COLUMN data SET STORAGE EXTERNAL")
