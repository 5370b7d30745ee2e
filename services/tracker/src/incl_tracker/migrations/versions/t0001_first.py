"""The first tables of the tracker."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from incl_shared.bus.tables import create_common_tables, drop_common_tables

revision = "t0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(26)
TOKEN = sa.String(63)
WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make them."""
    create_common_tables(op)  # type: ignore[arg-type]
    _alerts()
    _artifacts()
    _attempts()
    _chunks()
    _dropped_artifacts()
    _expected()
    _experiments()
    _known_metrics()
    _log_batches()
    _metrics()
    _params()
    _run_leases()
    _series()
    _tags()
    _writers()


def downgrade() -> None:
    """Drop them."""
    for name in (
        "alerts",
        "artifacts",
        "attempts",
        "chunk_blobs",
        "chunks",
        "dropped_artifacts",
        "tails",
        "expected",
        "experiments",
        "known_metrics",
        "log_batches",
        "metrics",
        "params",
        "run_leases",
        "series",
        "tags",
        "writers",
    ):
        op.drop_table(name)
    drop_common_tables(op)  # type: ignore[arg-type]


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="the writer's number of the record"),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False, comment="info, warn or error"),
        sa.PrimaryKeyConstraint("experiment", "attempt", "rank", "writer", "sequence"),
    )
    op.create_index("ix_alerts_time", "alerts", ["experiment", "time"], unique=False)


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column(
            "path_key",
            sa.String(length=64),
            nullable=False,
            comment="sha256 of the path: a path may be longer than an index",
        ),
        sa.Column("path", WORDS, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "type",
            sa.String(length=8),
            server_default="",
            nullable=False,
            comment="of a medium: image, table, text, file",
        ),
        sa.Column("key", WORDS, server_default="", nullable=False, comment="of a medium"),
        sa.Column(
            "at",
            sa.BigInteger(),
            server_default="-1",
            nullable=False,
            comment="the step, -1 for none: what lists go by",
        ),
        sa.Column("head", WORDS, server_default="", nullable=False, comment="the beginning of the path, for indexes"),
        sa.Column("medium", sa.Text(), nullable=True, comment="JSON: Medium"),
        sa.PrimaryKeyConstraint("experiment", "attempt", "rank", "kind", "path_key"),
    )
    order = ["experiment", "kind", "type", "key", "at", "head", "path_key", "attempt", "rank"]
    op.create_index("ix_artifacts_key", "artifacts", order, unique=False)
    by_path = ["experiment", "head", "path_key", "kind", "attempt", "rank"]
    op.create_index("ix_artifacts_path", "artifacts", by_path, unique=False)


def _dropped_artifacts() -> None:
    op.create_table(
        "dropped_artifacts",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("path_key", sa.String(length=64), nullable=False, comment="as in artifacts"),
        sa.Column(
            "version",
            sa.Integer(),
            nullable=False,
            comment="what was stored before it stays away, however late it comes",
        ),
        sa.PrimaryKeyConstraint("experiment", "attempt", "rank", "kind", "path_key"),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("placements", sa.Text(), nullable=False, comment="JSON: [Placement, …]"),
        sa.Column("starts", sa.Text(), nullable=False, comment="JSON: [RankTimes, …] at the start"),
        sa.Column("ends", sa.Text(), nullable=False, comment="JSON: [RankEnd, …]"),
        sa.Column("waits", sa.Text(), nullable=False, comment="JSON: why it waited before"),
        sa.Column("queued", sa.Double(), nullable=False),
        sa.Column("assigned", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column(
            "settle_due",
            sa.Double(),
            nullable=True,
            comment="when to settle with what is there; none: settled, or not ended",
        ),
        sa.Column("wait_for_due", sa.Boolean(), nullable=False, comment="a rank never said what it wrote"),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "attempt"),
    )
    op.create_index("ix_attempts_due", "attempts", ["settle_due"], unique=False)


