"""One experiment, made anew of what was said of it.

What an event tells is projected again by the very handlers that did it first. What the tracker alone knows stays as it
is: points, lines and their summaries, parameters that a script said, alerts, settlements, the trash, the archive,
whether a run outside the platform was lost. Where there is no row at all (the database was lost), what the tracker
itself said about these on the bus takes its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import ValidationError

from incl_shared import subjects
from incl_shared.bus import envelope as wire
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.events import (
    AlertRaised,
    ArtifactsDropped,
    ArtifactStored,
    AttemptSettled,
    Event,
    ExperimentPurged,
    ExperimentQueued,
    ExperimentRestored,
    ExperimentTrashed,
    RankEnd,
    RunEnded,
    RunStarted,
)
from incl_shared.states import AttemptState, ExperimentState
from incl_tracker import store_experiments as experiments
from incl_tracker import store_settlement, store_trash
from incl_tracker import tables as t
from incl_tracker.domain.settlement import some_silent, wrote
from incl_tracker.handlers import Handlers
from incl_tracker.history import Said

if TYPE_CHECKING:
    from incl_shared.db import Transaction
    from incl_shared.subjects import Origin
    from incl_shared.telemetry.wire import Line

SETTLE_AFTER_S = 60.0
_e, _a = t.experiments.c, t.attempts.c
OWN = (
    "points", "lines", "epoch", "stamp", "compact_at", "trashed", "purge_at", "purged", "archive", "restore_at",
    "archived", "alerts", "settlements",
)  # fmt: skip
"""Columns of an experiment that no event makes."""
_SETTLED = ("settle_due", "wait_for_due", "settled")
_MADE = (t.attempts, t.tags, t.expected, t.artifacts, t.dropped_artifacts)
"""Tables whose rows events make, and nothing else; of the parameters those of the environment."""
_MANAGED = (ExperimentQueued, RunStarted)
_ITS_OWN = (AttemptSettled, AlertRaised, ExperimentTrashed, ExperimentRestored, ExperimentPurged)
"""What the tracker itself says."""


class NotWhole(Exception):  # noqa: N818
    """Its history is not whole: it is left as it is. Says why."""


class _Undo(Exception):  # noqa: N818
    """Only to see what would change."""


class _Nobody:
    """Nobody listens to a rebuild."""

    def changed(self, project: str, experiment: str) -> None:
        """Nothing."""

    def lines(self, project: str, experiment: str, after: int, lines: list[tuple[int, int, Line]]) -> None:
        """Nothing."""

    def points(self, project: str, experiment: str, newest: dict[str, tuple[int, float]], count: int) -> None:
        """Nothing."""

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None:
        """Nothing."""


class Replay(Handlers):
    """The handlers, without what they would say to others."""

    def __init__(self) -> None:
        super().__init__(_Nobody(), SETTLE_AFTER_S)

    def remember(self, tx: Transaction, delivery: Delivery) -> None:
        """It is there."""

    def settlement(
        self, tx: Transaction, project: str, experiment: str, attempt: int, ranks: Sequence[RankEnd], due: float
    ) -> None:
        """What was written is expected; the tracker settles it once it runs, unless it had."""
        store_settlement.expect(tx.connection, experiment, attempt, wrote(ranks))
        values = {"settle_due": due, "wait_for_due": some_silent(ranks)}
        experiments.update_attempt(tx.connection, experiment, attempt, values)


def rebuild_one(tx: Transaction, replay: Replay, experiment: str, said: Sequence[Said], *, dry: bool = False) -> str:
    """Make its rows anew: 'same', 'changed', 'made', or 'purged' (nothing is to be made).

    Raises:
        NotWhole: nothing is done.
    """
    deliveries = [delivery for one in said if (delivery := _delivery(one)) is not None]
    outcome = "same"
    with contextlib.suppress(_Undo), tx.savepoint():
        outcome = _anew(tx, replay, experiment, deliveries)
        if dry:
            raise _Undo
    return outcome


def _anew(tx: Transaction, replay: Replay, experiment: str, deliveries: Sequence[Delivery]) -> str:
    connection = tx.connection
    old = experiments.find(connection, experiment)
    if old is not None and old["purged"] is not None:
        return "purged"
    events = [(delivery, delivery.event()) for delivery in deliveries]
    if not any(isinstance(event, _MANAGED) for _, event in events):
        raise NotWhole("its beginning is not in the history")
    _check_files(connection, experiment, events)
    before = _rows(connection, experiment)
    lease = _lease(connection, experiment)
    _clear(connection, experiment)
    _replay(tx, replay, [(delivery, event) for delivery, event in events if not isinstance(event, _ITS_OWN)])
    row = experiments.find(connection, experiment)
    if row is None or not row["known"]:
        raise NotWhole("its beginning is not in the history")
    if old is None:
        _own_words(tx, experiment, [(delivery, event) for delivery, event in events if isinstance(event, _ITS_OWN)])
        return "made"
    _check_whole(old, row)
    _give_back(connection, old, row, before[t.attempts.name], lease)
    changed = _rows(connection, experiment) != before
    if changed:
        connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(revision=old["revision"] + 1))
    return "changed" if changed else "same"


def _replay(tx: Transaction, replay: Replay, events: Sequence[tuple[Delivery, Event]]) -> None:
    """In their order; what comes too early again and again, as the bus would."""
    waiting = list(events)
    while waiting:
        early = []
        for delivery, event in waiting:
            handle = replay.request if type(event).stream == "REQUESTS" else replay.event
            try:
                handle(tx, delivery)
            except Early:
                early.append((delivery, event))
            except Poison:
                continue  # a dead letter, now as then
        if len(early) == len(waiting):
            raise NotWhole("a part of its history is missing")
        waiting = early


def _delivery(said: Said) -> Delivery | None:
    """As it came from the bus; none where it is nothing that a projection is made of."""
    try:
        envelope = wire.decode(said.headers)
    except ValueError:
        return None
    if envelope is None:
        return None
    delivery = Delivery(
        subject=said.subject, payload=said.payload, headers=said.headers, id=said.id, type=envelope.type,
        time=envelope.time, version=envelope.version, stream="", sequence=0, deliveries=1, traceparent=None,
    )  # fmt: skip
    try:
        event = delivery.event()
        if said.subject.startswith("incl.request."):
            subjects.parse_request(said.subject)
            return delivery if isinstance(event, RunStarted | RunEnded) else None
        subjects.parse_event(said.subject)
    except (Poison, InvalidInput, ValidationError):
        return None
    return delivery


def _check_files(connection: sa.Connection, experiment: str, events: Sequence[tuple[Delivery, Event]]) -> None:
    """The registry numbers what it says of files from 1 on: a hole shows."""
    versions = {delivery.version for delivery, event in events if isinstance(event, ArtifactStored | ArtifactsDropped)}
    known = 0
    for table in (t.artifacts, t.dropped_artifacts):
        query = sa.select(sa.func.max(table.c.version)).where(table.c.experiment == experiment)
        known = max(known, connection.execute(query).scalar() or 0)
    if versions != set(range(1, max([known, *versions]) + 1)):
        raise NotWhole("a part of the history of its files is missing")


def _check_whole(old: sa.RowMapping, row: sa.RowMapping) -> None:
    if row["version"] < old["version"] or (old["ended"] is not None and row["ended"] is None):
        raise NotWhole("the end of its history is missing")


def _rows(connection: sa.Connection, experiment: str) -> dict[str, list[tuple[Any, ...]]]:
    """All that is compared: the rows that events make, and the experiment's own."""
    shown = [column for column in t.experiments.c if column.name != "revision"]
    found = {t.experiments.name: sorted(map(tuple, connection.execute(sa.select(*shown).where(_e.id == experiment))))}
    for table in _MADE:
        rows = connection.execute(sa.select(table).where(table.c.experiment == experiment))
        found[table.name] = sorted(map(tuple, rows), key=repr)
    env = sa.select(t.params).where(t.params.c.experiment == experiment, t.params.c.kind == "env")
    found[t.params.name] = sorted(map(tuple, connection.execute(env)), key=repr)
    return found


