"""The registry's tables. Times are seconds since the epoch, sizes are bytes."""

from __future__ import annotations

import sqlalchemy as sa

from incl_shared.bus.tables import BigId, common_tables

metadata = sa.MetaData()
common_tables(metadata)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("user", sa.String(63)),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("purged", sa.Float),
)
"""Whose an experiment is: the first grant says it. `version` counts the events of its artifacts.

`purged`: since when nothing of it may be kept; its claim stays, so that nothing comes late."""

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.Float, nullable=False),
    sa.Index("blobs_sha256", "sha256"),
)
"""Which project has shown that it has these bytes: to know a checksum is not enough to read what it stands for."""

uses = sa.Table(
    "uses",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("used", sa.Float, nullable=False),
    sa.Index("uses_sha256", "sha256", "used"),
)
"""Blobs that were put for an experiment, or found there already by its uploader, with the last time of that."""

entries = sa.Table(
    "entries",
    metadata,
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
    sa.Index("entries_order", "experiment", "kind", "attempt"),
    sa.Index("entries_sha256", "sha256"),
    sa.Index("entries_thumbnail", "thumbnail"),
    sqlite_autoincrement=True,
)
"""The files of experiments. `key` is the checksum of (attempt, rank, kind, path, step); step is -1 for none.

`score`: of a checkpoint, higher is better. `medium`: JSON; `thumbnail`: the checksum of its thumbnail."""

purges = sa.Table(
    "purges",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
)
"""Purged experiments whose rows are not all deleted yet."""

doomed = sa.Table(
    "doomed",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("due", sa.Float, nullable=False),
    sa.Index("doomed_due", "due"),
)
"""Blobs of purged experiments, each until it is deleted or known to be needed; `due`: when to look at it."""

models = sa.Table(
    "models",
    metadata,
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
"""`numbers`: the last one that was given to a version. It never goes back, and the row is never deleted."""

versions = sa.Table(
    "model_versions",
    metadata,
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
    sa.Index("model_versions_experiment", "experiment"),
)
"""`tags`, `metadata`, `lineage`: JSON. `registration`: the id by which a repeat is recognised, and grants name it."""

model_files = sa.Table(
    "model_files",
    metadata,
    sa.Column("registration", sa.String(26), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("mode", sa.Integer, nullable=False),
    sa.Index("model_files_sha256", "sha256"),
)
"""What versions need: kind is file, or code and provenance of their lineage. No sweep and no purge takes them."""

model_aliases = sa.Table(
    "model_aliases",
    metadata,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("alias", sa.String(63), primary_key=True),
    sa.Column("number", sa.Integer),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("mover", sa.String(63), nullable=False),
    sa.Column("moved", sa.Float, nullable=False),
    sa.Column("protected", sa.Float),
)
"""Where aliases point; none: the alias was taken away, and its revision goes on should it come back.

`protected`: since when it moves only with the approval of another person."""

model_requests = sa.Table(
    "model_requests",
    metadata,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("request", sa.Integer, primary_key=True),
    sa.Column("alias", sa.String(63), nullable=False),
    sa.Column("unprotect", sa.Boolean, nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("asked_by", sa.String(63), nullable=False),
    sa.Column("asked", sa.Float, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decided_by", sa.String(63), nullable=False, server_default=""),
    sa.Column("decided", sa.Float),
    sa.Column("answer", sa.Text, nullable=False, server_default=""),
    sa.Index("model_requests_state", "project", "state"),
)
"""What people asked for of protected aliases. `revision`: of the alias, that they had seen. `state`: open, approved,
refused."""

model_trail = sa.Table(
    "model_trail",
    metadata,
    sa.Column("project", sa.String(63), primary_key=True),
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
"""The audit trails: only ever appended to. `hash`: the sha256 of the body, in which that of the entry before is."""
