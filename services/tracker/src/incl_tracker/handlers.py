"""What the tracker does with each message: read it, let the domain say what it means, store, tell the outbox."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_shared import subjects
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.events import (
    ArtifactsDropped,
    ArtifactStored,
    Event,
    ExperimentQueued,
    RankEnd,
    RestoreRequested,
    RunEnded,
    RunStarted,
    TrashRequested,
)
from incl_tracker import counters, history, lapsing, store_artifacts, trash
from incl_tracker import store_experiments as experiments
from incl_tracker.domain import projection
from incl_tracker.domain.extras import flatten
from incl_tracker.ingest import Ingest
from incl_tracker.settling import begin_settlement, wrote_more
from incl_tracker.store_tails import LIMITS, Limits

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction
    from incl_tracker.audience import Audience

_log = logging.getLogger("incl.tracker")


class Handlers:
    """The consume handlers; each runs in the writer thread, within a savepoint."""

    def __init__(
        self,
        audience: Audience,
        settle_after_s: float,
        trash_kept_s: float = trash.KEPT_S,
        limits: Limits = LIMITS,
    ) -> None:
        self._audience = audience
        self._ingest = Ingest(audience, settle_after_s, limits)
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
        if isinstance(event, ArtifactStored | ArtifactsDropped):
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
        if isinstance(event, RunStarted | RunEnded):
            self.remember(tx, delivery)

    def metric_batches(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """METRICS: as many messages as came together, in one transaction. Repeats show by their records' numbers."""
        self._ingest.metrics(tx, deliveries)
        _note_lag(tx, deliveries)

    def log_batches(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        """LOGS: the same, in the order in which they were sent."""
        self._ingest.logs(tx, deliveries)
        _note_lag(tx, deliveries)

    def forget(self) -> None:
        """Other experiments are this process's own from now on: remember nothing of those before. From any thread."""
        self._ingest.forget()

    def remember(self, tx: Transaction, delivery: Delivery) -> None:
        """A request that was handled is a part of the history."""
        history.note(tx, delivery)

    def settlement(
        self, tx: Transaction, project: str, experiment: str, attempt: int, ranks: Sequence[RankEnd], due: float
    ) -> None:
        """An attempt ended; see `begin_settlement`."""
        begin_settlement(tx, project, experiment, attempt, ranks, due)

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
            self.settlement(tx, project, event.key, change.attempt, change.ended, due)
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

    def _artifact(
        self, tx: Transaction, event: ArtifactStored | ArtifactsDropped, project: str, delivery: Delivery
    ) -> None:
        row = self._own_row(tx, project, event.experiment, delivery.time)
        if row["purged"] is not None:
            return
        if isinstance(event, ArtifactStored):
            store_artifacts.set_artifact(tx.connection, event, delivery.version)
        else:
            store_artifacts.drop_artifacts(tx.connection, event, delivery.version)
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
        self.settlement(tx, asker.project, event.experiment, change.attempt, ranks, due)
        self._changed(tx, asker.project, event.experiment)

    def _own_row(self, tx: Transaction, project: str, experiment: str, time: float) -> sa.RowMapping:
        """The experiment's row; refused when another project has this id."""
        row = experiments.find_or_make(tx.connection, experiment, project, time)
        if row["project"] != project:
            raise Poison(f"{experiment} is not of project {project}")
        return row

    def _changed(self, tx: Transaction, project: str, experiment: str) -> None:
        tx.after_commit(lambda: self._audience.changed(project, experiment))


def _note_lag(tx: Transaction, deliveries: Sequence[Delivery]) -> None:
    lag = max(0.0, tx.clock.now() - min((delivery.time for delivery in deliveries), default=tx.clock.now()))
    tx.after_commit(lambda: counters.LAG.labels(deliveries[0].stream).observe(lag))
