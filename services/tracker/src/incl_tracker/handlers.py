"""What the tracker does with each message: read it, let the domain say what it means, store, tell the outbox."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from incl_shared import subjects
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.events import (
    ArtifactStored,
    Event,
    ExperimentQueued,
    RestoreRequested,
    RunEnded,
    RunStarted,
    TrashRequested,
)
from incl_shared.ids import is_id
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_shared.subjects import Origin
from incl_tracker import counters, lapsing, store_artifacts, trash
from incl_tracker import store_experiments as experiments
from incl_tracker import store_telemetry as telemetry
from incl_tracker.domain import projection, ranges
from incl_tracker.domain.batches import BadBatch, cut_lines, cut_metrics, decode_logs, decode_metrics
from incl_tracker.domain.extras import Said, flatten, read_extras
from incl_tracker.domain.points import Points
from incl_tracker.settling import begin_settlement, raise_alerts, settle_if_complete, wrote_more

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction
    from incl_shared.telemetry.wire import Line

_log = logging.getLogger("incl.tracker")
PATIENCE = 6
"""Deliveries (about 1.5 seconds) for which lines wait for the ones before them."""


class Audience(Protocol):
    """Who is told once something is stored. Called in the event loop; must not block."""

    def changed(self, project: str, experiment: str) -> None:
        """Something that a view shows."""

    def lines(self, project: str, experiment: str, after: int, lines: list[tuple[int, int, Line]]) -> None:
        """Lines after the cursor `after`: (attempt, rank, line)."""

    def points(self, project: str, experiment: str, newest: dict[str, tuple[int, float]], count: int) -> None:
        """Points: the newest (step, value) of each metric."""

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None:
        """A writer's records are stored up to here."""