def _chunks() -> None:
    op.create_table(
        "chunks",
        sa.Column("series", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("hidden", sa.Integer(), nullable=False, comment="points whose step a later attempt ran again"),
        sa.Column(
            "first_step", sa.BigInteger(), nullable=False, comment="the least one; its points lie in the order of steps"
        ),
        sa.Column("last_step", sa.BigInteger(), nullable=False, comment="the greatest one"),
        sa.Column("first_time", sa.Double(), nullable=False, comment="the least one"),
        sa.Column("last_time", sa.Double(), nullable=False, comment="the greatest one"),
        sa.Column(
            "coarse", sa.LargeBinary(), nullable=False,
            comment="of each 1,024 points that are not hidden: least, greatest",
        ),
        sa.PrimaryKeyConstraint("series", "number"),
        sqlite_with_rowid=False,
    )  # fmt: skip
    op.create_table(
        "chunk_blobs",
        sa.Column("series", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column(
            "fine", sa.LargeBinary(), nullable=False, comment="of each 64 points that are not hidden: least, greatest"
        ),
        sa.Column(
            "mask",
            sa.LargeBinary(),
            nullable=True,
            comment="a bit a point, the first is the highest: 1 hidden; NULL: none is",
        ),
        sa.Column("data", sa.LargeBinary(), nullable=True, comment="all points; NULL: archived"),
        sa.PrimaryKeyConstraint("series", "number"),
    )


def _expected() -> None:
    op.create_table(
        "expected",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column(
            "stream", sa.String(length=8), nullable=False, comment="metrics, logs, or empty: whichever has the writer"
        ),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("records", sa.BigInteger(), nullable=False),
        sa.Column("dropped", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "attempt", "rank", "stream", "writer"),
    )


def _experiments() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", ID, nullable=False),
        sa.Column("reversed", ID, nullable=False, comment="the id from its end, to find it by its last characters"),
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("known", sa.Boolean(), nullable=False, comment="false: only telemetry has come so far"),
        sa.Column("outside", sa.Boolean(), nullable=False),
        sa.Column("user", TOKEN, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=True),
        sa.Column("waiting", sa.Text(), nullable=False),
        sa.Column("waits", sa.Text(), nullable=False, comment="JSON: [[time, reason], …] of the present wait"),
        sa.Column("queued_at", sa.Double(), nullable=False, comment="when the present wait began"),
        sa.Column("nodes", sa.Integer(), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("tags", sa.Text(), nullable=False, comment="JSON: [tag, …]"),
        sa.Column("declared", sa.Text(), nullable=False, comment='JSON: {metric: "max" or "min"}'),
        *_of_experiments(),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_experiments_created", "experiments", ["project", "created", "id"], unique=False)
    op.create_index("ix_experiments_name", "experiments", ["project", "name"], unique=False)
    op.create_index("ix_experiments_reversed", "experiments", ["reversed"], unique=False)
    op.create_index("ix_experiments_ended", "experiments", ["ended"], unique=False)
    op.create_index("ix_experiments_restore", "experiments", ["restore_at"], unique=False)
    op.create_index("ix_experiments_compact", "experiments", ["compact_at"], unique=False)
    op.create_index("ix_experiments_purge", "experiments", ["purge_at"], unique=False)
    op.create_index("ix_experiments_purged", "experiments", ["purged"], unique=False)
    op.create_index("ix_experiments_user", "experiments", ["project", "user", "created"], unique=False)


def _of_experiments() -> list[sa.Column[Any]]:
    """Times, documents and counters of an experiment."""
    return [
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("started", sa.Double(), nullable=True),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False, comment="of the provisioner's aggregate; 0: none seen"),
        sa.Column("revision", sa.Integer(), nullable=False, comment="grows with every change that a view shows"),
        sa.Column("spec", sa.Text(), nullable=True),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("provenance", sa.Text(), nullable=False),
        sa.Column("times", sa.Text(), nullable=True, comment="JSON: ClientTimes"),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("lines", sa.BigInteger(), nullable=False, comment="stored so far; the cursor after the last line"),
        sa.Column(
            "stamp",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="drawn anew whenever telemetry is stored",
        ),
        sa.Column(
            "epoch",
            sa.Integer(),
            nullable=False,
            comment="grows when its telemetry is taken away: caches are void then",
        ),
        sa.Column(
            "compact_at",
            sa.Double(),
            nullable=True,
            comment="when its chunks and lines are looked through for small ones",
        ),
        sa.Column("trashed", sa.Double(), nullable=True, comment="since when it lies in the trash"),
        sa.Column("purge_at", sa.Double(), nullable=True, comment="when what lies in the trash is purged"),
        sa.Column(
            "purged",
            sa.Double(),
            nullable=True,
            comment="since when nothing is kept but this row, which refuses what comes late",
        ),
        sa.Column(
            "archive",
            sa.Text(),
            nullable=True,
            comment="JSON: where its points and lines lie in the artifact store",
        ),
        sa.Column("restore_at", sa.Double(), nullable=True, comment="when it was restored last, or is to be"),
        sa.Column(
            "archived", sa.Double(), nullable=True, comment="since when its points and lines lie in the artifact store"
        ),
        sa.Column("alerts", sa.Integer(), nullable=False, comment="the version of the alert aggregate"),
        sa.Column("settlements", sa.Integer(), nullable=False, comment="the version of the settlement aggregate"),
    ]


def _known_metrics() -> None:
    op.create_table(
        "known_metrics",
        sa.Column("project", TOKEN, nullable=False),
        sa.Column("metric", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("project", "metric"),
    )


def _log_batches() -> None:
    op.create_table(
        "log_batches",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False, comment="lines of the experiment that are stored before"),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False, comment="the writer's number of the first line"),
        sa.Column("first_time", sa.Double(), nullable=False),
        sa.Column("last_time", sa.Double(), nullable=False),
        sa.Column(
            "lines",
            sa.LargeBinary(),
            nullable=True,
            comment="zstd of msgpack of [[time, stream, text, flags], …]; NULL: archived",
        ),
        sa.PrimaryKeyConstraint("experiment", "start"),
    )


def _metrics() -> None:
    op.create_table(
        "metrics",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("metric", WORDS, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, comment="the lowest that logged it"),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Double(), nullable=True, comment="NULL: NaN"),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.Double(), nullable=False),
        sa.Column("last_attempt", sa.Integer(), nullable=False),
        sa.Column("minimum", sa.Double(), nullable=True, comment="NULL: every point is NaN"),
        sa.Column("min_step", sa.BigInteger(), nullable=True),
        sa.Column("min_attempt", sa.Integer(), nullable=True),
        sa.Column("maximum", sa.Double(), nullable=True),
        sa.Column("max_step", sa.BigInteger(), nullable=True),
        sa.Column("max_attempt", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("experiment", "metric"),
    )


