"""The scheduler's loop: one owner at a time by a fenced lease, woken by commits and by time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from incl_provisioner import passes, store, store_times, unread
from incl_provisioner.backends import Backend
from incl_provisioner.cloud.loop import CloudLoop
from incl_provisioner.control import ControlBus, Publisher
from incl_provisioner.domain.liveness import Watch
from incl_provisioner.domain.quotas import Quotas
from incl_provisioner.domain.retry import LONGEST_S
from incl_provisioner.domain.scheduler import Policy
from incl_provisioner.metrics import ProvisionerMetrics
from incl_provisioner.model import Model
from incl_provisioner.passes import Outcome
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.work import Work
from incl_shared import leases
from incl_shared.clock import Clock
from incl_shared.db import Database, DatabaseUnavailable, Transaction
from incl_shared.errors import InclError
from incl_shared.leases import Lease, LeaseLost
from incl_shared.tasks import end_all, within

_log = logging.getLogger("incl.provisioner")
LEASE = "scheduler"
_PAUSED_TICKS = 5
_NODES_EVERY = 1.0
_JUMP_S = 2.0
"""By so much the clock differs from the steady one in a moment only when somebody set it."""

_COUNT_EVERY = 5.0
_SILENT_PART = 3
"""A machine that said nothing for this part of its lease is silent."""


class Reconciler:
    """Runs the passes. `start`, `wake` whenever something was committed, `stop`."""

    def __init__(
        self,
        settings: ProvisionerSettings,
        database: Database,
        bus: ControlBus,
        backend: Backend,
        metrics: ProvisionerMetrics,
        *,
        clock: Clock,
        healthy: Callable[[], bool],
        holder: str,
        quotas: Quotas | None = None,
        cloud: CloudLoop | None = None,
    ) -> None:
        self._cloud = cloud
        self._settings = settings
        self._database = database
        self._bus = bus
        self._backend = backend
        self._metrics = metrics
        self._clock = clock
        self._healthy = healthy
        self._holder = holder
        self._quotas = quotas
        self._policy = Policy(settings.patience_s, settings.max_passes, settings.aging_s, settings.spread)
        self._watch = Watch(settings.node_lease_s, max(_PAUSED_TICKS * settings.tick_s, 1.0))
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._lease: Lease | None = None
        self._reconnected = False
        self._publisher: Publisher | None = None
        self._model: Model | None = None
        self._nodes_read = 0.0
        self._ahead: float | None = None
        """Of the wall clock before the monotonic one, when last looked at."""
        self._due: float | None = None
        self.assigned: Mapping[str, float] = {}
        """When each experiment that has room got it (epoch s), as far as this process was the owner then."""
        self.trouble = ""
        """Why the last pass failed; empty once one has succeeded."""
        self._passed = clock.monotonic()
        self.count_every = _COUNT_EVERY
        """Seconds between two counts of what is shown to the operator."""
        self._counted = 0.0
        self._notice_credit = 0.0
        self._noticed_at = 0.0

    async def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="provisioner-loop")

    async def stop(self) -> None:
        """End after the pass that runs now, and let another one have the lease at once."""
        await end_all([self._task])
        self._task = None
        await self._abdicate()
        lease, self._lease = self._lease, None
        if lease is not None:
            self._metrics.recovery.free(LEASE, lost=False)
            with contextlib.suppress(DatabaseUnavailable):
                await self._database.write(lambda tx: leases.release(tx, lease))

    def wake(self) -> None:
        """Something was committed."""
        self._woken.set()

    def reconnected(self) -> None:
        """The bus was away, for however short a time: it may have come back as it was before."""
        self._reconnected = True
        self._woken.set()

    @property
    def owner(self) -> bool:
        """Whether this one schedules."""
        return self._lease is not None

    @property
    def idle_s(self) -> float:
        """Seconds since a pass succeeded, or since another one was seen to schedule."""
        return self._clock.monotonic() - self._passed

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be looked at or written."""
        return not self._woken.is_set() and (self._publisher is None or self._publisher.idle)

    async def _run(self) -> None:
        while True:
            again = False
            try:
                again = await self.step()
                self._passed, self.trouble = self._clock.monotonic(), ""
                self._metrics.passes.labels("done").inc()
                self._metrics.recovery.database.end(LEASE)
            except LeaseLost:
                self._metrics.passes.labels("lease_lost").inc()
                self._metrics.recovery.free(LEASE, lost=True)
                _log.warning("another provisioner schedules now")
                await self._abdicate()
                self._lease = None
            except DatabaseUnavailable as error:
                self._metrics.passes.labels("outage").inc()
                self._metrics.recovery.database.begin(LEASE)
                _log.warning("the scheduler waits for the database: %s", error)
                self.trouble = error.cause or error.message
                self._model = None
            except Exception as error:  # noqa: BLE001 - the edge of the loop
                self._metrics.passes.labels("error").inc()
                self.trouble = f"{type(error).__name__}: {error}"
                _log.exception("a pass of the scheduler failed")
                self._model = None
                await asyncio.sleep(self._settings.tick_s)
            await self._rest(again=again)

    async def _rest(self, *, again: bool) -> None:
        await asyncio.sleep(self._settings.coalesce_s)
        if again:
            return
        wait = self._settings.tick_s
        if self._due is not None and self._lease is not None:
            wait = min(wait, max(0.0, self._due - self._clock.now()))
        with contextlib.suppress(TimeoutError):
            await within(wait, self._woken.wait())

    async def step(self) -> bool:
        """One pass, if this one holds the lease. True: there is more to do at once."""
        self._woken.clear()
        if self._lease is None and not await self._ascend():
            self._due = None
            return False
        publisher = self._publisher
        assert publisher is not None
        recovered = self._watch.tick(self._clock.monotonic(), healthy=self._healthy() and not publisher.failing)
        mute = await self._mute()
        if self._reconnected:
            self._watch.forgive()
        republish, self._reconnected = recovered or self._reconnected, False
        if republish:
            publisher.doubt()
        floors, publisher.floors = publisher.floors, {}
        started = time.perf_counter()
        try:
            outcome = await self._database.write(lambda tx: self._pass(tx, floors, mute, republish=republish))
        except BaseException:
            self._reconnected = self._reconnected or republish
            publisher.floors = {**floors, **publisher.floors}
            raise
        self._metrics.pass_seconds.observe(time.perf_counter() - started)
        publisher.order(outcome.orders)
        self._due = outcome.due
        return outcome.again

    async def _mute(self) -> set[str]:
        """Machines whose lease is over and of which the bus has no word that nobody has read yet."""
        silent = self._watch.silent().keys()
        if not silent:
            return set()
        try:
            spoke = await unread.spoke(self._bus, silent)
        except InclError as error:
            _log.warning("%d silent machines are not called lost, as the bus cannot be asked: %s", len(silent), error)
            return set()
        self._watch.spare(spoke)
        return silent - spoke

    async def _ascend(self) -> bool:
        """Try to become the owner."""
        ttl = self._settings.lease_ttl_s
        lease = await self._database.write(lambda tx: leases.acquire(tx, LEASE, self._holder, ttl))
        if lease is None:
            return False
        await self._abdicate()
        self._lease = lease
        self._metrics.recovery.held(lease)
        self._publisher = Publisher(self._bus, lease.fence, self._metrics, self.wake)
        self._publisher.start()
        if self._cloud is not None:
            self._cloud.start(lease, self._step_of_cloud, self.wake)
        return True

    def _step_of_cloud(self, tx: Transaction) -> Work:
        now = tx.clock.now()
        return Work(tx, self._settings, self._metrics, now, now, wake=self.wake)

    async def _abdicate(self) -> None:
        publisher, self._publisher = self._publisher, None
        self._model = None
        self._counted = 0.0
        self._metrics.resign()
        if self._cloud is not None:
            await self._cloud.stop()
        if publisher is not None:
            await publisher.stop()

    def _pass(self, tx: Transaction, floors: dict[str, int], mute: set[str], *, republish: bool) -> Outcome:
        """In the writer thread. The model is kept only if all went well; see `Model`."""
        with self._metrics.own_time("reconcile"):
            self._hold(tx)
            model, self._model = self._model, None
            now = tx.clock.now()
            if self._follow_clock(tx):
                model = None
            work = Work(tx, self._settings, self._metrics, now, now, touched=set())
            touched = store.take_changes(tx.connection)
            if model is None:
                store_times.cut_waits(tx.connection, now + max(LONGEST_S, self._settings.retry_pause_s))
                model = Model(self._policy, self._quotas)
                model.load(tx.connection)
            else:
                work.touched = set(touched)
                self._look_at_nodes(work, model, at_once=bool(mute))
            self._watch.heard(model.seen)
            model.fleet.dirty |= self._watch.doubtful() & model.generations.keys()
            budget = self._notices(work.now)
            silent = {node: seconds for node, seconds in self._watch.silent().items() if node in mute}
            outcome = passes.run(
                work, model, self._backend, silent=silent, floors=floors, republish=republish,
                notices=budget, cloud=self._cloud,
            )  # fmt: skip
            self._show(work, model)
            tx.after_commit(lambda: self._keep(model))
            return outcome

    def _follow_clock(self, tx: Transaction) -> bool:
        """Timers run by the wall clock, as they outlive the process. When that is set, they are set along. True: so."""
        ahead = tx.clock.now() - tx.clock.monotonic()
        jump = 0.0 if self._ahead is None else ahead - self._ahead
        if abs(jump) < _JUMP_S:
            ahead = ahead if self._ahead is None else self._ahead
            tx.after_commit(lambda: self._note_clock(ahead))
            return False
        _log.warning("the clock was set by %.1f s: timers go along", jump)
        store_times.shift_times(tx.connection, jump, tx.clock.now(), self._longest_s(tx))
        tx.after_commit(lambda: self._note_clock(ahead))
        return True

    def _longest_s(self, tx: Transaction) -> float:
        """Seconds that any timer lasts at most."""
        settings, cloud = self._settings, self._settings.cloud
        stop = settings.stop_margin_s + store_times.longest_grace(tx.connection)
        drain = cloud.drain_s if cloud is not None else 0.0
        return max(stop, drain, settings.machine_wait_s, settings.retry_pause_s, LONGEST_S)

    def _note_clock(self, ahead: float) -> None:
        self._ahead = ahead

    def _show(self, work: Work, model: Model) -> None:
        """The figures of the queue; what is more than a look into memory only now and then."""
        scheduler = model.scheduler
        if 0 <= work.now - self._counted < self.count_every:
            self._metrics.queued.set(len(scheduler.waiting) + len(model.cloud))
            self._metrics.running.set(len(scheduler.running))
            return
        self._counted = work.now
        for running in scheduler.running.values():
            running.since = running.since or work.now
        self.assigned = {each.experiment: each.since for each in scheduler.running.values()}
        since = [each.since for each in scheduler.waiting.values()]
        since += [each.created for each in model.cloud.values()]
        self._metrics.queue(len(since), len(scheduler.running), min(since, default=None))
        late = work.now - self._settings.node_lease_s / _SILENT_PART
        alive, silent = len(model.seen), sum(seen < late for seen in model.seen.values())
        nodes = {"alive": alive - silent, "silent": silent, "lost": len(model.generations) - alive}
        self._metrics.census(store.state_counts(work.connection), nodes)

    def _keep(self, model: Model) -> None:
        if self._lease is not None:
            self._model = model

    def _hold(self, tx: Transaction) -> None:
        lease, ttl = self._lease, self._settings.lease_ttl_s
        if lease is None:
            raise LeaseLost("no lease is held")
        if not ttl / 2 <= lease.expires - tx.clock.now() <= ttl:
            self._lease = leases.renew(tx, lease, ttl)
        else:
            leases.check(tx, lease)

    def _look_at_nodes(self, work: Work, model: Model, *, at_once: bool) -> None:
        if at_once or work.now - self._nodes_read >= _NODES_EVERY or work.now < self._nodes_read:
            self._nodes_read = work.now
            model.load_nodes(work.connection)

    def _notices(self, now: float) -> int:
        rate = self._settings.notices_per_s
        passed = max(0.0, now - self._noticed_at)
        self._noticed_at = now
        self._notice_credit = min(float(rate), self._notice_credit + passed * rate)
        whole = int(self._notice_credit)
        self._notice_credit -= whole
        return whole
