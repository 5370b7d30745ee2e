"""The lines of a list's page. Statements are plain text and the answers are not validated again: it is our own data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from incl_shared.queries.tracker import ExperimentRow
from incl_shared.states import EndReason, ExperimentState
from incl_tracker.statements import spelled

_SHOWN = (
    "id", "name", "project", "user", "state", "reason", "waiting", "nodes", "gpus", "attempts", "tags", "created",
    "started", "ended", "sweep", "trial", "declared", "points",
)  # fmt: skip
_FIELDS = ", ".join(f'"{name}"' for name in _SHOWN)
_ROWS = f"SELECT {_FIELDS} FROM experiments WHERE id IN ({{}})"  # noqa: S608
_LAST = "SELECT experiment, metric, last FROM metrics WHERE experiment IN ({}) AND metric IN ({})"
_SOME = """
    SELECT DISTINCT metric FROM metrics WHERE experiment IN ({}) AND metric NOT LIKE 'system/%'
    ORDER BY metric LIMIT 3
"""
_SAMPLE = 5
_STATES = {state.value: state for state in ExperimentState}
_REASONS: dict[str | None, EndReason | None] = {None: None, "": None, **{reason.value: reason for reason in EndReason}}


def shown(
    connection: sa.Connection, ids: Sequence[str], named: set[str], known: Mapping[str, Mapping[str, float]]
) -> tuple[ExperimentRow, ...]:
    """The lines of these experiments, in their order.

    With the values of the metrics that the question names (`named`) and that any line declares; else of a few that
    exist. known: values that need not be read, by experiment and metric.
    """
    if not ids:
        return ()
    rows = {row[0]: tuple(row) for row in _read(connection, _ROWS.format(_marks(ids)), ids)}
    said = {row[-2] for row in rows.values()}
    names = named.union(*[json.loads(declared) for declared in said])
    if not names:
        sample = [identifier for identifier in ids if rows[identifier][-1]][:_SAMPLE]
        text = _SOME.format(_marks(sample)).replace("%", "%" if _is_lite(connection) else "%%")
        names = {row[0] for row in _read(connection, text, sample)} if sample else set()
    values: dict[str, dict[str, float]] = {}
    unknown = [identifier for identifier in ids if not known.get(identifier, {}).keys() >= names]
    if names:
        values = {identifier: {name: its[name] for name in sorted(its)} for identifier, its in known.items()}
    if names and unknown:
        found = _read(connection, _LAST.format(_marks(unknown), _marks(names)), (*unknown, *names))
        for identifier in unknown:
            values.pop(identifier, None)
        for experiment, metric, last in sorted(found, key=itemgetter(1)):
            values.setdefault(experiment, {})[metric] = float("nan") if last is None else last
    return tuple([_line(rows[identifier][:-2], values.get(identifier)) for identifier in ids])


def _line(row: tuple[Any, ...], metrics: dict[str, float] | None) -> ExperimentRow:
    identifier, name, project, user, state, reason, waiting, nodes, gpus, attempts, tags, created, *rest = row
    started, ended, sweep, trial = rest
    return ExperimentRow.model_construct(
        id=identifier,
        name=name,
        project=project,
        user=user,
        state=_STATES[state],
        reason=_REASONS[reason],
        waiting=waiting,
        nodes=nodes,
        gpus=gpus,
        attempts=attempts,
        tags=() if tags == "[]" else tuple(json.loads(tags)),
        created=created,
        started=started,
        ended=ended,
        sweep=sweep,
        trial=trial,
        metrics=metrics or {},
    )


def _marks(values: Sequence[str] | set[str]) -> str:
    return ", ".join("?" * len(values))


def _is_lite(connection: sa.Connection) -> bool:
    return connection.dialect.paramstyle == "qmark"


def _read(connection: sa.Connection, text: str, values: Sequence[str]) -> Sequence[Any]:
    return connection.exec_driver_sql(spelled(text, connection.dialect.paramstyle), tuple(values)).all()
