"""All SQL of sweeps and trials that changes something, or that the search reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from incl_hpo.domain.ending import Closing
from incl_hpo.domain.trial import OVER, Finish, Memo, Trial
from incl_hpo.tables import rungs, sweeps, trials
from incl_shared.events import SweepState, SweepSubmitted, TrialState
from incl_shared.sweep import Point, SweepSpec

_s, _t = sweeps.c, trials.c
_LIVE_SWEEP = sa.text("sweeps.live = 1")
_LIVE_TRIAL = sa.text("trials.live = 1")
# made once: these are executed several times a trial, and a statement that is made anew costs more than what it does
_LOAD = sa.select(sweeps).where(_s.id == sa.bindparam("of_sweep"))
_LOCK = _LOAD.with_for_update()
_SAVE = sa.update(sweeps).where(_s.id == sa.bindparam("of_sweep"))
_UPDATE = sa.update(trials).where(_t.sweep == sa.bindparam("of_sweep"), _t.number == sa.bindparam("of_number"))
_SWEEP_OF = sa.select(_t.sweep).where(_t.experiment == sa.bindparam("of_experiment"))
_TRIAL_BY = sa.select(trials).where(_t.experiment == sa.bindparam("of_experiment"))
_TRIAL = sa.select(trials).where(_t.sweep == sa.bindparam("of_sweep"), _t.number == sa.bindparam("of_number"))


@dataclass
class Sweep:
    """A sweep as it is stored; see the table."""

    id: str
    project: str
    user: str
    name: str
    state: SweepState
    closing: Closing
    message: str
    hint: str
    version: int
    revision: int
    asked: int
    open: int
    good: int
    request_text: str
    created: float
    ended: float | None = None
    longest: int = 0
    currency: str = ""

    @property
    def request(self) -> SweepSubmitted:
        """What was submitted."""
        return _request(self.request_text)

    @property
    def spec(self) -> SweepSpec:
        """The file."""
        return self.request.spec

    @property
    def over(self) -> bool:
        """Whether it has come to its end."""
        return self.ended is not None


@lru_cache(maxsize=64)
def _request(text: str) -> SweepSubmitted:
    """It never changes, and is read in every step."""
    read = SweepSubmitted.read(text.encode())
    assert isinstance(read, SweepSubmitted)
    return read


def insert(connection: sa.Connection, sweep: Sweep) -> None:
    """Add one."""
    fixed = {
        "id": sweep.id, "project": sweep.project, "user": sweep.user, "name": sweep.name, "created": sweep.created,
        "request": sweep.request_text,
    }  # fmt: skip
    connection.execute(sa.insert(sweeps), {**fixed, **_changing(sweep)})


def save(connection: sa.Connection, sweep: Sweep) -> None:
    """Store what changed; not the request, which is long: see `save_request`."""
    connection.execute(_SAVE, {"of_sweep": sweep.id, **_changing(sweep)})


def save_request(connection: sa.Connection, sweep: Sweep) -> None:
    """Store what it is to do from now on."""
    connection.execute(_SAVE, {"of_sweep": sweep.id, "request": sweep.request_text})


def _changing(sweep: Sweep) -> dict[str, Any]:
    return {
        "live": 0 if sweep.over else 1, "state": sweep.state.value, "closing": sweep.closing.value,
        "message": sweep.message, "hint": sweep.hint, "version": sweep.version, "revision": sweep.revision,
        "asked": sweep.asked, "open": sweep.open, "good": sweep.good, "longest": sweep.longest, "ended": sweep.ended,
        "currency": sweep.currency,
    }  # fmt: skip


def load(connection: sa.Connection, identifier: str, *, write: bool = False) -> Sweep | None:
    """A sweep by its id, or none. write: no other transaction changes it before this one ends."""
    row = connection.execute(_LOCK if write else _LOAD, {"of_sweep": identifier}).mappings().one_or_none()
    return None if row is None else sweep_of(row)


def sweep_of(row: sa.RowMapping) -> Sweep:
    """A row of the table."""
    values = {name: row[name] for name in row if name not in ("live", "request", "state", "closing")}
    return Sweep(**values, request_text=row["request"], state=SweepState(row["state"]), closing=Closing(row["closing"]))


def live_sweeps(connection: sa.Connection) -> list[str]:
    """The ids of those that are not over."""
    return list(connection.execute(sa.select(_s.id).where(_LIVE_SWEEP).order_by(_s.id)).scalars())


# --- trials


def add_trial(
    connection: sa.Connection, sweep: Sweep, number: int, experiment: str, point: Point, now: float, memo: Memo = None
) -> None:
    """A trial that was just suggested; the caller counts it."""
    row = {
        "sweep": sweep.id, "number": number, "experiment": experiment, "live": 1, "state": TrialState.RUNNING.value,
        "parameters": json.dumps(point), "attempts": 0, "settled": 0, "values": "[]", "constraints": "[]",
        "message": "", "asked": now, "revision": sweep.revision, "memo": None if memo is None else json.dumps(memo),
    }  # fmt: skip
    connection.execute(sa.insert(trials), row)


def sweep_of_trial(connection: sa.Connection, experiment: str) -> str | None:
    """The sweep of an experiment, or none where it is no trial."""
    found: str | None = connection.execute(_SWEEP_OF, {"of_experiment": experiment}).scalar()
    return found


def trial_by(connection: sa.Connection, experiment: str) -> sa.RowMapping | None:
    """The row of an experiment's trial."""
    return connection.execute(_TRIAL_BY, {"of_experiment": experiment}).mappings().one_or_none()


