"""A round: experiments held at every phase, one fault of one victim, all let go, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from incl_local.aftermath import gather
from incl_local.chaos import job
from incl_local.chaos.gates import Gate
from incl_local.chaos.ledger import read
from incl_local.chaos.phases import PHASES, WITH_PROCESS, Held, Stage, begin
from incl_local.chaos.victims import Chaos, Fault, freeze_for
from incl_local.place import PROJECT, local_user
from incl_shared.bus.client import BusClient
from incl_shared.errors import InclError
from incl_shared.queries.tracker import ExperimentView, GetExperiment, GetPoints
from incl_shared.states import FINAL_STATES, ExperimentState
from incl_shared.testing.invariants import Evidence, Submitted, collect

RECOVERED_S = 60.0
"""The longest that is waited for the work to go on; what is right is less."""
OVER_S = 90.0
_LOOK_S = 0.15


@dataclass(frozen=True)
class Blow:
    """One fault. seconds: how long a victim stands; phases: at which experiments are held; moment: seconds after all of
    them are seen to be there."""

    victim: str
    fault: Fault
    seconds: float = 0.0
    phases: tuple[str, ...] = PHASES
    moment: float = 0.0

    def __str__(self) -> str:
        """Like `freeze tracker 60 s`."""
        return f"{self.fault} {self.victim}" + (f" {self.seconds:g} s" if self.seconds else "")


@dataclass
class Outcome:
    """What came of a round. recovery: by phase, s from the fault (or the victim's return) to the next of its work."""

    blow: Blow
    recovery: dict[str, float] = field(default_factory=dict)
    evidence: Evidence = field(default_factory=Evidence)


class Round:
    """One round on a platform that runs. `run` does all of it."""

    def __init__(self, chaos: Chaos, gate: Gate, folder: Path) -> None:
        self.chaos = chaos
        self.stage = Stage(chaos, gate, folder)

    async def run(self, blow: Blow) -> Outcome:
        """Hold, strike, let go, wait for the end; with the evidence of all of it.

        Raises:
            AssertionError: something was not seen in time.
        """
        outcome = Outcome(blow)
        try:
            await asyncio.to_thread(begin, self.stage, blow.phases)
            since = await asyncio.to_thread(self._strike, blow)
            async with self._person() as person:
                await self._recover(person, since, outcome)
                await self._over(person)
                outcome.evidence = await self._gather(person, blow)
        except AssertionError:
            await asyncio.to_thread(self._stop_all)
            raise
        finally:
            await asyncio.to_thread(self.stage.close)
        return outcome

    def _stop_all(self) -> None:
        """The next round is to begin on a platform that is empty, whatever came of this one."""
        self.stage.let_go()
        for held in self.stage.held.values():
            self.chaos.home.incl("stop", held.experiment)

    def _strike(self, blow: Blow) -> float:
        """Do it; from when on (monotonic) the work may be expected to go on."""
        targets = [""]
        if blow.victim in ("shim", "job"):
            held = [self.stage.held[phase] for phase in blow.phases if phase in WITH_PROCESS]
            targets = [each.experiment for each in held]
        freeze_for(blow.moment)
        since = time.monotonic()
        if blow.fault is Fault.FREEZE:
            with contextlib.ExitStack() as frozen:
                for target in targets:
                    frozen.enter_context(self.chaos.frozen(blow.victim, target))
                freeze_for(blow.seconds)
            since = time.monotonic()
        elif blow.fault is Fault.RESTART:
            self.chaos.restart(blow.victim)
            since = time.monotonic()
        else:
            for target in targets:
                self.chaos.kill(blow.victim, target)
            if blow.victim in ("platform", "postgres"):
                since = time.monotonic()
        self.stage.let_go()
        return since

    @contextlib.asynccontextmanager
    async def _person(self) -> AsyncIterator[collect.Person]:
        async with await BusClient.connect(self.chaos.place.bus("user"), timeout=30, patient=True) as client:
            yield collect.Person(client, PROJECT, local_user())

    async def _recover(self, person: collect.Person, since: float, outcome: Outcome) -> None:
        """Wait, for every phase, until its work has gone on."""
        left = dict(self.stage.held)
        deadline = time.monotonic() + RECOVERED_S
        while left:
            for phase, held in list(left.items()):
                if await _went_on(person, held, since):
                    outcome.recovery[phase] = round(time.monotonic() - since, 3)
                    del left[phase]
            self.stage.no_client_failed()
            assert time.monotonic() < deadline, f"{outcome.blow}: no work within {RECOVERED_S:g} s: {', '.join(left)}"
            await asyncio.sleep(_LOOK_S)

    async def _over(self, person: collect.Person) -> None:
        """Until all have their end, and are settled."""
        deadline = time.monotonic() + OVER_S
        for held in self.stage.held.values():
            while not (view := await _view(person, held)) or not (view.settled and view.row.state in FINAL_STATES):
                state = "unknown" if view is None else f"{view.row.state}, settled: {view.settled}"
                assert time.monotonic() < deadline, f"{held.phase} {held.experiment} is {state}"
                await asyncio.sleep(_LOOK_S)
        if "packing" in self.stage.held:
            await asyncio.to_thread(self.stage.submitted, self.stage.held["packing"])

    async def _gather(self, person: collect.Person, blow: Blow) -> Evidence:
        held = list(self.stage.held.values())
        books = read(self.stage.folder / "ledger")
        stored = [
            each
            for one in held
            for each in await collect.stored(person, one.experiment, {book.attempt for book in one.books()})
        ]
        return replace(
            await gather(self.chaos.place, {one.experiment for one in held}),
            submitted=tuple(_submitted(one, blow) for one in held),
            ran=tuple(book.ran() for book in books),
            logged=tuple(logged for book in books for logged in book.logged()),
            stored=tuple(stored),
        )


def _submitted(held: Held, blow: Blow) -> Submitted:
    """What is right: a fault of the platform costs no attempt and no record; that of a job costs the attempt."""
    hit = blow.victim in ("shim", "job") and blow.fault is not Fault.FREEZE and held.phase in WITH_PROCESS
    attempts = 2 if hit and held.phase != "ending" else 1
    return Submitted(held.experiment, held.right, attempts=attempts, lossless=not hit)


def allow_attempts(evidence: Evidence, attempts: int) -> Evidence:
    """The same, where a fault was longer than the node's lease: it may cost an attempt."""
    submitted = tuple(replace(each, attempts=attempts) for each in evidence.submitted)
    return replace(evidence, submitted=submitted)


async def _view(person: collect.Person, held: Held) -> ExperimentView | None:
    """What the tracker says; None while it cannot, or does not know the experiment."""
    try:
        return await person.client.ask(
            GetExperiment(ref=held.experiment), project=person.project, user=person.user, timeout=2.0
        )
    except InclError:
        return None


async def _went_on(person: collect.Person, held: Held, since: float) -> bool:
    """Whether the tracker shows the next of this experiment's work."""
    view = await _view(person, held)
    if view is None:
        return False
    return await _NEXT.get(held.phase, _logged)(person, held, view, since)


async def _known(_person: collect.Person, _held: Held, _view: ExperimentView, _since: float) -> bool:
    return True


async def _started(_person: collect.Person, _held: Held, view: ExperimentView, _since: float) -> bool:
    return view.row.started is not None


async def _kept(_person: collect.Person, _held: Held, view: ExperimentView, _since: float) -> bool:
    return any(
        artifact.kind == "checkpoint" and artifact.size == job.CHECKPOINT_BYTES for artifact in view.artifacts
    ) or (view.row.state is ExperimentState.FINISHED)


async def _final(_person: collect.Person, _held: Held, view: ExperimentView, _since: float) -> bool:
    return view.row.state in FINAL_STATES


async def _logged(person: collect.Person, held: Held, view: ExperimentView, since: float) -> bool:
    """A point that was logged after the moment is stored."""
    for book in held.books():
        step = book.first_after(since)
        if step is None:
            continue
        query = GetPoints(
            experiment=held.experiment, metric="loss", attempt=book.attempt, rank=0, from_step=step, limit=1
        )
        with contextlib.suppress(InclError):
            page = await person.client.ask(query, project=person.project, user=person.user, timeout=2.0)
            if page.steps:
                return True
    return view.row.state in FINAL_STATES


_Look = Callable[[collect.Person, Held, ExperimentView, float], Awaitable[bool]]
_NEXT: dict[str, _Look] = {
    "packing": _known,
    "queued": _started,
    "unpacking": _started,
    "checkpointing": _kept,
    "uploading": _final,
    "ending": _final,
}
"""What shows that the work of a phase has gone on; otherwise: a point that was logged after the fault."""


def worst(outcomes: Sequence[Outcome]) -> float:
    """The longest recovery of all."""
    return max((seconds for outcome in outcomes for seconds in outcome.recovery.values()), default=0.0)
