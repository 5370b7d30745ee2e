"""What drives the sweeps: one task for each that is not over, which looks at what is and does what is missing.

Everything is read from the database again after a start: whatever was not committed is done again, whatever was is not.
A task learns from the trials that ended (the tracker says what they logged), and asks for as many points as there is
room for. Several services on one database do no harm: a step that another one did first changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import sqlalchemy as sa

from incl_hpo import steps, store
from incl_hpo.costs import Provisioner, Purse
from incl_hpo.domain import ending
from incl_hpo.domain.learning import Learned, Told, known
from incl_hpo.domain.question import question
from incl_hpo.domain.spending import spending
from incl_hpo.domain.trial import OVER, Finish, Outcome, Trial, outcome
from incl_hpo.metrics import HpoMetrics
from incl_hpo.pool import WorkerPool
from incl_hpo.settings import HpoSettings
from incl_hpo.steps import Proposed
from incl_hpo.store import Sweep
from incl_hpo.watching import PointSource, Watch
from incl_shared.clock import Clock
from incl_shared.db import Database, Transaction
from incl_shared.errors import InclError, NotFoundError
from incl_shared.events import TrialState
from incl_shared.queries.tracker import ListMetrics, MetricPage, MetricSummary
from incl_shared.sweep import SweepSpec
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.hpo")
_AT_ONCE = 16
"""Trials that are asked about at once."""
_VALUE_PATIENCE_S = 10.0
"""So long a trial that is over keeps its place while its records are waited for, so that the next point knows them."""
_METRICS = 1000
_TURN_S = 0.05
"""So long a question is worked on while others wait: what it has not come to is asked again, behind them."""


class Tracker(PointSource, Protocol):
    """Who knows what an experiment logged."""

    async def metrics(self, project: str, query: ListMetrics) -> MetricPage:
        """A page of summaries.

        Raises:
            InclError: it cannot say now; NotFoundError: there is no such experiment (any more).
        """
        ...


class Book:
    """The trials of a sweep in memory, brought up to date by what changed."""

    def __init__(self) -> None:
        self.learned: Learned | None = None
        """Of all trials; none: nothing was asked yet."""
        self.trials: dict[int, Trial] = {}
        self.live: dict[int, Trial] = {}
        """Those that are not over."""
        self.revision = 0
        self.earlier: tuple[Told, ...] | None = None
        """What other sweeps have taught; none: it was not read yet."""

    def update(self, revision: int, changed: Sequence[Trial]) -> None:
        """Take over what changed up to a revision."""
        for trial in changed:
            self.trials[trial.number] = trial
            if self.learned is not None:
                self.learned.note(trial)
            if trial.state in OVER:
                self.live.pop(trial.number, None)
            else:
                self.live[trial.number] = trial
        self.revision = revision

    def teach(self, spec: SweepSpec) -> Learned:
        """What is learned from the trials so far."""
        if self.learned is None:
            self.learned = Learned(spec)
            for trial in self.trials.values():
                self.learned.note(trial)
        return self.learned

    def of(self, state: TrialState) -> list[Trial]:
        """Those that are running, or ended, by number."""
        return sorted((trial for trial in self.live.values() if trial.state is state), key=lambda trial: trial.number)


class Conductor:
    """All sweeps that are not over. `start` once, `stop` once; `wake` says that a sweep has changed."""

    def __init__(
        self,
        settings: HpoSettings,
        database: Database,
        tracker: Tracker,
        provisioner: Provisioner,
        pool: WorkerPool,
        clock: Clock,
        metrics: HpoMetrics,
    ) -> None:
        self._settings, self._database, self._tracker, self._pool = settings, database, tracker, pool
        self._clock, self._metrics = clock, metrics
        self._purse = Purse(database, provisioner, clock, settings.costs_every_s)
        self.watch = Watch(database, tracker, clock, self.wake)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self.troubles: dict[str, tuple[float, str]] = {}
        """Sweeps whose steps fail: since when (monotonic), and why."""
        self._running = False

    async def start(self) -> None:
        """Go on with every sweep that is not over."""
        self._running = True
        for sweep in await self._database.read(store.live_sweeps):
            self.wake(sweep)

    async def stop(self) -> None:
        """Do no more."""
        self._running = False
        await end_all(self._tasks.values())

    def wake(self, sweep: str) -> None:
        """Look at a sweep. In the event loop."""
        if not self._running:
            return
        self._changed.setdefault(sweep, asyncio.Event()).set()
        if sweep not in self._tasks:
            task = asyncio.create_task(self._conduct(sweep), name=f"sweep-{sweep}")
            self._tasks[sweep] = task
            task.add_done_callback(lambda _: self._forget(sweep, task))

    def _forget(self, sweep: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(sweep) is task:
            del self._tasks[sweep]
            self._changed.pop(sweep, None)
            self.troubles.pop(sweep, None)

    async def _conduct(self, identifier: str) -> None:
        book, changed = Book(), self._changed[identifier]
        while True:
            changed.clear()
            try:
                if await self._step(identifier, book):
                    return
            except Exception as error:  # noqa: BLE001 - the edge of a sweep's loop
                self._note(identifier, error)
                await asyncio.sleep(self._settings.pause_s)
                continue
            self.troubles.pop(identifier, None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.tick_s):
                    await changed.wait()

    def _note(self, sweep: str, error: Exception) -> None:
        self._metrics.failed_steps.inc()
        why = f"{error.message}: {error.cause}" if isinstance(error, InclError) else repr(error)
        since, before = self.troubles.get(sweep, (self._clock.monotonic(), ""))
        self.troubles[sweep] = (since, why)
        if why != before:
            expected = isinstance(error, InclError)
            _log.warning("a step of sweep %s failed: %s", sweep, why, exc_info=None if expected else error)

    async def _step(self, identifier: str, book: Book) -> bool:
        """Do what can be done now; True: the sweep is over."""
        sweep = await self._refresh(identifier, book)
        if sweep is None or sweep.over:
            return True
        if await self._await_no_more(sweep, book) or await self._learn(sweep, book):
            sweep = await self._refresh(identifier, book)
        if sweep is not None and not sweep.over and await self._purse.look(sweep, book.trials.values()):
            sweep = await self._refresh(identifier, book)
        if sweep is None or sweep.over:
            self._purse.forget(identifier)
            return True
        if not sweep.closing and ending.closing_of(sweep.spec, sweep.asked, 0, 1, self._clock.now() - sweep.created):
            await self._database.write(lambda tx: steps.see(tx, identifier))
            self.wake(identifier)
        elif not sweep.closing:
            await self._suggest(sweep, book)
        if sweep.spec.stops_early and sweep.closing not in ending.ENDS_TRIALS:
            await self.watch.look(sweep, list(book.live.values()))
        return False

    async def _refresh(self, identifier: str, book: Book) -> Sweep | None:
        def read(connection: sa.Connection) -> tuple[Sweep | None, list[Trial]]:
            found = store.load(connection, identifier)
            return found, store.changed_trials(connection, identifier, book.revision)

        sweep, changed = await self._database.read(read)
        if sweep is not None:
            book.update(sweep.revision, changed)
        return sweep

    # --- learning

    async def _await_no_more(self, sweep: Sweep, book: Book) -> bool:
        late = self._clock.now() - self._settings.records_wait_s
        numbers = [t.number for t in book.of(TrialState.RUNNING) if t.over is not None and t.over < late]
        if numbers:
            await self._database.write(lambda tx: steps.give_up_waiting(tx, sweep.id, numbers))
            await self._refresh(sweep.id, book)
        return bool(numbers)

    async def _learn(self, sweep: Sweep, book: Book) -> bool:
        """Ask what the trials that ended have logged, and note it; in the order of their numbers."""
        ended = book.of(TrialState.ENDED)
        for place in range(0, len(ended), _AT_ONCE):
            some = ended[place : place + _AT_ONCE]
            found = await asyncio.gather(*(self._outcome(sweep, trial) for trial in some))

            def note(tx: Transaction, some: list[Trial] = some, found: list[Outcome] = found) -> None:
                for trial, what in zip(some, found, strict=True):
                    steps.learn(tx, sweep.id, trial.number, what)

            await self._database.write(note)
            for what in found:
                self._metrics.trials.labels("hpo", what.state.value).inc()
        return bool(ended)

    async def _outcome(self, sweep: Sweep, trial: Trial) -> Outcome:
        spec, finish = sweep.spec, trial.finish
        assert isinstance(finish, Finish)
        logged: dict[str, MetricSummary] = {}
        for name in (*(one.metric for one in spec.objective), *spec.constraints):
            query = ListMetrics(experiment=trial.experiment, contains=name, limit=_METRICS)
            try:
                page = await self._tracker.metrics(sweep.project, query)
            except NotFoundError:
                break  # it was deleted, or has never been there
            logged.update((one.name, one) for one in page.metrics if one.name == name)
        self.watch.forget(trial.experiment)
        return outcome(spec, finish, logged, pruned=trial.pruned)

    # --- suggesting

    async def _suggest(self, sweep: Sweep, book: Book) -> None:
        """As many trials as there is room for, in a few at a time, so that the first ones begin."""
        room = self._room(sweep, book)
        while room > 0:
            proposed = await self._propose(sweep, book, min(room, self._settings.batch))
            identifier, expected = sweep.id, sweep.asked
            saved = await self._database.write(
                partial(steps.suggest, sweep_id=identifier, expected=expected, found=proposed)
            )
            found = await self._refresh(identifier, book)
            if not saved or found is None or found.closing:
                self.wake(identifier)
                return
            sweep, room = found, self._room(found, book)

    def _room(self, sweep: Sweep, book: Book) -> int:
        """How many trials may begin: those whose machines are free and whose records come late give up their place."""
        if sweep.closing:
            return 0
        late = self._clock.now() - _VALUE_PATIENCE_S
        kept = sum(trial.over is None or trial.over > late for trial in book.live.values())
        room = min(sweep.spec.parallel - kept, sweep.spec.most - sweep.asked)
        money = sweep.spec.budget.money
        affordable = spending(book.trials.values()).room(money) if money is not None else None
        return room if affordable is None else min(room, affordable)

    async def _propose(self, sweep: Sweep, book: Book, count: int) -> Proposed:
        spec = sweep.spec
        first = spec.initial[sweep.asked : sweep.asked + count]
        if first:
            return Proposed(first)
        if book.earlier is None:
            book.earlier = await self._database.read(lambda connection: _earlier(connection, sweep))
        with self._metrics.propose.labels("hpo").time():
            asked = partial(question, spec, book.trials.values(), book.teach(spec), book.earlier, count, _TURN_S)
            answer = await self._pool.ask(asked, sweep.user)
        memos = tuple(answer["memos"])
        refused = ": ".join(filter(None, (answer["refused"], answer["cause"])))
        return Proposed(tuple(answer["points"]), answer["exhausted"], refused, memos, answer["hint"])


def _earlier(connection: sa.Connection, sweep: Sweep) -> tuple[Told, ...]:
    """What the sweeps taught that this one begins with: those of its project, with the same objectives."""
    found: list[Told] = []
    for identifier in sweep.spec.warm_start:
        other = store.load(connection, identifier)
        if other is None or other.project != sweep.project or other.spec.objective != sweep.spec.objective:
            _log.warning("sweep %s cannot begin with what %s taught", sweep.id, identifier)
            continue
        found += known(other.spec, store.changed_trials(connection, identifier, -1)).history
    return tuple(found)
