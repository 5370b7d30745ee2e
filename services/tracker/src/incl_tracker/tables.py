"""The tracker's tables. SQLite and PostgreSQL hold the same rows; times are seconds since the epoch (UTC).

Numbers that can be NaN are stored as NULL, as SQLite knows no NaN; the points themselves lie in blobs, bit for bit.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

from incl_shared.bus.positions import positions
from incl_shared.bus.tables import common_tables

metadata = MetaData()
common_tables(metadata)
positions.to_metadata(metadata)

ID = String(26)
TOKEN = String(63)
WORDS = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is compared and ordered by its bytes, as SQLite does."""

experiments = Table(
    "experiments",
    metadata,
    Column("id", ID, primary_key=True),
    Column("reversed", ID, nullable=False, comment="the id from its end, to find it by its last characters"),
    Column("project", TOKEN, nullable=False),
    Column("known", Boolean, nullable=False, comment="false: only telemetry has come so far"),
    Column("outside", Boolean, nullable=False),
    Column("user", TOKEN, nullable=False),
    Column("name", WORDS, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(16)),
    Column("waiting", Text, nullable=False),
    Column("waits", Text, nullable=False, comment="JSON: [[time, reason], …] of the present wait"),
    Column("queued_at", Double, nullable=False, comment="when the present wait began"),
    Column("nodes", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("tags", Text, nullable=False, comment="JSON: [tag, …]"),
    Column("declared", Text, nullable=False, comment='JSON: {metric: "max" or "min"}'),
    Column("sweep", ID, comment="the sweep that it is a trial of"),
    Column("trial", Integer, comment="its number there"),
    Column("created", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("version", Integer, nullable=False, comment="of the provisioner's aggregate; 0: none seen"),
    Column("revision", Integer, nullable=False, comment="grows with every change that a view shows"),
    Column("spec", Text),
    Column("code", Text),
    Column("provenance", Text, nullable=False),
    Column("times", Text, comment="JSON: ClientTimes"),
    Column("message", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("lines", BigInteger, nullable=False, comment="stored so far; the cursor after the last line"),
    Column("epoch", Integer, nullable=False, comment="grows when its telemetry is taken away: caches are void then"),
    Column("stamp", BigInteger, nullable=False, server_default="0", comment="drawn anew whenever telemetry is stored"),
    Column("compact_at", Double, comment="when its chunks and lines are looked through for small ones"),
    Column("trashed", Double, comment="since when it lies in the trash"),
    Column("purge_at", Double, comment="when what lies in the trash is purged"),
    Column("purged", Double, comment="since when nothing is kept but this row, which refuses what comes late"),
    Column("archive", Text, comment="JSON: where its points and lines lie in the artifact store"),
    Column("restore_at", Double, comment="when it was restored last, or is to be"),
    Column("archived", Double, comment="since when its points and lines lie in the artifact store"),
    Column("alerts", Integer, nullable=False, comment="the version of the alert aggregate"),
    Column("settlements", Integer, nullable=False, comment="the version of the settlement aggregate"),
    Index("ix_experiments_created", "project", "created", "id"),
    Index("ix_experiments_name", "project", "name"),
    Index("ix_experiments_user", "project", "user", "created"),
    Index("ix_experiments_reversed", "reversed"),
    Index("ix_experiments_compact", "compact_at"),
    Index("ix_experiments_ended", "ended"),
    Index("ix_experiments_restore", "restore_at"),
    Index("ix_experiments_purge", "purge_at"),
    Index("ix_experiments_purged", "purged"),
)

tags = Table(
    "tags",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("tag", WORDS, primary_key=True),
    Index("ix_tags_tag", "tag", "experiment"),
)

params = Table(
    "params",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("kind", String(8), primary_key=True, comment="config or env"),
    Column("name", WORDS, primary_key=True),
    Column("text", WORDS, nullable=False),
    Column("number", Double, comment="the text as a number, where it is one"),
    Column("attempt", Integer, nullable=False, comment="with time: the latest word wins"),
    Column("time", Double, nullable=False),
    Index("ix_params_name", "name", "number"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("reason", String(16)),
    Column("message", Text, nullable=False),
    Column("placements", Text, nullable=False, comment="JSON: [Placement, …]"),
    Column("machines", Text, comment="JSON: MachinesMade, where a cloud made them"),
    Column("starts", Text, nullable=False, comment="JSON: [RankTimes, …] at the start"),
    Column("ends", Text, nullable=False, comment="JSON: [RankEnd, …]"),
    Column("waits", Text, nullable=False, comment="JSON: why it waited before"),
    Column("queued", Double, nullable=False),
    Column("assigned", Double, nullable=False),
    Column("started", Double),
    Column("ended", Double),
    Column("settle_due", Double, comment="when to settle with what is there; none: settled, or not ended"),
    Column("wait_for_due", Boolean, nullable=False, comment="a rank never said what it wrote"),
    Column("settled", Boolean, nullable=False),
    Index("ix_attempts_due", "settle_due"),
)

writers = Table(
    "writers",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("stream", String(8), primary_key=True, comment="metrics or logs"),
    Column("writer", TOKEN, primary_key=True),
    Column("ranges", Text, nullable=False, comment="JSON: [[first, last], …] of the records stored"),
    Column("dropped", BigInteger, nullable=False, comment="said by the records themselves"),
    Column("points", BigInteger, nullable=False, server_default="0", comment="stored; the node's samples not counted"),
    Column("tail_rows", Integer, nullable=False, comment="of its tail, since some were made one"),
    Column("tail_points", BigInteger, nullable=False, server_default="0", comment="that are in no chunk yet"),
    Column("tail_bytes", BigInteger, nullable=False),
)

expected = Table(
    "expected",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("stream", String(8), primary_key=True, comment="metrics, logs, or empty: whichever has the writer"),
    Column("writer", TOKEN, primary_key=True),
    Column("records", BigInteger, nullable=False),
    Column("dropped", BigInteger, nullable=False),
)

metrics = Table(
    "metrics",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("metric", WORDS, primary_key=True),
    Column("rank", Integer, nullable=False, comment="the lowest that logged it"),
    Column("points", BigInteger, nullable=False),
    Column("last", Double, comment="NULL: NaN"),
    Column("last_step", BigInteger, nullable=False),
    Column("last_time", Double, nullable=False),
    Column("last_attempt", Integer, nullable=False),
    Column("minimum", Double, comment="NULL: every point is NaN"),
    Column("min_step", BigInteger),
    Column("min_attempt", Integer),
    Column("maximum", Double),
    Column("max_step", BigInteger),
    Column("max_attempt", Integer),
)

known_metrics = Table(
    "known_metrics",
    metadata,
    Column("project", TOKEN, primary_key=True),
    Column("metric", WORDS, primary_key=True),
)

BIG_KEY = BigInteger().with_variant(Integer, "sqlite")
"""A number that the database chooses."""

series = Table(
    "series",
    metadata,
    Column("id", BIG_KEY, primary_key=True, autoincrement=True),
    Column("experiment", ID, nullable=False),
    Column("metric", WORDS, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("writer", TOKEN, nullable=False),
    Column("points", BigInteger, nullable=False, comment="that lie in its chunks"),
    Column("chunks", Integer, nullable=False, comment="made so far; the number of the next one"),
    Column("small", Integer, nullable=False, comment="chunks that are far from full: worth compacting"),
    Index("ux_series", "experiment", "metric", "rank", "attempt", "writer", unique=True),
    Index("ix_series_small", "small"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("series", BigInteger, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("hidden", Integer, nullable=False, comment="points whose step a later attempt ran again"),
    Column("first_step", BigInteger, nullable=False, comment="the least one; its points lie in the order of steps"),
    Column("last_step", BigInteger, nullable=False, comment="the greatest one"),
    Column("first_time", Double, nullable=False, comment="the least one"),
    Column("last_time", Double, nullable=False, comment="the greatest one"),
    Column("coarse", LargeBinary, nullable=False, comment="of each 1,024 points that are not hidden: least, greatest"),
    sqlite_with_rowid=False,
)

chunk_blobs = Table(
    "chunk_blobs",
    metadata,
    Column("series", BigInteger, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("fine", LargeBinary, nullable=False, comment="of each 64 points that are not hidden: least, greatest"),
    Column("mask", LargeBinary, comment="a bit a point, the first is the highest: 1 hidden; NULL: none is"),
    Column("data", LargeBinary, comment="all points; NULL: archived"),
)

tails = Table(
    "tails",
    metadata,
    Column("id", BIG_KEY, primary_key=True, autoincrement=True),
    Column("experiment", ID, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("writer", TOKEN, nullable=False),
    Column("first", BigInteger, nullable=False, comment="the writer's number of the first record"),
    Column("low", BigInteger, nullable=False, comment="the least id of a series in it"),
    Column("high", BigInteger, nullable=False, comment="the greatest id of a series in it"),
    Column("rows", Integer, nullable=False, server_default="1", comment="of which it was made"),
    Column("groups", LargeBinary, nullable=False, comment="msgpack: records of the same metrics; see domain.tails"),
    Index("ix_tails", "experiment", "rank", "attempt", "writer", "id"),
)

hot = Table(
    "hot",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("project", TOKEN, nullable=False),
    Column("stamp", BigInteger, nullable=False, comment="drawn anew with each change"),
    Index("ix_hot_project", "project"),
    comment="experiments whose columns are not what their rows say",
)

places = Table(
    "places",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("project", TOKEN, nullable=False),
    Column("block", Integer, nullable=False),
    Column("slot", Integer, nullable=False),
    comment="where in the columns experiments are",
)

column_blocks = Table(
    "column_blocks",
    metadata,
    Column("project", TOKEN, primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False, comment="slots that were given to experiments"),
    Column("version", Integer, nullable=False, server_default="0", comment="drawn anew with each change of a column"),
)

free_places = Table(
    "free_places",
    metadata,
    Column("project", TOKEN, primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    comment="slots whose experiments are gone; their columns are empty there",
)

column_data = Table(
    "column_data",
    metadata,
    Column("project", TOKEN, primary_key=True),
    Column("kind", String(8), primary_key=True, comment="column, metric, config, config#, env or env#"),
    Column("name", WORDS, primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("low", Double, comment="the least number; NULL: there is none"),
    Column("high", Double, comment="the greatest number"),
    Column("data", LargeBinary, nullable=False, comment="see domain.columns"),
    Index("ix_column_data_block", "project", "block"),
)

log_batches = Table(
    "log_batches",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("start", BigInteger, primary_key=True, comment="lines of the experiment that are stored before"),
    Column("count", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("writer", TOKEN, nullable=False),
    Column("first", BigInteger, nullable=False, comment="the writer's number of the first line"),
    Column("first_time", Double, nullable=False),
    Column("last_time", Double, nullable=False),
    Column("lines", LargeBinary, comment="zstd of msgpack of [[time, stream, text, flags], …]; NULL: archived"),
)

run_leases = Table(
    "run_leases",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("heard", Double, nullable=False, comment="when its shipper last gave word, by this platform's clock"),
    Index("ix_run_leases_heard", "heard"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("writer", TOKEN, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, comment="the writer's number of the record"),
    Column("time", Double, nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("level", String(8), nullable=False, comment="info, warn or error"),
    Index("ix_alerts_time", "experiment", "time"),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("path_key", String(64), primary_key=True, comment="sha256 of the path: a path may be longer than an index"),
    Column("path", WORDS, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("step", BigInteger),
    Column("version", Integer, nullable=False),
    Column("type", String(8), nullable=False, server_default="", comment="of a medium: image, table, text, file"),
    Column("key", WORDS, nullable=False, server_default="", comment="of a medium"),
    Column("at", BigInteger, nullable=False, server_default="-1", comment="the step, -1 for none: what lists go by"),
    Column("head", WORDS, nullable=False, server_default="", comment="the beginning of the path, for indexes"),
    Column("medium", Text, comment="JSON: Medium"),
    Index("ix_artifacts_key", "experiment", "kind", "type", "key", "at", "head", "path_key", "attempt", "rank"),
    Index("ix_artifacts_path", "experiment", "head", "path_key", "kind", "attempt", "rank"),
)

dropped_artifacts = Table(
    "dropped_artifacts",
    metadata,
    Column("experiment", ID, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("rank", Integer, primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("path_key", String(64), primary_key=True, comment="as in artifacts"),
    Column("version", Integer, nullable=False, comment="what was stored before it stays away, however late it comes"),
)

history = Table(
    "history",
    metadata,
    Column("id", BIG_KEY, primary_key=True, autoincrement=True),
    Column("event", String(128), nullable=False, unique=True, comment="its id"),
    Column("subject", Text, nullable=False),
    Column("headers", Text, nullable=False, comment="JSON"),
    Column("payload", LargeBinary, nullable=False),
    Column("at", Double, nullable=False, comment="when it was handled"),
    sqlite_autoincrement=True,
    comment="events, and requests that the tracker handled, until they lie in the artifact store",
)

history_purges = Table(
    "history_purges",
    metadata,
    Column("experiment", ID, primary_key=True),
    comment="purged experiments whose events may still lie in segments of the history",
)
