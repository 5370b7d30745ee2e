"""The SQL of times that wait for the clock, and of what a clock that was set does to them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import bindparam

from incl_provisioner.tables import experiments, timers

_LIVE_EXPERIMENT = sa.text("experiments.live = 1")
_CUT_WAITS = (
    sa.update(experiments)
    .where(experiments.c.live == 1, experiments.c.not_before > bindparam("latest"))
    .values(not_before=bindparam("latest"))
)
_GRACE = sa.select(sa.func.max(experiments.c.grace)).where(_LIVE_EXPERIMENT)


def cut_waits(connection: sa.Connection, latest: float) -> None:
    """No pause ends later than that: one that would was written when the clock was wrong, by a process that is gone."""
    connection.execute(_CUT_WAITS, {"latest": latest})


def longest_grace(connection: sa.Connection) -> float:
    """Seconds, of those that are live."""
    return float(connection.execute(_GRACE).scalar() or 0.0)


def shift_times(connection: sa.Connection, seconds: float, now: float, longest: float) -> None:
    """The clock was set by so many seconds, to `now`: what is still to come comes as long from now as before.

    longest: seconds that a timer lasts at most. What was timed after the clock was set is right as it is: set forward,
    it comes later than anything timed before could; set back, earlier. By less than `longest`: some is off by that.
    """
    for column, live in ((timers.c.due, timers.c.due > 0), (experiments.c.not_before, experiments.c.live == 1)):
        before = column <= now - seconds + longest if seconds > 0 else column > now + longest
        values = {column.name: column + seconds}
        connection.execute(sa.update(column.table).where(live, column > 0, before).values(values))
