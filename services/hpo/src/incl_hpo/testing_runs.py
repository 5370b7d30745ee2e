"""Provisioner and tracker as a sweep sees them, without machines: trials that are submitted end as a script says."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.bus.runtime import Bus
from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.events import AttemptSettled, Event, ExperimentFinished, ExperimentSubmitted, StopRequested
from incl_shared.events.base import REGISTER
from incl_shared.queries.tracker import GetPoints, ListMetrics, Live, MetricPage, MetricSummary, Points
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import Asker
from incl_shared.sweep import SweepSpec


@dataclass(frozen=True)
class Ran:
    """How a trial's experiment ends. logged: last values by metric; best: by the goal, where it is another one."""

    logged: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    state: ExperimentState = ExperimentState.FINISHED
    reason: EndReason = EndReason.COMPLETED
    message: str = ""
    attempts: int = 1


FAILED = Ran(state=ExperimentState.FAILED, reason=EndReason.ERROR, message="exit code 1")
LOST = Ran(state=ExperimentState.FAILED, reason=EndReason.PREEMPTED, message="preempted 3 times", attempts=3)
STOPPED = Ran(state=ExperimentState.STOPPED, reason=EndReason.STOPPED, message="stopped by ann")
Script = Callable[[ExperimentSubmitted], Ran | None]
"""What becomes of a trial; none: it runs until `end` is called."""


class ScriptedRuns:
    """Takes what is submitted (each experiment once), and ends it. `start` once, `stop` once."""

    def __init__(self, client: BusClient, bus: Bus, script: Script) -> None:
        self._client, self.script = client, script
        self.submitted: dict[str, ExperimentSubmitted] = {}
        self.askers: dict[str, Asker] = {}
        self.differing: list[str] = []
        """Experiments that were submitted again with other content: there must be none."""
        self.stops: list[str] = []
        self.events: list[Event] = []
        self._seen: set[str] = set()
        self._ended: dict[str, Ran] = {}
        self._told: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.curves: dict[str, list[tuple[int, float]]] = {}
        """(step, value) of `loss` that were logged so far, by experiment."""
        bus.serve(ListMetrics, self._metrics)
        bus.serve(GetPoints, self._points)

    async def start(self) -> None:
        """Listen."""
        await self._client.subscribe("incl.request.*.*.experiment.*", self._submit)
        await self._client.subscribe("incl.request.*.*.stop.*", self._stop)
        await self._client.subscribe("incl.event.*.sweep.*", self._event)

    async def stop(self) -> None:
        """No more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def running(self) -> list[str]:
        """Experiments that have no end, in the order of their coming."""
        return [one for one in self.submitted if one not in self._ended]

    def trials(self) -> list[ExperimentSubmitted]:
        """By number."""
        return sorted(self.submitted.values(), key=lambda event: (event.provenance.sweep, event.provenance.trial))

    async def end(self, experiment: str, ran: Ran, *, settle: bool = True) -> None:
        """An experiment ends. settle: its records are all stored at once."""
        self._ended[experiment] = ran
        project = self.askers[experiment].project
        finished = ExperimentFinished(
            experiment=experiment, state=ran.state, reason=ran.reason, message=ran.message, attempts=ran.attempts
        )
        await self._client.publish_event(finished, project=project, version=5)
        if settle and ran.attempts:
            await self.settle(experiment, ran.attempts)

    async def log(self, experiment: str, step: int, value: float, *, live: bool = True) -> None:
        """A running experiment logs `loss`. live: and the tracker tells of it."""
        self.curves.setdefault(experiment, []).append((step, value))
        if live:
            said = Live(kind="metrics", experiment=experiment, values={"loss": [step, value]}, points=1)
            subject = subjects.live(self.askers[experiment].project, experiment)
            await self._client.publish_live(subject, said.model_dump_json().encode())

    async def settle(self, experiment: str, attempt: int) -> None:
        """The records of an attempt are all stored."""
        settled = AttemptSettled(experiment=experiment, attempt=attempt, points=1, lines=0, gaps=0)
        await self._client.publish_event(settled, project=self.askers[experiment].project, version=attempt)

    async def _submit(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        event = ExperimentSubmitted.read(payload)
        assert isinstance(event, ExperimentSubmitted)
        known = self.submitted.get(event.experiment)
        if known is not None:
            if known != event:
                self.differing.append(event.experiment)
            return
        self.submitted[event.experiment] = event
        self.askers[event.experiment] = subjects.parse_request(subject)[0]
        ran = self.script(event)
        if ran is not None:
            self.end_soon(event.experiment, ran)

    def end_soon(self, experiment: str, ran: Ran) -> None:
        """As `end`, without waiting for it. In the event loop."""
        task = asyncio.create_task(self.end(experiment, ran))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        event = StopRequested.read(payload)
        assert isinstance(event, StopRequested)
        if event.experiment not in self.stops:
            self.stops.append(event.experiment)
            if event.experiment in self.running:
                curve = self.curves.get(event.experiment)
                logged = {"loss": max(curve)[1]} if curve else {}
                self.end_soon(event.experiment, replace(STOPPED, logged=logged))

    async def _event(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        if headers["ce-id"] not in self._seen:
            self._seen.add(headers["ce-id"])
            self.events.append(REGISTER[headers["ce-type"]].read(payload))

    def _step(self, experiment: str) -> int:
        return max((step for step, _ in self.curves.get(experiment, ())), default=1)

    async def _points(self, asker: Asker, query: GetPoints) -> Points:
        known = self.curves.get(query.experiment)
        if known is None or query.metric != "loss":
            raise InvalidInput(f"no metric {query.metric!r}")
        page = [point for point in sorted(known) if point[0] >= (query.from_step or 0)][: query.limit]
        return Points(
            experiment=query.experiment, metric="loss", rank=0, steps=tuple(step for step, _ in page),
            times=tuple(0.0 for _ in page), values=tuple(value for _, value in page),
        )  # fmt: skip

    async def _metrics(self, asker: Asker, query: ListMetrics) -> MetricPage:
        if query.experiment not in self.submitted:
            raise NotFoundError("no such experiment")
        ran = self._ended.get(query.experiment, Ran())
        goals = self.submitted[query.experiment].spec.metrics
        found = [
            MetricSummary(
                name=name, last=last, last_step=self._step(query.experiment),
                minimum=None, maximum=None, goal=goals.get(name), points=1,
                best=ran.best.get(name, last if math.isfinite(last) else None),
            )
            for name, last in sorted(ran.logged.items())
            if query.contains in name
        ]  # fmt: skip
        return MetricPage(metrics=tuple(found))


def quadratic(event: ExperimentSubmitted) -> Ran:
    """(X - 0.3)^2 + (Y + 1)^2 as `loss`."""
    x, y = float(event.spec.env["X"]), float(event.spec.env["Y"])
    return Ran({"loss": (x - 0.3) ** 2 + (y + 1.0) ** 2})


def sweep_spec(**changes: object) -> SweepSpec:
    """A sweep of two numbers."""
    values: dict[str, object] = {
        "name": "quadratic",
        "experiment": {"command": ["python", "train.py"], "env": {"EPOCHS": "3"}},
        "parameters": {
            "X": {"type": "uniform", "low": -2, "high": 2},
            "Y": {"type": "uniform", "low": -2, "high": 2},
        },
        "objective": {"metric": "loss", "goal": "min"},
        "budget": {"trials": 12},
        "parallel": 4,
        **changes,
    }
    return SweepSpec.model_validate(values)
