"""The tables of sweeps. Times in seconds since the epoch; `live` is 1 until the final state, as indexes are on that."""

from __future__ import annotations

import sqlalchemy as sa

from incl_shared.bus.tables import common_tables

metadata = sa.MetaData()
common_tables(metadata)

_LIVE = sa.text("live = 1")

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("user", sa.String(63), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("closing", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("asked", sa.Integer, nullable=False),
    sa.Column("open", sa.Integer, nullable=False),
    sa.Column("good", sa.Integer, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("longest", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("currency", sa.String(8), nullable=False, server_default=""),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Index("sweeps_live", "id", sqlite_where=_LIVE, postgresql_where=_LIVE),
    sa.Index("sweeps_created", "project", "created", "id"),
    sa.Index("sweeps_name", "project", "name"),
)
"""One row a sweep. `request` is the SweepSubmitted; `closing` says why nothing more is asked (empty: it goes on);
`asked`, `open`, `good`: trials that there are, that are not over, and that are complete; `version` counts events,
`revision` changes; `longest` is the last step of the first complete trial."""

trials = sa.Table(
    "trials",
    metadata,
    sa.Column("sweep", sa.String(26), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("experiment", sa.String(26), nullable=False, unique=True),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("finish", sa.Text),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("settled", sa.Integer, nullable=False),
    sa.Column("values", sa.Text, nullable=False),
    sa.Column("constraints", sa.Text, nullable=False),
    sa.Column("score", sa.Float),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("asked", sa.Float, nullable=False),
    sa.Column("over", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("steps", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rung", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("pruned", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("memo", sa.Text),
    sa.Column("cost", sa.Float),
    sa.Column("cost_final", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Index("trials_live", "sweep", sqlite_where=_LIVE, postgresql_where=_LIVE),
    sa.Index("trials_revision", "sweep", "revision"),
    sa.Index("trials_score", "sweep", "score"),
    sa.Index("trials_counted", "sweep", "state", "steps", "cost"),
    sa.Index("trials_ended", "sweep", "ended", "number"),
)
"""One row a trial. `finish` (a Finish) says how its experiment ended, at `over`; `settled` is the last attempt whose
records are all stored; `score` is the first objective's value, less is better, where it keeps the constraints. `rung`
is the last rung that was judged, `pruned` the one that it was stopped at (0: none), `steps` how far it came. `memo` is
what a sampler of Optuna noted when it asked for it. `cost` is what its machines have cost (none: nothing is known), in
the `currency` of its sweep; `cost_final` is 1 when it grows no more."""

rungs = sa.Table(
    "rungs",
    metadata,
    sa.Column("sweep", sa.String(26), primary_key=True),
    sa.Column("rung", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("trial", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("step", sa.BigInteger, nullable=False),
    sa.Column("value", sa.Float),
)
"""What a trial had logged when it came to a rung (less is better; none: no number); once for each."""
