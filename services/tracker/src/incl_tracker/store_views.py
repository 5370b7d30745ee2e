"""Rows of experiments as the views that queries answer and live messages carry. Reading only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from incl_shared.errors import AmbiguousError, NotFoundError
from incl_shared.events import ClientTimes, CodeRef, Placement, Provenance, RankEnd, RankTimes
from incl_shared.events.experiments import MachinesMade
from incl_shared.ids import ID_LENGTH, SHORT_LENGTH
from incl_shared.queries.tracker import (
    AlertView,
    AttemptView,
    ExperimentRow,
    ExperimentView,
    Stage,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import FINAL_STATES, AttemptState, EndReason, ExperimentState
from incl_shared.subjects import Asker
from incl_tracker import store_metrics
from incl_tracker import store_settlement as settlement
from incl_tracker import tables as t
from incl_tracker.domain import references, stages
from incl_tracker.domain.settlement import tally
from incl_tracker.domain.text import clean
from incl_tracker.store_artifacts import short_list

MAX_ALERTS = 50
ALERT_TEXT = 1000
_CANDIDATES = 6
_e = t.experiments.c


def row_in(connection: sa.Connection, project: str, experiment: str) -> sa.RowMapping:
    """The row of an experiment of this project.

    Raises:
        NotFoundError: when the project has none of this id, or it is purged.
    """
    row = shell_in(connection, project, experiment)
    if row is None or row["purged"] is not None:
        raise _none(experiment, project)
    return row


def shell_in(connection: sa.Connection, project: str, experiment: str) -> sa.RowMapping | None:
    """The same, or none; also when only telemetry of it has come so far."""
    query = sa.select(t.experiments).where(_e.id == experiment, _e.project == project)
    return connection.execute(query).mappings().one_or_none()


def known(connection: sa.Connection, experiment: str) -> sa.RowMapping | None:
    """The row of an experiment whose beginning has come, of whatever project."""
    query = sa.select(t.experiments).where(_e.id == experiment, _e.known)
    return connection.execute(query).mappings().one_or_none()


def resolve(connection: sa.Connection, asker: Asker, ref: str) -> sa.RowMapping:
    """The experiment that a person means.

    Raises:
        NotFoundError: when there is none.
        AmbiguousError: when there are several; with the candidates.
        InvalidInput: when it means nothing.
    """
    reference = references.parse(ref)
    mine = sa.select(t.experiments).where(_e.project == asker.project, _e.known)
    newest = (_e.created.desc(), _e.id.desc())
    if reference.whole is not None:
        found = connection.execute(mine.where(_e.id == reference.whole)).mappings().one_or_none()
    elif reference.back is not None:
        query = mine.where(_e.user == asker.user).order_by(*newest).offset(reference.back).limit(1)
        found = connection.execute(query).mappings().one_or_none()
    else:
        found = _by_piece(connection, mine, reference, newest)
    if found is None:
        raise _none(ref, asker.project)
    return found


def _by_piece(
    connection: sa.Connection,
    mine: sa.Select[Any],
    reference: references.Reference,
    newest: tuple[sa.ColumnElement[Any], ...],
) -> sa.RowMapping | None:
    candidates: Sequence[sa.RowMapping] = ()
    if reference.piece is not None:
        begin, end = reference.piece, reference.piece[::-1]
        fits = sa.or_(_e.id.between(begin, _upper(begin)), _e.reversed.between(end, _upper(end)))
        candidates = connection.execute(mine.where(fits).order_by(*newest).limit(_CANDIDATES)).mappings().all()
        if len(candidates) == 1:
            return candidates[0]
    query = mine.where(_e.name == reference.name).order_by(*newest).limit(1)
    named = connection.execute(query).mappings().one_or_none()
    if named is None and candidates:
        raise _ambiguous(reference, candidates)
    if named is None and reference.piece is not None and len(reference.piece) < SHORT_LENGTH:
        return _by_short(connection, mine, reference, newest)
    return named


def _by_short(
    connection: sa.Connection,
    mine: sa.Select[Any],
    reference: references.Reference,
    newest: tuple[sa.ColumnElement[Any], ...],
) -> sa.RowMapping | None:
    """By the beginning of the short id that lists show."""
    piece = reference.piece or ""
    begins = sa.func.substr(_e.id, ID_LENGTH - SHORT_LENGTH + 1, len(piece)) == piece
    candidates = connection.execute(mine.where(begins).order_by(*newest).limit(_CANDIDATES)).mappings().all()
    if len(candidates) > 1:
        raise _ambiguous(reference, candidates)
    return candidates[0] if candidates else None


def _ambiguous(reference: references.Reference, candidates: Sequence[sa.RowMapping]) -> AmbiguousError:
    return AmbiguousError(
        f"{reference.name!r} means several experiments",
        cause="; ".join(f"{row['id']} ({row['name']})" for row in candidates[: _CANDIDATES - 1])
        + ("; …" if len(candidates) == _CANDIDATES else ""),
        hint="give more characters, or the last 8 of the id, as incl ls shows them",
    )


def _upper(piece: str) -> str:
    return piece + "z" * (ID_LENGTH - len(piece))


def _none(ref: str, project: str) -> NotFoundError:
    return NotFoundError(f"no experiment {ref[:200]!r} in project {project!r}", hint="`incl ls` lists them")


def list_row(row: sa.RowMapping, values: dict[str, float]) -> ExperimentRow:
    """One line of a list; values: of the metrics to show in it."""
    return ExperimentRow(
        id=row["id"],
        name=row["name"],
        project=row["project"],
        user=row["user"],
        state=ExperimentState(row["state"]),
        reason=EndReason(row["reason"]) if row["reason"] else None,
        waiting=row["waiting"],
        nodes=row["nodes"],
        gpus=row["gpus"],
        attempts=row["attempts"],
        tags=tuple(json.loads(row["tags"])),
        created=row["created"],
        started=row["started"],
        ended=row["ended"],
        sweep=row["sweep"],
        trial=row["trial"],
        metrics=values,
    )


def view(connection: sa.Connection, row: sa.RowMapping) -> ExperimentView:
    """All of one experiment but its points and lines."""
    identifier = row["id"]
    metrics, metric_count = store_metrics.shown(connection, identifier, json.loads(row["declared"]))
    tried = _attempt_rows(connection, identifier) if row["attempts"] else ()
    attempts = _attempts(connection, row, tried) if tried else []
    declared = {m.name: m.last for m in metrics if m.goal is not None}
    artifacts, artifacts_total = short_list(connection, identifier)
    return ExperimentView(
        row=list_row(row, declared),
        version=row["revision"],
        outside=row["outside"],
        spec=ExperimentSpec.model_validate_json(row["spec"]) if row["spec"] else None,
        code=CodeRef.model_validate_json(row["code"]) if row["code"] else None,
        provenance=Provenance.model_validate_json(row["provenance"]),
        config=_config(connection, identifier),
        message=row["message"],
        hint=row["hint"],
        stages=tuple(_stages(row, tried)),
        attempts=tuple(attempts),
        metrics=tuple(metrics),
        metric_count=metric_count,
        artifacts=tuple(artifacts),
        artifacts_total=artifacts_total,
        alerts=tuple(_alerts(connection, identifier)) if row["alerts"] else (),
        trashed=row["trashed"],
        archived=row["archived"],
        points=row["points"],
        lines=row["lines"],
        gaps=sum(attempt.gaps for attempt in attempts),
        settled=attempts[-1].settled if attempts else ExperimentState(row["state"]) in FINAL_STATES,
    )


def _config(connection: sa.Connection, experiment: str) -> dict[str, str]:
    c = t.params.c
    query = sa.select(c.name, c.text).where(c.experiment == experiment, c.kind == "config").order_by(c.name)
    return {row.name: row.text for row in connection.execute(query)}


def _alerts(connection: sa.Connection, experiment: str) -> list[AlertView]:
    """The newest, oldest first; long texts cut, so that a view stays small enough for a message."""
    c = t.alerts.c
    newest = (c.time.desc(), c.attempt.desc(), c.rank.desc(), c.writer.desc(), c.sequence.desc())
    query = sa.select(t.alerts).where(c.experiment == experiment).order_by(*newest).limit(MAX_ALERTS)
    return [
        AlertView(
            attempt=row["attempt"],
            rank=row["rank"],
            time=row["time"],
            title=row["title"],
            text=clean(row["text"], ALERT_TEXT),
            level=row["level"],
        )
        for row in reversed(connection.execute(query).mappings().all())
    ]


def _attempt_rows(connection: sa.Connection, experiment: str) -> Sequence[sa.RowMapping]:
    c = t.attempts.c
    query = sa.select(t.attempts).where(c.experiment == experiment).order_by(c.attempt)
    return connection.execute(query).mappings().all()


def _attempts(connection: sa.Connection, experiment: sa.RowMapping, rows: Sequence[sa.RowMapping]) -> list[AttemptView]:
    identifier = experiment["id"]
    said = settlement.expected_of(connection, identifier) if any(row["settled"] for row in rows) else {}
    stored = settlement.stored_of(connection, identifier)
    points = settlement.points_of(connection, identifier) if experiment["points"] else {}
    result = []
    for row in rows:
        number = row["attempt"]
        counted = tally(said.get(number, ()), stored.get(number, ())) if row["settled"] else None
        result.append(
            AttemptView(
                attempt=number,
                state=AttemptState(row["state"]),
                reason=EndReason(row["reason"]) if row["reason"] else None,
                message=row["message"],
                placements=tuple(Placement.model_validate(p) for p in json.loads(row["placements"])),
                machines=_machines(row),
                ranks=tuple(RankEnd.model_validate(r) for r in json.loads(row["ends"])),
                images=tuple(sorted({times.image for times in _ranks(row) if times.image})),
                assigned=row["assigned"],
                started=row["started"],
                ended=row["ended"],
                settled=row["settled"],
                points=points.get(number, 0),
                lines=settlement.lines_of(stored.get(number, ())),
                gaps=counted.gaps if counted else 0,
            )
        )
    return result


def _machines(attempt: sa.RowMapping) -> MachinesMade | None:
    text = attempt["machines"]
    return MachinesMade.model_validate_json(text) if text else None


def _ranks(attempt: sa.RowMapping) -> tuple[RankTimes, ...]:
    starts = [RankTimes.model_validate(r) for r in json.loads(attempt["starts"])]
    return stages.latest(starts, [RankEnd.model_validate(r).times for r in json.loads(attempt["ends"])])


def _stages(row: sa.RowMapping, attempts: Sequence[sa.RowMapping]) -> list[Stage]:
    result = stages.client_stages(ClientTimes.model_validate_json(row["times"]) if row["times"] else None)
    last, assigned = 0, float("-inf")
    for attempt in attempts:
        last, assigned = attempt["attempt"], attempt["assigned"]
        times = stages.AttemptTimes(
            attempt=last,
            queued=attempt["queued"],
            assigned=attempt["assigned"],
            started=attempt["started"],
            ended=attempt["ended"],
            ranks=_ranks(attempt),
            waits=json.loads(attempt["waits"]),
            machines=_machines(attempt),
        )
        result += [s for s in stages.attempt_stages(times) if not row["outside"] or s.name == "running"]
    if not row["outside"] and row["queued_at"] > assigned:
        waits = json.loads(row["waits"])
        result.append(stages.waiting_stage(last + 1, row["queued_at"], row["ended"], waits))
    return result
