"""What the provider says of zones: whether machines can be had there, how often spot ones are taken back. Kept a while.

Advice is worth a little time, and never holds anything up for good: it is asked for the first zones of a plan, so often
at most, for a few seconds. What fails is no advice, and is not asked again for as long as advice is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from incl_provisioner.backends.gce.port import CloudFailure, Compute
from incl_provisioner.domain.cloud.cooldowns import Target
from incl_provisioner.domain.cloud.machines import region_of
from incl_provisioner.domain.cloud.plan import Plan
from incl_provisioner.domain.cloud.zones import Advice
from incl_provisioner.metrics import ProvisionerMetrics
from incl_shared.clock import Clock

_log = logging.getLogger("incl.provisioner")
KEPT_S = 300.0
ZONES = 6
"""Of a plan, so many of the first are asked for."""
PER_WINDOW, WINDOW_S = 30, 60.0
PATIENCE_S = 4.0


def size_of(nodes: int) -> int:
    """For how many machines is asked: the next power of two, so that one answer serves many gangs."""
    return 1 << (nodes - 1).bit_length()


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    advice: Advice | None


class AdviceBook:
    """What was said, by what would be tried and for how many. Times are monotonic seconds, and given."""

    def __init__(self) -> None:
        self._book: dict[tuple[Target, int], _Kept] = {}

    def known(self, nodes: int, now: float) -> Mapping[Target, Advice]:
        """What is known of so many nodes."""
        size = size_of(nodes)
        return {
            target: kept.advice
            for (target, of), kept in self._book.items()
            if of == size and kept.until > now and kept.advice is not None
        }

    def asked(self, target: Target, nodes: int, now: float) -> bool:
        """Whether it was asked for a while ago, whatever came of it."""
        kept = self._book.get((target, size_of(nodes)))
        return kept is not None and kept.until > now

    def note(self, target: Target, nodes: int, advice: Advice | None, now: float) -> None:
        """What came of it; what is too old is forgotten."""
        self._book = {key: kept for key, kept in self._book.items() if kept.until > now}
        self._book[target, size_of(nodes)] = _Kept(now + KEPT_S, advice)


class Advisor:
    """Fills the book."""

    def __init__(self, compute: Compute, book: AdviceBook, metrics: ProvisionerMetrics, clock: Clock) -> None:
        self._compute, self._book, self._metrics, self._clock = compute, book, metrics, clock
        self._asking = asyncio.Lock()
        self._made: list[float] = []

    async def ask(self, plan: Plan) -> bool:
        """Have advice for the first zones of a plan. Whether anything is known that was not before."""
        if not self._missing(plan):
            return False
        async with self._asking:
            missing = self._missing(plan)
            for target in missing:  # noted first: what does not answer is not asked again at once
                self._book.note(target, plan.nodes, None, self._clock.monotonic())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await asyncio.gather(*(self._one(target, plan.nodes) for target in missing))
            except TimeoutError:
                self._metrics.cloud_troubles.labels("advice", "timeout").inc()
                _log.warning("the provider does not say in time where machines can be had")
            return True

    def _missing(self, plan: Plan) -> list[Target]:
        """Advice is of machine types: what has GPUs attached to it is not asked for."""
        now = self._clock.monotonic()
        self._made = [at for at in self._made if at > now - WINDOW_S]
        first = [each.target for each in plan.zones if each.cooling is None and each.shape.guest is None][:ZONES]
        fresh = [target for target in first if not self._book.asked(target, plan.nodes, now)]
        return fresh[: max(0, PER_WINDOW - len(self._made))]

    async def _one(self, target: Target, nodes: int) -> None:
        self._made.append(self._clock.monotonic())
        try:
            said = await self._compute.advice(
                region_of(target.zone), target.machine, [target.zone], size_of(nodes), spot=target.spot
            )
        except CloudFailure as error:
            self._metrics.cloud_troubles.labels("advice", error.verdict.reason).inc()
            _log.info("no advice for %s: %s", target.zone, error)
            return
        self._book.note(target, nodes, said.get(target.zone), self._clock.monotonic())
