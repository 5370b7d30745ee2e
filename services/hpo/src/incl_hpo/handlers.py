"""What comes in over the bus: sweeps and stops that people ask for, and what becomes of the trials' experiments."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from incl_hpo import steps, store
from incl_hpo.domain.ending import ENDS_TRIALS, Closing
from incl_hpo.domain.trial import Finish
from incl_shared.bus.errors import Early, Poison
from incl_shared.errors import InvalidInput
from incl_shared.events import (
    AttemptSettled,
    ExperimentFinished,
    SweepResumeRequested,
    SweepStopRequested,
    SweepSubmitted,
)
from incl_shared.subjects import Asker, parse_event, parse_request

if TYPE_CHECKING:
    from incl_shared.bus.delivery import Delivery
    from incl_shared.db import Transaction

_log = logging.getLogger("incl.hpo")
_STOP_PATIENCE = 5
"""How often a stop of an unknown sweep is tried: its submission may be on the way."""
_HEARD = frozenset({ExperimentFinished.type_name(), AttemptSettled.type_name()})


class Handlers:
    """The consumers. `wake` is called with a sweep once what changed it is committed."""

    def __init__(self, wake: Callable[[str], None]) -> None:
        self._wake = wake

    def requests(self, tx: Transaction, delivery: Delivery) -> None:
        """SweepSubmitted, SweepStopRequested, SweepResumeRequested. Who asks is read from the subject."""
        try:
            asker, _, identifier = parse_request(delivery.subject)
        except InvalidInput as error:
            raise Poison(error.message) from error
        event = delivery.event()
        if event.key != identifier:
            raise Poison(f"the subject names {identifier}, the request {event.key}")
        if isinstance(event, SweepSubmitted):
            self._submitted(tx, event, asker)
        elif isinstance(event, SweepStopRequested):
            self._stop(tx, event, asker, delivery.deliveries)
        elif isinstance(event, SweepResumeRequested):
            self._resume(tx, event, asker, delivery.deliveries)
        else:
            raise Poison(f"{delivery.type} is not for the service of sweeps")

    def events(self, tx: Transaction, delivery: Delivery) -> None:
        """EVENTS: experiments that ended, attempts whose records are stored; those that are no trials pass by."""
        if delivery.type not in _HEARD:
            return
        event = delivery.event()
        if not isinstance(event, ExperimentFinished | AttemptSettled):
            return
        sweep = self._of(tx, delivery, event.experiment)
        if sweep is None:
            return
        if isinstance(event, ExperimentFinished):
            finish = Finish(state=event.state, reason=event.reason, message=event.message)
            changed = steps.over(tx, sweep, event.experiment, finish, event.attempts, 0)
        else:
            changed = steps.over(tx, sweep, event.experiment, None, 0, event.attempt)
        if changed is not None:
            self._awake(tx, changed)

    def _of(self, tx: Transaction, delivery: Delivery, experiment: str) -> store.Sweep | None:
        """The sweep of an experiment, if it is of the same project; nobody else's word counts."""
        sweep = store.sweep_of_trial(tx.connection, experiment)
        known = store.load(tx.connection, sweep, write=True) if sweep is not None else None
        if known is not None and known.project != parse_event(delivery.subject)[0]:
            raise Poison(f"{experiment} is not of project {known.project}")
        return known

    def _submitted(self, tx: Transaction, event: SweepSubmitted, asker: Asker) -> None:
        if store.load(tx.connection, event.sweep) is not None:
            return
        said = event.spec.project
        refusal = f"the sweep says project {said!r}, but it was submitted to {asker.project!r}"
        if said == asker.project:
            refusal = ""
        steps.begin(tx, event, asker.project, asker.user, refusal)
        self._awake(tx, event.sweep)

    def _meant(self, tx: Transaction, identifier: str, asker: Asker, deliveries: int) -> store.Sweep | None:
        """The sweep that somebody of its project means."""
        sweep = store.load(tx.connection, identifier, write=True)
        if sweep is None:
            if deliveries < _STOP_PATIENCE:
                raise Early(f"sweep {identifier} is not known yet")
            _log.warning("a request about sweep %s, which nobody has submitted", identifier)
            return None
        if sweep.project != asker.project:
            _log.warning("%s of project %s has no say in sweep %s", asker.user, asker.project, identifier)
            return None
        return sweep

    def _resume(self, tx: Transaction, event: SweepResumeRequested, asker: Asker, deliveries: int) -> None:
        sweep = self._meant(tx, event.sweep, asker, deliveries)
        if sweep is None or sweep.closing is Closing.REFUSED:
            return
        if sweep.closing in ENDS_TRIALS and not sweep.over:
            raise Early(f"sweep {event.sweep} stops just now")
        steps.resume(tx, sweep, event, asker.user)
        self._awake(tx, event.sweep)

    def _stop(self, tx: Transaction, event: SweepStopRequested, asker: Asker, deliveries: int) -> None:
        sweep = self._meant(tx, event.sweep, asker, deliveries)
        if sweep is None or sweep.over or sweep.closing is Closing.STOPPED:
            return
        why = f": {event.reason}" if event.reason else ""
        sweep.message = f"stopped by {asker.user}{why}"
        steps.close(tx, sweep, Closing.STOPPED)
        steps.settle(tx, sweep)
        self._awake(tx, event.sweep)

    def _awake(self, tx: Transaction, sweep: str) -> None:
        tx.after_commit(lambda: self._wake(sweep))
