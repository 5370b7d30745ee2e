"""Sweeps and trials as the answers show them. Reading only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from incl_hpo import store
from incl_hpo.domain.learning import front
from incl_hpo.domain.trial import Trial
from incl_hpo.store import Sweep
from incl_hpo.tables import sweeps, trials
from incl_shared.errors import AmbiguousError, InvalidInput, NotFoundError
from incl_shared.events import TrialState
from incl_shared.ids import ID_LENGTH, short
from incl_shared.queries.hpo import ListSweeps, ListTrials, SweepPage, SweepRow, SweepView, TrialPage, TrialView
from incl_shared.sweep import SweepSpec

_s, _t = sweeps.c, trials.c
_LEAST = 4
_SHOWN = 50
_RECENT = 10


def resolve(connection: sa.Connection, project: str, user: str, ref: str) -> Sweep:
    """The sweep that a person means.

    Raises:
        NotFoundError: there is none.
        AmbiguousError: several ids end so.
    """
    mine = sa.select(sweeps).where(_s.project == project)
    newest = (_s.created.desc(), _s.id.desc())
    if ref == "@last":
        found = connection.execute(mine.where(_s.user == user).order_by(*newest).limit(1)).mappings().all()
    else:
        found = connection.execute(mine.where(_s.id == ref)).mappings().all()
        if not found and _LEAST <= len(ref) < ID_LENGTH and ref.isalnum():
            ends = mine.where(_s.id.like(f"%{ref.lower()}")).order_by(*newest).limit(5)
            found = connection.execute(ends).mappings().all()
        if not found:
            found = connection.execute(mine.where(_s.name == ref).order_by(*newest).limit(1)).mappings().all()
    if len(found) > 1:
        candidates = "; ".join(f"{row['id']} ({row['name']})" for row in found)
        raise AmbiguousError(f"{ref!r} means several sweeps", cause=candidates, hint="give more characters of the id")
    if not found:
        raise NotFoundError(f"no sweep {ref[:200]!r} in project {project!r}", hint="incl sweep ls lists them")
    return store.sweep_of(found[0])


def in_project(connection: sa.Connection, project: str, identifier: str) -> Sweep:
    """A sweep of a project by its whole id.

    Raises:
        NotFoundError: there is none.
    """
    sweep = store.load(connection, identifier)
    if sweep is None or sweep.project != project:
        raise NotFoundError(f"no sweep {short(identifier)} in project {project!r}", hint="incl sweep ls lists them")
    return sweep


def listed(connection: sa.Connection, project: str, query: ListSweeps) -> SweepPage:
    """A page of a list, the newest first."""
    wanted = sa.select(sweeps).where(_s.project == project)
    if query.running:
        wanted = wanted.where(sa.text("sweeps.live = 1"))
    if query.cursor is not None:
        created, identifier = _cursor(query.cursor)
        before = sa.or_(_s.created < created, sa.and_(_s.created == created, _s.id < identifier))
        wanted = wanted.where(before)
    rows = connection.execute(wanted.order_by(_s.created.desc(), _s.id.desc()).limit(query.limit + 1)).mappings().all()
    found = [store.sweep_of(row) for row in rows[: query.limit]]
    cursor = f"{found[-1].created!r}/{found[-1].id}" if len(rows) > query.limit else None
    return SweepPage(rows=tuple(row_of(connection, sweep) for sweep in found), cursor=cursor)


def _cursor(text: str) -> tuple[float, str]:
    created, _, identifier = text.partition("/")
    try:
        return float(created), identifier
    except ValueError:
        raise InvalidInput(f"{text[:60]!r} is no cursor", hint="give the one that the page before had") from None


def row_of(connection: sa.Connection, sweep: Sweep) -> SweepRow:
    """One line of a list."""
    counted = sa.select(_t.state, sa.func.count()).where(_t.sweep == sweep.id).group_by(_t.state)
    counts = {TrialState(state): count for state, count in connection.execute(counted)}
    best = _rows(connection, sweep.id, _t.score.is_not(None), (_t.score, _t.number), 1)
    spec = sweep.spec
    steps, saved = _steps(connection, sweep.id)
    return SweepRow(
        id=sweep.id, name=sweep.name, project=sweep.project, user=sweep.user, state=sweep.state,
        message=sweep.message, hint=sweep.hint, created=sweep.created, ended=sweep.ended, budget=spec.most,
        trials=sweep.asked, counts=counts, algorithm=spec.algorithm.name,
        metrics=tuple(one.metric for one in spec.objective), steps=steps, steps_saved=saved,
        best=best[0] if best else None, money=spec.budget.money, spent=_spent(connection, sweep),
        currency=sweep.currency,
    )  # fmt: skip


def _steps(connection: sa.Connection, sweep: str) -> tuple[int, int]:
    """(of all trials that are over, what the pruned ones had left of the longest complete one)."""
    of = sa.select(sa.func.coalesce(sa.func.sum(_t.steps), 0)).where(_t.sweep == sweep)
    longest = sa.select(sa.func.max(_t.steps)).where(_t.sweep == sweep, _t.state == TrialState.COMPLETE.value)
    most = connection.execute(longest).scalar() or 0
    left = sa.case((_t.steps < most, most - _t.steps), else_=0)
    pruned = sa.select(sa.func.coalesce(sa.func.sum(left), 0)).where(
        _t.sweep == sweep, _t.state == TrialState.PRUNED.value
    )
    return int(connection.execute(of).scalar() or 0), int(connection.execute(pruned).scalar() or 0)


def _spent(connection: sa.Connection, sweep: Sweep) -> float | None:
    if sweep.spec.budget.money is None:
        return None
    cost = sa.select(sa.func.coalesce(sa.func.sum(_t.cost), 0.0)).where(_t.sweep == sweep.id)
    return float(connection.execute(cost).scalar() or 0.0)


def view_of(connection: sa.Connection, sweep: Sweep) -> SweepView:
    """All of a sweep but its trials."""
    row = row_of(connection, sweep)
    chosen = [trial.number for trial in best_trials(connection, sweep.id, sweep.spec)][:_SHOWN]
    best = _rows(connection, sweep.id, _t.number.in_(chosen), (_t.score, _t.number), _SHOWN) if chosen else []
    live = _rows(connection, sweep.id, sa.text("trials.live = 1"), (_t.number.desc(),), _SHOWN)
    recent = _rows(connection, sweep.id, _t.ended.is_not(None), (_t.ended.desc(), _t.number.desc()), _RECENT)
    return SweepView(
        row=row, version=sweep.revision, spec=sweep.spec, best=tuple(best), running=tuple(live), recent=tuple(recent)
    )


def best_trials(connection: sa.Connection, sweep: str, spec: SweepSpec) -> list[Trial]:
    """The best trial, or those that no other beats in all objectives."""
    scored = sa.select(trials).where(_t.sweep == sweep, _t.score.is_not(None)).order_by(_t.score, _t.number)
    if len(spec.objective) == 1:
        scored = scored.limit(1)
    found = [store.trial_of(row) for row in connection.execute(scored).mappings()]
    return found if len(spec.objective) == 1 else front(spec, found)


def page_of(connection: sa.Connection, sweep: Sweep, query: ListTrials) -> TrialPage:
    """A page of trials. The cursor is how many came before."""
    order: tuple[Any, ...] = (_t.number,)
    if query.sort == "value":
        order = (_t.score.is_(None), _t.score, _t.number)
    where = [_t.state == query.state.value] if query.state is not None else []
    found = _rows(connection, sweep.id, sa.and_(sa.true(), *where), order, query.limit + 1, query.cursor)
    more = len(found) > query.limit
    return TrialPage(trials=tuple(found[: query.limit]), cursor=query.cursor + query.limit if more else None)


def _rows(
    connection: sa.Connection, sweep: str, where: Any, order: Sequence[Any], limit: int, skip: int = 0
) -> list[TrialView]:
    query = sa.select(trials).where(_t.sweep == sweep, where).order_by(*order).limit(limit).offset(skip)
    return [_trial_view(row) for row in connection.execute(query).mappings()]


def _trial_view(row: sa.RowMapping) -> TrialView:
    return TrialView(
        trial=row["number"], experiment=row["experiment"], state=TrialState(row["state"]),
        parameters=json.loads(row["parameters"]), values=tuple(json.loads(row["values"])),
        constraints=tuple(json.loads(row["constraints"])), message=row["message"], attempts=row["attempts"],
        asked=row["asked"], ended=row["ended"], steps=row["steps"], rung=row["rung"], cost=row["cost"],
    )  # fmt: skip
