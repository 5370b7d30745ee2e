"""What comes in over the bus: requests, reports, events. Thin: parse, check who speaks, call, count the time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from incl_provisioner import admission, machines, store, store_gangs
from incl_provisioner.attempts import rank_reported
from incl_provisioner.backends import Backend
from incl_provisioner.clocks import NodeClocks
from incl_provisioner.cloud import asking
from incl_provisioner.domain.attempt import RankFact
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.vitals import Vitals
from incl_provisioner.work import Finish, Machines, Work
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.events.experiments import (
    ArtifactStored,
    AttemptSettled,
    ExperimentPurged,
    ExperimentSubmitted,
    StopRequested,
)
from incl_shared.reports import (
    JobEnded,
    JobPreparing,
    JobReady,
    JobStarted,
    JobUploading,
    NodeHeartbeat,
    NodeHello,
    Report,
)
from incl_shared.subjects import parse_event, parse_report, parse_request

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction

_log = logging.getLogger("incl.provisioner")
_STOP_PATIENCE = 5
"""How often a stop of an unknown experiment is tried: its submission may be on the way."""


class Handlers:
    """The consumers of the provisioner. `wake` is called once what they did is committed."""

    def __init__(
        self,
        settings: ProvisionerSettings,
        backend: Backend,
        metrics: ProvisionerMetrics,
        wake: Callable[[], None],
        vitals: Vitals,
    ) -> None:
        self._vitals = vitals
        self._clocks = NodeClocks()
        self._settings = settings
        self._metrics = metrics
        self._backend = backend
        self._wake = wake
        self._machines = Machines()

    def requests(self, tx: Transaction, delivery: Delivery) -> None:
        """ExperimentSubmitted, StopRequested. Who asks is read from the subject."""
        with self._metrics.own_time("requests"):
            try:
                asker, _, identifier = parse_request(delivery.subject)
                event = delivery.event()
            except (InvalidInput, ValidationError, ValueError, KeyError) as error:
                raise Poison(f"not a request: {error}") from error
            if event.key != identifier:
                raise Poison(f"the subject names {identifier}, the request {event.key}")
            work = self._work(tx, delivery)
            if isinstance(event, ExperimentSubmitted):
                admission.submit(work, asker, event, self._backend)
            elif isinstance(event, StopRequested):
                known = admission.stop(work, asker, event.experiment, event.reason)
                if not known and delivery.deliveries < _STOP_PATIENCE:
                    raise Early(f"experiment {event.experiment} is not known yet")
                if not known:
                    _log.warning("a stop of %s, which nobody has submitted", event.experiment)
            else:
                raise Poison(f"{delivery.type} is not for the provisioner")

    def reports(self, tx: Transaction, delivery: Delivery) -> None:
        """What agents say. A node speaks for itself only."""
        with self._metrics.own_time("reports"):
            try:
                node = parse_report(delivery.subject)
                report = Report.model_validate_json(delivery.payload)
            except (InvalidInput, ValidationError) as error:
                raise Poison(f"not a report: {error}") from error
            if report.node != node:
                raise Poison(f"{node} reports as {report.node}")
            self._report(self._work(tx, delivery), report)

    def events(self, tx: Transaction, delivery: Delivery) -> None:
        """ArtifactStored: checkpoints. ExperimentPurged: nothing is kept of it. AttemptSettled: its machines may go."""
        with self._metrics.own_time("events"):
            try:
                project, _, _ = parse_event(delivery.subject)
                event = delivery.event()
            except (InvalidInput, ValidationError, ValueError, KeyError) as error:
                raise Poison(f"not an event: {error}") from error
            if isinstance(event, ArtifactStored):
                machines.checkpoint_stored(self._work(tx, delivery), project, event)
            elif isinstance(event, ExperimentPurged):
                store.forget(tx.connection, event.experiment)
                store_gangs.forget(tx.connection, event.experiment)
            elif isinstance(event, AttemptSettled):
                asking.let_go(self._work(tx, delivery), event.experiment, event.attempt)

    def _work(self, tx: Transaction, delivery: Delivery) -> Work:
        now = tx.clock.now()
        said = min(now, delivery.time or now)
        return Work(tx, self._settings, self._metrics, now, said, wake=self._wake, machines=self._machines)

    def _report(self, work: Work, report: Report) -> None:
        node = report.node
        match report.body:
            case NodeHello() as body:
                machines.hello(work, report, body)
            case NodeHeartbeat() as body:
                self._clocks.note(node, report.time, work.said)
                if body.vitals is not None:
                    self._vitals.note(node, body.vitals)
                machines.heartbeat(work, node, body)
            case JobPreparing() as body:
                self._rank(work, report, body, RankFact.PREPARING)
            case JobReady() as body:
                self._rank(work, report, body, RankFact.READY, port=body.port)
            case JobStarted() as body:
                self._rank(work, report, body, RankFact.STARTED)
            case JobUploading() as body:
                self._rank(work, report, body, RankFact.UPLOADING)
            case JobEnded() as body:
                self._rank(work, report, body, RankFact.ENDED, finish=self._finish(work, node, body))
            case _:
                machines.preempting(work, node)

    def _rank(
        self,
        work: Work,
        report: Report,
        body: JobPreparing | JobReady | JobStarted | JobUploading | JobEnded,
        fact: RankFact,
        *,
        finish: Finish | None = None,
        port: int | None = None,
    ) -> None:
        key, times = (body.experiment, body.attempt, body.rank), self._clocks.told(report.node, body.times)
        rank_reported(work, report.node, key, fact, times, finish=finish, port=port, seq=report.seq)

    def _finish(self, work: Work, node: str, body: JobEnded) -> Finish:
        ended = self._clocks.told(node, body.times).ended
        return Finish(
            reason=body.reason, exit_code=body.exit_code, signal=body.signal, message=body.message, hint=body.hint,
            writers=body.writers, at=min(ended, work.now) if ended else work.now,
        )  # fmt: skip