def _lease(connection: sa.Connection, experiment: str) -> float | None:
    query = sa.select(t.run_leases.c.heard).where(t.run_leases.c.experiment == experiment)
    found: float | None = connection.execute(query).scalar()
    return found


def _clear(connection: sa.Connection, experiment: str) -> None:
    for table in _MADE:
        connection.execute(sa.delete(table).where(table.c.experiment == experiment))
    env = (t.params.c.experiment == experiment, t.params.c.kind == "env")
    connection.execute(sa.delete(t.params).where(*env))
    connection.execute(sa.delete(t.experiments).where(_e.id == experiment))


def _give_back(
    connection: sa.Connection,
    old: sa.RowMapping,
    row: sa.RowMapping,
    attempts: Sequence[tuple[Any, ...]],
    lease: float | None,
) -> None:
    """What no event makes is as it was."""
    experiment = old["id"]
    values = {name: old[name] for name in OWN} | {"revision": old["revision"]}
    lost, running = ExperimentState.LOST.value, ExperimentState.RUNNING.value
    if row["outside"] and old["state"] == lost and row["state"] == running:
        values |= {name: old[name] for name in ("state", "message", "hint")}
    connection.execute(sa.update(t.experiments).where(_e.id == experiment).values(values))
    names = [column.name for column in t.attempts.columns]
    for attempt in (dict(zip(names, one, strict=True)) for one in attempts):
        if attempt["state"] == AttemptState.ENDED:
            where = (_a.experiment == experiment, _a.attempt == attempt["attempt"], _a.state == attempt["state"])
            settled = {name: attempt[name] for name in _SETTLED}
            connection.execute(sa.update(t.attempts).where(*where).values(settled))
    if lease is not None:
        where_lease = t.run_leases.c.experiment == experiment
        connection.execute(sa.update(t.run_leases).where(where_lease).values(heard=lease))


def _own_words(tx: Transaction, experiment: str, events: Sequence[tuple[Delivery, Event]]) -> None:
    """Of an experiment whose rows are lost: what the tracker told of it once."""
    connection, where = tx.connection, _e.id == experiment
    for delivery, event in sorted(events, key=lambda one: (type(one[1]).aggregate, one[0].version)):
        values: dict[str, Any] = {}
        match event:
            case AttemptSettled():
                experiments.update_attempt(connection, experiment, event.attempt, {"settled": True, "settle_due": None})
                values = {"settlements": delivery.version}
            case AlertRaised():
                _alert(connection, event, delivery)
                values = {"alerts": delivery.version}
            case ExperimentTrashed():
                values = {"trashed": delivery.time, "purge_at": event.purge_at, "epoch": delivery.version}
            case ExperimentRestored():
                values = {"trashed": None, "purge_at": None, "epoch": delivery.version}
            case _:
                store_trash.set_purged(connection, experiment, delivery.time)
                values = {"epoch": delivery.version}
        connection.execute(sa.update(t.experiments).where(where).values(values))


def _alert(connection: sa.Connection, event: AlertRaised, delivery: Delivery) -> None:
    row = {
        "experiment": event.experiment,
        "attempt": event.attempt,
        "rank": event.rank,
        "writer": "",
        "sequence": delivery.version,
        "time": delivery.time,
        "title": event.title,
        "text": event.text,
        "level": event.level,
    }
    connection.execute(sa.insert(t.alerts).values(row))