def trial(connection: sa.Connection, sweep: str, number: int) -> sa.RowMapping | None:
    """The row of a trial."""
    return connection.execute(_TRIAL, {"of_sweep": sweep, "of_number": number}).mappings().one_or_none()


def update_trial(connection: sa.Connection, sweep: Sweep, number: int, **values: Any) -> None:
    """Change a trial; its sweep's revision grows, and the caller saves that."""
    sweep.revision += 1
    if "state" in values:
        state = TrialState(values["state"])
        values |= {"state": state.value, "live": 0 if state in OVER else 1}
    row = {"of_sweep": sweep.id, "of_number": number, **values, "revision": sweep.revision}
    connection.execute(_UPDATE, row)


def changed_trials(connection: sa.Connection, sweep: str, since: int) -> list[Trial]:
    """The trials that changed after a revision."""
    query = sa.select(trials).where(_t.sweep == sweep, _t.revision > since).order_by(_t.number)
    return [trial_of(row) for row in connection.execute(query).mappings()]


def running(connection: sa.Connection, sweep: str) -> list[str]:
    """The experiments of the trials that are not known to be over."""
    query = sa.select(_t.experiment).where(_t.sweep == sweep, _LIVE_TRIAL, _t.finish.is_(None)).order_by(_t.number)
    return list(connection.execute(query).scalars())


def without_value(connection: sa.Connection, sweep: str) -> int:
    """How many trials failed, or never logged the objective."""
    bad = (TrialState.FAILED.value, TrialState.METRIC_MISSING.value)
    query = sa.select(sa.func.count()).select_from(trials).where(_t.sweep == sweep, _t.state.in_(bad))
    return int(connection.execute(query).scalar() or 0)


def last_without_value(connection: sa.Connection, sweep: str) -> sa.RowMapping | None:
    """The trial that ended last of those that failed, or never logged the objective."""
    bad = (TrialState.FAILED.value, TrialState.METRIC_MISSING.value)
    query = sa.select(trials).where(_t.sweep == sweep, _t.state.in_(bad)).order_by(_t.ended.desc(), _t.number.desc())
    return connection.execute(query.limit(1)).mappings().one_or_none()


def at_rung(connection: sa.Connection, sweep: str, rung: int, but: int) -> list[float | None]:
    """What other trials had at a rung."""
    query = sa.select(rungs.c.value).where(rungs.c.sweep == sweep, rungs.c.rung == rung, rungs.c.trial != but)
    return list(connection.execute(query).scalars())


def note_rung(connection: sa.Connection, sweep: str, rung: int, number: int, step: int, value: float | None) -> None:
    """What a trial had there."""
    row = {"sweep": sweep, "rung": rung, "trial": number, "step": step, "value": value}
    connection.execute(sa.insert(rungs), row)


def waiting(connection: sa.Connection, before: float) -> Sequence[sa.RowMapping]:
    """Trials whose experiment has been over since before that moment, and that are not over themselves."""
    query = sa.select(_t.sweep, _t.number, _t.experiment, _t.state, _t.over).where(_LIVE_TRIAL, _t.over < before)
    return connection.execute(query.order_by(_t.over).limit(200)).mappings().all()


def trial_of(row: sa.RowMapping) -> Trial:
    """A row of the table."""
    return Trial(
        number=row["number"],
        experiment=row["experiment"],
        state=TrialState(row["state"]),
        parameters=json.loads(row["parameters"]),
        values=tuple(json.loads(row["values"])),
        constraints=tuple(json.loads(row["constraints"])),
        finish=Finish.model_validate_json(row["finish"]) if row["finish"] else None,
        over=row["over"],
        rung=row["rung"],
        pruned=bool(row["pruned"]),
        steps=row["steps"],
        cost=row["cost"],
        cost_final=bool(row["cost_final"]),
        memo=None if row["memo"] is None else json.loads(row["memo"]),
    )
