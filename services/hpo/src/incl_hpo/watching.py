"""Trials that run are looked at when they come to a rung: what they have logged there says whether they go on.

That a trial has come so far is heard from the tracker's live messages, which may be lost; each trial is therefore also
looked at now and then. What it logged is asked of the tracker, which has every point: nothing that was heard counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from incl_hpo import steps
from incl_hpo.domain.pruning import next_rung, rungs_of
from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.events import TrialState
from incl_shared.queries.tracker import GetPoints, Points

if TYPE_CHECKING:
    from incl_hpo.domain.trial import Trial
    from incl_hpo.store import Sweep
    from incl_shared.clock import Clock
    from incl_shared.db import Database

UNHEARD_S = 60.0
"""So often a trial is looked at of which nothing is heard; at once when the service begins."""


class PointSource(Protocol):
    """Who knows what an experiment logged."""

    async def points(self, project: str, query: GetPoints) -> Points:
        """A page of points.

        Raises:
            InclError: it cannot say now; NotFoundError, InvalidInput: there is no such experiment or metric (yet).
        """
        ...


class Watch:
    """The running trials of all sweeps that stop early. wake: called with a sweep one of whose trials may be judged."""

    def __init__(self, database: Database, source: PointSource, clock: Clock, wake: Callable[[str], None]) -> None:
        self._database, self._source, self._clock, self._wake = database, source, clock, wake
        self._awaited: dict[str, tuple[str, str, int]] = {}
        """Experiment -> (sweep, metric, rung)."""
        self._come: set[str] = set()
        self._looked: dict[str, float] = {}

    async def heard(self, subject: str, payload: bytes, headers: object) -> None:
        """A live message."""
        experiment = subject.rpartition(".")[2]
        awaited = self._awaited.get(experiment)
        if awaited is None or b'"metrics"' not in payload:
            return
        sweep, metric, rung = awaited
        try:
            step = json.loads(payload)["values"][metric][0]
        except (ValueError, KeyError, TypeError, IndexError):
            return
        if isinstance(step, int) and step >= rung:
            self._come.add(experiment)
            self._wake(sweep)

    async def look(self, sweep: Sweep, trials: Sequence[Trial]) -> bool:
        """Judge those that have come to a rung; whether one was judged."""
        rungs = rungs_of(sweep.spec.early_stopping, sweep.longest)
        judged = False
        for trial in trials:
            rung = next_rung(rungs, trial.rung)
            if trial.state is not TrialState.RUNNING or trial.over is not None or trial.pruned or rung is None:
                self.forget(trial.experiment)
                continue
            self._awaited[trial.experiment] = (sweep.id, sweep.spec.objective[0].metric, rung)
            if self._due(trial.experiment):
                judged |= await self._judge(sweep, trial, rungs, rung)
        return judged

    def forget(self, experiment: str) -> None:
        """It is over, or needs no more judging."""
        self._awaited.pop(experiment, None)
        self._looked.pop(experiment, None)
        self._come.discard(experiment)

    def _due(self, experiment: str) -> bool:
        now = self._clock.monotonic()
        due = experiment in self._come or now - self._looked.get(experiment, -UNHEARD_S) >= UNHEARD_S
        if due:
            self._looked[experiment] = now
            self._come.discard(experiment)
        return due

    async def _judge(self, sweep: Sweep, trial: Trial, rungs: Sequence[int], rung: int | None) -> bool:
        """Rung after rung, as far as it has come."""
        judged = False
        metric = sweep.spec.objective[0].metric
        while rung is not None:
            query = GetPoints(experiment=trial.experiment, metric=metric, from_step=rung, limit=1)
            try:
                page = await self._source.points(sweep.project, query)
            except (NotFoundError, InvalidInput):
                return judged
            if not page.steps or (sweep.longest and page.steps[0] >= sweep.longest):
                return judged  # it has not come so far, or is at its end anyway
            step, value = page.steps[0], float(page.values[0])
            at = rung
            kept = await self._database.write(
                lambda tx: steps.judge(tx, sweep.id, trial.number, at, step, value)  # noqa: B023
            )
            judged = True
            rung = next_rung(rungs, rung) if kept else None
            if rung is not None:
                self._awaited[trial.experiment] = (sweep.id, metric, rung)
        return judged
