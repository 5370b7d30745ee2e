"""The provisioner's tables. Amounts are whole: thousandths of a core, bytes. Times are seconds since the epoch.

`live` is 1 until the final state and then 0: every index that the loops read is on live rows only, so that what is
finished costs nothing.
"""

from __future__ import annotations

import sqlalchemy as sa

from incl_shared.bus.tables import BigId, common_tables

metadata = sa.MetaData()
common_tables(metadata)

_LIVE = sa.text("live = 1")

experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("id", sa.String(26), primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("user", sa.String(63), nullable=False),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("nodes", sa.Integer, nullable=False),
    sa.Column("cpu", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("runtime", sa.String(16), nullable=False),
    sa.Column("wire", sa.Integer, nullable=False),
    sa.Column("cloud", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("retry", sa.Text, nullable=False),
    sa.Column("grace", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("not_before", sa.Float, nullable=False, server_default="0"),
    sa.Column("waiting", sa.Text, nullable=False, server_default=""),
    sa.Column("blocked_since", sa.Float),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempt_state", sa.String(16)),
    sa.Column("attempt_stopping", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("attempt_checkpoint", sa.Text),
    sa.Column("port", sa.Integer),
    sa.Column("checkpoint", sa.Text),
    sa.Column("reason", sa.String(16)),
    sa.Column("ended", sa.Float),
    sa.Index("experiments_live", "state", "priority", "created", sqlite_where=_LIVE, postgresql_where=_LIVE),
)
"""One row an experiment, with its current attempt. `request` is the ExperimentSubmitted, `checkpoint` the newest."""

ranks = sa.Table(
    "ranks",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("rank", sa.Integer, primary_key=True),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("node", sa.String(63), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("gpus", sa.String(4096), nullable=False),
    sa.Column("cpu", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("times", sa.Text, nullable=False),
    sa.Column("finish", sa.Text),
    sa.Column("said", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("ranks_live", "node", sqlite_where=_LIVE, postgresql_where=_LIVE),
)
"""One rank of one attempt. `times` is a RankTimes; `finish` (a Finish) says how it ended; `said` is the number of the
last report on it in its node's journal."""

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("node", sa.String(63), primary_key=True),
    sa.Column("alive", sa.SmallInteger, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("cpu", sa.Integer, nullable=False),
    sa.Column("memory", sa.BigInteger, nullable=False),
    sa.Column("gpus", sa.Integer, nullable=False),
    sa.Column("runtimes", sa.String(256), nullable=False),
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("life", sa.String(64), nullable=False, server_default=""),
    sa.Column("journal", sa.String(64), nullable=False, server_default=""),
    sa.Column("said", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refused", sa.Text, nullable=False, server_default=""),
)
"""Machines that have said hello. `generation` is the highest that was written for its wanted state; `life` names the
agent's life that said hello last, `journal` its disk, `said` the number of that hello in it; `refused`: why it
gets no work though it speaks."""

gangs = sa.Table(
    "gangs",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("wanted", sa.SmallInteger, nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("machine", sa.String(128), nullable=False, server_default=""),
    sa.Column("zone", sa.String(63), nullable=False, server_default=""),
    sa.Column("spot", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("asked", sa.Float),
    sa.Column("made", sa.Float),
    sa.Column("preempted", sa.Float),
    sa.Column("ended", sa.Float),
    sa.Column("absent", sa.Text, nullable=False, server_default=""),
    sa.Index("gangs_live", "experiment", sqlite_where=_LIVE, postgresql_where=_LIVE),
)
"""The machines of one attempt in a cloud. `state` is a Gang (all but `wanted`), and what a save compares; `live` is 1
until the provider has said that nothing is left. `asked`, `made`: of the last try; `preempted`: when one was taken.
`absent`: ranks that were made and, when last looked at, were going or gone."""

enrolments = sa.Table(
    "enrolments",
    metadata,
    sa.Column("experiment", sa.String(26), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("rank", sa.Integer, primary_key=True),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)
"""Which machine of a gang traded the gang's token, in which try, and the public key that it got its credential for."""

cooldowns = sa.Table(
    "cooldowns",
    metadata,
    sa.Column("scope", sa.String(16), primary_key=True),
    sa.Column("place", sa.String(63), primary_key=True),
    sa.Column("machine", sa.String(128), primary_key=True),
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("reason", sa.String(128), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
)
"""What of a cloud is left alone until when, after errors. `kind`: spot, demand, or any."""

cloud_trouble = sa.Table(
    "cloud_trouble",
    metadata,
    sa.Column("provider", sa.String(63), primary_key=True),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("reason", sa.String(128), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("hint", sa.Text, nullable=False),
)
"""What keeps all machines of a cloud from being looked after; no row: nothing does."""

data_disks = sa.Table(
    "data_disks",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("zone", sa.String(63), nullable=False),
    sa.Column("snapshot", sa.String(63), nullable=False),
    sa.Column("kind", sa.String(63), nullable=False),
    sa.Column("live", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Index("data_disks_live", "zone", sqlite_where=_LIVE, postgresql_where=_LIVE),
    sa.Index("data_disks_of", "snapshot", "zone", "kind"),
)
"""Read-only disks of snapshots, one row for each that was ever made. `state` is a DataDisk, and what a save compares;
`live` is 1 until the provider has said that nothing is left."""

installation = sa.Table(
    "installation",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""What is made once: `platform`, the id in the labels of machines; `token_key`, which the tokens are derived from."""

changes = sa.Table(
    "changes",
    metadata,
    sa.Column("id", BigId, sa.Identity(), primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("key", sa.String(63), nullable=False),
    sqlite_autoincrement=True,
)
"""What the scheduler must look at, written in the transaction that changed it: (experiment | node | gang, its id)."""

timers = sa.Table(
    "timers",
    metadata,
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("key", sa.String(63), primary_key=True),
    sa.Column("due", sa.Float, nullable=False),
    sa.Index("timers_due", "due"),
)
"""What is to be looked at when its time has come; see `execution.Timer`."""
