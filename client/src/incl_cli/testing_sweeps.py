"""The service of sweeps in memory, for tests of the commands: `FakeSweeps(fake)` answers in a FakePlatform."""

from __future__ import annotations

import time
from typing import Any

from incl_cli.testing import FakePlatform
from incl_shared.errors import NotFoundError
from incl_shared.events.sweeps import SweepResumeRequested, SweepState, SweepStopRequested, SweepSubmitted, TrialState
from incl_shared.ids import derived_id, new_id
from incl_shared.queries.hpo import (
    AlgorithmChecked,
    CheckAlgorithm,
    GetSweep,
    ListSweeps,
    ListTrials,
    SweepPage,
    SweepRow,
    SweepView,
    TrialPage,
    TrialView,
)
from incl_shared.sweep import Point, SweepSpec


class FakeSweeps:
    """Sweeps that are there. script: what becomes of one that is submitted, view after view as it is asked for."""

    def __init__(self, fake: FakePlatform) -> None:
        self.fake = fake
        self.views: dict[str, SweepView] = {}
        self.trials: dict[str, list[TrialView]] = {}
        self.values: list[float] = []
        """Of the trials of a sweep that is submitted: each question after it shows one more."""
        self.end = SweepState.FINISHED
        fake.more |= {ListSweeps: self._list, GetSweep: self._get, ListTrials: self._list_trials}
        fake.more[CheckAlgorithm] = lambda query: AlgorithmChecked()

    def add(self, spec: SweepSpec, identifier: str | None = None, **row: Any) -> str:
        """A sweep that is there."""
        sweep = identifier or new_id()
        values: dict[str, Any] = {
            "id": sweep, "name": spec.name or "sweep", "project": "default", "user": "ada",
            "state": SweepState.RUNNING, "created": time.time(), "budget": spec.most, "trials": 0,
            "algorithm": spec.algorithm.name, "metrics": tuple(one.metric for one in spec.objective), **row,
        }  # fmt: skip
        self.views[sweep] = SweepView(row=SweepRow(**values), version=1, spec=spec)
        self.trials[sweep] = []
        return sweep

    def tried(self, sweep: str, point: Point, *values: float, **fields: Any) -> TrialView:
        """A trial that is over."""
        known = self.trials[sweep]
        now = time.time()
        trial = TrialView(
            **{
                "trial": len(known), "experiment": derived_id(sweep, len(known)), "state": TrialState.COMPLETE,
                "parameters": point, "values": values, "asked": now, "ended": now, "attempts": 1, **fields,
            }
        )  # fmt: skip
        known.append(trial)
        self._renew(sweep)
        return trial

    def ends(self, sweep: str, state: SweepState, **row: Any) -> None:
        """It is over."""
        self._renew(sweep, state=state, ended=time.time(), **row)

    def _renew(self, sweep: str, **row: Any) -> None:
        view, trials = self.views[sweep], self.trials[sweep]
        counts = {state: sum(trial.state is state for trial in trials) for state in {t.state for t in trials}}
        goal = view.spec.objective[0].goal
        complete = sorted(
            (trial for trial in trials if trial.values),
            key=lambda trial: -trial.values[0] if goal == "max" else trial.values[0],
        )
        best = complete[0] if complete else None
        new = view.row.model_copy(update={"counts": counts, "trials": len(trials), "best": best, **row})
        self.views[sweep] = view.model_copy(
            update={
                "row": new, "version": view.version + 1, "best": tuple(complete[:1]),
                "recent": tuple(reversed([trial for trial in trials if trial.ended is not None]))[:10],
                "running": tuple(trial for trial in trials if trial.ended is None),
            }
        )  # fmt: skip

    def _list(self, query: ListSweeps) -> SweepPage:
        rows = sorted((view.row for view in self.views.values()), key=lambda row: -row.created)
        wanted = [row for row in rows if not query.running or row.ended is None]
        start = int(query.cursor or 0)
        end = start + min(query.limit, self.fake.page)
        return SweepPage(rows=tuple(wanted[start:end]), cursor=str(end) if end < len(wanted) else None)

    def _get(self, query: GetSweep) -> SweepView:
        self._go_on()
        found = [
            view
            for view in self.views.values()
            if query.ref == "@last" or view.row.name == query.ref or view.row.id.endswith(query.ref)
        ]
        if not found:
            raise NotFoundError(f"no sweep {query.ref!r} in project 'default'", hint="incl sweep ls lists them")
        return found[-1]

    def _go_on(self) -> None:
        """What was published takes effect; a submitted sweep goes a trial further."""
        for event, _ in list(self.fake.published):
            if isinstance(event, SweepSubmitted) and event.sweep not in self.views:
                self.add(event.spec, event.sweep)
            elif isinstance(event, SweepSubmitted) and self.views[event.sweep].row.ended is None:
                if self.values:
                    self.tried(event.sweep, dict.fromkeys(event.spec.parameters, 0.5), self.values.pop(0))
                else:
                    self.ends(event.sweep, self.end, message="it is over")
            elif isinstance(event, SweepResumeRequested):
                self.fake.published.remove((event, _))
                self._renew(event.sweep, state=SweepState.FINISHED, ended=time.time(), message="it went on")
            elif isinstance(event, SweepStopRequested) and self.views[event.sweep].row.ended is None:
                self.ends(event.sweep, SweepState.STOPPED)

    def _list_trials(self, query: ListTrials) -> TrialPage:
        trials = [one for one in self.trials[query.sweep] if query.state in (None, one.state)]
        if query.sort == "value":
            trials.sort(key=lambda one: (not one.values, one.values))
        end = query.cursor + min(query.limit, self.fake.page)
        return TrialPage(trials=tuple(trials[query.cursor : end]), cursor=end if end < len(trials) else None)