class Handlers:
    """The consume handlers; each runs in the writer thread, within a savepoint."""

    def __init__(self, audience: Audience, settle_after_s: float, trash_kept_s: float = trash.KEPT_S) -> None:
        self._audience = audience
        self._settle_after_s = settle_after_s
        self._trash_kept_s = trash_kept_s

    def event(self, tx: Transaction, delivery: Delivery) -> None:
        """EVENTS: experiments are projected, artifacts listed."""
        try:
            project, kind, identifier = subjects.parse_event(delivery.subject)
        except InvalidInput as error:
            raise Poison(error.message) from error
        event = delivery.event()
        if event.key != identifier or type(event).aggregate != kind:
            raise Poison(f"{delivery.type} of {event.key} on the subject of {kind} {identifier}")
        if isinstance(event, ArtifactStored):
            self._artifact(tx, event, project, delivery)
        elif kind == "experiment":
            self._experiment(tx, event, project, delivery)

    def request(self, tx: Transaction, delivery: Delivery) -> None:
        """REQUESTS: runs outside the platform, and the trash. Project and user are those of the subject."""
        try:
            asker, _, identifier = subjects.parse_request(delivery.subject)
        except InvalidInput as error:
            raise Poison(error.message) from error
        event = delivery.event()
        if event.key != identifier:
            raise Poison(f"{delivery.type} of {event.key} on the subject of {identifier}")
        if isinstance(event, RunStarted):
            self._run_started(tx, event, asker, delivery.time)
        elif isinstance(event, RunEnded):
            self._run_ended(tx, event, asker)
        elif isinstance(event, TrashRequested | RestoreRequested):
            self._deletion(tx, event, asker)

    def metric_batches(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """METRICS: as many messages as came together, in one transaction. Repeats show by their records' numbers."""
        for delivery in deliveries:
            self.metrics(tx, delivery)

    def log_batches(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """LOGS: the same, in the order in which they were sent."""
        for delivery in sorted(deliveries, key=lambda d: d.sequence):
            self.logs(tx, delivery)

    def metrics(self, tx: Transaction, delivery: Delivery) -> None:
        """METRICS: a numbered batch; the records that are not stored yet are stored."""
        origin = _origin(delivery.subject)
        try:
            batch = decode_metrics(delivery.payload)
            row = self._own_row(tx, origin, delivery.time)
            stored, dropped = telemetry.stored_ranges(tx.connection, origin, "metrics", batch.writer)
            last = batch.first + batch.count - 1
            wanted = ranges.missing(stored, batch.first, last)
            new = cut_metrics(batch, wanted)
        except BadBatch as error:
            raise Poison(str(error)) from error
        counters.REPEATED.inc(batch.count - ranges.total(wanted))
        if wanted:
            stored = ranges.merged(stored, batch.first, last)
            said = read_extras(new.extras)
            telemetry.set_ranges(tx.connection, origin, "metrics", batch.writer, stored, dropped + said.dropped)
            self._points(tx, origin, row, batch.writer, new.columns)
            self._extras(tx, origin, batch.writer, said, delivery.time)
            self._settle(tx, origin)
        mark = ranges.watermark(stored)
        tx.after_commit(lambda: self._audience.stored(origin, "metrics", batch.writer, mark))

    def logs(self, tx: Transaction, delivery: Delivery) -> None:
        """LOGS: the same for lines of output.

        Lines after a hole wait a moment for what is missing, so that a redelivery does not disorder a page; not for
        long, as what is missing may be lost.
        """
        origin = _origin(delivery.subject)
        try:
            batch = decode_logs(delivery.payload)
        except BadBatch as error:
            raise Poison(str(error)) from error
        row = self._own_row(tx, origin, delivery.time)
        stored, dropped = telemetry.stored_ranges(tx.connection, origin, "logs", batch.writer)
        if batch.first > ranges.watermark(stored) + 1 and delivery.deliveries < PATIENCE:
            raise Early
        last = batch.first + len(batch.lines) - 1
        wanted = ranges.missing(stored, batch.first, last)
        counters.REPEATED.inc(len(batch.lines) - ranges.total(wanted))
        if wanted:
            stored = ranges.merged(stored, batch.first, last)
            telemetry.set_ranges(tx.connection, origin, "logs", batch.writer, stored, dropped)
            self._lines(tx, origin, row, batch.writer, cut_lines(batch, wanted))
            self._settle(tx, origin)
        mark = ranges.watermark(stored)
        tx.after_commit(lambda: self._audience.stored(origin, "logs", batch.writer, mark))

    def _experiment(self, tx: Transaction, event: Event, project: str, delivery: Delivery) -> None:
        if isinstance(event, ExperimentQueued):
            self._queued(tx, event, project, delivery)
            return
        row = experiments.find(tx.connection, event.key)
        if row is None or delivery.version > row["version"] + 1:
            raise Early
        if row["project"] != project:
            raise Poison(f"{event.key} is not of project {project}")
        if delivery.version <= row["version"] or row["purged"] is not None:
            return
        change = projection.project(row, event, delivery.time) or projection.Change()
        experiments.update(tx.connection, event.key, change.experiment | {"version": delivery.version})
        if change.new_attempt:
            experiments.insert_attempt(tx.connection, event.key, change.attempt, change.attempt_values)
        elif change.attempt:
            experiments.update_attempt(tx.connection, event.key, change.attempt, change.attempt_values)
        if change.ended is not None:
            due = tx.clock.now() + self._settle_after_s
            begin_settlement(tx, project, event.key, change.attempt, change.ended, due)
        self._changed(tx, project, event.key)

    def _queued(self, tx: Transaction, event: ExperimentQueued, project: str, delivery: Delivery) -> None:
        row = experiments.find_or_make(tx.connection, event.experiment, project, delivery.time)
        if row["purged"] is not None:
            return
        if row["known"] and row["outside"]:
            raise Poison(f"{event.experiment} is a run outside the platform")
        if delivery.version <= row["version"]:
            return
        if delivery.version > row["version"] + 1:
            raise Early
        self._take_over(tx, row, project)
        values = projection.admitted(event, project, delivery.time) | {"version": delivery.version}
        experiments.update(tx.connection, event.experiment, values)
        experiments.set_tags(tx.connection, event.experiment, event.spec.tags)
        env = {name: (0.0, text) for name, text in event.spec.env.items()}
        experiments.set_params(tx.connection, event.experiment, "env", env, 0)
        experiments.know_metrics(tx.connection, project, list(event.spec.metrics))
        self._changed(tx, project, event.experiment)

    def _take_over(self, tx: Transaction, row: sa.RowMapping, project: str) -> None:
        """A shell made by another project's telemetry gives way to the experiment itself."""
        if row["project"] != project:
            counters.FOREIGN.inc()
            _log.warning("telemetry under a foreign id is dropped", extra={"experiment": row["id"]})
            experiments.evict(tx.connection, row["id"])

    def _artifact(self, tx: Transaction, event: ArtifactStored, project: str, delivery: Delivery) -> None:
        row = self._own_row(tx, Origin(project, event.experiment, event.attempt, event.rank), delivery.time)
        if row["purged"] is not None:
            return
        store_artifacts.set_artifact(tx.connection, event, delivery.version)
        experiments.update(tx.connection, event.experiment, {})
        self._changed(tx, project, event.experiment)

    def _run_started(self, tx: Transaction, event: RunStarted, asker: subjects.Asker, time: float) -> None:
        row = experiments.find_or_make(tx.connection, event.experiment, asker.project, time)
        if row["purged"] is not None:
            return
        if row["known"]:
            if row["outside"] and (row["project"], row["user"]) == (asker.project, asker.user):
                return
            raise Poison(f"the id {event.experiment} belongs to somebody else")
        self._take_over(tx, row, asker.project)
        run = projection.outside_run(event, asker.project, asker.user)
        experiments.update(tx.connection, event.experiment, run)
        experiments.insert_attempt(
            tx.connection, event.experiment, projection.OUTSIDE_ATTEMPT, projection.outside_attempt(event)
        )
        lapsing.begun(tx.connection, event.experiment, tx.clock.now())
        experiments.set_tags(tx.connection, event.experiment, event.tags)
        config = {name: (event.started, text) for name, text in flatten(dict(event.config)).items()}
        experiments.set_params(tx.connection, event.experiment, "config", config, 0)
        self._changed(tx, asker.project, event.experiment)

    def _deletion(self, tx: Transaction, event: TrashRequested | RestoreRequested, asker: subjects.Asker) -> None:
        if isinstance(event, TrashRequested):
            changed = trash.trash_requested(tx, event, asker, self._trash_kept_s)
        else:
            changed = trash.restore_requested(tx, event, asker)
        if changed:
            self._changed(tx, asker.project, event.experiment)

    def _run_ended(self, tx: Transaction, event: RunEnded, asker: subjects.Asker) -> None:
        row = experiments.find(tx.connection, event.experiment)
        if row is not None and row["purged"] is not None:
            return
        if row is None or not row["known"]:
            raise Early
        if not row["outside"] or (row["project"], row["user"]) != (asker.project, asker.user):
            raise Poison(f"the run {event.experiment} belongs to somebody else")
        ranks = projection.outside_ranks(event)
        if row["ended"] is not None and not wrote_more(tx, event.experiment, projection.OUTSIDE_ATTEMPT, ranks):
            return
        lapsing.ended(tx.connection, event.experiment)
        change = projection.outside_end(event)
        experiments.update(tx.connection, event.experiment, change.experiment)
        experiments.update_attempt(tx.connection, event.experiment, change.attempt, change.attempt_values)
        due = tx.clock.now() + self._settle_after_s
        begin_settlement(tx, asker.project, event.experiment, change.attempt, ranks, due)
        self._changed(tx, asker.project, event.experiment)

    def _own_row(self, tx: Transaction, origin: Origin, time: float) -> sa.RowMapping:
        """The experiment's row; refused when another project has this id."""
        row = experiments.find_or_make(tx.connection, origin.experiment, origin.project, time)
        if row["project"] != origin.project:
            raise Poison(f"{origin.experiment} is not of project {origin.project}")
        return row

    def _points(
        self, tx: Transaction, origin: Origin, row: sa.RowMapping, writer: str, columns: dict[str, Points]
    ) -> None:
        if not columns:
            return
        fresh = telemetry.add_points(tx.connection, origin, writer, columns)
        if fresh:
            experiments.know_metrics(tx.connection, origin.project, fresh)
        count = sum(len(points) for name, points in columns.items() if not name.startswith(SYSTEM_PREFIX))
        experiments.count(tx.connection, origin.experiment, points=row["points"] + count)
        newest = {name: _newest(points) for name, points in columns.items()} if origin.rank == 0 else {}

        def tell() -> None:
            counters.POINTS.inc(count)
            self._audience.points(origin.project, origin.experiment, newest, count)

        tx.after_commit(tell)

    def _extras(self, tx: Transaction, origin: Origin, writer: str, said: Said, received: float) -> None:
        counters.UNREADABLE.inc(said.unreadable)
        if said.config:
            experiments.set_params(tx.connection, origin.experiment, "config", said.config, origin.attempt)
            experiments.update(tx.connection, origin.experiment, {})
            self._changed(tx, origin.project, origin.experiment)
        if said.alerts:
            experiments.add_alerts(tx.connection, origin, writer, said.alerts, received)
            raise_alerts(tx, origin, writer, said.alerts)
            self._changed(tx, origin.project, origin.experiment)

    def _lines(
        self, tx: Transaction, origin: Origin, row: sa.RowMapping, writer: str, pieces: list[tuple[int, list[Line]]]
    ) -> None:
        after = row["lines"]
        cursor = telemetry.add_lines(tx.connection, origin, writer, pieces, after)
        experiments.count(tx.connection, origin.experiment, lines=cursor)
        lines = [(origin.attempt, origin.rank, line) for _, piece in pieces for line in piece]

        def tell() -> None:
            counters.LINES.inc(len(lines))
            self._audience.lines(origin.project, origin.experiment, after, lines)

        tx.after_commit(tell)

    def _settle(self, tx: Transaction, origin: Origin) -> None:
        if settle_if_complete(tx, origin.project, origin.experiment, origin.attempt):
            self._changed(tx, origin.project, origin.experiment)

    def _changed(self, tx: Transaction, project: str, experiment: str) -> None:
        tx.after_commit(lambda: self._audience.changed(project, experiment))


def _origin(subject: str) -> Origin:
    try:
        origin = subjects.parse_telemetry(subject)
    except (InvalidInput, ValueError) as error:
        raise Poison(f"not a telemetry subject: {subject[:200]}") from error
    if not is_id(origin.experiment) or not 1 <= origin.attempt < 1 << 31 or not 0 <= origin.rank < 1 << 31:
        raise Poison(f"not a telemetry subject: {subject[:200]}")
    return origin


def _newest(points: Points) -> tuple[int, float]:
    place = max(range(len(points)), key=lambda i: (points.steps[i], points.times[i]))
    return points.steps[place], points.values[place]