def _params() -> None:
    op.create_table(
        "params",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False, comment="config or env"),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("text", WORDS, nullable=False),
        sa.Column("number", sa.Double(), nullable=True, comment="the text as a number, where it is one"),
        sa.Column("attempt", sa.Integer(), nullable=False, comment="with time: the latest word wins"),
        sa.Column("time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "kind", "name"),
    )
    op.create_index("ix_params_name", "params", ["name", "number"], unique=False)


def _series() -> None:
    op.create_table(
        "series",
        sa.Column("id", BIG_KEY, autoincrement=True, nullable=False),
        sa.Column("experiment", ID, nullable=False),
        sa.Column("metric", WORDS, nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False, comment="that lie in its chunks"),
        sa.Column("chunks", sa.Integer(), nullable=False, comment="made so far; the number of the next one"),
        sa.Column("small", sa.Integer(), nullable=False, comment="chunks that are far from full: worth compacting"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ux_series", "series", ["experiment", "metric", "rank", "attempt", "writer"], unique=True)
    op.create_index("ix_series_small", "series", ["small"], unique=False)
    op.create_table(
        "tails",
        sa.Column("id", BIG_KEY, autoincrement=True, nullable=False),
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False, comment="the writer's number of the first record"),
        sa.Column("low", sa.BigInteger(), nullable=False, comment="the least id of a series in it"),
        sa.Column("high", sa.BigInteger(), nullable=False, comment="the greatest id of a series in it"),
        sa.Column("rows", sa.Integer(), nullable=False, server_default="1", comment="of which it was made"),
        sa.Column(
            "groups", sa.LargeBinary(), nullable=False, comment="msgpack: records of the same metrics; see domain.tails"
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_tails", "tails", ["experiment", "rank", "attempt", "writer", "id"], unique=False)


def _run_leases() -> None:
    op.create_table(
        "run_leases",
        sa.Column("experiment", ID, nullable=False),
        sa.Column(
            "heard",
            sa.Double(),
            nullable=False,
            comment="when its shipper last gave word, by this platform's clock",
        ),
        sa.PrimaryKeyConstraint("experiment"),
    )
    op.create_index("ix_run_leases_heard", "run_leases", ["heard"], unique=False)


def _tags() -> None:
    op.create_table(
        "tags",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("tag", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("experiment", "tag"),
    )
    op.create_index("ix_tags_tag", "tags", ["tag", "experiment"], unique=False)


def _writers() -> None:
    op.create_table(
        "writers",
        sa.Column("experiment", ID, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("stream", sa.String(length=8), nullable=False, comment="metrics or logs"),
        sa.Column("writer", TOKEN, nullable=False),
        sa.Column("ranges", sa.Text(), nullable=False, comment="JSON: [[first, last], …] of the records stored"),
        sa.Column("dropped", sa.BigInteger(), nullable=False, comment="said by the records themselves"),
        sa.Column(
            "points",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="stored; the node's samples not counted",
        ),
        sa.Column("tail_rows", sa.Integer(), nullable=False, comment="of its tail, since some were made one"),
        sa.Column(
            "tail_points", sa.BigInteger(), nullable=False, server_default="0", comment="that are in no chunk yet"
        ),
        sa.Column("tail_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("experiment", "attempt", "rank", "stream", "writer"),
    )
